"""A run's files: their names, and how they are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrsic_data.errors import OutputError

CONFIG, METRICS, CHECKPOINT, RESULT = "config.json", "metrics.jsonl", "checkpoint", "result.json"
STATE = "state.safetensors"
"""The server's state, in ``CHECKPOINT``."""


def write(path: Path, data: bytes) -> None:
    """Writes a file so that whoever looks finds the old one or the new one, whole, also after a power cut.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    aside = path.with_name(path.name + ".tmp")
    with writing(path):
        aside.unlink(missing_ok=True)  # it may be a link, through which another file would be written over
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)


def read(path: Path) -> str:
    """The text of a run's file.

    Raises:
        OutputError: It cannot be read.
        ValueError: It is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from None


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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says in words that a path could not be written.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        where = path if error.filename is None else error.filename
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space and run the same command, it resumes" if full else "choose another --out"
        raise OutputError(f"{where}: cannot be written ({error.strerror}); {fix}") from None


def sync(folder: Path) -> None:
    """Makes renames in a folder outlast a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
