"""The baselines of tables, each beside its plain formulation: all rows together, and local steps before judging."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import sampled
from prompt_federation import bind, plain_images, plain_texts, same, trained
from torch.nn import functional

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.errors import UsageError
from fedrsic_data.sources.locate import Places
from fedtrain import run
from fedtrain.config import RunConfig
from fedtrain.methods.base import State

pytestmark = pytest.mark.usefixtures("random_clip")


@pytest.fixture(scope="module")
def multi_label(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of ten users."""
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=10", "sample.size=32"])
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    return pipeline.build(planned, tmp_path_factory.mktemp("baselines") / "flair").path


def a_round(method: Any, server: State, round_: int) -> State:
    """The server's state after a round with all clients."""
    clients = [client for client, rows in enumerate(method.context.rows) if rows]
    updates = list(method.train(server, [method.personal(client) for client in clients], clients, round_))
    return dict(method.aggregate(server, updates))


def plain_sgd(method: Any, context: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, table: Any) -> Any:
    """A context after SGD on cross-entropy, every text encoded anew at every step."""
    s, names = method.settings, method.context.subset.classes
    context = context.clone().requires_grad_()
    optimiser = torch.optim.SGD([context], s.lr, s.momentum, weight_decay=s.weight_decay)
    for rows in table:
        part = rows[rows >= 0]
        optimiser.zero_grad()
        logits = method.clip.model.logit_scale.exp() * images[part] @ plain_texts(method, context, names).T
        functional.cross_entropy(logits, labels[part]).backward()
        optimiser.step()
    return context.detach()


