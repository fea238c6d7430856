"""Scene classes of buildings and of sport: each public function paints the class of its name."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fedrsic_data.sample.motifs import CAR_PAINT, COUNTS, fairway, houses, road, spread, steps, traffic, trees
from fedrsic_data.sample.paint import COLOURS, Canvas, Frame, Lattice
from fedrsic_data.sample.shapes import Grid, band, both, box, capsule, disc, either, ellipse, keep_off, repeated, wave

# Court and surround; floor and key.
_TENNIS_COLOURS = (("blue", "green"), ("green", "tile"), ("green", "green"), ("tile", "green"), ("blue", "blue"))
_BASKETBALL_COLOURS = (("grey", "blue"), ("clay", "red"), ("blue", "red"), ("tile", "green"), ("green", "clay"))


def _pool(frame: Frame, at: tuple[float, float], size: float) -> None:
    """A small swimming pool."""
    u, v = frame.u - at[0], frame.v - at[1]
    frame.paint(capsule(u, v, size, size * 0.9), COLOURS["concrete"])
    frame.paint(capsule(u, v, size, size * 0.6), COLOURS["pool"])


def _suburb(c: Canvas, lot: float, house: tuple[float, float], leafy: float, tree: float) -> None:
    """Streets with a row of houses on each side; lots of the given width."""
    c.turf()
    f = c.anywhere(0.5)
    half = 0.07
    rows = 2 * (half + 0.05) + 4.4 * house[1] + 0.7 * (lot - 2 * house[0]) + 0.1
    columns = c.between(6, 9) * lot
    street = rows / 2 - np.abs(repeated(f.v, rows)) - half
    roadway = either(street, columns / 2 - np.abs(repeated(f.u, columns)) - half)
    trees(c, f, tree, leafy, 0.02 - roadway)
    # The lots' rows: two to a block, the houses' long side along the street.
    homes = Lattice(f, (lot, rows / 2), c.rng, jitter=0.05)
    # Every cell has a street along one of its long sides; the house stands off towards the other.
    toward = np.where(np.floor(f.v / (rows / 2)) % 2 == 0, np.float32(1), np.float32(-1))
    homes.v -= toward * (half * 0.6)
    drive = box(homes.u - house[0] * 0.6, homes.v + toward * (rows * 0.2), 0.03, rows * 0.2)
    homes.paint(both(drive, -roadway), COLOURS["concrete"], 0.9)
    houses(c, homes, house, 0.04, 0.08 - roadway)
    f.paint(roadway - 0.02, COLOURS["concrete"], 0.5)
    f.paint(roadway, c.colour("asphalt") * 1.15)
    traffic(c, f, street + half, f.u, (-0.5 * half,), 0.15)


def dense_residential(c: Canvas) -> None:
    """Houses almost touching, hardly any green."""
    _suburb(c, c.between(0.2, 0.24), (0.088, 0.09), 0.2, 0.04)
    c.note("closely packed")


def medium_residential(c: Canvas) -> None:
    """Houses on lots of their own, lawns and some trees."""
    _suburb(c, c.between(0.46, 0.56), (0.15, 0.1), 0.75, 0.085)
    if c.chance(0.4):
        for place in spread(c, 2, 0.6):
            _pool(c.frame(place, None, reach=0.15), (0, 0), 0.035)
        c.note("with pools")
    c.note("leafy" if not c.dry else "sunburnt lawns")


def sparse_residential(c: Canvas) -> None:
    """One to three houses far apart in trees or scrub, each with its drive."""
    c.turf(0.2)
    f = c.anywhere()
    along = c.between(-0.8, 0.8) * c.extent
    lane = f.v - along + 0.05 * wave(f.u, 2.3)
    places = spread(c, int(c.between(1, 3.6)), 0.75)
    clear = band(lane, 0.14)
    for x, y in places:
        p = c.frame((x, y))
        clear = either(clear, disc(p.u, p.v, 0.36) + 0.1 * c.noise(0.4))
    trees(c, f, c.between(0.07, 0.1), c.between(0.5, 0.9), -clear)
    road(c, f, lane, f.u, 0.06, dashed=False)
    for x, y in places:
        h = c.frame((x, y), c.between(-0.2, 0.2), reach=0.55)
        h.paint(capsule(h.v - 0.25, h.u - 0.1, 0.2, 0.035), COLOURS["concrete"] * 0.95)
        long, wide, wing = c.between(0.17, 0.24), c.between(0.1, 0.13), c.between(-0.1, 0.1)

        def plan(u: Grid, v: Grid, long: float = long, wide: float = wide, wing: float = wing) -> Grid:
            return either(box(u, v, long, wide), box(u - wing, v - wide, wide * 0.8, wide))

        h.gable(plan, c.colour(c.pick("tile", "brown", "slate", "grey")), 0.12)
        if c.chance(0.3):
            _pool(h, (0.2, -0.25), 0.05)
            c.note("with a pool")
    c.note(COUNTS[len(places)] + (" house" if len(places) == 1 else " houses"))


def mobile_home_park(c: Canvas) -> None:
    """Long pale units in slanted rows, close together, along narrow lanes."""
    c.rough(c.colour("concrete") * 0.8, 0.6, 0.1)
    f = c.anywhere(0.3)
    rows, lean = c.between(0.62, 0.75), c.between(-0.55, 0.55)
    lane = repeated(f.v, rows)
    f.paint(0.15 - band(lane, 0.15), c.leaves("grass"), 0.45)
    trees(c, f, 0.05, 0.25)
    slanted = replace(f, u=f.u + lean * lane)
    units = Lattice(slanted, (c.between(0.2, 0.24), rows), c.rng)
    long = units.vary(0.7, 1.0) * (rows / 2 - 0.1) - units.skip(0.05)
    units.solid(lambda u, v: box(u, v, 0.062, long), units.mixed(("white", "white", "cream", "silver")), 0.06)
    ridge = np.maximum(box(units.u, units.v, 0.062, long), units.u if units.sun[0] < 0 else -units.u)
    units.paint(ridge, COLOURS["grey"], 0.25)
    cars = Lattice(replace(f, u=slanted.u + 0.1), (0.22, rows / 2), c.rng)
    cars.paint(box(cars.u, cars.v, 0.024, 0.05) + cars.skip(0.6), cars.mixed(CAR_PAINT))
    f.paint(rows / 2 - 0.075 - np.abs(lane), c.colour("asphalt"))
    c.note("slanted rows" if abs(lean) > 0.2 else "straight rows")


def buildings(c: Canvas) -> None:
    """Large flat roofs with plant on them, long shadows, streets between."""
    c.rough(c.colour("asphalt") * 1.25, 0.5, 0.1)
    f = c.anywhere(0.4)
    pitch = (c.between(0.9, 1.3), c.between(0.7, 1.0))
    plots = Lattice(f, pitch, c.rng)
    plots.paint(box(plots.u, plots.v, pitch[0] / 2 - 0.09, pitch[1] / 2 - 0.09), COLOURS["concrete"] * 0.85)
    traffic(c, f, f.v - pitch[1] * np.floor(f.v / pitch[1]), f.u, (0.045,), 0.35)
    trees(c, f, 0.045, 0.3, 0.1 - np.abs(box(plots.u, plots.v, pitch[0] / 2 - 0.13, pitch[1] / 2 - 0.13)) * 2)
    half_u, half_v = plots.vary(0.6, 0.85) * (pitch[0] / 2), plots.vary(0.6, 0.85) * (pitch[1] / 2)
    cut_u, cut_v = plots.vary(-0.7, 0.7) * half_u, plots.vary(0.1, 0.8) * half_v
    height = c.between(0.14, 0.26)

    def plan(u: Grid, v: Grid) -> Grid:
        court = box(u - cut_u, v - half_v, half_u * 0.4, cut_v)
        return both(box(u, v, half_u, half_v), -court)

    roofs = plots.mixed(("cream", "grey", "concrete", "white", "slate", "tile"))
    edge = plots.solid(plan, roofs, height)
    plots.paint(edge + 0.035, roofs * 0.87)
    gear = Lattice(f, (0.3, 0.24), c.rng, jitter=0.25)
    outside = keep_off(edge + 0.1) + gear.skip(0.45)
    gear.solid(lambda u, v: box(u, v, 0.05, 0.035) + outside, COLOURS["silver"], 0.05)
    c.note("tall" if height > 0.2 else "low", "flat roofs")


def storage_tank(c: Canvas) -> None:
    """White cylinders with rim, shade and shadow on bare ground."""
    c.ground(c.pick("concrete", "soil", "asphalt"), 0.6, 0.1)
    radius = c.between(0.17, 0.38)
    if c.chance(0.4):
        f = c.anywhere()
        f.paint(band(f.v + c.extent * 0.75, 0.14), c.leaves("grass"))
    places = spread(c, int(c.between(2, 7.9)), 2.35 * radius)
    paint = c.pick("white", "white", "cream", "silver")
    for place in places:
        f = c.frame(place, None, reach=2.5 * radius)
        f.paint(disc(f.u, f.v, 1.13 * radius), COLOURS["soil"] * 0.8, 0.5)
        light = 1 - f.sunward() * (0.16 / radius)
        edge = f.solid(lambda u, v: disc(u, v, radius), c.colour(paint, 0.04) * light, 0.5 * radius)
        f.paint(band(edge + 0.1 * radius, 0.035 * radius), COLOURS["grey"], 0.7)
        f.paint(disc(f.u, f.v, 0.09 * radius), COLOURS["grey"], 0.8)
        f.paint(box(f.u - 0.5 * radius, f.v, 0.5 * radius, 0.03 * radius), COLOURS["grey"], 0.7)
    c.note(COUNTS[len(places)], "large" if radius > 0.28 else "small", paint)


def stadium(c: Canvas) -> None:
    """An oval bowl of seats round a field."""
    c.rough(c.colour(c.pick("concrete", "asphalt", "grey")), 0.5, 0.08)
    g = c.anywhere()
    cars = Lattice(g, (0.075, 0.22), c.rng)
    cars.paint(box(cars.u, cars.v, 0.024, 0.05) + cars.skip(c.between(0.2, 0.9)), cars.mixed(CAR_PAINT))
    _verge(c)
    f = c.anywhere(0.1)
    long, wide = c.between(0.72, 0.85), c.between(0.56, 0.68)
    bowl = f.solid(lambda u, v: ellipse(u, v, long, wide), c.colour(c.pick("white", "silver", "concrete")), 0.2)
    seats = c.pick("blue", "red", "grey", "tile")
    f.paint(bowl + 0.09, c.colour(seats) * (1 + 0.18 * wave(bowl, 0.07)))
    lit = f.sunward() * (0.45 / long)
    f.paint(bowl + 0.07, f.rgb * (1 + lit))
    field = capsule(f.u, f.v, long * 0.27, wide * 0.4)
    if c.chance(0.6):
        f.paint(field - 0.02, c.colour("tile"))
        field = field + 0.06
    f.paint(field, fairway(c) * (1 + 0.1 * wave(f.u, 0.16)))
    pitch = box(f.u, f.v, long * 0.36, wide * 0.24)
    f.paint(band(pitch, 0.008), COLOURS["white"], 0.7)
    f.paint(both(band(f.u, 0.008), pitch), COLOURS["white"], 0.7)
    c.note(f"{'terracotta' if seats == 'tile' else seats} seats")


def _verge(c: Canvas) -> None:
    """Grass, trees and parked cars on one side of a site, for variety."""
    f = c.anywhere()
    beyond = f.v + (c.between(0.75, 1.0) * c.extent)
    f.paint(beyond, c.leaves("grass"))
    trees(c, f, 0.07, 0.7, beyond)


def _lines(frame: Frame, half: float, *shapes: Grid) -> None:
    """White lines along the edges of the given shapes."""
    frame.paint(either(*map(np.abs, shapes)) - half, COLOURS["white"], 0.85)


def _courts(c: Canvas, size: tuple[float, float], gap: float) -> tuple[Frame, list[Frame]]:
    """Frames of one to four equal courts in a row, and the frame they stand in."""
    count = int(c.between(1, 4.9)) if size[0] < 0.35 else int(c.between(1, 3.4))
    f = c.anywhere(0.12)
    pitch = 2 * size[1] + gap
    count = min(count, max(1, int(1.9 * c.extent / pitch)))
    return f, [replace(f, v=f.v - step) for step in steps(count, pitch)]


def tennis_court(c: Canvas) -> None:
    """Courts with white lines and a net on a surround of another colour."""
    c.turf() if c.chance(0.5) else c.ground("concrete")
    _verge(c)
    size = (c.between(0.36, 0.42), c.between(0.17, 0.2))
    f, courts = _courts(c, size, 0.14)
    inner, outer = _TENNIS_COLOURS[int(c.between(0, 4.99))]
    apron, court = c.colour(outer), c.colour(inner) * 1.12
    half = len(courts) * (size[1] + 0.07) + 0.04
    f.solid(lambda u, v: box(u, v, size[0] + 0.15, half), apron * 0.9, 0.05)
    for k in courts:
        edge = box(k.u, k.v, *size)
        k.paint(edge, court)
        singles = both(band(k.v, size[1] * 0.75), band(k.u, size[0]))
        service = box(k.u, k.v, size[0] * 0.54, size[1] * 0.75)
        _lines(k, 0.009, edge, singles, service, both(np.abs(k.v), service))
        net = both(band(k.u, 0.008), band(k.v, size[1] * 1.08))
        k.paint(net, COLOURS["dark"], 0.8)
    c.note(COUNTS[len(courts)], f"{'clay' if inner == 'tile' else inner} surface")


def basketball_court(c: Canvas) -> None:
    """Courts with keys, a centre circle and three-point arcs."""
    c.turf() if c.chance(0.5) else c.ground("asphalt")
    _verge(c)
    size = (c.between(0.46, 0.54), c.between(0.26, 0.3))
    f, courts = _courts(c, size, 0.12)
    floor, key = _BASKETBALL_COLOURS[int(c.between(0, 4.99))]
    ground, paint = c.colour(floor), c.colour(key)
    half = len(courts) * (size[1] + 0.06) + 0.05
    f.paint(box(f.u, f.v, size[0] + 0.1, half), c.colour("concrete") * 0.8)
    for k in courts:
        edge = box(k.u, k.v, *size)
        k.paint(edge, ground)
        far = np.abs(k.u) - size[0]
        lane = box(far + 0.09, k.v, 0.09, 0.075)
        k.paint(lane, paint)
        middle = disc(k.u, k.v, 0.08)
        k.paint(middle, paint)
        arc = both(disc(far + 0.03, k.v, 0.21), edge)
        _lines(k, 0.008, edge, both(np.abs(k.u), edge), lane, middle, arc)
    c.note(COUNTS[len(courts)], f"{'terracotta' if floor == 'tile' else floor} floor")


def baseball_diamond(c: Canvas) -> None:
    """A quarter circle of dirt at a corner, the bases' square in it, grass outfield."""
    c.turf()
    turn = c.between(0, 2 * math.pi)
    reach = 0.62 * min(c.extent, 1.2)
    f = c.frame(at=(-reach * math.cos(turn), -reach * math.sin(turn)), angle=turn - math.pi / 4)
    size = c.between(0.85, 1.05)
    _verge(c)
    corner = both(-f.u, -f.v)
    out = both(disc(f.u, f.v, 1.45 * size), corner - 0.1)
    f.paint(out, c.colour("clay"), 0.9)
    mown = fairway(c) * (1 + 0.07 * wave(f.u + f.v, 0.2))
    f.paint(both(disc(f.u, f.v, 1.36 * size), corner), mown)
    side = 0.52 * size
    dirt = both(disc(f.u - 0.45 * side, f.v - 0.45 * side, 1.0 * side), corner - 0.09)
    earth = c.colour(c.pick("clay", "sand", "soil")) * (1 + 0.05 * c.noise(0.1))
    f.paint(either(dirt, disc(f.u, f.v, 0.17 * size)), earth)
    inner = box(f.u - side / 2, f.v - side / 2, side * 0.42, side * 0.42)
    grassy = c.chance(0.7)
    if grassy:
        f.paint(inner, mown)
        f.paint(disc(f.u - side / 2, f.v - side / 2, 0.09 * size), earth)
    foul = either(both(band(f.u, 0.012), -f.v), both(band(f.v, 0.012), -f.u))
    f.paint(both(foul, out), COLOURS["white"], 0.9)
    for base in ((side, 0.0), (0.0, side), (side, side), (0.0, 0.0)):
        f.paint(box(f.u - base[0], f.v - base[1], 0.022, 0.022), COLOURS["white"])
    c.note("grass infield" if grassy else "dirt infield")
