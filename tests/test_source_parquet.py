"""Datasets of the Hub and Parquet files of a person's own, by their columns."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import answer, fedkit, refused, tiny_image

import fedrsic_data
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset import schema
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.raw.index import Index
from fedrsic_data.sources import configured, locate
from fedrsic_data.sources.parquet import ColumnsSettings, ColumnsSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def images(count: int, first: int = 0) -> list[bytes]:
    return [tiny_image(first + i, ".png") for i in range(count)]


def structs(count: int, paths: list[str | None] | None = None) -> pa.Array:
    names = paths or [f"some/where/{i}.png" for i in range(count)]
    return pa.array([{"bytes": b, "path": p} for b, p in zip(images(count), names, strict=True)], schema.IMAGE)


def save(path: Path, features: dict[str, Any] | None = None, group: int = 2, **columns: Any) -> Path:
    """A Parquet file with these columns, and features in its schema as ``datasets`` writes them."""
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def class_label(*names: str) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


def look(path: Path, **settings: Any) -> tuple[ColumnsSettings, Index]:
    return ColumnsSource(ColumnsSettings(path=str(path), **settings), name="mine").look(path)


def index(path: Path, **settings: Any) -> Index:
    return look(path, **settings)[1]


def names(found: Index) -> list[list[str]]:
    """Class names of every row."""
    return [[found.classes[label] for label in row] for row in found.table.column("labels").to_pylist()]


def column(found: Index, name: str) -> list[Any]:
    return found.table.column(name).to_pylist()


def test_as_the_hub_has_it(tmp_path: Path) -> None:
    labels = {"image": {"_type": "Image"}, "label": class_label("dog", "cat", "owl")}
    for split, at, n in (("train", 0, 3), ("train", 1, 2), ("validation", 0, 2)):
        path = tmp_path / "data" / f"{split}-0000{at}-of-00002.parquet"
        save(path, labels, image=structs(n), label=[(at + i) % 2 for i in range(n)])
    settings, found = look(tmp_path)
    assert (settings.image, settings.label) == ("image", "label")
    assert found.classes == ("dog", "cat", "owl"), "names keep the order they have on the Hub"
    assert names(found)[:3] == [["dog"], ["cat"], ["dog"]]
    numbered = [f"train/{i:09d}" for i in range(5)] + [f"validation/{i:09d}" for i in range(2)]
    assert column(found, "sample_id") == [f"mine/{number}" for number in numbered]
    assert column(found, "split") == ["train"] * 5 + ["val"] * 2
    assert column(found, "file")[:2] == ["0.png", "1.png"]
    assert set(column(found, "domain")) == {"mine"}
    assert column(found, "group") == [None] * 7
    found.container.prepare(tmp_path)
    assert found.container.read(column(found, "key")) == images(3) + images(2) + images(2)
    assert "train-00001-of-00002.parquet (row 1)" in found.container.where(column(found, "key")[4])


def test_row_groups_do_not_change_anything(tmp_path: Path) -> None:
    tables = []
    for group in (1, 5):
        path = save(tmp_path / f"{group}" / "x.parquet", group=group, image=structs(5), label=list("abcab"))
        tables.append(index(path).table)
    assert tables[0].equals(tables[1])


def test_bytes_and_texts_of_ones_own(tmp_path: Path) -> None:
    path = save(
        tmp_path / "birds.parquet",
        photo=pa.array(images(4), pa.large_binary()),
        species=pa.array(["owl", "jay", "owl", "jay"]).dictionary_encode(),
        who=[7, 7, 8, 9],
        camera=["b", "a", "b", "b"],
        part=["train", "train", "testing", "dev"],
        number=["d", "c", "b", "a"],
    )
    found = index(path, label="species", user="who", domain="camera", split="part", id="number")
    assert column(found, "sample_id") == ["mine/a", "mine/b", "mine/c", "mine/d"]
    assert names(found) == [["jay"], ["owl"], ["jay"], ["owl"]]
    assert column(found, "group") == ["9", "8", "7", "7"]
    assert column(found, "domain") == ["b", "b", "a", "b"]
    assert column(found, "split") == ["val", "test", "train", "train"]
    assert column(found, "file") == [f"row-000000{i}" for i in (3, 2, 1, 0)]
    found.container.prepare(tmp_path)
    assert found.container.read(column(found, "key")) == images(4)[::-1]


def test_domain_and_user_columns_are_found_and_can_be_refused(tmp_path: Path) -> None:
    features = {"domain": class_label("sea", "land")}
    path = save(tmp_path / "x.parquet", features, image=structs(2), label=["a", "b"], domain=[1, 0], user=["u", "v"])
    settings, found = look(path)
    assert (settings.domain, settings.user) == ("domain", "user")
    assert column(found, "domain") == ["land", "sea"]
    assert column(found, "group") == ["u", "v"]
    settings, found = look(path, domain="", user="")
    assert (settings.domain, settings.user) == ("", "")
    assert column(found, "domain") == ["mine", "mine"]
    assert column(found, "group") == [None, None]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("column", ["user", "domain", "label", "split"])
def test_a_text_that_is_not_utf8_is_refused(column: str, kind: pa.DataType, tmp_path: Path) -> None:
    raw = pa.array([b"a\xff", b"b"] * 3, pa.large_binary() if kind == pa.large_string() else pa.binary())
    broken = pa.Array.from_buffers(kind, len(raw), raw.buffers())
    columns = {"image": structs(6), "label": ["a", "b"] * 3, column: broken}
    path = save(tmp_path / "a.parquet", None, **columns)
    with pytest.raises(SourceError, match=f"column '{column}' holds a text that is not UTF-8"):
        index(path)


def test_a_split_column_is_found_and_can_be_refused(tmp_path: Path) -> None:
    features = {"split": class_label("train", "testing")}
    path = save(tmp_path / "x.parquet", features, image=structs(2), label=["a", "b"], split=[1, 0])
    settings, found = look(path)
    assert (settings.split, column(found, "split")) == ("split", ["test", "train"])
    path = save(tmp_path / "y.parquet", image=structs(3), label=["a", "b", "a"], split=["train", "valid", "extra"])
    settings, found = look(path)
    assert (settings.split, column(found, "split")) == ("split", ["train", "val", "extra"])
    settings, found = look(path, split="")
    assert (settings.split, column(found, "split")) == ("", [None] * 3)


def test_a_split_column_that_contradicts_the_file_names_is_refused(tmp_path: Path) -> None:
    for name in ("train", "test"):
        save(tmp_path / f"{name}.parquet", image=structs(2), label=["a", "b"], split=["train", "test"])
    with pytest.raises(SourceError, match=r"test.parquet: its name says split test, its column 'split' has 'train'"):
        index(tmp_path)
    assert column(index(tmp_path, split="split"), "split") == ["train", "test"] * 2
    assert column(index(tmp_path, split=""), "split") == [None] * 4
    save(tmp_path / "fold.parquet", image=structs(2), label=["a", "b"], split=[0, 1])
    with pytest.raises(SourceError, match="column 'split' has '0', '1', and none is train; say what they are"):
        index(tmp_path / "fold.parquet")
    found = index(tmp_path / "fold.parquet", splits={"0": "train", "1": "test"})
    assert column(found, "split") == ["train", "test"]


@pytest.mark.parametrize("kind", ["domain", "user", "split"])
@pytest.mark.parametrize("values", [[0.5, 1.5], [True, False], [datetime(2024, 1, 1), datetime(2024, 1, 2)]])
def test_a_column_that_says_something_is_never_passed_over(kind: str, values: list[Any], tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", image=structs(2), label=["a", "b"], **{kind: pa.array(values)})
    with pytest.raises(SourceError) as found:
        index(path)
    with pytest.raises(SourceError) as asked:
        index(path, **{kind: kind})
    assert str(found.value) == f"{asked.value}; change it, or pass it over with --set {kind}="
    assert f"but a {kind} is one of texts, whole numbers or class labels" in str(found.value)
    assert len(index(path, **{kind: ""}).table) == 2


@pytest.mark.parametrize(
    "vectors",
    [
        [[0, 1, 1], [1, 0, 0], [0, 0, 0]],
        [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        [[False, True, True], [True, False, False], [False, False, False]],
        [["0", "1", "1"], ["1", "0", "0"], ["0", "0", "0"]],
        pa.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], pa.list_(pa.uint8(), 3)),
    ],
)
def test_vectors_of_0_and_1_are_read_with_the_names_of_their_classes(vectors: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", image=structs(3), labels=vectors)
    with pytest.raises(SourceError, match="vectors of 3 zeros and ones, which have no names; name the 3 classes"):
        index(path)
    with pytest.raises(SourceError, match="and there are names for 2 classes"):
        index(path, classes=("sea", "sand"))
    found = index(path, classes=("sea", "sand", "boat"))
    assert (found.classes, found.multi_label) == (("sea", "sand", "boat"), True)
    assert names(found) == [["sand", "boat"], ["sea"], []]


def test_vectors_are_known_over_all_files_and_by_names_in_the_schema(tmp_path: Path) -> None:
    labels = {"labels": {"feature": class_label("x", "y"), "_type": "List"}}
    path = save(tmp_path / "a.parquet", labels, image=structs(2), labels=[[0, 1], [1, 0]])
    assert names(index(path)) == [["y"], ["x"]]
    save(tmp_path / "b.parquet", labels, image=structs(2), labels=[[0], [1, 0]])
    assert names(index(tmp_path)) == [["x", "y"], ["y", "x"], ["x"], ["y", "x"]], "lists of labels"


def test_names_of_numbered_classes_can_be_given(tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", image=structs(3), label=[1, 0, 1])
    assert names(index(path, classes=("cat", "dog"))) == [["dog"], ["cat"], ["dog"]]
    with pytest.raises(SourceError, match="row 0 has label 1, which is not a class"):
        index(path, classes=("cat",))
    path = save(tmp_path / "y.parquet", image=structs(2), label=["a", "b"])
    with pytest.raises(SourceError, match="has names for its labels; leave classes out"):
        index(path, classes=("a", "b"))


@pytest.mark.parametrize("pair", [("Bike", "bike"), ("Storage Tank", "storage_tank"), ("caf\u00e9", "cafe\u0301")])
def test_one_class_spelled_in_two_ways_is_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    save(tmp_path / "train.parquet", image=structs(2), label=[pair[0], "b"])
    save(tmp_path / "test.parquet", image=structs(2), label=[pair[1], "b"])
    with pytest.raises(SourceError, match="spells one class in two ways, .* and .*; write it in one"):
        index(tmp_path)
    letters = save(tmp_path / "letters.parquet", {"label": class_label("A", "a")}, image=structs(2), label=[0, 1])
    assert index(letters).classes == ("A", "a"), "a schema that names both means both"


@pytest.mark.parametrize(
    ("labels", "feature", "classes", "expected"),
    [
        ([10, 9, 10], None, ("9", "10"), [["10"], ["9"], ["10"]]),
        (pa.array([1, 0, 1], pa.uint8()), class_label("x", "y"), ("x", "y"), [["y"], ["x"], ["y"]]),
        ([[1, 0], [], [1]], {"feature": class_label("x", "y"), "_type": "List"}, ("x", "y"), [["y", "x"], [], ["y"]]),
        ([[1, 0], [0, 0], [1]], [class_label("x", "y")], ("x", "y"), [["y", "x"], ["x"], ["y"]]),
        ([["b", "a"], [], ["c"]], None, ("a", "b", "c"), [["b", "a"], [], ["c"]]),
        (pa.array([[3, 3], [5], []], pa.large_list(pa.int32())), None, ("3", "5"), [["3"], ["5"], []]),
    ],
)
def test_labels_of_all_kinds(
    labels: Any, feature: Any, classes: tuple[str, ...], expected: list[list[str]], tmp_path: Path
) -> None:
    path = save(tmp_path / "x.parquet", {"labels": feature} if feature else None, image=structs(3), labels=labels)
    found = index(path)
    assert (found.classes, names(found)) == (classes, expected)
    assert found.multi_label == pa.types.is_nested(pa.array(labels).type)
    doubled = sum(len(row) for row in labels) > sum(map(len, expected)) if found.multi_label else False
    assert bool(found.counts) == doubled


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("data/unsupervised-00000-of-00001-0123456789abcdef.parquet", "unsupervised"),
        ("default/test/0000.parquet", "test"),
        ("validation.parquet", "val"),
        ("test_images.parquet", "test"),
        ("numbers.parquet", None),
        (".cache/x/train.parquet", "hidden"),
    ],
)
def test_splits_of_file_names(file: str, split: str | None, tmp_path: Path) -> None:
    save(tmp_path / file, image=structs(2), label=["a", "b"])
    if split == "hidden":
        with pytest.raises(SourceError, match="holds no Parquet files"):
            index(tmp_path)
    else:
        assert column(index(tmp_path), "split") == [split, split]


def test_splits_renamed_and_left_out(tmp_path: Path) -> None:
    for split, label in (("train", [0, 1]), ("validation_matched", [1, 0]), ("test", [-1, -1])):
        path = tmp_path / f"{split}-00000-of-00001.parquet"
        save(path, {"label": class_label("a", "b")}, image=structs(2), label=label)
    with pytest.raises(SourceError, match=r"test-.*: row 0 has label -1, which is not a class"):
        index(tmp_path)
    found = index(tmp_path, splits={"validation_matched": "val", "test": None})
    assert column(found, "split") == ["train", "train", "val", "val"]
    assert [(left.count, left.examples) for left in found.left_out] == [(2, ("test",))]
    with pytest.raises(UsageError, match="'tset' is no split of .*; did you mean 'test'"):
        index(tmp_path, splits={"tset": None, "test": None})


def test_one_config_of_several(tmp_path: Path) -> None:
    for config in ("big", "small"):
        save(tmp_path / config / "train-00000-of-00001.parquet", image=structs(2), label=[config, "b"])
    with pytest.raises(SourceError, match="several configs: big, small; say which with sources.mine.config"):
        index(tmp_path)
    assert index(tmp_path, config="small").classes == ("b", "small")
    with pytest.raises(UsageError, match="config='smal' .* did you mean 'small'"):
        index(tmp_path, config="smal")


def test_folders_of_splits_are_no_configs(tmp_path: Path) -> None:
    for folder in ("train", "test", "data"):
        save(tmp_path / folder / "0.parquet", image=structs(2), label=["a", "b"])
    assert column(index(tmp_path), "split") == ["data"] * 2 + ["test"] * 2 + ["train"] * 2


@pytest.mark.parametrize("value", [-1, 2])
def test_messages_count_rows_in_their_file(value: int, tmp_path: Path) -> None:
    labels = {"label": class_label("a", "b")}
    save(tmp_path / "train-0.parquet", labels, image=structs(2), label=[0, 1])
    save(tmp_path / "train-1.parquet", labels, image=structs(3), label=[0, value, 1])
    with pytest.raises(SourceError, match=f"train-1.parquet: row 1 has label {value}, which is not a class"):
        index(tmp_path)


def test_a_part_of_a_split_is_refused_or_named(tmp_path: Path) -> None:
    save(tmp_path / "default/partial-train/0000.parquet", image=structs(2), label=["a", "b"])
    mine = ColumnsSource(ColumnsSettings(path=str(tmp_path)), name="mine")
    with pytest.raises(SourceError, match="split train is cut short .* --allow-partial"):
        mine.index(tmp_path)
    assert "train" in mine.index(tmp_path, allow_partial=True).missing[0]


@pytest.mark.parametrize(
    ("columns", "settings", "words"),
    [
        ({"label": ["a"]}, {}, "no image column; columns are label (string)"),
        (
            {"image": ["x.png"], "label": ["a"]},
            {},
            "column 'image' is string; images are struct<bytes, path> or binary; write",
        ),
        ({"img": ["x.png"], "label": ["a"]}, {}, "label (string); name it with --set image=COLUMN"),
        ({"image": ["x.png"], "label": ["a"]}, {"image": "image"}, "column 'image' is string; images are"),
        ({"image": [b"x"]}, {}, "no label column; columns are image (binary)"),
        ({"one": [b"x"], "two": [b"x"], "label": ["a"]}, {}, "columns one, two could all be the image"),
        ({"image": [b"x"], "label": ["a"], "labels": [["a"]]}, {}, "columns label, labels could all be the label"),
        ({"image": [b"x"], "label": [0.5]}, {}, "column 'label' is double; labels are texts"),
        ({"image": [b"x"], "labels": [[0.5]]}, {}, "column 'labels' is list<"),
        ({"image": [b"x"], "label": [True]}, {}, "column 'label' is bool"),
        ({"image": [b"x"] * 2, "label": ["a", None]}, {}, "row 1 has no label (null)"),
        ({"image": [b"x"] * 2, "labels": [["a"], None]}, {}, "row 1 has no labels (null)"),
        ({"image": [b"x"] * 3, "labels": [["a"], [], ["b", None]]}, {}, "row 2 has no labels (null)"),
        ({"image": [b"x"] * 2, "label": ["a", ""]}, {}, "row 1 has an empty label"),
        ({"image": [b"x"] * 2, "label": [0, -1]}, {}, "row 1 has label -1, which is below 0"),
        ({"image": [b"x"] * 2, "label": ["a", "a"]}, {}, "only one class, 'a'"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())}, {}, "holds no images"),
        ({"image": [b"x"] * 2, "label": ["a", "b"], "user": ["u", None]}, {}, "row 1 has no user (null)"),
        (
            {"image": [b"x"] * 2, "label": ["a", "b"], "d": [0.5, 1.5]},
            {"domain": "d"},
            "column 'd' is double, but a domain",
        ),
        (
            {"image": [b"x"] * 2, "label": ["a", "b"], "s": ["a/b", "c"]},
            {"split": "s"},
            "'a/b' is not a name for a split",
        ),
        ({"image": [b"x"] * 2, "label": ["a", "b"], "n": ["i", "i"]}, {"id": "n"}, "column 'n' has 'i' in 2 rows"),
    ],
)
def test_columns_that_cannot_be_used(
    columns: dict[str, Any], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "x.parquet", **columns)
    with pytest.raises(SourceError) as error:
        index(path, **settings)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)


def test_names_of_columns_are_suggested(tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", image=structs(2), species=["a", "b"])
    with pytest.raises(
        UsageError, match="sources.mine: label='specis' is no column of x.parquet; did you mean 'species'"
    ):
        index(path, label="specis")


def test_files_that_differ(tmp_path: Path) -> None:
    save(tmp_path / "train-0.parquet", {"label": class_label("a", "b")}, image=structs(2), label=[0, 1])
    save(tmp_path / "train-1.parquet", {"label": class_label("b", "a")}, image=structs(2), label=[0, 1])
    with pytest.raises(SourceError, match=r"train-1.parquet: has other columns or class names than .*train-0.parquet"):
        index(tmp_path)


@pytest.mark.parametrize("what", ["nothing", "empty folder", "text", "cut short"])
def test_what_cannot_be_read(what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    if what == "empty folder":
        path.mkdir()
    elif what == "text":
        path.write_text("hello")
    elif what == "cut short":
        save(path, image=structs(2), label=["a", "b"])
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=f"{path}: "):
        index(path)


def test_a_file_damaged_after_the_index_was_read(tmp_path: Path) -> None:
    path = save(tmp_path / "x.parquet", image=structs(2), label=["a", "b"])
    found = index(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=r"x.parquet: cannot be read"):
        found.container.prepare(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "repo=None and path=None: give one of them"),
        ({"repo": "u/d", "path": "x"}, "give one of them"),
        ({"repo": "nonsense"}, "should look like USER/NAME"),
        ({"path": "x", "revision": "main"}, "revision='main' belongs to repo"),
        ({"path": "x", "lable": "y"}, "unknown key 'lable'; did you mean 'label'"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=r"^sources.mine: ") as error:
        configured("mine", {"kind": "hub", **settings}, "sources.mine")
    assert words in str(error.value)


def test_where_it_is(tmp_path: Path) -> None:
    local = configured("mine", {"kind": "hub", "path": str(tmp_path)}, "")
    assert locate.find(local, locate.Places()) == tmp_path
    remote = configured("mine", {"kind": "hub", "repo": "u/d"}, "")
    assert locate.find(remote, locate.Places()) is None
    assert remote.facts.homepage == "https://huggingface.co/datasets/u/d"
    with pytest.raises(SourceError, match=r"mine: hf://u/d: not in the cache .* --source mine=PATH"):
        locate.locate(remote, locate.Places(offline=True))


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a download of a dataset asks for."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        if path.startswith("/api/datasets/u/d/tree/"):
            self.say([{"type": "file", "path": p, "size": len(d), "oid": "0" * 40} for p, d in self.files.items()])
        elif path.removeprefix("/api/datasets/u/d") in ("", "/revision/refs/convert/parquet", f"/revision/{COMMIT}"):
            self.say({"id": "u/d", "sha": COMMIT, "siblings": [{"rfilename": p} for p in self.files]})
        elif path.startswith(prefix := f"/datasets/u/d/resolve/{COMMIT}/") and path[len(prefix) :] in self.files:
            data = self.files[path[len(prefix) :]]
            self.send_response(200)
            for name, value in (("ETag", '"e"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(data)))):
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def say(self, answer: Any) -> None:
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Hub on this machine that has ``u/d``; the environment that leads to it."""
    labels = {"image": {"_type": "Image"}, "label": class_label("a", "b")}
    Hub.files = {}
    for split, count in (("train", 30), ("test", 10)):
        path = save(tmp_path / "hub.parquet", labels, image=structs(count), label=[i % 2 for i in range(count)])
        Hub.files[f"data/{split}-00000-of-00001.parquet"] = path.read_bytes()
    Hub.files["README.md"] = b"hello"
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("repo", ["u/d", "u/d@refs/convert/parquet"])
def test_a_dataset_of_the_hub(repo: str, hub: dict[str, str], tmp_path: Path) -> None:
    done = fedkit("new", "my.json", "--hub", repo, "--clients", 3, cwd=tmp_path, **hub)
    assert done.returncode == 0, done.stderr
    recipe = json.loads((tmp_path / "my.json").read_text())
    assert recipe["sources"]["d"] == {
        "kind": "hub",
        "repo": "u/d",
        "revision": COMMIT,
        "image": "image",
        "label": "label",
    }
    assert recipe["split_by"] == "source"
    built = answer(fedkit("build", "my.json", "--json", "--offline", cwd=tmp_path, **hub))
    assert built["subsets"]["d"]["rows"] == {"train": 30, "test": 10}
    assert verify(tmp_path / "data/d")[1] == []
    subset = fedrsic_data.open(tmp_path / "data/d").subset("d")
    assert subset.classes == ("a", "b")
    row = subset.read("train").to_pylist()[0]
    assert row["image"]["bytes"] == images(30)[int(row["sample_id"].rpartition("/")[2])]


