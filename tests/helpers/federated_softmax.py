"""A small federated method for the engine's tests: softmax regression on fixed random features, personal biases.

The weights [features, classes] are shared; each client keeps its own bias [classes]. Clients of a cohort are trained
one after another, so that bits do not depend on cohorts and what a test sees is the engine's doing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch

from fedrsic_data.dataset.reader import Dataset
from fedtrain.methods.base import Context, Evaluation, Method, State, Update
from fedtrain.seeds import generator

FEATURES = 12


@cache
def labels(folder: Path, subset: str, split: str, client: str) -> torch.Tensor:
    """Labels of a client; read once, as tests train on the same data many times."""
    table = Dataset(folder).subset(subset).client(client).read(split, ["label"])
    return torch.tensor(table["label"].to_pylist(), dtype=torch.long)


@dataclass(frozen=True)
class Settings:
    """Its settings."""

    lr: float = 0.5
    steps: int = 3
    momentum: float = 0.9
    note: str = ""
    poison: int = -1  # client that sends NaN
    poison_round: int = 0
    flag: bool = True


class Softmax(Method):
    """Federated softmax regression."""

    Settings = Settings
    rounds: ClassVar[int] = 4
    has_personal: ClassVar[bool] = True
    trained: ClassVar[list[tuple[int, ...]]] = []  # cohorts, for tests to look at

    def __init__(self, context: Context, settings: Settings) -> None:
        super().__init__(context, settings)
        self.classes = len(context.subset.classes)
        centres = torch.randn(self.classes, FEATURES, generator=generator(context.seed, "centres"))
        self._data = {
            (split, k): self._features(centres, split, name)
            for split in context.subset.splits
            for k, name in enumerate(context.clients)
        }

    def _features(self, centres: torch.Tensor, split: str, client: str) -> tuple[torch.Tensor, torch.Tensor]:
        subset = self.context.subset
        found = labels(subset.dataset.folder, subset.name, split, client)
        noise = torch.randn(len(found), FEATURES, generator=generator(self.context.seed, "noise", split, client))
        return centres[found] + noise, found

    def shared(self) -> State:
        draw = generator(self.context.seed, "weights")
        return {"weight": torch.randn(FEATURES, self.classes, generator=draw) * 0.02, "seen": torch.tensor(7)}

    def personal(self, client: int) -> State:
        return {"bias": torch.zeros(self.classes)}

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:
        Softmax.trained.append(tuple(clients))
        for client, own in zip(clients, personal, strict=True):
            x, y = self._data["train", client]
            weight = shared["weight"].clone().requires_grad_()
            bias = own["bias"].clone().requires_grad_()
            optimiser = torch.optim.SGD([weight, bias], self.settings.lr, momentum=self.settings.momentum)
            losses = []
            for step in range(self.settings.steps):
                draw = generator(self.context.seed, "batch", round_, client, step)
                batch = torch.randperm(len(y), generator=draw)[: max(1, len(y) // 2)]
                loss = torch.nn.functional.cross_entropy(x[batch] @ weight + bias, y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.item())
            sent = {"weight": weight.detach(), "seen": shared["seen"] + 1}
            if client == self.settings.poison and round_ == self.settings.poison_round:
                sent["weight"] = sent["weight"] * math.nan
            yield Update(client, len(y), sent, {"bias": bias.detach()}, sum(losses) / len(losses))

    def evaluate(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
        right, rows = [], []
        for client in range(len(self.context.clients)):
            x, y = self._data[split, client]
            right.append(int(((x @ shared["weight"] + personal(client)["bias"]).argmax(1) == y).sum()))
            rows.append(len(y))
        accuracy = [100 * r / n if n else math.nan for r, n in zip(right, rows, strict=True)]
        return Evaluation({"accuracy/pooled": 100 * sum(right) / max(1, sum(rows))}, {"accuracy": accuracy}, rows)
