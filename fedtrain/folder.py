"""A run's folder: what is in it, who holds it, and whether it is the run that is wanted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data.errors import OutputError
from fedtrain.config import NEUTRAL
from fedtrain.files import CHECKPOINT, CONFIG, RESULT, STATE, is_number, parsed, read, write, writing

FORMAT = 1
"""Version of both files."""

_LOCK = ".lock"


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _object(value: object) -> bool:
    return isinstance(value, dict)


def _count(value: object) -> bool:
    return isinstance(value, int) and is_number(value, 0)


def _figures(value: object) -> bool:
    return isinstance(value, dict) and all(one is None or is_number(one) for one in value.values())


def _clients(value: object) -> bool:
    """Split -> figure -> client -> value."""
    return isinstance(value, dict) and all(
        isinstance(split, dict) and all(map(_figures, split.values())) for split in value.values()
    )


_Fields = Mapping[str, Callable[[object], bool]]

_FACTS: _Fields = {
    **dict.fromkeys(("run", "group", "config.method", "config.subset", "config.manifest"), _text),
    **dict.fromkeys(("dataset.name", "dataset.digest"), _text),
    "config.seed": _count,
    "config.method_settings": _object,
    "config.method_settings.labels": lambda value: value is None or isinstance(value, str),
    "dataset.sample": lambda value: isinstance(value, bool),
    "dataset.sources": _texts,
    "versions": _object,
}
_DATA: _Fields = {
    "rounds": _count,
    "seconds": lambda value: is_number(value, 0),
    "figures": _figures,
    "clients": _clients,
    "clients_without_training_rows": _texts,
    "counters.client_floats": _count,
    "counters.client_bytes": _count,
    **{f"counters.{name}": _count for name in ("updates", "refused", "dropped", "floats", "bytes")},
}
"""What is read of a finished run, and what fits there."""


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        folder: Where it is.
        facts: What ``config.json`` holds: the resolved config, the dataset, digests of both.
        data: What ``result.json`` holds: figures, per-client figures, counters.
        trained: Whether it was trained just now; else it was there already.
    """

    folder: Path
    facts: dict[str, Any]
    data: dict[str, Any]
    trained: bool = False


@dataclass(frozen=True)
class Held:
    """A run's folder, kept from other processes.

    Attributes:
        folder: Where it is.
        facts: What its ``config.json`` is to hold.
        goes_on: Whether it holds this run already, begun or finished.
        standing: The run, if it is finished.
    """

    folder: Path
    facts: dict[str, Any]
    goes_on: bool
    standing: Result | None

    def begin(self) -> None:
        """Makes the folder this run's; one that it goes on with stays as it is.

        Raises:
            OutputError: It cannot be written.
        """
        if not self.goes_on:
            with writing(self.folder):
                _clear(self.folder)
            write(self.folder / CONFIG, text(self.facts))


@contextmanager
def held(folder: Path, facts: dict[str, Any], *, overwrite: bool) -> Iterator[Held]:
    """Holds the run's folder for this process. Nothing in it is changed before ``Held.begin``.

    Raises:
        OutputError: It cannot be written, is held by another process, or holds something else.
    """
    with ExitStack() as stack:
        with writing(folder):
            check(folder, facts, overwrite=overwrite)
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_leave_nothing, folder)
            stack.enter_context(_locked(folder))
        goes_on = check(folder, facts, overwrite=overwrite)
        yield Held(folder, facts, goes_on, load(folder) if goes_on and (folder / RESULT).is_file() else None)


