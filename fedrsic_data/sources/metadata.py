"""Images with tables beside them: ``metadata.csv`` or ``metadata.jsonl``, as the Hub's ImageFolder has them.

A row has ``file_name``, the path of an image from the table's folder, and its label: a column of texts or numbers, of
lists of them (in a CSV between ``;`` or ``|``), of ``objects`` with categories, or a column of 0 and 1 for each class.
Roboflow's ``_classes.csv`` is of the last kind. Columns ``domain``, ``user`` and ``split`` may follow. Where no column
has the split, the folders decide it.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrsic_data.errors import SourceError, some
from fedrsic_data.settings import suggest
from fedrsic_data.sources.own.annotated import Annotated, AnnotatedSettings, Annotations, NamedImages, split_of, text
from fedrsic_data.sources.own.walk import walk

NAMES = ("metadata.csv", "metadata.jsonl", "_classes.csv")
_UNREAD = "metadata.parquet"

_FILE = ("file_name", "image_file_name", "filename")
_SETS = "labels"  # a column of this name has any number of classes
_OBJECTS = ("categories", "category", "category_id", "labels", "label")
_SAID = ("domain", "user", "split")
_DELIMITER = re.compile(r"[;|]")


@dataclass(frozen=True)
class MetadataSettings(AnnotatedSettings):
    """``AnnotatedSettings``, and the roles of columns.

    Attributes:
        label: The column of labels; None: ``label``, ``labels``, ``objects``, or all columns, if they hold 0 and 1.
        domain: The column of domains; None: ``domain`` if there is one; empty: none.
        user: The column of natural users; None: ``user`` if there is one; empty: none.
        split: The column of splits; None: ``split`` if there is one, or else the folders; empty: none.
    """

    label: str | None = None
    domain: str | None = None
    user: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class _Row:
    """One row: a description of its place, its image, and its fields."""

    where: str
    image: str
    fields: Mapping[str, Any]


def read(root: Path, its: MetadataSettings) -> Annotations:
    """The images and labels of all tables below a folder; see ``Annotated.read``."""
    files = walk(root, lambda path: posixpath.basename(path) in (*NAMES, _UNREAD))
    tables = files.notes.to_pylist()
    if (unread := next((path for path in tables if posixpath.basename(path) == _UNREAD), None)) is not None:
        raise SourceError(
            f"{root / unread}: tables of metadata are read as CSV or JSON lines; write it as metadata.csv or "
            "metadata.jsonl, or take the folders as classes with --set kind=folder"
        )
    if not tables:
        raise SourceError(f"{root}: holds no {', '.join(NAMES)}")
    images, rows = NamedImages(root, files.paths.to_pylist()), dict[str, _Row]()
    for path in tables:
        for row in _rows(root, path, images):
            if (other := rows.setdefault(row.image, row)) is not row:
                raise SourceError(f"{row.where}: {row.image} is in {other.where} too; keep one")
    if not rows:
        raise SourceError(f"{root}: {some(tables)} lists no images")
    columns = list(dict.fromkeys(column for row in rows.values() for column in row.fields))
    taken = {said: column for said in _SAID if (column := _said(root, getattr(its, said), said, columns)) is not None}
    label = _label(root, its, [c for c in columns if c not in taken.values()], list(rows.values()))
    names, multi, known = _names(list(rows.values()), label, its)
    classes = known or _in_order({name for mine in names for name in mine})
    code = {name: number for number, name in enumerate(classes)}
    others = {said: [_text(row, column) for row in rows.values()] for said, column in taken.items()}
    shown = f"column {label!r}" if isinstance(label, str) else f"{len(label)} columns of 0 and 1"
    return Annotations(
        files,
        list(rows),
        np.repeat(np.arange(len(rows)), [len(mine) for mine in names]),
        np.array([code[name] for mine in names for name in mine], np.int64),
        classes,
        others["split"] if "split" in others else [None if its.split == "" else split_of(path) for path in rows],
        single=not multi,
        users=others.get("user"),
        domains=others.get("domain"),
        outside=f"not in {' or '.join(sorted({posixpath.basename(path) for path in tables}))}",
        notes=(f"labels: {shown} of {some(tables)}", *_unseen(tables, rows)),
    )


def mark(_: Path, paths: Sequence[str]) -> str | None:
    """The file that shows this format; see ``Annotated.mark``."""
    return next((path for path in paths if posixpath.basename(path) in (*NAMES, _UNREAD)), None)


SOURCE = Annotated(
    kind="metadata",
    form="images with tables of metadata",
    layout=f"images, and beside or above them {', '.join(NAMES)}",
    read=read,
    mark=mark,
    settings=MetadataSettings(path="."),
)


def _rows(root: Path, path: str, images: NamedImages) -> Iterator[_Row]:
    folder = posixpath.dirname(path)
    for line, fields in _lines(root / path, text(root, path)):
        where = f"{root / path}: line {line}"
        key = next((key for key in _FILE if key in fields), None)
        if key is None:
            raise SourceError(f"{where}: has no file_name; it has {', '.join(map(str, fields)) or 'nothing'}")
        name = fields[key]
        if not isinstance(name, str) or not name:
            raise SourceError(f"{where}: {key} is {name!r:.80}, which is not a path")
        at = posixpath.normpath(posixpath.join(folder, name))
        if name.startswith("/") or "://" in name or ".." in name.split("/"):
            raise SourceError(
                f"{where}: {key} {name[:200]!r} is not below the folder of the table; write its path there"
            )
        image = images.exact(at)
        if image is None:
            fix = "write / between folders" if "\\" in name else f"there is no image {at}"
            raise SourceError(f"{where}: {key} {name[:200]!r}: {fix}")
        yield _Row(where, image, {column: value for column, value in fields.items() if column != key})


def _lines(where: Path, content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a table with the numbers of their lines."""
    if where.name.endswith(".jsonl"):
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                yield number, _object(f"{where}: line {number}", line)
        return
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if twice := [name for name in header if header.count(name) > 1]:
            raise SourceError(f"{where}: column {twice[0]!r} occurs twice; keep one")
        for fields in reader:
            if len(fields) != len(header) and fields:
                words = f"has {len(fields)} fields, the header {len(header)}; put quotes around fields with commas"
                raise SourceError(f"{where}: line {reader.line_num} {words}")
            if fields:
                yield reader.line_num, {name: field.strip() for name, field in zip(header, fields, strict=True)}
    except csv.Error as error:
        raise SourceError(f"{where}: line {reader.line_num}: not comma-separated values ({error})") from None


