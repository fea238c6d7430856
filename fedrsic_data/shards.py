"""Writes shards: rows sorted by client, original bytes, row groups that never hold two clients.

``write`` is a pure function of a job and the bytes its rows name: whoever calls it, in whatever order, with
whatever was written before, the file is the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data import images
from fedrsic_data.errors import BadImageError
from fedrsic_data.index import Container

_WINDOW = 1024  # most images in memory at once, however small they are


@dataclass(frozen=True)
class Job:
    """One shard to write.

    Attributes:
        path: Relative to the dataset's folder.
        split: Name of the split.
        rows: int64 [n], rows of the table, sorted by client.
    """

    path: str
    split: str
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """The columns all jobs of a subset share, a row an image.

    Attributes:
        table: ``sample_id, labels, domain, key, file`` and ``origin``, int32, which container has the bytes.
        client: int32 [N], index into ``clients``.
        clients: Client names.
        containers: Read the bytes.
        schema: Schema of the shards.
    """

    table: pa.Table
    client: NDArray[np.int32]
    clients: tuple[str, ...]
    containers: tuple[Container, ...]
    schema: pa.Schema

    @property
    def multi_label(self) -> bool:
        """Whether shards have label lists."""
        return "labels" in self.schema.names


@dataclass(frozen=True)
class ClientRows:
    """Where one client's rows are in a shard: its row groups, and what is in them."""

    client_id: str
    row_group: int
    row_groups: int
    rows: int
    bytes: int
    labels: tuple[int, ...]
    counts: tuple[int, ...]
    domains: tuple[str, ...]
    domain_counts: tuple[int, ...]


@dataclass(frozen=True)
class Receipt:
    """What was written: enough to list the shard in a manifest without reading it again."""

    path: str
    split: str
    rows: int
    bytes: int
    sha256: str
    clients: tuple[ClientRows, ...]
    skipped: tuple[dict[str, str], ...] = ()


class HashingFile:
    """A binary file that digests what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Writes and digests."""
        self.sha256.update(data)
        self.bytes += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.bytes

    def flush(self) -> None:
        """Hands everything to the operating system."""
        self.file.flush()

    def readable(self) -> bool:
        """It is not."""
        return False

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is not."""
        return False

    def close(self) -> None:
        """Leaves closing to the owner of the file."""
        self.flush()


def parquet_writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with fedkit's options: image bytes plain and uncompressed, other columns small and indexed."""
    small = [field.name for field in schema if field.name not in ("image", "labels")]
    small += ["labels.list.element"] if "labels" in schema.names else []
    return pq.ParquetWriter(
        file,
        schema,
        compression={**dict.fromkeys(small, "snappy"), "image.bytes": "none", "image.path": "snappy"},
        use_dictionary=small,
        write_statistics=small,
        write_page_index=True,
        write_batch_size=64,  # pages are cut between batches, so a page of large images stays near 1 MiB
        store_schema=True,
    )


def write(
    job: Job,
    rows: Rows,
    folder: Path,
    *,
    window: int,
    row_group_bytes: int,
    on_bad_image: Literal["error", "skip"],
) -> Receipt:
    """Writes one shard, aside first.

    Args:
        job: Which rows, and where to.
        rows: The subset's columns.
        folder: The dataset's folder.
        window: Images read at a time; bounds the memory, and where a client's row groups may end.
        row_group_bytes: Image bytes after which a row group ends.
        on_bad_image: ``error`` raises at the first damaged image, ``skip`` leaves it out and lists it.

    Raises:
        SourceError: A file cannot be read, or is no whole image under ``error``.
    """
    target = folder / job.path
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".tmp")
    window = max(1, min(window, _WINDOW))
    groups: list[tuple[int, int, NDArray[np.int64]]] = []  # client, image bytes, rows, a row group each
    skipped: list[dict[str, str]] = []
    with aside.open("wb") as file:
        sink = HashingFile(file)
        with parquet_writer(sink, rows.schema) as writer:
            for start in range(0, len(job.rows), window):
                wanted = job.rows[start : start + window]
                good, data = _checked(rows, job.split, wanted, read(rows, wanted), on_bad_image, skipped)
                for begin, end in _row_groups(rows.client[good], [len(d) for d in data], row_group_bytes):
                    writer.write_table(_table(rows, good[begin:end], data[begin:end]), row_group_size=end - begin)
                    groups.append((int(rows.client[good[begin]]), sum(map(len, data[begin:end])), good[begin:end]))
    os.replace(aside, target)
    return Receipt(
        path=job.path,
        split=job.split,
        rows=sum(len(g[2]) for g in groups),
        bytes=sink.bytes,
        sha256=sink.sha256.hexdigest(),
        clients=_client_rows(rows, groups),
        skipped=tuple(skipped),
    )


