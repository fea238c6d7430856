"""The Parquet contract: the columns of a shard, and the metadata that give them types on the Hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

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
        ("domain", pa.string()),
        ("split", pa.string()),
        ("client_id", pa.string()),  # null, as is split: left out by the partitioner
    ]
)
"""The owner of every image."""


def shard_schema(classes: Sequence[str], *, multi_label: bool) -> pa.Schema:
    """The columns of a shard.

    Args:
        classes: Class names in index order.
        multi_label: ``labels``, a list, instead of ``label``, an integer.

    Returns:
        ``image, label|labels, client_id, sample_id, domain`` with the ``huggingface`` metadata from which
        ``datasets`` recovers Image and ClassLabel without a script.
    """
    label: tuple[str, pa.DataType] = ("labels", pa.list_(pa.int64())) if multi_label else ("label", pa.int64())
    fields = [
        ("image", IMAGE),
        label,
        *((name, pa.string()) for name in ("client_id", "sample_id", "domain")),
    ]
    features = features_json(classes, multi_label=multi_label)
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False)}
    return pa.schema(fields, metadata=metadata)


def features_json(classes: Sequence[str], *, multi_label: bool) -> dict[str, Any]:
    """The features of a shard as ``datasets`` writes them into a schema."""
    label = {"names": list(classes), "_type": "ClassLabel"}
    text = {"dtype": "string", "_type": "Value"}
    name, feature = ("labels", {"feature": label, "_type": "List"}) if multi_label else ("label", label)
    return {"image": {"_type": "Image"}, name: feature, "client_id": text, "sample_id": text, "domain": text}


def class_names(schema: pa.Schema) -> tuple[str, ...]:
    """Class names from a shard's schema, in index order."""
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    label = features["label"] if "label" in features else features["labels"]["feature"]
    return tuple(label["names"])


def content_digest(table: pa.Table) -> str:
    """sha256 of a table's values: the same whatever its chunks, its Parquet encoding or the library's version.

    Row order counts; sort first where it should not.
    """
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{name}:{len(column)};".encode())
        _update(digest, column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))
    return digest.hexdigest()


def _update(digest: Any, array: pa.Array) -> None:
    digest.update(("list" if pa.types.is_list(array.type) else str(array.type)).encode())
    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_list(array.type):
        digest.update(np.diff(array.offsets.to_numpy()).astype("<i8").tobytes())
        _update(digest, array.flatten())
    elif pa.types.is_string(array.type):
        filled = array.fill_null("")
        _, offsets, data = filled.buffers()
        at = np.frombuffer(offsets or b"\0\0\0\0", np.int32)[filled.offset : filled.offset + len(filled) + 1]
        digest.update(np.diff(at).astype("<i8").tobytes())
        digest.update(memoryview(data or b"")[at[0] : at[-1]])
    else:
        digest.update(array.fill_null(0).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
