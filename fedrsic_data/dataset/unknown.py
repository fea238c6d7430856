"""Labels that are unknown at training rows: neither present nor absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset import schema
from fedrsic_data.dataset.manifest import PLAN, SubsetEntry
from fedrsic_data.errors import ManifestError


def known(unknown: pa.Array | pa.ChunkedArray, classes: int) -> NDArray[np.bool_]:
    """Which labels of some rows are known.

    Args:
        unknown: The rows' ``labels_unknown``, lists of class indices.
        classes: Number of classes.

    Returns:
        bool [rows, classes].
    """
    table = np.ones((len(unknown), classes), bool)
    table[_rows(unknown), pc.list_flatten(unknown).to_numpy()] = False
    return table


def coarse(fine: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The class index of each finer class's parent, int64 [fine classes]; -1 where it has none among the classes.

    A fine label is unknown at the rows where its parent is; one without a parent is known everywhere.
    """
    return np.array(pc.index_in(pa.array(fine, pa.string()), pa.array(classes, pa.string())).fill_null(-1), np.int64)


def known_fine(mask: NDArray[np.bool_], entry: SubsetEntry) -> NDArray[np.bool_]:
    """Which fine labels are known, bool [rows, fine classes], where ``known`` gives ``mask`` for the classes."""
    parents = coarse(entry.fine.parents if entry.fine else (), entry.classes)
    return np.asarray(mask[:, parents] | (parents < 0))


def without(lists: pa.ListArray, unknown: pa.ListArray, of: NDArray[np.integer], classes: int) -> pa.ListArray:
    """Lists of labels without those that are unknown in the same row.

    Args:
        lists: Lists of label indices.
        unknown: As many lists of class indices.
        of: int [labels], class of each label; -1 for a label that is known everywhere.
        classes: Number of classes.
    """
    values, row = lists.flatten().to_numpy(), _rows(lists)
    hidden = _rows(unknown) * classes + unknown.flatten().to_numpy()
    kept = (of[values] < 0) | ~np.isin(row * classes + of[values], hidden)
    ends = np.cumsum(np.bincount(row[kept], minlength=len(lists)))
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]).astype(np.int32)), pa.array(values[kept]))


def disorder(rows: pa.Table, entry: SubsetEntry) -> str:
    """In words what is wrong with the unknown labels of rows of a shard; nothing if all is right.

    Args:
        rows: With the column ``labels_unknown``, lists of class indices; ``labels`` and ``fine_labels`` may be there.
        entry: The subset's entry in the manifest.
    """
    hidden, width = schema.whole(rows.column("labels_unknown")), len(entry.classes)
    if (np.diff(_rows(hidden) * width + hidden.flatten().to_numpy()) <= 0).any():
        return "labels_unknown does not list each label once, in the order of the classes"
    fine = coarse(entry.fine.parents if entry.fine else (), entry.classes)
    for name, of in (("labels", np.arange(width)), ("fine_labels", fine)):
        if name in rows.column_names:
            lists = schema.whole(rows.column(name))
            if len(without(lists, hidden, of, width).flatten()) < len(lists.flatten()):
                return f"{name} has a label that labels_unknown says is unknown"
    return ""


def counts(plan: pa.Table, entry: SubsetEntry, clients: Sequence[str]) -> NDArray[np.int64]:
    """In how many training rows each client does not know each label: int64 [clients, classes].

    Args:
        plan: The subset's rows of the plan, with ``schema.UNKNOWN_SCHEMA``.
        entry: The subset's entry in the manifest, which lists the images that are in no shard.
        clients: Names of its clients, in order.

    Raises:
        ManifestError: An unknown label is none of the subset's classes, or a row does not say which are unknown.
    """
    names = pa.array(clients, pa.string())
    held = pc.and_(pc.equal(plan.column("split"), schema.TRAIN), pc.is_in(plan.column("client_id"), value_set=names))
    if entry.skipped:
        skipped = pa.array([skip.sample_id for skip in entry.skipped], pa.string())
        held = pc.and_(held, pc.invert(pc.is_in(plan.column("sample_id"), value_set=skipped)))
    rows = plan.select(["client_id", "labels_unknown"]).filter(held)
    owner = pc.index_in(rows.column("client_id"), names).to_numpy()
    lists, width = schema.whole(rows.column("labels_unknown")), len(entry.classes)
    codes = pc.index_in(pc.list_flatten(lists), pa.array(entry.classes, pa.string()))
    if codes.null_count or lists.null_count:
        raise ManifestError(f"{PLAN}: labels_unknown has a value that is no class of its subset; run: fedkit verify")
    cells = owner[_rows(lists)].astype(np.int64) * width + codes.to_numpy()
    return np.bincount(cells, minlength=len(clients) * width).reshape(len(clients), width)


def counted(entry: SubsetEntry, plan: pa.Table, clients: Sequence[str]) -> SubsetEntry:
    """The entry with its unknown labels counted; the arguments are those of ``counts``."""
    return replace(entry, unknown=tuple(counts(plan, entry, clients).sum(axis=0).tolist()))


def is_withheld(plan: pa.Table) -> bool:
    """Whether a plan has unknown labels and none of their true values, as that of a site has."""
    if "labels_true" not in plan.column_names:
        return False
    told = plan.num_rows - plan.column("labels_true").null_count
    return not told and len(pc.list_flatten(plan.column("labels_unknown"))) > 0


def withheld(plan: pa.Table) -> pa.Table:
    """A plan without the true values of unknown labels."""
    for name in ("labels_true", "fine_labels_true"):
        if name in plan.column_names:
            at = plan.column_names.index(name)
            plan = plan.set_column(at, plan.schema.field(name), pa.nulls(plan.num_rows, plan.schema.field(name).type))
    return plan


def truth(plan: pa.Table, column: str, names: Sequence[str], where: str) -> pa.ListArray:
    """The labels of rows of a plan, also those that are unknown, as lists of int32 indices.

    Args:
        plan: Rows of a plan.
        column: ``labels`` or ``fine_labels``.
        names: Names of the labels in index order.
        where: The plan, for the message.

    Raises:
        ManifestError: It does not tell them.
    """
    if is_withheld(plan):
        raise ManifestError(f"{where}: lacks the true values of unknown labels; use the dataset that it is a part of")
    told = plan.column(column)
    if f"{column}_true" in plan.column_names:
        told = pc.coalesce(plan.column(f"{column}_true"), told)
    lists = schema.whole(told)
    codes = pc.index_in(lists.flatten(), value_set=pa.array(names, pa.string())).cast(pa.int32())
    offsets = lists.offsets.to_numpy()
    return pa.ListArray.from_arrays(pa.array(offsets - offsets[0]), codes)


def _rows(lists: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """The row of each item of some lists: int64 [items]."""
    return np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
