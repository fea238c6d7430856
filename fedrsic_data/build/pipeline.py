"""The pipeline: sources -> indexes -> plan -> shards -> manifest. Only this module combines all stages."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data.build import duplicates, memory, plan, record, shards, workspace
from fedrsic_data.build.engines.base import BuildEngine, Task
from fedrsic_data.build.engines.threads import Threads
from fedrsic_data.build.finish import describe, source_entry, writer
from fedrsic_data.build.plan import Planned, PlannedSubset
from fedrsic_data.dataset import manifest, schema
from fedrsic_data.dataset.manifest import CARD, CLIENTS, PLAN, File, Manifest, Shard
from fedrsic_data.dataset.recipe import Recipe
from fedrsic_data.dataset.verify import strays
from fedrsic_data.errors import ManifestError, OutputError, PluginError, SourceError, UsageError, blamed
from fedrsic_data.files.atomic import file_digest
from fedrsic_data.raw.download import Progress
from fedrsic_data.raw.index import INDEX_SCHEMA, Index, fingerprint
from fedrsic_data.recipes.resolve import Resolved, resolve
from fedrsic_data.settings import encode
from fedrsic_data.sources import SOURCES, locate, sample
from fedrsic_data.sources.base import Relabelled

_THREADS = Threads()


@dataclass(frozen=True)
class BuildListener:
    """Receives progress. The default ignores every call.

    Attributes:
        step: Called with a description of the next step.
        images: Called with ``(images written, total images)``.
        download: Makes a progress callback for a file name.
        described: Called with the manifest before the dataset is moved into place; an exception prevents that.
    """

    step: Callable[[str], None] = lambda _: None
    images: Callable[[int, int], None] = lambda _done, _total: None
    download: Callable[[str], Progress] | None = None
    described: Callable[[Manifest], None] = lambda _: None


QUIET = BuildListener()
"""Ignores progress."""


@dataclass(frozen=True)
class Built:
    """A finished build.

    Attributes:
        path: Its folder, or the one it had before it was copied to ``uri``.
        manifest: Its manifest.
        written: Number of shards that were written.
        uri: Its URI, if it is not in a local folder; secrets are masked.
    """

    path: Path
    manifest: Manifest
    written: int
    uri: str | None = None


def prepare(recipe: Recipe, places: locate.Places, listener: BuildListener = QUIET) -> Planned:
    """Find the sources, read their names and labels, and draw the plan.

    Writes nothing but downloads and temporary files.

    Raises:
        SourceError: A source is missing, incomplete or malformed.
        UsageError: The partition cannot be met, or a setting of the sample has no effect.
        OutputError: There is no room for temporary files.
    """
    with memory.returned():
        return _planned(resolve(recipe), places, listener)


def _planned(resolved: Resolved, places: locate.Places, listener: BuildListener) -> Planned:
    recipe = resolved.recipe
    indexes, inputs = _indexes(resolved, places, listener)
    merged = {
        name: plan.merge(subset, [indexes[source] for source in subset.sources])
        for name, subset in recipe.subsets.items()
    }
    sources = {}
    for name, index in indexes.items():
        source = resolved.sources[name]
        sources[name] = source_entry(source.facts, index, sample.title(source) if recipe.sample else None)
    stamp = fingerprint((name, index.fingerprint) for name, index in sorted(indexes.items()))
    newest = max(index.newest for index in indexes.values())
    del indexes  # which are in the merged tables, on disk
    subsets = []
    for name, images in merged.items():
        listener.step(f"planning {name}")
        groups = _duplicates(recipe, images, listener)
        subsets.append(plan.divide(recipe, name, resolved.partitioners[name], images, groups))
    return Planned.of(recipe, sources, subsets, stamp, newest, inputs, resolved.plugins)


def build(
    planned: Planned,
    out: Path,
    *,
    overwrite: bool = False,
    listener: BuildListener = QUIET,
    engine: BuildEngine = _THREADS,
) -> Built:
    """Write a planned dataset to a temporary folder, the manifest last, and rename the folder into place.

    An interrupted build is resumed; shards whose digest holds are kept. A finished one is left alone, but for
    shards that are damaged or gone, which are written again.

    Args:
        planned: From ``prepare``.
        out: The dataset's folder.
        overwrite: Replace an existing dataset.
        listener: Receives progress.
        engine: Where shards are written; the bytes are the same.

    Raises:
        UsageError: The folder is a URL.
        OutputError: The folder cannot be written, or holds something else.
        SourceError: A file cannot be read or is no image, or every image of a subset was skipped.
    """
    out = _place(planned, out, overwrite=overwrite)
    with workspace.opened(out) as work:
        standing = _standing(planned, out, overwrite) if out.exists() else None
        if standing is None:
            built, changed = _made(planned, out, work, listener, engine, overwrite=overwrite), None
        else:
            listener.described(standing)
            changed = _changed(planned, work, out, standing, listener, engine)
            built = Built(out, standing, 0) if changed else _mend(planned, out, standing, listener, work)
            work.discard()
    if changed:
        words = f"the sources changed after it was built (they no longer give {changed})"
        raise OutputError(f"{out}: {words}; rebuild it with --overwrite")
    record.write(out, built.manifest, planned)
    return built


def _made(
    planned: Planned,
    out: Path,
    work: workspace.Workspace,
    listener: BuildListener,
    engine: BuildEngine,
    *,
    overwrite: bool,
) -> Built:
    work.begin(_key(planned))
    receipts = _receipts(planned, work, listener, engine)
    _not_empty(receipts)
    with memory.returned():
        described = describe(planned, work.folder, receipts)
    listener.described(described)
    (work.folder / manifest.NAME).write_text(manifest.dumps(described), encoding="utf-8")
    work.finish([manifest.NAME, *(file.path for file in manifest.files(described))], overwrite=overwrite)
    return Built(out, described, sum(len(r) for r in receipts.values()) - len(work.kept))


def _place(planned: Planned, given: Path, *, overwrite: bool) -> Path:
    """The output folder, with links followed; refuse places where a folder must not be created or replaced."""
    out = workspace.place(given)
    with workspace.placing(given):
        if out.exists() and any(out.iterdir()):
            if not (out / manifest.NAME).is_file():
                raise OutputError(f"--out {given}: is not empty and holds no fedkit dataset; choose another --out")
            if overwrite:
                workspace.refuse_unowned(out)
    for path in planned.inputs:
        if out.is_relative_to(os.path.realpath(path)):
            raise OutputError(f"--out {given}: lies inside the source {path}; choose another --out")
    return out


def _indexes(resolved: Resolved, places: locate.Places, listener: BuildListener) -> tuple[dict[str, Index], list[Path]]:
    recipe, sources = resolved.recipe, resolved.sources
    wanted = list(sources)
    if recipe.sample is not None:
        if places.folder is not None or places.given:
            option = (
                f"--sources {places.folder}" if places.folder is not None else f"--source {next(iter(places.given))}"
            )
            raise UsageError(f"{option}: cannot be combined with --sample; leave one of them out")
        drawn = {name: sample.index(source, recipe.sample) for name, source in sources.items()}
        sample.check(sources.values(), recipe.sample)
        return drawn, []
    locate.check_names(places.given, dict.fromkeys((*SOURCES, *sources)))
    here = {name: locate.find(sources[name], places) for name in wanted}
    images = [locate.find(source.images_of, places) for source in sources.values() if isinstance(source, Relabelled)]
    if places.folder is not None and not any([*here.values(), *images]):
        layouts = ", ".join(f"{name} ({sources[name].facts.layout})" for name in wanted)
        raise SourceError(f"--sources {places.folder}: holds none of {layouts}")
    indexes: dict[str, Index] = {}
    inputs: list[Path] = []
    for name in sorted(wanted, key=lambda n: here[n] is None):  # what is here can fail before anything is fetched
        listener.step(f"reading {name}")
        source = sources[name]
        path = here[name] or locate.locate(source, places, listener.download)
        inputs.append(path)
        if isinstance(source, Relabelled):
            inputs.append(locate.images(source, path, places, listener.download))
            source = source.over(inputs[-1])
        with blamed("source", type(source)):
            indexes[name] = source.index(path, allow_partial=recipe.allow_partial)
        _check_index(indexes[name], type(source))
    return {name: indexes[name] for name in wanted}, inputs


def _check_index(index: Index, source: type) -> None:
    """Refuses what is no index: a source of another package may give anything."""
    columns = index.table.schema if isinstance(index, Index) and isinstance(index.table, pa.Table) else pa.schema([])
    for field in INDEX_SCHEMA:
        if field.name not in columns.names or columns.field(field.name).type != field.type:
            raise PluginError(
                f"the source {source.__qualname__} of {source.__module__} gave no index with {field.name} of type "
                f"{field.type}; see fedrsic_data.sources.testing"
            )


def _standing(planned: Planned, out: Path, overwrite: bool) -> Manifest | None:
    """The manifest at ``out`` if it is of this very build; None if it is to be replaced."""
    if overwrite or not (out / manifest.NAME).is_file():
        return None
    try:
        standing = manifest.load(out)
    except ManifestError as error:
        raise OutputError(f"{error}; move the folder away, or choose another --out") from None
    if standing.reference:
        raise OutputError(f"{out}: is a dataset published without its images; choose another --out")
    same = (standing.plan.digest, encode(standing.recipe), standing.writer) == (
        planned.digest,
        encode(planned.recipe),
        writer(planned.plugins),
    )
    if not same or manifest.digest(standing) != standing.digest:
        differ = _difference(encode(standing.recipe), encode(planned.recipe)) or "other images, or an edited manifest"
        raise OutputError(
            f"{out}: holds another build ({differ}); replace it with --overwrite, or choose another --out"
        )
    return standing


def _difference(there: Any, wanted: Any, path: str = "") -> str:
    """The first field in which two recipes differ, in words; empty if they are equal."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in there if key not in wanted)]:
            if found := _difference(there.get(key), wanted.get(key), f"{path}.{key}" if path else key):
                return found
        return ""
    return "" if there == wanted else f"{path} is {json.dumps(there)} there, {json.dumps(wanted)} here"


