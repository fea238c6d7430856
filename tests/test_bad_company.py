"""Several builds at one place at once, and builds that are interrupted: one works, the others say so, bytes stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Command, contents, environment, refused, sampled
from small_builds import SAMPLE, output

from fedrsic_data import recipes
from fedrsic_data.build import pipeline, workspace
from fedrsic_data.errors import OutputError
from fedrsic_data.sources.locate import Places


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def long_build(out: Path) -> subprocess.Popen[str]:
    more = ["--set", "sample.per_class=400", "--set", "sample.size=64", "--clients", "50", "--out", str(out)]
    env = environment()
    words = [sys.executable, str(ROOT / "cli.py"), *SAMPLE, *more]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (a shell's background jobs ignore it)
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=env, preexec_fn=heard)


def test_control_c_in_the_middle(tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = long_build(out)
    until(lambda: list(tmp_path.glob("out.incomplete/**/*.parquet")))
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    errors = [line for line in errors.splitlines() if not line.endswith(" ...")]
    assert errors == ["error: interrupted; run the same command to resume"]
    assert child.returncode == 130
    assert not out.exists()
    assert out.with_name("out.incomplete").exists()


def test_two_builds_of_one_output_at_once(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = long_build(out)
    try:
        until(lambda: list(tmp_path.glob("out.incomplete/**/*.parquet")))
        child.send_signal(signal.SIGSTOP)
        refused(output(command, out), out, "another", codes=(1,))
    finally:
        child.send_signal(signal.SIGCONT)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)


def test_a_build_that_begins_while_another_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("sample.per_class=2", "clients=2")
    reference = contents(sampled(tmp_path / "ref", *sets).path)
    out, move, second = tmp_path / "in" / "out", os.replace, []

    def moving(source: Any, target: Any) -> None:
        if Path(target) == out and not second:
            second.append(None)
            try:
                sampled(out, *sets)
            except OutputError as error:
                second[0] = str(error)
        move(source, target)

    monkeypatch.setattr(workspace.os, "replace", moving)
    sampled(out, *sets)
    assert second
    assert second[0] is None or "another" in second[0]
    assert contents(out) == reference
    assert os.listdir(out.parent) == ["out"]


def test_two_builds_that_mend_one_dataset_at_once(tmp_path: Path, dataset: Path) -> None:
    reference = contents(dataset)
    for shard in (dataset / "fed-ucmerced").rglob("*.parquet"):
        shard.write_bytes(b"")
    data = recipes.override(
        recipes.load("fed-rsic"), subsets=["fed-ucmerced"], sample=True, sets=["sample.per_class=6", "sample.size=32"]
    )
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    failures: list[BaseException] = []

    def fix() -> None:
        try:
            pipeline.build(planned, dataset)
        except OutputError:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=fix) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert contents(dataset) == reference
