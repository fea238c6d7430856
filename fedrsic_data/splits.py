"""Splits within clients: a client's test rows follow the label mixture of all its rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.partition.base import Owners, Rows
from fedrsic_data.tables import round_table

TRAIN = "train"


def check(fractions: Mapping[str, float]) -> None:
    """Refuses fractions that are no split.

    Raises:
        UsageError: A bad name or fraction, or nothing left for training.
    """
    for name, fraction in fractions.items():
        if not name.isidentifier() or name == TRAIN:
            raise UsageError(f"splits: {name!r} is not a name for a held-out split (letters, digits, _; not 'train')")
        if not 0 < fraction < 1:
            raise UsageError(f"splits: {name}={fraction!r} should be above 0 and below 1")
    if sum(fractions.values()) >= 1:
        raise UsageError(f"splits: {dict(fractions)} leave nothing for training; their sum should be below 1")


def stratified(
    rows: Rows,
    owner: Owners,
    clients: int,
    fractions: Mapping[str, float],
    rng: np.random.Generator,
) -> NDArray[np.int8]:
    """Holds out a fraction of every client's rows of every class.

    Each client x class cell, each client's total and each class's total is rounded up or down and no further,
    so 20% of 100 images of a class are exactly 20, whoever owns them. Every client with rows keeps at least
    one for training.

    Args:
        rows: N single-label rows in the order of their sample ids.
        owner: int32 [N]; rows of owner -1 stay in ``train``.
        clients: Number of clients.
        fractions: Held-out split -> fraction of all rows, e.g. ``{"test": 0.2}``.
        rng: A generator of its own.

    Returns:
        int8 [N]: 0 for train, then 1, 2, ... in the order of ``fractions``.
    """
    check(fractions)
    assert rows.is_single, "held-out splits of label sets are made elsewhere"
    mine = np.flatnonzero(owner >= 0)
    cell = owner[mine].astype(np.int64) * rows.classes + rows.labels[mine]
    split = np.zeros(len(rows), np.int8)
    shuffled = rng.permutation(len(mine))
    order = shuffled[np.argsort(cell[shuffled], kind="stable")]
    left = np.bincount(cell, minlength=clients * rows.classes).reshape(clients, rows.classes)
    total = left.copy()
    start = np.cumsum(left) - left.ravel()
    for code, fraction in enumerate(fractions.values(), 1):
        take = round_table(_leaving_one(np.asarray(total * fraction), left), rng)
        ranks = np.arange(len(mine)) - np.repeat(start, total.ravel())
        used = np.repeat((total - left).ravel(), total.ravel())
        chosen = (ranks >= used) & (ranks < used + np.repeat(take.ravel(), total.ravel()))
        split[mine[order[chosen]]] = code
        left -= take
    return split


def _leaving_one(wanted: NDArray[np.float64], left: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lowers wanted counts so that rounding up can take neither a cell's absent rows nor a client's last one."""
    wanted = np.minimum(wanted, left)
    sums, most = wanted.sum(axis=1), np.maximum(left.sum(axis=1) - 1, 0)
    scale = np.where(np.ceil(sums - 1e-9) > most, most / np.maximum(sums, 1e-9), 1.0)
    return wanted * scale[:, None]
