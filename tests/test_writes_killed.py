"""What writes is killed at twenty moments: the next call completes it, byte for byte, and nothing else is touched.

Builds, and runs that replace others, are killed before every single change in ``test_interrupted`` and in
``test_train_checkpoint``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment, sampled
from test_derive_sites import flair

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["split_sites", "fedlgt", "published"])
def test_what_is_killed_at_any_moment_is_completed_by_the_next_call(tmp_path: Path, kind: str) -> None:
    if kind == "fedlgt":
        dataset = flair(tmp_path / "flair", "sample.users=10", "sample.size=64")
    else:
        dataset = sampled(tmp_path / "fed", "sample.per_class=2", "clients=3").path
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/helpers/kills.py"), kind, str(dataset)],
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["problems"] == []
    assert told["kills"] >= 20
