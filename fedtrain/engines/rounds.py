"""Rounds: who is asked, what is averaged, evaluated, logged and saved; the same loop whoever trains, and where."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from fedrsic_data.errors import FedkitError
from fedtrain.config import RunConfig
from fedtrain.engines.base import QUIET, Listener, answering, asked, finite, plain, sent, summarise, weights
from fedtrain.methods.aggregate import WeightedMean
from fedtrain.methods.base import Context, Evaluation, State, Update
from fedtrain.runs import checkpoint
from fedtrain.runs.checkpoint import Checkpoint, Counters, Journal
from fedtrain.runs.files import CHECKPOINT, METRICS


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
        """Takes an update as the one from which its client goes on; without this it goes on from where it was."""
        ...

    def mean(self) -> WeightedMean:
        """What a round's updates are gathered in."""
        ...

    def evaluate(self, shared: State, splits: Sequence[str], round_: int) -> dict[str, Evaluation]:
        """Judges the model on held-out splits."""
        ...

    def flush(self) -> dict[int, int]:
        """Sees that personal states are on disk; gives the round that each client's is of."""
        ...

    def prune(self) -> None:
        """Removes what the newest checkpoint does not need."""
        ...


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        shared: The server's state after the last round.
        evaluations: Split -> how good it is.
        counters: What was counted over all rounds.
        facts: What else the result tells.
    """

    shared: State
    evaluations: dict[str, Evaluation]
    counters: Counters
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Round:
    """What a round gave: the mean of its updates, and what there is to count and log."""

    mean: WeightedMean
    loss: float
    lost: int
    refused: tuple[int, ...]
    counters: Counters


def run(
    federation: Clients,
    context: Context,
    config: RunConfig,
    folder: Path,
    key: str,
    at: Checkpoint,
    listener: Listener = QUIET,
    until: int | None = None,
) -> Outcome:
    """Trains round by round, from where a checkpoint stands.

    Args:
        federation: Trains and is judged.
        context: Names its clients.
        config: Resolved: nothing left for ``auto``, rounds and splits given.
        folder: The run's folder; holds ``metrics.jsonl`` and ``checkpoint/``.
        key: Digest of what the run is, from ``config.identity``.
        at: The folder's checkpoint, or the start.
        listener: Hears of the progress.
        until: Stop after this round, at a checkpoint from which another call goes on; None: train all.

    Raises:
        OutputError: The journal is damaged, or the disk is full.
        FedkitError: Of all the clients asked in a round, none answered.
    """
    assert config.rounds is not None
    place = folder / CHECKPOINT
    journal = Journal(folder / METRICS, at.journal)
    evaluations: dict[str, Evaluation] = {}
    try:
        for round_ in range(at.round + 1, (until or config.rounds) + 1):
            begun = time.monotonic()
            last = round_ == config.rounds

            # who trains
            invited = asked(config, context.rows, round_)
            clients = answering(config, invited, len(context.clients), round_)

            # train, and take the mean of what comes back
            done = _trained(federation, context, config, at, clients, round_, listener)
            shared = done.mean.over(at.shared) if done.mean.count else at.shared

            # evaluate and log
            dropped = len(invited) - len(clients) + done.lost
            line = _line(context, round_, len(invited) - dropped, dropped, done)
            if last or round_ % config.eval_every == 0:
                evaluations = federation.evaluate(shared, config.splits, round_)
                line["figures"] = figures(evaluations)
            journal.append(line)
            listener.round(line, config.rounds)

            # save
            counters = replace(
                done.counters,
                dropped=done.counters.dropped + dropped,
                seconds=done.counters.seconds + time.monotonic() - begun,
            )
            at = Checkpoint(round_, shared, counters=counters)
            if last or round_ == until or round_ % config.checkpoint_every == 0:
                at = replace(at, personal=federation.flush(), journal=journal.sync())
                checkpoint.save(place, at, key)
                federation.prune()
    finally:
        journal.close()
    if not evaluations and until is None:  # no rounds, or killed between the last checkpoint and the result
        evaluations = federation.evaluate(at.shared, config.splits, at.round)
    return Outcome(at.shared, evaluations, at.counters)


def figures(evaluations: dict[str, Evaluation]) -> dict[str, float | None]:
    """All figures of all splits, named ``<split>/<figure>[/<statistic>]``."""
    return {f"{split}/{name}": value for split, e in evaluations.items() for name, value in summarise(e).items()}


def _trained(
    federation: Clients,
    context: Context,
    config: RunConfig,
    at: Checkpoint,
    clients: Sequence[int],
    round_: int,
    listener: Listener,
) -> _Round:
    """Trains clients and gathers their updates; what is not finite is refused, and the round goes on without it."""
    mean, losses, refused, counters = federation.mean(), [], [], at.counters
    fixed = weights(config, context.rows)
    count = rows = 0
    for update in federation.train(at.shared, clients, round_):
        floats, size = sent(update.shared)
        count += 1
        counters = replace(
            counters,
            updates=counters.updates + 1,
            floats=counters.floats + floats,
            bytes=counters.bytes + size,
            client_floats=max(counters.client_floats, floats),
            client_bytes=max(counters.client_bytes, size),
        )
        if not finite(update):
            refused.append(update.client)
            listener.note(
                f"round {round_}: left out {context.clients[update.client]}, whose update has NaN or infinity"
            )
            continue
        mean.add(update.shared, update.rows if fixed is None else fixed[update.client])
        losses.append(update.loss * update.rows)
        rows += update.rows
        federation.keep(update, round_)
    if clients and not count:
        raise FedkitError(
            f"round {round_}: none of the {len(clients)} sampled clients answered; check that their sites run, "
            "and run the same command again to resume"
        )
    counters = replace(counters, refused=counters.refused + len(refused))
    loss = math.fsum(losses) / rows if rows else math.nan
    return _Round(mean, loss, len(clients) - count, tuple(refused), counters)


def _line(context: Context, round_: int, clients: int, dropped: int, done: _Round) -> dict[str, Any]:
    """A line of ``metrics.jsonl``; no clock in it, so that the same run gives the same file."""
    return {
        "round": round_,
        "loss": plain(done.loss),
        "clients": clients - len(done.refused),
        "dropped": dropped,
        "refused": [context.clients[client] for client in done.refused],
        "floats_sent": done.counters.floats,
        "bytes_sent": done.counters.bytes,
    }
