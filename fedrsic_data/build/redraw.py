"""Recompute the owners of a plan from its recipe, and the statistics in the manifest that depend on the draw.

A plan holds every image that was assigned, also to no client, with labels, domains and users. So its
owners can be drawn from it as from the sources, and differences show that the manifest's recipe did not draw it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import compress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.build import memory, plan, shards, splits
from fedrsic_data.build.disk_table import Spilled
from fedrsic_data.build.plan import Merged, PlannedSubset
from fedrsic_data.dataset import schema, unknown
from fedrsic_data.dataset.manifest import Fine, Manifest, SubsetEntry
from fedrsic_data.dataset.recipe import Recipe
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS
from fedrsic_data.recipes import resolve
from fedrsic_data.sources import sample

_BEFORE = "0.1.0"  # dealt duplicates in another way where clients, users or the sources say what is held out
_SAMPLE = "sample-"  # begins the sample ids of rendered images; see ``sources.sample``


def of_dataset(built: Manifest, rows: pa.Table, note: Callable[[str], None]) -> Iterator[str]:
    """Report where the manifest's entries for the whole dataset differ from its recipe and plan.

    Args:
        built: The manifest.
        rows: The plan.
        note: Called with what could not be compared, and why.
    """
    recipe = built.recipe
    if built.name != recipe.name:
        yield f"name is {built.name!r}, and its recipe makes {recipe.name!r}"
    used = {source for subset in recipe.subsets.values() for source in subset.sources}
    if built.sources.keys() != used:
        yield "sources are not those of the recipe"
        return
    rendered = recipe.sample is not None
    ids = schema.whole(rows.column("sample_id"))
    marked = pc.starts_with(ids, _SAMPLE)
    for source in used if not rendered else ():  # images of one's own may be called so
        marked = pc.and_(marked, pc.invert(pc.starts_with(ids, f"{source}/")))
    if len(ids) and (pc.all(marked).as_py() if rendered else pc.any(marked).as_py()) is not rendered:
        words = "rendered, and images of the plan are not" if rendered else "real, and images of the plan are rendered"
        yield f"sample says that the images are {words}"
    try:
        sources = resolve.sources_of(recipe)
    except UsageError as error:
        note(f"its sources are not known here ({error})")
        return
    for name in sorted(used):
        if built.sources[name].redistributable is not (rendered or sources[name].facts.redistributable):
            yield f"redistributable of source {name} is not what is known of it"
        if recipe.sample:
            entry, made = built.sources[name], sample.index(sources[name], recipe.sample)
            if entry.images != len(made.table):
                yield f"images of source {name} are not as many as the recipe renders"
            if (entry.missing, entry.counts) != (made.missing, dict(made.counts)):
                yield f"missing or counts of source {name} tell of files, and its images are rendered"


def of_subset(
    built: Manifest, name: str, rows: pa.Table, clients: pa.Table, note: Callable[[str], None]
) -> Iterator[str]:
    """Report where the manifest's entry for a subset differs from its recipe and plan.

    Args:
        built: The manifest.
        name: The subset.
        rows: Its rows of the plan.
        clients: Its rows of the client table.
        note: Called with what could not be recomputed, and why.
    """
    subset = built.subsets[name]
    yield from _listed(built.recipe, name, subset, rows)
    if subset.withheld:
        if subset.moved or subset.left_out:
            yield "moved or left_out tell of images, and it holds none"
        return
    images, told = _images(built, name), _told(subset, rows)
    if told >= images:
        yield from _laid_out(built, name, rows, clients)
    if told > images:
        yield f"its sources have {images:,} images, and the plan tells of {told:,}"
    if told < images:
        note(f"{name}: holds {told:,} of the {images:,} images of its sources, as the folder of a site does")
    if not _drawable(rows, subset):
        yield "the plan has images with labels that are no classes, or without a domain"
        return
    if reason := _undrawable(built, name, rows):
        note(f"{name}: its owners were not drawn again ({reason})")
        return
    wrong: list[str] = []
    try:
        with memory.returned():
            wrong += _compared(subset, _drawn(built.recipe, name, subset, rows), rows, clients)
    except UsageError as error:
        if _lacking(error) or "path" in built.recipe.partition_of(name):
            note(f"{name}: its owners were not drawn again ({error})")
        else:
            wrong.append(f"the recipe cannot have drawn it ({error})")
    if wrong and subset.duplicates and built.recipe.split_by != "sample" and built.writer.get("fedkit") == _BEFORE:
        note(f"{name}: its owners were not drawn again (fedkit {_BEFORE} dealt duplicates in another way)")
    elif wrong and told < images and not subset.moved and not subset.left_out:
        note(f"{name}: its owners were drawn among all of these images, and cannot be drawn again from some")
    else:
        yield from wrong


def is_known(built: Manifest, name: str) -> bool:
    """Whether the recipe has the subset, and the manifest its sources; else there is nothing to draw from."""
    return name in built.recipe.subsets and set(built.recipe.subsets[name].sources) <= built.sources.keys()


def is_whole(built: Manifest, name: str, rows: pa.Table) -> bool:
    """Whether a subset's rows of the plan are all images of its sources; those of a site's folder are not."""
    return _told(built.subsets[name], rows) >= _images(built, name)


def _images(built: Manifest, name: str) -> int:
    return sum(built.sources[source].images for source in built.recipe.subsets[name].sources)


def _told(subset: SubsetEntry, rows: pa.Table) -> int:
    """Number of images in plan and manifest."""
    return int(rows.num_rows) + sum(left.count for left in subset.left_out if plan.undealt(left.reason))


def _listed(recipe: Recipe, name: str, subset: SubsetEntry, rows: pa.Table) -> Iterator[str]:
    """Compare the manifest's lists of images with the plan."""
    novel = splits.novel_classes(recipe.class_sources(name, subset.classes))
    if subset.novel != (tuple(compress(subset.classes, novel)) if recipe.base_to_novel else ()):
        yield "novel classes are not those of the recipe"
    ids = schema.whole(rows.column("sample_id"))
    if subset.skipped and (recipe.on_bad_image != "skip" or not _skipped(subset, rows)):
        yield "skipped are not images that the plan has so, or the recipe skips none"
    for left in subset.left_out:
        examples = pa.array(left.examples, pa.string())
        dealt = plan.undealt(left.reason) and pc.any(pc.is_in(examples, value_set=ids)).as_py()
        # sources pass over files for reasons of their own; where images are rendered there are no files
        told = recipe.sample is None or plan.drawn(left.reason) or plan.undealt(left.reason)
        if left.count < max(1, len(left.examples)) or dealt or not told:
            yield f"left_out does not fit the plan: {left.reason}"
    yield from _repeated(recipe, subset, ids)


