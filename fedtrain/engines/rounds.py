"""The loop of rounds: sample, train, aggregate, evaluate, log and save, for every engine."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from fedrsic_data.errors import FedkitError, PluginError
from fedtrain import metrics, trace
from fedtrain.engines.base import Outcome, Training
from fedtrain.engines.participation import answering, asked, weights
from fedtrain.methods.base import Context, Evaluation, Method, State, Update
from fedtrain.methods.lazy import torch
from fedtrain.runs import checkpoint
from fedtrain.runs.checkpoint import Checkpoint, Journal
from fedtrain.runs.files import CHECKPOINT, METRICS
from fedtrain.runs.state import placed


class Clients(Protocol):
    """The clients of a federation, wherever they are, each with its own personal state."""

    def train(self, shared: State, clients: Sequence[int], round_: int) -> Iterator[Update]:
        """Trains clients from the server's state.

        Yields:
            Updates in the order of ``clients``, none from a client that does not answer; nothing personal need be in
            them.
        """
        ...

    def keep(self, update: Update, round_: int) -> None:
        """Accept an update as its client's new state; without this, the client keeps its previous state."""
        ...

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        """The server's state after a round; see ``Method.aggregate``."""
        ...

    def evaluate(self, shared: State, splits: Sequence[str], round_: int) -> dict[str, Evaluation]:
        """Evaluate the model on held-out splits."""
        ...

    def flush(self) -> dict[int, int]:
        """Write personal states to disk; return the round of each client's state."""
        ...

    def prune(self) -> None:
        """Remove states that the newest checkpoint does not need."""
        ...


class ReadOnce:
    """Updates that are trained while they are read: a second reading is an error, for it would find none.

    Args:
        updates: The updates.
        method: Aggregates them; the error names its class.
    """

    def __init__(self, updates: Iterable[Update], method: Method) -> None:
        self._updates: Iterable[Update] | None = updates
        self._name = type(method).__name__

    def __iter__(self) -> Iterator[Update]:
        """The updates.

        Raises:
            PluginError: They were read before.
        """
        updates, self._updates = self._updates, None
        if updates is None:
            raise PluginError(f"{self._name}.aggregate: updates can be read once; first make a list of them")
        return iter(updates)


class _Round:
    """A round: its updates as they arrive, and their counts.

    Attributes:
        counters: Counters over all rounds so far.
        refused: Clients whose updates contain NaN or infinity.
        count: Updates that came.
        loss: Mean training loss over the rows of those that are finite, NaN without any.
    """

    def __init__(self, federation: Clients, training: Training, at: Checkpoint, round_: int) -> None:
        self.counters, self.refused, self.count = at.counters, list[int](), 0
        self._federation, self._training, self._server, self._round = federation, training, at.shared, round_
        self._losses: list[float] = []
        self._rows = 0

    @property
    def loss(self) -> float:
        return math.fsum(self._losses) / self._rows if self._rows else math.nan

    def trained(self, clients: Sequence[int]) -> State:
        """Train clients, and aggregate what they send.

        Raises:
            FedkitError: None of them answered.
            PluginError: The method reads the updates twice, or returns other tensors than the server has.
        """
        updates, server, method = self._updates(clients), self._server, self._training.method
        if (first := next(updates, None)) is not None:
            with trace.phase("aggregation"):
                server = self._federation.aggregate(server, ReadOnce(itertools.chain((first,), updates), method))
            for _ in updates:  # every client trains, also if a method reads some of the updates only
                pass
            if wrong := unlike(server, self._server):
                raise PluginError(f"{type(method).__name__}.aggregate: {wrong}; return every tensor of the server")
        if clients and not self.count:
            raise FedkitError(
                f"round {self._round}: none of the {len(clients)} sampled clients answered; check that their sites "
                "run, and run the same command again to resume"
            )
        self.counters = replace(self.counters, refused=self.counters.refused + len(self.refused))
        return server

    def _updates(self, clients: Sequence[int]) -> Iterator[Update]:
        """Updates with their weights; those with NaN or infinity are rejected, and the round goes on without them."""
        context, counters = self._training.context, self.counters
        fixed = weights(self._training.config, context.rows)
        for update in self._federation.train(self._server, clients, self._round):
            floats, size = sent(update.shared)
            self.count += 1
            counters = self.counters = replace(
                counters,
                updates=counters.updates + 1,
                floats=counters.floats + floats,
                bytes=counters.bytes + size,
                client_floats=max(counters.client_floats, floats),
                client_bytes=max(counters.client_bytes, size),
            )
            if not finite(update):
                self.refused.append(update.client)
                name = context.clients[update.client]
                self._training.listener.note(f"round {self._round}: left out {name}, whose update has NaN or infinity")
                continue
            self._losses.append(update.loss * update.rows)
            self._rows += update.rows
            self._federation.keep(update, self._round)
            weight = update.rows if fixed is None else fixed[update.client]
            yield replace(update, personal={}, weight=weight)


def start(training: Training) -> Checkpoint:
    """The checkpoint from which a run continues, or its initial state.

    Raises:
        OutputError: The checkpoint is damaged or belongs to another run.
    """
    place, device = training.folder / CHECKPOINT, training.context.device
    place.mkdir(exist_ok=True)
    return checkpoint.load(place, training.key, device) or Checkpoint(0, placed(training.method.shared(), device))


