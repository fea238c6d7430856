"""FedTPG beside its plain formulation, and losses over a client's own classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import sampled
from prompt_federation import CPU, bind, plain_images, plain_texts, plain_words, same, small_clip, trained
from torch import nn
from torch.nn import functional

from fedrsic_data.errors import UsageError
from fedtrain.methods.base import State
from fedtrain.methods.fedtpg import FedTPG, FedTPGSettings
from fedtrain.methods.labels import SingleLabel
from fedtrain.models import clip
from fedtrain.seeds import generator

pytestmark = pytest.mark.usefixtures("random_clip")


def plain_prompt(state: State, names: torch.Tensor, heads: int) -> torch.Tensor:
    """The prompt ``[m, d]`` for text features of names, by the modules of PyTorch."""
    queries, width, inputs = state["queries"], state["queries"].shape[1], names.shape[1]
    attention = nn.MultiheadAttention(width, heads, kdim=inputs, vdim=inputs)
    if inputs == width:
        raise AssertionError("the module has one matrix for all three projections then")
    given = {f"{at[0]}_proj_weight": state[f"{at}.weight"] for at in ("query", "key", "value")}
    given["in_proj_bias"] = torch.cat([state[f"{at}.bias"] for at in ("query", "key", "value")])
    given |= {f"out_proj.{part}": state[f"out.{part}"] for part in ("weight", "bias")}

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"norm.{name}.gain"], state[f"norm.{name}.bias"])

    keys = norm("names", names)
    x, _ = torch.func.functional_call(attention, given, (norm("queries", queries), keys, keys))
    hidden = functional.linear(norm("attended", x), state["up.weight"], state["up.bias"])
    half = hidden.shape[-1] // 2
    gated = hidden[:, :half] * functional.gelu(hidden[:, half:])
    return x + functional.linear(gated, state["down.weight"], state["down.bias"])


def plain_text(method: Any, state: State, names: list[str]) -> torch.Tensor:
    prompt = plain_prompt(state, plain_words(method, names, "{}"), method.settings.heads)
    return plain_texts(method, prompt, names)


def moved(state: State, seed: int) -> State:
    draws = torch.Generator().manual_seed(seed)
    return {name: value + 0.1 * torch.randn(value.shape, generator=draws) for name, value in state.items()}


@pytest.fixture(scope="module")
def disjoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clients of five or six classes each that no other has."""
    out = tmp_path_factory.mktemp("disjoint") / "fed"
    return sampled(out, 'partition={"name": "pathological", "clients": 4}').path


def bound(path: Path, name: str = "fedtpg", **settings: Any) -> Any:
    return bind(path, name, **({"lr": 0.05, "heads": 2} if name == "fedtpg" else {"lr": 0.05, "length": 4}) | settings)


