"""A new plan over the images of a built dataset: shards rewritten from shards, the sources not needed.

The result is what building the changed recipe from the sources would give, byte for byte, as long as the old
dataset holds every image: rows it had left out are not in its shards, and are counted as such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data.build import duplicates, memory, plan
from fedrsic_data.build.disk_table import Spilled
from fedrsic_data.build.finish import writer
from fedrsic_data.build.pipeline import QUIET, BuildListener
from fedrsic_data.build.plan import Planned
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset import manifest, schema, unknown
from fedrsic_data.dataset.manifest import Fine, LeftOut
from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.dataset.recipe import Recipe
from fedrsic_data.errors import UsageError, VerificationError
from fedrsic_data.raw.containers import ParquetContainer
from fedrsic_data.recipes.resolve import resolve


def prepare(
    path: Path,
    change: Callable[[Recipe], Recipe],
    listener: BuildListener = QUIET,
    progress: Callable[[int, int], None] | None = None,
) -> Planned:
    """Plans a built dataset anew; ``pipeline.build`` writes the plan as it writes any other.

    Args:
        path: The built dataset's ``manifest.json`` or folder.
        change: Makes the new recipe from the old one. Sources and label spaces must stay.
        listener: Receives progress.
        progress: Called with ``(bytes, total bytes)`` while the old dataset is verified.

    Raises:
        VerificationError: The old dataset is damaged.
        ManifestError: It was published without its images.
        UsageError: The new recipe changes more than partition, splits, seed and layout, or cannot be met; or the images
            of a subset are elsewhere.
        OutputError: There is no room for temporary files.
    """
    listener.step(f"verifying {path}")
    old, problems = verify(path, progress)
    if problems:
        words = f"{problems[0].file} {problems[0].words}"
        raise VerificationError(f"{path}: {words}; build it again before resplitting it")
    dataset = Dataset(path)
    dataset.check_images()
    if bare := [name for name, entry in old.subsets.items() if not entry.shards]:
        raise UsageError(f"{path}: {bare[0]} holds no images; split the dataset that has them")
    resolved = resolve(change(old.recipe), built=True)
    recipe = resolved.recipe
    _same_images(old.recipe, recipe)
    subsets = []
    for name in recipe.subsets:
        listener.step(f"planning {name}")
        with memory.returned():
            merged = _merged(dataset, dataset.subset(name))
            groups = [] if recipe.duplicates == "keep" else _groups(dataset.subset(name), merged)
            subsets.append(plan.divide(recipe, name, resolved.partitioners[name], merged, groups))
    listed = {source for subset in recipe.subsets.values() for source in subset.sources}
    sources = {name: entry for name, entry in old.sources.items() if name in listed}
    plugins = {name: v for name, v in old.writer.items() if name not in writer({})} | resolved.plugins
    newest = (dataset.folder / manifest.NAME).stat().st_mtime_ns
    with memory.returned():
        return Planned.of(recipe, sources, subsets, old.digest, newest, [dataset.folder], plugins)


def _same_images(old: Recipe, new: Recipe) -> None:
    for field in ("sample", "allow_partial", "on_bad_image"):
        if getattr(old, field) != getattr(new, field):
            raise UsageError(f"{field} cannot change in a resplit; build the dataset from its sources")
    several = any(len(subset.sources) > 1 for subset in new.subsets.values())
    unsought = old.duplicates == "keep" != new.duplicates
    if new.duplicates != "keep" and ((unsought and several) or old.near_duplicates != new.near_duplicates):
        raise UsageError("near-duplicates can be found only in the sources; build the dataset from them")
    for name, subset in new.subsets.items():
        was = old.subsets.get(name)
        if was is None or (was.sources, was.classes, was.class_names) != (
            subset.sources,
            subset.classes,
            subset.class_names,
        ):
            raise UsageError(f"subset {name}: sources and classes cannot change in a resplit; build the dataset")
        if any(old.sources.get(source) != new.sources.get(source) for source in subset.sources):
            raise UsageError("sources cannot change in a resplit; build the dataset from its sources")


def _merged(dataset: Dataset, subset: Subset) -> plan.Merged:
    """The images in a subset's shards, as ``plan.merge`` gives those of sources."""
    entry = subset.entry
    files = [manifest.safe(dataset.folder, shard.path) for shard in entry.shards]
    ids = _column(files, "sample_id")
    n = len(ids)
    order = pc.sort_indices(ids)
    owners = dataset.plan.filter(pc.equal(dataset.plan.column("subset"), subset.name))
    at = pc.index_in(ids, value_set=owners.column("sample_id").combine_chunks()).take(order)
    fine = Fine(entry.fine.classes, entry.fine.parents) if entry.fine else None
    own_splits = dataset.manifest.recipe.split_by == "source"
    lists = pa.list_(pa.int32())

    def several(name: str, names: Sequence[str]) -> pa.Array:
        if entry.unknown is not None:  # the shards have only those that are known
            return unknown.truth(owners, name, names, f"{dataset.where}/{manifest.PLAN}").take(at)
        return _column(files, name).cast(lists).take(order)

    def labels() -> pa.Array:
        if entry.multi_label:
            return several("labels", entry.classes)
        one = _column(files, "label").cast(pa.int32()).take(order)
        return pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32)), one)

    columns: dict[str, Callable[[], pa.Array]] = {
        "labels": labels,
        "domain": lambda: _column(files, "domain").take(order),
        **({"fine_labels": lambda: several("fine_labels", fine.classes)} if fine else {}),
        "group": lambda: schema.whole(owners.column("group")).take(at),
        "split": lambda: schema.whole(owners.column("split")).take(at) if own_splits else pa.nulls(n, pa.string()),
        "key": lambda: order.cast(pa.string()),
        "file": lambda: _column(files, "image.path").take(order),
        "origin": lambda: pa.array(np.zeros(n, np.int32)),
    }
    table = Spilled.of(pa.table({"sample_id": ids.take(order)}))
    for name, made in columns.items():  # one at a time is in memory
        table = table.append_column(name, made())
    return plan.Merged(
        classes=entry.classes,
        multi_label=entry.multi_label,
        table=table,
        containers=(ParquetContainer(files),),
        left_out=_left_out(subset, owners, n),
        fine=fine,
    )


