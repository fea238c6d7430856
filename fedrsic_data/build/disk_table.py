"""Tables on disk: what a build knows of every image is as long as the dataset, and its memory is not."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data.dataset import schema
from fedrsic_data.errors import OutputError

_BATCH = 8192  # rows that are read together; a table of no more needs no file
_FULL = 2**28  # bytes from which on a new file is begun, so that room comes back while other tables are in use


class Spilled:
    """A table whose columns are in a temporary file without a name; a column comes back whole, or rows by range.

    Its methods are named as those of ``pyarrow.Table``. Those that make columns raise ``OutputError`` where there is no
    room for temporary files. Safe for threads; it cannot be sent to other processes, its slices can.
    """

    def __init__(self, columns: dict[str, _Column], num_rows: int) -> None:
        """Takes columns of ``num_rows`` each; ``of`` makes them."""
        self._columns = columns
        self.num_rows = num_rows

    @classmethod
    def of(cls, table: pa.Table) -> Spilled:
        """A table's columns, in a file, or in memory where the rows are few."""
        return cls({name: _Column.of(table.column(name)) for name in table.column_names}, table.num_rows)

    @property
    def column_names(self) -> list[str]:
        """The names of its columns."""
        return list(self._columns)

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column."""
        return self._columns[name].read(0, self.num_rows)

    def slice(self, start: int, length: int) -> pa.Table:
        """``length`` rows from ``start`` on, or those that there are."""
        stop = min(start + length, self.num_rows)
        return pa.table({name: column.read(start, stop) for name, column in self._columns.items()})

    def select(self, names: Sequence[str]) -> Spilled:
        """Some of the columns, which both tables share."""
        return Spilled({name: self._columns[name] for name in names}, self.num_rows)

    def append_column(self, name: str, column: pa.Array) -> Spilled:
        """The table with another column."""
        return Spilled({**self._columns, name: _Column.of(pa.chunked_array([column]))}, self.num_rows)

    def take(self, rows: NDArray[np.int64]) -> Spilled:
        """Some rows, written anew, in the order of ``rows`` int64 [n]; a column at a time is in memory."""
        return Spilled({name: column.take(rows) for name, column in self._columns.items()}, len(rows))


class _Column:
    """A column in batches of ``_BATCH`` rows, in the process's temporary file; in memory, if there is but one."""

    def __init__(self, kind: pa.DataType, batches: Iterable[pa.Array], num_rows: int) -> None:
        """Stores the batches, all but the last of ``_BATCH`` rows."""
        self.type = kind
        self._batches: list[pa.Array | _Piece] = []
        self._dictionary: pa.Array | None = None  # all batches share one
        coded = pa.types.is_dictionary(kind)
        self._stored = pa.schema([("column", kind.index_type if coded else kind)])
        for batch in batches:
            if num_rows <= _BATCH:
                self._batches.append(batch)
                continue
            if coded:
                self._dictionary = batch.dictionary
            values = batch.indices if coded else batch
            self._batches.append(_put(pa.record_batch([values], schema=self._stored).serialize()))

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> _Column:
        """A column, copied batch by batch where these are of several chunks: it is never in one piece."""
        same = column.unify_dictionaries()
        starts = range(0, len(same), _BATCH)
        return cls(same.type, (schema.whole(same.slice(start, _BATCH)) for start in starts), len(same))

    def read(self, start: int, stop: int) -> pa.ChunkedArray:
        """Rows ``start`` to ``stop``."""
        chunks = []
        for number in range(start // _BATCH, -(-stop // _BATCH)):
            batch = self._batch(number)
            part = batch[max(start - number * _BATCH, 0) : stop - number * _BATCH]
            # a copy of a part lets the rest of its batch go
            chunks.append(batch if len(part) == len(batch) else pa.concat_arrays([part]))
        return pa.chunked_array(chunks, self.type)

    def take(self, rows: NDArray[np.int64]) -> _Column:
        """Some rows, written anew."""
        column = schema.whole(self.read(0, len(self._batches) * _BATCH))
        starts = range(0, len(rows), _BATCH)
        return _Column(self.type, (column.take(pa.array(rows[start : start + _BATCH])) for start in starts), len(rows))

    def _batch(self, number: int) -> pa.Array:
        batch = self._batches[number]
        if not isinstance(batch, _Piece):
            return batch
        values = pa.ipc.read_record_batch(batch.read(), self._stored).column(0)
        return values if self._dictionary is None else pa.DictionaryArray.from_arrays(values, self._dictionary)


class _File:
    """A temporary file without a name, which many columns share: a build of many subsets needs few open files."""

    def __init__(self) -> None:
        self.bytes: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as a piece of it
        self.end = 0
        self.lock = threading.Lock()
        self.process = os.getpid()


@dataclass(frozen=True)
class _Piece:
    """Some bytes of a temporary file, which goes with its last piece."""

    file: _File
    start: int
    length: int

    def read(self) -> pa.Buffer:
        """The bytes."""
        if hasattr(os, "pread"):  # a process that was forked has the place in the file in common with this one
            return pa.py_buffer(os.pread(self.file.bytes.fileno(), self.length, self.start))
        with self.file.lock:
            self.file.bytes.seek(self.start)
            return pa.py_buffer(self.file.bytes.read(self.length))


_room = threading.Lock()
_newest: list[weakref.ref[_File]] = []  # the file that is written to, while a piece of it is in use


def _put(data: pa.Buffer) -> _Piece:
    """Adds bytes to the process's temporary file; a full one, or one of the process it was forked from, is left."""
    try:
        with _room:
            file = _newest[-1]() if _newest else None
            if file is None or file.end >= _FULL or file.process != os.getpid():
                file = _File()
                _newest[:] = [weakref.ref(file)]
            with file.lock:
                start, file.end = file.end, file.end + len(data)
                file.bytes.seek(start)
                file.bytes.write(data)
                file.bytes.flush()
            return _Piece(file, start, len(data))
    except OSError as error:
        fix = "free space there, or set TMPDIR"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            fix = "raise ulimit -n"
        raise OutputError(
            f"{tempfile.tempdir or 'TMPDIR'}: cannot hold temporary files ({error.strerror or error}); {fix}"
        ) from None
