"""Methods that use most of the hooks: they train, resume exactly and learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import contents, sampled
from prompt_federation import bind, same

from fedtrain import run
from fedtrain.methods import METHODS
from fedtrain.runs.files import CHECKPOINT
from fedtrain.runs.folder import Result
from fedtrain.runs.state import load_state

KINDS = ("fedotp", "fedtpg", "pfedmoap")
SETS = ("epochs=1", "device=cpu", "batch=8")
RATES = {"pfedmoap": ("lr=0.02", "gate_lr=0.1"), "fedotp": ("lr=0.05",), "fedtpg": ("lr=0.05", "shots=16")}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four clients."""
    return sampled(tmp_path_factory.mktemp("examples") / "fed", "clients=4", "sample.per_class=12").path


def train(method: str, dataset: Path, out: Path, *sets: str, **more: Any) -> Result:
    (config,) = run.configs(method, dataset, ["fed-ucmerced"], [*SETS, *RATES[method], *sets])
    return run.train(config, out, cache=dataset.parent / "cache", **more)


@pytest.mark.parametrize("method", KINDS)
def test_it_learns(small: Path, tmp_path: Path, method: str) -> None:
    start = train(method, small, tmp_path / "start", "rounds=0").data["figures"]
    done = train(method, small, tmp_path / "done", "rounds=5")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "done/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert done.data["figures"]["test/local/mean"] > start["test/local/mean"]
    assert done.data["counters"]["refused"] == 0


@pytest.mark.parametrize("method", KINDS)
def test_a_run_that_was_killed_resumes_to_the_bit(
    small: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(method, small, tmp_path / "whole", "rounds=3", "clients_per_round=3")
    evaluate, judged = METHODS[method].evaluate, []

    def killed(self: Any, *given: Any) -> Any:
        judged.append(1)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return evaluate(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(METHODS[method], "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(method, small, tmp_path / "again", "rounds=3", "clients_per_round=3")
    again = train(method, small, tmp_path / "again", "rounds=3", "clients_per_round=3")
    assert again.data["figures"] == whole.data["figures"]
    assert contents(tmp_path / "again" / CHECKPOINT) == contents(tmp_path / "whole" / CHECKPOINT)


@pytest.mark.parametrize("method", ["fedotp", "fedtpg"])
def test_clients_in_a_stack_train_as_alone(small: Path, method: str) -> None:
    """As on a GPU, where a cohort steps as one graph."""
    found = []
    for stack in (1, 4):
        bound = bind(small, method, epochs=1, lr=0.05, batch=8)
        bound.stack = stack
        own = [bound.personal(client) for client in range(4)]
        found.append(list(bound.train(bound.shared(), own, range(4), 1)))
    for alone, together in zip(*found, strict=True):
        assert together.loss == pytest.approx(alone.loss, abs=1e-4)
        assert same(alone.shared, together.shared, 1e-5)
        assert same(alone.personal, together.personal, 1e-5)


def test_a_pool_sends_each_client_the_nearest_prompts_of_others(small: Path, tmp_path: Path) -> None:
    train("pfedmoap", small, tmp_path / "run", "rounds=2", "clients_per_round=3", "experts=2", "length=4")
    server = load_state(tmp_path / "run" / CHECKPOINT / "state.safetensors", torch.device("cpu"))[0]
    assert set(server) == {"context", "pool", "held"}
    assert server["pool"].shape == (4, 4, 128)
    there = server["held"].nonzero()[:, 0].tolist()
    assert len(there) >= 3
    method = METHODS["pfedmoap"].__new__(METHODS["pfedmoap"])
    method.settings = METHODS["pfedmoap"].Settings(experts=2)
    for client in range(4):
        (sent,) = [method.sent_to(client, server)["experts"]]
        if client not in there:
            assert len(sent) == 0
            continue
        away = {k: float((server["pool"][k] - server["pool"][client]).norm()) for k in there if k != client}
        assert torch.equal(sent, server["pool"][[min(away, key=away.__getitem__)]])


def test_a_client_sends_its_prompt_alone(small: Path, tmp_path: Path) -> None:
    counters = train("pfedmoap", small, tmp_path / "run", "rounds=2", "length=4").data["counters"]
    assert counters["client_floats"] == 4 * 128  # neither experts nor gate
    assert counters["updates"] == 8
