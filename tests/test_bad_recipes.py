"""Options and recipes that cannot be used: one line that names the value, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, refused
from small_builds import SAMPLE, in_process, nothing, written


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--alpha", "0"], "alpha"),
        (["--alpha", "-1"], "alpha"),
        (["--alpha", "nan"], "alpha"),
        (["--alpha", "inf"], "alpha"),
        (["--alpha", "1e-320"], "alpha"),
        (["--alpha", "1e-320", "--partition", "skew"], "alpha"),
        (["--alpha", "1e308", "--partition", "skew"], "alpha"),
        (["--alpha", "1e-320", "--partition", "dirichlet-client"], "alpha"),
        (["--alpha", "text"], "alpha"),
        (["--alpha", ""], "alpha"),
        (["--set", "alpha=NaN"], "alpha"),
        (["--set", "alpha=true"], "alpha"),
        (["--set", "alpha=1" + "0" * 400], "alpha"),
        (["--clients", "0"], "clients"),
        (["--clients", "-3"], "clients"),
        (["--clients", "2.5"], "clients"),
        (["--clients", "43"], "clients=43"),
        (["--clients", "43", "--partition", "iid"], "clients=43"),
        (["--clients", "22", "--partition", "pathological"], "clients=22"),
        (["--set", "min_size=22"], "min_size"),
        (["--set", "min_size=-1"], "min_size"),
        (["--set", "min_size=1" + "0" * 30], "min_size"),
        (["--seed", "-1"], "seed"),
        (["--seed", "1.5"], "seed"),
        (["--set", "seed=1.0"], "seed"),
        (["--set", "seed=null"], "seed"),
        (["--set", "allow_partial=yes"], "allow_partial"),
        (["--set", "on_bad_image=ignore"], "ignore"),
        (["--on-bad-image", "ignore"], "ignore"),
        (["--on-bad-image", ""], "on"),
        (["--subset", "fed-nothing"], "fed-nothing"),
        (["--subset", ""], "subset"),
        (["--subset", "../fed-ucmerced"], "../fed-ucmerced"),
        (["--partition", "nothing"], "nothing"),
        (["--partition", ""], "partition"),
        (["--set", "alpha"], "key=value"),
        (["--set", "=1"], "key=value"),
        (["--set", ""], "key=value"),
        (["--set", "alpah=1"], "alpah"),
        (["--set", "."], "key=value"),
        (["--set", ".=1"], "unknown key"),
        (["--set", "layout..files=client"], "unknown key"),
        (["--set", "layout.file=client"], "file"),
        (["--set", "layout.files=zip"], "files"),
        (["--set", "layout.row_group_bytes=0"], "row_group_bytes"),
        (["--set", "layout.row_group_bytes=1" + "0" * 30], "row_group_bytes"),
        (["--set", "layout=5"], "layout"),
        (["--set", "partition=5"], "partition"),
        (["--set", "partition={}"], "partition"),
        (["--set", "partition.name=[1]"], "partition"),
        (["--set", "partition.name={}"], "partition"),
        (["--set", "name=../x"], "../x"),
        (["--set", "name=.."], ".."),
        (["--set", "name={}"], "name"),
        (["--set", "fedkit=2"], "fedkit"),
        (["--set", "fedkit=0"], "fedkit"),
        (["--set", "splits.test=1"], "test"),
        (["--set", "splits.test=NaN"], "test"),
        (["--set", "splits.train=0.1"], "train"),
        (["--set", 'splits={"../x": 0.1}'], "../x"),
        (["--set", "splits." + "n" * 300 + "=0.1"], "nnn"),
        (["--set", "subsets={}"], "subsets"),
        (["--set", "subsets=[]"], "subsets"),
        (["--set", "subsets.fed-ucmerced=5"], "fed-ucmerced"),
        (["--set", "subsets.fed-ucmerced.sources=[]"], "sources"),
        (["--set", "subsets.fed-ucmerced.sources=ucmerced"], "sources"),
        (["--set", 'subsets.fed-ucmerced.sources=["ucmerced","ucmerced"]'], "sources"),
        (["--set", 'subsets.fed-ucmerced.sources=["mars"]'], "mars"),
        (["--set", "subsets.fed-ucmerced.partition=5"], "partition"),
        (["--set", 'subsets={"a/b":{"sources":["ucmerced"]}}'], "a/b"),
        (["--set", 'subsets={"..":{"sources":["ucmerced"]}}'], ".."),
        (["--set", 'subsets={"":{"sources":["ucmerced"]}}'], "name"),
        (["--set", 'subsets={"manifest.json":{"sources":["ucmerced"]}}'], "manifest.json"),
        (["--set", 'subsets={"plan.parquet":{"sources":["ucmerced"]}}'], "plan.parquet"),
        (["--set", 'subsets={"clients.parquet":{"sources":["ucmerced"]}}'], "clients.parquet"),
        (["--set", 'subsets={"README.md":{"sources":["ucmerced"]}}'], "README.md"),
        (["--set", "sample.size=31"], "size"),
        (["--set", "sample.per_class=0"], "per_class"),
        (["--set", "sample.seed=-1"], "seed"),
        (["--set", 'title="a\\ud800b"'], "title"),
        (["--set", "title=[1]"], "title"),
        (["--set", "x=" + "[" * 100_000], "x"),
        (["--nothing"], "--nothing"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_values_that_cannot_be_used(command: Command, tmp_path: Path, options: list[str], word: str) -> None:
    out = tmp_path / "out"
    refused(command(*SAMPLE, "--out", out, *options), word, codes=(2,))
    nothing(out)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited otherwise elsewhere")
@pytest.mark.parametrize(
    "options",
    [
        ["--clients", "1000000000"],
        ["--clients", "1" + "0" * 30],
        ["--partition", "iid", "--clients", "1000000000"],
        ["--partition", "pathological", "--clients", "1000000000", "--set", "classes_per_client=2"],
    ],
    ids=lambda options: " ".join(options)[:40],
)
def test_far_more_clients_than_images_cost_no_memory(tmp_path: Path, options: list[str]) -> None:
    out = tmp_path / "out"
    room = lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))  # noqa: E731
    done = in_process(*SAMPLE, *options, "--out", out, preexec_fn=room)
    refused(done, "clients", codes=(2,))
    nothing(out)


def plain_recipe(**more: Any) -> dict[str, Any]:
    data = {"fedkit": 1, "name": "mine", "subsets": {"one": {"sources": ["ucmerced"]}}}
    sample = {"sample": {"per_class": 2, "size": 32}, "partition": {"name": "iid", "clients": 2}}
    return data | sample | more


def test_a_plain_recipe_is_built(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path / "r.json", plain_recipe())
    assert command("build", path, "--out", tmp_path / "out").returncode == 0


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"sede": 1}, "sede"),
        ({"subsets": {"one": {"sources": ["ucmerced"], "titel": ""}}}, "titel"),
        ({"partition": {"name": "iid", "alpha": 1}}, "alpha"),
        ({"subsets": {"one": {"sources": ["ucmerced"], "partition": {"name": "iid", "x": 1}}}}, "x"),
        ({"layout": {"file": "auto"}}, "file"),
        ({"sample": {"per_clas": 1}}, "per_clas"),
        ({"fedkit": 2}, "newer"),
        ({"fedkit": "1"}, "fedkit"),
        ({"fedkit": True}, "fedkit"),
        ({"fedkit": 1.0}, "fedkit"),
        ({"seed": 1.0}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed"),
        ({"allow_partial": "true"}, "allow_partial"),
        ({"allow_partial": 1}, "allow_partial"),
        ({"subsets": {}}, "subsets"),
        ({"subsets": []}, "subsets"),
        ({"subsets": None}, "subsets"),
        ({"subsets": "one"}, "subsets"),
        ({"subsets": {"one": None}}, "one"),
        ({"subsets": {"a\nb": {"sources": ["ucmerced"]}}}, "name"),
        ({"subsets": {"a\0b": {"sources": ["ucmerced"]}}}, "name"),
        ({"partition": "iid"}, "partition"),
        ({"partition": ["iid"]}, "partition"),
        ({"partition": None}, "partition"),
        ({"splits": [0.2]}, "splits"),
        ({"splits": {"test": "0.2"}}, "test"),
        ({"splits": {"a": 0.5, "b": 0.5}}, "splits"),
        ({"name": "a" * 97}, "name"),
        ({"name": None}, "name"),
        ({"title": "x" * 10 + "\ud800"}, "title"),
        ({"recipe": {"fedkit": 2, **{k: v for k, v in plain_recipe().items() if k != "fedkit"}}}, "newer"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_recipes_with_odd_values(command: Command, tmp_path: Path, more: dict[str, Any], word: str) -> None:
    path, out = written(tmp_path / "r.json", plain_recipe(**more)), tmp_path / "out"
    refused(command("build", path, "--out", out), word)
    nothing(out)
    changes = (["--subset", "one"], ["--partition", "iid"], ["--alpha", 1])
    for options in changes if {"subsets", "partition"} & {*more} else ():
        done = command("build", path, "--out", out, *options)
        if options[1] == "iid" and "partition" in json.dumps(more):  # replaces what is wrong
            assert done.returncode == 0, done.stderr
            shutil.rmtree(out)
        else:
            refused(done, codes=(2,))
            nothing(out)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0" * 999,
        b"null",
        b"5",
        b"[]",
        b"{",
        b'{"fedkit": 1',
        b"NaN",
        b"[" * 200_000,
        b'{"fedkit": 1, "a": ' + b"[" * 200_000,
        b'{"fedkit": 1' + b"0" * 9000 + b"}",
        b"\xff\xfe{\0}\0",
        b"\xff" * 9,
        b'{"fedkit": 1, "fedkit": 1, "seed": 1, "seed": 2}',
        b"<html>",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_files_that_are_no_recipe(command: Command, tmp_path: Path, data: bytes) -> None:
    path, out = tmp_path / "r.json", tmp_path / "out"
    path.write_bytes(data)
    refused(command("build", path, "--out", out), path)
    refused(command("verify", path), path)
    refused(command("inspect", path), path)
    nothing(out)


def test_a_recipe_that_says_a_thing_twice(command: Command, tmp_path: Path) -> None:
    text = json.dumps(plain_recipe())[:-1] + ', "seed": 1, "seed": 2}'
    refused(command("build", written(tmp_path / "r.json", text), "--out", tmp_path / "out"), "seed")


def test_a_recipe_with_a_byte_order_mark(command: Command, tmp_path: Path) -> None:
    path, out = tmp_path / "r.json", tmp_path / "out"
    path.write_text(json.dumps(plain_recipe()), "utf-8-sig")
    refused(command("build", path, "--out", out), path, "BOM")
    nothing(out)


def test_a_deep_value_in_a_recipe(command: Command, tmp_path: Path) -> None:
    text = json.dumps(plain_recipe())[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}"
    refused(command("build", written(tmp_path / "r.json", text), "--out", tmp_path / "out"), "x")


@pytest.mark.parametrize("name", ["none.json", "", ".", "fed-rsicc", "n" * 300, "/dev/null", "a\nb"])
def test_recipes_that_are_not_there(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(command("build", name, "--out", tmp_path / "out"), name[:20].split("\n")[0])
    nothing(tmp_path / "out")


def test_a_folder_given_as_a_recipe(command: Command, tmp_path: Path) -> None:
    refused(command("build", tmp_path, "--out", tmp_path / "out"), tmp_path)
