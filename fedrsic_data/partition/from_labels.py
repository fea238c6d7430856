"""Rows for a partitioner from the labels that people have: lists, arrays, tensors, columns, datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.partition.base import Rows

Classes = int | Sequence[str] | None
"""Number of classes, or their names in index order; None: those that occur."""


def rows_of(
    labels: Any, *, column: str | None = None, classes: Classes = None, domains: Any = None, groups: Any = None
) -> tuple[Rows, tuple[str, ...], tuple[str, ...]]:
    """Rows, their class names and their domain names.

    Args:
        labels: One label per row as a whole number or a name, or several, as a list or as zeros and ones: a list, a
            NumPy array, a torch tensor, a pandas Series, an Arrow column, a torch dataset with ``targets``, or a table
            with ``column``.
        column: The column of labels, where ``labels`` is a ``datasets.Dataset``, a pandas DataFrame or an Arrow table.
        classes: Number or names of the classes. None: the names of a ``ClassLabel``, a categorical or a torch dataset;
            else the numbers up to the largest, or the names that occur, in alphabetical order.
        domains: A domain per row, of the same kinds; None: all rows are of one.
        groups: A natural user per row, of the same kinds; None: there are none.

    Raises:
        UsageError: A label is missing, not a number, negative or of no class, or lengths differ.
    """
    values, known = _column(labels, column, "labels")
    names = known if classes is None else _wanted(classes)
    codes, offsets, found = _coded(values, names)
    n = len(offsets) - 1
    domain_codes, domain_names = _named(domains, n, "domains") if domains is not None else (np.zeros(n, np.int32), ())
    group_codes, group_names = _named(groups, n, "groups") if groups is not None else (None, ())
    rows = Rows(codes, offsets, len(found), domain_codes, max(len(domain_names), 1), group_codes, group_names)
    return rows, found, domain_names


def _column(given: Any, column: str | None, what: str) -> tuple[NDArray[Any] | pa.Array, tuple[str, ...] | None]:
    """The values of a column, and the class names that its container knows."""
    known = None
    if column is not None:
        given, known = _of_table(given, column)
    elif hasattr(given, "targets"):  # torchvision
        given, known = given.targets, getattr(given, "classes", None)
    elif (
        hasattr(given, "dataset") and hasattr(given, "indices") and hasattr(given.dataset, "targets")
    ):  # torch's Subset
        whole, known = _column(given.dataset, None, what)
        given = whole.take(pa.array(given.indices)) if isinstance(whole, pa.Array) else whole[np.asarray(given.indices)]
    else:
        known = _class_label(getattr(given, "features", None))  # a column of a datasets.Dataset
    given = plain(given, what)
    names = tuple(map(str, known)) if known is not None else None
    if isinstance(given, np.ndarray) and given.dtype.kind in ("biuf" if given.ndim == 2 else "biu"):
        return given, names
    try:
        values = given if isinstance(given, pa.Array | pa.ChunkedArray) else pa.array(given, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{what}: cannot be read as one column ({' '.join(str(error).split())[:200]})") from None
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_dictionary(values.type) and values.dictionary.null_count:
        values = values.dictionary_decode()  # its null is a missing label and no class
    if pa.types.is_dictionary(values.type):  # a categorical knows its classes, those without rows too
        return values.indices, names or tuple(map(str, values.dictionary.to_pylist()))
    return values, names


def plain(given: Any, what: str) -> Any:
    """A column that Arrow can read: a tensor becomes an array, anything else is returned as it is.

    Raises:
        UsageError: It has no order, or is a text; it has several columns or tensors; a tensor that NumPy has no form
            of; or a row is nested deeper than a list of labels: a list that holds itself would end the process in
            Arrow.
    """
    if isinstance(given, str | bytes | dict | set | frozenset):
        raise UsageError(f"{what}: a {type(given).__name__} is no column; give a list, an array or a dataset")
    if hasattr(given, "columns") or isinstance(getattr(given, "features", None), Mapping):
        fix = "name one with column=, or give one of them, or a multi-hot matrix (.to_numpy())"
        raise UsageError(f"{what}: a table has several columns; {fix}")
    if hasattr(given, "tensors"):
        raise UsageError(f"{what}: a {type(given).__name__} has several tensors; give one of them (.tensors[1])")
    if hasattr(given, "detach"):
        try:
            return given.detach().cpu().numpy()
        except (TypeError, RuntimeError) as error:
            raise UsageError(f"{what}: the tensor is no NumPy array ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(given, list | tuple) and getattr(given, "dtype", None) != np.dtype(object):
        return given
    for number, row in enumerate(given):
        deep = isinstance(row, list | tuple) or getattr(row, "dtype", None) == np.dtype(object)
        if isinstance(row, dict) or (deep and any(isinstance(one, list | tuple | dict | np.ndarray) for one in row)):
            raise UsageError(f"{what}: row {number} is nested; give one label per row, or a list of labels")
    return given


def _of_table(given: Any, column: str) -> tuple[Any, Sequence[str] | None]:
    """A column of a ``datasets.Dataset``, a DataFrame or an Arrow table, and the names of its ``ClassLabel``."""
    names: Sequence[str] = getattr(given, "column_names", None) or list(getattr(given, "columns", ()))
    if isinstance(given, dict) or not names or not hasattr(given, "__len__"):
        raise UsageError(f"column={column!r}: a {type(given).__name__} is no table of columns with a length")
    if list(names).count(column) > 1:
        raise UsageError(f"column={column!r}: occurs {list(names).count(column)} times; rename all but one")
    if column not in names:
        raise UsageError(f"column={column!r}: there is none of that name; there are {', '.join(map(str, names))}")
    if not hasattr(given, "select_columns") or not hasattr(given, "features"):
        return given[column], None
    values = given.select_columns([column]).with_format("arrow")[:].column(column)
    return values, _class_label(given.features[column])


def _class_label(feature: Any) -> Sequence[str] | None:
    """The names of a ``ClassLabel`` of ``datasets``, or of that of a list's items."""
    label = getattr(feature, "feature", feature[0] if isinstance(feature, list) else feature)
    return getattr(label, "names", None)


