"""Controlled rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrsic_data.partition import rounding
from fedrsic_data.partition.rounding import round_table


@given(
    arrays(float, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 40, width=32)),
    st.integers(0, 99),
)
def test_cells_and_margins_are_floor_or_ceiling(table: np.ndarray, seed: int) -> None:
    rounded = round_table(table, np.random.default_rng(seed))
    near = 1e-5
    assert np.all(rounded >= np.floor(table - near))
    assert np.all(rounded <= np.ceil(table + near))
    for axis in (0, 1):
        sums = table.sum(axis=axis)
        assert np.all(rounded.sum(axis=axis) >= np.floor(sums - near))
        assert np.all(rounded.sum(axis=axis) <= np.ceil(sums + near))


def test_whole_margins_are_kept_exactly() -> None:
    counts = np.random.default_rng(1).integers(0, 9, (40, 12)) * 5
    table = counts * 0.2 + 0.0
    mixed = np.full((6, 4), 2.5)
    assert np.array_equal(round_table(table, np.random.default_rng(0)), counts // 5)
    assert np.array_equal(round_table(mixed, np.random.default_rng(0)).sum(axis=0), [15] * 4)
    assert np.array_equal(round_table(mixed, np.random.default_rng(0)).sum(axis=1), [10] * 6)


def test_zeros_stay_zero() -> None:
    table = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    for seed in range(20):
        rounded = round_table(table, np.random.default_rng(seed))
        assert np.all(rounded[table == 0] == 0)
        assert np.all(rounded.sum(axis=0) == 1)
        assert np.all(rounded.sum(axis=1) == 1)


def banded(rows: int, columns: int, width: int, cell: float) -> np.ndarray:
    """Each column has a few cells in neighbouring rows, so that ones have far to go: the hard case."""
    table = np.zeros((rows, columns))
    column = np.arange(columns)
    for j in range(width):
        table[(column * rows // columns + j) % rows, column] = cell
    return table


@pytest.mark.parametrize(("width", "cell"), [(2, 0.5), (3, 1 / 3), (2, 0.3)])
def test_sparse_bands_keep_their_margins(width: int, cell: float) -> None:
    wide = banded(60, 1501, width, cell)
    for table in (wide, wide.T, wide[:, np.random.default_rng(5).permutation(1501)]):
        rounded = round_table(table, np.random.default_rng(2))
        assert np.abs(rounded - table).max() < 1
        for axis in (0, 1):
            assert np.abs(rounded.sum(axis=axis) - table.sum(axis=axis)).max() < 1 - 1e-6


def test_a_search_mends_several_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    too_many = []
    search = rounding._forest

    def counted(row: Any, column: Any, held: Any, over: Any) -> Any:
        too_many.append(int(np.maximum(over, 0).sum()))
        return search(row, column, held, over)

    monkeypatch.setattr(rounding, "_forest", counted)
    round_table(banded(60, 1501, 2, 0.5), np.random.default_rng(2))
    assert too_many[0] > 10
    assert len(too_many) <= too_many[0] / 2
