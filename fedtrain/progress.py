"""Progress of a training run, as callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Listener:
    """Receives progress during training. The default ignores every call.

    Attributes:
        say: Called with a sentence about the next step, which may take long.
        note: Called with a sentence about something unexpected.
        round: Called with each line of ``metrics.jsonl`` and the total number of rounds.
    """

    say: Callable[[str], None] = _nothing
    note: Callable[[str], None] = _nothing
    round: Callable[[Mapping[str, Any], int], None] = _nothing


QUIET = Listener()
"""Ignores every call."""
