"""Plan a dataset: read indexes, apply label spaces, and give every image a client and a split.

Nothing is written here and no file is read; the plan is a function of names, labels and groups of copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data import seeds
from fedrsic_data.build import annotation, splits
from fedrsic_data.build.disk_table import Spilled
from fedrsic_data.dataset import schema, unknown
from fedrsic_data.dataset.manifest import Fine, LeftOut, SourceEntry
from fedrsic_data.dataset.recipe import Recipe, SubsetRecipe
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.partition import Partitioner, Rows, assign, names, sorting
from fedrsic_data.raw.index import Container, Index
from fedrsic_data.sources import vocabulary
from fedrsic_data.sources.own import spelling

_UNDRAWN = "given to no client by the partitioner"
_APART = "a copy of a picture that is held out with another client or user"
_COPY = "a copy of a picture that is there"
_COPY_OTHERWISE = "a copy, with other labels, of a picture that is there"
_SHARED = ("domain", "group", "split")
_BEYOND = "beyond {} shots of its class at its client"
_UNSHARED = "of a class of {} that not all sources have"
ABSENT = "in no shard of the dataset that was split again; build from the sources to have them"
"""Reason for images that a dataset left out to be absent from datasets made of its shards."""


@dataclass(frozen=True)
class Merged:
    """The images of a subset before anything is drawn.

    Attributes:
        classes: Class names in index order.
        multi_label: Whether images are multi-label.
        table: The indexes of its sources, on disk, in the order of ``sample_id``, ``labels`` in the subset's class
            indices, ``domain``, ``group`` and ``split`` as texts or dictionaries of them, and ``origin`` int32, the
            container that has the bytes.
        containers: Read the bytes.
        left_out: Images of the sources that are not in the table, by reason.
        fine: The finer label space, where the sources have one; ``table`` has ``fine_labels`` then.
    """

    classes: tuple[str, ...]
    multi_label: bool
    table: Spilled
    containers: tuple[Container, ...]
    left_out: tuple[LeftOut, ...] = ()
    fine: Fine | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedSubset(Merged):
    """A subset before its shards are written.

    Attributes:
        name: Its name.
        owner: int32 [N], client of each row; -1 is left out.
        split: int8 [N], index into ``split_names``.
        split_names: ``train`` first.
        clients: Client names.
        novel: Classes that are never trained on.
        moved: Rows moved to reach the minimum size.
        duplicates: Groups of sample ids that show one image.
        across: Number of groups that are in several splits.

    Where labels are unknown, ``table`` has the known ones in ``labels`` and ``fine_labels``, and the columns of
    ``schema.UNKNOWN_SCHEMA``.
    """

    name: str
    owner: NDArray[np.int32]
    split: NDArray[np.int8]
    split_names: tuple[str, ...]
    clients: tuple[str, ...]
    novel: tuple[str, ...]
    moved: int
    duplicates: tuple[tuple[str, ...], ...]
    across: int = 0

    @property
    def unknown(self) -> int:
        """Number of labels of training rows that are unknown."""
        if "labels_unknown" not in self.table.column_names:
            return 0
        return len(pc.list_flatten(self.table.column("labels_unknown")))

    def counts(self, split: str | None = None) -> NDArray[np.int64]:
        """Rows of each class at each client, int64 [clients, classes], of one split or of all."""
        rows = self._rows(split)
        lists = schema.whole(self.table.column("labels"))
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


@dataclass(frozen=True)
class Planned:
    """A dataset whose owners are drawn; nothing written yet.

    Attributes:
        recipe: The resolved recipe.
        sources: Provenance of the sources.
        subsets: The planned subsets.
        digest: Content digest of the plan, which is the table of all owners.
        stamp: Value that changes when a source file changes.
        newest: Latest modification time, in nanoseconds since the epoch; compare it only with itself, not with a clock.
        inputs: Files and folders that bytes are read from.
        plugins: Versions of the packages that add its sources and partitioners; empty where those are fedkit's.
    """

    recipe: Recipe
    sources: Mapping[str, SourceEntry]
    subsets: tuple[PlannedSubset, ...]
    digest: str
    stamp: str
    newest: int
    inputs: tuple[Path, ...]
    plugins: Mapping[str, str]

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        sources: Mapping[str, SourceEntry],
        subsets: Sequence[PlannedSubset],
        stamp: str,
        newest: int,
        inputs: Sequence[Path],
        plugins: Mapping[str, str],
    ) -> Planned:
        """With the plan's digest filled in."""
        digest = schema.columns_digest((name, _cells(subsets, name)) for name in columns(subsets).names)
        return cls(recipe, sources, tuple(subsets), digest, stamp, newest, tuple(inputs), plugins)

    @property
    def rows(self) -> int:
        """Rows of the plan."""
        return sum(len(subset.owner) for subset in self.subsets)

    @property
    def table(self) -> pa.Table:
        """The plan, made anew each time; see ``table``."""
        return table(self.subsets)

    def slices(self, most: int) -> Iterator[pa.Table]:
        """The rows of ``table``, ``most`` at a time: all slices but the last are as long as that."""
        for start in range(0, self.rows, most):
            yield table(self.subsets, start, min(start + most, self.rows))


