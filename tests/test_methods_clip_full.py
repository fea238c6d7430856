"""``clip-full``: federated averaging of CLIP's image tower, or of all of it, beside PyTorch's own modules."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sampled
from prompt_federation import bind, plain_images, plain_words, same, small_clip
from torch.nn import functional

from fedrsic_data.dataset.reader import Dataset
from fedtrain import run
from fedtrain.config import RunConfig
from fedtrain.methods.base import State
from fedtrain.methods.clip_full import ClipFull, ClipFullSettings
from fedtrain.methods.prompts.cohort import Batch

small = pytest.mark.usefixtures("random_clip")
RATE = 1e-4


def parameters(method: Any, model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Those that are trained."""
    whole = method.settings.parts == "all"
    return [value for name, value in model.named_parameters() if whole or name.startswith("visual.")]


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def plain_loss(method: Any, model: Any, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of scale x cosine, by the model's own ``encode_image`` and ``encode_text``."""
    names = method.context.subset.classes
    text = plain_words(method, names, "a photo of a {}.")
    if method.settings.parts == "all":
        tokens = method.clip.tokenize([f"a photo of a {name.replace('_', ' ')}." for name in names])
        text = functional.normalize(model.encode_text(tokens), dim=-1)
    images = functional.normalize(model.encode_image(pixels), dim=-1)
    return functional.cross_entropy(model.logit_scale.exp() * images @ text.T, labels)


@small
@pytest.mark.parametrize("parts", ["image", "all"])
def test_a_client_trains_as_pytorch_trains_the_module(sample_build: Path, parts: str) -> None:
    method = bind(sample_build, "clip-full", parts=parts, lr=RATE, batch=4)
    client = max(range(len(method.context.rows)), key=method.context.rows.__getitem__)
    rows, shared = method.images.rows("train"), method.shared()
    model = copy.deepcopy(method.clip.model)
    learning = parameters(method, model)
    assert torch.equal(shared["parameters"], flat(learning))
    for value in learning:
        value.requires_grad_()
    table = method.plan(client, 1, 1).rows
    assert len(table) >= 3, "three steps, the last of which is not full"
    rule = torch.optim.AdamW(learning, RATE, weight_decay=0.1)
    clear, losses = torch.ones(len(shared["parameters"]), dtype=torch.bool), []
    for step, numbers in enumerate(table):
        part = numbers[numbers >= 0]
        pixels = method.clip.pixels(rows.images[part])
        rule.zero_grad()
        loss = plain_loss(method, model, pixels, rows.labels[part])
        loss.backward()
        grad = flat(torch.zeros_like(v) if v.grad is None else v.grad for v in learning)
        clear &= grad.abs() > 1e-6  # of gradients that are nothing but rounding, Adam takes the sign
        if not step:
            live = {"parameters": shared["parameters"][None].clone().requires_grad_()}
            batch = Batch(rows.images[part][None].float(), rows.labels[part][None], torch.full((1, 4), 1 / len(part)))
            ours = method.loss(live, batch, shared)
            assert float(ours[0]) == pytest.approx(float(loss), abs=1e-5)
            (found,) = torch.autograd.grad(ours.sum(), [live["parameters"]])
            assert torch.allclose(found[0], grad, rtol=1e-5, atol=1e-5 * max(1.0, float(grad.abs().max())))
        rule.step()
        losses.append(float(loss))
    (update,) = method.train(shared, [{}], [client], 1)
    wanted = flat(learning)
    assert clear[grad != 0].float().mean() > 0.9, "most weights that learn; those of other words do not"
    assert torch.allclose(update.shared["parameters"][clear], wanted[clear], rtol=0, atol=1e-5)
    moved = (wanted - shared["parameters"])[clear].abs()
    assert moved.mean() > RATE, "ten times the tolerance"
    assert (update.shared["parameters"] - wanted).abs().max() < 2.1 * RATE * len(table)
    assert update.loss == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert torch.equal(method.shared()["parameters"], shared["parameters"]), "the frozen CLIP is as it was"


@small
@pytest.mark.parametrize("parts", ["image", "all"])
def test_before_the_first_round_it_is_zero_shot_clip(sample_build: Path, parts: str) -> None:
    method, zero = bind(sample_build, "clip-full", parts=parts), bind(sample_build, "zeroshot")
    found = method.evaluate(method.shared(), method.personal, "test")
    wanted = zero.evaluate({}, zero.personal, "test")
    assert found.metrics == wanted.metrics
    assert found.clients["local"] == pytest.approx(wanted.clients["local"], nan_ok=True)


@small
@pytest.mark.parametrize("parts", ["image", "all"])
def test_clients_are_judged_with_the_tower_of_the_server(sample_build: Path, parts: str) -> None:
    method = bind(sample_build, "clip-full", parts=parts, lr=0.01)
    clients = list(range(len(method.context.rows)))
    server = method.shared()
    server = method.aggregate(server, method.train(server, [{} for _ in clients], clients, 1))
    model = copy.deepcopy(method.clip.model)
    torch.nn.utils.vector_to_parameters(server["parameters"], parameters(method, model))
    judge = dataclasses.replace(method.clip, model=model)
    method.clip, before = judge, method.clip
    names, hits, count = method.context.subset.classes, 0, 0
    text = judge.encode_texts([f"a photo of a {name.replace('_', ' ')}." for name in names])
    text = text if parts == "all" else before.encode_texts([f"a photo of a {n.replace('_', ' ')}." for n in names])
    for client in clients:
        images, labels = plain_images(method, client, "test")
        hits, count = hits + int(((images @ text.T).argmax(1) == labels).sum()), count + len(labels)
    method.clip = before
    assert method.evaluate(server, method.personal, "test").metrics["pooled"] == pytest.approx(100 * hits / count)


@small
def test_every_image_is_encoded_once_for_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = sampled(tmp_path / "novel", "clients=3", "sample.per_class=4", "base_to_novel=true").path
    method = bind(built, "clip-full")
    seen: list[int] = []
    encoded = ClipFull._encoded

    def counted(self: Any, weights: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        seen.extend(len(value) for name, value in given.items() if name == "image")
        return encoded(self, weights, **given)

    monkeypatch.setattr(ClipFull, "_encoded", counted)
    shared, rows = method.shared(), method.context.subset.entry.rows
    found = method.evaluate(shared, method.personal, "test")
    method.evaluate(shared, method.personal, "novel")
    assert sum(seen) == rows["test"] + rows["novel"]
    assert {"CM", "shared_novel"} <= found.metrics.keys()
    again = {name: value.clone() for name, value in shared.items()}
    assert method.evaluate(again, method.personal, "test").metrics == found.metrics


@small
def test_its_cost_is_said_before_training_and_counted(sample_build: Path, tmp_path: Path) -> None:
    subset = Dataset(sample_build).subset("fed-ucmerced")
    said: list[str] = []
    context = dataclasses.replace(bind(sample_build, "zeroshot").context, say=said.append, subset=subset)
    for parts in ("image", "all"):
        method = ClipFull(context, ClipFullSettings(parts=parts))
        count = sum(value.numel() for value in parameters(method, small_clip().model))
        assert any(
            f"trains and sends {count:,} floats ({4 * count / 1e6:,.1f} MB) per round" in words for words in said
        )
        config = RunConfig(
            "clip-full",
            str(sample_build),
            "fed-ucmerced",
            rounds=1,
            device="cpu",
            method_settings={"parts": parts, "shots": 1},
        )
        data = run.train(config, tmp_path / parts).data
        assert data["counters"]["client_floats"] == count


@small
def test_a_run_that_stops_goes_on_to_the_same(sample_build: Path, tmp_path: Path) -> None:
    def go(out: str, rounds: int) -> bytes:
        settings = {"lr": 1e-3, "shots": 2, "parts": "all"}
        config = RunConfig(
            "clip-full", str(sample_build), "fed-ucmerced", rounds=rounds, device="cpu", method_settings=settings
        )
        run.train(config, tmp_path / out)
        return (tmp_path / out / "metrics.jsonl").read_bytes()

    whole = go("whole", 2)
    go("parts", 1)
    assert go("parts", 2) == whole


@small
def test_templates_are_averaged_and_views_drawn(sample_build: Path) -> None:
    several = ("a photo of a {}.", "a centered satellite photo of {}.")
    settings = {"template": several, "views": 2, "shots": 1}
    image, whole = (bind(sample_build, "clip-full", parts=parts, **settings) for parts in ("image", "all"))
    shared = whole.shared()
    assert torch.allclose(whole.shared_text(shared, whole.base), image.base.fixed(several), rtol=0, atol=1e-5)
    (update,) = image.train(image.shared(), [{}], [0], 1)
    assert image.images.rows("train").images.shape[1] == 2
    assert not same(update.shared, image.shared())


@small
def test_on_multi_label_data_a_bias_learns_along(tmp_path: Path) -> None:
    from fedrsic_data import recipes
    from fedrsic_data.build import pipeline
    from fedrsic_data.sources.locate import Places

    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=32"])
    built = pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True)), tmp_path / "flair")
    method = bind(built.path, "clip-full", shots=1)
    shared: State = method.shared()
    client = max(range(len(method.context.rows)), key=method.context.rows.__getitem__)
    (update,) = method.train(shared, [{}], [client], 1)
    assert not torch.equal(update.shared["bias"], shared["bias"])
    assert 0 <= method.evaluate(update.shared, method.personal, "test").metrics["C-AP"] <= 100


def test_it_learns_with_the_tiny_clip(sample_build: Path, tmp_path: Path) -> None:
    settings = {"lr": 3e-4, "batch": 16}
    config = RunConfig("clip-full", str(sample_build), "fed-ucmerced", rounds=3, device="cpu", method_settings=settings)
    run.train(config, tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[2] < losses[0]