def _column(files: list[Path], name: str) -> pa.Array:
    """A column of several Parquet files; ``image.path`` is a field of the column ``image``."""
    chunks: list[pa.Array] = []
    for path in files:
        with pq.ParquetFile(path) as file:
            column = file.read(columns=[name]).column(name.partition(".")[0])
        chunks += [chunk.field("path") for chunk in column.chunks] if name == "image.path" else column.chunks
    return schema.whole(pa.chunked_array(chunks))


def _left_out(subset: Subset, owners: pa.Table, held: int) -> tuple[LeftOut, ...]:
    """Entries for images left out by the sources and by the old plan."""
    kept = [left for left in subset.entry.left_out if not plan.drawn(left.reason)]
    absent = owners.num_rows - held
    if absent:
        unowned = owners.filter(pc.is_null(owners.column("client_id"))).column("sample_id").slice(0, 5)
        kept.append(LeftOut(plan.ABSENT, absent, tuple(unowned.to_pylist())))
    return tuple(kept)


def _groups(subset: Subset, merged: plan.Merged) -> list[NDArray[np.int64]]:
    """Rows that are one picture: those found when the dataset was built, and byte-identical ones, which 0.1.0 kept."""
    ids = schema.whole(merged.table.column("sample_id"))
    first = merged.containers[0].firsts(merged.table.column("key"))
    copies = np.flatnonzero(first < np.arange(len(first)))
    pairs = list(zip(first[copies].tolist(), copies.tolist(), strict=True))
    known = subset.entry.duplicates
    at = pc.index_in(pa.array([name for group in known for name in group], pa.string()), value_set=ids).to_pylist()
    ends = np.cumsum([0, *map(len, known)]).tolist()
    for begin, end in pairwise(ends):
        held = [row for row in at[begin:end] if row is not None]
        pairs += [(held[0], row) for row in held[1:]]
    return duplicates.joined(pairs)
