"""Text features of classes under learned contexts: ``[SOS] ctx_1 .. ctx_m class name . [EOS]``.

Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022 (CoOp), with the class name at the end and one
context for all classes. The features are those of the plain formulation, every class a sequence of its own through the
whole text tower; two facts make them cheap:

- Attention is causal, so nothing after a class's ``[EOS]`` matters and it is not computed.
- ``[SOS]`` and the context come first and are the same for all classes, so they are computed once. All class names
  follow them in one row, each at the position it would have alone and masked from the others: a tree instead of
  a sequence per class. Only the ``[EOS]`` positions pass the last block as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock  # type: ignore[import-untyped]
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fedrsic_data.errors import UsageError
from fedtrain.models.clip import Clip

_KEPT = 2**30  # bytes of a pass that may be kept for its gradients: beyond, each block is computed again for them
_ROW = 256  # class tokens that share a row: more repeats the context less often, but attention grows with the square


@dataclass(frozen=True)
class _Tree:
    """Class names behind one context, in as many rows as they need.

    Attributes:
        names: Embedded class tokens with their positions, float ``[rows, tokens, d]``.
        mask: Which position sees which, bool ``[rows, 1, 1 + m + tokens, 1 + m + tokens]``.
        ends: Where the ``[EOS]`` of a row's classes are, int64 ``[rows, most classes]``; 0 where there are fewer.
        order: Place of each class among the flattened ``ends``, int64 ``[classes]``.
    """

    names: torch.Tensor
    mask: torch.Tensor
    ends: torch.Tensor
    order: torch.Tensor


def class_tokens(clip: Clip, classes: Sequence[str], length: int) -> list[list[int]]:
    """The tokens that follow a context: those of each class name, underscores read as spaces, and the end of text.

    Raises:
        UsageError: With a context of ``length`` vectors, a class is too long for the CLIP.
    """
    end = clip.tokenizer.eot_token_id
    found = [[*clip.tokenizer.encode(f"{name.replace('_', ' ')}."), end] for name in classes]
    for name, tokens in zip(classes, found, strict=True):
        if 1 + length + len(tokens) > clip.context_length:
            raise UsageError(
                f"class {name!r} with a context of {length} has {1 + length + len(tokens)} tokens, "
                f"{clip.name} takes {clip.context_length}; shorten the name or the context"
            )
    return found


class PromptEncoder:
    """Text features of classes under learned contexts.

    Memory for gradients is about 80 x layers x width bytes for each context and token, of which there are
    ``tokens`` to a context. Above 1 GiB, a pass keeps only what enters each block, a twentieth, and computes the blocks
    again for the gradients: the values are the same to the bit, and a step takes a third longer.

    Attributes:
        length: Context vectors, m.
        width: Length of a context vector, d.
        tokens: Positions computed for one context and all classes.
    """

    def __init__(self, clip: Clip, classes: Sequence[str], length: int) -> None:
        """Lays out the class names.

        Args:
            clip: Frozen; its text tower must be open_clip's own causal transformer, read out at the end of text.
            classes: Names; underscores are read as spaces.
            length: Context vectors before a name, at least 1.

        Raises:
            UsageError: No classes, ``length`` below 1, a text too long for the CLIP, or another kind of text tower.
        """
        if length < 1:
            raise UsageError(f"length={length} should be at least 1 context vector")
        if not classes:
            raise UsageError("classes should name at least one class")
        _servable(clip)
        self.length = length
        self.width = clip.width
        self._text = clip.text
        self._blocks = tuple(self._text.transformer.resblocks)
        self._classes = class_tokens(clip, classes, length)
        with torch.no_grad():
            start = torch.tensor(clip.tokenizer.sot_token_id, device=clip.device)
            self._positions = self._text.positional_embedding[1 : 1 + length]
            self._start = self._text.token_embedding(start) + self._text.positional_embedding[0]
        self._tree = self._plant(range(len(classes)))
        self.tokens = self._tree.mask.shape[0] * self._tree.mask.shape[-1]

    def __call__(self, context: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
        """Encodes the classes under each context.

        Args:
            context: float ``[K, m, d]``, on the CLIP's device.
            classes: int64 ``[C]``, which classes; None for all.

        Returns:
            float32 ``[K, C, embed_dim]``, L2-normalised, differentiable in ``context``.
        """
        tree = self._tree if classes is None else self._plant(classes.tolist())
        contexts, (rows, tokens, width) = len(context), tree.names.shape
        x = torch.cat(
            (
                self._start.expand(contexts, rows, 1, width),
                (context + self._positions)[:, None].expand(contexts, rows, self.length, width),
                tree.names.expand(contexts, rows, tokens, width),
            ),
            dim=2,
        ).flatten(0, 1)
        mask = tree.mask if rows == 1 else tree.mask.repeat(contexts, 1, 1, 1)
        again = x.requires_grad and 80 * len(self._blocks) * x.numel() > _KEPT
        for block in self._blocks:
            at = tree.ends.repeat(contexts, 1) if block is self._blocks[-1] else None
            x = checkpoint(_block, block, x, mask, at, use_reentrant=False) if again else _block(block, x, mask, at)
        x = x.reshape(contexts, -1, width)[:, tree.order]
        x = self._text.ln_final(x)
        projection = self._text.text_projection
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        return functional.normalize(x.float(), dim=-1)

    def _plant(self, classes: Sequence[int]) -> _Tree:
        """Deals the classes to rows of about equal length."""
        lengths = [len(self._classes[c]) for c in classes]
        target = -(-sum(lengths) // -(-sum(lengths) // _ROW))
        rows: list[list[int]] = [[]]
        held = 0
        for place, tokens in enumerate(lengths):
            if held >= target:
                rows.append([])
                held = 0
            rows[-1].append(place)
            held += tokens
        device, first = self._start.device, 1 + self.length
        longest = first + max(sum(lengths[place] for place in row) for row in rows)
        numbers = torch.zeros(len(rows), longest - first, dtype=torch.long)
        positions = torch.zeros_like(numbers)
        mask = torch.eye(longest, dtype=torch.bool).repeat(len(rows), 1, 1, 1)  # what is not used sees itself
        mask[..., :first, :first] = torch.ones(first, first, dtype=torch.bool).tril()
        ends = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        order = torch.zeros(len(lengths), dtype=torch.long)
        for r, row in enumerate(rows):
            at = first
            for i, place in enumerate(row):
                to = at + lengths[place]
                numbers[r, at - first : to - first] = torch.tensor(self._classes[classes[place]])
                positions[r, at - first : to - first] = torch.arange(first, first + lengths[place])
                mask[r, 0, at:to, :first] = True
                mask[r, 0, at:to, at:to] = torch.ones(to - at, to - at, dtype=torch.bool).tril()
                ends[r, i], order[place] = to - 1, r * ends.shape[1] + i
                at = to
        with torch.no_grad():
            names = self._text.token_embedding(numbers.to(device))
            names += self._text.positional_embedding[positions.to(device)]
        return _Tree(names, mask.to(device), ends.to(device), order.to(device))


def initial_context(length: int, width: int, generator: torch.Generator, std: float = 0.02) -> torch.Tensor:
    """Context vectors from N(0, std^2), float32 ``[length, width]`` on the CPU."""
    return torch.randn(length, width, generator=generator) * std


def _block(block: Any, x: torch.Tensor, mask: torch.Tensor, at: torch.Tensor | None = None) -> torch.Tensor:
    """A residual attention block with its own weights.

    Args:
        block: open_clip's ``ResidualAttentionBlock``.
        x: ``[n, positions, d]``.
        mask: Which position sees which, bool, broadcast to ``[n, 1, positions, positions]``.
        at: Positions of each of ``n`` to go on with, int64 ``[n, q]``; None for all. The others are only seen.

    Returns:
        ``[n, positions, d]``, or ``[n, q, d]``.
    """
    attention, width = block.attn, x.shape[-1]
    normed = block.ln_1(x)
    asking = normed
    if at is not None:
        chosen = at[..., None].expand(*at.shape, width)
        x, asking = x.gather(1, chosen), normed.gather(1, chosen)
        # [n, 1, q, positions]
        mask = mask.expand(len(x), -1, -1, -1).gather(2, at[:, None, :, None].expand(-1, -1, -1, mask.shape[-1]))
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    q = functional.linear(asking, weight[:width], bias[:width])
    k, v = functional.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
    q, k, v = (part.reshape(*part.shape[:-1], attention.num_heads, -1).transpose(1, 2) for part in (q, k, v))
    seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    x = x + block.ls_1(attention.out_proj(seen))
    return x + block.ls_2(block.mlp(block.ln_2(x)))  # type: ignore[no-any-return]


def _servable(clip: Clip) -> None:
    """Refuses text towers whose features this module would not give."""
    text = clip.text
    pool = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
    end = getattr(text, "text_eos_id", None) or getattr(text, "eos_id", None)
    wrong = (
        "is not a transformer of open_clip's own"
        if not all(type(block) is ResidualAttentionBlock for block in getattr(text.transformer, "resblocks", [None]))
        else "is not causal"
        if getattr(text, "attn_mask", None) is None
        else "reads a class token"
        if getattr(text, "cls_emb", None) is not None
        else "is not read out at the end of text"
        if pool != "argmax" and (pool, end) != ("eos", clip.tokenizer.eot_token_id)
        else "has no projection"
        if text.text_projection is None
        else ""
    )
    if wrong:
        raise UsageError(f"clip {clip.name!r}: its text tower {wrong}; use another, e.g. ViT-B-16:openai")
