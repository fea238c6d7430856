"""Splits by names: those of ``datasets`` where it finds them, and nothing lost where it does not."""

from __future__ import annotations

import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrsic_data.dataset import schema
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.raw.index import Index
from fedrsic_data.sources.folder import Folder, FolderSettings
from fedrsic_data.sources.parquet import ColumnsSettings, ColumnsSource

WORDS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SEPARATORS = ("-", "_", ".", " ", "7")
DECOYS = ("latest", "contest", "evaluate", "trained", "protest", "valley", "device", "x")  # words that say nothing
LAYOUTS = 110  # compared, each of images and of Parquet files
LOADED = 8  # of them, those that are loaded in full


def said(rng: random.Random, split: str, *, file: bool = False) -> str:
    """A name that says a split."""
    sep = rng.choice(SEPARATORS)
    word = rng.choice(WORDS[split])
    before = rng.choice(("", "", f"birds{sep}", f"2024{sep}", f"my birds{sep}"))
    after = rng.choice(("", "", f"{sep}set", f"{sep}a b", "2017", "-00000-of-00002"))
    return before + word + after if not file else f"{before}{word}{after}"


def layout(rng: random.Random, ending: str) -> list[str]:
    """Paths of a dataset of which ``datasets`` reads every file once."""
    splits = rng.sample(("train", "val", "test"), rng.randint(1, 3))
    files: list[str] = []
    around = "/".join(rng.choices(DECOYS, k=rng.randint(0, 1)))
    kind = rng.choice(("folders", "files", "neither"))
    names = {split: said(rng, split) for split in splits}
    sites = rng.choice(((), (), ("north", "south")))
    site_first = rng.random() < 0.5 and bool(around or ending == ".png")  # at the top they are configs of Parquet files
    sites = sites if around or kind == "folders" or ending == ".png" else ()
    for split in splits if kind != "neither" else ("none",):
        for site in sites or ("",):
            folder = names[split] if kind == "folders" else ""
            inner = (site, folder) if site_first else (folder, site)
            for number in range(2):
                name = f"{rng.choice(DECOYS)}{number}_"
                if kind == "files":
                    name = said(rng, split, file=True) + f"_{number}"
                classes = ("cat", "dog") if ending == ".png" else ("",)
                files += ["/".join(filter(None, (around, *inner, c, f"{name}{site}{ending}"))) for c in classes]
    return sorted(set(files))


def put(root: Path, paths: list[str]) -> Path:
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".parquet"):
            rows = [{"bytes": b"?", "path": f"{number}-{i}"} for i in range(2)]
            columns = {"image": pa.array(rows, schema.IMAGE), "label": ["a", "b"], "origin": [path] * 2}
            pq.write_table(pa.table(columns), file)
        else:
            file.write_bytes(b"?")
    return root


def look(root: Path, ending: str, **settings: Any) -> Index:
    if ending == ".parquet":
        return ColumnsSource(ColumnsSettings(path=str(root), **settings), name="mine").look(root)[1]
    return Folder(FolderSettings(path=str(root), **settings), name="mine").look(root)[1]


def ours(root: Path, ending: str, paths: list[str]) -> dict[str, str]:
    """The split of every file as it is read here; a dataset that says none is all for training."""
    found = look(root, ending)
    keys = found.table.column("key" if ending == ".png" else "file").to_pylist()
    splits = found.table.column("split").to_pylist()
    assert len(keys) == len(paths) * (1 if ending == ".png" else 2), "every row is there"
    named = keys if ending == ".png" else [paths[int(key.split("-")[0])] for key in keys]
    return {path: split or "train" for path, split in zip(named, splits, strict=True)}


def resolved(root: Path) -> dict[str, list[str]]:
    """The splits of every file as ``datasets`` resolves them."""
    from datasets.data_files import get_data_patterns, resolve_pattern

    found: dict[str, list[str]] = defaultdict(list)
    for split, patterns in get_data_patterns(str(root)).items():
        matched = set()
        for pattern in patterns:
            try:
                matched |= set(resolve_pattern(pattern, str(root)))
            except FileNotFoundError:
                continue
        for file in matched:
            found[Path(file).relative_to(root).as_posix()].append("val" if split == "validation" else str(split))
    return found


def loaded(root: Path, cache: Path, ending: str) -> dict[str, str]:
    """The split of every file as ``datasets.load_dataset`` loads its rows."""
    from datasets import Image, load_dataset

    found = {}
    for split, rows in load_dataset(str(root), cache_dir=str(cache)).items():
        if ending == ".png":
            paths = [
                Path(row["path"]).relative_to(root) for row in rows.cast_column("image", Image(decode=False))["image"]
            ]
        else:
            paths = rows["origin"]
        found |= {str(path): "val" if split == "validation" else split for path in paths}
    return found


