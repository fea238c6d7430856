"""Engines: who trains when, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from fedtrain.config import RunConfig
from fedtrain.engines.base import Listener
from fedtrain.engines.rounds import Outcome
from fedtrain.methods.base import Context, Method


class Engine(Protocol):
    """Where clients train."""

    @property
    def name(self) -> str:
        """What results call it."""
        ...

    @property
    def at_sites(self) -> bool:
        """Whether images are at sites of their own, and none are needed here."""
        ...

    def check(self, config: RunConfig) -> None:
        """Refuses what it cannot do.

        Raises:
            UsageError: The config asks for it.
        """
        ...

    def run(
        self,
        method: Method,
        context: Context,
        config: RunConfig,
        folder: Path,
        key: str,
        listener: Listener,
        until: int | None = None,
    ) -> Outcome:
        """Trains a method; see ``engines.local.run``."""
        ...
