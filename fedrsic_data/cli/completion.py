"""Words that a shell completes: names of recipes, datasets and partitioners. Nothing is read but names."""

from __future__ import annotations

from pathlib import Path


def recipes() -> list[str]:
    """The shipped recipes, their subsets, and the JSON files here."""
    from fedrsic_data.recipes.shipped import shipped, subsets

    return [*shipped(), *subsets(), *sorted(map(str, Path().glob("*.json")))]


def datasets() -> list[str]:
    """The built datasets in ``data``."""
    return [str(path.parent) for path in sorted(Path("data").glob("*/manifest.json"))]


def datasets_or_recipes() -> list[str]:
    """The built datasets, and the recipes."""
    return [*datasets(), *recipes()]


def partitioners() -> list[str]:
    """The partitioners."""
    from fedrsic_data.partition import PARTITIONERS

    return list(PARTITIONERS)
