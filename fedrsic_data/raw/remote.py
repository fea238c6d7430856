"""Files as others publish them; ``download`` fetches them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """A downloadable file: its URL, its local file name, and its published size and checksums."""

    url: str
    filename: str
    size: int | None = None  # bytes
    sha256: str | None = None  # hex
    md5: str | None = None  # hex, used when no sha256 is published
