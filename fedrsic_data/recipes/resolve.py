"""A recipe with its meaning: names checked, defaults spelled out, digests pinned, its sources and partitioners made.

This happens once. Whoever plans or writes gets what was made; whoever reads a built dataset needs none of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedrsic_data.dataset.recipe import Recipe
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS, Partitioner, named
from fedrsic_data.settings import decode, suggest
from fedrsic_data.sources import SOURCES, Source, configured, spelled_out


@dataclass(frozen=True)
class Resolved:
    """A recipe and what it names.

    Attributes:
        recipe: The recipe, spelled out and pinned.
        sources: Its sources by name, in the order of its subsets.
        partitioners: The partitioner of each subset.
    """

    recipe: Recipe
    sources: Mapping[str, Source]
    partitioners: Mapping[str, Partitioner]

    @property
    def plugins(self) -> dict[str, str]:
        """Versions of the packages that add its sources and partitioners; see ``Registry.versions``."""
        found: dict[str, str] = {}
        for source in self.sources.values():
            if source.kind in SOURCES:
                found |= SOURCES.versions(source.kind)
        for name in self.partitioners:
            found |= PARTITIONERS.versions(self.recipe.partition_of(name)["name"])
        return found


def from_json(data: Mapping[str, Any], where: str, *, built: bool = False) -> Recipe:
    """A recipe from parsed JSON, with every setting spelled out.

    Args:
        data: What ``json.load`` gave.
        where: The recipe, for messages.
        built: The images are those of a built dataset: its sources stay as they are, known here or not.

    Raises:
        UsageError: An unknown key, source or partitioner, or a value that cannot be used.
    """
    recipe = decode(Recipe, data, where)
    try:
        settings = recipe.sources if built else _settings(sources_of(recipe))
        return _spelled(recipe, settings, named.spelled_out)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with the digests of the files that its partitioners read, so that it means the same tomorrow."""
    return _spelled(recipe, _settings(sources_of(recipe)), named.pinned)


def resolve(recipe: Recipe, *, built: bool = False) -> Resolved:
    """A recipe, pinned, with its partitioners and, unless the images are ``built`` already, its sources.

    Raises:
        UsageError: A source, a partitioner or a setting is unknown, or a file of a partitioner cannot be read.
    """
    sources = {} if built else sources_of(recipe)
    full = _spelled(recipe, recipe.sources if built else _settings(sources), named.pinned)
    return Resolved(full, sources, {name: partitioner_of(full, name) for name in full.subsets})


def sources_of(recipe: Recipe) -> dict[str, Source]:
    """The sources of a recipe, with their settings.

    Raises:
        UsageError: A source or one of its settings is unknown.
    """
    for name, subset in recipe.subsets.items():
        for source in subset.sources:
            if source not in recipe.sources and source not in SOURCES:
                known = [*recipe.sources, *SOURCES]
                raise UsageError(f"subsets.{name}.sources: unknown source {source!r}{suggest(source, known)}")
    return {name: configured(name, recipe.sources.get(name, {}), f"sources.{name}") for name in recipe.used}


def partitioner_of(recipe: Recipe, subset: str) -> Partitioner:
    """The partitioner of a subset.

    Raises:
        UsageError: It is unknown, or one of its settings is.
    """
    own = recipe.subsets[subset].partition is not None
    return named.from_json(recipe.partition_of(subset), f"subsets.{subset}.partition" if own else "partition")


def _settings(sources: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
    return {name: spelled_out(source) for name, source in sources.items() if source.settings}


def _spelled(
    recipe: Recipe, sources: dict[str, dict[str, Any]], spell: Callable[[Mapping[str, Any], str], dict[str, Any]]
) -> Recipe:
    subsets = {
        name: subset
        if subset.partition is None
        else dataclasses.replace(subset, partition=spell(subset.partition, f"subsets.{name}.partition"))
        for name, subset in recipe.subsets.items()
    }
    partition = spell(recipe.partition, "partition")
    return dataclasses.replace(recipe, partition=partition, subsets=subsets, sources=sources)
