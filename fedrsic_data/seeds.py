"""Random generators derived from a seed and the names of what is drawn, never from global state."""

from __future__ import annotations

from zlib import crc32

import numpy as np


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator of its own for each ``(seed, *purpose)``.

    Args:
        seed: The recipe's seed, 0 or more.
        purpose: What is drawn, e.g. ``("fed-ucmerced", "partition")`` or ``("train", round, client)``.

    Returns:
        A PCG64 generator; equal arguments give equal streams on every platform.
    """
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))
