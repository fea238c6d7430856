"""Runs on a GPU: near those of the CPU, the same to the bit when they resume, in bfloat16 too."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from softmax_runs import final

from fedrsic_data.dataset.reader import Dataset
from fedtrain import run
from fedtrain.config import RunConfig, changed
from fedtrain.methods import METHODS
from fedtrain.methods.base import Context, State
from fedtrain.methods.networks.network import NetworkMethod

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

GPU = "cuda"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a GPU is first used
TRAINED = [name for name, method in METHODS.items() if method.rounds]
NETWORKS = [name for name, method in METHODS.items() if issubclass(method, NetworkMethod)]
FAST = {"epochs": 1, "batch": 8, "image_size": 64, "max_images": 5, "dropout": 0.0}
"""One step a client: Adam's are of equal size for every gradient, and rounding turns the sign of the smallest. Without
dropout, whose draws are those of the device."""

NEAR, NEAR_NETWORKS = 0.05, 0.2
"""Distance of what a round gives on a GPU and on a CPU, as a share of what it moves. On one CPU, two orders of the same
sums give up to 0.044 in a step of Adam on ResNet-18 and a transformer with random weights."""


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    """Convolutions in float32 proper, as on a CPU, and not in TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def known(name: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Those of settings that a method has."""
    names = {field.name for field in dataclasses.fields(METHODS[name].Settings)}
    return {key: value for key, value in wanted.items() if key in names}


def bound(data: Path, name: str, device: str, cache: Path, **more: Any) -> Any:
    """A method on the first subset of a dataset."""
    subset = Dataset(data)[0]
    rows = tuple(subset.client(client).rows("train") for client in subset.clients)
    context = Context(subset, subset.clients, rows, 0, torch.device(device), cache=cache)
    return METHODS[name](context, METHODS[name].Settings(**known(name, FAST | more)))


def rounds(method: Any, count: int = 1) -> tuple[State, dict[int, State], torch.Tensor]:
    """Rounds with the three largest clients: the server's state, theirs, and all numbers that came of it."""
    clients = sorted(sorted(range(len(method.context.rows)), key=lambda client: -method.context.rows[client])[:3])
    shared, own = method.shared(), {client: method.personal(client) for client in range(len(method.context.rows))}
    for round_ in range(1, count + 1):
        updates = []
        for client in clients:
            updates += method.train(method.sent_to(client, shared), [own[client]], [client], round_)
        shared = method.aggregate(shared, updates)
        own |= {update.client: update.personal for update in updates}
    found = [value.flatten().float().cpu() for state in (shared, *map(own.get, clients)) for value in state.values()]
    return shared, own, torch.cat(found)


def train(data: Path, name: str, out: Path, *, cache: Path | None = None, **more: Any) -> Path:
    """A run."""
    given = {"rounds": 1, "precision": "float32", "clip": "tiny", "splits": ["test"], "cohort": 8} | more
    given |= {"clients_per_round": 4, **{f"method.{key}": value for key, value in known(name, FAST).items()}}
    sets = [f"{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in given.items()]
    config = changed(RunConfig(name, str(data), Dataset(data).subsets[0]), sets, METHODS[name].Settings)
    return run.train(config, out, cache=cache).folder


@pytest.mark.parametrize("name", TRAINED)
def test_a_round_on_a_gpu_is_that_of_the_cpu(data: Path, name: str, tmp_path: Path) -> None:
    near, far = (bound(data, name, device, tmp_path) for device in ("cpu", GPU))
    start, (shared, own, there), (_, _, found) = rounds(near, 0)[2], rounds(near), rounds(far)
    assert (there - start).norm() > 0
    near_ = NEAR_NETWORKS if name in NETWORKS else NEAR
    assert (found - there).norm() < near_ * (there - start).norm()
    there_ = {name: value.to(GPU) for name, value in shared.items()}
    own_ = {client: {name: value.to(GPU) for name, value in state.items()} for client, state in own.items()}
    one = near.evaluate(shared, own.__getitem__, "test").metrics
    other = far.evaluate(there_, own_.__getitem__, "test").metrics
    assert one.keys() == other.keys()
    for metric, value in one.items():
        assert other[metric] == pytest.approx(value, abs=2, nan_ok=True), metric


@pytest.mark.parametrize("labels", ["coarse", "fine"])
@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_steps_are_the_plain_ones(data: Path, name: str, labels: str, tmp_path: Path) -> None:
    """To the bit, with dropout: its draws are the same too. A convolution's gradient differs from call to call without
    deterministic algorithms, and Adam enlarges that."""
    if labels == "fine" and Dataset(data)[0].entry.fine is None:
        pytest.skip("has no finer labels")
    more = {"dropout": 0.1, "labels": labels, "epochs": 2, "batch": 4, "lr": 0.002}
    methods = [bound(data, name, GPU, tmp_path, **more) for _ in range(2)]
    methods[0].recordable = False
    torch.use_deterministic_algorithms(True)
    try:
        (_, _, plain), (_, _, recorded) = (rounds(method, 2) for method in methods)
    finally:
        torch.use_deterministic_algorithms(False)
    assert methods[1].recordings > 1
    assert not methods[0].recordings
    assert torch.equal(plain, recorded)


@pytest.mark.parametrize("name", TRAINED)
def test_a_resumed_run_on_a_gpu_ends_in_the_same_bits(data: Path, name: str, tmp_path: Path) -> None:
    sets: dict[str, Any] = {"device": GPU, "deterministic": True, "cache": tmp_path / "cache"}
    whole = train(data, name, tmp_path / "whole", rounds=2, **sets)
    train(data, name, tmp_path / "parts", rounds=1, **sets)
    parts = train(data, name, tmp_path / "parts", rounds=2, **sets)
    assert final(parts)[2] == final(whole)[2]
    assert final(parts)[0]["figures"] == final(whole)[0]["figures"]


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_and_cohorts_on_a_gpu_give_finite_numbers(data: Path, name: str, tmp_path: Path) -> None:
    rounds = min(METHODS[name].rounds, 1)
    folder = train(data, name, tmp_path / "run", device=GPU, precision="auto", rounds=rounds)
    assert final(folder)[0]["counters"]["refused"] == 0
    found = final(folder)[0]["figures"]
    metric = "test/C-AP" if "test/C-AP" in found else "test/pooled"
    assert math.isfinite(found[metric])
