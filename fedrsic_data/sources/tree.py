"""Files of a source that comes as several folders and archives, in any mix."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from fedrsic_data.errors import SourceError
from fedrsic_data.raw.archives import TarReader, ZipReader
from fedrsic_data.raw.containers import ArchiveContainer, FolderContainer, InPlace, LayeredContainer, reading
from fedrsic_data.raw.index import fingerprint
from fedrsic_data.sources.classfolders import folders_below, utf8

_BLOCK = 1024 * 1024  # bytes of a file read at a time
_READERS: dict[str, type[ZipReader] | type[TarReader]] = {".zip": ZipReader, ".tar": TarReader}


class _Layer(Protocol):
    """A folder tree or an archive."""

    container: InPlace
    stamps: list[tuple[str, int, int]]  # of what was listed: name, bytes, time of the last change
    newest: int  # when the youngest of it last changed

    def files(self, folder: str) -> Iterator[tuple[str, str]]:
        """Names and keys of the files straight in every folder called so."""
        ...

    def blocks(self, key: str) -> Iterator[bytes]:
        """The bytes of a file."""
        ...


class Tree:
    """A folder, and the archives in it as if they were unpacked in place; or one archive.

    A file in a folder takes precedence over one in an archive, and archives over those with later names.

    Attributes:
        path: Its place.
        container: Reads the files by their keys.
    """

    def __init__(self, path: Path, archives: Sequence[str]) -> None:
        """List the files at ``path``.

        Args:
            path: A folder, a zip or a plain tar archive.
            archives: Names of the archives that are taken in where they lie in the folder.

        Raises:
            SourceError: It is none of these, or an archive is damaged.
        """
        self.path = path
        self._layers: list[_Layer] = []
        with reading(path):
            if path.is_dir():
                folders = folders_below(path)
                self._layers.append(_Folders(path, folders))
                wanted = {name.lower() for name in archives}
                here = [
                    Path(e.path) for f in folders for e in os.scandir(f) if e.name.lower() in wanted and e.is_file()
                ]
                files = sorted(here, key=lambda file: (file.name.lower(), file))
            elif path.is_file() and path.suffix.lower() in _READERS:
                files = [path]
            else:
                words = "not a folder, .zip or .tar; unpack it and give the folder"
                raise SourceError(f"{path}: {words if path.exists() else 'does not exist'}")
        self._layers += [_Archive(file) for file in files]
        self.container = LayeredContainer([layer.container for layer in self._layers])

    def files(self, folder: str) -> dict[str, str]:
        """The files straight in the folders of this name, hidden ones left alone.

        Args:
            folder: Its name, or the last parts of its path (``VOC2007/JPEGImages``).

        Returns:
            File name -> the key that ``container`` reads it by.

        Raises:
            SourceError: It cannot be read.
        """
        found: dict[str, str] = {}
        for name, key in self.each(folder):
            found.setdefault(name, key)
        return found

    def each(self, folder: str) -> Iterator[tuple[str, str]]:
        """Names and keys as of ``files``, those of a name that is there several times included."""
        with reading(self.path):
            for number, layer in enumerate(self._layers):
                for name, key in layer.files(folder):
                    if not name.startswith("."):
                        yield name, f"{number}/{key}"

    def blocks(self, key: str) -> Iterator[bytes]:
        """A file in blocks of at most 1 MiB.

        Raises:
            SourceError: It cannot be read.
        """
        number, _, inner = key.partition("/")
        with reading(self.path):
            yield from self._layers[int(number)].blocks(inner)

    def read(self, key: str) -> bytes:
        """All of a small file; errors as for ``blocks``."""
        return self.container.read([key])[0]

    def where(self, key: str) -> str:
        """The file in words, for messages."""
        return self.container.where(key)

    @property
    def fingerprint(self) -> str:
        """Changes when an archive, or a file in a folder that was listed, changes."""
        return fingerprint(stamp for layer in self._layers for stamp in sorted(layer.stamps))

    @property
    def newest(self) -> int:
        """When one of them last changed, in nanoseconds since the epoch."""
        return max((layer.newest for layer in self._layers), default=0)


class _Folders:
    def __init__(self, root: Path, folders: Sequence[Path]) -> None:
        self.container: InPlace = FolderContainer(root)
        self.stamps: list[tuple[str, int, int]] = []
        self.newest = 0
        self._root = root
        self._folders = folders

    def files(self, folder: str) -> Iterator[tuple[str, str]]:
        first, *rest = folder.split("/")
        named = (f.joinpath(*rest) for f in self._folders if f.absolute().name == first)
        for path in (path for path in named if path.is_dir()):
            prefix = "" if path == self._root else path.relative_to(self._root).as_posix() + "/"
            for entry in os.scandir(path):
                if entry.is_file():
                    stat, key = entry.stat(), prefix + entry.name
                    utf8(key, self._root)
                    self.stamps.append((key, stat.st_size, stat.st_mtime_ns))
                    self.newest = max(self.newest, stat.st_mtime_ns, stat.st_ctime_ns)
                    yield entry.name, key

    def blocks(self, key: str) -> Iterator[bytes]:
        with (self._root / key).open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                yield block


class _Archive:
    def __init__(self, path: Path) -> None:
        self._reader = _READERS[path.suffix.lower()](path)
        self.container: InPlace = ArchiveContainer(path, self._reader)
        with reading(path):
            stat = path.stat()
        self.stamps = [(path.name, stat.st_size, stat.st_mtime_ns)]
        self.newest = max(stat.st_mtime_ns, stat.st_ctime_ns)
        self._parents: dict[str, list[str]] = defaultdict(list)
        for name in self._reader.names:
            self._parents[name.rpartition("/")[0]].append(name)

    def files(self, folder: str) -> Iterator[tuple[str, str]]:
        for parent, names in self._parents.items():
            if f"/{parent}".endswith(f"/{folder}"):
                yield from ((name.rpartition("/")[2], name) for name in names)

    def blocks(self, key: str) -> Iterator[bytes]:
        return self._reader.blocks(key)


def check_complete(path: Path, title: str, absent: Sequence[str], images: int, allow_partial: bool) -> None:
    """Refuse a copy without images, or an incomplete one unless that is allowed.

    Args:
        path: Its place.
        title: Title of the source.
        absent: Descriptions of what it lacks.
        images: Number of usable images.
        allow_partial: Whether it may be incomplete.

    Raises:
        SourceError: The copy is refused.
    """
    if absent and not allow_partial:
        way = "Complete it, or use what is there with --allow-partial"
        raise SourceError(f"{path}: this copy of {title} is incomplete; {'; '.join(absent)}. {way}")
    if not images:
        raise SourceError(
            f"{path}: holds no image of {title} with labels; {'; '.join(absent) or 'its lists are empty'}"
        )