def _changed(
    planned: Planned,
    work: workspace.Workspace,
    out: Path,
    standing: Manifest,
    listener: BuildListener,
    engine: BuildEngine,
) -> str | None:
    """The first shard whose bytes the sources no longer produce.

    If there is no record of the current sources, every shard is made once more, and none is stored.
    """
    if record.agrees(out, standing, planned):
        return None
    listener.step("comparing the sources with the dataset that was built from them")
    work.begin(_key(planned), resume=False)
    wanted = {shard.path: shard.sha256 for shard in manifest.shards(standing)}
    for receipt in _written(planned, _tasks(planned, work, engine), work, listener, engine):
        (work.folder / receipt.path).unlink()
        if wanted.get(receipt.path) != receipt.sha256:
            return receipt.path
    return None


def _mend(planned: Planned, out: Path, standing: Manifest, listener: BuildListener, work: workspace.Workspace) -> Built:
    """Rewrite damaged and missing files of a finished dataset, one by one; each appears whole."""
    listener.step("checking the existing dataset")
    if stray := next(strays(out, standing), None):
        raise OutputError(f"{out / stray}: is not in the manifest, but readers would include it; remove it")
    broken = [f for f in manifest.files(standing) if not _holds(out, f)]
    if broken:
        bad = {file.path for file in broken}
        if CARD in bad and (out / CARD).exists():
            raise OutputError(
                f"{out / CARD}: was edited; move it away and rebuild with --overwrite, or keep the dataset"
            )
        if bad & {PLAN, CLIENTS, CARD}:
            raise OutputError(f"{out}: {sorted(bad & {PLAN, CLIENTS, CARD})[0]} is damaged; rebuild with --overwrite")
        work.begin(_key(planned), resume=False)
        work.expect(bad)
        _prepare(planned, work.scratch)
        for subset in planned.subsets:
            if not any(path.startswith(f"{subset.name}/") for path in bad):
                continue
            with memory.returned():
                rows, jobs, options = _jobs(planned.recipe, subset)
            for job in jobs:
                if job.path in bad:
                    shards.write(job, rows, work.folder, options)
                    (out / job.path).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(work.folder / job.path, out / job.path)
        for file in broken:
            if not _holds(out, file):
                raise OutputError(
                    f"{out / file.path}: the sources no longer produce these bytes; rebuild with --overwrite"
                )
    return Built(out, standing, len(broken))


