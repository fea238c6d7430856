"""The index: one row per image with names, labels and the place of its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data.dataset.manifest import Fine, LeftOut

INDEX_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),  # unique over all sources, the same whatever the file format
        ("labels", pa.list_(pa.int32())),  # indices into Index.classes; length 1 in single-label sources
        ("domain", pa.string()),
        ("group", pa.string()),  # natural user, or null
        ("split", pa.string()),  # the source's own split, or null
        ("key", pa.string()),  # what the container reads the bytes by
        ("file", pa.string()),  # the file's own name
    ]
)
"""The columns of every index; one whose source has fine labels has ``FINE`` beside them."""

FINE = pa.field("fine_labels", pa.list_(pa.int32()))  # indices into Fine.classes


class Container(Protocol):
    """Access to the bytes of an index: a folder, an archive, Parquet files, a renderer. Safe for threads."""

    def prepare(self, scratch: Path, *, shared: bool = False) -> None:  # noqa: ARG002 - for those that need it
        """Prepare for reads in any order; called before ``read``. Temporary files may go to ``scratch``.

        Files that can be read in any order need no preparation.

        Args:
            scratch: A folder.
            shared: Copies of this container, in other processes, will read too: temporary files have names, and
                stay until the folder goes.

        Raises:
            SourceError: The files cannot be read.
        """
        return

    def read(self, keys: Sequence[str]) -> list[bytes]:
        """The files' bytes, as they are, in the order of ``keys``.

        Raises:
            SourceError: A file vanished or cannot be read.
        """
        ...

    def where(self, key: str) -> str:
        """The file in words, for messages."""
        ...

    def firsts(self, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        """Which files are the same byte for byte; may be called before ``prepare``.

        Args:
            keys: string [n].

        Returns:
            For each file the place of the first in ``keys`` with the same bytes, int64 [n]. It is its own for the
            first of them, for a unique file, and for an empty one.

        Raises:
            SourceError: A file vanished or cannot be read.
        """
        ...


@dataclass(frozen=True)
class Index:
    """The images of a source.

    Attributes:
        table: One row per image with the columns of ``INDEX_SCHEMA``.
        classes: The source's own class names; ``labels`` are indices into it.
        container: Reads the bytes.
        fingerprint: Value that changes when a file changes (names, sizes, times); never part of a manifest.
        newest: Latest modification time, in nanoseconds since the epoch; 0 if there is none.
        left_out: Files that were left out.
        missing: Description of what is missing; empty for a complete copy.
        multi_label: Whether images are multi-label.
        fine: The finer label space, if the source has one.
        counts: Other counts by name (``"crowd regions"``).
        notes: Findings and decisions, one line each; for ``fedkit new``, never part of a manifest.
    """

    table: pa.Table
    classes: tuple[str, ...]
    container: Container
    fingerprint: str
    newest: int = 0
    left_out: tuple[LeftOut, ...] = ()
    missing: tuple[str, ...] = ()
    multi_label: bool = False
    fine: Fine | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassRows:
    """The images of one class: ``sample_id``, ``key`` and ``file`` as string arrays of one length."""

    ids: pa.Array
    keys: pa.Array
    files: pa.Array


def single_label_table(domain: str, classes: Sequence[ClassRows]) -> pa.Table:
    """An index table of single-label images without users and splits.

    Args:
        domain: The domain of all of them.
        classes: The images of class 0, 1, ...
    """
    counts = [len(rows.ids) for rows in classes]
    n = sum(counts)
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    most = max(counts, default=0)
    same, nothing = pa.repeat(pa.scalar(domain, pa.string()), most), pa.nulls(most, pa.string())

    def by_class(pieces: Iterable[pa.Array]) -> pa.ChunkedArray:
        return pa.chunked_array(pieces, pa.string())  # in pieces, which need no copy

    columns = [
        by_class(rows.ids for rows in classes),
        pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32)), pa.array(labels)),
        by_class(same[:count] for count in counts),
        by_class(nothing[:count] for count in counts),
        by_class(nothing[:count] for count in counts),
        by_class(rows.keys for rows in classes),
        by_class(rows.files for rows in classes),
    ]
    return pa.table(columns, schema=INDEX_SCHEMA)


def stamped(paths: Iterable[Path], root: Path | None = None) -> tuple[str, int]:
    """A digest of names (from ``root``), sizes and times of files, and when one last changed, in ns since the epoch."""
    stats = [(path.relative_to(root).as_posix() if root else path.name, path.stat()) for path in paths]
    stamp = fingerprint((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return stamp, max(max(stat.st_mtime_ns, stat.st_ctime_ns) for _, stat in stats)


def fingerprint(facts: Iterable[object]) -> str:
    """A short digest of names, sizes and times."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(repr(fact).encode())
    return digest.hexdigest()[:32]
