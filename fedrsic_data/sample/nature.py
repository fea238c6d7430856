"""Scene classes made by nature or by farming: each public function paints the class of its name."""

from __future__ import annotations

import math

import numpy as np

from fedrsic_data.sample.motifs import COUNTS, WATERS, boat, canopy, fairway, road, spread, traffic, trees, water
from fedrsic_data.sample.paint import COLOURS, Canvas, Frame, Lattice
from fedrsic_data.sample.shapes import Grid, band, both, box, dashes, disc, either, ellipse, smooth, wave

# Cover of a mountain's foot and of its top, and the height at which they meet.
_HEIGHTS = {
    "bare rock": ("rock", "soil", 0.6),
    "wooded": ("tree", "rock", 0.75),
    "snow covered": ("rock", "snow", 0.35),
}


def beach(c: Canvas) -> None:
    """Sea, surf, sand and what lies behind, along a wavy coast."""
    f = c.anywhere()
    inland = f.v + 0.16 * c.noise(1.1) + 0.03 * c.noise(0.2) + c.between(-0.2, 0.25)
    sea = c.pick("sea", "turquoise")
    deep = water(c, sea)
    shallow = COLOURS["turquoise"] * 1.25
    c.rgb[:] = shallow + smooth(-inland / 0.9) * (deep - shallow)
    width = c.between(0.3, 0.65)
    sand = c.colour("sand", 0.06) * (1 + 0.05 * c.noise(0.06))
    f.paint(-inland, sand * 0.78)
    f.paint(0.09 - inland, sand)
    back = c.pick("trees", "a promenade", "dunes")
    if back == "a promenade":
        f.paint(width - inland, c.leaves("grass"))
        road(c, f, inland - (width + 0.12), f.u, 0.08)
        traffic(c, f, inland - (width + 0.12), f.u, (0.0,), 0.3)
    else:
        cover = canopy(c, 0.09) if back == "trees" else c.leaves("grass") * (1 + 0.3 * c.clouds(0.25, 2))
        f.paint(width - inland + 0.09 * c.noise(0.12), cover)
    for surf in range(int(c.between(1, 3.9))):
        line = inland + (0.11 * surf + 0.01) + 0.03 * c.noise(0.25)
        f.paint(band(line, 0.022), COLOURS["white"], 0.95 - 0.2 * surf)
    if c.chance(0.4):
        spots = Lattice(f, (0.16, 0.16), c.rng, jitter=0.2)
        dots = disc(spots.u, spots.v, 0.035) + spots.skip(0.4)
        spots.paint(both(dots, band(inland - width * 0.6, width * 0.3)), spots.mixed(("red", "white", "blue")))
        c.note("with umbrellas")
    c.note("turquoise water" if sea == "turquoise" else "dark blue water", f"backed by {back}")


def chaparral(c: Canvas) -> None:
    """Pale dry ground dotted with dark shrubs."""
    c.ground(c.pick("sand", "sand", "soil"), 0.7, 0.1)
    c.rgb *= 0.9
    thick = c.between(0.35, 0.95)
    size = c.between(0.04, 0.065)
    for scale in (1.0, 0.6):
        f = c.anywhere()
        spots = Lattice(f, (3.0 * size * scale, 3.0 * size * scale), c.rng, jitter=0.25, shuffle=True)
        radius = spots.vary(0.6, 1.4) * (size * scale) - spots.skip(1 - thick)
        radius += 0.02 * c.noise(0.05)
        c_tree = c.colour("dry tree", 0.2) * 0.75
        spots.solid(lambda u, v, radius=radius: disc(u, v, radius), c_tree, size * 0.7)  # type: ignore[misc]
    c.note("thick shrubs" if thick > 0.7 else "thin shrubs" if thick < 0.5 else "scattered shrubs")