def _prepare(planned: Planned, scratch: Path, *, shared: bool = False) -> None:
    for subset in planned.subsets:
        for container in subset.containers:
            container.prepare(scratch, shared=shared)


def _duplicates(recipe: Recipe, merged: plan.Merged, listener: BuildListener) -> list[NDArray[np.int64]]:
    """Groups of rows that show one image; the only planning step that reads image files."""
    if recipe.duplicates == "keep":
        return []
    origin, keys = merged.table.column("origin").to_numpy(), merged.table.column("key")
    first = np.arange(len(origin))
    if recipe.sample is None:
        listener.step("looking for identical files")
    for number, container in enumerate(merged.containers):
        rows = np.flatnonzero(origin == number)
        first[rows] = rows[container.firsts(keys if len(rows) == len(keys) else keys.take(pa.array(rows)))]
    copies = np.flatnonzero(first < np.arange(len(first)))
    pairs = list(zip(first[copies].tolist(), copies.tolist(), strict=True))
    within = recipe.near_duplicates == "all"
    if within or len(merged.containers) > 1:
        many = len(merged.containers)
        listener.step(f"comparing the pictures of {many} sources" if many > 1 else "comparing the pictures")
        rows = np.flatnonzero(first == np.arange(len(first)))
        places = merged.table.select(["key", "origin"]).slice(0, len(origin)).take(pa.array(rows))
        with tempfile.TemporaryDirectory() as scratch:
            for container in merged.containers:
                container.prepare(Path(scratch))
            read = lambda some: shards.read(places.take(pa.array(some)), merged.containers)  # noqa: E731
            found = duplicates.find(read, np.arange(len(rows)) if within else origin[rows])
        pairs += [(int(rows[group[0]]), int(rows[other])) for group in found for other in group[1:]]
    return duplicates.joined(pairs)


