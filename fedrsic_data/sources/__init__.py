"""Sources: the datasets as their authors publish them, one file each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import decode, encode, suggest
from fedrsic_data.sources import (
    coco,
    coco_format,
    flair,
    folder,
    metadata,
    optimal31,
    parquet,
    resisc45,
    ucmerced,
    voc,
    voc_format,
    yolo,
)
from fedrsic_data.sources.base import Facts, Source
from fedrsic_data.sources.own.annotated import Annotated

__all__ = ["FORMATS", "GENERAL", "SOURCES", "Facts", "Source", "configured", "spelled_out"]

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (coco.SOURCE, flair.SOURCE, optimal31.SOURCE, resisc45.SOURCE, ucmerced.SOURCE, voc.SOURCE)
}
"""Every source by the name it has in recipes."""

FORMATS: dict[str, Annotated] = {
    source.kind: source for source in (coco_format.SOURCE, metadata.SOURCE, voc_format.SOURCE, yolo.SOURCE)
}
"""Readers of folders with annotations in a public format."""

GENERAL: dict[str, Source] = {parquet.SOURCE.kind: parquet.SOURCE, folder.SOURCE.kind: folder.SOURCE, **FORMATS}
"""Readers of a person's own data by the ``kind`` it has in recipes, under any name."""


def configured(name: str, settings: Mapping[str, Any], where: str) -> Source:
    """A source with the settings a recipe gives it.

    Args:
        name: Its name in the recipe.
        settings: Its fields; ``kind`` names the source, or the reader of a person's own data, where it is not ``name``.
        where: What the settings are, for messages.

    Raises:
        UsageError: An unknown source or setting.
    """
    fields = dict(settings)
    kind = fields.pop("kind", name)
    kinds = {**SOURCES, **GENERAL}
    if not isinstance(kind, str) or kind not in kinds:
        raise UsageError(f"{where}: unknown source {kind!r}{suggest(str(kind), kinds)}")
    source: Any = kinds[kind]
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
