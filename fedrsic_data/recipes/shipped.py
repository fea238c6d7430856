"""The recipes that come with fedkit, and recipes from files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from fedrsic_data.dataset.recipe import Recipe, SampleSettings, check_version, read_json
from fedrsic_data.errors import UsageError
from fedrsic_data.recipes.override import override
from fedrsic_data.recipes.resolve import from_json
from fedrsic_data.settings import encode, suggest


def folder() -> Path:
    """Where the recipes that come with fedkit are: in the package, or ``manifests/`` of a checkout."""
    packaged = Path(__file__).parent.parent / "manifests"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "manifests"


def shipped() -> dict[str, Path]:
    """The recipes that come with fedkit, by name."""
    return {path.stem: path for path in sorted(folder().glob("*.json"))}


def subsets() -> dict[str, list[str]]:
    """The subsets of shipped recipes that have several, each with the names of those recipes."""
    found: dict[str, list[str]] = {}
    for name, path in shipped().items():
        known = read_json(path)["subsets"]
        for subset in known if len(known) > 1 else ():
            found.setdefault(subset, []).append(name)
    return found


def is_shipped(name: str) -> bool:
    """Whether ``load`` knows a recipe by this name."""
    return name in shipped() or name in subsets()


def varied(recipe: Recipe, subset: str) -> dict[str, Any]:
    """The settings of a built recipe that differ from those of the shipped recipe of its name.

    Args:
        recipe: Spelled out.
        subset: Which of its subsets; the others make no difference.

    Returns:
        Name -> value, as ``Recipe.settings_of`` names them, and ``data_seed``, and ``sample`` for a sample whose name
        does not say so; for a recipe that is not shipped, its digest as ``recipe``.
    """
    name = recipe.name.removesuffix("-sample") if recipe.sample else recipe.name
    data = load(name) if name in shipped() or len(subsets().get(name, ())) == 1 else {}
    if subset not in data.get("subsets", {}):
        text = json.dumps({**encode(recipe), "title": ""}, sort_keys=True)
        return {"recipe": hashlib.sha256(text.encode()).hexdigest()}
    plain = dataclasses.replace(from_json(data, name), sample=SampleSettings() if recipe.sample else None)
    here = {"sample": recipe.name == name and recipe.sample is not None, "data_seed": recipe.seed}
    here |= recipe.settings_of(subset)
    there = {"sample": False, "data_seed": plain.seed, **plain.settings_of(subset)}
    if here["partition"] != there["partition"]:
        there = {key: value for key, value in there.items() if not key.startswith("partition.")}
    return {key: here.get(key) for key in {**there, **here} if here.get(key) != there.get(key)}


def load(name_or_path: str) -> dict[str, Any]:
    """A recipe's JSON by the name of a shipped one or by path. A built manifest gives the recipe it was built from.

    The name of a subset gives its recipe with that subset alone, under the name of the subset.

    Raises:
        UsageError: There is no such recipe.
        ManifestError: It is not one.
    """
    recipes = shipped()
    path = Path(name_or_path)
    if name_or_path in recipes:
        path = recipes[name_or_path]
    elif not os.path.isfile(name_or_path):  # pathlib raises on names that are too long
        return _subset(name_or_path)
    data = read_json(path)
    inner = data.get("recipe")
    if not isinstance(inner, dict):
        return data
    check_version(inner, path)
    return inner


def _subset(name: str) -> dict[str, Any]:
    """The recipe of one subset."""
    known = subsets()
    if name not in known:
        raise UsageError(f"{name!r} is no recipe file or shipped recipe{suggest(name, [*shipped(), *known])}")
    if len(known[name]) > 1:
        commands = (f"fedkit build {recipe} --subset {name}" for recipe in known[name])
        raise UsageError(f"{name!r} is a subset of several recipes; choose one: {', or '.join(commands)}")
    data = override(read_json(shipped()[known[name][0]]), subsets=[name])
    return data | {"name": name, "title": data["subsets"][name].get("title", data.get("title", ""))}
