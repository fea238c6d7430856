"""What prompt methods do: they learn, keep to themselves what is theirs, repeat, and are judged by the protocols."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from conftest import sampled
from prompt_federation import PROMPTS, bind, judged, same, trained

from fedrsic_data.errors import UsageError
from fedtrain.methods import METHODS
from fedtrain.methods.base import State
from fedtrain.methods.labels import SingleLabel
from fedtrain.methods.prompts import inputs
from fedtrain.methods.prompts.judge import harmonic_means
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings
from fedtrain.metrics import accuracy, harmonic, mean

pytestmark = pytest.mark.usefixtures("random_clip")

PERSONAL = {
    "fedotp": {"own"},
    "fedpgp": {"u", "v"},
    "fedrsclip": {"private_prompt"},
    "local": {"context"},
    "promptfolio": {"local_prompt"},
}


@pytest.fixture(scope="module")
def novel_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 classes to train on, 10 never seen; four clients."""
    sets = ["sample.per_class=5", "clients=4", "base_to_novel=true"]
    return sampled(tmp_path_factory.mktemp("novel") / "fed", *sets).path


@pytest.fixture(scope="module")
def domains_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sensor a client."""
    sets = ["sample.per_class=4", "domain_mix=0.0", "clients=3", "splits.test=0.3"]
    return sampled(tmp_path_factory.mktemp("domains") / "fed", *sets, subset="fed-domains").path


@pytest.mark.parametrize("name", PROMPTS)
def test_a_method_learns(sample_build: Path, name: str) -> None:
    method = bind(sample_build, name, lr=0.05)
    shared, own, losses = trained(method, 4)
    assert losses[-1] < losses[0] - 0.1
    assert method.shared().keys() == shared.keys()
    assert set(own(0)) == PERSONAL.get(name, set())
    if shared:
        assert not same(shared, method.shared(), 1e-3)
    if name in PERSONAL:
        assert same(method.personal(0), method.personal(1))
        assert not same(own(0), own(1), 1e-4)
        assert not same(own(0), method.personal(0), 1e-4)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_round_repeats_bit_by_bit_in_any_order_of_clients(sample_build: Path, name: str) -> None:
    first, second = (bind(sample_build, name, lr=0.05) for _ in range(2))
    clients, back = [1, 5, 2], [2, 5, 1]
    shared = first.shared()
    given = {k: v.clone() for k, v in shared.items()}
    left = list(first.train(shared, [first.personal(c) for c in clients], clients, 1))
    right = list(second.train(second.shared(), [second.personal(c) for c in back], back, 1))
    assert same(shared, given), "the server's state was changed in place"
    for update, again in zip(left, reversed(right), strict=True):
        assert (update.client, update.rows, update.loss) == (again.client, again.rows, again.loss)
        assert same(update.shared, again.shared)
        assert same(update.personal, again.personal)


def test_another_round_draws_other_batches(sample_build: Path) -> None:
    method = bind(sample_build, "promptfl", lr=0.1, batch=2)
    (first,) = method.train(method.shared(), [{}], [0], 1)
    (second,) = method.train(method.shared(), [{}], [0], 2)
    assert not same(first.shared, second.shared, 1e-4)


@pytest.mark.parametrize("name", [*PROMPTS, "zeroshot"])
def test_base_to_novel_gives_every_figure_under_its_own_name(novel_build: Path, name: str) -> None:
    method = bind(novel_build, name)
    entry = method.context.subset.entry
    found = judged(method, 0 if name == "zeroshot" else 2)
    assert method.base.names + method.novel.names == entry.classes
    assert (len(method.base), len(method.novel)) == (11, 10)
    local, base, novel = (found.clients[key] for key in ("local", "base", "novel"))
    assert found.metrics["hm_base_novel"] == harmonic(mean(base), mean(novel))
    assert found.metrics["hm_local_base_novel"] == harmonic(mean(local), mean(base), mean(novel))
    assert found.metrics["CM"] == (mean(local) + harmonic(mean(base), mean(novel))) / 2
    own = [harmonic(*three) for three in zip(local, base, novel, strict=True)]
    assert found.metrics["mean_client_hm"] == pytest.approx(mean(own), nan_ok=True)
    assert ("shared" in found.metrics) == ("shared_novel" in found.metrics) == (name != "local")
    if name not in PERSONAL:
        assert set(base) == {found.metrics["shared"]}
        assert set(novel) == {found.metrics["shared_novel"]}
    apart = method.evaluate(method.shared(), method.personal, "novel")
    assert set(apart.clients) == {"novel"}
    assert sum(apart.rows) == entry.rows["novel"]


def test_novel_classes_are_judged_among_themselves_with_labels_from_0(novel_build: Path) -> None:
    method = bind(novel_build, "zeroshot")
    for split, names in (("train", method.base.names), ("test", method.base.names), ("novel", method.novel.names)):
        rows = method.images.rows(split)
        labels = method.context.subset.read(split, ["label"]).column("label").to_pylist()
        assert [names[i] for i in rows.labels.tolist()] == [method.context.subset.classes[i] for i in labels]
    rows, text = method.images.rows("novel"), method.novel.fixed("a photo of a {}.")
    wanted = ((rows.images @ text.T).argmax(1) == rows.labels).float().mean().item() * 100
    assert judged(method).metrics["shared_novel"] == pytest.approx(wanted)


@pytest.mark.parametrize("name", [*PROMPTS, "zeroshot"])
def test_a_held_out_domain_is_judged_apart(domains_build: Path, name: str) -> None:
    method = bind(domains_build, name, held_out="sample-ucmerced")
    found = judged(method, 0 if name == "zeroshot" else 1)
    idle = method.context.rows.index(0)
    assert found.rows[idle] == 0
    assert math.isnan(found.clients["local"][idle])
    assert 0 <= found.metrics["held_out_local"] <= 100
    apart = method.images.rows("test", held_out=True)
    assert apart.counts()[idle] == len(apart) > 0
    if name == "local":
        assert "held_out" not in found.metrics
        return
    shared, _, _ = trained(method, 0 if name == "zeroshot" else 1)
    text = method.shared_text(shared, method.base)
    hits = int((method.logits(apart.images, text, shared).argmax(1) == apart.labels).sum())
    assert found.metrics["held_out"] == pytest.approx(100 * hits / len(apart))


def test_fedpgp_is_sigma_and_a_low_rank_step(sample_build: Path) -> None:
    method = bind(sample_build, "fedpgp", rank=3, lr=0.1)
    shared, own, _ = trained(method, 2)
    assert shared["sigma"].shape == (16, 32)
    step = own(1)["u"] @ own(1)["v"]
    assert torch.linalg.matrix_rank(step) == 3
    state = {name: value[None] for name, value in {**shared, **own(1)}.items()}
    personal = method.text(state, method.base)[0]
    assert torch.allclose(personal, method.base.under((shared["sigma"] + step)[None])[0])
    assert not torch.allclose(personal, method.shared_text(shared, method.base), atol=1e-4)


def test_fedrsclip_keeps_its_prompts_together_when_told_to(sample_build: Path) -> None:
    def apart(weight: float) -> float:
        method = bind(sample_build, "fedrsclip", lr=0.02, dpa_weight=weight)
        shared, own, _ = trained(method, 3)
        left = method.base.under(shared["shared_prompt"][None])
        right = method.base.under(own(2)["private_prompt"][None])
        return float((1 - (left * right).sum(-1)).mean())

    assert apart(20.0) < 0.8 * apart(0.0)


@pytest.mark.parametrize(
    ("mix", "other", "same_as"),
    [(0.0, "promptfl", {"context": "global"}), (1.0, "local", {"context": "local"}), (0.5, "fedrsclip", None)],
)
def test_promptfolio_contains_other_methods(
    sample_build: Path, mix: float, other: str, same_as: dict[str, str] | None
) -> None:
    """No part of the own prompt is PromptFL, nothing else CoOp, and half FedRSCLIP without its constraints."""
    free = {} if same_as else {"dpa_weight": 0.0, "cma_weight": 0.0, "length": 16}
    fast = {"lr": 0.05, "batch": 4, "epochs": 1, "weight_decay": 0.0}
    folio, plain = bind(sample_build, "promptfolio", mix=mix, **fast), bind(sample_build, other, **fast, **free)
    start = {**folio.shared(), **folio.personal(1)}
    names = same_as or {"shared_prompt": "global", "private_prompt": "local"}
    given = {name: start[f"{part}_prompt"] for name, part in names.items()}
    shared = {name: given[name] for name in plain.shared()}
    own = {name: given[name] for name in plain.personal(1)}
    (left,) = folio.train(folio.shared(), [folio.personal(1)], [1], 1)
    (right,) = plain.train(shared, [own], [1], 1)
    found, wanted = {**left.shared, **left.personal}, {**right.shared, **right.personal}
    for name, part in names.items():
        assert torch.allclose(found[f"{part}_prompt"], wanted[name], rtol=0, atol=1e-5)
        assert not torch.allclose(found[f"{part}_prompt"], given[name], rtol=0, atol=1e-3)
    for part in {"global", "local"} - set(names.values()):
        assert torch.equal(found[f"{part}_prompt"], start[f"{part}_prompt"])
    state = {name: value[None] for name, value in {**found}.items()}
    text = folio.text(state, folio.base)
    assert text.norm(dim=-1).max() <= 1 + 1e-6
    if mix == 0.5:
        assert text.norm(dim=-1).min() < 0.999, "a mean of logits is not normalised again"


def test_kgcoop_keeps_texts_near_the_words(sample_build: Path) -> None:
    def away(weight: float) -> float:
        method = bind(sample_build, "kgcoop", lr=0.02, weight=weight)
        shared, _, _ = trained(method, 3)
        return float(
            (1 - (method.shared_text(shared, method.base) * method.base.fixed("a photo of a {}.")).sum(-1)).mean()
        )

    assert away(8.0) < away(0.0)


def test_clients_with_the_same_texts_classify_by_their_own_states(
    sample_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Adapter(PromptMethod[PromptSettings]):
        """Fixed texts, and a personal map of the images."""

        Settings = PromptSettings
        rounds: ClassVar[int] = 1
        has_personal: ClassVar[bool] = True

        def shared(self) -> State:
            return {}

        def personal(self, client: int) -> State:
            return {"map": torch.eye(32)}

        def text(self, state: State, classes: inputs.Classes) -> torch.Tensor:
            return classes.fixed("{}")[None]

        def shared_text(self, shared: State, classes: inputs.Classes) -> torch.Tensor | None:
            return None

        def logits(self, images: torch.Tensor, text: torch.Tensor, state: State) -> torch.Tensor:
            return super().logits(images @ state["map"], text, state)

    monkeypatch.setitem(METHODS, "adapter", Adapter)
    method = bind(sample_build, "adapter", lr=0.1)
    shared, own, _ = trained(method, 2)
    found = method.evaluate(shared, own, "test").clients["local"]
    rows, text = method.images.rows("test"), method.base.fixed("{}")
    for client, accurate in enumerate(found):
        mine = rows.of(client)
        hits = (rows.images[mine] @ own(client)["map"] @ text.T).argmax(1) == rows.labels[mine]
        assert accurate == pytest.approx(100 * float(hits.float().mean()), abs=1e-3, nan_ok=True)
    assert len(set(found)) > 2
    alone, stacked = [], []
    for stack, updates in ((1, alone), (8, stacked)):
        method.stack = stack
        updates += method.train({}, [method.personal(client) for client in range(3)], range(3), 1)
    for one, other in zip(alone, stacked, strict=True):
        assert same(one.personal, other.personal, 1e-5)


def test_shots_are_drawn_once_and_bound_each_class(sample_build: Path) -> None:
    method, again = (bind(sample_build, "promptfl", shots=2) for _ in range(2))
    rows = method.images.rows("train")
    fewer = False
    for client, count in enumerate(method.context.rows):
        mine = method.trained_rows(client)
        assert torch.equal(mine, again.trained_rows(client))
        before, after = (torch.bincount(rows.labels[at], minlength=21) for at in (rows.of(client), mine))
        assert torch.equal(after, before.clamp(max=2))
        fewer |= len(mine) < count
    assert fewer
    (update,) = method.train(method.shared(), [{}], [0], 1)
    assert update.rows == len(method.trained_rows(0))


def test_few_shot_takes_each_row_as_likely_as_any_other() -> None:
    labels = torch.tensor([0, 1, 0, 2, 0, 1])
    taken = torch.zeros(6)
    for seed in range(300):
        rows = SingleLabel().few_shot(labels, 1, torch.Generator().manual_seed(seed))
        assert labels[rows].sort().values.tolist() == [0, 1, 2]
        assert rows.tolist() == sorted(rows.tolist())
        taken[rows] += 1
    assert torch.allclose(taken / 300, torch.tensor([1 / 3, 1 / 2, 1 / 3, 1, 1 / 3, 1 / 2]), atol=0.1)


def test_harmonic_means_are_three() -> None:
    nan = math.nan
    found = harmonic_means([50, 100, nan], [50, 50, 50], [100, 20, 60])
    assert found["hm_base_novel"] == pytest.approx(2 / (1 / 50 + 1 / 60))
    assert found["hm_local_base_novel"] == pytest.approx(3 / (1 / 75 + 1 / 50 + 1 / 60))
    assert found["CM"] == pytest.approx((75 + 2 / (1 / 50 + 1 / 60)) / 2)
    assert found["mean_client_hm"] == pytest.approx((60 + 3 / (1 / 100 + 1 / 50 + 1 / 20)) / 2)


def test_figures_of_nothing() -> None:
    assert accuracy(3, 4) == 75
    assert math.isnan(accuracy(0, 0))
    assert math.isnan(mean([math.nan]))
    assert mean([1, math.nan, 3]) == 2
    assert harmonic(50, 0) == 0
    assert math.isnan(harmonic(50, math.nan))


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"held_out": "mars"}, ["mars", "no such domain", "sample-ucmerced"]),
        ({"length": 30}, ["context of 30", "takes 28"]),
        ({"length": 0}, ["length=0", "at least 1"]),
        ({"lr": -1.0}, ["lr=-1.0"]),
        ({"momentum": 1.0}, ["momentum=1.0", "below 1"]),
        ({"shots": 0}, ["shots=0"]),
        ({"rank": 17}, ["rank=17", "length=16"]),
        ({"tau": 0.0}, ["tau=0.0"]),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(
    sample_build: Path, keywords: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        trained(bind(sample_build, "fedpgp", **keywords), 1)
    for word in words:
        assert word in str(error.value)


LONG = "a very " * 12 + "long photo of a {}."


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {"length": 25}) for name in PROMPTS),
        ("fedrsclip", {"length": 13, "combine": "concat"}),
        ("kgcoop", {"template": LONG}),
        ("fedpgp", {"template": ("a photo of {}.", LONG)}),
        ("zeroshot", {"template": LONG}),
    ],
)
def test_a_class_name_too_long_is_refused_before_any_image_is_encoded(
    novel_build: Path, name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(*_: object, **__: object) -> None:
        raise AssertionError("images were encoded")

    monkeypatch.setattr(inputs, "features", encoded)
    with pytest.raises(UsageError, match=r"tokens, small takes 28; shorten"):
        bind(novel_build, name, **settings)


def test_a_template_needs_a_place_for_the_name(sample_build: Path) -> None:
    for name in ("zeroshot", "kgcoop", "fedpgp"):
        for template in ("a photo", ("a photo of a {}.", "a photo")):
            with pytest.raises(UsageError, match="template='a photo'"):
                bind(sample_build, name, template=template)


def test_training_rows_are_not_for_judging(sample_build: Path) -> None:
    with pytest.raises(UsageError, match="held-out rows"):
        judged(bind(sample_build, "zeroshot"), split="train")


def test_a_client_gone_astray_takes_no_other_along(sample_build: Path) -> None:
    method = bind(sample_build, "fedpgp", lr=0.05)
    method.stack = 99
    shared, clients = method.shared(), [0, 1, 2]
    states = [method.personal(c) for c in clients]
    well = list(method.train(shared, states, clients, 1))
    states[1] = {name: torch.full_like(value, torch.nan) for name, value in states[1].items()}
    first, astray, last = method.train(shared, states, clients, 1)
    assert math.isnan(astray.loss)
    assert same(first.shared, well[0].shared)
    assert same(last.personal, well[2].personal)
