"""The engine for one process: rounds over a method, and nothing that knows which method it is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedtrain import checkpoint
from fedtrain.aggregate import WeightedMean
from fedtrain.checkpoint import Checkpoint, Counters, Journal
from fedtrain.config import RunConfig
from fedtrain.engines.base import QUIET, Listener, answering, asked, finite, plain, sent, summarise
from fedtrain.files import CHECKPOINT, METRICS
from fedtrain.methods.base import Context, Evaluation, Method, State, Update
from fedtrain.state import PersonalStore, placed


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        shared: The server's state after the last round.
        evaluations: Split -> how good it is.
        counters: What was counted over all rounds.
    """

    shared: State
    evaluations: dict[str, Evaluation]
    counters: Counters


@dataclass(frozen=True)
class _Round:
    """What a round gave: the mean of its updates, and what there is to count and log."""

    mean: WeightedMean
    loss: float
    refused: tuple[int, ...]
    counters: Counters


def run(
    method: Method, context: Context, config: RunConfig, folder: Path, key: str, listener: Listener = QUIET
) -> Outcome:
    """Trains a method round by round, from where the folder's checkpoint stands.

    The result depends on the config and the data alone, not on cohort sizes, on where personal states are kept, or on
    how often the run was killed.

    Args:
        method: Bound to the federation.
        context: The federation.
        config: Resolved: nothing left for ``auto``, rounds and splits given.
        folder: The run's folder; holds ``metrics.jsonl`` and ``checkpoint/``.
        key: Digest of what the run is, from ``config.identity``.
        listener: Hears of the progress.

    Raises:
        OutputError: The checkpoint is damaged or of another run, or the disk is full.
    """
    assert config.rounds is not None
    place = folder / CHECKPOINT
    place.mkdir(exist_ok=True)
    at = checkpoint.load(place, key, context.device) or Checkpoint(0, placed(method.shared(), context.device))
    store = PersonalStore(
        place / "personal",
        method.personal,
        context.device,
        in_memory=config.store == "memory",
        rounds=at.personal,
        key=key,
    )
    journal = Journal(folder / METRICS, at.journal)
    evaluations: dict[str, Evaluation] = {}
    try:
        for round_ in range(at.round + 1, config.rounds + 1):
            begun = time.monotonic()
            last = round_ == config.rounds

            # who trains
            invited = asked(config, context.rows, round_)
            clients = answering(config, invited, len(context.clients), round_)

            # train, and take the mean of what comes back
            done = _trained(method, context, config, at, store, clients, round_, listener)
            shared = done.mean.over(at.shared) if done.mean.count else at.shared

            # evaluate and log
            line = _line(context, round_, invited, clients, done)
            if last or round_ % config.eval_every == 0:
                evaluations = {split: method.evaluate(shared, store.get, split) for split in config.splits}
                line["figures"] = figures(evaluations)
            journal.append(line)
            listener.round(line, config.rounds)

            # save
            counters = replace(
                done.counters,
                dropped=done.counters.dropped + len(invited) - len(clients),
                seconds=done.counters.seconds + time.monotonic() - begun,
            )
            at = Checkpoint(round_, shared, counters=counters)
            if last or round_ % config.checkpoint_every == 0:
                at = replace(at, personal=store.flush(), journal=journal.sync())
                checkpoint.save(place, at, key)
                store.prune()
    finally:
        journal.close()
    if not evaluations:  # no rounds, or killed between the last checkpoint and the result
        evaluations = {split: method.evaluate(at.shared, store.get, split) for split in config.splits}
    return Outcome(at.shared, evaluations, at.counters)


def figures(evaluations: dict[str, Evaluation]) -> dict[str, float | None]:
    """All figures of all splits, named ``<split>/<figure>[/<statistic>]``."""
    return {f"{split}/{name}": value for split, e in evaluations.items() for name, value in summarise(e).items()}


def _trained(
    method: Method,
    context: Context,
    config: RunConfig,
    at: Checkpoint,
    store: PersonalStore,
    clients: Sequence[int],
    round_: int,
    listener: Listener,
) -> _Round:
    """Trains the clients cohort by cohort; what is not finite is refused, and the round goes on without it."""
    mean, losses, refused, counters = WeightedMean(), [], [], at.counters
    for update in _updates(method, at.shared, store, clients, config.cohort, round_):
        floats, size = sent(update.shared)
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
            listener.note(f"round {round_}: the update of {context.clients[update.client]} is not finite, left out")
            continue
        mean.add(update.shared, update.rows)
        losses.append(update.loss * update.rows)
        store.put(update.client, update.personal, round_)
    counters = replace(counters, refused=counters.refused + len(refused))
    loss = math.fsum(losses) / mean.rows if mean.rows else math.nan
    return _Round(mean, loss, tuple(refused), counters)


def _updates(
    method: Method, shared: State, store: PersonalStore, clients: Sequence[int], cohort: int, round_: int
) -> Iterator[Update]:
    for first in range(0, len(clients), cohort):
        members = clients[first : first + cohort]
        personal = [store.get(client) for client in members]
        for client, update in zip(members, method.train(shared, personal, members, round_), strict=True):
            assert update.client == client, (update.client, client)
            yield update


def _line(
    context: Context, round_: int, invited: Sequence[int], clients: Sequence[int], done: _Round
) -> dict[str, Any]:
    """A line of ``metrics.jsonl``; no clock in it, so that the same run gives the same file."""
    return {
        "round": round_,
        "loss": plain(done.loss),
        "clients": len(clients) - len(done.refused),
        "dropped": len(invited) - len(clients),
        "refused": [context.clients[client] for client in done.refused],
        "floats_sent": done.counters.floats,
        "bytes_sent": done.counters.bytes,
    }
