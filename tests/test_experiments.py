"""Experiments: one file is built, trained, resumed after anything, and made into tables."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, printed

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.errors import FedkitError, OutputError, UsageError
from fedrsic_data.files import lock
from fedrsic_data.settings import decode
from fedtrain.experiments import answers, run
from fedtrain.experiments.run import Ended, Finished, Progress
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
    assert done.report == done.folder / "report.html"
    assert "promptfl" in done.report.read_text(encoding="utf-8")
    assert len({one.folder for one in done.runs}) == 8
    assert all("alpha-0." in one.name for one in done.runs)


def test_a_finished_experiment_is_only_read(done: Finished) -> None:
    before = tables(done.folder)
    written = {one.name: (one.folder / "result.json").stat().st_mtime_ns for one in done.runs}
    ended: list[Ended] = []
    again = run.run(small(), done.folder, progress=Progress(done=lambda one, *_: ended.append(one)))
    assert tables(again.folder) == before
    assert not any(one.trained for one in ended)
    assert answers.line(ended[2], 3, 8) == f"run 3 of 8: {done.runs[2].name} was finished already"
    assert answers.line(Ended(done.runs[2]), 3, 8) == f"run 3 of 8: {done.runs[2].name}"
    assert {one.name: (one.folder / "result.json").stat().st_mtime_ns for one in again.runs} == written


def test_names_of_runs_do_not_depend_on_the_folder(done: Finished, tmp_path: Path) -> None:
    _, runs = run.planned(small(), tmp_path / "elsewhere")
    assert [one.name for one in runs] == [one.name for one in done.runs]


def test_two_processes_do_not_run_one_experiment(done: Finished) -> None:
    """Each would fail the runs that the other is training."""
    before = {path: path.read_bytes() for path in done.folder.rglob("*") if path.is_file()}
    held = lock.lock(done.folder / ".lock")
    try:
        with pytest.raises(OutputError, match="another process runs this experiment; wait for it"):
            run.run(small(), done.folder)
    finally:
        lock.unlock(done.folder / ".lock", held)
    assert {path: path.read_bytes() for path in done.folder.rglob("*") if path.is_file()} == before


def test_files_that_a_killed_process_was_writing_are_removed(done: Finished, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))
    before = tables(copy)
    for folder in (copy, copy / "tables"):
        (folder / ".fedkit-0123456789abcdef.tmp").write_text("{")
        (folder / "notes.tmp").write_text("mine")
    run.run(small(), copy)
    assert tables(copy) == before | {"notes.tmp": b"mine"}
    assert sorted(p.name for p in copy.glob("*.tmp")) == ["notes.tmp"]
    first = tmp_path / "first"
    first.mkdir()
    (first / ".fedkit-0123456789abcdef.tmp").write_text("{")
    with pytest.raises(UsageError, match="no run has this in its name"):
        run.run(small(), first, only="nothing")
    assert run._unfinished(first)
    run._claim(small(), first)
    assert [p.name for p in first.iterdir()] == ["experiment.json"]


def test_what_is_missing_is_made_again(done: Finished, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))
    _, runs = run.planned(small(), copy)
    shutil.rmtree(runs[2].folder)
    shutil.rmtree(copy / "tables")
    seen: list[str] = []
    again = run.run(small(), copy, progress=Progress(done=lambda one, *_: seen.append(one.run.name)))
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


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_cannot_be_trained_stops_no_other(done: Finished, tmp_path: Path, jobs: int) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))
    lost = {"method": "promptfl", "name": "lost", "set": {"held_out": "mars"}}
    found = run.run(small(methods=[lost, *SMALL["methods"]]), copy, jobs=jobs)
    assert sorted(found.failed) == sorted(one.name for one in found.runs if one.facts["method"] == "lost")
    assert all("held_out=mars: fed-ucmerced has no such domain" in words for words in found.failed.values())
    assert found.tables[0].cells == done.tables[0].cells
    shown = answers.finished(found, "text").data
    assert set(shown["failed"]) == set(found.failed)


def test_a_dataset_can_be_drawn_anew_for_each_seed(tmp_path: Path) -> None:
    (drawn,) = SMALL["datasets"]
    sets = {"clients": 3, "sample.per_class": 4, "sample.size": 32}
    wanted = small(
        datasets=[drawn | {"redraw": True, "set": sets}],
        methods=["zeroshot", {"method": "promptfl", "name": "prompts", "set": {"lr": 0.1}}],
        tables=[{"metric": ["test/local/mean", "test/pooled"], "columns": ["metric"], "where": {"method": "prompts"}}],
    )
    found = run.run(wanted, tmp_path / "small")
    assert found.report is None
    assert [(one.seed, one.dataset.seed) for one in found.runs] == [(0, 0), (0, 0), (1, 1), (1, 1)]
    for one in found.runs:
        recipe = fedrsic_data.open(one.dataset.place).manifest.recipe
        assert recipe.sample is not None
        assert (recipe.seed, recipe.sample.seed) == (one.seed, one.seed)
    (table,) = found.tables
    assert list(table.cells) == [("prompts", "test/local/mean"), ("prompts", "test/pooled")]
    for (_, metric), cell in table.cells.items():
        assert cell.values == {
            one.seed: load(one.folder).data["figures"][metric] for one in found.runs if one.facts["method"] == "prompts"
        }
    assert "test/pooled" in (found.folder / "tables" / "1.csv").read_text()


def test_a_sample_that_a_recipe_asks_for_is_drawn_anew_as_well(tmp_path: Path) -> None:
    drafted = tmp_path / "own.json"
    drafted.write_text(json.dumps(recipes.override(recipes.load("fed-rsic"), sample=True)))
    drawn = [{"recipe": str(drafted), "subsets": ["fed-ucmerced"], "redraw": True}]
    datasets, _ = run.planned(small(datasets=drawn, tables=[]), tmp_path / "out")
    seeds = [(one.recipe["seed"], one.recipe["sample"]["seed"]) for one in datasets if one.recipe is not None]
    assert seeds == [(0, 0), (1, 1)]


def test_a_dataset_with_several_names_is_one_dataset(done: Finished, tmp_path: Path) -> None:
    built = Path(done.runs[0].dataset.place)
    (tmp_path / "other").symlink_to(built)
    names = [str(built), f"{built}/", str(built / "manifest.json"), str(tmp_path / "other"), os.path.relpath(built)]
    for other in names[1:]:
        with pytest.raises(UsageError, match=r"^datasets: .* occurs twice.*; leave one of them out$"):
            run.planned(small(datasets=[{"recipe": names[0]}, {"recipe": other}], tables=[]), tmp_path / "out")
    with pytest.raises(UsageError, match=f"occurs twice, as {built}"):
        run.planned(small(datasets=[{"recipe": str(built)}, *SMALL["datasets"]], tables=[]), tmp_path / "out")
    (alone,) = run.planned(small(datasets=[{"recipe": names[2]}], tables=[]), tmp_path / "out")[0]
    assert (alone.place, alone.facts) == (str(built), {"dataset": built.name})


def test_some_runs_can_be_chosen(done: Finished, tmp_path: Path) -> None:
    """Their tables are printed, and those of all runs stay."""
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))
    found = run.run(small(), copy, only="fedpgp")
    assert {one.method for one in found.runs} == {"fedpgp"}
    assert found.part
    assert found.report is None
    assert {row for row, _ in found.tables[0].cells} < {row for row, _ in done.tables[0].cells}
    for path in [*(done.folder / "tables").iterdir(), done.folder / "report.html"]:
        assert (copy / path.relative_to(done.folder)).read_bytes() == path.read_bytes()
    words = printed(answers.finished(found, "text").text, 160)
    assert f"--only took {len(found.runs)} runs; their tables are printed and not written" in words
    assert not done.part
    others = {"metric": "test/local/mean", "columns": ["alpha"], "where": {"method": "promptfl"}}
    assert not run.run(small(tables=[others]), copy, only="fedpgp").tables[0].cells
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
def test_an_experiment_killed_again_and_again_gives_the_same_tables(done: Finished, tmp_path: Path) -> None:
    file, out = tmp_path / "small.json", tmp_path / "small"
    file.write_text(json.dumps(SMALL))
    command = [sys.executable, str(ROOT / "cli.py"), "experiment", str(file), "--out", str(out)]
    moments = (  # the beginning of a line, and how often it has come: in a build, a first run, a fourth, and the last
        ("writing shards", 2, "1"),
        ("training", 1, "1"),
        ("run 3 of 8", 1, "2"),  # with processes, which end too
        ("run 8 of 8", 1, "1"),
    )
    for words, times, jobs in moments:
        call = [*command, "--jobs", jobs]
        process = subprocess.Popen(call, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        assert process.stderr is not None
        met = itertools.accumulate(line.startswith(words) for line in process.stderr)
        assert times in met, f"{words} did not come {times} times"
        process.kill()
        process.wait()
        process.stderr.close()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert tables(out) == tables(done.folder)
    assert "alpha 0.1" in again.stdout
    assert "run 3 of 8" in again.stderr
    assert "training" not in again.stderr  # all of it was finished already, and says so
    assert again.stderr.count(" was finished already\n") == 8


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
        ({"methods": ["promptfl", {"method": "promptfl", "set": {"run.rounds": 1}}], "tables": []}, "occurs twice"),
        (
            {
                "methods": [{"method": "fedpgp", "set": {"rank": rank}} for rank in (2, 3)],
                "tables": [{"metric": "x", "columns": ["alpha"]}],
            },
            "give one of the methods another name",
        ),
        ({"set": {"run.seed": 3}}, "set.seed: is given by the experiment's seeds"),
        (
            {"datasets": [{"recipe": "fed-rsic"}, {"recipe": "fed-rsic", "set": {"seed": 0}}], "tables": []},
            "datasets: fed-rsic-",
        ),
        (
            {"datasets": [{"recipe": "fed-rsic", "redraw": True, "set": {"seed": 0}}], "tables": []},
            "datasets: redraw gives seed; leave it out of set",
        ),
        ({"tables": [{"metric": "x", "where": {"alhpa": 1}}]}, "tables: 'alhpa' does not vary; did you mean 'alpha'?"),
        ({"tables": [{"metric": "x", "where": {"alpha": 7}}]}, 'tables: no run has where={"alpha": 7}'),
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
        run.run(small(tables=[{"metric": "test/local/maen", "columns": ["alpha"]}]), done.folder)


def test_a_metric_that_one_method_alone_has_is_taken(
    done: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))
    found = run.figures

    def more(result: Any) -> dict[str, float | None]:
        return {**found(result), **({"own": 1.0} if result.facts["config"]["method"] == "fedpgp" else {})}

    monkeypatch.setattr(run, "figures", more)
    (table,) = run.run(small(tables=[{"metric": "own", "columns": ["alpha"]}]), copy).tables
    assert {row for row, _ in table.cells} == {"fedpgp"}


def test_a_metric_of_some_datasets_is_taken(tmp_path: Path) -> None:
    sets = {"base_to_novel": [False, True], "clients": 2, "sample.per_class": 4, "sample.size": 32}
    (drawn,) = SMALL["datasets"]
    novel = {"metric": ["test/base/mean", "test/novel/mean"], "columns": ["metric"]}
    wanted = {
        "datasets": [drawn | {"set": sets}],
        "methods": ["zeroshot"],
        "seeds": [0],
        "tables": [novel | {"where": {"base_to_novel": True}}],
    }
    (table,) = run.run(small(**wanted), tmp_path / "small").tables
    assert all(0 < cell.mean <= 100 for cell in table.cells.values())
    assert len(table.cells) == 2
    with pytest.raises(UsageError, match=r"no run has the metric 'test/base/mean'"):
        run.run(small(**wanted | {"tables": [novel | {"where": {"base_to_novel": False}}]}), tmp_path / "small")


def test_a_table_that_cannot_tell_runs_apart_is_refused(done: Finished) -> None:
    with pytest.raises(UsageError, match="do not tell .* add alpha"):
        run.planned(small(tables=[{"metric": "test/local/mean"}]), done.folder)


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


def test_a_table_of_somebody_else_is_kept(done: Finished, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(done.folder, tmp_path / "small"))
    mine = copy / "tables" / "1.tex"
    mine.write_text("\\begin{table}\n" + mine.read_text() + "\\caption{Mine.}\n\\end{table}\n")
    before = tables(copy)
    with pytest.raises(OutputError, match=r"1\.tex: already exists and is not a table of fedkit; move it away"):
        run.run(small(), copy)
    assert tables(copy) == before


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
    built = next((done.folder / "data").iterdir())
    with pytest.raises(OutputError, match="is inside the dataset .*, which may hold nothing else"):
        run.run(small(datasets=[{"recipe": str(built)}], tables=[]), built / "x")
    assert not (built / "x").exists()
    own = tmp_path / "mine" / "experiment.json"
    own.write_text('{"name": "small", "notes": "years of work"}')
    with pytest.raises(OutputError, match="is no experiment of fedkit"):
        run.run(small(), tmp_path / "mine")
    assert "years of work" in own.read_text()
