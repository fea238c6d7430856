"""Tables on disk: what a build knows of every image is as long as the dataset, and its memory is not."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data import schema
from fedrsic_data.errors import OutputError

_BATCH = 8192  # rows that are read together
_SMALL = 1 << 16  # bytes of a column that needs no file


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
        columns = {name: table.column(name).unify_dictionaries() for name in table.column_names}
        return cls({name: _Column(column.type, _cut(column)) for name, column in columns.items()}, table.num_rows)

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
        return Spilled({**self._columns, name: _Column(column.type, _cut(column))}, self.num_rows)

    def take(self, rows: NDArray[np.int64]) -> Spilled:
        """Some rows, in files of their own, in the order of ``rows`` int64 [n]; a column at a time is in memory."""
        return Spilled({name: column.take(rows) for name, column in self._columns.items()}, len(rows))


class _Column:
    """A column in an Arrow file, in batches of ``_BATCH`` rows."""

    def __init__(self, kind: pa.DataType, batches: Iterable[pa.Array]) -> None:
        """Of its batches, all but the last as long as they are to be."""
        self.type = kind
        try:
            self._file = tempfile.SpooledTemporaryFile(_SMALL)  # noqa: SIM115, it lives as long as the column
            with pa.ipc.new_file(self._file, pa.schema([("column", kind)])) as writer:
                for batch in batches:
                    writer.write_batch(pa.record_batch([batch], names=["column"]))
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
        return _Column(self.type, (column.take(pa.array(rows[start : start + _BATCH])) for start in starts))


def _cut(column: pa.Array | pa.ChunkedArray) -> Iterator[pa.Array]:
    """A column in batches, which are copied where they are of several chunks: it is never in one piece."""
    for start in range(0, len(column), _BATCH):
        batch = column.slice(start, _BATCH)
        yield schema.whole(batch) if isinstance(batch, pa.ChunkedArray) else batch
