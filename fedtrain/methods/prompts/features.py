"""Features of all images of a split, computed once by a frozen CLIP and kept on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from fedrsic_data.errors import ManifestError, OutputError, UsageError
from fedrsic_data.files import atomic
from fedtrain import trace
from fedtrain.methods.lazy import functional, torch
from fedtrain.seeds import generator

if TYPE_CHECKING:
    from fedrsic_data.dataset.reader import Subset
    from fedtrain.models.clip import Clip

FeatureKind: TypeAlias = Literal["global", "raw", "patches", "pixels"]
"""Features of images: one vector of norm 1, as the encoder gives it, or one of each patch too; or the pixels."""

_FORMAT = 4
"""Raised whenever the same images would give other features, or earlier ones cannot be trusted.

Up to 1, features of images that were read from the Hub and not proved could be kept under the digests of others.
Up to 2, rotated, 16-bit and other uncommon images were encoded as something else.
Up to 3, features of whole images were kept with norm 1, and those that the encoder gives could not be had from them.
"""

_VIEW = "evaluation"  # of the cache's key: resized and cropped as CLIP does in evaluation, not augmented
_PATCHES = {"float16": "evaluation, patches", "float32": "evaluation, patches, float32"}
_BATCH = 128  # images encoded at a time
_BLOCK, _AHEAD = 16, 4 * _BATCH  # views of an image that are made at a time, and pictures that wait to be encoded

Kept: TypeAlias = Literal["float16", "float32"]
"""The numbers in which features of patches are kept, on disk and in memory.