def _skipped(subset: SubsetEntry, rows: pa.Table) -> bool:
    """Whether the plan has the images that were skipped, each at its client and in its split."""
    at = pc.index_in(pa.array([skip.sample_id for skip in subset.skipped]), schema.whole(rows.column("sample_id")))
    if at.null_count:
        return False
    there = rows.select(["client_id", "split"]).take(at).to_pylist()
    return all(
        (r["client_id"], r["split"]) == (s.client_id, s.split) for r, s in zip(there, subset.skipped, strict=True)
    )


def _repeated(recipe: Recipe, subset: SubsetEntry, ids: pa.Array) -> Iterator[str]:
    members = [sample for group in subset.duplicates for sample in group]
    if (
        (members and recipe.duplicates != "group")
        or len(set(members)) < len(members)
        or any(len(group) < 2 for group in subset.duplicates)
        or pc.all(pc.is_in(pa.array(members, pa.string()), value_set=ids)).as_py() is False
    ):
        yield "duplicates are not groups of images of the plan, each in one of them, or the recipe keeps none"


def _undrawable(built: Manifest, name: str, rows: pa.Table) -> str:
    """Return the reason for which owners cannot be drawn again; nothing if they can."""
    kind = built.recipe.partition_of(name)["name"]
    if kind not in PARTITIONERS:
        return f"partitioner {kind!r} is not known here"
    return "the plan lacks the true values of unknown labels" if unknown.is_withheld(rows) else ""


def _drawable(rows: pa.Table, subset: SubsetEntry) -> bool:
    labels = schema.whole(rows.column("labels"))
    if labels.null_count or rows.column("domain").null_count or rows.column("sample_id").null_count:
        return False
    if not subset.multi_label and not pc.all(pc.equal(pc.list_value_length(labels), 1)).as_py() and len(labels):
        return False
    named = {"labels": subset.classes}
    if subset.unknown is not None:
        fine = subset.fine.classes if subset.fine else ()
        named |= {"labels_true": subset.classes, "fine_labels": fine, "fine_labels_true": fine}
    return not any(
        pc.index_in(pc.list_flatten(rows.column(column)), pa.array(names, pa.string())).null_count
        for column, names in named.items()
    )


