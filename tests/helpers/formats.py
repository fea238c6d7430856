"""Folders as the exporters of annotations lay them out, all of the same photographs and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from conftest import tiny_image

NAMES = ("cat", "dog", "rubber duck")
HASHED = "_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9"

Truth = dict[str, tuple[str | None, set[str]]]
"""Path of an image -> its split and its classes."""


def labels(number: int) -> list[str]:
    """The objects of an image, some of them alike; every fifth image has none."""
    return [] if number % 5 == 4 else [NAMES[number % 3], NAMES[number % 3], NAMES[number % 2]]


def pictures(root: Path, paths: Sequence[str]) -> list[str]:
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tiny_image(number, file.suffix.lower()))
    return list(paths)


def numbered(places: Mapping[str, int], form: str) -> dict[str, list[str]]:
    """Split -> paths, numbered through."""
    found, at = {}, 0
    for split, count in places.items():
        found[split] = [form.format(split=split, i=i) for i in range(at, at + count)]
        at += count
    return found


SIZES = {"train": 20, "valid": 10, "test": 10}
CALLED = {"train": "train", "valid": "val", "test": "test"}


def truth(places: Mapping[str, Sequence[str]], splits: Mapping[str, str | None] | None = None) -> Truth:
    paths = [(split, path) for split, mine in places.items() for path in mine]
    named = CALLED if splits is None else splits
    return {path: (named[split], set(labels(number))) for number, (split, path) in enumerate(paths)}


def numbers(places: Mapping[str, Sequence[str]]) -> dict[str, int]:
    return {path: number for number, path in enumerate(path for mine in places.values() for path in mine)}


def coco(
    names: Sequence[tuple[str, int]], categories: Mapping[Any, str], start: int = 1, **category: Any
) -> dict[str, Any]:
    """A COCO file of images by name and number; the id of a category may be of any type."""
    ids = {name: one for one, name in categories.items()}
    images = [{"id": start + i, "file_name": name, "width": 8, "height": 8} for i, (name, _) in enumerate(names)]
    objects = [(start + i, one) for i, (_, number) in enumerate(names) for one in labels(number)]
    annotations = [
        {"id": i, "image_id": image, "category_id": ids[one], "bbox": [0.5, 1.0, 2.25, 3], "area": 6.75, "iscrowd": 0}
        for i, (image, one) in enumerate(objects)
    ]
    listed = [{"id": one, "name": name, **category} for one, name in categories.items()]
    return {"info": {}, "licenses": [], "categories": listed, "images": images, "annotations": annotations}


def save(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data, indent=1))


def roboflow_coco(root: Path) -> Truth:
    """``train/_annotations.coco.json`` beside flat images; the project's name is category 0, above all others."""
    places = numbered(SIZES, "{split}/img{i:03d}" + HASHED + ".jpg")
    of = numbers(places)
    for split, paths in places.items():
        pictures(root, paths)
        data = coco([(Path(p).name, of[p]) for p in paths], dict(enumerate(NAMES, 1)), 0, supercategory="pets")
        data["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
        save(root / split / "_annotations.coco.json", data)
    save(root / "README.roboflow.txt", "pets - v1\nExported with Roboflow")
    return truth(places)


def cvat_coco(root: Path) -> Truth:
    """``annotations/instances_<subset>.json`` and ``images/<subset>``; images of two subsets have the same names."""
    places = {subset: [f"images/{subset}/{i:03d}.jpg" for i in range(20)] for subset in ("Train", "Validation")}
    of = numbers(places)
    for subset, paths in places.items():
        pictures(root, paths)
        data = coco([(Path(p).name, of[p]) for p in paths], dict(enumerate(NAMES, 1)), supercategory="")
        save(root / "annotations" / f"instances_{subset}.json", data)
    return truth(places, {"Train": "train", "Validation": "val"})


def cvat_coco_whole(root: Path) -> Truth:
    """Without subsets, images in folders of their own, and two of one name."""
    places = {"all": [f"images/{'ab'[i % 2]}/{i // 2:03d}.jpg" for i in range(40)]}
    pictures(root, places["all"])
    names = [(p.removeprefix("images/"), i) for i, p in enumerate(places["all"])]
    save(root / "annotations/instances_default.json", coco(names, dict(enumerate(NAMES, 1))))
    return truth(places, {"all": None})


def label_studio_coco(root: Path) -> Truth:
    """``result.json``: ids from 0, names from the export's folder, and some of them as they were on the server."""
    places = {"all": [f"images/{i:08x}-photo {i}.png" for i in range(40)]}
    pictures(root, places["all"])
    names = [(p if i % 3 else f"/data/upload/1/{Path(p).name}", i) for i, p in enumerate(places["all"])]
    names[2] = (f"https://server.org/data/upload/{Path(names[2][0]).name}?token=1/2", 2)
    names[4] = (names[4][0].replace("/", "\\"), 4)
    save(root / "result.json", coco(names, dict(enumerate(NAMES)), 0))
    return truth(places, {"all": None})


def odd_coco(root: Path) -> Truth:
    """Ids as text and as 3.0, categories out of order, one JSON beside ``data``, as FiftyOne has it."""
    places = {"all": [f"data/{i:03d}.JPG" for i in range(40)]}
    pictures(root, places["all"])
    data = coco([(Path(p).name, i) for i, p in enumerate(places["all"])], {2: "dog", 1: "cat", 3: "rubber duck"})
    for number, one in enumerate(data["annotations"]):
        one["category_id"] = (str, float, int)[number % 3](one["category_id"])
        one["image_id"] = (float, str)[number % 2](one["image_id"])
    data["annotations"][0]["iscrowd"] = 1
    del data["annotations"][1]["bbox"]
    save(root / "labels.json", data)
    return truth(places, {"all": None})


def xml(name: str, objects: Sequence[str], *, path: str = "/home/ann/x.jpg") -> str:
    """An annotation as LabelImg writes it."""
    text = f"<annotation verified='yes'><folder>x</folder><filename>{escape(name)}</filename><path>{path}</path>"
    for one in objects:
        text += f"<object><name>{escape(one)}</name><pose>Unspecified</pose><difficult>0</difficult>"
        text += "<part><name>nose</name></part><attributes><attribute><name>colour</name></attribute></attributes>"
        text += "<bndbox><xmin>1</xmin></bndbox></object>"
    return text + "</annotation>"


def cvat_voc(root: Path) -> Truth:
    """The devkit's folders; one subset a list; lists of classes for tags; a class map."""
    places = {subset: [f"JPEGImages/{subset[:2]} {i:03d}.jpg" for i in range(20)] for subset in ("train", "test")}
    of = numbers(places)
    for subset, paths in places.items():
        pictures(root, paths)
        for path in paths:
            save(root / "Annotations" / f"{Path(path).stem}.xml", xml(Path(path).name, labels(of[path])))
        main = root / "ImageSets/Main"
        stems = [f'"{Path(path).stem}"' for path in paths]
        save(main / f"{subset}.txt", "\n".join(stems) + "\n")
        tags = [f"{stem} {' 1' if i == 4 else '-1'}" for i, stem in enumerate(stems)]
        save(main / f"blurred_{subset}.txt", "\n".join(tags) + "\n")
    save(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,2,3::\n")
    expected = truth(places)
    for paths in places.values():
        expected[paths[4]][1].add("blurred")
    return expected


def roboflow_voc(root: Path) -> Truth:
    places = numbered(SIZES, "{split}/img{i:03d}" + HASHED + ".jpg")
    for path, number in numbers(places).items():
        pictures(root, [path])
        save((root / path).with_suffix(".xml"), xml(Path(path).name, labels(number)))
    return truth(places)


def labelimg(root: Path) -> Truth:
    """XML beside the images or in a folder apart, upper-case endings, a file name without ending or of another file."""
    places = {"all": [f"shots/{i // 20}/DSC{i:04d}.JPG" for i in range(40)]}
    for number, path in enumerate(pictures(root, places["all"])):
        place = root / path if number % 2 else root / "xml" / Path(path).name
        name = Path(path).stem if number % 4 else f"C:\\photos\\{Path(path).name}"
        save(place.with_suffix(".xml"), xml(name, labels(number), path="/etc/passwd"))
    return truth(places, {"all": None})


def label_studio_voc(root: Path) -> Truth:
    """Images without boxes have no XML."""
    places = {"all": [f"images/{i:08x}-a.jpg" for i in range(40)]}
    for number, path in enumerate(pictures(root, places["all"])):
        if labels(number):
            save(root / "Annotations" / f"{Path(path).stem}.xml", xml(Path(path).name, labels(number)))
    return truth(places, {"all": None})


def box(name: str, names: Sequence[str] = NAMES) -> str:
    return f"{names.index(name)} 0.5 0.5 0.25 1e-1"


def write_labels(root: Path, of: Mapping[str, int], *, empty: bool = True) -> None:
    """Label files where Ultralytics looks for them, for images without objects empty or none."""
    for path, number in of.items():
        parts = path.rpartition(".")[0].split("/")
        at = max((i for i, part in enumerate(parts[:-1]) if part == "images"), default=-1)
        place = "/".join([*parts[:at], "labels", *parts[at + 1 :]] if at >= 0 else parts)
        if labels(number) or empty:
            save(root / f"{place}.txt", "".join(box(one) + "\n" for one in labels(number)))


def ultralytics(root: Path) -> Truth:
    """``images/<split>`` and ``labels/<split>``; names by number; polygons and turned boxes among the objects."""
    places = numbered({"train": 20, "val": 20}, "images/{split}/{i:03d}.png")
    pictures(root, list(numbers(places)))
    write_labels(root, numbers(places), empty=False)
    save(root / "labels/train/000.txt", "0 .1 .2 .3 .4 .5 .6\n0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8\n\n")
    save(root / "labels/train.cache", "0")
    save(
        root / "data.yaml",
        "path: ../datasets/pets\ntrain: images/train\nval: [images/val]\n"
        "names:\n  0: cat\n  1: dog\n  2: rubber duck\n",
    )
    return truth(places, {"train": "train", "val": "val"})


def roboflow_yolo(root: Path) -> Truth:
    """Places in ``data.yaml`` are one level too high."""
    places = numbered(SIZES, "{split}/images/img{i:03d}" + HASHED + ".jpg")
    pictures(root, list(numbers(places)))
    write_labels(root, numbers(places))
    save(root / "README.dataset.txt", "# pets\nhttps://universe.roboflow.com")
    lines = ["train: ../train/images", "val: ../valid/images", "test: ../test/images", "", "nc: 3"]
    save(root / "data.yaml", "\n".join([*lines, f"names: {list(NAMES)}", "roboflow:", "  version: 1"]))
    return truth(places)


def cvat_ultralytics(root: Path) -> Truth:
    """``train: train.txt``, a list of paths from another folder."""
    places = numbered({"train": 20, "val": 20}, "images/{split}/{i:03d}.jpg")
    pictures(root, list(numbers(places)))
    write_labels(root, numbers(places))
    for split, paths in places.items():
        save(root / f"{split}.txt", "".join(f"data/{path}\n" for path in paths))
    save(root / "data.yaml", "path: ./\ntrain: train.txt\nval: val.txt\nnames:\n  0: cat\n  1: dog\n  2: rubber duck\n")
    return truth(places, {"train": "train", "val": "val"})


def cvat_yolo(root: Path) -> Truth:
    """``obj.names`` and images and labels side by side in ``obj_<subset>_data``."""
    places = numbered({"train": 20, "valid": 20}, "obj_{split}_data/{i:03d}.jpg")
    pictures(root, list(numbers(places)))
    write_labels(root, numbers(places))
    save(root / "obj.names", "\n".join(NAMES) + "\n")
    save(root / "obj.data", "classes = 3\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    save(root / "train.txt", "".join(f"data/{path}\n" for path in places["train"]))
    return truth(places)


def label_studio_yolo(root: Path) -> Truth:
    places = {"all": [f"images/{i:08x}-a.jpg" for i in range(40)]}
    write_labels(root, {path: number for number, path in enumerate(pictures(root, places["all"]))})
    save(root / "classes.txt", "\n".join(NAMES))
    save(root / "notes.json", {"categories": [{"id": i, "name": n} for i, n in enumerate(NAMES)], "info": {}})
    return truth(places, {"all": None})


def metadata_csv(root: Path) -> Truth:
    """A table in each split's folder."""
    places = numbered({"train": 20, "test": 20}, "{split}/{i:03d}.png")
    of = numbers(places)
    for split, paths in places.items():
        pictures(root, paths)
        rows = [f'{Path(path).name},{"|".join(labels(of[path]))},"a, b"' for path in paths]
        save(root / split / "metadata.csv", "\n".join(["file_name,labels,text", *rows]) + "\n")
    return truth(places)


def metadata_jsonl(root: Path) -> Truth:
    """One table above the folders of splits, objects with categories, as the Hub's detection datasets have them."""
    places = numbered({"train": 20, "test": 20}, "{split}/deep/{i:03d}.png")
    pictures(root, list(numbers(places)))
    rows = [
        {"file_name": path, "objects": {"bbox": [[0.5, 1, 2, 3]] * len(labels(n)), "categories": labels(n)}}
        for path, n in numbers(places).items()
    ]
    save(root / "metadata.jsonl", "\n".join(map(json.dumps, rows)))
    return truth(places)


def roboflow_classes(root: Path) -> Truth:
    """``_classes.csv`` with a column a class and spaces after commas."""
    places = numbered(SIZES, "{split}/img{i:03d}" + HASHED + ".jpg")
    of = numbers(places)
    for split, paths in places.items():
        pictures(root, paths)
        rows = [", ".join([Path(p).name, *(str(int(n in labels(of[p]))) for n in NAMES)]) for p in paths]
        save(root / split / "_classes.csv", "\n".join([", ".join(["filename", *NAMES]), *rows]))
    return truth(places)


EXPORTS = {
    "coco_format": (roboflow_coco, cvat_coco, cvat_coco_whole, label_studio_coco, odd_coco),
    "voc_format": (cvat_voc, roboflow_voc, labelimg, label_studio_voc),
    "yolo": (ultralytics, roboflow_yolo, cvat_ultralytics, cvat_yolo, label_studio_yolo),
    "metadata": (metadata_csv, metadata_jsonl, roboflow_classes),
}
"""Kind of source -> writers of folders."""
