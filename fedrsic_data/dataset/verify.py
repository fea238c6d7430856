"""Check a dataset against its manifest: every file, row and number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedrsic_data import seeds
from fedrsic_data.dataset import images, manifest, schema, skew, unknown
from fedrsic_data.dataset.manifest import File, Manifest, Shard, SubsetEntry
from fedrsic_data.dataset.reader import countable
from fedrsic_data.dataset.recipe import Recipe
from fedrsic_data.dataset.schema import TRAIN
from fedrsic_data.errors import BadImageError, ManifestError
from fedrsic_data.files.atomic import file_digest


class _Stop(Exception):  # noqa: N818 - no error of the program: it carries what was found
    """A problem after which a file or subset cannot be looked at any further."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


@dataclass(frozen=True)
class Problem:
    """One thing that is not as a manifest or a seal says.

    Attributes:
        file: Relative to the folder of the dataset or run.
        words: What differs.
    """

    file: str
    words: str


@dataclass(frozen=True)
class Read:
    """A dataset whose tables can be read.

    Attributes:
        folder: Its folder.
        manifest: Its manifest.
        plan: The rows of ``schema.plan_schema``.
        clients: The rows of ``schema.CLIENTS_SCHEMA``.
        intact: The subsets whose files all have their digests.
    """

    folder: Path
    manifest: Manifest
    plan: pa.Table
    clients: pa.Table
    intact: tuple[str, ...]

    def rows(self, subset: str) -> tuple[pa.Table, pa.Table]:
        """A subset's rows of the plan and of the client table."""
        plan, clients = (t.filter(pc.equal(t.column("subset"), subset)) for t in (self.plan, self.clients))
        return plan, clients


def reread(
    path: Path,
    progress: Callable[[int, int], None] | None = None,
    also: Callable[[Read], Iterator[Problem]] = lambda _: iter(()),
) -> tuple[Manifest, list[Problem]]:
    """Read a whole dataset again: files, digests, rows, client table, metrics and images.

    Args:
        path: ``manifest.json`` or its folder.
        progress: Called with ``(bytes read, total bytes)``.
        also: Further checks of what was read; ``build.verify`` recomputes the owners.

    Returns:
        The manifest, and what is wrong; an empty list proves the dataset whole.

    Raises:
        ManifestError: There is no readable manifest to check against.
    """
    file = manifest.located(path)
    folder, built = file.parent, manifest.load(file)
    problems = list(_own(built))
    damaged, words = _files(folder, built, progress)
    problems += words
    problems += [Problem(name, "is not in the manifest") for name in strays(folder, built)]
    if not {built.plan.path, built.clients.path} & damaged:
        problems += until_stopped(_content(folder, built, damaged, also))
    return built, problems


def until_stopped(found: Iterator[Problem]) -> Iterator[Problem]:
    """Problems up to the one after which nothing more can be read."""
    try:
        yield from found
    except _Stop as stop:
        yield stop.problem


@contextmanager
def looking_at(name: str) -> Iterator[None]:
    """Report a Parquet error as a problem of the file ``name``, even if its digest agrees."""
    try:
        yield
    except (OSError, EOFError, UnicodeError, pa.ArrowException) as error:
        raise _Stop(Problem(name, f"cannot be read ({' '.join(str(error).split())})")) from None


def _own(built: Manifest) -> Iterator[Problem]:
    if manifest.digest(built) != built.digest:
        yield Problem(
            manifest.NAME,
            f"was edited after the build: its content has digest {manifest.digest(built)[:12]}..., "
            f"it says {built.digest[:12] or 'none'}...",
        )


def _files(
    folder: Path, built: Manifest, progress: Callable[[int, int], None] | None
) -> tuple[set[str], list[Problem]]:
    """Sizes and digests of all files, hashed on a few threads."""
    entries = manifest.files(built)
    total = sum(entry.bytes for entry in entries)
    owner_of = {entry.sha256: entry.path for entry in entries}
    problems: list[Problem] = []
    done = 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for entry, words in zip(entries, pool.map(lambda e: _file(folder, e, owner_of), entries), strict=True):
            if words:
                problems.append(Problem(entry.path, words))
            done += entry.bytes
            if progress is not None:
                progress(done, total)
    return {problem.file for problem in problems}, problems


