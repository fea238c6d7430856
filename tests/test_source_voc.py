"""VOC: its layout in folders and tars, its label sets, and everything that can be wrong with it."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import answer, fedkit, labels_and_digests, refused, tiny_image

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build.verify import verify
from fedrsic_data.errors import SourceError, UnsafeArchiveError
from fedrsic_data.raw.index import Index
from fedrsic_data.sources import configured
from fedrsic_data.sources.voc import CLASSES, SOURCE, objects

# year -> list -> image -> its objects; "?" marks a difficult one
IMAGES: dict[str, dict[str, dict[str, list[str]]]] = {
    "2007": {
        "train": {"000005": ["chair", "chair", "sofa?"], "000009": ["horse", "person"]},
        "val": {"000007": ["car"]},
        "test": {"000001": ["dog", "person"], "000002": ["train?"], "000010": ["dog?", "dog"]},
    },
    "2012": {
        "train": {"2008_000008": ["person", "horse"], "2008_000015": ["bottle?"]},
        "val": {"2008_000002": ["tvmonitor"]},
    },
}
TARS = {
    "VOCtrainval_06-Nov-2007.tar": ("2007", ("train", "val")),
    "VOCtest_06-Nov-2007.tar": ("2007", ("test",)),
    "VOCtrainval_11-May-2012.tar": ("2012", ("train", "val")),
}


def xml(image: str, names: Sequence[str]) -> str:
    """An annotation as the authors write it; a person has parts, with names of their own."""
    text = f"<annotation>\n\t<filename>{image}.jpg</filename>\n\t<size><width>8</width></size>\n"
    for name in names:
        part = "<part><name>head</name><difficult>1</difficult></part>" if name == "person" else ""
        mark = f"<difficult>{int(name.endswith('?'))}</difficult>"
        text += f"\t<object>\n\t\t<name>{name.rstrip('?')}</name>\n\t\t{mark}{part}\n\t</object>\n"
    return text + "</annotation>\n"


def write_voc(root: Path, year: str, parts: Sequence[str]) -> Path:
    """VOCdevkit/VOC20XX/{JPEGImages,Annotations,ImageSets/Main}, with an image that no list names."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    mine = {part: IMAGES[year][part] for part in parts}
    if "train" in mine:
        mine["trainval"] = mine["train"] | mine["val"]
    for part, images in mine.items():
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{image}\n" for image in images))
        (folder / "ImageSets" / "Main" / f"dog_{part}.txt").write_text("".join(f"{image} -1\n" for image in images))
        for image, names in images.items():
            (folder / "Annotations" / f"{image}.xml").write_text(xml(image, names))
            (folder / "JPEGImages" / f"{image}.jpg").write_bytes(tiny_image(int(image[-4:]), ".jpg"))
    (folder / "JPEGImages" / f"{year}_999999.jpg").write_bytes(tiny_image(9999, ".jpg"))
    return folder


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    for year, parts in TARS.values():
        write_voc(root, year, parts)
    return root


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """The three official archives side by side."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for name, (year, parts) in TARS.items():
        root = tmp_path / name.removesuffix(".tar")
        write_voc(root, year, parts)
        with tarfile.open(folder / name, "w") as archive:
            archive.add(root / "VOCdevkit", "VOCdevkit")
    return folder


def sets(index: Index) -> dict[str, tuple[str, str, set[str]]]:
    """Sample id -> split, domain and class names."""
    rows = index.table.to_pylist()
    assert all(row["labels"] == sorted(set(row["labels"])) for row in rows)
    return {row["sample_id"]: (row["split"], row["domain"], {CLASSES[i] for i in row["labels"]}) for row in rows}


BOTH = {
    "voc/000005": ("train", "voc2007", {"chair"}),
    "voc/000009": ("train", "voc2007", {"horse", "person"}),
    "voc/000007": ("train", "voc2007", {"car"}),
    "voc/2008_000008": ("train", "voc2012", {"person", "horse"}),
    "voc/2008_000002": ("train", "voc2012", {"tvmonitor"}),
    "voc/000001": ("test", "voc2007", {"dog", "person"}),
    "voc/000010": ("test", "voc2007", {"dog"}),
}


def test_both_years(voc: Path) -> None:
    index = SOURCE.index(voc)
    assert sets(index) == BOTH
    assert (index.classes, index.multi_label) == (CLASSES, True)
    assert [(left.reason, left.count, left.examples) for left in index.left_out] == [
        ("without objects that count in VOC2012/ImageSets/Main/trainval.txt", 1, ("voc/2008_000015",)),
        ("without objects that count in VOC2007/ImageSets/Main/test.txt", 1, ("voc/000002",)),
    ]
    assert index.counts == {"objects": 15, "difficult objects": 4}
    assert index.missing[0] == "VOC2007/ImageSets/Main/trainval.txt lists 3 images; the published one 5,011"
    first = index.table.to_pylist()[0]
    assert first["file"] == "000005.jpg"
    assert index.container.read([first["key"]]) == [tiny_image(5, ".jpg")]


def test_difficult_objects_can_count(voc: Path) -> None:
    index = configured("voc", {"difficult": "keep"}, "test").index(voc)
    assert index.left_out == ()
    found = sets(index)
    assert found["voc/000005"] == ("train", "voc2007", {"chair", "sofa"})
    assert found["voc/000002"] == ("test", "voc2007", {"train"})
    assert len(found) == 9


@pytest.mark.parametrize(
    ("years", "expected"),
    [
        (2007, {"000005": "train", "000007": "train", "000009": "train", "000001": "test", "000010": "test"}),
        (2012, {"2008_000008": "train", "2008_000002": "test"}),
    ],
)
def test_one_year(voc: Path, years: int, expected: dict[str, str]) -> None:
    index = configured("voc", {"years": years}, "test").index(voc)
    assert {name: split for name, (split, _, _) in sets(index).items()} == {
        f"voc/{image}": split for image, split in expected.items()
    }
    assert set(index.table.column("domain").to_pylist()) == {f"voc{years}"}


def test_tars_are_read_in_place_and_hold_the_same_index(voc: Path, tars: Path) -> None:
    folders, index = SOURCE.index(voc), SOURCE.index(tars)
    keep = ["sample_id", "labels", "domain", "split", "file"]
    assert index.table.select(keep).equals(folders.table.select(keep))
    assert index.left_out == folders.left_out
    read = [each.container.read(each.table.column("key").to_pylist()) for each in (index, folders)]
    assert read[0] == read[1]
    one = configured("voc", {"years": 2012}, "test")
    assert len(one.index(tars / "VOCtrainval_11-May-2012.tar").table) == 2


def test_an_unpacked_year_beside_a_tar(voc: Path, tars: Path) -> None:
    shutil.rmtree(voc / "VOCdevkit" / "VOC2007")
    for name in ("VOCtest_06-Nov-2007.tar", "VOCtrainval_06-Nov-2007.tar"):
        shutil.copy(tars / name, voc)
    assert sets(SOURCE.index(voc)) == BOTH
    assert sets(SOURCE.index(voc / "VOCdevkit" / "VOC2012", allow_partial=True)).keys() < BOTH.keys()


def test_a_year_that_is_not_there(voc: Path) -> None:
    shutil.rmtree(voc / "VOCdevkit" / "VOC2007")
    with pytest.raises(
        SourceError, match=r"no VOC2007/ImageSets/Main/trainval.txt, which has the 5,011.*--allow-partial"
    ):
        SOURCE.index(voc)
    index = SOURCE.index(voc, allow_partial=True)
    assert {split for split, _, _ in sets(index).values()} == {"train"}
    assert len([words for words in index.missing if words.startswith("no VOC2007")]) == 2
    shutil.rmtree(voc / "VOCdevkit")
    with pytest.raises(SourceError, match="VOC2012"):
        SOURCE.index(voc, allow_partial=True)


def test_2012_with_trainval_alone(voc: Path) -> None:
    for part in ("train", "val"):
        (voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / f"{part}.txt").unlink()
    source = configured("voc", {"years": 2012}, "test")
    with pytest.raises(SourceError, match="trainval.txt without train.txt and val.txt"):
        source.index(voc)
    index = source.index(voc, allow_partial=True)
    assert {name: split for name, (split, _, _) in sets(index).items()} == {
        "voc/2008_000008": "train",
        "voc/2008_000002": "train",
    }


@pytest.mark.parametrize("ending", ["JPEGImages/000009.jpg", "Annotations/000009.xml"])
def test_a_listed_image_that_is_not_there(voc: Path, ending: str) -> None:
    (voc / "VOCdevkit" / "VOC2007" / ending).unlink()
    with pytest.raises(SourceError, match=r"1 of 3 images .*trainval.txt lists lack .*: 000009.*--allow-partial"):
        SOURCE.index(voc)
    index = SOURCE.index(voc, allow_partial=True)
    assert sets(index) == {name: row for name, row in BOTH.items() if name != "voc/000009"}


def test_a_copy_without_images(voc: Path) -> None:
    for path in voc.rglob("ImageSets/Main/*.txt"):
        path.write_text("")
    with pytest.raises(
        SourceError, match=r"holds no image of PASCAL VOC 2007 \+ 2012 with labels; its lists are empty"
    ):
        SOURCE.index(voc)


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><annotation>&b;</annotation>'
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>'
)
DISTANT = '<!DOCTYPE annotation SYSTEM "http://localhost/x.dtd"><annotation/>'
BAD_XML = {
    "": "not valid XML",
    "<annotation>": "not valid XML",
    "<annotation/><annotation/>": "not valid XML",
    "<annotation>&x;</annotation>": "not valid XML",
    "<html></html>": "its root is <html>",
    "<?xml version='1.0' encoding='nonsense'?><annotation/>": "",
    BOMB: "declares a document type",
    OUTSIDE: "declares a document type",
    DISTANT: "declares a document type",
    "<annotation><object/></annotation>": "object 1 is '', which is not one of the 20 classes",
    xml("x", ["dog", "unicorn"]): "object 2 is 'unicorn'",
    xml("x", ["dog"]).replace("<name>dog", "<name>cat</name><name>dog"): "two of <name>",
    xml("x", ["dog"]).replace("<difficult>0", "<difficult>yes"): "difficult='yes'",
}


@pytest.mark.parametrize("number", range(len(BAD_XML)))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_annotations_that_are_wrong(voc: Path, number: int, encoding: str) -> None:
    text, words = list(BAD_XML.items())[number]
    (voc / "VOCdevkit" / "VOC2007" / "Annotations" / "000009.xml").write_bytes(text.encode(encoding))
    with pytest.raises(SourceError, match="000009.xml: ") as caught:
        SOURCE.index(voc, allow_partial=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_objects_are_those_below_the_root() -> None:
    text = xml("x", ["person?", "dog"]).replace("<size>", "<size><object><name>cat</name></object>")
    assert objects(text.encode()) == [(CLASSES.index("person"), True), (CLASSES.index("dog"), False)]
    assert objects("<annotation><object><name> dog\n</name></object></annotation>".encode("utf-16")) == [(11, False)]
    assert objects(("<annotation>" + "<a>" * 50_000 + "</a>" * 50_000 + "</annotation>").encode()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("000005\n../000009\n", "name 2 is '../000009', not a VOC image"),
        ("000005  1\n", "name 1 is '000005  1'"),
        ("/etc/passwd", "not a VOC image"),
        ("\x00\n", "not a VOC image"),
        ("ü\n", "not a VOC image"),
        ("000005\n000009\n000005\n", "lists '000005' twice"),
        ("000005\n000001\n", "image 000001 is in two lists"),
    ],
)
def test_lists_that_are_wrong(voc: Path, text: str, words: str) -> None:
    (voc / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "trainval.txt").write_text(text, "utf-8")
    with pytest.raises(SourceError) as caught:
        SOURCE.index(voc, allow_partial=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tar_with_a_member_that_would_land_outside(tars: Path, tmp_path: Path) -> None:
    with tarfile.open(tars / "VOCtest_06-Nov-2007.tar", "a") as archive:
        archive.add(tars.parent / "archives" / "VOCtrainval_11-May-2012.tar", "../../x.jpg")
    with pytest.raises(UnsafeArchiveError, match="leaves its folder"):
        SOURCE.index(tars)


def test_build_from_tars(tars: Path, tmp_path: Path) -> None:
    done = answer(fedkit("build", "voc", "--sources", tars, "--clients", 2, "--json", cwd=tmp_path))
    assert done["subsets"]["voc"]["rows"] == {"train": 5, "test": 2}  # type: ignore[index]
    assert verify(tmp_path / "data/voc")[1] == []
    subset = fedrsic_data.open(tmp_path / "data/voc").subset("voc")
    rows = [row for split in subset.splits for row in subset.read(split, ["image", "sample_id"]).to_pylist()]
    assert {row["sample_id"]: row["image"]["bytes"] for row in rows} == {
        name: tiny_image(int(name[-4:]), ".jpg") for name in BOTH
    }
    built = fedrsic_data.dataset.manifest.load(tmp_path / "data/voc")
    assert built.sources["voc"].counts["difficult objects"] == 4
    assert sum(left.count for left in built.subsets["voc"].left_out) == 2


def test_load_dataset_has_names_for_the_labels(voc: Path, tmp_path: Path) -> None:
    import datasets

    answer(fedkit("build", "voc-domains", "--sources", voc, "--clients", 2, "--json", cwd=tmp_path))
    loaded = datasets.load_dataset(str(tmp_path / "data/voc-domains"), "voc", cache_dir=str(tmp_path / "hf"))
    assert isinstance(loaded["test"].features["labels"], datasets.List)
    assert loaded["test"].features["labels"].feature.names == list(CLASSES)
    of_client = {row["client_id"]: row["domain"] for row in loaded["train"]}
    assert sorted(of_client.values()) == ["voc2007", "voc2012"]


@pytest.mark.parametrize("name", [name for name in recipes.shipped() if name.split("-")[0] == "voc"])
def test_shipped_recipes_take_the_splits_of_the_source(name: str, voc: Path, tmp_path: Path) -> None:
    done = answer(fedkit("build", name, "--sources", voc, "--set", "clients=2", "--json", cwd=tmp_path))
    assert done["subsets"]["voc"]["rows"] == {"train": 5, "test": 2}  # type: ignore[index]
    assert verify(tmp_path / "data" / name)[1] == []


def test_bad_copies_are_one_line(voc: Path, tmp_path: Path) -> None:
    arguments = ("build", "voc", "--sources", voc, "--clients", 2)
    path = voc / "VOCdevkit" / "VOC2007" / "Annotations" / "000009.xml"
    path.write_text(BOMB)
    refused(fedkit(*arguments, cwd=tmp_path), str(path), "declares a document type", codes=(1,))
    shutil.rmtree(voc / "VOCdevkit" / "VOC2007")
    refused(fedkit(*arguments, cwd=tmp_path), "VOC2007", "--allow-partial", codes=(1,))


@pytest.mark.realdata
@pytest.mark.parametrize("options", [(), ("--set", "sources.voc.years=2012")])
@pytest.mark.parametrize("difficult", ["leave_out", "keep"])
def test_real_images_have_the_labels_of_a_plain_walk(
    real_data: Path, tmp_path: Path, options: tuple[str, ...], difficult: str
) -> None:
    expected = {}
    for path in (real_data / "voc" / "VOCdevkit" / "VOC2012" / "Annotations").glob("*.xml"):
        found = ElementTree.parse(path).getroot().findall("object")
        names = {o.findtext("name") for o in found if difficult == "keep" or o.findtext("difficult") != "1"}
        image = (path.parents[1] / "JPEGImages" / f"{path.stem}.jpg").read_bytes()
        if names:
            expected[f"voc/{path.stem}"] = (names, hashlib.sha256(image).hexdigest())
    arguments = ("build", "voc", "--sources", real_data, "--clients", 4, "--allow-partial", "--json", *options)
    answer(fedkit(*arguments, "--set", f"sources.voc.difficult={difficult}", cwd=tmp_path))
    subset = fedrsic_data.open(tmp_path / "data/voc").subset("voc")
    rows = subset.read("train", ["image", "labels", "sample_id"]).to_pylist()
    assert labels_and_digests(subset, rows) == expected
    assert len(rows) == len(expected)
    assert verify(tmp_path / "data/voc")[1] == []
