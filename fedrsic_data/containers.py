"""Where image bytes come from: folders, zip archives, Parquet files."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fedrsic_data.archives import ZipReader
from fedrsic_data.errors import SourceError
from fedrsic_data.images import MAX_BYTES


class FolderContainer:
    """Files below a folder; keys are relative paths."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = os.fspath(root) + os.sep

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

    def read(self, keys: Sequence[str]) -> list[bytes]:
        """See ``Container.read``."""
        return [self._reader.read(key) for key in keys]

    def where(self, key: str) -> str:
        """See ``Container.where``."""
        return f"{self.path}!{key}"


class ParquetContainer:
    """Image bytes in the ``image`` column of Parquet files; keys are ``file:row-group:row``."""

    def __init__(self, files: Sequence[Path], column: str = "image") -> None:
        self.files = tuple(files)
        self.column = column
        self._lock = threading.Lock()
        self._open: dict[int, pq.ParquetFile] = {}

    def read(self, keys: Sequence[str]) -> list[bytes]:
        """See ``Container.read``. Each row group is read once per call, whatever the order of the keys."""
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for place, key in enumerate(keys):
            file, group, row = map(int, key.split(":"))
            wanted[file, group].append((row, place))
        found: list[bytes] = [b""] * len(keys)
        for (file, group), rows in sorted(wanted.items()):
            images = self._group(file, group)
            for row, place in rows:
                found[place] = images[row].as_py() or b""
        return found

    def where(self, key: str) -> str:
        """See ``Container.where``."""
        file, group, row = map(int, key.split(":"))
        return f"{self.files[file]} (row group {group}, row {row})"

    def _group(self, file: int, group: int) -> pa.Array:
        try:
            with self._lock:
                if file not in self._open:
                    self._open[file] = pq.ParquetFile(self.files[file])
                table = self._open[file].read_row_group(group, columns=[f"{self.column}.bytes"], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{self.files[file]}: cannot be read ({error})") from None
        return table.column(0).combine_chunks().field("bytes")
