"""Clients' images as PyTorch datasets."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image

from fedrsic_data.dataset import images, unknown
from fedrsic_data.dataset.reader import Client, Subset
from fedrsic_data.dataset.schema import whole
from fedrsic_data.errors import BadImageError


class ImageDataset(torch.utils.data.Dataset[tuple[Any, torch.Tensor]]):
    """A client's rows of a split; the files stay compressed in memory and are decoded on access.

    An item is ``(image, label)``: the image uint8 [3, height, width] RGB unless ``transform`` makes something
    else of the ``PIL.Image``; the label int64 [] (single-label) or float32 [classes] of zeros and ones, NaN where it
    is unknown, so that a loss that does not leave it out is NaN too.

    Attributes:
        known: bool [rows, classes], which labels are known; None if all are.
    """

    def __init__(self, client: Client, split: str, transform: Callable[[Image.Image], Any] | None = None) -> None:
        """Reads the rows.

        Args:
            client: From ``fedrsic_data.open(...).subset(...).client(...)``.
            split: ``"train"``, or a held-out split.
            transform: Given an RGB ``PIL.Image``; None for plain tensors.

        Raises:
            UsageError: There is no such split.

        Items raise ``BadImageError`` where ``picture`` does.
        """
        table = client.read(split).combine_chunks()
        self.classes = client.subset.classes
        self.multi_label = client.subset.entry.multi_label
        self.transform = transform
        self._name = client.subset.name
        self._samples = table.column("sample_id").combine_chunks()
        self._files = table.column("image").combine_chunks().field("bytes")
        self._labels = table.column("labels" if self.multi_label else "label").combine_chunks()
        hidden = client.subset.entry.unknown is not None
        self.known = unknown.known(table.column("labels_unknown"), len(self.classes)) if hidden else None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        image = picture(self._files[index].as_py(), self._name, self._samples[index].as_py())
        label = self._labels[index].as_py()
        if self.multi_label:
            target = torch.zeros(len(self.classes))
            target[label] = 1.0
            if self.known is not None:
                target[~torch.from_numpy(self.known[index])] = torch.nan
        else:
            target = torch.tensor(label)
        return (tensor(image).contiguous() if self.transform is None else self.transform(image)), target


def decoders() -> int:
    """Threads that decode images at once: as many as there are processors that this process may use."""
    may = getattr(os, "sched_getaffinity", None)  # Linux alone
    return len(may(0)) if may else os.cpu_count() or 1


def label_columns(subset: Subset, labels: str) -> list[str]:
    """The columns of shards that ``label_states`` needs; for ``labels`` see there."""
    if not subset.entry.multi_label:
        return ["label"]
    hidden = subset.entry.unknown is not None
    return ["labels" if labels == "coarse" else "fine_labels"] + ["labels_unknown"] * hidden


def label_states(subset: Subset, table: pa.Table, labels: str) -> torch.Tensor:
    """The labels of rows.

    Args:
        subset: Whose rows they are.
        table: The rows, with the columns ``label_columns``.
        labels: ``coarse``, or ``fine`` where the dataset has finer labels.

    Returns:
        int64 ``[n]``, the class of each row; multi-label int8 ``[n, L]``: 1 where a row has the label, 0 where not, -1
        where nobody knows.
    """
    entry = subset.entry
    names = label_columns(subset, labels)
    lists = whole(table.column(names[0]))
    if not entry.multi_label:
        return torch.from_numpy(lists.to_numpy().astype(np.int64))
    several = subset.classes if labels == "coarse" or entry.fine is None else entry.fine.classes
    found = np.zeros((len(lists), len(several)), np.int8)
    found[np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy()), lists.flatten().to_numpy()] = 1
    if entry.unknown is not None:
        known = unknown.known(table.column("labels_unknown"), len(subset.classes))
        found[~(known if labels == "coarse" else unknown.known_fine(known, entry))] = -1
    return torch.from_numpy(found)


def picture(data: bytes | None, subset: str, sample: str) -> Image.Image:
    """The RGB picture of a row, by the rules of ``fedrsic_data.dataset.images``.

    Args:
        data: The row's image file.
        subset: The subset's name, for the message.
        sample: The row's id, for the message.

    Raises:
        BadImageError: There is none, or it is too large; a build of today would have refused it.
    """
    try:
        return images.rgb(data, f"{subset}: image {sample}")
    except BadImageError as error:
        words = str(error).rpartition(";")[0]
        raise BadImageError(f"{words}; fix it at its source, or build again with --on-bad-image skip") from None


def tensor(image: Image.Image) -> torch.Tensor:
    """uint8 ``[3, height, width]`` of an RGB picture, not in one piece."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
