"""Random generators derived from what they are for, so that no draw depends on the order of others."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator of its own for one purpose.

    Args:
        seed: Seed of the run, 0 or more.
        purpose: What is drawn, e.g. ``("batches", round, client)``; another purpose gives unrelated draws.
    """
    text = "\0".join(map(str, (seed, *purpose)))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1)
