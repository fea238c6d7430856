"""Tables on disk: what a build knows of every image is as long as the dataset, and its memory is not."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data import schema
from fedrsic_data.errors import OutputError

_BATCH = 1024  # rows that are read together


class Spilled:
    """A table whose columns are in temporary files without names; a column comes back whole, or rows by range.

    Its methods are those of ``pyarrow.Table``. Safe for threads; it cannot be sent to other processes, its slices can.
    """

    def __init__(self, columns: dict[str, _Column], num_rows: int) -> None:
        """Of columns of ``num_rows`` each; ``of`` makes them."""
        self._columns = columns
        self.num_rows = num_rows

    @classmethod
    def of(cls, table: pa.Table) -> Spilled:
        """A table's columns, each written to a file of its own.

        Raises:
            OutputError: There is no room for temporary files.
        """
        return cls({name: _Column(table.column(name)) for name in table.column_names}, table.num_rows)

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
        return Spilled({**self._columns, name: _Column(pa.chunked_array([column]))}, self.num_rows)

    def take(self, rows: NDArray[np.int64]) -> Spilled:
        """Some rows, in files of their own, in the order of ``rows`` int64 [n]; a column at a time is in memory."""
        wanted = pa.array(rows)
        taken = {
            name: _Column(pa.chunked_array([schema.whole(column.read(0, self.num_rows)).take(wanted)]))
            for name, column in self._columns.items()
        }
        return Spilled(taken, len(rows))


class _Column:
    """A column in an Arrow file, in batches of ``_BATCH`` rows."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.type = column.type
        table = pa.table([schema.whole(column)], names=["column"])
        try:
            self._file: IO[Any] = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the column
            with pa.ipc.new_file(self._file, table.schema) as writer:
                writer.write_table(table, max_chunksize=_BATCH)
            self._file.flush()
        except OSError as error:
            words = error.strerror or error
            raise OutputError(
                f"{tempfile.gettempdir()}: cannot hold temporary files ({words}); free space there, or set TMPDIR"
            ) from None
        self._reader = pa.ipc.open_file(self._file)
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> pa.ChunkedArray:
        """Rows ``start`` to ``stop``."""
        with self._lock:
            batches = [self._reader.get_batch(i) for i in range(start // _BATCH, -(-stop // _BATCH))]
        chunks = [batch.column(0) for batch in batches]
        return pa.chunked_array(chunks, self.type).slice(start % _BATCH, stop - start)
