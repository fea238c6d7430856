"""Finds images laid out by class below a path: plain folders, a zip archive, or a Parquet mirror.

The three forms give the same entries in the same order, so a plan does not depend on which one a person has.
"""

from __future__ import annotations

import heapq
import json
import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data.dataset.images import SUFFIXES
from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.errors import SourceError
from fedrsic_data.raw.archives import ZipReader
from fedrsic_data.raw.containers import ArchiveContainer, FolderContainer, ParquetContainer, reading
from fedrsic_data.raw.index import Container, fingerprint, stamped

_EXAMPLES = 5
_DEPTH = 3  # how far below the given path class folders, archives and Parquet files are looked for
_NONE, _BYTES, _PATH = pa.null(), (pa.binary(), pa.large_binary()), (pa.string(), pa.large_string())


@dataclass(frozen=True)
class Entries:
    """The images of one class in natural order: container keys, file names, and those without the ending.

    Attributes:
        keys: string [N].
        files: string [N].
        stems: string [N].
    """

    keys: pa.Array
    files: pa.Array
    stems: pa.Array

    @classmethod
    def of(cls, keys: pa.Array, files: pa.Array) -> Entries:
        """From keys and file names in any order."""
        order = natural_order(files)
        files = files.take(order)
        return cls(keys.take(order), files, pc.replace_substring_regex(files, r"(?s)^(.+)\.[^.]*$", r"\1"))

    @classmethod
    def of_paths(cls, paths: Sequence[str]) -> Entries:
        """From paths, which are keys, in any order."""
        keys = pa.array(paths, pa.string())
        return cls.of(keys, base_names(keys))

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Found:
    """The images of a source by class name, in natural order, and what reads them."""

    files: dict[str, Entries]
    container: Container
    fingerprint: str
    newest: int
    left_out: tuple[LeftOut, ...] = ()


def natural_order(names: pa.Array) -> pa.Array:
    """The order of names in which ``forest(2)`` precedes ``forest(10)``: int [N] row numbers, stable.

    Texts and numbers, of up to 18 digits each, are compared in turn, and equal numbers as they are written. Arrow
    sorts by texts that compare byte by byte as these do: a number is padded to 18 digits and followed by itself, and
    what ends a text or a number is lower than any character.
    """
    wide = names.cast(pa.large_string())  # the padded texts may be longer than 2 GiB together
    marked = pc.replace_substring_regex(wide, "([0-9]{1,18})", "\0" + "0" * 17 + "\\1\x01\\1\0")
    return pc.sort_indices(pc.replace_substring_regex(marked, r"\x00[0-9]*?([0-9]{18})\x01", "\0\\1"))


def padded(texts: pa.Array, width: int) -> pa.Array:
    """The texts with every number in them of at least ``width`` digits."""
    marked = pc.replace_substring_regex(texts, "([0-9]+)", "\0\\1\0")
    for digits in range(1, width):
        zeros = "0" * (width - digits)
        marked = pc.replace_substring_regex(marked, rf"\x00([0-9]{{{digits}}})\x00", rf"{zeros}\1")
    return pc.replace_substring(marked, "\0", "")


def base_names(paths: pa.Array) -> pa.Array:
    """The last part of each path."""
    return pc.replace_substring_regex(paths, "(?s)^.*/", "")


def plain(name: str) -> str:
    """Letters and digits of a name, lower case: ``Storage Tank`` and ``storage_tank`` are one class."""
    return "".join(c for c in name.lower() if c.isalnum())


def find(path: Path, source: str, classes: Sequence[str], layout: str) -> Found:
    """Looks for class folders, then a zip archive, then Parquet files below ``path``.

    Args:
        path: A folder or an archive.
        source: The source's name, for messages.
        classes: Its class names; anything else that looks like a class is an error.
        layout: The native layout, for messages.

    Raises:
        SourceError: Nothing fits, or a class is unknown.
    """
    with reading(path):
        return _find(path, source, {plain(name): name for name in classes}, layout)


