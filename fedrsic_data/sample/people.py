"""The people who take the photographs: their ids, how many each has taken, their cameras and splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.sample.habits import Ints, unit
from fedrsic_data.sample.sensors import CAMERAS

EXPONENT, SHIFT, MOST_PHOTOGRAPHS = 1.2, 2.0, 4151
"""Parameters for the number of photographs per user; fitted to the published counts of FLAIR."""

SPLITS = ("train", "val", "test")

_IDS, _FIRST_ID, _STEP = 90_000_000, 10_000_000, 55_987_241  # the step has no factor in common with the ids


@dataclass(frozen=True)
class Collection:
    """Photographs gathered under one name.

    Attributes:
        cameras: What its users photograph with.
        validation: Users of every ten whose photographs are for validation.
        test: Users of every ten whose photographs are for the test.
    """

    cameras: tuple[str, ...]
    validation: int
    test: int


COLLECTIONS: dict[str, Collection] = {
    "aid-multilabel": Collection(("reflex", "drone"), 0, 2),
    "coco": Collection(CAMERAS, 0, 2),
    "flair": Collection(CAMERAS, 1, 1),
    "mlrsnet": Collection(CAMERAS, 0, 2),
    "ucmerced-multilabel": Collection(("film", "compact"), 0, 2),
    "voc2007": Collection(("film", "compact"), 0, 2),
    "voc2012": Collection(("phone", "reflex", "drone"), 0, 2),
}
"""The two of VOC have no camera in common, nor have UC Merced and AID: they are two domains."""


@dataclass(frozen=True)
class Users:
    """Users in columns, all of one length.

    Attributes:
        ids: As Flickr's: eight digits, ``@N00``; no two alike.
        sizes: How many photographs each has taken, int64, 1 or more.
        cameras: Which of `CAMERAS` each photographs with, int64.
        splits: Which of `SPLITS` each is dealt to, int64.
    """

    ids: pa.Array
    sizes: Ints
    cameras: Ints
    splits: Ints


def users(count: int, stream: int, collection: Collection) -> Users:
    """The first users of a collection; a larger count adds users and changes none.

    A user has taken ``k`` photographs or more with probability ``(1 + (k - 1) / SHIFT) ** -EXPONENT`` (a shifted
    power law, Lomax 1954), cut off at `MOST_PHOTOGRAPHS`. Among ten users, as many as the collection says are
    dealt to validation and to the test.

    Args:
        count: How many users, 1 to 90 million.
        stream: Random stream of the collection.
        collection: Whose users they are.
    """
    number = np.arange(count)
    tail = (1 + MOST_PHOTOGRAPHS / SHIFT) ** -EXPONENT
    chance = tail + (1 - tail) * (1 - unit(stream, 11, number))
    sizes = np.floor(1 + SHIFT * (chance ** (-1 / EXPONENT) - 1)).astype(np.int64)
    offered = np.array([CAMERAS.index(name) for name in collection.cameras])
    cameras = offered[(unit(stream, 12, number) * len(offered)).astype(np.int64)]
    offset = int(unit(stream, 13) * _IDS)
    codes: NDArray[np.int64] = _FIRST_ID + (number * _STEP + offset) % _IDS
    ids = pc.binary_join_element_wise(pa.array(codes).cast(pa.string()), "@N00", "")
    return Users(ids, np.minimum(sizes, MOST_PHOTOGRAPHS), cameras, _deal(count, stream, collection))


def _deal(count: int, stream: int, collection: Collection) -> Ints:
    """Each ten users in an order of their own; the first are for validation, the next for the test."""
    tens = -(-count // 10)
    order = np.argsort(np.argsort(unit(stream, 14, np.arange(10 * tens)).reshape(tens, 10), axis=1), axis=1)
    rank = order.ravel()[:count]
    kept = collection.validation + collection.test
    return np.where(rank < collection.validation, 1, np.where(rank < kept, 2, 0))
