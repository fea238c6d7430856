"""Where each label of a photograph goes: ground in strips and patches, things on the ground that suits them.

The world is ``-extent..extent`` both ways in a frame that lies at any angle to the picture. Rows of patches follow
one another in v; what runs across the land (a road, a river) lies between them; the sea is at the far end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from fedrsic_data.errors import UsageError
from fedrsic_data.sample.labels import COARSE_NAME

STRIPS = {"road": 0.24, "freeway": 0.42, "runway": 0.42, "dirt_track": 0.16, "river": 0.5, "canal": 0.3}
"""Things that run across the image, and their full width in world units."""

_PATCH_LABELS = ("bare_soil", "chaparral", "field", "grass", "pavement", "sand")
_AT_SHORE = ("beach", "lake", "canal", "river")
_BESIDE = {"road": "paved", "freeway": "paved", "runway": "paved", "dirt_track": "bare"}
_MARGIN = 0.95  # of the extent: what is farther out may be cut off at a corner

# How well things of a coarse label (or a fine one) stand on each ground, fine or else coarse; 0 where not listed.
_LAND = dict.fromkeys((*_PATCH_LABELS, "trees", "paved", "bare"), 1.0)
_AFLOAT = {"sea": 1.0, "water": 1.0, "canal": 0.5}
_HOSTS: dict[str, dict[str, float]] = {
    "airplane": _LAND | {"apron": 20, "runway": 8, "pavement": 4, "paved": 4},
    "buildings": _LAND | {"pavement": 2, "grass": 3, "paved": 3, "field": 0.3, "sand": 0.3, "parking_lot": 1},
    "cars": _LAND | {"freeway": 20, "road": 9, "parking_lot": 12, "pavement": 5, "paved": 3},
    "court": _LAND | {"grass": 3, "paved": 2},
    "dock": _AFLOAT,
    "mobile_home": _LAND | {"grass": 3, "bare_soil": 3, "bare": 3},
    "sand_pits": _LAND | {"grass": 5},
    "ship": _AFLOAT,
    "tanks": _LAND | {"bare_soil": 3, "pavement": 2},
    "trees": _LAND | {"grass": 3, "pavement": 0.7, "field": 0.4},
    "swimming_pools": _LAND | {"grass": 5, "plaza": 3},
}
_ROOM = {"buildings": 1.5, "court": 1.6, "airplane": 1.4, "ship": 1.3, "sand_pits": 0.8, "swimming_pools": 0.6}


@dataclass(frozen=True)
class Area:
    """A rectangle of the layout's frame, world units, ``u0 < u1`` and ``v0 < v1``."""

    u0: float
    u1: float
    v0: float
    v1: float

    @property
    def size(self) -> float:
        """Its area."""
        return (self.u1 - self.u0) * (self.v1 - self.v0)

    def held(self, limit: float) -> Area:
        """The part of it within ``-limit..limit``."""
        return Area(max(self.u0, -limit), min(self.u1, limit), max(self.v0, -limit), min(self.v1, limit))


@dataclass(frozen=True)
class Place:
    """A label and the area it has; a label may have several, and a thing has the ground it stands on."""

    label: str
    area: Area
    ground: str = ""


@dataclass(frozen=True)
class Arrangement:
    """Things of an image and their places.

    Attributes:
        base: The ground that shows wherever nothing else lies.
        grounds: Patches, strips and the sea, in painting order.
        things: What stands or floats on them.
    """

    base: str
    grounds: tuple[Place, ...]
    things: tuple[Place, ...]


class _Row(NamedTuple):
    """Grounds side by side: as wide as they must be, or with a share of what is left."""

    labels: list[str]
    width: float
    share: float


