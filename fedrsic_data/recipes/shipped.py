"""The recipes that come with fedkit, and recipes from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fedrsic_data.dataset.recipe import check_version, read_json
from fedrsic_data.errors import UsageError
from fedrsic_data.settings import suggest


def folder() -> Path:
    """Where the recipes that come with fedkit are: in the package, or ``manifests/`` of a checkout."""
    packaged = Path(__file__).parent.parent / "manifests"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "manifests"


def shipped() -> dict[str, Path]:
    """The recipes that come with fedkit, by name."""
    return {path.stem: path for path in sorted(folder().glob("*.json"))}


def load(name_or_path: str) -> dict[str, Any]:
    """A recipe's JSON by the name of a shipped one or by path. A built manifest gives the recipe it was built from.

    Raises:
        UsageError: There is no such recipe.
        ManifestError: It is not one.
    """
    recipes = shipped()
    path = Path(name_or_path)
    if name_or_path in recipes:
        path = recipes[name_or_path]
    elif not os.path.isfile(name_or_path):  # pathlib raises on names that are too long
        raise UsageError(f"{name_or_path!r} is no recipe file or shipped recipe{suggest(name_or_path, recipes)}")
    data = read_json(path)
    inner = data.get("recipe")
    if not isinstance(inner, dict):
        return data
    check_version(inner, path)
    return inner
