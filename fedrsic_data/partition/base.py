"""The partitioner interface: its input, its result, and how fedkit calls it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError, blamed
from fedrsic_data.partition import labels

Owners = NDArray[np.int32]

Reduce = Literal["first", "rarest"] | None
"""Rule that reduces several labels of an image to one; None: no reduction."""

MOST_CLIENTS = 10_000_000
"""The most clients, those without rows included."""


@dataclass(frozen=True)
class Rows:
    """The columns a partitioner may use, one row per image; never pixels.

    Labels are stored as lists end to end, so that single-label and multi-label rows are one thing:
    row ``i`` has the labels ``labels[offsets[i]:offsets[i + 1]]``.

    Attributes:
        labels: int32 [E], class indices in ``0..classes-1``.
        offsets: int64 [N + 1], non-decreasing, from 0 to E.
        classes: Number of classes.
        domains: int32 [N], domain indices (source, sensor or device).
        domain_count: Number of domains.
        groups: int32 [N], natural user of each row, or None where the source has none.
        group_names: Names of the groups, empty without groups.
        sample_ids: string [N], unique, or None; ``assign`` fills them in for partitioners that ask for them.
        sources: int32 [classes], the source of each class where sources keep their classes apart; else None or all 0.
    """

    labels: NDArray[np.int32]
    offsets: NDArray[np.int64]
    classes: int
    domains: NDArray[np.int32]
    domain_count: int = 1
    groups: NDArray[np.int32] | None = None
    group_names: tuple[str, ...] = ()
    sample_ids: pa.Array | None = None
    sources: NDArray[np.int32] | None = None

    @classmethod
    def single(cls, labels: NDArray[Any], classes: int, domains: NDArray[Any] | None = None) -> Rows:
        """Rows with exactly one label each: ``labels`` int [N]; one domain unless ``domains`` int [N] is given."""
        n = len(labels)
        where = np.zeros(n, np.int32) if domains is None else domains.astype(np.int32)
        return cls(
            labels=labels.astype(np.int32, copy=False),
            offsets=np.arange(n + 1),
            classes=classes,
            domains=where,
            domain_count=int(where.max(initial=0)) + 1,
        )

    @classmethod
    def multi_hot(cls, hot: NDArray[Any], domains: NDArray[Any] | None = None) -> Rows:
        """Rows from a table of zeros and ones: ``hot`` bool or int [N, classes]; domains as in ``single``."""
        row, label = np.nonzero(hot)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=len(hot)))])
        bare = cls.single(np.zeros(len(hot), np.int32), hot.shape[1], domains)
        return dataclasses.replace(bare, labels=label.astype(np.int32), offsets=offsets)

    def relabelled(self, codes: NDArray[Any], classes: int) -> Rows:
        """The same rows with one label each: ``codes`` int [N] in ``0..classes-1``."""
        return dataclasses.replace(
            self,
            labels=codes.astype(np.int32, copy=False),
            offsets=np.arange(len(self) + 1),
            classes=classes,
            sources=None,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def is_single(self) -> bool:
        """True when every row has exactly one label."""
        return len(self.labels) == len(self) and bool(np.all(np.diff(self.offsets) == 1))

    def take(self, order: NDArray[np.int64]) -> Rows:
        """The rows in another order, or some of them: ``order`` int64 [M] of row numbers."""
        counts = np.diff(self.offsets)[order]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        source = np.repeat(self.offsets[:-1][order] - offsets[:-1], counts) + np.arange(offsets[-1])
        return dataclasses.replace(
            self,
            labels=self.labels[source],
            offsets=offsets,
            domains=self.domains[order],
            groups=None if self.groups is None else self.groups[order],
            sample_ids=None if self.sample_ids is None else self.sample_ids.take(pa.array(order)),
        )


@dataclass(frozen=True)
class Assignment:
    """The result of a partitioner.

    Attributes:
        owner: int32 [N], the client of every row in ``0..clients-1``; -1 for a row that is left out.
        clients: Number of clients, those without rows included.
        moved: Rows that changed their owner so that every client reaches its minimum size.
        names: Client names where the partitioner knows better ones than numbers (natural users).
    """

    owner: Owners
    clients: int
    moved: int = 0
    names: tuple[str, ...] = ()


class Partitioner(Protocol):
    """A frozen dataclass of settings with one pure method.

    Class attributes say what it can do; the table in the docs and the refusal of impossible
    combinations are made from them.
    """

    multi_label: ClassVar[bool]
    """Whether it accepts any number of labels per row; others need ``reduce``, if they have it."""
    uses_domains: ClassVar[bool]
    """Whether it controls how domains are spread over clients."""
    exact_sizes: ClassVar[bool]
    """Whether client sizes are fixed before labels are used, and met exactly; domains may fix them."""
    keeps_min_size: ClassVar[bool]
    """Whether it has a ``min_size`` that every client reaches."""
    needs_ids: ClassVar[bool]
    """Whether it reads ``Rows.sample_ids``."""
    cites: ClassVar[str]
    """Papers that define the scheme."""

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Assign every row to a client. Pure: equal arguments give equal results.

        Raises:
            UsageError: The settings cannot be met by these rows; the message says by how much.
        """
        ...


