"""Partitioners: pure functions from label columns to owners, one file each.

The package can be called, ``fedrsic_data.partition(labels, "dirichlet", clients=20, alpha=0.1)``: see ``result``.
"""

from __future__ import annotations

import sys

import fedrsic_data
from fedrsic_data.partition.base import Assignment, Owners, Partitioner, Rows, assign, names, sorting
from fedrsic_data.partition.named import PARTITIONERS, defaults, from_json, pinned, spelled_out

__all__ = [
    "PARTITIONERS",
    "Assignment",
    "Owners",
    "Partitioner",
    "Rows",
    "assign",
    "defaults",
    "from_json",
    "names",
    "pinned",
    "sorting",
    "spelled_out",
]

sys.modules[__name__].__class__ = fedrsic_data.CallablePackage
