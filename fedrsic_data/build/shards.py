"""Write shards: rows sorted by client, original bytes, row groups that never hold two clients.

``write`` is a pure function of a job and the bytes of its rows: the file is the same in any process and any order.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data.build.disk_table import Spilled
from fedrsic_data.dataset import images
from fedrsic_data.dataset.schema import IMAGE, class_names, whole
from fedrsic_data.errors import BadImageError, blamed
from fedrsic_data.files import atomic
from fedrsic_data.partition import names
from fedrsic_data.raw.index import Container

_WINDOW = 1024  # most images in memory at once, however small they are
_COUNTED = ("labels", "fine_labels", "domain", "client")
_AT_ONCE = 256  # images read before they are checked and put behind one another


@dataclass(frozen=True)
class Job:
    """One shard to write.

    Attributes:
        path: Relative to the dataset's folder.
        split: Name of the split.
        start: Its first row.
        count: Number of rows.
    """

    path: str
    split: str
    start: int
    count: int


@dataclass(frozen=True)
class ShardRows:
    """The rows of a subset in the order of its shards, and in each of them by client.

    Attributes:
        table: ``sample_id, labels, domain, key, file``, ``labels_unknown`` and ``fine_labels`` where there are such,
            ``origin``, int32, which container has the bytes, and ``client``, int32, index into ``clients``. In memory
            once sent.
        clients: Client names.
        containers: Read the bytes.
        schema: Schema of the shards.
    """

    table: pa.Table | Spilled
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


@dataclass(frozen=True)
class WriteOptions:
    """Settings for writing the shards of a subset.

    Attributes:
        window: Images read at a time; bounds the memory, and where a client's row groups may end.
        row_group_bytes: Image bytes after which a row group ends.
        on_bad_image: ``error`` raises at the first damaged image, ``skip`` leaves it out and lists it.
    """

    window: int
    row_group_bytes: int
    on_bad_image: Literal["error", "skip"]


@dataclass(frozen=True)
class ClientColumns:
    """Contents of a shard per client: columns of ``schema.CLIENTS_SCHEMA``, one row per client."""

    client_id: Sequence[str]
    row_group: Sequence[int]
    row_groups: Sequence[int]
    rows: Sequence[int]
    bytes: Sequence[int]
    labels: Sequence[Sequence[int]]
    counts: Sequence[Sequence[int]]
    domains: Sequence[Sequence[str]]
    domain_counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Receipt:
    """Receipt of a written shard: enough to list it in a manifest without reading it again.

    Attributes:
        path: Relative to the dataset's folder.
        split: Name of the split.
        rows: Images in it.
        bytes: Size of the file.
        sha256: Digest of the file, in hex.
        clients: What it holds of whom.
        fine_counts: Rows of each fine class, in index order; empty where there are no such classes.
        skipped: Damaged images that were left out.
    """

    path: str
    split: str
    rows: int
    bytes: int
    sha256: str
    clients: ClientColumns
    fine_counts: tuple[int, ...] = ()
    skipped: tuple[dict[str, str], ...] = ()


class HashingFile(io.RawIOBase):
    """A binary file that digests what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        """Takes a file that its owner closes."""
        self.file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: Any) -> int:
        """Writes and digests."""
        self.sha256.update(data)
        self.bytes += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.bytes

    def writable(self) -> bool:
        """Whether it is, which Arrow asks."""
        return True


class Buffer:
    """Concatenated byte strings in an mmap, whose memory is returned as soon as it is dropped."""

    def __init__(self, size: int) -> None:
        """Reserve room for ``size`` bytes; it grows when it is full."""
        self._pages = mmap.mmap(-1, size)
        self._ends = [0]

    def clear(self) -> None:
        """Starts again; the arrays that were made of it change."""
        self._ends = [0]

    def extend(self, data: Sequence[bytes]) -> None:
        """Append byte strings."""
        start = self._ends[-1]
        ends = [start + size for size in accumulate(map(len, data))]
        if data and ends[-1] > len(self._pages):
            wider = mmap.mmap(-1, 2 * ends[-1])
            wider[:start] = memoryview(self._pages)[:start]
            self._pages = wider
        for one, end in zip(data, ends, strict=True):  # not joined first: that would be as much memory again
            self._pages[end - len(one) : end] = one
        self._ends += ends

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


