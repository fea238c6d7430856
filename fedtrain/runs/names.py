"""Names of runs' folders: words that a person reads, safe and short on every file system."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_MOST = 80  # characters for all words of what was varied
_LONGEST = 24  # characters for a value
_LONG = 60  # characters for the method, the dataset and the subset, each


def plain(value: object) -> str:
    """A value as part of a folder's name: letters, digits and dots."""
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_.") or "x"


def short(key: str) -> str:
    """A setting as people name it: ``alpha`` for ``partition.alpha``."""
    return key.removeprefix("partition.").removeprefix("sample.")


def folder_name(parts: Sequence[str], varied: Mapping[str, Any], seed: int) -> str:
    """The name of a run's folder: ``fedpgp-fed-rsic-fed-ucmerced-alpha-0.1-lr-0.01-seed0-1a2b3c4d``.

    Args:
        parts: The method, dataset and subset; each is there once, and cut where it is long.
        varied: Setting -> value, of those that are not as they are by default. As many as fit are in the name, and all
            of them in the digest that ends it; without any there is no digest.
        seed: The run's seed.
    """
    words: list[str] = []
    for key, value in varied.items():
        shown = plain(value)[:_LONGEST]
        word = short(key) if value is True else shown if key == "partition" else f"{short(key)}-{shown}"
        if key != "recipe" and value is not None and len("-".join([*words, word])) <= _MOST:
            words.append(word)
    cut = tuple(part[:_LONG] for part in parts)
    told = dict(varied) if cut == tuple(parts) else {**varied, "": list(parts)}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    names = (re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in dict.fromkeys(cut))
    return "-".join([*names, *words, f"seed{seed}", *([digest] if told else [])])
