"""Which clients take part in a round, and the weight of their updates."""

from __future__ import annotations

from collections.abc import Sequence

from fedtrain.config import RunConfig
from fedtrain.methods.lazy import torch
from fedtrain.seeds import generator


def asked(config: RunConfig, rows: Sequence[int], round_: int) -> list[int]:
    """The clients that are sampled for this round, in the order of their numbers.

    Args:
        config: Settings of the sampling; draws depend only on its seed and the round.
        rows: Training rows of each client; those without are never sampled.
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
    # lengths of at most one step; in whole numbers, so that no client is drawn twice
    always = _always(rows, count)
    rest = [client for client in shuffled if client not in always]
    places, step = count - len(always), sum(rows[client] for client in rest)
    ends = places * torch.tensor([rows[client] for client in rest]).cumsum(0)
    points = torch.randint(step, (), generator=draws) + step * torch.arange(places)
    return sorted([*always, *(rest[i] for i in torch.searchsorted(ends, points, right=True).tolist())])


def weights(config: RunConfig, rows: Sequence[int]) -> list[float] | None:
    """Weight of each client's update in the mean; None: the rows that it trained on.

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
    """The sampled clients that answer: each drops out with probability ``config.dropout``.

    Args:
        config: Has the probability; draws depend only on its seed and the round.
        clients: Numbers of the sampled clients.
        count: Number of clients in all.
        round_: Which round, from 1.
    """
    if not config.dropout:
        return list(clients)
    draw = torch.rand(count, generator=generator(config.seed, "dropout", round_), dtype=torch.float64)
    return [client for client in clients if draw[client] >= config.dropout]