def read(rows: Rows, wanted: NDArray[np.int64]) -> list[bytes]:
    """The image files of the rows ``wanted`` int64 [n], as they are."""
    keys = rows.table.column("key").take(pa.array(wanted)).to_pylist()
    origins = rows.table.column("origin").take(pa.array(wanted)).to_numpy()
    data: list[bytes] = [b""] * len(keys)
    for origin in np.unique(origins):
        places = np.flatnonzero(origins == origin)
        for place, one in zip(places, rows.containers[origin].read([keys[i] for i in places]), strict=True):
            data[place] = one
    return data


def _checked(
    rows: Rows,
    split: str,
    wanted: NDArray[np.int64],
    data: Sequence[bytes],
    on_bad_image: str,
    skipped: list[dict[str, str]],
) -> tuple[NDArray[np.int64], list[bytes]]:
    good = []
    for i, one in enumerate(data):
        try:
            images.check(one, "")
            good.append(i)
        except BadImageError as error:
            row = {name: rows.table.column(name)[int(wanted[i])].as_py() for name in ("sample_id", "key", "origin")}
            reason = str(error).removeprefix(": ")
            if on_bad_image == "error":
                where = rows.containers[row["origin"]].where(row["key"])
                raise BadImageError(f"{where}: {reason}") from None
            client = rows.clients[rows.client[wanted[i]]]
            reason = reason.split(";")[0]
            skipped.append({"sample_id": row["sample_id"], "client_id": client, "split": split, "reason": reason})
    return wanted[good], [data[i] for i in good]


def _row_groups(client: NDArray[np.int32], sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Cuts a window into row groups: at every change of client, and once ``most`` bytes are reached."""
    cuts = [0]
    held = 0
    for i, size in enumerate(sizes):
        if held and (client[i] != client[i - 1] or held + size > most):
            cuts.append(i)
            held = 0
        held += size
    return list(zip(cuts, [*cuts[1:], len(sizes)], strict=True)) if sizes else []


def _table(rows: Rows, wanted: NDArray[np.int64], data: Sequence[bytes]) -> pa.Table:
    taken = rows.table.take(pa.array(wanted)).combine_chunks()
    image = pa.StructArray.from_arrays(
        [pa.array(data, pa.binary()), _one(taken.column("file"))],
        fields=list(rows.schema.field("image").type),
    )
    labels = _one(taken.column("labels")).cast(pa.list_(pa.int64()))
    client = pa.array([rows.clients[rows.client[wanted[0]]]] * len(wanted), pa.string())
    columns = [image, labels if rows.multi_label else labels.flatten(), client]
    columns += [_one(taken.column("sample_id")), _one(taken.column("domain"))]
    return pa.Table.from_arrays(columns, schema=rows.schema)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()


def _client_rows(rows: Rows, groups: Sequence[tuple[int, int, NDArray[np.int64]]]) -> tuple[ClientRows, ...]:
    found = []
    first = 0
    while first < len(groups):
        client = groups[first][0]
        end = first
        while end < len(groups) and groups[end][0] == client:
            end += 1
        mine = rows.table.take(pa.array(np.concatenate([g[2] for g in groups[first:end]])))
        labels = np.unique(mine.column("labels").combine_chunks().flatten().to_numpy(), return_counts=True)
        domains = np.unique(mine.column("domain").to_numpy(zero_copy_only=False).astype(str), return_counts=True)
        found.append(
            ClientRows(
                client_id=rows.clients[client],
                row_group=first,
                row_groups=end - first,
                rows=mine.num_rows,
                bytes=sum(g[1] for g in groups[first:end]),
                labels=tuple(labels[0].tolist()),
                counts=tuple(labels[1].tolist()),
                domains=tuple(domains[0].tolist()),
                domain_counts=tuple(domains[1].tolist()),
            )
        )
        first = end
    return tuple(found)
