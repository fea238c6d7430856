"""Where the files of a dataset are: in a folder here; ``hub`` has those that are elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from fedrsic_data.dataset import manifest
from fedrsic_data.dataset.manifest import File, Manifest, Shard
from fedrsic_data.errors import ManifestError, translated
from fedrsic_data.files.atomic import file_digest


class Files(Protocol):
    """A dataset's files."""

    @property
    def folder(self) -> Path:
        """Where the manifest is on this machine."""
        ...

    @property
    def where(self) -> str:
        """A path or address that opens exactly this dataset again."""
        ...

    @property
    def manifest(self) -> Manifest:
        """The manifest."""
        ...

    def prove(self, shard: Shard) -> None:
        """Compares a shard's bytes with its digest. One that is elsewhere is fetched whole for that, and kept.

        Raises:
            ManifestError: They do not match the manifest.
        """
        ...

    def prove_tables(self) -> None:
        """Compares the plan and the client table with their digests, where they are on this machine.

        Raises:
            ManifestError: They do not match the manifest.
        """
        ...

    def parquet(self, name: str) -> AbstractContextManager[pq.ParquetFile]:
        """A Parquet file by its path beside the manifest. Plan and client table are proved before they are opened.

        Raises:
            ManifestError: It is missing or damaged, or does not match the manifest.
        """
        ...


class LocalFiles:
    """The files of a dataset in a folder of this machine."""

    def __init__(self, path: Path) -> None:
        """Reads the manifest.

        Args:
            path: It, or its folder.

        Raises:
            ManifestError: There is none, or it cannot be read.
        """
        file = manifest.located(path)
        self.folder = file.parent
        self.where = str(file.parent)
        self.manifest = manifest.load(file)

    def prove(self, shard: File | Shard) -> None:
        path = manifest.safe(self.folder, shard.path)
        if digest(path) != shard.sha256:
            raise ManifestError(f"{path}: does not match the manifest; run: fedkit verify")

    def prove_tables(self) -> None:
        self.prove(self.manifest.plan)
        self.prove(self.manifest.clients)

    def parquet(self, name: str) -> AbstractContextManager[pq.ParquetFile]:
        for table in (self.manifest.plan, self.manifest.clients):
            if table.path == name:
                self.prove(table)
        return local(manifest.safe(self.folder, name))


@contextmanager
def local(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file of this machine.

    Raises:
        ManifestError: It is missing or damaged.
    """
    with readable(str(path)):
        footer = _footer(path, *_stamp(path))
        with pq.ParquetFile(path, metadata=footer, pre_buffer=False) as file:
            yield file


def digest(path: Path) -> str:
    """sha256 of a file of this machine, in hex; read once a process, unless the file changes.

    Raises:
        ManifestError: It is missing or cannot be read.
    """
    with readable(str(path)):
        return _sha256(path, *_stamp(path))


def readable(where: str) -> AbstractContextManager[None]:
    """Report a file of a dataset that is missing or damaged as a ``ManifestError``."""
    damage = (EOFError, LookupError, ValueError, pa.ArrowException)
    return translated(ManifestError, where, fix="run: fedkit verify", also=damage)


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes when the file does."""
    stat = path.stat()
    if not S_ISREG(stat.st_mode):  # opening a pipe would block for ever
        raise FileNotFoundError("no such file")
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@lru_cache(maxsize=65536)  # each once a process, whoever asks
def _sha256(path: Path, *_: int) -> str:
    return file_digest(path)


@lru_cache(maxsize=4)  # clients are mostly read in order, and one's footer names hundreds of others
def _footer(path: Path, *_: int) -> pq.FileMetaData:
    """The footer of a Parquet file, parsed once for its clients in a row; ``_`` changes when the file does."""
    return pq.read_metadata(path)


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether it is an ``hf://`` address; also one that ``pathlib`` took a slash of."""
    return os.fspath(path).startswith("hf:/")
