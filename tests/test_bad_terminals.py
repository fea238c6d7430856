"""Standard streams that are closed or full, terminals that know few letters, folders that are gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command, Done, environment, refused
from small_builds import SAMPLE, output

from fedrsic_data.build.verify import verify


def piped(arguments: str, redirect: str, cwd: Path, **env: str) -> Done[str]:
    """As a shell runs it."""
    line = f"{sys.executable} {ROOT / 'cli.py'} {arguments} {redirect}"
    env = environment(**env)
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, cwd=cwd, env=env, check=False
    )


@pytest.mark.parametrize("arguments", ["list", "list --json", "verify --json ."])
def test_a_reader_that_goes_away(sample_build: Path, arguments: str) -> None:
    done = piped(arguments, "| true", sample_build)
    assert done.stderr == ""
    assert done.returncode in (0, 1)
    assert piped(arguments, "| head -1", sample_build).stderr == ""


@pytest.mark.parametrize("arguments", ["list", "verify ."])
def test_a_closed_standard_output(sample_build: Path, arguments: str) -> None:
    done = piped(arguments, ">&-", sample_build)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", ["list", "list --json"])
def test_a_full_standard_output(sample_build: Path, arguments: str) -> None:
    refused(piped(arguments, "> /dev/full", sample_build), codes=(1,))


def test_a_closed_standard_error(tmp_path: Path) -> None:
    done = piped(" ".join(SAMPLE) + " --json --out out", "2>&-", tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)
    assert verify(tmp_path / "out")[1] == []
    done = piped("verify nothing", "2>&-", tmp_path)
    assert done.returncode in (1, 2)
    assert done.stdout == "", "errors do not belong on the standard output"


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"TERM": "dumb", "NO_COLOR": "1"}])
def test_terminals_that_know_few_letters(sample_build: Path, env: dict[str, Any]) -> None:
    done = piped("inspect .", "", sample_build, **env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    cli = f"{sys.executable} {ROOT / 'cli.py'}"
    line = f"cd gone && rmdir ../gone && {cli} {' '.join(SAMPLE)}"
    env = environment()
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    refused(done, codes=(1, 2))


def test_nobody_is_at_home(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FEDKIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert output(command, tmp_path / "out").returncode == 0, "a sample needs no cache"
    refused(command("build", "fed-rsic", "--subset", "fed-ucmerced", "--out", tmp_path / "two"), "FEDKIT_CACHE")
