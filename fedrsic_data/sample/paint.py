"""The painting vocabulary of the sample scenes: canvas, frames, lattices, noise.

A picture is planar float32 ``[3, size, size]`` in 0..1. The visible world spans ``-extent..extent`` in x (to the
right) and y (down): a larger extent shows more ground.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import isfunction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.sample.shapes import ABSENT, Grid, Shape

Pair = tuple[float, float]

_TABLE = 32  # cells of a lattice before its random values repeat, per axis


def rgb(red: float, green: float, blue: float) -> Grid:
    """A colour in 0..1 as float32 ``[3, 1, 1]``, ready to broadcast over a picture."""
    return np.array([[[red]], [[green]], [[blue]]], dtype=np.float32)


COLOURS: dict[str, Grid] = {
    "grass": rgb(0.33, 0.46, 0.22),
    "dry grass": rgb(0.62, 0.56, 0.36),
    "tree": rgb(0.15, 0.28, 0.12),
    "dry tree": rgb(0.34, 0.34, 0.18),
    "soil": rgb(0.58, 0.45, 0.32),
    "clay": rgb(0.70, 0.44, 0.29),
    "sand": rgb(0.88, 0.80, 0.62),
    "rock": rgb(0.47, 0.42, 0.38),
    "snow": rgb(0.94, 0.95, 0.97),
    "asphalt": rgb(0.33, 0.33, 0.35),
    "concrete": rgb(0.69, 0.68, 0.65),
    "water": rgb(0.16, 0.26, 0.27),
    "blue water": rgb(0.09, 0.24, 0.38),
    "sea": rgb(0.05, 0.18, 0.32),
    "turquoise": rgb(0.14, 0.52, 0.56),
    "pool": rgb(0.25, 0.68, 0.80),
    "white": rgb(0.95, 0.95, 0.94),
    "cream": rgb(0.84, 0.80, 0.72),
    "grey": rgb(0.56, 0.56, 0.56),
    "silver": rgb(0.76, 0.78, 0.80),
    "dark": rgb(0.13, 0.13, 0.15),
    "red": rgb(0.66, 0.20, 0.16),
    "blue": rgb(0.16, 0.34, 0.62),
    "green": rgb(0.18, 0.45, 0.30),
    "yellow": rgb(0.88, 0.74, 0.25),
    "tile": rgb(0.67, 0.36, 0.25),
    "brown": rgb(0.45, 0.36, 0.29),
    "slate": rgb(0.40, 0.41, 0.44),
}


def painters(namespace: dict[str, Any]) -> dict[str, Callable[[Any], None]]:
    """The painters of a module: its own public functions, each under the name of the class or label that it paints.

    Args:
        namespace: ``vars`` of the module.
    """
    own = {name: thing for name, thing in namespace.items() if isfunction(thing) and not name.startswith("_")}
    return {name: thing for name, thing in own.items() if thing.__module__ == namespace["__name__"]}


@lru_cache(maxsize=16)
def _axis(size: int) -> Grid:
    """Pixel centres in -1..1, float32 ``[size]``."""
    return ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)


@lru_cache(maxsize=512)
def _spline(size: int, cells: int) -> tuple[NDArray[np.intp], Grid]:
    """Quadratic spline from ``cells + 2`` knots to pixels: first knot ``[size]``, weights ``[3, size]``."""
    place = (np.arange(size) + 0.5) * cells / size
    first = np.floor(place).astype(np.intp)
    t = place - first
    weights = np.stack([(1 - t) ** 2 / 2, 0.5 + t * (1 - t), t**2 / 2])
    return first, weights.astype(np.float32)


def _blend(rows: Grid, first: NDArray[np.intp], weights: Grid) -> Grid:
    """Interpolate the rows of an array. Not a matrix product: BLAS may round differently elsewhere."""
    out = rows.take(first, axis=0)
    out *= weights[0, :, None]
    for tap in (1, 2):
        part = rows.take(first + tap, axis=0)
        part *= weights[tap, :, None]
        out += part
    return out


@dataclass(eq=False)
class Frame:
    """A window on a canvas with its own centre and rotation; what is painted lands on the canvas.

    Attributes:
        u: Coordinate along the frame's axis, float32 ``[h, w]``, world units.
        v: Coordinate across it, float32 ``[h, w]``, world units.
        rgb: View of the canvas, float32 ``[3, h, w]``.
        px: Width of a pixel in world units.
        sun: Displacement of a shadow per unit of height, in the frame's coordinates.
    """

    u: Grid
    v: Grid
    rgb: Grid
    px: float
    sun: Pair

    def turned(self, angle: float) -> Frame:
        """The frame turned by an angle about its centre."""
        cos, sin = math.cos(angle), math.sin(angle)
        sun = (self.sun[0] * cos + self.sun[1] * sin, self.sun[1] * cos - self.sun[0] * sin)
        return Frame(self.u * cos + self.v * sin, self.v * cos - self.u * sin, self.rgb, self.px, sun)

    def swapped(self) -> Frame:
        """The frame with u and v in each other's place."""
        return Frame(self.v, self.u, self.rgb, self.px, self.sun[::-1])

    def sunward(self) -> Grid:
        """Position of each pixel along the direction of shadows, times their length, ``[h, w]``."""
        return self.u * self.sun[0] + self.v * self.sun[1]

    def cover(self, distance: Grid) -> Grid:
        """The share of each pixel inside a shape, 0..1."""
        share = distance * (-1.0 / self.px)
        share += 0.5
        np.clip(share, 0.0, 1.0, out=share)
        return share

    def paint(self, distance: Grid, colour: Grid, opacity: float = 1.0) -> None:
        """Lay a colour (``[3, 1, 1]`` or ``[3, h, w]``) over the inside of a shape."""
        share = self.cover(distance)
        if opacity != 1.0:
            share *= opacity
        change = colour - self.rgb
        change *= share
        np.add(self.rgb, change, out=self.rgb)

    def shade(self, distance: Grid, by: float = 0.5) -> None:
        """Darken the inside of a shape."""
        share = self.cover(distance)
        share *= -by
        share += 1.0
        np.multiply(self.rgb, share, out=self.rgb)

    def solid(self, shape: Shape, colour: Grid, height: float) -> Grid:
        """Paint a shape that stands ``height`` above the ground, shadow first; returns its distance."""
        du, dv = self.sun[0] * height, self.sun[1] * height
        self.shade(shape(self.u - du, self.v - dv), 0.55)
        distance = shape(self.u, self.v)
        self.paint(distance, colour)
        return distance

    def gable(self, shape: Shape, colour: Grid, height: float) -> Grid:
        """A solid whose roof has a ridge along u: the half turned from the sun is darker."""
        distance = self.solid(shape, colour, height)
        away = self.v if self.sun[1] > 0 else -self.v
        self.paint(np.maximum(distance, -away), colour * 0.72)
        return distance


