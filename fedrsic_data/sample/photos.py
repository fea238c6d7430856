"""The multi-label photographs: who took which, what is on it, and its bytes.

Labels are drawn before anything is painted, so an index needs no rendering, and what is painted follows them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.sample import habits, people, sensors
from fedrsic_data.sample.covers import COVERS
from fedrsic_data.sample.labels import COARSE, COARSE_OF, FINE, PHRASES
from fedrsic_data.sample.layout import Area, arrange
from fedrsic_data.sample.plots import Site
from fedrsic_data.sample.structures import STRUCTURES, WOODS
from fedrsic_data.sample.vehicles import VEHICLES

MOST_USERS = 1_000_000
"""More are refused: each has some eight photographs."""

PHOTOGRAPHS = pa.schema(
    [
        ("user", pa.string()),
        ("number", pa.int32()),  # which of the user's, from 0
        ("split", pa.string()),  # train, val or test: the same for all of a user's
        ("camera", pa.string()),
        ("labels", pa.list_(pa.int32())),  # indices into COARSE, increasing, 1 to 7 of them
        ("fine_labels", pa.list_(pa.int32())),  # indices into FINE, increasing, 1 to 12 of them
        ("key", pa.string()),  # all that `photograph` needs: user/number/camera/fine labels
    ]
)
"""The columns of `photographs`."""

_BLOCK = 2**17  # photographs whose labels are drawn at once, which bounds memory
_KINDS = len(FINE)
_GROUND, _THING = COVERS | WOODS, STRUCTURES | VEHICLES
_KEY = re.compile(r"(\d{8}@N00)/(\d{1,9})/([a-z]+)/(\d+(?:\.\d+)*)")
_TEMPLATES = (
    "an aerial photograph of {fine}.",
    "{coarse}, seen from above: {fine}.",
    "a {camera} from the air that shows {fine}.",
    "an overhead view with {coarse}.",
)


@dataclass(frozen=True)
class Photograph:
    """A photograph's facts before it is painted.

    Attributes:
        user: Who took it.
        number: Which of the user's, from 0.
        camera: One of `CAMERAS`.
        fine: Indices into `FINE`, increasing; at least one.

    Raises:
        UsageError: A field has a value that cannot be.
    """

    user: str
    number: int
    camera: str
    fine: tuple[int, ...]

    def __post_init__(self) -> None:
        sensors.camera(self.camera)
        if self.number < 0:
            raise UsageError(f"number {self.number} is negative; give 0 or more")
        if not self.fine or list(self.fine) != sorted(set(self.fine)) or not set(self.fine) <= set(range(_KINDS)):
            raise UsageError(f"fine={self.fine} should be one or more labels that increase, from 0 to {_KINDS - 1}")

    @classmethod
    def from_key(cls, key: str) -> Photograph:
        """Reads the ``key`` column of `photographs`.

        Raises:
            UsageError: It is not such a key.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise UsageError(f"key {key!r} is not user/number/camera/labels; take keys from photographs()")
        return cls(match[1], int(match[2]), match[3], tuple(map(int, match[4].split("."))))


def photographs(count: int, seed: int, collection: str = "flair") -> pa.Table:
    """All photographs of the first users of a collection, ordered by user and number.

    Args:
        count: How many users; more of them change none of the others' photographs.
        seed: Non-negative; another seed gives other users.
        collection: One of `COLLECTIONS`.

    Returns:
        A row a photograph, with the columns of `PHOTOGRAPHS`.

    Raises:
        UsageError: An argument is unknown or out of range.
    """
    if not 1 <= count <= MOST_USERS:
        raise UsageError(f"count {count} is out of range; give 1 to {MOST_USERS:,} users")
    stream = _stream(seed, collection)
    who = people.users(count, stream, people.COLLECTIONS[collection])
    user = np.repeat(np.arange(count), who.sizes)
    number = np.arange(len(user)) - np.repeat(np.cumsum(who.sizes) - who.sizes, who.sizes)
    lists = [_labels(stream, user[at : at + _BLOCK], number[at : at + _BLOCK]) for at in range(0, len(user), _BLOCK)]
    coarse, fine = (pa.concat_arrays(blocks) for blocks in zip(*lists, strict=True))
    columns = {
        "user": who.ids.take(pa.array(user)),
        "number": pa.array(number, pa.int32()),
        "split": pa.array(people.SPLITS).take(pa.array(who.splits[user])),
        "camera": pa.array(sensors.CAMERAS).take(pa.array(who.cameras[user])),
        "labels": coarse,
        "fine_labels": fine,
    }
    labels = pc.binary_join(fine.cast(pa.list_(pa.string())), ".")
    numbers = columns["number"].cast(pa.string())
    columns["key"] = pc.binary_join_element_wise(columns["user"], numbers, columns["camera"], labels, "/")
    return pa.table(columns, schema=PHOTOGRAPHS)


