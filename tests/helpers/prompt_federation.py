"""Prompt methods bound to small federations and a small random CLIP, and their plain formulation."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.nn import functional

from fedrsic_data.dataset.reader import Dataset
from fedtrain.methods import METHODS
from fedtrain.methods.base import Context, Evaluation, State
from fedtrain.models import clip

PROMPTS = ("fedotp", "fedpgp", "fedprox", "fedrsclip", "kgcoop", "local", "promptfl", "promptfolio")
CPU = torch.device("cpu")
LENGTH = 28
"""Tokens of a text: CLIP's 77 would only make tests slower."""


@cache
def small_clip(width: int = 32) -> clip.Clip:
    """A CLIP of two layers with random weights; its texts are as wide as ``width``."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": LENGTH, "vocab_size": 49408, "width": width, "heads": 2, "layers": 2},
    }
    return clip.frozen("small", config, open_clip.get_tokenizer("ViT-B-32"), 0, {}, CPU)


def bind(path: Path, name: str, *, seed: int = 0, held_out: str | None = None, **settings: object) -> Any:
    """A method on the only subset of a dataset, with the CLIP that ``clip.load`` gives."""
    dataset = Dataset(path)
    subset = dataset.subset(dataset.subsets[0])
    table = subset.client_table.to_pylist()
    rows = [
        row["rows"] - dict(zip(row["domains"], row["domain_counts"], strict=True)).get(held_out, 0)
        for row in table
        if row["split"] == "train"
    ]
    context = Context(subset, subset.clients, tuple(rows), seed, CPU, cache=path.parent / "cache", held_out=held_out)
    if name == "fedotp":  # features as ``plain_images`` has them
        settings = {"patches": "float32", **settings}
    return METHODS[name](context, METHODS[name].Settings(**settings))


def trained(method: Any, rounds: int) -> tuple[State, Callable[[int], State], list[float]]:
    """Rounds with all clients, averaged by rows: the shared state, the personal ones, and the loss of each round."""
    shared, personal, losses = method.shared(), {}, []
    clients = [client for client, rows in enumerate(method.context.rows) if rows]

    def own(client: int) -> State:
        return personal.get(client) or method.personal(client)

    for round_ in range(1, rounds + 1):
        updates = list(method.train(shared, [own(client) for client in clients], clients, round_))
        total = sum(update.rows for update in updates)
        shared = {name: sum(u.shared[name] * (u.rows / total) for u in updates) for name in shared}
        personal |= {update.client: update.personal for update in updates}
        losses.append(sum(update.loss * update.rows for update in updates) / total)
    return shared, own, losses


def judged(method: Any, rounds: int = 0, split: str = "test") -> Evaluation:
    """A method after some rounds."""
    shared, own, _ = trained(method, rounds)
    return method.evaluate(shared, own, split)


def same(left: State, right: State, tolerance: float = 0.0) -> bool:
    """Whether states have the same names and, but for ``tolerance``, values."""
    return left.keys() == right.keys() and all(
        torch.allclose(left[name], right[name], rtol=0, atol=tolerance) for name in left
    )


# the plain formulation: every image and every text encoded at every step, all tokens, a client at a time


def plain_images(method: Any, client: int, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and class numbers of a client's rows, from the bytes of its shard."""
    subset = method.context.subset
    rows = subset.client(subset.clients[client]).read(split).to_pylist()
    features = []
    for row in rows:
        pixels = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        features.append(plain_image(method, pixels))
    return torch.stack(features), torch.tensor([row["label"] for row in rows])


def plain_image(method: Any, pixels: np.ndarray) -> torch.Tensor:
    """The feature of an image, or those of it and its patches where a method reads them."""
    encode = method.clip.encode_patches if method.features == "patches" else method.clip.encode_images
    return encode(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])[0]


