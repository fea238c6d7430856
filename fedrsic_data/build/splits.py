"""Choose held-out rows: by sample within clients, by whole clients, by whole users, or by class."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset.recipe import By, check_fractions
from fedrsic_data.dataset.schema import TRAIN
from fedrsic_data.errors import UsageError
from fedrsic_data.partition.base import Owners, Rows
from fedrsic_data.partition.rounding import round_table

_FIRST = ("val", "test")  # order of the splits of sources; any other comes after these

Codes = NDArray[np.int8]
"""int8 [N]: 0 for train, then 1, 2, ... in the order of the fractions."""


def hold_out(
    by: By, rows: Rows, owner: Owners, clients: int, fractions: Mapping[str, float], rng: np.random.Generator
) -> Codes:
    """Hold out rows.

    Args:
        by: Unit that is held out.
        rows: N rows in the order of their sample ids.
        owner: int32 [N]; rows of owner -1 stay in ``train``.
        clients: Number of clients.
        fractions: Held-out split -> fraction, e.g. ``{"test": 0.2}``.
        rng: A separate generator.

    Raises:
        UsageError: The rows cannot be split in this way.
    """
    check_fractions(fractions)
    if not fractions:
        return np.zeros(len(rows), np.int8)
    if by == "client":
        return _whole(owner, clients, "clients", fractions, rng)
    if by == "group":
        if rows.groups is None:
            raise UsageError("split_by=group needs natural users, but these sources have none; use sample or client")
        return np.where(owner >= 0, _whole(rows.groups, len(rows.group_names), "users", fractions, rng), 0).astype(
            np.int8
        )
    if rows.is_single:
        return stratified(rows, owner, clients, fractions, rng)
    return iterative(rows, owner, fractions, rng)


def stratified(
    rows: Rows, owner: Owners, clients: int, fractions: Mapping[str, float], rng: np.random.Generator
) -> Codes:
    """Holds out a fraction of every client's rows of every class (single-label rows).

    Each client x class cell, each client's total and each class's total is rounded up or down and no further,
    so 20% of 100 images of a class are exactly 20, whoever owns them. Every client with rows keeps at least
    one for training.
    """
    mine = np.flatnonzero(owner >= 0)
    cell = owner[mine].astype(np.int64) * rows.classes + rows.labels[mine]
    split = np.zeros(len(rows), np.int8)
    shuffled = rng.permutation(len(mine))
    order = shuffled[np.argsort(cell[shuffled], kind="stable")]
    total = np.bincount(cell, minlength=clients * rows.classes).reshape(clients, rows.classes)
    left, taken = total.copy(), []
    for fraction in fractions.values():
        taken.append(round_table(_leaving_one(np.asarray(total * fraction), left), rng))
        left -= taken[-1]
    codes = np.array([*range(1, len(taken) + 1), 0], np.int8)  # of a cell's rows in their order, the last stay
    split[mine[order]] = np.repeat(np.tile(codes, total.size), np.stack([*taken, left], axis=-1).ravel())
    return split


def iterative(rows: Rows, owner: Owners, fractions: Mapping[str, float], rng: np.random.Generator) -> Codes:
    """Holds out a fraction of every client's multi-label rows by iterative stratification (Sechidis et al. 2011).

    A client with a single row keeps it.
    """
    shares = np.array([1 - sum(fractions.values()), *fractions.values()])
    split = np.zeros(len(rows), np.int8)
    order = np.argsort(owner, kind="stable")
    order = order[np.searchsorted(owner[order], 0) :]
    for mine in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
        if len(mine) < 2:
            continue
        state = np.random.RandomState(int(rng.integers(2**31)))
        codes = dealt(_multi_hot(rows.take(mine)), shares, state)
        if not (codes == 0).any():
            codes[0] = 0
        split[mine] = codes
    return split


def dealt(hot: NDArray[np.bool_], shares: NDArray[np.float64], state: np.random.RandomState) -> Codes:
    """Deals rows to splits, the rarest label first, each row to the split that lacks most of that label.

    The draws are those of the package ``iterative-stratification`` 0.1.9 (BSD licence), so the splits are the same
    to the row. The package itself needs scikit-learn and SciPy, for this one function.

    Args:
        hot: Which labels each row has, bool [N, labels].
        shares: The share of each split, float64 [splits]; they sum to 1.
        state: Breaks ties.

    Returns:
        The split of each row, int8 [N].
    """
    split = np.zeros(len(hot), np.int8)
    lacks, open_rows = shares * len(hot), np.ones(len(hot), bool)
    left = hot.sum(axis=0)
    lacks_of = np.outer(shares, left)

    def tied(values: NDArray[np.float64], among: NDArray[np.int64]) -> NDArray[np.int64]:
        most: NDArray[np.int64] = among[values[among] == values[among].max()]
        return most

    def drawn(among: NDArray[np.int64]) -> int:
        return int(among[state.choice(len(among))] if len(among) > 1 else among[0])

    every = np.arange(len(shares))
    while left.any():
        label = drawn(np.flatnonzero(left == left[left > 0].min()))
        mine = np.flatnonzero(hot[:, label] & open_rows)
        for row in mine:
            to = drawn(tied(lacks, tied(lacks_of[:, label], every)))
            split[row] = to
            lacks_of[to, hot[row]] -= 1
            lacks[to] -= 1
        open_rows[mine] = False
        left = left - hot[mine].sum(axis=0)
    for row in np.flatnonzero(open_rows):  # without labels
        to = drawn(tied(lacks, every))
        split[row] = to
        lacks[to] -= 1
    return split


def names(column: pa.ChunkedArray) -> tuple[str, ...]:
    """The splits that the sources themselves define, ``train`` first.

    Args:
        column: string [N], the split of each row.

    Raises:
        UsageError: A row has none, or nothing is for training.
    """
    if column.null_count:
        raise UsageError("split_by=source needs sources with their own splits; use sample, client or group")
    found = set(pc.unique(column).to_pylist())
    if TRAIN not in found:
        raise UsageError(f"split_by=source: the source has splits {', '.join(sorted(found))}, but none is for training")
    return (TRAIN, *(name for name in _FIRST if name in found), *sorted(found - {TRAIN, *_FIRST}))


def few_shot(rows: Rows, owner: Owners, split: Codes, shots: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which training rows are beyond ``shots`` of their class at their client: bool [N], to be left out.

    Raises:
        UsageError: The rows are multi-label, so that shots cannot be counted.
    """
    if not rows.is_single:
        raise UsageError(f"shots={shots} needs one label per image, but these images are multi-label")
    train = np.flatnonzero((owner >= 0) & (split == 0))
    cell = owner[train].astype(np.int64) * rows.classes + rows.labels[train]
    shuffled = rng.permutation(len(train))
    order = shuffled[np.argsort(cell[shuffled], kind="stable")]
    first = np.flatnonzero(np.diff(cell[order], prepend=-1))
    rank = np.arange(len(train)) - np.repeat(first, np.diff([*first, len(train)]))
    beyond = np.zeros(len(rows), bool)
    beyond[train[order[rank >= shots]]] = True
    return beyond


