"""Figures of how good a model is; percentages are 0 to 100, a figure of nothing is NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable


def accuracy(hits: int, rows: int) -> float:
    """Percentage of ``rows`` that are right; NaN without rows."""
    return 100.0 * hits / rows if rows else math.nan


def mean(values: Iterable[float]) -> float:
    """Unweighted mean of the values that are not NaN; NaN without any."""
    held = [value for value in values if not math.isnan(value)]
    return math.fsum(held) / len(held) if held else math.nan


def harmonic(*values: float) -> float:
    """Harmonic mean of percentages: 0 as soon as one is 0, NaN as soon as one is NaN."""
    if any(math.isnan(value) for value in values):
        return math.nan
    return len(values) / math.fsum(1 / value for value in values) if all(values) else 0.0
