"""Methods, partitioners and sources that fedkit does not ship: named by place, recorded, blamed for their faults."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, answer, fedkit, put, refused

import fedtrain
from fedrsic_data.errors import UsageError
from fedtrain.methods import METHODS

METHOD = '''
from fedtrain.methods.promptfl import PromptFL


class Mine(PromptFL):
    """PromptFL by another name."""


class Faulty(PromptFL):
    """Fails when it trains."""

    def train(self, shared, personal, clients, round_):
        return iter([{}["lost"]])


class Leaving(PromptFL):
    """Ends the process when it trains."""

    def train(self, shared, personal, clients, round_):
        raise SystemExit(0)


class Short(PromptFL):
    """Trains all clients but the last."""

    def train(self, shared, personal, clients, round_):
        yield from list(super().train(shared, personal, clients, round_))[::-1]


class Unset(PromptFL):
    """Has no dataclass of settings."""

    Settings = dict
'''
TINY = ("--rounds", "1", "--set", "epochs=1", "--set", "clip=tiny")


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A folder with a file of methods."""
    (tmp_path / "my_methods.py").write_text(METHOD)
    return tmp_path


def test_a_method_is_trained_by_its_place(sample_build: Path, scripts: Path) -> None:
    """The command finds it in the working directory; the run says where it came from."""
    done = fedkit("train", "my_methods:Mine", "--manifest", sample_build, *TINY, "--json", cwd=scripts)
    assert done.returncode == 0, done.stderr
    (folder,) = (scripts / "runs").iterdir()
    assert folder.name.startswith("my_methods_Mine-fed-rsic")
    facts = json.loads((folder / "config.json").read_text())
    assert facts["config"]["method"] == "my_methods:Mine"
    assert facts["versions"]["my_methods:Mine"] == "unknown"
    assert fedkit("verify", folder, cwd=scripts).returncode == 0
    refused(
        fedkit("train", "my_methods:Mine", "--manifest", sample_build, "--set", "epoch=1", cwd=scripts),
        "unknown key 'epoch' for my_methods:Mine; did you mean 'epochs'?",
        codes=(2,),
    )


def test_words_of_a_module_are_kept_out_of_answers(scripts: Path) -> None:
    (scripts / "loud.py").write_text("print('words of a module')\nfrom my_methods import Mine\n")
    done = fedkit("train", "loud:Mine", "--help", cwd=scripts)
    assert done.returncode == 0, done.stderr
    assert "words of a module" in done.stderr
    assert "words of a module" not in done.stdout


def test_python_takes_a_place_too(sample_build: Path, scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scripts)
    monkeypatch.syspath_prepend(scripts)
    done = fedtrain.train("my_methods:Mine", sample_build, rounds=0, out=scripts / "run")
    assert done.config["method"] == "my_methods:Mine"
    own = fedtrain.train("fedtrain.methods.promptfl:PromptFL", sample_build, rounds=0, out=scripts / "own")
    assert own.result.facts["versions"].keys() == {"fedkit", "torch"}


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (
            "nowhere_at_all:Mine",
            "method 'nowhere_at_all:Mine': cannot be imported (ModuleNotFoundError: No module",
        ),
        ("my_methods:Mien", "method 'my_methods:Mien': cannot be imported (AttributeError:"),
        ("json:loads", "method 'json:loads': json:loads is no method, it has no 'train'"),
        ("my_methods:Unset", "method 'my_methods:Unset': is no class whose Settings are a dataclass"),
        ("my_methods:", "no method 'my_methods:'; known: "),
        ("my methods:Mine", "no method 'my methods:Mine'; known: "),
    ],
)
def test_a_place_without_a_method_is_refused(
    scripts: Path, monkeypatch: pytest.MonkeyPatch, place: str, words: str
) -> None:
    monkeypatch.chdir(scripts)
    monkeypatch.syspath_prepend(scripts)
    with pytest.raises(UsageError) as caught:
        fedtrain.train(place, "data/nothing")
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_a_method_that_fails_is_named(sample_build: Path, scripts: Path) -> None:
    line = ("train", "my_methods:Faulty", "--manifest", sample_build, *TINY)
    words = refused(fedkit(*line, cwd=scripts), "the method Faulty of my_methods failed (KeyError: 'lost')", codes=(1,))
    assert "FEDKIT_DEBUG=1 shows where" in words
    refused(
        fedkit("train", "my_methods:Leaving", "--manifest", sample_build, *TINY, cwd=scripts),
        "the method Leaving of my_methods failed (RuntimeError: it calls sys.exit(0))",
        codes=(1,),
    )
    told = fedkit(*line, cwd=scripts, FEDKIT_DEBUG="1").stderr
    assert 'return iter([{}["lost"]])' in told
    refused(
        fedkit("train", "my_methods:Short", "--manifest", sample_build, *TINY, cwd=scripts),
        "Short.train: client",
        codes=(1,),
    )


@pytest.mark.distributed
def test_a_simulation_trains_a_method_by_its_place(sample_build: Path, scripts: Path) -> None:
    """Its clients run in other processes."""
    pytest.importorskip("flwr")
    line = ("train", "my_methods:Mine", "--manifest", sample_build, *TINY, "--json")
    here = answer(fedkit(*line, "--out", "here", cwd=scripts))
    done = fedkit(*line, "--engine", "flower", "--out", "there", cwd=scripts)
    assert done.returncode == 0, done.stderr
    figures = [json.loads((scripts / out / "result.json").read_text())["figures"] for out in ("here", "there")]
    assert figures[0] == pytest.approx(figures[1], abs=0.5)
    assert here


