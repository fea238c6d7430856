"""FedLGT's local training, piece by piece; names of tests say which defect of public code they rule out."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.errors import UsageError
from fedrsic_data.sources.locate import Places
from fedtrain.methods.base import Context, State
from fedtrain.methods.fedavg import FedAvg
from fedtrain.methods.fedlgt import FedLGT, known_labels, states_of, uncertain, unknown_loss
from fedtrain.methods.networks import album
from fedtrain.methods.networks.network import Loss
from fedtrain.models.clip import load
from fedtrain.models.label_text import embed, told
from fedtrain.models.label_transformer import NEGATIVE, POSITIVE, UNKNOWN


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_known_labels_are_between_none_and_three_quarters() -> None:
    known = known_labels(4000, 17, 0.75, draws())
    counts = known.sum(1)
    assert counts.min() == 0
    assert counts.max() == 12
    assert torch.bincount(counts).float() / 4000 == pytest.approx([1 / 13] * 13, abs=0.02)  # k is uniform
    assert known.float().mean(0) == pytest.approx([6 / 17] * 17, abs=0.03)  # and so is which labels


def test_known_labels_differ_between_the_images_of_a_batch() -> None:
    known = known_labels(8, 80, 0.75, draws())
    assert len({tuple(row.tolist()) for row in known}) == 8
    assert torch.equal(known, known_labels(8, 80, 0.75, draws()))
    assert not torch.equal(known, known_labels(8, 80, 0.75, draws(1)))


def test_no_label_is_known_without_masks() -> None:
    assert not known_labels(5, 17, 0.0, draws()).any()


def test_states_are_positive_where_true_and_negative_where_not() -> None:
    targets = torch.tensor([[True, False, True, False]])
    known = torch.tensor([[True, True, False, False]])
    assert states_of(targets, known).tolist() == [[POSITIVE, NEGATIVE, UNKNOWN, UNKNOWN]]


def test_unsure_is_near_a_half_inclusive() -> None:
    p = torch.tensor([0.47, 0.4801, 0.5, 0.5199, 0.53])
    assert uncertain(p, 0.02).tolist() == [False, True, True, True, False]
    assert not uncertain(torch.tensor([0.499]), 0.0).any()


def test_masking_touches_every_image_of_a_batch_and_only_ever_hides() -> None:
    known = known_labels(16, 17, 0.75, draws())
    unsure = torch.rand(16, 17, generator=draws(1)) < 0.5
    after = known & ~unsure
    assert not (after & ~known).any()  # an unknown label never becomes a known one
    changed = (after != known).any(1)
    assert changed.sum() >= 12  # all images that had a known label the guide was unsure of
    assert torch.equal(changed, (known & unsure).any(1))


def test_the_loss_is_summed_over_unknown_labels_of_all_images() -> None:
    logits = torch.randn(3, 5, generator=draws(), requires_grad=True)
    targets = torch.rand(3, 5, generator=draws(1)) < 0.5
    known = torch.rand(3, 5, generator=draws(2)) < 0.5
    loss = unknown_loss(logits, targets, known)
    by_hand = sum(
        F.binary_cross_entropy_with_logits(logits[b, c], targets[b, c].float())
        for b in range(3)
        for c in range(5)
        if not known[b, c]
    )
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert torch.equal(logits.grad != 0, ~known)
    weights = torch.tensor([2.0, 0, 0, 0, 0])
    weighted = unknown_loss(logits, targets, known, weights)
    first = unknown_loss(logits[:, :1], targets[:, :1], known[:, :1])
    torch.testing.assert_close(weighted, 2 * first)


@pytest.fixture(scope="module")
def flair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of 12 users."""
    data = recipes.override(recipes.load("flair"), sample=True, sets=["sample.users=12"])
    planned = pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))
    return pipeline.build(planned, tmp_path_factory.mktemp("flair") / "flair").path


def bound(path: Path, method: type = FedLGT, seed: int = 0, **settings: object) -> FedLGT:
    subset = Dataset(path).subset("flair")
    rows = tuple(subset.client(client).rows("train") for client in subset.clients)
    context = Context(subset, subset.clients, rows, seed, torch.device("cpu"), cache=path.parent / "cache")
    return method(context, method.Settings(**{"epochs": 1, "max_images": 2, **settings}))


def some(method: FedLGT | FedAvg, count: int = 3) -> list[int]:
    rows = method.context.rows
    return sorted(range(len(rows)), key=lambda client: -rows[client])[:count]


