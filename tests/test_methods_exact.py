"""What is fast is exact: prompt methods beside their plain formulation, values and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_federation import (
    PROMPTS,
    bind,
    plain_folio,
    plain_images,
    plain_loss,
    plain_texts,
    plain_transport,
    plain_words,
    same,
    trained,
)
from torch.nn import functional

from fedtrain.methods.prompts.cohort import Batch, Sgd, descend, gather, schedule
from fedtrain.models import clip
from fedtrain.seeds import generator

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in PROMPTS),
    ("fedotp", {"eps": 0.02, "mass": 1.0, "std": 0.5}),
    ("fedprox", {"mu": 30.0}),
    ("fedpgp", {"anchor": "placeholder", "tau": 0.1, "mu": 3.0, "std": 0.5}),
    ("fedpgp", {"template": ("a photo of a {}.", "{} from above.")}),
    ("kgcoop", {"template": ("an image of {}.",)}),
    ("fedrsclip", {"combine": "concat", "dpa": "mse", "cma": "infonce", "dpa_weight": 40.0}),
    ("fedrsclip", {"combine": "add", "dpa": "kl", "dpa_weight": 5.0}),
    ("promptfolio", {"mix": 0.75}),
]
pytestmark = pytest.mark.usefixtures("random_clip")

IDS = ["-".join([name, *(str(v) for v in settings.values())]) for name, settings in VARIANTS]


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
def test_a_loss_and_its_gradients_are_those_of_the_plain_formulation(
    sample_build: Path, name: str, settings: dict[str, Any]
) -> None:
    """Speed-ups 1 to 5: cached features, short texts, fixed anchors and stacked clients, against none of them."""
    method = bind(sample_build, name, **settings)
    shared, clients = method.shared(), [2, 0, 5]
    rows = method.images.rows("train")
    draws = torch.Generator().manual_seed(1)
    moved = [
        {k: v + 0.1 * torch.randn(v.shape, generator=draws) for k, v in {**shared, **method.personal(c)}.items()}
        for c in clients
    ]
    tables = [torch.arange(rows.of(c).start, rows.of(c).stop) for c in clients]
    most = max(map(len, tables))
    padded = [torch.cat((t, torch.full((most - len(t),), -1)))[None] for t in tables]
    live = {k: torch.stack([state[k] for state in moved]).requires_grad_() for k in moved[0]}
    losses = method.loss(live, gather(padded, 0, rows.images, rows.labels), shared)
    grads = torch.autograd.grad(losses.sum(), list(live.values()))
    assert len({len(t) for t in tables}) > 1
    for i, client in enumerate(clients):
        state = {k: v.clone().requires_grad_() for k, v in moved[i].items()}
        loss = plain_loss(method, name, state, shared, *plain_images(method, client, "train"))
        assert torch.allclose(losses[i], loss, rtol=1e-5, atol=1e-5)
        for grad, wanted in zip(grads, torch.autograd.grad(loss, list(state.values())), strict=True):
            assert wanted.abs().max() > 1e-4
            assert torch.allclose(grad[i], wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("name", PROMPTS)
def test_a_round_is_that_of_training_each_client_plainly_with_an_optimiser_of_its_own(
    sample_build: Path, name: str
) -> None:
    method = bind(sample_build, name, lr=0.02, weight_decay=0.01, batch=4, epochs=2, shots=None)
    method.stack = 99
    clients = [3, 0, 7, 1]
    shared = method.shared()
    updates = list(method.train(shared, [method.personal(c) for c in clients], clients, 3))
    steps = set()
    for client, update in zip(clients, updates, strict=True):
        images, labels = plain_images(method, client, "train")
        start = {**shared, **method.personal(client)}
        state = {k: v.clone().requires_grad_() for k, v in start.items()}
        optimiser = torch.optim.SGD(state.values(), lr=0.02, momentum=0.9, weight_decay=0.01)
        draws, losses = generator(0, "batches", 3, client), []
        for _ in range(2):
            for part in torch.randperm(len(labels), generator=draws).split(4):
                loss = plain_loss(method, name, state, shared, images[part], labels[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
        assert update.rows == len(labels)
        assert update.loss == pytest.approx(sum(losses) / len(losses), abs=1e-4)
        found = {**update.shared, **update.personal}
        assert same(found, {k: v.detach() for k, v in state.items()}, 1e-5)
        assert not same(found, start, 1e-3)
        steps.add(len(losses))
    assert len(steps) >= 3, "clients of one size only"


@pytest.mark.parametrize("name", PROMPTS)
def test_a_cohort_is_the_same_as_runs_of_one_in_any_order(sample_build: Path, name: str) -> None:
    method = bind(sample_build, name, lr=0.05, batch=4)
    assert method.stack == 1, "a CPU gives the same bits whatever the cohort"
    shared, clients = method.shared(), [4, 9, 2, 6, 0]
    apart = list(method.train(shared, [method.personal(c) for c in clients], clients, 1))
    method.stack = 99
    together = list(method.train(shared, [method.personal(c) for c in clients], clients, 1))
    assert [update.client for update in together] == clients
    for update, alone in zip(together, apart, strict=True):
        (again,) = method.train(shared, [method.personal(update.client)], [update.client], 1)
        assert same(again.shared, alone.shared)
        assert same(again.personal, alone.personal)
        assert alone.client == update.client
        assert alone.rows == update.rows
        assert alone.loss == pytest.approx(update.loss, abs=1e-5)
        assert same(alone.shared, update.shared, 1e-6)
        assert same(alone.personal, update.personal, 1e-6)
    assert len({-(-update.rows // 4) for update in together}) >= 3


@pytest.mark.parametrize("name", ["kgcoop", "fedpgp"])
def test_anchors_are_encoded_once(sample_build: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed-up 4."""
    calls = []
    encode = clip.Clip.encode_texts
    monkeypatch.setattr(
        clip.Clip, "encode_texts", lambda self, texts: (calls.append(len(texts)), encode(self, texts))[1]
    )
    method = bind(sample_build, name)
    trained(method, 2)
    assert calls == [21]


