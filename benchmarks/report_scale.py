"""Size and time of a report at FLAIR's number of clients, on made tables: multi-label, Pareto sizes, no shards.

python benchmarks/report_scale.py --clients 51414
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build import finish, pipeline
from fedrsic_data.dataset import manifest, schema, skew
from fedrsic_data.sources.locate import Places
from fedtrain.report import html

CLASSES = 17


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=51_414)
    parser.add_argument("--keep", type=Path, help="where to leave the report")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset, images = made(Path(folder), arguments.clients)
        out = arguments.keep or Path(folder) / "report.html"
        begun, used = time.monotonic(), time.process_time()
        html.report([dataset], out)
        seconds, cpu = time.monotonic() - begun, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = out.stat().st_size / 1e6
        took = f"{seconds:.1f} s ({cpu:.1f} s of processor)"
        print(f"{arguments.clients:,} clients, {images:,} images: {size:.2f} MB in {took}")
        print(f"peak memory, with what made the tables: {peak:,.0f} MB")


def made(folder: Path, clients: int) -> tuple[Path, int]:
    """The manifest, client table and plan of a dataset of so many users; its shards are not there."""
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=30", "sample.size=32"])
    small = pipeline.build(
        pipeline.prepare(recipes.from_json(data, "benchmark"), Places(offline=True)), folder / "small"
    ).path
    entry = manifest.load(small)
    (name,) = entry.subsets
    rng = np.random.default_rng(0)
    sizes = np.minimum(1 + (2.2 * rng.pareto(1.1, clients)).astype(int), 400)
    owner = np.repeat(np.arange(clients), sizes)
    taste = rng.dirichlet(np.full(CLASSES, 0.3), clients)
    times = rng.integers(1, 5, len(owner))
    row = np.repeat(np.arange(len(owner)), times)
    label = (taste[owner[row]].cumsum(axis=1) > rng.random((len(row), 1))).argmax(axis=1)
    pairs = np.unique(row * CLASSES + label)  # a label once per image
    row, label = np.divmod(pairs, CLASSES)
    names, ids = entry.subsets[name].classes, np.array([f"{72_000_000 + 13 * i}@N00" for i in range(clients)])
    offsets = np.concatenate([[0], np.bincount(row, minlength=len(owner)).cumsum()])
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.array(names)[label]))
    nothing = pa.nulls(len(owner), pa.string())
    plan = {"subset": [name] * len(owner), "sample_id": [f"{i:06d}" for i in range(len(owner))], "group": nothing}
    plan |= {"labels": lists, "fine_labels": pa.nulls(len(owner), pa.list_(pa.string()))}
    plan |= {"domain": ["flickr"] * len(owner), "split": ["train"] * len(owner), "client_id": ids[owner]}
    pq.write_table(pa.table(plan, schema=schema.PLAN_SCHEMA), folder / "plan.parquet")
    counts = np.bincount(owner[row] * CLASSES + label, minlength=clients * CLASSES).reshape(clients, CLASSES)
    pq.write_table(client_table(name, ids, sizes, counts), folder / "clients.parquet")
    measured = skew.measure_counts(counts, sizes[:, None], rng)
    subset = replace(entry.subsets[name], clients=clients, rows={"train": len(owner)}, skew=measured, shards=())
    plan_file, clients_file = (finish.file_entry(folder, file) for file in ("plan.parquet", "clients.parquet"))
    entry = replace(entry, subsets={name: subset}, plan=replace(entry.plan, **vars(plan_file)), clients=clients_file)
    (folder / manifest.NAME).write_text(manifest.dumps(entry), "utf-8")
    assert fedrsic_data.open(folder).subset(name).clients[0] == ids[0]
    return folder, len(owner)


def client_table(name: str, ids: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> pa.Table:
    held = [np.flatnonzero(row) for row in counts]
    zeros = np.zeros(len(ids), np.int32)
    columns = {"subset": [name] * len(ids), "client_id": ids, "split": ["train"] * len(ids)}
    columns |= {"file": pa.nulls(len(ids), pa.string()), "row_group": zeros, "row_groups": zeros, "rows": sizes}
    columns |= {"bytes": sizes, "labels": held, "counts": [row[at] for row, at in zip(counts, held, strict=True)]}
    columns |= {"domains": [["flickr"]] * len(ids), "domain_counts": [[n] for n in sizes]}
    return pa.table(columns, schema=schema.CLIENTS_SCHEMA)


if __name__ == "__main__":
    main()
