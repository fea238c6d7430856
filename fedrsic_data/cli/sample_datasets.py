"""The datasets of the first five minutes: two procedural samples, small enough to build in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.build.pipeline import QUIET, BuildListener
from fedrsic_data.sources.locate import Places

SCENES, PHOTOS = "fed-ucmerced", "flair"
"""Their subsets: scenes of one class each, and photographs with several labels taken by users."""

_RECIPES = {
    # strong label skew, under which a prompt of one's own pays: as in benchmarks/results/prompt_methods.md
    SCENES: ("fed-rsic", "alpha=0.1", "clients=10"),
    PHOTOS: ("flair",),
}


def built(
    folder: Path, sets: Mapping[str, Sequence[str]] | None = None, listener: BuildListener = QUIET
) -> dict[str, Path]:
    """Builds both below a folder; what is there already is checked and kept.

    Args:
        folder: Where their folders are made.
        sets: Subset -> ``key=value`` texts for its recipe, such as ``sample.size=32``.
        listener: Receives progress.

    Returns:
        Subset -> folder of its dataset.

    Raises:
        OutputError: Another dataset is there, or it cannot be written.
        UsageError: A key or value cannot be used, or the folder is an address.
    """
    folders = {}
    for subset, (name, *own) in _RECIPES.items():
        data = recipes.override(
            recipes.load(name), subsets=[subset], sample=True, sets=[*own, *(sets or {}).get(subset, ())]
        )
        prepared = pipeline.prepare(recipes.from_json(data, f"recipe {name}"), Places(offline=True), listener)
        pipeline.build(prepared, folder / subset, listener=listener)
        folders[subset] = folder / subset
    return folders
