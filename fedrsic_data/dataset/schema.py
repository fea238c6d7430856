"""The Parquet contract: the columns of a shard, and the metadata that give them types on the Hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

TRAIN, NOVEL = "train", "novel"
"""Names of splits: for training, and of the classes that are never trained on."""

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

CLIENTS_SCHEMA = pa.schema(
    [
        ("subset", pa.string()),
        ("client_id", pa.string()),
        ("split", pa.string()),
        ("file", pa.string()),  # relative to the manifest; null for a client without rows in the split
        ("row_group", pa.int32()),  # the first of the client's row groups in that file
        ("row_groups", pa.int32()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),  # of the image files
        ("labels", pa.list_(pa.int32())),  # class indices that occur ...
        ("counts", pa.list_(pa.int64())),  # ... and in how many rows
        ("domains", pa.list_(pa.string())),
        ("domain_counts", pa.list_(pa.int64())),
    ]
)
"""A row a client and split, whichever file the rows are in."""

PLAN_SCHEMA = pa.schema(
    [
        ("subset", pa.string()),
        ("sample_id", pa.string()),
        ("group", pa.string()),  # natural user, or null
        ("labels", pa.list_(pa.string())),  # class names
        ("fine_labels", pa.list_(pa.string())),  # names of finer classes, or null
        ("domain", pa.string()),
        ("split", pa.string()),
        ("client_id", pa.string()),  # null, as is split: left out by the partitioner
    ]
)
"""The owner of every image."""

UNKNOWN_SCHEMA = pa.schema(
    [
        ("labels_unknown", pa.list_(pa.string())),  # names of the classes that are unknown at the row
        ("labels_true", pa.list_(pa.string())),  # all class names, where the row has unknown ones; else null
        ("fine_labels_true", pa.list_(pa.string())),  # likewise, of the finer classes
    ]
)
"""Further columns of a plan in which labels are unknown; its ``labels`` and ``fine_labels`` are the known ones."""


def plan_schema(*, unknown: bool) -> pa.Schema:
    """The columns of a plan: ``PLAN_SCHEMA``, and ``UNKNOWN_SCHEMA`` where labels of a subset are unknown."""
    return pa.schema([*PLAN_SCHEMA, *(UNKNOWN_SCHEMA if unknown else ())])


def shard_schema(
    classes: Sequence[str], *, multi_label: bool, fine: Sequence[str] = (), unknown: bool = False
) -> pa.Schema:
    """The columns of a shard.

    Args:
        classes: Class names in index order.
        multi_label: ``labels``, a list, instead of ``label``, an integer.
        fine: Names of finer classes in index order; none: no such column.
        unknown: Whether labels of the subset are unknown.

    Returns:
        ``image, label|labels[, labels_unknown][, fine_labels], client_id, sample_id, domain`` with the ``huggingface``
        metadata from which ``datasets`` recovers Image and ClassLabel without a script.
    """
    features = features_json(classes, multi_label=multi_label, fine=fine, unknown=unknown)
    codes = pa.list_(pa.field("element", pa.int64()))  # as Parquet itself calls the items of lists
    types = {"image": IMAGE, "label": pa.int64(), **dict.fromkeys(("labels", "labels_unknown", "fine_labels"), codes)}
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)}
    return pa.schema([(name, types.get(name, pa.string())) for name in features], metadata=metadata)


def features_json(
    classes: Sequence[str], *, multi_label: bool, fine: Sequence[str] = (), unknown: bool = False
) -> dict[str, Any]:
    """The features of a shard as ``datasets`` writes them into a schema."""

    def labels(names: Sequence[str]) -> dict[str, Any]:
        return {"names": list(names), "_type": "ClassLabel"}

    def several(names: Sequence[str]) -> dict[str, Any]:
        return {"feature": labels(names), "_type": "List"}

    coarse = {"labels": several(classes)} if multi_label else {"label": labels(classes)}
    hidden = {"labels_unknown": several(classes)} if unknown else {}
    finer = {"fine_labels": several(fine)} if fine else {}
    texts = {name: {"dtype": "string", "_type": "Value"} for name in ("client_id", "sample_id", "domain")}
    return {"image": {"_type": "Image"}, **coarse, **hidden, **finer, **texts}


def class_names(schema: pa.Schema, column: str = "label") -> tuple[str, ...]:
    """Class names of a column of a shard's schema, in index order; ``label`` stands for ``labels`` too."""
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    feature = features[column] if column in features else features["labels"]
    return tuple(feature.get("feature", feature)["names"])


def client_of(footer: pq.FileMetaData, group: int) -> str | None:
    """The client whose rows a row group of a shard holds, by its statistics; None: unknown, or several clients."""
    at = next(i for i in range(footer.num_columns) if footer.schema.column(i).path == "client_id")
    told = footer.row_group(group).column(at).statistics
    return None if told is None or told.min != told.max else told.min


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece; not copied where it is in one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def repeated(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The values that a column has more than once, in the order in which they first occur."""
    counts = pc.value_counts(column)
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def content_digest(table: pa.Table) -> str:
    """sha256 of a table's values: the same whatever its chunks, its Parquet encoding or the library's version.

    Row order counts; sort first where it should not.
    """
    return columns_digest(zip(table.column_names, table.columns, strict=True))


def columns_digest(columns: Iterable[tuple[str, pa.ChunkedArray]]) -> str:
    """``content_digest`` of the table that has these columns, which are held one after another."""
    digest = hashlib.sha256()
    for name, column in columns:
        digest.update(f"{name}:{len(column)};".encode())
        _update(digest, column)
    return digest.hexdigest()


def _update(digest: Any, column: pa.ChunkedArray) -> None:
    kind = column.type
    digest.update(("list" if pa.types.is_list(kind) else str(kind)).encode())
    digest.update(np.packbits(column.is_valid().to_numpy()).tobytes())
    if pa.types.is_list(kind):
        for chunk in column.chunks:
            digest.update(np.diff(chunk.offsets.to_numpy()).astype("<i8").tobytes())
        _update(digest, pa.chunked_array([chunk.flatten() for chunk in column.chunks], kind.value_type))
    elif pa.types.is_string(kind):
        texts = [_text(chunk) for chunk in column.chunks]
        for at, _ in texts:
            digest.update(np.diff(at).astype("<i8").tobytes())
        for at, data in texts:
            digest.update(data[at[0] : at[-1]])
    else:
        for chunk in column.chunks:
            digest.update(chunk.fill_null(0).to_numpy(zero_copy_only=False).astype("<i8").tobytes())


def _text(array: pa.Array) -> tuple[NDArray[np.int32], memoryview]:
    """Offsets int32 [N + 1] of texts, "" for null, and the bytes they cut."""
    filled = array.fill_null("")
    _, offsets, data = filled.buffers()
    at = np.frombuffer(offsets or b"\0\0\0\0", np.int32)[filled.offset : filled.offset + len(filled) + 1]
    return at, memoryview(data or b"")
