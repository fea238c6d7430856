"""Prompt methods on multi-label data: losses, gradients, rounds and metrics beside a plain formulation."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prompt_federation import (
    PROMPTS,
    bind,
    plain_folio,
    plain_image,
    plain_pair,
    plain_texts,
    plain_transport,
    plain_words,
    same,
    trained,
)
from sklearn.metrics import average_precision_score
from torch.nn import functional

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.errors import UsageError
from fedrsic_data.sources.locate import Places
from fedtrain.methods.base import State
from fedtrain.methods.labels import MultiLabel, SingleLabel
from fedtrain.methods.prompts.cohort import gather
from fedtrain.seeds import generator

pytestmark = pytest.mark.usefixtures("random_clip")

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in PROMPTS),
    *((name, {"score": "pair"}) for name in PROMPTS),
    ("promptfl", {"loss": "bce"}),
    ("promptfl", {"labels": "fine"}),
    ("promptfl", {"gamma_neg": 0.0, "gamma_pos": 0.0, "shift": 0.0}),
    ("fedprox", {"mu": 30.0}),
    ("fedpgp", {"score": "pair", "loss": "bce", "mu": 3.0}),
    ("fedrsclip", {"combine": "concat", "dpa": "mse", "cma": "infonce"}),
    ("fedrsclip", {"combine": "add", "dpa": "kl", "score": "pair"}),
    ("fedrsclip", {"dpa": "kl"}),
]
IDS = ["-".join([name, *(f"{k}={v}" for k, v in settings.items())]) for name, settings in VARIANTS]


@pytest.fixture(scope="module")
def flair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of ten users."""
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=32"])
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    return pipeline.build(planned, tmp_path_factory.mktemp("flair") / "flair").path


def hide(method: Any) -> torch.Tensor:
    """Marks a third of the training labels as unknown; returns the states int8 ``[N, L]`` of all rows."""
    labels = method.images.rows("train").labels
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) < 1 / 3] = -1
    return labels


def names_of(method: Any) -> Sequence[str]:
    entry = method.context.subset.entry
    return entry.fine.classes if method.settings.labels == "fine" else entry.classes


