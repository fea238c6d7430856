"""Cached facts about a build's sources, so that the next build need not read the sources again.

It is not part of the dataset, whose bytes depend on no file time. If it is absent or differs, nothing
is known, and the caller compares the bytes. Times are compared with times of the same files, for
equality: a clock that was wrong, here or where the files come from, changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from fedrsic_data.build.plan import Planned
from fedrsic_data.dataset.manifest import Manifest
from fedrsic_data.errors import UsageError
from fedrsic_data.files import atomic
from fedrsic_data.files.cache import cache_folder


def agrees(out: Path, built: Manifest, planned: Planned) -> bool:
    """Whether ``built``, in the folder ``out``, is recorded as matching the current sources, by sizes and times."""
    try:
        place = _place(out)  # opening a pipe would block for ever
        return place.is_file() and place.read_text(encoding="utf-8") == _facts(built, planned)
    except (OSError, ValueError, UsageError):
        return False


def write(out: Path, built: Manifest, planned: Planned) -> None:
    """Record that ``built``, in the folder ``out``, matches the current sources; an unusable cache is no error."""
    with contextlib.suppress(OSError, UsageError):
        path = _place(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(path, lasting=False) as file:
            file.write(_facts(built, planned).encode())


def _place(out: Path) -> Path:
    return cache_folder() / "built" / f"{hashlib.sha256(os.fsencode(os.path.realpath(out))).hexdigest()[:32]}.json"


def _facts(built: Manifest, planned: Planned) -> str:
    return json.dumps({"dataset": built.digest, "sources": planned.stamp, "newest": planned.newest})
