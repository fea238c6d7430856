"""``fedtrain.train``, ``load`` and ``compare``: what the commands do, from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

import fedrsic_data
import fedtrain
from fedrsic_data.errors import FedkitError, OutputError, UsageError
from fedtrain.progress import Listener


@pytest.fixture(scope="module")
def runs(sample_build: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    out = tmp_path_factory.mktemp("runs")
    subset = fedrsic_data.open(sample_build)[0]
    made = [fedtrain.train("promptfl", subset, out=out / f"p{seed}", rounds=3, seed=seed) for seed in (0, 1)]
    return [*made, fedtrain.train("local", sample_build, out=out / "l", rounds=1)]


def test_a_run_has_rows_final_metrics_and_clients(runs: list[Any]) -> None:
    run = runs[0]
    assert [row["round"] for row in run.metrics if row["round"]] == [1, 2, 3]
    last = run.metrics[-1]
    assert "figures" not in last
    assert run.final == {name: last[name] for name in run.final}
    assert set(run.clients["test"]["rows"]) == {f"client-000{i}" for i in range(10)}
    assert run.config["rounds"] == 3
    assert "promptfl on fed-ucmerced, seed 0" in repr(run)


def test_a_finished_run_is_only_read_and_can_be_loaded(runs: list[Any], sample_build: Path) -> None:
    again = fedtrain.train("promptfl", sample_build, out=runs[0].folder, rounds=3, seed=0)
    assert not again.result.trained
    assert fedtrain.load(runs[0].folder).final == runs[0].final
    with pytest.raises(OutputError, match="another"):
        fedtrain.train("promptfl", sample_build, out=runs[0].folder, rounds=3, seed=5)


def test_more_rounds_go_on(runs: list[Any], sample_build: Path, tmp_path: Path) -> None:
    fedtrain.train("promptfl", sample_build, out=tmp_path / "run", rounds=1, seed=0)
    said: list[str] = []
    more = fedtrain.train(
        "promptfl", sample_build, out=tmp_path / "run", rounds=3, seed=0, listener=Listener(say=said.append)
    )
    assert (more.final, more.metrics) == (runs[0].final, runs[0].metrics)
    assert "training promptfl on fed-ucmerced: goes on after round 1 of 3" in said
    with pytest.raises(OutputError, match="has trained 3 rounds of this run, more than rounds=2"):
        fedtrain.train("promptfl", sample_build, out=tmp_path / "run", rounds=2, seed=0)


def test_rows_and_curves(runs: list[Any]) -> None:
    table = runs[0].to_pandas()
    assert table.index.name == "round"
    assert table["loss"].dropna().tolist() == [row["loss"] for row in runs[0].metrics if row["loss"] is not None]
    assert runs[0].plot("test/local/mean").get_axes()
    with pytest.raises(UsageError, match="did you mean 'test/local/mean'"):
        runs[0].plot("test/local/maen")


def test_runs_that_differ_in_their_seed_share_a_column(runs: list[Any]) -> None:
    compared = fedtrain.compare([*runs[:2], runs[2].folder])
    assert compared.table.columns == ("promptfl, rounds 3", "local, rounds 1")
    values = compared.table.cells["test/local/mean", compared.table.columns[0]].values
    assert values == {run.folder: run.final["test/local/mean"] for run in runs[:2]}
    means = compared.to_pandas()
    assert isinstance(means, pd.DataFrame)
    assert means.loc["test/local/mean"].iloc[0] == pytest.approx(sum(values.values()) / 2)
    assert "| test/local/mean |" in compared.to_markdown()
    assert "\\toprule" in compared.to_latex()
    assert "test/local/mean" in compared.to_csv()
    assert "±" in repr(compared)
    assert len(fedtrain.compare([runs[0].folder.parent]).table.columns) == 2


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("fedpgpp", {}, "did you mean 'fedpgp'?"),
        ("fedpgp", {"rnak": 4}, "did you mean 'rank'?"),
        ("fedpgp", {"rank": "four"}, "rank"),
        ("fedpgp", {"rank": object()}, "cannot be written as JSON"),
        ("fedpgp", {"subset": "fed-ucmercd"}, "did you mean 'fed-ucmerced'?"),
        ("fedpgp", {"engine": "flowre"}, "did you mean 'flower'?"),
        ("promptfl", {"score": "pair"}, "score=pair: is for multi-label data"),
    ],
)
def test_bad_input_is_one_line(
    sample_build: Path, tmp_path: Path, method: str, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(FedkitError) as caught:
        fedtrain.train(method, sample_build, out=tmp_path / "run", **more)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no runs to compare"):
        fedtrain.compare([])
    with pytest.raises(OutputError):
        fedtrain.compare([tmp_path])


def test_importing_fedtrain_loads_no_torch() -> None:
    code = "import sys, fedtrain\nassert 'torch' not in sys.modules\nfrom fedtrain import train\n"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"lrr": 1}, "unknown key 'lrr' for promptfl; did you mean 'lr'?"),
        ({"out": "hf://x"}, "out hf://...: is a URL"),
        ({"engine": "flowr"}, "unknown engine 'flowr'; did you mean 'flower'?"),
    ],
)
def test_errors_speak_of_arguments_and_not_of_options(more: dict[str, Any], words: str, sample_build: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fedtrain.train("promptfl", sample_build, **{"rounds": 1, **more})
    assert words in str(caught.value)
    assert "--" not in str(caught.value)
