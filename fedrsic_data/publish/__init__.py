"""Datasets published to the Hugging Face Hub, with their images or without."""

from __future__ import annotations

import sys

import fedrsic_data

sys.modules[__name__].__class__ = fedrsic_data.CallablePackage
