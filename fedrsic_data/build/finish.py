"""Write the description of a build: plan, client table, card and manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedrsic_data import distribution, seeds
from fedrsic_data.build import card, plan, shards
from fedrsic_data.build.plan import Planned, PlannedSubset
from fedrsic_data.dataset import manifest, schema, skew, unknown
from fedrsic_data.dataset.manifest import CARD, CLIENTS, PLAN, Fine, Manifest, SourceEntry, SubsetEntry
from fedrsic_data.dataset.schema import TRAIN
from fedrsic_data.files.atomic import file_digest
from fedrsic_data.raw.index import Index
from fedrsic_data.sources.base import Facts

_ROW_GROUP = 1 << 16
_SMALL: dict[str, Any] = {"compression": "zstd", "write_page_index": True}
SAMPLE_LICENCE = "Apache-2.0, rendered by fedkit"


def describe(planned: Planned, folder: Path, receipts: Mapping[str, Sequence[shards.Receipt]]) -> Manifest:
    """Write plan, client table and card, and list them in a manifest.

    Args:
        planned: The dataset.
        folder: Folder of its shards.
        receipts: Subset -> receipts of its shards, in the order of its jobs.
    """
    recipe = planned.recipe
    clients = {s.name: _clients(s, receipts[s.name]) for s in planned.subsets}
    subsets = {s.name: _entry(planned, s, receipts[s.name], clients[s.name]) for s in planned.subsets}
    with pq.ParquetWriter(folder / PLAN, plan.columns(planned.subsets), **_SMALL) as plan_writer:
        for rows in planned.slices(_ROW_GROUP):
            plan_writer.write_table(rows, row_group_size=_ROW_GROUP)
            del rows  # before the next are made
    write_small(pa.concat_tables(clients.values()), folder / CLIENTS)
    (folder / CARD).write_text(card.render(recipe, planned.sources, subsets), encoding="utf-8")
    plan_file = file_entry(folder, PLAN)
    return manifest.sealed(
        Manifest(
            fedkit=manifest.version(subsets),
            name=recipe.name,
            recipe=recipe,
            writer=writer(planned.plugins),
            sources=dict(planned.sources),
            plan=manifest.Plan(plan_file.path, plan_file.bytes, plan_file.sha256, planned.digest, planned.rows),
            clients=file_entry(folder, CLIENTS),
            card=file_entry(folder, CARD),
            subsets=subsets,
        )
    )


def _entry(
    planned: Planned, subset: PlannedSubset, receipts: Sequence[shards.Receipt], clients: pa.Table
) -> SubsetEntry:
    rows = dict.fromkeys(subset.split_names, 0)
    for receipt in receipts:
        rows[receipt.split] += receipt.rows
    told = plan.table([subset]) if subset.multi_label else None
    entry = SubsetEntry(
        classes=subset.classes,
        multi_label=subset.multi_label,
        clients=len(subset.clients),
        rows=rows,
        train_counts=skew.train_counts(clients, len(subset.classes)),
        novel=subset.novel,
        moved=subset.moved,
        duplicates=subset.duplicates,
        across=subset.across,
        left_out=subset.left_out,
        skipped=tuple(manifest.Skipped(**row) for receipt in receipts for row in receipt.skipped),
        skew=skew.measure(
            clients,
            told,
            subset.classes,
            seeds.generator(planned.recipe.seed, subset.name, "skew"),
        ),
        shards=tuple(manifest.Shard(r.path, r.split, r.rows, r.bytes, r.sha256) for r in receipts),
        fine=_fine(subset.fine, receipts) if subset.fine else None,
    )
    return unknown.counted(entry, told, subset.clients) if subset.unknown and told is not None else entry


def _fine(fine: Fine, receipts: Sequence[shards.Receipt]) -> manifest.FineEntry:
    total = np.zeros(len(fine.classes), np.int64)
    for receipt in receipts:
        if receipt.split == TRAIN:
            total += receipt.fine_counts
    return manifest.FineEntry(fine.classes, fine.parents, tuple(total.tolist()))


def _clients(subset: PlannedSubset, receipts: Sequence[shards.Receipt]) -> pa.Table:
    """One row per client and split, including those without rows, in the order of clients."""
    n, splits = len(subset.clients), len(subset.split_names)
    names, split_names = pa.array(subset.clients, pa.string()), pa.array(subset.split_names, pa.string())
    held = pa.concat_tables([schema.CLIENTS_SCHEMA.empty_table(), *map(_held, receipts)]).combine_chunks()
    client = pc.index_in(held.column("client_id"), value_set=names).to_numpy()
    split = pc.index_in(held.column("split"), value_set=split_names).to_numpy()
    at = np.full(n * splits, -1)  # row of the table -> row of ``held``
    at[client.astype(np.int64) * splits + split] = np.arange(len(client))
    facts = held.take(pa.array(at, mask=at < 0)).combine_chunks()  # null where a client has no rows
    columns: dict[str, Any] = {
        "subset": pa.repeat(subset.name, n * splits),
        "client_id": names.take(pa.array(np.repeat(np.arange(n), splits))),
        "split": split_names.take(pa.array(np.tile(np.arange(splits), n))),
        "file": facts.column("file"),
    }
    for field in schema.CLIENTS_SCHEMA:
        if field.name not in columns:
            nothing = pa.scalar([] if pa.types.is_list(field.type) else 0, field.type)
            columns[field.name] = pc.fill_null(facts.column(field.name), nothing)
    return pa.table(columns, schema=schema.CLIENTS_SCHEMA)


def _held(receipt: shards.Receipt) -> pa.Table:
    """Rows of the client table for the clients of a shard."""
    rows = len(receipt.clients.client_id)
    where = {"subset": pa.nulls(rows), "split": [receipt.split] * rows, "file": [receipt.path] * rows}
    return pa.table({**where, **vars(receipt.clients)}, schema=schema.CLIENTS_SCHEMA)


def source_entry(facts: Facts, index: Index, sample: str | None = None) -> SourceEntry:
    """Provenance of a source, or of its sample, whose title is ``sample``."""
    return SourceEntry(
        title=sample or facts.title,
        homepage=facts.homepage,
        licence=SAMPLE_LICENCE if sample else facts.licence,
        citation="rendered scenes, no photographs" if sample else facts.citation,
        redistributable=True if sample else facts.redistributable,
        images=index.table.num_rows,
        missing=index.missing,
        counts=dict(index.counts),
    )


def write_small(table: pa.Table, path: Path) -> None:
    """Writes a table that is not a shard: plan or client table."""
    pq.write_table(table, path, row_group_size=_ROW_GROUP, **_SMALL)


def file_entry(folder: Path, name: str) -> manifest.File:
    """A file as a manifest lists it."""
    return manifest.File(name, (folder / name).stat().st_size, file_digest(folder / name))


def writer(plugins: Mapping[str, str]) -> dict[str, str]:
    """Versions that the bytes depend on, besides plan and sources: those of ``Planned.plugins`` among them."""
    return {**plugins, "fedkit": distribution.version(), "pyarrow": pa.__version__}
