"""Runs on a GPU: near those of the CPU, the same to the bit when they resume, in bfloat16 too."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from softmax_runs import final

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.sources.locate import Places
from fedtrain import run
from fedtrain.config import RunConfig, changed
from fedtrain.methods import METHODS
from fedtrain.runs.files import CHECKPOINT, STATE
from fedtrain.runs.state import load_state

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

GPU = "cuda"
TRAINED = [name for name, method in METHODS.items() if method.rounds]
FAST = {"epochs": 2, "batch": 4, "image_size": 64, "lr": 0.002, "max_images": 5, "dropout": 0.0}
"""Without dropout, whose draws are those of the device."""

NEAR = 0.02
"""Distance of what a round gives on a GPU and on a CPU, as a share of what it moves: sums are rounded in another order,
and Adam divides by the size of gradients however small they are."""


@pytest.fixture(scope="module", params=["single-label", "multi-label"])
def data(request: pytest.FixtureRequest, sample_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sample of either kind."""
    if request.param == "single-label":
        return sample_build
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=32"])
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    return pipeline.build(planned, tmp_path_factory.mktemp("flair") / "flair").path


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    """Convolutions in float32 proper, as on a CPU, and not in TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def train(data: Path, name: str, out: Path, *, cache: Path | None = None, **more: Any) -> Path:
    """A run; settings that the method does not have are left out."""
    kind = METHODS[name].Settings
    known = {field.name for field in dataclasses.fields(kind)}
    given = {
        "rounds": 1,
        "precision": "float32",
        "clip": "tiny",
        "splits": ["test"],
        "cohort": 8,
        "clients_per_round": 4,
    } | more
    given |= {f"method.{key}": value for key, value in FAST.items() if key in known}
    sets = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in given.items()]
    sets = [text.replace("'", '"') for text in sets]
    config = changed(RunConfig(name, str(data), Dataset(data).subsets[0]), sets, kind)
    return run.train(config, out, cache=cache).folder


def tensors(folder: Path) -> torch.Tensor:
    """Every number that a run ends with, of the server and of all clients, float32."""
    found = [folder / CHECKPOINT / STATE, *sorted((folder / CHECKPOINT).rglob("client-*.safetensors"))]
    states = [load_state(path, torch.device("cpu"))[0] for path in found]
    return torch.cat([value.flatten().float() for state in states for value in state.values()])


@pytest.mark.parametrize("name", TRAINED)
def test_a_round_on_a_gpu_is_that_of_the_cpu(data: Path, name: str, tmp_path: Path) -> None:
    start, near, far = (
        train(data, name, tmp_path / out, device=device, cache=tmp_path / "cache", rounds=rounds)
        for out, device, rounds in (("start", "cpu", 0), ("near", "cpu", 1), ("far", GPU, 1))
    )
    if (start / CHECKPOINT / STATE).exists() and len(tensors(start)) == len(tensors(near)):
        moved = (tensors(near) - tensors(start)).norm()
        assert (tensors(far) - tensors(near)).norm() < NEAR * moved
    one, other = (final(folder)[0]["figures"] for folder in (near, far))
    assert one.keys() == other.keys()
    for metric, value in one.items():
        assert other[metric] == pytest.approx(value, abs=3), metric


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
