"""Messages between server and sites. Nothing else crosses the wire.

A site receives the server's state and an order. It returns the shared tensors, a few numbers and, for held-out
rows, metrics. There is no field for personal tensors. Scores and labels of held-out rows are sent only if requested
for (``flower.scores``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedtrain.config import RunConfig, from_json, to_json
from fedtrain.engines.rounds import unlike
from fedtrain.methods.base import Evaluation, State, Update

ARRAYS, METRICS, CONFIG = "arrays", "metrics", "config"
JOIN = "query.join"
"""Message type by which a server asks a node which clients it has."""
_ROUNDING = 1e-3  # how far above 100 a sum of float32 may end
FAILED = 1
"""Code of an error that a site describes in words."""


@dataclass(frozen=True)
class Order:
    """Order to a site, sent with the server's state.

    Attributes:
        config: The run. The site reads its own dataset, whatever manifest this names.
        key: Digest that identifies the run.
        client: Name of the client.
        number: Its number in the federation.
        round: Which round, from 1.
        since: Round of the client's personal state; 0: its initial state.
        splits: Splits to evaluate on; empty: train.
        ranks: For each fine label its place from the rarest, 1, to the most frequent in all training rows; 0 if it is
            in none. Methods may tell a label by its frequent kinds, which no site knows. Empty without fine labels.
            Their training rows, if the method weighs labels by them.
        counts: Training rows of each label over all clients, if the method weighs labels by them; else empty.
    """

    config: RunConfig
    key: str
    client: str
    number: int
    round: int
    since: int
    splits: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Judged:
    """A client's evaluation on one split, with scores if requested."""

    evaluation: Evaluation
    scores: State = field(default_factory=dict)


def arrays(state: State) -> ArrayRecord:
    """Tensors as a record, in their order."""
    return ArrayRecord({name: value.detach().cpu().contiguous() for name, value in state.items()})


def state(record: ArrayRecord, device: torch.device) -> State:
    """Tensors of a record."""
    return {name: value.to(device) for name, value in record.to_torch_state_dict().items()}


def joined(content: RecordDict) -> tuple[list[tuple[str, object]], str]:
    """Clients of a node, each with its training rows, and the digest of the label space, from an answer to ``JOIN``.

    Raises:
        KeyError, TypeError, ValueError: It is malformed.
    """
    said, rows = content.config_records[CONFIG], content.metric_records[METRICS]["rows"]
    return [(str(name), n) for name, n in zip(said["clients"], rows, strict=True)], str(said["labels"])


def order(told: Order) -> ConfigRecord:
    """An order as a record."""
    config = json.dumps(to_json(replace(told.config, manifest="")))
    facts = {name: getattr(told, name) for name in ("key", "client", "number", "round", "since")}
    lists = {name: list(getattr(told, name)) for name in ("splits", "ranks", "counts")}
    return ConfigRecord({"run": config, **facts, **lists})


def ordered(record: ConfigRecord) -> Order:
    """An order from its record.

    Raises:
        UsageError: The config is not one.
    """
    facts: dict[str, Any] = {name: record[name] for name in ("key", "client", "number", "round", "since")}
    config = from_json(json.loads(str(record["run"])), "run of the server")
    lists: dict[str, Any] = {name: tuple(record[name]) for name in ("splits", "ranks", "counts")}
    return Order(config=config, **lists, **facts)


def update(sent: Update, *, finite: bool) -> RecordDict:
    """Reply of a site after training; ``weight`` is for means in which all clients count equally."""
    numbers = {"rows": sent.rows, "loss": sent.loss, "finite": int(finite), "weight": 1.0}
    return RecordDict({ARRAYS: arrays(sent.shared), METRICS: MetricRecord(numbers)})


def updated(content: RecordDict, client: int, like: State, rows: int) -> Update:
    """An update from a reply.

    Args:
        content: Content of the reply.
        client: Number of the client that was asked.
        like: Tensors with the names, shapes and types that it should send.
        rows: Training rows it should have; its weight.

    Raises:
        ValueError: It differs from the request; the message says how.
    """
    numbers, device = content.metric_records[METRICS], next((v.device for v in like.values()), torch.device("cpu"))
    if set(content) != {ARRAYS, METRICS} or set(numbers) != {"rows", "loss", "finite", "weight"}:
        raise ValueError("it has other fields than were requested")
    if numbers["weight"] != 1.0:
        raise ValueError(f"its weight is {numbers['weight']}, and should be 1")
    shared = state(content.array_records[ARRAYS], device)
    if wrong := unlike(shared, like):
        raise ValueError(wrong)
    held = int(numbers["rows"])
    if not 1 <= held <= rows:
        raise ValueError(f"it trained on {held} rows, but has {rows}")
    loss = float(numbers["loss"]) if numbers["finite"] else math.nan
    return Update(client, held, shared, {}, loss)


def judged(found: Mapping[str, Judged]) -> RecordDict:
    """Metrics of one client as records: over its rows, per client, and the number of rows."""
    content = RecordDict()
    for split, one in found.items():
        evaluation = one.evaluation
        content[f"{split}/metrics"] = MetricRecord({k: float(v) for k, v in evaluation.metrics.items()})
        content[f"{split}/clients"] = MetricRecord({k: float(v[0]) for k, v in evaluation.clients.items()})
        content[f"{split}/over"] = MetricRecord(dict(evaluation.over))
        content[f"{split}/rows"] = MetricRecord({"rows": int(sum(evaluation.rows))})
        if one.scores:
            content[f"{split}/scores"] = arrays(one.scores)
    return content


def read_judged(content: RecordDict, rows: Mapping[str, int]) -> dict[str, Judged]:
    """Metrics of one client from a reply.

    Args:
        content: Content of the reply.
        rows: Requested split -> number of rows of the client.

    Raises:
        ValueError: It differs from the request; the message says how.
    """
    found, cpu = {}, torch.device("cpu")
    for split, known in rows.items():
        try:
            parts = [content.metric_records[f"{split}/{name}"] for name in ("metrics", "clients", "over", "rows")]
        except KeyError:
            raise ValueError(f"it has no metrics for {split}") from None
        metrics, clients, over, held = ({k: float(v) for k, v in part.items()} for part in parts)
        if held["rows"] != known:
            raise ValueError(f"it evaluated {held['rows']:g} rows of {split}, but has {known}")
        for name, value in (*metrics.items(), *clients.items()):
            if not (0 <= value <= 100 + _ROUNDING or (math.isnan(value) and not over.get(name))):
                raise ValueError(f"{split}/{name}={value:g} is not a percentage")
        for name, value in over.items():
            if name not in metrics or not (0 <= value <= known and value.is_integer()):
                raise ValueError(f"{split}/{name} is over {value:g} rows, but it has {known}")
        evaluation = Evaluation(
            metrics,
            {name: [value] for name, value in clients.items()},
            [known],
            {name: int(value) for name, value in over.items()},
        )
        scores = content.array_records.get(f"{split}/scores")
        said = {} if scores is None else state(scores, cpu)
        if any(value.dim() == 0 or len(value) != known for value in said.values()):
            raise ValueError(f"its scores for {split} do not cover {known} rows")
        found[split] = Judged(evaluation, said)
    return found
