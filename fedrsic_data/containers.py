"""Where image bytes come from: folders, zip archives, Parquet files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data.archives import ZipReader
from fedrsic_data.errors import SourceError
from fedrsic_data.images import MAX_BYTES

_BATCH = 256  # rows of a Parquet file in memory at once


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong in reading a source into one line that names the file, or else ``path``.

    Raises:
        SourceError: The operating system refuses, or the content is not what it should be.
    """
    try:
        yield
    except (OSError, EOFError, UnicodeError, pa.ArrowException) as error:
        where = getattr(error, "filename", None) or path
        words = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SourceError(f"{where}: cannot be read ({words})") from None


class FolderContainer:
    """Files below a folder; keys are relative paths."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = os.fspath(root) + os.sep

    def prepare(self, scratch: Path) -> None:
        """See ``Container.prepare``: nothing to do."""

    def read(self, keys: Sequence[str]) -> list[bytes]:
        """See ``Container.read``."""
        return [self._read(self._prefix + key) for key in keys]

    def where(self, key: str) -> str:
        """See ``Container.where``."""
        return self._prefix + key

    def _read(self, path: str) -> bytes:
        # os.open and two reads cost a third of Path.read_bytes, which counts at a million small files
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            size = min(os.fstat(handle).st_size, MAX_BYTES) + 1
            data = os.read(handle, size)
            while len(data) < size and (more := os.read(handle, size - len(data))):
                data += more
            return data
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror})") from None
        finally:
            os.close(handle)


class ZipContainer:
    """Members of a zip archive, read in place; keys are member names."""

    def __init__(self, path: Path, reader: ZipReader) -> None:
        self.path = path
        self._reader = reader

    def prepare(self, scratch: Path) -> None:
        """See ``Container.prepare``: nothing to do."""

    def read(self, keys: Sequence[str]) -> list[bytes]:
        """See ``Container.read``."""
        return [self._reader.read(key) for key in keys]

    def where(self, key: str) -> str:
        """See ``Container.where``."""
        return f"{self.path}!{key}"


class ParquetContainer:
    """Image bytes in the ``image`` column of Parquet files; keys are row numbers over all files.

    Rows are wanted in the order of clients, which is random in the files, and a row group can only be read
    whole. So the files are read once, in order, into a flat scratch file, and rows are read from there.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._first = np.cumsum([0, *(pq.read_metadata(file).num_rows for file in files)])
        self._offsets: NDArray[np.int64] | None = None
        self._scratch: IO[bytes] | None = None

    def prepare(self, scratch: Path) -> None:
        """See ``Container.prepare``: writes as many bytes as the images have."""
        if self._scratch is not None:
            return
        file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - lives as long as the container
        lengths = [np.zeros(1, np.int64)]
        for path in self.files:
            lengths.extend(_append(batch.column(0).field("bytes"), file) for batch in _batches(path))
        file.flush()
        self._offsets = np.cumsum(np.concatenate(lengths))
        self._scratch = file

    def read(self, keys: Sequence[str]) -> list[bytes]:
        """See ``Container.read``."""
        assert self._scratch is not None
        assert self._offsets is not None
        handle = self._scratch.fileno()
        rows = np.array(keys, np.int64)
        starts, ends = self._offsets[rows].tolist(), self._offsets[rows + 1].tolist()
        return [os.pread(handle, end - start, start) for start, end in zip(starts, ends, strict=True)]

    def where(self, key: str) -> str:
        """See ``Container.where``."""
        file = int(np.searchsorted(self._first, int(key), side="right")) - 1
        return f"{self.files[file]} (row {int(key) - self._first[file]})"


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with reading(path), pq.ParquetFile(path, pre_buffer=False) as parquet:
        yield from parquet.iter_batches(_BATCH, columns=["image.bytes"], use_threads=False)


def _append(values: pa.Array, file: IO[bytes]) -> NDArray[np.int64]:
    """Writes the bytes of a binary array end to end; gives the length of each value, 0 for null."""
    filled = values.fill_null(b"")
    _, offsets, data = filled.buffers()
    wide = np.int64 if pa.types.is_large_binary(filled.type) else np.int32
    at = np.frombuffer(offsets, wide)[filled.offset : filled.offset + len(filled) + 1].astype(np.int64)
    file.write(memoryview(data or b"")[at[0] : at[-1]])
    return np.diff(at)