def arrange(labels: Sequence[str], extent: float, rng: np.random.Generator) -> Arrangement:
    """Give every label a place that can be seen.

    Args:
        labels: Fine labels, at least one.
        extent: Half the width of the visible ground, world units.
        rng: Decides what comes beside what.

    Returns:
        Each label at least once, things within the area of their ground.

    Raises:
        UsageError: There is no ground, or none for one of the things.
    """
    patches, strips, seas, things = _sorted_out(labels)
    rng.shuffle(patches)
    rng.shuffle(strips)
    patches, things = _with_land(patches, strips, things)
    if not (patches or seas or strips):
        raise UsageError(f"labels {', '.join(labels)}: there is no ground among them; add one, e.g. lawn or deep_sea")
    if not patches and not seas:  # a river and nothing else: it fills the picture
        patches, strips = strips, []
    base = min(patches, key=lambda name: name in _AT_SHORE) if patches else seas[0]
    grounds = _place_rows(_rows(patches, strips, seas, things), extent, rng)
    return Arrangement(base, tuple(grounds), tuple(_place_things(things, grounds, extent, rng)))


def _sorted_out(labels: Sequence[str]) -> tuple[list[str], list[str], list[str], list[str]]:
    """Patches, strips, seas and things."""
    patches, strips, seas, things = [], [], [], []
    for name in labels:
        coarse = COARSE_NAME[name]
        if name in STRIPS:
            strips.append(name)
        elif coarse == "sea":
            seas.append(name)
        elif name == "lake" or (coarse in _PATCH_LABELS and name != "sand_pits"):
            patches.append(name)
        else:
            things.append(name)
    return patches, strips, seas, things


def _with_land(patches: list[str], strips: list[str], things: list[str]) -> tuple[list[str], list[str]]:
    """Patches with land among them where there is any, and the things left: some trees are a wood, which is land."""
    land = [name for name in patches if name != "lake"]
    trees = [name for name in things if COARSE_NAME[name] == "trees"]
    others = [name for name in things if name not in trees and COARSE_NAME[name] not in ("ship", "dock")]
    beside = [_BESIDE[name] for name in strips if name in _BESIDE]
    if trees and not others and len(land) <= 1 and "plaza" not in land and "parking_lot" not in land:
        return patches + trees, [name for name in things if name not in trees]
    if land:
        return patches, things
    return patches + (beside[:1] or trees), things if beside else [name for name in things if name not in trees]


def _rows(patches: list[str], strips: list[str], seas: list[str], things: list[str]) -> list[_Row]:
    """Rows of ground in the order of v."""
    beach = [name for name in patches if name == "beach" and seas]
    inland = [name for name in patches if name not in beach]
    wide = 1 if len(inland) <= 1 or (len(inland) == 2 and not strips) else 2 if len(inland) <= 6 else 3
    rows = [inland[at : at + wide] for at in range(0, len(inland), wide)]
    if beach and not rows and strips:
        rows = [beach]
    patch_rows = len(rows)
    while 0 < len(rows) < len(strips) + (0 if seas else 1):  # the same ground on both sides of what runs across
        rows.append(rows[len(rows) % patch_rows])
    loaded = any(COARSE_NAME[name] not in ("ship", "dock") for name in things)
    share = (1.25 if loaded else 0.9) / max(len(rows), 1) ** 0.5
    afloat = sum(COARSE_NAME[name] in ("ship", "dock") for name in things)
    width = STRIPS | ({"river": 0.8, "canal": 0.7} if afloat and not seas and "lake" not in patches else {})
    crossing = [_Row([name], width[name], 0.0) for name in strips]
    out: list[_Row] = []
    for row in rows:
        out.append(_Row(row, 0.0, share))
        if crossing:
            out.append(crossing.pop())
    out += crossing
    if beach and rows != [beach]:
        out.append(_Row(beach, 0.0, 0.45 if inland else 0.9))
    out += [_Row([name], 0.0, (0.75 + 0.35 * min(afloat, 2)) / len(seas)) for name in seas]
    return out


