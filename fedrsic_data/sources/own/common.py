"""Shared code of sources for people's own data: their facts, and index columns from Arrow arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.errors import SourceError
from fedrsic_data.raw.index import INDEX_SCHEMA, Index
from fedrsic_data.sources.base import Facts, HubMirror, Source

UNKNOWN_LICENCE = "licence not stated; check before sharing"
UNKNOWN_CITATION = "citation not stated"

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words that the Hub takes for the three usual splits, and what these are called here."""

_SPLIT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,49}")


@dataclass(frozen=True)
class Labels:
    """Label lists end to end.

    Attributes:
        codes: int32 [E], indices into ``classes``.
        offsets: int32 [N + 1]; row ``i`` has ``codes[offsets[i]:offsets[i + 1]]``.
        classes: Class names in index order.
        multi: Whether rows are multi-label.
        counts: What was counted on the way.
    """

    codes: NDArray[np.int32]
    offsets: NDArray[np.int32]
    classes: tuple[str, ...]
    multi: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def single(cls, codes: NDArray[np.integer], classes: tuple[str, ...]) -> Labels:
        """One label per row: ``codes`` int [N]."""
        return cls(codes.astype(np.int32), np.arange(len(codes) + 1, dtype=np.int32), classes)

    @classmethod
    def sets(cls, codes: NDArray[np.integer], offsets: NDArray[np.integer], classes: tuple[str, ...]) -> Labels:
        """Labels of rows in the order they are listed; repeated labels are used once, and counted."""
        row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        _, first = np.unique(row * max(len(classes), 1) + codes, return_index=True)
        first.sort()
        sizes = np.bincount(row[first], minlength=len(offsets) - 1)
        kept = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        again = len(codes) - len(first)
        counts = {"labels listed twice for an image, taken once": again} if again else {}
        return cls(codes[first].astype(np.int32), kept, classes, True, counts)

    def check(self, where: str) -> None:
        """Refuse data that cannot be learned from.

        Raises:
            SourceError: No images, or all of one class.
        """
        if len(self.offsets) < 2:
            raise SourceError(f"{where}: holds no images")
        present = np.unique(self.codes)
        if len(present) < 2:
            names = f"only one class, {self.classes[present[0]]!r}" if len(present) else "no labels"
            raise SourceError(f"{where}: the images have {names}; a dataset needs two classes or more")


class Own(Source, Protocol):
    """A source that reports what it found if its settings leave that open."""

    def look(self, path: Path) -> tuple[Any, Index]:
        """The settings with what was found filled in, and the index; errors as for ``index``."""
        ...


def facts(title: str, licence: str, citation: str, layout: str, *, homepage: str = "", hub: HubMirror | None) -> Facts:
    """Provenance of data as given by the user."""
    return Facts(
        title=title,
        homepage=homepage,
        licence=licence or UNKNOWN_LICENCE,
        citation=citation or UNKNOWN_CITATION,
        layout=layout,
        redistributable=False,
        hub=hub,
    )


def table(
    ids: pa.Array,
    labels: Labels,
    domain: pa.Array | str,
    key: pa.Array,
    file: pa.Array,
    *,
    group: pa.Array | None = None,
    split: pa.Array | None = None,
) -> pa.Table:
    """An index table in the order of sample ids.

    Args:
        ids: string [N], unique.
        labels: Labels of N rows.
        domain: string [N], or the domain of all.
        key: string [N], what the container reads by.
        file: string [N], file names.
        group: string [N], natural users; None: unknown.
        split: string [N], the source's own splits, null where it has none; None: it has none at all.
    """
    n = len(ids)
    nothing = pa.nulls(n, pa.string())
    columns = [
        ids,
        pa.ListArray.from_arrays(pa.array(labels.offsets), pa.array(labels.codes)),
        pa.repeat(pa.scalar(domain, pa.string()), n) if isinstance(domain, str) else domain,
        nothing if group is None else group,
        nothing if split is None else split,
        key,
        file,
    ]
    whole = pa.table(columns, schema=INDEX_SCHEMA)
    order = pc.sort_indices(ids)
    if np.array_equal(order.to_numpy(), np.arange(n)):
        return whole
    return whole.take(order).combine_chunks()


def encoded(texts: pa.Array) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """The distinct texts in alphabetical order, and the code int32 [N] of each text; there are no nulls."""
    coded = texts.dictionary_encode()
    names = coded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.zeros(len(names), np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    return tuple(names[i] for i in order), rank[coded.indices.to_numpy()]


def split_names(texts: pa.Array, where: str) -> pa.Array:
    """Splits by the names they have here: ``training`` is ``train``, ``validation`` is ``val``; others stay.

    Args:
        texts: string [N], may have nulls.
        where: Place of the names, for messages.

    Raises:
        SourceError: A name that no folder and no split of a dataset can have.
    """
    coded = texts.dictionary_encode()
    return pa.array([split_name(name, where) for name in coded.dictionary.to_pylist()], pa.string()).take(coded.indices)


def known_splits(words: pa.Array) -> pa.Array:
    """Splits by the names they have here, where they are called by a usual word; others, and nulls, stay."""
    coded = words.dictionary_encode()
    names = [SPLIT_WORDS.get(word.lower(), word) for word in coded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(coded.indices)


def split_name(name: str, where: str) -> str:
    """One split by the name it has here; see ``split_names``."""
    known = SPLIT_WORDS.get(name.lower(), name)
    if not _SPLIT.fullmatch(known) or known == "novel":
        allowed = "letters, digits and _, at most 50, not 'novel'"
        raise SourceError(f"{where}: {name!r} is not a name for a split ({allowed}); rename it")
    return known


def of_left_out_splits(count: int, renames: Mapping[str, str | None]) -> tuple[LeftOut, ...]:
    """Entry for ``count`` images left out because settings give their split no name."""
    unwanted = tuple(split for split, new in renames.items() if new is None)
    return (LeftOut("of a split that the recipe leaves out", count, unwanted),) if count else ()


def first(rows: NDArray[np.bool_]) -> int | None:
    """The number of the first row that is True: bool [N]."""
    at = np.flatnonzero(rows)
    return int(at[0]) if len(at) else None
