"""What docs/training.md says is so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from conftest import ROOT, sampled

from fedtrain import files
from fedtrain.config import NEUTRAL, RunConfig

TEXT = (ROOT / "docs" / "training.md").read_text()


def test_every_field_is_there_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", TEXT, flags=re.MULTILINE))
    fields = {f.name: f.default for f in dataclasses.fields(RunConfig)}
    for argument in ("method", "manifest", "subset", "method_settings"):
        del fields[argument]
    assert list(rows) == [*fields, "mean", "weighted", "worst_decile"]
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
