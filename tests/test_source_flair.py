"""FLAIR in both forms: one index, labels as a plain reader sees them, and everything that can be wrong."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import answer, contents, fedkit, refused, tiny_image

import fedrsic_data
from fedrsic_data.build.verify import verify
from fedrsic_data.errors import FedkitError, SourceError
from fedrsic_data.raw import containers
from fedrsic_data.sources import flair, flair_labels

FINE = {"bag": "equipment", "dog": "animal", "lake": "liquid", "oak": "plant", "rope": "material"}
Entry = dict[str, Any]


def made_up(images: int = 60, users: int = 13) -> list[Entry]:
    """Entries in no order; user 0 has many images, the last ones one each; fine labels are coarse ones at times."""
    rng = np.random.default_rng(7)
    ids = rng.choice(10**8, images, replace=False) * 10 ** rng.integers(0, 3, images)
    entries = []
    for i in rng.permutation(images).tolist():
        user = max(i - images + users, 0)
        fine = rng.choice([*FINE, "outdoor"], rng.integers(1, 4), replace=False).tolist()
        entry = {
            "user_id": f"{user * 977}@N0{user % 8}",
            "image_id": str(ids[i]),
            "fine_grained_labels": fine,
            "labels": sorted({FINE.get(name, name) for name in fine}),
            "partition": ("train", "train", "val", "test", "train")[user % 5],
        }
        entries.append(entry)
    return entries


def picture(entry: Entry) -> bytes:
    return tiny_image(int(entry["image_id"]) % 10**7, ".jpg")


def write_labels(root: Path, entries: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels_and_metadata.json").write_text(json.dumps(entries, indent=0))
    (root / "label_relationship.txt").write_text("".join(f"{fine} -> {coarse}\n" for fine, coarse in FINE.items()))
    return root


def unpacked(root: Path, entries: list[Entry]) -> Path:
    write_labels(root, entries)
    (root / "small_images").mkdir()
    for entry in entries:
        (root / f"small_images/{entry['image_id']}.jpg").write_bytes(picture(entry))
    return root


def tarred(path: Path, members: dict[str | tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return path


def archived(root: Path, entries: list[Entry], parts: int = 3) -> Path:
    write_labels(root, entries)
    for part in range(parts):
        mine = {f"small_images/{entry['image_id']}.jpg": picture(entry) for entry in entries[part::parts]}
        tarred(root / f"small_images-{part:02d}.tar.gz", mine)
    return root


def flair_mirror(root: Path, entries: list[Entry]) -> Path:
    """As ``apple/flair``: a file or two a partition, ids as numbers, no file names, small row groups."""
    (root / "data").mkdir(parents=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = pa.list_(pa.string())
    schema = pa.schema(
        [
            ("user_id", pa.string()),
            ("image_id", pa.int64()),
            ("labels", texts),
            ("partition", pa.string()),
            ("fine_grained_labels", texts),
            ("image", image),
        ]
    )
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        mine = [entry for entry in entries if entry["partition"] == split]
        for part in range(count):
            rows = [
                {**entry, "image_id": int(entry["image_id"]), "image": {"bytes": picture(entry), "path": None}}
                for entry in mine[part::count]
            ]
            path = root / f"data/{split}-{part:05d}-of-{count:05d}.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=7)
    return root


FORMS: dict[str, Callable[[Path, list[Entry]], Path]] = {"folder": unpacked, "archives": archived, "hub": flair_mirror}


def built(source: Path, out: Path, *more: object) -> Path:
    answer(fedkit("build", "flair", "--source", f"flair={source}", "--out", out, "--offline", "--json", *more))
    assert verify(out)[1] == []
    return out


def labels_of(dataset: Path) -> dict[str, tuple[str, str, set[str], set[str], str]]:
    """image id -> user, split, coarse and fine names, digest of the bytes; each image once."""
    subset = fedrsic_data.open(dataset).subset("flair")
    coarse, fine = subset.classes, subset.entry.fine.classes
    found = {}
    for split in subset.splits:
        for row in subset.read(split).to_pylist():
            image_id = row["sample_id"].removeprefix("flair/")
            assert image_id not in found
            assert row["image"]["path"] == f"{image_id}.jpg"
            names = {coarse[i] for i in row["labels"]}, {fine[i] for i in row["fine_labels"]}
            assert [*row["labels"]] == sorted(set(row["labels"]))
            found[image_id] = (row["client_id"], split, *names, hashlib.sha256(row["image"]["bytes"]).hexdigest())
    return found


def expected(entries: list[Entry], data: Callable[[Entry], bytes]) -> dict[str, tuple[object, ...]]:
    return {
        e["image_id"]: (
            e["user_id"],
            e["partition"],
            set(e["labels"]),
            set(e["fine_grained_labels"]),
            hashlib.sha256(data(e)).hexdigest(),
        )
        for e in entries
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flair")
    return {form: write(root / form, made_up()) for form, write in FORMS.items()}


def test_all_forms_give_the_same_index(sources: dict[str, Path]) -> None:
    indexes = {form: flair.SOURCE.index(path) for form, path in sources.items()}
    first = indexes["folder"]
    for index in indexes.values():
        assert index.table.drop_columns(["key"]).equals(first.table.drop_columns(["key"]))
        assert index.classes == flair.LABELS == tuple(sorted(flair.LABELS))
        assert index.fine.classes == tuple(sorted([*FINE, "outdoor"]))
        assert index.multi_label
        assert index.missing == ("the metadata list 60 of 429,078 images",)
        assert index.left_out == ()
    assert first.fine.parents == tuple(FINE.get(name, name) for name in first.fine.classes)
    assert indexes["hub"].fine.parents == ("",) * 6
    ids = first.table.column("sample_id").to_pylist()
    assert ids == sorted(f"flair/{entry['image_id']}" for entry in made_up())


def test_containers_give_the_same_bytes_in_any_order(sources: dict[str, Path], tmp_path: Path) -> None:
    data = {}
    for form, path in sources.items():
        index = flair.SOURCE.index(path)
        index.container.prepare(tmp_path)
        index.container.prepare(tmp_path)
        order = np.random.default_rng(0).permutation(60).tolist()
        keys = [index.table.column("key").to_pylist()[i] for i in order]
        data[form] = index.container.read(keys)
        assert all("flair" in index.container.where(key) for key in keys)
    by_id = {f"flair/{entry['image_id']}": picture(entry) for entry in made_up()}
    ids = index.table.column("sample_id").to_pylist()
    assert data["folder"] == data["archives"] == data["hub"] == [by_id[ids[i]] for i in order]
    assert list(tmp_path.iterdir()) == []


def test_all_forms_build_the_same_bytes(sources: dict[str, Path], tmp_path: Path) -> None:
    files = {form: contents(built(path, tmp_path / form)) for form, path in sources.items()}
    wanted = [name for name in files["folder"] if name not in ("manifest.json", "README.md")]
    assert len(wanted) == 15  # plan, client table, a file a user
    for form in ("archives", "hub"):
        assert [name for name in wanted if files[form].get(name) != files["folder"][name]] == []
    assert files["archives"]["manifest.json"] == files["folder"]["manifest.json"]
    assert labels_of(tmp_path / "hub") == expected(made_up(), picture)


def test_natural_packed_and_typed(sources: dict[str, Path], tmp_path: Path) -> None:
    out = built(
        sources["archives"], tmp_path / "out", "--set", "layout.files=packed", "--set", "layout.shard_bytes=9000"
    )
    subset = fedrsic_data.open(out).subset("flair")
    users = Counter(entry["user_id"] for entry in made_up())
    assert set(subset.clients) == set(users)
    assert {c: sum(subset.client(c).rows(split) for split in subset.splits) for c in subset.clients} == users
    assert 3 < len(subset.entry.shards) < len(users)
    trained = Counter(name for e in made_up() if e["partition"] == "train" for name in e["fine_grained_labels"])
    fine = subset.entry.fine
    assert dict(zip(fine.classes, fine.train_counts, strict=True)) == {name: trained[name] for name in fine.classes}
    whole = subset.read("train").to_pylist()
    assert whole == [row for client in subset.clients for row in subset.client(client).read("train").to_pylist()]
    assert labels_of(out) == expected(made_up(), picture)

    datasets = pytest.importorskip("datasets")
    files = {split: str(out / f"flair/{split}/*.parquet") for split in subset.splits}
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    features = loaded["train"].features
    assert features["labels"] == datasets.List(datasets.ClassLabel(names=list(flair.LABELS)))
    assert features["fine_labels"] == datasets.List(datasets.ClassLabel(names=list(fine.classes)))
    assert isinstance(features["image"], datasets.Image)
    assert loaded["val"].num_rows == subset.entry.rows["val"]


def test_splitting_again_keeps_the_fine_labels(sources: dict[str, Path], tmp_path: Path) -> None:
    out = built(sources["archives"], tmp_path / "out")
    again = tmp_path / "again"
    change = ("--partition", "dirichlet", "--set", "clients=5", "--set", "alpha=0.5")
    answer(fedkit("resplit", out, "--out", again, "--json", *change))
    assert verify(again)[1] == []
    subset = fedrsic_data.open(again).subset("flair")
    assert len(subset.clients) == 5
    assert subset.entry.fine.parents == fedrsic_data.open(out).subset("flair").entry.fine.parents
    ours, theirs = labels_of(again), expected(made_up(), picture)
    assert {i: row[1:] for i, row in ours.items()} == {i: row[1:] for i, row in theirs.items()}


# What can be wrong


def change(**fields: object) -> Callable[[list[Entry]], object]:
    """Other values in the entry in the middle."""

    def changed(entries: list[Entry]) -> object:
        at = len(entries) // 2
        return [*entries[:at], {**entries[at], **fields}, *entries[at + 1 :]]

    return changed


BAD_METADATA: dict[str, tuple[Callable[[list[Entry]], object], tuple[str, ...]]] = {
    "object": (lambda entries: {"images": entries}, ("labels_and_metadata.json", "JSON list")),
    "nothing": (lambda _: [], ("lists no images",)),
    "number": (lambda entries: [*entries, 5], ("entry 60", "an object")),
    "no user": (lambda entries: [{**entries[0], "user_id": None}], ("entry 0", "user_id=None")),
    "numeric id": (change(image_id=7), ("entry 30", "image_id=7")),
    "padded id": (change(image_id="007"), ("entry 30", "'007'", "leading zeros")),
    "path as id": (change(image_id="../7"), ("entry 30", "'../7'")),
    "labels as text": (change(labels="animal"), ("entry 30", "labels='animal'", "list of texts")),
    "label a number": (change(fine_grained_labels=["dog", 3]), ("entry 30", "fine_grained_labels")),
    "unknown label": (change(labels=["animals"]), ("'animals'", "17 labels")),
    "unknown partition": (change(partition="dev"), ("'dev'", "train, val, test")),
    "twice": (lambda entries: [*entries, entries[3]], ("image_id", "listed twice")),
    "surrogate": (change(user_id="\ud800"), ("labels_and_metadata.json", "cannot be read")),
}


@pytest.mark.parametrize("case", BAD_METADATA)
def test_bad_metadata(sources: dict[str, Path], tmp_path: Path, case: Any) -> None:
    damage, words = BAD_METADATA[case]
    root = write_labels(tmp_path / "bad", damage(made_up()))
    (root / "small_images").symlink_to(sources["folder"] / "small_images")
    not_flair(root, *words, allow_partial=True)


def not_flair(path: Path, *words: str, allow_partial: bool = False, prepare: Path | None = None) -> None:
    """One line of the right kind that says all of ``words``."""

    def read() -> None:
        index = flair.SOURCE.index(path, allow_partial=allow_partial)
        assert prepare is not None
        index.container.prepare(prepare)

    with pytest.raises(SourceError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a JSON list"),
        ('{"images": []}', "not a JSON list"),
        ("[", "at character 1"),
        ('[{"user_id": "1"', "at character"),
        ("[" * 100_000, "nest" if sys.version_info >= (3, 13) else "recursion"),
        ("[{} {}]", "no comma or closing bracket"),
        ("[]]", "something follows"),
        ("[{}", "no comma or closing bracket"),
        ("[1" + "0" * 5000 + "]", "digits"),
        ('["\xff"]', "utf-8"),
    ],
)
def test_broken_json(sources: dict[str, Path], tmp_path: Path, text: str, words: Any) -> None:
    root = write_labels(tmp_path / "bad", [])
    (root / "labels_and_metadata.json").write_text(text, encoding="latin-1")
    not_flair(root, "labels_and_metadata.json", "JSON list", words)


def test_the_metadata_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = unpacked(tmp_path / "src", made_up())
    whole = flair.SOURCE.index(root)
    monkeypatch.setattr(flair_labels, "_BLOCK", 97)
    monkeypatch.setattr(flair_labels, "_BATCH", 7)
    pieces = flair.SOURCE.index(root)
    assert pieces.table.equals(whole.table)
    assert pieces.fine == whole.fine


def test_a_user_in_two_partitions(sources: dict[str, Path], tmp_path: Path) -> None:
    entries = made_up()
    user = Counter(entry["user_id"] for entry in entries).most_common(1)[0][0]
    next(entry for entry in entries if entry["user_id"] == user)["partition"] = "test"
    root = write_labels(tmp_path / "bad", entries)
    not_flair(root, f"user {user!r}", "train and test")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dog", "line 6"),
        ("dog ->", "line 6"),
        ("dog -> animals", "'dog -> animals'"),
        ("dog -> plant", "maps 'dog' to plant"),
    ],
)
def test_a_bad_ontology(sources: dict[str, Path], tmp_path: Path, line: str, words: str) -> None:
    root = unpacked(tmp_path / "bad", made_up())
    with (root / "label_relationship.txt").open("a") as file:
        file.write(line + "\n")
    not_flair(root, "label_relationship.txt", words)


def test_fine_labels_that_the_ontology_does_not_name_have_no_parent(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "src", made_up())
    (root / "label_relationship.txt").write_text("dog -> animal\n\nunheard -> art\n")
    fine = flair.SOURCE.index(root).fine
    assert dict(zip(fine.classes, fine.parents, strict=True)) == {
        **dict.fromkeys(FINE, ""),
        "dog": "animal",
        "outdoor": "outdoor",
    }


def test_labels_listed_twice_count_once(tmp_path: Path) -> None:
    entries = made_up()
    entries[0]["labels"] = [*entries[0]["labels"], entries[0]["labels"][0]]
    index = flair.SOURCE.index(unpacked(tmp_path / "src", entries))
    assert index.counts == {"labels listed twice": 1}
    assert index.table.column("labels").equals(
        flair.SOURCE.index(unpacked(tmp_path / "whole", made_up())).table.column("labels")
    )


@pytest.mark.parametrize("form", ["folder", "archives"])
def test_absent_images_need_leave(tmp_path: Path, form: str) -> None:
    entries = made_up()
    root = FORMS[form](tmp_path / "src", entries[:-2])
    write_labels(root, entries)
    absent = sorted(entry["image_id"] for entry in entries[-2:])
    words = ("2 of the 60 images",) if form == "folder" else ("2 of 60 images", "in no archive")
    not_flair(root, *words, "--allow-partial", *absent[: form == "folder"], prepare=tmp_path)
    done = fedkit("build", "flair", "--source", f"flair={root}", "--out", tmp_path / "out", "--offline")
    refused(done, *words, "--allow-partial", codes=(1,))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]
    out = built(root, tmp_path / "out", "--allow-partial")
    assert labels_of(out) == expected(entries[:-2], picture)
    manifest = json.loads((out / "manifest.json").read_text())
    left_out = manifest["subsets"]["flair"]["left_out"]
    assert [(row["count"], row["examples"]) for row in left_out] == [(2, [f"{image}.jpg" for image in absent])]
    assert manifest["sources"]["flair"]["missing"] == ["2 of 60 images are absent"]


@pytest.mark.parametrize("form", ["folder", "archives"])
def test_images_that_the_metadata_do_not_list_are_counted_or_passed_over(tmp_path: Path, form: str) -> None:
    entries = made_up()
    root = FORMS[form](tmp_path / "src", entries)
    write_labels(root, entries[:-1])
    index = flair.SOURCE.index(root, allow_partial=True)
    assert [(left.reason, left.count) for left in index.left_out] == [("not listed in labels_and_metadata.json", 1)]
    assert labels_of(built(root, tmp_path / "out")) == expected(entries[:-1], picture)


def test_other_files_in_the_image_folder_are_counted(tmp_path: Path) -> None:
    root = unpacked(tmp_path / "src", made_up())
    for name in ("notes.txt", "12.png", "012.jpg", ".hidden"):
        (root / "small_images" / name).write_bytes(b"x")
    left = flair.SOURCE.index(root).left_out
    assert [(one.reason, one.examples) for one in left] == [
        ("not named as an image of the set", ("012.jpg", "12.png", "notes.txt"))
    ]


def test_an_absent_parquet_file_needs_leave(tmp_path: Path) -> None:
    root = flair_mirror(tmp_path / "src", made_up())
    (root / "data/train-00001-of-00002.parquet").unlink()
    not_flair(root, "train-00001-of-00002.parquet", "--allow-partial")
    index = flair.SOURCE.index(root, allow_partial=True)
    assert index.missing == ("1 Parquet files are absent",)


def test_other_parquet_files_are_refused(tmp_path: Path, sample_build: Path) -> None:
    not_flair(sample_build, ".parquet", "should have columns")


def test_empty_cells_in_parquet_are_refused(tmp_path: Path) -> None:
    root = flair_mirror(tmp_path / "src", made_up())
    path = root / "data/val-00000-of-00001.parquet"
    table = pq.read_table(path)
    column = pa.array([None, *table.column("user_id").to_pylist()[1:]], pa.string())
    pq.write_table(table.set_column(table.column_names.index("user_id"), "user_id", column), path)
    not_flair(root, "val-00000-of-00001.parquet", "user_id")


def test_a_folder_with_neither_form(tmp_path: Path) -> None:
    not_flair(tmp_path / "none", "does not exist")
    not_flair(tmp_path, "labels_and_metadata.json", "Parquet")
    write_labels(tmp_path / "src", made_up())
    not_flair(tmp_path / "src", "small_images")
    write_labels(tmp_path / "src/deeper", made_up())
    not_flair(tmp_path / "src", "could both be flair")


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_image_stops_the_build_or_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    entries = made_up()
    bad = entries[11]["image_id"]
    whole = picture
    monkeypatch.setitem(globals(), "picture", lambda entry: b"" if entry["image_id"] == bad else whole(entry))
    root = FORMS[form](tmp_path / "src", entries)
    monkeypatch.undo()
    arguments = ("build", "flair", "--source", f"flair={root}", "--out", tmp_path / "out", "--offline")
    refused(fedkit(*arguments), "0 bytes", "src", "" if form == "hub" else f"{bad}.jpg", codes=(1,))
    out = built(root, tmp_path / "out", "--on-bad-image", "skip")
    assert labels_of(out) == expected([entry for entry in entries if entry["image_id"] != bad], picture)
    skipped = json.loads((out / "manifest.json").read_text())["subsets"]["flair"]["skipped"]
    assert [row["sample_id"] for row in skipped] == [f"flair/{bad}"]


# Archives


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


HOSTILE = {
    "leaves": (info("small_images/../../x.jpg"), "leaves its folder"),
    "absolute": (info("/tmp/x.jpg"), "absolute name"),
    "link": (info("small_images/1.jpg", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
    "hard link": (info("small_images/1.jpg", tarfile.LNKTYPE, "small_images/2.jpg"), "is a link"),
    "pipe": (info("small_images/1.jpg", tarfile.FIFOTYPE), "is a link, a device"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_members_stop_the_build(tmp_path: Path, case: str) -> None:
    member, words = HOSTILE[case]
    root = archived(tmp_path / "src", made_up())
    tarred(root / "small_images-03.tar.gz", {member: b"x"})
    done = fedkit("build", "flair", "--source", f"flair={root}", "--out", tmp_path / "out", "--offline")
    refused(done, "small_images-03.tar.gz", words, codes=(1,))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src"]
    not_flair(root, "small_images-03.tar.gz", words, allow_partial=True)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_archives(tmp_path: Path, keep: float) -> None:
    root = archived(tmp_path / "src", made_up())
    path = root / "small_images-01.tar.gz"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    not_flair(root, "small_images-01.tar.gz", "cut short", prepare=tmp_path)
    not_flair(root, "small_images-01.tar.gz", "cut short", allow_partial=True)


@pytest.mark.parametrize("at", [3, -6, -2])
def test_archives_with_a_flipped_bit_in_header_checksum_or_length(tmp_path: Path, at: int) -> None:
    root = archived(tmp_path / "src", made_up())
    path = root / "small_images-01.tar.gz"
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    not_flair(root, "small_images-01.tar.gz", prepare=tmp_path)


def test_no_flipped_bit_changes_an_image_unseen(tmp_path: Path) -> None:
    entries = made_up(6, 2)
    root = archived(tmp_path / "src", entries, parts=1)
    path = root / "small_images-00.tar.gz"
    whole = path.read_bytes()
    for at in np.random.default_rng(0).integers(64, len(whole), 60).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        index = flair.SOURCE.index(root)
        with pytest.raises(FedkitError, match=r"small_images"):
            index.container.prepare(tmp_path)


def test_a_bomb(tmp_path: Path) -> None:
    root = archived(tmp_path / "src", made_up())
    tarred(root / "small_images-04.tar.gz", {f"small_images/{i}.jpg": bytes(2**24) for i in range(4)})
    assert (root / "small_images-04.tar.gz").stat().st_size < 2**17
    not_flair(root, "small_images-04.tar.gz", "bomb", prepare=tmp_path)


def test_an_image_in_two_archives(tmp_path: Path) -> None:
    entries = made_up()
    root = archived(tmp_path / "src", entries)
    name = f"{entries[0]['image_id']}.jpg"
    tarred(root / "small_images-03.tar.gz", {f"small_images/{name}": picture(entries[0])})
    not_flair(root, "small_images-03.tar.gz", name, "small_images-00.tar.gz", prepare=tmp_path)
    tarred(root / "small_images-03.tar.gz", {})
    tarred(root / "small_images-00.tar.gz", {f"{folder}/{name}": b"x" for folder in "ab"})
    not_flair(root, "small_images-00.tar.gz", name, "too", prepare=tmp_path)


def test_archives_are_inflated_once_and_in_small_pieces(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = flair.SOURCE.index(sources["archives"])
    opened, files = [], containers.archives.targz_files
    monkeypatch.setattr(containers.archives, "targz_files", lambda path: (opened.append(path.name), files(path))[1])
    monkeypatch.setattr(containers, "_SPILL", 700)
    index.container.prepare(tmp_path)
    assert sorted(opened) == [f"small_images-{i:02d}.tar.gz" for i in range(3)]
    by_id = {f"flair/{entry['image_id']}": picture(entry) for entry in made_up()}
    ids = index.table.column("sample_id").to_pylist()
    assert index.container.read(index.table.column("key").to_pylist()) == [by_id[i] for i in ids]


# Real images


@pytest.mark.realdata
def test_real_images(real_data: Path, tmp_path: Path) -> None:
    done = answer(fedkit("build", "flair", "--sources", real_data, "--json", cwd=tmp_path))
    assert done["subsets"]["flair"]["rows"] == {"train": 22, "val": 6, "test": 7}
    out = tmp_path / "data/flair"
    assert verify(out)[1] == []
    entries = json.loads((real_data / "flair/labels_and_metadata.json").read_text())
    folder = real_data / "flair/small_images"
    assert labels_of(out) == expected(entries, lambda e: (folder / f"{e['image_id']}.jpg").read_bytes())
    subset = fedrsic_data.open(out).subset("flair")
    assert len(subset.clients) == len({entry["user_id"] for entry in entries}) == 15
    names = (real_data / "flair/fine_grained_labels_1628.txt").read_text().split()
    assert set(subset.entry.fine.classes) <= set(names)
    assert set(flair.LABELS) <= set(names)


@pytest.mark.realdata
def test_real_images_are_the_same_from_an_archive(real_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "flair"
    root.mkdir()
    (root / "labels_and_metadata.json").write_bytes((real_data / "flair/labels_and_metadata.json").read_bytes())
    images = sorted((real_data / "flair/small_images").iterdir())
    for part in range(2):
        members = {f"small_images/{path.name}": path.read_bytes() for path in images[part::2]}
        tarred(root / f"small_images-{part:02d}.tar.gz", members)
    ours, theirs = built(root, tmp_path / "ours"), built(real_data / "flair", tmp_path / "theirs")
    assert contents(ours) == contents(theirs)
