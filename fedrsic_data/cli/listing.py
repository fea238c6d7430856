"""Lists of recipes, sources and partitioners, as ``fedkit list`` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedrsic_data.answer import Shown, records, together
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS
from fedrsic_data.recipes.shipped import load, shipped
from fedrsic_data.settings import encode, suggest
from fedrsic_data.sources import GENERAL, SOURCES, Source

if TYPE_CHECKING:
    from rich.console import RenderableType


def listed(what: str | None) -> Shown:
    """Recipes, sources and partitioners.

    Raises:
        UsageError: ``what`` is none of these.
    """
    tables = {"recipes": _recipes, "sources": _sources, "partitioners": _partitioners}
    if what is not None and what not in tables:
        raise UsageError(f"{what!r} cannot be listed{suggest(what, tables)}")
    data: dict[str, Any] = {}
    parts: list[RenderableType] = []
    for name in [what] if what else tables:
        rows = tables[name]()
        data[name] = rows
        parts += [name, *records(rows), ""]
    return Shown(data, together(parts[:-1]))


def _recipes() -> list[dict[str, Any]]:
    rows = []
    for name, path in shipped().items():
        data = load(str(path))
        rows.append({"recipe": name, "subsets": ", ".join(data["subsets"]), "title": data.get("title", "")})
    return rows


def _sources() -> list[dict[str, Any]]:
    described = (*SOURCES.facts(_source), *GENERAL.facts(_source))
    return [{"source": name, **its} for name, its in described]


def _source(source: Source) -> dict[str, Any]:
    return {"layout": source.facts.layout, "licence": source.facts.licence, "download": _origin(source)}


def _origin(source: Source) -> str:
    if source.kind in GENERAL:
        return "your own data; see: fedkit new --help"
    if source.facts.downloads:
        known = all(remote.sha256 or remote.md5 for remote in source.facts.downloads)
        return "official archives, " + ("checksums known" if known else "checksums recorded at first use")
    return f"hf://{source.facts.hub.repo}" if source.facts.hub else "by hand"


def _partitioners() -> list[dict[str, Any]]:
    described = PARTITIONERS.facts(lambda kind: {"settings (default)": encode(kind()), "cites": kind.cites})
    return [{"partitioner": name, **its} for name, its in described]
