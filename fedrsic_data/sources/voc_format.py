"""Pascal VOC format with the user's class names, as CVAT, Roboflow, LabelImg, Label Studio and others export it.

Every ``.xml`` below the folder is the annotation of one image: that of its own name, beside it or in the folder of the
images, or else that of its ``<filename>``; ``<path>`` is never followed. A label is the name of one of its objects.
Classes are in alphabetical order. Where ``ImageSets/Main`` has lists, they say which images belong and their splits; in
CVAT's lists of a class, an image marked with 1 has it. Without lists the folders say the splits.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fedrsic_data.errors import SourceError, some
from fedrsic_data.sources import voc_xml
from fedrsic_data.sources.own import annotated
from fedrsic_data.sources.own.annotated import Annotated, AnnotatedSettings, Annotations, NamedImages
from fedrsic_data.sources.own.walk import FolderFiles, walk

_LIST = re.compile(r"(?:.*/)?ImageSets/Main/([^/]+)\.txt")
_WHOLE = "default"  # CVAT's list of an export without subsets
_HALVES = ("train", "val")  # of trainval
_MARKS = {"1": True, "0": False, "-1": False}  # 0: only difficult objects
_DIFFICULT = {"": False, "0": False, "1": True, "false": False, "true": True}
_TRIED = 20  # files that are looked into for the format's mark


@dataclass(frozen=True)
class VocFormatSettings(AnnotatedSettings):
    """As ``AnnotatedSettings``, and what difficult objects count for.

    Attributes:
        difficult: Whether objects that are marked as difficult count.
    """

    difficult: Literal["keep", "leave_out"] = "keep"


@dataclass(frozen=True)
class _Lists:
    """Splits and class lists in ``ImageSets/Main``.

    Attributes:
        splits: Image -> its split, None where its list is of no split.
        names: Image -> the classes that lists of classes mark it with.
        files: The lists, as paths from the root.
    """

    splits: Mapping[str, str | None]
    names: Mapping[str, Sequence[str]]
    files: Sequence[str]


def read(root: Path, its: VocFormatSettings) -> Annotations:
    """The images and labels of all annotation files below a folder; see ``Annotated.read``."""
    files = walk(root, lambda path: path.lower().endswith(".xml") or _LIST.fullmatch(path) is not None)
    paths = files.paths.to_pylist()
    notes = files.notes.to_pylist()
    lists = _lists(root, [path for path in notes if _LIST.fullmatch(path)], paths)
    listed = lists.splits if lists.files else dict.fromkeys(paths)
    counts: Counter[str] = Counter()
    named: dict[str, list[str]] = defaultdict(list, {path: list(names) for path, names in lists.names.items()})
    of: dict[str, str] = {}
    images = NamedImages(root, paths)
    xml = [path for path in notes if not _LIST.fullmatch(path)]
    for path in xml:
        image, objects = _annotation(root, path, images, its)
        if image in of:
            raise SourceError(f"{root / path}: is of {image}, as {of[image]} is; keep one")
        of[image] = path
        counts["objects"] += len(objects)
        counts["difficult objects"] += sum(hard for _, hard in objects)
        drawn = {name for name, _ in objects}
        tags = [name for name in named[image] if name not in drawn]  # a list says nothing of how difficult objects are
        named[image] = tags + [name for name, hard in objects if its.difficult == "keep" or not hard]
    if not xml and not named:
        raise SourceError(f"{root}: holds no annotations (.xml files)")
    return _found(files, listed, of, named, counts, images, lists)


def _found(
    files: FolderFiles,
    listed: Mapping[str, str | None],
    of: Mapping[str, str],
    named: Mapping[str, Sequence[str]],
    counts: Counter[str],
    images: NamedImages,
    lists: _Lists,
) -> Annotations:
    mine = list(listed)
    place = {path: row for row, path in enumerate(mine)}
    pairs = [(place[path], name) for path, names in named.items() if path in place for name in names]
    classes = sorted({name for _, name in pairs})
    code = {name: number for number, name in enumerate(classes)}
    bare = sum(path not in of for path in mine)
    counts |= Counter({"images without an .xml": bare} if bare else {})
    where = some(sorted(lists.files)) if lists.files else "none, so that folders say the splits"
    return Annotations(
        files,
        mine,
        np.array([row for row, _ in pairs], np.int64),
        np.array([code[name] for _, name in pairs], np.int64),
        classes,
        [listed[path] or annotated.split_of(path) for path in mine],
        outside="in no list of ImageSets/Main",
        counts={**counts, **images.counts()},
        notes=(f"annotations: {len(of):,} .xml files; lists: {where}",),
    )


def mark(root: Path, paths: Sequence[str]) -> str | None:
    """The file that shows this format; see ``Annotated.mark``."""
    for path in [path for path in paths if path.lower().endswith(".xml")][:_TRIED]:
        try:
            voc_xml.read(annotated.small(root, path))
        except ValueError:
            continue
        return path
    return None


SOURCE = Annotated(
    kind="voc_format",
    form="Pascal VOC format with its own names",
    layout="<name>.xml next to the images, or Annotations, JPEGImages and lists in ImageSets/Main",
    read=read,
    mark=mark,
    settings=VocFormatSettings(path="."),
)


def _annotation(
    root: Path, path: str, images: NamedImages, its: VocFormatSettings
) -> tuple[str, list[tuple[str, bool]]]:
    """The image that an annotation file is of, and its objects: the name of each, and whether it is difficult."""
    try:
        said = voc_xml.read(annotated.small(root, path))
        objects = [_object(number, fields, its) for number, fields in enumerate(said.objects, 1)]
        return _image(path, said.filename, images), objects
    except ValueError as error:
        raise SourceError(f"{root / path}: {error}; fix the file, or move it away") from None


def _object(number: int, fields: Mapping[str, str], its: VocFormatSettings) -> tuple[str, bool]:
    name, mark = fields.get("name", ""), fields.get("difficult", "").lower()
    if not name:
        raise ValueError(f"object {number} has no name")
    if its.difficult == "leave_out" and mark not in _DIFFICULT:
        raise ValueError(f"object {number} has difficult={mark[:80]!r}, which is neither 0 nor 1")
    return name, _DIFFICULT.get(mark, False)


def _image(path: str, filename: str, images: NamedImages) -> str:
    """The image of an annotation file: by its own name, else by its ``<filename>``."""
    folder, stem = posixpath.dirname(path), posixpath.basename(path).rpartition(".")[0]
    parts = folder.split("/")
    at = next((i + 1 for i, part in enumerate(parts) if part.lower() == "annotations"), len(parts))
    try:
        found = images.of_stem(posixpath.join(*parts[at:], stem), folder, annotated.split_of(path))
    except ValueError:  # x.jpg and x.png
        if not filename:
            raise
        found = None
    return found if found is not None else images.named(filename or stem, folder, annotated.split_of(path))


def _lists(root: Path, notes: Sequence[str], paths: Sequence[str]) -> _Lists:
    subsets = {match[1]: path for path in notes if (match := _LIST.fullmatch(path))}
    if len(subsets) < len(notes):
        raise SourceError(f"{root}: has more than one ImageSets/Main; give the folder that holds one")
    main = {name: path for name, path in subsets.items() if not _is_of_class(name, subsets)}
    if all(half in main for half in _HALVES):
        main.pop("trainval", None)
    images = NamedImages(root, paths)
    splits: dict[str, str | None] = {}
    first: dict[str, str] = {}
    for name, path in main.items():
        for number, line in annotated.lines(root, path):
            image = _listed(root, path, number, line, images)
            if image in first:
                raise SourceError(f"{root / path}: line {number}: {line!r} is in {first[image]} too; keep one")
            first[image] = posixpath.basename(path)
            splits[image] = _subset(name)
    names: dict[str, list[str]] = defaultdict(list)
    for name in subsets.keys() - main.keys() - {"trainval"}:
        label = name.rpartition("_")[0]
        for number, line in annotated.lines(root, subsets[name]):
            stem, _, sign = line.rpartition(" ")
            if sign not in _MARKS:
                raise SourceError(f"{root / subsets[name]}: line {number}: {line[:80]!r} should end in 1, 0 or -1")
            if _MARKS[sign]:
                names[_listed(root, subsets[name], number, stem.strip(), images)].append(label)
    return _Lists(splits, names, list(main.values()))


def _is_of_class(name: str, subsets: Mapping[str, str]) -> bool:
    """Whether a list is that of a class, ``dog_train`` beside ``train``."""
    label, _, subset = name.rpartition("_")
    return bool(label) and subset in subsets


def _subset(name: str) -> str | None:
    """The split of a list."""
    return None if name == _WHOLE else "train" if name == "trainval" else annotated.split_word(name) or name


def _listed(root: Path, path: str, number: int, name: str, images: NamedImages) -> str:
    plain = name[1:-1] if name.startswith('"') and name.endswith('"') else name  # CVAT's way with spaces
    try:
        image = images.of_stem(plain, "", None)
        return image if image is not None else images.named(plain, "", None)
    except ValueError as error:
        raise SourceError(f"{root / path}: line {number}: {error}") from None