@pytest.mark.parametrize("ending", [".png", ".parquet"])
def test_every_row_is_in_the_split_in_which_datasets_has_it(ending: str, tmp_path: Path) -> None:
    rng, compared = random.Random(16), 0
    while compared < LAYOUTS:
        paths = layout(rng, ending)
        root = put(tmp_path / f"{compared}", paths)
        theirs = resolved(root)
        if sorted(theirs) == paths and all(len(splits) == 1 for splits in theirs.values()):
            mine = ours(root, ending, paths)
            assert mine == {path: splits[0] for path, splits in theirs.items()}, paths
            if compared < LOADED:
                assert mine == loaded(root, tmp_path / "cache", ending), paths
            compared += 1
        shutil.rmtree(root)


@pytest.mark.parametrize("ending", [".png", ".parquet"])
def test_where_datasets_loses_files_none_are_lost_here(ending: str, tmp_path: Path) -> None:
    rng, differ = random.Random(17), 0
    while differ < 30:
        paths = sorted({*layout(rng, ending), *layout(rng, ending)})
        root = put(tmp_path / f"{differ}", paths)
        theirs = resolved(root)
        if sorted(theirs) != paths or any(len(splits) > 1 for splits in theirs.values()):
            differ += 1
            try:
                mine = ours(root, ending, paths)
            except SourceError:
                mine = {}  # refused, in words
            if len(set(mine.values())) == 1 and len({s for splits in theirs.values() for s in splits}) > 1:
                raise AssertionError(f"splits are pooled: {paths}")
            for path, split in mine.items():
                if len(theirs[path]) == 1 and len(set(mine.values())) > 1:
                    assert split == theirs[path][0], paths
        shutil.rmtree(root)


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["birds-train.parquet", "birds-test.parquet"], ["test", "train"]),
        (["2024-train.parquet", "2024-eval.parquet"], ["test", "train"]),
        (["train/site_a/0.parquet", "test/site_a/0.parquet"], ["test", "train"]),
        (["data/train-00000-of-00001.parquet", "data/extra-00000-of-00001.parquet"], ["extra", "train"]),
        (["train-00000-of-00001.parquet", "extra-00000-of-00001.parquet"], ["extra", "train"]),
        (["train/0.parquet", "holdout/0.parquet"], ["holdout", "train"]),
        (["Train.parquet", "TEST.parquet"], ["test", "train"]),
        (["a-00000-of-00002.parquet", "a-00001-of-00002.parquet"], [None, None]),
        (["training/train-0.parquet", "validation_matched-00000-of-00001.parquet"], ["train", "validation_matched"]),
    ],
)
def test_splits_of_parquet_files(paths: list[str], splits: list[str | None], tmp_path: Path) -> None:
    found = look(put(tmp_path, sorted(paths)), ".parquet")
    assert sorted(set(found.table.column("split").to_pylist()), key=str) == sorted(set(splits), key=str)


def test_sample_ids_keep_the_words_of_the_files(tmp_path: Path) -> None:
    paths = ["dev-0.parquet", "training-00000-of-00001.parquet", "validation_matched-00000-of-00001.parquet"]
    ids = look(put(tmp_path, paths), ".parquet").table.column("sample_id").to_pylist()
    assert {i.split("/")[1] for i in ids} == {"dev", "training", "validation_matched"}


def test_a_test_set_beside_files_that_say_nothing_is_refused_until_someone_says_what_they_are(tmp_path: Path) -> None:
    root = put(tmp_path, ["other.parquet", "test.parquet"])
    with pytest.raises(
        SourceError, match=r"""test.parquet says split test, other.parquet says none.*'splits=\{"other"""
    ):
        look(root, ".parquet")
    found = look(root, ".parquet", splits={"other": "train"})
    assert found.table.column("split").to_pylist() == ["train"] * 2 + ["test"] * 2
    assert look(root, ".parquet", split="").table.column("split").to_pylist() == [None] * 4


def test_a_name_that_says_two_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"train/test-0.parquet|a-train-val/0.parquet names two splits, train.* and val"
    ):
        look(put(tmp_path / "p", ["a-train-val/0.parquet", "test/0.parquet"]), ".parquet")
    with pytest.raises(SourceError, match="train_val names two splits"):
        look(put(tmp_path / "i", ["train_val/a/0.png", "test/b/0.png"]), ".png")


