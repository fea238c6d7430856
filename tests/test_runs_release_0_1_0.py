"""A dataset and two runs as fedkit 0.1.0 wrote them: they verify, open, resume, and stand in tables and reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from fedrsic_data.build.verify import verify
from fedrsic_data.errors import OutputError
from fedtrain import run
from fedtrain.config import RunConfig
from fedtrain.report import html
from fedtrain.runs.results import found, grouped
from fedtrain.runs.verify import check_run

SETS = ("rounds=3", "lr=1.0", "epochs=1", "device=cpu")


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, and the current folder: runs of 0.1.0 name their dataset as the person did."""
    copy = Path(shutil.copytree(ROOT / "tests/release_0_1_0", tmp_path / "release"))
    monkeypatch.chdir(copy)
    return copy


def config(*sets: str) -> RunConfig:
    return run.configs("fedpgp", "dataset", ["fed-ucmerced"], [*SETS, *sets])[0]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_dataset_verifies(release: Path) -> None:
    assert verify(release / "dataset")[1] == []


def test_the_finished_run_opens_and_is_compared_and_reported(release: Path) -> None:
    done = run.train(config(), release / "finished")
    assert (done.trained, done.sealed) == (False, False)
    assert done.data["figures"] == lines(release / "finished")[-1]["figures"]
    (group,) = grouped(found([release / "finished"]))
    assert (group.label, group.figures["test/local/mean"].runs) == ("fedpgp (unsealed)", 1)
    assert [section.title for section in html.page([release / "finished"]).sections] == [
        "fedpgp on fed-ucmerced of fed-rsic-sample"
    ]
    (problem,) = check_run(release / "finished")[1]
    assert "has no seal" in problem.words


def test_the_interrupted_run_resumes_to_where_the_finished_one_came(release: Path) -> None:
    folder, before = release / "interrupted", lines(release / "interrupted")
    done = run.train(config(), folder)
    assert done.trained
    assert done.facts["group"] == json.loads((release / "finished/config.json").read_text())["group"]
    after, whole = lines(folder), lines(release / "finished")
    assert after[0] == before[0] == whole[0]
    assert [line["loss"] for line in after] == pytest.approx([line["loss"] for line in whole], rel=1e-3)
    assert [line["floats_sent"] for line in after] == [line["floats_sent"] for line in whole]
    assert check_run(folder)[1] == []


def test_a_run_of_another_seed_shares_its_column_and_may_have_more_metrics(release: Path) -> None:
    run.train(config("seed=1"), release / "other")
    (group,) = grouped(found([release / "finished", release / "other"]))
    assert group.figures["test/local/mean"].runs == 2
    assert group.figures["test/local/std"].runs == 1, "0.1.0 has none"


def test_another_config_is_refused_by_its_name(release: Path) -> None:
    with pytest.raises(OutputError, match="holds a run with mu=0.5, not 0.25"):
        run.train(config("mu=0.25"), release / "interrupted")
    with pytest.raises(OutputError, match='holds a run with weighting=null, not "equal"'):
        run.train(config("weighting=equal"), release / "interrupted")


def test_more_rounds_than_asked_of_0_1_0(release: Path) -> None:
    """An interrupted run trains on to another number of rounds, also in two steps; without states, none can."""
    folder = release / "interrupted"
    for rounds in (3, 4):
        done = run.train(config(f"rounds={rounds}"), folder)
        assert [line["round"] for line in lines(folder)] == list(range(1, rounds + 1))
        assert check_run(folder)[1] == []
    assert done.data["figures"] == lines(folder)[-1]["figures"]
    with pytest.raises(OutputError, match="finished run with rounds=3, and no checkpoint to go on from to rounds=4"):
        run.train(config("rounds=4"), release / "finished")
