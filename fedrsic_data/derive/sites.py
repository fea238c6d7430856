"""Splits a built dataset into a folder for each client, which goes to that client's site.

Each folder is a whole dataset with the label space of all clients. None of them repeats facts of the dataset as a
whole (rows moved, images left out). One more folder, ``server``, tells a server the clients, their rows, and how
frequent fine labels are among all clients; it holds neither images nor any client's labels.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedrsic_data import seeds
from fedrsic_data.build import card, shards, workspace
from fedrsic_data.build.finish import file_entry, write_small
from fedrsic_data.build.verify import verify
from fedrsic_data.build.workspace import place
from fedrsic_data.dataset import manifest, schema, skew, unknown
from fedrsic_data.dataset.manifest import CARD, CLIENTS, PLAN, Manifest, Plan, Shard, SubsetEntry
from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.dataset.recipe import SCHEMA
from fedrsic_data.dataset.schema import TRAIN, repeated
from fedrsic_data.errors import OutputError, UsageError, VerificationError, translated
from fedrsic_data.files.atomic import file_digest
from fedrsic_data.settings import at_least

SERVER = "server"
_ABSENT = ("file", "row_group", "row_groups", "bytes", "labels", "counts", "domains", "domain_counts")


@dataclass(frozen=True)
class SiteFolder:
    """A folder that was written: its name, its clients, rows of all splits, and the digest of its manifest."""

    name: str
    clients: tuple[str, ...]
    rows: int
    digest: str


def split(
    path: Path, out: Path, *, group: int = 1, progress: Callable[[int, int], None] | None = None
) -> tuple[SiteFolder, ...]:
    """Writes a folder for each client, or for each few of them, and one for the server.

    All of them appear at once, when they are whole. An interrupted call leaves nothing but ``<out>.incomplete``, which
    the next one replaces; what is finished already is compared with what would be written, and left alone.

    Args:
        path: A built ``manifest.json`` or its folder.
        out: The folder to make.
        group: Clients in a folder.
        progress: Called with ``(sites written, total sites)``.

    Raises:
        VerificationError: The dataset is damaged.
        ManifestError: It says who has which image, without the images.
        OutputError: The folder is there already, or cannot be written.
        UsageError: ``group`` is below 1, ``out`` is an address, or the dataset is the server's part of another.
    """
    at_least("--group", group, 1)
    given, out = out, place(out)
    _, problems = verify(path)
    if problems:
        raise VerificationError(f"{path}: {problems[0].file} {problems[0].words}; build it again before handing it out")
    dataset = Dataset(path)
    dataset.check_images()
    if any(entry.withheld for entry in dataset.manifest.subsets.values()):
        raise UsageError(f"{path}: holds no images; split the dataset that has them")
    if out.is_relative_to(os.path.realpath(dataset.folder)):
        raise OutputError(f"--out {given}: is inside the dataset, which may hold nothing else; choose another")
    clients = list(dict.fromkeys(client for name in dataset.subsets for client in dataset.subset(name).clients))
    members = [tuple(clients[first : first + group]) for first in range(0, len(clients), group)]
    names = _names(members)
    if there := _there(out) - {*names, SERVER}:
        raise OutputError(f"--out {given}: already exists and contains {sorted(there)[0]!r}; choose another --out")
    with workspace.opened(out) as work:
        work.begin({"sites": dataset.manifest.digest, "group": group}, resume=False)
        written = tuple(_written(dataset, work, dict(zip(names, members, strict=True)), progress))
        differing = _differing(work.folder, out) if _there(out) else ""
        if _there(out):  # an earlier call may have ended before it could say so
            work.discard()
        else:
            work.finish(path.relative_to(work.folder).as_posix() for path in work.folder.rglob("*"))
    if differing:
        raise OutputError(f"--out {given}: already exists with another {differing}; choose another --out")
    return written


def _there(out: Path) -> set[str]:
    with translated(OutputError, f"--out {out}", fix="choose another --out"):
        return set(os.listdir(out)) if out.exists() else set()


def _differing(left: Path, right: Path) -> str:
    """The first file, in order of names, that two folders do not both have with the same bytes; empty if none is."""
    names = {path.relative_to(folder).as_posix() for folder in (left, right) for path in folder.rglob("*")}
    for name in sorted(names):
        pair = left / name, right / name
        if not all(map(Path.is_dir, pair)) and not (
            all(map(Path.is_file, pair)) and file_digest(pair[0]) == file_digest(pair[1])
        ):
            return name
    return ""


def _written(
    dataset: Dataset,
    work: workspace.Workspace,
    members: Mapping[str, tuple[str, ...]],
    progress: Callable[[int, int], None] | None,
) -> Iterator[SiteFolder]:
    subsets = [dataset.subset(name) for name in dataset.subsets]
    for number, (name, own) in enumerate(members.items(), 1):
        here = [_Rows.of(subset, own) for subset in subsets if set(own) & set(subset.clients)]
        folder = _begun(work, name, (path for rows in here for path in rows.paths()))
        whole = _described(dataset, folder, [_Part(rows, folder) for rows in here])
        yield SiteFolder(name, own, sum(sum(s.rows.values()) for s in whole.subsets.values()), whole.digest)
        if progress is not None:
            progress(number, len(members))
    _described(dataset, _begun(work, SERVER, ()), [_Names(subset) for subset in subsets])


def _begun(work: workspace.Workspace, name: str, shards: Iterable[str]) -> Path:
    """The folder of a site, made, once the workspace knows what will be in it."""
    work.expect(f"{name}/{path}" for path in (manifest.NAME, PLAN, CLIENTS, CARD, *shards))
    folder = work.folder / name
    folder.mkdir()
    return folder


def _names(members: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of folders: the clients' where each has its own and all can be names of files anywhere."""
    own = [some[0] for some in members]
    if all(len(some) == 1 for some in members) and shards.are_file_names([*own, SERVER]):
        return own
    return [f"site-{number:05d}" for number in range(len(members))]


