"""Sources: datasets as their authors publish them, one file each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedrsic_data.errors import UsageError
from fedrsic_data.registry import Registry
from fedrsic_data.settings import decode, encode, suggest
from fedrsic_data.sources.base import Facts, Source

if TYPE_CHECKING:
    from fedrsic_data.sources.own.annotated import Annotated

__all__ = ["FORMATS", "GENERAL", "SOURCES", "Facts", "Source", "configured", "spelled_out"]

_FORMATS = {
    "coco_format": "fedrsic_data.sources.coco_format:SOURCE",
    "metadata": "fedrsic_data.sources.metadata:SOURCE",
    "voc_format": "fedrsic_data.sources.voc_format:SOURCE",
    "yolo": "fedrsic_data.sources.yolo:SOURCE",
}

FORMATS: Registry[Annotated] = Registry("format", _FORMATS)
"""Readers of folders with annotations in a public format."""

GENERAL: Registry[Source] = Registry(
    "reader", {"hub": "fedrsic_data.sources.parquet:SOURCE", "folder": "fedrsic_data.sources.folder:SOURCE", **_FORMATS}
)
"""Readers of people's own data by their ``kind`` in recipes, under any name."""

SOURCES: Registry[Source] = Registry(
    "source",
    {
        "aid-multilabel": "fedrsic_data.sources.aid_multilabel:SOURCE",
        "caltech101": "fedrsic_data.sources.caltech101:SOURCE",
        "cifar10": "fedrsic_data.sources.cifar:CIFAR10",
        "cifar100": "fedrsic_data.sources.cifar:CIFAR100",
        "coco": "fedrsic_data.sources.coco:SOURCE",
        "domainnet10": "fedrsic_data.sources.domainnet10:SOURCE",
        "dtd": "fedrsic_data.sources.dtd:SOURCE",
        "eurosat": "fedrsic_data.sources.eurosat:SOURCE",
        "flair": "fedrsic_data.sources.flair:SOURCE",
        "flowers102": "fedrsic_data.sources.flowers102:SOURCE",
        "food101": "fedrsic_data.sources.food101:SOURCE",
        "mlrsnet": "fedrsic_data.sources.mlrsnet:SOURCE",
        "office-caltech10": "fedrsic_data.sources.office_caltech10:SOURCE",
        "office-home": "fedrsic_data.sources.office_home:SOURCE",
        "optimal31": "fedrsic_data.sources.optimal31:SOURCE",
        "oxford-pets": "fedrsic_data.sources.oxford_pets:SOURCE",
        "pacs": "fedrsic_data.sources.pacs:SOURCE",
        "resisc45": "fedrsic_data.sources.resisc45:SOURCE",
        "ucmerced": "fedrsic_data.sources.ucmerced:SOURCE",
        "ucmerced-multilabel": "fedrsic_data.sources.ucmerced_multilabel:SOURCE",
        "voc": "fedrsic_data.sources.voc:SOURCE",
    },
    group="fedkit.sources",
    needs=("index", "facts", "settings", "aliases"),
    taken=GENERAL,
)
"""Every source by the name it has in recipes."""


def configured(name: str, settings: Mapping[str, Any], where: str) -> Source:
    """A source with the settings a recipe gives it.

    Args:
        name: Its name in the recipe.
        settings: Its fields; ``kind`` names the source, or the reader of a person's own data, where it is not ``name``.
        where: Place of the settings, for messages.

    Raises:
        UsageError: An unknown source or setting.
    """
    fields = dict(settings)
    kind = fields.pop("kind", name)
    if not isinstance(kind, str) or (kind not in SOURCES and kind not in GENERAL):
        raise UsageError(f"{where}: unknown source {kind!r}{suggest(str(kind), [*SOURCES, *GENERAL])}")
    source: Any = SOURCES[kind] if kind in SOURCES else GENERAL[kind]
    if source.kind != kind:
        raise UsageError(f"{where}: the source {kind} says that its kind is {source.kind!r}; its package has to fix it")
    if source.settings is None:
        if fields or kind != name:
            raise UsageError(f"{where}: source {kind} takes no settings and no other name; leave this out")
        return SOURCES[kind]
    its = decode(type(source.settings), fields, where)
    try:
        configured: Source = dataclasses.replace(source, name=name, settings=its)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return configured


def spelled_out(source: Source) -> dict[str, Any]:
    """The settings of a source in full, as a recipe gives them."""
    settings: dict[str, Any] = encode(source.settings)
    return {"kind": source.kind, **settings}
