"""Whatever the Hub does: retried or one clear line, never half a dataset, and the next publish completes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hubfaults
import pytest
from conftest import ROOT, environment, sampled

FATAL = {
    "for ever": ("cannot be used", "500"),
    "429 for a day": ("429",),
    "401": ("log in with: hf auth login",),
    "403": ("your token has no permission", "write access"),
    "wrong token": ("log in with: hf auth login",),
    "reader's token": ("your token has no permission",),
    "tag for ever": ("cannot be used",),
    "upload for ever": ("cannot be used",),
}
CASES = (*hubfaults.FAULTS, "branch moved", "wrong token", "reader's token")


@pytest.fixture(scope="module")
def outcomes(sample_build: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of every case; the second dataset has other images under the first one's names, and fewer clients."""
    folder = tmp_path_factory.mktemp("faults")
    other = sampled(folder / "other", "sample.seed=5", "clients=8")
    env = environment(FEDKIT_CACHE=str(folder / "cache"))
    command = [sys.executable, str(ROOT / "tests/helpers/hubfaults.py"), str(sample_build), str(other.path)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "huggingface_hub is kept quiet"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_repository_is_never_broken(case: str, outcomes: dict[str, Any]) -> None:
    got = outcomes[case]
    assert got["broken"] == []
    assert got["whole"]
    assert got["tagged"]
    assert got["changed"] == [], "the same again changes nothing"


@pytest.mark.parametrize("case", [case for case in CASES if case not in FATAL])
def test_what_passes_is_tried_again(case: str, outcomes: dict[str, Any]) -> None:
    got = outcomes[case]
    assert got["error"] == ""
    assert got["waited"], "after a while"
    assert got["sent again"] == 0
    assert got["titles"].count("the second") == 1
    assert "the third" not in got["titles"]


@pytest.mark.parametrize("case", FATAL)
def test_what_stays_is_one_line(case: str, outcomes: dict[str, Any]) -> None:
    got = outcomes[case]
    assert got["error"].startswith("HubError: hf://me/")
    assert "\n" not in got["error"]
    for words in FATAL[case]:
        assert words in got["error"]
    assert "nobodynobody" not in got["error"]


def test_a_commit_is_not_made_twice_when_its_answer_is_lost(outcomes: dict[str, Any]) -> None:
    assert outcomes["dropped when done"]["commits"] == 1
    assert outcomes["dropped"]["commits"] == 2


def test_the_server_is_waited_for(outcomes: dict[str, Any]) -> None:
    assert 37 in outcomes["429"]["waited"]
    assert outcomes["429 for a day"]["waited"] == [], "nobody waits that long"
    assert outcomes["for ever"]["commits"] == 6
    assert outcomes["for ever"]["waited"] == [1, 2, 4, 8, 16]
    for case in ("401", "403"):
        assert outcomes[case]["commits"] == 1, "what a token may not do it may not a second later"


def test_bytes_are_sent_once(outcomes: dict[str, Any]) -> None:
    assert outcomes["500"]["uploads"] == outcomes["for ever"]["uploads"] > 10
    assert outcomes["for ever"]["sent again"] == 0, "they were there already, only the commit was missing"


def test_what_somebody_else_committed_stays(outcomes: dict[str, Any]) -> None:
    got = outcomes["branch moved"]
    assert got["kept"]
    assert got["commits"] == 2
    assert got["titles"] == ["initial commit", "the first", "elsewhere", "the second"]


def test_a_pull_request_is_not_opened_twice(outcomes: dict[str, Any]) -> None:
    got = outcomes["pull request lost"]
    assert "check whether it exists" in got["error"]
    assert got["pulls"] == 1