@dataclass(frozen=True)
class _Rows:
    """Some clients of a subset.

    Attributes:
        subset: All of it.
        clients: Which of its clients.
        table: Their rows of ``clients.parquet``.
        shared: Files in which other clients have rows too.
    """

    subset: Subset
    clients: tuple[str, ...]
    table: pa.Table
    shared: frozenset[str]

    @classmethod
    def of(cls, subset: Subset, clients: tuple[str, ...]) -> _Rows:
        whole = subset.client_table
        table = whole.filter(pc.is_in(whole.column("client_id"), value_set=pa.array(clients, pa.string())))
        return cls(subset, clients, table, frozenset(repeated(whole.column("file")).to_pylist()))

    def paths(self) -> list[str]:
        """Where the shards of these clients go, in the order of their rows."""
        return [self.path(row) for row in self.table.to_pylist() if row["file"] is not None]

    def path(self, row: Mapping[str, Any]) -> str:
        """Where the shard of a row of the table goes: as before, unless the file was shared."""
        if row["file"] not in self.shared:
            return str(row["file"])
        return f"{self.subset.name}/{row['split']}/client-{self.subset.clients.index(row['client_id']):05d}.parquet"


class _Part:
    """Some clients of a subset, their shards written to a folder.

    Attributes:
        name: Name of the subset.
        table: Rows of ``clients.parquet``.
        plan: Rows of ``plan.parquet``.
        entry: What the manifest says.
    """

    def __init__(self, some: _Rows, folder: Path) -> None:
        subset, plan = some.subset, some.subset.dataset.plan
        self.name = subset.name
        ids = pa.array(some.clients, pa.string())
        mine = pc.and_(pc.equal(plan.column("subset"), self.name), pc.is_in(plan.column("client_id"), value_set=ids))
        self.plan = unknown.withheld(plan.filter(mine))
        rows, files = some.table.to_pylist(), []
        for row in rows:
            if row["file"] is not None:
                packed = row["file"] in some.shared
                files.append(_shard(subset, folder, row, some.path(row), packed=packed))
                row |= {"file": files[-1].path} | ({"row_group": 0} if packed else {})
        self.table = pa.Table.from_pylist(rows, schema=schema.CLIENTS_SCHEMA)
        fine = subset.entry.fine
        self.entry = replace(
            _counted(subset, self.table, self.plan),
            duplicates=_held(subset.entry.duplicates, self.plan),
            skipped=tuple(skip for skip in subset.entry.skipped if skip.client_id in some.clients),
            shards=tuple(sorted(files, key=lambda shard: subset.splits.index(shard.split))),
            fine=replace(fine, train_counts=_fine(folder, files, len(fine.classes))) if fine else None,
        )


class _Names:
    """A subset without images: who its clients are and how many rows they have; see ``_Part``."""

    def __init__(self, subset: Subset) -> None:
        self.name = subset.name
        columns = {name: subset.client_table.column(name) for name in schema.CLIENTS_SCHEMA.names}
        for name in _ABSENT:
            kind = schema.CLIENTS_SCHEMA.field(name).type
            nothing = pa.scalar(None if name == "file" else [] if pa.types.is_list(kind) else 0, kind)
            columns[name] = pa.repeat(nothing, subset.client_table.num_rows)
        self.table = pa.table(columns, schema=schema.CLIENTS_SCHEMA)
        self.plan = subset.dataset.manifest.plan_schema.empty_table()
        self.entry = replace(
            _counted(subset, self.table, self.plan), duplicates=(), skipped=(), shards=(), fine=subset.entry.fine
        )