class Lattice(Frame):
    """A frame whose coordinates repeat in cells, so one shape is painted in all of them at once.

    The per-cell values come from a table of random numbers: a thousand houses cost as much as one.
    """

    def __init__(
        self, frame: Frame, pitch: Pair, rng: np.random.Generator, jitter: float = 0.0, shuffle: bool = False
    ) -> None:
        self._rng = rng
        wrap = _TABLE - 1
        u, v = frame.u, frame.v
        row = np.floor(v / pitch[1])
        which = row.astype(np.intp) & wrap
        if shuffle:  # each row slides by its own amount, so that no columns show
            u = u + (rng.random(_TABLE, dtype=np.float32) * pitch[0]).take(which)
        column = np.floor(u / pitch[0])
        self._cell = (column.astype(np.intp) & wrap) * _TABLE + which
        u = u - (column + 0.5) * pitch[0]
        v = v - (row + 0.5) * pitch[1]
        if jitter:
            u += self.vary(-jitter * pitch[0], jitter * pitch[0])
            v += self.vary(-jitter * pitch[1], jitter * pitch[1])
        super().__init__(u, v, frame.rgb, frame.px, frame.sun)

    def vary(self, low: float, high: float) -> Grid:
        """A value in low..high for each cell, spread over its pixels, float32 ``[h, w]``."""
        return self._spread(self._random() * (high - low) + low)

    def skip(self, share: float) -> Grid:
        """Zero, or in that share of the cells a distance at which nothing is painted."""
        return self._spread(np.where(self._random() < share, np.float32(ABSENT), np.float32(0.0)))

    def mixed(self, names: Sequence[str]) -> Grid:
        """One of the named colours for each cell, a little lighter or darker, ``[3, h, w]``."""
        palette = np.concatenate([COLOURS[name][:, :, 0] for name in names], axis=1)
        which = (self._random() * len(names)).astype(np.intp)
        return self._spread(palette.take(which, axis=1) * (0.88 + 0.2 * self._random()))

    def _random(self) -> Grid:
        return self._rng.random(_TABLE * _TABLE, dtype=np.float32)

    def _spread(self, table: Grid) -> Grid:
        pixels: Grid = table.take(self._cell, axis=-1)
        return pixels


