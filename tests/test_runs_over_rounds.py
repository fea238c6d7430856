"""Metrics that are read off the rounds of runs: the mean of the last, and the rounds and megabytes to a target."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Command
from federated_softmax import Softmax
from softmax_runs import config, lines, resealed_run

from fedrsic_data.errors import OutputError, UsageError
from fedtrain import methods, run
from fedtrain.api.runs import compare
from fedtrain.experiments import spec
from fedtrain.experiments.run import run as run_experiment
from fedtrain.runs.folder import load
from fedtrain.runs.over_rounds import chosen, reader, rounds_of
from fedtrain.runs.results import digits, grouped, is_cost, over_seeds

METRIC = "test/accuracy/pooled"


@pytest.fixture(scope="module")
def runs(sample_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of six rounds, of which every second one is evaluated."""
    torch.set_num_threads(1)
    top = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods.METHODS, "softmax", Softmax)
        for seed in range(2):
            run.train(config(sample_build, f"seed={seed}", "rounds=6", "eval_every=2"), top / f"s{seed}")
    return top


def curve(folder: Path, *values: float | None) -> Path:
    """Gives a run other values in its evaluated rounds, but for the last, which its result has too."""
    held = lines(folder)
    for line, value in zip([line for line in held if "figures" in line], values, strict=False):
        line["figures"][METRIC] = value
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held))
    resealed_run(folder)
    return folder


def test_the_last_rounds_are_those_that_were_evaluated(runs: Path) -> None:
    result = load(runs / "s0")
    values = [line["figures"][METRIC] for line in lines(runs / "s0") if "figures" in line]
    assert len(values) == 3
    assert chosen(result, [f"last2 of {METRIC}", METRIC]) == {
        f"last2 of {METRIC}": pytest.approx(sum(values[1:]) / 2),
        METRIC: values[2],
    }
    assert chosen(result, [f"last5 of {METRIC}"]) == {f"last5 of {METRIC}": None}, (
        "there are three, and no mean of five"
    )


def test_a_target_is_reached_in_the_first_round_that_has_it(runs: Path, tmp_path: Path) -> None:
    folder = curve(Path(shutil.copytree(runs / "s0", tmp_path / "run")), 41.0, 40.0)
    sent = {line["round"]: line["bytes_sent"] for line in lines(folder)}
    for target, round_ in ((40, 2), (41, 2), ("0.5", 2), (100.5, None)):
        found = chosen(load(folder), [f"rounds to {target} of {METRIC}", f"megabytes to {target} of {METRIC}"])
        assert list(found.values()) == [round_, None if round_ is None else sent[round_] / 1e6]
    later = curve(folder, 10.0, 99.0)
    found = chosen(load(later), [f"rounds to 50 of {METRIC}", f"megabytes to 50 of {METRIC}"])
    assert list(found.values()) == [4, sent[4] / 1e6]
    curve(folder, None, 99.0)
    assert chosen(load(folder), [f"rounds to 5 of {METRIC}"]) == {f"rounds to 5 of {METRIC}": 4}


def test_less_is_the_target_where_less_is_better(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs / "s0", tmp_path / "run"))
    spreads = [line["figures"]["test/accuracy/std"] for line in lines(folder) if "figures" in line]
    name = f"rounds to {max(spreads) + 1:.1f} of test/accuracy/std"
    assert chosen(load(folder), [name]) == {name: 2}
    assert is_cost(name)
    assert is_cost("test/accuracy/std")
    assert not is_cost(f"last5 of {METRIC}")


def test_a_run_without_rounds_is_its_start(sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "softmax", Softmax)
    result = run.train(config(sample_build, "rounds=0"), tmp_path / "run")
    value = result.data["figures"][METRIC]
    names = [f"{what} of {METRIC}" for what in ("last5", "rounds to 0", "megabytes to 0", "rounds to 99")]
    assert list(chosen(result, names).values()) == [value, 0, 0, None]
    assert rounds_of(result) == ()