def _coded(
    values: NDArray[Any] | pa.Array, names: Classes
) -> tuple[NDArray[np.int32], NDArray[np.int64], tuple[str, ...]]:
    """Class indices end to end, where the rows begin and end in them, and the class names."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return _multi_hot(values, names)
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise UsageError(f"labels have {values.ndim} dimensions; give one label per row, or rows of zeros and ones")
    if isinstance(values, np.ndarray):
        values = pa.array(values.astype(np.uint64 if values.dtype.kind == "u" else np.int64))
    _complete(values, "labels")
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(values).to_numpy())]).astype(np.int64)
        flat = pc.list_flatten(values)
        _complete(flat, "labels")
        refuse_matrix(flat, np.diff(offsets))
        codes, found = _indexed(flat, names)
        row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        if len(np.unique(row * max(len(found), 1) + codes)) < len(codes):
            raise UsageError("labels: a row has one label twice; write each once")
        return codes, offsets, found
    codes, found = _indexed(values, names)
    return codes, np.arange(len(codes) + 1), found


def _multi_hot(hot: NDArray[Any], names: Classes) -> tuple[NDArray[np.int32], NDArray[np.int64], tuple[str, ...]]:
    if hot.shape[1] == 1:
        raise UsageError("labels have one column; flatten them if it holds class numbers")
    if not np.isin(hot, (0, 1)).all():
        raise UsageError("labels in two dimensions should be zeros and ones, a row per image and a column per class")
    found = _class_names(names, hot.shape[1])
    if len(found) != hot.shape[1]:
        raise UsageError(f"labels have {hot.shape[1]} columns and classes are {len(found)}; give as many")
    rows = Rows.multi_hot(hot)
    return rows.labels, rows.offsets, found


def _indexed(values: pa.Array, names: Classes) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Class indices of single labels, and the class names."""
    if pa.types.is_null(values.type) and not len(values):
        values = values.cast(pa.int64())
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        known = sorted(pc.unique(values).to_pylist()) if names is None or isinstance(names, int) else list(names)
        if isinstance(names, int) and len(known) != names:
            raise UsageError(f"classes={names} and labels name {len(known)}; give the names of all classes")
        codes = pc.index_in(values.cast(pa.string()), value_set=pa.array(known, pa.string()))
        if codes.null_count:
            row = int(np.flatnonzero(codes.is_null().to_numpy(zero_copy_only=False))[0])
            raise UsageError(f"labels: {values[row].as_py()!r} is not one of the {len(known)} classes")
        return codes.to_numpy().astype(np.int32), tuple(known)
    if not pa.types.is_integer(values.type):
        raise UsageError(f"labels are of type {values.type}; give whole numbers from 0, names, or lists of them")
    numbers = values.to_numpy(zero_copy_only=False)
    low, high = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, -1)
    found = _class_names(names, high + 1)
    if low < 0 or high >= len(found):
        wrong = low if low < 0 else high
        raise UsageError(f"labels: {wrong} is not from 0 to {len(found) - 1}, the numbers of the {len(found)} classes")
    return numbers.astype(np.int32), found


