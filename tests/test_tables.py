"""Controlled rounding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedrsic_data.tables import round_table


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
