"""Every partitioner by name, and from JSON to a partitioner and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedrsic_data.partition.base import Partitioner
from fedrsic_data.registry import Registry
from fedrsic_data.settings import decode, encode

PARTITIONERS: Registry[type[Any]] = Registry(
    "partitioner",
    {
        "iid": "fedrsic_data.partition.iid:Iid",
        "dirichlet": "fedrsic_data.partition.dirichlet:Dirichlet",
        "dirichlet-client": "fedrsic_data.partition.dirichlet_client:DirichletClient",
        "pachinko": "fedrsic_data.partition.pachinko:Pachinko",
        "pathological": "fedrsic_data.partition.pathological:Pathological",
        "class-blocks": "fedrsic_data.partition.class_blocks:ClassBlocks",
        "shards": "fedrsic_data.partition.shards:Shards",
        "ext-dirichlet": "fedrsic_data.partition.ext_dirichlet:ExtDirichlet",
        "quantity": "fedrsic_data.partition.quantity:Quantity",
        "domain": "fedrsic_data.partition.domain:Domain",
        "natural": "fedrsic_data.partition.natural:Natural",
        "skew": "fedrsic_data.partition.skew:Skew",
        "assigned": "fedrsic_data.partition.assigned:Assigned",
        "label-set": "fedrsic_data.partition.label_set:LabelSet",
        "cluster": "fedrsic_data.partition.cluster:Cluster",
    },
    "fedkit.partitioners",
    ("assign", "cites", "multi_label", "needs_ids", "__dataclass_fields__"),
)
"""Every partitioner by the name it has in recipes and on the command line."""


def from_json(spec: Mapping[str, Any], where: str = "partition") -> Partitioner:
    """A partitioner from a recipe's ``{"name": "dirichlet", "alpha": 0.5, ...}``.

    Raises:
        UsageError: Unknown name or setting, or a value out of range.
    """
    name = spec.get("name")
    kind = PARTITIONERS.named(name, where)
    settings = {key: value for key, value in spec.items() if key != "name"}
    partitioner: Partitioner = decode(kind, settings, f"{where} {name}")
    return partitioner


def defaults(name: object) -> dict[str, Any]:
    """The settings of a partitioner and their defaults; none for a name that is unknown."""
    kind = PARTITIONERS.get(name) if isinstance(name, str) else None
    return {} if kind is None else {field.name: field.default for field in dataclasses.fields(kind)}


def spelled_out(spec: Mapping[str, Any], where: str = "partition") -> dict[str, Any]:
    """A partitioner's JSON with every setting spelled out."""
    return {"name": spec["name"], **encode(from_json(spec, where))}


def pinned(spec: Mapping[str, Any], where: str = "partition") -> dict[str, Any]:
    """A partitioner's JSON with every setting spelled out, and the digest of the file it reads filled in."""
    full = spelled_out(spec, where)
    if "sha256" in full and not full["sha256"]:
        from fedrsic_data.partition import external

        full["sha256"] = external.digest(full["path"])
    return full
