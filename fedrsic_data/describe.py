"""What was built, in words and figures: plan, client table, card and manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedrsic_data import card, manifest, schema, seeds, shards, skew
from fedrsic_data.index import Fine, Index
from fedrsic_data.manifest import File, FineEntry, Manifest, Plan, Shard, Skipped, SourceEntry, SubsetEntry
from fedrsic_data.plan import Planned, PlannedSubset
from fedrsic_data.recipe import SCHEMA, Recipe
from fedrsic_data.splits import TRAIN
from fedrsic_data.workspace import file_digest

PLAN, CLIENTS, CARD = "plan.parquet", "clients.parquet", "README.md"


def describe(planned: Planned, folder: Path, receipts: Mapping[str, Sequence[shards.Receipt]]) -> Manifest:
    """Writes plan, client table and card, and says it all in a manifest.

    Args:
        planned: The dataset.
        folder: Where its shards are.
        receipts: Subset -> what was written, in the order of its jobs.
    """
    recipe = planned.recipe
    clients = {s.name: _clients(s, receipts[s.name]) for s in planned.subsets}
    subsets = {s.name: _entry(planned, s, receipts[s.name], clients[s.name]) for s in planned.subsets}
    _write_small(planned.table, folder / PLAN)
    _write_small(pa.concat_tables(clients.values()), folder / CLIENTS)
    (folder / CARD).write_text(card.render(recipe, planned.sources, subsets), encoding="utf-8")
    plan_file = _file(folder, PLAN)
    return manifest.sealed(
        Manifest(
            fedkit=SCHEMA,
            name=recipe.name,
            recipe=recipe,
            writer=writer(),
            sources=dict(planned.sources),
            plan=Plan(plan_file.path, plan_file.bytes, plan_file.sha256, planned.digest, planned.table.num_rows),
            clients=_file(folder, CLIENTS),
            card=_file(folder, CARD),
            subsets=subsets,
        )
    )


def _entry(
    planned: Planned, subset: PlannedSubset, receipts: Sequence[shards.Receipt], clients: pa.Table
) -> SubsetEntry:
    rows = dict.fromkeys(subset.split_names, 0)
    for receipt in receipts:
        rows[receipt.split] += receipt.rows
    return SubsetEntry(
        classes=subset.classes,
        multi_label=subset.multi_label,
        clients=len(subset.clients),
        rows=rows,
        train_counts=train_counts(clients, len(subset.classes)),
        novel=subset.novel,
        moved=subset.moved,
        duplicates=subset.duplicates,
        left_out=subset.left_out,
        skipped=tuple(Skipped(**row) for receipt in receipts for row in receipt.skipped),
        skew=skew.measure(
            clients,
            planned.table.filter(pc.equal(planned.table.column("subset"), subset.name)) if subset.multi_label else None,
            subset.classes,
            seeds.generator(planned.recipe.seed, subset.name, "skew"),
        ),
        shards=tuple(Shard(r.path, r.split, r.rows, r.bytes, r.sha256) for r in receipts),
        fine=_fine(subset.fine, receipts) if subset.fine else None,
    )


def train_counts(clients: pa.Table, classes: int) -> tuple[int, ...]:
    """Training rows of each class, from a subset's rows of the client table."""
    counts, _ = skew.tables(clients, classes, TRAIN)
    return tuple(counts.sum(axis=0).tolist())


def _fine(fine: Fine, receipts: Sequence[shards.Receipt]) -> FineEntry:
    total = np.zeros(len(fine.classes), np.int64)
    for receipt in receipts:
        if receipt.split == TRAIN:
            total += receipt.fine_counts
    return FineEntry(fine.classes, fine.parents, tuple(total.tolist()))


def _clients(subset: PlannedSubset, receipts: Sequence[shards.Receipt]) -> pa.Table:
    """A row a client and split, those without rows included, in the order of clients."""
    n, splits = len(subset.clients), len(subset.split_names)
    place = {name: i for i, name in enumerate(subset.clients)}
    held: dict[int, tuple[shards.Receipt, int]] = {}  # row of the table -> where its facts are
    for receipt in receipts:
        split = subset.split_names.index(receipt.split)
        for i, client in enumerate(receipt.clients["client_id"]):
            held[place[client] * splits + split] = receipt, i
    columns: dict[str, Sequence[Any]] = {
        "subset": [subset.name] * (n * splits),
        "client_id": [client for client in subset.clients for _ in subset.split_names],
        "split": [*subset.split_names] * n,
        "file": [held[row][0].path if row in held else None for row in range(n * splits)],
    }
    for field in schema.CLIENTS_SCHEMA:
        if field.name not in columns:
            nothing: Any = [] if pa.types.is_list(field.type) else 0
            cells = (held.get(row) for row in range(n * splits))
            columns[field.name] = [nothing if at is None else at[0].clients[field.name][at[1]] for at in cells]
    return pa.table(columns, schema=schema.CLIENTS_SCHEMA)


def source_entry(recipe: Recipe, name: str, index: Index) -> SourceEntry:
    """Provenance of a source, or of its stand-in."""
    facts = recipe.source(name).facts
    sampled = recipe.sample is not None
    return SourceEntry(
        title=f"sample of {facts.title} (procedural)" if sampled else facts.title,
        homepage=facts.homepage,
        licence="Apache-2.0, rendered by fedkit" if sampled else facts.licence,
        citation="rendered scenes, no photographs" if sampled else facts.citation,
        redistributable=True if sampled else facts.redistributable,
        images=index.table.num_rows,
        missing=index.missing,
        counts=dict(index.counts),
    )


def _write_small(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", write_page_index=True, row_group_size=1 << 16)


def _file(folder: Path, name: str) -> File:
    return File(name, (folder / name).stat().st_size, file_digest(folder / name))


def writer() -> dict[str, str]:
    """What the bytes depend on beside plan and sources."""
    try:
        own = version("fedkit")
    except PackageNotFoundError:
        own = "0"
    return {"fedkit": own, "pyarrow": pa.__version__}
