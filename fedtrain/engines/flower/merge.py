"""Metrics of a federation from the metrics of its clients."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from fedtrain.engines.flower.wire import Judged
from fedtrain.methods.base import Evaluation, Ranked


def merged(found: Mapping[int, Judged], clients: int) -> Evaluation:
    """The evaluation of a split over all clients.

    A metric that is a mean over rows is combined exactly, as the clients' mean weighted by rows. The value of any
    other metric on a client's rows says nothing about the whole, and is reported per client.

    Args:
        found: Number of a client -> its evaluation.
        clients: Number of clients; those without an answer have NaN and no rows.
    """
    rows = [0] * clients
    metrics: dict[str, float] = {}
    each: dict[str, list[float]] = {}
    weighted: dict[str, list[tuple[float, int]]] = {}
    for number, one in sorted(found.items()):
        said = one.evaluation
        rows[number] = said.rows[0]
        own = {name: values[0] for name, values in said.clients.items()}
        for name, value in said.metrics.items():
            if name in said.over:
                weighted.setdefault(name, []).append((value, said.over[name]))
            else:
                own[name] = value
        for name, value in own.items():
            each.setdefault(name, [math.nan] * clients)[number] = value
    for name, pairs in weighted.items():
        total = sum(count for _, count in pairs)
        metrics[name] = math.fsum(value * count for value, count in pairs if count) / total if total else math.nan
    over = {name: sum(count for _, count in pairs) for name, pairs in weighted.items()}
    return Evaluation(metrics, each, rows, over)


def ranked(method: Ranked, found: Mapping[int, Judged]) -> Evaluation:
    """The evaluation of a split from the scores of all its rows, in the order of the clients; see ``Ranked``."""
    parts = [(number, one.scores) for number, one in sorted(found.items()) if one.scores]
    if not parts:
        return method.figures({})
    owners = [torch.full_like(scores["owner"], number) for number, scores in parts]
    whole = {name: torch.cat([scores[name] for _, scores in parts]) for name in parts[0][1]}
    return method.figures({**whole, "owner": torch.cat(owners)})