def assign(
    partitioner: Partitioner, rows: Rows, sample_ids: pa.ChunkedArray | pa.Array | None, rng: np.random.Generator
) -> Assignment:
    """Calls a partitioner on rows in the order of their sample ids, so that the order given never matters.

    Args:
        partitioner: Any partitioner.
        rows: N rows in any order.
        sample_ids: string [N], unique; None: row numbers.
        rng: A separate generator.

    Returns:
        The assignment, its owners in the order of ``rows``.

    Raises:
        UsageError: The partitioner cannot serve these rows.
    """
    if not len(rows):
        raise UsageError("there are no images to partition")
    _servable_clients(partitioner, len(rows))
    rows = _servable_rows(partitioner, rows)
    if sample_ids is None and not partitioner.needs_ids:
        return _assigned(partitioner, rows, rng)
    if sample_ids is None:
        sample_ids = pc.utf8_lpad(pa.array(np.arange(len(rows))).cast(pa.string()), len(str(len(rows))), "0")
    if partitioner.needs_ids:
        ids = sample_ids.combine_chunks() if isinstance(sample_ids, pa.ChunkedArray) else sample_ids
        rows = dataclasses.replace(rows, sample_ids=ids)
    order = sorting(sample_ids)
    if order is None:
        return _assigned(partitioner, rows, rng)
    answer = _assigned(partitioner, rows.take(order), rng)
    owner = np.empty_like(answer.owner)
    owner[order] = answer.owner
    return dataclasses.replace(answer, owner=owner)


def _assigned(partitioner: Partitioner, rows: Rows, rng: np.random.Generator) -> Assignment:
    """The partitioner's answer, if it is one: that of another package may give anything.

    Raises:
        UsageError: It has not one owner for each row, from -1 to clients - 1.
    """
    with blamed("partitioner", type(partitioner)):
        answer = partitioner.assign(rows, rng)
    owner = getattr(answer, "owner", None)
    if (
        not isinstance(owner, np.ndarray)
        or owner.dtype != np.int32
        or owner.shape != (len(rows),)
        or not -1 <= owner.min() <= owner.max() < answer.clients
    ):
        kind = type(partitioner)
        raise UsageError(
            f"the partitioner {kind.__name__} of {kind.__module__} gave no int32 owner from -1 to clients - 1 per "
            "row; see fedrsic_data.partition.testing"
        )
    return answer


def _servable_clients(partitioner: Partitioner, total: int) -> None:
    """Refuses more clients than the rows can fill, or than can be, before anything of that size is made."""
    clients: int | None = getattr(partitioner, "clients", None)  # a file or the users may decide instead
    if clients is None:
        return
    enough(total, clients, getattr(partitioner, "min_size", 0))
    if clients > MOST_CLIENTS:
        raise UsageError(f"clients={clients} is more than {MOST_CLIENTS:,}, the most there can be; lower clients")


def _servable_rows(partitioner: Partitioner, rows: Rows) -> Rows:
    """The rows as the partitioner can take them: reduced to one label where its settings say so."""
    if rows.is_single:
        return rows
    reduce: Reduce = getattr(partitioner, "reduce", None)  # a setting of those that look at single labels
    if reduce is not None:
        return reduced(rows, reduce)
    if not partitioner.multi_label:
        raise UsageError(
            f"partition {type(partitioner).__name__}: needs one label per image, but some have none or several; set "
            "reduce to first or rarest, or use dirichlet or label-set, which take multi-label images"
        )
    return rows


def reduced(rows: Rows, how: Literal["first", "rarest"]) -> Rows:
    """Rows with one label each: the first one listed, or the one that fewest images have.

    Images without any label become a class of their own, the last one.
    """
    codes = labels.first(rows.labels, rows.offsets, rows.classes)
    if how == "rarest":
        codes = labels.rarest(rows.labels, rows.offsets, rows.classes)
    return rows.relabelled(codes, rows.classes + bool((codes == rows.classes).any()))


