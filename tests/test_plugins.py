"""Methods, partitioners and sources that fedkit does not ship: named by place, recorded, blamed for their faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import answer, fedkit, refused

import fedtrain
from fedrsic_data.errors import UsageError

METHOD = '''
from fedtrain.methods.promptfl import PromptFL


class Mine(PromptFL):
    """PromptFL by another name."""


class Faulty(PromptFL):
    """Fails when it trains."""

    def train(self, shared, personal, clients, round_):
        return iter([{}["lost"]])


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
