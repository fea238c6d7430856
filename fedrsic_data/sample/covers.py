"""Ground covers of the photographs, from grass to water; each public function paints the label of its name."""

from __future__ import annotations

from functools import partial

import numpy as np

from fedrsic_data.sample.paint import COLOURS, Lattice, painters, rgb
from fedrsic_data.sample.plots import Painter, Plot
from fedrsic_data.sample.shapes import Grid, band, both, box, dashes, disc, either, keep_off, repeated, smooth, wave

_STRAW, _FURROW, _EARTH = rgb(0.74, 0.64, 0.38), rgb(0.42, 0.31, 0.23), rgb(0.66, 0.36, 0.22)
_GOLD, _PETAL, _LEAF = rgb(0.90, 0.76, 0.30), rgb(0.66, 0.34, 0.68), rgb(0.30, 0.52, 0.18)
_SHRUB, _PAVING, _TILE = rgb(0.30, 0.31, 0.17), rgb(0.80, 0.73, 0.64), rgb(0.64, 0.55, 0.48)
_TRACK, _SILT = rgb(0.80, 0.67, 0.48), rgb(0.30, 0.42, 0.40)


def lawn(p: Plot) -> None:
    """Bright, evenly mown in stripes."""
    c = p.canvas
    stripes = 1 + 0.1 * np.sign(wave(p.frame.u, c.between(0.22, 0.3), c.between(0, 2)))
    p.frame.paint(p.edge(), p.mottled(rgb(0.34, 0.58, 0.22) * c.between(0.92, 1.08), 0.03, 0.03) * stripes)


def meadow(p: Plot) -> None:
    """Darker and blotched, with pale tufts."""
    green = p.mottled(p.canvas.colour("grass", 0.06) * 0.86, 0.16, 0.2)
    p.frame.paint(p.edge(0.04), green)
    tufts = 0.08 * (0.9 - p.grain - 0.5 * p.mottle)
    p.frame.paint(tufts + keep_off(p.edge(0.04)), _LEAF)


def dry_grass(p: Plot) -> None:
    """Straw-coloured, with patches that are still green."""
    share = smooth(0.45 + 0.7 * p.mottle)
    low, high = p.canvas.colour("dry grass", 0.05) * 0.85, _STRAW
    p.frame.paint(p.edge(0.04), (low + share * (high - low)) * (1 + 0.1 * p.grain))


def ploughed_soil(p: Plot) -> None:
    """Dark brown, in furrows."""
    furrows = 1 + 0.3 * wave(p.frame.v + 0.02 * p.mottle, p.canvas.between(0.09, 0.12))
    p.frame.paint(p.edge(), p.mottled(_FURROW, 0.1, 0.06) * furrows)


def red_earth(p: Plot) -> None:
    """Reddish, trampled and bare."""
    p.cover(_EARTH * p.canvas.between(0.92, 1.1), 0.17, 0.1, ragged=0.05)


def dirt_track(p: Plot) -> None:
    """A winding pale track with two ruts."""
    f, c = p.frame, p.canvas
    across = f.v + 0.05 * wave(f.u, c.between(0.9, 1.5), c.between(0, 2))
    half = 0.8 * p.half_v
    f.paint(band(across, half) + 0.02 * p.mottle, _TRACK * (1 + 0.1 * p.grain))
    f.paint(band(np.abs(across) - 0.45 * half, 0.2 * half), COLOURS["brown"], 0.7)


def dunes(p: Plot) -> None:
    """Long ridges across the wind, each with a lee side in shade."""
    f, c = p.frame, p.canvas
    along = f.u * 0.9 + 0.3 * f.v + 0.22 * p.mottle
    length = c.between(0.28, 0.42)
    phase = along / length
    ramp = phase - np.floor(phase)
    light = np.where(ramp < 0.72, 0.88 + 0.25 * ramp, 0.66)
    f.paint(p.edge(0.06), rgb(0.90, 0.76, 0.52) * light)


def beach(p: Plot) -> None:
    """Pale sand, wet along the sea, with umbrellas."""
    f = p.frame
    p.cover(COLOURS["sand"] * p.canvas.between(0.98, 1.08), 0.03, 0.04, ragged=0.05)
    spots = Lattice(f, (0.15, 0.15), p.canvas.rng, jitter=0.15)
    inside = box(f.u, f.v + 0.05, p.half_u, max(0.45 * p.half_v, 0.06) if p.half_v < 1 else 9)
    dots = disc(spots.u, spots.v, 0.04) + spots.skip(0.55) + keep_off(inside)
    spots.paint(dots, spots.mixed(("red", "blue", "white", "yellow")))