def _object(where: str, line: str) -> Mapping[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise SourceError(f"{where}: should be a JSON object, not {data!r:.40}")
    return data


def _said(root: Path, given: str | None, said: str, columns: Sequence[str]) -> str | None:
    """The column that says the domains, users or splits."""
    if given is None:
        return said if said in columns else None
    if given and given not in columns:
        raise SourceError(f"{root}: {said}={given!r}: the tables have no such column{suggest(given, columns)}")
    return given or None


def _label(root: Path, its: MetadataSettings, columns: Sequence[str], rows: Sequence[_Row]) -> str | list[str]:
    """The column of labels, or the columns of 0 and 1."""
    if its.label is not None:
        if its.label not in columns:
            raise SourceError(
                f"{root}: label={its.label!r}: the tables have no such column{suggest(its.label, columns)}"
            )
        return its.label
    for usual in ("label", _SETS, "objects"):
        if usual in columns:
            return usual
    if len(columns) > 1 and all(row.fields.get(c) in ("0", "1", 0, 1) for row in rows for c in columns):
        return list(columns)
    raise SourceError(
        f"{rows[0].where.rpartition(': ')[0]}: has no column of labels (columns: {', '.join(columns) or 'none'}); "
        "name it with --set label=COLUMN, or take the folders as classes with --set kind=folder"
    )


def _names(
    rows: Sequence[_Row], label: str | list[str], its: MetadataSettings
) -> tuple[list[list[str]], bool, list[str] | None]:
    """The classes of each row, whether rows may have any number of them, and all classes where places name them."""
    if isinstance(label, list):
        return [[column for column in label if row.fields[column] in ("1", 1)] for row in rows], True, None
    if gap := next((row for row in rows if label not in row.fields), None):
        raise SourceError(f"{gap.where}: has no {label!r}; give one to every image, empty where it has no class")
    values = [_listed(row.where, label, row.fields[label]) for row in rows]
    if (width := _width(values)) is not None:
        if len(its.classes) != width:
            has = f"there are names for {len(its.classes)} classes" if its.classes else "they have no names"
            raise SourceError(
                f"{rows[0].where}: {label!r} holds vectors of {width} zeros and ones, and {has}; name the {width} "
                "classes in their order: fedkit new --set 'classes=[\"...\", ...]'"
            )
        return (
            [[name for name, one in zip(its.classes, value, strict=True) if int(one)] for value in values],
            True,
            [*its.classes],
        )
    lists = any(isinstance(value, list | dict) for value in values)
    multi = its.labels == "multi" or (its.labels == "auto" and (lists or label == _SETS))
    return [_classes(row.where, label, value, multi) for row, value in zip(rows, values, strict=True)], multi, None


def _listed(where: str, label: str, value: Any) -> Any:
    """A field as it is, or the list that it writes in brackets."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise SourceError(
                f"{where}: {label!r} is {value[:80]!r}; put ; between classes, without brackets"
            ) from None
    return value


def _width(values: Sequence[Any]) -> int | None:
    """The length of the lists if all have one, of 2 or more, and hold only 0 and 1; None otherwise."""
    lengths = {len(value) if isinstance(value, list) else 0 for value in values}
    width = lengths.pop() if len(lengths) == 1 else 0
    if width < 2 or not all(one in (0, 1, "0", "1") for value in values for one in value):
        return None
    return width


def _classes(where: str, label: str, value: Any, multi: bool) -> list[str]:
    """The classes that one field names."""
    if isinstance(value, dict):
        key = next((key for key in _OBJECTS if key in value), None)
        if key is None:
            raise SourceError(f"{where}: {label!r} has none of {', '.join(_OBJECTS)}, but {some(list(value))}")
        value = value[key]
    if isinstance(value, list):
        return [_class(where, label, one) for one in value]
    if isinstance(value, str) and multi:
        return [name for part in _DELIMITER.split(value) if (name := part.strip())]
    return [] if value is None or value == "" else [_class(where, label, value)]


def _class(where: str, label: str, value: Any) -> str:
    if isinstance(value, dict):  # one object of a list
        value = next((value[key] for key in _OBJECTS if key in value), None)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise SourceError(f"{where}: {label!r} has {value!r:.80}, which is neither a text nor a whole number")
    return value.strip()


def _text(row: _Row, column: str) -> str:
    value = row.fields.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise SourceError(
            f"{row.where}: {column!r} is {value!r:.80}; give a text to every image, or pass it over: {column}="
        )
    return value


def _in_order(names: Iterable[str]) -> list[str]:
    """Numbers in their order, else texts in theirs."""
    listed = sorted(names)
    return sorted(listed, key=int) if all(re.fullmatch(r"[0-9]{1,18}", name) for name in listed) else listed


def _unseen(tables: Sequence[str], images: Iterable[str]) -> list[str]:
    """Files that ``datasets`` would not read."""
    if len(tables) > 1 or "/" in tables[0] or not any(split_of(path) for path in images):
        return []
    return [f"load_dataset would not see {tables[0]} beside folders of splits; it counts here"]
