"""Roles of the columns of a Parquet file: which is the image, which the label, and the names of their values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.raw.containers import reading
from fedrsic_data.settings import suggest
from fedrsic_data.sources.own import common, spelling

_LABELS = ("label", "labels")  # names of label columns that need not be said
_FOUND = ("domain", "user", "split")  # columns that are used where they have these names
_TEXTS = "texts, whole numbers or class labels"


@dataclass(frozen=True)
class LabelColumn:
    """The labels of a file.

    Attributes:
        path: The file, for messages.
        values: Labels or label lists, [N].
        rows: int64 [N], their row numbers in the file, for messages.
    """

    path: Path
    values: pa.Array
    rows: NDArray[np.int64]


@dataclass(frozen=True)
class ParquetColumns:
    """The columns that are read.

    Attributes:
        image: Column of images.
        nested: Whether images are ``struct<bytes, path>`` rather than bytes.
        pathed: Whether such a struct has paths.
        label: Column of labels.
        multi: Whether these are lists.
        numbered: Whether labels are whole numbers.
        named: Class names of columns with numbered classes, by column.
        others: Columns of texts by what they say: ``domain``, ``user``, ``split``, ``id``.
    """

    image: str
    nested: bool
    pathed: bool
    label: str
    multi: bool
    numbered: bool
    named: Mapping[str, tuple[str, ...]]
    others: Mapping[str, str]

    def read(self, path: Path) -> pa.Table:
        """The columns of a file but for image bytes: ``label`` as it is, and the others as texts.

        Returns:
            ``label``, ``path`` (null where images have none), and whatever of ``others`` there is.

        Raises:
            SourceError: It cannot be read, or a value is null.
        """
        wanted = [self.label, *self.others.values(), *([f"{self.image}.path"] if self.pathed else [])]
        with reading(path), pq.ParquetFile(path) as parquet:
            table = parquet.read(columns=wanted)
            for column in table.column_names:
                _check_text(path, column, table.column(column))
            columns = {"label": table.column(self.label).combine_chunks()}
            if self.pathed:
                columns["path"] = pc.struct_field(table.column(self.image).combine_chunks(), "path").cast(pa.string())
            else:
                columns["path"] = pa.nulls(len(table), pa.string())
            for kind, column in self.others.items():
                columns[kind] = self._texts(path, kind, column, table.column(column).combine_chunks())
        return pa.table(columns)

    def told(self, files: Sequence[LabelColumn], given: Sequence[str] = ()) -> common.Labels:
        """The labels of all files.

        Args:
            files: Their label columns, at least one.
            given: Names of the classes, for numbers that have none in the schema.

        Raises:
            SourceError: A label is null, negative or has no name; vectors of 0 and 1 have no names; or one class is
                spelled in two ways.
        """
        width = _width([file.values for file in files]) if self.multi else None
        names = tuple(given) or self.named.get(self.label)
        if width is not None:
            return self._vectors(files, width, names)
        if self.multi and not _is_text(_inner(files[0].values.type)):
            raise SourceError(_no_labels(files[0].path, self.label, files[0].values.type))
        if given and not self.numbered:
            raise SourceError(f"{files[0].path}: column {self.label!r} has names for its labels; leave classes out")
        read = [self._labels(file, names) for file in files]
        classes, codes = coded([labels for labels, _ in read], names)
        if pair := spelling.twins(classes, cases=names is not None):
            raise SourceError(
                f"{files[0].path}: column {self.label!r} spells one class in two ways, {spelling.pair(*pair)}; "
                "write it in one"
            )
        if not self.multi:
            return common.Labels.single(codes, classes)
        return common.Labels.sets(
            codes, np.concatenate([[0], np.cumsum(np.concatenate([n for _, n in read]))]), classes
        )

    def _vectors(self, files: Sequence[LabelColumn], width: int, names: tuple[str, ...] | None) -> common.Labels:
        """Labels of rows that have a 0 or 1 for each class."""
        if names is None or len(names) != width:
            has = "which have no names" if names is None else f"and there are names for {len(names)} classes"
            raise SourceError(
                f"{files[0].path}: column {self.label!r} holds vectors of {width} zeros and ones, {has}; name the "
                f"{width} classes in their order: fedkit new --set 'classes=[\"...\", ...]'"
            )
        ones = [_ones(_flat(file.values)).reshape(-1, width) for file in files]
        hot = np.concatenate(ones)
        offsets = np.concatenate([[0], np.cumsum(hot.sum(axis=1))])
        return common.Labels.sets(np.flatnonzero(hot) % width, offsets, names)

    def _labels(self, file: LabelColumn, names: tuple[str, ...] | None) -> tuple[pa.Array, NDArray[np.int64]]:
        """The labels of a file end to end, texts or numbers from 0, and how many each row has, int64 [N]."""
        path, column, rows = file.path, file.values, file.rows
        counts = np.ones(len(column), np.int64)
        if self.multi:
            lengths = pc.list_value_length(column)
            if (row := common.first(lengths.is_null().to_numpy(zero_copy_only=False))) is not None:
                raise SourceError(f"{path}: row {rows[row]} has no {self.label} (null); leave it out, or give it some")
            counts, column = lengths.to_numpy().astype(np.int64), pc.list_flatten(column)
        elif pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        row_of = np.repeat(rows, counts)
        if (at := common.first(column.is_null().to_numpy(zero_copy_only=False))) is not None:
            raise SourceError(f"{path}: row {row_of[at]} has no {self.label} (null); leave it out, or give it one")
        if not self.numbered:
            column = column.cast(pa.string())
            if (at := common.first(pc.equal(column, "").to_numpy(zero_copy_only=False))) is not None:
                raise SourceError(f"{path}: row {row_of[at]} has an empty {self.label}; give it a name")
            return column, counts
        values = column.cast(pa.int64()).to_numpy()
        most = len(names) if names is not None else np.iinfo(np.int64).max
        if (at := common.first((values < 0) | (values >= most))) is not None:
            words = "which is not a class" if names is not None else "which is below 0"
            raise SourceError(
                f"{path}: row {row_of[at]} has {self.label} {values[at]}, {words}; leave such a split out with splits, "
                "or the rows"
            )
        return pa.array(values), counts

    def _texts(self, path: Path, kind: str, column: str, values: pa.Array) -> pa.Array:
        if (row := common.first(values.is_null().to_numpy(zero_copy_only=False))) is not None:
            raise SourceError(f"{path}: row {row} has no {column} (null), but every row needs its {kind}")
        if column not in self.named:
            texts = values.cast(pa.string())
            if (row := common.first(pc.equal(texts, "").to_numpy(zero_copy_only=False))) is not None:
                raise SourceError(f"{path}: row {row} has an empty {column}, but every row needs its {kind}")
            return texts
        numbers = values.cast(pa.int64()).to_numpy()
        if (row := common.first((numbers < 0) | (numbers >= len(self.named[column])))) is not None:
            raise SourceError(f"{path}: row {row} has {column} {numbers[row]}, which is not a class")
        return pa.array(self.named[column], pa.string()).take(pa.array(numbers))


def choose(path: Path, said: Mapping[str, str | None], where: str) -> ParquetColumns:
    """Find the roles of a file's columns.

    Args:
        path: A Parquet file.
        said: ``image``, ``label``, ``domain``, ``user``, ``split``, ``id`` -> column. Null finds one: an image and a
            label there must be; ``domain``, ``user`` and ``split`` are the columns of these names if there are
            such, and an empty text is for none of them.
        where: Place of the settings, for messages.

    Raises:
        SourceError: No column fits.
        UsageError: There is no such column.
    """
    with reading(path):
        schema = pq.read_schema(path)
    shown = ", ".join(f"{field.name} ({_short(field.type)})" for field in schema)
    if twice := [name for name in dict.fromkeys(schema.names) if schema.names.count(name) > 1]:
        raise SourceError(f"{path}: has {schema.names.count(twice[0])} columns called {twice[0]!r}; rename all but one")
    for key, name in said.items():
        if name and name not in schema.names:
            raise UsageError(f"{where}: {key}={name!r} is no column of {path.name}{suggest(name, schema.names)}")
    features = _features(schema)
    named = {name: names for name in schema.names if (names := _class_names(features.get(name)))}
    kinds = {field.name: field.type for field in schema}
    images = [name for name, kind in kinds.items() if _is_image(kind)]
    called = "image" if "image" in kinds and not images else None  # of another type, which is said below
    image = said["image"] or called or _only(path, "image", images, ("image",), f"columns are {shown}")
    if not _is_image(kinds[image]):
        fix = "; write paths as file_name into a metadata.csv next to the images" if _is_string(kinds[image]) else ""
        raise SourceError(
            f"{path}: column {image!r} is {_short(kinds[image])}; images are struct<bytes, path> or binary{fix}"
        )
    usual = [name for name in _LABELS if name in kinds]
    label = said["label"] or _only(path, "label", usual or list(named), (), f"columns are {shown}")
    inner = _inner(kinds[label])
    if not (_is_text(inner) or (inner != kinds[label] and _is_number(inner))):
        raise SourceError(_no_labels(path, label, kinds[label]))
    others = {key: name for key in ("domain", "user", "split", "id") if (name := said[key])}
    unsaid = [key for key in _FOUND if said[key] is None and key in kinds and key not in (image, label)]
    others |= {key: key for key in unsaid}
    for key, name in others.items():
        if not _is_text(kinds[name]):
            fix = f"; change it, or pass it over with --set {key}=" if key in unsaid else ""
            raise SourceError(f"{path}: column {name!r} is {_short(kinds[name])}, but a {key} is one of {_TEXTS}{fix}")
    nested = pa.types.is_struct(kinds[image])
    pathed = nested and any(f.name == "path" and _is_string(f.type) for f in kinds[image])
    kept = {name: names for name, names in named.items() if name in (label, *others.values())}
    for name, names in kept.items():
        _check_names(path, name, names)
    return ParquetColumns(image, nested, pathed, label, kinds[label] != inner, pa.types.is_integer(inner), kept, others)


def coded(values: Sequence[pa.Array], names: tuple[str, ...] | None) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Class names and codes, int32 [E], of labels from several files.

    Numbers with names keep them and their order; texts are sorted, and numbers without names are called as they are
    written and sorted as numbers.
    """
    whole = pa.concat_arrays(values)
    if not pa.types.is_integer(whole.type):
        return common.encoded(whole)
    numbers = whole.to_numpy()
    if names is not None:
        return names, numbers.astype(np.int32)
    distinct, codes = np.unique(numbers, return_inverse=True)
    return tuple(map(str, distinct.tolist())), codes.astype(np.int32)