def rounds(method: FedLGT, count: int, clients: list[int] | None = None) -> tuple[State, list[float]]:
    shared, losses = method.shared(), []
    for round_ in range(1, count + 1):
        updates = list(method.train(shared, [], clients or some(method, 2), round_))
        total = sum(update.rows for update in updates)
        shared = {name: sum(u.shared[name] * (u.rows / total) for u in updates) for name in shared}
        losses.append(sum(update.loss for update in updates))
    return shared, losses


@pytest.mark.parametrize(
    "settings", [{}, {"ule": "none", "ca_mle": False}, {"labels": "fine"}, {"ule": "avg"}], ids=str
)
def test_loss_falls_and_figures_are_finite(flair: Path, settings: dict[str, object]) -> None:
    method = bound(flair, lr=1e-3, flip=False, label_masks=False, **settings)
    shared, losses = rounds(method, 3)
    assert losses[-1] < losses[0]
    found = method.evaluate(shared, dict, "test")
    assert 0 < found.metrics["C-AP"] <= 100
    assert sum(found.rows) == Dataset(flair).manifest.subsets["flair"].rows["test"]
    held = [value for value, n in zip(found.clients["O-F1 of clients"], found.rows, strict=True) if n]
    assert all(0 <= value <= 100 for value in held)


def test_the_baseline_learns_too_and_fedprox_holds_it_back(flair: Path) -> None:
    plain, near = (bound(flair, FedAvg, lr=1e-3, epochs=3, mu=mu) for mu in (0.0, 100.0))
    start = plain.shared()
    moved = [float((rounds(m, 1)[0]["parameters"] - start["parameters"]).norm()) for m in (plain, near)]
    assert moved[1] < moved[0]
    losses = rounds(bound(flair, FedAvg, lr=3e-4, flip=False), 5)[1]
    assert losses[-1] < losses[0]


def test_updates_do_not_depend_on_who_else_is_in_the_cohort(flair: Path) -> None:
    method = bound(flair)
    one, other, third = some(method)
    start = method.shared()
    together = {u.client: u for u in method.train(start, [], [one, other, third], 1)}
    alone = next(iter(method.train(start, [], [third], 1)))
    again = next(iter(bound(flair).train(start, [], [third], 1)))
    for name in start:
        assert torch.equal(together[third].shared[name], alone.shared[name])
        assert torch.equal(again.shared[name], alone.shared[name])
    later = next(iter(method.train(start, [], [third], 2)))
    assert not torch.equal(later.shared["parameters"], alone.shared["parameters"])


def test_the_guide_is_in_evaluation_mode_and_leaves_no_trace(flair: Path) -> None:
    network = bound(flair)
    network.module.train()
    before = network.flat.state()
    counters = [m.num_batches_tracked.clone() for m in network.module.modules() if hasattr(m, "num_batches_tracked")]
    modes: list[bool] = []
    network.module.backbone.bn1.register_forward_hook(lambda module, *_: modes.append(module.training))
    first = network.judge(network.album.client(some(network)[0]).images)
    assert modes == [False]
    assert network.module.training
    assert all(torch.equal(network.flat.state()[name], before[name]) for name in before)
    assert [
        int(m.num_batches_tracked) for m in network.module.modules() if hasattr(m, "num_batches_tracked")
    ] == counters
    assert torch.equal(first, network.judge(network.album.client(some(network)[0]).images))


def test_the_guide_is_the_servers_model_of_this_round(flair: Path) -> None:
    method = bound(flair, margin=0.49)  # nearly every label is unsure
    seen: list[torch.Tensor] = []
    judge = method.judge

    def spy(images: torch.Tensor) -> torch.Tensor:
        seen.append(method.flat.parameters.detach().clone())
        return judge(images)

    method.judge = spy  # type: ignore[method-assign]
    start = method.shared()
    list(method.train(start, [], some(method), 1))
    assert len(seen) == 3
    assert all(torch.equal(parameters, start["parameters"]) for parameters in seen)  # once a client, before training


def test_the_last_partial_batch_counts(flair: Path) -> None:
    method = bound(flair, batch=3, max_images=4)
    client = some(method, 1)[0]
    steps: list[int] = []
    method.module.register_forward_hook(lambda _m, arguments, _o: steps.append(len(arguments[0])))
    update = next(iter(method.train(method.shared(), [], [client], 1)))
    assert steps == [4, 3, 1]  # the guide on all, then two steps
    assert update.rows == 4


def test_neither_frozen_tables_nor_counters_travel(flair: Path) -> None:
    frozen, learned = bound(flair), bound(flair, ule="none")
    network = frozen.module
    trained = sum(p.numel() for p in network.parameters())
    statistics = sum(m.running_mean.numel() * 2 for m in network.modules() if hasattr(m, "running_mean"))
    update = next(iter(frozen.train(frozen.shared(), [], some(frozen, 1), 1)))
    assert {name: value.numel() for name, value in update.shared.items()} == {
        "parameters": trained,
        "statistics": statistics,
    }
    assert all(value.is_floating_point() for value in update.shared.values())
    assert update.personal == {}
    table = len(frozen.names) * network.states.shape[1]
    assert learned.shared()["parameters"].numel() == trained + table


