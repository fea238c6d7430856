"""Resume a run in its folder, or replace the run that is there; the folder is locked meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data.errors import OutputError
from fedrsic_data.files import atomic, lock, ownership
from fedrsic_data.files.atomic import write, writing
from fedtrain.config import flat, identity_of, lineage_of
from fedtrain.runs.checkpoint import rounds_done
from fedtrain.runs.files import CHECKPOINT, CLOCK, CONFIG, EVENTS, METRICS, RESULT, STATE, as_json, known
from fedtrain.runs.folder import FORMAT, Result, content, load, value_at

_LOCK = ".lock"
_NEW, _NEXT, _OLD = ".new", ".next", ".old"
"""In a run's folder: another that is to take its place, in its first round; the same after that; the old run, to go."""
_PARTS = (RESULT, METRICS, CLOCK, CHECKPOINT, EVENTS, CONFIG)
"""Files of a run; the one that identifies fedkit's folder goes last."""


@dataclass(frozen=True)
class Held:
    """A run's folder, locked against other processes.

    Attributes:
        folder: Its folder.
        facts: Content for its ``config.json``.
        done: Rounds of this run that it already holds; None: it is to begin.
        standing: The existing run, if it is finished.
    """

    folder: Path
    facts: dict[str, Any]
    done: int | None
    standing: Result | None

    def begin(self) -> Path:
        """Make the folder this run's; a folder that it resumes stays unchanged, but for another number of rounds.

        Returns:
            Folder to train in: another one inside it, if the existing run has something to lose; see ``replace``.

        Raises:
            OutputError: It cannot be written.
        """
        if self.done is not None:
            there = content(self.folder / CONFIG)
            if there["config"].get("rounds") != self.facts["config"]["rounds"]:
                with writing(self.folder):
                    (self.folder / RESULT).unlink(missing_ok=True)
                write(self.folder / CONFIG, as_json({**self.facts, "states": _key(there)}))
            return self.folder
        place = self.folder / _NEW if _begun(self.folder) else self.folder
        with writing(place):
            if place != self.folder:
                place.mkdir()
            else:
                _remove(place, _PARTS[:-1])  # the config is replaced: the folder is always known for a run's
        write(place / CONFIG, as_json(self.facts))
        return place

    def replace(self) -> Path:
        """Move the run that ``begin`` gave another folder to the place of the old one, which is removed.

        Returns:
            The run's folder.

        Raises:
            OutputError: It holds a new file that fedkit did not write, or it cannot be written.
        """
        with writing(self.folder):
            ownership.refuse_foreign(self.folder, _known)
            os.replace(self.folder / _NEW, self.folder / _NEXT)  # from here on there is no way back
            atomic.sync(self.folder)
            _settle(self.folder)
        return self.folder


@contextmanager
def holding(folder: Path, facts: dict[str, Any], *, overwrite: bool) -> Iterator[Held]:
    """Lock the run's folder for this process. Nothing in it is changed before ``Held.begin``.

    Raises:
        OutputError: It cannot be written, is locked by another process, or holds something else.
    """
    with ExitStack() as stack:
        with writing(folder):
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"{folder}: is a file; choose another --out")
            _no_links(folder)
            stack.enter_context(_locked(folder))
            resumes(folder, facts, overwrite=overwrite)
            _settle(folder)
        done = resumes(folder, facts, overwrite=overwrite)
        standing = load(folder) if done is not None and (folder / RESULT).is_file() else None
        if standing is not None and standing.data["rounds"] != facts["config"]["rounds"]:
            standing = None
        try:
            yield Held(folder, facts, done, standing)
        finally:
            with suppress(OSError, OutputError):  # of a run that did not get through its first round nothing stays
                ownership.clear(folder / _NEW, known, last=CONFIG)


def key_of(folder: Path) -> str:
    """Digest of the run in a folder that is in its states."""
    return _key(content(folder / CONFIG))


def _key(facts: Mapping[str, Any]) -> str:
    """As ``key_of``; earlier versions wrote the digest of the run into its states, with the number of rounds."""
    return str(facts.get("states", facts["run"]))