def _file(folder: Path, entry: File | Shard, owner_of: dict[str, str]) -> str:
    path = manifest.safe(folder, entry.path)
    try:
        if not path.is_file():
            return "is missing"
        size, digest = path.stat().st_size, file_digest(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if digest == entry.sha256 and size == entry.bytes:
        return ""
    if digest in owner_of and digest != entry.sha256:
        return f"holds what belongs in {owner_of[digest]}"
    if size != entry.bytes:
        return f"has {size:,} bytes, the manifest says {entry.bytes:,}"
    return f"has other content: sha256 {digest[:12]}..., the manifest says {entry.sha256[:12]}..."


def strays(folder: Path, built: Manifest) -> Iterator[str]:
    """Parquet files that the manifest does not know but a reader's glob would take in, relative to the folder."""
    known = {entry.path for entry in manifest.files(built)}
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.parquet")))
    yield from (name for name in names if name not in known)


def _content(
    folder: Path, built: Manifest, damaged: set[str], also: Callable[[Read], Iterator[Problem]]
) -> Iterator[Problem]:
    plan, clients = _table(folder, built.plan.path), _table(folder, built.clients.path)
    for name, table, expected in (
        (built.plan.path, plan, built.plan_schema),
        (built.clients.path, clients, schema.CLIENTS_SCHEMA),
    ):
        if not table.schema.equals(expected):
            yield Problem(name, f"has columns {', '.join(table.schema.names)}, not those of the contract")
            return
    if schema.content_digest(plan) != built.plan.digest or plan.num_rows != built.plan.rows:
        yield Problem(built.plan.path, "does not have the content that the manifest's plan digest stands for")
    intact = tuple(n for n, s in built.subsets.items() if not {shard.path for shard in s.shards} & damaged)
    read = Read(folder, built, plan, clients, intact)
    for name in intact:
        planned, mine = read.rows(name)
        if not built.reference:
            yield from until_stopped(_subset(folder, built, name, planned, mine))
        yield from _summary(built, name, built.subsets[name], planned, mine)
    yield from also(read)


def _table(folder: Path, name: str) -> pa.Table:
    with looking_at(name), pq.ParquetFile(folder / name) as file:
        return file.read()


def _subset(folder: Path, built: Manifest, name: str, plan: pa.Table, clients: pa.Table) -> Iterator[Problem]:
    """Rows against the plan, row groups against the client table, images against the rules of a build."""
    subset = built.subsets[name]
    fine = subset.fine.classes if subset.fine else ()
    hidden = subset.unknown is not None
    expected = schema.shard_schema(subset.classes, multi_label=subset.multi_label, fine=fine, unknown=hidden)
    where = {
        (row["file"], row["client_id"]): row for row in clients.filter(pc.is_valid(clients.column("file"))).to_pylist()
    }
    read: list[pa.Table] = []
    for shard in subset.shards:
        with looking_at(shard.path), pq.ParquetFile(folder / shard.path) as file:
            if not file.schema_arrow.equals(expected, check_metadata=True):
                yield Problem(shard.path, "does not have the columns and class names of its subset")
                continue
            if file.metadata.num_rows != shard.rows:
                yield Problem(shard.path, f"has {file.metadata.num_rows} rows, the manifest says {shard.rows}")
            yield from _row_groups(shard.path, file, where, built.recipe)
            rows = file.read(columns=[name for name in expected.names if name != "image"])
            read.append(rows.append_column("split", pa.repeat(pa.scalar(shard.split), rows.num_rows)))
    if where:
        lost = next(iter(where))
        yield Problem("clients.parquet", f"says that {lost[0]} holds rows of {lost[1]}, and it does not")
    if not read:
        return
    with looking_at(name):
        yield from _against_plan(name, subset, plan, pa.concat_tables(read))


def _row_groups(
    path: str, file: pq.ParquetFile, where: dict[tuple[str, str], dict[str, object]], recipe: Recipe
) -> Iterator[Problem]:
    """Each row group one client's, and where the client table says."""
    found: dict[str, list[int]] = {}
    for group in range(file.metadata.num_row_groups):
        client = schema.client_of(file.metadata, group)
        if client is None:
            yield Problem(path, f"row group {group} holds more than one client")
            return
        found.setdefault(client, []).append(group)
    for client, groups in found.items():
        row = where.pop((path, client), None)
        rows = sum(file.metadata.row_group(g).num_rows for g in groups)
        if row is None or (row["row_group"], row["row_groups"], row["rows"]) != (groups[0], len(groups), rows):
            yield Problem(
                path, f"holds {client} in row groups {groups[0]} to {groups[-1]}, clients.parquet says otherwise"
            )
            continue
        held, damaged = 0, list[str]()
        for group in groups:
            size = _whole_images(file, group, recipe, damaged)
            if size > recipe.layout.row_group_bytes and file.metadata.row_group(group).num_rows > 1:
                yield Problem(
                    path, f"row group {group} has {size:,} bytes of images, over the recipe's row_group_bytes"
                )
            held += size
        if damaged:
            more = f", and {len(damaged) - 1:,} more images" if len(damaged) > 1 else ""
            yield Problem(path, f"an image of {client} is none that a build takes: {damaged[0]}{more}")
        if held != row["bytes"]:
            yield Problem(path, f"holds {held:,} bytes of images of {client}, clients.parquet says {row['bytes']:,}")


def _whole_images(file: pq.ParquetFile, group: int, recipe: Recipe, damaged: list[str]) -> int:
    """Bytes of the images in a row group; adds a description of each image that a build would have refused."""
    rows, held = file.read_row_group(group, columns=["image.bytes", "sample_id"]), 0
    for name, image in zip(rows.column("sample_id").to_pylist(), rows.column("image"), strict=True):
        data = image["bytes"].as_py() if image.is_valid else None
        held += len(data or b"")
        try:
            size = images.check(data, name)
        except BadImageError as error:
            damaged.append(str(error).split(";")[0])
            continue
        if recipe.sample is not None and size != (recipe.sample.size, recipe.sample.size):
            damaged.append(f"{name}: {size[0]} x {size[1]} pixels, the recipe renders {recipe.sample.size}")
    return held


def _against_plan(name: str, subset: SubsetEntry, plan: pa.Table, rows: pa.Table) -> Iterator[Problem]:
    if subset.multi_label:
        labels = _spelled(rows, "labels", subset.classes)
    else:
        values = pa.array(subset.classes, pa.string()).take(rows.column("label").combine_chunks())
        labels = pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), values)
    rows = rows.append_column("names", labels)
    columns = [("client_id", "client_id"), ("split", "split"), ("domain", "domain"), ("names", "labels")]
    if subset.fine:
        rows = rows.append_column("fine_names", _spelled(rows, "fine_labels", subset.fine.classes))
        columns.append(("fine_names", "fine_labels"))
    if subset.unknown is not None:
        rows = rows.append_column("unknown_names", _spelled(rows, "labels_unknown", subset.classes))
        columns.append(("unknown_names", "labels_unknown"))
    rows = rows.take(pc.sort_indices(rows.column("sample_id")))
    skipped = pa.array([skip.sample_id for skip in subset.skipped], pa.string())
    owned = plan.filter(pc.is_valid(plan.column("client_id")))
    owned = owned.filter(pc.invert(pc.is_in(owned.column("sample_id"), value_set=skipped)))
    ids = rows.column("sample_id")
    if not ids.equals(owned.column("sample_id")):
        twice = rows.num_rows - pc.count_distinct(ids).as_py()
        words = f"{twice} images twice" if twice else f"{rows.num_rows} images where the plan owns {owned.num_rows}"
        yield Problem(name, f"shards hold {words}, or other images than the plan says")
        return
    for ours, theirs in columns:
        if not rows.column(ours).combine_chunks().equals(owned.column(theirs).combine_chunks()):
            yield Problem(name, f"column {theirs} of the shards is not what the plan says")
    if subset.fine:
        trained = rows.filter(pc.equal(rows.column("split"), TRAIN)).column("fine_labels").combine_chunks()
        counts = np.bincount(trained.flatten().to_numpy(), minlength=len(subset.fine.classes))
        if tuple(counts.tolist()) != subset.fine.train_counts:
            yield Problem(manifest.NAME, f"fine train_counts of {name} are not those of the shards")


