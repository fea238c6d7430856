"""A run's files: their names, and how they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrsic_data.dataset import manifest
from fedrsic_data.errors import OutputError, translated
from fedrsic_data.files.atomic import TEMPORARY

CONFIG, METRICS, CHECKPOINT, RESULT = "config.json", "metrics.jsonl", "checkpoint", "result.json"
CLOCK, EVENTS = "clock.json", "tensorboard"
"""Seconds that the rounds took so far, and the folder of TensorBoard's events."""
STATE = "state.safetensors"
"""The server's state, in ``CHECKPOINT``."""
PERSONAL = re.compile(r"client-[0-9]{5,}-round-[0-9]{5,}\.safetensors")
"""Names of clients' states, in ``personal`` in ``CHECKPOINT``."""

_TEMPORARY = TEMPORARY.pattern
_KNOWN = re.compile(
    rf"{re.escape(CONFIG)}|{re.escape(METRICS)}|{re.escape(RESULT)}|{re.escape(CLOCK)}|{_TEMPORARY}"
    rf"|{CHECKPOINT}/({re.escape(STATE)}|{_TEMPORARY}|personal/({PERSONAL.pattern}|{_TEMPORARY})?)?"
    rf"|{EVENTS}/(events\.out\.tfevents\.[^/]+)?"
)


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a run, and not of a dataset."""
    return (path / CONFIG).is_file() and not (path / manifest.NAME).exists()


def known(name: str) -> bool:
    """Whether fedkit writes a file of this name into a run's folder; of an empty folder: ``name/``."""
    return not name or _KNOWN.fullmatch(name) is not None


def read(path: Path) -> str:
    """The text of a run's file.

    Raises:
        OutputError: It cannot be read.
        ValueError: It is no text.
    """
    with translated(OutputError, path):
        return path.read_text(encoding="utf-8")


def as_json(data: Mapping[str, Any]) -> bytes:
    """The content of a JSON file of a run."""
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parsed(text: str) -> Any:
    """A JSON value that can be written again: without NaN, infinities, and halves of characters.

    Raises:
        ValueError: It is none.
    """
    try:
        data = json.loads(text)
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return data


def is_number(value: object, least: float = -1e100) -> bool:
    """Whether a JSON value is a number that can be reckoned with; the bound leaves room for squares and sums."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= 1e100
