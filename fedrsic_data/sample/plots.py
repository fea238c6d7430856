"""The part of a picture that one label is painted on: its frame, its size, its texture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedrsic_data.sample.layout import Area
from fedrsic_data.sample.paint import Canvas, Frame, Lattice
from fedrsic_data.sample.shapes import Grid, box, keep_off

_PAD = 0.2  # beyond its area a label may still cast shadows or have a ragged edge, world units


@dataclass(frozen=True)
class Plot:
    """Where to paint, with coordinates that start in the middle of the area.

    Attributes:
        canvas: The picture: its light and its generator.
        frame: A window on the picture; u along the layout's rows.
        half_u: Half the length of the area, world units.
        half_v: Half its width.
        mottle: Smooth noise of the picture in the window, about -1..1.
        grain: Finer noise.
    """

    canvas: Canvas
    frame: Frame
    half_u: float
    half_v: float
    mottle: Grid
    grain: Grid

    def edge(self, ragged: float = 0.0, inset: float = 0.0) -> Grid:
        """Distance to the area, its border displaced by up to about ``ragged``."""
        distance = box(self.frame.u, self.frame.v, self.half_u - inset, self.half_v - inset)
        return distance + ragged * self.mottle if ragged else distance

    def mottled(self, colour: Grid, coarse: float = 0.12, fine: float = 0.06) -> Grid:
        """A colour, uneven at two grains, ``[3, h, w]``."""
        return colour * (1 + coarse * self.mottle + fine * self.grain)

    def cover(self, colour: Grid, coarse: float, fine: float, ragged: float = 0.0) -> Grid:
        """Paint the area in a mottled colour; returns the distance to it."""
        edge = self.edge(ragged)
        self.frame.paint(edge, self.mottled(colour, coarse, fine))
        return edge

    def lengthwise(self) -> Frame:
        """The frame with u along the longer side."""
        return self.frame if self.half_u >= self.half_v else self.frame.swapped()

    @property
    def sides(self) -> tuple[float, float]:
        """Half the longer side and half the shorter one."""
        return max(self.half_u, self.half_v), min(self.half_u, self.half_v)

    def spots(self, size: tuple[float, float], most: int, jitter: float = 0.0) -> tuple[Lattice, Grid]:
        """Whole cells of about the given size over the area, at most so many each way.

        Returns:
            The lattice, u along the longer side, and the distance to add to that of a shape so that it is painted only
            within the area.
        """
        f, half = self.lengthwise(), self.sides
        count = [min(max(int(2 * h / s + 0.3), 1), most) for h, s in zip(half, size, strict=True)]
        # Few cells stay close together in the middle; many fill the area.
        pitch = [min(2 * h / n, 1.35 * s) for h, n, s in zip(half, count, size, strict=True)]
        out = [p * n / 2 for p, n in zip(pitch, count, strict=True)]
        from_corner = replace(f, u=f.u + out[0], v=f.v + out[1])
        lattice = Lattice(from_corner, (pitch[0], pitch[1]), self.canvas.rng, jitter)
        return lattice, keep_off(box(f.u, f.v, out[0], out[1]))


Painter = Callable[[Plot], None]
"""Paints one label on its plot, drawing from the canvas's generator."""


class Site:
    """A picture with its layout's frame, from which plots are cut."""

    def __init__(self, canvas: Canvas, angle: float) -> None:
        self.canvas, self.angle = canvas, angle
        self.frame = canvas.frame(angle=angle)
        self.mottle = canvas.noise(0.55) + 0.5 * canvas.noise(0.2)
        self.grain = canvas.noise(0.055)

    def plot(self, area: Area) -> Plot:
        """The window that an area needs, and no more."""
        u, v = (area.u0 + area.u1) / 2, (area.v0 + area.v1) / 2
        half_u, half_v = (area.u1 - area.u0) / 2, (area.v1 - area.v0) / 2
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x, y = u * cos - v * sin, u * sin + v * cos
        reach_x = half_u * abs(cos) + half_v * abs(sin) + _PAD
        reach_y = half_u * abs(sin) + half_v * abs(cos) + _PAD
        window = self.canvas.window(y, reach_y, 1), self.canvas.window(x, reach_x, 1)
        f = self.frame
        frame = replace(f, u=f.u[window] - u, v=f.v[window] - v, rgb=f.rgb[:, *window])
        return Plot(self.canvas, frame, half_u, half_v, self.mottle[window], self.grain[window])