def base_classes(classes: int) -> int:
    """Number of base classes of the base-to-novel protocol: the first half in index order, rounded up.

    As FedPGP (arXiv 2405.09771) and the prompt-learning literature before it (CoCoOp, arXiv 2203.05557).
    """
    return (classes + 1) // 2


def novel_classes(sources: Sequence[str]) -> NDArray[np.bool_]:
    """Which classes are not base classes of their source, whose name is given for each: bool [classes]."""
    of, novel = np.array(sources), np.zeros(len(sources), bool)
    for source in set(sources):
        mine = np.flatnonzero(of == source)
        novel[mine[base_classes(len(mine)) :]] = True
    return novel


def together(split: Codes, owner: Owners, rows: Rows, groups: Sequence[NDArray[np.int64]]) -> Codes:
    """Put every group of duplicates on one side of the split, that of its first row.

    A row that changes sides is exchanged with the first of the same client and class that is in no group, where
    there is one, so that the sizes of the splits stay.

    Args:
        split: int8 [N].
        owner: int32 [N].
        rows: N rows.
        groups: Row numbers, int64 [at least 2] each; groups share no rows.

    Returns:
        The new split, int8 [N].
    """
    split = split.copy()
    if not groups:
        return split
    free = np.ones(len(rows), bool)
    free[np.concatenate(groups)] = False
    first = rows.offsets[:-1].clip(max=max(len(rows.labels) - 1, 0))  # a row without labels borrows one
    cell = owner.astype(np.int64) * rows.classes + (rows.labels[first] if len(rows.labels) else 0)
    spare = np.flatnonzero(free)
    spare = spare[np.argsort(cell[spare], kind="stable")]
    sides: dict[int, dict[int, list[int]]] = {}  # of a cell: side -> a heap of its rows that are in no group
    for group in groups:
        side = int(split[group[0]])
        for row in group[1:][split[group[1:]] != side].tolist():
            mine = int(cell[row])
            if mine not in sides:
                begin, end = np.searchsorted(cell[spare], [mine, mine + 1])
                heaps = sides[mine] = defaultdict(list)
                for other in spare[begin:end].tolist():
                    heaps[int(split[other])].append(other)
            if sides[mine][side]:
                other = heapq.heappop(sides[mine][side])
                split[other] = split[row]
                heapq.heappush(sides[mine][int(split[row])], other)
            split[row] = side
    return split


