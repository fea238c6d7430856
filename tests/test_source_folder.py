"""Folders of a person's own: the layouts people have, and what can be wrong with them."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import put
from hypothesis import given
from hypothesis import strategies as st

from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.raw.index import Index
from fedrsic_data.sources import GENERAL, configured, locate, spelled_out
from fedrsic_data.sources.classfolders import natural_order, padded
from fedrsic_data.sources.folder import Folder, FolderSettings
from fedrsic_data.sources.own import listing


def listed(root: Path, text: str | bytes) -> Path:
    """Three images, two folders deep or not, and a ``labels.csv``."""
    put(root, "a.jpg", "in/b.jpg", "in/deep/c.jpg")
    (root / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def source(layout: str = "auto") -> Folder:
    return Folder(FolderSettings(path="unused", layout=layout), name="mine")  # type: ignore[arg-type]


def index(root: Path, layout: str = "auto") -> Index:
    return source(layout).index(root)


def rows(found: Index) -> list[tuple[str, list[str], str, str | None]]:
    """Sample id, class names, domain and split of every row."""
    return [
        (row["sample_id"], [found.classes[label] for label in row["labels"]], row["domain"], row["split"])
        for row in found.table.to_pylist()
    ]


def test_a_folder_a_class(tmp_path: Path) -> None:
    put(tmp_path, "dog/2.png", "dog/10.jpg", "cat/x.jpg", "cat/x.png")
    found = index(tmp_path)
    assert found.classes == ("cat", "dog")
    assert rows(found) == [
        ("mine/cat/x.jpg", ["cat"], "mine", None),
        ("mine/cat/x.png", ["cat"], "mine", None),
        ("mine/dog/10.jpg", ["dog"], "mine", None),
        ("mine/dog/2.png", ["dog"], "mine", None),
    ]
    key = found.table.column("key").to_pylist()
    assert found.container.read(key) == [(tmp_path / k).read_bytes() for k in key]
    assert not found.multi_label


def test_a_folder_a_domain(tmp_path: Path) -> None:
    put(tmp_path, "amazon/bike/1.jpg", "amazon/mug/1.jpg", "webcam/bike/1.jpg")
    settings, found = source().look(tmp_path)
    assert settings.layout == "domain/class"
    assert [row[0] for row in rows(found)] == [
        "mine/amazon/bike/1.jpg",
        "mine/amazon/mug/1.jpg",
        "mine/webcam/bike/1.jpg",
    ]
    assert [row[2] for row in rows(found)] == ["amazon", "amazon", "webcam"]
    assert found.classes == ("bike", "mug")


def test_a_folder_a_split(tmp_path: Path) -> None:
    put(tmp_path, "Train/a/1.jpg", "Train/b/1.jpg", "validation/a/1.jpg", "test/b/1.jpg")
    settings, found = source().look(tmp_path)
    assert settings.layout == "split/class"
    assert [row[3] for row in rows(found)] == ["train", "train", "test", "val"]
    assert {row[2] for row in rows(found)} == {"mine"}
    assert [row[2] for row in rows(index(tmp_path, "domain/class"))] == ["Train", "Train", "test", "validation"]


def test_levels_that_say_nothing_are_passed_over(tmp_path: Path) -> None:
    put(
        tmp_path / "o",
        "office/amazon/images/bike/1.jpg",
        "office/webcam/images/bike/1.jpg",
        "office/webcam/images/mug/1.jpg",
    )
    assert rows(index(tmp_path / "o"))[0][0] == "mine/amazon/bike/1.jpg"
    put(tmp_path / "u", "UCM/Images/beach/1.jpg", "UCM/Images/river/1.jpg")
    settings, found = source().look(tmp_path / "u")
    assert (settings.layout, found.classes) == ("class", ("beach", "river"))
    assert rows(index(tmp_path / "u" / "UCM", "domain/class"))[0][2] == "Images"


def test_what_is_no_image_is_counted_and_litter_is_not(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/1.jpg", ".hidden/c/1.jpg", "__MACOSX/a/1.jpg")
    for name in ("a/Thumbs.db", ".DS_Store", "a/notes.txt", "list.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "b/broken.jpg").symlink_to("nowhere")
    found = index(tmp_path)
    assert found.table.num_rows == 2
    assert [(left.count, left.examples) for left in found.left_out] == [
        (2, ("a/notes.txt", "list.txt")),
        (1, ("b/broken.jpg",)),
    ]


def test_the_order_on_disk_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *(f"{c}/{i}.jpg" for c in "abc" for i in range(12)))
    first, scandir = index(tmp_path), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: iter(sorted(scandir(path), key=lambda e: e.name, reverse=True)))
    again = index(tmp_path)
    assert again.table.equals(first.table)
    assert again.fingerprint == first.fingerprint


def test_the_fingerprint_knows_of_changes(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/1.jpg")
    first = index(tmp_path)
    (tmp_path / "a/1.jpg").write_bytes(b"another one")
    assert index(tmp_path).fingerprint != first.fingerprint
    assert index(tmp_path).newest >= first.newest > 0


def test_a_table_of_label_sets(tmp_path: Path) -> None:
    text = "user,file,labels,domain,split\nu1,in/b.jpg,tree; car,site A,train\nu2,./a.jpg,,site B,valid\n"
    text += '\nu1,in/deep/c.jpg,"car|tree|car",site A,train\n'
    found = index(listed(tmp_path, "\ufeff" + text))
    assert found.multi_label
    assert rows(found) == [
        ("mine/a.jpg", [], "site B", "val"),
        ("mine/in/b.jpg", ["tree", "car"], "site A", "train"),
        ("mine/in/deep/c.jpg", ["car", "tree"], "site A", "train"),
    ]
    assert found.table.column("group").to_pylist() == ["u2", "u1", "u1"]
    assert found.table.column("file").to_pylist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert list(found.counts.values()) == [1]
    assert found.left_out == ()


def test_a_table_of_single_labels(tmp_path: Path) -> None:
    found = index(listed(tmp_path, "file,label\nin/b.jpg,a|b\na.jpg,c\n"))
    assert not found.multi_label
    assert found.classes == ("a|b", "c")
    assert [(left.count, left.examples) for left in found.left_out] == [(1, ("in/deep/c.jpg",))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line is 'nothing'; it should name the columns: file, label or labels"),
        ("a.jpg,x\nin/b.jpg,y\n", "first line is 'a.jpg, x'"),
        ("file;label\na.jpg;x\n", "first line is 'file;label'"),
        ("file,label,labels\n", "should name the columns"),
        ("file,labels,domian\na.jpg,x,y\n", "unknown column 'domian'; did you mean 'domain'"),
        ("file,file,label\na.jpg,a.jpg,x\n", "column 'file' occurs twice"),
        ("file,label\n", "lists no images"),
        ("file,label\na.jpg,x\nin/b.jpg\n", "row 2 has 1 fields, the header 2"),
        ("file,label\na.jpg,x\nin/b.jpg,\n", "row 2 has no label"),
        ("file,label,user\na.jpg,x,u\nin/b.jpg,y, \n", "row 2 has no user"),
        ("file,label\na.jpg,x\nin/no.jpg,y\n", "row 2: file 'in/no.jpg' does not exist"),
        ("file,label\na.jpg,x\n../b.jpg,y\n", "row 2: file '../b.jpg' is not below the folder"),
        ("file,label\na.jpg,x\n/etc/passwd,y\n", "row 2: file '/etc/passwd' is not below the folder"),
        ("file,label\na.jpg,x\nin\\b.jpg,y\n", "has backslashes"),
        ("file,label\na.jpg,x\nlabels.csv,y\n", "'labels.csv' is not named as an image"),
        ("file,label\na.jpg,x\nin/b.jpg,y\n./a.jpg,y\n", "rows 1 and 3 are both of 'a.jpg'"),
        ("file,label\na.jpg,x\nin/b.jpg,x\n", "only one class, 'x'"),
        ("file,labels\na.jpg,\nin/b.jpg,;\n", "the images have no labels"),
        ("file,label,split\na.jpg,x,train\nin/b.jpg,y,../up\n", "'../up' is not a name for a split"),
        ('file,label\n"a.jpg"x,y\n', "not a table of comma-separated values"),
        ("file,label\na\0.jpg,x\n", "row 1"),
        (b"file,label\n\xff.jpg,x\n", "not UTF-8 text; save it as UTF-8"),
        ("file,label\na.jpg,x\n".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_tables_that_cannot_be_used(text: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        index(listed(tmp_path, text))
    assert str(error.value).startswith(f"{tmp_path / 'labels.csv'}: ")
    assert words in str(error.value)


def test_messages_count_rows_over_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_BLOCK", 2)
    text = "file,label\na.jpg,x\n\nin/b.jpg,y\nin/deep/c.jpg,z\n"
    assert index(listed(tmp_path, text)).classes == ("x", "y", "z")
    with pytest.raises(SourceError, match="row 4 has 1 fields"):
        index(listed(tmp_path, text + "more\n"))


@pytest.mark.parametrize(
    ("paths", "layout", "words"),
    [
        ((), "auto", "holds no images"),
        (("1.jpg", "2.jpg"), "auto", "1.jpg is not in a class folder"),
        (("a/1.jpg", "a/2.jpg"), "auto", "only one class, 'a'"),
        (("a/1.jpg", "b/deep/2.jpg"), "auto", "two depths, a/1.jpg and b/deep/2.jpg"),
        (("0.jpg", "a/1.jpg", "b/1.jpg"), "auto", "two depths, 0.jpg and a/1.jpg"),
        (("x/p/a/1.jpg", "y/q/a/1.jpg"), "auto", "x/p/a/1.jpg has 2 levels of folders above its class"),
        (("x/a/1.jpg", "y/a/1.jpg"), "class", "where layout class has none"),
        (("a/1.jpg", "b/1.jpg"), "domain/class", "has no folder above its class"),
        (("a/1.jpg", "b/1.jpg"), "csv", "labels.csv: does not exist"),
        (("a/train/1.jpg", "b/test/1.jpg"), "auto", "has its split below its class"),
        (("x/Bike/1.jpg", "x/mug/1.jpg", "y/bike/1.jpg"), "auto", "class 'Bike' of x is spelled 'bike' in y"),
        (("one/a/1.jpg", "t-w-o/b/1.jpg"), "split/class", "'t-w-o' is not a name for a split"),
    ],
)
def test_layouts_that_cannot_be_used(paths: tuple[str, ...], layout: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        index(put(tmp_path, *paths), layout)
    assert str(error.value).startswith(str(tmp_path))
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (("train/Bike/1.jpg", "train/b/1.jpg", "test/bike/1.jpg"), "class 'Bike' of train is spelled 'bike' in test"),
        (("Storage Tank/1.jpg", "storage_tank/1.jpg"), "class 'Storage Tank' is also spelled 'storage_tank'; rename"),
        (("caf\u00e9/1.jpg", "cafe\u0301/1.jpg"), r"class 'cafe\u0301' is also spelled 'caf\xe9'; rename"),
        (
            ("x/caf\u00e9/1.jpg", "x/b/1.jpg", "y/cafe\u0301/1.jpg"),
            r"class 'cafe\u0301' of y is spelled 'caf\xe9' in x",
        ),
    ],
)
def test_one_class_spelled_in_two_ways_is_refused(paths: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        index(put(tmp_path, *paths))
    assert words in str(error.value)


def test_a_table_that_spells_a_class_in_two_ways_names_the_rows(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"row 3 has class 'Sea', row 1 'sea'; write it in one way"):
        index(listed(tmp_path, "file,labels\na.jpg,sand;sea\nin/b.jpg,sand\nin/deep/c.jpg,Sea\n"))


def test_a_table_of_vectors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="labels are vectors of 3 zeros and ones; write the names"):
        index(listed(tmp_path, "file,labels\na.jpg,0;1;0\nin/b.jpg,1;0;0\nin/deep/c.jpg,0;0;0\n"))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_a_table_match_in_either_unicode_form(forms: tuple[str, str], tmp_path: Path) -> None:
    on_disk, in_table = (unicodedata.normalize(form, "\u00e9t\u00e9/caf\u00e9.jpg") for form in forms)
    put(tmp_path, on_disk, "b.jpg")
    (tmp_path / "labels.csv").write_text(f"file,label\n{in_table},x\nb.jpg,y\n", encoding="utf-8")
    assert sorted(index(tmp_path).table.column("key").to_pylist()) == sorted(["b.jpg", on_disk])
    (tmp_path / "labels.csv").write_text(f"file,label\n{in_table},x\n{on_disk},x\nb.jpg,y\n", encoding="utf-8")
    with pytest.raises(SourceError, match="rows 1 and 2 are both of"):
        index(tmp_path)


def test_the_index_column_of_pandas_is_named_in_words(tmp_path: Path) -> None:
    for header in (",file,label", "file,label,Unnamed: 0"):
        with pytest.raises(SourceError, match=r"column [13] has no name, as the row numbers that pandas writes"):
            index(listed(tmp_path, f"{header}\n0,a.jpg,x\n"))


@pytest.mark.parametrize("place", ["s/labels.csv", "Labels.csv", "train/labels.csv"])
def test_a_table_that_is_not_at_the_top_is_never_passed_over(place: str, tmp_path: Path) -> None:
    put(tmp_path, "s/a/1.jpg", "s/b/1.jpg", "s/b/2.jpg")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("file,label\na/1.jpg,x\nb/1.jpg,y\n")
    with pytest.raises(SourceError, match=rf"{place}: a labels.csv is read only at the top of the folder") as raised:
        index(tmp_path)
    assert "\n" not in str(raised.value)
    assert index(tmp_path, "class").classes == ("a", "b"), "a layout that is named passes it over"


def test_a_class_folder_without_images_is_named_and_kept_if_asked(tmp_path: Path) -> None:
    put(tmp_path, "x/a/1.jpg", "x/b/1.jpg", "y/a/1.jpg")
    for folder in ("x/owl", "y/b", "z"):
        (tmp_path / folder).mkdir()
    found = index(tmp_path)
    assert found.classes == ("a", "b")
    assert found.notes == (
        "without images: x/owl: no class; keep it as one with --set empty_classes=keep",
        "without images: y/b, z",
    )
    kept = Folder(FolderSettings(path="x", empty_classes="keep"), name="mine").index(tmp_path)
    assert kept.classes == ("a", "b", "owl")
    assert rows(kept) == rows(found)


def test_letters_of_two_cases_are_two_classes(tmp_path: Path) -> None:
    assert index(put(tmp_path, "x/a/1.jpg", "x/A/1.jpg", "y/a/1.jpg")).classes == ("A", "a")


def test_links_that_lead_in_circles(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(SourceError, match="up: is a link to a folder above it"):
        index(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="has no such names")
def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    put(tmp_path, "a/1.jpg", "b/1.jpg")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(SourceError, match=r"udcff.* is not UTF-8"):
        index(tmp_path)


@pytest.mark.parametrize("what", ["nothing", "file"])
def test_what_is_no_folder(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if what == "file":
        path.write_text("hello")
    with pytest.raises(SourceError, match=f"{path}: "):
        index(path)


def test_settings(tmp_path: Path) -> None:
    mine = configured("mine", {"kind": "folder", "path": str(tmp_path), "licence": "CC0"}, "sources.mine")
    assert (mine.name, mine.kind, mine.facts.title, mine.facts.licence) == ("mine", "folder", "mine", "CC0")
    assert not mine.facts.redistributable
    full = spelled_out(mine)
    assert full["layout"] == "auto"
    assert configured("mine", full, "") == mine
    assert set(GENERAL) == {"folder", "hub", "coco_format", "metadata", "voc_format", "yolo"}
    assert locate.find(mine, locate.Places()) == tmp_path
    other = tmp_path / "other"
    other.mkdir()
    assert locate.find(mine, locate.Places(given={"mine": str(other)})) == other
    with pytest.raises(UsageError, match="'path' is missing"):
        configured("mine", {"kind": "folder"}, "sources.mine")
    with pytest.raises(UsageError, match="unknown key 'laoyut'; did you mean 'layout'"):
        configured("mine", {"kind": "folder", "path": "x", "laoyut": "csv"}, "sources.mine")
    with pytest.raises(UsageError, match="path=''"):
        configured("mine", {"kind": "folder", "path": ""}, "sources.mine")
    with pytest.raises(SourceError, match=r"sources.mine.path=.*no: does not exist"):
        locate.find(configured("mine", {"kind": "folder", "path": f"{tmp_path}/no"}, ""), locate.Places())


def natural_key(name: str) -> tuple[tuple[str, int, str], ...]:
    """Texts and numbers of a name in turn."""
    parts = re.split(r"([0-9]{1,18})", name)
    return tuple(("", int(part), part) if i % 2 else (part, 0, "") for i, part in enumerate(parts))


@given(st.lists(st.text("a(0129-é\U0001f600", max_size=45)))
def test_numbers_in_names_sort_as_numbers(names: list[str]) -> None:
    expected = sorted(range(len(names)), key=lambda i: natural_key(names[i]))
    assert natural_order(pa.array(names, pa.string())).to_pylist() == expected


@given(st.lists(st.text("a_0129é", max_size=12)), st.integers(1, 5))
def test_numbers_in_names_are_padded(names: list[str], width: int) -> None:
    expected = [re.sub("[0-9]+", lambda number: number[0].zfill(width), name) for name in names]
    assert padded(pa.array(names, pa.string()), width).to_pylist() == expected
