"""What docs/training.md says is so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from conftest import ROOT, sampled

from fedtrain import run
from fedtrain.config import NEUTRAL, RunConfig
from fedtrain.runs import files

TEXT = (ROOT / "docs" / "training.md").read_text()
FIGURES = (
    *("local", "pooled", "shared", "neighbour", "base", "novel", "shared_novel"),
    *("hm_base_novel", "hm_local_base_novel", "mean_client_hm", "CM", "held_out", "held_out_local"),
)


def test_every_field_is_there_with_its_default() -> None:
    rows: dict[str, str] = {}
    for name, words in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", TEXT, flags=re.MULTILINE):
        rows.setdefault(name, words)
    fields = {f.name: f.default for f in dataclasses.fields(RunConfig)}
    for argument in (
        "method",
        "manifest",
        "subset",
        "method_settings",
        "dp",
        "flower",
    ):  # docs/distributed.md has the last
        del fields[argument]
    assert list(rows)[: len(fields)] == list(fields)
    figures = [name for name in FIGURES if name not in fields]  # held_out and neighbour are both
    assert list(rows)[len(fields) :] == [*figures, "mean", "weighted", "worst_decile", "std"]
    for name, default in fields.items():
        if default not in (None, ()):
            assert rows[name].strip("`") == (str(default).lower() if isinstance(default, bool) else str(default))


def test_what_may_differ_when_resuming() -> None:
    (said,) = re.findall(r"differ when resuming: (.*?)\.\n", TEXT, flags=re.DOTALL)
    assert re.findall(r"`(\w+)`", said) == list(NEUTRAL)


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sampled(tmp_path / "data" / "fed-rsic", "clients=3", "sample.per_class=2")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    assert "test/local/mean" in names["figures"]  # type: ignore[operator]
    there = {p.name for p in (tmp_path / "runs/zeroshot").iterdir()} - {".lock"}
    assert there == {files.CONFIG, files.METRICS, files.CHECKPOINT, files.RESULT}
    for name in there:
        assert f"`{name}" in TEXT


@pytest.mark.slow
def test_every_figure_of_a_run_is_explained(tmp_path: Path) -> None:
    """Base-to-novel gives all that methods on CLIP have but for a held-out domain's."""
    built = sampled(tmp_path / "fed", "clients=2", "sample.per_class=4", "base_to_novel=true").path
    sets = ["rounds=0", "device=cpu", "neighbour=true", 'splits=["test"]']
    (config,) = run.configs("promptfl", built, ["fed-ucmerced"], sets)
    found = set(run.train(config, tmp_path / "novel").data["figures"])
    names = {name.removeprefix("test/").partition("/")[0] for name in found}
    assert names == set(FIGURES) - {"held_out", "held_out_local"}