def _one_spelling(subset: SubsetRecipe, named: Sequence[Sequence[str]]) -> None:
    """Refuses a class that two sources spell in two ways, which would make it two, or none that they share."""
    spelled: dict[str, dict[str, str]] = {}
    for source, class_names in zip(subset.sources, named, strict=True):
        for name in class_names:
            ways = spelled.setdefault(spelling.key(name), {})
            ways.setdefault(name, source)
    for ways in spelled.values():
        (one, here), *others = ways.items()
        for other, there in others:
            if there == here:
                continue
            known = subset.class_names != "unified" and vocabulary.to_unified(here) and vocabulary.to_unified(there)
            fix = "set class_names to unified" if known else "rename one of them"
            one, other = spelling.shown(one, other), spelling.shown(other, one)
            raise UsageError(f"class {one} of {here} is spelled {other} in {there}; {fix}")


def merge(subset: SubsetRecipe, indexes: Sequence[Index]) -> Merged:
    """The indexes of a subset's sources in one table, on disk, in its label space and in the order of sample ids.

    Raises:
        UsageError: The sources have different finer label spaces, or spell one class in two ways.
        OutputError: There is no room for temporary files.
    """
    named = []
    for source, index in zip(subset.sources, indexes, strict=True):
        to = vocabulary.to_unified(source) if subset.class_names == "unified" else {}
        names = [to.get(name, name) for name in index.classes]
        named.append([f"{source}/{name}" for name in names] if subset.classes == "apart" else names)
    _one_spelling(subset, named)
    sets = [set(names) for names in named]
    kept = set.intersection(*sets) if subset.classes == "shared" else set.union(*sets)
    ordered = subset.classes == "apart" or all(names == named[0] for names in named)
    classes = (
        tuple(dict.fromkeys(chain(*named))) if ordered else tuple(sorted(kept))
    )  # a source's order means something
    fine = indexes[0].fine
    if any(index.fine != fine for index in indexes):
        raise UsageError(f"{', '.join(subset.sources)} have different fine labels; give each its own subset")
    place = {name: i for i, name in enumerate(classes)}
    parts = []
    left_out = [left for index in indexes for left in index.left_out]
    for origin, (class_names, index) in enumerate(zip(named, indexes, strict=True)):
        table = index.table.append_column("origin", pa.array(np.full(len(index.table), origin, np.int32)))
        codes = np.array([place.get(name, -1) for name in class_names], np.int32)
        table, lost = _relabelled(table, codes)
        parts.append(table)
        if lost.num_rows:
            examples = tuple(lost.column("sample_id").slice(0, 5).to_pylist())
            left_out.append(LeftOut(_UNSHARED.format(subset.sources[origin]), lost.num_rows, examples))
    whole = _encoded(pa.concat_tables(parts))
    order = sorting(whole.column("sample_id"))
    merged = Spilled.of(whole)
    return Merged(
        classes=classes,
        multi_label=any(index.multi_label for index in indexes),
        table=merged if order is None else merged.take(order),
        containers=tuple(index.container for index in indexes),
        left_out=tuple(left_out),
        fine=fine,
    )


