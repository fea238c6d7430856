"""Read image bytes from folders, zip archives, gzipped tar archives and Parquet files."""

from __future__ import annotations

import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data.dataset.images import MAX_BYTES
from fedrsic_data.errors import SourceError, translated
from fedrsic_data.raw import archives, identical
from fedrsic_data.raw.archives import TarReader, ZipReader
from fedrsic_data.raw.index import Container

T = TypeVar("T")

_BATCH = 256  # rows of a Parquet file in memory at once
_SPILL = 4 * 2**20  # bytes of members a thread gathers before it writes them
_WORKERS = min(4, os.cpu_count() or 1)  # archives inflated at once


def reading(path: Path) -> AbstractContextManager[None]:
    """Report a source that cannot be read, by its file or else as ``path``, as a ``SourceError``."""
    return translated(SourceError, path, also=(EOFError, UnicodeError, pa.ArrowException))


def _bytes(path: str) -> bytes:
    """A file's content, or one byte more than an image may have."""
    with translated(SourceError, path):
        # os.open and two reads cost a third of Path.read_bytes, which counts at a million small files
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            size = min(os.fstat(handle).st_size, MAX_BYTES) + 1
            data = os.read(handle, size)
            while len(data) < size and (more := os.read(handle, size - len(data))):
                data += more
            return data
        finally:
            os.close(handle)


