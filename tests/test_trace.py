"""The account of a run's time: phases without those within them, threads beside, arithmetic, and no other result."""

from __future__ import annotations

import json
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from small_backbone import small_backbone
from softmax_runs import final

from fedtrain import run, trace
from fedtrain.config import RunConfig, changed
from fedtrain.methods.fedlgt import FedLGT
from fedtrain.models import label_transformer
from fedtrain.report import html
from fedtrain.runs.folder import load
from fedtrain.runs.results import account

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever it is read."""
    ticks = count()
    monkeypatch.setattr(trace.time, "perf_counter", lambda: float(next(ticks)))


def test_phases_are_without_those_within_them(clock: None) -> None:
    with trace.traced(CPU) as found:
        with trace.phase("outer"):
            with trace.phase("inner"):
                pass
            with trace.phase("inner"):
                pass
        with trace.phase("outer"):
            pass
    assert found.seconds == {"inner": 2.0, "outer": 5.0 - 2.0 + 1.0, "other": 9.0 - 6.0}


def test_threads_have_their_own_account(clock: None) -> None:
    def beside() -> None:
        with trace.phase("decoding"):
            pass

    with trace.traced(CPU) as found, trace.phase("training"):
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
    assert found.beside == {"decoding": 1.0}
    assert found.seconds == {"training": 3.0, "other": 2.0}


def test_nothing_is_kept_of_what_is_not_traced() -> None:
    with trace.phase("training"):
        assert trace.step("key", 3, lambda: 7) == 7
    with trace.traced(CPU) as found:
        pass
    assert not found.images
    assert set(found.seconds) == {"other"}


def test_operations_are_counted_at_the_first_step_of_a_key_and_added_at_all() -> None:
    left, right = torch.ones(3, 4), torch.ones(4, 5)
    with trace.traced(CPU) as found:
        for _ in range(2):
            assert torch.equal(trace.step("product", 3, lambda: left @ right), left @ right)
        trace.step("other", 1, lambda: left[:1] @ right)
    assert found.operations == 2 * (2 * 3 * 4 * 5) + 2 * 4 * 5
    assert found.images == 7


def test_a_phase_that_fails_ends() -> None:
    with trace.traced(CPU) as found:
        with pytest.raises(ValueError, match="x"), trace.phase("training"):
            raise ValueError("x")
        with trace.phase("judging"):
            pass
    assert set(found.seconds) == {"training", "judging", "other"}


def train(data: Path, out: Path, **more: Any) -> Path:
    sets = ["rounds=2", "device=cpu", "clients_per_round=2", "method.epochs=1", "hidden=16", "layers=1", "heads=1"]
    config = changed(RunConfig("fedlgt", str(data), "fed-ucmerced"), [*sets, "max_images=2"], FedLGT.Settings)
    return run.train_all([config], out, **more)[0].folder


@pytest.mark.usefixtures("random_clip")
def test_a_profiled_run_has_the_same_results_and_says_where_its_time_went(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setattr(label_transformer, "backbone", small_backbone)
    plain, profiled = (train(sample_build, tmp_path / name, profile=name == "b") for name in ("a", "b"))
    found = json.loads((profiled / "result.json").read_text())["trace"]
    (one, *rest), (other, *others) = final(plain), final(profiled)
    assert other.pop("trace") == found
    assert (one, rest) == (other, others)
    assert found["rounds"] == 2
    expected = {"training", "optimiser", "guide", "aggregation", "judging", "checkpoint", "waiting for images", "other"}
    assert found["seconds"].keys() == expected
    assert found["beside"].keys() == {"reading", "decoding", "transfer"}
    assert found["images_per_second"] > 0
    assert 0 < found["share_of_matrix_rate"] < 1
    assert found["peak_host_bytes"] > 2**26
    assert not account(load(plain))
    texts = account(load(profiled))
    assert texts["training"].endswith("%)")
    assert "decoding, meanwhile" in texts
    page = html.page([profiled])
    tables = [block for section in page.sections for block in section.blocks if isinstance(block, html.Table)]
    (table,) = [table for table in tables if table.caption == "Time and memory"]
    assert [row[0] for row in table.numbers.rows] == list(texts)
    assert command("verify", profiled).returncode == 0
