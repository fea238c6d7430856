"""Experiments: one file is built, trained, resumed after anything, and made into tables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from fedrsic_data.errors import FedkitError, OutputError, UsageError
from fedrsic_data.settings import decode
from fedtrain.experiments import run
from fedtrain.experiments.run import Finished, Progress
from fedtrain.experiments.spec import Experiment
from fedtrain.runs.folder import load

SMALL: dict[str, Any] = {
    "fedkit": 1,
    "name": "small",
    "datasets": [
        {
            "recipe": "fed-rsic",
            "subsets": ["fed-ucmerced"],
            "sample": True,
            "set": {"alpha": [0.1, 0.5], "clients": 3, "sample.per_class": 4, "sample.size": 32},
        }
    ],
    "methods": ["promptfl", {"method": "fedpgp", "set": {"rank": 2}}],
    "seeds": [0, 1],
    "set": {"rounds": 1},
    "tables": [{"metric": "test/local/mean", "columns": ["alpha"], "against": "promptfl"}],
}


def small(**changes: Any) -> Experiment:
    return decode(Experiment, SMALL | changes, "test")


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run.run(small(), tmp_path_factory.mktemp("experiment") / "small")


def test_every_combination_is_one_run_and_its_table_has_their_means(done: Finished) -> None:
    assert len(done.runs) == 2 * 2 * 2
    assert not done.failed
    (table,) = done.tables
    assert table.rows == ("promptfl", "fedpgp")
    assert table.columns == ("alpha 0.1", "alpha 0.5")
    for one in done.runs:
        cell = table.cells[one.method, f"alpha {one.facts['alpha']}"]
        assert cell.values[one.seed] == load(one.folder).data["figures"]["test/local/mean"]
    assert {len(cell.values) for cell in table.cells.values()} == {2}
    assert sorted(tables(done.folder)) == ["1.csv", "1.md", "1.tex", "1.txt"]
    assert len({one.folder for one in done.runs}) == 8
    assert all("alpha-0." in one.name for one in done.runs)


def test_a_finished_experiment_is_only_read(done: Finished) -> None:
    before = tables(done.folder)
    written = {one.name: (one.folder / "result.json").stat().st_mtime_ns for one in done.runs}
    again = run.run(small(), done.folder)
    assert tables(again.folder) == before
    assert {one.name: (one.folder / "result.json").stat().st_mtime_ns for one in again.runs} == written


def test_names_of_runs_do_not_depend_on_the_folder(done: Finished, tmp_path: Path) -> None:
    _, runs = run.planned(small(), tmp_path / "elsewhere")
    assert [one.name for one in runs] == [one.name for one in done.runs]


def test_what_is_missing_is_made_again(done: Finished, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))
    _, runs = run.planned(small(), copy)
    shutil.rmtree(runs[2].folder)
    shutil.rmtree(copy / "tables")
    seen: list[str] = []
    again = run.run(small(), copy, progress=Progress(done=lambda one, *_: seen.append(one.name)))
    assert seen == [one.name for one in runs]
    assert tables(again.folder) == tables(done.folder)


def test_a_run_that_fails_is_named_and_the_others_go_on(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = run.train

    def failing(config: Any, *args: Any, **more: Any) -> Any:
        if config.method == "fedpgp" and config.seed == 1:
            raise FedkitError("no more paper")
        return train(config, *args, **more)

    monkeypatch.setattr(run, "train", failing)
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))
    found = run.run(small(), copy)
    assert set(found.failed.values()) == {"no more paper"}
    assert sorted(found.failed) == sorted(r.name for r in found.runs if (r.method, r.seed) == ("fedpgp", 1))
    assert {len(cell.values) for (row, _), cell in found.tables[0].cells.items() if row == "fedpgp"} == {1}


def test_some_runs_can_be_chosen(done: Finished, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))  # whose tables become those of fedpgp
    found = run.run(small(), copy, only="fedpgp")
    assert {one.method for one in found.runs} == {"fedpgp"}
    with pytest.raises(UsageError, match="--only fedlgt: no run"):
        run.run(small(), copy, only="fedlgt")


@pytest.mark.slow
def test_processes_give_the_same_bytes(done: Finished, tmp_path: Path) -> None:
    out = tmp_path / "small"
    shutil.copytree(done.folder / "data", out / "data")
    shutil.copy(done.folder / "experiment.json", out / "experiment.json")
    found = run.run(small(), out, jobs=2)
    assert not found.failed
    assert tables(out) == tables(done.folder)
    for one in done.runs:
        mine = out / "runs" / one.name
        assert (mine / "metrics.jsonl").read_bytes() == (one.folder / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_killed_experiment_gives_the_same_tables(done: Finished, tmp_path: Path) -> None:
    file, out = tmp_path / "small.json", tmp_path / "small"
    file.write_text(json.dumps(SMALL))
    command = [sys.executable, str(ROOT / "cli.py"), "experiment", str(file), "--out", str(out)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stderr is not None
    for line in process.stderr:  # after the third of its runs, in the middle of the fourth
        if line.startswith("run 3 of 8"):
            break
    time.sleep(0.5)
    process.kill()
    process.wait()
    process.stderr.close()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert tables(out) == tables(done.folder)
    assert "alpha 0.1" in again.stdout


def test_a_dry_run_builds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "small.json"
    file.write_text(json.dumps(SMALL))
    command = [sys.executable, str(ROOT / "cli.py"), "experiment", str(file), "--dry-run", "--json"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    data = json.loads(shown.stdout)
    assert len(data["runs"]) == 8
    assert data["runs"][0]["method"] == "promptfl"
    assert not data["runs"][0]["finished"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ["fedpgpp"]}, "did you mean 'fedpgp'?"),
        ({"methods": [{"method": "fedpgp", "set": {"rnak": 4}}]}, "did you mean 'rank'?"),
        ({"methods": ["promptfl", {"method": "promptfl"}]}, "occurs twice"),
        ({"set": {"seed": 3}}, "set.seed: is given by the experiment's seeds"),
        ({"set": {"rounds": []}}, "set.rounds: is an empty list"),
        ({"datasets": [{"recipe": "fed-rsik"}]}, "did you mean 'fed-rsic'?"),
        ({"datasets": [{"recipe": "fed-rsik", "sample": True}]}, "did you mean 'fed-rsic'?"),
        ({"tables": [{"metric": "x", "against": "lcoal"}]}, "against='lcoal' is no row"),
        ({"datasets": [{"recipe": "fed-rsic", "subsets": ["x"]}]}, "no such subset"),
        ({"datasets": [{"recipe": "fed-rsic", "set": {"alhpa": 1}}]}, "did you mean 'alpha'?"),
        ({"datasets": [{"recipe": "fed-rsic"}, {"recipe": "fed-rsic"}]}, "occurs twice"),
        ({"tables": [{"metric": "x", "columns": ["alhpa"]}]}, "tables: 'alhpa' does not vary; did you mean 'alpha'?"),
    ],
)
def test_a_bad_experiment_is_refused_before_anything_is_built(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(FedkitError) as caught:
        run.run(small(**change), tmp_path / "out")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_metric_that_no_run_has_is_refused_with_the_nearest(done: Finished) -> None:
    with pytest.raises(UsageError, match=r"no run has the metric 'test/local/maen'; did you mean 'test/local/mean'\?"):
        run.run(small(tables=[{"metric": "test/local/maen"}]), done.folder)


def test_a_metric_that_one_method_alone_has_is_taken(done: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run.figures

    def more(result: Any) -> dict[str, float | None]:
        return {**found(result), **({"own": 1.0} if result.facts["config"]["method"] == "fedpgp" else {})}

    monkeypatch.setattr(run, "figures", more)
    (table,) = run.run(small(tables=[{"metric": "own", "columns": ["alpha"]}]), done.folder).tables
    assert {row for row, _ in table.cells} == {"fedpgp"}


def test_a_table_that_cannot_tell_runs_apart_is_refused(done: Finished) -> None:
    with pytest.raises(UsageError, match="do not tell .* add alpha"):
        run.run(small(tables=[{"metric": "test/local/mean"}]), done.folder)


def test_a_file_among_the_tables_that_is_none_is_kept(done: Finished, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))
    (copy / "tables" / "1.md").write_text("my own notes")
    with pytest.raises(OutputError, match=r"1\.md: already exists and is not a table of fedkit; move it away"):
        run.run(small(), copy)
    assert (copy / "tables" / "1.md").read_text() == "my own notes"
    shutil.rmtree(copy / "tables")
    (copy / "tables").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="is a link; remove it"):
        run.run(small(), copy)


def test_odd_gpus_and_jobs_are_refused(done: Finished) -> None:
    with pytest.raises(UsageError, match="--gpus x: should be numbers of GPUs"):
        run.run(small(), done.folder, gpus=["x"])
    with pytest.raises(UsageError, match="--jobs"):
        run.run(small(), done.folder, jobs=0)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, done: Finished) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no experiment"):
        run.run(small(), tmp_path / "mine")
    with pytest.raises(OutputError, match="holds the experiment 'small', not 'other'"):
        run.run(small(name="other"), done.folder)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
    own = tmp_path / "mine" / "experiment.json"
    own.write_text('{"name": "small", "notes": "years of work"}')
    with pytest.raises(OutputError, match="is no experiment of fedkit"):
        run.run(small(), tmp_path / "mine")
    assert "years of work" in own.read_text()
