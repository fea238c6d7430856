"""Scene classes of transport on roads, rails, air and water: each public function paints the class of its name."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fedrsic_data.sample.motifs import CAR_PAINT, COUNTS, WATERS, houses, road, spread, traffic, trees, water
from fedrsic_data.sample.paint import COLOURS, Canvas, Frame, Lattice
from fedrsic_data.sample.shapes import Grid, band, both, box, dashes, disc, either, keep_off, repeated


def _aircraft(u: Grid, v: Grid, size: float) -> Grid:
    """Distance to an airliner of the given half length, nose at +u."""
    u, v = u / size, np.abs(v) / size
    nose = np.maximum(both(u - 0.75, -u - 0.4), 0) * 0.4
    body = both(v + nose - 0.115, np.abs(u) - 1)
    wing = both(np.abs(u + 0.55 * v - 0.12) - (0.23 - 0.17 * v), v - 0.95)
    tail = both(np.abs(u + 0.55 * v + 0.76) - (0.14 - 0.12 * v), v - 0.4)
    engine = box(u - 0.1, v - 0.36, 0.13, 0.055)
    return either(body, wing, tail, engine) * size


def airplane(c: Canvas) -> None:
    """Airliners parked on an apron."""
    surface = c.pick("concrete", "asphalt")
    c.rough(c.colour(surface) * (1.0 if surface == "concrete" else 1.2), 0.7, 0.05)
    size = c.between(0.26, 0.42)
    f = c.anywhere()
    if c.chance(0.7):
        slabs = Lattice(f, (0.26, 0.26), c.rng)
        seam = 0.13 - both(np.abs(slabs.u), np.abs(slabs.v))
        slabs.shade(seam - 0.006, 0.14)
    edge = f.v - (c.between(0.75, 0.95) * c.extent)
    if c.chance(0.5):
        f.paint(-edge, c.leaves("grass"))
    else:
        far = f.v - 1.8 * c.extent
        f.shade(band(far - f.sun[1] * 0.15, c.extent), 0.5)
        f.paint(band(far, c.extent), c.colour("cream"))
    f.paint(band(f.v + 0.3, 0.012), COLOURS["yellow"], 0.8)
    heading = c.between(0, 2 * math.pi)
    livery = c.pick("white", "white", "silver", "cream")
    places = spread(c, int(c.between(1, 4.9)), 2.0 * size)
    fin = c.colour(c.pick("red", "blue", "dark", "green"))
    for place in places:
        p = c.frame(place, heading + c.between(-0.25, 0.25), reach=1.5 * size)
        p.solid(lambda u, v: _aircraft(u, v, size), c.colour(livery, 0.04), 0.14)
        p.paint(band(p.v, 0.05 * size) + np.maximum(np.abs(p.u) - 0.8 * size, 0), COLOURS["silver"], 0.5)
        p.paint(box(p.u + 0.85 * size, p.v, 0.13 * size, 0.03 * size), fin)
    c.note(COUNTS[len(places)], livery, f"on {surface}")


def runway(c: Canvas) -> None:
    """A broad straight strip with its markings, in grass."""
    c.turf()
    surface = c.pick("asphalt", "concrete")
    f = c.anywhere(0.25)
    half = c.between(0.2, 0.3)
    f.paint(band(f.v, half + 0.07), c.colour("soil"), 0.6)
    f.paint(band(f.v, half), c.colour(surface) * (1.0 if surface == "asphalt" else 0.85))
    f.shade(band(f.v + 0.04 * c.noise(0.5), half * 0.35), 0.22)
    f.paint(band(np.abs(f.v) - half * 0.93, 0.012), COLOURS["white"], 0.9)
    f.paint(both(band(f.v, 0.017), dashes(f.u, 0.34, 0.6)), COLOURS["white"])
    if c.chance(0.65):
        start = c.between(-0.6, 0.1)
        keys = both(dashes(f.v, 0.085, 0.55), band(f.v, half * 0.82))
        f.paint(both(keys, band(f.u - start, 0.12)), COLOURS["white"])
        blocks_ = both(band(np.abs(f.v) - half * 0.45, 0.035), band(f.u - start - 0.5, 0.13))
        f.paint(blocks_, COLOURS["white"])
        c.note("threshold markings")
    if c.chance(0.5):
        side = f.v - (half + 0.32)
        f.paint(band(side, 0.08), c.colour("asphalt") * 1.2)
        f.paint(band(side, 0.009), COLOURS["yellow"], 0.8)
        link = both(band(f.u - 0.25, 0.08), band(f.v - (half + 0.15), 0.2))
        f.paint(link, c.colour("asphalt") * 1.2)
        c.note("with a taxiway")
    c.note(f"{surface} surface")


def _dual(c: Canvas, f: Frame, across: Grid, along: Grid, half: float, busy: float, surface: str) -> None:
    """A dual carriageway: two roadways, lane lines, a median, cars both ways."""
    f.paint(band(across, 2.15 * half), c.colour(surface))
    f.paint(band(across, 0.22 * half), c.leaves("grass"), 0.8)
    each = np.abs(across) - 1.15 * half
    f.paint(band(np.abs(each) - 0.85 * half, 0.01), COLOURS["white"], 0.7)
    lines = both(band(np.abs(each) - 0.3 * half, 0.008), dashes(along, 0.2))
    f.paint(lines, COLOURS["white"], 0.8)
    lanes = (-1.72, -1.15, -0.58, 0.58, 1.15, 1.72)
    traffic(c, f, across, along, tuple(half * lane for lane in lanes[:: 1 if busy > 0.2 else 2]), busy)


def freeway(c: Canvas) -> None:
    """A dual carriageway across the picture, straight or gently curved."""
    c.turf(0.18)
    f = c.anywhere(0.15)
    curve = c.between(-0.15, 0.15) * f.u * f.u
    across = f.v - curve
    half = c.between(0.14, 0.19)
    trees(c, f, 0.07, c.between(0.1, 0.9), 2.15 * half + 0.15 - np.abs(across))
    if c.chance(0.4):
        road(c, f, across - (2.15 * half + 0.28), f.u, 0.07, dashed=False)
        c.note("with a frontage road")
    busy = c.pick("light traffic", "heavy traffic")
    surface = c.pick("asphalt", "concrete")
    _dual(c, f, across, f.u, half, 0.35 if busy == "heavy traffic" else 0.12, surface)
    c.note(busy, f"{surface} lanes")


def overpass(c: Canvas) -> None:
    """One road carried over another, with its shadow, often with ramps."""
    c.turf(0.15)
    f = c.anywhere(0.15)
    half = c.between(0.12, 0.16)
    skew = c.between(1.05, 2.1)
    g = f.turned(skew)
    trees(c, f, 0.07, 0.4, 0.45 - either(np.abs(f.v), np.abs(g.v)))
    if c.chance(0.65):
        bend = c.between(0.5, 0.7)
        ramp = disc(np.abs(f.u) - (bend + 0.12), np.abs(f.v) - (bend + 0.12), bend)
        f.paint(band(ramp, 0.075), COLOURS["concrete"])
        f.paint(band(ramp, 0.06), c.colour("asphalt"))
        c.note("with ramps")
    busy = c.between(0.1, 0.3)
    _dual(c, f, f.v, f.u, half, busy, "asphalt")
    deck = band(g.v, 2.35 * half)
    for part in (0.5, 1.0):
        f.shade(both(band(g.v - g.sun[1] * (0.24 * part), 2.35 * half), band(f.v, 2.6 * half)), 0.45)
    f.paint(deck, COLOURS["cream"])
    _dual(c, g, g.v, g.u, half, busy, c.pick("concrete", "asphalt"))
    c.note("heavy traffic" if busy > 0.2 else "light traffic")


def intersection(c: Canvas) -> None:
    """Two streets crossing at grade, with crosswalks, cars and corner lots."""
    c.turf()
    f = c.anywhere(0.2)
    half = c.between(0.16, 0.24)
    kind = c.pick("houses", "shops")
    off = either(np.abs(f.u), np.abs(f.v))
    if kind == "houses":
        trees(c, f, 0.07, 0.4, half + 0.1 - off)
        houses(c, Lattice(f, (0.46, 0.46), c.rng, 0.04), (0.13, 0.1), 0.1, half + 0.12 - off)
    else:
        f.paint(half - off, c.colour("concrete") * 0.85)
        shops = Lattice(f, (0.95, 0.8), c.rng)
        away = keep_off(half + 0.06 - off)
        half_u, half_v = shops.vary(0.26, 0.4), shops.vary(0.22, 0.34)
        roofs = shops.mixed(("white", "grey", "cream", "tile", "slate"))
        shops.solid(lambda u, v: box(u, v, half_u, half_v) + away, roofs, 0.12)
        trees(c, f, 0.045, 0.3, np.abs(off - (half + 0.07)) - 0.05)
    f.paint(off - (half + 0.035), COLOURS["concrete"])
    f.paint(off - half, c.colour("asphalt"))
    near = both(np.abs(f.u), np.abs(f.v)) - half
    for across, along in ((f.v, f.u), (f.u, f.v)):
        out = np.abs(along) - (half + 0.16)
        f.paint(both(band(across, 0.014), -out), COLOURS["yellow"], 0.9)
        lanes = both(band(np.abs(across) - half / 2, 0.008), dashes(along, 0.16))
        f.paint(both(lanes, -out), COLOURS["white"], 0.8)
        zebra = both(dashes(across, 0.075, 0.55), band(np.abs(along) - (half + 0.08), 0.045))
        f.paint(both(zebra, band(across, half)), COLOURS["white"], 0.9)
        gone = keep_off(-near + 0.15)
        row = replace(f, u=along, v=across)
        traffic(c, row, np.abs(across) + gone, along, (half * 0.28, half * 0.75), 0.25)
    c.note(f"between {kind}")


def roundabout(c: Canvas) -> None:
    """A ring road round a green island, with three to five arms."""
    c.turf()
    f = c.anywhere(0.12)
    ring, half = c.between(0.38, 0.5), c.between(0.1, 0.13)
    arms = int(c.between(3, 5.2))
    r = disc(f.u, f.v, 0.0)
    ways = np.abs(r - ring) - half
    middles = np.full_like(r, np.inf)
    for arm in range(arms):
        turn = 2 * math.pi * arm / arms + c.between(-0.15, 0.15)
        along = f.u * math.cos(turn) + f.v * math.sin(turn)
        across = f.v * math.cos(turn) - f.u * math.sin(turn)
        middles = either(middles, both(np.abs(across), ring + half - along))
        flare = np.maximum(ring + 0.45 - along, 0) * 0.12
        ways = either(ways, both(band(across, 0.9 * half + flare), ring - along))
    if c.chance(0.6):
        houses(c, Lattice(f, (0.44, 0.44), c.rng, 0.05), (0.13, 0.1), 0.1, 0.12 - ways)
    trees(c, f, 0.065, 0.35, 0.06 - either(ways, r - ring))
    f.paint(ways - 0.025, COLOURS["concrete"], 0.8)
    f.paint(ways, c.colour("asphalt"))
    f.paint(middles - 0.012, COLOURS["white"], 0.8)
    f.paint(both(band(r - ring, 0.009), dashes(f.u, 0.16)), COLOURS["white"], 0.6)
    core = ring - half
    f.paint(r - core, c.colour("grass") * 1.15)
    feature = c.pick("a fountain", "trees", "flower beds")
    if feature == "trees":
        trees(c, f, 0.07, 0.8, r - core + 0.1)
    elif feature == "a fountain":
        f.paint(r - core * 0.45, COLOURS["concrete"])
        f.paint(r - core * 0.33, COLOURS["pool"] * 0.85)
    else:
        f.paint(band(r - core * 0.55, 0.05), c.colour(c.pick("red", "yellow")))
    turning = Lattice(f, (0.2, 0.2), c.rng, jitter=0.1)
    cars = disc(turning.u, turning.v, 0.042) + turning.skip(0.6) + keep_off(ways + 0.05)
    turning.paint(cars, turning.mixed(CAR_PAINT))
    c.note(f"{COUNTS[arms]} arms", f"with {feature} in the middle")


def parking_lot(c: Canvas) -> None:
    """Rows of parked cars between white lines on asphalt."""
    c.rough(c.colour("asphalt") * c.between(0.95, 1.35), 0.6, 0.06)
    f = c.anywhere(0.2)
    rows, bay = c.between(0.56, 0.66), c.between(0.1, 0.125)
    stalls = Lattice(replace(f, v=f.v + rows / 4), (bay, rows), c.rng)
    depth = np.abs(stalls.v) - 0.1
    f.paint(both(bay / 2 - 0.008 - np.abs(stalls.u), band(stalls.v, 0.19)), COLOURS["white"], 0.7)
    full = c.between(0.45, 0.97)
    upper = np.where(stalls.v > 0, stalls.skip(1 - full), stalls.skip(1 - full))
    shift = stalls.vary(-0.012, 0.012)
    colour = np.where(stalls.v > 0, stalls.mixed(CAR_PAINT), stalls.mixed(CAR_PAINT))
    stalls.shade(box(stalls.u + 0.012, depth + shift, 0.036, 0.075) + upper, 0.4)
    stalls.paint(box(stalls.u, depth + shift, 0.034, 0.072) + upper, colour)
    stalls.paint(box(stalls.u, depth + shift, 0.026, 0.03) + upper, colour * 0.55)
    if c.chance(0.5):
        trees(c, replace(f, v=stalls.v), 0.05, 0.2, band(stalls.v, 0.05))
        c.note("with trees")
    if c.chance(0.35):
        wall = f.u - 0.6 * c.extent
        f.shade(0.15 * f.sun[0] - wall, 0.5)
        f.paint(-wall, c.colour("cream"))
        f.paint(0.06 - wall, c.colour("cream") * 0.85)
        c.note("beside a building")
    c.note("nearly full" if full > 0.8 else "half empty" if full < 0.6 else "well used")


def railway(c: Canvas) -> None:
    """Parallel tracks on ballast, sometimes with trains."""
    c.turf(0.18)
    f = c.anywhere(0.15)
    across = f.v + c.between(-0.1, 0.1) * f.u * f.u
    tracks, pitch = int(c.between(2, 7.9)), 0.2
    half = tracks * pitch / 2
    trees(c, f, 0.065, c.between(0.2, 0.7), half + 0.15 - np.abs(across))
    ballast = c.colour("brown") * (1.15 + 0.08 * c.noise(0.06))
    f.paint(band(across, half + 0.06), ballast)
    line = repeated(across + half, pitch)
    inside = band(across, half)
    sleepers = both(band(line, 0.065), dashes(f.u, 0.07, 0.45), inside)
    f.paint(sleepers, COLOURS["dark"], 0.55)
    f.paint(both(band(np.abs(line) - 0.036, 0.009), inside), COLOURS["silver"], 0.9)
    trains = 0
    for track in range(tracks):
        if trains < 3 and c.chance(0.35):
            trains += 1
            side = (track + 0.5) * pitch - half
            row = replace(f, u=f.u + c.between(0, 1), v=across - side)
            row.v += 4.5
            cars = Lattice(row, (0.5, 9.0), c.rng)
            ends = keep_off(np.abs(f.u - c.between(-0.3, 0.3)) - 1.1)
            colour = cars.mixed(c.pick("red tile", "blue silver", "brown slate", "green cream").split())
            cars.solid(lambda u, v, ends=ends: box(u, v, 0.235, 0.06) + ends, colour, 0.07)  # type: ignore[misc]
            cars.paint(box(cars.u, cars.v, 0.22, 0.018) + ends, colour * 1.25)
    c.note(f"{COUNTS[tracks]} tracks", "empty" if not trains else "with a train" if trains == 1 else "with trains")


def bridge(c: Canvas) -> None:
    """A road or rail deck straight over water, its shadow on the water."""
    c.turf(0.18) if c.chance(0.6) else c.rough(c.colour("concrete") * 0.8, 0.2, 0.2)
    f = c.anywhere(0.1)
    trees(c, f, 0.065, 0.4)
    name = c.pick("water", "blue water", "green")
    half = c.between(0.45, 0.75) * c.extent
    shore = band(f.u + 0.07 * c.noise(0.5), half)
    f.paint(shore - 0.05, c.colour("sand") * 0.8, 0.8)
    f.paint(shore, water(c, name))
    width = c.between(0.1, 0.17)
    for part in (0.6, 1.0):
        f.shade(both(band(f.v - f.sun[1] * (0.3 * part), width), shore), 0.4)
    piers = both(band(np.abs(f.v), width + 0.035), dashes(f.u, 0.4, 0.16))
    f.paint(both(piers, shore), COLOURS["grey"])
    f.paint(band(f.v, width), COLOURS["cream"])
    f.paint(band(f.v, width * 0.82), c.colour(c.pick("asphalt", "grey", "asphalt")))
    f.paint(both(band(f.v, 0.01), dashes(f.u, 0.18)), COLOURS["white"], 0.8)
    arched = c.chance(0.35)
    if arched:
        ribs = both(dashes(f.u, 0.12, 0.3), band(f.v, width), shore)
        f.paint(ribs, COLOURS["silver"], 0.6)
        c.note("with a truss")
    traffic(c, f, f.v, f.u, (-width * 0.45, width * 0.45), 0.25)
    c.note("over " + WATERS[name])


def harbor(c: Canvas) -> None:
    """Boats moored in rows at floating piers."""
    name = c.pick("water", "blue water", "sea")
    c.rgb[:] = water(c, name)
    f = c.anywhere(0.3)
    rows, berth = c.between(0.75, 0.95), c.between(0.15, 0.2)
    berths = Lattice(f, (berth, rows), c.rng)
    quay = f.u - (c.between(0.35, 0.7) * c.extent) if c.chance(0.5) else f.u - 9  # beyond any picture
    berths.paint(both(band(berths.u - berth / 2, 0.012), band(berths.v, rows * 0.36)), COLOURS["cream"])
    side = np.abs(berths.v) - 0.2
    full = c.between(0.5, 0.95)
    size = berths.vary(0.75, 1.1) * 0.125
    upper = berths.v > 0
    gone = np.where(upper, berths.skip(1 - full), berths.skip(1 - full)) + keep_off(quay + 0.1)

    def hull(u: Grid, v: Grid) -> Grid:
        taper = np.maximum(v, 0) * 0.3
        return box(np.abs(u) + taper, v, 0.055, size) + gone

    berths.shade(hull(berths.u - berths.sun[0] * 0.03, side), 0.5)
    berths.paint(hull(berths.u, side), berths.mixed(("white", "white", "silver", "cream")))
    cabin = box(berths.u, side + 0.03, 0.027, 0.05) + gone
    colours = np.where(upper, berths.mixed(("blue", "dark", "grey")), berths.mixed(("brown", "blue", "white")))
    berths.paint(cabin, colours)
    berths.shade(band(berths.v - berths.sun[1] * 0.03, 0.035))
    berths.paint(band(berths.v, 0.035), COLOURS["cream"] * 0.92)
    f.paint(-quay, c.colour("concrete"))
    road(c, f, quay - 0.2, f.v, 0.07, dashed=False)
    traffic(c, f, quay - 0.09, f.v, (0.0,), 0.5)
    c.note("crowded" if full > 0.75 else "half empty" if full < 0.62 else "well used", WATERS[name])
