"""COCO format with the user's categories, as Roboflow, CVAT, Label Studio, FiftyOne and others export it.

Every ``.json`` below the folder with lists ``images``, ``annotations`` and ``categories`` is read. An image is looked
for beside the file, then by the end of its path, then by its name alone. A label is a category of one of the image's
annotations, a crowd region's too. Classes are in the order of the category ids. The split of an image is that of its
file (``train/_annotations.coco.json``, ``instances_val.json``), or else that of the folders it lies in.
"""

from __future__ import annotations

import mmap
import posixpath
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import SourceError, some
from fedrsic_data.raw.json_items import blocks, lists
from fedrsic_data.sources.own import annotated
from fedrsic_data.sources.own.annotated import Annotated, AnnotatedSettings, Annotations, NamedImages
from fedrsic_data.sources.own.walk import walk

_LISTS = ("images", "annotations", "categories")
_WHOLE = "instances_default.json"  # CVAT's name for an export without subsets

Id = int | str


@dataclass(frozen=True)
class _File:
    """One annotation file.

    Attributes:
        path: From the root.
        names: ``file_name`` of each entry of an image.
        row: int64 [M], the entry of each annotation.
        category: int64 [M], its category, an index into ``categories``.
        categories: Names in the order of ids.
        parents: The supercategory of each, empty where there is none.
    """

    path: str
    names: Sequence[str]
    row: NDArray[np.int64]
    category: NDArray[np.int64]
    categories: Sequence[str]
    parents: Sequence[str]


def read(root: Path, _: AnnotatedSettings) -> Annotations:
    """The images and labels of all annotation files below a folder; see ``Annotated.read``."""
    files = walk(root, lambda path: path.lower().endswith(".json") and _is_coco(root / path))
    if not len(files.notes):
        raise SourceError(f"{root}: holds no COCO annotations (a .json with lists {', '.join(_LISTS)})")
    parsed = [_parse(root, path) for path in files.notes.to_pylist()]
    classes, notes = _label_space(parsed)
    place = {name: code for code, name in enumerate(classes)}
    images, at = NamedImages(root, files.paths.to_pylist()), dict[str, int]()
    where: list[_File] = []
    splits: list[str | None] = []
    rows, codes, again = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for file, split in zip(parsed, _splits(parsed), strict=True):
        entries = np.zeros(len(file.names), np.int64)
        for number, path in enumerate(_resolved(root, file, images, split)):
            row = at.setdefault(path, len(at))
            if row == len(where):
                where.append(file)
                splits.append(split or annotated.split_of(path))
            elif where[row] is not file:
                raise SourceError(f"{root}: {path} is in {where[row].path} and in {file.path}; move one of them away")
            else:
                again += 1
            entries[number] = row
        rows.append(entries[file.row])
        codes.append(np.array([place.get(name, -1) for name in file.categories], np.int64)[file.category])
    counts = {"annotations": sum(map(len, rows)), **images.counts()}
    counts |= {"entries of images that have one already, joined": again} if again else {}
    return Annotations(
        files,
        list(at),
        np.concatenate(rows),
        np.concatenate(codes),
        classes,
        splits,
        outside="in no annotation file",
        counts=counts,
        notes=(f"annotations: {some([f'{f.path} ({len(f.names):,} images)' for f in parsed])}", *notes),
    )


def mark(root: Path, paths: Sequence[str]) -> str | None:
    """The file that shows this format; see ``Annotated.mark``."""
    return next((path for path in paths if path.lower().endswith(".json") and _is_coco(root / path)), None)


SOURCE = Annotated(
    kind="coco_format",
    form="COCO format with its own categories",
    layout="<split>/_annotations.coco.json, annotations/instances_<split>.json or result.json, and images",
    read=read,
    mark=mark,
    settings=AnnotatedSettings(path="."),
)


def _is_coco(path: Path) -> bool:
    """Whether a file has the three keys, without reading it as JSON."""
    if not path.is_file():  # opening a pipe would block for ever
        return False
    with path.open("rb") as file:
        if not file.read(1):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return all(data.find(f'"{key}"'.encode()) >= 0 for key in _LISTS)


class _ItemError(ValueError):
    """An item of a list is not what it should be; the message says how."""


