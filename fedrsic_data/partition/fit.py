"""Tables with given margins that stay as near as they can to a prior: iterative proportional fitting."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ROUNDS = 40
_FLOOR = 1e-9  # of each row's mass, as the columns are: no cell is impossible, so all margins can be met
_TINY = 1e-300


def fit(prior: Floats, rows: Floats, columns: Floats) -> Floats:
    """Scales the rows and columns of a prior until both margins hold, to the rounding of float64.

    Iterative proportional fitting (Deming and Stephan 1940, doi 10.1214/aoms/1177731829) for a bounded number of
    rounds; what is still missing then, less than one row in all as a rule, is added as in Altschuler, Weed and
    Rigollet 2017 (arXiv 1705.09634, algorithm 2), which makes the margins exact wherever the rounds stopped.

    Args:
        prior: float64 [R, C], non-negative, in any units by row; a row of zeros has no preference.
        rows: float64 [R], the row sums wanted, non-negative.
        columns: float64 [C], the column sums wanted, with the same total.

    Returns:
        float64 [R, C], non-negative.
    """
    mass = prior.sum(axis=1, keepdims=True)
    prior = prior / np.where(mass > 0, mass, 1.0) + _FLOOR * columns / max(columns.sum(), _TINY)
    by_row, by_column = np.zeros(len(rows)), np.ones(len(columns))
    for _ in range(_ROUNDS):
        reached = prior @ by_column
        if np.abs(by_row * reached - rows).sum() < 0.5:
            break
        by_row = rows / np.maximum(reached, _TINY)
        by_column = columns / np.maximum(by_row @ prior, _TINY)
    return _exact(by_row[:, None] * prior * by_column, rows, columns)


def _exact(table: Floats, rows: Floats, columns: Floats) -> Floats:
    """Lowers what is too much in any row or column, then adds what is missing in both in proportion."""
    table *= np.minimum(1.0, rows / np.maximum(table.sum(axis=1), _TINY))[:, None]
    table *= np.minimum(1.0, columns / np.maximum(table.sum(axis=0), _TINY))
    lacking = np.maximum(rows - table.sum(axis=1), 0.0)
    if lacking.sum() > 0:
        table += np.outer(lacking / lacking.sum(), np.maximum(columns - table.sum(axis=0), 0.0))
    return table
