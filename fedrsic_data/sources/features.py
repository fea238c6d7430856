"""What the columns of a Parquet file mean: which is the image, which the label, and what their values are called."""

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

from fedrsic_data.containers import reading
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.settings import suggest
from fedrsic_data.sources import own

_LABELS = ("label", "labels")  # names of label columns that need not be said
_TEXTS = "texts, whole numbers or class labels"


@dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        image: Of images.
        nested: Whether images are ``struct<bytes, path>`` rather than bytes.
        pathed: Whether such a struct has paths.
        label: Of labels.
        multi: Whether these are lists.
        numbered: Whether labels are whole numbers.
        named: Class names of columns whose numbers stand for some, by column.
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
            columns = {"label": table.column(self.label).combine_chunks()}
            if self.pathed:
                columns["path"] = pc.struct_field(table.column(self.image).combine_chunks(), "path").cast(pa.string())
            else:
                columns["path"] = pa.nulls(len(table), pa.string())
            for kind, column in self.others.items():
                columns[kind] = self._texts(path, kind, column, table.column(column).combine_chunks())
        return pa.table(columns)

    def labels(self, path: Path, column: pa.Array, rows: NDArray[np.int64]) -> tuple[pa.Array, NDArray[np.int64]]:
        """The labels of a file end to end, and how many each row has.

        Args:
            path: The file, for messages.
            column: Of labels or label lists, [N].
            rows: int64 [N], their row numbers in the file, for messages.

        Returns:
            Texts, or numbers from 0, int64; and int64 [N].

        Raises:
            SourceError: A label is null, negative or has no name.
        """
        counts = np.ones(len(column), np.int64)
        if self.multi:
            lengths = pc.list_value_length(column)
            if (row := own.first(lengths.is_null().to_numpy(zero_copy_only=False))) is not None:
                raise SourceError(f"{path}: row {rows[row]} has no {self.label} (null); leave it out, or give it some")
            counts, column = lengths.to_numpy().astype(np.int64), pc.list_flatten(column)
        row_of = np.repeat(rows, counts)
        if (at := own.first(column.is_null().to_numpy(zero_copy_only=False))) is not None:
            raise SourceError(f"{path}: row {row_of[at]} has no {self.label} (null); leave it out, or give it one")
        if not self.numbered:
            column = column.cast(pa.string())
            if (at := own.first(pc.equal(column, "").to_numpy(zero_copy_only=False))) is not None:
                raise SourceError(f"{path}: row {row_of[at]} has an empty {self.label}; give it a name")
            return column, counts
        values = column.cast(pa.int64()).to_numpy()
        most = len(self.named[self.label]) if self.label in self.named else np.iinfo(np.int64).max
        if (at := own.first((values < 0) | (values >= most))) is not None:
            words = "which is no class" if self.label in self.named else "which is below 0"
            raise SourceError(
                f"{path}: row {row_of[at]} has {self.label} {values[at]}, {words}; leave such a split out with splits, "
                "or the rows"
            )
        return pa.array(values), counts

    def _texts(self, path: Path, kind: str, column: str, values: pa.Array) -> pa.Array:
        if (row := own.first(values.is_null().to_numpy(zero_copy_only=False))) is not None:
            raise SourceError(f"{path}: row {row} has no {column} (null), but every row needs its {kind}")
        if column not in self.named:
            texts = values.cast(pa.string())
            if (row := own.first(pc.equal(texts, "").to_numpy(zero_copy_only=False))) is not None:
                raise SourceError(f"{path}: row {row} has an empty {column}, but every row needs its {kind}")
            return texts
        numbers = values.cast(pa.int64()).to_numpy()
        if (row := own.first((numbers < 0) | (numbers >= len(self.named[column])))) is not None:
            raise SourceError(f"{path}: row {row} has {column} {numbers[row]}, which is no class")
        return pa.array(self.named[column], pa.string()).take(pa.array(numbers))


