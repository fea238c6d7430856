"""Splitting a built dataset anew gives the bytes that building it anew would."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from conftest import contents, sampled
from damage import edit

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset import recipe
from fedrsic_data.derive import resplit, sites
from fedrsic_data.errors import ManifestError, OutputError, UsageError, VerificationError
from fedrsic_data.settings import encode


def again(path: Path, out: Path, *sets: str, **override: object) -> pipeline.Built:
    def change(old: recipe.Recipe) -> recipe.Recipe:
        return recipes.from_json(recipes.override(encode(old), sets=sets, **override), "test")

    return pipeline.build(resplit.prepare(path, change), out)


@pytest.mark.parametrize(
    "sets",
    [
        ("alpha=0.1", "clients=4"),
        ("seed=3",),
        ("splits.validation=0.1",),
        ("layout.files=packed",),
        ("split_by=client",),
    ],
)
def test_the_same_bytes_as_a_build(sample_build: Path, tmp_path: Path, sets: list[str]) -> None:
    anew = again(sample_build, tmp_path / "a", *sets)
    assert contents(anew.path) == contents(sampled(tmp_path / "b", *sets).path)
    assert verify(anew.path)[1] == []


def test_another_partitioner(sample_build: Path, tmp_path: Path) -> None:
    anew = again(sample_build, tmp_path / "a", "classes_per_client=3", partitioner="pathological")
    assert contents(anew.path) == contents(
        sampled(tmp_path / "b", "classes_per_client=3", partitioner="pathological").path
    )


def test_images_that_were_left_out_are_counted(tmp_path: Path) -> None:
    few = sampled(tmp_path / "few", "shots=1", "clients=2")
    held = sum(few.manifest.subsets["fed-ucmerced"].rows.values())
    anew = again(few.path, tmp_path / "anew", "shots=null", "clients=3")
    entry = anew.manifest.subsets["fed-ucmerced"]
    assert sum(entry.rows.values()) == held < 126
    assert [left.count for left in entry.left_out] == [126 - held]
    assert "build from the sources" in entry.left_out[0].reason


def test_refusals(sample_build: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="classes cannot change"):
        again(sample_build, tmp_path / "a", "subsets.fed-ucmerced.class_names=native")
    with pytest.raises(UsageError, match="sample cannot change"):
        again(sample_build, tmp_path / "a", "sample.per_class=3")
    with pytest.raises(OutputError, match="lies inside the source"):
        again(sample_build, sample_build / "inner")
    shard = next((dataset / "fed-ucmerced" / "train").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(VerificationError, match="build it again before"):
        again(dataset, tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["dataset"]


def test_what_has_no_images_is_not_split_anew(sample_build: Path, tmp_path: Path) -> None:
    sites.split(sample_build, tmp_path / "sites")
    with pytest.raises(UsageError, match="server: fed-ucmerced holds no images; split the dataset that has them"):
        again(tmp_path / "sites" / sites.SERVER, tmp_path / "a", clients=1)
    reference = Path(shutil.copytree(sample_build, tmp_path / "reference"))
    shutil.rmtree(reference / "fed-ucmerced")
    edit(lambda m: m.update(reference=True), reseal=True)(reference)
    with pytest.raises(ManifestError, match="without its images"):
        again(reference, tmp_path / "a", clients=1)
    assert not (tmp_path / "a").exists()


def test_the_old_dataset_may_go_away_after(sample_build: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sample_build, tmp_path / "copy"))
    anew = again(copy, tmp_path / "a", "clients=3")
    shutil.rmtree(copy)
    assert verify(anew.path)[1] == []
    assert dataclasses.is_dataclass(anew.manifest)
