"""The engine for one process: a method trains all clients here, cohort by cohort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedrsic_data.errors import PluginError, UsageError
from fedtrain.config import Privacy, RunConfig
from fedtrain.engines import rounds
from fedtrain.engines.base import Outcome, Training
from fedtrain.methods.base import Evaluation, Method, State, Update
from fedtrain.runs.files import CHECKPOINT
from fedtrain.runs.state import PersonalStore


@dataclass(frozen=True)
class InProcess:
    """Trains all clients in this process; see ``engines.base.Engine``."""

    name: ClassVar[str] = "local"
    at_sites: ClassVar[bool] = False

    def check(self, config: RunConfig) -> None:
        """Refuse differential privacy.

        Raises:
            UsageError: The config asks for it.
        """
        if config.dp != Privacy():
            raise UsageError("dp: only Flower adds noise to updates; use --engine flower")

    def run(self, training: Training) -> Outcome:
        """Train round by round; neither cohort sizes nor where personal states are kept change the result.

        Raises:
            OutputError: The checkpoint is damaged or belongs to another run, or the disk is full.
        """
        method, config, device = training.method, training.config, training.context.device
        at = rounds.start(training)
        store = PersonalStore(
            training.folder / CHECKPOINT / "personal",
            method.personal,
            device,
            in_memory=config.store == "memory",
            rounds=at.personal,
            key=training.key,
        )
        return rounds.run(_Here(method, store, config.cohort), training, at)


class _Here:
    """Clients that are all in this process; see ``rounds.Clients``."""

    def __init__(self, method: Method, store: PersonalStore, cohort: int) -> None:
        self._method = method
        self._store = store
        self._cohort = cohort
        self.aggregate = method.aggregate
        self.flush = store.flush
        self.prune = store.prune

    def train(self, shared: State, clients: Sequence[int], round_: int) -> Iterator[Update]:
        """Train clients cohort by cohort; see ``rounds.Clients.train``."""
        method = self._method
        cohort = self._cohort if method.sends_all_the_same else 1
        for first in range(0, len(clients), cohort):
            members = clients[first : first + cohort]
            received = method.sent_to(members[0], shared)
            personal = [self._store.get(client) for client in members]
            updates = method.train(received, personal, members, round_)
            for client, own, update in zip(members, personal, updates, strict=True):
                if update.client != client:
                    raise PluginError(f"{type(method).__name__}.train: client {update.client}, not {client}, came next")
                if wrong := rounds.unlike(update.shared, method.sent_back(shared)):
                    raise PluginError(f"{type(method).__name__}.train: client {client}: {wrong}; see Method.sent_back")
                rounds.demand_personal(method, update, own)
                yield update

    def keep(self, update: Update, round_: int) -> None:
        """Accept an update as its client's new state; see ``rounds.Clients.keep``."""
        self._store.put(update.client, update.personal, round_)

    def evaluate(self, shared: State, splits: Sequence[str], round_: int) -> dict[str, Evaluation]:  # noqa: ARG002
        """Evaluate on held-out splits; see ``rounds.Clients.evaluate``."""
        return {split: self._method.evaluate(shared, self._store.get, split) for split in splits}
