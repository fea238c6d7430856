"""What every engine needs: who is asked each round, and figures of what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedtrain import metrics
from fedtrain.config import RunConfig
from fedtrain.methods.base import Evaluation, State, Update
from fedtrain.seeds import generator


@dataclass(frozen=True)
class Listener:
    """What a person waiting wants to hear; every call may be ignored.

    Attributes:
        say: Told in words what happens next and may take long.
        note: Told in words what is not as one would think.
        round: Given each line of ``metrics.jsonl``, and the number of rounds in all.
    """

    say: Callable[[str], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None
    round: Callable[[Mapping[str, Any], int], None] = lambda _line, _rounds: None


QUIET = Listener()
"""Hears nothing."""


def asked(config: RunConfig, rows: Sequence[int], round_: int) -> list[int]:
    """The clients that are asked to train this round, in the order of their numbers.

    Args:
        config: Says how they are sampled; draws depend on its seed and the round alone.
        rows: Training rows of each client; those without are never asked.
        round_: Which round, from 1.
    """
    able = [client for client, n in enumerate(rows) if n > 0]
    count = config.clients_per_round
    if count is None or count >= len(able):
        return able
    draws = generator(config.seed, "clients", round_)
    order = torch.argsort(torch.rand(len(rows), generator=draws, dtype=torch.float64)[able], stable=True)
    shuffled = [able[i] for i in order.tolist()]
    if config.sampling != "size":
        return sorted(shuffled[:count])
    # systematic sampling of clients in random order (Madow 1949): a chance of exactly places x rows / all rows, for
    # lengths of at most one step; in whole numbers, so that nobody is drawn twice
    always = _always(rows, count)
    rest = [client for client in shuffled if client not in always]
    places, step = count - len(always), sum(rows[client] for client in rest)
    ends = places * torch.tensor([rows[client] for client in rest]).cumsum(0)
    points = torch.randint(step, (), generator=draws) + step * torch.arange(places)
    return sorted([*always, *(rest[i] for i in torch.searchsorted(ends, points, right=True).tolist())])


def weights(config: RunConfig, rows: Sequence[int]) -> list[float] | None:
    """What each client's update weighs in the mean; None: by the rows that it trained on.

    With ``sampling=size`` they are the inverse of the chance to be drawn times the rows (Horvitz and Thompson 1952),
    scaled to 1 for all clients that are not in every round.

    Args:
        config: Resolved.
        rows: Training rows of each client.
    """
    if config.weighting == "equal":
        return [1.0] * len(rows)
    count = config.clients_per_round
    if config.weighting == "rows" or config.sampling != "size" or count is None or count >= sum(n > 0 for n in rows):
        return None
    always = _always(rows, count)
    rest = sum(n for client, n in enumerate(rows) if client not in always)
    return [n * (count - len(always)) / rest if client in always else 1.0 for client, n in enumerate(rows)]


def _always(rows: Sequence[int], count: int) -> frozenset[int]:
    """Clients that are in every sample of ``count`` in proportion to rows, since they hold a place's worth or more."""
    always: frozenset[int] = frozenset()
    while True:
        places, rest = count - len(always), sum(n for client, n in enumerate(rows) if client not in always)
        more = {client for client, n in enumerate(rows) if client not in always and n and places * n >= rest}
        if not more:
            return always
        always |= more


def answering(config: RunConfig, clients: Sequence[int], count: int, round_: int) -> list[int]:
    """Those of the clients asked that answer: each stays away with probability ``config.dropout``.

    Args:
        config: Says how likely; draws depend on its seed and the round alone.
        clients: Numbers of the clients asked.
        count: Number of clients in all.
        round_: Which round, from 1.
    """
    if not config.dropout:
        return list(clients)
    draw = torch.rand(count, generator=generator(config.seed, "dropout", round_), dtype=torch.float64)
    return [client for client in clients if draw[client] >= config.dropout]


def finite(update: Update) -> bool:
    """Whether all that a client made is finite; what is not would spoil the model of every other client."""
    values = [*update.shared.values(), *update.personal.values()]
    return math.isfinite(update.loss) and all(bool(torch.isfinite(v).all()) for v in values)


def sent(state: State) -> tuple[int, int]:
    """Floating-point numbers and bytes in what a client sends."""
    floats = sum(value.numel() for value in state.values() if value.is_floating_point())
    return floats, sum(value.numel() * value.element_size() for value in state.values())


def summarise(evaluation: Evaluation) -> dict[str, float | None]:
    """All figures of an evaluation, ready for JSON: NaN, a figure of nothing, is None.

    Per-client figures are summed up; see ``metrics.over_clients``.
    """
    figures = {name: float(value) for name, value in evaluation.metrics.items()}
    for name, values in evaluation.clients.items():
        figures |= metrics.over_clients(name, values, evaluation.rows)
    return {name: plain(value) for name, value in figures.items()}


def plain(value: float) -> float | None:
    """A number as JSON knows it: None if it is not finite."""
    return value if math.isfinite(value) else None
