"""Sources: the datasets as their authors publish them, one file each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import decode, encode, suggest
from fedrsic_data.sources import optimal31, resisc45, ucmerced
from fedrsic_data.sources.base import Facts, Source

__all__ = ["SOURCES", "Facts", "Source", "configured", "spelled_out"]

SOURCES: dict[str, Source] = {source.name: source for source in (optimal31.SOURCE, resisc45.SOURCE, ucmerced.SOURCE)}
"""Every source by the name it has in recipes."""


def configured(name: str, settings: Mapping[str, Any], where: str) -> Source:
    """A source with the settings a recipe gives it.

    Args:
        name: Its name in the recipe.
        settings: Its fields; ``kind`` names the source where it is not ``name``.
        where: What the settings are, for messages.

    Raises:
        UsageError: An unknown source or setting.
    """
    fields = dict(settings)
    kind = fields.pop("kind", name)
    if not isinstance(kind, str) or kind not in SOURCES:
        raise UsageError(f"{where}: unknown source {kind!r}{suggest(str(kind), SOURCES)}")
    source: Any = SOURCES[kind]
    if source.settings is None:
        if fields or kind != name:
            raise UsageError(f"{where}: source {kind} has no settings and no other name; leave this out")
        return SOURCES[kind]
    configured: Source = dataclasses.replace(source, name=name, settings=decode(type(source.settings), fields, where))
    return configured


def spelled_out(source: Source) -> dict[str, Any]:
    """The settings of a source in full, as a recipe gives them."""
    settings: dict[str, Any] = encode(source.settings)
    return {"kind": source.kind, **settings}