def choose(path: Path, said: Mapping[str, str | None], where: str) -> Columns:
    """Which columns of a file are what.

    Args:
        path: A Parquet file.
        said: ``image``, ``label``, ``domain``, ``user``, ``split``, ``id`` -> column. Null finds one: an image and a
            label there must be; ``domain`` and ``user`` are the columns of these names if there are such, and
            an empty text is for none of them.
        where: Who says so, for messages.

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
    image = said["image"] or _only(
        path, "image", [f.name for f in schema if _is_image(f.type)], ("image",), f"columns are {shown}"
    )
    kinds = {field.name: field.type for field in schema}
    if not _is_image(kinds[image]):
        raise SourceError(
            f"{path}: column {image!r} is {_short(kinds[image])}; images are struct<bytes, path> or binary"
        )
    usual = [name for name in _LABELS if name in kinds]
    label = said["label"] or _only(path, "label", usual or list(named), (), f"columns are {shown}")
    if not _is_text(_inner(kinds[label])):
        raise SourceError(f"{path}: column {label!r} is {_short(kinds[label])}; labels are {_TEXTS}, or lists of them")
    others = {key: name for key in ("domain", "user", "split", "id") if (name := said[key])}
    unsaid = [key for key in ("domain", "user") if said[key] is None and key in kinds and key not in (image, label)]
    others |= {key: key for key in unsaid if _is_text(kinds[key])}
    for key, name in others.items():
        if not _is_text(kinds[name]):
            raise SourceError(f"{path}: column {name!r} is {_short(kinds[name])}, but a {key} is one of {_TEXTS}")
    nested = pa.types.is_struct(kinds[image])
    pathed = nested and any(f.name == "path" and _is_string(f.type) for f in kinds[image])
    kept = {name: names for name, names in named.items() if name in (label, *others.values())}
    for name, names in kept.items():
        _check_names(path, name, names)
    inner = _inner(kinds[label])
    return Columns(image, nested, pathed, label, kinds[label] != inner, pa.types.is_integer(inner), kept, others)


def coded(values: Sequence[pa.Array], names: tuple[str, ...] | None) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Class names and codes, int32 [E], of labels from several files.

    Numbers with names keep them and their order; texts are sorted, and numbers without names are called as they are
    written and sorted as numbers.
    """
    whole = pa.concat_arrays(values)
    if not pa.types.is_integer(whole.type):
        return own.encoded(whole)
    numbers = whole.to_numpy()
    if names is not None:
        return names, numbers.astype(np.int32)
    distinct, codes = np.unique(numbers, return_inverse=True)
    return tuple(map(str, distinct.tolist())), codes.astype(np.int32)


def _only(path: Path, what: str, found: Sequence[str], first: Sequence[str], shown: str) -> str:
    """The one column that can be it, or the one of the usual name."""
    if usual := [name for name in first if name in found]:
        return usual[0]
    if not found:
        raise SourceError(f"{path}: no {what} column; {shown}; name it in the recipe with {what}")
    if len(found) > 1:
        raise SourceError(f"{path}: columns {', '.join(found)} could all be the {what}; say which one with {what}")
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
    """Refuses class names that are not texts, empty, there twice or not valid Unicode."""
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name or any("\ud800" <= c <= "\udfff" for c in name):
            raise SourceError(f"{path}: column {column!r} has a class called {name!a:.40}, which is no name; mend it")
        if name in seen:
            raise SourceError(f"{path}: column {column!r} has two classes called {name!r:.40}; rename one")
        seen.add(name)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return bool(_is_binary(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_text(kind: pa.DataType) -> bool:
    """Whether its values can be names: texts, perhaps in a dictionary, or whole numbers."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(_is_string(value) or pa.types.is_integer(kind))


def _inner(kind: pa.DataType) -> pa.DataType:
    """The type of a list's values; any other type itself."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return kind.value_type if lists else kind


def _short(kind: pa.DataType) -> str:
    words = str(kind)
    return words if len(words) <= 60 else words[:57] + "..."
