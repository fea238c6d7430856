"""Text embeddings of labels: the universal label embeddings of FedLGT."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fedrsic_data.dataset.manifest import SubsetEntry
from fedrsic_data.errors import UsageError
from fedrsic_data.files.atomic import write
from fedtrain.models.clip import Clip

Words = Literal["auto", "name", "concat", "avg"]

_MOST = 20  # fine labels that describe a coarse one
_STATES = ("positive", "negative")


def told(entry: SubsetEntry, labels: str, words: Words, clip: Clip) -> list[list[str]]:
    """The texts of each label; the mean of their embeddings is the label's embedding.

    Args:
        entry: The subset, whose training split says which fine labels are frequent.
        labels: ``coarse`` or ``fine``.
        words: ``name``: ``The photo contains {name}.``; ``concat``: one such text with the label's most frequent fine
            labels, up to 20 and as many as fit the encoder, joined by commas; ``avg``: a text for each of the 20;
            ``auto``: ``concat`` where a label has fine ones, else ``name``.
        clip: Whose encoder it is for.

    Raises:
        UsageError: The subset has no finer labels that say what they are kinds of.
    """
    names = entry.classes if labels == "coarse" or entry.fine is None else entry.fine.classes
    if labels == "fine" or words == "name" or entry.fine is None or not any(entry.fine.parents):
        if words in ("concat", "avg"):
            raise UsageError(f"ule={words}: needs coarse labels with finer ones under them; use ule=name")
        return [[_sentence([name])] for name in names]
    kinds = _kinds(entry)
    if words == "avg":
        return [[_sentence([kind]) for kind in kinds.get(name) or [name]] for name in names]
    return [[_longest(kinds.get(name) or [name], clip)] for name in names]


def embed(clip: Clip, texts: Sequence[Sequence[str]], cache: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Label and state embeddings.

    Args:
        clip: Encodes them.
        texts: From ``told``.
        cache: Folder of earlier results, by digest of encoder and texts; None: compute.

    Returns:
        float32 ``[L, d]``, every text's feature of norm 1; and ``[3, d]``: unknown, positive, negative.
    """
    key = hashlib.sha256(json.dumps([clip.digest, texts], ensure_ascii=False).encode()).hexdigest()
    path = None if cache is None else cache / f"labels-{key[:32]}.safetensors"
    shape = (len(texts), clip.embed_dim)
    found = None if path is None else _kept(path, shape)
    if found is None:
        flat = clip.encode_texts([text for group in texts for text in group]).cpu()
        labels = torch.stack([group.mean(0) for group in torch.split(flat, [len(group) for group in texts])])
        states = torch.cat([torch.zeros(1, shape[1]), clip.encode_texts(_STATES).cpu()])
        found = {"labels": labels, "states": states}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, save(found))
    return found["labels"], found["states"]


def _kept(path: Path, shape: tuple[int, int]) -> dict[str, torch.Tensor] | None:
    try:
        found: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError):
        return None
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    return found if shapes == {"labels": shape, "states": (3, shape[1])} else None


def _kinds(entry: SubsetEntry) -> dict[str, list[str]]:
    """The most frequent fine labels of each coarse one in the training split, most frequent first."""
    assert entry.fine is not None
    fine = zip(entry.fine.classes, entry.fine.parents, entry.fine.train_counts, strict=True)
    kinds: dict[str, list[str]] = {}
    for name, parent, count in sorted(fine, key=lambda row: (-row[2], row[0])):
        if count and len(kinds.setdefault(parent, [])) < _MOST:
            kinds[parent].append(name)
    return kinds


def _longest(names: list[str], clip: Clip) -> str:
    """One text with as many of the names as fit the encoder."""
    for count in range(len(names), 1, -1):
        text = _sentence(names[:count])
        if len(clip.tokenizer.encode(text)) + 2 <= clip.context_length:
            return text
    return _sentence(names[:1])


def _sentence(names: Sequence[str]) -> str:
    return f"The photo contains {', '.join(name.replace('_', ' ') for name in names)}."