def _shrubs(p: Plot, pitch: float, bare_share: float, ground: Grid) -> None:
    """Dry ground under grey-green shrubs."""
    f, edge = p.frame, p.cover(ground, 0.08, 0.06, ragged=0.05)
    spots = Lattice(f, (pitch, pitch), p.canvas.rng, jitter=0.22, shuffle=True)
    radius = spots.vary(0.028, 0.056) - spots.skip(bare_share) - keep_off(edge)
    spots.solid(lambda u, v: disc(u, v, radius), _SHRUB * spots.vary(0.75, 1.2), 0.04)


def green_crop(p: Plot) -> None:
    """Green rows with soil between them."""
    rows = smooth(0.55 + 0.8 * wave(p.frame.v, p.canvas.between(0.13, 0.17)))
    low, high = COLOURS["soil"] * 0.85, rgb(0.22, 0.50, 0.16)
    p.frame.paint(p.edge(), (low + rows * (high - low)) * (1 + 0.08 * p.mottle))


def ripe_crop(p: Plot) -> None:
    """Golden, with the tramlines of the tractor."""
    f = p.frame
    p.cover(_GOLD * p.canvas.between(0.93, 1.05), 0.07, 0.05)
    lines = dashes(f.u, 0.36, 0.06)
    f.paint(both(lines, p.edge()), COLOURS["brown"], 0.55)


def flower_rows(p: Plot) -> None:
    """Broad rows of blossom, purple to pink or red."""
    f, c = p.frame, p.canvas
    petals = _PETAL if c.chance(0.6) else rgb(0.86, 0.34, 0.46)
    rows = np.sign(wave(f.v, c.between(0.2, 0.26))) * 0.5 + 0.5
    f.paint(p.edge(), _LEAF * 0.8 + rows * (petals - _LEAF * 0.8) * (1 + 0.2 * p.grain))


def orchard(p: Plot) -> None:
    """Round trees in a square grid on pale ground."""
    f, edge = p.frame, p.cover(rgb(0.64, 0.62, 0.38), 0.06, 0.06)
    pitch = p.canvas.between(0.19, 0.23)
    rows = Lattice(f, (pitch, pitch), p.canvas.rng)
    radius = rows.vary(0.27, 0.34) * pitch - keep_off(edge)
    rows.solid(lambda u, v: disc(u, v, radius), rgb(0.17, 0.36, 0.13), 0.07)


def crop_circles(p: Plot) -> None:
    """Irrigated discs, each with its own crop, on dry ground."""
    f, edge = p.frame, p.cover(rgb(0.76, 0.66, 0.47), 0.06, 0.06)
    pitch = min(max(1.0 * min(p.half_u, p.half_v), 0.5), 0.8)
    discs = Lattice(f, (pitch, pitch), p.canvas.rng)
    shape = disc(discs.u, discs.v, 0.46 * pitch) + keep_off(edge)
    discs.paint(shape, discs.mixed(("grass", "green", "grass", "tree", "brown")) * (1 + 0.1 * wave(shape, 0.1)))
    discs.paint(both(shape, box(discs.u - pitch, discs.v, pitch, 0.012)), COLOURS["concrete"])


def parking_lot(p: Plot) -> None:
    """Asphalt with the white lines of the bays."""
    f, edge = p.frame, p.cover(COLOURS["asphalt"] * 1.05, 0.05, 0.04)
    rows = repeated(f.v, 0.5)
    bays = either(both(dashes(f.u, 0.14, 0.16), band(rows, 0.15)), band(rows, 0.012))
    f.paint(both(bays, edge + 0.04), COLOURS["white"], 0.85)


def apron(p: Plot) -> None:
    """Pale concrete slabs and a yellow guide line."""
    f, edge = p.frame, p.cover(COLOURS["concrete"], 0.04, 0.03)
    seams = either(dashes(f.u, 0.3, 0.06), dashes(f.v, 0.3, 0.06))
    f.shade(both(seams, edge), 0.2)
    f.paint(both(band(f.v if p.half_v < 2 else f.v + 0.3, 0.016), edge), COLOURS["yellow"])


def plaza(p: Plot) -> None:
    """Warm paving in a chequered pattern."""
    f = p.frame
    squares = np.sign(wave(f.u, 0.3) * wave(f.v, 0.3)) * 0.5 + 0.5
    f.paint(p.edge(), (_TILE + squares * (_PAVING - _TILE)) * (1 + 0.03 * p.mottle))


def road(p: Plot) -> None:
    """Asphalt between pale kerbs, with a dashed middle line."""
    f, half = p.frame, 0.8 * p.half_v
    f.paint(band(f.v, p.half_v), COLOURS["concrete"] * 1.05)
    f.paint(band(f.v, half), p.canvas.colour("asphalt", 0.06))
    f.paint(both(band(f.v, 0.013), dashes(f.u, 0.24)), COLOURS["white"])


