"""A run's files: their names, and how they are written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)


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
