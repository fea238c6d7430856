"""Write files whole through temporary names, and compute digests."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fedrsic_data.errors import OutputError, translated

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or quota."""

TEMPORARY = re.compile(r"\.fedkit-[0-9a-f]{16}\.tmp")
"""Names of files that are not whole yet. A killed process may leave one; nobody else gives a file such a name."""


def write(path: Path, data: bytes) -> None:
    """Writes a file so that whoever looks finds the old one or the new one, whole, also after a power cut.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    with writing(path), replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, *, lasting: bool = True) -> Iterator[IO[bytes]]:
    """A new file that takes the place of ``path`` once it is whole.

    It has a name of its own until then, at which nothing can be, so that no link is followed and no file is lost.
    What fails leaves nothing.

    Args:
        path: Where it goes; a link there is replaced, not followed.
        lasting: See that a power cut cannot undo it.
    """
    aside = path.with_name(f".fedkit-{secrets.token_hex(8)}.tmp")
    with aside.open("xb") as file:
        try:
            yield file
            file.flush()
            if lasting:
                os.fsync(file.fileno())
            os.replace(aside, path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
    if lasting:
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
        fix = (
            "free some space and run the same command again to resume"
            if error.errno in FULL
            else "choose another --out"
        )
        with translated(OutputError, path, "cannot be written", fix):
            raise


def sync(folder: Path) -> None:
    """Makes renames in a folder outlast a power cut, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_pipes(folder: Path) -> None:
    """Looks through a folder of which files will be opened: to open a pipe would be to wait for ever.

    Raises:
        OSError: It holds a pipe or a device, whose name the error has.
    """
    for path in folder.rglob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
