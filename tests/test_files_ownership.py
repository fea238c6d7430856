"""Nothing is replaced or removed but what fedkit wrote; of several processes at one folder exactly one works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import contents, environment
from federated_softmax import Softmax
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from softmax_runs import config

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.cli import new_recipe
from fedrsic_data.dataset import recipe
from fedrsic_data.derive import resplit, sites
from fedrsic_data.errors import FedkitError, OutputError
from fedrsic_data.files import atomic, lock, ownership
from fedrsic_data.report import figures
from fedrsic_data.sources.locate import Places
from fedtrain import methods, run
from fedtrain.federation import app
from fedtrain.report import html


@pytest.fixture(autouse=True)
def _softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(methods.METHODS, "softmax", Softmax)


# files of a person's, in any place


@dataclass(frozen=True)
class Made:
    """What fedkit wrote, to be copied: a dataset, a run on it, its sites, and what an interrupted build left."""

    top: Path

    @property
    def dataset(self) -> Path:
        return self.top / "dataset"


SETS = ("sample.per_class=2", "sample.size=32", "clients=2")
OUT = "out.html"
"""Where every command writes: a report needs the suffix."""


def planned(*sets: str) -> pipeline.Planned:
    data = recipes.override(recipes.load("fed-rsic"), subsets=["fed-ucmerced"], sample=True, sets=[*SETS, *sets])
    return pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    top = tmp_path_factory.mktemp("made")
    pipeline.build(planned(), top / "dataset")
    (top / "nothing").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods.METHODS, "softmax", Softmax)
        run.train(config(top / "dataset", "rounds=1"), top / "run")
    sites.split(top / "dataset", top / "sites")
    app.write_app(top / "app", "fedpgp", str(top / "dataset"), None, [], None)
    dataset = fedrsic_data.open(top / "dataset")
    figures.write(dataset, [], top / "pictures")
    begun = planned("seed=3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "describe", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pipeline.build(begun, top / "begun" / OUT)
    (top / "begun" / f"{OUT}.incomplete").rename(top / "incomplete")
    return Made(top)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def builds(made: Made, out: Path) -> None:
    pipeline.build(planned("seed=5"), out, overwrite=True)


def builds_again(made: Made, out: Path) -> None:
    pipeline.build(planned(), out)


def resplits(made: Made, out: Path) -> None:
    pipeline.build(resplit.prepare(made.dataset, lambda old: old), out, overwrite=True)


def splits(made: Made, out: Path) -> None:
    sites.split(made.dataset, out)


def trains(made: Made, out: Path) -> None:
    run.train(config(made.dataset, "rounds=2", "seed=4"), out, overwrite=True)


def trains_again(made: Made, out: Path) -> None:
    run.train(config(made.dataset, "rounds=1"), out)


def federates(made: Made, out: Path) -> None:
    app.write_app(out, "fedpgp", str(made.dataset), None, ["rounds=3"], None, overwrite=True)


def draws(made: Made, out: Path) -> None:
    figures.write(fedrsic_data.open(made.dataset), [], out)


def reports(made: Made, out: Path) -> None:
    html.report([made.dataset], out, images=False)


def drafts(made: Made, out: Path) -> None:
    data = {"fedkit": recipe.SCHEMA, "name": "x", "subsets": {}, "partition": {}}
    new_recipe.write(out, new_recipe.Draft(data, "", {}, None, ()), force=True)  # type: ignore[arg-type]


COMMANDS = (builds, builds_again, resplits, splits, trains, trains_again, federates, draws, reports, drafts)

NAMES = st.one_of(
    st.sampled_from(
        [
            *(
                "config.json",
                "manifest.json",
                "metrics.jsonl",
                "result.json",
                "clock.json",
                "README.md",
                "plan.parquet",
            ),
            *(
                "pyproject.toml",
                ".lock",
                ".key.json",
                ".files.jsonl",
                "config.json.tmp",
                "data",
                "old",
                ".new",
                "scratch",
            ),
            *("checkpoint/state.safetensors", "checkpoint/notes", "checkpoint/personal/client-00001-round-mine"),
            *("fed-ucmerced/train/mine.parquet", "fed-ucmerced/notes.md", "client-0000/notes", "server/manifest.json"),
            *("data/thesis.tex", "old/thesis.tex", "scratch/thesis.tex", ".new/config.json", ".next/config.json"),
            *(
                ".old/config.json",
                "tensorboard/events",
                "fedkit_federation/server.py",
                "fed-ucmerced-skew.svg",
                "x.tmp",
            ),
        ]
    ),
    st.text("abcM.-_ é", min_size=1, max_size=9).map(lambda name: f"mine-{name.strip('. ')}"),
)
WORDS = st.sampled_from([b"precious", b"{}", b'{"fedkit": 0}', b"[]", b"<!DOCTYPE html>", b"PAR1", b"\x00" * 9])
PLACES = st.sampled_from([OUT, f"{OUT}.incomplete", "", f"{OUT}.tmp"])
FOREIGN = st.lists(st.tuples(PLACES, NAMES, WORDS, st.sampled_from(["file", "file", "link", "folder"])), max_size=3)
BASES = st.sampled_from(["", "nothing", "dataset", "run", "sites", "app", "pictures"])


def put(path: Path, words: bytes, kind: str, elsewhere: Path) -> bool:
    """Whether there was room for a thing of a person's."""
    if os.path.lexists(path) or any(above.exists() and not above.is_dir() for above in path.parents):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_bytes(words)
    else:
        path.write_bytes(words)
    return True


