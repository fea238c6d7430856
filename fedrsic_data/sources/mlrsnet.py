"""MLRSNet: 109,161 scenes of 46 categories, 256 x 256 JPEG, with 60 labels; 0 to 13 of them each.

Images are in a folder per category, labels in a table per category, whose columns have an order of their own: each is
read by its header. In ``storage_tank.csv``, the column without a name is ``snowberg``.

The repository's label files are right in commit cd5ca1c of 2020-06-30 only. At its head, 10,300 rows of 11 categories
are wrong: runs of columns are overwritten with 1, and no stadium has the label ``stadium``, no storage tank ``tanks``.
Row counts do not show it, so two properties of the right files are checked: no image has more than 13 labels, and the
label that makes a category is on most of its images (80% for ``airport``, 93% or more elsewhere). The head fails these
checks in eight of its 11 wrong files; the other three have 67 of the wrong rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fedrsic_data.errors import SourceError, some
from fedrsic_data.raw.index import Index
from fedrsic_data.sources import classfolders, label_matrix
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.tree import Tree, check_complete

_LABELS = """
airplane, airport, bare soil, baseball diamond, basketball court, beach, bridge, buildings, cars, chaparral, cloud,
containers, crosswalk, dense residential area, desert, dock, factory, field, football field, forest, freeway,
golf course, grass, greenhouse, gully, habor, intersection, island, lake, mobile home, mountain, overpass, park,
parking lot, parkway, pavement, railway, railway station, river, road, roundabout, runway, sand, sea, ships, snow,
snowberg, sparse residential area, stadium, swimming pool, tanks, tennis court, terrace, track, trail,
transmission tower, trees, water, wetland, wind turbine
"""

LABELS = tuple(name.strip() for name in _LABELS.split(","))
"""The 60 labels in the order and the spelling of the published tables (``habor``)."""

# Category, and its label where that is not its name.
_CATEGORIES = """
airplane, airport, bareland: bare soil, baseball_diamond, basketball_court, beach, bridge, chaparral, cloud,
commercial_area: buildings, dense_residential_area, desert, eroded_farmland: gully, farmland: field, forest, freeway,
golf_course, ground_track_field: track, harbor&port: habor, industrial_area: factory, intersection, island, lake,
meadow: grass, mobile_home_park: mobile home, mountain, overpass, park, parking_lot, parkway, railway,
railway_station, river, roundabout, shipping_yard: containers, snowberg, sparse_residential_area, stadium,
storage_tank: tanks, swimmimg_pool: swimming pool, tennis_court, terrace, transmission_tower,
vegetable_greenhouse: greenhouse, wetland, wind_turbine
"""

_PAIRS = (entry.strip().partition(": ")[::2] for entry in _CATEGORIES.split(","))
CATEGORIES = {category: own or category.replace("_", " ") for category, own in _PAIRS}
"""The 46 scene categories, and the label that is on most images of each."""

_MOST = 13  # labels of an image
_SHARE = 0.5  # of a category's images that have its label at the very least; the lowest real one is 0.8
_RIGHT = "labels/ of commit cd5ca1c of github.com/cugbrs/MLRSNet"
_AGAIN = f"take {_RIGHT}"
_IMAGES = 109_161


@dataclass(frozen=True)
class MLRSNetSettings:
    """Settings of MLRSNet.

    Attributes:
        domains: Whether the source is one domain, or each of the 46 scene categories is one.
        unlabelled: Whether the ten images without labels are kept, without labels.
    """

    domains: Literal["source", "scene"] = "source"
    unlabelled: Literal["leave_out", "keep"] = "leave_out"


_FACTS = Facts(
    title="MLRSNet",
    homepage="https://doi.org/10.17632/7j9bv9vwsx",
    licence="CC BY 4.0 as its mirrors say; imagery from Google Earth",
    citation="Qi et al., MLRSNet: a multi-label high spatial resolution remote sensing dataset for semantic scene "
    "understanding, ISPRS Journal of Photogrammetry and Remote Sensing 2020",
    layout="Images/<category>/<category>_NNNNN.jpg, labels/<category>.csv",
)


@dataclass(frozen=True)
class MLRSNet:
    """See the module.

    Attributes:
        name: Its name in recipes.
        settings: Its settings in recipes.
    """

    name: str = "mlrsnet"
    kind: str = "mlrsnet"
    settings: MLRSNetSettings = MLRSNetSettings()
    aliases: tuple[str, ...] = ("mlrsnet", "mlrsnetmaster")
    facts: Facts = _FACTS

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. A copy is complete if it has all categories, and each image labels."""
        tree = Tree(path, [])
        found = classfolders.find(path, self.name, tuple(CATEGORIES), self.facts.layout)
        tables = {category: _table(tree, key, category) for category, key in sorted(_files(tree).items())}
        absent = []
        if gone := [category for category in CATEGORIES if category not in tables]:
            absent.append(f"{len(gone)} of {len(CATEGORIES)} categories have no labels/<category>.csv: {some(gone)}")
        by_scene, keep_bare = self.settings.domains == "scene", self.settings.unlabelled == "keep"
        index = label_matrix.index(self.name, path, found, tree, tables, LABELS, by_scene=by_scene, keep_bare=keep_bare)
        absent += index.missing
        listed = sum(len(matrix.images) for matrix in tables.values())
        if not absent and listed < _IMAGES:
            absent.append(f"labels/ has {listed:,} rows, the published one {_IMAGES:,}")
        check_complete(path, self.facts.title, absent, len(index.table), allow_partial)
        return replace(index, missing=tuple(absent))


SOURCE = MLRSNet()


def _files(tree: Tree) -> dict[str, str]:
    """The key of the table of each category.

    Raises:
        SourceError: A table is of no category, or a category has two.
    """
    found: dict[str, str] = {}
    for name, key in sorted(pair for folder in ("Labels", "labels") for pair in tree.each(folder)):
        category, dot, ending = name.rpartition(".")
        if dot + ending.lower() != ".csv":
            continue
        if category not in CATEGORIES:
            raise SourceError(f"{tree.where(key)}: is of none of the 46 categories; move it away")
        if category in found:
            raise SourceError(f"{tree.where(key)}: {tree.where(found[category])} is of {category} too; move one away")
        found[category] = key
    return found


def _table(tree: Tree, key: str, category: str) -> label_matrix.Matrix:
    """The labels of a category.

    Raises:
        SourceError: The file is no such table, or not as its authors made it.
    """
    where = tree.where(key)
    unnamed = "snowberg" if category == "storage_tank" else ""
    matrix = label_matrix.read(tree.read(key), where, ",", LABELS, _AGAIN, unnamed)
    if strange := [image for image in matrix.images if not image.startswith(f"{category}_")]:
        raise SourceError(f"{where}: {strange[0][:80]!r} is not an image of {category}; {_AGAIN}")
    if not matrix.images:
        return matrix
    counts = matrix.labels.sum(axis=1)
    if counts.max() > _MOST:
        image, most = matrix.images[int(counts.argmax())], counts.max()
        words = f"{image} has {most} labels, and no image of MLRSNet more than {_MOST}"
        raise SourceError(f"{where}: {words}; its columns are overwritten, as at the head of the repository; {_AGAIN}")
    own = CATEGORIES[category]
    share = matrix.labels[:, LABELS.index(own)].mean()
    if share < _SHARE:
        words = f"{share:.0%} of its images have the label {own!r}, which nearly all have in the right file"
        raise SourceError(f"{where}: {words}; its columns are overwritten, as at the head of the repository; {_AGAIN}")
    return matrix
