"""The contract checks of sources: those of fedkit pass, and each fault is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import formats
import pyarrow as pa
import pytest
from conftest import put, write_optimal31, write_ucmerced
from test_source_benchmarks import BENCHMARKS
from test_source_coco import write_coco
from test_source_flair import made_up, unpacked
from test_source_parquet import save, structs
from test_source_voc import TARS, write_voc

from fedrsic_data.raw.index import Index
from fedrsic_data.sources import GENERAL, SOURCES, configured
from fedrsic_data.sources.folder import Folder, FolderSettings
from fedrsic_data.sources.testing import check_source
from fedrsic_data.sources.vocabulary import native

RESISC45 = native("resisc45")


def voc(root: Path) -> Path:
    for year, parts in TARS.values():
        write_voc(root, year, parts)
    return root


COPIES: dict[str, Callable[[Path], object]] = {
    "ucmerced": lambda root: write_ucmerced(root, per_class=3),
    "optimal31": write_optimal31,
    "resisc45": lambda root: put(root / "NWPU-RESISC45", *(f"{c}/{c}_00{n}.jpg" for c in RESISC45 for n in (1, 2))),
    "coco": write_coco,
    "flair": lambda root: unpacked(root / "flair", made_up()),
    "voc": voc,
    "coco_format": formats.cvat_coco,
    "voc_format": formats.cvat_voc,
    "yolo": formats.ultralytics,
    "metadata": formats.metadata_csv,
    "hub": lambda root: save(root / "train.parquet", image=structs(4), label=pa.array(list("abab"))),
    "folder": lambda root: put(root, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg"),
}
"""Small copies of every source and of every kind of a person's own data; those with tables of labels have a test of
their own, in ``test_source_multilabel_scenes.py``, and so have benchmarks, in ``test_source_benchmarks.py``."""


def test_every_source_is_checked() -> None:
    assert {*COPIES, *BENCHMARKS, "aid-multilabel", "mlrsnet", "ucmerced-multilabel"} == {*SOURCES, *GENERAL}


@pytest.mark.parametrize("kind", COPIES)
def test_sources_of_fedkit_pass(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "copy"
    root.mkdir()
    place = COPIES[kind](root)
    settings = {"kind": kind, "path": str(root)} if kind in GENERAL else {}
    source = configured("mine" if kind in GENERAL else kind, settings, "test")
    check_source(source, place if isinstance(place, Path) and kind not in GENERAL else root)


@dataclasses.dataclass(frozen=True)
class Bent(Folder):
    """A folder whose index somebody changes."""

    name: str = "mine"
    change: Callable[[Index], Any] = lambda index: index

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        return self.change(super().index(path, allow_partial=allow_partial))  # type: ignore[no-any-return]


def bent(change: Callable[[Index], Any] = lambda index: index, **more: Any) -> Bent:
    return Bent(FolderSettings(path="unused"), change=change, **more)


def column(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Index], Index]:
    """Changes the values of a column."""

    def changed(index: Index) -> Index:
        at = index.table.column_names.index(name)
        field = index.table.schema.field(at)
        values = pa.array(change(index.table.column(at).to_pylist()), field.type)
        return dataclasses.replace(index, table=index.table.set_column(at, field, values))

    return changed


class Deaf:
    """A container that reads each file as its own name."""

    def prepare(self, scratch: Path, *, shared: bool = False) -> None:
        pass

    def read(self, keys: Any) -> list[bytes]:
        return [str(key).encode() for key in keys]

    def where(self, key: str) -> str:
        return key


class Lenient(Bent):
    """Takes anything for a copy."""

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        known = Path(self.facts.title)
        return super().index(known, allow_partial=allow_partial)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return put(tmp_path / "images", "cat/1.jpg", "cat/2.jpg", "dog/1.jpg")


def test_a_good_one_passes(images: Path) -> None:
    check_source(bent(), images)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (bent(column("sample_id", lambda ids: [ids[0]] * len(ids))), "gives two images one sample_id"),
        (bent(column("sample_id", lambda ids: [f"x{one}" for one in ids])), "does not begin with mine/"),
        (bent(column("labels", lambda old: [[7]] * len(old))), "none of its 2 classes"),
        (bent(column("labels", lambda old: [[]] * len(old))), "no label or several, and multi_label is False"),
        (bent(column("domain", lambda old: [None] * len(old))), "has rows without domain"),
        (bent(lambda i: dataclasses.replace(i, table=i.table.drop_columns("group"))), "has no column group"),
        (bent(lambda i: dataclasses.replace(i, table=i.table.slice(0, 0))), "finds no image"),
        (bent(lambda i: dataclasses.replace(i, classes=("a", "a"))), "has a class twice"),
        (bent(lambda i: dataclasses.replace(i, fingerprint=str(id(i)))), "gives another index each time"),
        (bent(lambda i: dataclasses.replace(i, container=Deaf())), "reads something that is no image"),
        (bent(name="My Source"), "has a name that no recipe can hold"),
        (bent(aliases=("My-Source",)), "has an alias 'My-Source'"),
    ],
)
def test_each_fault_is_found(images: Path, source: Bent, words: str) -> None:
    held: list[Index] = []  # keeps what was made, so that no two have one id
    change = source.change
    source = dataclasses.replace(source, change=lambda index: held.append(index) or change(index))  # type: ignore[func-returns-value]
    with pytest.raises(AssertionError, match=words):
        check_source(source, images)


def test_one_that_takes_anything_is_found(images: Path) -> None:
    source = Lenient(FolderSettings(path="unused", title=str(images)))
    with pytest.raises(AssertionError, match="takes an empty folder for a copy"):
        check_source(source, images)
