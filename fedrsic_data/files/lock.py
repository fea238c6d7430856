"""Locks: a file that one process at a time can hold, and that goes with the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fedrsic_data.errors import OutputError


def lock(path: Path, *, wait: bool = False) -> IO[bytes] | None:
    """Takes a lock for this process; it goes with the process, however that ends. See ``unlock``.

    Args:
        path: The lock's file. It and its folder are made if need be; what is in it stays as it is.
        wait: Until another process that has it lets go.

    Returns:
        The file, or None if another process has it. Whoever is refused has changed nothing.
    """
    for _ in range(1000):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileNotFoundError:  # who had it has just removed the folder
            continue
        except FileExistsError:  # the folder was there, and is removed now; or it is none
            if os.path.lexists(path.parent) and not path.parent.is_dir():
                raise
            continue
        file = os.fdopen(handle, "r+b")
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(handle), path.lstat()):
                return file
        except ImportError:  # a system without advisory locks
            return file
        except FileNotFoundError:  # its holder has just removed it, so no other process would see this lock
            pass
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        file.close()
    return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock against other threads and processes, and wait for it; its empty file stays."""
    file = lock(path, wait=True)
    if file is None:
        raise OutputError(f"{path}: is removed as soon as it is made; choose another folder")
    with file:
        yield


@contextmanager
def alone(path: Path, refused: str) -> Iterator[None]:
    """Hold a lock against other processes, and remove its file afterwards.

    Args:
        path: The lock's file.
        refused: The words of the error if another process has it; then nothing is changed.

    Raises:
        OutputError: Another process has it.
        OSError: The file cannot be made.
    """
    file = lock(path)
    if file is None:
        raise OutputError(refused)
    try:
        yield
    finally:
        unlock(path, file)


def unlock(path: Path, file: IO[bytes]) -> None:
    """Lets go of a lock, and removes its file while nobody else can have it; one that holds something is not ours."""
    with file, suppress(OSError):
        if not os.fstat(file.fileno()).st_size and os.path.samestat(os.fstat(file.fileno()), path.lstat()):
            path.unlink()
