"""What every registered method must keep."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from fedrsic_data.errors import PluginError, UsageError
from fedrsic_data.settings import decode, encode
from fedtrain import methods, run
from fedtrain.config import RunConfig
from fedtrain.methods import METHODS
from fedtrain.methods.base import Method, State
from fedtrain.methods.promptfl import PromptFL
from fedtrain.methods.prompts.judge import ClipMethod
from fedtrain.methods.prompts.prompt import PromptMethod

pytestmark = pytest.mark.usefixtures("random_clip")

FOLDER = ROOT / "fedtrain" / "methods"
RATES = {"centralised": 0.01, "clip-full": 1e-4}
"""Learning rates at which a method that would diverge at 0.05 does not."""
ON_CLIP = sorted(name for name, method in METHODS.items() if issubclass(method, ClipMethod))


def test_every_prompt_method_is_registered() -> None:
    assert {"fedpgp", "fedprox", "fedrsclip", "kgcoop", "local", "promptfl", "zeroshot"} <= set(METHODS)
    assert list(METHODS) == sorted(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_settings_pass_through_json(name: str) -> None:
    settings = METHODS[name].Settings
    assert settings.__dataclass_params__.frozen
    data = encode(settings())
    assert decode(settings, json.loads(json.dumps(data)), name) == settings()
    with pytest.raises(UsageError, match="unknown key 'learning_speed'"):
        decode(settings, {**data, "learning_speed": 1}, name)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_documented(name: str) -> None:
    settings = METHODS[name].Settings
    documents = "".join(inspect.getdoc(cls) or "" for cls in settings.__mro__ if dataclasses.is_dataclass(cls))
    for field in dataclasses.fields(settings):
        assert re.search(rf"^\s*{field.name}: ", documents, re.MULTILINE), f"{name}: {field.name}"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_cites_its_paper_and_says_how_long_it_trains(name: str) -> None:
    method = METHODS[name]
    assert re.search(r"arXiv \d{4}\.\d{5}", method.__doc__)
    assert isinstance(method.rounds, int)
    assert method.rounds >= 0
    assert method.kinds
    assert set(method.kinds) <= {"single-label", "multi-label"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_file_of_its_own(name: str) -> None:
    """It stands in the file of its name and imports no other method."""
    module = name.replace("-", "_")
    file = FOLDER / f"{module}.py"
    assert METHODS[name].__module__ == f"fedtrain.methods.{module}"
    others = {other.__module__ for other in METHODS.values()} - {METHODS[name].__module__}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.module not in others
            assert not (node.module == "fedtrain.methods" and {a.name for a in node.names} & set(METHODS))


def test_methods_and_their_settings_are_known_without_pytorch() -> None:
    code = (
        "import sys\n"
        "from fedtrain.methods import METHODS\n"
        "print(len([kind.Settings() for kind in METHODS.values()]), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(METHODS)), "False"]


@pytest.mark.parametrize("said", [True, False])
def test_a_class_says_whether_its_clients_have_states(said: bool) -> None:
    """Forgotten, clients would start anew at every site and every round."""
    hooks = {} if said else {"personal": lambda _self, _client: {}}
    with pytest.raises(TypeError, match="Mine: set has_personal = True if and only if it overrides personal"):
        type("Mine", (Method,), {"has_personal": said, **hooks})


def test_what_a_client_sends_is_as_the_method_says(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(PromptFL):
        """Keeps its server's tensors in another shape than its clients send."""

        def sent_back(self, server: State) -> State:
            return {"context": server["context"][:1]}

    monkeypatch.setitem(methods.METHODS, "careless", Careless)
    config = RunConfig("careless", str(sample_build), "fed-ucmerced", rounds=1, device="cpu")
    with pytest.raises(PluginError, match=r"Careless.train: client 0: its tensors differ .*; see Method.sent_back"):
        run.train(config, tmp_path / "run")


