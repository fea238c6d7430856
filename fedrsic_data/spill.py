"""Tables on disk: what a build knows of every image is as long as the dataset, and its memory is not."""

from __future__ import annotations

import errno
import io
import tempfile
import threading
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data import schema
from fedrsic_data.errors import OutputError

_BATCH = 8192  # rows that are read together; a table of no more needs no files


class Spilled:
    """A table whose columns are in temporary files without names; a column comes back whole, or rows by range.

    Its methods are named as those of ``pyarrow.Table``. Those that make columns raise ``OutputError`` where there is no
    room for temporary files. Safe for threads; it cannot be sent to other processes, its slices can.
    """

    def __init__(self, columns: dict[str, _Column], num_rows: int) -> None:
        """Of columns of ``num_rows`` each; ``of`` makes them."""
        self._columns = columns
        self.num_rows = num_rows

    @classmethod
    def of(cls, table: pa.Table) -> Spilled:
        """A table's columns, each in a file of its own, or in memory where the rows are few."""
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
        """Some of the columns; the files are shared."""
        return Spilled({name: self._columns[name] for name in names}, self.num_rows)

    def append_column(self, name: str, column: pa.Array) -> Spilled:
        """The table with another column."""
        return Spilled({**self._columns, name: _Column.of(pa.chunked_array([column]))}, self.num_rows)

    def take(self, rows: NDArray[np.int64]) -> Spilled:
        """Some rows, written anew, in the order of ``rows`` int64 [n]; a column at a time is in memory."""
        return Spilled({name: column.take(rows) for name, column in self._columns.items()}, len(rows))


class _Column:
    """A column as an Arrow file, in batches of ``_BATCH`` rows; in memory, if there is but one."""

    def __init__(self, kind: pa.DataType, batches: Iterable[pa.Array], num_rows: int) -> None:
        """Of its batches, all but the last of ``_BATCH`` rows."""
        self.type = kind
        try:
            # it lives as long as the column
            self._file: IO[bytes] = io.BytesIO() if num_rows <= _BATCH else tempfile.TemporaryFile()  # noqa: SIM115
            with pa.ipc.new_file(self._file, pa.schema([("column", kind)])) as writer:
                for batch in batches:
                    writer.write_batch(pa.record_batch([batch], names=["column"]))
            self._file.flush()
        except OSError as error:
            mend = "free space there, or set TMPDIR"
            if error.errno in (errno.EMFILE, errno.ENFILE):
                mend = "raise ulimit -n, or build fewer subsets at once"
            raise OutputError(
                f"{tempfile.tempdir or 'TMPDIR'}: cannot hold temporary files ({error.strerror or error}); {mend}"
            ) from None
        self._reader = pa.ipc.open_file(self._file)
        self._lock = threading.Lock()

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
            with self._lock:
                batch = self._reader.get_batch(number).column(0)
            part = batch[max(start - number * _BATCH, 0) : stop - number * _BATCH]
            # a copy of a part lets the rest of its batch go
            chunks.append(batch if len(part) == len(batch) else pa.concat_arrays([part]))
        return pa.chunked_array(chunks, self.type)

    def take(self, rows: NDArray[np.int64]) -> _Column:
        """Some rows, written anew."""
        column = schema.whole(self.read(0, self._reader.num_record_batches * _BATCH))
        starts = range(0, len(rows), _BATCH)
        return _Column(self.type, (column.take(pa.array(rows[start : start + _BATCH])) for start in starts), len(rows))
