"""Per-image tables in temporary files, so that a build's memory does not grow with the dataset."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data.dataset import schema
from fedrsic_data.errors import OutputError

_BATCH = 8192  # rows that are written together; a table of no more needs no file
_FULL = 2**28  # bytes from which on a new file is begun, so that room comes back while other tables are in use


_Column = Callable[[int, int], pa.ChunkedArray]
"""Gives rows ``start`` to ``stop``, mapped from the file anew at each call."""


class Spilled:
    """A table whose columns are in a temporary file without a name; a column comes back whole, or rows by range.

    Its methods have the names of ``pyarrow.Table``. Those that make columns raise ``OutputError`` if there is no
    room for temporary files. Safe for threads; it cannot be sent to other processes, its slices can.
    """

    def __init__(self, columns: dict[str, _Column], num_rows: int) -> None:
        """Takes columns of ``num_rows`` each; ``of`` makes them."""
        self._columns = columns
        self.num_rows = num_rows

    @classmethod
    def of(cls, table: pa.Table) -> Spilled:
        """A table's columns, in a file, or in memory where the rows are few."""
        return cls({name: _stored(table.column(name)) for name in table.column_names}, table.num_rows)

    @property
    def column_names(self) -> list[str]:
        """The names of its columns."""
        return list(self._columns)

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        return self._columns[name](0, self.num_rows)

    def slice(self, start: int, length: int) -> pa.Table:
        """``length`` rows from ``start`` on, or those that there are; copies, which keep nothing of a file mapped."""
        stop = min(start + length, self.num_rows)
        parts = {name: column(start, stop) for name, column in self._columns.items()}
        return pa.table({name: pa.concat_arrays(part.chunks) if part.chunks else part for name, part in parts.items()})

    def select(self, names: Sequence[str]) -> Spilled:
        """Some of the columns, which both tables share."""
        return Spilled({name: self._columns[name] for name in names}, self.num_rows)

    def append_column(self, name: str, column: pa.Array) -> Spilled:
        """The table with another column."""
        return Spilled({**self._columns, name: _stored(pa.chunked_array([column]))}, self.num_rows)

    def take(self, rows: NDArray[np.int64]) -> Spilled:
        """Some rows, written anew, in the order of ``rows`` int64 [n]; a column at a time is in memory."""
        return Spilled(
            {name: _taken(column(0, self.num_rows), rows) for name, column in self._columns.items()}, len(rows)
        )


class _File:
    """A temporary file without a name, which many columns share: a build of many subsets needs few open files."""

    def __init__(self) -> None:
        self.bytes: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as a column in it
        self.process = os.getpid()


_room = threading.Lock()
_newest: list[weakref.ref[_File]] = []  # the file that is written to, while a column in it is in use


def _stored(column: pa.ChunkedArray) -> _Column:
    """A column, written piece by piece where it is of several chunks: it is never in one piece."""
    same = column.unify_dictionaries()
    starts = range(0, len(same), _BATCH)
    return _put((schema.whole(same.slice(start, _BATCH)) for start in starts), same.type, len(same))


def _taken(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> _Column:
    """Some rows of a column, written anew."""
    whole, starts = schema.whole(column), range(0, len(rows), _BATCH)
    return _put((whole.take(pa.array(rows[start : start + _BATCH])) for start in starts), column.type, len(rows))


def _put(batches: Iterable[pa.Array], kind: pa.DataType, num_rows: int) -> _Column:
    """Adds a column to the process's temporary file, or holds it; a full file, or one from before a fork, is left."""
    if num_rows <= _BATCH:
        held = pa.chunked_array(batches, kind)
        return lambda start, stop: held[start:stop]
    try:
        with _room:
            file = _newest[-1]() if _newest else None
            if file is None or file.process != os.getpid() or file.bytes.tell() >= _FULL:
                file = _File()
                _newest[:] = [weakref.ref(file)]
            start = file.bytes.seek(-file.bytes.seek(0, os.SEEK_END) % mmap.ALLOCATIONGRANULARITY, os.SEEK_CUR)
            with pa.ipc.new_file(pa.PythonFile(file.bytes, "w"), pa.schema([("column", kind)])) as writer:
                for batch in batches:
                    writer.write_batch(pa.record_batch([batch], ["column"]))
            file.bytes.flush()
            length = file.bytes.tell() - start
    except OSError as error:
        fix = "raise ulimit -n" if error.errno in (errno.EMFILE, errno.ENFILE) else "free space there, or set TMPDIR"
        where, words = tempfile.tempdir or "TMPDIR", error.strerror or error
        raise OutputError(f"{where}: cannot hold temporary files ({words}); {fix}") from None

    def mapped(begin: int, end: int) -> pa.ChunkedArray:
        data = mmap.mmap(file.bytes.fileno(), length, access=mmap.ACCESS_READ, offset=start)
        reader, first = pa.ipc.open_file(pa.py_buffer(data)), begin // _BATCH
        chunks = [reader.get_batch(number).column(0) for number in range(first, -(-end // _BATCH))]
        return pa.chunked_array(chunks, kind)[begin - first * _BATCH : end - first * _BATCH]

    return mapped
