"""Label lists as single codes: the first label, the rarest label, the whole set; all vectorised.

Lists are stored end to end: row ``i`` has ``labels[offsets[i]:offsets[i + 1]]``. A row without labels is coded
``classes``, as a separate class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]
Offsets = NDArray[np.int64]


def by_code(codes: NDArray[np.integer[Any]], width: int) -> NDArray[np.int64]:
    """The stable order int64 [N] of codes in ``0..width-1``; as 16 bits they are sorted by radix, far faster."""
    return np.argsort(codes.astype(np.uint16) if width <= 2**16 else codes, kind="stable")


def row_of_entry(offsets: Offsets) -> NDArray[np.int64]:
    """The row of every entry: int64 [E]."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def first(labels: Labels, offsets: Offsets, classes: int) -> Labels:
    """The first label of every row: int32 [N], ``classes`` where there is none."""
    codes = np.full(len(offsets) - 1, classes, np.int32)
    some = np.diff(offsets) > 0
    codes[some] = labels[offsets[:-1][some]]
    return codes


def rarest(labels: Labels, offsets: Offsets, classes: int) -> Labels:
    """The label of every row that fewest rows have: int32 [N], ``classes`` where there is none."""
    ordered, starts = _rarest_first(labels, offsets, classes)
    return first(ordered, starts, classes)


def label_sets(labels: Labels, offsets: Offsets, classes: int) -> tuple[NDArray[np.int64], int]:
    """A code for every distinct set of labels; neither order nor repetition of labels matters.

    Sets are compared exactly, not by hashes: codes are refined label after label, each round among the
    rows that still have one, so the work is that of sorting the entries.

    Returns:
        int64 [N] in ``0..sets-1``, and the number of sets. The empty set is one.
    """
    ordered, starts = _rarest_first(labels, offsets, classes)
    counts = np.diff(starts)
    codes = np.zeros(len(counts), np.int64)
    last = 0
    active = np.flatnonzero(counts)
    for j in range(int(counts.max(initial=0))):
        active = active[counts[active] > j]
        keys = codes[active] * classes + ordered[starts[active] + j]
        distinct, inverse = np.unique(keys, return_inverse=True)
        codes[active] = last + 1 + inverse  # above every code of shorter sets, which keep theirs
        last += len(distinct)
    distinct, inverse = np.unique(codes, return_inverse=True)
    return inverse, len(distinct)


def _rarest_first(labels: Labels, offsets: Offsets, classes: int) -> tuple[Labels, Offsets]:
    """The lists without repetitions, each from its rarest label to its most frequent one."""
    by_rarity = np.argsort(np.bincount(labels, minlength=classes), kind="stable")
    rank = np.empty(classes, np.int64)
    rank[by_rarity] = np.arange(classes)
    keys = np.sort(row_of_entry(offsets) * classes + rank[labels])
    keys = keys[np.concatenate([np.ones(min(len(keys), 1), bool), np.diff(keys) > 0])]
    row, place = np.divmod(keys, max(classes, 1))
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=len(offsets) - 1))])
    return by_rarity[place].astype(np.int32), starts