def _counted(subset: Subset, table: pa.Table, plan: pa.Table) -> SubsetEntry:
    """The entry of a subset with the figures of some of its clients."""
    entry = subset.entry
    sums = {row["split"]: row["rows_sum"] for row in table.group_by("split").aggregate([("rows", "sum")]).to_pylist()}
    if entry.unknown is not None:
        entry = unknown.counted(entry, plan, pc.unique(table.column("client_id")).to_pylist())
    return replace(
        entry,
        clients=pc.count_distinct(table.column("client_id")).as_py(),
        rows={split: sums[split] for split in entry.rows},
        train_counts=skew.train_counts(table, len(entry.classes)),
        moved=0,
        left_out=(),
        skew=skew.measure(
            table,
            plan if entry.multi_label else None,
            entry.classes,
            seeds.generator(subset.dataset.manifest.recipe.seed, subset.name, "skew"),
        ),
    )


def _held(groups: Sequence[tuple[str, ...]], plan: pa.Table) -> tuple[tuple[str, ...], ...]:
    """Keep the duplicate groups with more than one image here."""
    here = set(plan.column("sample_id").to_pylist()) if groups else set()
    few = [tuple(sample for sample in group if sample in here) for group in groups]
    return tuple(group for group in few if len(group) > 1)


def _shard(subset: Subset, folder: Path, row: Mapping[str, Any], path: str, *, packed: bool) -> Shard:
    """Copies a client's file, or cuts its row groups out of one that others share."""
    source = manifest.safe(subset.dataset.folder, row["file"])
    before = next(shard for shard in subset.entry.shards if shard.path == row["file"])
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if not packed:
        shutil.copyfile(source, target)
        return before
    first, count = row["row_group"], row["row_groups"]
    with pq.ParquetFile(source, pre_buffer=False) as file, target.open("xb") as opened:
        sink = shards.HashingFile(opened)
        with shards.parquet_writer(sink, subset.schema()) as writer:
            for group in range(first, first + count):
                table = file.read_row_group(group, use_threads=False).cast(subset.schema())
                writer.write_table(table, row_group_size=table.num_rows)
    return Shard(path, before.split, row["rows"], sink.bytes, sink.sha256.hexdigest())


def _fine(folder: Path, files: Sequence[Shard], classes: int) -> tuple[int, ...]:
    """Training rows of each fine class."""
    total = np.zeros(classes, np.int64)
    for shard in files:
        if shard.split == TRAIN:
            with pq.ParquetFile(folder / shard.path) as file:
                codes = file.read(columns=["fine_labels"]).column(0).combine_chunks().flatten().to_numpy()
            total += np.bincount(codes, minlength=classes)
    return tuple(total.tolist())


def _described(dataset: Dataset, folder: Path, parts: Sequence[_Part | _Names]) -> Manifest:
    """Writes plan, client table, card and, last, the manifest."""
    old = dataset.manifest
    recipe = replace(old.recipe, subsets={p.name: old.recipe.subsets[p.name] for p in parts})
    subsets = {part.name: part.entry for part in parts}
    version = manifest.version(subsets)
    columns = schema.plan_schema(unknown=version > SCHEMA)
    plans = (part.plan.select(columns.names) for part in parts)
    plan = pa.concat_tables([columns.empty_table(), *plans]).combine_chunks()
    sources = {name: old.sources[name] for s in recipe.subsets.values() for name in s.sources}
    write_small(plan, folder / PLAN)
    write_small(pa.concat_tables([part.table for part in parts]), folder / CLIENTS)
    (folder / CARD).write_text(card.render(recipe, sources, subsets), encoding="utf-8")
    file = file_entry(folder, PLAN)
    whole = manifest.sealed(
        replace(
            old,
            fedkit=version,
            recipe=recipe,
            sources=sources,
            plan=Plan(file.path, file.bytes, file.sha256, schema.content_digest(plan), plan.num_rows),
            clients=file_entry(folder, CLIENTS),
            card=file_entry(folder, CARD),
            subsets=subsets,
        )
    )
    (folder / manifest.NAME).write_text(manifest.dumps(whole), encoding="utf-8")
    return whole
