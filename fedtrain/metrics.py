"""Metrics of a model; percentages are 0 to 100, and NaN if there is nothing to measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def accuracy(hits: int, rows: int) -> float:
    """Percentage of ``rows`` that are right; NaN without rows."""
    return 100.0 * hits / rows if rows else math.nan


def finite_or_none(value: float) -> float | None:
    """A number as JSON has it: None if it is not finite."""
    return value if math.isfinite(value) else None


def mean(values: Iterable[float]) -> float:
    """Unweighted mean of the values that are not NaN; NaN without any."""
    held = [value for value in values if not math.isnan(value)]
    return math.fsum(held) / len(held) if held else math.nan


def harmonic(*values: float) -> float:
    """Harmonic mean of percentages: 0 as soon as one is 0, NaN as soon as one is NaN."""
    if any(math.isnan(value) for value in values):
        return math.nan
    return len(values) / math.fsum(1 / value for value in values) if all(values) else 0.0


def over_clients(name: str, values: Sequence[float], rows: Sequence[int]) -> dict[str, float]:
    """Summarise a per-client metric (higher is better); NaN if there are no values.

    Args:
        name: Name of the metric.
        values: Value of each client; NaN is ignored.
        rows: Rows of each client.

    Returns:
        ``<name>/mean``: every client counts the same. ``<name>/weighted``: by its rows. ``<name>/worst_decile``: the
        mean over the tenth of the clients, rounded up, that fare worst. ``<name>/std``: the standard deviation over
        the clients, which are all there are (divided by their number).
    """
    held = [(float(value), count) for value, count in zip(values, rows, strict=True) if not math.isnan(value)]
    total = sum(count for _, count in held)
    middle = mean(value for value, _ in held)
    worst = sorted(value for value, _ in held)[: math.ceil(len(held) / 10)]
    return {
        f"{name}/mean": middle,
        f"{name}/weighted": math.fsum(value * count for value, count in held) / total if total else math.nan,
        f"{name}/worst_decile": mean(worst),
        f"{name}/std": math.sqrt(mean((value - middle) ** 2 for value, _ in held)) if held else math.nan,
    }
