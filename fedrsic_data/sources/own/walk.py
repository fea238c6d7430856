"""The images below a folder, and the files beside them that say what is in them.

Names are read with ``os.scandir``, a folder at a time, and kept as Arrow columns.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedrsic_data.dataset import schema
from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.errors import SourceError
from fedrsic_data.sources.classfolders import Others, is_image, utf8

_BLOCK = 1 << 16  # names held as Python texts at once


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder.

    Attributes:
        paths: The images as paths from the folder, with ``/``: string [N] in byte order.
        notes: The files that say something of them: string [M], likewise.
        fingerprint: Changes when a name, a size or a time of one of these changes.
        newest: Latest modification time, in nanoseconds since the epoch.
        left_out: Files that are neither.
    """

    paths: pa.Array
    notes: pa.Array
    fingerprint: str
    newest: int
    left_out: tuple[LeftOut, ...]


def _no_note(_: str) -> bool:
    return False


def walk(root: Path, note: Callable[[str], bool] = _no_note) -> FolderFiles:
    """All images below a folder, and what is not one; hidden folders are left alone.

    Args:
        root: The folder.
        note: Whether a path from the folder is a file that says something of the images.

    Raises:
        SourceError: No images, a link that leads back, or a name that is not UTF-8.
    """
    images, notes = _Stamps(root), _Stamps(root)
    others = Others(root)
    todo: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", (_identity(root),))]
    while todo:
        prefix, above = todo.pop()
        for entry in os.scandir(f"{root}{os.sep}{prefix}"):
            path = prefix + entry.name
            if entry.is_dir():
                if not entry.name.startswith((".", "__MACOSX")):
                    here = _identity(Path(entry.path))
                    if here in above:
                        raise SourceError(f"{entry.path}: is a link to a folder above it; remove it")
                    todo.append((path + "/", (*above, here)))
            elif is_image(entry.name) and entry.is_file():
                images.add(path, entry)
            elif entry.is_file() and note(path):  # opening a pipe would block for ever
                notes.add(path, entry)
            else:
                others.add(path, entry)
    pictures, beside = images.table(), notes.table()
    if not len(pictures):
        parquet = any(example.endswith(".parquet") for left in others.left_out() for example in left.examples)
        words = ", but Parquet files: use --parquet" if parquet else " (names that end in .jpg, .png, .tif ...)"
        raise SourceError(f"{root}: holds no images below it{words}")
    return FolderFiles(
        pictures.column("path").combine_chunks(),
        beside.column("path").combine_chunks(),
        schema.content_digest(pa.concat_tables([pictures, beside]))[:32],
        max(images.newest, notes.newest),
        others.left_out(),
    )


class _Stamps:
    """Paths, sizes and times of files."""

    def __init__(self, root: Path) -> None:
        self.newest = 0
        self._root = root
        self._names: list[str] = []
        self._paths, self._sizes, self._times = [pa.array([], pa.string())], array("q"), array("q")

    def add(self, path: str, entry: os.DirEntry[str]) -> None:
        stat = entry.stat()
        self._names.append(path)
        self._sizes.append(stat.st_size)
        self._times.append(stat.st_mtime_ns)
        self.newest = max(self.newest, stat.st_mtime_ns, stat.st_ctime_ns)
        if len(self._names) == _BLOCK:
            self._flush()

    def table(self) -> pa.Table:
        """Path, size and time of each file, in byte order of the paths."""
        self._flush()
        paths = pa.concat_arrays(self._paths)
        stamps = pa.table({"path": paths, "size": np.array(self._sizes), "time": np.array(self._times)})
        return stamps.take(pc.sort_indices(paths))

    def _flush(self) -> None:
        self._paths.append(_texts(self._names, self._root))
        self._names.clear()


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _texts(names: Sequence[str], root: Path) -> pa.Array:
    try:
        return pa.array(names, pa.string())
    except UnicodeEncodeError:
        return pa.array([utf8(name, root) for name in names], pa.string())
