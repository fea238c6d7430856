"""Networks on single-label data, unknown labels in their losses, and a held-out domain apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sampled
from prompt_federation import bind
from torch.nn import functional

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.errors import UsageError
from fedrsic_data.sources.locate import Places
from fedtrain.methods.fedlgt import states_of
from fedtrain.methods.networks.album import normalised

pytestmark = pytest.mark.usefixtures("random_clip")

TINY: dict[str, Any] = {"epochs": 1, "max_images": 4, "image_size": 64, "batch": 4, "flip": False}
LGT: dict[str, Any] = {"hidden": 32, "layers": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of ten users, of which half the training labels are unknown."""
    sets = ["sample.users=10", "sample.size=32", "hidden_labels.share=0.5"]
    data = recipes.override(recipes.load("flair"), sample=True, sets=sets)
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    return pipeline.build(planned, tmp_path_factory.mktemp("hidden") / "flair").path


def most(method: Any) -> int:
    """The client with the most training rows."""
    return max(range(len(method.context.rows)), key=lambda client: method.context.rows[client])


@pytest.mark.parametrize("name", ["fedavg", "fedlgt"])
def test_a_network_trains_on_single_label_data_and_is_judged_by_its_surest_class(sample_build: Path, name: str) -> None:
    method = bind(sample_build, name, **TINY, **(LGT if name == "fedlgt" else {}))
    shared, client = method.shared(), most(method)
    pictures = method.pictures(client, 1)
    assert pictures.targets.sum(1).tolist() == [1] * len(pictures.targets)
    (update,) = method.train(shared, [{}], [client], 1)
    found = method.evaluate(update.shared, lambda _: {}, "test")
    scores = method.scores(update.shared, lambda _: {}, "test")
    right = scores["scores"].argmax(1) == scores["targets"].float().argmax(1)
    assert found.metrics["pooled"] == found.metrics["shared"] == pytest.approx(100 * float(right.double().mean()))
    for number, value in enumerate(found.clients["local"]):
        mine = right[scores["owner"] == number]
        assert value == pytest.approx(100 * float(mine.double().mean()), nan_ok=True)
    assert {"C-AP", "O-AP", "AP/agricultural"} <= found.metrics.keys()
    assert "C-F1" not in found.metrics
    assert found.over == {"pooled": len(right), "shared": len(right)}


@pytest.mark.parametrize(("loss", "one_class"), [("auto", True), ("cross_entropy", True), ("bce", False)])
def test_the_plain_networks_loss_is_that_of_the_data(sample_build: Path, loss: str, one_class: bool) -> None:
    method = bind(sample_build, "fedavg", loss=loss, **TINY)
    shared, client = method.shared(), most(method)
    pictures = method.pictures(client, 1)
    method.flat.load(shared)
    step = method.loss(client, pictures, shared, 1)
    images, rows = normalised(pictures.images), torch.arange(len(pictures.owner))
    logits = method.module(images)
    if one_class:
        wanted = functional.cross_entropy(logits, pictures.targets.float().argmax(1), reduction="sum")
        assert torch.allclose(method.probabilities(logits).sum(1), torch.ones(len(rows)))
    else:
        wanted = functional.binary_cross_entropy_with_logits(logits, pictures.targets.float(), reduction="sum")
    assert torch.allclose(step(images, pictures.targets, rows, 0), wanted, rtol=1e-5)


