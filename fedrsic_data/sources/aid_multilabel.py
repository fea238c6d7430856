"""AID multi-label: 3,000 scenes of AID, 600 x 600 JPEG from Google Earth, with the 17 labels of UC Merced multi-label.

The authors' archive cannot be fetched without a browser, so the Parquet mirror on the Hub is used, at the commit
recorded at first use. The mirror has neither the authors' split (2,400 for training, 600 for the test) nor scene
classes, and its label names have spaces for hyphens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from fedrsic_data.errors import SourceError
from fedrsic_data.raw.index import Index
from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.classfolders import plain
from fedrsic_data.sources.parquet import ColumnsSettings, ColumnsSource
from fedrsic_data.sources.tree import check_complete
from fedrsic_data.sources.ucmerced_multilabel import LABELS

_REPO = "jonathan-roberts1/AID_MultiLabel"
_IMAGES = 3_000


_FACTS = Facts(
    title="AID multi-label",
    homepage="https://github.com/Hua-YS/AID-Multilabel-Dataset",
    licence="none stated by the authors; imagery from Google Earth",
    citation="Hua, Mou and Zhu, Relation network for multilabel aerial image classification, IEEE TGRS 2020",
    layout=f"the Parquet files of {_REPO}, with columns image and label",
    hub=HubMirror(_REPO),
)


@dataclass(frozen=True)
class AIDMultilabel:
    """See the module."""

    name: str = "aid-multilabel"
    kind: str = "aid-multilabel"
    settings: None = None
    aliases: tuple[str, ...] = ("aidmultilabel", "aidmultilabeldataset")
    facts: Facts = _FACTS

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. A copy is complete with 3,000 images."""
        columns = ColumnsSettings(repo=_REPO, image="image", label="label", domain="", user="", split="")
        index = ColumnsSource(columns, self.name).index(path, allow_partial=allow_partial)
        place = {plain(name): i for i, name in enumerate(LABELS)}
        if not index.multi_label:
            raise SourceError(f"{path}: column label has no lists of labels; give the Parquet files of {_REPO}")
        if strange := [name for name in index.classes if plain(name) not in place]:
            raise SourceError(f"{path}: label {strange[0]!r} is not one of the {len(LABELS)} of {self.facts.title}")
        n = len(index.table)
        if n > _IMAGES:
            raise SourceError(f"{path}: holds {n:,} images, the published set {_IMAGES:,}; give its files alone")
        absent = [f"{n:,} of {_IMAGES:,} images are there"] if n < _IMAGES else []
        check_complete(path, self.facts.title, absent, n, allow_partial)
        code = np.array([place[plain(name)] for name in index.classes], np.int32)
        sets = index.table.column("labels").to_pylist()
        labels = pa.array([sorted(code[some].tolist()) for some in sets], pa.list_(pa.int32()))
        at = index.table.schema.get_field_index("labels")
        table = index.table.set_column(at, index.table.schema.field(at), labels)
        return replace(index, table=table, classes=LABELS, missing=(*index.missing, *absent))


SOURCE = AIDMultilabel()
