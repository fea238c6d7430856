"""Settings of a run and of a method as options of ``fedkit train`` and ``fedkit flower app``."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import ROOT, Command, printed, refused
from federated_softmax import Softmax

from fedrsic_data.cli.setting_options import given_settings, joined
from fedrsic_data.errors import UsageError
from fedrsic_data.settings import meanings
from fedtrain import methods, run
from fedtrain.config import FlowerSettings, Privacy
from fedtrain.methods import METHODS
from fedtrain.report import answers
from fedtrain.runs import folder


@pytest.fixture
def given(app: Any) -> Any:
    """The settings that ``fedkit train`` takes from its arguments."""

    def parse(*arguments: str) -> list[str]:
        words = [*arguments, "--manifest", "m"]
        return given_settings(app.commands["train"].make_context("train", words, parent=_above(app)))

    return parse


def _above(app: Any) -> Any:
    return app.make_context("fedkit", [], resilient_parsing=True)


@pytest.mark.parametrize(
    ("arguments", "sets"),
    [
        ("fedpgp --lr 0.1", ["lr=0.1"]),
        ("--lr 0.1 fedpgp", ["lr=0.1"]),
        ("fedpgp --lr=0.1 --rank 4 --rounds 20 --seed 3", ["lr=0.1", "rank=4", "rounds=20", "seed=3"]),
        ("fedpgp --eval-every 5 --clients_per_round 3", ["eval_every=5", "clients_per_round=3"]),
        ("fedlgt --no-ca-mle --deterministic", ["ca_mle=false", "deterministic=true"]),
        ("--deterministic fedlgt --ca-mle false", ["deterministic=true", "ca_mle=false"]),
        ("fedlgt --ca_mle=False --flip true", ["ca_mle=false", "flip=true"]),
        ("fedlgt --run.dropout 0.5 --method.dropout 0.2", ["run.dropout=0.5", "method.dropout=0.2"]),
        ("fedpgp --engine local --dp.noise 0.5", ["dp.noise=0.5"]),
        ("fedpgp --flower.scores --flower.ray-address auto", ["flower.scores=true", "flower.ray_address=auto"]),
        ("fedpgp --splits test --splits val", ['splits=["test", "val"]']),
        ("""fedpgp --splits '["test"]'""", ['splits=["test"]']),
        ("fedpgp --held-out local --subset promptfl", ["held_out=local"]),
        ("fedpgp --shots null", ["shots=null"]),
        ("kgcoop --template 'an image of {}.'", ["template=an image of {}."]),
    ],
)
def test_an_option_is_the_setting_of_its_name(given: Any, arguments: str, sets: list[str]) -> None:
    words = shlex.split(arguments)
    assert given(*words) == sets
    method = next(word for word in words if word in METHODS)
    run.draft(method, sets)  # the run takes them


@pytest.mark.parametrize("method", METHODS)
def test_help_lists_every_setting_with_its_default_and_meaning(method: str, command: Command) -> None:
    shown = " ".join(command("train", method, "--help").stdout.split())
    kind = METHODS[method]
    _, sections = run.settings_of([method])
    assert list(sections)[:2] == ["Settings of the run", f"Settings of {method}"]
    assert {one.name for one in sections[f"Settings of {method}"]} == set(kind.Settings.__dataclass_fields__)
    assert {one.name for one in (*sections.popitem()[1], *sections.popitem()[1])} == {
        *Privacy.__dataclass_fields__,
        *FlowerSettings.__dataclass_fields__,
    }
    for one in (one for settings in run.settings_of([method])[1].values() for one in settings):
        typed = one.name.replace("_", "-")
        assert re.search(rf"--((run|method|dp|flower)\.)?{re.escape(typed)} ", shown), one.name
        assert one.meaning, f"{one.name} has no meaning in the docstring of its class"
        assert one.meaning.split(";")[0] in shown
        assert one.meaning.count('"') % 2 == 0, f"{one.name}: its meaning ends within a quotation"
        if isinstance(one.default, int | float) and not isinstance(one.default, bool):
            assert f"[default: {one.default}]" in shown
    assert f"[default: {kind.rounds}]" in shown, "the rounds of the paper"


def test_help_needs_no_pytorch() -> None:
    arguments = [sys.executable, "-X", "importtime", ROOT / "cli.py", "train", "fedlgt", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert "--ca-mle / --no-ca-mle" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() == "torch"]


def test_help_without_a_method_has_the_settings_of_every_run(command: Command) -> None:
    shown = command("train", "--help").stdout
    assert "--eval-every" in shown
    assert "--anchor" not in shown
    assert "fedkit train METHOD --help" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fedpgp --rnak 4", ("--rnak", "--rank", "(see fedkit train fedpgp --help)")),
        ("promptfl --ruonds 4", ("--ruonds", "--rounds", "(see fedkit train promptfl --help)")),
        ("fedpgp --learning-rate 0.1", ("'--learning-rate'; did you mean '--lr'? (see fedkit train",)),
        ("fedpgp --alpha 0.1", ("'--alpha'; it is an option of fedkit build, new, resplit (see fedkit train fedpgp",)),
        ("fedpgpp --lr 0.1", ("no method 'fedpgpp'; did you mean 'fedpgp'?",)),
        ("fedpgp --rank four", ("rank: 'four' should be a whole number",)),
        ("fedpgp --eval-every 0", ("eval_every=0 should be at least 1",)),
        ("fedpgp --anchor sea", ("anchor: 'sea' is not one of template, placeholder",)),
        ("fedlgt --dropout 0.5", ("dropout: the run and fedlgt both have it", "run.dropout or method.dropout")),
        ("fedpgp --rank", ("'--rank' requires an argument",)),
        ("""fedpgp --splits '["test"]' --splits val""", ("splits[0]: ['test'] should be a text",)),
        ("fedpgp --out", ("'--out' requires an argument",)),
    ],
)
def test_a_mistake_is_one_line(arguments: str, words: Sequence[str], command: Command) -> None:
    line = refused(command("train", "--manifest", "nothing", *shlex.split(arguments)), *words, codes=(2,))
    assert line.lower().count("did you mean") <= 1
    assert "--set" not in line


def test_a_mistyped_command_is_suggested_once(command: Command) -> None:
    for arguments in (("trian",), ("flower", "ap"), ("biuld", "fed-rsic")):
        assert refused(command(*arguments), "Did you mean '", codes=(2,)).count("Did you mean") == 1


@dataclass(frozen=True)
class OddSettings:
    """Settings whose names the command has too.

    Attributes:
        sample: Rows drawn.
        kind: Its kind.
    """

    sample: int = 3
    kind: Literal["a", "b"] = "a"


def test_settings_of_a_plug_in_are_options_too(given: Any, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods.METHODS, "_known", {**methods.METHODS._known})  # type: ignore[attr-defined]
    methods.METHODS.register("odd", type("Odd", (Softmax,), {"Settings": OddSettings}))
    assert given("odd", "--kind", "b", "--method.sample", "5", "--sample") == ["kind=b", "method.sample=5"]
    assert run.draft("odd", ["kind=b", "method.sample=5"]).method_settings == {"sample": 5, "kind": "b"}
    shown = command("train", "odd", "--help").stdout
    assert "Settings of odd" in shown
    assert "--method.sample INTEGER" in shown
    assert "Rows drawn" in shown


def test_a_flower_app_takes_the_same_options(command: Command, tmp_path: Path, sample_build: Path) -> None:
    shared = ("--method", "fedpgp", "--manifest", sample_build)
    short = command("flower", "app", tmp_path / "a", *shared, "--rank", 4, "--flower.scores", "--rounds", 3)
    assert short.returncode == 0, short.stderr
    long = command(
        *("flower", "app", tmp_path / "b", *shared, "--set", "rank=4", "--set", "flower.scores=true"),
        *("--set", "rounds=3"),
    )
    assert long.returncode == 0, long.stderr
    a, b = ((tmp_path / name / "pyproject.toml").read_text() for name in "ab")
    assert a.replace("/a", "/b").replace('"a"', '"b"') == b.replace("/a", "/b").replace('"a"', '"b"')
    done = command("flower", "app", tmp_path / "c", *shared, "--rnak", 4)
    refused(done, "--rank", "(see fedkit flower app --method fedpgp --help)", codes=(2,))


@pytest.mark.parametrize("key", ["rnak", "lr.x", "run.rank"])
def test_errors_about_settings_are_for_python_too(key: str) -> None:
    with pytest.raises(UsageError, match="unknown key") as caught:
        run.draft("fedpgp", [f"{key}=1"])
    assert "--" not in str(caught.value)


def test_meanings_of_a_class_go_before_those_of_its_bases() -> None:
    known = meanings(METHODS["fedpgp"].Settings)
    assert known["batch"].startswith("Images in a batch; as many as shots")
    assert known["length"] == "Context vectors, m."


def test_the_next_command_of_a_run_has_its_settings_as_options(given: Any) -> None:
    done = folder.load(ROOT / "tests/release_0_1_0/finished")
    sets = ["lr=0.1", "rounds=3", "seed=4", 'splits=["test"]', "deterministic=false", "dp.noise=0.5", "clip=tiny"]
    (line,) = (line for line in printed(answers.trained([done], sets).text).splitlines() if "fedkit train" in line)
    words = shlex.split(line)
    assert words[:2] == ["fedkit", "train"]
    assert "--set" not in words
    again = given(*words[2:])
    kept = [text for text in sets if not text.startswith("seed=")]
    assert again == [*kept, f"seed={done.facts['config']['seed'] + 1}"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("train fedpgp --manifest x --lr 0.1 --set lr=0.2", "--set lr=0.2: --lr gives this setting too"),
        ("train fedpgp --manifest x --set method.lr=0.2 --lr 0.1", "--set method.lr=0.2: --lr gives this setting too"),
        ("train fedlgt --manifest x --run.dropout 0.1 --set run.dropout=0.2", "--run.dropout gives this setting too"),
        ("build fed-rsic --sample --alpha 1 --set alpha=2", "--set alpha=2: --alpha gives this setting too"),
        ("resplit x --out y --clients 1 --set clients=2", "--set clients=2: --clients gives this setting too"),
    ],
)
def test_a_setting_that_is_given_in_two_ways_is_refused(words: str, line: str, command: Command) -> None:
    refused(command(*words.split()), line, codes=(2,))


def test_settings_of_one_name_in_run_and_method_are_two() -> None:
    assert joined(["run.dropout=0.1"], ["method.dropout=0.2"]) == ["run.dropout=0.1", "method.dropout=0.2"]


@pytest.mark.parametrize("arguments", [("--rounds", "1"), ("--help",)])
def test_annotations_that_cannot_be_read_are_the_fault_of_their_package(
    arguments: tuple[str, ...], command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halfway.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from fedtrain.methods.promptfl import PromptFL\n\n\n"
        "class Halfway(PromptFL):\n"
        "    @dataclass(frozen=True)\n"
        "    class Settings:\n"
        "        rate: Rate = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = "halfway: annotations of Halfway.Settings cannot be read (name 'Rate' is not defined)"
    refused(command("train", "halfway:Halfway", "--manifest", "nothing", *arguments), words, codes=(2,))