def test_the_readme_of_a_dataset_of_the_hub_says_its_configs(hub: dict[str, str], tmp_path: Path) -> None:
    place = {"FEDKIT_CACHE": str(tmp_path / "cache"), **hub}
    assert fedkit("new", "old.json", "--hub", "u/d", cwd=tmp_path, **place).returncode == 0
    folder = next((tmp_path / "cache/sources/d").glob("u--d@*"))
    for name in ("README.md", ".card-asked"):  # as a download without READMEs left it
        (folder / name).unlink()
    yaml = [f"- config_name: {split}\n  data_files: data/{split}-*" for split in ("train", "test")]
    Hub.files["README.md"] = "\n".join(["---", "configs:", *yaml, "---"]).encode()
    done = fedkit("new", "my.json", "--hub", "u/d", cwd=tmp_path, **place)
    assert (done.returncode, "several configs: train, test; say which" in done.stderr) == (1, True), done.stderr
    seen = answer(fedkit("new", "my.json", "--hub", "u/d", "--config", "test", "--json", cwd=tmp_path, **place))
    assert (seen["images"], seen["splits"]) == (10, {"train": 10}), "files without a split are for training"
    built = answer(fedkit("build", "my.json", "--json", "--offline", cwd=tmp_path, **place))
    assert sum(built["subsets"]["d"]["rows"].values()) == 10