@pytest.mark.parametrize(
    ("paths", "layout", "splits", "domains"),
    [
        (["train2017/a/1.png", "val2017/b/2.png"], "split/class", ["train", "val"], ["mine"]),
        (["train/x/a/1.png", "test/y/b/2.png"], "split/domain/class", ["test", "train"], ["x", "y"]),
        (["x/train/a/1.png", "y/test/b/2.png"], "domain/split/class", ["test", "train"], ["x", "y"]),
        (["a/train_1.png", "b/test_2.png"], "class", ["test", "train"], ["mine"]),
        (["train/a/1.png", "holdout/b/2.png"], "split/class", ["holdout", "train"], ["mine"]),
        (["set test/a/1.png", "set test/b/2.png"], "class", ["test"], ["mine"]),
        (["latest/a/1.png", "contest/b/2.png"], "domain/class", [None], ["contest", "latest"]),
        (["training data/train/a/1.png", "training data/test/b/2.png"], "split/class", ["test", "train"], ["mine"]),
    ],
)
def test_splits_of_images(
    paths: list[str], layout: str, splits: list[str | None], domains: list[str], tmp_path: Path
) -> None:
    settings, found = Folder(FolderSettings(path="."), name="mine").look(put(tmp_path, paths))
    assert settings.layout == layout
    assert sorted(set(found.table.column("split").to_pylist()), key=str) == splits
    assert sorted(set(found.table.column("domain").to_pylist())) == domains
    again = look(tmp_path, ".png", layout=layout)
    assert again.table.equals(found.table), "a recipe that names the layout reads the same"


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["test tube/1.png", "beaker/2.png"], "test tube is a class here; load_dataset sees a split word in"),
        (["train/1.png", "car/2.png", "bus/3.png"], "train is a class here; load_dataset sees"),
        (["train/test tube/1.png", "test/beaker/2.png"], "put their images in two splits"),
        (["a/1.png", "b/speed test 2.png"], "1 of 2 images have the word 'test' in their file names"),
        (["train/a/1.png", "holdout/b/2.png"], "load_dataset would pass over holdout"),
        (["Train/a/1.png", "test/b/2.png"], "load_dataset sees no split in the capitals of Train"),
    ],
)
def test_where_datasets_would_read_other_files_a_note_says_so(paths: list[str], words: str, tmp_path: Path) -> None:
    found = look(put(tmp_path, paths), ".png")
    assert len(found.table) == len(paths)
    assert words in "\n".join(found.notes)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["site/a/1.png", "test/b/2.png"], "test says split test, site says none.*if these are domains, set layout"),
        (["test tube/1.png", "dev board/2.png"], "if .* is a class, set layout=class"),
        (["a/train_1.png", "a/test_1.png", "b/3.png"], "file names say the split of some images .* no split of others"),
        (["a/train_test_1.png", "b/test_2.png"], "and more than one split of others"),
    ],
)
def test_images_of_a_test_set_are_never_taken_for_others(paths: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=words):
        look(put(tmp_path, paths), ".png")


def test_splits_of_folders_can_be_said_and_left_out(tmp_path: Path) -> None:
    root = put(tmp_path, ["trainval/a/1.png", "trainval/b/2.png", "test/a/3.png"])
    found = look(root, ".png", splits={"trainval": "train"})
    assert found.table.column("split").to_pylist() == ["test", "train", "train"]
    found = look(root, ".png", splits={"trainval": "train", "test": None})
    assert found.table.column("split").to_pylist() == ["train", "train"]
    assert [(left.count, left.examples) for left in found.left_out] == [(1, ("test",))]
    assert look(root, ".png", split="").table.column("split").null_count == 3
    with pytest.raises(UsageError, match="'tset' is no split of .*; did you mean 'test'"):
        look(root, ".png", splits={"trainval": "train", "tset": None})


def test_a_table_without_splits_has_those_of_its_paths(tmp_path: Path) -> None:
    put(tmp_path, paths := ["in/train/1.png", "in/test/deep/2.png"])
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{path},{i}\n" for i, path in enumerate(paths)))
    found = look(tmp_path, ".png")
    assert found.table.column("split").to_pylist() == ["test", "train"]
    put(tmp_path, ["3.png"])
    (tmp_path / "labels.csv").open("a").write("3.png,c\n")
    with pytest.raises(SourceError, match="folders say the split of some images .* --set split="):
        look(tmp_path, ".png")
    assert look(tmp_path, ".png", split="").table.column("split").null_count == 3
