"""What the documents say is so."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, fedkit, sampled

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.cli.setting_options import given_settings
from fedrsic_data.dataset import recipe
from fedrsic_data.dataset.manifest import Manifest, SubsetEntry
from fedtrain import run

DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_every_field_is_in_the_format() -> None:
    text = (ROOT / "docs" / "format.md").read_text()
    names = [f.name for f in dataclasses.fields(recipe.Recipe)]
    names += [f"layout.{f.name}" for f in dataclasses.fields(recipe.Layout)]
    for name in names:
        if name != "layout":
            assert f"`{name}`" in text, f"recipe field {name}"
    for cls in (Manifest, SubsetEntry):
        for field in dataclasses.fields(cls):
            assert field.name in text, f"manifest field {field.name}"


def test_the_recipe_of_the_format_is_one() -> None:
    data = json.loads(blocks(ROOT / "docs" / "format.md", "json")[0])
    assert set(recipes.from_json(data, "docs").subsets) == {"fed-ucmerced", "merged"}


def test_python_of_the_partitioners_runs() -> None:
    (code,) = blocks(ROOT / "docs" / "partitioners.md", "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert names["answer"].clients == 100  # type: ignore[attr-defined]


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled(tmp_path / "data" / "fed-rsic")
    monkeypatch.chdir(tmp_path)
    code = blocks(ROOT / "README.md", "python")[0]
    names: dict[str, object] = {}
    exec(code, names)
    batch = names["batch"]
    assert tuple(batch.shape[1:]) == (3, 256, 256)  # type: ignore[attr-defined]
    assert isinstance(names["data"], fedrsic_data.dataset.reader.Dataset)


def test_commands_of_the_readme_parse() -> None:
    import shlex
    import sys

    sys.path.insert(0, str(ROOT))
    import typer

    import cli

    command = typer.main.get_command(cli.app)
    lines = [line for path in DOCS for block in blocks(path, "bash") for line in block.splitlines()]
    said = (line.strip().replace("$seed", "0") for line in lines)
    mine = [shlex.split(line, comments=True)[1:] for line in said if line.startswith("fedkit ")]
    assert len(mine) >= 7
    settings = 0
    for name, *arguments in mine:
        context = command.commands[name].make_context(name, list(arguments))  # type: ignore[attr-defined]
        if name == "train" and "fedavgm" not in arguments:  # the method that docs/add_a_method.md adds
            sets = [*given_settings(context), *(context.params["set_"] or [])]
            run.draft(context.params["method"], sets)
            settings += len(sets)
    assert settings >= 10


def test_the_reference_is_what_the_code_says() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = script.text()
    assert (ROOT / "docs" / "reference.md").read_text() == text, "run: python docs/make_reference.py"
    assert (ROOT / "docs" / "methods.md").read_text() == script.methods_text(), "run: python docs/make_reference.py"
    empty = [line for line in text.splitlines() if re.fullmatch(r"\| `\w+` \|.*\|  \|", line)]
    assert not empty, "fields without a meaning: their class's docstring has no Attributes"


def test_python_of_the_report_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled(tmp_path / "data" / "fed-rsic")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs" / "report.md", "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert len(names["picture"].png) > 1000  # type: ignore[attr-defined]


def test_images_of_the_readme_are_small() -> None:
    images = sorted((ROOT / "docs" / "images").glob("*.png"))
    assert len(images) == 2
    for image in images:
        assert image.stat().st_size < 60_000
        assert f"docs/images/{image.name}" in (ROOT / "README.md").read_text()


def test_every_promise_of_the_security_page_names_tests_that_exist() -> None:
    rows = [line for line in (ROOT / "docs" / "security.md").read_text("utf-8").splitlines() if "tests/" in line]
    assert len(rows) > 30
    for row in rows:
        file, names = "", re.findall(r"(tests/\w+\.py)::|\b(test_\w+\*?)(?!\.py)", row.rsplit("|", 2)[1])
        for path, name in names:
            file = path or file
            if name:
                found = re.findall(r"def (test_\w+)\(", (ROOT / file).read_text("utf-8"))
                assert any(one == name or (name[-1] == "*" and one.startswith(name[:-1])) for one in found), (
                    file,
                    name,
                )


def test_links_of_the_round_lead_to_functions() -> None:
    links = re.findall(r"\[`([\w.]+)`\]\(([\w./]+\.py)\)", (ROOT / "docs" / "one_round.md").read_text())
    assert len(links) == 6
    for name, file in links:
        found: list[ast.stmt] = ast.parse((ROOT / "docs" / file).read_text()).body
        for part in name.split("."):
            (node,) = (n for n in found if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part)
            found = node.body
        assert isinstance(node, ast.FunctionDef), name


def test_the_method_of_the_page_trains(tmp_path: Path) -> None:
    sampled(tmp_path / "data" / "fed-rsic", "clients=3", "sample.per_class=4")
    for name, code in zip(("fedavgm", "train"), blocks(ROOT / "docs" / "add_a_method.md", "python"), strict=True):
        (tmp_path / f"{name}.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures = dict(line.split() for line in done.stdout.splitlines())
    assert set(figures) == {"promptfl", "fedavgm"}
    assert all(0 < float(value) <= 100 for value in figures.values())
    journals = sorted((tmp_path / "runs").glob("*/metrics.jsonl"))
    assert [path.parent.name.partition("-")[0] for path in journals] == ["fedavgm", "promptfl"]
    assert journals[0].read_bytes() != journals[1].read_bytes()
    compared = fedkit("compare", "runs", cwd=tmp_path)
    assert compared.returncode == 0
    assert "fedavgm" in compared.stdout
    facts = tmp_path / "fedavgm-1.0.dist-info"  # as installed, with the page's entry point
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: fedavgm\nVersion: 1.0\n")
    (entry,) = tomllib.loads(blocks(ROOT / "docs" / "add_a_method.md", "toml")[0])["project"]["entry-points"].items()
    lines = [f"[{entry[0]}]", *(f"{name} = {value}" for name, value in entry[1].items())]
    (facts / "entry_points.txt").write_text("\n".join(lines))
    refused = fedkit(
        *("train", "fedavgm", "--manifest", "data/fed-rsic", "--set", "beta=2"),
        cwd=tmp_path,
        PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}",
    )
    assert refused.returncode == 2
    assert "fedavgm: beta=2.0 should be from 0 to below 1" in refused.stderr
