"""pFedMoAP: its gate beside a plain formulation, its pool in any order of clients, and what stays apart in a round."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sampled
from prompt_federation import bind, plain_images, plain_texts, same, small_clip
from torch.nn import functional

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.errors import UsageError
from fedrsic_data.sources.locate import Places
from fedtrain.engines.rounds import sent
from fedtrain.methods.base import State, Update
from fedtrain.models import clip
from fedtrain.seeds import generator

pytestmark = pytest.mark.usefixtures("random_clip")

GATE = {"gate", "offset"}


@pytest.fixture(scope="module")
def flair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of ten users."""
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=32"])
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    return pipeline.build(planned, tmp_path_factory.mktemp("flair") / "flair").path


def pooled(method: Any, held: tuple[int, ...] = (0, 1, 2, 3, 5, 6, 7, 8)) -> State:
    """A server whose pool has prompts of some of its ten clients, each at its own distance from the others."""
    server, draws = method.shared(), torch.Generator().manual_seed(5)
    pool, there = server["pool"].clone(), server["held"].clone()
    for client in held:
        pool[client] = server["context"] + 0.1 * (client + 1) * torch.randn(pool[0].shape, generator=draws)
        there[client] = True
    return {**server, "pool": pool, "held": there}


def plain_logits(method: Any, state: State, experts: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Logits ``[n, C]``, class by class and head by head, as the method documents them."""
    s, names, scale = method.settings, method.base.names, method.clip.model.logit_scale.exp()
    own, others = (
        plain_texts(method, state["context"], names),
        [plain_texts(method, e, names).detach() for e in experts],
    )
    if "negative" in state:
        own, *others = (text - plain_texts(method, state["negative"], names) for text in (own, *others))
    plain = scale * images @ own.T
    if not len(experts):
        return plain
    width = state["gate"].shape[-1]
    step = images.shape[1] // width
    pooled, found = images[:, ::step], []
    maps = list(zip(state["gate"], state["offset"], strict=True))
    for c in range(len(names)):
        texts = torch.stack([text[c, ::step] for text in (own, *others)])
        query, keys, values = (functional.linear(x, *m) for x, m in zip((pooled, texts, texts), maps[:3], strict=True))
        mixed = []
        for part in torch.arange(width).chunk(s.heads):
            weight = torch.softmax(s.scaling * query[:, part] @ keys[:, part].T, dim=1)
            mixed.append(weight @ values[:, part])
        out = functional.linear(torch.cat(mixed, dim=1), *maps[3])
        found.append(s.lam * plain[:, c] + scale * (pooled * out).sum(1))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gate_width": 16, "heads": 4, "scaling": 3.0, "lam": 0.9},
        {"experts": 3, "std": 0.5},
        {"experts": 1},
    ],
    ids=["defaults", "narrow", "three", "alone"],
)
def test_a_loss_and_its_gradients_are_those_of_the_plain_formulation(
    sample_build: Path, settings: dict[str, Any]
) -> None:
    method = bind(sample_build, "pfedmoap", **settings)
    server = pooled(method)
    draws = torch.Generator().manual_seed(1)
    for client in (2, 4):
        received = method.sent_to(client, server)
        experts = received.pop("experts")
        wanted_count = 0 if client == 4 else min(method.settings.experts - 1, 7)
        assert len(experts) == wanted_count
        start = {**received, **{k: v for k, v in method.personal(client).items() if k in GATE}}
        moved = {k: v + 0.1 * torch.randn(v.shape, generator=draws) for k, v in start.items()}
        images, labels = plain_images(method, client, "train")
        state = {k: v.clone().requires_grad_() for k, v in moved.items()}
        loss = functional.cross_entropy(plain_logits(method, state, experts, images), labels)
        wanted = torch.autograd.grad(loss, list(state.values()), allow_unused=not wanted_count)

        live = {k: v[None].clone().requires_grad_() for k, v in moved.items()}
        text = method.text({**live, "experts": method._encoded(experts, method.base)[None]}, method.base)
        logits = method.logits(images[None], text, live)
        found = functional.cross_entropy(logits[0], labels)
        assert torch.allclose(found, loss, rtol=1e-5, atol=1e-5)
        grads = torch.autograd.grad(found, list(live.values()), allow_unused=not wanted_count)
        for name, grad, plain in zip(live, grads, wanted, strict=True):
            if not wanted_count and name in GATE:
                assert grad is None
                assert plain is None
                continue
            assert plain.abs().max() > 1e-4
            assert torch.allclose(grad[0], plain, rtol=1e-5, atol=1e-5 * max(1.0, float(plain.abs().max())))


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_round_is_that_of_plain_training_with_an_optimiser_of_its_own(sample_build: Path, schedule: str) -> None:
    """Three steps an epoch and more; the rate of the prompt falls by torch's own schedule, not that of the gate."""
    method = bind(
        sample_build,
        "pfedmoap",
        lr=0.02,
        gate_lr=0.05,
        weight_decay=0.01,
        batch=2,
        epochs=3,
        experts=3,
        schedule=schedule,
    )
    server, client = pooled(method), 2
    received = method.sent_to(client, server)
    own = method.personal(client)
    (update,) = method.train(received, [own], [client], 3)
    rows = method.trained_rows(client) - method.images.rows("train").of(client).start
    images, labels = (x[rows] for x in plain_images(method, client, "train"))
    state = {k: v.clone().requires_grad_() for k, v in {**received, **own}.items() if k in GATE | {"context"}}
    prompt = torch.optim.SGD([state["context"]], lr=0.02, momentum=0.9, weight_decay=0.01)
    gate = torch.optim.SGD([state["gate"], state["offset"]], lr=0.05, momentum=0.9, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(prompt, T_max=3)
    draws, losses = generator(0, "batches", 3, client), []
    for _ in range(3):
        for part in torch.randperm(len(labels), generator=draws).split(2):
            loss = functional.cross_entropy(
                plain_logits(method, state, received["experts"], images[part]), labels[part]
            )
            prompt.zero_grad()
            gate.zero_grad()
            loss.backward()
            prompt.step()
            gate.step()
            losses.append(loss.item())
        if schedule == "cosine":
            falling.step()
    assert len(losses) >= 9
    assert update.loss == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert same(update.shared, {"context": state["context"].detach()}, 1e-5)
    assert same({k: update.personal[k] for k in GATE}, {k: state[k].detach() for k in GATE}, 1e-5)
    assert not same(update.shared, {"context": received["context"]}, 1e-3)
    assert not same({k: update.personal[k] for k in GATE}, {k: own[k] for k in GATE}, 1e-3)


def test_the_pool_gives_each_client_the_nearest_in_any_order_of_clients(sample_build: Path) -> None:
    """More have trained than experts are sent, where the authors' "nearest" ends in an error."""
    method = bind(sample_build, "pfedmoap", experts=4)
    start, source = method.shared(), pooled(method)
    updates = [
        Update(client, 10 + client, {"context": source["pool"][client]}, {}, 0.0, weight=10.0 + client)
        for client in (0, 1, 2, 3, 5, 6, 7, 8)
    ]
    servers = [method.aggregate(start, order) for order in (updates, updates[::-1], updates[3:] + updates[:3])]
    for server, client in itertools.product(servers, range(10)):
        found = method.sent_to(client, server)["experts"]
        if client in (4, 9):
            assert len(found) == 0, "it never trained"
            continue
        away = sorted(
            (float((source["pool"][k] - source["pool"][client]).norm()), k)
            for k in (0, 1, 2, 3, 5, 6, 7, 8)
            if k != client
        )
        assert torch.equal(found, source["pool"][[k for _, k in away[:3]]])
    total = sum(update.weight for update in updates)
    mean = sum(update.shared["context"] * (update.weight / total) for update in updates)
    for server in servers:
        assert torch.equal(server["pool"], servers[0]["pool"])
        assert torch.equal(server["held"], source["held"])
        assert torch.allclose(server["context"], mean, atol=1e-6)


def test_a_client_that_trains_again_replaces_its_prompt_and_the_others_stay(sample_build: Path) -> None:
    method = bind(sample_build, "pfedmoap")
    server = pooled(method)
    new = torch.ones_like(server["context"])
    after = method.aggregate(server, [Update(3, 5, {"context": new}, {}, 0.0)])
    assert torch.equal(after["pool"][3], new)
    rest = [k for k in range(10) if k != 3]
    assert torch.equal(after["pool"][rest], server["pool"][rest])
    assert torch.equal(after["held"], server["held"])


def test_prompts_at_equal_distances_are_taken_by_their_number(sample_build: Path) -> None:
    method = bind(sample_build, "pfedmoap", experts=4)
    server = method.shared()
    pool = server["pool"] + torch.arange(10).remainder(2)[:, None, None]
    sent_to = method.sent_to(4, {**server, "pool": pool, "held": torch.ones(10, dtype=torch.bool)})
    assert torch.equal(sent_to["experts"], pool[[0, 2, 6]])


def test_gates_and_experts_do_not_pass_from_client_to_client(sample_build: Path) -> None:
    """In the authors' code a client's first gate is the one trained before it, and so are its first experts."""
    method = bind(sample_build, "pfedmoap", lr=0.1, gate_lr=0.1, batch=4, epochs=2)
    server = pooled(method)
    first = method.personal(4)
    assert same(first, method.personal(9)), "every gate starts from the same draw"
    bound = 32**-0.5
    assert 0.9 * bound < float(first["gate"].abs().max()) <= bound
    assert not same({"x": first["gate"][0]}, {"x": first["gate"][1]}, 1e-2)
    (alone,) = method.train(method.sent_to(4, server), [first], [4], 2)
    list(method.train(method.sent_to(2, server), [method.personal(2)], [2], 2))
    received = method.sent_to(4, server)
    assert len(received["experts"]) == 0
    (after,) = method.train(received, [method.personal(4)], [4], 2)
    assert same(alone.shared, after.shared)
    assert same(alone.personal, after.personal)
    # without experts, no gradient reaches the gate
    quiet = bind(sample_build, "pfedmoap", weight_decay=0.0)
    (update,) = quiet.train(quiet.sent_to(4, server), [first], [4], 1)
    assert same({k: update.personal[k] for k in GATE}, {k: first[k] for k in GATE})


def test_rates_are_the_settings_and_do_not_depend_on_who_trained_before(sample_build: Path) -> None:
    """In the authors' code --lr has no effect, and one schedule is stepped by all clients."""
    moved = {}
    for lr in (0.001, 0.01):
        method = bind(sample_build, "pfedmoap", lr=lr, weight_decay=0.0)
        server = pooled(method)
        for before in ((), (0, 1, 2)):
            for client in before:
                list(method.train(method.sent_to(client, server), [method.personal(client)], [client], 1))
            (update,) = method.train(method.sent_to(5, server), [method.personal(5)], [5], 1)
            moved[lr, before] = update
    for lr in (0.001, 0.01):
        assert same(moved[lr, ()].shared, moved[lr, (0, 1, 2)].shared)
        assert same(moved[lr, ()].personal, moved[lr, (0, 1, 2)].personal)
    small, large = (float((moved[lr, ()].shared["context"] - server["context"]).norm()) for lr in (0.001, 0.01))
    assert large > 3 * small


def test_only_the_prompt_leaves_a_client(sample_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted with a text encoder 512 wide: 8,192 floats up, at most K times as many down."""
    monkeypatch.setattr(clip, "load", lambda _spec, _device: small_clip(512))
    method = bind(sample_build, "pfedmoap", experts=5, epochs=1, gate_width=16)
    server = pooled(method)
    received = method.sent_to(2, server)
    assert sent(received)[0] == 5 * 8_192
    assert sent(method.sent_to(4, server))[0] == 8_192
    (update,) = method.train(received, [method.personal(2)], [2], 1)
    assert sent(update.shared) == (8_192, 4 * 8_192)
    assert update.shared["context"].untyped_storage().nbytes() == update.shared["context"].nbytes
    assert {k: v.numel() for k, v in update.personal.items() if k in GATE} == {"gate": 4 * 16 * 16, "offset": 4 * 16}


def test_clients_are_judged_with_their_own_last_prompt_or_the_mean(sample_build: Path) -> None:
    method = bind(sample_build, "pfedmoap", lr=0.05, gate_lr=0.05, epochs=2, batch=8)
    server, own = method.shared(), {client: method.personal(client) for client in range(10)}
    for round_, clients in ((1, (0, 2, 5)), (2, (2, 5, 6))):
        updates = [next(method.train(method.sent_to(c, server), [own[c]], [c], round_)) for c in clients]
        own |= {update.client: update.personal for update in updates}
        server = method.aggregate(server, [replace(update, weight=float(update.rows)) for update in updates])
    found = method.evaluate(server, own.__getitem__, "test")
    kinds = set()
    for client in range(10):
        images, labels = plain_images(method, client, "test")
        if not len(labels):
            continue
        kept = client in (0, 2, 5, 6)
        prompt = server["pool"][client] if kept else server["context"]
        experts = method.sent_to(client, server)["experts"]
        assert len(experts) == (3 if kept else 0)
        logits = plain_logits(method, {"context": prompt, **own[client]}, experts, images)
        accurate = 100 * float((logits.argmax(1) == labels).float().mean())
        assert found.clients["local"][client] == pytest.approx(accurate)
        kinds.add(kept)
    assert kinds == {True, False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(method), "at_once", 3)
        assert method.evaluate(server, own.__getitem__, "test") == found, "images are judged some at a time"
    rows = method.images.rows("test")
    text = method.base.under(server["context"][None])[0]
    hits = (rows.images @ text.T).argmax(1) == rows.labels
    assert found.metrics["shared"] == pytest.approx(100 * float(hits.float().mean()))


def test_a_prompt_of_the_pool_is_encoded_once_and_to_the_same_bits(sample_build: Path) -> None:
    method = bind(sample_build, "pfedmoap", epochs=2, batch=4, experts=4)
    server, encoded = pooled(method), []
    under = type(method.base).under

    def counted(self: Any, context: torch.Tensor) -> torch.Tensor:
        if not context.requires_grad:
            encoded.append(context[0])
        return under(self, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(method.base), "under", counted)
        for client in (0, 1, 2, 3):
            list(method.train(method.sent_to(client, server), [method.personal(client)], [client], 1))
        assert len(encoded) <= 8, "at most once a prompt, whatever steps, clients and experts there are"
        before = len(encoded)
        for client in (0, 1, 2, 3):
            list(method.train(method.sent_to(client, server), [method.personal(client)], [client], 2))
        assert len(encoded) == before
    prompts = method.sent_to(0, server)["experts"]
    kept = method._encoded(prompts, method.base)
    assert torch.equal(kept, bind(sample_build, "pfedmoap")._encoded(prompts.flip(0), method.base).flip(0))
    few = bind(sample_build, "pfedmoap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedtrain.methods.pfedmoap._KEPT", 2)
        assert torch.equal(few._encoded(prompts, method.base), kept)
        assert len(few._texts) == 2


def test_base_to_novel_encodes_experts_under_the_names_of_either(tmp_path: Path) -> None:
    path = sampled(tmp_path / "fed", "sample.per_class=5", "clients=4", "base_to_novel=true").path
    method = bind(path, "pfedmoap", lr=0.05, epochs=1)
    server, own = method.shared(), [method.personal(client) for client in range(4)]
    updates = [next(method.train(method.sent_to(c, server), [own[c]], [c], 1)) for c in range(4)]
    server = method.aggregate(server, updates)
    found = method.evaluate(server, [update.personal for update in updates].__getitem__, "test")
    rows = method.images.rows("novel")
    for client, update in enumerate(updates):
        texts = [
            method.novel.under(p[None])[0]
            for p in (update.shared["context"], *method.sent_to(client, server)["experts"])
        ]
        assert len(texts) == 4
        hits = method.logits(rows.images, torch.stack(texts), update.personal).argmax(1) == rows.labels
        assert found.clients["novel"][client] == pytest.approx(100 * float(hits.float().mean()))


def test_a_loss_over_a_clients_own_classes_encodes_experts_under_these(sample_build: Path) -> None:
    method = bind(sample_build, "pfedmoap", loss_over="own", epochs=1, batch=400)
    server, client = pooled(method), 2
    received = method.sent_to(client, server)
    (update,) = method.train(received, [method.personal(client)], [client], 1)
    images, labels = plain_images(method, client, "train")
    places = sorted(set(labels.tolist()))
    assert len(places) < len(method.base)
    state = {"context": received["context"], **method.personal(client)}
    logits = plain_logits(method, state, received["experts"], images)[:, places]
    wanted = functional.cross_entropy(logits, torch.tensor([places.index(label) for label in labels.tolist()]))
    assert update.rows == len(labels)
    assert update.loss == pytest.approx(wanted.item(), abs=1e-4)


@pytest.mark.parametrize("score", ["sigmoid", "pair"])
def test_several_labels_are_judged_as_the_plain_formulation_does(flair: Path, score: str) -> None:
    method = bind(flair, "pfedmoap", lr=0.05, gate_lr=0.05, epochs=1, score=score)
    server, own = method.shared(), [method.personal(client) for client in range(10)]
    for round_ in (1, 2):
        clients = [client for client, rows in enumerate(method.context.rows) if rows][:4]
        updates = [next(method.train(method.sent_to(c, server), [own[c]], [c], round_)) for c in clients]
        for update in updates:
            own[update.client] = update.personal
        server = method.aggregate(server, updates)
    other = "negative" if score == "pair" else "bias"
    assert set(method.sent_back(server)) == set(updates[0].shared) == {"context", other}
    assert same({other: own[clients[0]][f"last.{other}"]}, {other: updates[0].shared[other]})
    scores = method.scores(server, own.__getitem__, "test")
    rows = method.images.rows("test")
    for client in (clients[0], 9):
        names = method.sent_back(server)
        state = {name: own[client][f"last.{name}"] for name in names} if client in clients else names
        experts = method.sent_to(client, server)["experts"]
        logits = plain_logits(
            method, {**state, **{k: own[client][k] for k in GATE}}, experts, rows.images[rows.of(client)]
        )
        logits = logits + state["bias"] if score == "sigmoid" else logits
        assert torch.allclose(scores["answers"][scores["owner"] == client], logits.sigmoid(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"experts": 0}, "experts=0 should be at least 1"),
        ({"gate_width": 24}, "gate_width=24 should divide the 32 channels of clip small"),
        ({"heads": 3}, "heads=3 should divide the 32 channels of the gate"),
        ({"scaling": 0.0}, "scaling=0.0"),
        ({"gate_lr": -1.0}, "gate_lr=-1.0"),
        ({"lam": -0.1}, "lam=-0.1 should be at least 0"),
    ],
)
def test_settings_without_a_gate_are_refused(sample_build: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        bind(sample_build, "pfedmoap", **settings)
