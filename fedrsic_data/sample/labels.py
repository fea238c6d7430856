"""The labels of the multi-label photographs: 17 coarse names, and the fine names under each.

The coarse names are those of the public multi-label version of UC Merced (Chaudhuri et al. 2018, "Multilabel
Remote Sensing Image Retrieval Using a Semisupervised Graph-Theoretic Method"). The fine names are fedkit's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORDS: dict[str, dict[str, str]] = {  # coarse name -> fine name -> what a caption calls it
    "airplane": {
        "delta_jet": "olive delta-wing jets",
        "jetliner": "a jetliner",
        "propeller_plane": "a propeller plane",
        "small_plane": "small planes",
    },
    "bare_soil": {"dirt_track": "a dirt track", "ploughed_soil": "ploughed soil", "red_earth": "red earth"},
    "buildings": {
        "barn": "a red barn",
        "flat_roofs": "flat-roofed buildings",
        "slate_roofs": "slate-roofed houses",
        "tile_roofs": "tile-roofed houses",
        "towers": "tower blocks",
        "warehouses": "warehouses",
    },
    "cars": {
        "dark_cars": "dark cars",
        "red_cars": "red cars",
        "trucks": "trucks",
        "white_cars": "white cars",
        "yellow_buses": "yellow buses",
    },
    "chaparral": {"dense_shrubs": "dense shrubs", "sparse_shrubs": "sparse shrubs"},
    "court": {
        "basketball_court": "a basketball court",
        "football_pitch": "a football pitch",
        "running_track": "a running track",
        "tennis_court": "tennis courts",
    },
    "dock": {
        "container_quay": "a container quay",
        "floating_piers": "floating piers",
        "wooden_jetty": "a wooden jetty",
    },
    "field": {
        "crop_circles": "crop circles",
        "flower_rows": "rows of flowers",
        "green_crop": "a green crop",
        "orchard": "an orchard",
        "ripe_crop": "a ripe crop",
    },
    "grass": {"dry_grass": "dry grass", "lawn": "a mown lawn", "meadow": "a meadow"},
    "mobile_home": {"caravans": "caravans", "mobile_home": "mobile homes"},
    "pavement": {
        "apron": "a concrete apron",
        "freeway": "a freeway",
        "parking_lot": "a parking lot",
        "plaza": "a paved square",
        "road": "a road",
        "runway": "a runway",
    },
    "sand": {"beach": "a beach", "dunes": "dunes", "sand_pits": "sand pits"},
    "sea": {"deep_sea": "deep sea", "surf": "surf", "turquoise_sea": "turquoise sea"},
    "ship": {
        "barge": "a barge",
        "container_ship": "a container ship",
        "ferry": "a white ferry",
        "motorboats": "motorboats",
        "sailboats": "sailboats",
    },
    "tanks": {"gas_spheres": "gas spheres", "rusty_tanks": "rusty tanks", "white_tanks": "white tanks"},
    "trees": {
        "autumn_trees": "autumn trees",
        "broadleaf_trees": "broadleaf trees",
        "conifers": "conifers",
        "palms": "palms",
    },
    "water": {"canal": "a canal", "lake": "a lake", "river": "a river", "swimming_pools": "swimming pools"},
}

COARSE: tuple[str, ...] = tuple(sorted(_WORDS))
"""The 17 coarse names; coarse labels are indices into it."""

COARSE_NAME: dict[str, str] = {fine: coarse for coarse, words in _WORDS.items() for fine in words}
"""Fine name -> the coarse name it belongs to."""

FINE: tuple[str, ...] = tuple(sorted(COARSE_NAME))
"""The fine names, sorted; fine labels are indices into it. As in FLAIR a name may be coarse too: ``mobile_home``."""

COARSE_OF: NDArray[np.int32] = np.array([COARSE.index(COARSE_NAME[fine]) for fine in FINE], np.int32)
"""The coarse label of each fine label, int32 ``[len(FINE)]``."""
COARSE_OF.flags.writeable = False

PHRASES: dict[str, str] = {fine: phrase for words in _WORDS.values() for fine, phrase in words.items()}
"""Fine name -> a noun phrase of lower-case English, with its article."""
