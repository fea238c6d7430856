"""The example package of docs/plugins.md: installed, used by its names, and not missed where it is absent."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, answer, encoded, fedkit, refused
from PIL import Image

PAGE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "docs" / "examples" / "package"
VERSION = {"fedkit-example": "0.1.0"}

pytestmark = pytest.mark.slow


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of an environment in which the package is installed."""
    root = tmp_path_factory.mktemp("installed")
    shutil.copytree(PACKAGE, root / "package")  # setuptools builds beside the files
    line = ["pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", root / "site"]
    done = subprocess.run([sys.executable, "-m", *line, root / "package"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {"PYTHONPATH": os.pathsep.join([str(root / "site"), str(ROOT)])}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, there: dict[str, str]) -> Path:
    """A folder in which the commands of the page were run."""
    root = tmp_path_factory.mktemp("work")
    (root / "images").mkdir()
    for number in range(60):
        tile = Image.new("RGB", (24, 24), (number * 4, 90 * (number % 3), 40))
        name = f"{('river', 'field', 'town')[number % 3]}_{number:03d}.png"
        (root / "images" / name).write_bytes(encoded("PNG", tile))
    recipe, experiment = blocks("json")
    (root / "mosaic.json").write_text(recipe)
    (root / "trims.json").write_text(experiment)
    (commands,) = blocks("sh")
    for command in commands.splitlines():
        done = fedkit(*shlex.split(command)[1:], cwd=root, **there)
        assert done.returncode == 0, done.stderr
    return root


def test_the_page_shows_the_files_of_the_package() -> None:
    assert blocks("toml") == [(PACKAGE / "pyproject.toml").read_text(encoding="utf-8")]
    shown = blocks("python")
    for name in ("trimmed", "leader", "tiles"):
        assert (PACKAGE / "fedkit_example" / f"{name}.py").read_text(encoding="utf-8") in shown


def test_lists_name_the_package(there: dict[str, str]) -> None:
    for what, kind, name in (
        ("methods", "method", "trimmed"),
        ("partitioners", "partitioner", "leader"),
        ("sources", "source", "tiles"),
    ):
        (row,) = [row for row in answer(fedkit("list", what, "--json", **there))[what] if row[kind] == name]  # type: ignore[attr-defined]
        assert row["package"] == "fedkit-example 0.1.0"
        assert "problem" not in row


def test_settings_are_checked(work: Path, there: dict[str, str]) -> None:
    line = ("build", "mosaic.json", "--source", "tiles=images", "--out", "other")
    refused(fedkit(*line, "--set", "shar=1", cwd=work, **there), "did you mean 'share'?", codes=(2,))
    refused(fedkit(*line, "--set", "share=1", cwd=work, **there), "share=1.0 should be", codes=(2,))
    train = ("train", "trimmed", "--manifest", "data/mosaic")
    refused(fedkit(*train, "--set", "trimm=0", cwd=work, **there), "did you mean 'trim'?", codes=(2,))
    refused(fedkit(*train, "--set", "trim=0.7", cwd=work, **there), "trim=0.7 should be from 0", codes=(2,))


def test_records_name_the_package(work: Path) -> None:
    manifest = json.loads((work / "data/mosaic/manifest.json").read_text())
    assert manifest["writer"].items() >= VERSION.items()
    assert manifest["recipe"]["partition"] == {"name": "leader", "clients": 3, "share": 0.4}
    (run,) = (work / "runs").glob("trimmed-*")
    facts = json.loads((run / "config.json").read_text())
    assert facts["versions"].items() >= VERSION.items()
    assert facts["config"]["method_settings"]["trim"] == 0.4


def test_python_and_its_checks_run(work: Path, there: dict[str, str]) -> None:
    use, check = (block for block in blocks("python") if "fedtrain.train(" in block or "check_source(" in block)
    code = use + "print(len(split.indices), len(split.indices[0]), run.result.facts['versions'])\n" + check
    env = {**os.environ, **there}
    done = subprocess.run([sys.executable, "-c", code], cwd=work, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 20 {")
    assert "'fedkit-example': '0.1.0'" in done.stdout
    one, other = (json.loads((work / "data" / name / "manifest.json").read_text()) for name in ("mosaic", "again"))
    assert one == other


def test_an_experiment_takes_them(work: Path, there: dict[str, str]) -> None:
    done = fedkit("experiment", "trims.json", "--json", cwd=work, **there)
    assert done.returncode == 0, done.stderr
    runs = list((work / "experiments/trims/runs").glob("trimmed-*"))
    assert len(runs) == 2
    assert all(json.loads((run / "config.json").read_text())["versions"].items() >= VERSION.items() for run in runs)


def test_the_dataset_serves_where_the_package_is_absent(work: Path, tmp_path: Path) -> None:
    data = work / "data/mosaic"
    assert answer(fedkit("inspect", data, "--json"))["name"] == "mosaic"
    done = fedkit("verify", data)
    assert done.returncode == 0, done.stderr
    assert "partitioner 'leader' is not known here" in done.stdout
    line = ("--manifest", data, "--rounds", "1", "--set", "clip=tiny", "--out", tmp_path / "run")
    done = fedkit("train", "promptfl", *line)
    assert done.returncode == 0, done.stderr
    refused(fedkit("train", "trimmed", *line), "no method 'trimmed'", codes=(2,))
    done = fedkit("resplit", data, "--partition", "iid", "--out", tmp_path / "anew")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "anew/manifest.json").read_text())["writer"].items() >= VERSION.items()
    (run,) = (work / "runs").glob("trimmed-*")
    assert fedkit("verify", run).returncode == 0