def told(path: Path) -> object:
    """What is at a path."""
    if path.is_symlink():
        return str(path.readlink())
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.is_dir() else path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "examples"),
    [(command, 10 if command is draws else 60) for command in COMMANDS],
    ids=[command.__name__ for command in COMMANDS],
)
def test_foreign_files_in_any_place_stay_as_they_are(
    made: Made, command: Callable[[Made, Path], None], examples: int
) -> None:
    """Whatever lies in, beside or behind the output: a command leaves it, or refuses."""

    outcomes: set[str] = set()

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(base=BASES, begun=st.booleans(), foreign=FOREIGN)
    def check(base: str, begun: bool, foreign: list[tuple[str, str, bytes, str]]) -> None:
        with tempfile.TemporaryDirectory() as top:
            place, elsewhere = Path(top) / "in", Path(top) / "elsewhere"
            elsewhere.write_bytes(b"precious")
            place.mkdir()
            if base:
                shutil.copytree(made.top / base, place / OUT)
            if begun:
                shutil.copytree(made.top / "incomplete", place / f"{OUT}.incomplete")
            paths = [
                path
                for folder, name, words, kind in foreign
                if put(path := place / folder / name, words, kind, elsewhere)
            ]
            before = {path: told(path) for path in paths}
            try:
                command(made, place / OUT)
                outcomes.add("worked")
            except FedkitError:
                outcomes.add("refused")
            for path in paths:
                assert os.path.lexists(path), path
                assert told(path) == before[path], path
            assert elsewhere.read_bytes() == b"precious"

    check()
    assert outcomes >= ({"worked"} if command is draws else {"worked", "refused"})


# what the checks are made of


def test_a_folder_is_looked_through_to_its_last_corner(tmp_path: Path) -> None:
    known = ownership.only(["a.json", "b/c/d.parquet"])
    (tmp_path / "b/c").mkdir(parents=True)
    for name in ("a.json", "b/c/d.parquet", "b/.fedkit-0123456789abcdef.tmp"):
        (tmp_path / name).touch()
    assert ownership.foreign(tmp_path, known) is None
    for name in ("b/c/e", "b/c/.fedkit-0123456789abcdex.tmp", "b/d/", "z", "b/x/y", "a/.fedkit-0123456789abcdef.tmp"):
        mine = tmp_path / name
        mine.mkdir() if name.endswith("/") else (mine.parent.mkdir(exist_ok=True), mine.touch())
        assert ownership.foreign(tmp_path, known) == mine
        with pytest.raises(OutputError, match="would be lost"):
            ownership.clear(tmp_path, known)
        assert (tmp_path / "a.json").exists()
        mine.rmdir() if name.endswith("/") else mine.unlink()
        if mine.parent.name in "ax":
            mine.parent.rmdir()
    (tmp_path / "a.json").unlink()
    (tmp_path / "a.json").symlink_to(tmp_path / "b/c/d.parquet")
    assert ownership.foreign(tmp_path, known) == tmp_path / "a.json"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(TypeError), atomic.replacing(path) as file:
        file.write("no bytes")  # type: ignore[arg-type]
    assert contents(tmp_path) == {"file": b"old"}
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    atomic.write(tmp_path / "link", b"new")
    assert contents(tmp_path) == {"file": b"old", "link": b"new", "victim": b"mine"}
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        atomic.write(tmp_path / "folder", b"new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link", "victim"]


def test_a_lock_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / ".lock"
    first = lock.lock(path)
    assert first is not None
    stands = path.stat()
    assert lock.lock(path) is None
    assert os.path.samestat(path.stat(), stands)
    lock.unlock(path, first)
    assert not path.exists()
    second = lock.lock(path)
    assert second is not None
    path.unlink()  # somebody tidied up
    third = lock.lock(path)
    assert third is not None
    lock.unlock(path, second)
    assert path.exists()  # it is the third's
    lock.unlock(path, third)


