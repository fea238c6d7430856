"""Writes shards: rows sorted by client, original bytes, row groups that never hold two clients.

``write`` is a pure function of a job and the bytes its rows name: whoever calls it, in whatever order, with
whatever was written before, the file is the same.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data import images
from fedrsic_data.errors import BadImageError
from fedrsic_data.index import Container
from fedrsic_data.schema import IMAGE, class_names

_WINDOW = 1024  # most images in memory at once, however small they are
_AT_ONCE = 256  # images read before they are checked and put behind one another


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
        table: ``sample_id, labels, domain, key, file``, ``fine_labels`` where there are such, and ``origin``, int32,
            which container has the bytes.
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

    @cached_property
    def names(self) -> pa.Array:
        """Client names as string [clients]."""
        return pa.array(self.clients, pa.string())

    @cached_property
    def columns(self) -> pa.Table:
        """The columns that shards take over, a single chunk each."""
        return self.table.drop_columns(["key", "origin"]).combine_chunks()


@dataclass(frozen=True)
class Receipt:
    """What was written: enough to list the shard in a manifest without reading it again.

    Attributes:
        path: Relative to the dataset's folder.
        split: Name of the split.
        rows: Images in it.
        bytes: Size of the file.
        sha256: Digest of the file, in hex.
        clients: The columns of ``schema.CLIENTS_SCHEMA`` that tell what it holds of whom, a row a client.
        fine_counts: Rows of each fine class, in index order; empty where there are no such classes.
        skipped: Damaged images that were left out.
    """

    path: str
    split: str
    rows: int
    bytes: int
    sha256: str
    clients: dict[str, Any]
    fine_counts: tuple[int, ...] = ()
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


class Buffer:
    """Byte strings end to end, in pages of their own: they take what is written to them, and go back at once."""

    def __init__(self, size: int) -> None:
        """Has room for ``size`` bytes, and makes more when it is used up."""
        self._pages = mmap.mmap(-1, size)
        self._ends = [0]

    def clear(self) -> None:
        """Starts again; the arrays that were made of it change."""
        self._ends = [0]

    def extend(self, data: Sequence[bytes]) -> None:
        """Adds some."""
        joined = b"".join(data)
        start, end = self._ends[-1], self._ends[-1] + len(joined)
        if end > len(self._pages):
            wider = mmap.mmap(-1, 2 * end)
            wider[:start] = memoryview(self._pages)[:start]
            self._pages = wider
        self._pages[start:end] = joined
        self._ends += [start + size for size in accumulate(map(len, data))]

    def array(self) -> pa.Array:
        """The byte strings as binary [n], not copied.

        Raises:
            pa.ArrowInvalid: They are over 2 GiB, which no window of images is meant to be.
        """
        offsets = pa.array(self._ends, pa.int32())
        return pa.Array.from_buffers(
            pa.binary(), len(offsets) - 1, [None, offsets.buffers()[1], pa.py_buffer(self._pages)]
        )


def parquet_writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with fedkit's options: image bytes plain and uncompressed, other columns small and indexed."""
    lists = [field.name for field in schema if pa.types.is_list(field.type)]
    small = [field.name for field in schema if field.name not in ("image", *lists)]
    small += [f"{name}.list.element" for name in lists]
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
    aside: str = ".tmp",
) -> Receipt:
    """Writes one shard, aside first.

    Args:
        job: Which rows, and where to.
        rows: The subset's columns.
        folder: The dataset's folder.
        window: Images read at a time; bounds the memory, and where a client's row groups may end.
        row_group_bytes: Image bytes after which a row group ends.
        on_bad_image: ``error`` raises at the first damaged image, ``skip`` leaves it out and lists it.
        aside: What the file's name ends in until it is whole.

    Raises:
        SourceError: A file cannot be read, or is no whole image under ``error``.
    """
    target = folder / job.path
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + aside)
    window = max(1, min(window, _WINDOW))
    groups: list[tuple[int, int]] = []  # client and image bytes, a row group each
    held: list[NDArray[np.int64]] = []
    skipped: list[dict[str, str]] = []
    buffer = Buffer(row_group_bytes)
    with beside.open("wb") as file:
        sink = HashingFile(file)
        with parquet_writer(sink, rows.schema) as writer:
            for start in range(0, len(job.rows), window):
                good, image = _images(rows, job.split, job.rows[start : start + window], buffer, on_bad_image, skipped)
                table = _table(rows, good, image)
                sizes = pc.binary_length(image).to_numpy().astype(np.int64)
                for begin, end in _row_groups(rows.client[good], sizes, row_group_bytes):
                    writer.write_table(table.slice(begin, end - begin), row_group_size=end - begin)
                    groups.append((int(rows.client[good[begin]]), int(sizes[begin:end].sum())))
                held.append(good)
    os.replace(beside, target)
    kept = np.concatenate(held) if held else job.rows[:0]
    return Receipt(
        path=job.path,
        split=job.split,
        rows=len(kept),
        bytes=sink.bytes,
        sha256=sink.sha256.hexdigest(),
        clients=_client_columns(rows, kept, groups),
        fine_counts=_fine_counts(rows, kept),
        skipped=tuple(skipped),
    )


def alone(job: Job, rows: Rows) -> tuple[Job, Rows]:
    """A job with the rows and clients it needs and no others, and without containers: what goes to another process.

    Returns:
        Job and rows that give the same shard, once the rows have the containers.
    """
    wanted = pa.array(job.rows)
    client = rows.client[job.rows]
    mine, codes = np.unique(client, return_inverse=True)
    few = replace(
        rows,
        table=rows.table.take(wanted).combine_chunks(),
        client=codes.astype(np.int32),
        clients=tuple(rows.clients[code] for code in mine),
        containers=(),
    )
    return replace(job, rows=np.arange(len(job.rows))), few


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


