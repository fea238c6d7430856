"""Manifests and files of a dataset that are damaged or lie: verify and inspect refuse or report them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, Done, refused
from small_builds import written

from fedrsic_data.build import workspace

Change = Callable[[dict[str, Any]], None]
OUTSIDE = ["../x.parquet", "/etc/passwd", "a/../../x", "..\\x", "C:\\x", "\\\\host\\x", "x\0y", "", "..", "link/x"]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("entry", ["shard", "plan", "card"])
def test_manifest_paths_that_leave_the_folder(command: Command, dataset: Path, path: str, entry: str) -> None:
    (dataset / "link").symlink_to(dataset.parent)
    file = dataset / "manifest.json"
    data = json.loads(file.read_text())
    where = data["subsets"]["fed-ucmerced"]["shards"][0] if entry == "shard" else data[entry]
    where["path"] = path
    written(file, data)
    for name in ("verify", "inspect"):
        refused(command(name, dataset), file, codes=(1,))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("n" * 300, "File name too long"),
        ("a/" * 3000, "is not spelled as a build"),
        ("\ud800", "is not valid Unicode text"),
        (".", ".: is missing"),
        ("fed-ucmerced", "fed-ucmerced: is missing"),
        ("a\nb", "a\\nb: is missing"),
    ],
    ids=range(6),
)
def test_manifest_paths_that_are_no_files(command: Command, dataset: Path, path: str, words: str) -> None:
    file = dataset / "manifest.json"
    data = json.loads(file.read_text())
    data["subsets"]["fed-ucmerced"]["shards"][0]["path"] = path
    written(file, data)
    reported(command("verify", dataset), words)


def reported(done: Done[str], words: str) -> None:
    """Verify says so, as an error in one line or among the problems."""
    if done.stderr:
        refused(done, words, codes=(1,))
    else:
        assert done.returncode == 1
        assert words in done.stdout.replace("\n", " ")
        assert done.stdout.endswith("FAILED\n")


def resealed(folder: Path, change: Change) -> None:
    """A manifest that was edited by someone who knows how to make its digests hold."""
    data = json.loads((folder / "manifest.json").read_text())
    for entry in [data["plan"], data["clients"], data["card"], *data["subsets"]["fed-ucmerced"]["shards"]]:
        entry["sha256"] = workspace.file_digest(folder / entry["path"])
        entry["bytes"] = (folder / entry["path"]).stat().st_size
    change(data)
    del data["digest"]
    body = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    written(folder / "manifest.json", {**data, "digest": hashlib.sha256(body.encode()).hexdigest()})


@pytest.mark.parametrize("name", ["plan.parquet", "clients.parquet", "shard"])
@pytest.mark.parametrize("what", [b"", b"hello", b"PAR1" + bytes(99) + b"PAR1"], ids=["empty", "text", "hollow"])
def test_files_that_are_no_parquet_in_a_manifest_that_agrees(
    command: Command, dataset: Path, name: str, what: bytes
) -> None:
    shard = next((dataset / "fed-ucmerced/train").glob("*.parquet"))
    path = shard if name == "shard" else dataset / name
    path.write_bytes(what)
    resealed(dataset, lambda _: None)
    done = command("verify", dataset)
    assert done.returncode == 1
    assert "unexpected" not in done.stderr, done.stderr[:500]
    assert path.name in done.stdout + done.stderr
    done = command("inspect", dataset)
    if name == "clients.parquet":  # the only one of them that it reads
        refused(done, path, codes=(1,))
    else:
        assert done.returncode == 0, done.stderr


def changed(*path: object, to: object) -> Change:
    def change(data: dict[str, Any]) -> None:
        here: Any = data["subsets"]["fed-ucmerced"]
        for step in path[:-1]:
            here = here[step]
        here[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "said", "refusal"),
    [
        (changed("classes", to=[]), "train_counts has 21 numbers for 0 classes", "for 0 classes"),
        (changed("classes", to=["one"]), "train_counts has 21 numbers for 1 classes", "for 1 classes"),
        (changed("classes", to=["same"] * 99), "train_counts has 21 numbers for 99 classes", "for 99 classes"),
        (changed("multi_label", to=True), "columns and class names of its subset", None),
        (changed("clients", to=-5), "clients of fed-ucmerced are not those of clients.parquet", None),
        (changed("rows", to={}), "rows of fed-ucmerced are not those of clients.parquet", "incomplete"),
        (changed("rows", to={"train": -1}), "rows of fed-ucmerced are not those of clients.parquet", None),
        (changed("shards", to=[]), "is not in the manifest", "clients.parquet"),
        (changed("skew", to={}), "skew of fed-ucmerced is not what clients.parquet gives", None),
        (changed("skew", to={"x": {}}), "skew of fed-ucmerced is not what clients.parquet gives", "incomplete"),
        (changed("shards", 0, "split", to="nothing"), "column split of the shards", "clients.parquet"),
        (changed("shards", 0, "rows", to=10**40), f"has 4 rows, the manifest says {10**40}", "clients.parquet"),
    ],
    ids=range(12),
)
def test_manifests_that_agree_with_themselves_and_lie(
    command: Command, dataset: Path, change: Change, said: str, refusal: str | None
) -> None:
    """Verify reports every lie; inspect refuses those it would have to show wrongly, and shows the rest."""
    resealed(dataset, change)
    reported(command("verify", dataset), said)
    done = command("inspect", dataset)
    if refusal is None:
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    else:
        refused(done, refusal, codes=(1,))


@pytest.mark.parametrize("name", ["none", "n" * 300, ""])
def test_datasets_that_are_not_there(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for verb in ("verify", "inspect"):
        refused(command(verb, name), name[:9])
