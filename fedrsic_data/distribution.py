"""The installed distribution: its version, and how its extras are installed.

The distribution is called ``fedrsic``. The command is ``fedkit``, but a package of that name on the public index is
another project's, so no hint may name it.
"""

from __future__ import annotations

import json
import shlex
from urllib.parse import unquote, urlsplit

NAME = "fedrsic"
"""Name of the distribution for ``pip``."""


def version() -> str:
    """The installed version; ``"0"`` where the code runs without having been installed."""
    from importlib import metadata  # takes long, for a version

    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "0"


def install(extra: str) -> str:
    """The ``pip`` command that adds an extra to this very installation.

    It names the clone or the wheel that fedkit was installed from where ``pip`` recorded one (PEP 610), because what
    an index serves may be another release.

    >>> install("flower")  # doctest: +SKIP
    "pip install 'fedrsic[flower]'"
    """
    return f"pip install {shlex.quote(f'{_origin()}[{extra}]')}"


def _origin() -> str:
    """The path of the clone or wheel that was installed, or else the distribution's name."""
    from importlib import metadata

    try:
        record = json.loads(metadata.distribution(NAME).read_text("direct_url.json") or "{}")
        url = urlsplit(record.get("url", ""))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return NAME
    return unquote(url.path) if url.scheme == "file" and url.path else NAME
