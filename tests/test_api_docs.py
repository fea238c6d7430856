"""The pages on Python and on experiments: every block runs, in the order of the page."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from fedrsic_data.partition import PARTITIONERS
from fedrsic_data.settings import decode
from fedtrain.experiments import run, spec
from fedtrain.experiments.spec import Experiment


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_on_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    try:
        for block in blocks("python.md", "python"):
            small = block.replace("sample=True,", "sample=True, **{'sample.per_class': 4, 'sample.size': 32},")
            exec(compile(small, "python.md", "exec", dont_inherit=True), names)
    finally:
        PARTITIONERS.pop("halves", None)
    assert len(names["split"].indices) == 20  # type: ignore[attr-defined]
    assert (tmp_path / "runs/first/result.json").is_file()
    owner = names["halves"].owner  # type: ignore[attr-defined]
    assert np.array_equal(owner >= 3, np.arange(400) % 5 % 2 == 1)


def test_the_experiment_of_its_page_is_planned(tmp_path: Path) -> None:
    (text,) = blocks("experiments.md", "json")
    experiment = decode(Experiment, json.loads(text), "docs")
    datasets, runs = run.planned(experiment, tmp_path)
    assert (len(datasets), len(runs)) == (2, 2 * 3 * 3)


def test_the_experiment_of_its_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = blocks("experiments.md", "json")
    small = json.loads(text) | {"set": {"rounds": 1}, "seeds": [0], "methods": ["local", "promptfl"]}
    small["datasets"][0]["set"] = {"alpha": [0.1], "clients": 2, "sample.per_class": 4, "sample.size": 32}
    (tmp_path / "alpha.json").write_text(json.dumps(small))
    (code,) = blocks("experiments.md", "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert not names["done"].failed  # type: ignore[attr-defined]
    (commands,) = blocks("experiments.md", "bash")
    for line in commands.splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "fedkit"
        done = subprocess.run([sys.executable, ROOT / "cli.py", *words[1:]], capture_output=True, text=True)
        assert not done.returncode, done.stderr
    assert done.stdout.startswith("\\begin{tabular}")
    assert "run 2 of 2" in done.stderr


def test_the_page_on_experiments_names_those_that_come_with_fedkit(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    counted = {name: int(count) for name, count in re.findall(r"^\| `([a-z0-9-]+)` \| (\d+) \|", page, re.MULTILINE)}
    assert counted == {name: len(run.planned(spec.load(name), tmp_path)[1]) for name in spec.shipped()}
