"""What is installed is what the repository holds."""

from __future__ import annotations

import tomllib

from conftest import ROOT, fedkit

from fedrsic_data import recipe


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_in_the_wheel() -> None:
    listed = set(settings()["tool"]["setuptools"]["packages"])
    there = {
        ".".join(p.parent.relative_to(ROOT).parts)
        for top in ("fedrsic_data", "fedtrain")
        for p in (ROOT / top).rglob("__init__.py")
    }
    assert there | {"fedkit", "fedrsic_data.recipes"} == listed


def test_recipes_are_found_and_nothing_generic_is_claimed() -> None:
    assert set(recipe.shipped()) == {p.stem for p in (ROOT / "manifests").glob("*.json")}
    tops = {name.split(".")[0] for name in settings()["tool"]["setuptools"]["packages"]}
    assert tops == {"fedkit", "fedrsic_data", "fedtrain"}


def test_top_level_imports_of_the_command_are_light() -> None:
    import subprocess
    import sys

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


def test_help_of_every_command_shows_examples() -> None:
    for command in ("build", "new", "resplit", "inspect", "verify", "list", "publish", "train", "compare"):
        shown = fedkit(command, "--help").stdout
        assert any(line.strip().startswith(f"fedkit {command}") for line in shown.splitlines()), shown
