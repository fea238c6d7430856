"""What every engine needs: who is asked each round, and figures of what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

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
    if config.clients_per_round is None or config.clients_per_round >= len(able):
        return able
    draw = torch.rand(len(rows), generator=generator(config.seed, "clients", round_), dtype=torch.float64)[able]
    if config.sampling == "size":
        # an exponential race: the first k of Exp(1) / rows are k draws without replacement in proportion to rows
        # (Efraimidis & Spirakis 2006); 1 - u, since u may be 0
        draw = -torch.log(1 - draw) / torch.tensor([rows[client] for client in able], dtype=torch.float64)
    first = torch.argsort(draw, stable=True)[: config.clients_per_round]
    return sorted(able[i] for i in first.tolist())


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

    Per-client figures, of which more is better, are summed up as ``<figure>/mean`` (every client the same),
    ``<figure>/weighted`` (by its rows of the split) and ``<figure>/worst_decile`` (the mean over the tenth of the
    clients, rounded up, that fare worst). Clients without a value are in none of them.
    """
    figures = {name: float(value) for name, value in evaluation.metrics.items()}
    for name, values in evaluation.clients.items():
        held = [(float(v), n) for v, n in zip(values, evaluation.rows, strict=True) if not math.isnan(v)]
        rows = sum(n for _, n in held)
        worst = sorted(value for value, _ in held)[: math.ceil(len(held) / 10)]
        figures[f"{name}/mean"] = _mean([value for value, _ in held])
        figures[f"{name}/weighted"] = math.fsum(v * n for v, n in held) / rows if rows else math.nan
        figures[f"{name}/worst_decile"] = _mean(worst)
    return {name: plain(value) for name, value in figures.items()}


def plain(value: float) -> float | None:
    """A number as JSON knows it: None if it is not finite."""
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
