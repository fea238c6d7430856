"""A dataset whose source and partitioner this installation does not know: all that reads it works all the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import answer, fedkit, refused, write_ucmerced
from hub_users import around, at
from hubserver import serving

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.dataset.verify import reread
from fedrsic_data.partition import PARTITIONERS
from fedrsic_data.partition.iid import Iid
from fedrsic_data.sources import SOURCES
from fedrsic_data.sources.locate import Places

TINY = ("--set", "clip=tiny", "--set", "rounds=1")


@dataclass(frozen=True)
class Weekday(Iid):
    """A partitioner of somebody else's."""

    day: str = "monday"


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that was built where both are known."""
    root = tmp_path_factory.mktemp("far")
    images = write_ucmerced(root / "images", per_class=8)
    recipe = {
        "fedkit": 1,
        "name": "far",
        "subsets": {"one": {"sources": ["elsewhere"]}},
        "partition": {"name": "weekday", "clients": 3},
        "allow_partial": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PARTITIONERS, "weekday", Weekday)
        patch.setitem(SOURCES, "elsewhere", dataclasses.replace(SOURCES["ucmerced"], name="elsewhere"))
        places = Places(given={"elsewhere": str(images)}, offline=True)
        built = pipeline.build(pipeline.prepare(recipes.from_json(recipe, "test"), places), root / "far")
    assert "weekday" not in PARTITIONERS
    assert "elsewhere" not in SOURCES
    return built.path


def test_it_is_read_and_proved_as_far_as_files_go(far: Path) -> None:
    assert reread(far)[1] == []
    assert answer(fedkit("inspect", far, "--json"))["name"] == "far"
    done = fedkit("verify", far)
    assert done.returncode == 0, done.stderr
    assert "its owners were not drawn again (partitioner 'weekday' is not known here)" in done.stdout
    assert "its sources are not known here" in done.stdout


def test_it_is_trained_on_and_reported(far: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer(fedkit("train", "promptfl", "--manifest", far, "--out", run, *TINY, "--json"))
    assert fedkit("verify", run).returncode == 0
    told = answer(fedkit("report", far, run, "--out", tmp_path / "report.html", "--json"))
    assert len(told["sections"]) == 3
    page = (tmp_path / "report.html").read_text()
    assert "weekday clients=3" in page


def test_it_is_taken_apart_and_split_anew(far: Path, tmp_path: Path) -> None:
    assert fedkit("split-sites", far, "--out", tmp_path / "sites").returncode == 0
    assert fedkit("verify", tmp_path / "sites/client-0001").returncode == 0
    done = fedkit("resplit", far, "--partition", "dirichlet", "--clients", "2", "--out", tmp_path / "anew")
    assert done.returncode == 0, done.stderr
    assert fedkit("verify", tmp_path / "anew").returncode == 0
    refused(
        fedkit("resplit", far, "--seed", "4", "--out", tmp_path / "again"), "unknown partitioner 'weekday'", codes=(2,)
    )


def test_it_is_published_with_a_card_that_says_how_to_build_it(far: Path, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as hub:
        done = fedkit("publish", far, "--repo", "me/far", "--redistribute", **around(hub, tmp_path))
        assert done.returncode == 0, done.stderr
        card = at(hub, "me/far")["README.md"].decode()
    assert "**one**: weekday clients=3 min\\_size=1 day=monday, seed 0.\n" in card
    assert "fedkit build hf://me/far --source elsewhere=PATH" in card