def divide(
    recipe: Recipe,
    name: str,
    partitioner: Partitioner,
    merged: Merged,
    groups: Sequence[NDArray[np.int64]] = (),
) -> PlannedSubset:
    """Gives every image of a subset an owner and a split.

    Args:
        recipe: The recipe.
        name: Name of the subset.
        partitioner: Assigns the images to clients.
        merged: Images of the subset.
        groups: Rows that show one image, int64 [at least 2] each; ``recipe.duplicates`` decides about them.

    Raises:
        UsageError: The partition or the splits cannot be met; the message names the subset.
        SourceError: There are groups, and the recipe treats them as an error.
    """
    if merged.multi_label and recipe.subsets[name].classes == "apart":
        raise UsageError(f"subset {name}: classes=apart is for sources of one label per image; use all or shared")
    for setting, value in (("hidden_labels", recipe.hidden_of(name)), ("annotated_labels", recipe.annotated_of(name))):
        if value is not None and not merged.multi_label:
            words = f"{setting} needs multi-label images, but these have one label per image"
            raise UsageError(f"subset {name}: {words}; set it for other subsets alone, or leave it out")
    try:
        if groups and recipe.duplicates == "error":
            one, other = _ids(merged.table, groups[0][:2])
            raise SourceError(
                f"subset {name}: {len(groups):,} images occur more than once, e.g. {one} and {other}; remove "
                "the copies, or set duplicates=drop-extra or group"
            )
        if groups and recipe.duplicates == "drop-extra":
            merged, groups = _without_copies(merged, groups, by_source=recipe.split_by == "source"), ()
        return _divide(recipe, name, partitioner, merged, groups)
    except UsageError as error:
        raise UsageError(f"subset {name}: {error}") from None


def drawn(reason: str) -> bool:
    """Whether images are left out for this reason by what is drawn here, rather than by their source."""
    return reason in (_UNDRAWN, _APART) or reason.endswith(_BEYOND.removeprefix("beyond {}"))


def undealt(reason: str) -> bool:
    """Whether images left out for this reason are counted among those of their source, and are in no plan."""
    begin, end = _UNSHARED.split("{}")
    return reason in (ABSENT, _COPY, _COPY_OTHERWISE) or (reason.startswith(begin) and reason.endswith(end))


def columns(planned: Sequence[PlannedSubset]) -> pa.Schema:
    """The columns of the plan of some subsets."""
    return schema.plan_schema(unknown=any(subset.unknown > 0 for subset in planned))


def table(planned: Sequence[PlannedSubset], start: int = 0, stop: int | None = None) -> pa.Table:
    """The plan, or its rows ``start`` to ``stop``, in ``columns``, sorted by subset and sample id."""
    made = columns(planned)
    cells = [_cells(planned, name, start, stop) for name in made.names]
    return pa.table(cells, schema=made).combine_chunks()