def forest(c: Canvas) -> None:
    """A closed canopy, sometimes with a clearing or a track."""
    crown = c.between(0.07, 0.13)
    c.rgb[:] = canopy(c, crown, c.between(0.8, 1.25))
    if not c.dry and c.chance(0.2):
        tint = smooth(c.noise(0.15) * 1.5)
        c.rgb += tint * (COLOURS["clay"] * 0.8 - c.rgb) * 0.6
        c.note("autumn leaves")
    else:
        c.note("olive green" if c.dry else "deep green")
    f = c.anywhere()
    if c.chance(0.3):
        gap = c.noise(0.7) - 0.75
        f.paint(-0.3 * gap, c.leaves("grass"))
    if c.chance(0.25):
        f.paint(band(_meander(c, f, 0.15), 0.03), c.colour("soil"))
        c.note("crossed by a track")


def mountain(c: Canvas) -> None:
    """Ridges and valleys lit from one side, with rock, woods or snow by height."""
    height = 0.9 - np.abs(c.noise(1.3)) * 1.3
    weight = 0.3 + smooth(height + 0.45)
    for octave, cell in enumerate((0.6, 0.3, 0.14)):
        ridge = 0.6 - np.abs(c.noise(cell)) * 1.4
        height += ridge * weight * (0.5 * 0.55**octave)
    light = c.relief(height * 0.33)
    kind = c.pick("bare rock", "wooded", "snow covered")
    base, high, line = _HEIGHTS[kind]
    low = c.colour(base) * (1.25 if kind == "wooded" else 0.9)
    c.wash(low, c.colour(high, 0.05), smooth((height - line) * 3))
    c.rgb *= 1 + np.clip(light, -0.66, 0.12 if kind == "snow covered" else 0.5)
    c.note(kind)


def desert(c: Canvas) -> None:
    """Dunes: long ridges across the wind, a sharp lee side, warm sand."""
    f = c.anywhere()
    length = c.between(0.22, 0.6)
    along = f.u + 0.3 * c.noise(0.8) + 0.05 * c.noise(0.3)
    phase = along / length
    saw = phase - np.floor(phase)
    height = either(saw, (1 - saw) * 2.2) * smooth(c.noise(0.8) + 0.6)
    c.ground(c.pick("sand", "sand", "clay"), 0.9, 0.06)
    light = c.relief(height * length) * 0.55 + 0.03 * c.noise(0.05)
    c.rgb *= 1 + np.clip(light, -0.34, 0.16)
    c.note("long dunes" if length > 0.4 else "rippled dunes")


def _meander(c: Canvas, frame: Frame, swing: float) -> Grid:
    """Distance across a curving line along a frame's u axis (0 on the line), ``[h, w]``."""
    length, phase = c.between(1.6, 3.2), c.between(0, 2)
    bend = swing * wave(frame.u, length, phase)
    bend += (0.35 * swing) * wave(frame.u, length * 0.43, phase * 1.7)
    return frame.v - bend


def river(c: Canvas) -> None:
    """A winding band of water through woods or fields."""
    wooded = c.chance(0.5)
    if wooded:
        c.rgb[:] = canopy(c, 0.09)
        c.note("through woods")
    else:
        c.turf(0.2)
    f = c.anywhere(0.2)
    across = _meander(c, f, c.between(0.12, 0.3))
    half = c.between(0.12, 0.26)
    edge = band(across + 0.04 * c.noise(0.3), half)
    f.paint(edge - 0.05, c.colour("sand") * 0.8, 0.7)
    name = c.pick("water", "blue water", "green")
    f.paint(edge, water(c, name))
    if not wooded:
        trees(c, f, 0.055, 0.45, band(np.abs(across) - (half + 0.2), 0.12))
    c.note("wide" if half > 0.19 else "narrow", WATERS[name])