class InPlace(identical.Peekable):
    """Files that are read in place."""

    def firsts(self, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        return identical.firsts(self, keys)


class FolderContainer(InPlace):
    """Files below a folder; keys are relative paths."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = os.fspath(root) + os.sep

    def read(self, keys: Sequence[str]) -> list[bytes]:
        return [_bytes(self._prefix + key) for key in keys]

    def where(self, key: str) -> str:
        return self._prefix + key

    def sizes(self, keys: Sequence[str]) -> list[int]:
        with reading(self.root):
            return [os.stat(self._prefix + key).st_size for key in keys]  # noqa: PTH116 - as for _bytes

    def peek(self, keys: Sequence[str]) -> list[bytes]:
        with reading(self.root):
            return [_middle(self._prefix + key) for key in keys]


def _middle(path: str) -> bytes:
    """Up to ``identical.PEEK`` bytes from the middle of a file."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as for _bytes
        file.seek(os.fstat(file.fileno()).st_size // 2)
        return file.read(identical.PEEK)


class ArchiveContainer(InPlace):
    """Members of a zip or plain tar archive; keys are member names."""

    def __init__(self, path: Path, reader: ZipReader | TarReader) -> None:
        self.path = path
        self._reader = reader

    def read(self, keys: Sequence[str]) -> list[bytes]:
        return [self._reader.read(key) for key in keys]

    def where(self, key: str) -> str:
        return f"{self.path}!{key}"

    def sizes(self, keys: Sequence[str]) -> list[int]:
        return [self._reader.size(key) for key in keys]

    def peek(self, keys: Sequence[str]) -> list[bytes]:
        return [self._reader.middle(key, identical.PEEK) for key in keys]


class LayeredContainer(InPlace):
    """Several containers at once; keys are the number of one, a slash, and its own key."""

    def __init__(self, layers: Sequence[InPlace]) -> None:
        self.layers = tuple(layers)

    def read(self, keys: Sequence[str]) -> list[bytes]:
        return self._each(keys, lambda layer: layer.read)

    def sizes(self, keys: Sequence[str]) -> list[int]:
        return self._each(keys, lambda layer: layer.sizes)

    def peek(self, keys: Sequence[str]) -> list[bytes]:
        return self._each(keys, lambda layer: layer.peek)

    def where(self, key: str) -> str:
        number, _, inner = key.partition("/")
        return self.layers[int(number)].where(inner)

    def _each(self, keys: Sequence[str], method: Callable[[InPlace], Callable[[list[str]], list[T]]]) -> list[T]:
        """Combine the layers' answers for their keys, in the order of ``keys``; each layer is called once."""
        rows: dict[str, dict[int, str]] = defaultdict(dict)
        for row, key in enumerate(keys):
            number, _, inner = key.partition("/")
            rows[number][row] = inner
        found: dict[int, T] = {}
        for number, mine in rows.items():
            found |= zip(mine, method(self.layers[int(number)])(list(mine.values())), strict=True)
        return [found[row] for row in range(len(keys))]


class _Flat(Container, ABC):
    """Images in files that can only be read in order, wanted in the order of clients; keys are row numbers.

    The files are read once, in order, into a flat scratch file, and rows are read from there.
    """

    def __init__(self) -> None:
        self._scratch: IO[bytes] | None = None
        self._starts = self._lengths = np.zeros(0, np.int64)

    @abstractmethod
    def _digests(self) -> NDArray[np.int64]:
        """``identical.digests`` of all rows, read in order, int64 [N, 3]."""

    def firsts(self, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        return identical.firsts_of(self._digests()[keys.cast(pa.int64()).to_numpy()])

    @abstractmethod
    def _fill(self, file: IO[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Writes the bytes of all rows to a file; gives where each row's start and how many they are."""

    def prepare(self, scratch: Path, *, shared: bool = False) -> None:
        """Writes as many bytes as the images have."""
        if self._scratch is None or (shared and not isinstance(self._scratch.name, str)):
            if shared:
                file = cast("IO[bytes]", tempfile.NamedTemporaryFile(dir=scratch, buffering=0, delete=False))  # noqa: SIM115
            else:
                file = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115 - lives as long as the container
            self._starts, self._lengths = self._fill(file)
            self._scratch = file

    def __getstate__(self) -> dict[str, Any]:
        name = None if self._scratch is None else self._scratch.name
        assert name is None or isinstance(name, str), "was not prepared to be shared"
        return {**self.__dict__, "_scratch": name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state["_scratch"] is not None:
            with reading(Path(state["_scratch"])):
                self._scratch = Path(state["_scratch"]).open("rb", buffering=0)  # noqa: SIM115 - as in prepare

    def read(self, keys: Sequence[str]) -> list[bytes]:
        assert self._scratch is not None
        handle = self._scratch.fileno()
        rows = np.array(keys, np.int64)
        starts, lengths = self._starts[rows].tolist(), self._lengths[rows].tolist()
        return [os.pread(handle, length, start) for start, length in zip(starts, lengths, strict=True)]


class ParquetContainer(_Flat):
    """Image bytes in a column of Parquet files; keys are row numbers over all files.

    The column is ``struct<bytes, path>``, as the Hub has images, or the bytes themselves. An image without bytes is
    read from its path, relative to its Parquet file or to the source's folder, and never outside of it.
    """

    def __init__(self, files: Sequence[Path], column: str = "image", root: Path | None = None) -> None:
        """``root``: the source's folder; None: that of each file."""
        super().__init__()
        self.files = tuple(files)
        self.column = column
        self.root = root
        self._first = np.cumsum([0, *(pq.read_metadata(file).num_rows for file in files)])

    def where(self, key: str) -> str:
        file = int(np.searchsorted(self._first, int(key), side="right")) - 1
        return f"{self.files[file]} (row {int(key) - self._first[file]})"

    def _fill(self, file: IO[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        lengths = [np.zeros(0, np.int64), *(_append(values, file) for values in self._images())]
        sizes = np.concatenate(lengths)
        return np.cumsum(sizes) - sizes, sizes

    def _digests(self) -> NDArray[np.int64]:
        found = [identical.digests(identical.views(values)) for values in self._images()]
        return np.concatenate([np.zeros((0, 3), np.int64), *found])

    def _images(self) -> Iterator[pa.Array]:
        """The images of all rows in order, some at a time; row by row if some are in separate files."""
        for path in self.files:
            row = 0
            for values, paths in _values(path, self.column):
                if values.null_count and paths is not None:
                    for i, name in enumerate(paths.to_pylist()):
                        here = values[i].is_valid or not name
                        yield (
                            values.slice(i, 1) if here else pa.array([self._outside(path, row + i, name)], pa.binary())
                        )
                else:
                    yield values
                row += len(values)

    def _outside(self, path: Path, row: int, name: str) -> bytes:
        """The image that a row names by a path only.

        Raises:
            SourceError: There is no such file, or not in the source's folder.
        """
        root = self.root or path.parent
        for folder in (path.parent, root):
            try:
                there = (folder / name).resolve()
                if there.is_relative_to(root.resolve()) and there.is_file():
                    return _bytes(os.fspath(there))
            except (OSError, ValueError):  # a name that no file can have
                pass
        raise SourceError(
            f"{path} (row {row}): holds no image bytes, only the path {name!r}, which is not a file inside {root}; "
            "put the images there, or their bytes into the column"
        )


class TarGzContainer(_Flat):
    """Members of gzipped tar archives, of which each is inflated once, several at a time.

    Keys are row numbers of ``names``; a member is identified by the last part of its name, in any archive.
    Members that no row names are ignored.
    """

    def __init__(self, archives: Sequence[Path], names: pa.Array, fix: str) -> None:
        """``fix``: what to do if a row's member is in no archive, for the message."""
        super().__init__()
        self.archives = tuple(archives)
        self.names = names
        self._fix = fix
        self._archive = np.full(len(names), -1, np.int32)  # which one has a row's member

    def where(self, key: str) -> str:
        name, archive = self.names[int(key)].as_py(), int(self._archive[int(key)])
        return f"{self.archives[archive]}!{name}" if archive >= 0 else name

    def _fill(self, file: IO[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        starts, lengths = self._members(_Shared(file).append, 2).T
        return starts, lengths

    def _digests(self) -> NDArray[np.int64]:
        return self._members(identical.digests, 3)

    def _members(self, take: Callable[[list[bytes]], NDArray[np.int64]], width: int) -> NDArray[np.int64]:
        """Apply ``take`` to the member of each row, int64 [N, width], from several threads."""
        told, self._archive[:] = np.zeros((len(self.names), width), np.int64), -1
        with ThreadPoolExecutor(min(_WORKERS, max(len(self.archives), 1))) as pool:
            found = [pool.submit(_taken, archive, take, width) for archive in self.archives]
            try:
                for number, future in enumerate(found):
                    members, facts = future.result()
                    row = pc.index_in(members, value_set=self.names)
                    known = row.is_valid().to_numpy(zero_copy_only=False)
                    mine = row.drop_null().to_numpy()
                    self._once(number, mine)
                    told[mine], self._archive[mine] = facts[known], number
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self._all()
        return told

    def _once(self, number: int, rows: NDArray[np.int32]) -> None:
        """Refuse an archive with a member that it or an earlier one also has."""
        before, twice = rows[self._archive[rows] >= 0], np.flatnonzero(np.bincount(rows) > 1)
        if len(before) or len(twice):
            row = int([*before, *twice][0])
            other = self.archives[self._archive[row] if len(before) else number].name
            raise SourceError(f"{self.archives[number]}: {self.names[row].as_py()} is in {other} too; keep one")

    def _all(self) -> None:
        absent = np.flatnonzero(self._archive < 0)
        if len(absent):
            raise SourceError(
                f"{self.archives[0].parent}: {len(absent):,} of {len(self.names):,} images are in no archive, e.g. "
                f"{self.names[int(absent[0])].as_py()}; {self._fix}"
            )


class _Shared:
    """A file that several threads append to, each piece at a place of its own."""

    def __init__(self, file: IO[bytes]) -> None:
        self._handle = file.fileno()
        self._lock = threading.Lock()
        self._end = 0

    def append(self, files: list[bytes]) -> NDArray[np.int64]:
        """Writes files end to end; gives where each starts and how long it is, int64 [n, 2]."""
        sizes = np.array([len(one) for one in files], np.int64)
        with self._lock:
            start = self._end
            self._end += int(sizes.sum())
        view, at = memoryview(b"".join(files)), start
        while view:
            written = os.pwrite(self._handle, view, at)
            view, at = view[written:], at + written
        return np.column_stack([start + np.cumsum(sizes) - sizes, sizes])


def _taken(
    archive: Path, take: Callable[[list[bytes]], NDArray[np.int64]], width: int
) -> tuple[pa.Array, NDArray[np.int64]]:
    """The names of an archive's members, and what ``take`` makes of them, a few MB at a time: int64 [n, width]."""
    names: list[str] = []
    told = [np.zeros((0, width), np.int64)]
    held: list[bytes] = []
    room = _SPILL
    for name, data in archives.targz_files(archive):
        names.append(name.rpartition("/")[2])
        held.append(data)
        room -= len(data)
        if room <= 0:
            told.append(take(held))
            held, room = [], _SPILL
    told.append(take(held))
    return pa.array(names, pa.string()), np.concatenate(told)


def _values(path: Path, column: str) -> Iterator[tuple[pa.Array, pa.Array | None]]:
    """The images of a file, some rows at a time, as binary arrays, null without one; and their paths, if they have."""
    with reading(path), pq.ParquetFile(path, pre_buffer=False) as parquet:
        kind = parquet.schema_arrow.field(column).type
        fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
        texts = [name for name in ("path",) if name in fields and not pa.types.is_null(fields[name])]
        wanted = [f"{column}.{name}" for name in ("bytes", *texts)] if fields else [column]
        for batch in parquet.iter_batches(_BATCH, columns=wanted, use_threads=False):
            images = pc.struct_field(batch.column(0), "bytes") if fields else batch.column(0)
            paths = pc.struct_field(batch.column(0), "path").cast(pa.string()) if texts else None
            yield (images.cast(pa.binary()) if pa.types.is_null(images.type) else images), paths


def _append(values: pa.Array, file: IO[bytes]) -> NDArray[np.int64]:
    """Writes the bytes of a binary array end to end; gives the length of each value, 0 for null."""
    filled = values.fill_null(b"")
    _, offsets, data = filled.buffers()
    wide = np.int64 if pa.types.is_large_binary(filled.type) else np.int32
    at = np.frombuffer(offsets, wide)[filled.offset : filled.offset + len(filled) + 1].astype(np.int64)
    view = memoryview(data or b"")[at[0] : at[-1]]
    while view:
        view = view[file.write(view) :]
    return np.diff(at)
