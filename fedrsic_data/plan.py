"""From sources to owners: indexes read, label spaces applied, every image given a client and a split.

Nothing is written here and no pixel is read; the plan is a function of names and labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data import partition, schema, seeds, splits, vocabulary
from fedrsic_data.errors import UsageError
from fedrsic_data.index import Container, Index
from fedrsic_data.manifest import Counted
from fedrsic_data.recipe import Recipe, Subset


@dataclass(frozen=True)
class PlannedSubset:
    """A subset before its shards are written.

    Attributes:
        name: Its name.
        classes: Class names in index order.
        multi_label: Whether images have label sets.
        table: The indexes of its sources, in the order of ``sample_id``, ``labels`` in the subset's class
            indices, and ``origin`` int32, the container that has the bytes.
        containers: Read the bytes.
        owner: int32 [N], client of each row; -1 is left out.
        split: int8 [N], index into ``split_names``.
        split_names: ``train`` first.
        clients: Client names.
        moved: Rows moved to reach the minimum size.
        left_out: What is in the sources but not in the plan, by reason.
    """

    name: str
    classes: tuple[str, ...]
    multi_label: bool
    table: pa.Table
    containers: tuple[Container, ...]
    owner: NDArray[np.int32]
    split: NDArray[np.int8]
    split_names: tuple[str, ...]
    clients: tuple[str, ...]
    moved: int
    left_out: tuple[Counted, ...]

    def counts(self, split: str | None = None) -> NDArray[np.int64]:
        """Rows of each class at each client, int64 [clients, classes], of one split or of all."""
        rows = self._rows(split)
        lists = self.table.column("labels").combine_chunks()
        times = np.diff(lists.offsets.to_numpy())
        owner, labels = np.repeat(self.owner, times), lists.flatten().to_numpy()
        return _crosstab(owner, labels, np.repeat(rows, times), len(self.clients), len(self.classes))

    def domain_counts(self, split: str | None = None) -> NDArray[np.int64]:
        """Rows of each domain at each client, int64 [clients, domains], domains in alphabetical order."""
        codes, names = codes_of(self.table.column("domain"))
        return _crosstab(self.owner, codes, self._rows(split), len(self.clients), len(names))

    def _rows(self, split: str | None) -> NDArray[np.bool_]:
        held = self.owner >= 0
        return held if split is None else held & (self.split == self.split_names.index(split))


def make(
    recipe: Recipe, indexes: Mapping[str, Index], tell: Callable[[str], None] | None = None
) -> list[PlannedSubset]:
    """Plans every subset of a recipe.

    Args:
        recipe: What to build.
        indexes: Source name -> its index.
        tell: Told the name of each subset as it is planned.

    Raises:
        UsageError: A partitioner cannot meet its settings; the message names the subset.
    """
    planned = []
    for name, subset in recipe.subsets.items():
        if tell is not None:
            tell(name)
        try:
            planned.append(_subset(recipe, name, subset, [indexes[s] for s in subset.sources]))
        except UsageError as error:
            raise UsageError(f"subset {name}: {error}") from None
    return planned


def table(planned: Sequence[PlannedSubset]) -> pa.Table:
    """The plan as a table of ``schema.PLAN_SCHEMA``, sorted by subset and sample id."""
    parts = []
    for subset in sorted(planned, key=lambda subset: subset.name):
        names = pa.array(subset.classes, pa.string())
        lists = subset.table.column("labels").combine_chunks()
        held = subset.owner >= 0
        part = pa.table(
            [
                pa.repeat(pa.scalar(subset.name), len(held)),
                subset.table.column("sample_id"),
                pa.ListArray.from_arrays(lists.offsets, names.take(lists.flatten())),
                subset.table.column("domain"),
                _named(subset.split_names, np.where(held, subset.split, -1)),
                _named(subset.clients, subset.owner),
            ],
            schema=schema.PLAN_SCHEMA,
        )
        parts.append(part)
    return pa.concat_tables(parts).combine_chunks()


def codes_of(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Codes int32 [N] of a text column and the texts they stand for, alphabetical."""
    encoded = column.combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    rank = np.argsort(np.argsort(np.array(texts, dtype=object))).astype(np.int32) if texts else np.zeros(0, np.int32)
    return rank[encoded.indices.to_numpy()], tuple(sorted(texts))