def _find(path: Path, source: str, known: dict[str, str], layout: str) -> Found:
    if not path.exists():
        raise SourceError(f"{path}: does not exist; give the folder or archive of {source}")
    if path.is_file() and path.suffix.lower() == ".zip":
        return _zip(path, source, known, layout)
    if path.is_file() and path.suffix.lower() == ".parquet":
        return _parquet([path], source, known)
    if not path.is_dir():
        raise SourceError(f"{path}: not a folder, .zip or .parquet; unpack it and give the folder")
    for folder in folders_below(path):
        if any(plain(entry.name) in known for entry in os.scandir(folder) if entry.is_dir()):
            return _folder(folder, source, known)
    for pattern, reader in ((".zip", _zip), (".parquet", None)):
        entries = (f for folder in folders_below(path) for f in sorted(folder.iterdir()))
        files = [f for f in entries if f.suffix.lower() == pattern and f.is_file()]
        if files and reader is None:
            return _parquet(files, source, known)
        if len(files) > 1:
            raise SourceError(f"{path}: {len(files)} archives ({files[0].name}, {files[1].name}...); name one of them")
        if files and reader is not None:
            return reader(files[0], source, known, layout)
    raise SourceError(f"{path}: no class folders, zip archive or Parquet files of {source}; expected {layout}")


def folders_below(path: Path) -> list[Path]:
    """``path`` and the folders up to ``_DEPTH`` below it, shallow first, hidden ones left alone."""
    levels = [[path]]
    for _ in range(_DEPTH):
        below = [
            Path(entry.path)
            for folder in levels[-1]
            for entry in sorted(os.scandir(folder), key=lambda e: e.name)
            if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
        ]
        levels.append(below)
    return [folder for level in levels for folder in level]


def _folder(root: Path, source: str, known: dict[str, str]) -> Found:
    files: dict[str, Entries] = {}
    stamps: list[tuple[str, int, int]] = []
    others = Others(root)
    newest = 0
    for folder in sorted(os.scandir(root), key=lambda e: e.name):
        if not folder.is_dir() or folder.name.startswith((".", "__MACOSX")):
            continue
        keys = []
        name = _class(folder.name, source, known, f"{root}{os.sep}{folder.name}")
        for file in os.scandir(folder.path):
            key = utf8(f"{folder.name}/{file.name}", root)
            if not is_image(file.name) or not file.is_file():
                others.add(key, file)
                continue
            facts = file.stat()
            keys.append(key)
            stamps.append((key, facts.st_size, facts.st_mtime_ns))
            newest = max(newest, facts.st_mtime_ns, facts.st_ctime_ns)
        if name in files:
            raise SourceError(f"{root}: two folders for class {name!r} of {source}; keep one")
        files[name] = Entries.of_paths(keys)
    return Found(files, FolderContainer(root), fingerprint(sorted(stamps)), newest, others.left_out())


def _zip(path: Path, source: str, known: dict[str, str], layout: str) -> Found:
    reader = ZipReader(path)
    members: dict[str, list[str]] = defaultdict(list)
    roots: set[PurePosixPath] = set()
    others = Others(path)
    for member in reader.names:
        place = PurePosixPath(member)
        if not is_image(place.name) or len(place.parts) < 2:
            others.add(member)
            continue
        name = _class(place.parent.name, source, known, f"{path}!{place.parent}")
        roots.add(place.parent.parent)
        members[name].append(member)
    if not members:
        raise SourceError(f"{path}: no images in class folders of {source}; expected {layout}")
    if len(roots) > 1:
        first, second = sorted(map(str, roots))[:2]
        raise SourceError(f"{path}: class folders are in two places, {first} and {second}; keep one")
    facts = path.stat()
    stamp = fingerprint([path.name, facts.st_size, facts.st_mtime_ns])
    files = {name: Entries.of_paths(paths) for name, paths in members.items()}
    newest = max(facts.st_mtime_ns, facts.st_ctime_ns)
    return Found(files, ArchiveContainer(path, reader), stamp, newest, others.left_out())


