"""What is installed is what the repository holds."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from conftest import ROOT, Command
from typer.core import TyperGroup

from fedrsic_data import distribution, recipes


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_in_the_wheel() -> None:
    listed = set(settings()["tool"]["setuptools"]["packages"])
    there = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for top in ("fedrsic_data", "fedtrain")
        for p in (ROOT / top).rglob("__init__.py")
    }
    assert there | {"fedrsic", "fedrsic_data.manifests"} == listed


def test_recipes_are_found_and_nothing_generic_is_claimed() -> None:
    assert set(recipes.shipped()) == {p.stem for p in (ROOT / "manifests").glob("*.json")}
    tops = {name.split(".")[0] for name in settings()["tool"]["setuptools"]["packages"]}
    assert tops == {"fedrsic", "fedrsic_data", "fedtrain"}


def test_top_level_imports_of_the_command_are_light() -> None:

    code = (
        "import sys; sys.argv = ['fedkit', '--help']\n"
        "import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'datasets', 'pyarrow', 'numpy', 'matplotlib', 'PIL', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Examples" in done.stdout


def commands(group: TyperGroup, *above: str) -> Iterator[tuple[str, ...]]:
    """The words of every command of a command line, those of groups within groups too."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, *above, name)
        else:
            yield *above, name


def test_help_of_every_command_shows_examples(app: TyperGroup, command: Command) -> None:
    found = list(commands(app))
    assert {("build",), ("quickstart",), ("report",), ("split-sites",), ("flower", "run")} <= set(found)
    for words in found:
        shown = command(*words, "--help").stdout
        assert any(line.strip().startswith(" ".join(["fedkit", *words])) for line in shown.splitlines()), shown
        assert "\\[" not in shown
        assert shown.count("rguments:") <= 1
        arguments = shown.partition("Arguments:\n")[2].partition("\n\n")[0]
        assert not re.search(r"^  [A-Z|.]+  \[required\]$", arguments, flags=re.MULTILINE), "an argument without a help"


def test_no_file_tells_anyone_to_install_the_stranger_called_fedkit() -> None:
    asked = re.compile(
        r"pip install (-\S+ )*['\"]?fedkit\b|\bfedkit\\?\[|metadata[^\n]*\(\"fedkit\"\)|\bversion\(\"fedkit\"\)"
    )
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    found = [
        f"{name}: {line.strip()}"
        for name in files
        if name.endswith((".py", ".md", ".toml", ".html", ".yaml", ".json")) or name.startswith(".ci/")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if asked.search(line) and name != "tests/test_packaging.py"
    ]
    assert not found


def test_the_distribution_has_a_name_of_its_own_and_installs_no_module_called_fedkit() -> None:
    project = settings()["project"]
    assert project["name"] == distribution.NAME == "fedrsic"
    assert project["scripts"] == {"fedkit": "fedrsic.__main__:main"}
    assert "fedkit" not in settings()["tool"]["setuptools"]["package-dir"]


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (None, "pip install 'fedrsic[ray]'"),
        ("{", "pip install 'fedrsic[ray]'"),
        ({"url": "https://example.org/fedrsic.whl", "archive_info": {}}, "pip install 'fedrsic[ray]'"),
        ({"url": "file:///a%20clone", "dir_info": {"editable": True}}, "pip install '/a clone[ray]'"),
        ({"url": "file:///x/fedrsic-0.1.0-py3-none-any.whl"}, "pip install '/x/fedrsic-0.1.0-py3-none-any.whl[ray]'"),
    ],
)
def test_hints_for_extras_name_the_place_that_was_installed_from(
    record: dict[str, Any] | str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, _: str) -> str | None:
            return record if record is None or isinstance(record, str) else json.dumps(record)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Installed())
    assert distribution.install("ray") == command


def test_a_hint_without_an_installation_names_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert distribution.install("ray") == "pip install 'fedrsic[ray]'"
    assert distribution.version() == "0"


def test_every_dependency_has_a_floor_that_the_floor_script_can_install() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import floors

    found = floors.floors(settings()["project"])
    assert {"torch==2.5.1", "torchvision==0.20.1"} <= set(found)
    with pytest.raises(ValueError, match="has no floor"):
        floors.floors({"dependencies": ["numpy"]})
