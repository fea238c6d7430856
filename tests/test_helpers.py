"""The helpers of the tests can fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT, fedkit, refused
from small_builds import nothing


def test_helpers_are_honest(tmp_path: Path) -> None:
    """The checks above must be able to fail."""
    with pytest.raises(AssertionError):
        refused(fedkit("list"))
    (tmp_path / "out.incomplete").mkdir()
    with pytest.raises(AssertionError):
        nothing(tmp_path / "out")


def test_the_readme_names_every_helper() -> None:
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = {name for line in text.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line)}
    assert named == {path.stem for path in (ROOT / "tests" / "helpers").glob("*.py")}