def _shore(c: Canvas, radius: float) -> Grid:
    """Distance to a ragged round blob near the middle of the picture."""
    f = c.anywhere(0.15)
    stretch = c.between(1.0, 1.45)
    ragged = c.noise(0.8) * 0.16 + c.noise(0.25) * 0.05
    return ellipse(f.u, f.v, radius * stretch, radius / stretch) + ragged * (radius / 0.5)


def lake(c: Canvas) -> None:
    """A body of water with land all round."""
    if c.chance(0.5):
        c.rgb[:] = canopy(c, 0.09)
        c.note("ringed by woods")
    else:
        c.turf(0.2)
    f = c.frame()
    edge = _shore(c, c.between(0.42, 0.6))
    f.paint(edge - 0.04, c.colour("sand"), 0.75)
    name = c.pick("water", "blue water", "turquoise")
    f.paint(edge, water(c, name))
    c.note(WATERS[name])


def island(c: Canvas) -> None:
    """Land with a beach, the sea all round."""
    name = c.pick("sea", "turquoise", "blue water")
    c.rgb[:] = water(c, name)
    f = c.frame()
    edge = _shore(c, c.between(0.3, 0.5))
    shelf = smooth(1 - edge / c.between(0.15, 0.45))
    c.rgb += shelf * (COLOURS["turquoise"] * 1.15 - c.rgb) * 0.8
    f.paint(band(edge - 0.03, 0.025), COLOURS["white"], 0.6)
    f.paint(edge, c.colour("sand", 0.05))
    f.paint(edge + 0.08 + 0.05 * c.noise(0.2), canopy(c, 0.09))
    c.note("with a pale beach", {"sea": "in deep sea", "turquoise": "in turquoise sea"}.get(name, "in blue sea"))


def cloud(c: Canvas) -> None:
    """Clouds over sea or land, each with its shadow."""
    over = c.pick("the sea", "land")
    c.rgb[:] = water(c, "sea") if over == "the sea" else canopy(c, 0.12, 1.3)
    field = c.clouds(c.between(0.55, 1.0), 4)
    field += c.between(-0.1, 0.3) - float(field.mean())  # never a clear sky
    f = c.frame()
    step = [round(0.12 * s / c.px) for s in (c.sun[1], c.sun[0])]
    f.shade(-0.2 * np.roll(field, step, (0, 1)), 0.35)
    body = smooth(field * 1.6 + 0.1)
    c.rgb += body * (COLOURS["white"] * (1 - 0.1 * smooth(1.2 - field)) - c.rgb)
    c.note(f"over {over}", "broken" if float(body.mean()) < 0.5 else "thick")


def agricultural(c: Canvas) -> None:
    """Crop rows: fine parallel stripes, perhaps two fields."""
    f = c.anywhere()
    crop = c.pick("green crop", "ripe crop", "bare soil")
    pair = {"green crop": ("grass", "soil"), "ripe crop": ("yellow", "soil"), "bare soil": ("soil", "brown")}[crop]
    period = c.between(0.1, 0.19)
    across = f.v + 0.03 * wave(f.u, 3.0, c.between(0, 2))
    stripes = smooth(wave(across, period) * 0.8 + 0.5)
    stripes *= 1 + 0.15 * c.noise(0.4) + 0.15 * c.noise(0.05)
    high = c.colour(pair[0]) * 0.9
    c.wash(c.colour(pair[1]) * 0.9, high, stripes)
    if c.chance(0.4):
        edge = f.u + c.between(-0.5, 0.5)
        rows = 1 + 0.22 * wave(f.u if c.chance(0.5) else f.v, 0.13)
        f.paint(-edge, c.leaves("grass") * rows)
        f.paint(band(edge, 0.035), c.colour("sand") * 0.8)
        c.note("two fields")
    c.note(crop)


