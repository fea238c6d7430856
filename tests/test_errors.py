"""Errors of the system, as fedkit reports them."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedrsic_data.errors import OutputError, SourceError, UsageError, translated


def test_a_path_gives_way_to_the_file_that_the_system_names(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    words = rf"^{gone}: cannot be read \(No such file or directory\)$"
    with pytest.raises(SourceError, match=words) as caught, translated(SourceError, tmp_path):
        gone.read_bytes()
    assert caught.value.__suppress_context__  # one line, and no chain behind it


def test_a_text_always_begins_the_line(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"^--out x: cannot be written \(No such file or directory\); choose another$"),
        translated(OutputError, "--out x", "cannot be written", "choose another"),
    ):
        (tmp_path / "gone").read_bytes()


def test_errors_of_fedkit_pass_and_those_of_parsers_are_damage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="^as it was$"), translated(SourceError, tmp_path, also=(ValueError,)):
        raise UsageError("as it was")
    words = rf"^{tmp_path}: cannot be read \(no number\)$"
    with pytest.raises(SourceError, match=words), translated(SourceError, tmp_path, also=(ValueError,)):
        raise ValueError("no\n number")
    with pytest.raises(KeyError), translated(SourceError, tmp_path, also=(ValueError,)):
        raise KeyError