SOURCES_AND_PARTITIONERS = '''
from dataclasses import dataclass, replace

from fedrsic_data.partition.iid import Iid
from fedrsic_data.sources.folder import Folder, FolderSettings


@dataclass(frozen=True)
class Strict(Iid):
    """Refuses values as Python does."""

    share: float = 0.5

    def __post_init__(self):
        if self.share > 1:
            raise ValueError(f"share {self.share} is above 1")


class Failing(Iid):
    """Fails when it assigns."""

    def assign(self, rows, rng):
        return rows.nothing


class Unread:
    """A container that loses its files."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __getstate__(self):
        return vars(self)

    def __setstate__(self, state):
        vars(self).update(state)

    def read(self, keys):
        return [{}[key] for key in keys]


@dataclass(frozen=True)
class Faulty(Folder):
    """A folder with one fault or another, by its kind."""

    def index(self, path, *, allow_partial=False):
        found = super().index(path, allow_partial=allow_partial)
        if self.kind == "raising":
            raise ZeroDivisionError("no files")
        if self.kind == "bare":
            return found.table
        if self.kind == "narrow":
            return replace(found, table=found.table.drop_columns("group"))
        return replace(found, container=Unread(found.container))


RAISING, BARE, NARROW, UNREAD = (
    Faulty(FolderSettings("images"), name=kind, kind=kind) for kind in ("raising", "bare", "narrow", "unread")
)
'''


@pytest.mark.parametrize(
    ("settings", "words", "code"),
    [
        ({"partition": {"name": "strict", "share": 2.0}}, "partition strict: share 2.0 is above 1", 2),
        ({"partition": {"name": "strict", "shares": 2.0}}, "did you mean 'share'?", 2),
        (
            {"partition": {"name": "failing"}},
            "the partitioner Failing of faulty_plugins failed (AttributeError: 'Rows' object has no",
            1,
        ),
        ({"source": "raising"}, "the source Faulty of faulty_plugins failed (ZeroDivisionError: no files)", 1),
        ({"source": "bare"}, "the source Faulty of faulty_plugins gave no index with sample_id of type string", 1),
        ({"source": "narrow"}, "the source Faulty of faulty_plugins gave no index with group of type string", 1),
        ({"source": "unread"}, "the container Unread of faulty_plugins failed (KeyError:", 1),
        ({"partition": {"name": "iid"}}, "partitioner 'iid': is of fedkit and of the package faulty", 2),
        ({"partition": {"name": "lost"}}, "partitioner 'lost' of the package faulty: cannot be imported", 2),
    ],
)
def test_a_plug_in_that_fails_in_a_build_is_one_line(
    tmp_path: Path, settings: dict[str, Any], words: str, code: int
) -> None:
    (tmp_path / "faulty_plugins.py").write_text(SOURCES_AND_PARTITIONERS)
    facts = tmp_path / "faulty-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    sources = [f"{name} = faulty_plugins:{name.upper()}" for name in ("raising", "bare", "narrow", "unread")]
    taken = ["iid = faulty_plugins:Strict"] if settings.get("partition") == {"name": "iid"} else []
    points = ["[fedkit.partitioners]", "strict = faulty_plugins:Strict", "failing = faulty_plugins:Failing", *taken]
    points += ["lost = faulty_plugins:Nothing", "[fedkit.sources]", *sources]
    (facts / "entry_points.txt").write_text("\n".join(points) + "\n")
    put(tmp_path / "images", *(f"{name}/{number}.jpg" for name in "ab" for number in range(8)))
    source = settings.get("source", "folder")
    recipe = {
        "fedkit": 1,
        "name": "mine",
        "subsets": {"mine": {"sources": ["mine"]}},
        "sources": {"mine": {"kind": source, "path": "images"}},
        "partition": {"name": "dirichlet", "clients": 2},
    }
    if "partition" in settings:
        recipe["partition"] = {"clients": 2, **settings["partition"]}
    (tmp_path / "mine.json").write_text(json.dumps(recipe))
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    refused(fedkit("build", "mine.json", cwd=tmp_path, **env), words, codes=(code,))
    assert not (tmp_path / "data/mine/manifest.json").exists()


def test_an_experiment_goes_on_when_a_plug_in_fails(sample_build: Path, scripts: Path) -> None:
    experiment = {
        "fedkit": 1,
        "name": "mixed",
        "datasets": [{"recipe": str(sample_build)}],
        "methods": ["my_methods:Faulty", "my_methods:Mine"],
        "set": {"rounds": 1, "epochs": 1, "clip": "tiny"},
    }
    (scripts / "mixed.json").write_text(json.dumps(experiment))
    done = fedkit("experiment", "mixed.json", "--jobs", "2", cwd=scripts)
    assert done.returncode == 1
    assert "the method Faulty of my_methods failed (KeyError: 'lost')" in done.stdout + done.stderr
    assert len(list((scripts / "experiments/mixed/runs").glob("my_methods_Mine-*/result.json"))) == 1


def test_a_thing_of_another_kind_is_not_registered() -> None:
    with pytest.raises(UsageError, match="method 'mine': <class 'object'> is no method, it has no 'train'"):
        METHODS.register("mine", object)  # type: ignore[arg-type]
    assert "mine" not in METHODS
