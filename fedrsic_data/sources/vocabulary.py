"""The unified 47-class remote-sensing scene vocabulary and what each source calls its classes.

OPTIMAL-31's classes are a subset of NWPU-RESISC45's. 19 of UC Merced's 21 map onto NWPU-RESISC45's by
inserting underscores (and one plural); ``agricultural`` and ``buildings`` have no equal elsewhere and stay
classes of their own.
"""

from __future__ import annotations

from functools import cache

# unified name, then the name in each source ("-": the source has no such class)
_TABLE = """
unified                ucmerced           resisc45               optimal31
agricultural           agricultural       -                      -
airplane               airplane           airplane               airplane
airport                -                  airport                airport
baseball_diamond       baseballdiamond    baseball_diamond       baseball_diamond
basketball_court       -                  basketball_court       basketball_court
beach                  beach              beach                  beach
bridge                 -                  bridge                 bridge
buildings              buildings          -                      -
chaparral              chaparral          chaparral              chaparral
church                 -                  church                 church
circular_farmland      -                  circular_farmland      circular_farmland
cloud                  -                  cloud                  -
commercial_area        -                  commercial_area        commercial_area
dense_residential      denseresidential   dense_residential      dense_residential
desert                 -                  desert                 desert
forest                 forest             forest                 forest
freeway                freeway            freeway                freeway
golf_course            golfcourse         golf_course            golf_course
ground_track_field     -                  ground_track_field     ground_track_field
harbor                 harbor             harbor                 harbor
industrial_area        -                  industrial_area        industrial_area
intersection           intersection       intersection           intersection
island                 -                  island                 island
lake                   -                  lake                   lake
meadow                 -                  meadow                 meadow
medium_residential     mediumresidential  medium_residential     medium_residential
mobile_home_park       mobilehomepark     mobile_home_park       mobile_home_park
mountain               -                  mountain               mountain
overpass               overpass           overpass               overpass
palace                 -                  palace                 -
parking_lot            parkinglot         parking_lot            parking_lot
railway                -                  railway                railway
railway_station        -                  railway_station        -
rectangular_farmland   -                  rectangular_farmland   rectangular_farmland
river                  river              river                  -
roundabout             -                  roundabout             roundabout
runway                 runway             runway                 runway
sea_ice                -                  sea_ice                -
ship                   -                  ship                   -
snowberg               -                  snowberg               -
sparse_residential     sparseresidential  sparse_residential     -
stadium                -                  stadium                -
storage_tank           storagetanks       storage_tank           -
tennis_court           tenniscourt        tennis_court           -
terrace                -                  terrace                -
thermal_power_station  -                  thermal_power_station  -
wetland                -                  wetland                -
"""

_CORRECTED = {"mlrsnet": {"habor": "harbor"}}


@cache
def _columns() -> dict[str, tuple[str, ...]]:
    header, *rows = (line.split() for line in _TABLE.strip().splitlines())
    return {name: tuple(row[i] for row in rows) for i, name in enumerate(header)}


def unified() -> tuple[str, ...]:
    """The 47 unified class names, alphabetical."""
    return _columns()["unified"]


def native(source: str) -> tuple[str, ...]:
    """A source's own class names in its own alphabetical order (``"ucmerced"``: 21 names)."""
    return tuple(sorted(name for name in _columns()[source] if name != "-"))


def to_unified(source: str) -> dict[str, str]:
    """Native class name -> unified class name; outside the vocabulary, only names that are spelled wrong."""
    columns = _columns()
    if source not in columns:
        return _CORRECTED.get(source, {})
    return {n: u for n, u in zip(columns[source], columns["unified"], strict=True) if n != "-"}


def shared(*sources: str) -> tuple[str, ...]:
    """The unified names of the classes that all the given sources have."""
    return tuple(sorted(set.intersection(*(set(to_unified(s).values()) for s in sources))))
