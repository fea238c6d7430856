"""Splits within clients."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrsic_data.build.splits import base_classes, dealt, few_shot, hold_out, stratified, together
from fedrsic_data.dataset.recipe import check_fractions
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import Rows


def some_owners(seed: int, n: int = 2100, classes: int = 21, clients: int = 10) -> tuple[Rows, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = Rows.single(np.repeat(np.arange(classes), n // classes), classes)
    return rows, rng.integers(0, clients, len(rows)).astype(np.int32)


def test_a_fifth_of_every_class_client_and_cell() -> None:
    rows, owner = some_owners(0)
    split = stratified(rows, owner, 10, {"test": 0.2}, np.random.default_rng(1))
    assert np.array_equal(np.bincount(rows.labels[split == 1]), [20] * 21)
    sizes = np.bincount(owner)
    assert np.all(np.abs(np.bincount(owner[split == 1]) - 0.2 * sizes) < 1)
    cells, held = np.zeros((10, 21)), np.zeros((10, 21))
    np.add.at(cells, (owner, rows.labels), 1)
    np.add.at(held, (owner[split == 1], rows.labels[split == 1]), 1)
    assert np.all(np.abs(held - 0.2 * cells) < 1)


def test_two_held_out_splits_do_not_overlap() -> None:
    rows, owner = some_owners(3)
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
        check_fractions(fractions)


def test_whole_clients() -> None:
    rows, owner = some_owners(0)
    split = hold_out("client", rows, owner, 10, {"validation": 0.1, "test": 0.2}, np.random.default_rng(1))
    codes = [set(split[owner == k]) for k in range(10)]
    assert all(len(c) == 1 for c in codes)
    assert sorted(next(iter(c)) for c in codes) == [0] * 7 + [1] + [2] * 2
    with pytest.raises(UsageError, match="leave none for training"):
        hold_out("client", rows, owner % 2, 2, {"a": 0.4, "b": 0.4}, np.random.default_rng(1))


def test_whole_users() -> None:
    rows, owner = some_owners(0)
    with pytest.raises(UsageError, match="natural users"):
        hold_out("group", rows, owner, 10, {"test": 0.2}, np.random.default_rng(1))
    users = np.random.default_rng(2).integers(0, 50, len(rows)).astype(np.int32)
    grouped = dataclasses.replace(rows, groups=users, group_names=tuple(f"u{i}" for i in range(50)))
    split = hold_out("group", grouped, owner, 10, {"test": 0.2}, np.random.default_rng(1))
    held = [set(split[users == u]) for u in range(50)]
    assert all(len(s) == 1 for s in held)
    assert sum(s == {1} for s in held) == 10


def test_label_sets_by_iterative_stratification() -> None:
    rng = np.random.default_rng(0)
    hot = rng.random((900, 12)) < rng.uniform(0.02, 0.5, 12)
    rows = Rows.multi_hot(hot)
    owner = rng.integers(0, 3, 900).astype(np.int32)
    owner[:5] = -1
    split = hold_out("sample", rows, owner, 3, {"test": 0.25}, np.random.default_rng(1))
    assert np.all(split[:5] == 0)
    for k in range(3):
        mine = owner == k
        assert np.sum(split[mine] == 1) == pytest.approx(0.25 * mine.sum(), abs=4)
        assert np.all(np.abs(hot[mine & (split == 1)].sum(axis=0) - 0.25 * hot[mine].sum(axis=0)) <= 5)
    same = hold_out("sample", rows, owner, 3, {"test": 0.25}, np.random.default_rng(1))
    assert np.array_equal(split, same)


@pytest.mark.parametrize("seed", range(60))
def test_rows_are_dealt_as_the_package_iterative_stratification_deals_them(seed: int) -> None:
    package = pytest.importorskip("iterstrat.ml_stratifiers")
    rng = np.random.default_rng(seed)
    hot = rng.random((rng.integers(1, 60), rng.integers(1, 8))) < rng.uniform(0, 0.7)
    shares = rng.dirichlet(np.ones(3)) if seed % 2 else np.array([0.5, 0.25, 0.25])  # the second has many ties
    theirs = package.IterativeStratification(labels=hot, r=shares, random_state=np.random.RandomState(seed))
    assert dealt(hot, shares, np.random.RandomState(seed)).tolist() == theirs.tolist()


def test_multi_label_rows_are_split_without_further_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("iterstrat", "iterstrat.ml_stratifiers", "sklearn", "scipy"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    rows = Rows.multi_hot(np.random.default_rng(0).random((40, 5)) < 0.4)
    split = hold_out("sample", rows, np.zeros(40, np.int32), 1, {"test": 0.25}, np.random.default_rng(1))
    assert int((split == 1).sum()) == 10


def test_few_shots() -> None:
    rows, owner = some_owners(0)
    split = stratified(rows, owner, 10, {"test": 0.2}, np.random.default_rng(1))
    beyond = few_shot(rows, owner, split, 4, np.random.default_rng(2))
    assert not beyond[split == 1].any()
    left = np.zeros((10, 21), int)
    np.add.at(left, (owner[~beyond & (split == 0)], rows.labels[~beyond & (split == 0)]), 1)
    whole = np.zeros((10, 21), int)
    np.add.at(whole, (owner[split == 0], rows.labels[split == 0]), 1)
    assert np.array_equal(left, np.minimum(whole, 4))


def test_groups_end_on_one_side_and_the_splits_keep_their_sizes() -> None:
    rows, owner = some_owners(0)
    split = stratified(rows, owner, 10, {"test": 0.2}, np.random.default_rng(1))
    rng = np.random.default_rng(5)
    groups = [np.sort(g) for g in rng.permutation(2100)[:90].reshape(30, 3)]
    after = together(split, owner, rows, groups)
    assert all(len(set(after[g])) == 1 for g in groups)
    assert any(len(set(split[g])) > 1 for g in groups)
    assert abs(int((after == 1).sum()) - 420) <= 3


@pytest.mark.parametrize(("classes", "base"), [(21, 11), (20, 10), (1, 1)])
def test_base_classes_are_the_first_half_rounded_up(classes: int, base: int) -> None:
    assert base_classes(classes) == base