def _parse(root: Path, path: str) -> _File:
    """An annotation file, once what is used of it is in order."""
    where = root / path
    images: dict[Id, int] = {}
    names: list[str] = []
    categories: dict[Id, tuple[str, str]] = {}
    of, kinds = list[Id](), list[Id]()
    key, number = "the file", dict.fromkeys(_LISTS, 0)
    try:
        for key, item in lists(blocks(where), _LISTS, floats=True):
            number[key] += 1
            if key == "annotations":
                of.append(_id(item, "image_id"))
                kinds.append(_id(item, "category_id"))
            elif key == "images":
                _new(images, _id(item, "id"))
                names.append(_text(item, "file_name"))
            else:
                _category(categories, item)
    except _ItemError as error:
        raise SourceError(f"{where}: {key}: item {number[key]:,} {error}; fix the file or export it again") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: cannot be read ({error}); fix the file or export it again") from None
    ids = sorted(categories, key=lambda one: (isinstance(one, str), one))
    return _File(
        path,
        names,
        _rows(where, "image_id", of, images),
        _rows(where, "category_id", kinds, {one: code for code, one in enumerate(ids)}),
        [categories[one][0] for one in ids],
        [categories[one][1] for one in ids],
    )


def _new(known: dict[Id, Any], number: Id) -> None:
    """Numbers the ids in their order, each of which must be there once."""
    if number in known:
        raise _ItemError(f"has id {number!r}, which another has")
    known[number] = len(known)


def _category(known: dict[Id, tuple[str, str]], item: Mapping[str, Any]) -> None:
    number, name = _id(item, "id"), _text(item, "name")
    if name in [other for other, _ in known.values()]:
        raise _ItemError(f"is called {name[:80]!r}, as another is; give each category a unique name")
    parent = item.get("supercategory")
    _new(known, number)
    known[number] = (name, parent if isinstance(parent, str) else "")


def _id(item: Mapping[str, Any], key: str) -> Id:
    """An id: a whole number, also one that is written as text or as 3.0, or any other text."""
    if not isinstance(item, dict):
        raise _ItemError(f"is {item!r:.40}, not an object")
    value = item.get(key)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        plain = value.strip()
        digits = plain.removesuffix(".0")
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else plain
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _ItemError(f"has {key} {value!r:.40}, which is not an id" if key in item else f"has no {key}")


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a class that is called by a number
    if not isinstance(value, str) or not value.strip():
        raise _ItemError(f"has {key} {value!r:.40}, which is not text" if key in item else f"has no {key}")
    return value.strip()


def _rows(where: Path, key: str, given: Sequence[Id], known: Mapping[Id, int]) -> NDArray[np.int64]:
    """Which of the known ids each annotation names."""
    rows = array("q", (known.get(one, -1) for one in given))
    if -1 in rows:
        at = rows.index(-1)
        what = "images" if key == "image_id" else "categories"
        raise SourceError(
            f"{where}: annotations: item {at + 1:,} has {key} {given[at]!r}, which is not among its {what}"
        )
    return np.array(rows, np.int64)


def _label_space(files: Sequence[_File]) -> tuple[list[str], list[str]]:
    """The classes of all files: those of the first in the order of its ids, then what others have beside.

    A category that no annotation has and that others name as the one above them, as Roboflow writes the project's
    name, is no class.
    """
    names = list(dict.fromkeys(name for file in files for name in file.categories))
    used = {file.categories[code] for file in files for code in np.unique(file.category)}
    above = {
        parent
        for file in files
        for name, parent in zip(file.categories, file.parents, strict=True)
        if parent not in ("", name)
    }
    parents = [name for name in names if name in above and name not in used]
    notes = [f"{some(parents)}: the category above others, without annotations, is no class"] if parents else []
    return [name for name in names if name not in parents], notes


def _splits(files: Sequence[_File]) -> list[str | None]:
    """The split of each file: by its folders, by a word in its name, or by what follows ``instances_``."""
    said = [
        annotated.split_of(file.path) or annotated.split_word(posixpath.basename(file.path).replace("_", " "))
        for file in files
    ]
    if "train" not in said:
        return said
    names = [posixpath.basename(file.path) for file in files]
    rest = [name.removeprefix("instances_").rpartition(".")[0] if name != _WHOLE else None for name in names]
    return [
        split or (own if name.startswith("instances_") else None)
        for split, own, name in zip(said, rest, names, strict=True)
    ]


def _resolved(root: Path, file: _File, images: NamedImages, split: str | None) -> Iterator[str]:
    folder = posixpath.dirname(file.path)
    for number, name in enumerate(file.names, 1):
        try:
            yield images.named(name, folder, split)
        except ValueError as error:
            raise SourceError(f"{root / file.path}: images: item {number:,}: {error}") from None
