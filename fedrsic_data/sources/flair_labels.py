"""FLAIR's labels: its metadata in either form, checked and made into the columns of an index."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data.dataset.manifest import Fine
from fedrsic_data.errors import SourceError
from fedrsic_data.raw import json_items
from fedrsic_data.raw.containers import reading

LABELS = (
    "animal", "art", "celebration", "equipment", "fire", "food", "games", "interior_room", "light", "liquid",
    "material", "music", "outdoor", "plant", "recreation", "religion", "structure",
)  # fmt: skip
"""The 17 coarse labels in index order, which is alphabetical as in Apple's own TFRecords."""

IMAGE = re.compile(r"(0|[1-9][0-9]{0,17})\.jpg")
"""The name of an image's file, which is its id."""

_PARTITIONS = ("train", "val", "test")
_BATCH = 8192  # entries that are Python objects at once
_BLOCK = 2**20  # bytes read at a time

_TEXTS, _CODES = pa.list_(pa.string()), pa.list_(pa.int32())
_ENTRIES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("user_id", pa.string()),
        ("partition", pa.string()),
        ("labels", _TEXTS),
        ("fine_grained_labels", _TEXTS),
    ]
)
"""The metadata of either form, a row an image."""


def from_json(path: Path) -> Iterator[pa.Table]:
    """The metadata of Apple's form, some thousand entries at a time."""
    entries = enumerate(_items(path))
    while batch := list(islice(entries, _BATCH)):
        for number, entry in batch:
            if fault := _fault(entry):
                raise SourceError(f"{path}: entry {number:,} {fault}")
        columns = {name: [entry[name] for _, entry in batch] for name in _ENTRIES.names}
        columns["image_id"] = [int(text) for text in columns["image_id"]]
        yield pa.table(columns, schema=_ENTRIES)


def _items(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        try:
            yield from json_items.items(iter(lambda: file.read(_BLOCK), b""))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path}: should hold a whole JSON list ({error}); fetch the file again") from None


def _fault(entry: Any) -> str:
    """Describe what is wrong with the types of an entry; empty if nothing is."""
    if not isinstance(entry, dict):
        return f"should be an object, not {entry!r:.40}"
    for name in ("user_id", "image_id", "partition"):
        if not isinstance(entry.get(name), str) or not entry[name]:
            return f"has {name}={entry.get(name)!r:.40}; it should be a text"
    if not IMAGE.fullmatch(entry["image_id"] + ".jpg"):
        return f"has image_id={entry['image_id']!r:.40}; it should be a number without leading zeros"
    for name in ("labels", "fine_grained_labels"):
        texts = entry.get(name)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f"has {name}={texts!r:.40}; it should be a list of texts"
    return ""