def _holds(out: Path, file: File | Shard) -> bool:
    path = manifest.safe(out, file.path)
    return path.is_file() and path.stat().st_size == file.bytes and file_digest(path) == file.sha256


def _receipts(
    planned: Planned, work: workspace.Workspace, listener: BuildListener, engine: BuildEngine
) -> dict[str, list[shards.Receipt]]:
    """Write the missing shards, and return all receipts by subset, in job order."""
    listener.step("writing shards")
    tasks, done = _tasks(planned, work, engine), dict(work.kept)
    for receipt in _written(planned, tasks, work, listener, engine):
        work.add(receipt)
        done[receipt.path] = receipt
    return {s.name: [done[task.job.path] for task in tasks if task.subset == s.name] for s in planned.subsets}


def _written(
    planned: Planned, tasks: Sequence[Task], work: workspace.Workspace, listener: BuildListener, engine: BuildEngine
) -> Iterator[shards.Receipt]:
    """Writes the shards that the workspace has not kept, in any order, a few at a time."""
    work.expect([manifest.NAME, PLAN, CLIENTS, CARD, *(task.job.path for task in tasks)])
    total = sum(task.job.count for task in tasks)
    count = sum(task.job.count for task in tasks if task.job.path in work.kept)
    listener.images(count, total)
    containers = {subset.name: subset.containers for subset in planned.subsets}
    waiting = (task for task in tasks if task.job.path not in work.kept)
    for task, receipt in engine.run(waiting, containers, work.folder):
        yield receipt
        count += task.job.count
        listener.images(count, total)


