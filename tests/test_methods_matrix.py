"""Every method trains on every recipe that comes with fedkit, or is refused for the reason in docs/methods.md.

The gate runs a part of the pairs; ``pytest -m "whole or not whole" tests/test_methods_matrix.py`` runs all.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_federation import CPU

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.errors import UsageError
from fedrsic_data.recipes.shipped import shipped
from fedrsic_data.sources.locate import Places
from fedtrain.methods import METHODS
from fedtrain.methods.base import Context
from fedtrain.methods.networks.network import NetworkMethod

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("random_clip")]

RECIPES = tuple(shipped())
SAMPLES = {
    "fed-rsic": "sample.per_class=4",
    "fedpgp-nwpu": "sample.per_class=40",
    "fed-rsic-multilabel": "sample.users=20",
    "flair-100": "sample.users=160",
    **dict.fromkeys(("caltech101", "dtd", "flowers102", "food101", "office-home", "oxford-pets"), "sample.per_class=5"),
    "fedtpg": "sample.per_class=5",
    **dict.fromkeys(("domainnet10", "eurosat", "office-caltech10", "pacs"), "sample.per_class=10"),
    "cifar10": "sample.per_class=40",
    "cifar100": "sample.per_class=10",
}
IN_THE_GATE = {"fed-rsic", "flair-100", "voc", "fedtpg", "promptfl", "fedavg"}
"""Recipes that the gate trains every method on, and methods that it trains on every recipe."""

PAIRS = [
    pytest.param(recipe, name, id=f"{recipe}-{name}", marks=() if {recipe, name} & IN_THE_GATE else pytest.mark.whole)
    for recipe in RECIPES
    for name in METHODS
]
NETWORK: dict[str, Any] = {"image_size": 64, "epochs": 1, "max_images": 2, "batch": 2}
SMALL = {"fedlgt": {"hidden": 32, "layers": 1}}


@pytest.fixture(scope="module")
def subsets(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Subset]:
    """All federations of a recipe, as a small sample."""
    sample = SAMPLES.get(request.param, "sample.users=60")
    data = recipes.override(recipes.load(request.param), sample=True, sets=[sample, "sample.size=32"])
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    dataset = Dataset(pipeline.build(planned, tmp_path_factory.mktemp("matrix") / request.param).path)
    return [dataset.subset(name) for name in dataset.subsets]


def settings(name: str) -> dict[str, Any]:
    """Those that make a step short."""
    if name in ("fedavg", "fedlgt"):
        return {**NETWORK, **SMALL.get(name, {})}
    known = {field.name for field in dataclasses.fields(METHODS[name].Settings)}
    return {key: value for key, value in {"length": 4, "epochs": 1, "shots": 2}.items() if key in known}


def bound(name: str, subset: Subset, cache: Path, **more: Any) -> Any:
    rows = tuple(subset.client(client).rows("train") for client in subset.clients)
    if name == "fedpgp":
        more = {"rank": 2, **more}
    context = Context(subset, subset.clients, rows, 0, CPU, cache=cache)
    return METHODS[name](context, METHODS[name].Settings(**settings(name), **more))


def refused(name: str, subset: Subset) -> bool:
    """Whether it has an output for each class and there are classes that it never trains on."""
    return bool(subset.entry.novel) and (issubclass(METHODS[name], NetworkMethod) or name == "linear-probe")


@pytest.mark.parametrize(("subsets", "name"), PAIRS, indirect=["subsets"])
def test_a_method_trains_on_every_federation_of_a_recipe(name: str, subsets: list[Subset], tmp_path: Path) -> None:
    """A round with its three largest clients; everything that comes of it is finite."""
    for subset in subsets:
        if refused(name, subset):
            with pytest.raises(UsageError, match="base_to_novel: a (network|probe) has outputs for the classes it was"):
                bound(name, subset, tmp_path)
            continue
        method = bound(name, subset, tmp_path)
        rows = method.context.rows
        clients = sorted(sorted(range(len(rows)), key=lambda client: -rows[client])[:3])
        shared, own = method.shared(), {client: method.personal(client) for client in range(len(rows))}
        if METHODS[name].rounds:
            parts = [clients] if method.sends_all_the_same else [[client] for client in clients]
            updates = [
                update
                for part in parts
                for update in method.train(method.received(part[0], shared), [own[client] for client in part], part, 1)
            ]
            own |= {update.client: update.personal for update in updates}
            assert all(math.isfinite(update.loss) for update in updates)
            after = method.aggregate(shared, updates)
            moved = {**after, **{f"own/{k}": v for k, v in own[clients[0]].items()}}
            before = {**shared, **{f"own/{k}": v for k, v in method.personal(clients[0]).items()}}
            assert any(not torch.equal(moved[key], before[key]) for key in moved)
            shared = after
        found = method.evaluate(shared, own.__getitem__, next(split for split in subset.splits if split != "train"))
        metric = "C-AP" if subset.entry.multi_label else "pooled"
        assert 0 <= found.metrics[metric] <= 100
        assert len(found.clients["local"]) == len(rows)


@pytest.mark.parametrize(("subsets", "name"), PAIRS, indirect=["subsets"])
def test_finer_labels_are_for_datasets_that_have_them(name: str, subsets: list[Subset], tmp_path: Path) -> None:
    for subset in subsets:
        if subset.entry.fine is None and not refused(name, subset):
            with pytest.raises(UsageError, match="labels=fine: .* has no finer labels; use labels=coarse"):
                bound(name, subset, tmp_path, labels="fine")
        elif subset.entry.fine is not None:
            classes = subset.entry.fine.classes
            method = bound(name, subset, tmp_path, labels="fine")
            assert tuple(method.base.names if hasattr(method, "base") else method.names) == classes
