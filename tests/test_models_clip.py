"""Frozen CLIPs: what they give, what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fedrsic_data.errors import DownloadError, FedkitError, ManifestError, UsageError
from fedtrain.models import tiny
from fedtrain.models.clip import Clip, frozen, load

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 516, "width": 32, "heads": 2, "layers": 1},
}
TOKENIZER = tiny.Tokenizer(["a", "photo"], 12)
ARCH = "fedkit-test"


@pytest.fixture(autouse=True)
def _small_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name for a small architecture; its text tower takes open_clip's own tokenizer."""
    text = {**CONFIG["text_cfg"], "context_length": 77, "vocab_size": 49408}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, ARCH, {**CONFIG, "text_cfg": text})


def small(seed: int = 0, **preprocessing: Any) -> Clip:
    return frozen("small", CONFIG, TOKENIZER, seed, preprocessing, "cpu")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (50, 81), (200, 33), (20, 31)])
def test_images_are_prepared_as_open_clip_does(size: tuple[int, int], mode: str) -> None:
    pixels = picture(*size)
    clip = small(resize_mode=mode)
    theirs = open_clip.image_transform(32, is_train=False, resize_mode=mode)(Image.fromarray(pixels))
    seen: list[torch.Tensor] = []
    clip.model.encode_image = lambda x, normalize: (seen.append(x), torch.zeros(1, 24))[1]  # type: ignore[assignment]
    clip.encode_images(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert seen[0].shape == (1, 3, 32, 32)
    # Two grey levels at most, and seldom more than one: Pillow rounds after each of its two passes.
    levels = (seen[0][0] - theirs).abs() * torch.tensor(clip.preprocessing.std)[:, None, None] * 255
    assert levels.max() < 2.01
    assert levels.mean() < 0.25


def test_image_features_are_those_of_the_model() -> None:
    clip = small()
    pixels = np.stack([picture(32, 32, seed) for seed in range(3)])
    ours = clip.encode_images(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    transform = open_clip.image_transform(32, is_train=False)
    theirs = clip.model.encode_image(torch.stack([transform(Image.fromarray(p)) for p in pixels]), normalize=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert ours.dtype == torch.float32
    assert not ours.requires_grad
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(3))


def test_text_features_are_those_of_the_model_however_many_there_are() -> None:
    clip = small()
    texts = [f"a photo {i}" for i in range(70)]
    ours = clip.encode_texts(texts)
    torch.testing.assert_close(ours, clip.model.encode_text(clip.tokenize(texts), normalize=True))
    assert not ours.requires_grad
    assert ours.shape == (70, clip.embed_dim)


def test_tokens_are_open_clips() -> None:
    clip = load(f"{ARCH}:random")
    texts = ["a photo of a mobile home park.", "Überführung", ""]
    assert torch.equal(clip.tokenize(texts), open_clip.get_tokenizer("ViT-B-16")(texts))


def test_a_text_that_is_too_long_is_refused_and_not_cut() -> None:
    clip = small()
    assert clip.tokenize(["a photo " * 5])[0, -1] == TOKENIZER.eot_token_id
    with pytest.raises(UsageError, match=r"'a photo a photo .*' has 14 tokens, small takes 12"):
        clip.tokenize(["a photo", "a photo " * 6])


def test_it_is_frozen_and_says_what_it_is() -> None:
    clip = small()
    assert not clip.model.training
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert (clip.width, clip.embed_dim, clip.preprocessing.size, clip.context_length) == (32, 24, 32, 12)
    assert clip.scale == pytest.approx(1 / 0.07)


def test_the_digest_tells_weights_architecture_and_preprocessing_apart() -> None:
    kinds = [
        small(),
        small(1),
        small(mean=(0.5, 0.5, 0.5)),
        frozen("small", {**CONFIG, "quick_gelu": True}, TOKENIZER, 0, {}, "cpu"),
    ]
    assert len({clip.digest for clip in kinds}) == 4
    renamed = frozen("another name", CONFIG, TOKENIZER, small().model.state_dict(), {}, "cpu")
    assert renamed.digest == small().digest


def test_random_weights_come_from_the_seed_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    digests = [load(f"{ARCH}:random", random=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_from_a_file(suffix: str, tmp_path: Path) -> None:
    clip = load(f"{ARCH}:random", random=4)
    file = tmp_path / f"weights{suffix}"
    weights = clip.model.state_dict()
    if suffix == ".pt":
        torch.save({"state_dict": weights}, file)
    else:
        save_file(weights, file)
    again = load(f"{ARCH}:{file}")
    assert again.digest == clip.digest
    assert again.name == f"{ARCH}:{file}"


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    file = tmp_path / "weights.pt"
    torch.save({"visual": Trap()}, file)
    no_clip(f"{ARCH}:{file}", ManifestError, "does not hold the weights")
    assert not (tmp_path / "sprung").exists()


class Reachable:
    """A session with a Hub that is there."""

    def head(self, *_: object, **__: object) -> None: ...


def test_a_known_tag_takes_the_activation_and_the_preprocessing_it_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(load(f"{ARCH}:random", random=4).model.state_dict(), file)
    known = {"hf_hub": "nobody/nothing/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, ARCH, {"openai": known})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(file))
    monkeypatch.setattr(huggingface_hub, "get_session", Reachable)
    clip = load(f"{ARCH}:openai")
    assert type(clip.model.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert clip.preprocessing.mean == (0.1, 0.2, 0.3)
    assert clip.preprocessing.std == (0.4, 0.5, 0.6)
    assert open_clip.get_pretrained_cfg("ViT-B-16", "openai")["quick_gelu"]


def test_weights_that_cannot_be_fetched_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_: object) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr(open_clip, "download_pretrained", fetch)
    monkeypatch.setattr(huggingface_hub, "get_session", Reachable)
    no_clip("ViT-B-16:openai", DownloadError, r"no route to host.*ViT-B-16:PATH")


def test_without_a_network_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(Reachable):
        def head(self, *_: object, **__: object) -> None:
            raise OSError("Name or service not known")

    def fetch(_: object) -> str:
        raise AssertionError("tried all the same")

    monkeypatch.setattr(open_clip, "download_pretrained", fetch)
    monkeypatch.setattr(huggingface_hub, "get_session", Unreachable)
    no_clip(
        "ViT-B-16:openai",
        DownloadError,
        r"service not known\); connect once, give a file with --clip ViT-B-16:PATH, or try --clip tiny",
    )


def test_weights_of_the_cache_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "models--nobody--nothing"
    held = top / "snapshots" / ("0" * 40) / "open_clip_model.safetensors"
    for path in (held, top / "refs" / "main"):
        path.parent.mkdir(parents=True)
    (top / "refs" / "main").write_text("0" * 40)
    wanted = load(f"{ARCH}:random", random=4)
    save_file(wanted.model.state_dict(), held)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, ARCH, {"openai": {"hf_hub": "nobody/nothing/"}})
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: pytest.fail("the network was asked"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    clip = load(f"{ARCH}:openai")
    assert torch.equal(clip.model.visual.proj, wanted.model.visual.proj)


def test_what_is_not_a_clip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    save_file({"visual.proj": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "weights.npz").write_bytes(b"")
    no_clip("tinny", UsageError, "near: tiny.*give tiny, ARCH:TAG or ARCH:PATH")
    no_clip("ViT-B-16", UsageError, "give tiny, ARCH:TAG or ARCH:PATH")
    no_clip("ViT-B-166:openai", UsageError, "near: ViT-B-16")
    no_clip("local-dir:/tmp", UsageError, "give tiny, ARCH:TAG or ARCH:PATH")
    no_clip("ViT-B-16:opnai", UsageError, "no file 'opnai' and no tag.*openai")
    no_clip(f"{ARCH}:{tmp_path / 'broken.safetensors'}", ManifestError, "does not hold the weights")
    no_clip(f"{ARCH}:{tmp_path / 'other.safetensors'}", ManifestError, "does not hold the weights")
    no_clip(f"{ARCH}:{tmp_path / 'weights.npz'}", UsageError, r"should end in .*\.safetensors")
    no_clip("roberta-ViT-B-32:random", UsageError, "text tower is not open_clip's")
    no_clip("coca_ViT-B-32:random", UsageError, "text tower is not open_clip's")
    with pytest.raises(UsageError, match="random=3 works only with ARCH:random"):
        load("tiny", random=3)


def no_clip(spec: str, kind: type[FedkitError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        load(spec)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("layers", [2, [1, 1, 1, 1]], ids=["transformer", "resnet"])
def test_patches_are_tokens_in_the_space_of_the_texts(layers: object) -> None:
    """The whole image first; then each patch as the tower itself gives it where its pooling is asked for that one."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": layers, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 514, "width": 32, "heads": 2, "layers": 1},
    }
    clip = frozen("small", config, tiny.Tokenizer([], 12), 0, {}, "cpu")
    images = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = clip.encode_patches(images)
    assert found.shape == (3, clip.tokens, 24)
    assert clip.tokens == 1 + (16 if layers == 2 else 4)
    torch.testing.assert_close(found[:, 0], clip.encode_images(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, clip.tokens))
    visual, pixels = clip.model.visual, clip.pixels(images)
    if layers == 2:
        visual.output_tokens = True
        wanted = visual(pixels)[1] @ visual.proj
    else:
        seen: list[torch.Tensor] = []
        handle = visual.attnpool.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        visual(pixels)
        handle.remove()
        pool, x = visual.attnpool, seen[0].flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x]) + pool.positional_embedding[:, None]
        attention = torch.nn.MultiheadAttention(x.shape[-1], pool.num_heads)
        with torch.no_grad():
            attention.in_proj_weight.copy_(torch.cat([p.weight for p in (pool.q_proj, pool.k_proj, pool.v_proj)]))
            attention.in_proj_bias.copy_(torch.cat([p.bias for p in (pool.q_proj, pool.k_proj, pool.v_proj)]))
            attention.out_proj.weight.copy_(torch.eye(x.shape[-1]))
            attention.out_proj.bias.zero_()
            wanted = pool.c_proj(attention(x, x, x)[0])[1:].transpose(0, 1)
    torch.testing.assert_close(found[:, 1:], torch.nn.functional.normalize(wanted, dim=-1), rtol=1e-4, atol=1e-5)


def test_a_tower_without_a_class_token_has_no_patches() -> None:
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "patch_size": 16,
            "head_width": 16,
            "pool_type": "avg",
        },
        "text_cfg": {"context_length": 12, "vocab_size": 514, "width": 32, "heads": 2, "layers": 1},
    }
    clip = frozen("small", config, tiny.Tokenizer([], 12), 0, {}, "cpu")
    with pytest.raises(UsageError, match="clip 'small': its image encoder gives no features of patches"):
        clip.encode_patches(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
