"""Arrays for the figures of a subset: counted once, sorted, and summed up for many clients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset import skew
from fedrsic_data.dataset.reader import Subset

MOST = 40
"""Clients up to which a picture has a column for each; beyond, as many bands of clients share its columns."""


@dataclass(frozen=True)
class Summary:
    """A subset counted.

    Attributes:
        name: Its name.
        classes: Class names in index order.
        clients: Client ids.
        splits: Split names, ``train`` first.
        rows: int64 [clients, splits].
        labels: int64 [clients, classes], of the training rows.
        domains: Names of the domains of the training rows.
        domain_rows: int64 [clients, domains], of the training rows.
        measured: Skew metrics; see ``skew.measure``.
        multi_label: Whether images have several labels.
        sample: Whether the images are procedural; every picture says so.
        unknown: int64 [clients, classes], training rows in which a label is unknown; None: nowhere.
    """

    name: str
    classes: tuple[str, ...]
    clients: tuple[str, ...]
    splits: tuple[str, ...]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    domains: tuple[str, ...]
    domain_rows: NDArray[np.int64]
    measured: dict[str, dict[str, float]]
    multi_label: bool
    sample: bool
    unknown: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Columns:
    """The columns of a picture, from left to right.

    Attributes:
        labels: Label of each: a client's id, or the ranks of a band.
        members: int64 arrays, numbers of each column's clients.
    """

    labels: tuple[str, ...]
    members: tuple[NDArray[np.int64], ...]

    @property
    def single(self) -> bool:
        """Whether every column is one client."""
        return all(len(some) == 1 for some in self.members)

    def mean(self, values: NDArray[np.float64], weight: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Mean over the clients of each column that count: float64 [columns, ...], 0 where none does."""
        means = [
            values[some][weight[some]].mean(axis=0) if weight[some].any() else 0 * values[0] for some in self.members
        ]
        return np.stack(means) if means else values[:0]


def summarise(subset: Subset) -> Summary:
    """Counts a subset from its client table; reads no shard."""
    labels, domains = skew.tables(subset.client_table, len(subset.classes))
    table = subset.client_table
    rows = [_rows(table, split) for split in subset.splits]
    train = table.filter(pc.equal(table.column("split"), skew.TRAIN))
    return Summary(
        name=subset.name,
        classes=subset.classes,
        clients=subset.clients,
        splits=subset.splits,
        rows=np.stack(rows, axis=1) if rows else np.zeros((0, 0), np.int64),
        labels=labels,
        domains=tuple(sorted(set(pc.list_flatten(train.column("domains")).to_pylist()))),  # as skew.tables has them
        domain_rows=domains,
        measured=subset.entry.skew,
        multi_label=subset.entry.multi_label,
        sample=subset.dataset.manifest.recipe.sample is not None,
        unknown=subset.unknown,
    )


def ordered(summary: Summary) -> NDArray[np.int64]:
    """Numbers of the clients, those alike beside each other: by leading class, then by its share; empty ones last."""
    shares = skew.mixtures(summary.labels)
    if not shares.size:
        return np.arange(len(summary.clients))
    lead = shares.argmax(axis=1)
    empty = summary.labels.sum(axis=1) == 0
    return np.lexsort((-shares.max(axis=1), lead, empty)).astype(np.int64)


def columns(summary: Summary, most: int = MOST) -> Columns:
    """One column per client, or a band of equally many clients each, in the order of ``ordered``."""
    order = ordered(summary)
    if len(order) <= most:
        return Columns(tuple(summary.clients[i] for i in order), tuple(order.reshape(-1, 1)))
    parts = np.array_split(order, most)
    ends = np.cumsum([len(part) for part in parts])
    labels = tuple(f"{end - len(part) + 1:,} to {end:,}" for end, part in zip(ends.tolist(), parts, strict=True))
    return Columns(labels, tuple(parts))


def _rows(table: pa.Table, split: str) -> NDArray[np.int64]:
    """Rows of each client in a split: int64 [clients]."""
    rows: NDArray[np.int64] = table.filter(pc.equal(table.column("split"), split)).column("rows").to_numpy()
    return rows