def _parquet(paths: Sequence[Path], source: str, known: dict[str, str]) -> Found:
    names = list(known.values())
    place = {name: i for i, name in enumerate(names)}
    codes: list[NDArray[np.int64]] = []
    files: list[pa.ChunkedArray] = []
    for path in paths:
        own = np.array([place[_class(name, source, known, str(path))] for name in _label_names(path)], np.int64)
        with reading(path), pq.ParquetFile(path) as parquet:
            table = parquet.read(columns=["image.path", "label"])
        labels = pc.fill_null(table.column("label").cast(pa.int64()), -1).to_numpy()
        if len(bad := np.flatnonzero((labels < 0) | (labels >= len(own)))):
            value = table.column("label")[int(bad[0])].as_py()
            raise SourceError(f"{path}: row {bad[0]} has label {value!r}, not a class")
        codes.append(own[labels])
        files.append(pa.chunked_array([pc.struct_field(part, "path") for part in table.column("image").chunks]))
    code = np.concatenate([np.zeros(0, np.int64), *codes])
    paths_of = pa.concat_arrays([pa.array([], pa.string()), *(c.cast(pa.string()) for f in files for c in f.chunks)])
    file = named(paths_of, pa.array(np.arange(len(code))))
    order = np.argsort(code, kind="stable")
    ends = np.cumsum(np.bincount(code, minlength=len(names)))
    entries = {}
    for name, rows in zip(names, np.split(order, ends[:-1]), strict=True):
        if len(rows):
            entries[name] = Entries.of(pa.array(rows).cast(pa.string()), file.take(pa.array(rows)))
    return Found(entries, ParquetContainer(paths), *stamped(paths))


def named(paths: pa.Array, numbers: pa.Array) -> pa.Array:
    """File names from the paths of Parquet rows: string [N]; ``row-0000012`` for an image without one.

    Args:
        paths: string [N], with slashes of either kind, or null.
        numbers: int [N], the rows' numbers.
    """
    file = base_names(pc.utf8_rtrim(pc.replace_substring(paths, "\\", "/"), "/"))
    padded = pc.utf8_lpad(numbers.cast(pa.string()), 7, "0")
    return pc.if_else(pc.equal(pc.fill_null(file, ""), ""), pc.binary_join_element_wise("row-", padded, ""), file)


def _label_names(path: Path) -> list[str]:
    """The class names a Parquet mirror carries in its schema, once its columns are what we read."""
    with reading(path):
        schema = pq.read_schema(path)
    kinds = dict(zip(schema.names, schema.types, strict=True))
    columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    image = {part.name: part.type for part in kinds["image"]} if pa.types.is_struct(kinds.get("image", _NONE)) else {}
    if image.get("bytes", _NONE) not in _BYTES or image.get("path", _NONE) not in _PATH:
        raise SourceError(f"{path}: no image column of bytes and path; columns are {columns}")
    if not pa.types.is_integer(kinds.get("label", _NONE)):
        raise SourceError(f"{path}: no integer label column; columns are {columns}")
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features["label"]["names"]]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise SourceError(f"{path}: the schema names no classes for column label; use another copy") from None


def _class(folder: str, source: str, known: dict[str, str], where: str) -> str:
    name = known.get(plain(folder))
    if name is None:
        raise SourceError(
            f"{where}: {folder!r} is not one of the {len(known)} classes of {source}; "
            "move it away, or name the right folder with --source"
        )
    return name


def utf8(name: str, root: Path) -> str:
    """A file's name, which is to become a text in tables."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{root}: file name {name!a} is not UTF-8; rename the file") from None
    return name


def is_image(name: str) -> bool:
    """Whether a file's name is one of an image."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def is_litter(name: str) -> bool:
    """Whether a file is what operating systems leave behind."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


class Others:
    """Count other files among the images below a folder, by reason; files that systems leave behind are ignored."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: dict[str, tuple[int, list[str]]] = {}

    def add(self, path: str, entry: os.DirEntry[str] | None = None) -> None:
        """Counts one.

        Args:
            path: From the root.
            entry: Its place in a folder; None in an archive, which holds files alone.
        """
        name = path.rpartition("/")[2]
        if not is_litter(name):
            reason = "not named as an image" if entry is None or not is_image(name) else no_file(entry)
            count, some = self._found.get(reason, (0, []))
            self._found[reason] = count + 1, heapq.nsmallest(_EXAMPLES, [*some, path])

    def left_out(self) -> tuple[LeftOut, ...]:
        """The counts."""
        return tuple(
            LeftOut(reason, count, tuple(utf8(path, self._root) for path in some))
            for reason, (count, some) in sorted(self._found.items(), reverse=True)
        )


def no_file(path: str | os.PathLike[str]) -> str:
    """Describe an entry that is not a regular file; it is never opened, since a pipe would block."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return "a link that leads nowhere" if Path(path).is_symlink() else "a name of nothing"
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return f"{kinds.get(stat.S_IFMT(mode), 'a device')} and no file"