def _spelled(rows: pa.Table, column: str, names: Sequence[str]) -> pa.ListArray:
    lists = rows.column(column).combine_chunks()
    return pa.ListArray.from_arrays(lists.offsets, pa.array(names, pa.string()).take(lists.flatten()))


def _summary(built: Manifest, name: str, subset: SubsetEntry, plan: pa.Table, clients: pa.Table) -> Iterator[Problem]:
    """The figures in the manifest against the client table and the plan."""
    rows = clients.group_by("split").aggregate([("rows", "sum")]).to_pylist()
    if {row["split"]: row["rows_sum"] for row in rows} != subset.rows:
        yield Problem(manifest.NAME, f"rows of {name} are not those of clients.parquet")
    if pc.count_distinct(clients.column("client_id")).as_py() != subset.clients:
        yield Problem(manifest.NAME, f"clients of {name} are not those of clients.parquet")
    if not countable(clients, subset.classes):
        yield Problem(built.clients.path, f"does not fit the classes of {name}")
        return
    if skew.train_counts(clients, len(subset.classes)) != subset.train_counts:
        yield Problem(manifest.NAME, f"train_counts of {name} are not those of clients.parquet")
    if subset.unknown is not None:
        yield from _unknown(name, subset, plan, pc.unique(clients.column("client_id")).to_pylist())
    if not _as_planned(subset, plan, clients):
        yield Problem(built.clients.path, f"does not count what the plan gives the clients of {name}")
        return
    measured = skew.measure(
        clients, plan if subset.multi_label else None, subset.classes, seeds.generator(built.recipe.seed, name, "skew")
    )
    if measured != subset.skew:
        yield Problem(manifest.NAME, f"skew of {name} is not what clients.parquet gives")