def test_a_lock_whose_folder_is_removed_meanwhile_is_taken_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the making of the folder, which is there already, and the look whether it is one."""
    is_dir, folder, gone = Path.is_dir, tmp_path / "folder", []

    def removed(path: Path) -> bool:
        if path == folder and not gone:
            gone.append(folder.rmdir())
        return is_dir(path)

    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", removed)
        file = lock.lock(folder / ".lock")
    assert gone
    assert file is not None
    lock.unlock(folder / ".lock", file)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        lock.lock(tmp_path / "file" / ".lock")


# several processes at once

# Forks that are let go at the same moment; each says on a pipe what came of it.
CROWD = """
import json, os, sys, time
from pathlib import Path

from conftest import contents
from federated_softmax import Softmax, labels
import torch
torch.set_num_threads(1)
from test_files_ownership import planned
from softmax_runs import config
from fedrsic_data.build import pipeline
from fedrsic_data.derive import sites
from fedrsic_data.files import lock
from fedrsic_data.errors import OutputError
from fedtrain import methods, run

methods.METHODS["softmax"] = Softmax
top, kind, times, crowd = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])


def works(out, number):
    if kind == "lock":
        file = lock.lock(out / ".lock")
        if file is None:
            raise OutputError("another fedkit")
        (out / "mine").open("x").close()
        time.sleep(0.003)
        (out / "mine").unlink()
        lock.unlock(out / ".lock", file)
        try:
            out.rmdir()
        except OSError:
            pass
    elif kind == "train":  # each another run
        run.train(config(top / "dataset", "rounds=1", f"seed={number}"), out)
    elif kind == "overwrite":
        run.train(config(top / "dataset", "rounds=1", f"seed={number}"), out, overwrite=True)
    elif kind == "build":
        pipeline.build(plans[number], out)
    else:
        sites.split(top / "dataset", out, group=number + 1)


if kind != "lock":
    pipeline.build(planned(*(["clients=6"] if kind == "sites" else [])), top / "dataset")
    for client in range(2):  # here, so that the forks need not
        for split in ("train", "test"):
            labels(top / "dataset", "fed-ucmerced", split, f"client-{client:04d}")
    plans = [planned(f"seed={number}") for number in range(crowd)] if kind == "build" else []
told = []
for time_ in range(times):
    out = top / f"out-{time_}"
    if kind == "overwrite":
        run.train(config(top / "dataset", "rounds=1", "seed=99"), out)
    gate_out, gate_in = os.pipe()
    pipes, children = [], []
    for number in range(crowd):
        words, pen = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(gate_in)
            os.read(gate_out, 1)  # until all are here
            try:
                works(out, number)
                said = "worked"
            except OutputError as error:
                said = f"refused: {error}"
            except BaseException as error:
                said = f"broke: {type(error).__name__}: {error}"
            os.write(pen, said.encode())
            os._exit(0)
        os.close(pen)
        pipes.append(words)
        children.append(child)
    os.close(gate_out)
    os.close(gate_in)
    heard = []
    for words, child in zip(pipes, children):
        with os.fdopen(words) as pipe:
            heard.append(pipe.read())
        os.waitpid(child, 0)
    there = contents(out) if out.exists() else {}
    told.append({"heard": heard, "there": sorted(there), "beside": sorted(os.listdir(top)),
                 "config": there.get("config.json", b"").decode()})
print(json.dumps(told))
"""


def crowd(top: Path, kind: str, times: int, size: int) -> Iterator[tuple[list[str], dict[str, object]]]:
    """What became of each of several processes that did the same to one folder at once, again and again."""
    done = subprocess.run(
        [sys.executable, "-c", CROWD, str(top), kind, str(times), str(size)],
        capture_output=True,
        text=True,
        env=environment(OMP_NUM_THREADS="1"),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for one in json.loads(done.stdout):
        assert not [words for words in one["heard"] if words.startswith("broke")], one["heard"]
        yield one["heard"], one


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_of_several_processes_at_a_lock_one_has_it_at_a_time(tmp_path: Path, size: int) -> None:
    """Fifty times: who has it finds nobody's traces, the others are refused, and nothing is left."""
    for heard, one in crowd(tmp_path, "lock", 50, size):
        assert "worked" in heard
        assert all(words in ("worked", "refused: another fedkit") for words in heard)
        assert one["beside"] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "overwrite", "build", "sites"])
def test_of_several_processes_at_a_folder_one_works(tmp_path: Path, kind: str) -> None:
    """Each wants something else there: one has its way, the others say so, and the folder is of one alone."""
    for heard, one in crowd(tmp_path, kind, 8, 3):
        worked = [number for number, words in enumerate(heard) if words == "worked"]
        assert worked if kind == "overwrite" else len(worked) == 1, heard
        for words in heard:
            assert words == "worked" or "another fedkit" in words or "choose another --out" in words
        assert not [name for name in one["beside"] if "incomplete" in name]
        if kind in ("train", "overwrite"):
            assert json.loads(str(one["config"]))["config"]["seed"] in worked
            assert not [name for name in one["there"] if name.startswith(".")]
