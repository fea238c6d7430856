"""The multi-label photographs: reproducible, labelled before they are painted, and painted as labelled."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.errors import UsageError
from fedrsic_data.sample import (
    CAMERAS,
    COARSE,
    COARSE_OF,
    COLLECTIONS,
    FINE,
    PHOTOGRAPHS,
    Photograph,
    photo_caption,
    photograph,
    photographs,
)
from fedrsic_data.sample.habits import CONCENTRATION, MOST_COARSE, MOST_FINE, PLACES, SEVERAL, places, unit
from fedrsic_data.sample.labels import COARSE_NAME, PHRASES
from fedrsic_data.sample.layout import arrange
from fedrsic_data.sample.photos import render
from fedrsic_data.sources.locate import Places

LAND = {"bare_soil", "chaparral", "field", "grass", "pavement", "sand", "trees"}
AFLOAT = {"dock", "ship"}
ON_LAND = {"airplane", "buildings", "cars", "court", "mobile_home", "tanks"}
_DIGEST = """
import hashlib
from fedrsic_data.sample import Photograph, photograph, photographs
keys = photographs(30, 4)["key"].to_pylist()
files = [photograph(Photograph.from_key(key), seed=4) for key in keys[:40]]
print(hashlib.sha256("".join(keys).encode() + b"".join(files)).hexdigest())
"""


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """The photographs of 6000 users."""
    return photographs(6000, 0)


@pytest.fixture(scope="module")
def some(table: pa.Table) -> tuple[list[Photograph], list[np.ndarray]]:
    """A few hundred photographs of as many users, with their pixels."""
    firsts = table.filter(pc.equal(table["number"], 0)).slice(0, 500)
    photos = [Photograph.from_key(key) for key in firsts["key"].to_pylist()]
    return photos, [render(photo, seed=0) for photo in photos]


def matrix(lists: pa.ChunkedArray, width: int) -> np.ndarray:
    """Label lists as a bool matrix."""
    flat = lists.combine_chunks()
    out = np.zeros((len(flat), width), bool)
    out[np.repeat(np.arange(len(flat)), pc.list_value_length(flat).to_numpy()), flat.flatten().to_numpy()] = True
    return out


def test_label_names() -> None:
    assert " ".join(COARSE) == (
        "airplane bare_soil buildings cars chaparral court dock field grass mobile_home pavement sand sea ship tanks "
        "trees water"
    )
    assert len(FINE) == len(set(FINE)) == 65
    assert list(FINE) == sorted(FINE)
    assert COARSE_OF.shape == (65,)
    assert set(COARSE_OF.tolist()) == set(range(17))
    assert len(set(PHRASES.values())) == 65


def test_table_is_what_its_schema_says(table: pa.Table) -> None:
    assert table.schema == PHOTOGRAPHS
    assert not any(column.null_count for column in table.columns)
    keys = table["key"].to_pylist()
    assert len(set(keys)) == len(keys)
    for row in table.slice(1000, 200).to_pylist():
        photo = Photograph.from_key(row["key"])
        assert (photo.user, photo.number, photo.camera) == (row["user"], row["number"], row["camera"])
        assert list(photo.fine) == row["fine_labels"] == sorted(set(row["fine_labels"]))
        assert row["labels"] == sorted({int(label) for label in COARSE_OF[row["fine_labels"]]})


def test_users_look_like_the_real_ones(table: pa.Table) -> None:
    sizes = table.group_by("user").aggregate([("number", "count"), ("number", "max")])
    assert len(sizes) == 6000
    assert pc.all(pc.match_substring_regex(sizes["user"], r"^[1-9]\d{7}@N00$")).as_py()
    counts = sizes["number_count"].to_numpy()
    assert (counts == sizes["number_max"].to_numpy() + 1).all(), "numbers run from 0"
    assert np.quantile(counts, [0.25, 0.5, 0.75]).tolist() == [1, 2, 5], "as in FLAIR"
    assert 6 < counts.mean() < 11
    assert 300 < counts.max() <= 4151


def test_label_sets_are_never_empty_and_never_crowded(table: pa.Table) -> None:
    coarse, fine = (pc.list_value_length(table[name]).to_numpy() for name in ("labels", "fine_labels"))
    assert (coarse.min(), fine.min()) == (1, 1)
    assert coarse.max() <= MOST_COARSE == 7
    assert fine.max() <= MOST_FINE == 12
    assert 2.3 < coarse.mean() < 3.3
    assert fine.mean() > 1.2 * coarse.mean()
    for name, (_, contents) in PLACES.items():
        assert len(contents) <= 7, name
        assert len(contents) + len(SEVERAL & set(contents)) <= 12, name


def test_every_label_occurs_in_every_collection() -> None:
    for name in COLLECTIONS:
        drawn = photographs(1500, 1, name)
        assert matrix(drawn["labels"], 17).sum(axis=0).min() > 20
        assert matrix(drawn["fine_labels"], 65).sum(axis=0).min() > 5


def test_what_belongs_together_occurs_together(table: pa.Table) -> None:
    has = dict(zip(COARSE, matrix(table["labels"], 17).T, strict=True))
    land = np.any([has[name] for name in LAND], axis=0)
    for name in ON_LAND:
        assert (land | ~has[name]).all(), f"{name} without ground"
    for name in ("ship", "dock"):
        assert (has["sea"] | has["water"] | ~has[name]).all(), f"{name} without water"

    def lift(one: str, other: str) -> float:
        return (has[one] & has[other]).mean() / (has[one].mean() * has[other].mean())

    for one, other in (("airplane", "pavement"), ("ship", "dock"), ("cars", "pavement"), ("sea", "sand")):
        assert lift(one, other) > 1.5, (one, other)
    assert not (has["airplane"] & has["ship"]).any()


def test_users_have_habits_beyond_chance(table: pa.Table) -> None:
    """Half of a user's photographs foretell the other half better than another user's do."""
    user = np.unique(table["user"].combine_chunks().dictionary_encode().indices.to_numpy(), return_inverse=True)[1]
    number = table["number"].to_numpy()
    for labels, least in ((matrix(table["labels"], 17), 0.15), (matrix(table["fine_labels"], 65), 0.15)):
        many = np.flatnonzero(np.bincount(user) >= 20)
        halves = [
            np.stack([labels[(user == who) & (number % 2 == half)].mean(axis=0) for who in many]) for half in (0, 1)
        ]
        even, odd = (half - half.mean(axis=0) for half in halves)
        same = (even * odd).sum(axis=1).mean()
        assert abs((even * np.roll(odd, 1, axis=0)).sum(axis=1).mean()) < 0.2 * same
        spread = (even**2).sum(axis=1).mean()
        assert same > 0.6 * spread, "what two halves share is most of how users differ"
        assert same > least


def test_users_have_tastes() -> None:
    """Of the kinds of aeroplane, all alike to the crowd, a user comes upon the same again and again."""
    planes = [label for label in range(65) if COARSE_NAME[FINE[label]] == "airplane"]
    drawn = photographs(9000, 1)
    has = matrix(drawn["fine_labels"], 65)[:, planes]
    user = drawn["user"].combine_chunks().dictionary_encode().indices.to_numpy()
    user, kind = user[has.any(axis=1)], has[has.any(axis=1)].argmax(axis=1)
    first = np.unique(user, return_index=True)[1]
    first = first[np.append(user, -1)[first + 1] == user[first]]
    crowd = np.bincount(kind[first], minlength=4) / len(first)
    assert len(first) > 300
    assert abs(crowd - 0.25).max() < 0.08
    assert (kind[first] == kind[first + 1]).mean() > 0.4


def test_habits_follow_a_dirichlet_law() -> None:
    users = np.repeat(np.arange(4000), 2)
    shown = places(7, users, np.tile(np.arange(2), 4000))
    share = np.array([share for share, _ in PLACES.values()])
    share = share / share.sum()
    assert np.allclose(np.bincount(shown, minlength=len(share)) / len(shown), share, atol=0.012)
    # Two draws of one user agree with the chance of a Polya urn.
    together = (1 + CONCENTRATION * (share**2).sum()) / (1 + CONCENTRATION)
    assert abs((shown[::2] == shown[1::2]).mean() - together) < 0.03


def test_hashed_numbers_are_uniform_and_unrelated() -> None:
    x = unit(3, np.arange(400)[:, None], np.arange(400))
    assert x.min() >= 0
    assert x.max() < 1
    assert np.abs(np.histogram(x, 20, (0, 1))[0] / x.size - 0.05).max() < 0.003
    assert abs(np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(x.ravel(), unit(4, np.arange(400)[:, None], np.arange(400)).ravel())[0, 1]) < 0.01
    assert x[5, 9] == unit(3, 5, 9) != unit(3, 9, 5)


def test_splits_keep_users_whole() -> None:
    for name, (train, val, test) in {"flair": (8, 1, 1), "voc2007": (8, 0, 2)}.items():
        drawn = photographs(1003, 2, name)
        of = drawn.select(["user", "split"]).group_by(["user", "split"]).aggregate([])
        assert len(of) == 1003, "a user is in one split"
        counts = dict(
            zip(*(x.tolist() for x in np.unique(of["split"].to_numpy(False), return_counts=True)), strict=True)
        )
        for split, tenths in (("train", train), ("val", val), ("test", test)):
            assert abs(counts.get(split, 0) - 100.3 * tenths) <= 3


def test_more_users_change_none_of_the_others() -> None:
    few, many = photographs(37, 5), photographs(300, 5)
    assert many.slice(0, len(few)).equals(few)


def test_each_part_of_the_key_changes_the_photographs() -> None:
    drawn = {tuple(photographs(20, seed, name)["key"].to_pylist()) for seed in (0, 1, 2**40) for name in COLLECTIONS}
    assert len(drawn) == 3 * len(COLLECTIONS)
    photo = Photograph.from_key(photographs(1, 0)["key"][0].as_py())
    others = (
        photograph(photo, seed=0),
        photograph(photo, seed=1),
        photograph(photo, seed=0, collection="coco"),
        photograph(Photograph(photo.user, photo.number + 1, photo.camera, photo.fine), seed=0),
        photograph(Photograph("10000000@N00", photo.number, photo.camera, photo.fine), seed=0),
    )
    assert len(set(others)) == 5


def test_reproducible_in_any_order_and_process() -> None:
    keys = photographs(30, 4)["key"].to_pylist()
    files = {key: photograph(Photograph.from_key(key), seed=4) for key in reversed(keys[:40])}
    here = hashlib.sha256("".join(keys).encode() + b"".join(files[key] for key in keys[:40])).hexdigest()
    there = subprocess.run([sys.executable, "-c", _DIGEST], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_global_random_state_is_neither_used_nor_changed() -> None:
    photo = Photograph.from_key(photographs(1, 0)["key"][0].as_py())
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    first = photograph(photo, seed=0)
    assert np.random.random() == expected  # noqa: NPY002
    assert photograph(photo, seed=0) == first


@pytest.mark.parametrize("size", [32, 65, 512])
def test_sizes_show_the_same_scene(some: tuple[list[Photograph], list[np.ndarray]], size: int) -> None:
    for photo in some[0][:12]:
        image = Image.open(io.BytesIO(photograph(photo, seed=0, size=size)))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))
        assert not image.getexif()
        a, b = (
            np.asarray(Image.fromarray(render(photo, seed=0, size=s)).resize((8, 8), Image.Resampling.BOX), int)
            for s in (64, size)
        )
        assert np.abs(a - b).mean() < 10, photo


def test_every_label_has_a_place_that_can_be_seen(table: pa.Table) -> None:
    seen = set()
    for row in table.slice(0, 4000).to_pylist():
        names = [FINE[label] for label in row["fine_labels"]]
        layout = arrange(names, 1.0, np.random.default_rng(row["number"]))
        assert set(names) <= {place.label for place in layout.grounds + layout.things}
        assert {place.label for place in layout.grounds} - set(names) <= {"paved", "bare"}
        for place in layout.grounds + layout.things:
            area = place.area.held(1.0)
            assert min(area.u1 - area.u0, area.v1 - area.v0) > 0.09, (place, names)
        for place in layout.things:
            on = COARSE_NAME.get(place.ground, place.ground)
            afloat = COARSE_NAME[place.label] in ("ship", "dock")
            assert afloat == (on in ("sea", "water")), (place, names)
            seen.add(place.label)
    assert len(seen) > 35


def test_a_thing_added_to_its_ground_is_painted_on_it() -> None:
    """The layout of one ground stays as it is, so all that changes is the thing."""
    for label, name in enumerate(FINE):
        if COARSE_NAME[name] not in ON_LAND | AFLOAT | {"trees"} and name not in ("sand_pits", "swimming_pools"):
            continue
        ground = FINE.index("deep_sea" if COARSE_NAME[name] in AFLOAT else "parking_lot")
        for number in range(6):
            bare, with_it = (
                render(Photograph("12345678@N00", number, "reflex", fine), seed=0).astype(int)
                for fine in ((ground,), tuple(sorted((ground, label))))
            )
            changed = (np.abs(bare - with_it).max(axis=2) > 25).mean()
            assert 0.02 < changed < 0.9, (name, number)


def test_fine_labels_look_different() -> None:
    """The nearest neighbour of a photograph with one fine label, and ground if need be, mostly shows the same."""
    x, y = [], []
    for label, name in enumerate(FINE):
        stands = COARSE_NAME[name] in ON_LAND | AFLOAT or name in ("sand_pits", "swimming_pools")
        ground = [FINE.index("deep_sea" if COARSE_NAME[name] in AFLOAT else "meadow")] if stands else []
        for number in range(10):
            photo = Photograph("12345678@N00", number, "reflex", tuple(sorted([label, *ground])))
            x.append(_features(render(photo, seed=0)))
            y.append(label)
    x, y = (np.array(x) - np.mean(x, axis=0)) / np.std(x, axis=0), np.array(y)
    gap = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(gap, np.inf)
    right = (y == y[gap.argmin(axis=1)]).reshape(65, 10).mean(axis=1)
    assert right.mean() > 0.85, "chance is one in sixty-five"
    assert right.min() > 0.4, FINE[int(right.argmin())]


def test_pixels_tell_the_labels(some: tuple[list[Photograph], list[np.ndarray]]) -> None:
    """A ridge regression on colours and edges finds each coarse label better than chance in unseen photographs."""
    photos, pixels = some
    x = np.array([_features(p) for p in pixels])
    x = np.column_stack([(x - x.mean(axis=0)) / x.std(axis=0), np.ones(len(x))])
    y = np.zeros((len(photos), 17))
    for row, photo in enumerate(photos):
        y[row, COARSE_OF[list(photo.fine)]] = 1
    known, asked = slice(0, len(x), 2), slice(1, len(x), 2)
    gram = x[known].T @ x[known] + 20 * np.eye(x.shape[1])
    score = x[asked] @ np.linalg.solve(gram, x[known].T @ y[known])
    areas = {}
    for label, name in enumerate(COARSE):
        yes, no = score[y[asked, label] == 1, label], score[y[asked, label] == 0, label]
        areas[name] = (yes[:, None] > no).mean()
    assert min(areas.values()) > 0.6, areas
    assert np.mean(list(areas.values())) > 0.78, areas


def _features(pixels: np.ndarray) -> np.ndarray:
    """A coarse colour histogram, edge strengths, and colour means in a grid."""
    p = pixels.astype(np.float32) / 255
    bins = (p * 3.999).astype(int) @ np.array([16, 4, 1])
    counts = np.sqrt(np.bincount(bins.ravel(), minlength=64) / bins.size)
    edges = [np.abs(np.diff(p, axis=a)).mean(axis=(0, 1)) for a in (0, 1)]
    return np.concatenate([counts + 1e-3 * p.mean(), *edges, p.std(axis=(0, 1))])


def test_water_is_blue_and_grass_is_green(some: tuple[list[Photograph], list[np.ndarray]]) -> None:
    photos, pixels = some
    means = np.array([p.mean(axis=(0, 1)) for p in pixels])
    has = np.array([[c in COARSE_OF[list(photo.fine)] for c in range(17)] for photo in photos])

    def gap(measure: Callable[[np.ndarray], float], *names: str) -> float:
        chosen = has[:, [COARSE.index(name) for name in names]].any(axis=1)
        return measure[chosen].mean() - measure[~chosen].mean()

    assert gap(means[:, 2] - means[:, 0], "sea", "water") > 15
    assert gap(means[:, 1] - (means[:, 0] + means[:, 2]) / 2, "grass", "trees", "field") > 5
    assert gap(means[:, 0] - means[:, 2], "sand", "bare_soil", "chaparral") > 10


def test_cameras_and_collections_differ() -> None:
    def tone(collection: Any) -> Any:
        keys = photographs(120, 3, collection)["key"].to_pylist()[::4][:60]
        photos = [Photograph.from_key(key) for key in keys]
        p = np.array([render(photo, seed=3, collection=collection) for photo in photos], np.float32)
        return p.std(axis=(1, 2)).mean(), np.abs(np.diff(p, axis=2)).mean(), {photo.camera for photo in photos}

    older, newer = tone("voc2007"), tone("voc2012")
    assert newer[0] > 1.15 * older[0], "contrast"
    assert newer[1] > 1.15 * older[1], "detail"
    assert not older[2] & newer[2]
    assert set(photographs(200, 0)["camera"].unique().to_pylist()) == set(CAMERAS)
    one = Photograph("12345678@N00", 0, "film", (FINE.index("lawn"),))
    looks = [render(Photograph(one.user, 0, name, one.fine), seed=0).mean(axis=(0, 1)) for name in CAMERAS]
    gaps = [np.abs(a - b).max() for i, a in enumerate(looks) for b in looks[:i]]
    assert min(gaps) > 1


def test_captions_name_the_labels() -> None:
    photo = Photograph("12345678@N00", 0, "phone", tuple(map(FINE.index, ("apron", "jetliner", "trucks"))))
    assert photo_caption(photo) == "an aerial photograph of a concrete apron, a jetliner and trucks."
    assert photo_caption(photo, 3) == "an overhead view with airplane, cars and pavement."
    assert "crisp phone photo" in photo_caption(photo, 2)
    assert photo_caption(photo, 4) == photo_caption(photo, 0)
    assert photo_caption(Photograph("12345678@N00", 0, "phone", (0,))) == f"an aerial photograph of {PHRASES[FINE[0]]}."


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": 0}, "count 0"),
        ({"count": 10**9}, "count 1000000000"),
        ({"seed": -1}, "seed -1"),
        ({"collection": "imagenet"}, "imagenet"),
    ],
)
def test_errors_of_the_table(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        photographs(**({"count": 5, "seed": 0} | given))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        *("", "lake/3", "1@N00/0/film/3", "12345678@N00/0/hubble/3", "12345678@N00/0/film/", "12345678@N00/0/film/99"),
        *("12345678@N00/0/film/4.3", "12345678@N00/0/film/3.3", "12345678@N00/-1/film/3"),
    ],
)
def test_errors_of_a_key(key: Any) -> None:
    with pytest.raises(UsageError) as caught:
        Photograph.from_key(key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 31}, "size 31"),
        ({"size": 513}, "size 513"),
        ({"seed": -2}, "seed -2"),
        ({"collection": "imagenet"}, "imagenet"),
        ({"photo": ("jetliner",)}, "no ground"),
        ({"photo": ("deep_sea", "jetliner")}, "'jetliner'"),
        ({"photo": ("ferry", "lawn")}, "'ferry'"),
    ],
)
def test_errors_of_a_photograph(given: dict[str, Any], words: str) -> None:
    names = given.get("photo", ("lawn",))
    photo = Photograph("12345678@N00", 0, "film", tuple(map(FINE.index, names)))
    with pytest.raises(UsageError) as caught:
        photograph(**({"seed": 0} | given | {"photo": photo}))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_are_int32(table: pa.Table) -> None:
    assert table.schema.field("labels").type == pa.list_(pa.int32())
    assert table.schema.field("fine_labels").type == pa.list_(pa.int32())


@pytest.mark.parametrize(
    ("names", "sets", "words"),
    [
        (["voc"], ["sample.per_class=2"], "sample.per_class=2: has no effect on these sources; set sample.users"),
        (["ucmerced"], ["sample.users=20"], "sample.users=20: has no effect on these sources; set sample.per_class"),
        (["voc"], ["sample.per_class=40", "sample.users=10"], None),
        (["ucmerced"], ["sample.per_class=2", "sample.users=200"], None),
        (["ucmerced", "flair"], ["sample.per_class=2", "sample.users=10"], None),
    ],
)
def test_a_setting_counts_or_is_refused(names: list[str], sets: list[str], words: str | None) -> None:
    """Photographs are made by users, scenes by class; a recipe of both kinds has both settings."""
    subsets = {name: {"sources": [name]} for name in names}
    data = {"fedkit": 1, "name": "some", "subsets": subsets, "partition": {"name": "iid", "clients": 2}}
    wanted = recipes.from_json(recipes.override(data, sample=True, sets=sets), "test")
    if words is None:
        assert pipeline.prepare(wanted, Places(offline=True)).subsets
        return
    with pytest.raises(UsageError, match=words):
        pipeline.prepare(wanted, Places(offline=True))