def _tasks(planned: Planned, work: workspace.Workspace, engine: BuildEngine) -> list[Task]:
    """Every shard, subset by subset, once the images can be read."""
    _prepare(planned, work.scratch, shared=engine.shared)
    todo: list[Task] = []
    for subset in planned.subsets:
        with memory.returned():
            rows, jobs, options = _jobs(planned.recipe, subset)
        todo += [Task(subset.name, job, rows, options) for job in jobs]
    return todo


def _not_empty(receipts: Mapping[str, Sequence[shards.Receipt]]) -> None:
    """Refuse a subset without any remaining image."""
    for name, written in receipts.items():
        skipped = [skip for receipt in written for skip in receipt.skipped]
        if skipped and not any(receipt.rows for receipt in written):
            first = skipped[0]
            raise SourceError(
                f"{name}: all {len(skipped):,} images were skipped, e.g. {first['sample_id']}: {first['reason']}; "
                "fix them at their source"
            )


def _jobs(recipe: Recipe, subset: PlannedSubset) -> tuple[shards.ShardRows, list[shards.Job], shards.WriteOptions]:
    """The rows of a subset, its shards, and how they are written."""
    order = np.lexsort((subset.owner, subset.split))
    order = order[subset.owner[order] >= 0]
    owner, splits = subset.owner[order], subset.split[order]
    beside = ("group", "split", "labels_true", "fine_labels_true")  # in no shard
    named = [name for name in subset.table.column_names if name not in beside]
    rows = shards.ShardRows(
        table=subset.table.select(named).take(order).append_column("client", pa.array(owner)),
        clients=subset.clients,
        containers=subset.containers,
        schema=schema.shard_schema(
            subset.classes,
            multi_label=subset.multi_label,
            fine=subset.fine.classes if subset.fine else (),
            unknown=subset.unknown > 0,
        ),
    )
    mean = _mean_bytes(subset)
    packed = recipe.layout.packed(len(subset.clients))
    files = shards.file_names(subset.clients)
    jobs: list[shards.Job] = []
    for code, split in enumerate(subset.split_names):
        begin, end = np.searchsorted(splits, [code, code + 1]).tolist()
        starts = np.flatnonzero(np.diff(owner[begin:end], prepend=-1))  # where each client's rows begin
        if packed:
            starts = _packs(starts, end - begin, recipe.layout.shard_bytes // mean)
        for number, (first, last) in enumerate(pairwise([*(begin + starts).tolist(), end])):
            file = shards.packed_name(split, number, len(starts)) if packed else files[owner[first]]
            jobs.append(shards.Job(f"{subset.name}/{split}/{file}.parquet", split, first, last - first))
    most = recipe.layout.row_group_bytes
    return rows, jobs, shards.WriteOptions(max(1, most // mean), most, recipe.on_bad_image)


def _packs(starts: NDArray[np.int64], total: int, most: int) -> NDArray[np.int64]:
    """Where packed shards begin: whole clients together until ``most`` rows are reached."""
    packs: list[int] = []
    for start, end in pairwise([*starts, total]):
        if not packs or end - packs[-1] > most:
            packs.append(int(start))
    return np.array(packs, np.int64)


def _mean_bytes(subset: PlannedSubset) -> int:
    """Mean image size, from a few short runs of images."""
    n = subset.table.num_rows
    picks = np.unique(np.concatenate([np.arange(s, min(s + 8, n)) for s in np.linspace(0, n - 1, 4).astype(int)]))
    runs = np.split(picks, np.flatnonzero(np.diff(picks) > 1) + 1)
    places = subset.table.select(["key", "origin"])
    read = [shards.read(places.slice(int(run[0]), len(run)), subset.containers) for run in runs]
    return max(1, int(np.mean([len(data) for run in read for data in run])))


def _key(planned: Planned) -> dict[str, Any]:
    """Everything the bytes of a build depend on: an interrupted build is resumed only if none of it changed."""
    recipe = hashlib.sha256(json.dumps(encode(planned.recipe), sort_keys=True).encode()).hexdigest()
    return {"plan": planned.digest, "recipe": recipe, "sources": planned.stamp, "writer": writer(planned.plugins)}
