"""Plan and export of federations beside flwr-datasets and FedLab: same rows, same run, same machine.

    python benchmarks/partition.py                          # 50k, 500k and 1M rows x 100, 1,000 and 10,000 clients
    python benchmarks/partition.py --quick                  # 50k rows x 100 clients
    python benchmarks/partition.py --skip-other --env DIR   # fedkit alone; DIR keeps the other sides' environments

Rows are synthetic: Parquet with unique JPEG files of about 1 KiB and 100 classes, owners drawn by a Dirichlet
with alpha 0.5. Every cell is a separate process. Plan is everything up to the owner of every row, labels read
from Parquet included; export is every client's rows written to Parquet. fedkit checks every image and digests
every byte as ``build`` does; flwr-datasets writes ``load_partition(k).to_parquet(...)`` for every client, from a
cache that is filled before the clock starts; FedLab draws owners and has no export.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "partition.md"
ROWS, CLIENTS = (50_000, 500_000, 1_000_000), (100, 1_000, 10_000)
CLASSES, LABELS, ALPHA = 100, 80, 0.5
PLAN_CLIENTS = 1_000

FEDKIT, FLWR, FEDLAB = "fedkit", "flwr-datasets", "FedLab"
PACKAGES = {FLWR: ["flwr-datasets"], FEDLAB: ["numpy", "pandas", "pyarrow"]}
MODULE = "fedlab/utils/dataset/functional.py"  # all of FedLab's label partitioners; needs no torch

PLAN_GATE_S, QUOTA_GATE_S, RATE_GATE, MEMORY_GATE_MB = 1.0, 10.0, 12.0, 700.0

# A partitioner's settings, and what it reads beside labels.
PARTITIONERS: dict[str, dict[str, Any]] = {
    "iid": {},
    "dirichlet": {"alpha": ALPHA},
    "dirichlet (balance)": {"alpha": ALPHA, "balance": True},
    "dirichlet-client": {"alpha": ALPHA},
    "pachinko": {"alpha": ALPHA},
    "pathological": {"classes_per_client": 2},
    "class-blocks": {"classes_per_client": 2},
    "shards": {"shards_per_client": 2},
    "ext-dirichlet": {"classes_per_client": 2, "alpha": ALPHA},
    "quantity": {},
    "domain": {"mix": 0.5},
    "natural": {},
    "skew": {"sizes": "lognormal", "alpha": ALPHA, "domain_mix": 0.5},
    "assigned": {"path": "owners.parquet"},
    "label-set": {"alpha": ALPHA},
    "cluster": {"alpha": ALPHA, "path": "embeddings.npy"},
}
READS = {
    "domain": "3 domains",
    "natural": "5,000 users",
    "pachinko": "3 domains",
    "skew": "3 domains",
    "assigned": "a file of owners",
    "cluster": "a file of embeddings, 16 floats a row",
}
EMBEDDED = ("cluster",)  # clusters embeddings, not labels: timed, and no part of the gate

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A measurement of one process.

    Attributes:
        task: A key of ``TASKS``.
        source: The Parquet file with the rows.
        folder: Where to write.
        clients: Number of clients.
        limit: Seconds after which an export stops, and after which a plan is given up.
        settings: Of the partitioner.
        reader: ``columns``: labels as Arrow columns. ``classfolders``: as the sources with a folder a class do.
    """

    task: str
    source: str
    folder: str
    clients: int = 0
    limit: float = math.inf
    settings: dict[str, Any] = field(default_factory=dict)
    reader: str = "columns"


# -- rows ----------------------------------------------------------------------------------------------------------


