"""What the benchmarks repeat: scenes that choose learning rates judge nothing, and a repetition repeats all of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.derive import find
from fedtrain.experiments import run, spec
from fedtrain.experiments.spec import Experiment, MethodSpec
from fedtrain.models import label_transformer
from fedtrain.report import quickstart

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import partition  # noqa: E402
import repetitions  # noqa: E402

SMALL = {"prompt": {"sample.per_class": 4}, "label": {"clients": 2, "sample.users": 12}}


def small(name: str, **changes: Any) -> Experiment:
    """An experiment that comes with fedkit, on few pictures and without its tables."""
    found = spec.load(name)
    (data,) = found.datasets
    sets = {**data.set, **SMALL[name.partition("-")[0]], **changes}
    return replace(found, datasets=(replace(data, set=sets),), tables=())


def built(folder: Path, *experiments: Experiment) -> dict[int, Path]:
    """The datasets of experiments, by number."""
    datasets = [one for wanted in experiments for one in run.planned(wanted, folder)[0]]
    for one in datasets:
        assert one.recipe is not None
        find.built(recipes.from_json(one.recipe, one.place), Path(one.place), one.place)
    return dict(enumerate(Path(one.place) for one in datasets))


@pytest.mark.parametrize("kind", SMALL)
def test_no_picture_is_in_two_repetitions(kind: str, tmp_path: Path) -> None:
    novel = {"base_to_novel": [False]} if kind == "prompt" else {}
    chosen, judged = small(f"{kind}-rates"), small(f"{kind}-methods", **novel)
    assert not {*chosen.seeds} & {*judged.seeds}
    found = built(tmp_path, chosen, judged)
    assert len(found) == len(chosen.seeds) + len(judged.seeds)
    repetitions.apart(found)
    each = [repetitions.pictures(path) for path in found.values()]
    assert len(set.union(*each)) == sum(map(len, each)) > 0


@pytest.mark.parametrize("kind", SMALL)
def test_a_fixed_seed_of_the_sample_is_noticed(kind: str, tmp_path: Path) -> None:
    wanted = small(f"{kind}-methods", seed=[0, 1])
    fixed = replace(wanted, datasets=(replace(wanted.datasets[0], redraw=False),))
    with pytest.raises(ValueError, match="share pictures"):
        repetitions.apart(built(tmp_path, fixed))


def test_base_to_novel_judges_the_pictures_of_its_repetition(tmp_path: Path) -> None:
    wanted = replace(small("prompt-methods"), seeds=(0,))
    one, other = built(tmp_path, wanted).values()
    assert repetitions.pictures(one) == repetitions.pictures(other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_every_cell_of_the_tables_has_its_metric(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file(label_transformer.backbone().state_dict(), "backbone.safetensors")
    wanted = replace(small(f"{kind}-methods", clients=2), seeds=(0,), tables=spec.load(f"{kind}-methods").tables)
    brief = {"rounds": 1, "eval_every": 1, "checkpoint_every": 1, **({"epochs": 1} if kind == "label" else {})}
    methods = tuple(
        one if isinstance(one, str) else replace(one, set={k: v for k, v in one.set.items() if k != "rounds"})
        for one in wanted.methods
    )
    done = run.run(replace(wanted, methods=methods, set={**wanted.set, **brief}), tmp_path / "out")
    assert not done.failed
    alone = {("local", "test/shared")}  # who trains alone has nothing that is shared
    for table in done.tables:
        missing = {(row, column) for row in table.rows for column in table.columns} - set(table.cells)
        assert missing <= alone
        assert len(table.rows) == len(wanted.methods)


def test_rows_that_train_nothing_stand_beside_the_methods(tmp_path: Path) -> None:
    wanted = replace(small("prompt-methods", clients=2), methods=("zeroshot",), seeds=(0, 1))
    run.run(wanted, tmp_path / "prompts")
    kinds = repetitions.measured(tmp_path / "prompts", None)
    assert len(kinds) == 2
    for rows in kinds.values():
        assert next(iter(rows)) == "zeroshot"
        assert len(rows) == 5
        for figures in rows.values():
            assert len(figures) == 2
            assert all(0 <= one["test/local/mean"] <= 100 for one in figures)
        assert "| zeroshot |" in repetitions.table(rows, ["test/local/mean"])
    labels = built(tmp_path, replace(small("label-methods"), seeds=(0,)))
    backbone = tmp_path / "backbone.safetensors"
    save_file(label_transformer.backbone().state_dict(), backbone)
    rows = repetitions.untrained(fedrsic_data.open(labels[0])["flair-100"], backbone)
    assert list(rows) == ["label frequencies", "own label frequencies", "class means"]
    assert all(0 <= figures["test/C-AP"] <= 100 for figures in rows.values())


def test_an_order_needs_four_of_five_repetitions() -> None:
    rows = {
        "a": [{"f": value} for value in (1.0, 2.0, 3.0, 4.0, 0.0)],
        "b": [{"f": value} for value in (0.0, 1.0, 2.0, 3.0, 0.5)],
        "c": [{"f": value} for value in (0.5, 2.5, 3.5, 3.5, 0.5)],
    }
    assert repetitions.order(rows, "a", "b", "f").startswith("- **a above b**: +0.7 points, in 4 of 5")
    assert repetitions.order(rows, "b", "a", "f").startswith("- **a above b**: +0.7 points, in 4 of 5")
    assert repetitions.order(rows, "a", "c", "f").startswith("- no order of a and c")
    assert repetitions.wins(rows, "f")[2] == "| a |  | 4 | 2 |"


def cells(text: str, first: str) -> list[list[str]]:
    """The rows of the Markdown table whose head begins with ``first``."""
    lines = text[text.index(first) :].split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if not line.startswith("|---")]


def results(name: str) -> list[dict[str, str]]:
    """The first table of a result file."""
    head, *rows = cells((ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8"), "| method | lr |")
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_docs_have_the_figures_of_the_result_files() -> None:
    docs = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    methods, values = cells(docs, "| zeroshot | promptfl |")
    measured = {row["method"]: row["local, mean over clients"] for row in results("prompt_methods")}
    assert {method: measured[method] for method in methods} == dict(zip(methods, values, strict=True))
    head, *rows = cells(docs, "| | FedAvg | FedC-Tran |")
    labels = {row["method"]: row for row in results("label_methods")}
    for figure, *each in rows:
        assert each == [labels[method][figure] for method in head[1:]]


@pytest.mark.parametrize("kind", SMALL)
def test_experiments_take_the_rates_that_were_chosen_inside_of_the_grid(kind: str) -> None:
    text = (ROOT / "benchmarks" / "results" / f"{kind}_methods.md").read_text(encoding="utf-8")
    head, *rows = cells(text[text.index("## Learning rates") :], "| method |")
    tried = {row[0]: {float(rate): float(v) for rate, v in zip(head[1:], row[1:], strict=True) if v} for row in rows}
    grids, rates = (
        {one.name or one.method: one.set["lr"] for one in spec.load(name).methods if isinstance(one, MethodSpec)}
        for name in (f"{kind}-rates", f"{kind}-methods")
    )
    assert grids == {method: list(values) for method, values in tried.items()}
    best = {method: max(values, key=values.__getitem__) for method, values in tried.items()}
    assert rates == best
    assert all(best[method] not in (grid[0], grid[-1]) for method, grid in grids.items())
    judged = {row["method"]: row["lr"] for row in results(f"{kind}_methods") if row["lr"]}
    assert {method: float(rate) for method, rate in judged.items()} == rates


def test_the_tour_takes_the_rates_that_the_benchmark_chose() -> None:
    chosen = {row["method"]: row["lr"] for row in results("prompt_methods") if row["lr"]}
    scenes = next(part for part in quickstart.TOUR if part.subset in spec.load("prompt-methods").datasets[0].subsets)
    taken = {m: float(s.split("=")[1]) for m, sets in scenes.runs.items() for s in sets if s.startswith("lr=")}
    assert taken == {method: float(chosen[method]) for method in taken}
    assert len(taken) == 4


def test_a_cell_of_the_partition_benchmark_plans_and_writes_all_rows(tmp_path: Path) -> None:
    source = str(tmp_path / "rows.parquet")
    settings = {"name": "dirichlet", "clients": 3, "alpha": 0.5, "min_size": 0}
    assert "error" not in partition.run(partition.Job("rows", source, str(tmp_path), 200))
    found = partition.run(partition.Job(partition.FEDKIT, source, str(tmp_path), 3, settings=settings))
    assert "error" not in found, found["error"]
    assert found["rows"] == 200
    assert found["plan_s"] == sum(found["steps"].values())
