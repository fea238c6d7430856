"""Ownership of files: fedkit replaces and removes only what it wrote.

Every command that clears a folder or writes over a file asks here first. A folder is fedkit's if the file that
describes it says so, in its own format field, and if it holds nothing beside what fedkit writes there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fedrsic_data.errors import OutputError
from fedrsic_data.files import atomic

Known = Callable[[str], bool]
"""Says of a file by its path in a folder, with slashes, whether fedkit wrote it; of an empty folder by ``path/``."""


def only(names: Iterable[str]) -> Known:
    """Knows some files, the folders that they are in, and temporary files of fedkit beside them."""
    files = set(names)
    folders = {""} | {name[: i + 1] for name in files for i, letter in enumerate(name) if letter == "/"}

    def known(name: str) -> bool:
        above, _, last = name.rpartition("/")
        beside = f"{above}/" if above else ""
        return name in files or name in folders or (beside in folders and bool(atomic.TEMPORARY.fullmatch(last)))

    return known


def foreign(folder: Path, known: Known) -> Path | None:
    """The first thing in a folder, in order of names, that fedkit did not write there; None if it wrote all of it.

    Links, pipes and devices are never known.
    """
    return next((folder / name for name, ours in _looked_through(folder, known) if not ours), None)


def refuse_foreign(folder: Path, known: Known) -> None:
    """Says of what must not be lost that it is there.

    Raises:
        OutputError: The folder holds something that fedkit did not write there.
    """
    if found := foreign(folder, known):
        raise OutputError(
            f"{found}: was not written by fedkit and would be lost; move it away, or choose another --out"
        )


def clear(folder: Path, known: Known, *, last: str = "") -> None:
    """Removes a folder with all that fedkit wrote there; nothing else is ever removed.

    Args:
        folder: Nothing need be there.
        known: What fedkit wrote.
        last: The file that says whose the folder is, which goes last.

    Raises:
        OutputError: It holds something else; then all of it stays.
        OSError: It cannot be removed, or something appeared in it meanwhile, which stays.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink():
        raise OutputError(f"{folder}: is a link; move it away, or choose another --out")
    refuse_foreign(folder, known)
    for name, _ in list(_looked_through(folder, known)):
        if name != last and not name.endswith("/"):
            (folder / name).unlink()
    for path in sorted(folder.rglob("*/"), reverse=True):
        path.rmdir()
    if last:
        (folder / last).unlink(missing_ok=True)
    folder.rmdir()


def says(text: bytes, version: int) -> bool:
    """Whether a JSON file says that fedkit wrote it, in a version of its format."""
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and type(data.get("fedkit")) is int and data["fedkit"] == version


def check_file(path: Path, ours: Callable[[bytes], bool], kind: str, fix: str = "choose another name") -> None:
    """Refuses to write a file where another is that fedkit did not write, or through a link.

    Args:
        path: Where the file goes.
        ours: Whether the beginning of a file, or all of a short one, is of a file of fedkit's of this kind.
        kind: The kind, in words: ``report``.
        fix: What to do otherwise.

    Raises:
        OutputError: Something else is there.
        OSError: It cannot be looked at.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink():
        raise OutputError(f"{path}: is a link; {fix}")
    if not path.is_file():  # opening a pipe would block for ever
        raise OutputError(f"{path}: is not a regular file; {fix}")
    with path.open("rb") as file:
        if not ours(file.read(1 << 20)):
            raise OutputError(f"{path}: already exists and is not a {kind} of fedkit; {fix}")


def _looked_through(folder: Path, known: Known, above: str = "") -> Iterator[tuple[str, bool]]:
    """All files and all empty folders in a folder, in order of names, and whether each is known."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = above + entry.name
        if entry.is_dir(follow_symlinks=False):
            inner = list(_looked_through(folder / entry.name, known, f"{name}/"))
            yield from inner or [(f"{name}/", known(f"{name}/"))]
        else:
            yield name, entry.is_file(follow_symlinks=False) and known(name)