def holds(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a folder holds this run, with any number of rounds."""
    try:
        return _told(content(folder / CONFIG)) == _told(facts)
    except OutputError:
        return False


def resumes(folder: Path, facts: Mapping[str, Any], *, overwrite: bool) -> int | None:
    """The number of rounds of this run that a folder holds; None if it does not hold this run, started or finished.

    A run is the same with another number of rounds, as long as it has not trained more. A run that has no checkpoint
    yet has nothing to lose and gives way to another.

    Raises:
        OutputError: It is no folder for this run: it holds another, more rounds of it, something else, or links.
    """
    with writing(folder):
        if not folder.exists():
            return None
        if not folder.is_dir():
            raise OutputError(f"{folder}: is a file; choose another --out")
        _no_links(folder)
        if not any(_says(folder / name / CONFIG) for name in ("", _NEXT)):
            found = ownership.foreign(folder, _vacant)
            if found is None and (folder / _LOCK).exists() and (folder / _LOCK).stat().st_size:
                found = folder / _LOCK  # not fedkit's: ours are empty
            if found:
                raise OutputError(f"{folder}: is not empty and holds no run ({found.name}); choose another --out")
            return None
        if (folder / _NEXT).exists():  # of a process that is at it, or was killed at it: see ``_settle``
            return None
        if overwrite or not _begun(folder):
            ownership.refuse_foreign(folder, _known)
            return None
    if _told(there := content(folder / CONFIG)) != _told(facts):
        raise OutputError(f"{folder}: {_difference(there, facts)}; choose another --out, or --overwrite")
    return _done(folder, there["config"].get("rounds"), facts["config"]["rounds"])


def _done(folder: Path, held: Any, wanted: int) -> int:
    """The rounds that the run in a folder has trained.

    Raises:
        OutputError: They are more than wanted, or the run ended and has no checkpoint from which to train more.
    """
    done = rounds_done(folder / CHECKPOINT)
    if done is None and (folder / RESULT).is_file():
        if held not in (0, wanted):
            raise OutputError(
                f"{folder}: holds a finished run with rounds={held}, and no checkpoint to go on from to "
                f"rounds={wanted}; choose another --out, or --overwrite"
            )
        return int(held)
    if done is not None and done > wanted:
        raise OutputError(
            f"{folder}: has trained {done} rounds of this run, more than rounds={wanted}; choose another --out, or "
            "--overwrite"
        )
    return done or 0


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock out other processes; a refused process changes nothing."""
    made = not folder.exists()
    words = f"{folder}: another fedkit process is training there; wait for it, or choose another --out"
    try:
        with lock.alone(folder / _LOCK, words):
            yield
    finally:
        if made:
            with suppress(OSError):  # a run began in it
                folder.rmdir()


def _says(path: Path) -> bool:
    """Whether a file is there that says it is of a run of fedkit's, and not, say, a recipe of that name."""
    if path.is_symlink() or not path.is_file() or not ownership.says(words := path.read_bytes(), FORMAT):
        return False
    data = json.loads(words)
    return isinstance(data.get("run"), str) and all(
        isinstance(data.get(field), dict) for field in ("config", "dataset")
    )


def _begun(folder: Path) -> bool:
    """Whether the run in a folder has something to lose."""
    return (folder / RESULT).exists() or (folder / CHECKPOINT / STATE).exists()


def _vacant(name: str) -> bool:
    """Leftovers of a killed process that may be in a folder where no run began."""
    return name == _LOCK or atomic.TEMPORARY.fullmatch(name) is not None


def _known(name: str) -> bool:
    """Files that fedkit writes into a run's folder, also while one run replaces another."""
    top, slash, inner = name.partition("/")
    return known(inner) if slash and top in (_NEW, _NEXT, _OLD) else name == _LOCK or known(name)


def _settle(folder: Path) -> None:
    """Finish an interrupted replacement. A new run replaces the old one if it finished its first round.

    All is moved from the old run first, and its config last; then all of the new one, and its config last. So both
    configs are there while the first is to be gone on with, and that of the new one alone while the second is.
    """
    new, old = folder / _NEXT, folder / _OLD
    if (new / CONFIG).exists():
        if (folder / CONFIG).exists():
            old.mkdir(exist_ok=True)
            _move(folder, old)
        _move(new, folder)
    for place in (new, old, folder / _NEW):
        ownership.clear(place, known, last=CONFIG)
    for place in (folder, folder / CHECKPOINT, folder / CHECKPOINT / "personal"):
        for path in place.glob(".fedkit-*.tmp"):
            if _vacant(path.name) and path.is_file():
                path.unlink()


def _move(run: Path, to: Path) -> None:
    for name in _PARTS:
        if (run / name).exists():
            os.replace(run / name, to / name)


def _remove(run: Path, parts: tuple[str, ...]) -> None:
    for name in parts:
        if (run / name).is_dir():
            ownership.clear(run / name, lambda inner, above=name: known(f"{above}/{inner}"))  # type: ignore[misc]
        else:
            (run / name).unlink(missing_ok=True)


def _no_links(folder: Path) -> None:
    """Refuses links, through which files elsewhere would be written over or removed."""
    names = (*_PARTS, _LOCK, _NEW, _NEXT, _OLD)
    for path in (*(folder / name for name in names), *(folder / CHECKPOINT).glob("*")):
        if path.is_symlink():
            raise OutputError(
                f"{path}: is a symbolic link, and its target would be changed; remove it, or choose another --out"
            )


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that identify a run, the number of its rounds apart; and whether its digest is theirs."""
    config, digest, weights = facts.get("config"), value_at(facts, "dataset.digest"), facts.get("weights")
    if not isinstance(config, dict):
        return {}
    sound = facts.get("run") == identity_of(config, digest, weights)
    return {"lineage": lineage_of(config, digest, weights), "sound": sound}


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Describe how the existing run in a folder differs from the requested one."""
    if isinstance(there.get("config"), dict):
        old, new = flat(there["config"]), flat(here["config"])
        if value_at(there, "dataset.digest") != here["dataset"]["digest"]:
            return f"holds a run on another dataset, {value_at(there, 'config.manifest')} as it then was"
        if there.get("weights") != here["weights"]:
            return f"holds a run with other weights in the file of {' or '.join(here['weights']) or 'clip'}"
        for key in {**new, **old}:
            if key != "rounds" and old.get(key) != new.get(key):
                held, wanted = (one.get(key, config["config"].get(key)) for one, config in ((old, there), (new, here)))
                return f"holds a run with {key}={json.dumps(held)}, not {json.dumps(wanted)}"
    return "holds another run"
