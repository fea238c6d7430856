"""Habits of users: kinds of place, the labels that occur together there, and each user's preferences.

Nothing is drawn in order: every number is a hash of what it is for (`unit`), so the labels of any photograph are
known without those before it, and those of all photographs are computed at once.
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.sample.labels import COARSE, COARSE_OF, FINE

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Contents = dict[str, tuple[float, str]]

CONCENTRATION = 1.5
"""Dirichlet concentration of a user's habits: the lower, the fewer kinds of place a user photographs."""

MOST_COARSE, MOST_FINE = 7, 12
"""No photograph has more labels than these."""

_STICKS = 24  # of a user's habit; what they leave over is 0.6 ** 24
_SECOND = 0.5  # how often something that comes in several kinds does so in one photograph
SEVERAL = frozenset({"buildings", "cars", "field", "grass", "pavement", "ship", "trees"})
"""Coarse labels of which one photograph may show two kinds."""

_TREES = "broadleaf_trees conifers palms autumn_trees"
_CARS = "white_cars dark_cars red_cars"

_PLACES = f"""
airport 0.06
    pavement 1.0 runway apron
    airplane 0.9 jetliner propeller_plane small_plane delta_jet
    grass 0.5 lawn meadow dry_grass
    buildings 0.25 warehouses flat_roofs
    cars 0.2 trucks yellow_buses white_cars
    tanks 0.12 white_tanks
suburb 0.09
    grass 1.0 lawn dry_grass
    buildings 0.95 tile_roofs slate_roofs
    trees 0.6 {_TREES}
    pavement 0.4 road
    cars 0.25 {_CARS}
    water 0.3 swimming_pools
town 0.09
    pavement 1.0 road plaza
    buildings 0.9 flat_roofs towers tile_roofs slate_roofs
    cars 0.6 {_CARS} yellow_buses
    trees 0.25 {_TREES}
    court 0.1 basketball_court tennis_court
trailer park 0.05
    mobile_home 1.0 mobile_home caravans
    bare_soil 1.0 red_earth dirt_track
    cars 0.4 {_CARS}
    trees 0.3 conifers palms broadleaf_trees
    pavement 0.3 road
caravan site 0.04
    mobile_home 1.0 mobile_home caravans
    grass 1.0 lawn meadow dry_grass
    trees 0.4 {_TREES}
    cars 0.35 {_CARS}
    water 0.15 lake swimming_pools
marina 0.06
    water 1.0 lake canal
    dock 0.9 floating_piers wooden_jetty
    ship 0.9 sailboats motorboats ferry
waterfront 0.06
    water 1.0 river canal lake
    pavement 1.0 road plaza parking_lot
    buildings 0.5 flat_roofs tile_roofs warehouses towers
    ship 0.4 barge ferry motorboats sailboats
    dock 0.35 wooden_jetty floating_piers
    trees 0.25 {_TREES}
    cars 0.25 {_CARS}
port 0.06
    sea 1.0 deep_sea turquoise_sea
    pavement 1.0 apron parking_lot road
    ship 0.8 container_ship barge ferry
    dock 0.75 container_quay
    tanks 0.25 white_tanks rusty_tanks gas_spheres
    buildings 0.3 warehouses
    cars 0.25 trucks
open sea 0.05
    sea 1.0 deep_sea turquoise_sea surf
    ship 0.75 container_ship sailboats ferry motorboats barge
seaside 0.08
    sea 1.0 turquoise_sea surf deep_sea
    sand 1.0 beach beach beach dunes
    trees 0.3 palms palms conifers
    ship 0.2 sailboats motorboats
    buildings 0.2 tile_roofs flat_roofs towers
    pavement 0.2 road parking_lot
    dock 0.1 wooden_jetty
desert 0.04
    sand 1.0 dunes
    bare_soil 0.25 dirt_track red_earth
    chaparral 0.25 sparse_shrubs
    pavement 0.15 road
scrub 0.06
    chaparral 1.0 dense_shrubs sparse_shrubs
    bare_soil 0.4 dirt_track red_earth
    sand 0.15 dunes
    pavement 0.12 road
farm 0.1
    field 1.0 green_crop ripe_crop crop_circles orchard flower_rows
    bare_soil 0.45 ploughed_soil dirt_track
    trees 0.3 broadleaf_trees autumn_trees conifers
    buildings 0.25 barn
    grass 0.2 meadow dry_grass
    water 0.12 canal river
woods 0.06
    trees 1.0 conifers broadleaf_trees autumn_trees
    grass 0.3 meadow
    bare_soil 0.2 dirt_track
    water 0.3 river lake
riverside 0.05
    water 1.0 river lake
    grass 1.0 meadow dry_grass
    trees 0.6 broadleaf_trees autumn_trees conifers
    ship 0.2 motorboats barge
    dock 0.12 wooden_jetty
sports ground 0.06
    court 1.0 tennis_court basketball_court football_pitch running_track
    grass 1.0 lawn meadow
    trees 0.4 {_TREES}
    cars 0.2 {_CARS}
    pavement 0.3 parking_lot road
golf course 0.04
    grass 1.0 lawn lawn meadow
    sand 0.85 sand_pits
    trees 0.7 broadleaf_trees conifers palms
    water 0.35 lake
depot 0.05
    tanks 1.0 white_tanks rusty_tanks gas_spheres
    bare_soil 1.0 red_earth
    pavement 0.3 road apron
    buildings 0.25 warehouses
    cars 0.2 trucks
freeway 0.06
    pavement 1.0 freeway freeway freeway road
    cars 0.85 {_CARS} trucks yellow_buses
    grass 0.5 meadow dry_grass
    trees 0.25 broadleaf_trees conifers autumn_trees
car park 0.05
    pavement 1.0 parking_lot
    cars 0.95 {_CARS} yellow_buses trucks
    buildings 0.35 warehouses flat_roofs
    trees 0.25 {_TREES}
"""


