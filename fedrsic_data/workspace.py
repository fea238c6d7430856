"""The folder a build works in: aside from where the dataset will stand, resumable, moved when it is whole.

``<out>.incomplete`` holds a lock, a key (what is being built), a journal of finished shards, the dataset so far in
``data``, and for a moment the dataset it replaces in ``old``. Whatever moment a build is killed at, the next
one finds either a whole dataset at ``out`` or enough here to go on; a dataset that was to be replaced comes back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrsic_data.errors import FedkitError, OutputError, UsageError
from fedrsic_data.settings import decode
from fedrsic_data.shards import Receipt

_LOCK, _KEY, _JOURNAL, _DATA, _OLD = ".lock", ".key.json", ".receipts.jsonl", "data", "old"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST = 3000  # bytes of a path, with room for the names below it
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+|):[/\\]")


def place(given: Path) -> Path:
    """Where to write a folder, links followed.

    Raises:
        UsageError: It is an address.
        OutputError: No folder can be there, or none must be put there.
    """
    if address := _ADDRESS.match(os.fspath(given)):  # what follows may be a password
        raise UsageError(f"--out {address[1]}://...: is an address; name a folder of this machine")
    try:
        if len(os.fspath(given).encode()) > _LONGEST:
            raise OutputError(f"--out {os.fspath(given)[:60]}...: the name is too long; choose a shorter one")
        out = Path(os.path.realpath(given))
        here = Path.cwd()
        if given.is_symlink() and not given.exists():
            raise OutputError(f"--out {given}: is a link to nothing; choose another --out")
        if out.exists() and not out.is_dir():
            raise OutputError(f"--out {given}: is a file; choose another --out")
    except ValueError:
        raise OutputError(f"--out {os.fspath(given)!r}: not a valid name; choose another --out") from None
    except OSError as error:
        raise OutputError(f"--out {given}: cannot be written ({error.strerror}); choose another --out") from None
    if here.is_relative_to(out):
        raise OutputError(f"--out {given}: is the folder you are in, or above it; give the dataset a folder of its own")
    return out


class Workspace:
    """The folder beside ``out``, held by this process alone.

    Attributes:
        folder: Where to write the dataset.
        kept: Receipts of shards of an earlier, interrupted build of the same thing, path -> receipt.
    """

    def __init__(self, out: Path) -> None:
        """Takes the lock, and puts right what a killed build left halfway.

        Raises:
            OutputError: Another build holds it, or the folder is somebody else's.
        """
        self.out = out
        self._root = out.with_name(out.name + ".incomplete")
        self.folder = self._root / _DATA
        self.kept: dict[str, Receipt] = {}
        if self._root.is_symlink():
            raise OutputError(f"{self._root}: is a link, no build left that there; move it away")
        self._lock = _locked(self._root)
        if not (self._root / _KEY).exists() and (foreign := sorted(set(os.listdir(self._root)) - {_LOCK})):
            self._lock.close()
            raise OutputError(f"{self._root / foreign[0]}: no build left that there; move {self._root} away")
        old = self._root / _OLD
        if old.exists() and not out.exists():
            os.replace(old, out)
        shutil.rmtree(old, ignore_errors=True)

    def begin(self, key: dict[str, Any]) -> None:
        """Starts or resumes a build; what an interrupted build of another ``key`` left is removed.

        Args:
            key: Everything the bytes depend on.
        """
        marker, text = self._root / _KEY, json.dumps(key, sort_keys=True)
        if not (marker.exists() and marker.read_text(encoding="utf-8") == text):
            marker.touch()
            shutil.rmtree(self.folder, ignore_errors=True)
            (self._root / _JOURNAL).unlink(missing_ok=True)
            marker.write_text(text, encoding="utf-8")
        self.folder.mkdir(exist_ok=True)
        self.kept = dict(self._receipts())

    def add(self, receipt: Receipt) -> None:
        """Remembers a finished shard."""
        with (self._root / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(vars(receipt)) + "\n")

    def finish(self, expected: Iterable[str]) -> None:
        """Puts the expected files, and nothing else, where the dataset will stand, in place of what is there."""
        keep = set(expected)
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(self.folder).as_posix() not in keep:
                path.unlink()
        if self.out.exists() and any(self.out.iterdir()):
            os.replace(self.out, self._root / _OLD)
        os.replace(self.folder, self.out)
        self.discard()

    def discard(self) -> None:
        """Removes the workspace: the work is done, or cannot be resumed. The key goes last."""
        for name in (_OLD, _DATA):
            shutil.rmtree(self._root / name, ignore_errors=True)
        for name in (_JOURNAL, _KEY, _LOCK):
            (self._root / name).unlink(missing_ok=True)
        self._lock.close()
        self._root.rmdir()

    def leave(self) -> None:
        """Lets go of the lock. What can be resumed stays; a workspace in which nothing was begun goes."""
        if (self._root / _KEY).exists():
            self._lock.close()
        else:
            self.discard()

    def _receipts(self) -> Iterator[tuple[str, Receipt]]:
        journal = self._root / _JOURNAL
        for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
            try:
                receipt = decode(Receipt, json.loads(line), _JOURNAL)
            except (ValueError, FedkitError):  # the line an interruption cut short
                continue
            path = self.folder / receipt.path
            if path.is_file() and path.stat().st_size == receipt.bytes and file_digest(path) == receipt.sha256:
                yield receipt.path, receipt


@contextmanager
def opened(out: Path) -> Iterator[Workspace]:
    """The workspace of ``out``. After an interruption or on a full disk it stays, to be resumed.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    try:
        work = Workspace(out)
        try:
            yield work
        except BaseException as error:
            resumable = isinstance(error, KeyboardInterrupt | SystemExit | OSError | OutputError)
            if resumable and getattr(error, "errno", errno.ENOSPC) in _FULL:
                work.leave()
            else:
                work.discard()
            raise
    except OSError as error:
        if error.errno in _FULL:
            raise OutputError(
                f"{out}: the disk is full; free some space and run the same command, it resumes"
            ) from None
        where = error.filename if error.filename is not None else out
        raise OutputError(f"{where}: cannot be written ({error.strerror}); choose another --out") from None


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _locked(root: Path) -> Any:
    """Makes the folder and locks the file in it; the lock goes with the process, however it ends."""
    for _ in range(100):
        root.mkdir(parents=True, exist_ok=True)
        try:
            file = (root / _LOCK).open("w")
        except FileNotFoundError:  # a build that just finished took the folder away
            continue
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), (root / _LOCK).stat()):
                return file
        except ImportError:  # a system without advisory locks
            return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            file.close()
            break
        file.close()
    raise OutputError(f"{root}: another fedkit is building there; wait for it, or choose another --out")
