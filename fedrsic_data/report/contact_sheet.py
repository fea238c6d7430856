"""A contact sheet: a few training images of every class and domain, as thumbnails."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedrsic_data import seeds
from fedrsic_data.dataset import images
from fedrsic_data.dataset.reader import Subset
from fedrsic_data.dataset.skew import TRAIN
from fedrsic_data.errors import BadImageError
from fedrsic_data.report.page import Sheet, Thumbnail

SIDE = 84
"""Longer side of a thumbnail in pixels."""

MOST = 240
"""Thumbnails of a subset; with many classes and domains, each gets fewer."""


def sheet(subset: Subset, each: int = 3) -> Sheet:
    """Draws training images of every class and domain, the same ones every time, and reads only their clients.

    Args:
        subset: A federation.
        each: Most images of one class and domain.

    Raises:
        ManifestError: Its plan or a shard cannot be read.
    """
    plan = subset.plan
    owned = pc.is_valid(plan.column("client_id"))
    train = plan.filter(pc.and_(owned, pc.equal(plan.column("split"), TRAIN))).combine_chunks()
    domains = sorted(pc.unique(train.column("domain")).to_pylist())
    cells = max(len(subset.classes) * len(domains), 1)
    chosen = _chosen(subset, train, domains, max(1, min(each, MOST // cells)))
    shots = _shots(subset, train, sorted({row for rows in chosen.values() for row in rows}))
    rows = [
        (name, tuple(tuple(shots[row] for row in chosen.get((c, d), ())) for d in range(len(domains))))
        for c, name in enumerate(subset.classes)
    ]
    held = tuple((name, cells) for name, cells in rows if any(cells))
    unseen = len(subset.classes) - len(held)
    note = f"Drawn from {train.num_rows:,} training images."
    if unseen:
        note += f" Not shown: {unseen} of {len(subset.classes)} classes, for want of training images or of room."
    return Sheet("Sample images", tuple(domains), held, note)


def _chosen(subset: Subset, train: pa.Table, domains: list[str], each: int) -> dict[tuple[int, int], list[int]]:
    """Rows of the plan for each class and domain."""
    lists = train.column("labels").combine_chunks()
    labels = pc.index_in(lists.flatten(), value_set=pa.array(subset.classes, pa.string())).to_numpy()
    row = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
    domain = pc.index_in(train.column("domain"), value_set=pa.array(domains, pa.string())).to_numpy()[row]
    rng = seeds.generator(subset.dataset.manifest.recipe.seed, subset.name, "contact sheet")
    mixed = rng.permutation(len(row))
    cell = labels[mixed].astype(np.int64) * len(domains) + domain[mixed]
    order = np.argsort(cell, kind="stable")
    cell, at = cell[order], row[mixed][order]
    place = np.arange(len(cell)) - np.searchsorted(cell, cell)  # how many of its cell come before
    chosen: dict[tuple[int, int], list[int]] = {}
    for code, one in zip(cell[place < each].tolist(), at[place < each].tolist(), strict=True):
        if sum(map(len, chosen.values())) < MOST:
            chosen.setdefault(divmod(code, len(domains)), []).append(one)
    return chosen


def _shots(subset: Subset, train: pa.Table, rows: list[int]) -> dict[int, Thumbnail]:
    """A thumbnail for each of these rows of the plan, read client by client."""
    facts = train.take(pa.array(rows, pa.int64())).select(["client_id", "sample_id", "labels"]).to_pylist()
    wanted: dict[str, dict[str, int]] = {}
    for row, fact in zip(rows, facts, strict=True):
        wanted.setdefault(fact["client_id"], {})[fact["sample_id"]] = row
    names = {row: ", ".join(fact["labels"]) for row, fact in zip(rows, facts, strict=True)}
    shots: dict[int, Thumbnail] = {}
    for client in sorted(wanted.keys() & set(subset.clients)):
        ids = wanted[client]
        for batch in subset.client(client).batches(TRAIN, rows=64, columns=["image", "sample_id"]):
            for i in np.flatnonzero(pc.is_in(batch.column("sample_id"), value_set=pa.array(list(ids)))).tolist():
                sample = batch.column("sample_id")[i].as_py()
                data = batch.column("image")[i]["bytes"].as_py()
                shots[ids[sample]] = _shot(data, sample, f"{names[ids[sample]]} ({client}, {sample})")
    missing = Thumbnail(None, "not in its shard; run: fedkit verify")
    return {row: shots.get(row, missing) for row in rows}


def _shot(data: bytes, name: str, words: str) -> Thumbnail:
    try:
        return Thumbnail(images.thumbnail(data, name, SIDE), words)
    except BadImageError as error:
        return Thumbnail(None, str(error))