def _unknown(name: str, subset: SubsetEntry, plan: pa.Table, clients: Sequence[str]) -> Iterator[Problem]:
    try:
        counted = unknown.counted(subset, plan, clients)
    except ManifestError:
        yield Problem(manifest.PLAN, f"labels_unknown has values that are no classes of {name}")
        return
    if not subset.withheld and counted.unknown != subset.unknown:
        yield Problem(manifest.NAME, f"unknown of {name} is not what the plan says")
    known = plan.filter(pc.not_equal(plan.column("split"), TRAIN)).column("labels_unknown")
    if pc.any(pc.greater(pc.list_value_length(known), 0)).as_py():
        yield Problem(manifest.PLAN, f"has unknown labels in held-out rows of {name}")


def _as_planned(subset: SubsetEntry, plan: pa.Table, clients: pa.Table) -> bool:
    """Whether the client table counts the labels and domains that the plan gives each client in each split."""
    skipped = pa.array([skip.sample_id for skip in subset.skipped], pa.string())
    whole = pc.invert(pc.is_in(plan.column("sample_id"), value_set=skipped))
    owned = plan.filter(pc.and_(pc.is_valid(plan.column("client_id")), whole))
    labels = _rows_and_values(owned, "labels")
    codes = _rows_and_values(clients, "labels")[1]
    names = pa.array(subset.classes, pa.string()).take(codes)
    domains = _rows_and_values(clients, "domains")[1]
    return bool(
        _told(clients, "counts", names).equals(_counted(*labels))
        and _told(clients, "domain_counts", domains).equals(_counted(owned, schema.whole(owned.column("domain"))))
    )


def _told(clients: pa.Table, counts: str, names: pa.Array) -> pa.Table:
    """Read a column of counts: one row per client, split and name."""
    rows, numbers = _rows_and_values(clients, counts)
    told = _sorted(rows, names, numbers)
    return told.filter(pc.greater(told.column("count"), 0))


def _counted(rows: pa.Table, names: pa.Array) -> pa.Table:
    """Count rows into the same form."""
    ones = _sorted(rows, names, pa.repeat(pa.scalar(1, pa.int64()), rows.num_rows))
    counted = ones.group_by(["client_id", "split", "name"]).aggregate([("count", "sum")])
    return _sorted(counted, counted.column("name"), counted.column("count_sum"))


def _rows_and_values(table: pa.Table, column: str) -> tuple[pa.Table, pa.Array]:
    """The values in a column of lists, and for each of them the row that it is in."""
    lists = schema.whole(table.column(column))
    return table.select(["client_id", "split"]).take(pc.list_parent_indices(lists)), pc.list_flatten(lists)


def _sorted(rows: pa.Table, names: pa.Array, counts: pa.Array) -> pa.Table:
    columns = [rows.column("client_id"), rows.column("split"), names, counts]
    made = pa.table(columns, names=["client_id", "split", "name", "count"])
    return made.sort_by([(name, "ascending") for name in made.column_names])
