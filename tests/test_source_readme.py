"""Configs in the head of a README: which files are of which config and split, as ``datasets`` reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import answer, fedkit, refused, tiny_image

from fedrsic_data.dataset import schema
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.raw.index import Index
from fedrsic_data.sources.folder import Folder, FolderSettings
from fedrsic_data.sources.parquet import ColumnsSettings, ColumnsSource

PARTS = """
configs:
- config_name: main
  data_files:
  - split: train
    path: ["part-[0-3]*.EXT", "more/**/a?.EXT"]
  - split: validation
    path: part-[!0-3]*.EXT
  - split: hold_out
    path: deep/*/x/*.EXT
"""
FILES = (
    "part-0",
    "part-1",
    "part-9",
    "more/a1",
    "more/in/deep/a2",
    "more/b1",
    "deep/one/x/1",
    "deep/one/y/1",
    "test-0",
)


def put(root: Path, yaml: str, ending: str, files: tuple[str, ...] = FILES) -> Path:
    """A dataset with this YAML in the head of its README; images stand in a folder a class, of which there are two."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "README.md").write_text(f"---\nlicense: mit\n{yaml.strip().replace('EXT', ending)}\n---\n# Hello\n")
    for number, name in enumerate(files):
        path = root / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == "parquet":
            rows = [{"bytes": tiny_image(i, ".png"), "path": f"{name}:{i}"} for i in range(2)]
            pq.write_table(pa.table({"image": pa.array(rows, schema.IMAGE), "label": ["a", "b"]}), path)
        else:
            path.write_bytes(tiny_image(number, ".png"))
    return root


def parquet(root: Path, **settings: Any) -> Index:
    return ColumnsSource(ColumnsSettings(path=str(root), **settings), name="mine").look(root)[1]


def folder(root: Path, **settings: Any) -> Index:
    return Folder(FolderSettings(path=str(root), **settings), name="mine").look(root)[1]


def splits(found: Index) -> dict[str, str | None]:
    """The split of every file."""
    files = [name.split(":")[0] for name in found.table.column("file").to_pylist()]
    return dict(zip(files, found.table.column("split").to_pylist(), strict=True))


def loaded(root: Path, cache: Path, config: str) -> dict[str, str]:
    from datasets import Image, load_dataset

    found = {}
    for split, rows in load_dataset(str(root), config, cache_dir=str(cache)).items():
        images = rows.cast_column("image", Image(decode=False))["image"]
        found |= {image["path"].split(":")[0]: {"validation": "val"}.get(split, split) for image in images}
    return found


@pytest.mark.parametrize(
    "yaml",
    [
        PARTS,
        "configs:\n- config_name: main\n  data_files: part-*.EXT",
        "configs:\n- config_name: main\n  data_files: [part-0.EXT, more/*]",
        "configs:\n- config_name: main\n  data_files: '**/?1.EXT'\n  data_dir: more",
        "configs:\n- config_name: main\n  data_dir: deep",
        "configs:\n- config_name: main\n  data_files:\n  - {split: test, path: ./part-0.EXT}",
    ],
)
def test_files_are_of_the_splits_that_datasets_loads(yaml: str, tmp_path: Path) -> None:
    root = put(tmp_path / "d", yaml, "parquet")
    mine = splits(parquet(root))
    theirs = loaded(root, tmp_path / "cache", "main")
    assert {path: split or "train" for path, split in mine.items()} == {
        Path(path).name if "/" not in path else path.rpartition("/")[2]: split for path, split in theirs.items()
    }


def test_images_are_of_the_splits_of_the_readme(tmp_path: Path) -> None:
    yaml = """
configs:
- config_name: default
  drop_labels: false
  data_files:
  - {split: train, path: "one/**"}
  - {split: test, path: "two/**"}
"""
    root = put(tmp_path / "d", yaml, "png", ("one/cat/1", "one/dog/2", "two/cat/3", "two/dog/4", "three/cat/5"))
    found = folder(root)
    assert splits(found) == {"1.png": "train", "2.png": "train", "3.png": "test", "4.png": "test"}
    assert (found.classes, set(found.table.column("domain").to_pylist())) == (("cat", "dog"), {"mine"})
    assert found.notes[0] == "config default of README.md: 4 of 5 images"
    assert "also sets drop_labels" in found.notes[1]
    left = {left.reason: (left.count, left.examples) for left in found.left_out}
    assert left["not in config default of README.md"] == (1, ("three/cat/5.png",))
    from datasets import load_dataset

    theirs = load_dataset(str(root), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in theirs.items()} == {"train": 2, "test": 2}
    assert set(folder(root, split="").table.column("split").to_pylist()) == {None}


def test_a_folder_of_another_config_is_not_called_empty(tmp_path: Path) -> None:
    yaml = "configs:\n- {config_name: small, data_files: one/**}\n- {config_name: big, data_files: two/**}"
    put(tmp_path, yaml, "png", ("one/a/1", "one/b/2", "two/a/3", "two/c/4"))
    (tmp_path / "one/c").mkdir()
    notes = folder(tmp_path, config="small").notes
    assert [note for note in notes if "without images" in note] == [
        "without images: one/c: no class; keep it as one with --set empty_classes=keep"
    ]