def circular_farmland(c: Canvas) -> None:
    """Pivot-irrigated discs on a square grid, each with its own crop."""
    c.ground(c.pick("soil", "sand"), 0.8, 0.12)
    f = c.frame(at=(c.between(-0.4, 0.4), c.between(-0.4, 0.4)), angle=c.between(-0.12, 0.12))
    pitch = c.between(0.72, 1.25)
    spots = Lattice(f, (pitch, pitch), c.rng)
    radius = 0.47 * pitch
    rings = 1 + 0.08 * wave(np.sqrt(spots.u**2 + spots.v**2), 0.13) + 0.1 * c.noise(0.2)
    crops = spots.mixed(("grass", "tree", "green", "grass", "dry grass", "brown"))
    spots.paint(disc(spots.u, spots.v, radius), crops * rings)
    slice_colour = spots.mixed(("grass", "dry grass", "soil"))
    wedge = both(spots.u * spots.vary(-1, 1) - spots.v * spots.vary(-1, 1), disc(spots.u, spots.v, radius))
    spots.paint(wedge + spots.skip(0.6), slice_colour)
    spots.paint(box(spots.u - radius / 2, spots.v, radius / 2, 0.01), COLOURS["concrete"], 0.6)
    f.paint(band(spots.u - pitch / 2, 0.02), COLOURS["sand"], 0.5)
    c.note("large circles" if pitch > 1.0 else "small circles")


def golf_course(c: Canvas) -> None:
    """Mown fairways in rougher grass, greens, pale bunkers, trees, sometimes a pond."""
    c.turf(0.16)
    f = c.anywhere()
    way = _meander(c, f, c.between(0.15, 0.3)) + 0.05 * c.noise(0.4)
    stripes = 1 + 0.07 * wave(f.u + f.v, 0.16)
    fair = fairway(c) * stripes
    lane = band(way, c.between(0.2, 0.3))
    trees(c, f, 0.075, 0.75, 0.14 - lane)
    f.paint(lane, fair)
    hole = (c.between(-0.35, 0.35), c.between(-0.35, 0.35))
    g = c.frame(at=hole, angle=None)
    green = ellipse(g.u, g.v, 0.22, 0.16) + 0.03 * c.noise(0.3)
    g.paint(green - 0.05, fairway(c))
    g.paint(green, COLOURS["grass"] * 1.5)
    count = int(c.between(2, 5))
    for _ in range(count):
        turn = c.between(0, 2 * math.pi)
        b = c.frame((hole[0] + 0.34 * math.cos(turn), hole[1] + 0.34 * math.sin(turn)), None, reach=0.2)
        b.paint(ellipse(b.u, b.v, 0.12, 0.065), c.colour("sand", 0.05) * 1.05)
    if c.chance(0.35):
        p = c.frame((c.between(-0.7, 0.7), c.between(-0.7, 0.7)), None)
        p.paint(ellipse(p.u, p.v, 0.32, 0.2) + 0.06 * c.noise(0.3), water(c, "blue water"))
        c.note("with a pond")
    c.note("pale bunkers")


def ship(c: Canvas) -> None:
    """One to three ships in open water, under way or lying still."""
    name = c.pick("sea", "blue water", "turquoise")
    c.rgb[:] = water(c, name)
    length = c.between(0.7, 1.2)
    places = spread(c, int(c.between(1, 3.5)), 0.6 * length)
    moving, course = c.chance(0.6), c.between(0, 2 * math.pi)
    for place in places:
        f = c.frame(place, course + c.between(-0.15, 0.15))
        if moving:
            behind = -f.u - 0.3 * length
            wake = both(band(f.v, 0.04 + 0.12 * np.maximum(behind, 0)), -behind)
            f.paint(wake, COLOURS["white"], 0.55)
        boat(f, length, c.colour(c.pick("red", "dark", "grey", "white"), 0.1), COLOURS["white"])
        load = both(box(f.u - 0.12 * length, f.v, 0.22 * length, 0.1 * length), dashes(f.u, 0.13, 0.7))
        f.paint(load, c.colour(c.pick("tile", "silver", "brown")))
    c.note(COUNTS[len(places)], "under way" if moving else "at rest")