def write(job: Job, rows: ShardRows, folder: Path, options: WriteOptions) -> Receipt:
    """Write one shard under a unique temporary name first: an abandoned worker may still be writing the same shard.

    Args:
        job: Its rows and its path.
        rows: The subset's columns.
        folder: The dataset's folder.
        options: Settings for writing.

    Raises:
        SourceError: A file cannot be read, or is no whole image under ``error``.
    """
    target = folder / job.path
    target.parent.mkdir(parents=True, exist_ok=True)
    window, most = max(1, min(options.window, _WINDOW)), options.row_group_bytes
    groups: list[tuple[int, int]] = []  # client and image bytes, a row group each
    held: list[pa.Table] = []
    skipped: list[dict[str, str]] = []
    buffer = Buffer(most)
    with atomic.replacing(target, lasting=False) as file:
        sink = HashingFile(file)
        with parquet_writer(sink, rows.schema) as writer:
            for done in range(0, job.count, window):
                part = rows.table.slice(job.start + done, min(window, job.count - done)).combine_chunks()
                good, image = _images(rows, job.split, part, buffer, options.on_bad_image, skipped)
                table = _table(rows, good, image)
                sizes = pc.binary_length(image).to_numpy().astype(np.int64)
                client = _codes(good)
                for begin, end in _row_groups(client, sizes, most):
                    writer.write_table(table.slice(begin, end - begin), row_group_size=end - begin)
                    groups.append((int(client[begin]), int(sizes[begin:end].sum())))
                held.append(good.select([name for name in good.column_names if name in _COUNTED]))
    kept = pa.concat_tables(held).combine_chunks()
    return Receipt(
        path=job.path,
        split=job.split,
        rows=kept.num_rows,
        bytes=sink.bytes,
        sha256=sink.sha256.hexdigest(),
        clients=_client_columns(rows, kept, groups),
        fine_counts=_fine_counts(rows, kept),
        skipped=tuple(skipped),
    )


def file_names(clients: Sequence[str]) -> Sequence[str]:
    """The clients' names where all of them can be file names anywhere; else numbered ones."""
    return clients if are_file_names(clients) else names(len(clients))


def are_file_names(clients: Sequence[str]) -> bool:
    """Whether all names can be those of files and folders beside each other, on any system."""
    plain = all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,95}", name) for name in clients)
    return plain and len({name.lower() for name in clients}) == len(clients)


def packed_name(split: str, number: int, count: int) -> str:
    """The name of one of the ``count`` files of a split in which clients are together."""
    return f"{split}-{number:05d}-of-{count:05d}"


def alone(job: Job, rows: ShardRows) -> tuple[Job, ShardRows]:
    """A job with the rows and clients it needs and no others, and without containers: what goes to another process.

    Returns:
        Job and rows that give the same shard, once the rows have the containers.
    """
    part = rows.table.slice(job.start, job.count).combine_chunks()
    mine, codes = np.unique(_codes(part), return_inverse=True)
    few = replace(
        rows,
        table=part.set_column(part.column_names.index("client"), "client", pa.array(codes.astype(np.int32))),
        clients=tuple(rows.clients[code] for code in mine),
        containers=(),
    )
    return replace(job, start=0), few


def read(part: pa.Table, containers: Sequence[Container]) -> list[bytes]:
    """The image files of rows with ``key`` and ``origin``, as they are."""
    keys = part.column("key").to_pylist()
    origins = part.column("origin").to_numpy()
    data: list[bytes] = [b""] * len(keys)
    for origin in np.unique(origins):
        places = np.flatnonzero(origins == origin)
        with blamed("container", type(containers[origin])):
            for place, one in zip(places, containers[origin].read([keys[i] for i in places]), strict=True):
                data[place] = one
    return data


