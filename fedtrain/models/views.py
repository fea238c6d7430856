"""Random views of images: the augmentation that the authors of prompt methods train photographs with."""

from __future__ import annotations

import math

import torch

from fedtrain.models.clip import Preprocessing, resized

_SCALE = (0.08, 1.0)  # of the area
_RATIO = (3 / 4, 4 / 3)  # of width to height
_TRIES = 10
_MIRRORED = 0.5


def random_view(image: torch.Tensor, how: Preprocessing, draws: torch.Generator) -> torch.Tensor:
    """A random crop of an image, resized to the size of the image encoder and mirrored half of the time.

    Draws and pixels are those of torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip`` on tensors. The crop
    has 8% to 100% of the image's area and is 3/4 to 4/3 as wide as high; it is resized as ``fit`` does it.

    Args:
        image: uint8 ``[3, height, width]``.
        how: Size and interpolation.
        draws: Gives the crop and says whether it is mirrored.

    Returns:
        uint8 ``[3, size, size]``.
    """
    top, left, height, width = _crop(image.shape[-2], image.shape[-1], draws)
    view = resized(image[:, top : top + height, left : left + width], (how.size, how.size), how)
    return view.flip(-1) if torch.rand(1, generator=draws) < _MIRRORED else view


def _crop(height: int, width: int, draws: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop: drawn, or the middle of an image too long or too high for any draw."""
    logs = torch.tensor(_RATIO).log()
    for _ in range(_TRIES):
        area = height * width * torch.empty(1).uniform_(*_SCALE, generator=draws).item()
        ratio = torch.empty(1).uniform_(float(logs[0]), float(logs[1]), generator=draws).exp().item()
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            rests = (height - down, width - across)
            top, left = (int(torch.randint(rest + 1, (1,), generator=draws)) for rest in rests)
            return top, left, down, across
    least, most = _RATIO
    down, across = min(height, round(width / least)), min(width, round(height * most))
    return (height - down) // 2, (width - across) // 2, down, across