def _images(
    rows: Rows,
    split: str,
    wanted: NDArray[np.int64],
    buffer: Buffer,
    on_bad_image: str,
    skipped: list[dict[str, str]],
) -> tuple[NDArray[np.int64], pa.Array]:
    """Which of the rows ``wanted`` have whole images, and those: int64 [n] and binary [n], in the buffer."""
    good: list[int] = []
    buffer.clear()
    for start in range(0, len(wanted), _AT_ONCE):
        few = wanted[start : start + _AT_ONCE]
        whole: list[bytes] = []
        for row, one in zip(few.tolist(), read(rows, few), strict=True):
            try:
                images.check(one, "")
            except BadImageError as error:
                skipped.append(_refused(rows, split, row, str(error).removeprefix(": "), on_bad_image))
            else:
                good.append(row)
                whole.append(one)
        buffer.extend(whole)
    return np.array(good, np.int64), buffer.array()


def _refused(rows: Rows, split: str, row: int, reason: str, on_bad_image: str) -> dict[str, str]:
    """A damaged image as it is listed among those left out.

    Raises:
        BadImageError: None is to be left out.
    """
    at = {name: rows.table.column(name)[row].as_py() for name in ("sample_id", "key", "origin")}
    if on_bad_image == "error":
        raise BadImageError(f"{rows.containers[at['origin']].where(at['key'])}: {reason}") from None
    client = rows.clients[rows.client[row]]
    return {"sample_id": at["sample_id"], "client_id": client, "split": split, "reason": reason.split(";")[0]}


def _row_groups(client: NDArray[np.int32], sizes: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Cuts a window into row groups: at every change of client, and before ``most`` bytes are exceeded."""
    cuts = np.flatnonzero(np.diff(client, prepend=-1)).tolist()
    found = []
    for begin, end in pairwise([*cuts, len(client)]):
        total = int(sizes[begin:end].sum())
        held = 0
        for i in range(begin, end) if total > most else ():
            if held and held + sizes[i] > most:
                found.append((begin, i))
                begin, held = i, 0
            held += int(sizes[i])
        found.append((begin, end))
    return found


def _table(rows: Rows, wanted: NDArray[np.int64], data: pa.Array) -> pa.Table:
    taken = rows.columns.take(pa.array(wanted)).combine_chunks()
    column = {name: taken.column(name).combine_chunks() for name in taken.column_names}
    image = pa.StructArray.from_arrays([data, column["file"]], fields=list(IMAGE))
    column |= {"image": image, "client_id": rows.names.take(pa.array(rows.client[wanted]))}
    if not rows.multi_label:
        column["label"] = column["labels"].flatten()
    return pa.Table.from_arrays([column[f.name].cast(f.type) for f in rows.schema], schema=rows.schema)


def _fine_counts(rows: Rows, kept: NDArray[np.int64]) -> tuple[int, ...]:
    if "fine_labels" not in rows.schema.names:
        return ()
    codes = rows.columns.column("fine_labels").take(pa.array(kept)).combine_chunks().flatten().to_numpy()
    return tuple(np.bincount(codes, minlength=len(class_names(rows.schema, "fine_labels"))).tolist())


def _client_columns(rows: Rows, kept: NDArray[np.int64], groups: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """What a shard holds of each client, by the columns of the client table."""
    owner = rows.client[kept]
    clients = owner[np.flatnonzero(np.diff(owner, prepend=-1))]
    place = np.repeat(np.arange(len(clients)), np.diff([*np.flatnonzero(np.diff(owner, prepend=-1)), len(owner)]))
    of_group = np.array([client for client, _ in groups], np.int64)
    first = np.flatnonzero(np.diff(of_group, prepend=-1))
    taken = rows.columns.select(["labels", "domain"]).take(pa.array(kept)).combine_chunks()
    lists = taken.column("labels").combine_chunks()
    domain = taken.column("domain").combine_chunks().dictionary_encode()
    labels, counts = _counted(np.repeat(place, pc.list_value_length(lists)), lists.flatten().to_numpy(), len(clients))
    kinds, domain_counts = _counted(place, domain.indices.to_numpy(), len(clients))
    names = domain.dictionary.to_pylist()
    return {
        "client_id": rows.names.take(pa.array(clients)).to_pylist(),
        "row_group": first.tolist(),
        "row_groups": np.diff([*first, len(groups)]).tolist(),
        "rows": np.bincount(place, minlength=len(clients)).tolist(),
        "bytes": np.add.reduceat([size for _, size in groups], first).tolist() if groups else [],
        "labels": labels,
        "counts": counts,
        "domains": [sorted(names[i] for i in held) for held in kinds],
        "domain_counts": [
            [n for _, n in sorted(zip((names[i] for i in held), many, strict=True))]
            for held, many in zip(kinds, domain_counts, strict=True)
        ],
    }


def _counted(
    place: NDArray[np.int64], codes: NDArray[np.integer], clients: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Which codes each client has, ascending, and how often."""
    width = int(codes.max(initial=0)) + 1
    cells, counts = np.unique(place * width + codes, return_counts=True)
    cuts = np.searchsorted(cells, np.arange(1, clients) * width)
    return (
        [part.tolist() for part in np.split(cells % width, cuts)] if clients else [],
        [part.tolist() for part in np.split(counts, cuts)] if clients else [],
    )
