"""Clients' images as PyTorch datasets."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from fedrsic_data.reader import Client


class ImageDataset(torch.utils.data.Dataset[tuple[Any, torch.Tensor]]):
    """A client's rows of a split; the files stay compressed in memory and are decoded on access.

    An item is ``(image, label)``: the image uint8 [3, height, width] RGB unless ``transform`` makes something
    else of the ``PIL.Image``; the label int64 [] (single-label) or float32 [classes] of zeros and ones.
    """

    def __init__(self, client: Client, split: str, transform: Callable[[Image.Image], Any] | None = None) -> None:
        """Reads the rows.

        Args:
            client: From ``fedrsic_data.open(...).subset(...).client(...)``.
            split: ``"train"``, or a held-out split.
            transform: Given an RGB ``PIL.Image``; None for plain tensors.

        Raises:
            UsageError: There is no such split.
        """
        table = client.read(split).combine_chunks()
        self.classes = client.subset.classes
        self.multi_label = client.subset.entry.multi_label
        self.transform = transform
        self._files = table.column("image").combine_chunks().field("bytes")
        self._labels = table.column("labels" if self.multi_label else "label").combine_chunks()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        with Image.open(io.BytesIO(self._files[index].as_py())) as file:
            image = file.convert("RGB")
        label = self._labels[index].as_py()
        if self.multi_label:
            target = torch.zeros(len(self.classes))
            target[label] = 1.0
        else:
            target = torch.tensor(label)
        return (_tensor(image) if self.transform is None else self.transform(image)), target


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