def test_the_class_of_an_image_is_never_shown_to_fedlgt(sample_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it were known, there would be nothing to learn."""
    for mask, shown in (("auto", False), ("negatives", False), ("all", True)):
        method = bind(sample_build, "fedlgt", mask=mask, **TINY, **LGT)
        shared, seen = method.shared(), list[torch.Tensor]()
        pictures = method.album.client(most(method))
        step = method.loss(most(method), pictures, shared, 1)

        def states(targets: torch.Tensor, known: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(known)
            return states_of(targets, known)

        monkeypatch.setattr("fedtrain.methods.fedlgt.states_of", states)
        for epoch in range(4):
            step(normalised(pictures.images), pictures.targets, torch.arange(len(pictures.owner)), epoch)
        known = torch.stack(seen).any(dim=0)
        assert (known & ~pictures.targets).any(), "other classes are shown"
        assert bool((known & pictures.targets).any()) == shown, mask


def test_one_class_is_not_the_loss_of_several(hidden: Path) -> None:
    with pytest.raises(UsageError, match="loss=cross_entropy: flair is multi-label; use loss=bce"):
        bind(hidden, "fedavg", loss="cross_entropy", **TINY)


def test_a_network_has_no_outputs_for_novel_classes(tmp_path: Path) -> None:
    built = sampled(tmp_path / "fed", "sample.per_class=5", "clients=2", "base_to_novel=true").path
    with pytest.raises(UsageError, match="base_to_novel: .*; use a prompt method"):
        bind(built, "fedavg", **TINY)


@pytest.mark.parametrize("name", ["fedavg", "fedlgt"])
@pytest.mark.parametrize("labels", ["coarse", "fine"])
def test_the_value_of_an_unknown_label_changes_no_gradient_of_a_network(hidden: Path, name: str, labels: str) -> None:
    method = bind(hidden, name, labels=labels, **TINY, **(LGT if name == "fedlgt" else {}))
    client = most(method)
    pictures = method.album.client(client)
    unknown = pictures.unknown
    assert unknown is not None
    assert 0.2 < float(unknown.float().mean()) < 0.8
    assert not (pictures.targets & unknown).any(), "shards hold no unknown label"
    told = dataclasses.replace(pictures, targets=pictures.targets | unknown)
    gradients = []
    for held in (pictures, told):
        shared = method.shared()
        method.flat.load(shared)
        step = method.loss(client, held, shared, 1)
        method.flat.parameters.grad.zero_()
        step(normalised(held.images), held.targets, torch.arange(len(held.owner)), 0).backward()
        gradients.append(method.flat.parameters.grad.clone())
    assert gradients[0].abs().max() > 0
    assert torch.equal(*gradients)
    known = dataclasses.replace(pictures, targets=pictures.targets ^ ~unknown)
    step = method.loss(client, known, method.shared(), 1)
    method.flat.parameters.grad.zero_()
    step(normalised(known.images), known.targets, torch.arange(len(known.owner)), 0).backward()
    assert not torch.equal(method.flat.parameters.grad, gradients[0]), "known labels count"


@pytest.mark.parametrize("labels", ["coarse", "fine"])
def test_prompts_see_unknown_labels_as_unknown(hidden: Path, labels: str) -> None:
    method = bind(hidden, "promptfl", labels=labels)
    states, entry = method.images.rows("train").labels, method.context.subset.entry
    assert set(states.unique().tolist()) == {-1, 0, 1}
    if labels == "coarse":
        assert (states < 0).sum(0).tolist() == list(entry.unknown)
        assert (states == 1).sum(0).tolist() == list(entry.train_counts)
    assert set(method.images.rows("test").labels.unique().tolist()) == {0, 1}
    (update,) = method.train(method.shared(), [{}], [most(method)], 1)
    assert torch.isfinite(update.shared["context"]).all()


def test_a_network_trains_on_no_row_of_a_held_out_domain(tmp_path: Path) -> None:
    sets = ["sample.per_class=2", "domain_mix=0.0", "clients=3", "splits.test=0.5"]
    built = sampled(tmp_path / "fed", *sets, subset="fed-domains").path
    subset = bind(built, "fedavg", **TINY).context.subset
    domain = sorted(set(subset.read("train", ["domain"]).column("domain").to_pylist()))[0]
    method = bind(built, "fedavg", held_out=domain, **TINY)
    everything = bind(built, "fedavg", **TINY)
    for client, rows in enumerate(method.context.rows):
        assert len(method.album.client(client).owner) == rows
    apart = sum(len(part.owner) for part in method.album.split("test", held_out=True))
    rest = sum(len(part.owner) for part in method.album.split("test"))
    assert apart > 0
    assert apart + rest == sum(len(part.owner) for part in everything.album.split("test"))
    found = method.evaluate(method.shared(), lambda _: {}, "test")
    assert sum(found.rows) == rest
    assert {"held_out", "held_out/C-AP", "pooled"} <= found.metrics.keys()
