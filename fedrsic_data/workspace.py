"""The folder a build works in: aside from where it will stand, resumable, renamed when it is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrsic_data.errors import FedkitError, OutputError
from fedrsic_data.settings import decode, encode
from fedrsic_data.shards import Receipt

_KEY = ".build.json"
_JOURNAL = ".receipts.jsonl"
_LOCK = ".lock"


class Workspace:
    """``<out>.incomplete`` and its journal of finished shards.

    Attributes:
        folder: Where to write.
        kept: Receipts of shards of an earlier, interrupted build of the same thing, path -> receipt.
    """

    def __init__(self, out: Path, key: dict[str, Any]) -> None:
        """Opens the workspace of ``out``; what an interrupted build of another ``key`` left there is removed.

        Args:
            out: Where the dataset will stand.
            key: Everything the bytes depend on.

        Raises:
            OutputError: It cannot be written, or another build is writing it.
        """
        self.out = out
        self.folder = out.with_name(out.name + ".incomplete")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder / _LOCK)
        text = json.dumps(key, sort_keys=True)
        marker = self.folder / _KEY
        if not (marker.exists() and marker.read_text() == text):
            self._clear(marker)
            marker.write_text(text)
        self.kept = dict(self._receipts())
        self._journal = (self.folder / _JOURNAL).open("a", encoding="utf-8")

    def add(self, receipt: Receipt) -> None:
        """Remembers a finished shard."""
        self._journal.write(json.dumps(encode(receipt)) + "\n")
        self._journal.flush()

    def finish(self, expected: Iterable[str]) -> None:
        """Removes everything but the expected files and puts the folder in its place, replacing what is there."""
        keep = set(expected)
        self._journal.close()
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(self.folder).as_posix() not in keep and path.name != _LOCK:
                path.unlink()
        old = self.out.with_name(self.out.name + ".replaced")
        if self.out.exists():
            os.replace(self.out, old)
        (self.folder / _LOCK).unlink()
        os.replace(self.folder, self.out)
        if old.exists():
            shutil.rmtree(old)
        self.close()

    def discard(self) -> None:
        """Removes the workspace: what failed cannot be resumed."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Lets go of the lock; the files stay, to be resumed."""
        self._journal.close()
        self._lock.close()

    def _clear(self, marker: Path) -> None:
        foreign = [p for p in self.folder.iterdir() if p.name != _LOCK]
        if foreign and not marker.exists():
            raise OutputError(f"{self.folder}: holds files that no build left there; move them away")
        for path in foreign:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _receipts(self) -> Iterator[tuple[str, Receipt]]:
        journal = self.folder / _JOURNAL
        for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
            try:
                receipt = decode(Receipt, json.loads(line), _JOURNAL)
            except (ValueError, FedkitError):  # the line an interruption cut short
                continue
            path = self.folder / receipt.path
            if path.is_file() and path.stat().st_size == receipt.bytes and file_digest(path) == receipt.sha256:
                yield receipt.path, receipt


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """Turns the operating system's refusals to write into one line.

    Raises:
        OutputError: The disk is full, the folder cannot be written, a path is in the way.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"{folder}: the disk is full; free some space and run the same command, it resumes"
            ) from None
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.ENAMETOOLONG,
            errno.EIO,
        ):
            where = error.filename or folder
            raise OutputError(f"{where}: cannot be written ({error.strerror}); choose another --out") from None
        raise


def _lock(path: Path) -> Any:
    file = path.open("w")
    try:
        import fcntl
    except ImportError:  # a system without advisory locks
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise OutputError(
            f"{path.parent}: another fedkit is building there; wait for it, or choose another --out"
        ) from None
    return file
