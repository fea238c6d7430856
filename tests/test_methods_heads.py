"""What trains no context: FedCLIP's adapter and the linear probe, beside their plain formulation."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from apart_builds import apart
from conftest import sampled
from PIL import Image
from prompt_federation import CPU, LENGTH, bind, judged, plain_words, same, small_clip, trained
from torch.nn import functional

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.errors import UsageError
from fedrsic_data.sources.locate import Places
from fedtrain import run
from fedtrain.config import RunConfig
from fedtrain.engines.rounds import sent
from fedtrain.methods import METHODS
from fedtrain.methods.base import Evaluation, State
from fedtrain.methods.prompts.cohort import Adam, descend, gather
from fedtrain.models import clip
from fedtrain.seeds import generator

pytestmark = pytest.mark.usefixtures("random_clip")

CASES: list[tuple[str, dict[str, Any]]] = [
    ("fedclip", {}),
    ("fedclip", {"objective": "batch"}),
    ("fedclip", {"template": "an image of {}."}),
    ("linear-probe", {}),
    ("linear-probe", {"init": "text"}),
    ("linear-probe", {"personal": "head", "init": "text"}),
    ("linear-probe", {"personal": "all", "momentum": 0.9, "weight_decay": 0.01}),
]
SEVERAL: list[tuple[str, dict[str, Any]]] = [
    ("fedclip", {}),
    ("fedclip", {"loss": "bce"}),
    ("linear-probe", {}),
    ("linear-probe", {"init": "text", "loss": "bce"}),
    ("linear-probe", {"personal": "head", "init": "text", "labels": "fine"}),
]


def ids(cases: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return ["-".join([name, *(f"{k}={v}" for k, v in settings.items())]) for name, settings in cases]


@pytest.fixture(scope="module")
def flair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of ten users."""
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=32"])
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    return pipeline.build(planned, tmp_path_factory.mktemp("flair") / "flair").path


def plain_rows(method: Any, client: int, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features as the encoder gives them, of a client's rows from the bytes of its shard; their classes or states."""
    subset = method.context.subset
    several = subset.entry.multi_label
    column = "label" if not several else "fine_labels" if method.settings.labels == "fine" else "labels"
    rows = subset.client(subset.clients[client]).read(split).to_pylist()
    features = []
    for row in rows:
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        features.append(
            method.clip.encode_images(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], normalise=False)[0]
        )
    if not several:
        return torch.stack(features), torch.tensor([row[column] for row in rows])
    truth = torch.zeros(len(rows), len(method.base))
    for i, row in enumerate(rows):
        truth[i, row[column]] = 1
    return torch.stack(features), truth


def plain_logits(method: Any, name: str, state: State, x: torch.Tensor) -> torch.Tensor:
    """Logits ``[n, C]`` of features as the encoder gives them; for multi-label data with the bias."""
    s, names = method.settings, method.base.names
    if name == "fedclip":
        hidden = torch.tanh(functional.linear(x, state["inner.weight"], state["inner.bias"]))
        y = functional.softmax(functional.linear(hidden, state["outer.weight"], state["outer.bias"]), dim=1) * x
        v = y / y.norm(dim=1, keepdim=True)
        logits = method.clip.model.logit_scale.exp() * v @ plain_words(method, names, s.template).T
        return logits + state["bias"] if "bias" in state else logits
    v = x / x.norm(dim=1, keepdim=True)
    if s.personal == "head":
        v = functional.linear(v, state["map"])
    return functional.linear(v, state["weight"], state["bias"])


