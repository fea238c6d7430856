"""FedOTP: its plans against plain iterations in float64, also where the authors' end in NaN; and its two prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_federation import bind, same, small_clip

from fedrsic_data.errors import UsageError
from fedtrain.methods.fedotp import transport
from fedtrain.models import clip

pytestmark = pytest.mark.usefixtures("random_clip")

FEW = torch.tensor([[0.30, 0.25, 0.05], [0.10, 0.20, 0.28]])
RANDOM = 2 * torch.rand(4, 2, 49, generator=torch.Generator().manual_seed(0)) - 1


def plain(similarity: torch.Tensor, eps: float, mass: float, iterations: int) -> torch.Tensor:
    """The iterations as their authors write them, in float64."""
    kernel = torch.exp((similarity.double() - 1) / eps)
    prompts, patches = kernel.shape[-2:]
    q = torch.ones_like(kernel[..., :1])
    for _ in range(iterations):
        p = torch.minimum(1 / (kernel * patches * q).sum(-2, keepdim=True), torch.ones(()))
        q = mass / prompts / (kernel * p).sum(-1, keepdim=True)
    return p * kernel * q


@pytest.mark.parametrize(
    ("eps", "mass", "wanted", "total"),
    [
        (0.1, 0.8, [[0.236880, 0.143675, 0.019444], [0.040950, 0.111315, 0.247735]], 0.203679),
        (0.1, 1.0, [[0.285259, 0.189903, 0.024838], [0.048074, 0.143431, 0.308496]], 0.254168),
        (0.01, 0.8, [[0.333333, 0.066667, 0.0], [0.0, 0.066666, 0.333334]], 0.223333),
    ],
)
def test_plans_worked_out_by_hand(eps: float, mass: float, wanted: list[list[float]], total: float) -> None:
    found = transport(FEW.double(), eps, mass, 100)
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=2e-6)
    assert float((found * FEW).sum()) == pytest.approx(total, abs=2e-6)


@pytest.mark.parametrize(
    ("similarity", "eps", "mass"),
    [
        (FEW, 0.1, 0.8),
        (FEW, 0.01, 0.8),
        (RANDOM, 0.1, 0.8),
        (RANDOM, 0.1, 1.0),
        (RANDOM / 4, 0.01, 0.5),
        (torch.full((2, 7), 0.2), 0.1, 0.8),
        (torch.full((2, 7), 0.2), 0.01, 1.0),
        (FEW[:, :1], 0.1, 0.8),
        (FEW[:, :1], 0.01, 1.0),
        (FEW[:1], 0.1, 0.8),
        (FEW, 0.1, 0.0),
        (FEW[:, :1], 0.01, 0.0),
    ],
    ids=lambda value: "x".join(map(str, value.shape)) if isinstance(value, torch.Tensor) else None,
)
def test_plans_are_those_of_plain_iterations_in_float64(similarity: torch.Tensor, eps: float, mass: float) -> None:
    """Equal costs, one patch, one prompt, no mass; and costs whose kernel 16 bits cannot hold."""
    prompts, patches = similarity.shape[-2:]
    found = transport(similarity, eps, mass, 300)
    wanted = plain(similarity, eps, mass, 300)
    assert torch.allclose(found.double(), wanted, rtol=0, atol=1e-4)
    assert torch.allclose(found.sum(-1), torch.full_like(found[..., 0], mass / prompts), rtol=0, atol=1e-4)
    if eps > 0.05:  # else it converges slowly, in any arithmetic
        assert bool((found.sum(-2) <= 1 / patches + 1e-4).all())
    if prompts == 2 and float(similarity.std()) == 0:
        assert torch.allclose(found, torch.full_like(found, mass / found.numel()), rtol=1e-5)


def test_a_kernel_that_16_bits_cannot_hold_gives_a_plan() -> None:
    """The authors' few-shot eps in the authors' numbers: K is 0 everywhere, and 0 / 0 follows."""
    kernel = torch.exp((FEW.half() - 1) / 0.01)
    assert bool((kernel == 0).all())
    assert bool((kernel / (kernel * 0.4).sum(-1, keepdim=True)).isnan().all())
    for similarity in (FEW, FEW - 1, torch.full_like(FEW, -1.0)):
        found = transport(similarity, 0.01, 0.8, 100)
        assert torch.isfinite(found).all()
        assert float(found.sum()) == pytest.approx(0.8, abs=1e-4)


def test_iterations_that_change_nothing_are_left_out_and_nothing_else() -> None:
    """To end early is exact: the plan is that of all iterations, to the bit."""
    calls: list[int] = []
    equal = torch.equal

    def never(left: torch.Tensor, right: torch.Tensor) -> bool:
        calls.append(1)
        return False

    for similarity in (FEW, RANDOM):
        early = transport(similarity, 0.1, 0.8, 400)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "equal", never)
            whole = transport(similarity, 0.1, 0.8, 400)
        assert len(calls) == 400
        calls.clear()
        assert equal(early, whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "equal", lambda left, right: calls.append(1) or equal(left, right))
        transport(FEW, 0.1, 0.8, 400)
    assert len(calls) < 10, "no patch of it is full, so two iterations would do"


def state_of(method: Any, client: int = 0) -> dict[str, torch.Tensor]:
    return {**method.shared(), **method.personal(client)}


def test_logits_of_an_image_do_not_depend_on_those_beside_it(sample_build: Path) -> None:
    """The authors stop when the mean change over a batch is small."""
    method = bind(sample_build, "fedotp", iterations=30)
    rows, state = method.images.rows("test"), state_of(method)
    (text,) = method.text({name: value[None] for name, value in state.items()}, method.base)
    together = method.logits(rows.images[:6], text, state)
    alone = torch.cat([method.logits(rows.images[i : i + 1], text, state) for i in range(6)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-5)
    assert method.logits(rows.images[:0], text, state).shape == (0, len(method.base)), "a client without rows"
    other = method.logits(torch.cat((rows.images[:1], rows.images[20:25])), text, state)
    assert torch.allclose(together[0], other[0], rtol=0, atol=1e-5)


def test_a_client_without_images_has_no_logits(sample_build: Path) -> None:
    method = bind(sample_build, "fedotp")
    text = method.text({k: v[None] for k, v in {**method.shared(), **method.personal(0)}.items()}, method.base)[0]
    patches = method.images.rows("test").images[:0].float()
    assert method.logits(patches, text, {}).shape == (0, len(method.base))


def test_no_gradient_passes_through_a_plan(sample_build: Path) -> None:
    method = bind(sample_build, "fedotp")
    state = {name: value[None].requires_grad_() for name, value in state_of(method).items()}
    images, text = method.images.rows("train").images[None, :4], method.text(state, method.base)
    cosines = torch.einsum("kbme,knce->kbcnm", images[:, :, 1:], text)
    plan = transport(cosines.detach(), 0.1, 0.8, 100)
    wanted = torch.autograd.grad((method.clip.scale * plan * cosines).sum(), list(state.values()), retain_graph=True)
    found = torch.autograd.grad(method.logits(images, text, {}).sum(), list(state.values()))
    for left, right in zip(found, wanted, strict=True):
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-4)


def test_absent_clients_hold_the_new_general_prompt_and_their_own(sample_build: Path) -> None:
    method = bind(sample_build, "fedotp", lr=0.1, epochs=1)
    shared, own = method.shared(), [method.personal(client) for client in range(10)]
    assert not same({"x": shared["general"]}, {"x": own[0]["own"]}, 1e-3), "two prompts of one draw would stay one"
    updates = list(method.train(shared, own[:3], [0, 1, 2], 1))
    after = method.aggregate(shared, updates)
    assert not same(after, shared, 1e-3)
    received = method.received(7, after)
    assert same(received, after)
    states = [update.personal for update in updates] + own[3:]
    absent = method.evaluate(after, states.__getitem__, "test").clients["local"][7]
    rows, state = method.images.rows("test"), {**after, **own[7]}
    (text,) = method.text({name: value[None] for name, value in state.items()}, method.base)
    mine = rows.of(7)
    hits = method.logits(rows.images[mine], text, state).argmax(1) == rows.labels[mine]
    assert absent == pytest.approx(100 * float(hits.float().mean()), nan_ok=True)


def test_half_numbers_train_as_whole_ones(sample_build: Path) -> None:
    losses = []
    for kept in ("float16", "float32"):
        method = bind(sample_build, "fedotp", patches=kept, lr=0.05, epochs=1)
        assert method.images.rows("train").images.dtype == getattr(torch, kept)
        (update,) = method.train(method.shared(), [method.personal(0)], [0], 1)
        losses.append(update.loss)
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mass": 0.0}, r"mass=0.0 should be above 0 to 1: the part of the patches that is transported"),
        ({"mass": 1.1}, r"mass=1.1 should be above 0 to 1"),
        ({"eps": 0.0}, r"eps=0.0"),
        ({"iterations": 0}, r"iterations=0 should be at least 1"),
    ],
)
def test_settings_that_make_no_plan_are_refused(sample_build: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        bind(sample_build, "fedotp", **settings)


def test_a_clip_without_patches_is_refused_in_words(sample_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pooled = small_clip(16)
    monkeypatch.setattr(pooled.model.visual, "pool_type", "avg")
    monkeypatch.setattr(clip, "load", lambda _spec, _device: pooled)
    with pytest.raises(UsageError, match="its image encoder gives no features of patches; take ViT-B-16:openai"):
        bind(sample_build, "fedotp").images.rows("train")