def plain_texts(method: Any, context: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Text features ``[C, embed_dim]`` under one context ``[m, d]``, each class all tokens through the tower."""
    model, length = method.clip.model, len(context)
    texts = ["X " * length + name.replace("_", " ") + "." for name in names]
    tokens = _tokens(texts)
    x = model.token_embedding(tokens)
    x = torch.cat((x[:, :1], context.expand(len(names), -1, -1), x[:, 1 + length :]), dim=1)
    x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
    x = model.ln_final(x)[torch.arange(len(names)), tokens.argmax(-1)] @ model.text_projection
    return functional.normalize(x, dim=-1)


def plain_words(method: Any, names: Sequence[str], words: str | Sequence[str]) -> torch.Tensor:
    """Text features of names in fixed words; the mean of several, L2-normalised again."""
    if not isinstance(words, str):
        return functional.normalize(torch.stack([plain_words(method, names, one) for one in words]).mean(0), dim=-1)
    tokens = _tokens([words.format(name.replace("_", " ")) for name in names])
    return functional.normalize(method.clip.model.encode_text(tokens), dim=-1)


def _tokens(texts: Sequence[str]) -> torch.Tensor:
    return open_clip.get_tokenizer("ViT-B-32")(texts, context_length=LENGTH)


def plain_pair(
    method: Any, state: State, images: torch.Tensor, names: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The texts of FedRSCLIP's shared prompt and of its private one, and the logits of both combined."""
    p, q, scale = state["shared_prompt"], state["private_prompt"], method.clip.model.logit_scale.exp()
    t, u = plain_texts(method, p, names), plain_texts(method, q, names)
    logits = {
        "mean": lambda: scale * (images @ t.T + images @ u.T) / 2,
        "add": lambda: scale * images @ plain_texts(method, p + q, names).T,
        "concat": lambda: scale * images @ plain_texts(method, torch.cat((p, q)), names).T,
    }[method.settings.combine]()
    return t, u, logits


def plain_folio(method: Any, state: State, images: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """The logits of PromptFolio: the mean of those of its two prompts, in parts of 1 - mix and mix."""
    mix, scale = method.settings.mix, method.clip.model.logit_scale.exp()
    common, own = (scale * images @ plain_texts(method, state[f"{k}_prompt"], names).T for k in ("global", "local"))
    return (1 - mix) * common + mix * own


def plain_transport(method: Any, state: State, images: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """FedOTP's logits ``[n, C]``: the iterations as its authors write them, without a logarithm and in float64."""
    s, texts = method.settings, [plain_texts(method, state[key], names) for key in ("general", "own")]
    if "negative" in state:
        texts = [text - plain_texts(method, state["negative"], names) for text in texts]
    cosines = torch.stack([images[:, 1:] @ text.T for text in texts], dim=-1)  # [n, M, C, N]
    kernel = torch.exp(-(1 - cosines.detach().double()) / s.eps)
    a, b = 1 / kernel.shape[1], s.mass / len(texts)
    p, q = torch.ones_like(kernel[..., :1]), torch.ones_like(kernel[:, :1])
    for _ in range(s.iterations):
        p = torch.minimum(1 / (kernel / a * q).sum(-1, keepdim=True), torch.ones(()))
        q = 1 / (kernel / b * p).sum(1, keepdim=True)
    return method.clip.model.logit_scale.exp() * ((p * kernel * q).float() * cosines).sum((1, 3))


def plain_loss(
    method: Any, name: str, state: State, shared: State, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """The loss of one client's batch, written out anew from what the methods document."""
    s, names, scale = method.settings, method.context.subset.classes, method.clip.model.logit_scale.exp()

    def ce(text: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(scale * images @ text.T, labels)

    if name == "fedrsclip":
        t, u, logits = plain_pair(method, state, images, names)
        log_t, log_u = ((scale * images @ x.T).log_softmax(1) for x in (t, u))
        dpa = {
            "cosine": (1 - functional.cosine_similarity(t, u)).mean(),
            "mse": functional.mse_loss(t, u),
            "kl": functional.kl_div(log_u, log_t, reduction="batchmean", log_target=True),
        }[s.dpa]
        cosines = [functional.cosine_similarity(images, x[labels]) for x in (t, u)]
        cma = {
            "cosine": ((1 - cosines[0]) + (1 - cosines[1])).mean() / 2,
            "infonce": (ce(t) + ce(u)) / 2,
        }[s.cma]
        return functional.cross_entropy(logits, labels) + s.dpa_weight * dpa + s.cma_weight * cma
    if name == "fedpgp":
        words = s.template if s.anchor == "template" else " ".join("X" * s.length) + " {}."
        a, g = plain_words(method, names, words), plain_texts(method, state["sigma"], names)
        own = plain_texts(method, state["sigma"] + state["u"] @ state["v"], names)
        to_own, to_clip = functional.cosine_similarity(g, own) / s.tau, functional.cosine_similarity(g, a) / s.tau
        return ce(own) + s.mu * -(to_clip.exp() / (to_clip.exp() + to_own.exp())).log().mean()
    if name == "promptfolio":
        return functional.cross_entropy(plain_folio(method, state, images, names), labels)
    if name == "fedotp":
        return functional.cross_entropy(plain_transport(method, state, images, names), labels)
    text = plain_texts(method, state["context"], names)
    if name == "kgcoop":
        away = 1 - functional.cosine_similarity(text, plain_words(method, names, s.template))
        return ce(text) + s.weight * away.mean()
    if name == "fedprox":
        return ce(text) + s.mu / 2 * (state["context"] - shared["context"]).pow(2).sum()
    return ce(text)