def _check_text(path: Path, column: str, values: pa.ChunkedArray) -> None:
    """Refuse texts that are not UTF-8: Arrow accepts any bytes until they are read."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raise SourceError(f"{path}: column {column!r} holds a text that is not UTF-8; write it as UTF-8") from None


def _width(columns: Sequence[pa.Array]) -> int | None:
    """The length of the lists if all have one, of 2 or more, and hold only 0 and 1; None otherwise."""
    lengths = {length for column in columns for length in pc.unique(pc.list_value_length(column)).to_pylist()}
    width = lengths.pop() if len(lengths) == 1 else None
    if width is None or width < 2:
        return None
    for column in columns:
        values = _flat(column)
        if values.null_count or not (_ones(values) | _zeros(values)).all():
            return None
    return int(width)


def _flat(column: pa.Array) -> pa.Array:
    """The values of lists end to end, without a dictionary."""
    values = pc.list_flatten(column)
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _ones(values: pa.Array) -> NDArray[np.bool_]:
    one = "1" if _is_string(values.type) else 1
    return np.asarray(pc.equal(values, pa.scalar(one).cast(values.type)).to_numpy(zero_copy_only=False), bool)


def _zeros(values: pa.Array) -> NDArray[np.bool_]:
    zero = "0" if _is_string(values.type) else 0
    return np.asarray(pc.equal(values, pa.scalar(zero).cast(values.type)).to_numpy(zero_copy_only=False), bool)


def _no_labels(path: Path, label: str, kind: pa.DataType) -> str:
    return f"{path}: column {label!r} is {_short(kind)}; labels are {_TEXTS}, or lists of them"


def _only(path: Path, what: str, found: Sequence[str], first: Sequence[str], shown: str) -> str:
    """The one column that can be it, or the one of the usual name."""
    if usual := [name for name in first if name in found]:
        return usual[0]
    if not found:
        raise SourceError(f"{path}: no {what} column; {shown}; name it with --set {what}=COLUMN")
    if len(found) > 1:
        raise SourceError(
            f"{path}: columns {', '.join(found)} could all be the {what}; choose one with --set {what}=COLUMN"
        )
    return found[0]


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    """The features that ``datasets`` wrote into a schema; none where it did not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...]:
    """The names of a ClassLabel, or of a list of such; none of anything else."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return tuple(names) if isinstance(names, list) else ()


def _check_names(path: Path, column: str, names: Sequence[Any]) -> None:
    """Refuse class names that are not texts, empty, repeated or not valid Unicode."""
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name or any("\ud800" <= c <= "\udfff" for c in name):
            raise SourceError(f"{path}: column {column!r} has a class called {name!a:.40}, not a valid name; fix it")
        if name in seen:
            raise SourceError(f"{path}: column {column!r} has two classes called {name!r:.40}; rename one")
        seen.add(name)


def _is_image(kind: pa.DataType) -> bool:
    """Whether its values can be images: bytes, alone or beside paths; or paths alone, with nothing in all bytes."""
    if pa.types.is_struct(kind):
        types = {field.name: field.type for field in kind}
        held, path = types.get("bytes", pa.string()), types.get("path", pa.null())
        return bool(_is_binary(held) or (pa.types.is_null(held) and _is_string(path)))
    return bool(_is_binary(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_text(kind: pa.DataType) -> bool:
    """Whether its values can be names: texts, perhaps in a dictionary, or whole numbers."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(_is_string(value) or pa.types.is_integer(kind))


def _is_number(kind: pa.DataType) -> bool:
    """Whether its values can be 0 and 1."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _inner(kind: pa.DataType) -> pa.DataType:
    """The type of a list's values; any other type itself."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return kind.value_type if lists else kind


def _short(kind: pa.DataType) -> str:
    words = str(kind)
    return words if len(words) <= 60 else words[:57] + "..."