def check(folder: Path, facts: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether a folder holds a run, begun or finished, that this one goes on with.

    A run that has no checkpoint yet has nothing to lose and gives way to another.

    Raises:
        OutputError: It is no folder for this run: it holds another, something else, or links.
    """
    with writing(folder):
        if not folder.exists():
            return False
        if not folder.is_dir():
            raise OutputError(f"{folder}: is a file; choose another --out")
        if not (folder / CONFIG).is_file() and set(os.listdir(folder)) - {_LOCK, CONFIG + ".tmp"}:
            raise OutputError(f"{folder}: is not empty and holds no run; choose another --out")
        _no_links(folder)
        if overwrite or not ((folder / RESULT).exists() or (folder / CHECKPOINT / STATE).exists()):
            return False
    if _told(there := _read(folder / CONFIG)) != _told(facts):
        raise OutputError(f"{folder}: {_difference(there, facts)}; choose another --out, or --overwrite")
    return True


def load(folder: Path) -> Result:
    """A finished run.

    Raises:
        OutputError: It holds no run, or one that is damaged or not finished.
    """
    if not (folder / CONFIG).is_file():
        raise OutputError(f"{folder}: holds no run; give folders that fedkit train wrote")
    facts = _read(folder / CONFIG)
    if not (folder / RESULT).is_file():
        raise OutputError(f"{folder}: is not finished; run the same fedkit train again, it resumes")
    data = _read(folder / RESULT)
    for name, held, fields in ((CONFIG, facts, _FACTS), (RESULT, data, _DATA)):
        for field, fits in fields.items():
            if not fits(_at(held, field)):
                raise OutputError(f"{folder / name}: is damaged ({field}); start the run anew with --overwrite")
    return Result(folder, facts, data)


def text(data: Mapping[str, Any]) -> bytes:
    """A JSON file's content."""
    return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out; the lock goes with this process, however it ends."""
    with (folder / _LOCK).open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # a system without advisory locks
            pass
        except BlockingIOError:
            raise OutputError(
                f"{folder}: another fedkit is training there; wait for it, or choose another --out"
            ) from None
        yield


def _leave_nothing(folder: Path) -> None:
    """Removes a folder in which no run began."""
    with suppress(OSError):
        if set(os.listdir(folder)) == {_LOCK}:
            (folder / _LOCK).unlink()
            folder.rmdir()


def _no_links(folder: Path) -> None:
    """Refuses links, through which files elsewhere would be written over or removed."""
    for path in (*folder.iterdir(), *(folder / CHECKPOINT).glob("*")):
        if path.is_symlink():
            raise OutputError(
                f"{path}: is a link, and what it leads to would be changed; remove it, or choose another --out"
            )


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's facts tells it from others, and is not only a digest of that."""
    config = facts.get("config")
    held = {key: value for key, value in config.items() if key not in NEUTRAL} if isinstance(config, dict) else None
    dataset = facts.get("dataset")
    digest = dataset.get("digest") if isinstance(dataset, dict) else None
    return {"run": facts.get("run"), "config": held, "dataset": digest}


def _clear(folder: Path) -> None:
    """Removes a run; its config goes last, replaced by the new one, so that the folder is always known for a run's."""
    for path in folder.iterdir():
        if path.name not in (CONFIG, _LOCK):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In words, how the run that stands in a folder is another than the one wanted."""
    old, new = there.get("config"), here["config"]
    if isinstance(old, dict):
        if there.get("dataset") != here["dataset"]:
            return f"holds a run on another dataset, {old.get('manifest')} as it then was"
        if there.get("weights") != here["weights"]:
            return f"holds a run with other weights in the file of {' or '.join(here['weights']) or 'clip'}"
        for key, value in new.items():
            if key == "method_settings" and isinstance(held := old.get(key), dict) and held.keys() == value.keys():
                key = next((name for name in value if held[name] != value[name]), key)
                old, value = {**old, **held}, value.get(key, value)
            if key not in NEUTRAL and old.get(key) != value:
                return f"holds a run with {key}={json.dumps(old.get(key))}, not {json.dumps(value)}"
    return "holds another run"


def _at(data: Any, field: str) -> Any:
    """What stands at a field of a field; None where nothing does."""
    for key in field.split("."):
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        data = parsed(read(path))
    except ValueError as error:
        raise OutputError(f"{path}: cannot be read ({error}); start the run anew with --overwrite") from None
    if not isinstance(data, dict) or data.get("fedkit") != FORMAT:
        raise OutputError(f"{path}: was not written by this version of fedkit; choose another folder")
    return data
