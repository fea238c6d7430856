"""The contract checks of methods: those of fedkit pass, and each fault is found."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from small_backbone import small_backbone

from fedtrain.methods import METHODS
from fedtrain.methods.base import Evaluation, Method, State, Update
from fedtrain.methods.promptfl import PromptFL
from fedtrain.methods.prompts.prompt import PromptSettings
from fedtrain.models import label_transformer
from fedtrain.testing import check_method

ONE = {"epochs": 1}
SMALL = {"epochs": 1, "image_size": 64}
QUICK: dict[str, dict[str, int]] = {"zeroshot": {}, "fedavg": SMALL, "fedlgt": SMALL}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_transformer, "backbone", small_backbone)
    check_method(METHODS[name], QUICK.get(name, ONE))


def test_a_method_that_counts_labels_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_transformer, "backbone", small_backbone)
    check_method(METHODS["fedlgt"], {**SMALL, "class_weights": "inverse"})


@pytest.mark.parametrize(("page", "name"), [("add_a_method.md", "FedAvgM"), ("plugins.md", "Trimmed")])
def test_methods_of_the_docs_pass(page: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on multi-label data, which add tensors to those of the page."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = (block for block in blocks if f"class {name}(" in block)
    (tmp_path / f"shown_{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    kind = getattr(importlib.import_module(f"shown_{name}"), name)
    assert kind.kinds == ("single-label", "multi-label")
    check_method(kind, ONE)


class GlobalDraws(PromptFL):
    """Draws its start from the global generator."""

    def shared(self) -> State:
        return {"context": torch.randn_like(super().shared()["context"])}


class HiddenDraws(PromptFL):
    """Moves the global generator while it trains."""

    def train(self, *given: Any) -> Iterator[Update]:
        torch.rand(1)
        yield from super().train(*given)


class InPlace(PromptFL):
    """Changes the server's state in place."""

    def train(self, shared: State, *given: Any) -> Iterator[Update]:
        shared["context"] += 1
        yield from super().train(shared, *given)


class Remembers(PromptFL):
    """Keeps its rounds in the object."""

    count = 0

    def train(self, *given: Any) -> Iterator[Update]:
        self.count += 1
        for update in super().train(*given):
            yield replace(
                update, shared={"context": update.shared["context"] * (1 + (given[3] > 1 and self.count > 1))}
            )


class Reversed(PromptFL):
    """Gives updates in the wrong order."""

    def train(self, *given: Any) -> Iterator[Update]:
        yield from reversed(list(super().train(*given)))


class Misshapen(PromptFL):
    """Sends tensors of another shape."""

    def train(self, *given: Any) -> Iterator[Update]:
        for update in super().train(*given):
            yield replace(update, shared={"context": update.shared["context"][:1]})


class Together(PromptFL):
    """Trains clients to another result in a cohort."""

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:
        for update in super().train(shared, personal, clients, round_):
            yield replace(update, shared={"context": update.shared["context"] * len(clients)})


class ByPlace(PromptFL):
    """Trains by the place of a client, not its number."""

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:
        for update in super().train(shared, personal, clients, round_):
            yield replace(update, shared={"context": update.shared["context"] + update.client})


class Counting(PromptFL):
    """Trains by the labels of all clients, which no site knows unless it asks."""

    def train(self, *given: Any) -> Iterator[Update]:
        for update in super().train(*given):
            total = sum(self.context.subset.entry.train_counts)
            yield replace(update, shared={"context": update.shared["context"] * total})


class Unaggregated(PromptFL):
    """Makes a server's state of other tensors."""

    def aggregate(self, server: State, updates: Any) -> State:
        return {**super().aggregate(server, updates), "more": torch.zeros(1)}


class Twice(PromptFL):
    """Reads the updates twice."""

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        assert all(update.rows for update in updates)
        return super().aggregate(server, updates)


class Empty(PromptFL):
    """Takes the mean of nothing."""

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        return super().aggregate(server, (update for update in updates if update.rows < 0))


class Contextual(PromptFL):
    """Forgets the tensors that multi-label data add."""

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        return {"context": super().aggregate(server, updates)["context"]}


class Stateless(PromptFL):
    """Forgets to return the state."""

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        super().aggregate(server, updates)
        return None  # type: ignore[return-value]


class Mistyped(PromptFL):
    """Means to aggregate."""

    def agregate(self, server: State, updates: Iterable[Update]) -> State:
        return super().aggregate(server, updates)


class MistypedFact(PromptFL):
    """Means to say what data it takes."""

    kind = ("single-label",)


class Uneven(PromptFL):
    """Evaluates one client too few."""

    def evaluate(self, *given: Any) -> Evaluation:
        found = super().evaluate(*given)
        return replace(found, clients={name: values[1:] for name, values in found.clients.items()})


@dataclass(frozen=True)
class HiddenSettings(PromptSettings):
    """Settings, one of which nobody explains."""

    more: float = 0.5


class Hidden(PromptFL):
    """Has a setting without a word."""

    Settings = HiddenSettings


class Kindless(PromptFL):
    """Takes no data."""

    kinds = ()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (GlobalDraws, "starts in another state each time"),
        (HiddenDraws, "draws from a global generator"),
        (InPlace, "changes in train a tensor that it received"),
        (Remembers, "remembers a round in its object"),
        (Reversed, "gives other updates than one a client, in their order"),
        (Misshapen, "sends what sent_back does not say"),
        (Together, "by itself to another result than in a cohort"),
        (ByPlace, "at its site to another result"),
        (Counting, "at its site to another result; .* a method that reads train_counts sets counts_labels"),
        (Unaggregated, "aggregates to a server's state that is not as before"),
        (Contextual, "aggregates to a server's state that is not as before: .*'bias'"),
        (Stateless, "aggregates to a server's state that is not as before: .*NoneType, not a dict of tensors by name"),
        (Twice, "Twice.aggregate: updates can be read once; first make a list of them"),
        (Empty, "the mean of no updates: give at least one"),
        (Mistyped, "has agregate, which looks like aggregate mistyped; rename it to that, or to _agregate"),
        (MistypedFact, "has kind, which looks like kinds mistyped"),
        (Uneven, r"for 2 of 3 clients"),
        (Hidden, "has a setting more that no docstring explains"),
        (Kindless, "has kinds"),
    ],
)
def test_each_fault_is_found(kind: type[Method], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_method(kind, ONE)
