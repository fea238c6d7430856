"""What travels: messages as server and sites write and read them. Nothing else crosses the wire.

To a site go the server's state and what to do with it. Back come the shared tensors, a few numbers and, of held-out
rows, figures. Personal tensors have no field here. Scores and labels of held-out rows are sent only when they are asked
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
"""Code of an error that a site tells of in words."""


@dataclass(frozen=True)
class Order:
    """What a site is to do, beside the server's state.

    Attributes:
        config: The run. The site reads its own dataset, whatever manifest this names.
        key: Digest of what the run is.
        client: Name of the client.
        number: Its number in the federation.
        round: Which round, from 1.
        since: Round that the client's personal state is of; 0: it has what it started with.
        splits: To judge on; empty: train.
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
    """What a site says of one client on one split: its evaluation, and scores if they were asked for."""

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
        KeyError, TypeError, ValueError: It is not what was asked for.
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
    """What a site sends after training; ``weight`` is for means in which all clients count the same."""
    numbers = {"rows": sent.rows, "loss": sent.loss, "finite": int(finite), "weight": 1.0}
    return RecordDict({ARRAYS: arrays(sent.shared), METRICS: MetricRecord(numbers)})


def updated(content: RecordDict, client: int, like: State, rows: int) -> Update:
    """An update from a reply.

    Args:
        content: Of the reply.
        client: Number of the client that was asked.
        like: Tensors with the names, shapes and types that it should send.
        rows: Training rows it should have; its weight.

    Raises:
        ValueError: It is not what was asked for; the message says how.
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
    """Figures of one client as records: those over its rows, its own, and how many rows."""
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
    """Figures of one client from a reply.

    Args:
        content: Of the reply.
        rows: Split it was asked to judge on -> how many rows the client has there.

    Raises:
        ValueError: It is not what was asked for; the message says how.
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