def jpegs(count: int = 200) -> list[bytes]:
    """Small pictures, all different."""
    import io

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        file = io.BytesIO()
        pixels = np.kron(rng.integers(0, 255, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(pixels).save(file, "JPEG", quality=50)
        files.append(file.getvalue())
    return files


def unique(jpeg: bytes, noise: bytes) -> bytes:
    """The picture with a comment segment of random bytes, so that no two files are equal."""
    return jpeg[:2] + b"\xff\xfe" + (len(noise) + 2).to_bytes(2) + noise + jpeg[2:]


def write_rows(job: Job) -> Result:
    """Image rows in the layout of the Hub, in random order of classes; ``clients`` is the number of rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(1)
    pictures = jpegs()
    features = {
        "image": {"_type": "Image"},
        "label": {"names": [f"class-{c:02d}" for c in range(CLASSES)], "_type": "ClassLabel"},
        "sample_id": {"dtype": "string", "_type": "Value"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), ("label", pa.int64()), ("sample_id", pa.string())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    size = 0
    with pq.ParquetWriter(job.source, schema) as writer:
        for start in range(0, job.clients, 10_000):
            rows = range(start, min(start + 10_000, job.clients))
            bases = [pictures[p] for p in rng.integers(0, len(pictures), len(rows))]
            files = [unique(base, rng.bytes(1020 - len(base))) for base in bases]
            size += sum(map(len, files))
            names = pa.array([f"{row:07d}.jpg" for row in rows])
            images = pa.StructArray.from_arrays([pa.array(files, pa.binary()), names], fields=list(image))
            labels = pa.array(rng.integers(0, CLASSES, len(rows)))
            ids = pa.array([f"rows/{row:07d}" for row in rows])
            writer.write_table(pa.table([images, labels, ids], schema=schema))
    return {"image_bytes": size}


def write_labels(job: Job) -> Result:
    """Rows without images for plans that read more than one label; ``clients`` is the number of rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, folder, rng = job.clients, Path(job.folder), np.random.default_rng(2)
    ids = pa.array([f"rows/{row:07d}" for row in range(n)])
    label = pa.array(rng.integers(0, CLASSES, n))
    domains = pa.array([f"sensor-{d}" for d in range(3)]).take(pa.array(rng.choice(3, n, p=[0.5, 0.3, 0.2])))
    users = pa.array([f"user-{u:04d}" for u in range(5_000)]).take(pa.array(rng.integers(0, 5_000, n)))
    table = {"sample_id": ids, "label": label}
    pq.write_table(pa.table(table | {"domain": domains, "user": users}), folder / "domains.parquet")
    order = rng.permutation(n)
    pq.write_table(pa.table(table).take(pa.array(order)), folder / "shuffled.parquet")
    owners = pa.array([f"site-{k:04d}" for k in range(PLAN_CLIENTS)]).take(pa.array(rng.integers(0, PLAN_CLIENTS, n)))
    pq.write_table(pa.table({"sample_id": ids, "client_id": owners}), folder / "owners.parquet")
    np.save(folder / "embeddings.npy", rng.standard_normal((n, 16), np.float32))
    counts, labels = label_sets(n, rng)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    lists = pa.ListArray.from_arrays(offsets, pa.array(labels))
    pq.write_table(pa.table({"sample_id": ids, "labels": lists}), folder / "multilabel.parquet")
    return {"labels_per_row": round(len(labels) / n, 2)}


def label_sets(n: int, rng: Any) -> tuple[Any, Any]:
    """Sizes and members of label sets, end to end: about 3 labels a row, some rows without, frequencies by Zipf."""
    import numpy as np

    share = 1 / np.arange(1, LABELS + 1)
    drawn = rng.choice(LABELS, int(rng.poisson(4, n).sum()), p=share / share.sum())
    row = np.sort(rng.integers(0, n, len(drawn)))
    cell = np.unique(row * LABELS + drawn)
    return np.bincount(cell // LABELS, minlength=n), (cell % LABELS).astype(np.int64)


# -- fedkit --------------------------------------------------------------------------------------------------------


def fedkit_index(path: Path) -> Any:
    """Names and labels as Arrow columns, and the file itself to read images from."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fedrsic_data.raw.containers import ParquetContainer
    from fedrsic_data.raw.index import INDEX_SCHEMA, Index, fingerprint

    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        table = file.read([c for c in file.schema_arrow.names if c != "image"])
    n, has = table.num_rows, table.column_names
    if "label" in has:
        codes = table.column("label").cast(pa.int32()).combine_chunks()
        labels = pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32)), codes)
    else:
        labels = table.column("labels").combine_chunks().cast(pa.list_(pa.int32()))
    nothing, keys = pa.nulls(n, pa.string()), pa.array(np.arange(n)).cast(pa.string())
    columns = {
        "sample_id": table.column("sample_id"),
        "labels": labels,
        "domain": table.column("domain") if "domain" in has else pa.repeat(pa.scalar("rows"), n),
        "group": table.column("user") if "user" in has else nothing,
        "split": nothing,
        "key": keys,
        "file": keys,
    }
    stat = path.stat()
    return Index(
        table=pa.table([columns[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA),
        classes=tuple(f"class-{c:02d}" for c in range(CLASSES if "label" in has else LABELS)),
        container=ParquetContainer([path]),
        fingerprint=fingerprint([path.name, stat.st_size, stat.st_mtime_ns]),
        newest=stat.st_mtime_ns,
        multi_label="labels" in has,
    )


def classfolders_index(path: Path) -> Any:
    """The index that the sources of fedkit read from a Parquet mirror."""
    return rows_source().index(path, allow_partial=True)


def rows_source() -> Any:
    """The rows as a source like the real ones."""
    from fedrsic_data.sources import Facts
    from fedrsic_data.sources.base import ClassFolders

    names = tuple(f"class-{c:02d}" for c in range(CLASSES))
    return ClassFolders("rows", names, 10**9, Facts("synthetic rows", "", "none", "", "", redistributable=True))


def fedkit_recipe(settings: dict[str, Any]) -> Any:
    """A resolved recipe over the rows."""
    from fedrsic_data import recipes
    from fedrsic_data.dataset import recipe
    from fedrsic_data.recipes.resolve import resolve
    from fedrsic_data.sources import SOURCES

    SOURCES["rows"] = rows_source()  # recipes name registered sources
    subset = {"sources": ["rows"], "class_names": "native"}
    data = {"fedkit": recipe.SCHEMA, "name": "rows", "subsets": {"rows": subset}, "splits": {}, "partition": settings}
    return resolve(recipes.from_json(data, "benchmark"))


def fedkit_plan(job: Job) -> tuple[Any, Result]:
    """A drawn plan, with its table and digest, and the seconds that it and each of its steps took."""
    import numpy as np
    import pyarrow as pa

    from fedrsic_data.build import pipeline, plan
    from fedrsic_data.dataset.manifest import SourceEntry

    resolved, source = fedkit_recipe(job.settings), Path(job.source)
    wanted, partitioner = resolved.recipe, resolved.partitioners["rows"]
    pa.array(np.zeros(1))  # the first of them imports pandas, which is no part of a plan
    took: dict[str, float] = {}
    read = classfolders_index if job.reader == "classfolders" else fedkit_index
    cpu = time.process_time()

    def step(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        answer = function(*arguments)
        took[name] = time.perf_counter() - start
        return answer

    index = step("labels", read, source)
    merged = step("merge", plan.merge, wanted.subsets["rows"], [index])
    divided = step("divide", plan.divide, wanted, "rows", partitioner, merged)
    entry = SourceEntry("synthetic rows", "", "none", "", True, index.table.num_rows, ())
    stamps = index.fingerprint, index.newest
    planned = step(
        "digest", pipeline.Planned.of, wanted, {"rows": entry}, [divided], *stamps, [source], resolved.plugins
    )
    return planned, {"plan_s": sum(took.values()), "plan_cpu_s": time.process_time() - cpu, "steps": took}


def fedkit_cell(job: Job) -> Result:
    from fedrsic_data.build import pipeline

    planned, took = fedkit_plan(job)
    start, cpu = time.perf_counter(), time.process_time()
    pipeline.build(planned, Path(job.folder) / "out")
    export = {"export_s": time.perf_counter() - start, "export_cpu_s": time.process_time() - cpu}
    shards = list((Path(job.folder) / "out" / "rows").rglob("*.parquet"))
    return {**took, **export, **peak(), **written(job, shards)}


def fedkit_partitioner(job: Job) -> Result:
    planned, took = fedkit_plan(job)
    left = int((planned.subsets[0].owner < 0).sum())
    return {**took, "rows": planned.table.num_rows, "left_out": left, **peak()}


# -- the others ----------------------------------------------------------------------------------------------------


def flwr_load(source: str) -> Any:
    from datasets import load_dataset

    return load_dataset("parquet", data_files=source, split="train")


def flwr_warm(job: Job) -> Result:
    return {"rows": len(flwr_load(job.source))}


def flwr_cell(job: Job) -> Result:
    from flwr_datasets.partitioner import DirichletPartitioner

    folder = Path(job.folder) / "out"
    folder.mkdir()
    start = time.perf_counter()
    partitioner = DirichletPartitioner(
        num_partitions=job.clients, partition_by="label", alpha=ALPHA, min_partition_size=0
    )
    partitioner.dataset = flwr_load(job.source)
    partitioner.load_partition(0)  # draws all of them
    planned, cpu = time.perf_counter(), time.process_time()
    done = 0
    while done < job.clients and time.perf_counter() - planned < job.limit:
        mine = partitioner.load_partition(done)
        if len(mine):  # to_parquet divides by the number of rows
            mine.to_parquet(str(folder / f"client-{done:05d}.parquet"))
        done += 1
    export = {"export_s": time.perf_counter() - planned, "export_cpu_s": time.process_time() - cpu}
    shards = list(folder.iterdir())
    return {"plan_s": planned - start, **export, "done": done, **peak(), **written(job, shards)}


def fedlab_cell(job: Job) -> Result:
    import pyarrow.parquet as pq

    functional = fedlab_functions(job.settings["module"])
    start = time.perf_counter()
    labels = pq.read_table(job.source, columns=["label"]).column("label").to_numpy()
    functional.hetero_dir_partition(labels, job.clients, CLASSES, ALPHA, min_require_size=1)
    return {"plan_s": time.perf_counter() - start, **peak()}


def fedlab_functions(path: str) -> Any:
    """FedLab's module of partitioners, without the rest of the package."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("functional", path)
    assert spec is not None
    assert spec.loader is not None
    functional = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(functional)
    return functional


# -- one process ---------------------------------------------------------------------------------------------------


def peak() -> Result:
    """Peak resident memory of this process and of its largest child."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return {"peak_MB": max(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024 / 1e6}


def written(job: Job, shards: Sequence[Path]) -> Result:
    """The contents of the files, read after the clock stopped."""
    import pyarrow.parquet as pq

    files = [path for path in (Path(job.folder) / "out").rglob("*") if path.is_file()]
    rows = sum(pq.read_metadata(path).num_rows for path in shards)
    return {"rows": rows, "files": len(files), "bytes": sum(path.stat().st_size for path in files)}


TASKS: dict[str, Callable[[Job], Result]] = {
    "rows": write_rows,
    "labels": write_labels,
    FEDKIT: fedkit_cell,
    "plan": fedkit_partitioner,
    "warm": flwr_warm,
    FLWR: flwr_cell,
    FEDLAB: fedlab_cell,
}


def run(job: Job, python: str = sys.executable, cache: Path | None = None, script: Path = Path(__file__)) -> Result:
    """The job in a separate process; a dictionary with ``error`` if it fails or takes far too long."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    environment = {**os.environ, **offline, "PYTHONPATH": str(ROOT) if python == sys.executable else ""}
    if cache is not None:
        environment["HF_HOME"] = str(cache)
    command = [python, "-W", "ignore", str(script.resolve()), "--worker", json.dumps(dataclasses.asdict(job))]
    load, limit = round(os.getloadavg()[0], 2), None if math.isinf(job.limit) else 2 * job.limit + 120
    shutil.rmtree(Path(job.folder) / "out", ignore_errors=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=job.folder, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {limit:.0f} s", "load": load}
    finally:
        shutil.rmtree(Path(job.folder) / "out", ignore_errors=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"error": lines[-1][:200], "load": load}
    return {**json.loads(done.stdout.splitlines()[-1]), "load": load}


# -- environments --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    """Another library in a separate environment: its interpreter, and versions; or why it is not there."""

    python: str = ""
    versions: str = ""
    reason: str = ""
    module: str = ""


def install(side: str, folder: Path) -> Other:
    """Installs a library, or finds it installed by an earlier run."""
    home = folder / side.lower()
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    try:
        if not (home / "complete").exists():
            venv.create(home, with_pip=True, clear=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *PACKAGES[side]], check=True, capture_output=True, text=True)
            if side == FEDLAB:  # its dependencies are torch and more, which its partitioners do not use
                subprocess.run([*pip, "--no-deps", "fedlab"], check=True, capture_output=True, text=True)
            (home / "complete").touch()
    except subprocess.CalledProcessError as error:
        line = (error.stderr or "").strip().splitlines() or ["pip failed"]
        return Other(reason=f"cannot be installed from the package index ({line[-1][:160]})")
    except OSError as error:
        return Other(reason=f"no environment can be made ({error.strerror})")
    module = next((str(path) for path in home.rglob(MODULE)), "")
    if side == FEDLAB and not module:
        return Other(reason=f"this release has no {MODULE}")
    return Other(str(python), versions(str(python), [side.lower(), "datasets", "pyarrow", "numpy"]), "", module)


def versions(python: str, packages: Sequence[str]) -> str:
    """Name and version of those packages that an interpreter has."""
    code = (
        "import sys, importlib.metadata as m\n"
        "have = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(', '.join(f'{p} {have[p]}' for p in sys.argv[1:] if p in have))"
    )
    return subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True).stdout.strip()


# -- the whole run -------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """Everything measured so far.

    Attributes:
        machine: In general words.
        notes: Sides that were skipped, and why.
        cells: One result a side, rows and clients.
        plans: One result a partitioner.
    """

    machine: dict[str, str]
    notes: list[str] = field(default_factory=list)
    cells: list[Result] = field(default_factory=list)
    plans: list[Result] = field(default_factory=list)

    def find(self, side: str, rows: int, clients: int) -> Result | None:
        """A cell that has been measured."""
        wanted = {"side": side, "n": rows, "clients": clients}
        return next((c for c in self.cells if wanted.items() <= c.items() and "error" not in c), None)


def machine() -> dict[str, str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        FEDKIT: versions(sys.executable, ["fedrsic", "pyarrow", "numpy"]),
    }


def others(arguments: argparse.Namespace, folder: Path, report: Report) -> dict[str, Other]:
    """The sides that could be installed; reasons for the rest go to the report."""
    if arguments.skip_other:
        report.notes.append("other sides: skipped by --skip-other")
        return {}
    found = {}
    for side in (FLWR, FEDLAB):
        other = install(side, arguments.env or folder / "environments")
        if other.reason:
            report.notes.append(f"{side}: skipped, {other.reason}")
            print(report.notes[-1], flush=True)
        else:
            found[side] = other
            report.machine[side] = other.versions
    return found


def cells(
    arguments: argparse.Namespace, folder: Path, report: Report, sides: dict[str, Other], save: Callable[[], None]
) -> None:
    """All sides, one after the other, for every size."""
    print(row_text(CELL_HEAD), flush=True)
    for n in arguments.rows:
        source = folder / f"rows-{n}.parquet"
        made = run(Job("rows", str(source), str(folder), n))
        if "error" in made:
            raise SystemExit(f"rows cannot be written: {made['error']}")
        cache = folder / "cache"
        if FLWR in sides:
            run(Job("warm", str(source), str(folder)), sides[FLWR].python, cache)
        for clients in arguments.clients:
            for side in (*sides, FEDKIT):  # fedkit last: its row names the ratio
                settings: dict[str, Any] = {}
                if side == FEDKIT:
                    settings = {"name": "dirichlet", "clients": clients, "alpha": ALPHA, "min_size": 0}
                elif side == FEDLAB:
                    settings = {"module": sides[side].module}
                # FedLab draws again until no client is empty, which may be never; given up after 3 minutes
                limit = min(arguments.limit, 30) if side == FEDLAB else arguments.limit
                job = Job(side, str(source), str(folder), clients, limit, settings)
                python = sides[side].python if side in sides else sys.executable
                cell = {"side": side, "n": n, "clients": clients, **run(job, python, cache)}
                report.cells.append(cell)
                print(row_text(cell_row(report, cell)), flush=True)
                save()
        shutil.rmtree(cache, ignore_errors=True)
        if n != max(arguments.rows):
            source.unlink()


def plans(arguments: argparse.Namespace, folder: Path, report: Report, save: Callable[[], None]) -> None:
    """Every partitioner at the largest number of rows."""
    n = max(arguments.rows)
    image_rows = folder / f"rows-{n}.parquet"
    made = run(Job("labels", "", str(folder), n))
    if "error" in made:
        raise SystemExit(f"rows cannot be written: {made['error']}")
    print("\n" + row_text(PLAN_HEAD), flush=True)
    for title, kind, job in plan_jobs(folder, image_rows, n):
        result = {"partitioner": title, "kind": kind, "n": n, **min_of(job, arguments.repeats)}
        report.plans.append(result)
        print(row_text(plan_row(result)), flush=True)
        save()


def plan_jobs(folder: Path, image_rows: Path, n: int) -> list[tuple[str, str, Job]]:
    """Title, kind and job of every plan; the gates are about ``label`` and ``quota``."""
    few = min(PLAN_CLIENTS, n // 2)

    def job(source: Path, name: str, settings: dict[str, Any], clients: int | None = few, **more: Any) -> Job:
        counted = {} if clients is None else {"clients": clients}
        return Job("plan", str(source), str(folder), settings={"name": name, **counted, **settings}, **more)

    jobs = []
    for title, settings in PARTITIONERS.items():
        name = title.partition(" ")[0]
        source = folder / "domains.parquet" if name in ("domain", "natural", "skew") else image_rows
        clients = None if name == "assigned" else few
        jobs.append((title, "read" if name in EMBEDDED else "label", job(source, name, settings, clients)))
    drawn = {"alpha": ALPHA}
    for clients in (100, 10_000):
        title = f"dirichlet, {clients:,} clients"
        jobs.append((title, "label", job(image_rows, "dirichlet", drawn, clients)))
    mixed = folder / "shuffled.parquet"
    jobs.append(("dirichlet, ids in random order", "order", job(mixed, "dirichlet", drawn)))
    by_source = job(image_rows, "dirichlet", drawn, reader="classfolders")
    jobs.append(("dirichlet, via ClassFolders", "reader", by_source))
    jobs.append((f"dirichlet, {LABELS} labels", "quota", job(folder / "multilabel.parquet", "dirichlet", drawn)))
    return jobs


def min_of(job: Job, repeats: int) -> Result:
    """The fastest of a few runs."""
    return min((run(job) for _ in range(repeats)), key=lambda result: result.get("plan_s", math.inf))


# -- words ---------------------------------------------------------------------------------------------------------

CELL_HEAD = (
    "rows", "clients", "side", "plan s", "export s", "CPU s", "rows/s", "peak MB", "written MB", "files",
    "to flwr's", "load", "remarks",
)  # fmt: skip
PLAN_HEAD = ("partitioner", "plan s", "CPU s", "labels", "merge", "divide", "digest", "peak MB", "load", "remarks")


def total_s(cell: Result) -> float:
    """Seconds of the whole export; extrapolated over the rows where it was stopped."""
    return float(cell["export_s"]) * cell["n"] / max(cell["rows"], 1)


def cell_row(report: Report, cell: Result) -> tuple[str, ...]:
    first = (f"{cell['n']:,}", f"{cell['clients']:,}", cell["side"])
    load = str(cell["load"])
    if "error" in cell:
        return (*first, *[""] * 8, load, cell["error"])
    plan, memory = f"{cell['plan_s']:.2f}", f"{cell['peak_MB']:.0f}"
    if "export_s" not in cell:
        return (*first, plan, "", "", "", memory, "", "", "", load, "plan only")
    flwr = report.find(FLWR, cell["n"], cell["clients"])
    ratio = f"{total_s(flwr) / total_s(cell):.1f}x" if flwr and cell["side"] == FEDKIT else ""
    remark = "" if cell["rows"] == cell["n"] else f"LOST ROWS: {cell['rows']:,}"
    mark = ""
    if cell.get("done", cell["clients"]) < cell["clients"]:
        mark = "~"
        remark = f"stopped at {cell['export_s']:.0f} s: {cell['done']:,} clients measured, total extrapolated by rows"
    rate = f"{cell['n'] / total_s(cell):,.0f}"
    size = f"{cell['bytes'] / 1e6:,.0f}"
    export = f"{mark}{total_s(cell):.1f}"
    cpu = f"{cell['export_cpu_s']:.1f}"
    return (*first, plan, export, cpu, rate, memory, size, f"{cell['files']:,}", ratio, load, remark)


def plan_row(result: Result) -> tuple[str, ...]:
    if "error" in result:
        return (result["partitioner"], *[""] * 7, str(result["load"]), result["error"])
    steps = [f"{result['steps'][name]:.2f}" for name in ("labels", "merge", "divide", "digest")]
    remarks = [f"reads {READS[result['partitioner']]}"] if result["partitioner"] in READS else []
    remarks += [] if result["kind"] in ("label", "quota") else ["no gate"]
    last = (f"{result['peak_MB']:.0f}", str(result["load"]), "; ".join(remarks))
    return (result["partitioner"], f"{result['plan_s']:.2f}", f"{result['plan_cpu_s']:.2f}", *steps, *last)


def row_text(columns: Sequence[str]) -> str:
    widths = [30, *[7] * 8, 0] if len(columns) == len(PLAN_HEAD) else [9, 7, 13, *[10] * 9, 0]
    return "  ".join(f"{text:{width}}" for text, width in zip(columns, widths, strict=True)).rstrip()


def gates(report: Report) -> list[str]:
    """The promises, held or not; those whose cells were not run say so."""
    return [_plan_gate(report), _quota_gate(report), _rate_gate(report), _memory_gate(report)]


def gate(held: bool | None, text: str, facts: str) -> str:
    return f"{'NOT RUN' if held is None else 'PASS' if held else 'FAIL'}  {text}: {facts}"


def _plan_gate(report: Report) -> str:
    most = max(ROWS)
    found = [p for p in report.plans if p["kind"] == "label" and p["n"] == most]
    timed = {p["partitioner"]: p.get("plan_s", math.inf) for p in found}
    text = f"plan of {most:,} single-label rows in at most {PLAN_GATE_S:g} s"
    if not timed:
        return gate(None, text, "needs the full number of rows")
    over = {name: t for name, t in timed.items() if t > PLAN_GATE_S}
    slowest = max(timed, key=lambda name: timed[name])
    facts = f"slowest of {len(timed)}: {slowest}, {timed[slowest]:.2f} s"
    return gate(not over, text, facts + (f"; over: {', '.join(over)}" if over else ""))


def _quota_gate(report: Report) -> str:
    text = f"quota plan of {max(ROWS):,} rows x {LABELS} labels x {PLAN_CLIENTS:,} clients in {QUOTA_GATE_S:g} s"
    found = [p for p in report.plans if p["kind"] == "quota" and p["n"] == max(ROWS)]
    if not found:
        return gate(None, text, "needs the full number of rows")
    seconds = found[0].get("plan_s", math.inf)
    return gate(seconds <= QUOTA_GATE_S, text, f"{seconds:.2f} s")


def _rate_gate(report: Report) -> str:
    text = f"export at {RATE_GATE:g} times the rate of {FLWR} at {max(ROWS):,} x {PLAN_CLIENTS:,}"
    own, other = (report.find(side, max(ROWS), PLAN_CLIENTS) for side in (FEDKIT, FLWR))
    if own is None or other is None:
        return gate(None, text, "needs both sides at that size")
    ratio = total_s(other) / total_s(own)
    return gate(ratio >= RATE_GATE, text, f"{ratio:.1f} times ({total_s(own):.1f} s and {total_s(other):.1f} s)")


def _memory_gate(report: Report) -> str:
    text = f"peak memory at most {MEMORY_GATE_MB:g} MB at every size"
    own = [c for c in report.cells if c["side"] == FEDKIT]
    if not own:
        return gate(None, text, "no cell was run")
    worst = max(own, key=lambda c: c.get("peak_MB", math.inf))
    most = worst.get("peak_MB", math.inf)
    return gate(most <= MEMORY_GATE_MB, text, f"{most:.0f} MB at {worst['n']:,} x {worst['clients']:,}")


def markdown(report: Report) -> str:
    loads = [r["load"] for r in (*report.cells, *report.plans)] or [0.0]
    parts = [
        "# Plan and export beside other libraries",
        "Written by `benchmarks/partition.py`; what is measured, and how, is in `benchmarks/README.md`.",
        "\n".join(f"- {name}: {words}" for name, words in report.machine.items())
        + f"\n- load when a cell started: {min(loads):g} to {max(loads):g}",
    ]
    parts += ["\n".join(f"- {note}" for note in report.notes)] if report.notes else []
    parts += ["## Gates", "\n".join(f"- {line}" for line in gates(report))]
    parts += ["## Dirichlet, alpha 0.5, 100 classes", grid(CELL_HEAD, [cell_row(report, c) for c in report.cells])]
    if report.plans:
        n = report.plans[0]["n"]
        title = f"## fedkit's plan of {n:,} rows for {min(PLAN_CLIENTS, n // 2):,} clients"
        parts += [title, grid(PLAN_HEAD, [plan_row(p) for p in report.plans])]
    return "\n\n".join(parts) + "\n"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--quick", action="store_true", help="50k rows x 100 clients; writes no Markdown")
    parser.add_argument("--skip-other", action="store_true", help="fedkit alone")
    parser.add_argument("--skip-plans", action="store_true", help="no table of partitioners")
    parser.add_argument("--limit", type=float, default=600, help="seconds for an export of another side")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each plan, of which the best counts")
    parser.add_argument("--env", type=Path, help="keep the other sides' environments here")
    parser.add_argument("--data", type=Path, help="where rows and exports are written; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="all numbers")
    parser.add_argument("--markdown", type=Path, default=RESULTS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.clients = [min(ROWS)], [min(CLIENTS)]
    return arguments


def main() -> None:
    arguments = parsed()
    if arguments.worker:
        job = Job(**json.loads(arguments.worker))
        print(json.dumps(TASKS[job.task](job)))
        return
    report = Report(machine())

    def save() -> None:
        if arguments.json:
            facts = {**dataclasses.asdict(report), "gates": gates(report)}
            arguments.json.write_text(json.dumps(facts, indent=1) + "\n")
        if not arguments.quick:
            arguments.markdown.write_text(markdown(report))

    if arguments.data is not None:
        arguments.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.data) as folder:
        place = Path(folder).resolve()
        sides = others(arguments, place, report)
        cells(arguments, place, report, sides, save)
        if not arguments.skip_plans:
            plans(arguments, place, report, save)
    save()
    print("\n" + "\n".join([*report.notes, *gates(report)]))


if __name__ == "__main__":
    main()
