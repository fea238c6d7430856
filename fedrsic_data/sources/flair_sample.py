"""The rendered sample of multi-label sources: aerial photographs taken by users.

``sample`` photographs say so: their sample ids, users, domain names, dataset name and manifest all carry the word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data import sample
from fedrsic_data.dataset.manifest import Fine
from fedrsic_data.errors import UsageError
from fedrsic_data.raw.index import FINE, INDEX_SCHEMA, Container, Index, fingerprint
from fedrsic_data.sources.base import Source

_OF_17 = ("aid-multilabel", "ucmerced-multilabel")  # which write the labels of the sample with hyphens
_UNSPLIT = ("mlrsnet", *_OF_17)
KINDS = ("coco", "flair", "voc", *_UNSPLIT)
"""Sources that photographs can replace."""


class PhotoContainer(Container):
    """Paints the photograph a key names: ``collection:user/number/camera/fine labels``."""

    def __init__(self, seed: int, size: int) -> None:
        self._seed = seed
        self._size = size

    def read(self, keys: Sequence[str]) -> list[bytes]:
        return [self._painted(*key.split(":", 1)) for key in keys]

    def where(self, key: str) -> str:
        return f"sample of {key}"

    def firsts(self, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        return np.arange(len(keys))  # no two are the same

    def _painted(self, collection: str, key: str) -> bytes:
        photo = sample.Photograph.from_key(key)
        return sample.photograph(photo, seed=self._seed, collection=collection, size=self._size)


def index(source: Source, *, users: int, seed: int, size: int) -> Index:
    """The sample of a multi-label source.

    FLAIR's has users and fine labels, the others neither; VOC's has a collection a year, and as in the real one only
    2007 has test images where both years are taken. Those of scenes have no splits, and where the source has the 17
    labels of UC Merced multi-label, its spelling of them.

    Args:
        source: Its kind is one of ``KINDS``.
        users: How many take photographs, about eight each.
        seed: Seed of the photographs.
        size: Side in pixels.

    Raises:
        UsageError: The source's scene classes are to be its domains.
    """
    if getattr(source.settings, "domains", "source") != "source":
        words = "the photographs of the sample have no scene class; leave it out, or build without --sample"
        raise UsageError(f"sources.{source.name}.domains={source.settings.domains}: {words}")
    names = _collections(source)
    tables = [_rows(name, sample.photographs(users, seed, name)) for name in names]
    if len(tables) > 1:
        later = tables[1].schema.get_field_index("split")
        tables[1] = tables[1].set_column(later, "split", pa.repeat(pa.scalar("train"), len(tables[1])))
    table = pa.concat_tables(tables)
    fine = None
    if source.kind == "flair":
        fine = Fine(sample.FINE, tuple(sample.COARSE[coarse] for coarse in sample.COARSE_OF))
    else:
        table = table.drop_columns([FINE.name]).set_column(3, "group", pa.nulls(len(table), pa.string()))
    if source.kind in _UNSPLIT:
        table = table.set_column(table.schema.get_field_index("split"), "split", pa.nulls(len(table), pa.string()))
    hyphens = tuple(name.replace("_", "-") for name in sample.COARSE)
    return Index(
        table=table,
        classes=hyphens if source.kind in _OF_17 else sample.COARSE,
        container=PhotoContainer(seed, size),
        fingerprint=fingerprint([names, users, seed, size]),
        multi_label=True,
        fine=fine,
    )


def _collections(source: Source) -> tuple[str, ...]:
    if source.kind != "voc":
        return (source.kind,)
    return tuple(f"voc{year}" for year in ("2007", "2012") if source.settings.years in (year, "07+12"))


def _rows(collection: str, photographs: pa.Table) -> pa.Table:
    user, number = photographs.column("user"), photographs.column("number").cast(pa.string())
    join = pc.binary_join_element_wise
    columns = {
        "sample_id": join(f"sample-{collection}", user, number, "/"),
        "labels": photographs.column("labels"),
        "domain": pa.repeat(pa.scalar(f"sample-{collection}"), len(photographs)),
        "group": join("sample", user, "-"),
        "split": photographs.column("split"),
        "key": join(collection, photographs.column("key"), ":"),
        "file": join(join(user, number, "-"), ".jpg", ""),
        FINE.name: photographs.column("fine_labels"),
    }
    return pa.table(columns).cast(INDEX_SCHEMA.append(FINE))
