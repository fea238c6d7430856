"""Sensors and cameras: ground resolution, colour response, optics, noise, encoding.

A sensor stands for one of the three real sources of scenes and carries its name; a camera takes photographs.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.sample.paint import Canvas, rgb
from fedrsic_data.sample.shapes import Grid

T = TypeVar("T")

MIN_SIZE, MAX_SIZE = 32, 512


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
        gain: Colour response of red, green and blue.
        saturation: 1 keeps colours as they are, 0 is grey.
        contrast: Slope around mid grey.
        haze: Range of the share of bluish haze over the scene.
        sharpness: Negative blurs, positive sharpens.
        noise: Peak of the grain, in units of full scale.
        quality: JPEG quality range, or None for lossless PNG.
        words: What captions call it.
    """

    extent: tuple[float, float]
    gain: tuple[float, float, float]
    saturation: float
    contrast: float
    haze: tuple[float, float]
    sharpness: float
    noise: float
    quality: int | None
    words: str


# extent, gain, saturation, contrast, haze, sharpness, noise, quality, words
_SENSORS: dict[str, Sensor] = {
    "ucmerced": Sensor((0.75, 0.9), (1, 1, 0.99), 0.85, 1.05, (0, 0.03), 0, 0.012, None, "sharp aerial orthophoto"),
    "resisc45": Sensor(
        (0.75, 1.7), (0.93, 1.01, 1.02), 0.88, 0.92, (0.03, 0.24), -0.45, 0.02, 80, "soft satellite image"
    ),
    "optimal31": Sensor(
        (0.95, 1.2), (1.06, 1, 0.88), 0.92, 1.25, (0, 0.06), 0.7, 0.03, 60, "warm, contrasty overhead photo"
    ),
}
_CAMERAS: dict[str, Sensor] = {
    "film": Sensor((1, 1.15), (1.06, 0.97, 0.80), 0.62, 0.84, (0.06, 0.16), -0.5, 0.045, 70, "faded film scan"),
    "compact": Sensor(
        (0.95, 1.1), (1.05, 0.98, 0.90), 0.78, 0.95, (0.02, 0.1), -0.25, 0.035, 62, "old compact-camera photo"
    ),
    "phone": Sensor((0.95, 1.1), (0.97, 1.01, 1.05), 1.12, 1.18, (0, 0.05), 0.6, 0.02, 82, "crisp phone photo"),
    "reflex": Sensor((0.9, 1.05), (1, 1, 1), 1, 1.06, (0, 0.03), 0.15, 0.008, 92, "clean camera photo"),
    "drone": Sensor((0.95, 1.1), (0.94, 1, 1.06), 1, 1.12, (0.02, 0.12), 0.3, 0.014, 88, "cool drone photo"),
}
SENSORS: tuple[str, ...] = tuple(_SENSORS)
CAMERAS: tuple[str, ...] = tuple(_CAMERAS)
_HAZE = rgb(0.66, 0.73, 0.80)
_LUMA = (0.299, 0.587, 0.114)


def named(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of a table by its name; `UsageError` if there is none, in the word for such entries."""
    if name not in table:
        raise UsageError(f"{kind} {name!r} is unknown; choose one of {', '.join(table)}")
    return table[name]


def spec(sensor: str) -> Sensor:
    """The sensor or camera of that name; `UsageError` if there is none."""
    return named("sensor", sensor, _SENSORS | _CAMERAS)


def camera(name: str) -> Sensor:
    """The camera of that name; `UsageError` if there is none."""
    return named("camera", name, _CAMERAS)


def blank(size: int, sensor: Sensor, key: list[int]) -> Canvas:
    """The empty canvas of one picture.

    Args:
        size: Width and height in pixels, 32..512.
        sensor: It decides how much ground is in view.
        key: The seed of the picture's generator.

    Raises:
        UsageError: The size is out of range.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(f"size {size} is out of range; give {MIN_SIZE} to {MAX_SIZE} pixels")
    rng = np.random.default_rng(key)
    low, high = sensor.extent
    return Canvas(size, low * math.exp(math.log(high / low) * float(rng.random())), rng)


def develop(canvas: Canvas, sensor: Sensor) -> tuple[NDArray[np.uint8], float]:
    """Turn a painted picture into the sensor's pixels.

    Args:
        canvas: The picture; overwritten.
        sensor: Its optics and colours are applied.

    Returns:
        The pixels, uint8 ``[size, size, 3]``, and the share of haze.
    """
    picture, rng = canvas.rgb, canvas.rng
    haze = canvas.between(*sensor.haze)
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
    gain = rgb(*sensor.gain)
    picture *= gain * (255 * clear * exposure)
    picture += gain * (_HAZE * haze + dark) * 255 + 0.5
    np.clip(picture, 0.0, 255.0, out=picture)
    return np.ascontiguousarray(picture.astype(np.uint8).transpose(1, 2, 0)), haze


def _soft(picture: Grid) -> Grid:
    """The picture blurred with a 1-2-1 kernel both ways; borders repeat."""
    for axis in (2, 1):
        lines = picture.swapaxes(0, axis)
        wide = lines * 2
        wide[1:] += lines[:-1]
        wide[:-1] += lines[1:]
        wide[0] += lines[0]
        wide[-1] += lines[-1]
        picture = wide.swapaxes(0, axis)
    return picture * (1 / 16)


def encode(scene: Scene) -> bytes:
    """The image file as the scene's sensor delivers it: PNG or JPEG, without metadata."""
    return compress(scene.pixels, spec(scene.sensor))


def compress(pixels: NDArray[np.uint8], sensor: Sensor) -> bytes:
    """The image file of RGB pixels ``[size, size, 3]``, of the format and quality of a sensor, without metadata."""
    from PIL import Image

    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if sensor.quality is None:
        image.save(buffer, "PNG", optimize=False, compress_level=1)
    else:
        image.save(buffer, "JPEG", quality=sensor.quality, subsampling=2, optimize=False, progressive=False)
    return buffer.getvalue()


def suffix(sensor: str) -> str:
    """The file name ending of a sensor's images: ``.png`` or ``.jpg``."""
    return ".png" if spec(sensor).quality is None else ".jpg"
