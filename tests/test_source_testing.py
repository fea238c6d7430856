"""The contract checks of sources: those of fedkit pass, and each fault is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import put, write_optimal31, write_ucmerced

from fedrsic_data.raw.index import Index
from fedrsic_data.sources import SOURCES
from fedrsic_data.sources.folder import Folder, FolderSettings
from fedrsic_data.sources.testing import check_source


def test_sources_of_fedkit_pass(tmp_path: Path) -> None:
    check_source(SOURCES["ucmerced"], write_ucmerced(tmp_path / "ucm", per_class=3))
    check_source(SOURCES["optimal31"], write_optimal31(tmp_path / "optimal"))


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
