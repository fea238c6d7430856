"""The engine for one process: a method trains all clients here, cohort by cohort."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fedrsic_data.errors import UsageError
from fedtrain.config import Privacy, RunConfig
from fedtrain.engines import rounds
from fedtrain.engines.base import QUIET, Listener
from fedtrain.engines.rounds import Outcome
from fedtrain.methods.aggregate import WeightedMean
from fedtrain.methods.base import Context, Evaluation, Method, State, Update
from fedtrain.runs import checkpoint
from fedtrain.runs.checkpoint import Checkpoint
from fedtrain.runs.files import CHECKPOINT
from fedtrain.runs.state import PersonalStore, placed

name = "local"
at_sites = False


def check(config: RunConfig) -> None:
    """Refuses what this engine cannot do.

    Raises:
        UsageError: The config asks for differential privacy.
    """
    if config.dp != Privacy():
        raise UsageError("dp: only Flower adds noise to updates; use --engine flower")


def run(
    method: Method,
    context: Context,
    config: RunConfig,
    folder: Path,
    key: str,
    listener: Listener = QUIET,
    until: int | None = None,
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
        until: See ``rounds.run``.

    Raises:
        OutputError: The checkpoint is damaged or of another run, or the disk is full.
    """
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
    return rounds.run(_Here(method, store, config.cohort), context, config, folder, key, at, listener, until)


class _Here:
    """Clients that are all in this process; see ``rounds.Clients``."""

    def __init__(self, method: Method, store: PersonalStore, cohort: int) -> None:
        self._method = method
        self._store = store
        self._cohort = cohort
        self.mean = WeightedMean
        self.flush = store.flush
        self.prune = store.prune

    def train(self, shared: State, clients: Sequence[int], round_: int) -> Iterator[Update]:
        """See ``rounds.Clients.train``."""
        for first in range(0, len(clients), self._cohort):
            members = clients[first : first + self._cohort]
            personal = [self._store.get(client) for client in members]
            for client, update in zip(members, self._method.train(shared, personal, members, round_), strict=True):
                assert update.client == client, (update.client, client)
                yield update

    def keep(self, update: Update, round_: int) -> None:
        """See ``rounds.Clients.keep``."""
        self._store.put(update.client, update.personal, round_)

    def evaluate(self, shared: State, splits: Sequence[str], round_: int) -> dict[str, Evaluation]:  # noqa: ARG002
        """See ``rounds.Clients.evaluate``."""
        return {split: self._method.evaluate(shared, self._store.get, split) for split in splits}
