"""``fedrsic_data.build`` and its like: what the commands do, from Python."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ROOT
from PIL import Image

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.api.in_memory import parquet_of
from fedrsic_data.build import pipeline
from fedrsic_data.errors import FedkitError, OutputError, UsageError, for_scripts
from fedrsic_data.sources.locate import Places

SMALL: dict[str, Any] = {
    "sample": True,
    "subsets": ["fed-ucmerced"],
    "clients": 4,
    "sample.per_class": 4,
    "sample.size": 32,
}
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
LABELS = [("ash", "birch", "cedar")[i % 3] for i in range(24)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fedrsic_data.build("fed-rsic", tmp_path_factory.mktemp("api") / "fed", **SMALL)


def test_a_recipe_is_built_as_the_command_builds_it(built: Any, tmp_path: Path) -> None:
    sets = ["clients=4", "sample.per_class=4", "sample.size=32"]
    data = recipes.override(recipes.load("fed-rsic"), subsets=["fed-ucmerced"], sample=True, sets=sets)
    done = pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True)), tmp_path / "fed")
    assert built.manifest.digest == done.manifest.digest
    assert [subset.name for subset in built] == ["fed-ucmerced"]
    assert len(built[0]) == 4


def test_a_sample_and_a_subset_can_be_said_shortly(built: Any, tmp_path: Path) -> None:
    short = fedrsic_data.build(
        "fed-rsic", tmp_path / "fed", sample={"per_class": 4, "size": 32}, subsets="fed-ucmerced", clients=4
    )
    assert short.manifest.digest == built.manifest.digest
    with pytest.raises(UsageError, match="per_clas"):
        fedrsic_data.build("fed-rsic", tmp_path / "x", sample={"per_clas": 4})


def test_a_finished_dataset_is_opened(built: Any) -> None:
    again = fedrsic_data.build("fed-rsic", built.folder, **SMALL)
    assert again.manifest == built.manifest
    with pytest.raises(OutputError, match="with overwrite=True, or choose another out$"):
        fedrsic_data.build("fed-rsic", built.folder, **{**SMALL, "alpha": 0.1})


def test_it_can_be_resplit_verified_and_handed_out(built: Any, tmp_path: Path) -> None:
    again = fedrsic_data.resplit(built, tmp_path / "again", partition="iid", clients=3)
    assert len(again[0]) == 3
    assert fedrsic_data.verify(again)
    sites = fedrsic_data.split_sites(again.folder, tmp_path / "sites")
    assert [site.name for site in sites][:3] == ["client-0000", "client-0001", "client-0002"]
    (again.folder / "README.md").write_text("mine")
    found = fedrsic_data.verify(again.folder)
    assert not found
    assert [problem.file for problem in found.problems] == ["README.md"]


def test_publishing_checks_its_arguments_before_it_asks_the_hub(built: Any) -> None:
    with pytest.raises(UsageError, match="USER/NAME"):
        fedrsic_data.publish(built, "no-name", dry_run=True)
    with pytest.raises(UsageError, match="pull request"):
        fedrsic_data.publish(built, "me/fed", create_pr=True, revision="x")


IMAGES: dict[str, Any] = {
    "arrays": (list(PIXELS), LABELS),
    "one array": (PIXELS, np.array(LABELS)),
    "pictures": ([Image.fromarray(pixels) for pixels in PIXELS], LABELS),
    "numbers": (PIXELS, torch.arange(24) % 3),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_in_memory_are_built(kind: str, tmp_path: Path) -> None:
    data = fedrsic_data.build(IMAGES[kind], tmp_path / "mine", name="trees", clients=2, partition="iid")
    pooled = data["trees"].pooled()
    assert data["trees"].classes in (("ash", "birch", "cedar"), ("0", "1", "2"))
    held = {np.asarray(image.convert("RGB")).tobytes() for image in pooled["image"][:]}
    held |= {np.asarray(image.convert("RGB")).tobytes() for image in data["trees"].pooled("test")["image"][:]}
    assert held == {pixels.tobytes() for pixels in PIXELS}
    assert fedrsic_data.verify(data)


def test_files_and_paths_keep_their_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(24)]
    for path, pixels in zip(paths, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    data = fedrsic_data.build((paths, LABELS), tmp_path / "mine", clients=2, partition="iid")
    files = [row["bytes"] for split in ("train", "test") for row in data[0].read(split)["image"].to_pylist()]
    assert sorted(files) == sorted(path.read_bytes() for path in paths)
    again = fedrsic_data.build(
        ([p.read_bytes() for p in paths], LABELS), tmp_path / "again", clients=2, partition="iid"
    )
    files = [row["bytes"] for split in ("train", "test") for row in again[0].read(split)["image"].to_pylist()]
    assert sorted(files) == sorted(path.read_bytes() for path in paths)


def test_a_datasets_dataset_keeps_its_class_names(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y", "z"])})
    images = [Image.fromarray(pixels) for pixels in PIXELS]
    rows = datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(24)]}, features=features)
    data = fedrsic_data.build(rows.select(range(2, 22)), tmp_path / "mine", clients=2, partition="iid")
    assert sum(data[0].entry.rows.values()) == 20
    assert data[0].classes[:2] == ("x", "y")


def test_the_same_images_with_other_class_names_or_of_another_slice_are_another_dataset(tmp_path: Path) -> None:
    images = [Image.fromarray(pixels) for pixels in PIXELS]

    def named(*names: str) -> datasets.Dataset:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
        return datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(24)]}, features=features)

    paths = {parquet_of(named("x", "y")), parquet_of(named("p", "q"))}
    table = pa.table({"image": [b"a", b"b", b"a", b"c"], "label": [0, 1, 0, 1]})
    paths |= {parquet_of(datasets.Dataset(table.slice(start, 2))) for start in (0, 2)}
    assert len(paths) == 4
    built = fedrsic_data.build(named("p", "q"), tmp_path / "mine", clients=2, partition="iid")
    assert built[0].classes == ("p", "q")


def test_label_lists_make_a_multi_label_dataset(tmp_path: Path) -> None:
    labels = [["a"] if i % 2 else ["a", "b"] for i in range(24)]
    data = fedrsic_data.build((PIXELS, labels), tmp_path / "mine", clients=2)
    assert data[0].entry.multi_label


@pytest.mark.parametrize("kind", [np.int64, np.bool_, np.float32, torch.tensor])
def test_a_multi_hot_matrix_makes_a_multi_label_dataset(kind: Any, tmp_path: Path) -> None:
    """As for ``partition``, a column of zeros is a class without images."""
    hot = np.array([[1, i % 2, 0, i % 3 == 0, 0] for i in range(24)])
    matrix = kind(hot) if kind is torch.tensor else hot.astype(kind)
    data = fedrsic_data.build((PIXELS, matrix), tmp_path / "mine", clients=2, partition="iid")
    assert data[0].classes == fedrsic_data.partition(matrix, "iid", clients=2).classes == tuple("01234")
    rows = [row for split in ("train", "test") for row in data[0].read(split).to_pylist()]
    held = {row["image"]["bytes"]: row["labels"] for row in rows}
    pixels = {np.asarray(Image.open(io.BytesIO(file))).tobytes(): labels for file, labels in held.items()}
    assert [pixels[image.tobytes()] for image in PIXELS] == [np.flatnonzero(row).tolist() for row in hot]
    assert fedrsic_data.verify(data)


def test_the_same_images_give_the_same_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = fedrsic_data.build((PIXELS, LABELS), tmp_path / "one", clients=2)
    other = fedrsic_data.build((PIXELS.copy(), list(LABELS)), tmp_path / "other", clients=2)
    assert one.manifest.digest == other.manifest.digest
    monkeypatch.setenv("FEDKIT_CACHE", str(tmp_path / "elsewhere"))
    moved = fedrsic_data.build((PIXELS, LABELS), tmp_path / "moved", clients=2)
    assert moved.manifest.digest == one.manifest.digest
    assert str(tmp_path) not in (moved.folder / "manifest.json").read_text()
    third = fedrsic_data.build((PIXELS[::-1], LABELS), tmp_path / "third", clients=2)
    assert third.manifest.digest != one.manifest.digest


@pytest.mark.parametrize(
    ("given", "more", "words"),
    [
        ("fed-rsik", {}, "fed-rsik"),
        ("fed-rsic", {"out": "s3://bucket/x"}, "s3://...: is a URL; give a local folder"),
        ("fed-rsic", {"alhpa": 1}, "did you mean 'alpha'?"),
        ("fed-rsic", {"alpha": object()}, "a setting cannot be written as JSON"),
        ("fed-rsic", {"alpha": -1}, "alpha=-1"),
        ("fed-rsic", {"subsets": ["x"]}, "no such subset"),
        ({"fedkit": 1}, {}, "'name' is missing"),
        (3, {}, "a int is no dataset"),
        (([], []), {}, "there are no images"),
        ((PIXELS, LABELS[:3]), {}, "24 images and 3 labels"),
        ((PIXELS / 255, LABELS), {}, "image 0 is float64 [16, 16, 3]"),
        ((np.zeros((24, 8, 8, 5), np.uint8), LABELS), {}, "image 0 has shape [8, 8, 5]"),
        (([b"no image"] * 24, LABELS), {}, "not an image"),
        ((["/nowhere/1.jpg"] * 24, LABELS), {}, "/nowhere/1.jpg"),
        ((PIXELS, [None] * 24), {}, "label"),
        ((PIXELS, LABELS), {"name": "a b"}, "'a b' is not a name"),
    ],
)
def test_bad_input_is_one_line(given: Any, more: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(FedkitError) as caught:
        fedrsic_data.build(given, **{"out": tmp_path / "out", "sample": isinstance(given, str), **more})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dataset_of_the_hub_has_to_be_downloaded(built: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(type(built), "where", property(lambda _: "hf://me/fed@0123"))
    with pytest.raises(UsageError, match="hf download"):
        fedrsic_data.resplit(built, tmp_path / "out")


def test_packages_are_still_packages_and_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys, fedrsic_data, fedrsic_data.build.pipeline, fedrsic_data.publish\n"
        "from fedrsic_data.build import pipeline\n"
        "assert fedrsic_data.build.pipeline is pipeline\n"
        "assert callable(fedrsic_data.build) and callable(fedrsic_data.publish) and callable(fedrsic_data.verify)\n"
        "assert not {'torch', 'matplotlib', 'datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("recipe", "arguments", "words"),
    [
        ("fed-rsic", {"subsets": ["fed-x"]}, "subset fed-x: the recipe has no such subset"),
        ("fed-rsic", {"alpah": 1}, "unknown key 'alpah' for partition dirichlet; did you mean 'alpha'?"),
        ("fed-rsic", {"jobs": 0}, "jobs=0 should be at least 1"),
        ("fed-rsic", {"sample": True, "sources": "x"}, "sources x: cannot be combined with sample=True"),
        ("fed-rsci", {}, "did you mean 'fed-rsic'?"),
        ("fed-rsic", {"sample": True, "out": "."}, "out .: is the current folder"),
    ],
)
def test_errors_speak_of_arguments_and_not_of_options(
    recipe: str, arguments: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FedkitError) as caught:
        fedrsic_data.build(recipe, **arguments)
    assert words in str(caught.value)
    assert "--" not in str(caught.value)


def test_commands_in_errors_stay_commands() -> None:
    @for_scripts
    def fail() -> None:
        raise UsageError("--set x: run fedkit build fed-rsic --subset a, or take --out")

    with pytest.raises(UsageError, match="^the setting x: run fedkit build fed-rsic --subset a, or take out$"):
        fail()