class Canvas:
    """The picture under construction, its light, its season and its random generator.

    Attributes:
        rgb: The picture, float32 ``[3, size, size]``, about 0..1.
        extent: Half the width of the visible ground, world units.
        notes: What is true of the picture, in the order it was said.
    """

    def __init__(self, size: int, extent: float, rng: np.random.Generator) -> None:
        self.size, self.extent, self.rng = size, extent, rng
        self.px = 2 * extent / size
        self.rgb = np.zeros((3, size, size), dtype=np.float32)
        self.notes: list[str] = []
        self._axis = _axis(size) * extent
        azimuth, length = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 1.1)
        self.sun = (length * math.cos(azimuth), length * math.sin(azimuth))
        self.dry = bool(rng.random() < 0.4)

    def note(self, *words: str) -> None:
        """Record something true of the picture."""
        self.notes += [word for word in words if word not in self.notes]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def pick(self, *options: str) -> str:
        """One of the options, all alike."""
        return options[int(self.rng.random() * len(options))]

    def between(self, low: float, high: float) -> float:
        """A number in low..high."""
        return low + (high - low) * float(self.rng.random())

    def colour(self, name: str, spread: float = 0.1) -> Grid:
        """A named colour, varied in brightness and a little in hue, ``[3, 1, 1]``."""
        light, red, blue = (self.rng.random(3) - 0.5).tolist()
        level = 1 + 2 * spread * light
        return COLOURS[name] * rgb(level + 0.5 * spread * red, level, level + 0.5 * spread * blue)

    def leaves(self, kind: str, spread: float = 0.1) -> Grid:
        """The colour of "grass" or "tree" in the picture's season."""
        return self.colour(f"dry {kind}" if self.dry else kind, spread)

    def frame(self, at: Pair = (0.0, 0.0), angle: float | None = 0.0, reach: float | None = None) -> Frame:
        """A frame centred at a point, turned by an angle (None: any), within ``reach`` of the point."""
        angle = self.between(0, 2 * math.pi) if angle is None else angle
        rows, columns = self.window(at[1], reach), self.window(at[0], reach)
        x = self._axis[None, columns] - at[0]
        y = self._axis[rows, None] - at[1]
        return Frame(x, y, self.rgb[:, rows, columns], self.px, self.sun).turned(angle)

    def anywhere(self, spread: float = 0.0) -> Frame:
        """A frame at any angle, centred in the picture or within ``spread`` of that both ways."""
        return self.frame((self.between(-spread, spread), self.between(-spread, spread)) if spread else (0, 0), None)

    def window(self, centre: float, reach: float | None, least: int = 0) -> slice:
        """The pixels within ``reach`` of a coordinate, at least so many; None: all."""
        if reach is None:
            return slice(0, self.size)
        low = math.floor((centre - reach + self.extent) / self.px)
        high = math.ceil((centre + reach + self.extent) / self.px)
        return slice(min(max(low, 0), self.size - least), min(max(high, least), self.size))

    def noise(self, cell: float, stretch: float = 1.0) -> Grid:
        """Smooth noise of the given grain (``stretch`` times as long in x), about -1..1, whole canvas."""
        down = max(round(2 * self.extent / cell), 1)
        across = max(round(2 * self.extent / (cell * stretch)), 1)
        # As many draws at every size, so that a larger picture shows the same scene.
        knots = self.rng.random((across + 2, down + 2), dtype=np.float32)
        limit = self.size // 2  # a finer grain than two pixels would only alias
        columns = _blend(knots, *_spline(self.size, min(across, limit)))
        field = _blend(columns.T, *_spline(self.size, min(down, limit)))
        field -= 0.5
        field *= 3.0
        return field

    def clouds(self, cell: float, octaves: int = 3) -> Grid:
        """Noise at several grains, each half as coarse and half as strong, about -1..1."""
        field = self.noise(cell)
        for octave in range(1, octaves):
            field += self.noise(cell / 2**octave) * (0.5**octave)
        return field

    def relief(self, height: Grid) -> Grid:
        """Light on a surface relative to flat ground, from its height field; whole canvas."""
        lit = np.zeros_like(height)
        lit[:, 1:] = (height[:, 1:] - height[:, :-1]) * (self.sun[0] / self.px)
        lit[1:] += (height[1:] - height[:-1]) * (self.sun[1] / self.px)
        return lit

    def wash(self, low: Grid, high: Grid, share: Grid) -> None:
        """Cover the whole canvas with a blend: ``low`` where the share is 0, ``high`` where it is 1."""
        np.multiply(share, high - low, out=self.rgb)
        self.rgb += low

    def ground(self, name: str, grain: float = 0.5, contrast: float = 0.12) -> None:
        """Cover the canvas with one uneven colour: bare ground, asphalt, water."""
        self.rough(self.colour(name), grain, contrast)

    def rough(self, colour: Grid, grain: float, contrast: float) -> None:
        """Cover the canvas with a colour, mottled at two grains."""
        field = self.noise(grain) + 0.6 * self.noise(grain / 5)
        self.wash(colour, colour * (1 + contrast), field)

    def turf(self, contrast: float = 0.14) -> None:
        """Cover the canvas with grass of the season, and say which season it is."""
        self.rough(self.leaves("grass"), 0.6, contrast)
        self.note("dry season" if self.dry else "green season")
