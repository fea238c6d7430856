"""Images of a federation as uint8 tensors: decoded once, kept on the device while they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
from PIL import Image

from fedrsic_data.dataset.reader import Subset
from fedtrain import trace
from fedtrain.methods.lazy import nn, torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Means and standard deviations of ImageNet's channels, for values in 0..1."""

_CHUNK = 512  # images of a split decoded at a time
_CHANNELS_LAST = 2**19
"""Pixels of a batch from which a CPU convolves faster with the channels last in memory: 8 images of 256 pixels a side.

A step of ResNet-18 on one thread takes 1.21 times less processor time for 16 such images, 1.06 times for 4, and 1.10
times more for 1; of 64 pixels a side, 16 images take 1.19 times more.
"""
T = TypeVar("T")


@dataclass(frozen=True)
class Pictures:
    """Images of one client, or of a part of a split.

    Attributes:
        images: uint8 ``[n, 3, size, size]``, RGB.
        targets: bool ``[n, L]``: which labels each has; single-label: its class alone.
        owner: int64 ``[n]``: number of the client each belongs to.
        unknown: bool ``[n, L]``: which labels nobody knows; None if all are known.
    """

    images: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    unknown: torch.Tensor | None = None

    def take(self, rows: torch.Tensor) -> Pictures:
        """Those of the rows int64 ``[m]``."""
        unknown = None if self.unknown is None else self.unknown[rows]
        return Pictures(self.images[rows], self.targets[rows], self.owner[rows], unknown)


class Album:
    """The images of a subset by client and by split."""

    def __init__(
        self,
        subset: Subset,
        labels: str,
        size: int,
        device: torch.device,
        budget: int,
        *,
        held_out: str | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            subset: The federation.
            labels: ``coarse``, or ``fine`` where the dataset has finer labels.
            size: Images are resized to this height and width, antialiased, whatever their shape.
            device: Where decoded images are kept.
            budget: Bytes of decoded images that may be kept from round to round; beyond, they are decoded again.
            held_out: Domain whose images are given only on request.
        """
        self._subset = subset
        from fedtrain.data import label_columns

        self._labels = labels
        self._held_out = held_out
        self._columns = ["image", "sample_id", *label_columns(subset, labels)] + ["domain"] * (held_out is not None)
        self._size = size
        self._device = device
        self._left = budget
        self._kept: dict[tuple[str, int, bool], Pictures] = {}
        self._parts: dict[str, int] = {}  # of splits that were read to the end
        self._number = {client: i for i, client in enumerate(subset.clients)}

    def client(self, number: int, split: str = "train", *, held_out: bool = False) -> Pictures:
        """A client's images of a split, in the order of its shard; those of the held-out domain, or all others."""
        key = split, number, held_out
        if key not in self._kept:
            table = self._subset.client(self._subset.clients[number]).read(split, self._columns)
            made = self._made(table, np.full(table.num_rows, number), held_out)
            return self._keep(key, made)
        return self._kept[key]

    def split(self, split: str, *, held_out: bool = False) -> Iterator[Pictures]:
        """All images of a split in chunks, in the order of the clients; those of the held-out domain, or all others."""
        keys = [(f"{split} in parts", part, held_out) for part in range(self._parts.get(split, 0))]
        if keys and self._kept.keys() >= set(keys):
            yield from (self._kept[key] for key in keys)
            return
        count = 0
        for count, table in enumerate(self._tables(split), 1):
            key = f"{split} in parts", count - 1, held_out
            if key in self._kept:
                yield self._kept[key]
            else:
                owner = np.array([self._number[c] for c in table.column("client_id").to_pylist()], np.int64)
                yield self._keep(key, self._made(table, owner, held_out))
        self._parts[split] = count

    def _tables(self, split: str) -> Iterator[pa.Table]:
        """A split in tables of about ``_CHUNK`` rows."""
        columns = [*self._columns, "client_id"]
        held: list[pa.RecordBatch] = []
        for client in self._subset.clients:
            for batch in self._subset.client(client).batches(split, _CHUNK, columns):
                held.append(batch)
                if sum(len(b) for b in held) >= _CHUNK:
                    yield pa.Table.from_batches(held)
                    held = []
        if held:
            yield pa.Table.from_batches(held)

    def _made(self, table: pa.Table, owner: np.ndarray, held_out: bool) -> Pictures:
        if self._held_out is not None:
            mask = (np.array(table.column("domain").to_pylist(), dtype=object) == self._held_out) == held_out
            table, owner = table.filter(pa.array(mask)), owner[mask]
        files = table.column("image").combine_chunks().field("bytes").to_pylist()
        from fedtrain.data import label_states

        states = label_states(self._subset, table, self._labels)
        if states.dim() == 1:
            states = nn.functional.one_hot(states, len(self._subset.classes))
        unknown = (states < 0).to(self._device) if self._subset.entry.unknown is not None else None
        samples = table.column("sample_id").to_pylist()
        with trace.phase("decoding"):
            images = decoded(files, samples, self._subset.name, self._size)
        with trace.phase("transfer"):
            images, targets, owners = (t.to(self._device) for t in (images, states > 0, torch.from_numpy(owner)))
        return Pictures(images, targets, owners, unknown)

    def _keep(self, key: tuple[str, int, bool], made: Pictures) -> Pictures:
        if made.images.numel() <= self._left:
            self._left -= made.images.numel()
            self._kept[key] = made
        return made


def decoded(files: Sequence[bytes], samples: Sequence[str], subset: str, size: int) -> torch.Tensor:
    """Image files as uint8 ``[n, 3, size, size]``, RGB, resized with antialiasing where they are not that large.

    Args:
        files: One image each.
        samples: Their ids, for messages.
        subset: The subset's name, for messages.
        size: Height and width.

    Raises:
        BadImageError: One cannot be decoded.
    """
    from fedtrain.data import decoders, picture, tensor

    if not files:
        return torch.zeros(0, 3, size, size, dtype=torch.uint8)

    def one(file: bytes, sample: str) -> torch.Tensor:
        image = picture(file, subset, sample)
        # Pillow's resampling always antialiases
        return tensor(image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(decoders()) as pool:  # the decoders let go of the interpreter
        return torch.stack(list(pool.map(one, files, samples)))


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Items in their order, the next made by a thread while the present one is used."""
    end = object()

    def made() -> T | object:
        with trace.phase("reading"):
            return next(items, end)

    def waited(coming: Future[T | object]) -> T | object:
        with trace.phase("waiting for images"):
            return coming.result()

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(made)
        while (ready := waited(coming)) is not end:
            coming = pool.submit(made)
            yield cast("T", ready)


def normalised(images: torch.Tensor, flip: torch.Tensor | None = None) -> torch.Tensor:
    """Float images by ImageNet's mean and deviation.

    Args:
        images: uint8 ``[n, 3, H, W]``.
        flip: bool ``[n]``: which are mirrored left to right.
    """
    pixels = images.float().div_(255)
    if flip is not None:
        pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
    mean, std = _moments(images.device)
    pixels.sub_(mean).div_(std)
    if images.device.type == "cpu" and pixels.numel() >= 3 * _CHANNELS_LAST:
        return pixels.contiguous(memory_format=torch.channels_last)
    return pixels


@cache
def _moments(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """``MEAN`` and ``STD`` there, ``[3, 1, 1]``: copied once, since a copy waits for a GPU."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    return mean, std