def freeway(p: Plot) -> None:
    """Two roadways of two lanes, a barrier between them."""
    f, h = p.frame, p.half_v
    f.paint(band(f.v, h), COLOURS["concrete"])
    each = np.abs(f.v) - 0.52 * h
    f.paint(band(each, 0.38 * h), p.canvas.colour("asphalt", 0.06) * 1.1)
    f.paint(both(band(each, 0.012), dashes(f.u, 0.22)), COLOURS["white"])
    f.paint(band(f.v, 0.05 * h), COLOURS["grey"])


def runway(p: Plot) -> None:
    """A broad dark strip with a threshold and a middle line."""
    f, h = p.frame, 0.92 * p.half_v
    f.paint(band(f.v, h), p.mottled(COLOURS["asphalt"] * 0.85, 0.06, 0.03))
    f.paint(band(np.abs(f.v) - 0.9 * h, 0.014), COLOURS["white"])
    start = p.canvas.between(-0.75, -0.45)
    f.paint(both(band(f.v, 0.018), dashes(f.u, 0.34, 0.6), start + 0.2 - f.u), COLOURS["white"])
    keys = both(dashes(f.v, 0.4 * h, 0.5), band(f.v, 0.8 * h))
    f.paint(both(keys, band(f.u - start, 0.13)), COLOURS["white"])


def deep_sea(p: Plot) -> None:
    """Dark blue, with long swell."""
    swell = 1 + 0.14 * p.mottle + 0.16 * p.grain
    p.frame.paint(p.edge(0.04), COLOURS["sea"] * p.canvas.between(0.9, 1.15) * swell)


def turquoise_sea(p: Plot) -> None:
    """Clear and shallow, with darker weed."""
    pale, weed = rgb(0.20, 0.66, 0.66), rgb(0.08, 0.44, 0.52)
    share = smooth(0.3 + 0.9 * p.mottle)
    p.frame.paint(p.edge(0.04), (pale + share * (weed - pale)) * (1 + 0.05 * p.grain))


def surf(p: Plot) -> None:
    """Grey-green water with white breakers rolling towards the land."""
    f, edge = p.frame, p.cover(rgb(0.13, 0.36, 0.40), 0.1, 0.1, ragged=0.04)
    roll = f.v + 0.13 * p.mottle
    length = 0.3
    phase = roll - length * np.floor(roll / length)
    crest = band(phase - 0.06, 0.06 + 0.05 * p.grain)
    f.paint(both(crest, edge + 0.02), COLOURS["white"], 0.92)


def lake(p: Plot) -> None:
    """Still dark water with rounded, ragged banks."""
    f = p.frame
    corner = 0.55 * min(p.half_u, p.half_v, 1.2)
    u, v = np.maximum(np.abs(f.u) - p.half_u + corner, 0), np.maximum(np.abs(f.v) - p.half_v + corner, 0)
    bank = disc(u, v, 0.95 * corner) + 0.06 * p.mottle
    f.paint(bank, p.mottled(rgb(0.10, 0.24, 0.30) * p.canvas.between(0.9, 1.2), 0.08, 0.05))


def river(p: Plot) -> None:
    """A winding strip of silty grey-green water, streaked along its course."""
    f, c = p.frame, p.canvas
    across = f.v + (0.1 * wave(f.u, c.between(1.6, 2.4), c.between(0, 2)) if p.half_v < 1 else 0.0)
    bank = band(across, 0.82 * p.half_v) + 0.05 * p.mottle
    streaks = 1 + 0.1 * wave(across + 0.05 * p.mottle, 0.16) + 0.05 * p.grain
    f.paint(bank - 0.045, COLOURS["sand"] * 0.85, 0.8)
    f.paint(bank, _SILT * c.between(0.9, 1.15) * streaks)


def canal(p: Plot) -> None:
    """A straight strip of blue-green water between stone rims."""
    f, half = p.frame, p.half_v
    f.paint(band(f.v, half), COLOURS["cream"])
    f.paint(band(f.v, half - 0.035), p.mottled(rgb(0.10, 0.40, 0.38), 0.05, 0.05))


COVERS: dict[str, Painter] = painters(globals()) | {
    "bare": lambda p: p.cover(COLOURS["soil"], 0.14, 0.12, ragged=0.05),
    "dense_shrubs": partial(_shrubs, pitch=0.11, bare_share=0.05, ground=rgb(0.60, 0.53, 0.38)),
    "paved": lambda p: p.cover(rgb(0.58, 0.57, 0.55), 0.06, 0.05),
    "sparse_shrubs": partial(_shrubs, pitch=0.2, bare_share=0.45, ground=rgb(0.80, 0.70, 0.52)),
}
"""The painter of each ground; "paved" and "bare" are what lies beside a road or a track in want of a label."""