def _labels(stream: int, user: habits.Ints, number: habits.Ints) -> tuple[pa.Array, pa.Array]:
    """Coarse and fine labels as lists."""
    coarse, fine = habits.draw(stream, user, number)
    return _lists(*coarse, len(user)), _lists(*fine, len(user))


def _lists(row: NDArray[np.int64], value: NDArray[np.int64], count: int) -> pa.Array:
    """Values gathered by row, int32 lists."""
    offsets = np.searchsorted(row, np.arange(count + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(value.astype(np.int32)))


def photograph(photo: Photograph, *, seed: int, collection: str = "flair", size: int = 64) -> bytes:
    """The JPEG file of a photograph; the same arguments always give the same bytes.

    Args:
        photo: What is on it.
        seed: That of `photographs`.
        collection: That of `photographs`.
        size: Width and height in pixels, 32..512; the scene stays the same, in more detail.

    Raises:
        UsageError: An argument is unknown or out of range.
    """
    return sensors.compress(render(photo, seed=seed, collection=collection, size=size), sensors.camera(photo.camera))


def render(photo: Photograph, *, seed: int, collection: str = "flair", size: int = 64) -> NDArray[np.uint8]:
    """The pixels of a photograph before they are encoded, RGB, uint8 ``[size, size, 3]``; as `photograph`."""
    how = sensors.camera(photo.camera)
    canvas = sensors.blank(size, how, [_stream(seed, collection), crc32(photo.user.encode()), photo.number])
    site = Site(canvas, float(canvas.rng.integers(4)) * (np.pi / 2) + canvas.between(-0.2, 0.2))
    layout = arrange([FINE[label] for label in photo.fine], canvas.extent, canvas.rng)
    beyond = 3 * canvas.extent
    _GROUND[layout.base](site.plot(Area(-beyond, beyond, -beyond, beyond)))
    for place in layout.grounds:
        if place.label != layout.base:
            _GROUND[place.label](site.plot(place.area))
    for place in layout.things:
        _THING[place.label](site.plot(place.area))
    return sensors.develop(canvas, how)[0]


def photo_caption(photo: Photograph, variant: int = 0) -> str:
    """One sentence that names a photograph's labels.

    Args:
        photo: What is on it.
        variant: Which of the sentence forms; any integer, they repeat.

    Returns:
        Lower-case English; every form names all fine labels or all coarse ones.
    """
    coarse = sorted({int(label) for label in COARSE_OF[list(photo.fine)]})
    return _TEMPLATES[variant % len(_TEMPLATES)].format(
        fine=_listed([PHRASES[FINE[label]] for label in photo.fine]),
        coarse=_listed([COARSE[label].replace("_", " ") for label in coarse]),
        camera=sensors.camera(photo.camera).words,
    )


def _listed(phrases: Sequence[str]) -> str:
    """Joins as "a, b and c"."""
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def _stream(seed: int, collection: str) -> int:
    """Random stream that separates the draws of a seed and a collection from all others."""
    if seed < 0:
        raise UsageError(f"seed {seed} is negative; give 0 or more")
    sensors.named("collection", collection, people.COLLECTIONS)
    return int.from_bytes(blake2b(f"{collection}/{seed}".encode(), digest_size=8).digest())