A number of 16 bits is within 1 / 2048 of its own size, so a cosine of what is kept is within 0.0005 of the true one.
"""


@dataclass(frozen=True)
class Features:
    """The images of a split, in the order of the subset's clients and, within a client, of its shard.

    Attributes:
        values: float32 ``[N, embed_dim]``, L2-normalised unless they are raw, on the CLIP's device; with several views
            ``[N, views, embed_dim]``; with patches ``[N, 1 + patches, embed_dim]`` on the CPU, in the numbers
            that were requested, see ``Clip.encode_patches``.
        labels: Class of each image, int64 ``[N]``; multi-label int8 ``[N, L]``, see ``fedtrain.data.label_states``.
        client: Number of its client, the place in ``subset.clients``, int64 ``[N]``, rising.
        domain: Its domain, a place in ``domains``, int64 ``[N]``.
        domains: Names of the domains, sorted.
    """

    values: torch.Tensor
    labels: torch.Tensor
    client: torch.Tensor
    domain: torch.Tensor
    domains: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def features(
    clip: Clip,
    subset: Subset,
    split: str,
    *,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
    labels: str = "coarse",
    kind: FeatureKind = "global",
    kept: Kept = "float16",
    views: int = 1,
    seed: int = 0,
) -> Features:
    """Encodes a split, or takes its features from the cache.

    A cache file is named by what its values depend on: the digests of the shards in the order they are read, the
    CLIP's digest, and the view, or the number and the seed of random ones. Every shard is compared with its digest
    first. A cache file that is damaged or says something else is computed again and replaced. It holds raw features,
    from which those of norm 1 are made, so that methods of either kind encode an image once.

    Args:
        clip: Frozen.
        subset: The federation.
        split: One of its splits.
        cache: Folder for values; None: no cache.
        say: Called with descriptions of long steps.
        labels: ``coarse``, or ``fine`` where the dataset has finer labels.
        kind: ``global`` or ``raw``, a vector of an image; ``patches``, one of each of its patches too; ``pixels``, the
            input of the image encoder, which is not cached.
        kept: Numbers that features with patches are kept in: with ViT-B/16, float16 takes 0.2 MB an image.
        views: 1: the view of evaluation. More: as many random views of each image in its place, see
            ``fedtrain.models.views``; they take views x embed_dim x 4 bytes an image.
        seed: Seed of random views. A view depends on this, its image's ``sample_id`` and its number alone.

    Raises:
        UsageError: There is no such split, or its patches or views take more memory than the machine has.
        BadImageError: An image cannot be decoded.
        ManifestError: A shard is missing or does not match the manifest.
        OutputError: The cache cannot be written.
    """
    subset.dataset.demand_proof()  # what is made of a shard is kept under the digest that it should have
    truth, client, domain, domains = _rows(subset, split, labels)
    if len(truth) != len(client):
        raise ManifestError(
            f"{subset.name}/{split}: the shards hold {len(truth):,} rows, clients.parquet says {len(client):,}; "
            "run: fedkit verify"
        )
    count = len(truth)
    if kind == "pixels":
        side = clip.preprocessing.size
        size = 3 * side**2 * views * count
        _check_memory(
            f"{subset.name}/{split}: {count:,} images of {side} x {side} pixels", size, "uint8", "fewer images"
        )
        say(f"decoding {count:,} images of {subset.name}/{split} ({size / 1e6:,.1f} MB)")
        found = [torch.zeros(0, 3, side, side, dtype=torch.uint8), *_batches(clip, subset, split, views, seed)]
        shape = (count, *([views] if views > 1 else []), 3, side, side)
        return Features(torch.cat(found).reshape(shape), truth, client, domain, domains)
    patches = kept if kind == "patches" else None
    view: list[str | int] | str = ["random", views, seed] if views > 1 else _PATCHES[patches] if patches else _VIEW
    key = _key(clip, subset, split, view)
    file = None if cache is None else cache / "features" / f"{key}.safetensors"
    shape = (count, *([views] if views > 1 else []), *([clip.tokens] if patches else []), clip.embed_dim)
    dtype = getattr(torch, patches or "float32")
    size = math.prod(shape) * dtype.itemsize
    values = None if file is None else _read(file, key, shape, dtype)
    if values is None:
        what = f"{views:,} views" if views > 1 else "the patches" if patches else ""
        if what:
            smaller = "patches=float16, " if patches == "float32" else ""
            smaller = "fewer views" if views > 1 else f"{smaller}a CLIP of fewer patches such as ViT-B-32"
            name = f"{subset.name}/{split}: {what} of {count:,} images"
            _check_memory(name, size, patches or "float32", f"{smaller}, or fewer images")
        several = what and f"{what} ({size / 1e6:,.1f} MB) of "
        say(f"encoding {several}{count:,} images of {subset.name}/{split} with clip {clip.name}")
        with trace.phase("encoding images"):
            values = _encode(clip, subset, split, patches, views, seed).reshape(shape)
        if file is not None:
            _write(file, key, values)
    if not patches:
        values = values.to(clip.device)
        values = values if kind == "raw" else functional.normalize(values, dim=-1)
    return Features(values, truth, client, domain, domains)


def _check_memory(what: str, size: int, kept: str, fix: str) -> None:
    """Refuse what this machine cannot hold, before hours of encoding end without a word.

    Raises:
        UsageError: It has less memory than twice the size: what is made is joined, and written, from a copy.
    """
    memory = _memory()
    if 2 * size > memory:
        raise UsageError(
            f"{what} take {size / 1e9:,.1f} GB as {kept}, and twice that while they are made; this machine has "
            f"{memory / 1e9:,.1f} GB of memory: use {fix}"
        )


def _memory() -> float:
    """Bytes of memory of this machine, infinity where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not POSIX
        return math.inf