def _images(
    rows: ShardRows, split: str, part: pa.Table, buffer: Buffer, on_bad_image: str, skipped: list[dict[str, str]]
) -> tuple[pa.Table, pa.Array]:
    """Those of some rows that have whole images, and these: binary [n], in the buffer."""
    good: list[int] = []
    buffer.clear()
    for start in range(0, part.num_rows, _AT_ONCE):
        data: list[bytes] = []
        for row, one in enumerate(read(part.slice(start, _AT_ONCE), rows.containers), start):
            try:
                images.check(one, "")
            except BadImageError as error:
                reason = str(error).removeprefix(": ")
                skipped.append(_refused(rows, split, part.slice(row, 1).to_pylist()[0], reason, on_bad_image))
            else:
                good.append(row)
                data.append(one)
        buffer.extend(data)
    kept = part if len(good) == part.num_rows else part.take(pa.array(good, pa.int64())).combine_chunks()
    return kept, buffer.array()


def _refused(rows: ShardRows, split: str, row: Mapping[str, Any], reason: str, on_bad_image: str) -> dict[str, str]:
    """A damaged image as it is listed among those left out.

    Raises:
        BadImageError: None is to be left out.
    """
    if on_bad_image == "error":
        raise BadImageError(f"{rows.containers[row['origin']].where(row['key'])}: {reason}") from None
    client = rows.clients[row["client"]]
    return {"sample_id": row["sample_id"], "client_id": client, "split": split, "reason": reason.split(";")[0]}


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


def _codes(part: pa.Table) -> NDArray[np.int32]:
    """The clients of some rows, int32 [n]."""
    return np.asarray(part.column("client").to_numpy())


def _table(rows: ShardRows, part: pa.Table, data: pa.Array) -> pa.Table:
    column = {name: whole(part.column(name)) for name in part.column_names}
    image = pa.StructArray.from_arrays([data, column["file"]], fields=list(IMAGE))
    column |= {"image": image, "client_id": rows.names.take(column["client"])}
    if not rows.multi_label:
        column["label"] = column["labels"].flatten()
    return pa.Table.from_arrays([column[f.name].cast(f.type) for f in rows.schema], schema=rows.schema)


def _fine_counts(rows: ShardRows, kept: pa.Table) -> tuple[int, ...]:
    if "fine_labels" not in rows.schema.names:
        return ()
    codes = whole(kept.column("fine_labels")).flatten().to_numpy()
    return tuple(np.bincount(codes, minlength=len(class_names(rows.schema, "fine_labels"))).tolist())


def _client_columns(rows: ShardRows, kept: pa.Table, groups: Sequence[tuple[int, int]]) -> ClientColumns:
    """Contents of a shard per client, by the columns of the client table."""
    owner = _codes(kept)
    clients = owner[np.flatnonzero(np.diff(owner, prepend=-1))]
    place = np.repeat(np.arange(len(clients)), np.diff([*np.flatnonzero(np.diff(owner, prepend=-1)), len(owner)]))
    of_group = np.array([client for client, _ in groups], np.int64)
    first = np.flatnonzero(np.diff(of_group, prepend=-1))
    lists = whole(kept.column("labels"))
    domain = whole(kept.column("domain")).dictionary_encode()
    labels, counts = _counted(np.repeat(place, pc.list_value_length(lists)), lists.flatten().to_numpy(), len(clients))
    kinds, domain_counts = _counted(place, domain.indices.to_numpy(), len(clients))
    names = domain.dictionary.to_pylist()
    return ClientColumns(
        client_id=rows.names.take(pa.array(clients)).to_pylist(),
        row_group=first.tolist(),
        row_groups=np.diff([*first, len(groups)]).tolist(),
        rows=np.bincount(place, minlength=len(clients)).tolist(),
        bytes=np.add.reduceat([size for _, size in groups], first).tolist() if groups else [],
        labels=labels,
        counts=counts,
        domains=[sorted(names[i] for i in held) for held in kinds],
        domain_counts=[
            [n for _, n in sorted(zip((names[i] for i in held), many, strict=True))]
            for held, many in zip(kinds, domain_counts, strict=True)
        ],
    )


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