def test_centralised_is_sgd_on_the_rows_of_all_clients_for_as_many_steps_as_they_take(sample_build: Path) -> None:
    method = bind(sample_build, "centralised", lr=0.05, batch=8, epochs=1)
    rows = method.context.rows
    parts = [plain_images(method, client, "train") for client in range(len(rows))]
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    steps = sum(-(-count // 8) for count in rows)
    assert steps > -(-sum(rows) // 8), "clients with few rows take more steps than the rows together would"
    server = method.shared()
    for round_ in (1, 2, 3):
        plan = method.planned(torch.arange(len(images)), 2, "centralised", round_ - 1)
        epoch = -(-len(images) // 8)
        assert sorted(plan.rows[:epoch][plan.rows[:epoch] >= 0].tolist()) == list(range(len(images)))
        wanted = plain_sgd(method, server["context"], images, labels, plan.rows[:steps])
        server = a_round(method, server, round_)
        assert torch.allclose(server["context"], wanted, rtol=0, atol=1e-5)
    assert int(server["round"]) == 3


def test_centralised_takes_the_steps_of_the_clients_that_were_drawn_over_all_rows(
    sample_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = bind(sample_build, "centralised", batch=4, epochs=2)
    seen: list[Any] = []
    learned = type(method).learned
    monkeypatch.setattr(type(method), "learned", lambda *given: seen.append(given[3][0].rows) or learned(*given))
    clients = [0, 3]
    server = method.shared()
    method.aggregate(server, method.train(server, [{}, {}], clients, 1))
    (table,) = seen
    assert len(table) == sum(2 * -(-method.context.rows[client] // 4) for client in clients)
    assert table.max() > sum(method.context.rows[:4]), "and rows of the others are among them"


def test_centralised_sends_nothing_and_gives_the_loss_before_the_round(sample_build: Path) -> None:
    method = bind(sample_build, "centralised")
    server = method.shared()
    (update,) = method.train(server, [{}], [2], 1)
    images, labels = plain_images(method, 2, "train")
    text = plain_texts(method, server["context"], method.context.subset.classes)
    wanted = functional.cross_entropy(method.clip.model.logit_scale.exp() * images @ text.T, labels)
    assert update.shared == update.personal == method.sent_back(server) == {}
    assert update.loss == pytest.approx(float(wanted), abs=1e-4)


def test_centralised_is_better_on_its_rows_after_some_rounds(sample_build: Path, tmp_path: Path) -> None:
    config = RunConfig(
        "centralised",
        str(sample_build),
        "fed-ucmerced",
        rounds=4,
        device="cpu",
        method_settings={"epochs": 1, "lr": 0.05},
    )
    data = run.train(config, tmp_path / "run").data
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert data["counters"]["bytes"] == 0
    assert data["figures"]["test/pooled"] == data["figures"]["test/shared"]


def test_losses_over_own_classes_are_for_clients_and_not_for_rows_together(sample_build: Path) -> None:
    with pytest.raises(UsageError, match="loss_over=own: the rows of all clients are in one batch here; use"):
        bind(sample_build, "centralised", loss_over="own")
    own, everything = (
        bind(sample_build, "finetuned", loss_over=over, tune_epochs=1, lr=0.1) for over in ("own", "all")
    )
    shared = own.shared()
    client = next(k for k in range(len(own.context.rows)) if 1 < len(own.own_classes(k)) < len(own.base))
    (wanted,) = bind(sample_build, "promptfl", loss_over="own", lr=0.1).learned(
        shared, [{}], [own.plan(client, 1, "tuned")], own.optimiser, own.own_classes(client)
    )
    assert same(own.judged(client, shared, {}), wanted[0])
    assert not same(everything.judged(client, shared, {}), wanted[0], 1e-4)


def test_finetuned_trains_as_promptfl_and_judges_each_client_after_steps_of_its_own(sample_build: Path) -> None:
    settings = {"lr": 0.05, "batch": 8, "epochs": 1}
    method = bind(sample_build, "finetuned", tune_epochs=2, tune_lr=0.02, **settings)
    shared, own, _ = trained(method, 1)
    assert same(shared, trained(bind(sample_build, "promptfl", **settings), 1)[0])
    found = method.evaluate(shared, own, "test")
    promptfl = bind(sample_build, "promptfl", **settings).evaluate(shared, own, "test")
    assert found.metrics["shared"] == promptfl.metrics["shared"]
    names, stepped = method.context.subset.classes, dataclasses.replace(method.settings, lr=0.02)
    rows = method.images.rows("train")
    for client in range(len(method.context.rows)):
        images, labels = plain_images(method, client, "train")
        table = method.plan(client, 2, "tuned").rows
        table = torch.where(table >= 0, table - rows.of(client).start, table)
        method.settings, before = stepped, method.settings
        context = plain_sgd(method, shared["context"], images, labels, table)
        method.settings = before
        assert torch.allclose(method.judged(client, shared, {})["context"], context, rtol=0, atol=1e-5)
        test, truth = plain_images(method, client, "test")
        right = (test @ plain_texts(method, context, names).T).argmax(1) == truth
        assert found.clients["local"][client] == pytest.approx(100 * float(right.double().mean()), nan_ok=True)


def test_finetuned_without_steps_is_promptfl(sample_build: Path) -> None:
    settings = {"lr": 0.05, "epochs": 1}
    plain = bind(sample_build, "promptfl", **settings)
    shared, own, _ = trained(plain, 1)
    found = bind(sample_build, "finetuned", tune_epochs=0, **settings).evaluate(shared, own, "test")
    wanted = plain.evaluate(shared, own, "test")
    assert found.metrics == wanted.metrics
    assert found.clients["local"] == pytest.approx(wanted.clients["local"], nan_ok=True)


def test_finetuned_keeps_nothing_and_tunes_once_for_all_that_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = sampled(tmp_path / "novel", "clients=3", "sample.per_class=4", "base_to_novel=true").path
    method = bind(built, "finetuned", epochs=1, tune_epochs=1, lr=0.05)
    calls: list[int] = []
    learned = type(method).learned
    monkeypatch.setattr(type(method), "learned", lambda *given: calls.append(len(given[3])) or learned(*given))
    shared = method.shared()
    first = method.evaluate(shared, method.personal, "test")
    method.evaluate(shared, method.personal, "novel")
    assert sum(calls) == len(method.context.rows)
    assert {"local", "base", "novel"} <= first.clients.keys()
    assert "CM" in first.metrics
    again = {name: value.clone() for name, value in shared.items()}
    assert method.evaluate(again, method.personal, "test").clients == first.clients
    assert method.personal(0) == {}
    assert sum(calls) == 2 * len(method.context.rows)


def test_finetuned_stacks_and_single_clients_agree(sample_build: Path) -> None:
    one, many = (bind(sample_build, "finetuned", tune_epochs=1, lr=0.05, batch=4) for _ in range(2))
    many.stack = 16
    shared = one.shared()
    for client in range(len(one.context.rows)):
        assert same(one.judged(client, shared, {}), many.judged(client, shared, {}), 1e-5)


def test_finetuned_leaves_a_client_without_training_rows_the_shared_context(sample_build: Path) -> None:
    method = bind(sample_build, "finetuned", tune_epochs=1)
    method.context = dataclasses.replace(method.context, rows=(0, *method.context.rows[1:]))
    shared = method.shared()
    assert same(method.judged(0, shared, {}), shared)
    assert not same(method.judged(1, shared, {}), shared)


@pytest.mark.parametrize("name", ["centralised", "finetuned"])
def test_on_multi_label_data_the_bias_learns_too(multi_label: Path, name: str) -> None:
    method = bind(multi_label, name, epochs=1, lr=0.05, **({"tune_epochs": 1} if name == "finetuned" else {}))
    server = a_round(method, method.shared(), 1)
    assert not torch.equal(server["bias"], method.shared()["bias"])
    found = method.evaluate(server, method.personal, "test")
    assert all(not math.isnan(value) for key, value in found.metrics.items() if key in ("C-AP", "shared/C-AP"))
    if name == "finetuned":
        client = max(range(len(method.context.rows)), key=method.context.rows.__getitem__)
        assert not torch.equal(method.judged(client, server, {})["bias"], server["bias"])


@pytest.mark.parametrize("name", ["centralised", "finetuned"])
def test_views_are_drawn_for_each_step(sample_build: Path, name: str) -> None:
    method = bind(sample_build, name, views=2, epochs=1, lr=0.05)
    server = a_round(method, method.shared(), 1)
    assert not torch.equal(server["context"], method.shared()["context"])
    assert 0 <= method.evaluate(server, method.personal, "test").metrics["pooled"] <= 100


@pytest.mark.parametrize("name", ["centralised", "finetuned"])
def test_a_run_that_stops_goes_on_to_the_same(sample_build: Path, tmp_path: Path, name: str) -> None:
    settings = {"epochs": 1, "lr": 0.05} | ({"tune_epochs": 1} if name == "finetuned" else {})

    def go(out: str, rounds: int) -> bytes:
        config = RunConfig(
            name, str(sample_build), "fed-ucmerced", rounds=rounds, device="cpu", method_settings=settings
        )
        run.train(config, tmp_path / out)
        return (tmp_path / out / "metrics.jsonl").read_bytes()

    whole = go("whole", 3)
    go("parts", 1)
    assert go("parts", 3) == whole