def plain_images(method: Any, client: int, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and truth bool ``[n, L]`` of a client's rows, from the bytes of its shard."""
    subset = method.context.subset
    column = "fine_labels" if getattr(method.settings, "labels", "coarse") == "fine" else "labels"
    rows = subset.client(subset.clients[client]).read(split).to_pylist()
    features, truth = [], torch.zeros(len(rows), len(method.base), dtype=torch.bool)
    for i, row in enumerate(rows):
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        features.append(plain_image(method, pixels))
        truth[i, row[column]] = True
    return torch.stack(features), truth


def _labels(s: Any) -> Any:
    """The loss of an image's logits ``[L]``, of its states ``[L]``: label by label."""

    def one(logit: torch.Tensor, there: int) -> torch.Tensor:
        p = torch.sigmoid(logit)
        if s.loss == "bce":
            return -(p.log() if there else (1 - p).log())
        if there:
            return -((1 - p).detach() ** s.gamma_pos) * p.log()
        q = torch.minimum(1 - p + s.shift, torch.ones(()))
        return -((1 - q).detach() ** s.gamma_neg) * q.log()

    def image(logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        pairs = zip(logits, states.tolist(), strict=True)
        return sum((one(logit, there) for logit, there in pairs if there >= 0), torch.zeros(()))

    return image


def _among_known(logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """The logarithm of each label's share of exp(logit) over the labels whose state is known, image by image."""
    pairs = zip(logits, states, strict=True)
    return torch.stack([row - row[state >= 0].exp().sum().log() if (state >= 0).any() else row for row, state in pairs])


def plain_loss(
    method: Any, name: str, state: State, shared: State, images: torch.Tensor, states: torch.Tensor
) -> torch.Tensor:
    """The loss of one client's batch, label by label, from what the methods document."""
    s, names, scale = method.settings, names_of(method), method.clip.model.logit_scale.exp()

    def of_labels(logits: torch.Tensor) -> torch.Tensor:
        negative = state.get("negative")
        if negative is None:
            offset = state["bias"]
        else:  # a plan of transport has taken it off already
            offset = 0.0 if name == "fedotp" else -scale * images @ plain_texts(method, negative, names).T
        return sum(map(_labels(s), (logits + offset).unbind(), states)) / len(images)

    def own(values: torch.Tensor) -> torch.Tensor:
        each = [
            row[truth == 1].mean() if (truth == 1).any() else row.sum() * 0
            for row, truth in zip(values, states, strict=True)
        ]
        return torch.stack(each).mean()

    if name == "fedrsclip":
        t, u, logits = plain_pair(method, state, images, names)
        bias = 0.0 if "negative" in state else state["bias"]
        left, right = (torch.sigmoid(scale * images @ x.T + bias) for x in (t, u))
        dpa = {
            "cosine": lambda: (1 - functional.cosine_similarity(t, u)).mean(),
            "mse": lambda: functional.mse_loss(t, u),
            "kl": lambda: (left * (left / right).log() + (1 - left) * ((1 - left) / (1 - right)).log()).sum(1).mean(),
        }[s.dpa]()
        cma = {
            "cosine": lambda: (own(1 - images @ t.T) + own(1 - images @ u.T)) / 2,
            "infonce": lambda: -sum(own(_among_known(scale * images @ x.T, states)) for x in (t, u)) / 2,
        }[s.cma]()
        return of_labels(logits) + s.dpa_weight * dpa + s.cma_weight * cma
    if name == "fedpgp":
        a, g = plain_words(method, names, "a photo of a {}."), plain_texts(method, state["sigma"], names)
        mine = plain_texts(method, state["sigma"] + state["u"] @ state["v"], names)
        to_own, to_clip = functional.cosine_similarity(g, mine) / s.tau, functional.cosine_similarity(g, a) / s.tau
        contrast = -(to_clip.exp() / (to_clip.exp() + to_own.exp())).log().mean()
        return of_labels(scale * images @ mine.T) + s.mu * contrast
    if name == "promptfolio":
        return of_labels(plain_folio(method, state, images, names))
    if name == "fedotp":
        return of_labels(plain_transport(method, state, images, names))
    text = plain_texts(method, state["context"], names)
    loss = of_labels(scale * images @ text.T)
    if name == "kgcoop":
        away = 1 - functional.cosine_similarity(text, plain_words(method, names, s.template))
        return loss + s.weight * away.mean()
    if name == "fedprox":
        return loss + s.mu / 2 * sum((state[key] - value).pow(2).sum() for key, value in shared.items())
    return loss


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=IDS)
def test_a_loss_and_its_gradients_are_those_of_the_plain_formulation(
    flair: Path, name: str, settings: dict[str, Any]
) -> None:
    """With unknown labels among them."""
    method = bind(flair, name, **settings)
    states = hide(method)
    shared, rows = method.shared(), method.images.rows("train")
    by_rows = sorted(range(10), key=lambda c: method.context.rows[c])
    clients = [by_rows[-1], next(c for c in by_rows if 0 < method.context.rows[c] < 4)]
    draws = torch.Generator().manual_seed(1)
    moved = [
        {k: v + 0.1 * torch.randn(v.shape, generator=draws) for k, v in {**shared, **method.personal(c)}.items()}
        for c in clients
    ]
    tables = [torch.arange(rows.of(c).start, min(rows.of(c).stop, rows.of(c).start + 4)) for c in clients]
    most = max(map(len, tables))
    padded = [torch.cat((t, torch.full((most - len(t),), -1)))[None] for t in tables]
    live = {k: torch.stack([state[k] for state in moved]).requires_grad_() for k in moved[0]}
    losses = method.loss(live, gather(padded, 0, rows.images, rows.labels), shared)
    grads = torch.autograd.grad(losses.sum(), list(live.values()))
    for i, client in enumerate(clients):
        state = {k: v.clone().requires_grad_() for k, v in moved[i].items()}
        images, truth = plain_images(method, client, "train")
        known = states[tables[i]]
        assert torch.equal(known == 1, truth[: len(known)] & (known >= 0))
        loss = plain_loss(method, name, state, shared, images[: len(known)], known)
        assert torch.allclose(losses[i], loss, rtol=1e-5, atol=1e-5)
        for grad, wanted in zip(grads, torch.autograd.grad(loss, list(state.values())), strict=True):
            assert wanted.abs().max() > 1e-4
            assert torch.allclose(grad[i], wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize(("name", "score"), [("fedpgp", "sigmoid"), ("fedpgp", "pair"), ("local", "sigmoid")])
def test_a_round_is_that_of_training_a_client_plainly(flair: Path, name: str, score: str) -> None:
    """Three steps and more; the bias does not decay, the negative context does."""
    method = bind(flair, name, lr=0.02, weight_decay=0.01, batch=2, epochs=2, score=score, shots=None)
    states, rows = hide(method), method.images.rows("train")
    client = min((c for c in range(10) if method.context.rows[c] > 3), key=lambda c: method.context.rows[c])
    shared = method.shared()
    (update,) = method.train(shared, [method.personal(client)], [client], 3)
    images, _ = plain_images(method, client, "train")
    start = {**shared, **method.personal(client)}
    state = {k: v.clone().requires_grad_() for k, v in start.items()}
    decay = [{"params": [v], "weight_decay": 0.0 if k == "bias" else 0.01} for k, v in state.items()]
    optimiser = torch.optim.SGD(decay, lr=0.02, momentum=0.9)
    draws, steps = generator(0, "batches", 3, client), 0
    for _ in range(2):
        for part in torch.randperm(len(images), generator=draws).split(2):
            optimiser.zero_grad()
            plain_loss(method, name, state, shared, images[part], states[rows.of(client)][part]).backward()
            optimiser.step()
            steps += 1
    assert steps >= 3
    found = {**update.shared, **update.personal}
    assert same(found, {k: v.detach() for k, v in state.items()}, 1e-5)
    assert all(not same({k: found[k]}, {k: start[k]}, 1e-4) for k in found)


@pytest.mark.parametrize("name", [*PROMPTS, "zeroshot"])
@pytest.mark.parametrize("score", ["sigmoid", "pair"])
def test_metrics_are_those_of_encoding_everything(flair: Path, name: str, score: str) -> None:
    if name == "zeroshot" and score == "pair":
        pytest.skip("learns nothing")
    method = bind(flair, name, **({} if name == "zeroshot" else {"lr": 0.05, "score": score}))
    shared, own, _ = trained(method, 1)
    found = method.evaluate(shared, own, "test")
    names, scale = method.context.subset.classes, method.clip.model.logit_scale.exp()
    scores, truths = [], []
    for client, rows in enumerate(found.rows):
        if not rows:
            continue
        state, (images, truth) = {**shared, **own(client)}, plain_images(method, client, "test")
        if name == "zeroshot":
            logits = images @ plain_words(method, names, "a photo of a {}.").T
        elif name == "fedrsclip":
            logits = sum(images @ plain_texts(method, state[k], names).T for k in ("shared_prompt", "private_prompt"))
            logits = logits / 2
        elif name == "promptfolio":
            logits = plain_folio(method, state, images, names) / scale
        elif name == "fedotp":
            logits = plain_transport(method, state, images, names) / scale
        else:
            context = state["sigma"] + state["u"] @ state["v"] if name == "fedpgp" else state["context"]
            logits = images @ plain_texts(method, context, names).T
        if "negative" in state and name != "fedotp":
            logits = scale * (logits - images @ plain_texts(method, state["negative"], names).T)
        else:
            logits = scale * logits + (0.0 if "negative" in state else state.get("bias", method.first_bias()))
        scores.append(torch.sigmoid(logits.detach()))
        truths.append(truth)
        assert found.clients["local"][client] == pytest.approx(
            _mean_precision(truth, scores[-1]), abs=1e-3, nan_ok=True
        )
    whole, truth = torch.cat(scores), torch.cat(truths)
    assert found.metrics["C-AP"] == pytest.approx(_mean_precision(truth, whole), abs=1e-3)
    assert found.metrics["O-AP"] == pytest.approx(100 * average_precision_score(truth.ravel(), whole.ravel()), abs=1e-3)
    assert found.metrics["O-R"] == pytest.approx(100 * float(((whole >= 0.5) & truth).sum() / truth.sum()))
    assert {"C-F1@3", "O-P@3", f"AP/{names[0]}"} <= found.metrics.keys()
    assert ("shared/C-AP" in found.metrics) == (name != "local")
    if name in ("promptfl", "kgcoop", "fedprox", "zeroshot"):
        assert found.metrics["shared/C-AP"] == found.metrics["C-AP"]
    again = method.figures(method.scores(shared, own, "test"))
    assert again.metrics == pytest.approx(found.metrics, abs=0, nan_ok=True)


def _mean_precision(truth: torch.Tensor, scores: torch.Tensor) -> float:
    """scikit-learn's average precision, mean over labels that some image has, in percent."""
    held = [i for i in range(truth.shape[1]) if truth[:, i].any()]
    each = [average_precision_score(truth[:, i], scores[:, i]) for i in held]
    return 100 * float(np.mean(each)) if held else float("nan")


@pytest.mark.parametrize(
    ("p", "there", "not_there"), [(0.02, 3.833783, 0.0), (0.3, 0.842781, 0.017980), (0.9, 0.010536, 1.370669)]
)
def test_the_asymmetric_loss_has_its_published_values(p: float, there: float, not_there: float) -> None:
    logit = torch.tensor([[p]]).logit()
    for state, wanted in ((1, there), (0, not_there), (-1, 0.0)):
        assert MultiLabel().loss(logit, torch.tensor([[state]], dtype=torch.int8)).item() == pytest.approx(
            wanted, abs=1e-5
        )


@pytest.mark.parametrize("shift", [0.05, 0.0])
def test_a_label_that_is_very_wrong_keeps_its_gradient(shift: float) -> None:
    logits = torch.tensor([[-200.0, 200.0, 200.0, 200.0]], requires_grad=True)
    loss = MultiLabel(shift=shift).loss(logits, torch.tensor([[1, 0, 1, -1]], dtype=torch.int8))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0].tolist() == pytest.approx([-1.0, 0.0 if shift else 1.0, 0.0, 0.0])


def test_unknown_labels_are_not_among_those_that_an_image_is_told_apart_from() -> None:
    labels = torch.tensor([[1, -1, 0], [-1, -1, -1]], dtype=torch.int8)
    logits = torch.tensor([[2.0, 9.0, 1.0], [3.0, 4.0, 5.0]], requires_grad=True)
    found = MultiLabel().among(logits, labels)
    assert found.tolist() == pytest.approx([-math.log1p(math.exp(-1.0)), 0.0])
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0] > 0.2 > logits.grad[0, 1] == 0.0
    assert logits.grad[1].tolist() == [0.0, 0.0, 0.0]


def test_few_shots_give_every_label_its_rows_and_no_row_without_need() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = (torch.rand(300, 8, generator=draws) < torch.tensor([0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0])).to(
        torch.int8
    )
    kept = MultiLabel().few_shot(labels, 4, torch.Generator().manual_seed(1))
    assert torch.equal(kept, kept.unique())
    took = labels[kept].sum(0)
    assert torch.equal(took.clamp(max=4), labels.sum(0).clamp(max=4)), "a label has fewer than its shots"
    assert len(kept) < 40
    assert (labels[kept].sum(1) == 0).sum() == 4, "rows without a label are rows of one more label"
    one_hot = functional.one_hot(torch.arange(60) % 5, 5).to(torch.int8)
    assert (
        MultiLabel().few_shot(one_hot, 3, draws).shape == SingleLabel().few_shot(torch.arange(60) % 5, 3, draws).shape
    )


def test_sites_without_an_image_start_from_the_same_bias(flair: Path) -> None:
    first, second = bind(flair, "promptfl"), bind(flair, "fedpgp")
    assert torch.equal(first.shared()["bias"], second.shared()["bias"])
    rows = first.images.rows("train")
    mean = first.clip.scale * (rows.images @ first.base.fixed("a photo of a {}.").T).mean()
    away = float(first.first_bias() + mean) + math.log(len(first.base) - 1)
    assert abs(away) < 5, "far from what the images would give"


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("promptfl", {"score": "pair"}, "score=pair: is for multi-label data, fed-ucmerced is single-label"),
        ("fedpgp", {"gamma_neg": 4.0}, "gamma_neg=4.0: is for multi-label data"),
        ("promptfl", {"labels": "fine"}, "has no finer labels; use labels=coarse"),
        ("zeroshot", {"labels": "fine"}, "has no finer labels; use labels=coarse"),
        ("promptfl", {"shift": 1.0}, "shift=1.0 should be from 0 to below 1"),
        ("promptfl", {"gamma_pos": -1.0}, "gamma_pos"),
    ],
)
def test_choices_that_single_label_data_do_not_have(
    sample_build: Path, name: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        bind(sample_build, name, **settings)


@pytest.mark.parametrize(("name", "value"), [("gamma_neg", 3.0), ("gamma_pos", 0.0), ("shift", 0.1)])
def test_settings_of_the_asymmetric_loss_without_it(flair: Path, name: str, value: float) -> None:
    words = f"{name}={value}: is for the asymmetric loss, the loss is bce; use loss=asl"
    with pytest.raises(UsageError, match=words):
        bind(flair, "promptfl", loss="bce", **{name: value})
    assert bind(flair, "promptfl", loss="asl", **{name: value}).labels.multi_label


def test_own_classes_are_a_choice_that_multi_label_data_do_not_have(flair: Path) -> None:
    """An absent label teaches too. FedTPG, whose default they are, has all labels."""
    with pytest.raises(
        UsageError, match="loss_over=own: is for single-label data, .*is multi-label; use loss_over=all"
    ):
        bind(flair, "promptfl", loss_over="own")
    updates = []
    for over in ("own", "all"):
        method = bind(flair, "fedtpg", loss_over=over, shots=2, length=4, lr=0.05)
        updates += list(method.train(method.shared(), [{}], [0], 1))
    assert updates[0].loss == updates[1].loss
    assert same(updates[0].shared, updates[1].shared)