def strata(rows: Rows) -> Rows:
    """Rows with one label each to stratify by: their label, or a code of their set of labels."""
    if rows.is_single:
        return rows
    codes, sets = labels.label_sets(rows.labels, rows.offsets, rows.classes)
    return rows.relabelled(codes, sets)


def sorting(sample_ids: pa.ChunkedArray | pa.Array) -> NDArray[np.int64] | None:
    """Row numbers in the order of their sample ids; None if they already are, which is cheap to check."""
    chunks = sample_ids.chunks if isinstance(sample_ids, pa.ChunkedArray) else [sample_ids]
    held = [chunk for chunk in chunks if len(chunk)]
    if all(pc.all(pc.less(chunk[:-1], chunk[1:])).as_py() for chunk in held) and all(
        pc.less(one[-1], next_[0]).as_py() for one, next_ in pairwise(held)
    ):
        return None
    ids = sample_ids.combine_chunks() if isinstance(sample_ids, pa.ChunkedArray) else sample_ids
    return np.asarray(pc.sort_indices(ids).to_numpy().astype(np.int64))


def by_class(rows: Rows, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers grouped by class, in random order within each class (single-label rows).

    Returns:
        ``order`` int64 [N] and ``counts`` int64 [classes].
    """
    shuffled = rng.permutation(len(rows))
    order = shuffled[labels.by_code(rows.labels[shuffled], rows.classes)]
    return order, np.bincount(rows.labels, minlength=rows.classes)


def cut(order: NDArray[np.int64], counts: NDArray[np.int64]) -> Owners:
    """Owners from a table of counts: the rows of ``order`` are dealt out cell by cell.

    Args:
        order: int64 [N], row numbers grouped by class.
        counts: int64 [classes, clients] that sum to N, in the order of ``order``.

    Returns:
        int32 [N], the owner of each row.
    """
    classes, clients = counts.shape
    owner = np.empty(len(order), np.int32)
    owner[order] = np.repeat(np.tile(np.arange(clients, dtype=np.int32), classes), counts.ravel())
    return owner


def settle(owner: Owners, clients: int, min_size: int, rng: np.random.Generator) -> Assignment:
    """The assignment, once every client has ``min_size`` rows: what is missing comes from the largest clients.

    The donors are levelled from the top, so that none is cut below another's new size; which of their rows
    move is random. Nothing is ever drawn again, so it always ends.

    Args:
        owner: int32 [N]; rows with -1 are not touched.
        clients: Number of clients.
        min_size: Rows that each must have.
        rng: A separate generator.

    Raises:
        UsageError: There are fewer than ``clients * min_size`` rows.
    """
    sizes = np.bincount(owner[owner >= 0], minlength=clients)
    total = int(sizes.sum())
    enough(total, clients, min_size)
    missing = np.maximum(min_size - sizes, 0)
    need = int(missing.sum())
    if not need:
        return Assignment(owner, clients)
    give = levelled(sizes, need)
    shuffled = rng.permutation(np.flatnonzero(owner >= 0))
    order = shuffled[labels.by_code(owner[shuffled], clients)]
    rank = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    moving = rng.permutation(order[rank < give[owner[order]]])
    repaired = owner.copy()
    repaired[moving] = np.repeat(np.arange(clients, dtype=np.int32), missing)
    return Assignment(repaired, clients, moved=need)


def enough(total: int, clients: int, min_size: int) -> None:
    """Refuses a minimum size that cannot be met.

    Raises:
        UsageError: ``total`` rows are fewer than ``clients * min_size``; the message says by how much.
    """
    need = clients * min_size
    if total < need:
        raise UsageError(
            f"clients={clients} with min_size={min_size} need {need:,} images and there are "
            f"{total:,}: {need - total:,} too few; lower clients or min_size"
        )


def levelled(sizes: NDArray[np.int64], need: int) -> NDArray[np.int64]:
    """Rows that each of the largest clients gives so that ``need`` come together: int64 [clients]."""
    low, high = 0, int(sizes.max())
    while low < high:  # the highest level that frees enough rows
        level = (low + high + 1) // 2
        if np.maximum(sizes - level, 0).sum() >= need:
            low = level
        else:
            high = level - 1
    give = np.maximum(sizes - low, 0)
    surplus = int(give.sum()) - need
    give[np.flatnonzero(give)[:surplus]] -= 1
    return give


def names(clients: int, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Client names: those given, or ``client-0000`` onwards, zero-padded so that they sort."""
    width = max(4, len(str(clients - 1)))
    return tuple(given) if given else tuple(f"client-{k:0{width}d}" for k in range(clients))