def from_parquet(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """The metadata of the Hub's form, a file at a time."""
    for path in paths:
        with reading(path), pq.ParquetFile(path, pre_buffer=False) as file:
            _check_columns(path, file.schema_arrow)
            table = file.read(columns=_ENTRIES.names, use_threads=False).select(_ENTRIES.names).cast(_ENTRIES)
        for name in _ENTRIES.names:
            column = table.column(name)
            if column.null_count or (pa.types.is_list(column.type) and pc.list_flatten(column).null_count):
                raise SourceError(f"{path}: column {name} has empty cells; fetch the file again")
        yield table


def _check_columns(path: Path, schema: pa.Schema) -> None:
    kinds = {field.name: field.type for field in schema}
    lists = all(pa.types.is_list(kinds.get(name, pa.null())) for name in ("labels", "fine_grained_labels"))
    image = kinds.get("image", pa.null())
    held = pa.types.is_struct(image) and any(image[i].name == "bytes" for i in range(image.num_fields))
    if not (lists and held and kinds.keys() >= set(_ENTRIES.names)):
        columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise SourceError(f"{path}: should have columns {', '.join(_ENTRIES.names)} and image; it has {columns}")


def tabled(where: Path, parts: Iterable[pa.Table], ontology: Sequence[Path]) -> tuple[pa.Table, Fine, dict[str, int]]:
    """The entries, checked, in the order of sample ids.

    Returns:
        The columns of the index but ``key``, with ``image_id``, and ``entry``, which row of the metadata it was; the
        fine label space; and how many labels are listed more than once for an image, which count once.
    """
    seen: dict[str, int] = {}  # fine label -> code, in the order they are met
    coded = [_coded(where, part, seen) for part in parts]
    entries = pa.concat_tables(coded) if coded else _ENTRIES.empty_table()
    if not entries.num_rows:
        raise SourceError(f"{where}: lists no images; fetch it again")
    ids = _joined("flair/", entries.column("image_id"))
    order = pc.sort_indices(ids).to_numpy().astype(np.int64)
    names = tuple(sorted(seen))
    rank = np.empty(len(names), np.int64)
    rank[[seen[name] for name in names]] = np.arange(len(names))
    coarse, twice = _label_sets(entries.column("labels").combine_chunks(), np.arange(len(LABELS)), order)
    fine, fine_twice = _label_sets(entries.column("fine_grained_labels").combine_chunks(), rank, order)
    entries = entries.select(["image_id", "user_id", "partition"]).take(pa.array(order)).combine_chunks()
    _check(where, entries)
    table = pa.table(
        {
            "sample_id": ids.take(pa.array(order)),
            "labels": coarse,
            "domain": pa.repeat("flair", len(order)),
            "group": entries.column("user_id"),
            "split": entries.column("partition"),
            "file": _joined("", entries.column("image_id"), ".jpg"),
            "fine_labels": fine,
            "image_id": entries.column("image_id"),
            "entry": order,
        }
    )
    counts = {"labels listed twice": twice, "fine labels listed twice": fine_twice}
    parents = _parents(ontology[0], names) if ontology else ("",) * len(names)
    return table, Fine(names, parents), {what: count for what, count in counts.items() if count}


def _coded(where: Path, part: pa.Table, seen: dict[str, int]) -> pa.Table:
    """Entries with codes for labels: indices for coarse ones, and for fine ones those of ``seen``, which grows."""
    for name in ("labels", "fine_grained_labels"):
        lists = part.column(name).combine_chunks()
        texts = lists.flatten().dictionary_encode()
        names = texts.dictionary.to_pylist()
        if name == "labels":
            codes = np.array([LABELS.index(text) if text in LABELS else -1 for text in names], np.int32)
        else:
            codes = np.array([seen.setdefault(text, len(seen)) for text in names], np.int32)
        values = codes[texts.indices.to_numpy()]
        if (values < 0).any():
            at = int(np.argmax(values < 0))
            row = int(np.searchsorted(np.cumsum(pc.list_value_length(lists).to_numpy()), at, side="right"))
            raise SourceError(
                f"{where}: image {part.column('image_id')[row]} has label {texts[at].as_py()!r}, "
                f"which is not one of the {len(LABELS)} labels"
            )
        offsets = pc.subtract(lists.offsets, lists.offsets[0])
        whole = pa.ListArray.from_arrays(offsets, pa.array(values), type=_CODES)
        part = part.set_column(part.schema.get_field_index(name), name, whole)
    return part


def _check(where: Path, entries: pa.Table) -> None:
    """Refuses images listed twice, unknown partitions, and users in two of them."""
    ids = entries.column("image_id").to_numpy()
    again = np.flatnonzero(ids[1:] == ids[:-1])
    if len(again):
        raise SourceError(f"{where}: image_id {ids[again[0]]} is listed twice; keep one entry for each image")
    codes = pc.index_in(entries.column("partition").combine_chunks(), value_set=pa.array(_PARTITIONS))
    if codes.null_count:
        row = int(np.argmax(codes.is_null().to_numpy(zero_copy_only=False)))
        raise SourceError(
            f"{where}: image {ids[row]} is in partition {entries.column('partition')[row].as_py()!r}; "
            f"there are {', '.join(_PARTITIONS)}"
        )
    users = entries.column("user_id").combine_chunks().dictionary_encode()
    held = np.zeros((len(users.dictionary), len(_PARTITIONS)), bool)
    held[users.indices.to_numpy(), codes.to_numpy()] = True
    both = np.flatnonzero(held.sum(axis=1) > 1)
    if len(both):
        first, second = (_PARTITIONS[i] for i in np.flatnonzero(held[both[0]])[:2])
        raise SourceError(
            f"{where}: user {users.dictionary[int(both[0])].as_py()!r} is in partitions {first} and {second}; "
            f"users should be in one ({len(both):,} are not)"
        )


def _label_sets(lists: pa.ListArray, rank: NDArray[np.int64], order: NDArray[np.int64]) -> tuple[pa.ListArray, int]:
    """Label indices of each row, ascending, each once; and how many were listed again.

    Args:
        lists: Codes of each row.
        rank: int64 [classes], the index of each code.
        order: int64 [N], the rows that are wanted, in their order.
    """
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    row, codes = np.repeat(place, pc.list_value_length(lists).to_numpy()), rank[lists.flatten().to_numpy()]
    cells = np.unique(row * max(len(rank), 1) + codes)
    row, code = np.divmod(cells, max(len(rank), 1))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(order)))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(code.astype(np.int32))), len(codes) - len(cells)


def _parents(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The coarse label of each fine one by ``label_relationship.txt``; empty where the file does not name it.

    Coarse labels are also fine labels, for images of no finer kind; they are their own parents.
    """
    parents = {name: name for name in LABELS}
    said: dict[str, str] = {}
    with reading(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        fine, arrow, coarse = (part.strip() for part in line.partition("->"))
        if not line.strip():
            continue
        if not (fine and arrow) or coarse not in LABELS:
            raise SourceError(f"{path}: line {number} is {line[:60]!r}; it should be 'fine -> one of the 17 labels'")
        if said.setdefault(fine, coarse) != coarse:
            raise SourceError(f"{path}: line {number} maps {fine!r} to {coarse}, an earlier line to {said[fine]}")
    parents |= said
    return tuple(parents.get(name, "") for name in names)


def _joined(before: str, numbers: pa.ChunkedArray, after: str = "") -> pa.ChunkedArray:
    return pc.binary_join_element_wise(before, pc.cast(numbers, pa.string()), after, "")
