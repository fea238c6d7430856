"""What a method says: what is shared, what is personal, how a cohort trains, how a model is judged.

The engines know no more of a method than this. A cohort of one and a cohort of many give the same updates, so the
same file serves one process that trains all clients and a network that trains one at each site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from fedrsic_data.dataset.reader import Subset

State = dict[str, torch.Tensor]
"""Tensors by name."""


@dataclass(frozen=True)
class Context:
    """What a method is given to work with.

    Attributes:
        subset: The federation.
        clients: Client ids by number; every client is meant by its place in here, so results do not depend on names.
        rows: Training rows of each client.
        seed: Seed of the run; every draw comes from ``fedtrain.seeds.generator(seed, *purpose)``.
        device: Where to compute.
        precision: ``float32``, or ``bfloat16`` for autocast on a GPU.
        cache: Folder for what can be computed again (features); None: keep nothing.
        held_out: Domain whose rows no client trains on (leave-one-domain-out); None: none.
        numbers: At a site, which has some clients of a federation: their numbers in it. Empty: all clients are here.
        say: Told in words what takes long.
    """

    subset: Subset
    clients: tuple[str, ...]
    rows: tuple[int, ...]
    seed: int
    device: torch.device
    precision: str = "float32"
    clip: str = "tiny"
    cache: Path | None = None
    held_out: str | None = None
    numbers: tuple[int, ...] = ()
    say: Callable[[str], None] = lambda _: None

    def number(self, client: int) -> int:
        """A client's number in the whole federation, from which its draws are derived."""
        return self.numbers[client] if self.numbers else client


@dataclass(frozen=True)
class Update:
    """What training at a client gives.

    Attributes:
        client: Its number.
        rows: Rows it trained on: its weight in the average.
        shared: What it sends to the server. Nothing else leaves it.
        personal: What it keeps.
        loss: Mean training loss over its steps.
    """

    client: int
    rows: int
    shared: State
    personal: State
    loss: float


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on one split.

    Attributes:
        metrics: Figures over all clients or over the whole split, by name; percentages are 0 to 100.
        clients: Per-client figures by name: one value a client in the order of ``Context.clients``, NaN for a client
            without rows in the split.
        rows: Rows of the split at each client.
        over: For each metric that is a mean over rows, how many: from such metrics of the parts of a federation that of
            the whole can be told.
    """

    metrics: Mapping[str, float]
    clients: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rows: Sequence[int] = ()
    over: Mapping[str, int] = field(default_factory=dict)


class Method(Protocol):
    """A federated method, bound to a federation and its settings."""

    def shared(self) -> State:
        """The server's state before the first round; empty where nothing travels."""
        ...

    def personal(self, client: int) -> State:
        """A client's own state before its first round; empty where it has none."""
        ...

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:
        """Trains a cohort, every client from the same ``shared`` and its own ``personal`` state.

        Args:
            shared: The server's state; not to be changed in place.
            personal: The state of each of ``clients``; not to be changed in place.
            clients: Numbers of the clients of the cohort; all have training rows.
            round_: Which round, from 1.

        Yields:
            An update a client, in the order of ``clients``.
        """
        ...

    def evaluate(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
        """Judges the model.

        Args:
            shared: The server's state.
            personal: Gives the personal state of a client.
            split: A held-out split of the subset.
        """
        ...


@runtime_checkable
class Ranked(Protocol):
    """A method whose figures rank the rows of all clients together: those of parts do not tell that of the whole."""

    def scores(self, shared: State, split: str) -> State:
        """What the server's model says of every row, and the truth: tensors with a row for each, ``owner`` among them.

        ``owner`` is int64 ``[N]``, the client of each row.
        """
        ...

    def figures(self, scores: State) -> Evaluation:
        """What ``evaluate`` gives, from the scores of a whole split in the order of the clients."""
        ...


MethodClass = Callable[[Context, Any], Method]
"""Binds a method to a federation and its settings; a class with ``__init__(self, context, settings)``."""