def test_a_cohort_encodes_texts_once_a_step_whatever_its_size(
    sample_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Speed-up 5."""
    method = bind(sample_build, "promptfl", batch=4, epochs=1)
    method.stack = 99
    clients = [0, 1, 2, 3]
    most = max(-(-method.context.rows[c] // 4) for c in clients)
    stacks = []
    under = type(method.base).under
    monkeypatch.setattr(type(method.base), "under", lambda self, c: (stacks.append(len(c)), under(self, c))[1])
    list(method.train(method.shared(), [{}] * 4, clients, 1))
    assert len(stacks) == most
    assert sum(stacks) == sum(-(-method.context.rows[c] // 4) for c in clients)


@pytest.mark.parametrize("name", [*PROMPTS, "zeroshot"])
def test_an_evaluation_is_that_of_encoding_everything(sample_build: Path, name: str) -> None:
    """Speed-up 6: accuracy of every client, from its own images and texts."""
    method = bind(sample_build, name, **({} if name == "zeroshot" else {"lr": 0.1}))
    shared, own, _ = trained(method, 2)
    found = method.evaluate(shared, own, "test")
    names = method.context.subset.classes
    hits = rows = 0
    for client, accuracy in enumerate(found.clients["local"]):
        if not found.rows[client]:
            continue
        state, (images, labels) = {**shared, **own(client)}, plain_images(method, client, "test")
        if name == "zeroshot":
            logits = images @ plain_words(method, names, "a photo of a {}.").T
        elif name == "fedrsclip":
            logits = sum(images @ plain_texts(method, state[k], names).T for k in ("shared_prompt", "private_prompt"))
        elif name == "promptfolio":
            logits = plain_folio(method, state, images, names)
        elif name == "fedotp":
            logits = plain_transport(method, state, images, names)
        else:
            context = state["sigma"] + state["u"] @ state["v"] if name == "fedpgp" else state["context"]
            logits = images @ plain_texts(method, context, names).T
        right = int((logits.argmax(1) == labels).sum())
        assert accuracy == pytest.approx(100 * right / len(labels))
        hits, rows = hits + right, rows + len(labels)
    assert found.metrics["pooled"] == pytest.approx(100 * hits / rows)
    assert found.rows == method.images.rows("test").counts()


def test_an_epoch_is_a_permutation_and_its_last_batch_is_kept() -> None:
    rows = torch.tensor([10, 11, 12, 20, 21, 22, 23])
    table = schedule(rows, 3, 2, torch.Generator().manual_seed(0))
    assert table.shape == (6, 3)
    for epoch in table.split(3):
        assert sorted(epoch[epoch >= 0].tolist()) == rows.tolist()
        assert (epoch >= 0).sum(1).tolist() == [3, 3, 1]
    assert table[:3].tolist() != table[3:].tolist()


def test_a_batch_weighs_its_own_images_alone() -> None:
    images, labels = torch.eye(5), torch.arange(5)
    batch = gather([torch.tensor([[4, 2, 0]]), torch.tensor([[3, -1, -1]])], 0, images, labels)
    assert batch.labels.tolist() == [[4, 2, 0], [3, 3, 3]]
    assert torch.equal(batch.weight, torch.tensor([[1 / 3] * 3, [1, 0, 0]]))
    assert torch.equal(batch.mean(batch.labels.float()), torch.tensor([2.0, 3.0]))


def test_stacked_descent_is_torchs_sgd_for_each() -> None:
    steps, sgd = [5, 3, 3, 1], Sgd(0.1, 0.9, 0.05)
    start = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    target = torch.arange(24.0).reshape(4, 6) / 10
    state, losses = descend(
        {"x": start}, steps, lambda s, _: (s["x"] - target[: len(s["x"])]).pow(4).sum(1), lambda _: sgd
    )
    for i, count in enumerate(steps):
        x = start[i].clone().requires_grad_()
        optimiser, seen = torch.optim.SGD([x], 0.1, momentum=0.9, weight_decay=0.05), []
        for _ in range(count):
            optimiser.zero_grad()
            loss = (x - target[i]).pow(4).sum()
            loss.backward()
            optimiser.step()
            seen.append(loss.item())
        assert torch.allclose(state["x"][i], x, rtol=1e-5)
        assert losses[i].item() == pytest.approx(sum(seen) / count, rel=1e-5)


def test_cross_entropy_of_a_batch_is_a_mean_over_its_images(sample_build: Path) -> None:
    method = bind(sample_build, "promptfl")
    rows = method.images.rows("train")
    text = method.base.fixed("{}")
    batch = Batch(rows.images[:6].reshape(2, 3, -1), rows.labels[:6].reshape(2, 3), torch.full((2, 3), 1 / 3))
    wanted = functional.cross_entropy(method.clip.scale * rows.images[:6] @ text.T, rows.labels[:6])
    assert torch.allclose(method.label_loss(batch, text[None], {}).mean(), wanted)
