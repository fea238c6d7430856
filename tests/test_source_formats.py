"""Annotations in public formats: the labels are those that were written, or the folder is refused in one line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import formats
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT, fedkit, tiny_image
from formats import NAMES, Truth, save

from fedrsic_data.build.verify import verify
from fedrsic_data.cli import new_recipe
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.raw.index import Index
from fedrsic_data.sources import SOURCES, configured

sys.path.insert(0, str(ROOT))
import cli

Command = Callable[..., str]
EVERY = [(kind, write) for kind, writers in formats.EXPORTS.items() for write in writers]


def index(kind: str, root: Path, **settings: Any) -> Index:
    return configured("mine", {"kind": kind, "path": str(root), **settings}, "test").index(root)


def told(found: Index) -> Truth:
    """Path -> split and classes, as the index has them."""
    rows = found.table.to_pylist()
    assert [row["sample_id"] for row in rows] == sorted(f"mine/{row['key']}" for row in rows)
    assert all(row["labels"] == sorted(set(row["labels"])) for row in rows)
    return {row["key"]: (row["split"], {found.classes[code] for code in row["labels"]}) for row in rows}


def named(official: Index) -> dict[str, set[str]]:
    """File name -> classes, as an official source has them."""
    return {row["file"]: {official.classes[code] for code in row["labels"]} for row in official.table.to_pylist()}


def draft(root: Path, *sets: str) -> new_recipe.Draft:
    return new_recipe.draft(new_recipe.settings(str(root), None, None, sets))


@pytest.mark.parametrize(("kind", "write"), EVERY, ids=[write.__name__ for _, write in EVERY])
def test_an_export_is_known_and_read_as_it_was_written(
    kind: str, write: Callable[[Path], Truth], tmp_path: Path
) -> None:
    expected = write(tmp_path / "mine")
    drafted = draft(tmp_path / "mine")
    source = drafted.recipe["sources"]["mine"]
    assert source["kind"] == kind
    found = index(kind, tmp_path / "mine")
    assert told(found) == expected
    names = {name for _, mine in expected.values() for name in mine}
    assert sorted(source["classes"]) == sorted(names)
    assert found.classes == tuple(source["classes"])
    assert found.multi_label
    images = {name: sum(name in mine for _, mine in expected.values()) for name in found.classes}
    assert drafted.seen["class_images"] == images
    bare = sum(not mine for _, mine in expected.values())
    assert found.counts["images without annotations, kept with no label"] == bare
    own = {split for split, _ in expected.values()} - {None}
    assert drafted.recipe["splits"] == ({} if own else {"test": 0.2})
    assert told(configured("mine", source, "test").index(tmp_path / "mine")) == expected, "by the recipe too"
    assert told(index(kind, tmp_path / "mine", unlabelled="leave_out")) == {k: v for k, v in expected.items() if v[1]}


def metadata_of_one_label(root: Path) -> Truth:
    """An ImageFolder whose table gives each image one class."""
    names = formats.pictures(root, [f"{i:03d}.png" for i in range(40)])
    rows = [f"{name},{NAMES[i % 2]}" for i, name in enumerate(names)]
    save(root / "metadata.csv", "\n".join(["file_name,label", *rows]))
    return {}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs the command in this process: what it printed."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["fedkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        assert left.value.code == 0, said.err
        return said.out

    return run


PICTURES = ("backbone_weights=none", "image_size=64", "epochs=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "method", "sets"),
    [
        (formats.roboflow_coco, "fedavg", PICTURES),
        (formats.cvat_voc, "fedavg", PICTURES),
        (formats.roboflow_yolo, "fedavg", PICTURES),
        (metadata_of_one_label, "promptfl", ("clip=tiny",)),
    ],
)
def test_three_commands_from_a_folder_to_a_trained_method(
    write: Callable[[Path], Truth], method: str, sets: tuple[str, ...], command: Command, tmp_path: Path
) -> None:
    write(tmp_path / "mine")
    said = command("new", "my.json", "--folder", "mine", "--clients", 2)
    assert f"fedkit train {method} --manifest data/mine" in said
    built = json.loads(command("build", "my.json", "--json"))
    assert sum(built["subsets"]["mine"]["rows"].values()) == 40
    assert verify(tmp_path / "data/mine")[1] == []
    wanted = ("train", method, "--manifest", "data/mine", "--rounds", 1, "--device", "cpu", "--json")
    (run,) = json.loads(command(*wanted, *(word for one in sets for word in ("--set", one))))["runs"]
    assert run["counters"]["updates"] == 2


def test_a_table_of_labels_in_the_folder_wins_and_the_message_says_so(tmp_path: Path) -> None:
    expected = formats.roboflow_yolo(tmp_path)
    rows = "\n".join(f"{path},{'odd' if i % 2 else 'even'}" for i, path in enumerate(expected))
    save(tmp_path / "labels.csv", f"file,label\n{rows}\n")
    drafted = draft(tmp_path)
    assert next(iter(drafted.recipe["sources"].values()))["kind"] == "folder"
    assert drafted.seen["classes"] == ["even", "odd"]
    assert drafted.hints[0].startswith("labels.csv is what counts, not test/labels/")
    assert "(yolo)" in drafted.hints[0]


def test_two_formats_in_one_folder_are_asked_about(tmp_path: Path) -> None:
    formats.label_studio_yolo(tmp_path)
    formats.label_studio_voc(tmp_path)
    with pytest.raises(SourceError, match="in 2 formats: .*choose with --set kind=voc_format or --set kind=yolo"):
        draft(tmp_path)
    assert next(iter(draft(tmp_path, "kind=yolo").recipe["sources"].values()))["kind"] == "yolo"
    with pytest.raises(UsageError, match="kinds of folders are folder, coco_format"):
        draft(tmp_path, "kind=ucmerced")


def test_what_was_found_and_decided_is_said(tmp_path: Path) -> None:
    formats.roboflow_coco(tmp_path / "a")
    shown = fedkit("new", "my.json", "--folder", "a", cwd=tmp_path).stdout
    for words in (
        "COCO format with its own categories",
        "40 images, 3 classes (cat, dog, rubber duck), 1.3 labels an image",
        "images of each: cat ",
        "splits: test 10, train 20, val 10",
        "8 images without annotations, kept with no label",
        "annotations: test/_annotations.coco.json (10 images), train/_annotations.coco.json (20 images), valid/",
        "pets: the category above others, without annotations, is no class",
        "its own splits are kept",
    ):
        assert words in shown, shown


def test_official_names_with_other_contents_are_data_of_ones_own(tmp_path: Path) -> None:
    """The folders of COCO and of the devkit, filled with classes that neither has."""
    places = {
        "train2017": [f"train2017/{i}.jpg" for i in range(20)],
        "val2017": [f"val2017/{i}.jpg" for i in range(20)],
    }
    of = formats.numbers(places)
    for split, paths in places.items():
        formats.pictures(tmp_path / "coco", paths)
        data = formats.coco([(Path(p).name, of[p]) for p in paths], dict(enumerate(NAMES, 1)))
        save(tmp_path / "coco" / f"annotations/instances_{split}.json", data)
    assert next(iter(draft(tmp_path / "coco").recipe["sources"].values()))["kind"] == "coco_format"
    expected = formats.truth(places, {"train2017": "train", "val2017": "val"})
    assert told(index("coco_format", tmp_path / "coco")) == expected
    formats.cvat_voc(tmp_path / "VOCdevkit/VOC2007")
    for place in (tmp_path / "VOCdevkit/VOC2007", tmp_path / "VOCdevkit"):
        assert next(iter(draft(place).recipe["sources"].values()))["kind"] == "voc_format"


def test_a_folder_of_the_official_classes_still_leads_to_the_official_recipe(tmp_path: Path) -> None:
    from fedrsic_data.sources.coco import CATEGORY_IDS, CLASSES

    official = {"categories": [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, CLASSES, strict=True)]}
    save(tmp_path / "a/annotations/instances_val2014.json", {"images": [], "annotations": [], **official})
    save(tmp_path / "b/VOC2012/ImageSets/Main/train.txt", "2008_000008\n")
    save(tmp_path / "b/VOC2012/Annotations/2008_000008.xml", formats.xml("x.jpg", ["horse", "person"]))
    for folder, name in (("a", "coco"), ("b", "voc")):
        with pytest.raises(UsageError, match=f"has the layout of {name}; run: fedkit build {name}"):
            new_recipe.settings(str(tmp_path / folder), None, None)


def test_one_class_an_image_can_be_a_single_label(tmp_path: Path) -> None:
    paths = formats.pictures(tmp_path, [f"images/{i}.jpg" for i in range(40)])
    for number, path in enumerate(paths):
        save(tmp_path / f"labels/{Path(path).stem}.txt", f"{number % 3} 0.5 0.5 1 1\n")
    save(tmp_path / "data.yaml", f"names: {list(NAMES)}\n")
    drafted = draft(tmp_path)
    assert drafted.seen["multi_label"]
    assert any("--set labels=single makes a single-label dataset" in note for note in drafted.seen["notes"])
    drafted = draft(tmp_path, "labels=single")
    assert not drafted.seen["multi_label"]
    assert next(iter(drafted.recipe["sources"].values()))["labels"] == "single"
    save(tmp_path / "labels/7.txt", "0 0.5 0.5 1 1\n1 0.5 0.5 1 1\n")
    with pytest.raises(SourceError, match=r"images/7.jpg has 2 classes \(cat, dog\), where each image must have one"):
        draft(tmp_path, "labels=single")
    save(tmp_path / "labels/7.txt", "")
    with pytest.raises(SourceError, match=r"images/7.jpg has no class.*1 images have none.*unlabelled=leave_out"):
        draft(tmp_path, "labels=single")
    assert draft(tmp_path, "labels=single", "unlabelled=leave_out").seen["images"] == 39


def test_the_classes_of_the_recipe_are_the_label_space(tmp_path: Path) -> None:
    expected = formats.roboflow_voc(tmp_path)
    order = ("zebra", "dog", "rubber duck", "cat")
    found = index("voc_format", tmp_path, classes=order)
    assert found.classes == order
    assert told(found) == expected
    assert "1 class has no image (zebra); it stays in the label space" in found.notes
    with pytest.raises(SourceError, match="has class 'rubber duck', which is not one of the 2 of the recipe"):
        index("voc_format", tmp_path, classes=("cat", "dog"))


def test_yolo_numbers_can_be_named_by_the_recipe(tmp_path: Path) -> None:
    expected = formats.label_studio_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(SourceError, match="no data.yaml with names, and no obj.names or classes.txt; name the classes"):
        draft(tmp_path)
    assert told(index("yolo", tmp_path, classes=list(NAMES))) == expected


def test_yaml_names_are_texts_whatever_they_look_like(tmp_path: Path) -> None:
    formats.label_studio_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    save(tmp_path / "data.yaml", "names: [no, 1.0, 0x1f]\n")
    assert index("yolo", tmp_path).classes == ("no", "1.0", "0x1f")


def test_images_for_training_and_validation_alike_are_for_training(tmp_path: Path) -> None:
    formats.ultralytics(tmp_path)
    save(tmp_path / "data.yaml", "train: images/train\nval: images/train\ntest: nowhere\nnames: [a, b, c]\n")
    found = index("yolo", tmp_path)
    assert "data.yaml gives val the images of train: they are train alone" in found.notes
    assert "data.yaml gives test nowhere, which holds no image here" in found.notes
    assert {split for path, (split, _) in told(found).items() if "train" in path} == {"train"}


def test_difficult_objects_count_unless_they_are_left_out(tmp_path: Path) -> None:
    formats.roboflow_voc(tmp_path)
    file = next((tmp_path / "train").glob("*.xml"))
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    found = index("voc_format", tmp_path)
    assert (found.counts["objects"], found.counts["difficult objects"]) == (96, 3)
    path = file.with_suffix(".jpg").relative_to(tmp_path).as_posix()
    assert told(found)[path][1]
    assert told(index("voc_format", tmp_path, difficult="leave_out"))[path][1] == set()


def test_a_list_of_a_class_does_not_bring_difficult_objects_back(tmp_path: Path) -> None:
    formats.cvat_voc(tmp_path)
    save(
        tmp_path / "Annotations/tr 000.xml",
        formats.xml("tr 000.jpg", ["cat", "dog"]).replace("<difficult>0", "<difficult>1"),
    )
    for name in ("dog", "indoors"):
        save(tmp_path / f"ImageSets/Main/{name}_train.txt", "tr 000 1\n")
    found = told(index("voc_format", tmp_path, difficult="leave_out"))
    assert found["JPEGImages/tr 000.jpg"] == ("train", {"indoors"})


@pytest.mark.realdata
def test_real_images_have_the_labels_that_the_official_sources_read(real_data: Path) -> None:
    def labels(found: Index) -> dict[str, set[str]]:
        return {Path(path).name: mine for path, (_, mine) in told(found).items()}

    devkit = real_data / "voc/VOCdevkit/VOC2012"
    mine = index("voc_format", devkit, difficult="leave_out", unlabelled="leave_out")
    official = configured("voc", {}, "").index(real_data / "voc", allow_partial=True)
    assert labels(mine) == named(official)
    mine = index("coco_format", real_data / "coco")
    official = configured("coco", {"unlabelled": "keep"}, "").index(real_data / "coco", allow_partial=True)
    assert (labels(mine), mine.classes) == (named(official), official.classes)


def test_entries_of_one_image_are_joined_and_counted(tmp_path: Path) -> None:
    """Label Studio writes an entry for each person who annotated an image."""
    formats.label_studio_coco(tmp_path)
    data = json.loads((tmp_path / "result.json").read_text())
    data["images"].append({**data["images"][1], "id": 99})
    data["annotations"].append({"id": 999, "image_id": 99, "category_id": 2})
    save(tmp_path / "result.json", data)
    found = index("coco_format", tmp_path)
    assert found.counts["entries of images that have one already, joined"] == 1
    assert told(found)[data["images"][1]["file_name"]][1] == {"dog", "rubber duck"}


def test_images_that_no_annotation_file_lists_are_left_out_and_counted(tmp_path: Path) -> None:
    formats.roboflow_coco(tmp_path / "a")
    formats.pictures(tmp_path / "a", ["train/new.jpg"])
    assert [(left.reason, left.count) for left in index("coco_format", tmp_path / "a").left_out] == [
        ("not named as an image", 1),
        ("in no annotation file", 1),
    ]
    formats.cvat_voc(tmp_path / "b")
    formats.pictures(tmp_path / "b", ["JPEGImages/new.jpg"])
    reasons = [left.reason for left in index("voc_format", tmp_path / "b").left_out]
    assert "in no list of ImageSets/Main" in reasons
    formats.metadata_csv(tmp_path / "c")
    formats.pictures(tmp_path / "c", ["train/new.jpg"])
    assert [left.reason for left in index("metadata", tmp_path / "c").left_out] == ["not in metadata.csv"]


def test_names_match_whatever_their_unicode_form(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9.jpg", "cafe\u0301.jpg"
    formats.pictures(tmp_path, [f"images/{apart}", "images/b.jpg"])
    data = formats.coco([(composed, 0), ("b.jpg", 1)], dict(enumerate(NAMES, 1)))
    save(tmp_path / "result.json", data)
    assert set(told(index("coco_format", tmp_path))) == {f"images/{apart}", "images/b.jpg"}
    save(tmp_path / "metadata.csv", f"file_name,label\nimages/{composed},a\nimages/b.jpg,b\n")
    assert told(index("metadata", tmp_path))[f"images/{apart}"] == (None, {"a"})


def edited(file: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    save(file, data)


def no_image(data: Any) -> None:
    data["annotations"][3]["image_id"] = 1234


def no_category(data: Any) -> None:
    data["annotations"][3]["category_id"] = 3.5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_image, r"_annotations.coco.json: annotations: item 4 has image_id 1234, which is not among its images"),
        (no_category, r"annotations: item 4 has category_id 3.5, which is not an id"),
        (
            lambda d: d["annotations"][3].update(category_id="x"),
            "item 4 has category_id 'x', which is not among its cat",
        ),
        (lambda d: d["annotations"][3].update(category_id=None), "item 4 has category_id None, which is not an id"),
        (lambda d: d["annotations"][3].pop("category_id"), "annotations: item 4 has no category_id"),
        (lambda d: d["annotations"].append(7), "annotations: item 49 is 7, not an object"),
        (lambda d: d["images"][0].update(file_name="gone.jpg"), "images: item 1: 'gone.jpg' is no image below"),
        (
            lambda d: d["images"][0].update(file_name="../../gone.jpg"),
            "images: item 1: '../../gone.jpg' leaves the folder",
        ),
        (lambda d: d["images"][0].update(file_name=""), "images: item 1 has file_name '', which is not text"),
        (lambda d: d["images"][1].update(id=0), "images: item 2 has id 0, which another has"),
        (lambda d: d["categories"][2].update(id=1.0), "categories: item 3 has id 1, which another has"),
        (lambda d: d["categories"][2].update(name="cat"), "categories: item 3 is called 'cat', as another is"),
        (lambda d: d.update(images={}), "cannot be read .*'images' is not a list"),
    ],
)
def test_a_coco_file_that_is_wrong_is_refused(change: Callable[[Any], object], words: str, tmp_path: Path) -> None:
    formats.roboflow_coco(tmp_path)
    edited(tmp_path / "train/_annotations.coco.json", change)
    with pytest.raises(SourceError, match=words) as raised:
        index("coco_format", tmp_path)
    assert "\n" not in str(raised.value)


def test_a_coco_name_that_could_be_two_images_is_refused(tmp_path: Path) -> None:
    formats.cvat_coco_whole(tmp_path)
    edited(tmp_path / "annotations/instances_default.json", lambda d: d["images"][0].update(file_name="000.jpg"))
    with pytest.raises(SourceError, match="item 1: '000.jpg' could be images/a/000.jpg or images/b/000.jpg"):
        index("coco_format", tmp_path)


def test_an_image_of_two_coco_files_is_refused(tmp_path: Path) -> None:
    formats.label_studio_coco(tmp_path)
    save(tmp_path / "old.json", (tmp_path / "result.json").read_text())
    with pytest.raises(SourceError, match=r"is in old.json and in result.json; move one of them away"):
        index("coco_format", tmp_path)


ENTITY = (
    '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><object><name>&e;</name></object></annotation>'
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (ENTITY, "declares a document type"),
        ("<annotation>", "not valid XML"),
        ("<kml></kml>", "its root is <kml>, not <annotation>"),
        ("<annotation><object><pose/></object></annotation>", "object 1 has no name"),
        ("<annotation><object><name>a</name><name>b</name></object></annotation>", "object 1 has two of <name>"),
    ],
)
def test_a_voc_file_that_is_wrong_is_refused(content: str, words: str, tmp_path: Path) -> None:
    formats.label_studio_voc(tmp_path)
    save(tmp_path / "Annotations/00000000-a.xml", content)
    with pytest.raises(SourceError, match=f"00000000-a.xml: {words}"):
        index("voc_format", tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("Annotations/new.xml", formats.xml("new.jpg", ["cat"]), "new.xml: 'new.jpg' is no image below"),
        ("Annotations/new.xml", formats.xml("../../x.jpg", ["cat"]), "new.xml: '../../x.jpg' leaves the folder"),
        (
            "JPEGImages/te 000.xml",
            formats.xml("te 000.jpg", ["cat"]),
            "is of JPEGImages/te 000.jpg, as Annotations/te 000.xml",
        ),
        ("ImageSets/Main/test.txt", "te 000\nte 099\n", "test.txt: line 2: 'te 099' is no image below"),
        ("ImageSets/Main/val.txt", "te 000\n", "line 1: 'te 000' is in test.txt|line 1: '.te 000.' is in val.txt"),
        (
            "ImageSets/Main/dog_test.txt",
            "te 000 maybe\n",
            "dog_test.txt: line 1: 'te 000 maybe' should end in 1, 0 or -1",
        ),
    ],
)
def test_a_voc_folder_that_is_wrong_is_refused(file: str, content: str, words: str, tmp_path: Path) -> None:
    formats.cvat_voc(tmp_path)
    save(tmp_path / file, content)
    with pytest.raises(SourceError, match=words):
        index("voc_format", tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("labels/train/001.txt", "0 .5 .5 .1 .1\n3 .5 .5 .1 .1\n", "001.txt: line 2: class 3 is not one of the 3 that"),
        ("labels/train/001.txt", "-1 .5 .5 .1 .1\n", "001.txt: line 1: class -1 is not one of the 3 that data.yaml"),
        (
            "labels/train/001.txt",
            "0 .5 .5 .1\n",
            "001.txt: line 1: '0 .5 .5 .1' should be a class number and at least four more",
        ),
        (
            "labels/train/001.txt",
            "cat .5 .5 .1 .1\n",
            "001.txt: line 1: 'cat .5 .5 .1 .1' should be a class number and at least four more",
        ),
        (
            "labels/train/001.txt",
            "0 .5 .5 .1 nan\n",
            "001.txt: line 1: '0 .5 .5 .1 nan' should be a class number and at least four more",
        ),
        ("labels/train/new.txt", "0 .5 .5 .1 .1\n", "labels/train/new.txt: there is no image of this name"),
        ("new.txt", "0 .5 .5 .1 .1\n", "new.txt: there is no image of this name"),
        ("data.yaml", "names: {a: cat}\n", "data.yaml: names: 'a' is not the number of a class"),
        ("data.yaml", "names: [cat, cat]\n", "data.yaml: class 'cat' occurs twice"),
        ("data.yaml", "names: &n [a, *n]\n", "data.yaml: not valid YAML .found unconstructable recursive node"),
        ("data.yaml", "nc: 4\nnames: [a, b, c]\n", "data.yaml: nc is '4', but names has 3 classes"),
        ("data.yaml", "names: [a\n", "data.yaml: not valid YAML"),
        ("data.yaml", "names: !!python/object/apply:os.getcwd []\n", "data.yaml: names should be a list of classes"),
        ("other.yaml", "names: [a, b]\n", "data.yaml and other.yaml name different classes"),
        (
            "data.yaml",
            "train: images\nval: images/val\nnames: [a, b, c]\n",
            "is in train and in val; give each image one",
        ),
    ],
)
def test_a_yolo_folder_that_is_wrong_is_refused(file: str, content: str, words: str, tmp_path: Path) -> None:
    formats.ultralytics(tmp_path)
    save(tmp_path / file, content)
    with pytest.raises(SourceError, match=words) as raised:
        index("yolo", tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "metadata.csv",
            "file_name,label\n000.png,a\ngone.png,b\n",
            "line 3: file_name 'gone.png': there is no image train/",
        ),
        ("metadata.csv", "file_name,label\n../test/020.png,a\n", "line 2: file_name '../test/020.png' is not below"),
        ("metadata.csv", "file_name,label\n/000.png,a\n", "line 2: file_name '/000.png' is not below the folder"),
        (
            "metadata.csv",
            "file_name,label\n000.png,a\n000.png,b\n",
            "line 3: train/000.png is in .*line 2 too; keep one",
        ),
        ("metadata.csv", "file,label\n000.png,a\n", "line 2: has no file_name; it has file, label"),
        ("metadata.csv", "file_name,label\n000.png\n", "line 2 has 1 fields, the header 2"),
        (
            "metadata.csv",
            "file_name,text\n000.png,a dog\n",
            r"no column of labels \(columns: text\); name it with --set label=",
        ),
        ("metadata.csv", "file_name,label\n000.png,a\n001.png,\n", "train/001.png has no class, where each image must"),
        ("metadata.csv", "file_name,labels\n000.png,\"['a', 'b']\"\n", "line 2: 'labels' is .*put ; between classes"),
        ("metadata.csv", "file_name,label,split\n000.png,a,\n", "line 2: 'split' is ''; give a text to every image"),
        ("metadata.jsonl", '{"file_name": "000.png", "label": 1.5}\n', "line 1: 'label' has 1.5, which is neither"),
        (
            "metadata.jsonl",
            '{"file_name": "000.png", "label": "a"}\n{"file_name": "001.png"}\n',
            "line 2: has no 'label'",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "000.png", "objects": {"bbox": []}}\n',
            "line 1: 'objects' has none of categories",
        ),
        ("metadata.jsonl", '{"file_name": "000.png"\n', "line 1: not valid JSON"),
        ("metadata.jsonl", '["000.png"]\n', "line 1: should be a JSON object"),
    ],
)
def test_a_table_of_metadata_that_is_wrong_is_refused(name: str, content: str, words: str, tmp_path: Path) -> None:
    formats.metadata_csv(tmp_path)
    for folder in ("train", "test"):
        (tmp_path / folder / "metadata.csv").unlink()
    save(tmp_path / "train" / name, content)
    with pytest.raises(SourceError, match=words):
        index("metadata", tmp_path)


@pytest.mark.parametrize(
    ("rows", "classes", "multi"),
    [
        (['"label": "b"', '"label": "a"'], ("a", "b"), False),
        (['"label": 10', '"label": 9'], ("9", "10"), False),
        (['"label": ["b", "a"]', '"label": null'], ("a", "b"), True),
        (['"label": [10, 9]', '"label": [10]'], ("9", "10"), True),
        (['"labels": "b;a"', '"labels": ""'], ("a", "b"), True),
        (['"objects": [{"category": "b"}, {"category": "a"}]', '"objects": []'], ("a", "b"), True),
        (['"x": 1, "y": 0', '"x": 1, "y": 1'], ("x", "y"), True),
    ],
)
def test_columns_of_labels(rows: list[str], classes: tuple[str, ...], multi: bool, tmp_path: Path) -> None:
    names = formats.pictures(tmp_path, ["0.png", "1.png"])
    lines = [f'{{"file_name": "{name}", {row}}}' for name, row in zip(names, rows, strict=True)]
    save(tmp_path / "metadata.jsonl", "\n".join(lines))
    found = index("metadata", tmp_path)
    assert (found.classes, found.multi_label) == (classes, multi)


def test_users_domains_and_splits_of_a_table_are_used(tmp_path: Path) -> None:
    names = formats.pictures(tmp_path, [f"{i}.png" for i in range(40)])
    people, places = ("ann", "bob"), ("sea", "land", "air")
    rows = [
        f"{n},{'xy'[i % 2]},{people[i % 2]},{places[i % 3]},{'test' if i > 30 else 'train'}"
        for i, n in enumerate(names)
    ]
    save(tmp_path / "mine/metadata.csv", "\n".join(["file_name,species,user,domain,split", *rows]))
    for name in names:
        (tmp_path / name).rename(tmp_path / "mine" / name)
    drafted = draft(tmp_path / "mine", "label=species")
    assert drafted.seen["users"] == 2
    assert drafted.seen["domains"] == {"air": 13, "land": 13, "sea": 14}
    assert drafted.seen["splits"] == {"test": 9, "train": 31}
    with pytest.raises(SourceError, match="label='specis': the tables have no such column; did you mean 'species'"):
        draft(tmp_path / "mine", "label=specis")


def test_a_table_above_folders_of_splits_is_read_and_it_is_said(tmp_path: Path) -> None:
    formats.metadata_jsonl(tmp_path)
    assert any("load_dataset would not see metadata.jsonl" in note for note in draft(tmp_path).seen["notes"])


def test_the_configs_of_a_readme_are_never_joined(tmp_path: Path) -> None:
    """A clone of a dataset of the Hub, with tables of metadata and two configs."""
    formats.metadata_csv(tmp_path / "mine/large")
    expected = formats.metadata_csv(tmp_path / "mine/small")
    files = "[{split: train, path: 'small/train/**'}, {split: validation, path: 'small/test/**'}]"
    configs = f"configs: [{{config_name: large, data_dir: large}}, {{config_name: small, data_files: {files}}}]"
    save(tmp_path / "mine/README.md", f"---\n{configs}\n---\n")
    with pytest.raises(SourceError, match="holds several configs: large, small"):
        draft(tmp_path / "mine")
    found = index("metadata", tmp_path / "mine", config="small")
    renamed = {"train": "train", "test": "val"}
    assert told(found) == {f"small/{path}": (renamed[split], mine) for path, (split, mine) in expected.items()}
    assert "config small of README.md: 40 of 80 images" in found.notes
    large = told(index("metadata", tmp_path / "mine", config="large"))
    assert large == {f"large/{path}": told for path, told in expected.items()}


def test_lists_of_classes_without_labels_leave_a_folder_of_classes_as_it_was(tmp_path: Path) -> None:
    """CUB has a classes.txt and lists beside its folders of classes."""
    formats.pictures(tmp_path, [f"{c}/{i}.jpg" for c in ("owl", "jay") for i in range(20)])
    save(tmp_path / "classes.txt", "1 owl\n2 jay\n")
    save(tmp_path / "images.txt", "1 owl/0.jpg\n")
    save(tmp_path / "notes.json", {"images": 40})
    (tmp_path / "owl/0.txt").write_bytes(b"ein K\xe4uzchen, 3 4 5")
    save(tmp_path / "owl/1.txt", "an owl on a branch")
    save(tmp_path / "map.xml", "<kml/>")
    drafted = draft(tmp_path)
    assert next(iter(drafted.recipe["sources"].values()))["kind"] == "folder"
    assert drafted.seen["classes"] == ["jay", "owl"]


def test_nothing_outside_the_folder_is_opened(tmp_path: Path) -> None:
    """Every way to name a file elsewhere is refused, or means an image inside."""
    formats.pictures(tmp_path, ["secret.jpg"])
    formats.label_studio_yolo(tmp_path / "mine")
    save(
        tmp_path / "mine/data.yaml",
        "path: ..\ntrain: ['.', '/', '../secret.jpg']\nval: images\nnames: [cat, dog, rubber duck]\n",
    )
    assert all(path.startswith("images/") for path in told(index("yolo", tmp_path / "mine")))
    formats.label_studio_coco(tmp_path / "other")
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg"), f"file://{tmp_path}/secret.jpg"):
        edited(tmp_path / "other/result.json", lambda d, name=name: d["images"][0].update(file_name=name))
        with pytest.raises(SourceError, match="leaves the folder|is no image below"):
            index("coco_format", tmp_path / "other")


VECTORS = {
    "metadata.jsonl": ["[1, 0, 1]", "[0, 0, 0]", "[true, false, false]", "[0.0, 1.0, 1.0]"],
    "metadata.csv": ['"[1, 0, 1]"', '"[0, 0, 0]"', '"[1, 0, 0]"', '"[0, 1, 1]"'],
}


def vectors(root: Path, name: str) -> None:
    """Four images, and a table whose column ``labels`` has a 0 or 1 for each of three classes."""
    names = formats.pictures(root, [f"{i}.png" for i in range(4)])
    rows = zip(names, VECTORS[name], strict=True)
    if name.endswith(".csv"):
        lines = ["file_name,labels", *(f"{image},{vector}" for image, vector in rows)]
    else:
        lines = [f'{{"file_name": "{image}", "labels": {vector}}}' for image, vector in rows]
    save(root / name, "\n".join(lines))


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_0_and_1_in_a_table_are_labels_under_the_names_that_are_given(name: str, tmp_path: Path) -> None:
    vectors(tmp_path, name)
    found = index("metadata", tmp_path, classes=["x", "y", "z"])
    assert (found.classes, found.multi_label) == (("x", "y", "z"), True)
    assert found.table.column("labels").to_pylist() == [[0, 2], [], [0], [1, 2]]


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize(
    ("classes", "has"), [([], "they have no names"), (["x", "y"], "there are names for 2 classes")]
)
def test_vectors_of_0_and_1_in_a_table_are_never_read_as_classes_0_and_1(
    name: str, classes: list[str], has: str, tmp_path: Path
) -> None:
    vectors(tmp_path, name)
    with pytest.raises(SourceError, match=f"'labels' holds vectors of 3 zeros and ones, and {has}; name the 3 classes"):
        index("metadata", tmp_path, classes=classes)


def test_a_table_in_parquet_beside_images_is_never_passed_over(tmp_path: Path) -> None:
    names = formats.pictures(tmp_path, [f"{c}/{i}.png" for c in "ab" for i in range(2)])
    pq.write_table(pa.table({"file_name": names, "label": ["x", "y", "x", "y"]}), tmp_path / "metadata.parquet")
    with pytest.raises(SourceError, match=r"metadata.parquet: tables of .* are read as CSV or JSON lines; write it as"):
        draft(tmp_path)
    assert draft(tmp_path, "kind=folder").seen["classes"] == ["a", "b"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_with_the_name_of_annotations_is_no_annotation_file(tmp_path: Path) -> None:
    (tmp_path / "beach").mkdir()
    (tmp_path / "beach" / "a.png").write_bytes(tiny_image(1, ".png"))
    os.mkfifo(tmp_path / "_annotations.coco.json")  # to open it would be to wait for ever
    done = fedkit("new", tmp_path.parent / "mine.json", "--folder", tmp_path)
    assert done.returncode in (0, 1, 2)
    assert "beach" in done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["beach/a.xml", "Annotations/a.xml", "beach/a.txt", "data.yaml", "beach/b.png"])
def test_a_pipe_among_the_files_is_never_waited_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "beach").mkdir()
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "beach" / "a.png").write_bytes(tiny_image(1, ".png"))
    os.mkfifo(tmp_path / name)
    done = fedkit("new", tmp_path.parent / "mine.json", "--folder", tmp_path)
    assert done.returncode in (0, 1, 2)
    assert "this is a bug" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("kind", ["folder", "ucmerced"])
def test_what_is_named_as_an_image_and_is_no_file_is_called_what_it_is(kind: str, tmp_path: Path) -> None:
    (tmp_path / "beach").mkdir()
    (tmp_path / "forest").mkdir()
    for name in ("beach/a.png", "forest/a.png"):
        (tmp_path / name).write_bytes(tiny_image(1, ".png"))
    (tmp_path / "beach/notes.txt").write_text("x")
    os.mkfifo(tmp_path / "beach/b.png")
    (tmp_path / "beach/c.png").symlink_to("nowhere.png")
    (tmp_path / "beach/d.png").symlink_to("/dev/null")
    (tmp_path / "beach/e.png").symlink_to("b.png")
    found = SOURCES[kind].index(tmp_path, allow_partial=True) if kind in SOURCES else index(kind, tmp_path)
    assert {left.reason: left.examples for left in found.left_out} == {
        "not named as an image": ("beach/notes.txt",),
        "a pipe and no file": ("beach/b.png", "beach/e.png"),
        "a link that leads nowhere": ("beach/c.png",),
        "a device and no file": ("beach/d.png",),
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_listed_name_of_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(tiny_image(1, ".png"))
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("nowhere.png")
    for name, words in (("b.png", "is a pipe and no file"), ("c.png", "is a link that leads nowhere")):
        (tmp_path / "labels.csv").write_text(f"file,label\na.png,x\n{name},x\n")
        with pytest.raises(SourceError, match=words):
            index("folder", tmp_path)
