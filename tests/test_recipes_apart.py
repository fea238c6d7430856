"""Several datasets in one federation: classes apart, base classes of each, and clients of one dataset."""

from __future__ import annotations

from pathlib import Path

import pytest
from apart_builds import apart
from conftest import contents
from test_derive_resplit import again

import fedrsic_data
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset.reader import Subset
from fedrsic_data.derive import sites
from fedrsic_data.errors import UsageError
from fedrsic_data.sources import vocabulary


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return apart(tmp_path_factory.mktemp("apart") / "fed").path


@pytest.fixture(scope="module")
def novel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return apart(tmp_path_factory.mktemp("apart") / "novel", "base_to_novel=true").path


def subset_of(path: Path) -> Subset:
    return fedrsic_data.open(path).subset("both")


def test_a_class_of_two_sources_is_two_classes(both: Path) -> None:
    """In the order of the sources and, within one, of its own classes."""
    subset = subset_of(both)
    assert {f"ucmerced/{name}" for name in vocabulary.to_unified("ucmerced").values()} == set(subset.classes[:21])
    assert {f"optimal31/{name}" for name in vocabulary.to_unified("optimal31").values()} > set(subset.classes[21:])
    assert subset.class_sources == ("ucmerced",) * 21 + ("optimal31",) * 24
    assert {"ucmerced/beach", "optimal31/beach"} <= set(subset.classes)
    for split in subset.splits:
        rows = subset.read(split, ["label", "sample_id"]).to_pylist()
        assert len(rows) > 50
        for row in rows:
            assert subset.class_sources[row["label"]] in row["sample_id"]


def test_elsewhere_classes_have_no_source_of_their_own(sample_build: Path) -> None:
    subset = fedrsic_data.open(sample_build).subset("fed-ucmerced")
    assert subset.class_sources == ("",) * 21


@pytest.mark.parametrize("build", ["both", "novel"])
def test_a_client_holds_classes_of_one_dataset(build: str, request: pytest.FixtureRequest) -> None:
    """21 and 24 classes in blocks of eight, of them 11 and 12 base classes: round(n / 8) clients each."""
    subset = subset_of(request.getfixturevalue(build))
    held = [set(row["labels"]) for row in subset.client_table.to_pylist() if row["split"] == "train"]
    assert [len(labels) for labels in held] == {"both": [8, 8, 5, 8, 8, 8], "novel": [11, 8, 4]}[build]
    assert all(len({subset.class_sources[label] for label in labels}) == 1 for labels in held)
    assert len(set.union(*held)) == sum(map(len, held))


def test_base_classes_are_the_first_half_of_each_dataset(novel: Path) -> None:
    subset = subset_of(novel)
    assert subset.entry.novel == (*subset.classes[11:21], *subset.classes[21 + 12 :])
    unseen = {subset.classes.index(name) for name in subset.entry.novel}
    for split in subset.splits:
        labels = set(subset.read(split, ["label"]).column(0).to_pylist())
        assert labels <= unseen if split == "novel" else labels.isdisjoint(unseen)


@pytest.mark.parametrize("build", ["both", "novel"])
def test_it_verifies(build: str, request: pytest.FixtureRequest) -> None:
    assert verify(request.getfixturevalue(build))[1] == []


def test_splitting_it_anew_gives_the_bytes_of_a_build(both: Path, novel: Path, tmp_path: Path) -> None:
    anew = again(both, tmp_path / "anew", "base_to_novel=true")
    assert contents(anew.path) == contents(novel)


def test_a_site_knows_the_datasets_of_its_classes(both: Path, tmp_path: Path) -> None:
    sites.split(both, tmp_path / "sites")
    for folder in (tmp_path / "sites").iterdir():
        assert subset_of(folder).class_sources == subset_of(both).class_sources


def test_partitioners_that_know_no_sources_deal_all_classes(tmp_path: Path) -> None:
    built = apart(tmp_path / "fed", 'partition={"name": "pathological", "clients": 4}')
    subset = subset_of(built.path)
    held = [set(row["labels"]) for row in subset.client_table.to_pylist() if row["split"] == "train"]
    assert any(len({subset.class_sources[label] for label in labels}) == 2 for labels in held)
    assert verify(built.path)[1] == []


def test_multi_label_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="subset both: classes=apart is for sources of one label per image"):
        apart(tmp_path / "fed", sources=("flair",), sets=("sample.users=20",), partition={"name": "iid", "clients": 2})
