"""fedkit train and fedkit list methods, as people and machines use them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Command, answer, fedkit, sampled
from federated_softmax import Softmax

from fedrsic_data import distribution, recipes
from fedrsic_data.derive import find
from fedrsic_data.errors import ManifestError, OutputError, UsageError
from fedrsic_data.registry import Registry
from fedrsic_data.sources.locate import Places
from fedtrain import methods

sys.path.insert(0, str(ROOT))
import cli


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process, with a small method: exit code, standard output, standard error."""
    torch.set_num_threads(1)
    monkeypatch.setattr(methods, "METHODS", Registry("method", {}))
    methods.METHODS.register("softmax", Softmax)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    return run


def test_train_one_subset(
    command: Command, sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = ("train", "softmax", "--manifest", sample_build, "--rounds", 2, "--device", "cpu")
    code, out, err = command(*wanted)
    assert code == 0, err
    assert "procedural sample, not real data" in out
    assert "test/accuracy/worst_decile" in out
    assert "sent/floats per client and round" in out
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch("softmax-fed-rsic-sample-fed-ucmerced-per_class-6-size-32-seed0-[0-9a-f]{8}", folder.name)
    assert f"{folder}: 2 rounds in" in out
    assert "fedkit train softmax --manifest" in out
    assert "--seed 1" in out
    assert "training softmax on fed-ucmerced ...\n" in err
    code, out, err = command(*wanted)
    assert code == 0
    assert "was finished already" in out
    assert "training" not in err
    code, out, err = command(*wanted, "--seed", 1, "--out", folder)
    assert code == 1
    assert err.splitlines()[-1].startswith(f"error: {folder}: holds a run with seed=0, not 1;")
    code, out, err = command(*wanted, "--seed", 1, "--out", folder, "--overwrite")
    assert code == 0, err


def test_train_for_machines(command: Command, sample_build: Path, tmp_path: Path) -> None:
    code, out, err = command(
        *("train", "softmax", "--manifest", sample_build, "--subset", "fed-ucmerced", "--rounds", 2, "--device", "cpu"),
        *("--clients-per-round", 3, "--set", "flag=False", "--set", "eval_every=2", "--out", tmp_path / "x", "--json"),
    )
    assert code == 0
    assert err == ""
    (run,) = json.loads(out)["runs"]
    config = json.loads((tmp_path / "x/config.json").read_text())["config"]
    assert run["config"] == config
    assert (config["sampling"], config["clients_per_round"], config["rounds"]) == ("uniform", 3, 2)
    assert config["method_settings"]["flag"] is False
    assert run["counters"]["updates"] == 6
    assert run["figures"]["test/accuracy/mean"] > 0
    assert run["trained"] is True


def test_all_subsets_in_turn(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = recipes.override(recipes.load("fed-rsic"), subsets=["fed-ucmerced", "fed-optimal"])
    (tmp_path / "mine.json").write_text(json.dumps({**data, "sample": {"per_class": 4, "size": 32}}))
    wanted = ("train", "softmax", "--manifest", "mine.json", "--rounds", 1, "--device", "cpu")
    code, out, err = command(*wanted)
    assert code == 0, err
    assert "writing shards" in err
    header = next(line for line in out.splitlines() if "metric" in line)
    assert header.split() == ["metric", "fed-optimal", "fed-ucmerced"]
    folders = sorted(Path("runs").iterdir())
    assert f"fedkit compare {folders[0]} {folders[1]}" in out
    for folder, subset in zip(folders, ("fed-optimal", "fed-ucmerced"), strict=True):
        assert folder.name.startswith(f"softmax-fed-rsic-{subset}-sample-per_class-4-size-32-seed0-")
    code, out, err = command(*wanted, "--seed", 1, "--out", "here")
    assert code == 0, err
    assert "writing shards" not in err  # the twin is there
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["fed-optimal", "fed-ucmerced"]


def test_errors_are_one_line(command: Command, sample_build: Path, tmp_path: Path) -> None:
    for arguments, status, words in (
        (("softmx", "--manifest", sample_build), 2, "no method 'softmx'; did you mean 'softmax'?"),
        (("softmax", "--manifest", tmp_path / "no"), 1, "does not exist"),
        (("softmax", "--manifest", sample_build, "--subset", "x"), 2, "no subset 'x'; known: fed-ucmerced"),
        (("softmax", "--manifest", sample_build, "--set", "ruonds=3"), 2, "did you mean 'rounds'"),
        (("softmax", "--manifest", sample_build, "--rounds", "-1"), 2, "rounds=-1 should be at least 0"),
        (("softmax", "--manifest", sample_build, "--device", "gpu"), 2, "'gpu' is not one of"),
        (("softmax", "--manifest", sample_build, "--sample"), 2, "is already built"),
        (("softmax",), 2, "--manifest"),
    ):
        code, out, err = command("train", *arguments)
        assert (code, out) == (status, ""), err
        (line,) = err.splitlines()
        assert line.startswith("error: ")
        assert words in line, line


def test_methods_are_listed(command: Command) -> None:
    code, out, err = command("list", "methods")
    assert code == 0, err
    assert "softmax" in out
    assert "lr=0.5" in out
    code, out, err = command("list", "methods", "--json")
    (row,) = json.loads(out)["methods"]
    assert row["method"] == "softmax"
    assert row["rounds"] == 4
    assert row["settings (default)"]["flag"] is True


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_tensorboard_that_is_not_installed(command: Command, sample_build: Path, tmp_path: Path) -> None:
    code, _, err = command("train", "softmax", "--manifest", sample_build, "--tensorboard", "--out", tmp_path / "x")
    assert code == 2
    assert err == f"error: tensorboard=true: the package is not installed; {distribution.install('tensorboard')}\n"
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard(command: Command, sample_build: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, err = command("train", "softmax", "--manifest", sample_build, "--tensorboard", "--out", tmp_path / "x")
    assert code == 0, err
    events = EventAccumulator(str(tmp_path / "x/tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("test/accuracy/mean")] == [1, 2, 3, 4]


# recipes and their built twins


def test_a_twin_is_found_built_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {
        **recipes.override(recipes.load("fed-rsic"), subsets=["fed-ucmerced"]),
        "sample": {"per_class": 2, "size": 32},
    }
    (tmp_path / "mine.json").write_text(json.dumps(data))
    assert find.folder("mine.json") == (tmp_path / "data/fed-rsic").resolve()
    before = (tmp_path / "data/fed-rsic/manifest.json").stat().st_mtime_ns
    assert find.folder("mine.json") == Path("data/fed-rsic")
    assert find.folder("data/fed-rsic") == Path("data/fed-rsic")
    assert find.folder("data/fed-rsic/manifest.json") == Path("data/fed-rsic")
    assert (tmp_path / "data/fed-rsic/manifest.json").stat().st_mtime_ns == before
    (tmp_path / "mine.json").write_text(json.dumps({**data, "seed": 1}))
    with pytest.raises(OutputError, match="data/fed-rsic: was built from another recipe than mine.json"):
        find.folder("mine.json")
    for refused in ({"sample": True}, {"places": Places()}):
        with pytest.raises(UsageError, match="is already built"):
            find.folder("data/fed-rsic", **refused)
    for name in ("fed-rsci", "x" * 5000):
        with pytest.raises(ManifestError):
            find.folder(name)


# the real command and real methods


@pytest.mark.slow
def test_real_methods_end_to_end(tmp_path: Path) -> None:
    """The tiny CLIP and two methods in processes of their own; a finished run is reported again as it was."""
    built = sampled(tmp_path / "fed", "clients=3", "sample.per_class=4").path
    shared = ("--manifest", built, "--device", "cpu", "--json")
    start = answer(fedkit("train", "zeroshot", *shared, "--rounds", 0, cwd=tmp_path, OMP_NUM_THREADS="1"))
    assert start["runs"][0]["counters"]["floats"] == 0
    wanted = ("train", "fedpgp", *shared, "--rounds", 2, "--set", "length=4", "--set", "rank=2")
    (run,) = answer(fedkit(*wanted, cwd=tmp_path, OMP_NUM_THREADS="1"))["runs"]
    assert run["config"]["clip"] == "tiny"
    assert run["counters"]["updates"] == 6
    width = run["counters"]["client_floats"] // 4
    assert run["counters"]["client_floats"] == 4 * width > 0
    assert [p.name.rpartition("-")[0] for p in sorted((tmp_path / "runs").iterdir())] == [
        "fedpgp-fed-rsic-sample-fed-ucmerced-clients-3-per_class-4-size-32-length-4-rank-2-seed0",
        "zeroshot-fed-rsic-sample-fed-ucmerced-clients-3-per_class-4-size-32-seed0",
    ]
    table = fedkit("compare", "runs", cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "test/local/mean" in table.stdout


def test_help_shows_examples() -> None:
    for name in ("train", "compare"):
        shown = fedkit(name, "--help")
        assert any(line.strip().startswith(f"fedkit {name}") for line in shown.stdout.splitlines()), shown.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fedpgpp",), "no method 'fedpgpp'; did you mean 'fedpgp'?"),
        (("fedpgp", "--set", "rnak=4"), "unknown key 'rnak' for fedpgp; did you mean 'rank'?"),
        (("fedpgp", "--set", "rank=four"), "rank: 'four' should be a whole number"),
        (("fedlgt", "--set", "heads=0"), "heads=0 should be at least 1"),
        (("fedpgp", "--set", "rounds=ten"), "rounds: 'ten' should be a whole number"),
    ],
)
def test_a_mistake_is_refused_without_pytorch(arguments: tuple[str, ...], words: str) -> None:
    """It takes seconds to import."""
    command = [sys.executable, "-X", "importtime", ROOT / "cli.py", "train", *arguments, "--manifest", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "FEDKIT_DEBUG": "0"})
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 2
    assert words in done.stderr
    assert "fedtrain.run" in imported  # it is the command that was asked
    assert not {name for name in imported if name.partition(".")[0] in ("torch", "open_clip", "safetensors")}


def test_the_methods_are_listed_without_pytorch() -> None:
    command = [sys.executable, "-X", "importtime", ROOT / "cli.py", "list", "methods"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "fedrsclip" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() == "torch"]
