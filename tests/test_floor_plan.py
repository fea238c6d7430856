"""Imports go down the floors of CONTRIBUTING.md, without circles; ``docs/make_map.py`` reads both."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from fedtrain.methods import METHODS


def _made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_map", ROOT / "docs/make_map.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["make_map"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


graph = _made()
# parsed before any test runs: Python 3.11 fails at it, now and then, beside threads that other tests left behind
graph.arrows()

CONTRACT = {"dataset", "files", "report", "errors", "settings", "registry", "seeds", "answer", "interrupts"}
CONTRACT |= {"distribution"}
"""The rooms of the data layer that trainers may see."""

ABOVE = {"fedtrain.experiments", "fedtrain.api", "fedtrain.testing"}
"""The rooms of the trainers that stand above both layers, as ``cli.py`` does: they know recipes and datasets."""

HEAVY = {"torch", "torchvision", "open_clip"}
REGISTERED = {
    "fedrsic_data.sources": "coco coco_format flair folder metadata optimal31 parquet resisc45 ucmerced voc "
    "voc_format yolo",
    "fedrsic_data.partition": "iid dirichlet dirichlet_client pachinko pathological class_blocks shards ext_dirichlet "
    "quantity domain natural skew assigned label_set cluster",
    "fedtrain.methods": " ".join(METHODS).replace("-", "_"),
}


def test_every_room_has_one_floor() -> None:
    assert set(graph.floors()) == set(graph.doors())


def test_arrows_between_rooms_go_down() -> None:
    assert graph.upward() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert graph.circles(graph.arrows()) == []


@pytest.mark.parametrize("package", graph.PACKAGES)
def test_few_modules_lie_loose_at_the_top(package: str) -> None:
    assert len(graph.loose(package)) <= 8


def test_opening_a_dataset_loads_the_contract_alone() -> None:
    assert len(graph.loaded("fedrsic_data.dataset.reader")) <= 12


def test_no_chain_of_packages_is_long() -> None:
    assert len(graph.chain()) <= 9


def test_trainers_see_only_the_contract() -> None:
    for module, others in graph.arrows().items():
        for other in others if module.startswith("fedtrain.") and graph.room(module) not in ABOVE else ():
            assert not other.startswith("fedrsic_data.") or other.split(".")[1] in CONTRACT, f"{module} imports {other}"


def test_the_data_layer_knows_neither_torch_nor_the_trainers() -> None:
    for module, path in graph.modules().items():
        tops = {name.split(".")[0] for name in graph.imported(path)}
        assert not tops & {"cli", "fedrsic"}, module
        if module.startswith("fedrsic_data"):
            assert not tops & (HEAVY | {"fedtrain"}), module


@pytest.mark.parametrize("package", REGISTERED)
def test_registered_siblings_do_not_import_each_other(package: str) -> None:
    siblings = {f"{package}.{name}" for name in REGISTERED[package].split()}
    for module in siblings:
        assert not graph.arrows()[module] & siblings, module


def test_nothing_of_ours_is_imported_under_another_name() -> None:
    everywhere = [*graph.modules().values(), *ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.py")]
    assert [f"{path}: {name}" for path in everywhere for name in renamed(path)] == []
    tests = [(path, name) for path in ROOT.glob("tests/*.py") for name in renamed(path) if name in graph.modules()]
    assert tests == []


def renamed(path: Path) -> Iterator[str]:
    """What of our packages a file imports under another name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names = [module + alias.name for alias in node.names if alias.asname]
            yield from (name for name in names if name.split(".")[0] in graph.PACKAGES)


def test_no_public_class_has_the_name_of_another() -> None:
    homes: dict[str, set[str]] = {}
    for module, path in graph.modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(module)
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_the_walk_sees_imports_wherever_they_stand(tmp_path: object) -> None:
    bad = tmp_path / "bad.py"  # type: ignore[operator]
    bad.write_text("def f():\n    from fedrsic_data.build import pipeline\nimport fedtrain.run\n")
    assert set(graph.imported(bad)) == {"fedrsic_data.build.pipeline", "fedtrain.run"}
    bad.write_text("def f():\n    from fedtrain import run as r, seeds\nimport fedrsic_data.seeds as s, numpy as n\n")
    assert list(renamed(bad)) == ["fedrsic_data.seeds", "fedtrain.run"]


def test_a_circle_and_an_arrow_up_are_found() -> None:
    assert graph.circles({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a"), "d": frozenset("a")}) == [
        ["a", "b", "c"]
    ]
    assert graph.floors()["fedrsic_data.build"] > graph.floors()["fedrsic_data.dataset"]
    assert graph.floors()["fedtrain.config"] > graph.floors()["fedrsic_data.cli"]