@pytest.mark.parametrize(("name", "personal"), [("local", {}), ("promptfl", {"own": torch.zeros(1)})])
def test_a_client_keeps_the_personal_tensors_that_the_method_says(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, personal: State
) -> None:
    """Otherwise it would start anew every round, or at sites alone."""

    class Forgetful(METHODS[name]):  # type: ignore[misc]
        def train(self, *given: Any) -> Any:
            return (dataclasses.replace(update, personal=personal) for update in super().train(*given))

    monkeypatch.setitem(methods.METHODS, "forgetful", Forgetful)
    config = RunConfig("forgetful", str(sample_build), "fed-ucmerced", rounds=2, device="cpu")
    with pytest.raises(PluginError, match=r"Forgetful.train: personal tensors \[.*\] should be \[.*\]; see personal"):
        run.train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("aggregate", "words"),
    [
        (lambda mean, server, updates: mean(server, updates) | {"more": torch.zeros(1)}, "differ .*'more'.* and not"),
        (lambda mean, server, updates: {}, "differ .* return every tensor of the server"),
        (lambda mean, server, updates: {n: v.double() for n, v in mean(server, updates).items()}, "differ .*float64"),
        (lambda mean, server, updates: {n: v[:1] for n, v in mean(server, updates).items()}, r"differ .*\(1, \d+\)"),
        (lambda mean, server, updates: None, "gives NoneType, not a dict of tensors by name"),
        (lambda mean, server, updates: mean(server, updates) and mean(server, updates), "updates can be read once"),
    ],
)
def test_a_server_keeps_the_tensors_that_it_has(
    sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aggregate: Any, words: str
) -> None:
    """No checkpoint holds others, and no updates are read where there are none left."""

    class Changed(PromptFL):
        def aggregate(self, server: State, updates: Any) -> Any:
            return aggregate(super().aggregate, server, updates)

    monkeypatch.setitem(methods.METHODS, "changed", Changed)
    config = RunConfig("changed", str(sample_build), "fed-ucmerced", rounds=1, device="cpu")
    with pytest.raises(PluginError, match=f"^Changed.aggregate: .*{words}"):
        run.train(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoint").glob("*.safetensors"))


@pytest.mark.parametrize("name", ON_CLIP)
def test_a_run_goes_to_the_end_and_repeats(sample_build: Path, tmp_path: Path, name: str) -> None:
    def go(out: str, **more: Any) -> Any:
        fast = {} if name == "zeroshot" else {"epochs": 1, "lr": RATES.get(name, 0.05)}
        config = RunConfig(name, str(sample_build), "fed-ucmerced", rounds=2, device="cpu", method_settings=fast)
        return run.train(dataclasses.replace(config, **more), tmp_path / out).data

    def losses(out: str) -> list[float]:
        return [json.loads(line)["loss"] for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]

    first, second = go("first"), go("second")
    assert first["figures"] == second["figures"]
    assert losses("first") == losses("second")
    assert 0 <= first["figures"]["test/local/mean"] <= 100
    assert first["counters"]["refused"] == 0
    shared = bool(first["counters"]["floats"])
    assert shared == (name not in ("centralised", "local", "zeroshot"))
    if name != "zeroshot":
        third = go("third", seed=1)
        assert losses("third") != losses("first")
        if issubclass(METHODS[name], PromptMethod):  # others hardly tell apart the features of random weights
            assert third["figures"] != first["figures"]


@pytest.mark.parametrize("name", [name for name in ON_CLIP if name != "zeroshot"])
def test_the_size_of_cohorts_does_not_change_a_run(sample_build: Path, tmp_path: Path, name: str) -> None:
    figures, losses = [], []
    for cohort in (1, 4, 32):
        config = RunConfig(
            name,
            str(sample_build),
            "fed-ucmerced",
            rounds=2,
            device="cpu",
            cohort=cohort,
            method_settings={"epochs": 1, "lr": RATES.get(name, 0.05)},
        )
        data = run.train(config, tmp_path / str(cohort)).data
        lines = [json.loads(line) for line in (tmp_path / str(cohort) / "metrics.jsonl").read_text().splitlines()]
        figures.append(data["figures"])
        losses.append([line["loss"] for line in lines])
    assert figures[0] == figures[1] == figures[2]
    assert losses[0] == losses[1] == losses[2]
