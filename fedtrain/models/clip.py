"""A frozen CLIP: images and texts to features of one space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021; built and loaded
through open_clip.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import open_clip  # type: ignore[import-untyped]
import torch
from open_clip.modified_resnet import ModifiedResNet  # type: ignore[import-untyped]
from open_clip.transformer import VisionTransformer  # type: ignore[import-untyped]
from torch import nn
from torch.nn import functional

from fedrsic_data.errors import DownloadError, ManifestError, UsageError, discreet
from fedrsic_data.settings import suggest
from fedtrain.models import tiny

_TEXTS = 64  # encoded at a time
_LONGEST = 16  # times the other side; a longer one is cut
_LARGE = 2**24  # pixels of an image whose channels are resized one after another
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


class TextTokenizer(Protocol):
    """A tokenizer, such as open_clip's ``SimpleTokenizer``."""

    sot_token_id: int
    eot_token_id: int

    def encode(self, text: str) -> list[int]:
        """Numbers of a text of any length, without start and end."""
        ...


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images for the encoder.

    Attributes:
        size: Height and width in pixels.
        mean: Mean of each channel, for values in 0..1.
        std: Standard deviation of each channel.
        interpolation: ``bicubic`` or ``bilinear``, both antialiased.
        resize_mode: ``shortest`` (shorter side, then the middle) or ``squash`` (both sides).
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP.

    Attributes:
        name: What ``load`` was given: ``tiny``, ``ViT-B-16:openai``, ``ViT-B-32:weights.safetensors``.
        digest: sha256 of the architecture, the preprocessing and the weights, in hex; images have equal features under
            equal digests.
        model: The ``open_clip.CLIP`` (or its twin with the text tower apart), in eval mode, without gradients.
        tokenizer: Texts to numbers, without a limit of length.
        preprocessing: Pixels to the image encoder's input.
        device: Where the weights are.
        scale: What cosines are multiplied with to be logits: exp(logit_scale).
    """

    name: str
    digest: str
    model: nn.Module
    tokenizer: TextTokenizer
    preprocessing: Preprocessing
    device: torch.device
    scale: float

    @property
    def text(self) -> Any:
        """The module with the text tower's parts; the model itself where they are not apart."""
        return getattr(self.model, "text", self.model)

    @property
    def context_length(self) -> int:
        """Tokens a text can have, start and end included."""
        return int(self.text.context_length)

    @property
    def width(self) -> int:
        """Width of a token of the text encoder: contexts are ``[m, width]``."""
        return int(self.text.token_embedding.embedding_dim)

    @property
    def embed_dim(self) -> int:
        """Length of the features."""
        projection = self.text.text_projection
        return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[-1])

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts as numbers, int64 ``[n, context_length]``: start of text, the text, end of text, zeros.

        Raises:
            UsageError: A text is longer than the context; nothing is cut off.
        """
        numbers = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(numbers, texts, strict=True):
            tokens = [self.tokenizer.sot_token_id, *self.tokenizer.encode(text), self.tokenizer.eot_token_id]
            if len(tokens) > self.context_length:
                raise UsageError(
                    f"text {text!r} has {len(tokens)} tokens, {self.name} takes {self.context_length}; shorten it"
                )
            row[: len(tokens)] = torch.tensor(tokens)
        return numbers

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of texts, float32 ``[n, embed_dim]``, L2-normalised.

        Raises:
            UsageError: A text is longer than the context.
        """
        tokens = self.tokenize(texts).to(self.device)
        encode: Any = self.model.encode_text
        return torch.cat([encode(part, normalize=True).float() for part in torch.split(tokens, _TEXTS)])

    @property
    def tokens(self) -> int:
        """Features of an image with patches: one for the whole image, one for each patch.

        Raises:
            UsageError: The image encoder has no patches that are served.
        """
        visual: Any = self.model.visual
        if isinstance(visual, ModifiedResNet):
            return len(visual.attnpool.positional_embedding)
        if (
            isinstance(visual, VisionTransformer)
            and (visual.attn_pool, visual.pool_type, visual.final_ln_after_pool) == (None, "tok", False)
            and visual.proj is not None
        ):
            return len(visual.positional_embedding)
        raise UsageError(f"clip {self.name!r}: its image encoder gives no features of patches; take ViT-B-16:openai")

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor, *, normalise: bool = True) -> torch.Tensor:
        """Features of images.

        Args:
            images: uint8 ``[n, 3, height, width]``, RGB, of any size; made to fit as open_clip does in evaluation.
            normalise: Whether they get norm 1; if not, they are as the image encoder gives them.

        Returns:
            float32 ``[n, embed_dim]`` on the CLIP's device, L2-normalised on request.
        """
        encode: Any = self.model.encode_image
        features: torch.Tensor = encode(self.pixels(images), normalize=normalise)
        return features.float()

    @torch.no_grad()
    def encode_patches(self, images: torch.Tensor) -> torch.Tensor:
        """Features of images and of their patches, all in the space of the texts (Zhou et al. 2022, arXiv 2112.01071).

        The patches of a vision transformer are its last tokens, normalised and projected as the class token is; those
        of a ResNet are the outputs of its attention pool for every position as a query.

        Args:
            images: As for ``encode_images``.

        Returns:
            float32 ``[n, tokens, embed_dim]`` on the CLIP's device, L2-normalised, that of the whole image first.

        Raises:
            UsageError: The image encoder has no such patches.
        """
        assert self.tokens
        return functional.normalize(_patches(self.model.visual, self.pixels(images)).float(), dim=-1)

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """The input of the image encoder, float32 ``[n, 3, size, size]``, of images as ``encode_images`` takes them."""
        pixels = fit(images, self.preprocessing).to(self.device).float() / 255
        mean, std = (
            torch.tensor(value, device=self.device)[:, None, None]
            for value in (self.preprocessing.mean, self.preprocessing.std)
        )
        return (pixels - mean) / std


