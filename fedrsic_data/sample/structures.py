"""Buildings, courts, tanks, docks and trees of the photographs; each public function paints the label of its name."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from fedrsic_data.sample.motifs import steps
from fedrsic_data.sample.paint import COLOURS, Frame, Lattice, painters, rgb
from fedrsic_data.sample.plots import Painter, Plot
from fedrsic_data.sample.shapes import Grid, band, both, box, capsule, dashes, disc, either, ellipse, keep_off, wave

_TREES: dict[str, Grid] = {
    "autumn_trees": rgb(0.74, 0.42, 0.12),
    "broadleaf_trees": rgb(0.20, 0.40, 0.12),
    "conifers": rgb(0.05, 0.19, 0.17),
    "palms": rgb(0.40, 0.58, 0.20),
}


def _houses(p: Plot, roofs: tuple[str, ...]) -> None:
    """Houses under gables."""
    spots, off = p.spots((0.36, 0.32), 5, jitter=0.03)
    long, wide = spots.vary(0.12, 0.15) - off, spots.vary(0.085, 0.11) - off
    spots.gable(lambda u, v: box(u, v, long, wide), spots.mixed(roofs), 0.09)


def flat_roofs(p: Plot) -> None:
    """Large pale roofs with a parapet and plant on them."""
    spots, off = p.spots((0.62, 0.52), 3)
    half = min(spots.vary(0.2, 0.27).max(), 0.9 * p.sides[0]), min(0.2, 0.85 * p.sides[1])
    roof = spots.solid(lambda u, v: box(u, v, *half) + off, spots.mixed(("cream", "white", "silver")), 0.14)
    spots.paint(roof + 0.03, COLOURS["grey"] * 1.25)
    spots.paint(both(dashes(spots.u, 0.16, 0.45), dashes(spots.v, 0.2, 0.4), roof + 0.07), COLOURS["white"])


def towers(p: Plot) -> None:
    """Square blue-grey blocks that throw long shadows."""
    spots, off = p.spots((0.5, 0.5), 3)
    half = min(0.14, 0.75 * p.sides[1])
    for part in (0.25, 0.5, 0.75, 1.0):
        reach = 0.42 * part
        spots.shade(box(spots.u - spots.sun[0] * reach, spots.v - spots.sun[1] * reach, half, half) + off, 0.3)
    block = box(spots.u, spots.v, half, half) + off
    spots.paint(block, rgb(0.36, 0.48, 0.62))
    spots.paint(block + 0.035, rgb(0.62, 0.72, 0.82))
    spots.paint(block + 0.085, rgb(0.26, 0.34, 0.44))


def warehouses(p: Plot) -> None:
    """Long ribbed roofs, blue or white."""
    spots, off = p.spots((0.85, 0.36), 3)
    half = min(0.38, 0.92 * p.sides[0]), min(0.145, 0.85 * p.sides[1])
    shed = spots.solid(lambda u, v: box(u, v, *half) + off, spots.mixed(("blue", "white", "blue")), 0.08)
    spots.shade(both(dashes(spots.u, 0.095, 0.4), shed + 0.01), 0.18)
    spots.paint(both(band(spots.v, 0.012), shed), COLOURS["silver"])


def barn(p: Plot) -> None:
    """A red gabled roof and a pale silo beside it."""
    size = min(0.27, 0.75 * p.sides[0], 1.15 * p.sides[1])
    f = p.lengthwise()
    f.gable(lambda u, v: box(u + 0.2 * size, v, 0.8 * size, 0.55 * size), rgb(0.70, 0.12, 0.10), 0.12)
    f.paint(band(f.v, 0.012) + keep_off(box(f.u + 0.2 * size, f.v, 0.8 * size, 0.5 * size)), COLOURS["cream"])
    f.solid(lambda u, v: disc(u - 0.85 * size, v, 0.22 * size), COLOURS["silver"], 0.15)


def tennis_court(p: Plot) -> None:
    """Blue courts with white lines in a green surround."""
    f, (long, wide), count = _court(p, 0.42, 0.2, 3)
    f.paint(box(f.u, f.v, 1.25 * long, count * 1.3 * wide + 0.04), rgb(0.16, 0.44, 0.26))
    for place in steps(count, 2.6 * wide):
        k = replace(f, v=f.v - place)
        edge = box(k.u, k.v, long, wide)
        k.paint(edge, rgb(0.16, 0.36, 0.68))
        inner = box(k.u, k.v, 0.54 * long, 0.74 * wide)
        singles = both(band(np.abs(k.v) - 0.74 * wide, 0.0), edge)
        k.paint(either(np.abs(edge), singles, np.abs(inner), both(np.abs(k.v), inner)) - 0.012, COLOURS["white"])
        k.paint(both(band(k.u, 0.012), band(k.v, 1.1 * wide)), COLOURS["dark"])


def basketball_court(p: Plot) -> None:
    """An orange floor with red keys, arcs and a centre circle."""
    f, (long, wide), _ = _court(p, 0.5, 0.28, 1)
    edge = box(f.u, f.v, long, wide)
    f.paint(edge - 0.05, COLOURS["grey"])
    f.paint(edge, rgb(0.84, 0.52, 0.24))
    far = long - np.abs(f.u)
    key = box(far - 0.2 * long, f.v, 0.2 * long, 0.3 * wide)
    f.paint(key, COLOURS["red"])
    middle = disc(f.u, f.v, 0.28 * wide)
    f.paint(middle, COLOURS["red"])
    arc = np.abs(disc(far, f.v, 0.8 * wide))
    lines = either(np.abs(edge), np.abs(middle), np.abs(key), both(either(arc, np.abs(f.u)), edge))
    f.paint(lines - 0.011, COLOURS["white"])


def football_pitch(p: Plot) -> None:
    """A vivid green pitch in broad stripes, with goal areas and a centre circle."""
    f, (long, wide), _ = _court(p, 0.66, 0.42, 1)
    edge = box(f.u, f.v, long, wide)
    f.paint(edge - 0.04, rgb(0.16, 0.50, 0.16) * (1 + 0.14 * np.sign(wave(f.u, 0.4 * long))))
    goal = box(long - np.abs(f.u), f.v, 0.3 * long, 0.5 * wide)
    circle = disc(f.u, f.v, 0.3 * wide)
    lines = either(np.abs(edge), np.abs(circle), both(either(np.abs(f.u), np.abs(goal)), edge))
    f.paint(lines - 0.013, COLOURS["white"])


def running_track(p: Plot) -> None:
    """A red oval in lanes round a blue-green infield."""
    f, (long, wide), _ = _court(p, 0.62, 0.4, 1)
    oval = capsule(f.u, f.v, max(long - wide, 0.05), wide)
    f.paint(oval, rgb(0.78, 0.26, 0.18))
    f.paint(band(oval + 0.14 * wide, 0.006), COLOURS["white"], 0.8)
    f.paint(band(oval + 0.27 * wide, 0.006), COLOURS["white"], 0.8)
    f.paint(oval + 0.42 * wide, rgb(0.20, 0.52, 0.40))


def _court(p: Plot, long: float, wide: float, most: int) -> tuple[Frame, tuple[float, float], int]:
    """A frame for courts side by side, their half sizes, and how many fit."""
    half_u, half_v = p.sides
    f = p.lengthwise()
    scale = min(1.0, 0.8 * half_v / wide, 0.8 * half_u / long)
    across = min(int(0.8 * half_v / (1.3 * wide * scale)), most)
    return f, (long * scale, wide * scale), max(across, 1)


def _tanks(p: Plot, colour: Grid) -> None:
    """Drums with a grey rim and a stair."""
    size = 0.22
    pitch = min(2.5 * size, 2.1 * p.sides[1])
    spots, off = p.spots((pitch, pitch), 3)
    radius = spots.vary(0.85, 1.0) * (0.39 * pitch)
    light = 1 - spots.sunward() * (0.14 / size)
    drum = spots.solid(lambda u, v: disc(u, v, radius) + off, colour * light, 0.45 * size)
    spots.paint(band(drum + 0.035, 0.01), COLOURS["grey"] * 0.8)
    spots.paint(both(box(spots.u - 0.1, spots.v, 0.1, 0.012), drum), COLOURS["grey"] * 0.8)


def gas_spheres(p: Plot) -> None:
    """Small silver balls, bright towards the sun and dark away from it."""
    spots, off = p.spots((0.3, 0.3), 4)
    toward = spots.sunward() * 7.0
    light = np.clip(0.9 - toward, 0.3, 1.25)
    spots.solid(lambda u, v: disc(u, v, 0.115) + off, COLOURS["silver"] * light, 0.16)
    spots.paint(disc(spots.u + 0.04 * spots.sun[0], spots.v + 0.04 * spots.sun[1], 0.025) + off, COLOURS["white"])


def mobile_home(p: Plot) -> None:
    """Long pale units in close rows."""
    spots, off = p.spots((0.2, 0.46), 8)
    long, wide = 0.18 - off, 0.068 - off
    spots.solid(lambda u, v: box(u, v, wide, long), spots.mixed(("white", "cream", "white")), 0.06)
    spots.paint(box(spots.u, spots.v, 0.012 - off, long), COLOURS["grey"])


def caravans(p: Plot) -> None:
    """Small rounded white boxes, each with a coloured awning."""
    spots, off = p.spots((0.29, 0.27), 6, jitter=0.08)
    off = off + spots.skip(0.12)
    spots.paint(box(spots.u, spots.v - 0.075, 0.06, 0.035) + off, spots.mixed(("blue", "red", "green", "yellow")))
    spots.solid(lambda u, v: capsule(u, v, 0.05, 0.045) + off, COLOURS["white"], 0.05)


def floating_piers(p: Plot) -> None:
    """A walkway out from the land with fingers on both sides, and no boats."""
    f = _from_land(p)
    reach = 1.5 * p.half_v
    f.paint(both(band(f.u, 0.035), band(f.v, reach)), COLOURS["white"])
    along = band(f.v - 0.55 * reach, 0.45 * reach)
    f.paint(both(dashes(f.v, 0.17, 0.28), band(f.u, min(0.24, 0.9 * p.half_u)), along), COLOURS["cream"])


def wooden_jetty(p: Plot) -> None:
    """A brown plank way out from the land with a head across its end."""
    f = _from_land(p)
    reach = 1.25 * p.half_v
    deck = either(box(f.u, f.v, 0.05, reach), box(f.u, f.v - reach, min(0.24, 0.85 * p.half_u), 0.06))
    f.shade(deck - 0.025, 0.4)
    f.paint(deck, rgb(0.56, 0.38, 0.22) * (1 + 0.2 * wave(f.v, 0.05)))


def container_quay(p: Plot) -> None:
    """A concrete quay along the land with stacks of containers and the beams of cranes."""
    f = _from_land(p)
    depth = min(0.36, 0.9 * p.half_v)
    edge = box(f.u, f.v, p.half_u, depth)
    f.paint(edge, COLOURS["concrete"])
    stacks = Lattice(f, (0.15, 0.085), p.canvas.rng)
    inside = box(f.u, f.v - 0.42 * depth, 0.94 * p.half_u, 0.42 * depth)
    boxes = both(box(stacks.u, stacks.v, 0.066, 0.034), inside) + stacks.skip(0.2)
    stacks.paint(boxes, stacks.mixed(("red", "blue", "green", "yellow", "tile", "white")))
    beams = both(dashes(f.u, 0.5, 0.07), band(f.v - depth, 0.2))
    f.paint(both(beams, band(f.u, p.half_u)), rgb(0.95, 0.45, 0.10))


def _from_land(p: Plot) -> Frame:
    """A frame with u along the shore and v out from the land, which is at low v."""
    return replace(p.frame, v=p.frame.v + p.half_v + 0.03)


def swimming_pools(p: Plot) -> None:
    """Bright blue pools with pale rims."""
    spots, off = p.spots((0.4, 0.36), 3, jitter=0.06)
    half = min(0.11, 0.6 * p.sides[0]), min(0.055, 0.4 * p.sides[1])
    spots.paint(capsule(spots.u, spots.v, half[0], half[1] + 0.035) + off, COLOURS["cream"])
    spots.paint(capsule(spots.u, spots.v, half[0], half[1]) + off, rgb(0.16, 0.66, 0.86))


def sand_pits(p: Plot) -> None:
    """Pale kidney-shaped bunkers."""
    spots, off = p.spots((0.5, 0.36), 3, jitter=0.06)
    bend = 0.8 * spots.u * spots.u
    half = min(0.19, 0.7 * p.sides[0]), min(0.1, 0.6 * p.sides[1])
    pit = ellipse(spots.u, spots.v + bend - 0.03, *half) + off
    spots.shade(pit - 0.02, 0.25)
    spots.paint(pit, COLOURS["sand"] * 1.06)


def _grove(p: Plot, kind: str) -> None:
    """Trees of one kind, close together over the area."""
    size = {"palms": 0.15, "conifers": 0.075, "broadleaf_trees": 0.125, "autumn_trees": 0.125}[kind]
    f, c = p.frame, p.canvas
    pitch = 1.9 * size
    spots = Lattice(f, (pitch, pitch), c.rng, jitter=0.16, shuffle=True)
    inside = keep_off(p.edge(0.06, 0.4 * size)) + spots.skip(0.18)
    radius = spots.vary(0.75, 1.1) * size
    colour = _TREES[kind] * spots.vary(0.85, 1.2)
    if kind == "palms":
        diagonals = band(np.abs(spots.u) - np.abs(spots.v), 0.2 * size)
        fronds = either(band(spots.u, 0.17 * size), band(spots.v, 0.17 * size), diagonals)
        star = both(disc(spots.u, spots.v, radius), fronds) + inside
        spots.shade(disc(spots.u - 0.1 * spots.sun[0], spots.v - 0.1 * spots.sun[1], 0.6 * radius) + inside, 0.5)
        spots.paint(star, colour)
        return
    light = spots.sunward() * (-0.45 / size)
    colour = colour * (1.1 + np.clip(light, -0.6, 0.6))
    spots.solid(lambda u, v: disc(u, v, radius) + inside, colour, 0.1 if kind == "conifers" else 0.07)


def _wood(p: Plot, kind: str) -> None:
    """A closed canopy of one kind, with its crowns on top."""
    p.frame.paint(p.edge(0.06), _TREES[kind] * (0.75 + 0.12 * p.mottle))
    _grove(p, kind)


STRUCTURES: dict[str, Painter] = painters(globals()) | {
    "rusty_tanks": partial(_tanks, colour=rgb(0.50, 0.24, 0.12)),
    "slate_roofs": partial(_houses, roofs=("slate", "dark", "slate")),
    "tile_roofs": partial(_houses, roofs=("tile", "clay")),
    "white_tanks": partial(_tanks, colour=COLOURS["white"]),
    **{kind: partial(_grove, kind=kind) for kind in _TREES},
}
"""The painter of each thing that stands on the ground."""

WOODS: dict[str, Painter] = {kind: partial(_wood, kind=kind) for kind in _TREES}
"""The painters of trees that cover the ground."""
