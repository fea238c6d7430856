"""The build: a recipe to Parquet shards and a manifest."""

from __future__ import annotations

import sys

import fedrsic_data

sys.modules[__name__].__class__ = fedrsic_data.CallablePackage
