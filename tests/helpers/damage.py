"""Damage to a dataset, also such that its manifest agrees with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fedrsic_data.build.shards import parquet_writer
from fedrsic_data.build.workspace import file_digest
from fedrsic_data.dataset import manifest


def swap(one: Path, other: Path) -> None:
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def edit(change: Callable[[dict], None], *, reseal: bool = False) -> Callable[[Path], None]:
    """Edits the manifest, and with ``reseal`` makes its own digest right again."""

    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        if reseal:
            path.write_text(manifest.dumps(manifest.sealed(manifest.load(path))))

    return damage


def rewrite(name: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """Rewrites a Parquet file with other content and a manifest that agrees with its new bytes."""

    def damage(folder: Path) -> None:
        path = folder / name
        table = change(pq.read_table(path, partitioning=None))
        if "image" in table.column_names:
            with parquet_writer(path, table.schema) as writer:
                writer.write_table(table)
        else:
            pq.write_table(table, path)

        def agree(data: dict) -> None:
            entries = [data["plan"], data["clients"], *(f for s in data["subsets"].values() for f in s["shards"])]
            entry = next(e for e in entries if e["path"] == name)
            entry |= {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            if "split" in entry:
                entry["rows"] = table.num_rows

        edit(agree, reseal=True)(folder)

    return damage
