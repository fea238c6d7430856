"""Splits within clients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import Rows
from fedrsic_data.splits import check, stratified


def dealt(seed: int, n: int = 2100, classes: int = 21, clients: int = 10) -> tuple[Rows, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = Rows.single(np.repeat(np.arange(classes), n // classes), classes)
    return rows, rng.integers(0, clients, len(rows)).astype(np.int32)


def test_a_fifth_of_every_class_client_and_cell() -> None:
    rows, owner = dealt(0)
    split = stratified(rows, owner, 10, {"test": 0.2}, np.random.default_rng(1))
    assert np.array_equal(np.bincount(rows.labels[split == 1]), [20] * 21)
    sizes = np.bincount(owner)
    assert np.all(np.abs(np.bincount(owner[split == 1]) - 0.2 * sizes) < 1)
    cells, held = np.zeros((10, 21)), np.zeros((10, 21))
    np.add.at(cells, (owner, rows.labels), 1)
    np.add.at(held, (owner[split == 1], rows.labels[split == 1]), 1)
    assert np.all(np.abs(held - 0.2 * cells) < 1)


def test_two_held_out_splits_do_not_overlap() -> None:
    rows, owner = dealt(3)
    split = stratified(rows, owner, 10, {"validation": 0.1, "test": 0.2}, np.random.default_rng(1))
    assert np.array_equal(np.bincount(split), [1470, 210, 420])
    for code, each in ((1, 10), (2, 20)):
        assert np.array_equal(np.bincount(rows.labels[split == code]), [each] * 21)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 30), st.floats(0.05, 0.9), st.integers(0, 9))
def test_every_client_keeps_a_row_for_training(n: int, classes: int, clients: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = Rows.single(rng.integers(0, classes, n), classes)
    owner = rng.integers(-1, clients, n).astype(np.int32)
    split = stratified(rows, owner, clients, {"test": share}, rng)
    assert set(owner[owner >= 0]) == set(owner[(owner >= 0) & (split == 0)])
    assert np.all(split[owner < 0] == 0)


@pytest.mark.parametrize(
    "fractions", [{"test": 0.0}, {"test": 1.0}, {"a": 0.5, "b": 0.5}, {"train": 0.1}, {"a-b": 0.1}]
)
def test_fractions_that_are_no_split(fractions: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="splits"):
        check(fractions)