@pytest.fixture
def wide(random_clip: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CLIP whose text encoder is wider than the joint space."""
    monkeypatch.setattr(clip, "load", lambda _spec, _device: small_clip(48))


@pytest.mark.usefixtures("wide")
def test_the_generator_is_that_of_the_plain_formulation(disjoint: Path) -> None:
    """Values and gradients of two clients at once, each with a generator of its own, against PyTorch's modules."""
    method = bound(disjoint)
    each = [moved(method.shared(), seed) for seed in (1, 2)]
    live = {name: torch.stack([state[name] for state in each]).requires_grad_() for name in each[0]}
    weights = torch.randn(2, 4, 48, generator=torch.Generator().manual_seed(3))
    found = method.generated(live, method.base.fixed("{}"))
    grads = torch.autograd.grad((found * weights).sum(), list(live.values()))
    names = plain_words(method, method.base.names, "{}").detach()
    for k, state in enumerate(each):
        leaves = {name: value.clone().requires_grad_() for name, value in state.items()}
        wanted = plain_prompt(leaves, names, 2)
        assert torch.allclose(found[k], wanted, rtol=0, atol=1e-5)
        slopes = torch.autograd.grad((wanted * weights[k]).sum(), list(leaves.values()))
        for name, grad, slope in zip(leaves, grads, slopes, strict=True):
            assert torch.allclose(grad[k], slope, rtol=1e-5, atol=1e-5), name
            assert name == "key.bias" or slope.abs().max() > 1e-3, name  # a softmax ignores the same bias of all keys


@pytest.mark.usefixtures("wide")
def test_three_steps_are_those_of_training_plainly_over_the_clients_own_classes(disjoint: Path) -> None:
    method = bound(disjoint, batch=8, epochs=2)
    shared, clients = moved(method.shared(), 4), [2, 0]
    for client, update in zip(clients, method.train(shared, [{}, {}], clients, 1), strict=True):
        images, labels = plain_images(method, client, "train")
        own = sorted(set(labels.tolist()))
        names = [method.context.subset.classes[label] for label in own]
        labels = torch.tensor([own.index(label) for label in labels.tolist()])
        assert 1 < len(own) < len(method.base)
        state = {name: value.clone().requires_grad_() for name, value in shared.items()}
        optimiser = torch.optim.SGD(state.values(), lr=0.05, momentum=0.9, weight_decay=1e-5)
        draws, losses = generator(0, "batches", 1, client), []
        for _ in range(2):
            for part in torch.randperm(len(labels), generator=draws).split(8):
                text = plain_text(method, state, names)
                scale = method.clip.model.logit_scale.exp()
                loss = functional.cross_entropy(scale * images[part] @ text.T, labels[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
        assert len(losses) >= 3
        assert update.loss == pytest.approx(sum(losses) / len(losses), abs=1e-4)
        assert same(update.shared, {name: value.detach() for name, value in state.items()}, 1e-5)
        assert not same(update.shared, shared, 1e-3)
        assert not update.personal


def test_a_client_sends_the_numbers_that_the_paper_has() -> None:
    """4,206,080 with a text encoder and a joint space of width 512."""
    method = FedTPG.__new__(FedTPG)
    method.settings, method.labels = FedTPGSettings(), SingleLabel()
    method.clip = SimpleNamespace(width=512, embed_dim=512)
    method.context = SimpleNamespace(seed=0, device=CPU)
    assert sum(value.numel() for value in method.shared().values()) == 4_206_080


def test_other_classes_get_another_context(disjoint: Path) -> None:
    """As novel classes do, and each client's in training: the context is a function of the names told apart."""
    method = bound(disjoint)
    state = {name: value[None] for name, value in moved(method.shared(), 5).items()}
    some = method.base.only([3, 0, 7])
    contexts = [method.generated(state, classes.fixed("{}")) for classes in (method.base, some)]
    assert not torch.allclose(contexts[0], contexts[1], atol=1e-4)
    names = [method.base.names[place] for place in (3, 0, 7)]
    assert torch.allclose(some.fixed("{}"), plain_words(method, names, "{}"), atol=1e-5)
    wanted = plain_texts(method, contexts[1][0], names)
    assert torch.allclose(method.text(state, some)[0], wanted, rtol=0, atol=1e-5)


def test_clients_of_other_classes_train_as_alone_in_any_order(disjoint: Path) -> None:
    """Clients of a stack have the same classes; others form a stack of their own."""
    method = bound(disjoint, batch=8)
    shared = method.shared()
    alone = {client: next(method.train(shared, [{}], [client], 1)) for client in range(4)}
    method.stack = 99
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        together = list(method.train(shared, [{}] * 4, order, 1))
        assert [update.client for update in together] == order
        for update in together:
            assert same(update.shared, alone[update.client].shared)
            assert update.loss == alone[update.client].loss


@pytest.mark.parametrize("name", ["promptfl", "kgcoop", "fedpgp", "fedrsclip"])
def test_every_prompt_method_has_a_loss_over_own_classes(disjoint: Path, name: str) -> None:
    """The baselines of FedTPG; its public code stops at CoOp and KgCoOp, whose ``encode_text`` it calls with more
    arguments than they take.

    The loss over own classes is that over all, in a federation of those classes alone.
    """
    more = {"rank": 2} if name == "fedpgp" else {}
    own, all_of_them = (bound(disjoint, name, loss_over=over, batch=8, **more) for over in ("own", "all"))
    shared, personal = own.shared(), own.personal(1)
    places = own.own_classes(1)
    alone = bound(disjoint, name, batch=8, **more)
    alone.base = own.base.only(places)
    rows = dataclasses.replace(alone.images.rows("train"))
    at = torch.full((21,), -1).index_put((torch.tensor(places),), torch.arange(len(places)))
    alone.images._rows["train", False] = dataclasses.replace(rows, labels=at[rows.labels])
    (found,), (wanted,), (over_all,) = (
        list(method.train(shared, [personal], [1], 1)) for method in (own, alone, all_of_them)
    )
    assert found.loss == pytest.approx(wanted.loss, abs=1e-5)
    assert same(found.shared, wanted.shared, 1e-6)
    assert same(found.personal, wanted.personal, 1e-6)
    assert found.loss < over_all.loss - 0.1


def test_a_client_of_all_classes_trains_over_all(sample_build: Path) -> None:
    shared, own, losses = trained(bound(sample_build, "promptfl", loss_over="own"), 1)
    assert losses[0] > 0
    method = bound(sample_build, "promptfl")
    assert method.over(tuple(range(len(method.base)))) is method
    assert own(0) == {}
    assert set(shared) == {"context"}


def test_a_classifier_that_is_not_of_the_clients_classes_is_refused(
    disjoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = bound(disjoint, "promptfl", loss_over="own")
    every = method.base
    monkeypatch.setattr(type(method), "text", lambda _self, state, _classes: every.under(state["context"]))
    with pytest.raises(UsageError, match="loss_over=own: PromptFL classifies with 21 classes where a client has"):
        list(method.train(method.shared(), [{}], [0], 1))


def test_heads_that_do_not_divide_the_width_are_refused(disjoint: Path) -> None:
    with pytest.raises(UsageError, match="heads=5: the text encoder of clip small is 32 wide"):
        bound(disjoint, heads=5)
