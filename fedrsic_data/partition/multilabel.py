"""Label quotas for images with any number of labels: a greedy fill, then a repair pass.

The greedy order, rarest label first, is that of iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011,
doi 10.1007/978-3-642-23808-6_10). Deviations: there one image is placed at a time; here all images that have the
label at hand are shared out at once, in proportion to what each client still lacks of it, and what frequent labels
lose by that is repaired afterwards by moving single images. Memory and time grow with the label entries and with
classes x clients, never with clients x rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.partition.labels import by_code

Floats = NDArray[np.float64]

_ROUNDS = 24
_ENTRIES = 750_000  # label entries tried per round, which bounds the time of the repair


@dataclass(frozen=True)
class _Lists:
    """Label lists in which a row without labels has the one label ``classes - 1``."""

    labels: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def entries(self, rows: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """All labels of some rows: the position in ``rows`` and the label of each entry."""
        counts = self.offsets[rows + 1] - self.offsets[rows]
        position = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)
        return position, self.labels[np.repeat(self.offsets[rows], counts) + within]


def fill(
    labels: NDArray[np.int32], offsets: NDArray[np.int64], shares: Floats, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Owners such that client k comes near its share of the images that have label c, for all k and c.

    Labels that occur together cannot meet independent quotas exactly; the repair lowers the sum over cells of
    (held - quota) ** 2 / images of the label, so that rare labels count as much as frequent ones.

    Args:
        labels: int32 [E], end to end.
        offsets: int64 [N + 1], row i has ``labels[offsets[i]:offsets[i + 1]]``.
        shares: float64 [classes + 1, clients], rows summing to one; the last is for rows without labels.
        rng: A separate generator.

    Returns:
        int32 [N], clients.
    """
    lists = _with_empty_class(labels, offsets, len(shares) - 1)
    totals = np.bincount(lists.labels, minlength=len(shares))
    excess = np.ascontiguousarray(-shares * totals[:, None])  # held minus quota
    owner = _greedy(lists, totals, excess, rng)
    _repair(lists, owner, totals, excess, rng)
    return owner


def _with_empty_class(labels: NDArray[np.int32], offsets: NDArray[np.int64], empty: int) -> _Lists:
    counts = np.maximum(np.diff(offsets), 1)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    filled = np.empty(starts[-1], np.int32)
    given = np.ones(len(filled), bool)
    given[starts[:-1][np.diff(offsets) == 0]] = False
    filled[given], filled[~given] = labels, empty
    return _Lists(filled, starts)


def _greedy(lists: _Lists, totals: NDArray[np.int64], excess: Floats, rng: np.random.Generator) -> NDArray[np.int32]:
    """Shares out the images of each label, rarest first; ``excess`` is brought up to date."""
    clients = excess.shape[1]
    row = np.repeat(np.arange(len(lists.offsets) - 1, dtype=np.int32), np.diff(lists.offsets))
    grouped = row[by_code(lists.labels, len(totals))]
    ends = np.cumsum(totals)
    owner = np.full(len(lists.offsets) - 1, -1, np.int32)
    for c in np.argsort(totals, kind="stable"):
        mine = grouped[ends[c] - totals[c] : ends[c]]
        mine = rng.permutation(mine[owner[mine] < 0])
        if not len(mine):
            continue
        lacking = np.maximum(-excess[c], 0.0)
        lacking = lacking if lacking.sum() > 0 else np.ones(clients)
        cuts = np.floor(np.cumsum(lacking) / lacking.sum() * len(mine) + rng.random()).astype(np.int64)
        cuts[-1] = len(mine)
        owner[mine] = np.repeat(np.arange(clients, dtype=np.int32), np.diff(np.minimum(cuts, len(mine)), prepend=0))
        position, label = lists.entries(mine)
        np.add.at(excess.reshape(-1), label.astype(np.int64) * clients + owner[mine][position], 1.0)
    return owner


def _repair(
    lists: _Lists, owner: NDArray[np.int32], totals: NDArray[np.int64], excess: Floats, rng: np.random.Generator
) -> None:
    """Moves rows while that lowers the cost; ``owner`` and ``excess`` are brought up to date.

    Each round tries a bounded number of rows, all at once. Moves that are good one by one may overshoot together:
    such a round is undone and the next ones move fewer.
    """
    weight = 1.0 / np.maximum(totals, 1)[:, None]
    cost = float((weight * excess**2).sum())
    batch = max(1, _ENTRIES * len(owner) // len(lists.labels))
    damping = 1.0
    for _ in range(_ROUNDS):
        tried = np.sort(rng.choice(len(owner), min(batch, len(owner)), replace=False, shuffle=False))
        rows, target = _moves(lists, tried, owner[tried], excess, weight, damping, rng)
        position, label = lists.entries(rows)
        change = np.zeros_like(excess)
        np.add.at(change, (label, owner[rows][position]), -1.0)
        np.add.at(change, (label, target[position]), 1.0)
        after = float((weight * (excess + change) ** 2).sum())
        if after < cost:
            owner[rows] = target
            excess += change
            cost, damping = after, min(1.0, damping * 1.2)
        else:
            damping /= 2


def _moves(
    lists: _Lists,
    rows: NDArray[np.int64],
    source: NDArray[np.int32],
    excess: Floats,
    weight: Floats,
    damping: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Those of ``rows`` whose move lowers the cost, and the client that each goes to: int64 [M], int32 [M]."""
    clients = excess.shape[1]
    position, label = lists.entries(rows)
    counts = np.bincount(position, minlength=len(rows))
    starts = np.cumsum(counts) - counts
    # one random label of each row leads it to a client that lacks this label, in proportion to how much
    lead = label[starts + (rng.random(len(rows)) * counts).astype(np.int64)].astype(np.int64)
    lacking = np.concatenate([np.zeros(1), np.cumsum(np.maximum(-excess, 0.0))])
    low, high = lacking[lead * clients], lacking[(lead + 1) * clients]
    found = np.searchsorted(lacking, low + rng.random(len(rows)) * (high - low), side="right") - 1
    target = np.clip(found - lead * clients, 0, clients - 1)
    # (e_to + 1)^2 - e_to^2 + (e_from - 1)^2 - e_from^2, halved, over the labels of the row
    slope = weight * excess
    change = slope[label, target[position]] - slope[label, source[position]] + weight[label, 0]
    good = np.flatnonzero((np.add.reduceat(change, starts) < 0) & (high > low) & (target != source))
    # no more moves, in expectation, than the cell they enter lacks and the cell they leave has too many
    into, out = lead[good] * clients + target[good], lead[good] * clients + source[good]
    room_in = -excess.ravel()[into] / np.bincount(into, minlength=excess.size)[into]
    room_out = np.maximum(np.abs(excess.ravel()[out]), 1.0) / np.bincount(out, minlength=excess.size)[out]
    kept = good[rng.random(len(good)) < damping * np.minimum(room_in, room_out)]
    return rows[kept], target[kept].astype(np.int32)
