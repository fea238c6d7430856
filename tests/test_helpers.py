"""The helpers of the tests can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import fedkit, refused
from small_builds import nothing


def test_helpers_are_honest(tmp_path: Path) -> None:
    """The checks above must be able to fail."""
    with pytest.raises(AssertionError):
        refused(fedkit("list"))
    (tmp_path / "out.incomplete").mkdir()
    with pytest.raises(AssertionError):
        nothing(tmp_path / "out")
