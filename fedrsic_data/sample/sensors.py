"""Sensors: ground resolution, colour response, optics, noise, encoding.

A sensor stands for one of the three real sources and carries its name.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.sample.paint import Grid, rgb


@dataclass(frozen=True)
class Scene:
    """One rendered picture.

    Attributes:
        pixels: RGB, uint8 ``[size, size, 3]``.
        class_name: The unified class name, with underscores.
        sensor: The source the picture stands for; one of `SENSORS`.
        attributes: Short phrases, each true of this picture.
    """

    pixels: NDArray[np.uint8]
    class_name: str
    sensor: str
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Sensor:
    """Properties of a sensor.

    Attributes:
        extent: Range of half the ground width in view, world units; drawn on a log scale.
        gain: Colour response, ``[3, 1, 1]``.
        saturation: 1 keeps colours as they are, 0 is grey.
        contrast: Slope around mid grey.
        haze: Range of the share of bluish haze over the scene.
        sharpness: Negative blurs, positive sharpens.
        noise: Peak of the grain, in units of full scale.
        quality: JPEG quality range, or None for lossless PNG.
        words: What captions call it.
    """

    extent: tuple[float, float]
    gain: Grid
    saturation: float
    contrast: float
    haze: tuple[float, float]
    sharpness: float
    noise: float
    quality: int | None
    words: str


_SENSORS: dict[str, Sensor] = {
    "ucmerced": Sensor(
        extent=(0.75, 0.9),
        gain=rgb(1.0, 1.0, 0.99),
        saturation=0.85,
        contrast=1.05,
        haze=(0.0, 0.03),
        sharpness=0.0,
        noise=0.012,
        quality=None,
        words="sharp aerial orthophoto",
    ),
    "resisc45": Sensor(
        extent=(0.75, 1.7),
        gain=rgb(0.93, 1.01, 1.02),
        saturation=0.88,
        contrast=0.92,
        haze=(0.03, 0.24),
        sharpness=-0.45,
        noise=0.02,
        quality=80,
        words="soft satellite image",
    ),
    "optimal31": Sensor(
        extent=(0.95, 1.2),
        gain=rgb(1.06, 1.0, 0.88),
        saturation=0.92,
        contrast=1.25,
        haze=(0.0, 0.06),
        sharpness=0.7,
        noise=0.03,
        quality=60,
        words="warm, contrasty overhead photo",
    ),
}
SENSORS: tuple[str, ...] = tuple(_SENSORS)
_HAZE = rgb(0.66, 0.73, 0.80)
_LUMA = (0.299, 0.587, 0.114)


def spec(sensor: str) -> Sensor:
    """The sensor of that name; `UsageError` if there is none."""
    try:
        return _SENSORS[sensor]
    except KeyError:
        raise UsageError(f"sensor {sensor!r} is unknown; choose one of {', '.join(SENSORS)}") from None


def extent(sensor: Sensor, rng: np.random.Generator) -> float:
    """Half the ground width of one picture, world units."""
    low, high = sensor.extent
    return low * math.exp(math.log(high / low) * float(rng.random()))


def develop(picture: Grid, sensor: Sensor, rng: np.random.Generator) -> tuple[NDArray[np.uint8], float]:
    """Turn a painted picture into the sensor's pixels.

    Args:
        picture: Planar float32 ``[3, size, size]``, about 0..1; overwritten.
        sensor: Whose optics and colours to apply.
        rng: The picture's generator.

    Returns:
        The pixels, uint8 ``[size, size, 3]``, and the share of haze.
    """
    haze = sensor.haze[0] + (sensor.haze[1] - sensor.haze[0]) * float(rng.random())
    exposure = 0.9 + 0.22 * float(rng.random())
    if sensor.sharpness:
        picture += sensor.sharpness * (picture - _soft(picture))
    # The grey plane carries what is alike in the three bands: desaturation and grain.
    grey = _LUMA[0] * picture[0] + _LUMA[1] * picture[1] + _LUMA[2] * picture[2]
    grey *= 1 - sensor.saturation
    grey += rng.random(grey.shape, dtype=np.float32) * (2 * sensor.noise)
    picture *= sensor.saturation
    picture += grey
    # Exposure, contrast around mid grey, haze and gain are one affine map to 0..255, plus rounding.
    clear = (1 - haze) * sensor.contrast
    dark = (1 - haze) * 0.45 * (1 - sensor.contrast) - clear * sensor.noise
    picture *= sensor.gain * (255 * clear * exposure)
    picture += sensor.gain * (_HAZE * haze + dark) * 255 + 0.5
    np.clip(picture, 0.0, 255.0, out=picture)
    return np.ascontiguousarray(picture.astype(np.uint8).transpose(1, 2, 0)), haze


def _soft(picture: Grid) -> Grid:
    """The picture blurred with a 1-2-1 kernel both ways; borders repeat."""
    wide = picture * 2
    wide[:, :, 1:] += picture[:, :, :-1]
    wide[:, :, :-1] += picture[:, :, 1:]
    wide[:, :, 0] += picture[:, :, 0]
    wide[:, :, -1] += picture[:, :, -1]
    tall = wide * 2
    tall[:, 1:] += wide[:, :-1]
    tall[:, :-1] += wide[:, 1:]
    tall[:, 0] += wide[:, 0]
    tall[:, -1] += wide[:, -1]
    tall *= 1 / 16
    return tall


def encode(scene: Scene) -> bytes:
    """The image file as the scene's sensor delivers it: PNG or JPEG, without metadata."""
    from PIL import Image

    quality = spec(scene.sensor).quality
    image, buffer = Image.fromarray(scene.pixels), io.BytesIO()
    if quality is None:
        image.save(buffer, "PNG", optimize=False, compress_level=1)
    else:
        image.save(buffer, "JPEG", quality=quality, subsampling=2, optimize=False, progressive=False)
    return buffer.getvalue()


def suffix(sensor: str) -> str:
    """The file name ending of a sensor's images: ``.png`` or ``.jpg``."""
    return ".png" if spec(sensor).quality is None else ".jpg"