def cut(split: Codes, owner: Owners, groups: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Which groups have rows in several splits, ignoring rows of owner -1: bool [groups]."""
    if not groups:
        return np.zeros(0, bool)
    rows = np.concatenate(groups)
    of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])[owner[rows] >= 0]
    sides = split[rows[owner[rows] >= 0]]
    least, most = np.full(len(groups), np.iinfo(np.int8).max), np.full(len(groups), -1)
    np.minimum.at(least, of, sides)
    np.maximum.at(most, of, sides)
    return least < most


def copies(split: Codes, owner: Owners, groups: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Rows to leave out so that every group is on one side, if whole clients or users are: bool [N].

    Rows stay in the first held-out split of their group, so that held-out rows stay as they were drawn.
    """
    extra = np.zeros(len(split), bool)
    for number in np.flatnonzero(cut(split, owner, groups)).tolist():
        group = groups[number][owner[groups[number]] >= 0]
        sides = split[group]
        extra[group[sides != sides[sides > 0].min()]] = True
    return extra


def _whole(
    units: NDArray[np.int32], count: int, what: str, fractions: Mapping[str, float], rng: np.random.Generator
) -> Codes:
    """Holds out whole units: the fraction of their number, at least one for every split and for training."""
    take = [max(1, round(fraction * count)) for fraction in fractions.values()]
    if sum(take) >= count:
        raise UsageError(f"splits: {dict(fractions)} of {count} {what} leave none for training; lower them")
    code = np.zeros(count, np.int8)
    code[rng.permutation(count)[: sum(take)]] = np.repeat(np.arange(1, len(take) + 1, dtype=np.int8), take)
    return np.where(units >= 0, code[units], 0).astype(np.int8)


def _leaving_one(wanted: NDArray[np.float64], left: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lowers wanted counts so that rounding up takes neither a cell's absent rows nor a client's last one."""
    wanted = np.minimum(wanted, left)
    sums, most = wanted.sum(axis=1), np.maximum(left.sum(axis=1) - 1, 0)
    scale = np.where(np.ceil(sums - 1e-9) > most, most / np.maximum(sums, 1e-9), 1.0)
    return wanted * scale[:, None]


def _multi_hot(rows: Rows) -> NDArray[np.bool_]:
    """Which of the labels that occur each row has: bool [N, labels that occur]."""
    present, codes = np.unique(rows.labels, return_inverse=True)
    hot = np.zeros((len(rows), max(len(present), 1)), bool)
    hot[np.repeat(np.arange(len(rows)), np.diff(rows.offsets)), codes] = True
    return hot
