"""Random generators derived from what they are for, so that no draw depends on the order of others."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose.

    Args:
        seed: Seed of the run, 0 or more.
        purpose: What is drawn, e.g. ``("batches", round, client)``; another purpose gives unrelated draws.
        device: Where it draws; the same numbers come from the same kind of device only.
    """
    import torch

    text = "\0".join(map(str, (seed, *purpose)))
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
    return torch.Generator(device).manual_seed(seed)
