"""Finds images laid out by class below a path: plain folders, a zip archive, or a Parquet mirror.

The three forms give the same entries in the same order, so a plan does not depend on which one a person has.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from fedrsic_data.archives import ZipReader
from fedrsic_data.containers import FolderContainer, ParquetContainer, ZipContainer, reading
from fedrsic_data.errors import SourceError
from fedrsic_data.images import SUFFIXES
from fedrsic_data.index import Container, LeftOut, fingerprint, natural_key

_DEPTH = 3  # how far below the given path class folders, archives and Parquet files are looked for
_NONE, _BYTES, _PATH = pa.null(), (pa.binary(), pa.large_binary()), (pa.string(), pa.large_string())


@dataclass(frozen=True)
class Entry:
    """One image: its container key, its file name, and that name without the ending."""

    key: str
    file: str
    stem: str


@dataclass(frozen=True)
class Found:
    """The images of a source by class name, in natural order, and what reads them."""

    files: dict[str, list[Entry]]
    container: Container
    fingerprint: str
    newest: int
    left_out: tuple[LeftOut, ...] = ()


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
    for folder in _folders(path):
        if any(plain(entry.name) in known for entry in os.scandir(folder) if entry.is_dir()):
            return _folder(folder, source, known)
    for pattern, reader in ((".zip", _zip), (".parquet", None)):
        entries = (f for folder in _folders(path) for f in sorted(folder.iterdir()))
        files = [f for f in entries if f.suffix.lower() == pattern and f.is_file()]
        if files and reader is None:
            return _parquet(files, source, known)
        if len(files) > 1:
            raise SourceError(f"{path}: {len(files)} archives ({files[0].name}, {files[1].name}...); name one of them")
        if files and reader is not None:
            return reader(files[0], source, known, layout)
    raise SourceError(f"{path}: no class folders, zip archive or Parquet files of {source}; expected {layout}")


def _folders(path: Path) -> list[Path]:
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
    files: dict[str, list[Entry]] = {}
    stamps: list[tuple[str, int, int]] = []
    ignored: list[str] = []
    newest = 0
    for folder in sorted(os.scandir(root), key=lambda e: e.name):
        if not folder.is_dir() or folder.name.startswith((".", "__MACOSX")):
            continue
        entries = []
        name = _class(folder.name, source, known, f"{root}{os.sep}{folder.name}")
        for file in os.scandir(folder.path):
            key = _utf8(f"{folder.name}/{file.name}", root)
            if not _is_image(file.name) or not file.is_file():
                ignored += [] if _is_litter(file.name) else [key]
                continue
            stat = file.stat()
            entries.append(_entry(key))
            stamps.append((key, stat.st_size, stat.st_mtime_ns))
            newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
        if name in files:
            raise SourceError(f"{root}: two folders for class {name!r} of {source}; keep one")
        files[name] = sorted(entries, key=lambda e: natural_key(e.file))
    return Found(files, FolderContainer(root), fingerprint(sorted(stamps)), newest, _left_out(ignored))


def _zip(path: Path, source: str, known: dict[str, str], layout: str) -> Found:
    reader = ZipReader(path)
    files: dict[str, list[Entry]] = defaultdict(list)
    roots: set[PurePosixPath] = set()
    ignored: list[str] = []
    for member in reader.names:
        place = PurePosixPath(member)
        if not _is_image(place.name) or len(place.parts) < 2:
            ignored += [] if _is_litter(place.name) else [member]
            continue
        name = _class(place.parent.name, source, known, f"{path}!{place.parent}")
        roots.add(place.parent.parent)
        files[name].append(_entry(member))
    if not files:
        raise SourceError(f"{path}: no images in class folders of {source}; expected {layout}")
    if len(roots) > 1:
        first, second = sorted(map(str, roots))[:2]
        raise SourceError(f"{path}: class folders stand in two places, {first} and {second}; keep one")
    stat = path.stat()
    stamp = fingerprint([path.name, stat.st_size, stat.st_mtime_ns])
    ordered = {name: sorted(entries, key=lambda e: natural_key(e.file)) for name, entries in files.items()}
    newest = max(stat.st_mtime_ns, stat.st_ctime_ns)
    return Found(ordered, ZipContainer(path, reader), stamp, newest, _left_out(ignored))


def _parquet(paths: Sequence[Path], source: str, known: dict[str, str]) -> Found:
    files: dict[str, list[Entry]] = defaultdict(list)
    stamps: list[tuple[str, int, int]] = []
    newest = first = 0
    for path in paths:
        names = [_class(name, source, known, str(path)) for name in _label_names(path)]
        stat = path.stat()
        stamps.append((path.name, stat.st_size, stat.st_mtime_ns))
        newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
        with reading(path), pq.ParquetFile(path) as parquet:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=["image.path", "label"])
                files_column = table.column("image").combine_chunks().field("path").to_pylist()
                for row, (file, label) in enumerate(zip(files_column, table.column("label").to_pylist(), strict=True)):
                    if label is None or not 0 <= label < len(names):
                        raise SourceError(f"{path}: row {row} of row group {group} has label {label!r}, not a class")
                    file = PurePosixPath(file.replace("\\", "/")).name if file else f"row-{first + row:07d}"
                    files[names[label]].append(Entry(str(first + row), file, PurePosixPath(file).stem))
                first += table.num_rows
    ordered = {name: sorted(entries, key=lambda e: natural_key(e.file)) for name, entries in files.items()}
    return Found(ordered, ParquetContainer(paths), fingerprint(stamps), newest)


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


def _utf8(name: str, root: Path) -> str:
    """A file's name, which is to become a text in tables."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{root}: file name {name!a} is not UTF-8; rename the file") from None
    return name


def _entry(key: str) -> Entry:
    file = key.rsplit("/", 1)[-1]
    return Entry(key, file, file.rsplit(".", 1)[0])


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def _left_out(files: list[str]) -> tuple[LeftOut, ...]:
    return (LeftOut("not named as an image", len(files), tuple(sorted(files)[:5])),) if files else ()
