"""MS-COCO: photographs of everyday scenes with the objects of 80 classes in them, as sets of labels.

The official files are read as they are: ``annotations/instances_{train,val}YEAR.json`` and the images of
``trainYEAR`` and ``valYEAR``, each in a folder or in its zip archive. 2014 and 2017 are the same 123,287 images, dealt
differently (82,783 + 40,504 and 118,287 + 5,000); an image has the same sample id in both.

Labels are in the order of the category ids, which run from 1 to 90 with 10 gaps. A class is in an image's set if any
annotation says so, a crowd region too. The splits are those of multi-label papers: ``train`` is the training images and
``test`` the validation images, since labels of COCO's own test images are not public. 1,069 images have no objects.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset.images import SUFFIXES
from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.dataset.schema import repeated
from fedrsic_data.errors import SourceError, some
from fedrsic_data.raw.index import INDEX_SCHEMA, Index
from fedrsic_data.raw.json_items import blocks, lists
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.tree import Tree, check_complete

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush
"""

CLASSES = tuple(name.strip() for name in _NAMES.split(","))
"""The 80 class names in the order of their category ids."""

CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""The category id of each class."""

_SPLITS = {"train": "train", "val": "test"}
_IMAGES = {("train", 2014): 82_783, ("val", 2014): 40_504, ("train", 2017): 118_287, ("val", 2017): 5_000}
# File, bytes and sha256.
_FILES = """
zips/train2017.zip 19336861798 69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929
zips/val2017.zip 815585330 4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05
annotations/annotations_trainval2017.zip 252907541 113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268
zips/train2014.zip 13510573713 ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775
zips/val2014.zip 6645013297 fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0
annotations/annotations_trainval2014.zip 252872794 031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009
"""
_HOSTS = ("https://s3.amazonaws.com/images.cocodataset.org", "http://images.cocodataset.org")
_OFFICIAL = {f"instances_{part}{year}.json" for part, year in _IMAGES}
_AGAIN = "get the official file again"
_LARGEST = 10**12 - 1  # of image ids, which are written with 12 digits
_BELOW = re.compile(r"([^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*/)+[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*")
_PLAIN = r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$"  # a file name that stays in its folder

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CocoSettings:
    """Settings of COCO.

    Attributes:
        year: Use the split of 2014 or that of 2017.
        unlabelled: Whether images without objects are kept, without labels.
    """

    year: Literal[2014, 2017] = 2017
    unlabelled: Literal["leave_out", "keep"] = "leave_out"


@dataclass(frozen=True)
class Coco:
    """See the module.

    Attributes:
        name: Its name in recipes.
        settings: Its settings in recipes.
    """

    name: str = "coco"
    kind: str = "coco"
    settings: CocoSettings = CocoSettings()

    @property
    def aliases(self) -> tuple[str, ...]:
        return ("coco", "mscoco", f"coco{self.settings.year}")

    @property
    def facts(self) -> Facts:
        year = self.settings.year
        return Facts(
            title=f"MS-COCO {year}",
            homepage="https://cocodataset.org",
            licence="annotations CC BY 4.0; the photographs are their authors', under the terms of Flickr",
            citation="Lin et al., Microsoft COCO: common objects in context, ECCV 2014",
            layout=f"annotations/instances_{{train,val}}{year}.json, train{year}/*.jpg, val{year}/*.jpg, or the zips",
            downloads=tuple(
                RemoteFile(f"{host}/{file}", Path(file).name, int(size), sha256)
                for file, size, sha256 in map(str.split, _FILES.strip().splitlines())
                for host in _HOSTS
                if f"{year}." in file
            ),
        )

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. A copy is complete if every image that its annotation files list is there."""
        year = self.settings.year
        tree = Tree(path, [remote.filename for remote in self.facts.downloads])
        annotations = tree.files("annotations")
        left_out, notes, absent = list[LeftOut](), [], []
        tables: list[pa.Table] = []
        counts: Counter[str] = Counter()
        for part, split in _SPLITS.items():
            folder, name = f"{part}{year}", f"instances_{part}{year}.json"
            if name not in annotations:
                absent.append(f"no annotations/{name}, in a folder or in annotations_trainval{year}.zip")
                continue
            listed = _read(tree, annotations[name])
            if len(listed.ids) != _IMAGES[part, year]:
                notes.append(f"{name} lists {len(listed.ids):,} images; the published one {_IMAGES[part, year]:,}")
            keys = tree.files(folder)
            table = self._table(listed, keys, split)
            here = pc.is_valid(table.column("key"))
            if gone := listed.files.filter(pc.invert(here).combine_chunks()).to_pylist():
                where = f"{folder} or {folder}.zip" if keys else f"{folder}, of which there is no folder and no zip"
                absent.append(
                    f"{len(gone):,} of {len(listed.ids):,} images that {name} lists are not in {where}: {some(gone)}"
                )
            labelled = pc.greater(pc.list_value_length(table.column("labels")), 0)
            counts.update(_crowds(listed, here.to_numpy()))
            left_out += _unlisted(listed, keys, name)
            if self.settings.unlabelled == "leave_out":
                bare = table.column("sample_id").filter(pc.and_(here, pc.invert(labelled)))
                left_out += LeftOut.of(f"without objects in {name}", sorted(bare.to_pylist()))
                here = pc.and_(here, labelled)
            tables.append(table.filter(here))
        check_complete(path, self.facts.title, absent, sum(len(table) for table in tables), allow_partial)
        table = pa.concat_tables(tables)
        if len(twice := repeated(table.column("sample_id"))):
            raise SourceError(f"{path}: image {twice[0]} is in both splits; {_AGAIN}")
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

    def _table(self, listed: _Listed, keys: Mapping[str, str], split: str) -> pa.Table:
        """An index table of all images of a file; the key is null where there is no image."""
        n, classes = len(listed.ids), len(CLASSES)
        cells = np.unique(listed.image * classes + listed.label)
        ends = np.cumsum(np.bincount(cells // classes, minlength=n))
        place = pc.index_in(listed.files, value_set=pa.array(list(keys), pa.string()))
        digits = pc.utf8_lpad(pc.cast(pa.array(listed.ids), pa.string()), 12, "0")
        return pa.table(
            [
                pc.binary_join_element_wise(f"{self.name}/", digits, ""),
                pa.ListArray.from_arrays(
                    pa.array(np.concatenate([[0], ends]).astype(np.int32)), pa.array((cells % classes).astype(np.int32))
                ),
                pa.repeat(pa.scalar(self.name), n),
                pa.nulls(n, pa.string()),
                pa.repeat(pa.scalar(split), n),
                pa.array(list(keys.values()), pa.string()).take(place),
                listed.files,
            ],
            schema=INDEX_SCHEMA,
        )


SOURCE = Coco()


def is_official(path: Path) -> bool:
    """Whether a folder holds official annotation files, or ones with their name that cannot be read."""
    found = [file for file in path.glob("annotations/instances_*.json") if file.name in _OFFICIAL]
    if not found:
        return False
    smallest = min(found, key=lambda file: file.stat().st_size)
    try:
        categories = [(item["id"], item["name"]) for _, item in lists(blocks(smallest), ("categories",))]
    except (ValueError, LookupError, TypeError, RecursionError):
        return True
    return not _known(categories)


@dataclass(frozen=True)
class _Listed:
    """N images and M annotations of an annotation file.

    Attributes:
        ids: int64 [N].
        files: string [N], plain file names.
        image: int64 [M], 0 to N - 1.
        label: int64 [M], 0 to 79.
        crowd: bool [M].
    """

    ids: Ints
    files: pa.Array
    image: Ints
    label: Ints
    crowd: NDArray[np.bool_]


def _read(tree: Tree, key: str) -> _Listed:
    """An annotation file, once all that is used of it is in order.

    Raises:
        SourceError: It is not; the message says where.
    """
    where = tree.where(key)
    ids, names, image, category, crowd = array("q"), [], array("q"), array("q"), array("b")
    categories: list[tuple[int, str]] = []
    part, item = "the file", None
    try:
        for part, item in lists(tree.blocks(key), ("images", "annotations", "categories")):
            if part == "annotations":
                image.append(_number(item, "image_id"))
                category.append(_number(item, "category_id"))
                crowd.append(item.get("iscrowd", 0))
            elif part == "images":
                ids.append(_number(item, "id"))
                names.append(item["file_name"])
            else:
                categories.append((_number(item, "id"), item["name"]))
        files = pa.array(names, pa.string())
    except KeyError as error:
        raise SourceError(f"{where}: {part}: an item has no {error}; {_AGAIN}") from None
    except (TypeError, OverflowError, AttributeError) as error:
        raise SourceError(f"{where}: {part}: an item is malformed ({_odd(item, error)}); {_AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where}: cannot be read ({error}); {_AGAIN}") from None
    if files.null_count:
        raise SourceError(f"{where}: images: an item has no file_name (null); {_AGAIN}")
    if wrong := _known(categories) or _wrong_images(np.array(ids), files):
        raise SourceError(f"{where}: {wrong}; {_AGAIN}")
    return _annotated(where, np.array(ids), files, np.array(image), np.array(category), np.array(crowd))


def _number(item: Any, key: str) -> Any:
    """A number of an item; to Python true is 1, which JSON does not say."""
    value = item[key]
    if value is True or value is False:
        raise TypeError
    return value


def _odd(item: object, error: Exception) -> str:
    """Describe what is wrong with the item that raised this."""
    if not isinstance(item, dict):
        return str(error)
    for key in ("id", "image_id", "category_id", "iscrowd"):
        value = item.get(key, 0)
        if value is None:  # numbers with a fraction are not read
            return f"{key} is not a whole number: null, or a number with a fraction such as 3.0"
        if isinstance(value, bool) and key != "iscrowd":
            return f"{key} {str(value).lower()} is not a whole number"
        if not isinstance(value, int):
            return f"{key} {value!r:.40} is not a whole number"
    return str(error)


def _known(categories: Sequence[tuple[int, str]]) -> str:
    """Describe what is wrong with the categories of a file; empty if they are COCO's."""
    ours = dict(zip(CATEGORY_IDS, CLASSES, strict=True))
    for number, name in categories:
        if number is None:
            return "a category id is not a whole number: null, or a number with a fraction such as 3.0"
        if not isinstance(number, int):
            return f"category id {number!r:.40} is not a whole number"
        if ours.get(number) != name:
            return f"category {number!r} is {name!r}, which is not COCO's ({ours.get(number, 'there is none')})"
    if len(dict(categories)) < len(categories):
        return "lists a category twice"
    if len(categories) != len(ours):
        return f"lists {len(categories)} categories where COCO has {len(ours)}"
    return ""


def _wrong_images(ids: Ints, files: pa.Array) -> str:
    """Describe what is wrong with the images of a file; empty if nothing is."""
    if len(ids) and not 0 <= ids.min() <= ids.max() <= _LARGEST:
        return f"image id {ids.min() if ids.min() < 0 else ids.max()} is not from 0 to {_LARGEST}"
    for what, values in (("image id", pa.array(ids)), ("file name", files)):
        if len(twice := repeated(values)):
            return f"{what} {twice[0].as_py()!r} is listed twice"
    odd = files.filter(pc.invert(pc.match_substring_regex(files, _PLAIN)))
    if not len(odd):
        return ""
    name = odd[0].as_py()
    if _BELOW.fullmatch(name):
        return f"file name {name!r} holds a folder, and COCO's own hold none (for your own data: fedkit new --folder)"
    return f"file name {name!r} would leave the folder of the images"


def _annotated(where: str, ids: Ints, files: pa.Array, image: Ints, category: Ints, crowd: Ints) -> _Listed:
    """Rows and classes for the ids in the annotations."""
    order = np.argsort(ids, kind="stable")
    row = np.searchsorted(ids, image, sorter=order)
    row = order[np.minimum(row, len(ids) - 1)] if len(ids) else row
    code = np.searchsorted(CATEGORY_IDS, category).clip(max=len(CATEGORY_IDS) - 1)
    for what, wrong in (
        ("is of image {image}, which is not listed", ids[row] != image if len(ids) else image == image),
        ("is of category {category}, which is not one of COCO's", np.array(CATEGORY_IDS)[code] != category),
        ("has iscrowd {crowd}, which is neither 0 nor 1", (crowd != 0) & (crowd != 1)),
    ):
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            words = what.format(image=image[at], category=category[at], crowd=crowd[at])
            raise SourceError(f"{where}: annotation {at + 1:,} of {len(image):,} {words}; {_AGAIN}")
    return _Listed(ids, files, row, code, crowd != 0)


def _crowds(listed: _Listed, here: NDArray[np.bool_]) -> dict[str, int]:
    """Count the crowd regions in the existing images, and the labels that depend on them."""
    mine = here[listed.image]
    cell = listed.image * len(CLASSES) + listed.label
    alone = mine & ~listed.crowd
    return {
        "crowd regions": int((mine & listed.crowd).sum()),
        "labels of crowd regions alone": len(np.unique(cell[mine])) - len(np.unique(cell[alone])),
        "images of crowd regions alone": len(np.unique(listed.image[mine])) - len(np.unique(listed.image[alone])),
    }


def _unlisted(listed: _Listed, keys: Mapping[str, str], name: str) -> tuple[LeftOut, ...]:
    files = pa.array([file for file in keys if file.lower().endswith(SUFFIXES)], pa.string())
    unlisted = files.filter(pc.invert(pc.is_in(files, listed.files))).to_pylist()
    return LeftOut.of(f"not listed in {name}", sorted(unlisted))
