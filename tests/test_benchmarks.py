"""What the benchmarks repeat: scenes that choose learning rates judge nothing, and a repetition repeats all of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtrain.report import quickstart

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import label_methods  # noqa: E402
import prompt_methods  # noqa: E402
import repetitions  # noqa: E402


def scenes(folder: Path) -> dict[int, Path]:
    """The federations of the prompt benchmark, with few pictures a class."""
    bench = prompt_methods.Bench(folder, rounds=1, per_class=4)
    chosen = {n: bench.federation(n, validation=True) for n in repetitions.CHOSEN}
    return chosen | {n: bench.federation(n) for n in repetitions.JUDGED}


def photographs(folder: Path) -> dict[int, Path]:
    """Those of the label benchmark, with few users."""
    bench = label_methods.Bench(folder, clients=2, users=12)
    return {n: bench.federation(n) for n in (*repetitions.CHOSEN, *repetitions.JUDGED)}


@pytest.mark.parametrize("federations", [scenes, photographs])
def test_no_picture_is_in_two_repetitions(federations: Any, tmp_path: Path) -> None:
    built = federations(tmp_path)
    repetitions.apart(built)
    each = [repetitions.pictures(path) for path in built.values()]
    assert len(set.union(*each)) == sum(map(len, each)) > 0


def photographs(folder: Path) -> dict[int, Path]:
    """Those of the label benchmark, with few users."""
    bench = label_methods.Bench(folder, clients=2, users=12)
    return {n: bench.federation(n) for n in (*repetitions.CHOSEN, *repetitions.JUDGED)}


@pytest.mark.parametrize("federations", [scenes, photographs])
def test_a_fixed_seed_of_the_sample_is_noticed(
    federations: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (prompt_methods, label_methods):
        monkeypatch.setattr(module, "drawn", lambda repetition: [f"seed={repetition}"])
    with pytest.raises(ValueError, match="share pictures"):
        repetitions.apart(federations(tmp_path))


def test_base_to_novel_judges_the_pictures_of_its_repetition(tmp_path: Path) -> None:
    bench = prompt_methods.Bench(tmp_path, rounds=1, per_class=4)
    one, other = bench.federation(0), bench.federation(0, novel=True)
    assert repetitions.pictures(one) == repetitions.pictures(other)


def test_a_backbone_that_remembers_gives_what_it_computes() -> None:
    torch.manual_seed(0)
    backbone, images = label_methods.remembering(), torch.randn(3, 3, 64, 64)
    computed = backbone.eval()(images)  # its parameters may still learn
    assert computed.requires_grad
    assert not backbone.features
    backbone.requires_grad_(False)
    torch.testing.assert_close(backbone(images), computed)
    torch.testing.assert_close(backbone(images.flip(0)[:2]), computed.flip(0)[:2])
    assert len(backbone.features) == 3
    backbone.features.clear()


def test_a_grid_goes_on_until_the_best_rate_is_not_at_its_edge() -> None:
    found = repetitions.climbed(lambda rate: -abs(rate - 30.0), (-4, -3))
    assert list(found) == [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
    assert list(repetitions.climbed(lambda rate: -rate if rate > 1e-4 else -1.0, (-5, -4))) == [
        *(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    ]


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


def test_the_tour_takes_the_rates_that_the_benchmark_chose() -> None:
    chosen = {row["method"]: row["lr"] for row in results("prompt_methods") if row["lr"]}
    scenes = next(part for part in quickstart.TOUR if part.subset == prompt_methods.SUBSET)
    taken = {m: float(s.split("=")[1]) for m, sets in scenes.runs.items() for s in sets if s.startswith("lr=")}
    assert taken == {method: float(chosen[method]) for method in taken}
    assert len(taken) == 4
