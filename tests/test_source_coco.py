"""COCO: its layout in every mix of folders and archives, its label sets, and everything that can be wrong with it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import answer, fedkit, labels_and_digests, refused, tiny_image
from PIL import Image

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build.verify import verify
from fedrsic_data.errors import DownloadError, SourceError, UsageError
from fedrsic_data.raw.index import Index
from fedrsic_data.raw.json_items import lists
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources import configured, locate
from fedrsic_data.sources.coco import CATEGORY_IDS, CLASSES, SOURCE, Coco

CATEGORIES = [{"supercategory": "x", "id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASSES, strict=True)]

# image id -> category ids of its annotations, -id for a crowd region; ids have a gap at 12
TRAIN = {9: [1, 1, 90], 25: [-1], 30: [14, -14, -3], 34: [], 581929: [90]}
VAL = {139: [14, 1], 285: [], 632: [-2, 2]}


def annotation(image: int, category: int, number: int) -> dict[str, Any]:
    box = {"bbox": [1.5, 2.0, 3.25, 4e1], "area": 702.5, "id": number}
    polygon: Any = {"counts": [3, 4], "size": [8, 8]} if category < 0 else [[1.5, 2.25, 3.0, 4.0]]
    return {
        "segmentation": polygon,
        "iscrowd": int(category < 0),
        "image_id": image,
        "category_id": abs(category),
    } | box


def document(images: dict[int, list[int]], name: Callable[[int], str]) -> dict[str, Any]:
    """An annotation file as the authors write it."""
    pairs = [(image, category) for image, categories in images.items() for category in categories]
    return {
        "info": {"description": "COCO", "year": 2017, "version": "1.0"},
        "licenses": [{"id": 1, "name": "x"}],
        "images": [{"license": 4, "file_name": name(i), "height": 8, "width": 8, "id": i} for i in images],
        "annotations": [annotation(*pair, number) for number, pair in enumerate(pairs, 1)],
        "categories": CATEGORIES,
    }


def write_coco(root: Path, year: int = 2017) -> Path:
    """coco/{train,val}YEAR/*.jpg and coco/annotations/instances_{train,val}YEAR.json"""
    folder = root / "coco"
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for part, images in (("train", TRAIN), ("val", VAL)):
        prefix = f"COCO_{part}2014_" if year == 2014 else ""
        (folder / f"{part}{year}").mkdir()
        data = document(images, lambda i, prefix=prefix: f"{prefix}{i:012d}.jpg")
        (folder / "annotations" / f"instances_{part}{year}.json").write_text(json.dumps(data))
        for i in images:
            (folder / f"{part}{year}" / f"{prefix}{i:012d}.jpg").write_bytes(tiny_image(i, ".jpg"))
    return folder


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write_coco(tmp_path)


def packed(folder: Path, name: str) -> None:
    """Puts a folder into the zip archive it comes in."""
    with zipfile.ZipFile(folder.with_name(name), "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{folder.name}/{file.name}")
    shutil.rmtree(folder)


def annotated(folder: Path, change: Callable[[dict[str, Any]], object], part: str = "train") -> Path:
    path = folder / "annotations" / f"instances_{part}2017.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return folder


def sets(index: Index) -> dict[str, tuple[str, set[str]]]:
    """Sample id -> split and class names."""
    rows = index.table.to_pylist()
    assert all(row["labels"] == sorted(set(row["labels"])) for row in rows)
    return {row["sample_id"]: (row["split"], {index.classes[i] for i in row["labels"]}) for row in rows}


EXPECTED = {
    "coco/000000000009": ("train", {"person", "toothbrush"}),
    "coco/000000000025": ("train", {"person"}),
    "coco/000000000030": ("train", {"parking meter", "car"}),
    "coco/000000581929": ("train", {"toothbrush"}),
    "coco/000000000139": ("test", {"person", "parking meter"}),
    "coco/000000000632": ("test", {"bicycle"}),
}


def test_label_sets_splits_and_counts(coco: Path) -> None:
    index = SOURCE.index(coco)
    assert sets(index) == EXPECTED
    assert (index.classes, index.multi_label) == (CLASSES, True)
    assert [(left.reason, left.count, left.examples) for left in index.left_out] == [
        ("without objects in instances_train2017.json", 1, ("coco/000000000034",)),
        ("without objects in instances_val2017.json", 1, ("coco/000000000285",)),
    ]
    assert index.counts == {
        "crowd regions": 4,
        "labels of crowd regions alone": 2,
        "images of crowd regions alone": 1,
    }
    assert index.missing == (
        "instances_train2017.json lists 5 images; the published one 118,287",
        "instances_val2017.json lists 3 images; the published one 5,000",
    )
    first = index.table.to_pylist()[0]
    assert (first["domain"], first["group"], first["file"]) == ("coco", None, "000000000009.jpg")
    assert index.container.read([first["key"]]) == [tiny_image(9, ".jpg")]


def test_the_classes_are_those_of_the_ids() -> None:
    names = dict(zip(CATEGORY_IDS, CLASSES, strict=True))
    assert (len(names), names[1], names[13], names[14], names[90]) == (
        80,
        "person",
        "stop sign",
        "parking meter",
        "toothbrush",
    )


def test_images_without_objects_can_be_kept(coco: Path) -> None:
    index = configured("coco", {"unlabelled": "keep"}, "test").index(coco)
    assert sets(index) == EXPECTED | {"coco/000000000034": ("train", set()), "coco/000000000285": ("test", set())}
    assert index.left_out == ()


def test_2014_has_the_same_ids_under_other_names(tmp_path: Path) -> None:
    source = configured("coco", {"year": 2014}, "test")
    index = source.index(write_coco(tmp_path, 2014))
    assert sets(index) == EXPECTED
    assert index.table.column("file")[0].as_py() == "COCO_train2014_000000000009.jpg"
    assert {remote.filename for remote in source.facts.downloads} == {
        "train2014.zip",
        "val2014.zip",
        "annotations_trainval2014.zip",
    }
    with pytest.raises(SourceError, match="no annotations/instances_train2017.json"):
        SOURCE.index(tmp_path)
    with pytest.raises(UsageError, match="2015"):
        configured("coco", {"year": 2015}, "test")


@pytest.mark.parametrize("zips", [{"train2017"}, {"annotations", "val2017"}, {"train2017", "val2017", "annotations"}])
def test_any_mix_of_folders_and_zips_is_the_same_index(coco: Path, zips: set[str]) -> None:
    keep = ["sample_id", "labels", "split", "file"]
    folders = SOURCE.index(coco)
    pictures = folders.container.read(folders.table.column("key").to_pylist())
    for name in zips:
        packed(coco / name, "annotations_trainval2017.zip" if name == "annotations" else f"{name}.zip")
    index = SOURCE.index(coco)
    assert index.table.select(keep).equals(folders.table.select(keep))
    assert index.container.read(index.table.column("key").to_pylist()) == pictures
    assert index.fingerprint != folders.fingerprint


def test_one_zip_of_everything(coco: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in sorted(coco.rglob("*.*")):
            archive.write(file, f"data/{file.relative_to(coco)}")
    assert sets(SOURCE.index(tmp_path / "all.zip")) == EXPECTED


def test_a_file_in_a_folder_counts_before_one_in_an_archive(coco: Path) -> None:
    copy = coco.with_name("copy")
    shutil.copytree(coco / "val2017", copy / "val2017")
    packed(copy / "val2017", "val2017.zip")
    shutil.move(copy / "val2017.zip", coco / "val2017.zip")
    (coco / "val2017" / "000000000139.jpg").write_bytes(tiny_image(7, ".jpg"))
    (coco / "val2017" / "000000000632.jpg").unlink()
    index = SOURCE.index(coco)
    keys = dict(zip(index.table.column("sample_id").to_pylist(), index.table.column("key").to_pylist(), strict=True))
    read = index.container.read([keys["coco/000000000139"], keys["coco/000000000632"]])
    assert read == [tiny_image(7, ".jpg"), tiny_image(632, ".jpg")]


def test_images_that_no_file_lists_are_counted(coco: Path) -> None:
    (coco / "train2017" / "000000000001.jpg").write_bytes(b"")
    (coco / "train2017" / "notes.txt").write_bytes(b"")
    left = {left.reason: (left.count, left.examples) for left in SOURCE.index(coco).left_out}
    assert left["not listed in instances_train2017.json"] == (1, ("000000000001.jpg",))


def test_images_that_are_not_there(coco: Path) -> None:
    (coco / "train2017" / "000000000025.jpg").unlink()
    with pytest.raises(SourceError, match=r"1 of 5 images .*not in train2017.*: 000000000025.jpg.*--allow-partial"):
        SOURCE.index(coco)
    index = SOURCE.index(coco, allow_partial=True)
    assert sets(index) == {name: row for name, row in EXPECTED.items() if name != "coco/000000000025"}
    assert "1 of 5 images" in index.missing[0]
    assert index.counts["crowd regions"] == 3
    shutil.rmtree(coco / "val2017")
    with pytest.raises(SourceError, match="3 of 3 images .* no folder and no zip"):
        SOURCE.index(coco)
    shutil.rmtree(coco / "train2017")
    with pytest.raises(SourceError, match="5 of 5 images"):
        SOURCE.index(coco, allow_partial=True)


def test_one_split_alone(coco: Path) -> None:
    (coco / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(SourceError, match="no annotations/instances_val2017.json"):
        SOURCE.index(coco)
    assert {split for split, _ in sets(SOURCE.index(coco, allow_partial=True)).values()} == {"train"}


def test_a_copy_without_images(coco: Path) -> None:
    for part in ("train", "val"):
        annotated(coco, lambda data: data.update(images=[], annotations=[]), part)
    with pytest.raises(SourceError, match="holds no image of MS-COCO 2017 with labels; its lists are empty"):
        SOURCE.index(coco)


def put(part: str, at: int, key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda data: data[part][at].__setitem__(key, value)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an id twice": (put("images", 1, "id", 9), "image id 9 is listed twice"),
    "a file twice": (put("images", 1, "file_name", "000000000009.jpg"), "'000000000009.jpg' is listed twice"),
    "a negative id": (put("images", 1, "id", -5), "image id -5"),
    "an id too large": (put("images", 1, "id", 10**12), "image id 1000000000000"),
    "an id beyond all": (put("images", 1, "id", 10**30), "images: an item is malformed"),
    "an id with a fraction": (
        put("images", 1, "id", 25.0),
        "(id is not a whole number: null, or a number with a fraction",
    ),
    "an id in words": (put("images", 1, "id", "25"), "images: an item is malformed (id '25' is not a whole"),
    "a category with a fraction": (
        put("annotations", 1, "category_id", 3.0),
        "(category_id is not a whole number: null, or",
    ),
    "a category's id with a fraction": (
        put("categories", 1, "id", 2.0),
        "a category id is not a whole number: null, or",
    ),
    **{
        f"{key} of {part} that is true": (
            put(part, 0, key, True),
            f"{part}: an item is malformed ({key} true",
        )
        for part, key in (("images", "id"), ("annotations", "image_id"), ("annotations", "category_id"))
    },
    "a category's id that is true": (put("categories", 0, "id", True), "(id true is not a whole number)"),
    "a folder": (put("images", 1, "file_name", "train2017/x.jpg"), "'train2017/x.jpg' holds a folder, and COCO's own"),
    "a way out below": (put("images", 1, "file_name", "a/../../x.jpg"), "would leave the folder"),
    "no id": (lambda data: data["images"][1].pop("id"), "images: an item has no 'id'"),
    "no file": (lambda data: data["images"][1].pop("file_name"), "images: an item has no 'file_name'"),
    "a file that is none": (put("images", 1, "file_name", 7), "malformed"),
    "half a character": (put("images", 1, "file_name", "\ud800"), "cannot be read"),
    "a way out": (put("images", 1, "file_name", "../x.jpg"), "'../x.jpg' would leave the folder"),
    "another way out": (put("images", 1, "file_name", "a\\x.jpg"), "would leave the folder"),
    "the folder itself": (put("images", 1, "file_name", ".."), "would leave the folder"),
    "no name": (put("images", 1, "file_name", ""), "would leave the folder"),
    "an image that is none": (lambda data: data["images"].append(5), "images: an item is malformed"),
    "an annotation of nothing": (
        put("annotations", 1, "image_id", 10),
        "annotation 2 of 8 is of image 10, which is not",
    ),
    "a category in a gap": (put("annotations", 2, "category_id", 12), "annotation 3 of 8 is of category 12"),
    "a category too high": (put("annotations", 2, "category_id", 91), "annotation 3 of 8 is of category 91"),
    "no category": (
        lambda data: data["annotations"][0].pop("category_id"),
        "annotations: an item has no 'category_id'",
    ),
    "a crowd of two": (put("annotations", 0, "iscrowd", 2), "iscrowd 2"),
    "another class": (put("categories", 0, "name", "human"), "category 1 is 'human', which is not COCO's (person)"),
    "another id": (put("categories", 0, "id", 12), "category 12 is 'person', which is not COCO's (there is none)"),
    "a class too few": (lambda data: data["categories"].pop(), "lists 79 categories where COCO has 80"),
    "a class twice": (lambda data: data["categories"].append(CATEGORIES[0]), "lists a category twice"),
    "no list": (lambda data: data.pop("annotations"), "no list 'annotations'"),
    "no list of them": (lambda data: data.update(images={}), "'images' is not a list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_annotations_that_are_wrong(coco: Path, name: str) -> None:
    change, words = WRONG[name]
    with pytest.raises(SourceError) as caught:
        SOURCE.index(annotated(coco, change), allow_partial=True)
    assert words in str(caught.value)
    assert "instances_train2017.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_in_both_splits(coco: Path) -> None:
    def add(data: dict[str, Any]) -> None:
        data["images"].append({"id": 9, "file_name": "000000000009.jpg"})
        data["annotations"].append(annotation(9, 1, 99))

    shutil.copy(coco / "train2017" / "000000000009.jpg", coco / "val2017")
    with pytest.raises(SourceError, match="image coco/000000000009 is in both splits"):
        SOURCE.index(annotated(coco, add, "val"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"\x89PNG", "cannot be read"),
        (b'{"images": [{"id": 1', "at character"),
        (b'{"images": []} {}', "more than one object"),
        (b'{"images": [], "images": []}', "occurs twice"),
        (b'{"images": [], "info": ' + b"[" * 100_000, "recursion"),
        (b'{"images": [\xff]}', "utf-8"),
    ],
)
def test_files_that_are_no_annotations(coco: Path, text: bytes, words: str) -> None:
    (coco / "annotations" / "instances_train2017.json").write_bytes(text)
    with pytest.raises(SourceError, match=r"instances_train2017\.json: cannot be read") as caught:
        SOURCE.index(coco)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_lists_are_read_whatever_the_pieces(size: int) -> None:
    data = {
        "info": {"a": [1, {"images": [0]}], "b": "]}"},
        "images": [{"id": i, "name": "ü€𝄞" * i} for i in range(20)],
        "number": 12,
        "annotations": [],
        "mixed": [1, 22, -345, "x", None, True, [], {}],
    }
    for text in (json.dumps(data, ensure_ascii=False), json.dumps(data, indent=2), "\ufeff" + json.dumps(data) + " \n"):
        whole = text.encode()
        found: dict[str, list[Any]] = {"images": [], "annotations": [], "mixed": []}
        for key, item in lists((whole[i : i + size] for i in range(0, len(whole), size)), found):
            found[key].append(item)
        assert found == {key: data[key] for key in found}


def test_lists_take_what_they_need_and_no_more() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield b'{"images": ['
        while True:
            taken += 1
            yield b'{"id": 1, "polygon": [1.5, 2.5e3]},' * 100

    read = lists(endless(), ["images"])
    for _ in range(1000):
        assert next(read) == ("images", {"id": 1, "polygon": [None, None]})
    assert taken <= 12


ARCHIVES = ("annotations_trainval2017.zip", "train2017.zip", "val2017.zip")


@pytest.fixture
def archives(coco: Path) -> Path:
    """The three official archives side by side."""
    for name in ARCHIVES:
        packed(coco / name.removesuffix(".zip").replace("_trainval2017", ""), name)
    return Path(shutil.move(coco, coco.with_name("downloads")))


@pytest.fixture
def served(archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A server on this machine in the place of COCO's; gives the files asked of it."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path[1:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(archives)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    remotes = tuple(
        RemoteFile(
            f"http://127.0.0.1:{server.server_port}/{name}",
            name,
            (archives / name).stat().st_size,
            hashlib.sha256((archives / name).read_bytes()).hexdigest(),
        )
        for name in ARCHIVES
    )
    facts = replace(SOURCE.facts, downloads=remotes)
    monkeypatch.setattr(Coco, "facts", property(lambda _: facts))
    yield asked
    server.shutdown()
    server.server_close()


def test_every_archive_is_fetched_once_into_one_folder(served: list[str], tmp_path: Path) -> None:
    places = locate.Places(cache=tmp_path / "cache")
    with pytest.raises(SourceError, match="coco: not found .*--source coco=PATH"):
        locate.locate(SOURCE, replace(places, offline=True))
    told: list[str] = []
    path = locate.locate(SOURCE, places, lambda name: lambda _done, _total: told.append(name))
    assert path == tmp_path / "cache/sources/coco"
    assert sorted(served) == sorted(set(told)) == sorted(ARCHIVES)
    assert sets(SOURCE.index(path)) == EXPECTED
    assert locate.locate(SOURCE, replace(places, offline=True)) == path
    (path / "val2017.zip").unlink()
    with pytest.raises(SourceError, match="--offline"):
        locate.locate(SOURCE, replace(places, offline=True))
    assert locate.locate(SOURCE, places) == path
    assert served.count("val2017.zip") == 2
    assert served.count("train2017.zip") == 1
    (path / "train2017.zip").write_bytes(b"x")
    with pytest.raises(DownloadError, match="train2017.zip"):
        locate.locate(SOURCE, places)


def test_archives_are_found_by_their_official_names(archives: Path, tmp_path: Path) -> None:
    assert locate.find(SOURCE, locate.Places(folder=tmp_path)) == archives
    assert locate.find(SOURCE, locate.Places(folder=archives)) == archives
    shutil.copytree(archives, tmp_path / "more")
    with pytest.raises(SourceError, match="could both be coco; say which with --source coco=PATH"):
        locate.find(SOURCE, locate.Places(folder=tmp_path))
    assert locate.find(configured("coco", {"year": 2014}, "test"), locate.Places(folder=tmp_path)) is None


def photograph(mode: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 60).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def test_build_keeps_gray_and_cmyk_files_byte_for_byte(coco: Path, tmp_path: Path) -> None:
    odd = {
        "000000000009.jpg": photograph("L"),
        "000000000025.jpg": photograph("CMYK"),
        "000000000139.jpg": photograph("RGB", progressive=True),
    }
    for name, data in odd.items():
        next(coco.glob(f"*2017/{name}")).write_bytes(data)
    done = answer(fedkit("build", "coco", "--sources", tmp_path, "--clients", 2, "--json", cwd=tmp_path))
    assert done["subsets"]["coco"]["rows"] == {"train": 4, "test": 2}  # type: ignore[index]
    subset = fedrsic_data.open(tmp_path / "data/coco").subset("coco")
    rows = [row["image"] for split in subset.splits for row in subset.read(split, ["image"]).to_pylist()]
    assert odd.items() <= {row["path"]: row["bytes"] for row in rows}.items()
    assert len(rows) == len(EXPECTED)
    assert verify(tmp_path / "data/coco")[1] == []
    built = fedrsic_data.dataset.manifest.load(tmp_path / "data/coco")
    assert built.sources["coco"].counts["crowd regions"] == 4
    assert {left.reason: left.count for left in built.subsets["coco"].left_out} == {
        "without objects in instances_train2017.json": 1,
        "without objects in instances_val2017.json": 1,
    }


def test_load_dataset_has_names_for_the_labels(coco: Path, tmp_path: Path) -> None:
    import datasets

    answer(fedkit("build", "coco", "--sources", coco, "--clients", 2, "--json", cwd=tmp_path))
    loaded = datasets.load_dataset(str(tmp_path / "data/coco"), "coco", cache_dir=str(tmp_path / "hf"))
    features = loaded["train"].features
    assert isinstance(features["labels"], datasets.List)
    assert features["labels"].feature.names == list(CLASSES)
    assert isinstance(features["image"], datasets.Image)
    assert {name: part.num_rows for name, part in loaded.items()} == {"train": 4, "test": 2}
    row = next(row for row in loaded["train"] if row["sample_id"] == "coco/000000000009")
    assert [CLASSES[i] for i in row["labels"]] == ["person", "toothbrush"]


def test_a_recipe_sets_the_year_and_a_copy_that_lacks_images_is_one_line(coco: Path, tmp_path: Path) -> None:
    arguments = ("build", "coco", "--sources", tmp_path, "--clients", 2)
    refused(
        fedkit(*arguments, "--set", "sources.coco.year=2014"), "instances_train2014.json", "--allow-partial", codes=(1,)
    )
    (coco / "train2017" / "000000000030.jpg").unlink()
    refused(fedkit(*arguments, cwd=tmp_path), "000000000030.jpg", "--allow-partial", codes=(1,))
    done = answer(fedkit(*arguments, "--allow-partial", "--json", cwd=tmp_path))
    assert done["subsets"]["coco"]["rows"] == {"train": 3, "test": 2}  # type: ignore[index]


@pytest.mark.parametrize("name", [name for name in recipes.shipped() if name.split("-")[0] == "coco"])
def test_shipped_recipes_take_the_splits_of_the_source(name: str, coco: Path, tmp_path: Path) -> None:
    arguments = ("build", name, "--sources", coco, "--set", "clients=2", "--set", "min_size=1", "--json")
    done = answer(fedkit(*arguments, cwd=tmp_path))
    assert done["subsets"]["coco"]["rows"] == {"train": 4, "test": 2}  # type: ignore[index]
    assert verify(tmp_path / "data" / name)[1] == []


@pytest.mark.realdata
def test_real_images_have_the_labels_of_pycocotools(real_data: Path, tmp_path: Path) -> None:
    pycoco = pytest.importorskip("pycocotools.coco")
    expected = {}
    for part in ("train", "val"):
        theirs = pycoco.COCO(str(real_data / "coco" / "annotations" / f"instances_{part}2017.json"))
        for image in theirs.getImgIds():
            ids = {entry["category_id"] for entry in theirs.loadAnns(theirs.getAnnIds(image))}
            file = real_data / "coco" / f"{part}2017" / theirs.loadImgs(image)[0]["file_name"]
            expected[f"coco/{image:012d}"] = (
                {entry["name"] for entry in theirs.loadCats(sorted(ids))},
                hashlib.sha256(file.read_bytes()).hexdigest(),
            )
    assert built(real_data, tmp_path) == expected


@pytest.mark.realdata
def test_real_images_have_the_labels_of_a_plain_walk(real_data: Path, tmp_path: Path) -> None:
    expected = {}
    for part in ("train", "val"):
        data = json.loads((real_data / "coco" / "annotations" / f"instances_{part}2017.json").read_text())
        names = {category["id"]: category["name"] for category in data["categories"]}
        for image in data["images"]:
            mine = {names[entry["category_id"]] for entry in data["annotations"] if entry["image_id"] == image["id"]}
            file = (real_data / "coco" / f"{part}2017" / image["file_name"]).read_bytes()
            expected[f"coco/{image['id']:012d}"] = (mine, hashlib.sha256(file).hexdigest())
    assert built(real_data, tmp_path) == expected


def built(real_data: Path, tmp_path: Path) -> dict[str, tuple[set[str], str]]:
    """Labels and image digests by sample id, from a dataset that the command built and verified."""
    arguments = ("build", "coco", "--sources", real_data, "--clients", 4, "--json")
    done = answer(fedkit(*arguments, cwd=tmp_path))
    assert done["subsets"]["coco"]["rows"] == {"train": 20, "test": 20}  # type: ignore[index]
    assert verify(tmp_path / "data/coco")[1] == []
    subset = fedrsic_data.open(tmp_path / "data/coco").subset("coco")
    rows = [row for split in subset.splits for row in subset.read(split, ["image", "labels", "sample_id"]).to_pylist()]
    assert len(rows) == len({row["sample_id"] for row in rows})
    return labels_and_digests(subset, rows)
