"""The prompt encoder against the plain formulation: a whole sequence a class through open_clip's text tower."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from torch.nn import functional

from fedrsic_data.errors import UsageError
from fedtrain.models import prompts, tiny
from fedtrain.models.clip import Clip, frozen, load
from fedtrain.models.prompts import PromptEncoder, initial_context

VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
NAMES = ("beach", "dense_residential", "mobile_home_park", "golf course with one very long name", "ship", "zzyzx")
TOWERS: dict[str, dict[str, Any]] = {
    "default": {"text": {}},
    "quick_gelu": {"text": {"layers": 3}, "quick_gelu": True},
    "wide": {"text": {"width": 96, "heads": 6, "mlp_ratio": 2.5, "layers": 2}},
    "one_layer": {"text": {"layers": 1}},
    "layer_scale": {"text": {"ls_init_value": 0.3}},
    "eos": {"text": {"pool_type": "eos"}},  # its number is filled in below
    "biased_projection": {"text": {"proj_bias": True}},
    "apart": {"text": {}, "custom_text": True},
    "long": {"text": {"context_length": 77}},
}


def tower(text: dict[str, Any], **config: Any) -> Clip:
    """A CLIP with random weights that are not close to zero anywhere."""
    tokenizer = tiny.Tokenizer(["beach", "course", "dense", "golf", "home", "long", "park", "residential", "ship"], 64)
    text = {"context_length": 64, "vocab_size": tokenizer.vocab_size, "width": 64, "heads": 4, "layers": 2} | text
    if text.get("pool_type") == "eos":
        text["eos_id"] = tokenizer.eot_token_id
    config = {"embed_dim": 48, "vision_cfg": VISION, "text_cfg": text} | config
    made = frozen("test", config, tokenizer, 3, {}, "cpu")
    draw = torch.Generator().manual_seed(5)
    for value in made.model.parameters():
        value.add_(torch.randn(value.shape, generator=draw) * 0.05)
    return made


def plain(clip: Clip, names: tuple[str, ...], context: torch.Tensor) -> torch.Tensor:
    """[K, m, d] -> [K, C, embed_dim] by full sequences whose placeholder embeddings are replaced by the context."""
    length = context.shape[1]
    numbers = clip.tokenize([f"{'? ' * length}{name.replace('_', ' ')}." for name in names])
    text, model = clip.text, clip.model

    class Embedding(torch.nn.Module):  # open_clip's own forward with only the embedding put in place
        def __init__(self, vectors: torch.Tensor) -> None:
            super().__init__()
            self.vectors = vectors

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            found = functional.embedding(tokens, weight)
            before, after = found[:, :1], found[:, 1 + length :]
            return torch.cat((before, self.vectors.expand(len(tokens), -1, -1), after), dim=1)

    kept, features = text.token_embedding, []
    weight = kept.weight
    for vectors in context:
        text.token_embedding = Embedding(vectors)
        features.append(model.encode_text(numbers, normalize=True))
    text.token_embedding = kept
    return torch.stack(features)


def both(
    clip: Clip, names: tuple[str, ...], clients: int, length: int, classes: list[int] | None = None
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Features and gradients of some loss, plain and ours."""
    draw = torch.Generator().manual_seed(7)
    start = torch.stack([initial_context(length, clip.width, draw, std=0.5) for _ in range(clients)])
    chosen = names if classes is None else tuple(names[c] for c in classes)
    weight = torch.randn(clients, len(chosen), clip.embed_dim, generator=draw)
    encoder = PromptEncoder(clip, names, length)
    wanted = None if classes is None else torch.tensor(classes)
    found = []
    for encode in (lambda x: plain(clip, chosen, x), lambda x: encoder(x, wanted)):
        context = start.clone().requires_grad_()
        values = encode(context)
        (values * weight).sum().backward()
        assert context.grad is not None
        found.append((values.detach(), context.grad))
    return found[0], found[1]


def close(one: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert a.shape == b.shape
        assert a.abs().max() > 1e-3  # there is something to compare
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TOWERS)
def test_values_and_gradients_are_those_of_the_plain_formulation(name: str) -> None:
    close(*both(tower(**TOWERS[name]), NAMES, clients=3, length=4))


@pytest.mark.parametrize(("clients", "length"), [(1, 1), (1, 16), (2, 5), (7, 2)])
def test_any_number_of_clients_and_any_length(clients: int, length: int) -> None:
    close(*both(tower({}), NAMES, clients, length))


def test_class_names_that_need_several_rows() -> None:
    names = tuple(f"{'x' * (1 + i % 9)} {i}" for i in range(90))
    clip = tower({})
    assert PromptEncoder(clip, names, 4)._tree.names.shape[0] > 2
    close(*both(clip, names, clients=2, length=4))


