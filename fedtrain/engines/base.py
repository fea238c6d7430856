"""The contract of an engine: where the clients of a run train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from fedtrain.config import RunConfig
from fedtrain.methods.base import Context, Evaluation, Method, State
from fedtrain.progress import QUIET, Listener
from fedtrain.runs.checkpoint import Counters


@dataclass(frozen=True)
class Training:
    """A run, ready for an engine.

    Attributes:
        method: The method, bound to the federation.
        context: The federation.
        config: The resolved config: no ``auto`` is left, rounds and splits are given.
        folder: The run's folder; holds ``metrics.jsonl`` and ``checkpoint/``.
        key: Digest in the states on disk of all that they depend on; see ``config.lineage_of``.
        listener: Receives progress.
        until: Stop after this round, at a checkpoint from which another call resumes; None: train all rounds.
    """

    method: Method
    context: Context
    config: RunConfig
    folder: Path
    key: str
    listener: Listener = QUIET
    until: int | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        shared: The server's state after the last round.
        evaluations: Split -> evaluation of the final model.
        counters: Counts over all rounds.
        facts: Further entries of ``result.json``.
    """

    shared: State
    evaluations: dict[str, Evaluation]
    counters: Counters
    facts: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Decides where the clients of a run train; a frozen dataclass that holds what it needs to reach them.

    The result depends on the config and the data alone, not on the engine's cohorts and workers, nor on how often the
    run was killed.

    Example:
        An engine that prints where a run is, and trains as another one::

            @dataclass(frozen=True)
            class Telling:
                name: ClassVar[str] = "telling"
                at_sites: ClassVar[bool] = False
                inner: Engine = InProcess()

                def check(self, config: RunConfig) -> None:
                    self.inner.check(config)

                def run(self, training: Training) -> Outcome:
                    print("trains", training.config.method, "in", training.folder)
                    return self.inner.run(training)

        ``run.train(config, engine=Telling())`` trains with it.

    Attributes:
        name: Its name in ``result.json``.
        at_sites: Whether the images stay at their sites and this machine needs none.
    """

    name: ClassVar[str]
    at_sites: ClassVar[bool]

    def check(self, config: RunConfig) -> None:
        """Refuse a config that this engine cannot run.

        Raises:
            UsageError: The config asks for something impossible here.
        """
        ...

    def run(self, training: Training) -> Outcome:
        """Train round by round, from the folder's checkpoint if it has one.

        Raises:
            OutputError: The checkpoint is damaged or belongs to another run, or the disk is full.
            FedkitError: No sampled client of a round answered.
        """
        ...
