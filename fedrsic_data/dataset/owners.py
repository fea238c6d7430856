"""Check that a shard holds the images of plan and client table, which digests alone cannot show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedrsic_data.dataset import schema
from fedrsic_data.dataset.manifest import Manifest, Shard

COLUMNS = ("subset", "split", "client_id", "sample_id")
"""Columns of the plan that are needed."""


class Owners:
    """The images of each client by the plan, and where they are by the client table."""

    def __init__(self, built: Manifest, plan: pa.Table, clients: pa.Table) -> None:
        """Sorts a plan by its owners.

        Args:
            built: The manifest.
            plan: Its plan, ``COLUMNS`` of it.
            clients: Its client table.
        """
        skipped = [skip.sample_id for subset in built.subsets.values() for skip in subset.skipped]
        held = pc.is_valid(plan.column("client_id"))
        if skipped:
            held = pc.and_(held, pc.invert(pc.is_in(plan.column("sample_id"), value_set=pa.array(skipped))))
        owned = plan.filter(held).combine_chunks()
        codes = [owned.column(name).combine_chunks().dictionary_encode() for name in COLUMNS[:3]]
        keys = [np.asarray(one.indices.fill_null(-1)) for one in codes]
        order = np.lexsort(keys[::-1])  # in each client the order of the plan, which is that of the shards
        self._ids = owned.column("sample_id").take(pa.array(order))
        ends = np.flatnonzero(np.any([np.diff(key[order], append=-2) for key in keys], axis=0)) + 1
        texts = [one.dictionary.to_pylist() for one in codes]
        self._place: dict[tuple[str, ...], tuple[int, int]] = {}
        for begin, end in zip([0, *ends.tolist()], ends.tolist(), strict=False):
            owner = tuple(text[key[order[begin]]] for text, key in zip(texts, keys, strict=True))
            self._place[owner] = begin, end - begin
        self._in_file: dict[str, list[dict[str, Any]]] = {}
        for row in clients.select(["client_id", "file", "row_group", "row_groups", "rows"]).to_pylist():
            self._in_file.setdefault(row["file"], []).append(row)

    def differ(self, subset: str, shard: Shard, file: pq.ParquetFile) -> str:
        """In words what a shard does not hold as it should; nothing if all is right.

        Args:
            subset: Whose shard it is.
            shard: Its entry in the manifest.
            file: The shard.
        """
        rows = self._in_file.get(shard.path, [])
        for row in rows:
            if not _in_place(file.metadata, row):
                return f"does not hold {row['client_id']} where the client table says"
        places = [self._place.get((subset, shard.split, row["client_id"]), (0, 0)) for row in rows]
        clients = pa.array([row["client_id"] for row in rows], pa.string())
        told = pa.table(
            {
                "client_id": clients.take(pa.array(np.repeat(np.arange(len(rows)), [count for _, count in places]))),
                "sample_id": pa.chunked_array(
                    [chunk for begin, count in places for chunk in self._ids.slice(begin, count).chunks], pa.string()
                ),
            }
        )
        found = file.read(columns=told.column_names)
        by = [(name, "ascending") for name in told.column_names]
        same = told.num_rows == found.num_rows and (found.equals(told) or found.sort_by(by).equals(told.sort_by(by)))
        return "" if same else "holds other images, or images of other clients, than the plan says"


def _in_place(footer: pq.FileMetaData, row: dict[str, Any]) -> bool:
    """Whether the row groups that a row of the client table names are its client's, with as many rows."""
    groups = range(row["row_group"], row["row_group"] + row["row_groups"])
    if not len(groups) or groups[-1] >= footer.num_row_groups:
        return False
    return sum(footer.row_group(number).num_rows for number in groups) == row["rows"] and all(
        schema.client_of(footer, number) == row["client_id"] for number in groups
    )
