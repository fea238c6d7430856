"""A recipe changed by what the command line says: ``--set``, ``--alpha``, ``--subset``, ``--sample``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedrsic_data.dataset.recipe import DEFAULT_PARTITION, Recipe
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS, defaults
from fedrsic_data.settings import assigned, hint_at, hints_of, parsed, suggest


def override(
    data: dict[str, Any],
    *,
    subsets: Sequence[str] = (),
    partitioner: str | None = None,
    sample: bool = False,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """A recipe's JSON changed by what the command line said.

    Args:
        data: Recipe JSON, which is not changed.
        subsets: Keep only these, in the recipe's order.
        partitioner: Replaces the partition; ``clients`` and ``min_size`` carry over to where they exist.
        sample: Use procedural stand-ins, and say so in the name.
        sets: ``key=value`` texts. A plain key is a field of the recipe, or else a setting of its partitions,
            where they have it; a dotted one (``layout.files``, ``subsets.NAME.title``) is a path. For values see
            ``settings.parsed``.

    Raises:
        UsageError: An unknown subset or a malformed ``key=value``.
    """
    data = {"partition": dict(DEFAULT_PARTITION), **_copied(data)}  # whose settings may be changed
    known = data.get("subsets")
    known = known if isinstance(known, dict) else {}
    for name in subsets:
        if name not in known:
            raise UsageError(f"--subset {name}: the recipe has no such subset{suggest(name, known)}")
    if subsets:
        data["subsets"] = {name: known[name] for name in known if name in subsets}
        data["sources"] = _used(data)
    scopes = _scopes(data, known)
    if partitioner is not None:
        has = defaults(partitioner)
        for scope in scopes:
            old = _spec(scope)
            kept = {key: old[key] for key in ("clients", "min_size") if key in old and has.get(key) is not None}
            scope["partition"] = {"name": partitioner, **kept}
    if sample and not data.get("sample"):
        data |= {"sample": {}, "name": f"{data.get('name')}-sample"}
    fields = [f.name for f in dataclasses.fields(Recipe)]
    for text in sets:
        key, value = assigned(text)
        path = key.split(".")
        if "." in key or key in fields:
            _put(data, path, parsed(value, hint_at(Recipe, path)), text)
            continue
        kinds = [_spec(scope).get("name") for scope in scopes]
        takers = [scope for scope, kind in zip(scopes, kinds, strict=True) if key in defaults(kind)]
        if not takers and all(defaults(kind) for kind in kinds):
            settings = [*fields, *(setting for kind in kinds for setting in defaults(kind))]
            raise UsageError(f"unknown key {key!r} for partition {kinds[0]}{suggest(key, dict.fromkeys(settings))}")
        for scope in takers or scopes:  # a partition that is unknown is found out when the recipe is read
            _put(scope, ["partition", key], parsed(value, _hint(_spec(scope).get("name"), key)), text)
    if sample and data.get("sample") is None:
        raise UsageError("--sample and --set sample=null contradict each other; leave one out")
    return data


def _copied(data: Mapping[str, Any]) -> dict[str, Any]:
    try:
        copy: dict[str, Any] = json.loads(json.dumps(data))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"recipe: should be plain JSON ({error})") from None
    return copy


def _used(data: Mapping[str, Any]) -> Any:
    """The settings of those sources that a subset has; what is malformed is found out when the recipe is read."""
    settings = data.get("sources", {})
    named = [s.get("sources") for s in data["subsets"].values() if isinstance(s, dict)]
    used = [name for names in named if isinstance(names, list) for name in names]
    return {name: its for name, its in settings.items() if name in used} if isinstance(settings, dict) else settings


def _scopes(data: dict[str, Any], subsets: dict[str, Any]) -> list[dict[str, Any]]:
    """Places of partitions: subsets with their own, and the recipe if a subset uses its partition."""
    own = [s for s in data["subsets"].values() if isinstance(s, dict) and s.get("partition")] if subsets else []
    return own if subsets and len(own) == len(data["subsets"]) else [data, *own]


def _spec(scope: Mapping[str, Any]) -> dict[str, Any]:
    spec = scope.get("partition", DEFAULT_PARTITION)
    return spec if isinstance(spec, dict) else {}


def _put(data: dict[str, Any], path: Sequence[str], value: Any, text: str) -> None:
    for step in path[:-1]:
        if data.get(step) is None:
            data[step] = {}
        data = data[step]
        if not isinstance(data, dict):
            raise UsageError(f"--set {text!r}: {step!r} has no fields")
    data[path[-1]] = value


def _hint(kind: object, key: str) -> Any:
    """The annotation of a partition's setting."""
    return hints_of(PARTITIONERS.named(kind)).get(key, Any) if kind in PARTITIONERS else Any
