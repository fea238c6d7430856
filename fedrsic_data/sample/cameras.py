"""The cameras that users own, and the collections their photographs are gathered in."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.sample.paint import rgb
from fedrsic_data.sample.sensors import Sensor

_CAMERAS: dict[str, Sensor] = {
    "film": Sensor(
        extent=(1.0, 1.15),
        gain=rgb(1.06, 0.97, 0.80),
        saturation=0.62,
        contrast=0.84,
        haze=(0.06, 0.16),
        sharpness=-0.5,
        noise=0.045,
        quality=70,
        words="faded film scan",
    ),
    "compact": Sensor(
        extent=(0.95, 1.1),
        gain=rgb(1.05, 0.98, 0.90),
        saturation=0.78,
        contrast=0.95,
        haze=(0.02, 0.1),
        sharpness=-0.25,
        noise=0.035,
        quality=62,
        words="old compact-camera photo",
    ),
    "phone": Sensor(
        extent=(0.95, 1.1),
        gain=rgb(0.97, 1.01, 1.05),
        saturation=1.12,
        contrast=1.18,
        haze=(0.0, 0.05),
        sharpness=0.6,
        noise=0.02,
        quality=82,
        words="crisp phone photo",
    ),
    "reflex": Sensor(
        extent=(0.9, 1.05),
        gain=rgb(1.0, 1.0, 1.0),
        saturation=1.0,
        contrast=1.06,
        haze=(0.0, 0.03),
        sharpness=0.15,
        noise=0.008,
        quality=92,
        words="clean camera photo",
    ),
    "drone": Sensor(
        extent=(0.95, 1.1),
        gain=rgb(0.94, 1.0, 1.06),
        saturation=1.0,
        contrast=1.12,
        haze=(0.02, 0.12),
        sharpness=0.3,
        noise=0.014,
        quality=88,
        words="cool drone photo",
    ),
}
CAMERAS: tuple[str, ...] = tuple(_CAMERAS)


@dataclass(frozen=True)
class Collection:
    """Photographs gathered under one name.

    Attributes:
        cameras: What its users photograph with.
        validation: Users of every ten whose photographs are for validation.
        test: Users of every ten whose photographs are for the test.
    """

    cameras: tuple[str, ...]
    validation: int
    test: int


COLLECTIONS: dict[str, Collection] = {
    "coco": Collection(CAMERAS, 0, 2),
    "flair": Collection(CAMERAS, 1, 1),
    "voc2007": Collection(("film", "compact"), 0, 2),
    "voc2012": Collection(("phone", "reflex", "drone"), 0, 2),
}
"""The two of VOC have no camera in common: they are two domains."""


def camera(name: str) -> Sensor:
    """The camera of that name; `UsageError` if there is none."""
    try:
        return _CAMERAS[name]
    except KeyError:
        raise UsageError(f"camera {name!r} is unknown; choose one of {', '.join(CAMERAS)}") from None


def collection(name: str) -> Collection:
    """The collection of that name; `UsageError` if there is none."""
    try:
        return COLLECTIONS[name]
    except KeyError:
        raise UsageError(f"collection {name!r} has no photographs; choose one of {', '.join(COLLECTIONS)}") from None


def to_jpeg(pixels: NDArray[np.uint8], name: str) -> bytes:
    """The JPEG file, without metadata, that a camera writes of RGB pixels ``[size, size, 3]``."""
    from PIL import Image

    buffer = io.BytesIO()
    quality = camera(name).quality
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2, optimize=False, progressive=False)
    return buffer.getvalue()
