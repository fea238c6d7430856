"""The working folder of a build: next to the output, resumable, renamed when it is complete.

``<out>.incomplete`` holds a lock, a key (what is being built), the names of the files to come, a journal of finished
shards, the dataset so far in ``data``, and for a moment the dataset it replaces in ``old``. Whenever a build is
killed, the next one finds either a whole dataset at ``out`` or enough here to go on; a dataset that was to be
replaced comes back. An unlisted file stops the build: foreign files are never removed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from fedrsic_data import interrupts
from fedrsic_data.build.shards import Receipt
from fedrsic_data.dataset import manifest
from fedrsic_data.errors import FedkitError, ManifestError, OutputError, translated
from fedrsic_data.files import atomic, lock, ownership
from fedrsic_data.files.atomic import file_digest
from fedrsic_data.settings import decode, encode, local

_FORMAT = 1
_LOCK, _KEY, _JOURNAL, _EXPECTED = ".lock", ".key.json", ".receipts.jsonl", ".files.jsonl"
_DATA, _SCRATCH, _OLD = "data", "scratch", "old"
_SCRATCHED = re.compile(r"tmp[a-z0-9_]{8}")  # as Python names temporary files
_LONGEST = 3000  # bytes of a path, with room for the names below it


def place(given: Path) -> Path:
    """The output folder, with links followed.

    Raises:
        UsageError: It is a URL.
        OutputError: No folder can or must be created there.
    """
    local("--out", given)
    try:
        with placing(given):
            if len(os.fspath(given).encode()) > _LONGEST:
                raise OutputError(f"--out {os.fspath(given)[:60]}...: the name is too long; choose a shorter one")
            out = Path(os.path.realpath(given))
            here = Path.cwd()
            if given.is_symlink() and not given.exists():
                raise OutputError(f"--out {given}: is a broken symbolic link; choose another --out")
            if out.exists() and not out.is_dir():
                raise OutputError(f"--out {given}: is a file; choose another --out")
    except ValueError:
        raise OutputError(f"--out {os.fspath(given)!r}: not a valid name; choose another --out") from None
    if here.is_relative_to(out):
        raise OutputError(f"--out {given}: is the current folder or a parent of it; give the dataset its own folder")
    return out


def placing(given: Path) -> AbstractContextManager[None]:
    """Report a folder at which nothing can be written as an ``OutputError``."""
    return translated(OutputError, f"--out {given}", "cannot be written", "choose another --out")


class Workspace:
    """The folder next to ``out``, locked by this process.

    Attributes:
        folder: Folder to write, which then replaces ``out``.
        scratch: Folder for temporary files that other processes read.
        kept: Receipts of shards of an earlier, interrupted build of the same thing, path -> receipt.
    """

    def __init__(self, out: Path) -> None:
        """Take the lock, and recover from a killed build.

        Raises:
            OutputError: Another build uses it, or fedkit did not write the folder.
        """
        self.out = out
        self._root = out.with_name(out.name + ".incomplete")
        self.folder = self._root / _DATA
        self.scratch = self._root / _SCRATCH
        self.kept: dict[str, Receipt] = {}
        if self._root.is_symlink():
            raise OutputError(f"{self._root}: is a link, which no build creates; remove it, or choose another --out")
        taken = lock.lock(self._root / _LOCK)
        if taken is None:
            raise OutputError(f"{self._root}: another build is running there; wait for it, or choose another --out")
        self._lock = taken
        try:
            self._refuse_foreign()
            self._settle()
        except BaseException:
            self._let_go()
            raise

    def begin(self, key: Mapping[str, Any], *, resume: bool = True) -> None:
        """Start or resume a build; leftovers of an interrupted build with another ``key`` are removed.

        Args:
            key: Everything the bytes depend on.
            resume: Keep the files of an interrupted build with the same key.
        """
        marker, text = self._root / _KEY, json.dumps({"fedkit": _FORMAT, "key": key}, sort_keys=True).encode()
        if not (resume and marker.exists() and marker.read_bytes() == text):
            self._empty()
            atomic.write(marker, text)
        for path in (self.folder, self.scratch):
            path.mkdir(exist_ok=True)
        self.kept = dict(self._receipts())

    def expect(self, paths: Iterable[str]) -> None:
        """List the files that will be in ``folder`` before creating the first: nothing else is ever removed."""
        with (self._root / _EXPECTED).open("ab") as file:
            file.write(b"\n" + b"".join(json.dumps(path).encode() + b"\n" for path in paths))
            file.flush()
            os.fsync(file.fileno())

    def add(self, receipt: Receipt) -> None:
        """Record a finished shard."""
        with (self._root / _JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(encode(receipt)) + "\n")

    def finish(self, expected: Iterable[str], *, overwrite: bool = False) -> None:
        """Move the expected files, and nothing else, to the place of the dataset.

        Args:
            expected: Their paths in ``folder``.
            overwrite: Replace an existing dataset.

        Raises:
            OutputError: An existing file must not be replaced.
        """
        ownership.refuse_foreign(self.folder, ownership.only(self._expected()))
        keep = set(expected)
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(self.folder).as_posix() not in keep:
                path.unlink()
        if self.out.exists() and any(self.out.iterdir()):
            if not overwrite:
                raise OutputError(f"{self.out}: was written by another process meanwhile; choose another --out")
            refuse_unowned(self.out)
            os.replace(self.out, self._root / _OLD)
        try:
            if (self._root / _OLD).exists():
                refuse_unowned(self._root / _OLD)  # again, now that nothing is added there
            os.replace(self.folder, self.out)
        except BaseException:
            self._settle()
            raise
        self.discard()

    def discard(self) -> None:
        """Remove the workspace, since the work is done or cannot be resumed; the key goes last."""
        self._settle()
        self._empty()
        (self._root / _KEY).unlink(missing_ok=True)
        self._let_go()

    def leave(self) -> None:
        """Release the lock. A workspace that can be resumed stays; an unused one is removed."""
        if (self._root / _KEY).exists():
            lock.unlock(self._root / _LOCK, self._lock)
        else:
            self.discard()

    def _settle(self) -> None:
        """Finish an interrupted exchange: restore the old dataset, or remove it if the new one is in place."""
        old = self._root / _OLD
        if not old.exists():
            return
        if not self.folder.exists():
            ownership.clear(old, _of_dataset(old), last=manifest.NAME)
            return
        if self.out.exists() and any(self.out.iterdir()):
            raise OutputError(f"{self.out}: changed meanwhile; the previous one is in {old}; move one of them away")
        os.replace(old, self.out)

    def _empty(self) -> None:
        """Remove the files of builds, except the key and the lock."""
        ownership.clear(self.folder, ownership.only(self._expected()))
        ownership.clear(self.scratch, _scratched)
        unfinished = [name for name in os.listdir(self._root) if atomic.TEMPORARY.fullmatch(name)]
        for name in (_JOURNAL, _EXPECTED, *unfinished):
            (self._root / name).unlink(missing_ok=True)

    def _let_go(self) -> None:
        lock.unlock(self._root / _LOCK, self._lock)
        with suppress(OSError):  # of a killed build there is something left, or another has just begun
            self._root.rmdir()

    def _refuse_foreign(self) -> None:
        """Raise ``OutputError`` if there is a file that no build creates."""
        if not self._root.exists():
            return
        marker = self._root / _KEY
        mine = marker.is_file() and ownership.says(marker.read_bytes(), _FORMAT)
        known = self._known() if mine else ownership.only([_LOCK])
        found = ownership.foreign(self._root, known)
        if found is None and os.fstat(self._lock.fileno()).st_size:
            found = self._root / _LOCK  # fedkit's are empty
        if found:
            raise OutputError(f"{found}: no build creates this; move {self._root} away")

    def _known(self) -> ownership.Known:
        """Files that builds leave here."""
        top = ownership.only([_LOCK, _KEY, _JOURNAL, _EXPECTED])
        below: dict[str, ownership.Known] = {_DATA: ownership.only(self._expected()), _SCRATCH: _scratched}
        if (old := self._root / _OLD).is_dir():
            below[_OLD] = _of_dataset(old)

        def known(name: str) -> bool:
            folder, slash, inner = name.partition("/")
            return below[folder](inner) if slash and folder in below else top(name)

        return known

    def _expected(self) -> Iterator[str]:
        path = self._root / _EXPECTED
        for line in path.read_bytes().splitlines() if path.exists() else []:
            with suppress(ValueError):  # the line an interruption cut short
                yield str(json.loads(line))

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


def refuse_unowned(folder: Path) -> None:
    """Check a folder whose dataset is to be replaced.

    Raises:
        OutputError: It holds no fedkit dataset, another file, or a card that a person edited.
    """
    ownership.refuse_foreign(folder, _of_dataset(folder))
    card = folder / manifest.CARD
    if card.exists() and file_digest(card) != manifest.load(folder).card.sha256:
        raise OutputError(f"{card}: was edited and would be lost; move it away, or choose another --out")


def _of_dataset(folder: Path) -> ownership.Known:
    """Files of the dataset in a folder, by its manifest; none if the folder is empty."""
    if not any(folder.iterdir()):
        return ownership.only([])
    try:
        built = manifest.load(folder)
    except ManifestError as error:
        raise OutputError(
            f"{folder}: is not empty and holds no fedkit dataset ({error}); choose another --out"
        ) from None
    return ownership.only(files_of(built))


def files_of(built: manifest.Manifest) -> set[str]:
    """All files of a dataset, its manifest among them.

    Raises:
        OutputError: They are not files that a dataset has: fedkit did not write that manifest.
    """
    named = {built.plan.path, built.clients.path, built.card.path, *(shard.path for shard in manifest.shards(built))}
    odd = sorted(n for n in named - {manifest.PLAN, manifest.CLIENTS, manifest.CARD} if not n.endswith(".parquet"))
    if type(built.fedkit) is not int or odd:
        raise OutputError(f"{manifest.NAME}: was not written by fedkit ({', '.join(odd[:1])}); choose another --out")
    return {manifest.NAME, *named}


def _scratched(name: str) -> bool:
    return not name or _SCRATCHED.fullmatch(name) is not None


@contextmanager
def opened(out: Path) -> Iterator[Workspace]:
    """The workspace of ``out``. After an interruption or on a full disk it stays, to be resumed.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    with atomic.writing(out):
        work = Workspace(out)
        try:
            yield work
        except BaseException as error:
            full = isinstance(error, OSError) and error.errno in atomic.FULL
            stopped = interrupts.asked() is not None  # other code may have made any error of it
            if full or stopped or isinstance(error, KeyboardInterrupt | SystemExit | OutputError):
                work.leave()
            else:
                work.discard()
            if full:
                words = "the disk is full; free some space and run the same command again to resume"
                raise OutputError(f"{out}: {words}") from None
            raise
