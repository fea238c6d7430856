"""Recipes: what a person writes, checked and spelled out."""

from __future__ import annotations

from fedrsic_data.recipes.override import override
from fedrsic_data.recipes.resolve import from_json, pinned
from fedrsic_data.recipes.shipped import is_shipped, load, shipped, varied

__all__ = ["from_json", "is_shipped", "load", "override", "pinned", "shipped", "varied"]
