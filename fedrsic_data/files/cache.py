"""Where downloads, features and other things that can be had again are kept."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from fedrsic_data.errors import FedkitError, UsageError, translated
from fedrsic_data.settings import local


def cache_folder() -> Path:
    """``$FEDKIT_CACHE``, or ``fedkit`` in the user's cache folder.

    Raises:
        UsageError: The user has no home folder, or the one given is an address.
    """
    if given := os.environ.get("FEDKIT_CACHE"):
        local("FEDKIT_CACHE", given)
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedkit"
    except RuntimeError:
        raise UsageError("there is no home folder for downloads; set FEDKIT_CACHE to a folder") from None


def caching(kind: type[FedkitError], folder: Path) -> AbstractContextManager[None]:
    """Report a cache that the system does not let us use, as an error of this kind."""
    return translated(kind, folder, "the cache cannot be used", "choose another with FEDKIT_CACHE")
