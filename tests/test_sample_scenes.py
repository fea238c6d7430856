"""The procedural sample scenes: reproducible, varied, told apart by class and by sensor."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedrsic_data.errors import UsageError
from fedrsic_data.sample import CLASSES, SENSORS, caption, encode, render, suffix

IN_ALL_SOURCES = {
    *("airplane", "baseball_diamond", "beach", "chaparral", "dense_residential", "forest", "freeway"),
    *("golf_course", "harbor", "intersection", "medium_residential", "mobile_home_park", "overpass"),
    *("parking_lot", "runway"),
}
IN_SOME = {
    *("agricultural", "basketball_court", "bridge", "buildings", "circular_farmland", "cloud", "desert"),
    *("island", "lake", "mountain", "railway", "river", "roundabout", "ship", "sparse_residential"),
    *("stadium", "storage_tank", "tennis_court"),
}
_DIGEST = """
import hashlib
from fedrsic_data.sample import CLASSES, SENSORS, encode, render
files = [encode(render(c, s, seed=4, index=2)) for c in CLASSES for s in SENSORS]
print(hashlib.sha256(b"".join(files)).hexdigest())
"""


@pytest.fixture(scope="module")
def collection() -> dict[str, list[Any]]:
    """Sixteen scenes of every class, the sensors in turn."""
    return {name: [render(name, SENSORS[index % 3], seed=0, index=index) for index in range(16)] for name in CLASSES}


def features(pixels: np.ndarray) -> np.ndarray:
    """Colour means and spreads on a 2 x 2 grid's average, edge strength at two scales, hue shares."""
    x = pixels.astype(np.float32) / 255
    grey = x.mean(axis=2)
    half = grey.reshape(grey.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
    edges = [np.abs(np.diff(g, axis=a)) for g in (grey, half) for a in (0, 1)]
    chroma = np.stack([x[..., 0] - x[..., 1], x[..., 2] - x[..., 1]])
    return np.concatenate(
        [
            x.mean(axis=(0, 1)),
            x.std(axis=(0, 1)),
            chroma.std(axis=(1, 2)),
            *([e.mean(), (e > 0.08).mean(), np.quantile(e, 0.95)] for e in edges),
            np.quantile(grey, [0.05, 0.5, 0.95]),
        ]
    )


def test_classes_are_the_real_names() -> None:
    assert set(CLASSES) >= IN_ALL_SOURCES | IN_SOME
    assert list(CLASSES) == sorted(set(CLASSES))
    assert SENSORS == ("ucmerced", "resisc45", "optimal31")


def test_every_class_renders_for_every_sensor() -> None:
    for name in CLASSES:
        for sensor in SENSORS:
            scene = render(name, sensor, seed=1, index=0)
            assert scene.pixels.shape == (64, 64, 3)
            assert scene.pixels.dtype == np.uint8
            assert (scene.class_name, scene.sensor) == (name, sensor)
            assert scene.pixels.std() > 6, "a flat picture"
            assert scene.attributes
            assert len(set(scene.attributes)) == len(scene.attributes)


@pytest.mark.parametrize("size", [32, 65, 512])
def test_sizes_show_the_same_scene(size: int) -> None:
    for name in CLASSES:
        small, other = (render(name, "ucmerced", seed=1, index=3, size=s) for s in (64, size))
        assert other.pixels.shape == (size, size, 3)
        assert other.attributes == small.attributes
        a, b = (np.asarray(Image.fromarray(s.pixels).resize((8, 8), Image.Resampling.BOX), int) for s in (small, other))
        assert np.abs(a - b).mean() < 10, name


def test_reproducible_in_any_order_and_process() -> None:
    names = [(c, s) for c in CLASSES for s in SENSORS]
    backwards = {key: encode(render(*key, seed=4, index=2)) for key in reversed(names)}
    here = hashlib.sha256(b"".join(backwards[key] for key in names)).hexdigest()
    there = subprocess.run([sys.executable, "-c", _DIGEST], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_global_random_state_is_neither_used_nor_changed() -> None:
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    first = render("harbor", "resisc45", seed=0, index=0).pixels
    assert np.random.random() == expected  # noqa: NPY002
    assert (render("harbor", "resisc45", seed=0, index=0).pixels == first).all()


def test_each_part_of_the_key_changes_the_picture() -> None:
    def pixels(name: str = "lake", sensor: str = "ucmerced", seed: int = 0, index: int = 0) -> bytes:
        return render(name, sensor, seed=seed, index=index).pixels.tobytes()

    assert len({pixels(), pixels(name="river"), pixels(sensor="resisc45"), pixels(seed=1), pixels(index=1)}) == 5


def test_pictures_of_a_class_vary(collection: dict[str, list[Any]]) -> None:
    for name, scenes in collection.items():
        same_sensor = [s.pixels.astype(int) for s in scenes if s.sensor == "ucmerced"]
        gaps = [np.abs(a - b).mean() for i, a in enumerate(same_sensor) for b in same_sensor[:i]]
        assert min(gaps) > 5, name
        assert len({s.attributes for s in scenes}) > 1, name


def test_classes_are_told_apart_by_simple_features(collection: dict[str, list[Any]]) -> None:
    x = np.array([[features(s.pixels) for s in collection[name]] for name in CLASSES])
    x = (x - x.mean(axis=(0, 1))) / x.std(axis=(0, 1))
    half = x.shape[1] // 2
    known, asked = x[:, :half].reshape(-1, x.shape[2]), x[:, half:].reshape(-1, x.shape[2])
    gap = ((asked[:, None] - known[None]) ** 2).sum(axis=2)
    right = np.arange(len(asked)) // half == gap.argmin(axis=1) // half
    assert right.mean() > 0.3, "nearest neighbour; chance is one in thirty"
    assert right.mean() < 0.95, "too easy to be worth training on"


def test_sensors_differ_as_the_real_ones_do() -> None:
    warmth, contrast, detail = {}, {}, {}
    for sensor in SENSORS:
        x = np.array([render(c, sensor, seed=2, index=i).pixels for c in CLASSES for i in range(3)], np.float32)
        warmth[sensor] = (x[..., 0] - x[..., 2]).mean()
        contrast[sensor] = x.std(axis=(1, 2)).mean()
        detail[sensor] = np.abs(np.diff(x.mean(axis=3), axis=2)).mean()
    assert warmth["optimal31"] > warmth["ucmerced"] + 5 > warmth["resisc45"] + 10
    assert contrast["optimal31"] > 1.1 * contrast["ucmerced"] > 1.1 * contrast["resisc45"]
    assert detail["optimal31"] > detail["ucmerced"] > 1.3 * detail["resisc45"]


def test_files_are_what_each_sensor_delivers() -> None:
    tables = {}
    for sensor, kind in zip(SENSORS, ("PNG", "JPEG", "JPEG"), strict=True):
        scene = render("lake", sensor, seed=0, index=0)
        image = Image.open(io.BytesIO(encode(scene)))
        assert (image.format, image.mode, image.size) == (kind, "RGB", (64, 64))
        assert suffix(sensor) == {"PNG": ".png", "JPEG": ".jpg"}[kind]
        assert not image.getexif()
        gap = np.abs(np.asarray(image, int) - scene.pixels)
        assert gap.max() == 0 if kind == "PNG" else gap.mean() < 12
        tables[sensor] = sum(image.quantization[0]) if kind == "JPEG" else 0
    assert 0 < tables["resisc45"] < tables["optimal31"], "the stronger compression has the larger steps"


def test_captions_say_class_sensor_and_only_true_attributes(collection: dict[str, list[Any]]) -> None:
    vocabulary = {a for scenes in collection.values() for s in scenes for a in s.attributes}
    for scenes in collection.values():
        for scene in scenes:
            said = {caption(scene, variant) for variant in range(4)}
            assert len(said) == 4
            for sentence in said:
                assert scene.class_name.replace("_", " ") in sentence
                assert re.search("orthophoto|satellite|overhead", sentence)
                told = re.search(r"\((.*)\)", sentence)[1].split(", ")
                assert set(told) <= set(scene.attributes) <= vocabulary
    scene = collection["lake"][0]
    assert caption(scene) == caption(scene, 0) == caption(scene, 4)


def test_attributes_are_true_of_the_pixels() -> None:
    def scenes(name: str, sensor: str = "ucmerced") -> list[Any]:
        return [render(name, sensor, seed=3, index=i) for i in range(30)]

    def mean(chosen: list[Any], measure: Callable[[np.ndarray], Any]) -> float:
        return np.mean([measure(s.pixels.astype(float)) for s in chosen])

    def greenness(p: np.ndarray) -> np.ndarray:
        return (p[..., 1] - p[..., 0]).mean()

    runways, islands, mountains = scenes("runway"), scenes("island"), scenes("mountain")
    dry = [s for s in runways if "dry season" in s.attributes]
    green = [s for s in runways if "green season" in s.attributes]
    assert len(dry) + len(green) == len(runways)
    assert mean(green, greenness) > mean(dry, greenness) + 10
    deep = [s for s in islands if "in deep sea" in s.attributes]
    pale = [s for s in islands if "in turquoise sea" in s.attributes]
    assert mean(pale, np.mean) > mean(deep, np.mean) + 15
    snow = [s for s in mountains if "snow covered" in s.attributes]
    bare = [s for s in mountains if "snow covered" not in s.attributes]
    assert mean(snow, np.mean) > mean(bare, np.mean) + 20
    hazy = [s for s in scenes("forest", "resisc45") if "in haze" in s.attributes]
    clear = [s for s in scenes("forest", "resisc45") if "in haze" not in s.attributes]
    assert mean(hazy, np.min) > mean(clear, np.min) + 10


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"class_name": "moonbase"}, "moonbase"),
        ({"sensor": "hubble"}, "hubble"),
        ({"size": 31}, "31"),
        ({"size": 513}, "513"),
        ({"index": -1}, "index -1"),
        ({"seed": -2}, "seed -2"),
    ],
)
def test_errors_name_the_argument_in_one_line(given: dict[str, Any], words: str) -> None:
    usual = {"class_name": "lake", "sensor": "ucmerced", "seed": 0, "index": 0}
    with pytest.raises(UsageError) as caught:
        render(**(usual | given))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_suffix_of_an_unknown_sensor() -> None:
    with pytest.raises(UsageError, match="hubble"):
        suffix("hubble")
