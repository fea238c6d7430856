"""Samples of federations that hold several datasets, each with classes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.sources.locate import Places

SETS = ("sample.per_class=6", "sample.size=32")


def apart(
    out: Path,
    *more: str,
    sources: tuple[str, ...] = ("ucmerced", "optimal31"),
    sets: tuple[str, ...] = SETS,
    **own: Any,
) -> pipeline.Built:
    """UC Merced (21 classes) and OPTIMAL-31 (24 in samples) in one subset, ``both``; clients have eight classes."""
    data = {
        "fedkit": 1,
        "name": "apart",
        "subsets": {"both": {"sources": list(sources), "classes": "apart"}},
        "partition": {"name": "class-blocks", "classes_per_client": 8},
        "splits": {"test": 0.34},
        **own,
    }
    data = recipes.override(data, sample=True, sets=[*sets, *more])
    return pipeline.build(pipeline.prepare(recipes.from_json(data, "test"), Places(offline=True)), out)