def _patches(visual: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Features ``[n, 1 + patches, embed_dim]``, not normalised; see ``Clip.encode_patches``."""
    if isinstance(visual, VisionTransformer):
        return visual.ln_post(visual.transformer(visual._embeds(pixels))) @ visual.proj  # type: ignore[no-any-return]
    x = visual.stem(pixels)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    x, pool = x.flatten(2).mT, visual.attnpool
    x = torch.cat((x.mean(1, keepdim=True), x), dim=1) + pool.positional_embedding
    q, k, v = (
        projection(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for projection in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    seen = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return pool.c_proj(seen)  # type: ignore[no-any-return]


def fit(images: torch.Tensor, how: Preprocessing) -> torch.Tensor:
    """Resizes and crops images to the size of the image encoder.

    Only the middle square of what is resized is kept, so a strip loses its ends first: one of 2 x 30,000 pixels
    would be enlarged to gigabytes.

    Args:
        images: uint8 ``[..., 3, height, width]``.
        how: Size, interpolation, and whether the proportions are kept.

    Returns:
        uint8 ``[..., 3, size, size]``: within a grey level of what Pillow's resampling gives.
    """
    if how.resize_mode == "squash":
        height, width = images.shape[-2:]
        size = (how.size, how.size)
    else:
        images = _middle(images)
        height, width = images.shape[-2:]
        short = min(height, width)
        size = (how.size * height // short, how.size * width // short)
    images = resized(images, size, how)
    top, left = (round((side - how.size) / 2) for side in size)
    return images[..., top : top + how.size, left : left + how.size]


def resized(images: torch.Tensor, size: tuple[int, int], how: Preprocessing) -> torch.Tensor:
    """Resizes images uint8 ``[..., 3, height, width]`` to a height and width, antialiased: uint8."""
    height, width = images.shape[-2:]
    if size == (height, width):
        return images
    flat = images.reshape(-1, 3, height, width)
    parts = [flat[:, c : c + 1] for c in range(3)] if height * width > _LARGE else [flat]
    found = [
        functional.interpolate(part.float(), size, mode=how.interpolation, antialias=True, align_corners=False)
        for part in parts
    ]
    return torch.cat(found, dim=1).round_().clamp_(0, 255).to(torch.uint8).reshape(*images.shape[:-2], *size)


def _middle(images: torch.Tensor) -> torch.Tensor:
    """Images ``[..., height, width]`` without the ends of sides that are over ``_LONGEST`` times the other.

    As much goes at either end, so the middle stays where it is.
    """
    height, width = images.shape[-2:]
    most = _LONGEST * min(height, width)
    down, across = max(height - most, 0) // 2, max(width - most, 0) // 2
    return images[..., down : height - down, across : width - across]


def load(spec: str = "tiny", device: str | torch.device = "cpu", *, random: int | None = None) -> Clip:
    """A CLIP by name.

    Args:
        spec: ``tiny`` (it comes with the package), ``ARCH:TAG`` (weights that open_clip knows; fetched once),
            ``ARCH:PATH`` (safetensors, or a PyTorch state dict), or ``ARCH:random`` (for benchmarks and tests).
        device: Where to put it.
        random: Seed of random weights; only for ``ARCH:random``, which takes 0 without it.

    Raises:
        UsageError: No such architecture, tag or file, or its text tower is not one of open_clip's own.
        DownloadError: The weights are not on this machine and cannot be fetched.
        ManifestError: The file does not hold weights of that architecture.
    """
    arch, _, tag = spec.partition(":")
    if random is not None and tag != "random":
        raise UsageError(f"random={random} works only with ARCH:random, not with clip {spec!r}; leave it out")
    if spec == "tiny":
        config, tokenizer, weights = tiny.parts()
        return frozen(spec, config["model_cfg"], tokenizer, weights, config["preprocess_cfg"], device)
    config = _architecture(spec, arch)
    if tag == "random":
        return frozen(spec, config, _tokenizer(arch), 0 if random is None else random, {}, device)
    known = open_clip.get_pretrained_cfg(arch, tag)
    if known:  # the activation is the one the weights were trained with
        config["quick_gelu"] = known.get("quick_gelu", False)
        path = _fetched(spec, arch, known)
    else:
        path = _file(spec, arch, tag)
    return frozen(spec, config, _tokenizer(arch), path, known, device)


def frozen(
    name: str,
    config: Mapping[str, Any],
    tokenizer: TextTokenizer,
    weights: Mapping[str, torch.Tensor] | Path | int,
    preprocessing: Mapping[str, Any],
    device: str | torch.device,
) -> Clip:
    """Builds the model and freezes it.

    Args:
        name: What messages call it.
        config: open_clip's ``embed_dim``, ``vision_cfg``, ``text_cfg``, ``quick_gelu``, ``custom_text``.
        tokenizer: The one the text tower was trained with.
        weights: A state dict, a file of one, or the seed of random weights.
        preprocessing: open_clip's ``mean``, ``std``, ``interpolation``, ``resize_mode``; OpenAI's where absent.
        device: Where to put it.

    Raises:
        UsageError: An image encoder or a preprocessing that is not served.
        ManifestError: The weights are not of that architecture.
    """
    config = dict(config)
    build = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(weights if isinstance(weights, int) else 0)
        model = build(**config)
    if isinstance(weights, Path):
        _read(model, weights, name)
    elif not isinstance(weights, int):
        model.load_state_dict(weights)
    model.eval().requires_grad_(False)
    how = _preprocessing(name, model, preprocessing)
    digest = _digest({**config, "preprocessing": vars(how)}, model.state_dict())
    scale = float(model.logit_scale.exp())
    return Clip(name, digest, model.to(device), tokenizer, how, torch.device(device), scale)


def _architecture(spec: str, arch: str) -> dict[str, Any]:
    config = open_clip.get_model_config(arch)
    if config is None or ":" not in spec:
        near = difflib.get_close_matches(arch, ["tiny", *open_clip.list_models()], n=3)  # there are hundreds
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UsageError(f"clip {spec!r} is not known{hint}; give tiny, ARCH:TAG or ARCH:PATH, e.g. ViT-B-16:openai")
    text = config["text_cfg"]
    if "multimodal_cfg" in config or text.get("hf_model_name") or text.get("hf_tokenizer_name"):
        raise UsageError(f"clip {spec!r}: its text tower is not open_clip's; use e.g. ViT-B-16:openai")
    # The image tower's own starting weights are never wanted: they would be fetched and then written over.
    config["vision_cfg"]["timm_model_pretrained"] = False
    return dict(config)


def _tokenizer(arch: str) -> TextTokenizer:
    tokenizer: TextTokenizer = open_clip.get_tokenizer(arch)
    return tokenizer


def _fetched(spec: str, arch: str, known: Mapping[str, Any]) -> Path:
    """Weights that open_clip knows by name: from the Hub's cache without asking the network, else fetched."""
    import huggingface_hub as hub

    repo, name = os.path.split(known.get("hf_hub", ""))
    defaults = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    for held in (Path(name).with_suffix(".safetensors").name, name) if name else defaults:
        path = hub.try_to_load_from_cache(repo, held) if repo else None
        if isinstance(path, str):
            return Path(path)
    try:
        if repo:  # asked once, and not a minute long as the Hub's client does where there is no network
            hub.get_session().head(hub.constants.ENDPOINT, timeout=10)
        return Path(open_clip.download_pretrained(known))
    except Exception as error:  # what a hub's client raises is its own affair
        words = discreet(error, 160)
        raise DownloadError(
            f"clip {spec!r}: its weights are not here and cannot be fetched ({words}); "
            f"connect once, give a file with --clip {arch}:PATH, or try --clip tiny"
        ) from None


def _file(spec: str, arch: str, tag: str) -> Path:
    path = Path(tag)
    if not path.is_file():
        tags = open_clip.list_pretrained_tags_by_model(arch)
        raise UsageError(f"clip {spec!r}: no file {tag!r} and no tag{suggest(tag, tags)}")
    if path.suffix not in _WEIGHTS:
        raise UsageError(f"clip {spec!r}: {path.name} should end in {', '.join(_WEIGHTS)}; convert it to safetensors")
    return path


def _read(model: nn.Module, path: Path, name: str) -> None:
    try:
        open_clip.load_checkpoint(model, str(path), weights_only=True)
    except Exception as error:  # pickle, zip, safetensors and torch have each their own
        words = discreet(error, 160)
        raise ManifestError(f"{path}: does not hold the weights of clip {name!r} ({words})") from None


def _preprocessing(name: str, model: nn.Module, given: Mapping[str, Any]) -> Preprocessing:
    size: Any = model.visual.image_size  # type: ignore[union-attr]
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    default = open_clip.transform.PreprocessCfg()
    wanted = {key: given.get(key) or getattr(default, key) for key in ("mean", "std", "interpolation", "resize_mode")}
    how = Preprocessing(int(height), tuple(wanted.pop("mean")), tuple(wanted.pop("std")), **wanted)
    if height != width or how.interpolation not in ("bicubic", "bilinear") or how.resize_mode == "longest":
        raise UsageError(f"clip {name!r}: images of {height} x {width}, {how.resize_mode}, cannot be made")
    return how


def _digest(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for key in sorted(weights):
        value = weights[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
