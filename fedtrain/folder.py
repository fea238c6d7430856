"""A run's folder: what is in it, who holds it, and whether it is the run that is wanted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data.errors import FedkitError, OutputError
from fedtrain import checkpoint
from fedtrain.config import NEUTRAL
from fedtrain.state import write, writing

CONFIG, METRICS, CHECKPOINT, RESULT = "config.json", "metrics.jsonl", "checkpoint", "result.json"
FORMAT = 1
"""Version of both files."""

_LOCK = ".lock"


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


@contextmanager
def held(folder: Path, facts: dict[str, Any], *, overwrite: bool) -> Iterator[Result | None]:
    """Holds the run's folder for this process; gives the run that is finished there, if it is the same.

    A run that has no checkpoint yet has nothing to lose and gives way to another.

    Raises:
        OutputError: It cannot be written, is held by another process, or holds something else.
    """
    with ExitStack() as stack:
        with writing(folder):
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"{folder}: is a file; choose another --out")
            ours = (folder / CONFIG).is_file()
            if not ours and folder.exists() and set(os.listdir(folder)) - {_LOCK, CONFIG + ".tmp"}:
                raise OutputError(f"{folder}: is not empty and holds no run; choose another --out")
            folder.mkdir(parents=True, exist_ok=True)
            _no_links(folder)
            stack.enter_context(_locked(folder))
            begun = (folder / RESULT).exists() or (folder / CHECKPOINT / checkpoint.NAME).exists()
            if overwrite or not begun:
                _clear(folder)
                write(folder / CONFIG, text(facts))
            elif _told(there := _read(folder / CONFIG)) != _told(facts):
                raise OutputError(f"{folder}: {_difference(there, facts)}; choose another --out, or --overwrite")
        try:
            yield load(folder) if (folder / RESULT).is_file() else None
        except FedkitError:
            if not begun and not (folder / CHECKPOINT / checkpoint.NAME).exists():  # nothing was trained: leave nothing
                with suppress(OSError):
                    _clear(folder)
                    (folder / CONFIG).unlink()
                    (folder / _LOCK).unlink()
                    folder.rmdir()
            raise


def load(folder: Path) -> Result:
    """A finished run.

    Raises:
        OutputError: It holds no run, or one that is not finished.
    """
    if not (folder / CONFIG).is_file():
        raise OutputError(f"{folder}: holds no run; give folders that fedkit train wrote")
    facts = _read(folder / CONFIG)
    if not (folder / RESULT).is_file():
        raise OutputError(f"{folder}: is not finished; run the same fedkit train again, it resumes")
    data = _read(folder / RESULT)
    wanted = ((CONFIG, facts, ("config", "dataset")), (RESULT, data, ("figures", "clients", "counters")))
    for name, held, keys in wanted:
        if not all(isinstance(held.get(key), dict) for key in keys):
            raise OutputError(f"{folder / name}: is damaged; start the run anew with --overwrite")
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
        for key, value in new.items():
            if key == "method_settings" and isinstance(held := old.get(key), dict) and held.keys() == value.keys():
                key = next((name for name in value if held[name] != value[name]), key)
                old, value = {**old, **held}, value.get(key, value)
            if key not in NEUTRAL and old.get(key) != value:
                return f"holds a run with {key}={json.dumps(old.get(key))}, not {json.dumps(value)}"
    return "holds another run"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read ({error}); start the run anew with --overwrite") from None
    if not isinstance(data, dict) or data.get("fedkit") != FORMAT:
        raise OutputError(f"{path}: was not written by this version of fedkit; choose another folder")
    return data