def _read(table: str) -> dict[str, tuple[float, Contents]]:
    """Places from lines "place share", below each of them lines "coarse-label probability fine-labels"."""
    read: dict[str, tuple[float, Contents]] = {}
    contents: Contents = {}
    for line in table.strip().splitlines():
        if line.startswith(" "):
            coarse, probability, fine = line.split(maxsplit=2)
            contents[coarse] = float(probability), fine
        else:
            place, share = line.rsplit(maxsplit=1)
            contents = {}
            read[place] = float(share), contents
    return read


PLACES: dict[str, tuple[float, Contents]] = _read(_PLACES)
"""Kind of place: how often it is photographed, and for each coarse label its probability and fine labels.

Where something is built or parked there is ground for certain, and where ships are, water.
"""


def _tables() -> tuple[Floats, Floats, Floats]:
    """Arrays of `PLACES`.

    Returns:
        The cumulated shares of the places, ``[places]``; the probability of each coarse label there, ``[places,
        coarse]``; the weight of each fine label among those of its coarse label, ``[places, fine + 1]``.
    """
    shares = np.array([share for share, _ in PLACES.values()])
    probability = np.zeros((len(PLACES), len(COARSE)))
    weight = np.zeros((len(PLACES), len(FINE) + 1))  # the last is a label that no place has
    for row, (_, contents) in enumerate(PLACES.values()):
        for coarse, (chance, names) in contents.items():
            probability[row, COARSE.index(coarse)] = chance
            for name in names.split():
                weight[row, FINE.index(name)] += 1
    return np.cumsum(shares / shares.sum()), probability, weight


# The fine labels of each coarse label, filled up with a label that no place has.
_KINDS = [np.flatnonzero(label == COARSE_OF).tolist() for label in range(len(COARSE))]
_FINE_OF = np.array(list(zip_longest(*_KINDS, fillvalue=len(FINE)))).T
_SHARE, _PROBABILITY, _WEIGHT = _tables()
_SEVERAL = np.array([name in SEVERAL for name in COARSE])


def unit(*key: int | Ints) -> Floats:
    """A number in [0, 1) for each key: evenly spread, unrelated for unlike keys.

    Args:
        key: Integers or arrays of them, which broadcast together.

    Returns:
        float64 of the broadcast shape: the top 53 bits of SplitMix64 (Steele, Lea and Flood 2014), applied once
        for each part of the key.
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2**64
        for part in key:
            state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def places(stream: int, users: Ints, numbers: Ints) -> Ints:
    """The kind of place that each photograph shows, drawn from its user's habit.

    A habit is a draw from a Dirichlet law over the kinds of place, ``Dirichlet(CONCENTRATION * shares)``, made by
    breaking sticks (Sethuraman 1994, "A constructive definition of Dirichlet priors"): each stick is a share of
    the user's photographs and shows one kind of place.

    Args:
        stream: Random stream of the collection.
        users: int64 ``[n]``, whose photograph it is, in any order.
        numbers: int64 ``[n]``, which of the user's.

    Returns:
        int64 ``[n]``, places in the order of `PLACES`.
    """
    who, row = np.unique(users, return_inverse=True)
    stick = np.arange(_STICKS)
    rest = np.cumprod(unit(stream, 1, who[:, None], stick) ** (1 / CONCENTRATION), axis=1)
    ends = 1 - rest
    ends[:, -1] = 1.0
    shown = np.searchsorted(_SHARE, unit(stream, 2, who[:, None], stick), side="right")
    # One sorted list for all users: the ends of user k's sticks lie in k..k+1.
    flat = (ends + np.arange(len(who))[:, None]).ravel()
    at = np.searchsorted(flat, row + unit(stream, 3, users, numbers), side="right")
    at = np.clip(at, row * _STICKS, row * _STICKS + _STICKS - 1)
    return shown.ravel()[at]


def draw(stream: int, users: Ints, numbers: Ints) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
    """The labels of photographs: a place from the user's habit, what is there, and of which kinds.

    Args:
        stream: Random stream of the collection.
        users: int64 ``[n]``, whose photograph it is.
        numbers: int64 ``[n]``, which of the user's.

    Returns:
        Photographs (0..n-1) and their coarse labels, photographs and their fine labels: int64 pairs of columns, each
        ordered by photograph, then label.
    """
    where = places(stream, users, numbers)
    labels = np.arange(len(COARSE))
    present = unit(stream, 4, users[:, None], numbers[:, None], labels) < _PROBABILITY[where]
    photo, coarse = np.nonzero(present)
    kinds = _FINE_OF[coarse]
    # A race: the kind with the highest rate tends to arrive first. Users have tastes, which are rates too.
    taste = np.log(1 - unit(stream, 5, users[photo, None], kinds)) ** 2
    with np.errstate(divide="ignore"):
        rate = _WEIGHT[where[photo, None], kinds] * taste
        arrival = -np.log(1 - unit(stream, 6, users[photo, None], numbers[photo, None], kinds)) / rate
    order = np.argsort(arrival, axis=1, kind="stable")[:, :2]
    pair = np.take_along_axis(kinds, order, axis=1)
    second = unit(stream, 7, users[photo], numbers[photo], coarse) < _SECOND
    second &= _SEVERAL[coarse] & np.isfinite(np.take_along_axis(arrival, order, axis=1)[:, 1])
    fine = np.sort(np.concatenate([photo, photo[second]]) * len(FINE) + np.concatenate([pair[:, 0], pair[second, 1]]))
    return (photo, coarse), (fine // len(FINE), fine % len(FINE))
