"""Shapes as signed distances (negative inside) in world units, so that every edge is anti-aliased whatever the size."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.floating[Any]]  # float32 throughout; the stubs widen it beside a Python float
Size = float | np.floating[Any] | Grid
Shape = Callable[[Grid, Grid], Grid]

ABSENT = 9.0
"""Added to a distance: farther than any extent, so nothing is painted."""


def disc(u: Grid, v: Grid, radius: Size) -> Grid:
    """Distance to a disc around the origin."""
    distance: Grid = np.sqrt(u * u + v * v) - radius
    return distance


def box(u: Grid, v: Grid, half_u: Size, half_v: Size) -> Grid:
    """Distance to a rectangle around the origin (exact inside and beside it)."""
    distance: Grid = np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)
    return distance


def band(across: Grid, half: Size) -> Grid:
    """Distance to the strip ``-half < across < half``."""
    distance: Grid = np.abs(across) - half
    return distance


def ellipse(u: Grid, v: Grid, half_u: float, half_v: float) -> Grid:
    """Distance to an ellipse around the origin, to first order at its edge."""
    norm = np.sqrt((u / half_u) ** 2 + (v / half_v) ** 2)
    return (norm - 1) * min(half_u, half_v)


def either(one: Grid, *others: Grid) -> Grid:
    """Distance to the union of shapes."""
    return reduce(np.minimum, others, one)


def both(one: Grid, *others: Grid) -> Grid:
    """Distance to the part that shapes have in common."""
    return reduce(np.maximum, others, one)


def keep_off(distance: Grid) -> Grid:
    """Distance to add to another shape so that it is painted only where this one is negative."""
    extra: Grid = np.maximum(distance, 0) * ABSENT
    return extra


def capsule(u: Grid, v: Grid, length: float, radius: float) -> Grid:
    """Distance to a rounded bar of the given half length along u."""
    return disc(np.maximum(np.abs(u) - length, 0), v, radius)


def repeated(along: Grid, period: float) -> Grid:
    """The coordinate from the middle of each period of an axis, -period/2..period/2."""
    offset: Grid = along - np.floor(along / period) * period - period / 2
    return offset


def dashes(along: Grid, period: float, share: float = 0.5) -> Grid:
    """Distance to dashes along an axis: ``share`` of each period is inside."""
    return band(repeated(along, period), share * period / 2)


def wave(along: Grid, length: float, phase: float = 0.0) -> Grid:
    """A smooth wave between -1 and 1 made of parabolas: a sine that rounds alike everywhere."""
    t = along * (2 / length) + phase
    t = t - 2 * np.floor(t * 0.5) - 1
    height: Grid = 4 * t * (1 - np.abs(t))
    return height


def smooth(value: Grid) -> Grid:
    """A value held to 0..1 with soft ends."""
    t: Grid = np.clip(value, 0, 1)
    return t * t * (3 - 2 * t)