def _place_rows(rows: list[_Row], extent: float, rng: np.random.Generator) -> list[Place]:
    """Areas of all rows; the outermost go on beyond the picture."""
    fixed = sum(row.width for row in rows)
    squeeze = min(1.0, 0.9 * extent / fixed) if fixed else 1.0
    loose = _parts([row.share for row in rows], 2 * extent - squeeze * fixed, rng)
    across = _borders([squeeze * row.width + part for row, part in zip(rows, loose, strict=True)], extent)
    grounds = []
    for row, v0, v1 in zip(rows, across, across[1:], strict=False):
        along = _borders(_parts([1.0] * len(row.labels), 2 * extent, rng), extent)
        for name, u0, u1 in zip(row.labels, along, along[1:], strict=False):
            grounds.append(Place(name, Area(u0, u1, v0, v1)))
    water = ("lake", *STRIPS)
    return sorted(grounds, key=lambda place: place.label in water)  # strips over patches, so that no seam crosses them


def _parts(shares: list[float], length: float, rng: np.random.Generator) -> list[float]:
    """A length cut up by shares, each a little more or less."""
    loose = [share * (0.85 + 0.3 * draw) for share, draw in zip(shares, rng.random(len(shares)).tolist(), strict=True)]
    return [length * part / sum(loose) for part in loose]


def _borders(lengths: list[float], extent: float) -> list[float]:
    """Where parts begin and end that fill ``-extent..extent``; the first and the last go on beyond."""
    ends = accumulate(lengths[:-1], initial=-extent)
    return [-3 * extent, *list(ends)[1:], 3 * extent]


def _host(thing: str) -> str:
    """The row of `_HOSTS` for a fine label."""
    return thing if thing in _HOSTS else COARSE_NAME[thing]


def _suits(thing: str, ground: str) -> float:
    """Rate how well a thing fits on a ground; 0: not at all."""
    coarse = COARSE_NAME.get(ground, ground)
    hosts = _HOSTS[_host(thing)]
    if ground in STRIPS and ground not in hosts and coarse != "water":
        return 0.0
    return hosts.get(ground, hosts.get(coarse, 0.0))


def _place_things(things: list[str], grounds: list[Place], extent: float, rng: np.random.Generator) -> list[Place]:
    """Share the grounds out among the things, each thing to the best ground that still has room."""
    visible = [place.area.held(_MARGIN * extent) for place in grounds]
    guests: list[list[str]] = [[] for _ in grounds]
    for thing in sorted(things, key=_room, reverse=True):
        load = [0.35 + sum(_room(name) for name in names) for names in guests]
        scores = [
            _suits(thing, place.label) * area.size / taken
            for place, area, taken in zip(grounds, visible, load, strict=True)
        ]
        best = int(np.argmax(scores))
        if scores[best] <= 0:
            kinds = ", ".join(_HOSTS[_host(thing)])
            raise UsageError(f"label {thing!r} has no ground to stand on; add a label of {kinds}")
        guests[best].append(thing)
    placed = []
    for ground, area, names in zip(grounds, visible, guests, strict=True):
        rng.shuffle(names)
        placed += [Place(name, cell, ground.label) for name, cell in zip(names, _cells(area, names), strict=True)]
    return placed


def _room(name: str) -> float:
    """The share of its ground that a thing asks for."""
    return _ROOM.get(name, _ROOM.get(COARSE_NAME[name], 1.0))


def _cells(area: Area, names: list[str]) -> list[Area]:
    """Cut an area along its longer side, again and again, into a cell for each thing."""
    if len(names) <= 1:
        return [area][: len(names)]
    half = (len(names) + 1) // 2
    share = sum(map(_room, names[:half])) / sum(map(_room, names))
    if area.u1 - area.u0 >= area.v1 - area.v0:
        cut = area.u0 + share * (area.u1 - area.u0)
        first, second = Area(area.u0, cut, area.v0, area.v1), Area(cut, area.u1, area.v0, area.v1)
    else:
        cut = area.v0 + share * (area.v1 - area.v0)
        first, second = Area(area.u0, area.u1, area.v0, cut), Area(area.u0, area.u1, cut, area.v1)
    return _cells(first, names[:half]) + _cells(second, names[half:])
