"""Read a user's file: a table with one row for every sample id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data.dataset.schema import repeated
from fedrsic_data.errors import UsageError
from fedrsic_data.files.atomic import file_digest


def digest(path: str) -> str:
    """sha256 of a file, in hex; empty where there is none, which ``existing`` refuses."""
    return file_digest(Path(path)) if os.path.isfile(path) else ""  # pathlib raises on names that are too long


def existing(path: str, kinds: Sequence[str], sha256: str) -> Path:
    """The file that a ``path`` setting names.

    Raises:
        UsageError: There is none, its ending is not among ``kinds``, or it is not the one that ``sha256`` names.
    """
    if Path(path).suffix not in kinds:
        raise UsageError(f"path={path!r} should name a {' or '.join(kinds)} file")
    if not os.path.isfile(path):  # pathlib raises on names that are too long
        raise UsageError(f"path={path!r}: there is no such file at {Path(path).absolute()}")
    if sha256 and digest(path) != sha256:
        raise UsageError(
            f"path={path!r}: is not the file with sha256 {sha256[:12]}...; remove sha256 to accept this file"
        )
    return Path(path)


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a CSV file, as texts with empty fields null, or of a Parquet file, as they are.

    Raises:
        UsageError: It cannot be read, or a column is missing.
    """
    texts = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()),
        include_columns=list(columns),
        null_values=[""],
        strings_can_be_null=True,
    )
    try:
        if path.suffix == ".csv":
            return pa.csv.read_csv(path, convert_options=texts)
        return pq.ParquetFile(path).read(columns=list(columns)).select(list(columns))
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path}: cannot be read as a table with columns {', '.join(columns)} ({line})") from None


def locate(wanted: pa.Array, ids: pa.ChunkedArray, path: Path) -> NDArray[np.int64]:
    """Where the file has each wanted sample id: int64 [N] row numbers.

    Args:
        wanted: string [N], unique.
        ids: The file's ``sample_id`` column.
        path: The file, for messages.

    Raises:
        UsageError: An id that occurs twice, is missing, or is not among those wanted.
    """
    ids = ids.cast(pa.string()).combine_chunks()
    wanted = wanted.cast(pa.string())
    if ids.equals(wanted):  # written in the same order: nothing to look for
        return np.arange(len(wanted))
    if ids.null_count:
        raise UsageError(f"{path}: {ids.null_count:,} rows have no sample_id")
    if len(twice := repeated(ids)):
        raise UsageError(f"{path}: {_some(twice)} more than once; keep one row each")
    found = pc.index_in(wanted, value_set=ids)
    if found.null_count:
        raise UsageError(f"{path}: {_some(wanted.filter(found.is_null()))} missing; every image needs a row")
    if len(ids) > len(wanted):
        unknown = ids.filter(pc.invert(pc.is_in(ids, value_set=wanted)))
        raise UsageError(f"{path}: {_some(unknown)} not among the images to partition; remove such rows")
    return np.asarray(found.to_numpy().astype(np.int64))


def _some(ids: pa.Array) -> str:
    """Sample ids for a message: how many and the first of them, followed by is or are."""
    if len(ids) == 1:
        return f"sample_id {ids[0].as_py()!r} is"
    return (
        f"{len(ids):,} sample ids ({', '.join(repr(i.as_py()) for i in ids[:3])}{', ...' if len(ids) > 3 else ''}) are"
    )