def test_statistics_stay_with_frozen_batch_norm(flair: Path) -> None:
    method = bound(flair, frozen_bn=True)
    start = method.shared()
    update = next(iter(method.train(start, [], some(method, 1), 1)))
    assert torch.equal(update.shared["statistics"], start["statistics"])
    assert not torch.equal(update.shared["parameters"], start["parameters"])


def backbone_of(method: FedLGT | FedAvg, state: State) -> torch.Tensor:
    """What a state has for the backbone: parameters and statistics."""
    method.flat.load(state)
    return torch.cat([v.reshape(-1).clone() for n, v in method.module.backbone.state_dict().items() if "num" not in n])


@pytest.mark.parametrize("kind", [FedLGT, FedAvg])
def test_a_frozen_backbone_keeps_its_weights_and_statistics_for_so_many_rounds(flair: Path, kind: type) -> None:
    method = bound(flair, kind, freeze_backbone=1)
    start, client = method.shared(), some(method, 1)
    one = next(iter(method.train(start, [], client, 1))).shared
    assert torch.equal(backbone_of(method, one), backbone_of(method, start))
    assert not torch.equal(one["parameters"], start["parameters"])  # the rest learns
    two = next(iter(method.train(one, [], client, 2))).shared
    assert not torch.equal(two["statistics"], one["statistics"])
    assert not torch.equal(backbone_of(method, two), backbone_of(method, one))
    plain = bound(flair, kind)  # from then on as if it had never been frozen
    assert torch.equal(next(iter(plain.train(one, [], client, 2))).shared["parameters"], two["parameters"])


@pytest.mark.parametrize("settings", [{}, {"mu": 0.1}], ids=str)
def test_a_backbone_frozen_for_good_does_not_travel(flair: Path, settings: dict[str, float]) -> None:
    kind = FedAvg if settings else FedLGT
    method, whole = bound(flair, kind, freeze_backbone="always", **settings), bound(flair, kind)
    start = method.shared()
    before = backbone_of(method, start)
    update = next(iter(method.train(start, [], some(method, 1), 1)))
    trunk = sum(p.numel() for p in method.module.backbone.parameters())
    assert {n: len(v) for n, v in update.shared.items()} == {"parameters": len(whole.shared()["parameters"]) - trunk}
    assert not torch.equal(update.shared["parameters"], start["parameters"])
    assert torch.equal(backbone_of(method, update.shared), before)
    assert method.evaluate(update.shared, dict, "test").metrics["C-AP"] > 0


def test_the_backbone_has_a_learning_rate_of_its_own(flair: Path) -> None:
    """Adam's first step is its rate long, whatever the gradient."""
    method = bound(flair, lr=1e-3, backbone_lr=1e-5, batch=16)
    start = method.shared()
    update = next(iter(method.train(start, [], some(method, 1), 1))).shared
    moved = (update["parameters"] - start["parameters"]).abs()
    method.flat.parameters.data.copy_(moved)
    named = dict(method.module.named_parameters())
    steps = {n: float(v.detach().max()) for n, v in named.items() if v.detach().max() > 0}
    assert {f"{v:.0e}" for n, v in steps.items() if n.startswith("backbone.")} == {"1e-05"}
    assert {f"{v:.0e}" for n, v in steps.items() if not n.startswith("backbone.")} == {"1e-03"}
    same = bound(flair, lr=1e-3, backbone_lr=1e-3, batch=16)
    both = [next(iter(m.train(start, [], some(m, 1), 1))).shared for m in (same, bound(flair, lr=1e-3, batch=16))]
    torch.testing.assert_close(both[0]["parameters"], both[1]["parameters"], rtol=0, atol=1e-6)


def test_clients_that_receive_other_networks_are_judged_with_those(flair: Path) -> None:
    class Apart(FedAvg):
        """The more, the higher a client's number."""

        def sent_to(self, client: int, server: State) -> State:
            return {**server, "parameters": server["parameters"] * (1 + client)}

    server, method = bound(flair, FedAvg), bound(flair, Apart)
    shared = method.shared()
    found, scores = method.evaluate(shared, lambda _: {}, "test"), method.scores(shared, lambda _: {}, "test")
    assert scores["owner"].unique().tolist() == [n for n, rows in enumerate(found.rows) if rows]
    for client in scores["owner"].unique().tolist():
        sent = method.sent_to(client, shared)
        alone = dataclasses.replace(
            method.context, subset=method.context.subset.part([method.context.clients[client]]), numbers=(client,)
        )
        site = Apart(dataclasses.replace(alone, clients=(method.context.clients[client],)), method.settings)
        mine = scores["scores"][scores["owner"] == client]
        assert torch.allclose(mine, site.scores(sent, lambda _: {}, "test")["scores"], atol=1e-6)
        if client:
            assert not torch.allclose(
                mine, server.scores(shared, lambda _: {}, "test")["scores"][scores["owner"] == client]
            )


