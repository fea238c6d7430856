"""Imports only go down the floor plan."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

# the floors of fedrsic_data, from the ground up; a module may import its own floor's modules and those below
FLOORS = (
    ("errors", "seeds", "vocabulary", "shown", "interrupts", "distribution", "atomic"),
    (
        "ownership",
        "settings",
        "headers",
        "images",
        "index",
        "identical",
        "schema",
        "memory",
        "spill",
        "tables",
        "skew",
        "archives",
        "tarstream",
        "download",
        "sample",
        "duplicates",
    ),
    ("containers", "partition"),
    ("sources", "splits"),
    ("recipe",),
    ("manifest",),
    ("files", "hub"),
    ("plan", "shards", "card", "reader", "flower"),
    ("workspace", "record", "pictures", "engines", "redraw"),
    ("describe", "verify", "pages"),
    ("build",),
    ("resplit", "twin", "rebuild", "publish", "quickstart", "remote", "sites"),
    ("show",),
    ("new",),
    ("console",),
    ("commands",),
)
# the same of fedtrain; of methods, only base stands where others may see it
TRAIN_FLOORS = (
    ("seeds", "metrics", "multilabel", "data", "images", "flat", "files", "published", "live"),
    ("models",),
    ("features",),
    ("methods.base",),
    ("config", "aggregate", "state", "methods"),
    ("checkpoint", "seal"),
    ("folder",),
    ("engines",),
    ("resolve", "results", "verify"),
    ("run", "report", "flower"),
    ("curves",),
    ("pages",),
    ("quickstart",),
)
BINDERS = {"methods", "resolve", "report", "flower"}  # who may see methods by name
CONTRACT = {
    "interrupts",
    "manifest",
    "schema",
    "reader",
    "images",
    "errors",
    "distribution",
    "settings",
    "shown",
    "pictures",
    "pages",
}
CONTRACT |= {"atomic", "ownership"}
HELPERS = {"sources": {"base", "classfolders", "locate", "hub"}}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> set[str]:
    """Dotted names a module imports, at its top or later; ``from a import b`` counts as ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


# parsed before any test runs: Python 3.11 fails at it, now and then, beside threads that other tests left behind
for source in (*modules("fedrsic_data"), *modules("fedtrain")):
    imports(source)


def floor(name: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if name in names)


def train_floor(name: str) -> int:
    """The floor of a module of fedtrain by its dotted name in there."""
    top = "methods.base" if name.startswith("methods.base") else name.split(".")[0]
    return 0 if top == "__init__" else next(i for i, names in enumerate(TRAIN_FLOORS) if top in names)


def inside(name: str) -> str:
    """``a.b`` of ``fedtrain.a.b``; empty for what is not of fedtrain."""
    top, _, inner = name.partition(".")
    return inner if top == "fedtrain" else ""


def parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).with_suffix("").parts


@pytest.mark.parametrize("path", modules("fedrsic_data"), ids=lambda p: "/".join(parts(p)))
def test_data_layer_imports_go_down(path: Path) -> None:
    own = parts(path)[1]
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in ("torch", "torchvision", "open_clip", "fedtrain", "cli", "fedrsic"), f"{path} imports {name}"
        if top == "fedrsic_data" and own != "__init__" and len(name.split(".")) > 1:
            other = name.split(".")[1]
            assert floor(other) <= floor(own), f"{path} imports {name}, which stands above it"


@pytest.mark.parametrize("path", modules("fedtrain"), ids=lambda p: "/".join(parts(p)))
def test_trainers_see_only_the_contract(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] not in ("cli", "fedrsic")
        if name.startswith("fedrsic_data."):
            assert name.split(".")[1] in CONTRACT, f"{path} imports {name}"


@pytest.mark.parametrize("path", modules("fedtrain"), ids=lambda p: "/".join(parts(p)))
def test_trainer_imports_go_down(path: Path) -> None:
    own = train_floor(".".join(parts(path)[1:]))
    for name in imports(path):
        inner = inside(name)
        if inner and inner != "__init__":
            assert train_floor(inner) <= own, f"{path} imports {name}, which stands above it"
            if inner.split(".")[0] == "methods" and parts(path)[1] not in BINDERS:
                assert inner.startswith("methods.base"), f"{path} imports {name}; the base of methods is all it may see"
            if inner.split(".")[0] in ("models", "features"):
                assert parts(path)[1] in ("models", "features", "methods"), f"{path} imports {name}"


def test_methods_do_not_import_each_other() -> None:
    registered = {inside(n).split(".")[1] for n in imports(ROOT / "fedtrain/methods/__init__.py") if inside(n)}
    assert len(registered) >= 7
    for name in registered:
        for other in imports(ROOT / f"fedtrain/methods/{name}.py"):
            inner = inside(other).split(".")
            assert inner[0] != "methods" or inner[1] not in registered, f"methods/{name} imports {other}"


@pytest.mark.parametrize(
    ("package", "registry"), [("fedrsic_data/sources", "SOURCES"), ("fedrsic_data/partition", "PARTITIONERS")]
)
def test_registered_siblings_do_not_import_each_other(package: str, registry: str) -> None:
    dotted = package.replace("/", ".")
    assert f"{registry}: " in (ROOT / package / "__init__.py").read_text()
    registered = {n.split(".")[2] for n in imports(ROOT / package / "__init__.py") if n.startswith(dotted + ".")}
    siblings = registered - HELPERS.get(Path(package).name, set()) - helpers(package)
    assert len(siblings) >= 3
    for name in siblings:
        for other in imports(ROOT / package / f"{name}.py"):
            if other.startswith(dotted + "."):
                assert other.split(".")[2] not in siblings, f"{package}/{name} imports {other}"


def helpers(package: str) -> set[str]:
    """Modules of a package that register nothing: those without a class or object of its kind."""
    found = set()
    for path in (ROOT / package).glob("*.py"):
        parsed = tree(path)
        assigns = any(
            isinstance(n, ast.FunctionDef) and n.name == "assign"
            for c in parsed.body
            if isinstance(c, ast.ClassDef)
            for n in c.body
        )
        source = any(
            isinstance(n, ast.Assign) and "SOURCE" in [getattr(t, "id", "") for t in n.targets] for n in parsed.body
        )
        if path.stem in ("base",) or not (assigns or source):
            found.add(path.stem)
    return found


def test_the_walk_sees_an_upward_import(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from fedrsic_data.build.pipeline import build\n")
    assert imports(bad) == {"fedrsic_data.build.pipeline.build"}
    assert floor("build") > floor("shards")


def test_every_module_has_a_floor() -> None:
    on_floors = {name for names in FLOORS for name in names}
    there = {parts(p)[1] for p in modules("fedrsic_data")} - {"__init__"}
    assert there == on_floors


def test_every_module_of_the_trainer_has_a_floor() -> None:
    on_floors = {name.split(".")[0] for names in TRAIN_FLOORS for name in names}
    assert {parts(p)[1] for p in modules("fedtrain")} - {"__init__"} == on_floors