def _drawn(recipe: Recipe, name: str, subset: SubsetEntry, rows: pa.Table) -> PlannedSubset:
    """The subset planned again, from the plan instead of from its sources."""
    fine = None if subset.unknown is None or subset.fine is None else Fine(subset.fine.classes, subset.fine.parents)
    own = (
        recipe.split_by == "source"
    )  # images that no client got are in no split of the plan, and it makes no difference
    count = rows.num_rows
    table = pa.table(
        {
            "sample_id": rows.column("sample_id"),
            "labels": unknown.truth(rows, "labels", subset.classes, name),
            **({"fine_labels": unknown.truth(rows, "fine_labels", fine.classes, name)} if fine else {}),
            "domain": rows.column("domain"),
            "group": rows.column("group"),
            "split": pc.fill_null(rows.column("split"), schema.TRAIN) if own else pa.nulls(count, pa.string()),
            "origin": pa.array(np.zeros(count, np.int32)),
        }
    )
    merged = Merged(
        classes=subset.classes,
        multi_label=subset.multi_label,
        table=Spilled.of(table),
        containers=(),
        left_out=tuple(left for left in subset.left_out if not plan.drawn(left.reason)),
        fine=fine,
    )
    groups = _numbered(subset, rows) if recipe.duplicates == "group" else ()
    return plan.divide(recipe, name, resolve.partitioner_of(recipe, name), merged, groups)


def _laid_out(built: Manifest, name: str, rows: pa.Table, clients: pa.Table) -> Iterator[str]:
    """Whether the shards of a subset are the files that the recipe's layout makes of its clients.

    A client has a file of each split it has planned rows of, also where all of their images were skipped.
    """
    layout, subset = built.recipe.layout, built.subsets[name]
    order = list(dict.fromkeys(clients.column("client_id").to_pylist()))
    packed = layout.packed(len(order))
    own = dict(zip(order, shards.file_names(order), strict=True))
    for split in subset.rows:
        held = [shard.path for shard in subset.shards if shard.split == split]
        names = [shards.packed_name(split, number, len(held)) for number in range(len(held))]
        if not packed:
            planned = pc.unique(rows.filter(pc.equal(rows.column("split"), split)).column("client_id"))
            names = [own.get(client, "") for client in planned.drop_null().to_pylist()]
        if sorted(held) != sorted(f"{name}/{split}/{file}.parquet" for file in names):
            yield f"files of split {split} are not those of the recipe's layout"


def _numbered(subset: SubsetEntry, rows: pa.Table) -> list[NDArray[np.int64]]:
    """The duplicates as row numbers."""
    members = pa.array([sample for group in subset.duplicates for sample in group], pa.string())
    at = pc.index_in(members, value_set=schema.whole(rows.column("sample_id")))
    if at.null_count or not len(at):
        return []
    return np.split(at.to_numpy().astype(np.int64), np.cumsum([len(group) for group in subset.duplicates])[:-1])


def _compared(subset: SubsetEntry, drawn: PlannedSubset, rows: pa.Table, clients: pa.Table) -> Iterator[str]:
    again = plan.table([drawn])
    hidden = () if subset.unknown is None else ("labels", "fine_labels", *schema.UNKNOWN_SCHEMA.names)
    if bool(drawn.unknown) is not bool(hidden):
        yield "unknown labels are not those that the recipe draws"
        return
    for column in ("client_id", "split", *hidden):
        if not schema.whole(again.column(column)).equals(schema.whole(rows.column(column))):
            yield f"column {column} of the plan is not what the recipe draws"
    first = clients.filter(pc.equal(clients.column("split"), schema.TRAIN))
    if first.column("client_id").to_pylist() != list(drawn.clients):
        yield "clients are not those that the recipe draws"
    for field in ("moved", "left_out", "across"):
        value = getattr(drawn, field)
        if getattr(subset, field) != value:
            yield f"{field} is not what the recipe gives"
    if set(drawn.split_names) != subset.rows.keys():
        yield "splits are not those of the recipe"


def _lacking(error: BaseException | None) -> bool:
    """Whether it was caused by a package that is not installed."""
    while error is not None:
        if isinstance(error, ImportError):
            return True
        error = error.__cause__ or error.__context__
    return False
