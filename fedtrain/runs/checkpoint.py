"""Checkpoints: a killed run resumes from the last one and gives the same result, bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedrsic_data.errors import OutputError
from fedrsic_data.files.atomic import write, writing
from fedrsic_data.settings import decode, encode
from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch
from fedtrain.runs.files import CHECKPOINT, CLOCK, METRICS, STATE, is_number, parsed, read
from fedtrain.runs.state import facts_of, load_state, save_state

_FORMAT = 1


@dataclass(frozen=True)
class Counters:
    """Counters over all rounds so far.

    Attributes:
        updates: Updates that clients sent, refused ones included.
        refused: Updates with NaN or infinity.
        dropped: Number of times that a sampled client did not answer.
        floats: Floating-point numbers sent to the server, in all.
        bytes: Bytes sent to the server, in all.
        client_floats: The most that one client sent in one round.
        client_bytes: The most that one client sent in one round.
        seconds: Time that the rounds took, evaluation included.
    """

    updates: int = 0
    refused: int = 0
    dropped: int = 0
    floats: int = 0
    bytes: int = 0
    client_floats: int = 0
    client_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Written:
    """The part of ``metrics.jsonl`` that is on disk.

    Attributes:
        bytes: Its length.
        sha256: Digest of that, in hex.
    """

    bytes: int = 0
    sha256: str = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after a round.

    Attributes:
        round: The last finished round; 0: none yet.
        shared: The server's state.
        personal: Client -> round of its personal state, which is in a separate file.
        counters: The counters.
        journal: The part of ``metrics.jsonl`` up to this round.
    """

    round: int
    shared: State
    personal: dict[int, int] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    journal: Written = Written()


def save(folder: Path, checkpoint: Checkpoint, key: str) -> None:
    """Writes a checkpoint in place of the one before, atomically.

    The seconds are in their own file in the run's folder: equal runs write equal checkpoints.

    Args:
        folder: The checkpoint's folder.
        checkpoint: State of the run; its personal states and journal are already on disk.
        key: Digest that identifies the run.
    """
    facts = {
        "format": _FORMAT,
        "key": key,
        "round": checkpoint.round,
        "personal": sorted(checkpoint.personal.items()),
        "counters": {name: count for name, count in encode(checkpoint.counters).items() if name != "seconds"},
        "journal": encode(checkpoint.journal),
    }
    write(folder.parent / CLOCK, json.dumps({"seconds": checkpoint.counters.seconds}).encode() + b"\n")
    save_state(folder / STATE, checkpoint.shared, facts)


def load(folder: Path, key: str, device: torch.device) -> Checkpoint | None:
    """The checkpoint in a folder; None where there is none yet.

    Args:
        folder: The checkpoint's folder.
        key: Digest that identifies the run.
        device: Device for the shared state.

    Raises:
        OutputError: It is damaged, or of another run.
    """
    path = folder / STATE
    if not path.exists():
        return None
    shared, facts = load_state(path, device)
    try:
        _check_format(path, facts)
        if facts["key"] != key:
            raise OutputError(
                f"{path}: is a checkpoint of another config or dataset; choose another --out, or --overwrite"
            )
        personal = {int(client): int(round_) for client, round_ in facts["personal"]}
        counters = decode(Counters, {"seconds": _seconds(folder.parent), **facts["counters"]}, str(path))
        journal = decode(Written, facts["journal"], str(path))
        return Checkpoint(int(facts["round"]), shared, personal, counters, journal)
    except (KeyError, TypeError, ValueError):
        raise OutputError(f"{path}: is not a checkpoint; start the run anew with --overwrite") from None


def rounds_done(folder: Path) -> int | None:
    """The round of the checkpoint in a folder; None where there is none yet.

    Raises:
        OutputError: It is damaged.
    """
    path = folder / STATE
    if not path.exists():
        return None
    facts = facts_of(path)
    _check_format(path, facts)
    if not isinstance(done := facts.get("round"), int):
        raise OutputError(f"{path}: is not a checkpoint; start the run anew with --overwrite")
    return done


def _check_format(path: Path, facts: Mapping[str, Any]) -> None:
    if facts.get("format", _FORMAT) != _FORMAT:
        raise OutputError(f"{path}: was written by another version of fedkit; start the run anew with --overwrite")


def unjudged(folder: Path, at: Checkpoint, key: str) -> Checkpoint:
    """The checkpoint of a run that goes on, whose last round an uninterrupted run would not have evaluated.

    The last line of ``metrics.jsonl`` loses its metrics: the checkpoint that is saved here says so, and ``Journal``
    does it.

    Args:
        folder: The run's.
        at: Its newest checkpoint.
        key: Digest that identifies the run.
    """
    data = read(folder / METRICS).encode()[: at.journal.bytes]
    if _written(data) != at.journal or (less := _without_figures(data)) == data:
        return at
    at = replace(at, journal=_written(less))
    save(folder / CHECKPOINT, at, key)
    return at


def _without_figures(data: bytes) -> bytes:
    """Lines of ``metrics.jsonl``, the last without its metrics."""
    *before, last = data.splitlines(keepends=True) or [b"{}\n"]
    try:
        line = json.loads(last)
    except ValueError:  # half a line
        return data
    if not isinstance(line, dict) or "figures" not in line:
        return data
    return b"".join(before) + _as_line({name: value for name, value in line.items() if name != "figures"})


def _written(data: bytes) -> Written:
    return Written(len(data), hashlib.sha256(data).hexdigest())


def _as_line(line: dict[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _seconds(folder: Path) -> float:
    """The seconds of a run so far; 0 if they were not counted."""
    path = folder / CLOCK
    if not path.exists():
        return 0.0
    try:
        seconds = parsed(read(path))["seconds"]
        if is_number(seconds, 0):
            return float(seconds)
    except (LookupError, TypeError, ValueError):
        pass
    raise OutputError(f"{path}: is damaged; remove it to count the seconds from here on")


class Journal:
    """``metrics.jsonl``: a line a round, each round once, whatever was interrupted."""

    def __init__(self, path: Path, known: Written) -> None:
        """Open it and remove lines that are newer than the checkpoint.

        Args:
            path: The file; created if it is missing.
            known: The part up to the checkpoint.

        Raises:
            OutputError: The file does not begin with that part.
        """
        self._path = path
        with writing(path):
            if path.exists() and _written(less := _without_figures(path.read_bytes())) == known:
                write(path, less)  # see ``unjudged``
            self._file = path.open("a+b")
            self._file.seek(0)
            self._digest = hashlib.sha256(self._file.read(known.bytes))
            if self._digest.hexdigest() != known.sha256:
                self._file.close()
                raise OutputError(f"{path}: was cut or changed; start the run anew with --overwrite")
            self._file.truncate(known.bytes)

    def append(self, line: dict[str, Any]) -> None:
        """Writes a line."""
        data = _as_line(line)
        with writing(self._path):
            self._file.write(data)
            self._file.flush()
        self._digest.update(data)

    def sync(self) -> Written:
        """Write all lines to disk and return their length and digest."""
        with writing(self._path):
            os.fsync(self._file.fileno())
        return Written(os.fstat(self._file.fileno()).st_size, self._digest.hexdigest())

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()