def test_images_that_do_not_fit_the_memory_are_decoded_again(flair: Path) -> None:
    kept, never = bound(flair), bound(flair, memory=0)
    assert not never.album._kept
    one, other = (rounds(m, 2)[0] for m in (kept, never))
    assert torch.equal(one["parameters"], other["parameters"])
    assert kept.album._kept
    assert not never.album._kept


def test_the_next_client_is_decoded_while_one_trains(flair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, clients = bound(flair), []
    second, loss, pictures = threading.Event(), method.loss, method.pictures

    def decoded(client: int, round_: int) -> album.Pictures:
        if clients:
            second.set()
        clients.append(client)
        return pictures(client, round_)

    def waiting(*given: Any) -> Loss:
        assert second.wait(60)
        return loss(*given)

    monkeypatch.setattr(method, "pictures", decoded)
    monkeypatch.setattr(method, "loss", waiting)
    first = next(method.train(method.shared(), [], some(method), 1))
    assert first.client == some(method)[0]
    assert clients == some(method)[: len(clients)]
    assert len(clients) <= 3, "no more than one client is decoded ahead"


def test_what_fails_ahead_fails_where_it_is_used() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    items = album.ahead(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
    assert list(album.ahead(iter(()))) == []


def test_large_batches_lie_channels_last_on_a_cpu() -> None:
    small, large = (torch.full((count, 3, 256, 256), 7, dtype=torch.uint8) for count in (7, 8))
    assert album.normalised(small).is_contiguous()
    assert album.normalised(large).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(album.normalised(large)[:7], album.normalised(small))


def test_a_split_that_fits_the_memory_is_read_once(flair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = bound(flair).album
    first = [part.owner.tolist() for part in pictures.split("test")]
    monkeypatch.setattr(pictures, "_tables", lambda _: pytest.fail("the shards are read again"))
    assert [part.owner.tolist() for part in pictures.split("test")] == first


def test_a_part_that_is_kept_takes_its_room_once(flair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(album, "_CHUNK", 7)
    whole = bound(flair).album
    sizes = [part.images.numel() for part in whole.split("test")]
    assert sizes[0] > min(sizes), "the first does not fit, a later one does"
    small = bound(flair, memory=2 * min(sizes)).album
    for _ in range(3):
        assert [part.images.numel() for part in small.split("test")] == sizes
        assert small._left == 2 * min(sizes) - sum(part.images.numel() for part in small._kept.values())
    assert small._kept


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"heads": 7}, "heads=7"),
        ({"known": 1.0}, "known=1.0"),
        ({"margin": 0.5}, "margin=0.5"),
        ({"image_size": 32}, "image_size=32"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"backbone_lr": 0.0}, "backbone_lr=0.0"),
        ({"freeze_backbone": -1}, "freeze_backbone=-1"),
        ({"freeze_backbone": "always", "backbone_lr": 1e-5}, "backbone_lr=1e-05"),
        ({"labels": "fine", "ule": "concat"}, "ule=concat"),
        ({"backbone_weights": "/nowhere.safetensors"}, "backbone_weights=/nowhere.safetensors"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(flair: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        bound(flair, **settings)


def test_label_texts_name_the_most_frequent_fine_labels(flair: Path) -> None:
    entry = Dataset(flair).manifest.subsets["flair"]
    assert entry.fine is not None
    clip = load("tiny")
    texts = dict(zip(entry.classes, told(entry, "coarse", "concat", clip), strict=True))
    counts = {n: c for n, p, c in zip(*vars(entry.fine).values(), strict=True) if p == "trees" and c}
    top = max(counts, key=lambda name: (counts[name], name))
    assert texts["trees"][0].startswith(f"The photo contains {top.replace('_', ' ')}")
    averaged = dict(zip(entry.classes, told(entry, "coarse", "avg", clip), strict=True))
    assert len(averaged["trees"]) == len(counts)
    labels, states = embed(clip, list(texts.values()), None)
    assert labels.norm(dim=1) == pytest.approx(torch.ones(17), abs=1e-5)
    assert states[0].abs().sum() == 0
    assert states[1:].norm(dim=1) == pytest.approx(torch.ones(2), abs=1e-5)