def test_no_message_shows_a_login(hub: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/token").write_text("hf_abc-SECRETTAIL\0q")
    done = fedkit("new", "x.json", "--hub", "u/d", cwd=tmp_path, **hub, HF_TOKEN="")
    refused(done, "hf://u/d: cannot be reached", codes=(1,))
    assert "SECRET" not in done.stderr
    (tmp_path / "hf/token").unlink()
    endpoint = hub["HF_ENDPOINT"].replace("http://", "http://me:SECRET@")
    done = fedkit("new", "x.json", "--hub", "u/none", cwd=tmp_path, **{**hub, "HF_ENDPOINT": endpoint})
    refused(done, "hf://u/none: cannot be reached", codes=(1,))
    assert "SECRET" not in done.stderr


def test_a_hub_that_has_no_such_dataset(hub: dict[str, str], tmp_path: Path) -> None:
    refused(
        fedkit("new", "x.json", "--hub", "u/none", cwd=tmp_path, **hub), "hf://u/none", "cannot be reached", codes=(1,)
    )
    assert not (tmp_path / "x.json").exists()


def by_path(path: Path, names: list[str | None], held: list[bytes | None] | None = None) -> Path:
    """A Parquet file whose images are paths, but where bytes are given."""
    data = held or [None] * len(names)
    column = pa.array([{"bytes": b, "path": p} for b, p in zip(data, names, strict=True)])  # as pandas types it
    return save(path, image=column, label=["ab"[i % 2] for i in range(len(names))])


def test_images_by_path_only_are_read_from_the_folder(tmp_path: Path) -> None:
    own = images(4)
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    places = [tmp_path / "data" / "pictures" / "0.png", tmp_path / "data" / "1.png", tmp_path / "2.png"]
    for file, data in zip(places, own, strict=False):
        file.write_bytes(data)
    by_path(tmp_path / "data" / "train.parquet", ["pictures/0.png", str(places[1]), "2.png", "x"], [None] * 3 + own[3:])
    found = index(tmp_path)
    found.container.prepare(tmp_path)
    assert found.container.read(column(found, "key")) == own
    assert column(found, "file") == ["0.png", "1.png", "2.png", "x"]


@pytest.mark.parametrize("name", ["gone.png", "../secret.png", "{}/secret.png", "link.png", "sub", "a\0b", "pipe"])
def test_images_by_a_path_that_leads_elsewhere_are_refused_in_those_words(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(images(1)[0])
    own = tmp_path / "own"
    (own / "sub").mkdir(parents=True)
    (own / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(own / "pipe")
    (own / "here.png").write_bytes(images(1)[0])
    by_path(own / "train.parquet", ["here.png", name.format(tmp_path)])
    found = index(own)
    with pytest.raises(SourceError) as told:
        found.container.prepare(tmp_path)
    assert f"{own / 'train.parquet'} (row 1): holds no image bytes, only the path" in str(told.value)
    assert f"which is not a file inside {own}" in str(told.value)
    assert "empty" not in str(told.value)
