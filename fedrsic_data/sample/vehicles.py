"""Aeroplanes, cars and ships of the photographs; each public function paints the label of its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from fedrsic_data.sample.motifs import boat, steps
from fedrsic_data.sample.paint import COLOURS, Frame, Lattice, painters, rgb
from fedrsic_data.sample.plots import Painter, Plot
from fedrsic_data.sample.shapes import Grid, band, both, box, capsule, dashes, disc, either

PlaneShape = Callable[[Grid, Grid, float], Grid]

_OLIVE, _ORANGE = rgb(0.37, 0.42, 0.22), rgb(0.92, 0.62, 0.18)


def small_plane(p: Plot) -> None:
    """Small, in many colours, in rows."""
    spots, off = p.spots((0.3, 0.28), 5)
    spots.solid(lambda u, v: _straight(u, v, 0.12) + off, spots.mixed(("white", "red", "yellow", "white")), 0.05)


def _planes(p: Plot, shape: PlaneShape, size: float, room: float, colour: Grid, trim: str, most: int = 2) -> None:
    """One to ``most`` planes side by side, as large as the area allows."""
    long, short = p.sides
    size = min(size, 0.95 * short, 0.95 * long)
    room = min(room, 2.2 * size)
    f = p.lengthwise().swapped()
    count = min(max(int(2 * long / (1.15 * room)), 1), most)
    turn = p.canvas.chance(0.5)
    for place in steps(count, 1.05 * room):
        g = replace(f, u=f.u if turn else -f.u, v=f.v - place)
        g.solid(lambda u, v: shape(u, v, size), colour, 0.12)
        g.paint(box(g.u + 0.82 * size, g.v, 0.16 * size, 0.05 * size), COLOURS[trim])


def _jet(u: Grid, v: Grid, size: float) -> Grid:
    u, v = u / size, np.abs(v) / size
    body = capsule(u, v, 0.86, 0.13)
    wing = both(np.abs(u + 0.6 * v - 0.16) - (0.25 - 0.17 * v), v - 0.95)
    tail = both(np.abs(u + 0.6 * v + 0.72) - (0.16 - 0.12 * v), v - 0.4)
    engine = box(u - 0.12, v - 0.4, 0.14, 0.06)
    return either(body, wing, tail, engine) * size


def _straight(u: Grid, v: Grid, size: float) -> Grid:
    u, v = u / size, np.abs(v) / size
    wing = box(u - 0.25, v, 0.17, 0.98)
    engine = box(u - 0.36, v - 0.42, 0.26, 0.08)
    tail = box(u + 0.78, v, 0.13, 0.4)
    return either(capsule(u, v, 0.8, 0.15), wing, tail, engine) * size


def _delta(u: Grid, v: Grid, size: float) -> Grid:
    u, v = u / size, np.abs(v) / size
    return either(both(0.62 * u + v - 0.52, -u - 0.85), capsule(u - 0.1, v, 0.85, 0.1)) * size


def _cars(p: Plot, colour: Grid) -> None:
    """Parked side by side, or in two lanes where the ground is narrow."""
    narrow = min(p.half_u, p.half_v) < 0.23
    spots, off = p.spots((0.22, 0.13) if narrow else (0.135, 0.27), 9)
    half = (0.066, 0.034) if narrow else (0.036, 0.074)
    off = off + spots.skip(0.35 if narrow else 0.22)
    spots.shade(box(spots.u - 0.014, spots.v - 0.014, *half) + off, 0.45)
    spots.paint(box(spots.u, spots.v, *half) + off, colour * spots.vary(0.92, 1.04))
    glass = box(spots.u, spots.v, half[0] * 0.55, half[1] * 0.55) + off
    spots.paint(glass, colour * 0.35 + 0.22)


def trucks(p: Plot) -> None:
    """A long pale box behind a coloured cab."""
    spots, off = p.spots((0.42, 0.2), 4)
    off = off + spots.skip(0.15)
    spots.solid(lambda u, v: box(u + 0.03, v, 0.12, 0.052) + off, COLOURS["silver"] * spots.vary(0.95, 1.2), 0.06)
    spots.paint(box(spots.u - 0.13, spots.v, 0.035, 0.045) + off, spots.mixed(("blue", "red", "green", "blue")))


def yellow_buses(p: Plot) -> None:
    """Long and yellow, with hatches on the roof."""
    spots, off = p.spots((0.4, 0.17), 5)
    off = off + spots.skip(0.15)
    spots.solid(lambda u, v: box(u, v, 0.15, 0.05) + off, rgb(0.98, 0.76, 0.08), 0.05)
    spots.paint(both(dashes(spots.u, 0.1, 0.3), box(spots.u, spots.v, 0.12, 0.022)) + off, COLOURS["dark"])


def container_ship(p: Plot) -> None:
    """A long dark hull under rows of containers in many colours."""
    f, length = _ship(p, 1.5, 0.34)
    boat(f, length, rgb(0.20, 0.16, 0.22), COLOURS["tile"])
    boxes = Lattice(f, (0.1 * length, 0.075 * length), p.canvas.rng)
    hold = box(f.u - 0.04 * length, f.v, 0.34 * length, 0.14 * length)
    load = both(box(boxes.u, boxes.v, 0.044 * length, 0.032 * length), hold)
    boxes.paint(load, boxes.mixed(("red", "blue", "green", "yellow", "white", "tile")))
    f.paint(box(f.u + 0.42 * length, f.v, 0.04 * length, 0.12 * length), COLOURS["white"])


def ferry(p: Plot) -> None:
    """Broad and white, with decks and a funnel, a short wake behind."""
    f, length = _ship(p, 1.0, 0.4)
    wider = 0.1 * np.maximum(-f.u - 0.3 * length, 0)
    wake = both(band(f.v, 0.05 * length + wider), band(f.u + 0.7 * length, 0.4 * length))
    f.paint(wake, COLOURS["white"], 0.6)
    f.solid(lambda u, v: capsule(u, v, 0.34 * length, 0.17 * length), COLOURS["white"], 0.05)
    f.paint(capsule(f.u + 0.03 * length, f.v, 0.26 * length, 0.1 * length), COLOURS["silver"] * 0.9)
    f.paint(disc(f.u + 0.18 * length, f.v, 0.05 * length), COLOURS["red"])
    f.paint(box(f.u - 0.12 * length, f.v, 0.025 * length, 0.13 * length), COLOURS["blue"])


def barge(p: Plot) -> None:
    """A long brown box with an open hold full of ore."""
    f, length = _ship(p, 1.15, 0.28)
    f.solid(lambda u, v: box(u, v, 0.5 * length, 0.13 * length), rgb(0.46, 0.27, 0.17), 0.03)
    hold = box(f.u - 0.07 * length, f.v, 0.36 * length, 0.09 * length)
    f.paint(hold, COLOURS["dark"] * 1.4)
    f.paint(both(hold, dashes(f.u, 0.18 * length, 0.7)), rgb(0.74, 0.62, 0.36))


def _ship(p: Plot, longest: float, beam: float) -> tuple[Frame, float]:
    """A frame for one ship in the area and how long it may be."""
    long, short = p.sides
    f = p.lengthwise()
    length = min(longest, 1.85 * long, 1.8 * short / beam)
    way = 1 if p.canvas.chance(0.5) else -1
    return replace(f, u=f.u * way, sun=(f.sun[0] * way, f.sun[1])), length


def motorboats(p: Plot) -> None:
    """Small and quick, each at the point of a white V."""
    spots, off = p.spots((0.5, 0.34), 3, jitter=0.06)
    off = off + spots.skip(0.15)
    behind = 0.06 - spots.u
    vee = both(np.abs(np.abs(spots.v) - 0.28 * behind) - 0.018, band(spots.u + 0.1, 0.16))
    spots.paint(vee + off, COLOURS["white"], 0.85)
    spots.paint(capsule(spots.u - 0.08, spots.v, 0.06, 0.036) + off, spots.mixed(("white", "red", "yellow", "cream")))


def sailboats(p: Plot) -> None:
    """A slim hull under a white triangle of sail."""
    spots, off = p.spots((0.34, 0.36), 4, jitter=0.1)
    off = off + spots.skip(0.15)
    hull = box(spots.u, np.abs(spots.v) + 0.3 * np.maximum(spots.u, 0), 0.14, 0.04)
    spots.paint(hull + off, spots.mixed(("brown", "blue", "tile")))
    spots.solid(lambda u, v: both(-v - 0.008, v + 0.9 * u - 0.1, -u - 0.09) + off, COLOURS["white"], 0.08)


VEHICLES: dict[str, Painter] = painters(globals()) | {
    "dark_cars": partial(_cars, colour=rgb(0.07, 0.08, 0.12)),
    "delta_jet": partial(_planes, shape=_delta, size=0.24, room=0.5, colour=_OLIVE, trim="silver", most=3),
    "jetliner": partial(_planes, shape=_jet, size=0.42, room=0.95, colour=COLOURS["white"], trim="blue"),
    "propeller_plane": partial(_planes, shape=_straight, size=0.34, room=0.75, colour=_ORANGE, trim="dark"),
    "red_cars": partial(_cars, colour=rgb(0.82, 0.10, 0.08)),
    "white_cars": partial(_cars, colour=COLOURS["white"]),
}
"""The painter of each fine label of airplane, cars and ship."""
