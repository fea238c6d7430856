"""YOLO format, as Ultralytics, Roboflow, CVAT, Label Studio and others write it.

``data.yaml`` (or ``obj.names``, ``classes.txt``) names the classes; a text file for each image has a line for each of
its objects, of which the first number is the class. It lies beside the image, or where the last ``images`` of the
image's path says ``labels``; an image without one has no object. Classes are in the order of their numbers. Splits are
those of ``data.yaml``, or else those that the folders say.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrsic_data.errors import SourceError
from fedrsic_data.sources.classfolders import is_image
from fedrsic_data.sources.own import annotated
from fedrsic_data.sources.own.annotated import Annotated, AnnotatedSettings, Annotations, NamedImages
from fedrsic_data.sources.own.walk import walk

_YAML = (".yaml", ".yml")
_NAMES = ("obj.names", "classes.txt")  # of darknet and CVAT; of LabelImg and Label Studio
_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}  # of data.yaml
_TABLE = 2**20  # bytes of a data.yaml
_TRIED = 20  # label files that are looked into for the mark of the format
_BOX = 5  # fields of a line: class, centre, width and height; polygons and turned boxes have more


@dataclass(frozen=True)
class _Table:
    """A file that names the classes.

    Attributes:
        path: The file, from the root.
        names: Number -> name.
        splits: Split -> the folders, images or lists of images that ``data.yaml`` gives it.
        base: The folder that these start from.
    """

    path: str
    names: Mapping[int, str]
    splits: Mapping[str, Sequence[str]]
    base: str


def read(root: Path, its: AnnotatedSettings) -> Annotations:
    """The images and labels of a folder; see ``Annotated.read``."""
    files = walk(root, lambda path: path.lower().endswith((".txt", ".names", *_YAML)))
    texts = files.notes.to_pylist()
    table = _table(root, texts, its)
    images = files.paths.to_pylist()
    labels = _label_files(root, images, [path for path in texts if path.endswith(".txt")])
    classes = [table.names[number] for number in sorted(table.names)]
    code = {number: at for at, number in enumerate(sorted(table.names))}
    rows: list[int] = []
    codes: list[int] = []
    for row, path in enumerate(images):
        for number in _objects(root, labels[path], table) if path in labels else ():
            rows.append(row)
            codes.append(code[number])
    splits, notes = _splits(root, table, images, set(texts))
    counts = {"objects": len(rows)}
    counts |= {"images without a label file": n} if (n := len(images) - len(labels)) else {}
    return Annotations(
        files,
        images,
        np.array(rows, np.int64),
        np.array(codes, np.int64),
        classes,
        splits,
        counts=counts,
        notes=(f"classes of {table.path}: {len(classes)}; label files: {len(labels):,}", *notes),
    )


def mark(root: Path, paths: Sequence[str]) -> str | None:
    """The file that shows this format; see ``Annotated.mark``."""
    texts = [path for path in paths if path.endswith(".txt")]
    stems = {candidate for path in paths if is_image(posixpath.basename(path)) for candidate in _candidates(path)}
    for path in [path for path in texts if path in stems][:_TRIED]:
        with suppress(SourceError):  # a caption in another encoding
            if _has_objects(root, path):
                return path
    return None


SOURCE = Annotated(
    kind="yolo",
    form="YOLO format",
    layout="data.yaml, images/<split> and labels/<split>, or <split>/images and <split>/labels",
    read=read,
    mark=mark,
    settings=AnnotatedSettings(path="."),
)


def _table(root: Path, paths: Sequence[str], its: AnnotatedSettings) -> _Table:
    """The file that names the classes: the one nearest to the root, a ``data.yaml`` before others."""
    found = []
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        name = posixpath.basename(path)
        if name.lower().endswith(_YAML) and (data := _parsed(root, path)) is not None:
            found.append(_from_yaml(root, path, data))
        elif name in _NAMES:
            found.append(_from_lines(root, path))
    if not found and its.classes:
        return _Table("the setting classes", dict(enumerate(its.classes)), {}, "")
    if not found:
        words = f"no data.yaml with names, and no {' or '.join(_NAMES)}"
        raise SourceError(f"""{root}: holds {words}; name the classes in order with --set 'classes=["...", "..."]'""")
    first = found[0]
    for other in found[1:]:
        if other.names != first.names:
            raise SourceError(f"{root}: {first.path} and {other.path} name different classes; move one of them away")
    return first


def _parsed(root: Path, path: str) -> dict[str, Any] | None:
    """A YAML file with names of classes, every scalar a text, so that a class may be called ``no`` or ``1.0``."""
    if (root / path).stat().st_size > _TABLE:
        return None
    import yaml

    try:
        data = yaml.load(annotated.text(root, path), yaml.BaseLoader)  # noqa: S506  it makes texts, lists and mappings alone
    except (yaml.YAMLError, RecursionError) as error:
        if posixpath.basename(path) != "data.yaml":
            return None
        raise SourceError(f"{root / path}: not valid YAML ({' '.join(str(error).split())[:200]})") from None
    return data if isinstance(data, dict) and "names" in data else None


def _from_yaml(root: Path, path: str, data: Mapping[str, Any]) -> _Table:
    where, names = root / path, data["names"]
    listed = dict(enumerate(names)) if isinstance(names, list) else names
    if (
        not isinstance(listed, dict)
        or not listed
        or not all(isinstance(name, str) and name.strip() for name in listed.values())
    ):
        raise SourceError(f"{where}: names should be a list of classes, or number: class")
    if odd := [key for key in listed if not re.fullmatch(r"[0-9]{1,9}", str(key))]:
        raise SourceError(f"{where}: names: {odd[0]!r:.80} is not the number of a class")
    if "nc" in data and str(data["nc"]) != str(len(listed)):
        raise SourceError(f"{where}: nc is {data['nc']!r:.20}, but names has {len(listed)} classes")
    splits = {}
    for key, split in _KEYS.items():
        value = data.get(key) or []
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
            raise SourceError(f"{where}: {key} should be a path or a list of paths")
        if values:
            splits[split] = values
    base = data.get("path")
    return _named(where, path, {int(key): name.strip() for key, name in listed.items()}, splits, base)


def _from_lines(root: Path, path: str) -> _Table:
    listed = [line.strip() for line in annotated.text(root, path).rstrip().split("\n")]
    if "" in listed:
        raise SourceError(f"{root / path}: line {listed.index('') + 1} is empty; give each line a class")
    return _named(root / path, path, dict(enumerate(listed)), {}, None)


def _named(where: Path, path: str, names: Mapping[int, str], splits: Mapping[str, Sequence[str]], base: Any) -> _Table:
    listed = list(names.values())
    if twice := [name for name in listed if listed.count(name) > 1]:
        raise SourceError(f"{where}: class {twice[0][:80]!r} occurs twice; give each a unique name")
    return _Table(path, names, splits, base if isinstance(base, str) else "")


def _label_files(root: Path, images: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    """The label file of each image that has one.

    Raises:
        SourceError: A label file is of no image, or of two.
    """
    there, labels = set(texts), dict[str, str]()
    for image in images:
        for path in _candidates(image):
            if path in there:
                labels[image] = path
                break
    taken: dict[str, str] = {}
    for image, path in labels.items():
        if (other := taken.setdefault(path, image)) != image:
            raise SourceError(f"{root / path}: is of {other} and of {image}; rename one of them")
    for path in texts:
        if path not in taken and _is_label_file(root, path):
            raise SourceError(f"{root / path}: there is no image of this name; add it, or remove the file")
    if not labels:
        raise SourceError(f"{root}: no image has a label file; expected {SOURCE.layout}")
    return labels


def _candidates(image: str) -> list[str]:
    """Where the label file of an image may lie."""
    parts = image.rpartition(".")[0].split("/")
    beside = "/".join(parts) + ".txt"
    at = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    return ["/".join([*parts[: at[-1]], "labels", *parts[at[-1] + 1 :]]) + ".txt", beside] if at else [beside]


def _is_label_file(root: Path, path: str) -> bool:
    """Whether a text file without an image is one of labels, and no list or licence."""
    if posixpath.basename(path) in _NAMES:
        return False
    if "labels" in path.split("/")[:-1]:
        return True
    return _has_objects(root, path)


def _has_objects(root: Path, path: str) -> bool:
    """Whether a text file holds objects and nothing else."""
    found = annotated.lines(root, path)
    return bool(found) and all(_number(line) is not None for _, line in found)


def _objects(root: Path, path: str, table: _Table) -> set[int]:
    """The classes that a label file names."""
    found = set()
    for at, line in annotated.lines(root, path):
        number = _number(line)
        if number is None:
            raise SourceError(
                f"{root / path}: line {at}: {line[:80]!r} should be a class number and at least four more"
            )
        if number not in table.names:
            raise SourceError(
                f"{root / path}: line {at}: class {number} is not one of the {len(table.names)} that {table.path} "
                f"names ({min(table.names)} to {max(table.names)})"
            )
        found.add(number)
    return found


def _number(line: str) -> int | None:
    """The class of a line; None if it is not as the format has it."""
    fields = line.split()
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return None
    if len(values) < _BOX or not all(map(math.isfinite, values)) or not values[0].is_integer():
        return None
    return int(values[0])


def _splits(root: Path, table: _Table, images: Sequence[str], texts: Set[str]) -> tuple[list[str | None], list[str]]:
    """The split of each image, and what was decided."""
    spoken: dict[str, str] = {}
    notes: list[str] = []
    entries: dict[str, frozenset[str]] = {}
    for split, values in table.splits.items():
        mine = frozenset(image for value in values for image in _images_of(root, table, value, images, texts))
        same = next((other for other, theirs in entries.items() if mine and theirs == mine), None)
        if same is not None:
            notes.append(f"{table.path} gives {split} the images of {same}: they are {same} alone")
            continue
        if not mine:
            notes.append(f"{table.path} gives {split} {', '.join(values)[:100]}, which holds no image here")
        if twice := sorted(image for image in mine if image in spoken):
            raise SourceError(
                f"{root / table.path}: {twice[0]} is in {spoken[twice[0]]} and in {split}; give each image one split"
            )
        entries[split] = mine
        spoken |= dict.fromkeys(mine, split)
    return [spoken.get(image) or annotated.split_of(image) for image in images], notes


def _images_of(root: Path, table: _Table, value: str, images: Sequence[str], texts: Set[str]) -> Sequence[str]:
    """The images of one entry of ``data.yaml``: those below a folder, or those that a list names."""
    for place in _places(table, value):
        if place in texts:
            return _of_list(root, place, images)
        below = [image for image in images if place == "." or image.startswith(place + "/")]
        if below:
            return below
    return ()


def _places(table: _Table, value: str) -> list[str]:
    """Where an entry may point to: from ``path``, from its file, and, as Roboflow writes it, one level too high."""
    folder = posixpath.dirname(table.path)
    given = value.replace("\\", "/")
    bare = re.sub(r"^(\.\./)+", "", given)
    starts = [posixpath.join(folder, table.base.replace("\\", "/"), given), posixpath.join(folder, given)]
    starts.append(posixpath.join(folder, bare))
    if table.base:  # the last part of a path may be the folder itself, given from elsewhere
        starts.append(posixpath.join(folder, bare.removeprefix(posixpath.basename(table.base.rstrip("/")) + "/")))
    return list(dict.fromkeys(posixpath.normpath(start) for start in starts))


def _of_list(root: Path, path: str, images: Sequence[str]) -> list[str]:
    known, found = NamedImages(root, images), []
    for number, line in annotated.lines(root, path):
        try:
            found.append(known.named(line, posixpath.dirname(path), None))
        except ValueError as error:
            raise SourceError(f"{root / path}: line {number}: {error}") from None
    return found