def plain_loss(method: Any, name: str, state: State, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of a batch, written out anew from what the methods document."""
    s = method.settings
    logits = plain_logits(method, name, state, x)
    if method.context.subset.entry.multi_label:
        p, total = torch.sigmoid(logits), torch.zeros(())
        for each, there in zip(p.flatten(), labels.flatten().tolist(), strict=True):
            if s.loss == "bce":
                total = total - (each if there else 1 - each).log()
            elif there:
                total = total - (1 - each).detach() ** s.gamma_pos * each.log()
            else:
                absent = torch.minimum(1 - each + s.shift, torch.ones(()))
                total = total - (1 - absent).detach() ** s.gamma_neg * absent.log()
        return total / len(x)
    if name == "fedclip" and s.objective == "batch":
        square = torch.stack([row[labels] for row in logits])  # of each image with the text of each image
        own = torch.arange(len(x))
        return (functional.cross_entropy(square, own) + functional.cross_entropy(square.T, own)) / 2
    return functional.cross_entropy(logits, labels)


def compare(path: Path, name: str, settings: dict[str, Any], most: int) -> None:
    """The losses and gradients of three clients of unlike sizes, stacked, against each by itself."""
    method = bind(path, name, **settings)
    rows, shared = method.images.rows("train"), method.shared()
    by_rows = sorted((c for c, n in enumerate(method.context.rows) if n), key=lambda c: method.context.rows[c])
    clients = [by_rows[-1], by_rows[0], by_rows[len(by_rows) // 2]]
    draws = torch.Generator().manual_seed(1)
    moved = [
        {k: v + 0.3 * torch.randn(v.shape, generator=draws) for k, v in {**shared, **method.personal(c)}.items()}
        for c in clients
    ]
    tables = [torch.arange(rows.of(c).start, min(rows.of(c).stop, rows.of(c).start + most)) for c in clients]
    wide = max(map(len, tables))
    padded = [torch.cat((t, torch.full((wide - len(t),), -1)))[None] for t in tables]
    live = {k: torch.stack([state[k] for state in moved]).requires_grad_() for k in moved[0]}
    losses = method.loss(live, gather(padded, 0, rows.images, rows.labels), shared)
    grads = torch.autograd.grad(losses.sum(), list(live.values()))
    assert len({len(t) for t in tables}) > 1
    for i, client in enumerate(clients):
        state = {k: v.clone().requires_grad_() for k, v in moved[i].items()}
        x, labels = plain_rows(method, client, "train")
        loss = plain_loss(method, name, state, x[: len(tables[i])], labels[: len(tables[i])])
        assert torch.allclose(losses[i], loss, rtol=1e-5, atol=1e-5)
        for grad, wanted in zip(grads, torch.autograd.grad(loss, list(state.values())), strict=True):
            assert len(tables[i]) == 1 or wanted.abs().max() > 1e-4
            assert torch.allclose(grad[i], wanted, rtol=1e-5, atol=1e-5 * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize(("name", "settings"), CASES, ids=ids(CASES))
def test_a_loss_and_its_gradients_are_those_of_the_plain_formulation(
    sample_build: Path, name: str, settings: dict[str, Any]
) -> None:
    compare(sample_build, name, settings, 99)


@pytest.mark.parametrize(("name", "settings"), SEVERAL, ids=ids(SEVERAL))
def test_a_loss_of_several_labels_and_its_gradients_are_those_of_the_plain_formulation(
    flair: Path, name: str, settings: dict[str, Any]
) -> None:
    compare(flair, name, settings, 4)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=ids(CASES))
def test_a_round_is_that_of_training_each_client_plainly_with_an_optimiser_of_its_own(
    sample_build: Path, name: str, settings: dict[str, Any]
) -> None:
    """The optimisers of PyTorch, new for each client: FedCLIP's authors' Adam, which adds the decay to the gradient."""
    method = bind(sample_build, name, **{"lr": 0.02, "batch": 4, "epochs": 2, **settings})
    method.stack = 99
    clients, shared, s = [3, 0, 7, 1], method.shared(), method.settings
    updates = list(method.train(shared, [method.personal(c) for c in clients], clients, 3))
    steps = set()
    for client, update in zip(clients, updates, strict=True):
        x, labels = plain_rows(method, client, "train")
        start = {**shared, **method.personal(client)}
        state = {k: v.clone().requires_grad_() for k, v in start.items()}
        if name == "fedclip":
            optimiser = torch.optim.Adam(state.values(), lr=s.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
        else:
            decays = [{"params": [v], "weight_decay": 0.0 if k == "bias" else s.weight_decay} for k, v in state.items()]
            optimiser = torch.optim.SGD(decays, lr=s.lr, momentum=s.momentum)
        draws, losses = generator(0, "batches", 3, client), []
        for _ in range(2):
            for part in torch.randperm(len(labels), generator=draws).split(4):
                loss = plain_loss(method, name, state, x[part], labels[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
        assert update.loss == pytest.approx(sum(losses) / len(losses), abs=1e-4)
        found = {**update.shared, **update.personal}
        # a gradient of 0 is one of 1e-9 in another order of sums, and Adam's first steps have the size of the rate
        assert same(found, {k: v.detach() for k, v in state.items()}, 1e-4 if name == "fedclip" else 1e-5)
        assert not same(found, start, 1e-3)
        steps.add(len(losses))
    assert len(steps) >= 3, "clients of one size only"


def test_stacked_adam_is_torchs_for_each() -> None:
    steps, start = [5, 3, 1], torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    target = torch.arange(18.0).reshape(3, 6) / 10
    rule = Adam(0.1, 0.05, 0.8, 0.9, 1e-4)
    state, _ = descend({"x": start}, steps, lambda s, _: (s["x"] - target[: len(s["x"])]).pow(4).sum(1), lambda _: rule)
    for i, count in enumerate(steps):
        x = start[i].clone().requires_grad_()
        optimiser = torch.optim.Adam([x], 0.1, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.05)
        for _ in range(count):
            optimiser.zero_grad()
            (x - target[i]).pow(4).sum().backward()
            optimiser.step()
        assert torch.allclose(state["x"][i], x, rtol=1e-5)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=ids(CASES))
def test_an_evaluation_is_that_of_encoding_everything(sample_build: Path, name: str, settings: dict[str, Any]) -> None:
    rate = 0.05 if name == "fedclip" else 0.01 if settings.get("personal") == "head" else 1.0
    method = bind(sample_build, name, **{"lr": rate, **settings})
    shared, own, losses = trained(method, 3)
    assert losses[-1] < losses[0]
    found = method.evaluate(shared, own, "test")
    hits = rows = 0
    for client, accuracy in enumerate(found.clients["local"]):
        if found.rows[client]:
            x, labels = plain_rows(method, client, "test")
            right = int((plain_logits(method, name, {**shared, **own(client)}, x).argmax(1) == labels).sum())
            assert accuracy == pytest.approx(100 * right / len(labels))
            hits, rows = hits + right, rows + len(labels)
    assert found.metrics["pooled"] == pytest.approx(100 * hits / rows)
    everywhere = settings.get("personal", "none") == "none"
    assert found.metrics.get("shared") == (found.metrics["pooled"] if everywhere else None)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=ids(CASES))
def test_a_round_repeats_bit_by_bit_in_any_order_of_clients(
    sample_build: Path, name: str, settings: dict[str, Any]
) -> None:
    """Nothing passes from client to client, neither momentum nor Adam's means."""
    method, clients = bind(sample_build, name, **{"lr": 0.05, **settings}), [1, 5, 2]
    shared = method.shared()
    given = {k: v.clone() for k, v in shared.items()}
    first = list(method.train(shared, [method.personal(c) for c in clients], clients, 1))
    back = list(bind(sample_build, name, **{"lr": 0.05, **settings}).train(
        shared, [method.personal(c) for c in clients[::-1]], clients[::-1], 1
    ))  # fmt: skip
    assert same(shared, given), "the server's state was changed in place"
    for update, again in zip(first, back[::-1], strict=True):
        assert (update.client, update.rows, update.loss) == (again.client, again.rows, again.loss)
        assert same(update.shared, again.shared)
        assert same(update.personal, again.personal)


@pytest.mark.parametrize(
    ("name", "settings", "floats"),
    [
        ("fedclip", {}, 2 * (512**2 + 512)),
        ("linear-probe", {}, 21 * 513),
        ("linear-probe", {"personal": "head"}, 512**2),
        ("linear-probe", {"personal": "all"}, 0),
    ],
)
def test_only_trained_shared_tensors_leave_a_client(
    sample_build: Path, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, Any], floats: int
) -> None:
    """525,312 numbers of FedCLIP and 10,773 of a probe of 21 classes, with features 512 long."""
    config = {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": LENGTH, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    wide = clip.frozen("wide", config, open_clip.get_tokenizer("ViT-B-32"), 0, {}, CPU)
    monkeypatch.setattr(clip, "load", lambda _spec, _device: wide)
    method = bind(sample_build, name, epochs=1, **settings)
    (update,) = method.train(method.shared(), [method.personal(1)], [1], 1)
    assert sent(update.shared) == (floats, 4 * floats)
    assert not update.shared.keys() & update.personal.keys()
    for value in update.shared.values():
        assert value.untyped_storage().nbytes() == value.nbytes, "no private number travels in the memory behind a view"


def test_a_probe_of_texts_starts_as_zero_shot_clip(sample_build: Path, flair: Path) -> None:
    for path, metric in ((sample_build, "pooled"), (flair, "C-AP")):
        zero = judged(bind(path, "zeroshot"))
        for personal in ("none", "head", "all"):
            assert judged(bind(path, "linear-probe", init="text", personal=personal)).metrics[metric] == pytest.approx(
                zero.metrics[metric], abs=1e-3
            )


def test_an_adapter_starts_near_zero_shot_clip(sample_build: Path) -> None:
    """Its weights are almost equal: the features it gives are almost those of CLIP."""
    method = bind(sample_build, "fedclip")
    rows, state = method.images.rows("test"), method.shared()
    d = method.clip.embed_dim
    for name, value in state.items():
        assert value.abs().max() <= 1 / math.sqrt(d)
        assert value.abs().max() > 0.9 / math.sqrt(d), name
    probed = method.logits(rows.images, torch.eye(d), state) / method.clip.scale
    cosine = (probed * functional.normalize(rows.images, dim=1)).sum(1)
    assert cosine.min() > 0.9
    assert cosine.max() < 1 - 1e-4
    assert not torch.allclose(rows.images.norm(dim=1), torch.ones(len(rows)), atol=0.1), "features are raw"


def test_start_of_labels_is_rare_with_either_start(flair: Path) -> None:
    """Otherwise a probe first learns that most labels are absent."""
    for init in ("zero", "text"):
        method = bind(flair, "linear-probe", init=init)
        scores = method.scores(method.shared(), method.personal, "test")["answers"]
        assert scores.mean() < 3 / len(method.base)


def test_images_of_one_class_are_negatives_within_a_batch_alone(sample_build: Path) -> None:
    """Defect of the authors' loss: a batch with n images of a class costs at least log n. The default is another."""
    classes, batch = bind(sample_build, "fedclip"), bind(sample_build, "fedclip", objective="batch")
    rows = classes.images.rows("train")
    label = int(rows.labels.mode().values)
    same_class = (rows.labels == label).nonzero()[:, 0][:4]
    state = {name: value[None] for name, value in classes.shared().items()}
    given = gather([same_class[None]], 0, rows.images, rows.labels)
    assert float(batch.loss(state, given, {})) >= math.log(4) - 1e-5
    assert float(classes.loss(state, given, {})) < math.inf
    alone = gather([same_class[:1][None]], 0, rows.images, rows.labels)
    assert float(batch.loss(state, alone, {})) == pytest.approx(0, abs=1e-5), "an image has nothing to be told from"


def test_training_leaves_the_statistics_of_the_image_encoder_alone(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect of FedCLIP's code: CLIP in training mode moves the batch-norm statistics of a ResNet, which is frozen."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": LENGTH, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    resnet = clip.frozen("resnet", config, open_clip.get_tokenizer("ViT-B-32"), 0, {}, CPU)
    monkeypatch.setattr(clip, "load", lambda _spec, _device: resnet)
    before = {name: value.clone() for name, value in resnet.model.state_dict().items()}
    assert any("running_mean" in name for name in before)
    built = sampled(tmp_path / "fed", "sample.per_class=2", "clients=2").path
    shared, _, _ = trained(bind(built, "fedclip", lr=0.1), 1)
    assert same(dict(resnet.model.state_dict()), before)
    assert not resnet.model.training
    assert not same(shared, bind(built, "fedclip").shared(), 1e-3)


def test_adapters_and_prompts_share_the_cache(tmp_path: Path, encoded: list[int]) -> None:
    build = sampled(tmp_path / "fed", "sample.per_class=2").path
    prompts = bind(build, "promptfl").images.rows("train")
    adapter = bind(build, "fedclip").images.rows("train")
    assert sum(encoded) == len(prompts)
    assert torch.equal(functional.normalize(adapter.images, dim=1), prompts.images)
    several = bind(build, "fedclip", views=2).images.rows("train")
    assert several.images.shape == (len(prompts), 2, small_clip().embed_dim)
    (update,) = bind(build, "fedclip", views=2).train(bind(build, "fedclip").shared(), [{}], [0], 1)
    assert math.isfinite(update.loss)


def test_texts_are_encoded_once(sample_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, encode = [], clip.Clip.encode_texts
    monkeypatch.setattr(
        clip.Clip, "encode_texts", lambda self, texts: (calls.append(len(texts)), encode(self, texts))[1]
    )
    method = bind(sample_build, "fedclip")
    shared, own, _ = trained(method, 2)
    method.evaluate(shared, own, "test")
    assert calls == [21]


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "fedclip",
            {"objective": "batch"},
            "objective=batch: an image has one text, flair is multi-label; use classes",
        ),
        ("fedclip", {"template": "a picture"}, "template='a picture'"),
        ("linear-probe", {"template": "a {} and a {}"}, "template='a {} and a {}'"),
        ("linear-probe", {"momentum": 1.0}, r"momentum=1.0 should be from 0 to below 1"),
    ],
)
def test_choices_that_cannot_be_used_are_refused(flair: Path, name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        bind(flair, name, **settings)


@pytest.mark.parametrize("name", ["fedclip", "linear-probe"])
def test_a_loss_over_own_classes_takes_their_outputs_alone(sample_build: Path, name: str) -> None:
    method = bind(sample_build, name, loss_over="own", epochs=1, batch=500, weight_decay=0.0)
    client = max(range(len(method.context.rows)), key=lambda c: method.context.rows[c])
    places = list(method.own_classes(client))
    assert 1 < len(places) < 21
    draws = torch.Generator().manual_seed(0)
    start = {k: v + 0.1 * torch.randn(v.shape, generator=draws) for k, v in method.shared().items()}
    (update,) = method.train(start, [method.personal(client)], [client], 1)
    x, labels = plain_rows(method, client, "train")
    among = torch.tensor([places.index(int(label)) for label in labels])
    logits = plain_logits(method, name, start, x)[:, places]
    assert update.loss == pytest.approx(float(functional.cross_entropy(logits, among)), abs=1e-4)
    if name == "linear-probe":
        moved = (update.shared["weight"] != start["weight"]).any(1) | (update.shared["bias"] != start["bias"])
        assert moved.nonzero()[:, 0].tolist() == sorted(places)


def test_datasets_with_classes_apart_have_outputs_of_their_own(tmp_path: Path) -> None:
    """A client's rows are classified among the classes that it trains on, by the shared state among its dataset's."""
    method = bind(apart(tmp_path / "fed").path, "linear-probe", lr=1.0)
    shared, own, _ = trained(method, 1)
    found = method.evaluate(shared, own, "test")
    sources = [name.partition("/")[0] for name in method.base.names]
    hits = rows = 0
    for client, accuracy in enumerate(found.clients["local"]):
        x, labels = plain_rows(method, client, "test")
        logits = plain_logits(method, "linear-probe", shared, x)
        mine = torch.tensor([place not in method.own_classes(client) for place in range(len(sources))])
        right = int((logits.masked_fill(mine, -torch.inf).argmax(1) == labels).sum())
        assert accuracy == pytest.approx(100 * right / len(labels))
        source = torch.tensor([name != sources[int(labels[0])] for name in sources])
        hits += int((logits.masked_fill(source, -torch.inf).argmax(1) == labels).sum())
        rows += len(labels)
    assert len(set(sources)) == 2
    assert found.metrics["shared"] == pytest.approx(100 * hits / rows)


def test_novel_classes_have_an_adapter_and_no_probe(tmp_path: Path) -> None:
    built = sampled(tmp_path / "fed", "sample.per_class=5", "clients=2", "base_to_novel=true").path
    with pytest.raises(UsageError, match="base_to_novel: a probe has outputs for the classes it was trained on; use a"):
        bind(built, "linear-probe")
    found = judged(bind(built, "fedclip", lr=0.01), 1)
    assert set(found.clients["novel"]) == {found.metrics["shared_novel"]}
    assert 0 <= found.metrics["shared_novel"] <= 100


def test_a_domain_can_be_held_out(tmp_path: Path) -> None:
    """The protocol of FedCLIP: a domain per client, and one that nobody trains on."""
    sets = ["sample.per_class=4", "domain_mix=0.0", "clients=3", "splits.test=0.3"]
    built = sampled(tmp_path / "fed", *sets, subset="fed-domains").path
    for name, settings in (("fedclip", {}), ("linear-probe", {}), ("linear-probe", {"personal": "head"})):
        found = judged(bind(built, name, held_out="sample-ucmerced", **settings), 1)
        assert ("held_out" in found.metrics) == (settings == {})
        assert 0 <= found.metrics["held_out_local"] <= 100


def test_the_metrics_of_a_run_are_those_of_its_last_round(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect of PromptFolio's code: the best round counts, and the model before training is among them."""
    kind, seen = METHODS["promptfolio"], list[float]()
    evaluate = kind.evaluate

    def falling(*given: Any) -> Evaluation:
        found = evaluate(*given)
        if given[-1] == "test":
            seen.append(90.0 - len(seen))
        return dataclasses.replace(found, metrics={**found.metrics, "pooled": seen[-1] if seen else math.nan})

    monkeypatch.setattr(kind, "evaluate", falling)
    fast = {"epochs": 1, "shots": 1}
    config = RunConfig("promptfolio", str(sample_build), "fed-ucmerced", rounds=3, eval_every=1, device="cpu")
    result = run.train(dataclasses.replace(config, method_settings=fast), tmp_path / "run")
    assert len(seen) >= 3
    assert result.data["figures"]["test/pooled"] == seen[-1]