def test_the_splits_of_a_readme_hold_for_images_that_a_table_lists(tmp_path: Path) -> None:
    yaml = 'configs:\n- config_name: a\n  data_files:\n  - {split: train, path: "p/*"}\n  - {split: test, path: "q/*"}'
    root = put(tmp_path, yaml, "png", ("p/1", "q/2", "r/3"))
    (root / "labels.csv").write_text("file,label\np/1.png,x\nq/2.png,y\n")
    assert splits(folder(root)) == {"1.png": "train", "2.png": "test"}
    (root / "labels.csv").write_text("file,label\np/1.png,x\nq/2.png,y\nr/3.png,y\n")
    with pytest.raises(SourceError, match=r"labels.csv: r/3.png is not in config 'a' of README.md; add a column split"):
        folder(root)
    (root / "labels.csv").write_text("file,label,split\np/1.png,x,train\nq/2.png,y,train\nr/3.png,y,test\n")
    assert splits(folder(root)) == {"1.png": "train", "2.png": "train", "3.png": "test"}


def test_several_configs_are_named_and_never_joined(tmp_path: Path) -> None:
    yaml = """
configs:
- config_name: day
  default: true
  data_files:
  - {split: train, path: part-0.EXT}
  - {split: test, path: part-1.EXT}
- config_name: night
  data_files: more/*.EXT
"""
    put(tmp_path / "d", yaml, "parquet")
    arguments = ("new", "my.json", "--parquet", "d")
    words = "d: holds several configs: day (the default), night; say which"
    refused(fedkit(*arguments, cwd=tmp_path), words, "--config NAME", codes=(1,))
    refused(fedkit(*arguments, "--config", "nigth", cwd=tmp_path), "config='nigth'", "did you mean 'night'", codes=(2,))
    seen = answer(fedkit(*arguments, "--config", "day", "--json", cwd=tmp_path))
    assert (seen["images"], seen["splits"]) == (4, {"test": 2, "train": 2})
    assert "config day of README.md: 2 of 9 Parquet files" in seen["notes"]
    assert json.loads((tmp_path / "my.json").read_text())["sources"]["d"]["config"] == "day"
    assert answer(fedkit("build", "my.json", "--json", cwd=tmp_path))["subsets"]["d"]["rows"] == {"train": 2, "test": 2}
    root = put(tmp_path / "i", yaml, "png", ("part-0", "part-1", "more/a"))
    with pytest.raises(SourceError, match=r"several configs: day \(the default\), night; say which"):
        folder(root)


def test_a_folder_that_is_a_config_without_the_readme_is_one_still(tmp_path: Path) -> None:
    root = put(tmp_path, "configs:\n- config_name: main\n  data_files: part-0.EXT", "parquet")
    assert sorted(splits(parquet(root, config="more"))) == ["a1", "a2", "b1"]


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("configs: {config_name: a}", "configs should be a list"),
        ("configs:\n- data_files: x", "a config has no config_name"),
        ("configs:\n- config_name: a\n  data_files: {train: x.EXT}", "data_files of config 'a' should be a pattern"),
        ("configs:\n- config_name: a\n  data_files:\n  - {split: a-b, path: x}", "a split of letters, digits, _ and ."),
        (
            "configs:\n- config_name: a\n  data_files:\n  - {split: train, path: x, extra: y}",
            "a list of split and path",
        ),
        (
            "configs:\n- config_name: a\n  data_files:\n  - {split: train, path: []}",
            "split train of config 'a' has no path",
        ),
        ("configs:\n- config_name: a\n  data_files: '*.EXT'\n- config_name: a", "two configs are called 'a'"),
        ("configs:\n- config_name: a\n  data_files: '**.EXT'", "pattern '**.parquet': ** should be a whole part"),
        ("configs:\n- config_name: a\n  data_files: ../x.EXT", "'../x.parquet' is not a path in the dataset's folder"),
        (
            "configs:\n- config_name: a\n  data_files: https://h/x",
            "'https://h/x' is not a path in the dataset's folder",
        ),
        ("configs:\n- config_name: a\n  data_files: no.EXT", "no Parquet files are in split train of config 'a'"),
        ("configs:\n- config_name: a\n  data_dir: nowhere", "no Parquet files are below nowhere, data_dir"),
        ("configs:\n- config_name: a\n  data_dir: no", "data_dir of config 'a' should be a folder"),
        (
            "configs:\n- config_name: a\n  data_files:\n  - {split: train, path: '*'}\n  - {split: test, path: test*}",
            "test-0.parquet is in two splits of config 'a', train and test",
        ),
        ("configs: [", "README.md: the YAML cannot be read (line"),
    ],
)
def test_what_datasets_would_refuse_is_refused(yaml: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        parquet(put(tmp_path, yaml, "parquet"))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "# hello", "---\n---\n", "---\nconfigs: []\n---\n", "---\n- a\n---\n", "\ufeff"])
def test_a_readme_without_configs_says_nothing(text: str, tmp_path: Path) -> None:
    root = put(tmp_path, "", "parquet", ("train-0", "test-0"))
    (root / "README.md").write_text(text)
    assert splits(parquet(root)) == {"train-0": "train", "test-0": "test"}
    with pytest.raises(UsageError, match="config='a' is no folder of"):
        parquet(root, config="a")


def test_the_index_is_read_anew_when_the_readme_changes(tmp_path: Path) -> None:
    stamps = set()
    for pattern in ("part-*.EXT", "part-[01].EXT"):
        root = put(tmp_path, f"configs:\n- config_name: a\n  data_files: {pattern}", "parquet")
        stamps.add(parquet(root).fingerprint)
    assert len(stamps) == 2