@pytest.mark.parametrize("count", [6, 90])
def test_blocks_computed_again_for_gradients_change_no_bit_and_keep_an_eighth(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"{'x' * (1 + i % 9)} {i}" for i in range(count))
    encoder = PromptEncoder(tower({"layers": 4}), names, 4)
    start = initial_context(4, encoder.width, torch.Generator().manual_seed(7), std=0.5).expand(2, -1, -1)
    found, kept = [], []
    for limit in (prompts._KEPT, 0):
        monkeypatch.setattr(prompts, "_KEPT", limit)
        context, sizes = start.clone().requires_grad_(), {}

        def keep(saved: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            values = encoder(context)
        found.append((values.detach(), *torch.autograd.grad(values.square().sum() + values.sum(), context)))
        kept.append(sum(sizes.values()))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert kept[1] < kept[0] / 8


def test_some_of_the_classes_in_any_order() -> None:
    close(*both(tower({}), NAMES, clients=2, length=3, classes=[4, 1, 3]))


def test_vit_b_16_as_it_is() -> None:
    close(*both(load("ViT-B-16:random", random=1), ("beach", "tennis_court"), clients=1, length=16))


def test_a_class_does_not_depend_on_the_others_and_a_client_not_on_the_others() -> None:
    clip = tower({})
    context = torch.randn(3, 4, clip.width, generator=torch.Generator().manual_seed(0))
    encoder = PromptEncoder(clip, NAMES, 4)
    everything = encoder(context)
    for c, name in enumerate(NAMES):
        alone = PromptEncoder(clip, (name,), 4)(context[1:2])
        torch.testing.assert_close(alone[0, 0], everything[1, c], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(everything.norm(dim=-1), torch.ones(3, len(NAMES)))


def test_text_of_the_words_themselves_as_context() -> None:
    clip = tower({})
    words = torch.tensor(clip.tokenizer.encode("golf home"))
    context = clip.text.token_embedding(words)[None]
    ours = PromptEncoder(clip, ("golf_course",), 2)(context)[0]
    torch.testing.assert_close(ours, clip.encode_texts(["golf home golf course."]), rtol=1e-5, atol=1e-6)


def test_in_bfloat16_features_are_still_float32_and_near() -> None:
    clip = tower({})
    context = torch.randn(2, 4, clip.width, generator=torch.Generator().manual_seed(0))
    encoder = PromptEncoder(clip, NAMES, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encoder(context)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.norm(dim=-1), torch.ones(2, len(NAMES)))
    assert 1e-4 < (rough - encoder(context)).abs().max() < 0.05


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_as_on_the_cpu() -> None:
    near, far = (load("tiny", device) for device in ("cpu", "cuda"))
    context = torch.randn(3, 8, near.width, generator=torch.Generator().manual_seed(0)) * 0.02
    ours = PromptEncoder(far, ("beach", "tennis_court"), 8)(context.cuda())
    torch.testing.assert_close(
        ours.cpu(), PromptEncoder(near, ("beach", "tennis_court"), 8)(context), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    ("text", "config", "words"),
    [
        ({"no_causal_mask": True}, {}, "is not causal"),
        ({"embed_cls": True}, {"custom_text": True}, "reads a class token"),
        ({"pool_type": "last"}, {}, "end of text"),
        ({"pool_type": "eos", "eos_id": 1}, {}, "end of text"),
        ({"qk_norm": True}, {}, "transformer of open_clip's own"),
        ({"proj_type": "none"}, {"embed_dim": 64}, "has no projection"),
    ],
)
def test_text_towers_it_cannot_serve_are_refused(text: dict[str, Any], config: dict[str, Any], words: str) -> None:
    eos = text.get("eos_id")
    clip = tower(text, **config)
    if eos is not None:
        clip.text.text_eos_id = eos
    with pytest.raises(UsageError, match=words) as caught:
        PromptEncoder(clip, NAMES, 4)
    assert "\n" not in str(caught.value)


def test_bad_arguments_are_refused() -> None:
    clip = tower({})
    with pytest.raises(UsageError, match="length=0"):
        PromptEncoder(clip, NAMES, 0)
    with pytest.raises(UsageError, match="at least one class"):
        PromptEncoder(clip, (), 4)
    with pytest.raises(UsageError, match=r"'beach' with a context of 62 has 66 tokens, test takes 64"):
        PromptEncoder(clip, ("beach",), 62)
    PromptEncoder(clip, ("beach",), 60)


def test_initial_contexts_come_from_the_generator_alone() -> None:
    a, b = (initial_context(16, 512, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == (16, 512)
    assert 0.018 < a.std() < 0.022
    assert not torch.equal(a, initial_context(16, 512, torch.Generator().manual_seed(2)))


def test_open_clip_reads_out_as_is_assumed() -> None:
    """The highest number is the end of text in both tokenizers."""
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    assert tokenizer.eot_token_id == tokenizer.vocab_size - 1
    small = tiny.Tokenizer(["a"], 8)
    assert small.eot_token_id == small.vocab_size - 1