def _rows(subset: Subset, split: str, labels: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Labels as ``Features`` has them, clients' numbers, domains' codes and names; no image is read."""
    from fedtrain.data import label_columns, label_states

    table = subset.read(split, [*label_columns(subset, labels), "domain"])
    domains, domain = np.unique(np.array(table.column("domain").to_pylist(), dtype=np.str_), return_inverse=True)
    rows = torch.tensor([subset.client(name).rows(split) for name in subset.clients], dtype=torch.long)
    client = torch.repeat_interleave(torch.arange(len(rows)), rows)
    return (
        label_states(subset, table, labels),
        client,
        torch.from_numpy(domain.astype(np.int64)),
        tuple(map(str, domains)),
    )


def _key(clip: Clip, subset: Subset, split: str, view: list[str | int] | str) -> str:
    digests = {shard.path: shard.sha256 for shard in subset.entry.shards}
    pieces = [piece for name in subset.clients for piece in subset.pieces(name, split)]
    read = [(digests[piece.file], piece.row_group, piece.row_groups) for piece in pieces]
    return hashlib.sha256(json.dumps([_FORMAT, view, clip.digest, read]).encode()).hexdigest()


def _encode(
    clip: Clip, subset: Subset, split: str, patches: Kept | None = None, views: int = 1, seed: int = 0
) -> torch.Tensor:
    """Raw ``Features.values``, on the CPU, a row a view."""
    dtype = getattr(torch, patches or "float32")
    found = [
        clip.encode_patches(pictures).to(dtype).cpu() if patches else clip.encode_images(pictures, normalise=False)
        for pictures in _batches(clip, subset, split, views, seed)
    ]
    if not found:
        return torch.zeros(0, *([clip.tokens] if patches else []), clip.embed_dim, dtype=dtype)
    return torch.cat(found).cpu()  # the first time the CPU waits for the GPU


def _batches(clip: Clip, subset: Subset, split: str, views: int, seed: int) -> Iterator[torch.Tensor]:
    """Pictures uint8 ``[n, 3, size, size]``, a row a view; a row group of files and a batch are in memory."""
    from fedtrain.data import decoders

    batch: list[torch.Tensor] = []
    with ThreadPoolExecutor(decoders()) as pool:  # Pillow decodes without Python's lock
        for jobs in _jobs(subset, split, views):
            for pictures in pool.map(lambda job: _pictures(clip, subset.name, job[0], job[1], seed), jobs):
                for picture in pictures:
                    batch.append(picture)
                    if len(batch) == _BATCH:
                        yield torch.stack(batch)
                        batch.clear()
    if batch:
        yield torch.stack(batch)


def _files(subset: Subset, split: str) -> Iterator[list[tuple[str, bytes]]]:
    """Sample ids and image files, some at a time."""
    for name in subset.clients:
        for rows in subset.client(name).batches(split, rows=_BATCH, columns=["sample_id", "image"]):
            files = rows.column("image").field("bytes")
            yield list(zip(rows.column("sample_id").to_pylist(), files.to_pylist(), strict=True))


def _jobs(subset: Subset, split: str, views: int) -> Iterator[Sequence[tuple[tuple[str, bytes], range | None]]]:
    """Sample ids and image files with numbers of their views, some at a time; None: the view of evaluation."""
    for files in _files(subset, split):
        if views == 1:
            yield [(file, None) for file in files]
            continue
        jobs = ((file, range(views)[first : first + _BLOCK]) for file in files for first in range(0, views, _BLOCK))
        while some := list(islice(jobs, _AHEAD // _BLOCK)):
            yield some


def _pictures(clip: Clip, subset: str, file: tuple[str, bytes], views: range | None, seed: int) -> list[torch.Tensor]:
    """Views of an image, given its id and file: uint8 ``[3, size, size]`` each, as the encoder takes them."""
    from fedtrain.data import picture, tensor
    from fedtrain.models.clip import fit
    from fedtrain.models.views import random_view

    sample, data = file
    image, how = tensor(picture(data, subset, sample)), clip.preprocessing
    if views is None:
        return [fit(image, how)]
    return [random_view(image, how, generator(seed, "view", sample, view)) for view in views]


def _read(file: Path, key: str, shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor | None:
    """The values of a cache file, or None unless it is whole and says that it is what is looked for."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():  # opening a pipe would block for ever
        return None
    try:
        with safe_open(file, framework="pt") as held:
            facts, values = held.metadata() or {}, held.get_tensor("values")
    except (OSError, SafetensorError):
        return None
    if values.shape != shape or values.dtype != kind or facts != _facts(key, values):
        return None
    return values  # type: ignore[no-any-return]


def _write(file: Path, key: str, values: torch.Tensor) -> None:
    from safetensors.torch import save

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(file, lasting=False) as aside:
            aside.write(save({"values": values}, _facts(key, values)))
    except OSError as error:
        words = error.strerror or error
        raise OutputError(f"{file}: the cache cannot be written ({words}); free space, or choose another") from None


def _facts(key: str, values: torch.Tensor) -> dict[str, Any]:
    return {"key": key, "sha256": hashlib.sha256(values.numpy().data).hexdigest()}
