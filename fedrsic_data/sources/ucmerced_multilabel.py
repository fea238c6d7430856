"""UC Merced multi-label: 17 labels for the 2,100 images of UC Merced Land Use, at least one each.

The labels are one table, ``LandUse_Multilabeled.txt``, in ``multilabels.zip``; its authors publish no images. Those of
the source ``ucmerced`` are used, wherever it is found: one download serves both.

Deviations: DLRSD, which labels the same images by their pixels, has 17 classes of the same names and other labels; it
is not read.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fedrsic_data.errors import SourceError
from fedrsic_data.raw.index import Index
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources import classfolders, label_matrix, ucmerced
from fedrsic_data.sources.base import ClassFolders, Facts
from fedrsic_data.sources.tree import Tree, check_complete

_NAMES = """
airplane bare-soil buildings cars chaparral court dock field grass mobile-home pavement sand sea ship tanks trees water
"""

LABELS = tuple(_NAMES.split())
"""The 17 labels, alphabetical, as the table has them."""

_TABLE = "LandUse_Multilabeled.txt"
_ZIP = "multilabels.zip"
_AGAIN = f"take {_TABLE} from {_ZIP} again"
_IMAGE = re.compile(r"([a-z]+)([0-9]{2})")
_IMAGES = 2_100
_PUBLISHED = "8df61d751fe7fa95d0de20eb595d63fc6759558e57267d8ecc3b2cc9ce699637"
"""``_digest`` of the published table. Counts of labels would not do: airplane, dock, sea and tanks have 100 each."""


@dataclass(frozen=True)
class UCMercedMultilabelSettings:
    """Settings of UC Merced multi-label.

    Attributes:
        domains: Whether the source is one domain, or each of the 21 scene classes of UC Merced is one.
    """

    domains: Literal["source", "scene"] = "source"


_FACTS = Facts(
    title="UC Merced multi-label",
    homepage="https://bigearth.eu/datasets",
    licence="none stated for the labels; public-domain imagery of the USGS National Map",
    citation="Chaudhuri, Demir, Chaudhuri and Bruzzone, Multilabel remote sensing image retrieval using a "
    "semisupervised graph-theoretic method, IEEE TGRS 2018",
    layout=f"{_ZIP}, or multilabels/{_TABLE}, and the images of ucmerced",
    downloads=(
        RemoteFile(
            url=f"https://bigearth.eu/assets/docs/{_ZIP}",
            filename=_ZIP,
            size=82_497,
            sha256="65dcd64d619975ff28bbd15447c70df23a5ee9ebe40335b364af6b3e211943e6",
        ),
    ),
)


@dataclass(frozen=True)
class UCMercedMultilabel:
    """See the module.

    Attributes:
        name: Its name in recipes.
        settings: Its settings in recipes.
        images: Place of the images; None: that of the labels.
    """

    name: str = "ucmerced-multilabel"
    kind: str = "ucmerced-multilabel"
    settings: UCMercedMultilabelSettings = UCMercedMultilabelSettings()
    images: Path | None = None
    aliases: tuple[str, ...] = ("ucmercedmultilabel", "ucmmultilabel", "multilabels")
    images_of: ClassFolders = ucmerced.SOURCE
    facts: Facts = _FACTS

    def over(self, images: Path) -> UCMercedMultilabel:
        """The source with its images at another place than the labels."""
        return replace(self, images=images)

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. A copy is complete if every image with labels is there, and each has labels."""
        tree = Tree(path, [_ZIP])
        tables = self._tables(tree)
        place = self.images or path
        found = classfolders.find(place, self.images_of.name, self.images_of.classes, self.images_of.facts.layout)
        by_scene = self.settings.domains == "scene"
        index = label_matrix.index(self.name, place, found, tree, tables, LABELS, by_scene=by_scene, keep_bare=False)
        listed = sum(len(matrix.images) for matrix in tables.values())
        absent = list(index.missing)
        if listed < _IMAGES:
            absent.append(f"{_TABLE} has {listed:,} rows, the published one {_IMAGES:,}")
        check_complete(path, self.facts.title, absent, len(index.table), allow_partial)
        return replace(index, missing=tuple(absent))

    def _tables(self, tree: Tree) -> dict[str, label_matrix.Matrix]:
        """The labels of each scene class."""
        files = {**tree.files(tree.path.absolute().name), **tree.files("multilabels")}
        if _TABLE not in files:
            raise SourceError(f"{tree.path}: has no {_TABLE}; expected {self.facts.layout}")
        where = tree.where(files[_TABLE])
        whole = label_matrix.read(tree.read(files[_TABLE]), where, "\t", LABELS, _AGAIN)
        rows = defaultdict[str, list[int]](list)
        for number, image in enumerate(whole.images):
            name = _IMAGE.fullmatch(image)
            if name is None or name[1] not in self.images_of.classes:
                raise SourceError(f"{where}: {image[:80]!r} is not an image of UC Merced, such as airplane00; {_AGAIN}")
            rows[name[1]].append(number)
        if len(whole.images) == _IMAGES and _digest(whole) != _PUBLISHED:
            raise SourceError(f"{where}: its labels are not those of the published table; {_AGAIN}")
        return {
            scene: label_matrix.Matrix(tuple(whole.images[i] for i in mine), whole.labels[np.array(mine)])
            for scene, mine in rows.items()
        }


def _digest(table: label_matrix.Matrix) -> str:
    """sha256 of the labels of each image, in hex, whatever the order of rows and columns."""
    rows = sorted(zip(table.images, table.labels.astype(int).tolist(), strict=True))
    return hashlib.sha256(repr(rows).encode()).hexdigest()


SOURCE = UCMercedMultilabel()