def _subset(recipe: Recipe, name: str, subset: Subset, indexes: Sequence[Index]) -> PlannedSubset:
    classes, merged = _label_space(subset, indexes)
    rows = _rows(merged, classes)
    ids = merged.column("sample_id")
    partitioner = recipe.partitioner(name)
    assignment = partition.assign(partitioner, rows, ids, seeds.generator(recipe.seed, name, "partition"))
    fractions = recipe.fractions(name)
    rng = seeds.generator(recipe.seed, name, "splits")
    split = splits.stratified(rows, assignment.owner, assignment.clients, fractions, rng)
    left_out = [Counted(left.reason, left.count, left.examples) for index in indexes for left in index.left_out]
    undrawn = np.flatnonzero(assignment.owner < 0)
    if len(undrawn):
        examples = tuple(ids.take(pa.array(undrawn[:5])).to_pylist())
        left_out.append(Counted("given to no client by the partitioner", len(undrawn), examples))
    return PlannedSubset(
        name=name,
        classes=classes,
        multi_label=any(index.multi_label for index in indexes),
        table=merged,
        containers=tuple(index.container for index in indexes),
        owner=assignment.owner,
        split=split,
        split_names=(splits.TRAIN, *fractions),
        clients=partition.names(assignment.clients, assignment.names),
        moved=assignment.moved,
        left_out=tuple(left_out),
    )


def _label_space(subset: Subset, indexes: Sequence[Index]) -> tuple[tuple[str, ...], pa.Table]:
    """The subset's class names, alphabetical, and the indexes in one table in the order of their sample ids."""
    named = []
    for source, index in zip(subset.sources, indexes, strict=True):
        to = vocabulary.to_unified(source) if subset.class_names == "unified" else {}
        named.append([to.get(name, name) for name in index.classes])
    classes = tuple(sorted({name for names in named for name in names}))
    place = {name: i for i, name in enumerate(classes)}
    parts = []
    for origin, (names, index) in enumerate(zip(named, indexes, strict=True)):
        lists = index.table.column("labels").combine_chunks()
        mapped = np.array([place[n] for n in names], np.int32)[lists.flatten().to_numpy()]
        relabelled = pa.ListArray.from_arrays(lists.offsets, pa.array(mapped, pa.int32()))
        part = index.table.set_column(index.table.schema.get_field_index("labels"), "labels", relabelled)
        parts.append(part.append_column("origin", pa.array(np.full(len(part), origin, np.int32))))
    merged = pa.concat_tables(parts).combine_chunks()
    order = partition.sorting(merged.column("sample_id"))
    return classes, merged if order is None else merged.take(pa.array(order)).combine_chunks()


def _rows(table: pa.Table, classes: Sequence[str]) -> partition.Rows:
    lists = table.column("labels").combine_chunks()
    domains, domain_names = codes_of(table.column("domain"))
    groups, group_names = (None, ()) if table.column("group").null_count else codes_of(table.column("group"))
    return partition.Rows(
        labels=lists.flatten().to_numpy().astype(np.int32),
        offsets=lists.offsets.to_numpy().astype(np.int64),
        classes=len(classes),
        domains=domains,
        domain_count=len(domain_names),
        groups=groups,
        group_names=group_names,
    )


def _named(names: Sequence[str], codes: NDArray[np.integer]) -> pa.Array:
    """Texts for codes; null for -1."""
    return pa.array(names, pa.string()).take(pa.array(codes.astype(np.int64), mask=codes < 0))


def _crosstab(
    rows: NDArray[np.integer], columns: NDArray[np.integer], keep: NDArray[np.bool_], height: int, width: int
) -> NDArray[np.int64]:
    cell = rows[keep].astype(np.int64) * width + columns[keep]
    return np.bincount(cell, minlength=height * width).reshape(height, width)