def test_a_mean_of_costs_is_of_runs_that_all_came_there(runs: Path, tmp_path: Path) -> None:
    name = f"rounds to 50 of {METRIC}"
    one = curve(Path(shutil.copytree(runs / "s0", tmp_path / "s0")), 60.0)
    other = curve(Path(shutil.copytree(runs / "s1", tmp_path / "s1")), 10.0, 60.0)
    both = [load(one), load(other)]
    (group,) = grouped(both, reader(both, [name]))
    assert (group.figures[name].mean, group.figures[name].runs) == (3, 2)
    assert compare([one, other], [name]).table.cells[name, group.label].mean == 3
    last = lines(other)[-1]["figures"][METRIC]
    never = f"rounds to {max(last, 60.0) + 0.1:.1f} of {METRIC}"
    curve(one, 100.0)
    both = [load(one), load(other)]
    assert chosen(both[0], [never])[never] == 2
    (group,) = grouped(both, reader(both, [never]))
    assert group.figures == {}
    assert not compare([one, other], [never]).table.cells
    assert over_seeds(METRIC, [1.0, None]) == [1.0], "a metric that some runs have is that of those"


def test_what_no_run_has_is_refused_with_the_nearest(runs: Path) -> None:
    for name in ("test/acuracy/pooled", "last5 of test/acuracy/pooled", "rounds to 80 of test/acuracy/pooled"):
        with pytest.raises(UsageError, match=rf"metric '{name}': no run has it.*{METRIC}"):
            compare(runs, [name])
    for name in ("rounds to eighty", "megabytes to nan", "last0", "lastly"):
        with pytest.raises(
            UsageError, match=f"metric '{name} of {METRIC}': give a number, as in 'rounds to 80 of METRIC'"
        ):
            compare(runs, [f"{name} of {METRIC}"])
    for name, why in (("rounds to 101", "reached 101"), ("last99", "was evaluated in so many rounds")):
        with pytest.raises(UsageError, match=f"metric '{name} of {METRIC}': no run {why}"):
            compare(runs, [f"{name} of {METRIC}"])


def test_traffic_that_is_no_number_is_refused(runs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs / "s0", tmp_path / "run"))
    held = lines(folder)
    held[1]["bytes_sent"] = "many"
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held))
    resealed_run(folder)
    with pytest.raises(OutputError, match=r"metrics.jsonl: is damaged"):
        rounds_of(load(folder))


def test_the_command_prints_the_chosen_metrics_alone(runs: Path, command: Command) -> None:
    names = [f"last2 of {METRIC}", f"rounds to 0 of {METRIC}"]
    done = command("compare", runs, "--metric", names[0], "--metric", names[1], "--format", "csv")
    assert done.returncode == 0, done.stderr
    rows = [line.split(",") for line in done.stdout.splitlines()[1:]]
    assert [row[3] for row in rows] == names
    assert float(rows[1][4]) == 2
    assert digits(names[1]) == ",.1f"


def test_a_table_of_an_experiment_has_them_as_columns(sample_build: Path, tmp_path: Path) -> None:
    held = spec.Experiment(
        fedkit=1,
        name="costs",
        datasets=(spec.DataSpec(str(sample_build), ("fed-ucmerced",)),),
        methods=(spec.MethodSpec("promptfl", {"epochs": 1, "length": 2}),),
        set={"rounds": 2, "device": "cpu"},
        tables=(
            spec.TableSpec(
                metric=tuple(f"{what} of test/local/mean" for what in ("last2", "rounds to 0", "megabytes to 101")),
                columns=("metric",),
            ),
        ),
    )
    (table,) = run_experiment(held, tmp_path / "costs").tables
    assert {column: cell.mean for (_, column), cell in table.cells.items() if "rounds" in column} == {
        "rounds to 0 of test/local/mean": 1
    }
    assert len(table.cells) == 2, "101 percent is never reached"
    bad = replace(held, tables=(spec.TableSpec(metric="rounds to 0 of test/lokal/mean"),))
    with pytest.raises(UsageError, match=r"tables: no run has the metric 'rounds to 0 of test/lokal/mean'"):
        run_experiment(bad, tmp_path / "costs")
