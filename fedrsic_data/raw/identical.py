"""Find byte-identical files: by size, then by a few bytes of each, and by digest only if these agree."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data.raw.index import Container

PEEK = 256
"""Bytes that a peek gives."""

_BATCH = 256  # files looked at together
_WORKERS = min(4, os.cpu_count() or 1)

Buffer = bytes | memoryview


class Peekable(Container, Protocol):
    """Files in any order, whose sizes are known without reading them. Safe for threads."""

    def sizes(self, keys: Sequence[str]) -> list[int]:
        """Bytes of each file; ``SourceError`` where one cannot be read."""
        ...

    def peek(self, keys: Sequence[str]) -> list[bytes]:
        """Up to ``PEEK`` bytes from the middle of each file; ``SourceError`` where one cannot be read."""
        ...


def firsts(files: Peekable, keys: pa.ChunkedArray) -> NDArray[np.int64]:
    """For each file the place of the first that has its very bytes; see ``Container.firsts``.

    Only files that share their size with another are opened, and only those that share it and the bytes in their
    middle are read whole.
    """
    every = np.arange(len(keys))
    code = _each(keys, every, lambda some: np.array(files.sizes(some), np.int64))
    left = np.flatnonzero(code)
    for look in (files.peek, files.read):
        left = left[_shared(code[left])]
        told = _each(keys, left, lambda some, look=look: digests(look(some)))  # type: ignore[misc]
        code[left] = _codes(code[left], *told.T)
    first = every.copy()
    first[left] = left[_first_of(code[left])]
    return first


def firsts_of(told: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same of files whose ``digests`` are known: int64 [N, 3]."""
    first = np.arange(len(told))
    held = np.flatnonzero(told[:, 0])
    first[held] = held[_first_of(_codes(*told[held].T))]
    return first


def digests(files: Iterable[Buffer]) -> NDArray[np.int64]:
    """Size and 128 bits of the sha256 of each file, int64 [N, 3]."""
    rows = [(len(one), hashlib.sha256(one).digest()) for one in files]
    told = np.empty((len(rows), 3), np.int64)
    told[:, 0] = [size for size, _ in rows]
    told[:, 1:] = np.frombuffer(b"".join(digest[:16] for _, digest in rows), np.int64).reshape(-1, 2)
    return told


def views(values: pa.Array) -> Iterator[memoryview]:
    """The byte strings of a binary array, not copied; null is empty."""
    values = values.fill_null(b"")
    _, offsets, data = values.buffers()
    wide = np.int64 if pa.types.is_large_binary(values.type) else np.int32
    ends = np.frombuffer(offsets, wide)[values.offset : values.offset + len(values) + 1].tolist()
    view = memoryview(data or b"")
    return (view[ends[i] : ends[i + 1]] for i in range(len(values)))


def _each(
    keys: pa.ChunkedArray, rows: NDArray[np.int64], look: Callable[[list[str]], NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Apply ``look`` to some files, int64 [rows, ...]; a few at a time, on a few threads."""
    parts = np.split(rows, range(_BATCH, len(rows), _BATCH))
    with ThreadPoolExecutor(_WORKERS) as pool:
        return np.concatenate(list(pool.map(lambda part: look(keys.take(pa.array(part)).to_pylist()), parts)))


def _codes(*columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each row, the same for rows that agree in all columns: int64 [N]."""
    order = np.lexsort(columns)
    new = np.zeros(len(order), bool)
    for column in columns:
        new[1:] |= np.diff(column[order]) != 0
    code = np.empty(len(order), np.int64)
    code[order] = np.cumsum(new)
    return code


def _shared(code: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether another row has the same number."""
    _, inverse, counts = np.unique(code, return_inverse=True, return_counts=True)
    shared: NDArray[np.bool_] = counts[inverse] > 1
    return shared


def _first_of(code: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row the first that has its number."""
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return first[inverse]
