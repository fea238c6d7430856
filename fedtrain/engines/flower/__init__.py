"""Flower: the same methods, rounds and metrics, with every client at its own site."""

from __future__ import annotations

from pathlib import Path


def anywhere(manifest: str) -> str:
    """Absolute path of a dataset, since servers and workers run in other folders."""
    return manifest if "://" in manifest else str(Path(manifest).resolve())