def run(federation: Clients, training: Training, at: Checkpoint) -> Outcome:
    """Train round by round, from a checkpoint.

    Args:
        federation: Its clients train, and are evaluated.
        training: The run.
        at: From ``start``.

    Raises:
        OutputError: The journal is damaged, or the disk is full.
        FedkitError: No sampled client of a round answered.
    """
    context, config, until = training.context, training.config, training.until
    assert config.rounds is not None
    if at.round < config.rounds and at.round % config.eval_every:  # it may have ended here before
        at = checkpoint.unjudged(training.folder, at, training.key)
    journal = Journal(training.folder / METRICS, at.journal)
    evaluations: dict[str, Evaluation] = {}
    try:
        for round_ in range(at.round + 1, (until or config.rounds) + 1):
            begun = time.monotonic()
            last = round_ == config.rounds

            # who trains
            invited = asked(config, context.rows, round_)
            clients = answering(config, invited, len(context.clients), round_)

            # train, and aggregate what comes back
            done = _Round(federation, training, at, round_)
            shared = done.trained(clients)

            # evaluate and log
            dropped = len(invited) - done.count
            line = _line(context, round_, len(invited) - dropped, dropped, done)
            if last or round_ % config.eval_every == 0:
                with trace.phase("judging"):
                    evaluations = federation.evaluate(shared, config.splits, round_)
                line["figures"] = figures(evaluations)
            journal.append(line)
            training.listener.round(line, config.rounds)

            # save
            counters = replace(
                done.counters,
                dropped=done.counters.dropped + dropped,
                seconds=done.counters.seconds + time.monotonic() - begun,
            )
            at = Checkpoint(round_, shared, counters=counters)
            if last or round_ == until or round_ % config.checkpoint_every == 0:
                with trace.phase("checkpoint"):
                    at = replace(at, personal=federation.flush(), journal=journal.sync())
                    checkpoint.save(training.folder / CHECKPOINT, at, training.key)
                    federation.prune()
            trace.end_of_round()
    finally:
        journal.close()
    if not evaluations and until is None:  # no rounds, or killed between the last checkpoint and the result
        evaluations = federation.evaluate(at.shared, config.splits, at.round)
    return Outcome(at.shared, evaluations, at.counters)


def figures(evaluations: dict[str, Evaluation]) -> dict[str, float | None]:
    """All metrics of all splits, named ``<split>/<metric>[/<statistic>]``."""
    return {f"{split}/{name}": value for split, e in evaluations.items() for name, value in summarise(e).items()}


def summarise(evaluation: Evaluation) -> dict[str, float | None]:
    """All metrics of an evaluation as JSON values: None for NaN.

    Per-client metrics are summarised by ``metrics.over_clients``.
    """
    found = {name: float(value) for name, value in evaluation.metrics.items()}
    for name, values in evaluation.clients.items():
        found |= metrics.over_clients(name, values, evaluation.rows)
    return {name: metrics.finite_or_none(value) for name, value in found.items()}


def finite(update: Update) -> bool:
    """Whether all numbers of an update are finite; others would spoil the model of every client."""
    values = [*update.shared.values(), *update.personal.values()]
    return math.isfinite(update.loss) and all(bool(torch.isfinite(v).all()) for v in values)


def unlike(found: State, wanted: State) -> str:
    """Describe how tensors differ from others; empty if they have the same names, shapes and types."""
    if not (isinstance(found, dict) and all(isinstance(value, torch.Tensor) for value in found.values())):
        return f"gives {type(found).__name__}, not a dict of tensors by name"
    kinds = [{name: (tuple(v.shape), str(v.dtype)) for name, v in state.items()} for state in (found, wanted)]
    if kinds[0] == kinds[1]:
        return ""
    return f"its tensors differ in name or shape from those expected: {kinds[0]} and not {kinds[1]}"


def demand_personal(method: Method, update: Update, own: State) -> None:
    """Check that a client keeps the personal tensors that it had; one without them would start anew every round.

    Args:
        method: Made the update.
        update: The update.
        own: The client's personal state before.

    Raises:
        PluginError: The method forgot some, or made others; see ``Method.personal``.
    """
    if update.personal.keys() != own.keys():
        found, wanted = sorted(update.personal), sorted(own)
        raise PluginError(f"{type(method).__name__}.train: personal tensors {found} should be {wanted}; see personal()")


def sent(state: State) -> tuple[int, int]:
    """The number of floats and the number of bytes that a client sends."""
    floats = sum(value.numel() for value in state.values() if value.is_floating_point())
    return floats, sum(value.numel() * value.element_size() for value in state.values())


def _line(context: Context, round_: int, clients: int, dropped: int, done: _Round) -> dict[str, Any]:
    """A line of ``metrics.jsonl``, without times, so that the same run gives the same file."""
    return {
        "round": round_,
        "loss": metrics.finite_or_none(done.loss),
        "clients": clients - len(done.refused),
        "dropped": dropped,
        "refused": [context.clients[client] for client in done.refused],
        "floats_sent": done.counters.floats,
        "bytes_sent": done.counters.bytes,
    }
