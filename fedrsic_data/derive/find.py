"""The dataset of a recipe: found where ``fedkit build`` puts it, or built there first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fedrsic_data.build import pipeline
from fedrsic_data.build.pipeline import QUIET, BuildListener
from fedrsic_data.dataset import hub, manifest
from fedrsic_data.dataset.local import is_address
from fedrsic_data.dataset.recipe import Recipe, read_json
from fedrsic_data.errors import ManifestError, OutputError, UsageError
from fedrsic_data.recipes import from_json, is_shipped, load, override, pinned
from fedrsic_data.settings import suggest
from fedrsic_data.sources.locate import Places


def folder(
    name_or_path: str,
    *,
    sample: bool = False,
    places: Places | None = None,
    needed: Sequence[str] = (),
    listener: BuildListener = QUIET,
) -> Path | str:
    """The folder of a built dataset, or the address and commit of a published one.

    Args:
        name_or_path: A built ``manifest.json`` or its folder; or ``hf://USER/NAME[@REVISION]``; or a recipe, by path
            or by the name of a shipped one: then ``data/<name>`` is taken if it was built from that recipe, and built
            if it is not there.
        sample: With a recipe: procedural stand-ins instead of the real images.
        places: Where the sources of a recipe are; None: where they usually are.
        needed: Subsets that a recipe must have. All of its subsets are built, so that ``data/<name>`` is the recipe's.
        listener: Receives the progress of a build.

    Raises:
        UsageError: A built dataset with ``sample`` or ``places``, or a recipe without a needed subset.
        ManifestError: There is no such dataset, or it cannot be read.
        HubError: The Hub cannot be reached, or has no such dataset.
        OutputError: Another dataset is in its place.
        SourceError: A source is missing, incomplete or malformed.
    """
    if is_address(name_or_path) or not is_recipe(name_or_path):
        hosted = is_address(name_or_path)
        found = str(hub.pinned(hub.address(name_or_path))) if hosted else manifest.located(Path(name_or_path)).parent
        if sample or places is not None:
            raise UsageError(f"{name_or_path}: is already built; --sample and --sources apply to recipes only")
        return found
    data = override(load(name_or_path), sample=sample)
    recipe = from_json(data, f"recipe {name_or_path}")
    for name in needed:
        if name not in recipe.subsets:
            raise UsageError(f"recipe {name_or_path}: no subset {name!r}{suggest(name, recipe.subsets)}")
    return built(recipe, Path("data") / recipe.name, name_or_path, places, listener)


def built(recipe: Recipe, out: Path, where: str, places: Places | None = None, listener: BuildListener = QUIET) -> Path:
    """The dataset of a recipe at a folder, built if it is not there.

    Args:
        recipe: The recipe.
        out: The dataset's folder.
        where: What the recipe is, for messages.
        places: Where its sources are; None: where they usually are.
        listener: Receives the progress of a build.

    Raises:
        OutputError: Another dataset is there.
        SourceError: A source is missing, incomplete or malformed.
    """
    if not (out / manifest.NAME).is_file():
        return pipeline.build(pipeline.prepare(recipe, places or Places(), listener), out, listener=listener).path
    if manifest.load(out).recipe != pinned(recipe):
        raise OutputError(
            f"{out}: was built from another recipe than {where}, or with other settings; "
            f"train on it with --manifest {out}, or move it away"
        )
    return out


def is_recipe(name_or_path: str) -> bool:
    """Whether it names a recipe; a folder or file of that name comes before a shipped recipe."""
    if not os.path.isfile(name_or_path):  # pathlib raises on names that are too long
        return is_shipped(name_or_path) and not Path(name_or_path).is_dir()
    try:
        data = read_json(Path(name_or_path))
    except ManifestError:
        return False  # whoever reads the manifest says what is wrong with it
    return "recipe" not in data and "subsets" in data