def refuse_matrix(flat: pa.Array, lengths: NDArray[np.int64]) -> None:
    """Refuses lists that may be the rows of a multi-hot matrix, and would be read as class numbers.

    Args:
        flat: The labels of all rows, end to end.
        lengths: int64 [N], how many of them each row has.

    Raises:
        UsageError: Every row has equally many, and all are 0 or 1.
    """
    if not (pa.types.is_integer(flat.type) or pa.types.is_boolean(flat.type)) or not len(lengths):
        return
    width, values = int(lengths[0]), set(pc.unique(flat).to_pylist())
    if width > 1 and (lengths == width).all() and values <= {0, 1}:
        raise UsageError(
            f"labels: every row has {width} zeros and ones, as a multi-hot matrix has; give numpy.array(labels) for "
            "a matrix, or class names in place of numbers"
        )


def _wanted(classes: Classes) -> Classes:
    """Number or names of classes as given, checked."""
    if type(classes) is int and classes >= 0:
        return classes
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise UsageError(f"classes={classes!r} should be a number of classes, or a list of their names")
    if len(set(classes)) < len(classes):
        raise UsageError("classes: a name occurs twice")
    return classes


def _class_names(names: Classes, least: int) -> tuple[str, ...]:
    if names is None or isinstance(names, int):
        count = least if names is None else names
        if count > 10_000_000:
            raise UsageError(f"classes={count:,} are more than can be; are these labels row numbers?")
        return tuple(map(str, range(count)))
    return tuple(names)


def _named(given: Any, rows: int, what: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Codes of a column of names, and the names in alphabetical order."""
    values, known = _column(given, None, what)
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise UsageError(f"{what} have {values.ndim} dimensions; give one per row")
    if len(values) != rows:
        raise UsageError(f"{what} have {len(values):,} values for {rows:,} labels; give one per row")
    array = values if isinstance(values, pa.Array) else pa.array(values)
    _complete(array, what)
    if known is not None and pa.types.is_integer(array.type):
        array = pa.array(known, pa.string()).take(array)
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_integer(array.type)):
        raise UsageError(f"{what} are of type {array.type}; give names or whole numbers")
    names = sorted(pc.unique(array).to_pylist())
    return pc.index_in(array, value_set=pa.array(names, array.type)).to_numpy().astype(np.int32), tuple(map(str, names))


def _complete(values: pa.Array, what: str) -> None:
    """Refuses missing values."""
    missing = values.is_null(nan_is_null=pa.types.is_floating(values.type)).to_numpy(zero_copy_only=False)
    if missing.any():
        first = int(missing.argmax())
        raise UsageError(
            f"{what}: {int(missing.sum()):,} of {len(values):,} are missing, row {first} for one; fill them"
        )
