"""Files as others publish them; ``download`` fetches them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """One downloadable file: its address, its plain name here, and what is published of it."""

    url: str
    filename: str
    size: int | None = None  # bytes
    sha256: str | None = None  # hex
    md5: str | None = None  # hex, used when no sha256 is published