def codes_of(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Codes int32 [N] of a text column and their texts in alphabetical order."""
    encoded = schema.whole(column).dictionary_encode()
    codes, texts = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    held = np.bincount(codes, minlength=len(texts)) > 0  # a dictionary may have texts that no row has any more
    names = sorted(text for text, has in zip(texts, held, strict=True) if has)
    place = {name: i for i, name in enumerate(names)}
    return np.array([place.get(text, -1) for text in texts], np.int32)[codes], tuple(names)


def _divide(
    recipe: Recipe, name: str, partitioner: Partitioner, merged: Merged, groups: Sequence[NDArray[np.int64]]
) -> PlannedSubset:
    sources = recipe.class_sources(name, merged.classes)
    rows = _rows(merged.table, sources)
    ids = merged.table.select(["sample_id"])
    fractions = recipe.fractions(name)
    novel_classes = _novel_classes(rows, sources, recipe.base_to_novel)
    unseen = novel_classes[rows.labels] if novel_classes.any() else np.zeros(len(rows), bool)
    trained, novel = np.flatnonzero(~unseen), np.flatnonzero(unseen)
    some = len(trained) < len(rows)
    base_rows = rows.take(trained) if some else rows
    assignment = assign(
        partitioner,
        base_rows,
        ids.take(trained).column("sample_id") if some else ids.column("sample_id"),
        seeds.generator(recipe.seed, name, "partition"),
    )
    rng = seeds.generator(recipe.seed, name, "splits")
    owner, split = np.full(len(rows), -1, np.int32), np.zeros(len(rows), np.int8)
    owner[trained] = assignment.owner
    if recipe.split_by == "source":
        split_names = splits.names(merged.table.column("split"))
        split[:] = pc.index_in(merged.table.column("split"), pa.array(split_names)).to_numpy()
    else:
        split_names = (schema.TRAIN, *fractions)
        split[trained] = splits.hold_out(
            recipe.split_by, base_rows, assignment.owner, assignment.clients, fractions, rng
        )
    owner[novel] = rng.permutation(np.arange(len(novel)) % assignment.clients)
    split[novel] = len(split_names)
    # an image of a base class in one source and of a novel class in another stays where its labels put it
    left_out = [*merged.left_out, *_count(_UNDRAWN, owner < 0, merged.table)]
    if recipe.split_by != "source":
        known = [group for group in groups if not unseen[group].any()]
        if recipe.split_by == "sample":
            split = splits.together(split, owner, rows, known)
        else:  # a client that is held out has no training rows
            apart = splits.copies(split, owner, known)
            left_out += _count(_APART, apart, merged.table)
            owner[apart] = -1
    if recipe.shots is not None:
        beyond = splits.few_shot(rows, owner, split, recipe.shots, rng)
        left_out += _count(_BEYOND.format(recipe.shots), beyond, merged.table)
        owner[beyond] = -1
    clients = names(assignment.clients, assignment.names)
    trains = np.where(split == 0, owner, -1)
    return PlannedSubset(
        **{**vars(merged), "left_out": tuple(left_out), "table": _known(recipe, name, merged, trains, clients)},
        name=name,
        owner=owner,
        split=split,
        split_names=(*split_names, *([schema.NOVEL] if recipe.base_to_novel else [])),
        clients=clients,
        novel=tuple(compress(merged.classes, novel_classes)),
        moved=assignment.moved,
        duplicates=_named_groups(merged.table, groups),
        across=int(splits.cut(split, owner, groups).sum()),
    )


def _known(recipe: Recipe, name: str, merged: Merged, trains: NDArray[np.int32], clients: Sequence[str]) -> Spilled:
    """The table of a subset without its unknown labels, which it holds in columns of their own.

    Args:
        recipe: The recipe.
        name: Name of the subset.
        merged: Its images, with all labels.
        trains: int32 [N], client of each training row; -1 for other rows.
        clients: Client names.
    """
    width, images = len(merged.classes), merged.table
    labels = schema.whole(images.column("labels"))
    hidden = annotation.unknown_labels(recipe, name, labels, trains, merged.classes, clients)
    if hidden is None:
        return images
    complete = pc.equal(pc.list_value_length(hidden), 0).to_numpy(zero_copy_only=False)
    told = pa.array(np.arange(len(labels)), mask=complete)  # null where nothing is unknown
    of = {"labels": np.arange(width)}
    of |= {"fine_labels": unknown.coarse(merged.fine.parents, merged.classes)} if merged.fine else {}
    for column, classes in of.items():
        lists = schema.whole(images.column(column))
        images = images.append_column(column, unknown.without(lists, hidden, classes, width))
        images = images.append_column(f"{column}_true", lists.take(told))
    return images.append_column("labels_unknown", hidden)


def _without_copies(merged: Merged, groups: Sequence[NDArray[np.int64]], *, by_source: bool) -> Merged:
    """The images without all copies but one: the first; by the sources' splits, the first of the last split."""
    rows = np.concatenate(groups)
    rank = np.zeros(len(rows), np.int64)
    if by_source:
        column = merged.table.column("split")
        rank = pc.index_in(column, pa.array(splits.names(column))).to_numpy()[rows].astype(np.int64)
    of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.lexsort((rows, -rank, of))
    first = np.flatnonzero(np.diff(of[order], prepend=-1))
    kept = rows[order[first]][of]  # of each row's group
    lists = schema.whole(merged.table.column("labels"))
    copy = rows != kept
    other = np.array([lists[int(a)] != lists[int(b)] for a, b in zip(rows[copy], kept[copy], strict=True)], bool)
    extra, otherwise = np.zeros(len(lists), bool), np.zeros(len(lists), bool)
    extra[rows[copy][~other]] = True
    otherwise[rows[copy][other]] = True
    lost = [*_count(_COPY, extra, merged.table), *_count(_COPY_OTHERWISE, otherwise, merged.table)]
    table = merged.table.take(np.flatnonzero(~(extra | otherwise)))
    return replace(merged, table=table, left_out=(*merged.left_out, *lost))


def _named_groups(table: Spilled, groups: Sequence[NDArray[np.int64]]) -> tuple[tuple[str, ...], ...]:
    """The sample ids of groups of rows."""
    if not groups:
        return ()
    ids = table.column("sample_id").take(pa.array(np.concatenate(groups))).to_pylist()
    ends = np.cumsum([0, *map(len, groups)]).tolist()
    return tuple(tuple(ids[begin:end]) for begin, end in pairwise(ends))


def _novel_classes(rows: Rows, sources: Sequence[str], wanted: bool) -> NDArray[np.bool_]:
    """Which classes are never trained on, bool [classes]; ``sources`` has the source of each."""
    if not wanted:
        return np.zeros(rows.classes, bool)
    if not rows.is_single:
        raise UsageError("base_to_novel needs one label per image, but these images are multi-label")
    return splits.novel_classes(sources)


def _count(reason: str, rows: NDArray[np.bool_], table: Spilled) -> list[LeftOut]:
    return [LeftOut(reason, int(rows.sum()), _ids(table, np.flatnonzero(rows)[:5]))] if rows.any() else []


def _ids(table: Spilled, rows: NDArray[np.int64]) -> tuple[str, ...]:
    """The sample ids of a few rows."""
    return tuple(table.select(["sample_id"]).slice(int(row), 1).column(0)[0].as_py() for row in rows)


def _encoded(table: pa.Table) -> pa.Table:
    """The table with texts that many rows share held once."""
    for at, name in enumerate(table.column_names):
        if name in _SHARED:
            table = table.set_column(at, name, table.column(name).dictionary_encode())
    return table


def _relabelled(table: pa.Table, codes: NDArray[np.int32]) -> tuple[pa.Table, pa.Table]:
    """The table with labels mapped by ``codes``, and the rows all of whose labels map to -1, which it loses."""
    lists = schema.whole(table.column("labels"))
    if np.array_equal(codes, np.arange(len(codes))):
        return table, table.slice(0, 0)
    mapped = codes[lists.flatten().to_numpy()]
    keep = mapped >= 0
    before = np.diff(lists.offsets.to_numpy())
    row = np.repeat(np.arange(len(lists)), before)
    after = np.bincount(row[keep], minlength=len(lists))
    offsets = pa.array(np.concatenate([[0], np.cumsum(after)]).astype(np.int32))
    at = table.schema.get_field_index("labels")
    relabelled = table.set_column(at, "labels", pa.ListArray.from_arrays(offsets, pa.array(mapped[keep])))
    lost = (after == 0) & (before > 0)
    if not lost.any():
        return relabelled, table.slice(0, 0)
    return relabelled.filter(pa.array(~lost)), table.filter(pa.array(lost))


def _rows(table: Spilled, sources: Sequence[str]) -> Rows:
    """The rows as a partitioner sees them; ``sources`` has the source of each class."""
    lists = schema.whole(table.column("labels"))
    domains, domain_names = codes_of(table.column("domain"))
    groups, group_names = (None, ()) if table.column("group").null_count else codes_of(table.column("group"))
    return Rows(
        labels=lists.flatten().to_numpy().astype(np.int32, copy=False),
        offsets=lists.offsets.to_numpy().astype(np.int64),
        classes=len(sources),
        sources=np.unique(np.array(sources), return_inverse=True)[1].astype(np.int32),
        domains=domains,
        domain_count=len(domain_names),
        groups=groups,
        group_names=group_names,
    )


def _cells(planned: Sequence[PlannedSubset], name: str, start: int = 0, stop: int | None = None) -> pa.ChunkedArray:
    """A column of the plan, or its rows ``start`` to ``stop``, a chunk for each subset they are of."""
    stop = sum(len(subset.owner) for subset in planned) if stop is None else stop
    chunks = []
    for subset in sorted(planned, key=lambda subset: subset.name):
        n = len(subset.owner)
        if start < n and stop > 0:
            chunks.append(_column(subset, name, max(start, 0), min(stop, n)))
        start, stop = start - n, stop - n
    return pa.chunked_array(chunks, schema.plan_schema(unknown=True).field(name).type)


def _column(subset: PlannedSubset, name: str, start: int, stop: int) -> pa.Array:
    """Read rows ``start`` to ``stop`` of a subset from a column of the plan."""
    owner = subset.owner[start:stop]
    if name == "subset":
        return pa.repeat(pa.scalar(subset.name), len(owner))
    if name == "client_id":
        return _named(subset.clients, owner)
    if name == "split":
        return _named(subset.split_names, np.where(owner >= 0, subset.split[start:stop], -1))
    if name not in subset.table.column_names:
        return pa.nulls(len(owner), pa.list_(pa.string()))
    cells = schema.whole(subset.table.select([name]).slice(start, stop - start).column(name))
    if name in ("labels", "labels_unknown", "labels_true"):
        return _spelled(cells, subset.classes)
    if name in ("fine_labels", "fine_labels_true"):
        return _spelled(cells, subset.fine.classes if subset.fine else ())
    return cells.cast(pa.string())


def _spelled(lists: pa.ListArray, names: Sequence[str]) -> pa.ListArray:
    """Lists of names for lists of indices."""
    offsets, nulls = lists.offsets.to_numpy(), lists.is_null() if lists.null_count else None
    texts = pa.array(names, pa.string()).take(lists.flatten())
    return pa.ListArray.from_arrays(pa.array(offsets - offsets[0]), texts, mask=nulls)


def _named(names: Sequence[str], codes: NDArray[np.integer]) -> pa.Array:
    """Texts for codes; null for -1."""
    return pa.array(names, pa.string()).take(pa.array(codes, mask=codes < 0))


def _crosstab(
    rows: NDArray[np.integer], columns: NDArray[np.integer], keep: NDArray[np.bool_], height: int, width: int
) -> NDArray[np.int64]:
    cell = rows[keep].astype(np.int64) * width + columns[keep]
    return np.bincount(cell, minlength=height * width).reshape(height, width)
