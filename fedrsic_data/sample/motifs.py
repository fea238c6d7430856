"""Shared motifs of scene classes: trees, roofs, roads, cars, boats, water."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np

from fedrsic_data.sample.paint import COLOURS, Canvas, Frame, Lattice
from fedrsic_data.sample.shapes import Grid, band, both, box, dashes, disc, either, keep_off

_HUES = {"water": "dark", "blue water": "blue", "sea": "blue", "green": "green", "turquoise": "turquoise"}
WATERS = {colour: f"{hue} water" for colour, hue in _HUES.items()}
CAR_PAINT = ("white", "silver", "dark", "grey", "red", "blue")
_ROOFS = ("tile", "brown", "slate", "grey", "cream")
COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def canopy(c: Canvas, crown: float, lightness: float = 1.0) -> Grid:
    """The colour of a closed canopy over the whole canvas, ``[3, size, size]``: lit crowns, dark gaps."""
    height = c.noise(crown) + 0.5 * c.noise(crown / 2)
    light = c.relief(height * (0.24 * crown))
    light += height * 0.42
    light += 0.2 * c.noise(8 * crown)
    np.maximum(light, -0.65, out=light)
    light += 1.1
    return c.leaves("tree") * lightness * light


def trees(c: Canvas, frame: Frame, radius: float, share: float, off: Grid | None = None) -> None:
    """Scatter round trees over a frame: at ``share`` of the places, only where ``off`` is negative."""
    pitch = 2.9 * radius
    spots = Lattice(frame, (pitch, pitch), c.rng, jitter=0.18, shuffle=True)
    size = spots.vary(0.55, 1.15) * radius - spots.skip(1 - share)
    gone = 0.0 if off is None else keep_off(off)
    light = spots.sunward() * (-0.5 / radius)
    colour = c.leaves("tree") * (1.15 + np.clip(light, -0.6, 0.6))
    spots.solid(lambda u, v: disc(u, v, size) + gone, colour, radius)


def road(c: Canvas, frame: Frame, across: Grid, along: Grid, half: float, dashed: bool = True) -> None:
    """A paved road with pale edges and perhaps a dashed centre line."""
    frame.paint(band(across, half * 1.12), COLOURS["concrete"], 0.5)
    frame.paint(band(across, half), c.colour("asphalt"))
    if dashed:
        frame.paint(both(band(across, half * 0.07), dashes(along, 0.16)), COLOURS["white"], 0.8)


def traffic(c: Canvas, frame: Frame, across: Grid, along: Grid, lanes: tuple[float, ...], share: float) -> None:
    """Cars on lanes at the given offsets from a road's middle; ``share`` of the places are taken."""
    which = sum((across > (a + b) / 2 for a, b in pairwise(lanes)), start=np.zeros(across.shape, np.intp))
    middle = np.array(lanes, dtype=np.float32).take(which)
    # The lanes become the rows of one lattice, which is too coarse across for a second car.
    row = replace(frame, u=along, v=across - middle + (which.astype(np.float32) + 0.5) * 9)
    places = Lattice(row, (0.22, 9.0), c.rng)
    places.u += places.vary(-0.05, 0.05)
    length = 0.048 - places.skip(1 - share)
    places.shade(box(places.u - 0.015, places.v - 0.012, length, 0.028), 0.35)
    places.paint(box(places.u, places.v, length, 0.026), places.mixed(CAR_PAINT))


def houses(c: Canvas, spots: Lattice, size: tuple[float, float], skip: float, off: Grid) -> None:
    """Gabled houses of varied size and roof, one to a cell; only where ``off`` is negative."""
    absent = spots.skip(skip) + keep_off(off)
    long, wide = spots.vary(0.8, 1.15) * size[0], spots.vary(0.8, 1.15) * size[1]
    wing = spots.vary(-0.6, 0.6) * size[0] if c.chance(0.5) else None

    def plan(u: Grid, v: Grid) -> Grid:
        if wing is None:
            return box(u, v, long - absent, wide)
        main = box(u, v, long - absent, wide * 0.7)
        return either(main, box(u - wing, v, wide * 0.55 - absent, wide * 1.25))

    spots.gable(plan, spots.mixed(_ROOFS), 0.07)


def water(c: Canvas, name: str) -> Grid:
    """The colour of water over the whole canvas, ``[3, size, size]``: broad drifts and fine ripples."""
    ripple: Grid = c.noise(0.9) * 0.1 + c.noise(0.09, stretch=2.0) * 0.07
    return c.colour(name, 0.15) * (1 + ripple)


def boat(frame: Frame, length: float, colour: Grid, deck: Grid) -> None:
    """A boat along the frame's u axis, bow at +u, with a lighter or darker deck house."""
    half, beam = length / 2, length * 0.17

    def hull(u: Grid, v: Grid) -> Grid:
        taper = np.maximum(u - 0.1 * half, 0) * (0.95 * beam / half)
        return box(u, np.abs(v) + taper, half, beam)

    frame.solid(hull, colour, length * 0.06)
    frame.paint(box(frame.u + 0.35 * half, frame.v, 0.28 * half, 0.6 * beam), deck)


def spread(c: Canvas, count: int, gap: float) -> list[tuple[float, float]]:
    """Centres of ``count`` things at least ``gap`` apart when they fit, all inside the picture."""
    room = max(c.extent - 0.55 * gap, 0.05)
    places: list[tuple[float, float]] = []
    for _ in range(count):
        best, distance = (0.0, 0.0), -1.0
        for _ in range(8):
            place = (c.between(-room, room), c.between(-room, room))
            nearest = min((math.dist(place, other) for other in places), default=gap)
            if nearest > distance:
                best, distance = place, nearest
        if distance >= gap or not places:
            places.append(best)
    return places


def fairway(c: Canvas) -> Grid:
    """The colour of watered, mown grass: green in every season."""
    return c.colour("grass", 0.08) * 1.22


def steps(count: int, pitch: float) -> list[float]:
    """Places of ``count`` things in a row about the middle."""
    return [float(place) for place in (np.arange(count) - (count - 1) / 2) * pitch]
