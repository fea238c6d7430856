"""Images with any number of labels: quotas met, mixtures follow alpha, images without labels served."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from test_partition_measures import assert_alpha, crosstab, ids, listed_rows, run, sizes_of

from fedrsic_data.dataset import skew
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS, Assignment, Rows, assign, from_json
from fedrsic_data.partition.base import reduced
from fedrsic_data.partition.draws import dirichlet
from fedrsic_data.partition.labels import first, label_sets, rarest
from fedrsic_data.partition.multilabel import fill


def scenes(n: int, classes: int, mean: float = 2.5, seed: int = 5) -> Rows:
    """Rows with Zipf-frequent labels that occur together by topic; some without any label."""
    rng = np.random.default_rng(seed)
    topics = np.array([rng.permutation(classes) for _ in range(12)])
    row = np.repeat(np.arange(n), rng.poisson(mean, n))
    rank = np.minimum(rng.zipf(1.5, len(row)) - 1, classes - 1)
    label = topics[rng.integers(0, 12, n)[row], rank]
    row, label = np.divmod(np.unique(row * classes + label), classes)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])
    return Rows(label.astype(np.int32), offsets, classes, np.zeros(n, np.int32))


def label_counts(rows: Rows, answer: Assignment) -> np.ndarray:
    """Rows of each label, and last of none, at each client."""
    owner = np.repeat(answer.owner, np.diff(rows.offsets))
    cells = np.bincount(owner * (rows.classes + 1) + rows.labels, minlength=answer.clients * (rows.classes + 1))
    table = cells.reshape(answer.clients, -1)
    np.add.at(table[:, -1], answer.owner[np.diff(rows.offsets) == 0], 1)
    return table


@pytest.mark.parametrize("name", ["dirichlet", "label-set"])
@pytest.mark.parametrize("classes", [17, 80, 1628])
def test_mixtures_follow_alpha_down_to_the_iid_band(name: str, classes: int) -> None:
    rows = scenes(20_000, classes)
    distance = []
    for alpha in (0.05, 0.3, 2.0, 1e4):
        answer = run(from_json({"name": name, "clients": 20, "alpha": alpha}), rows)
        distance.append(skew.total_variation(label_counts(rows, answer)).mean())
    assert (np.diff(distance) < -0.02).all(), distance
    rng = np.random.default_rng(0)
    band = []
    for _ in range(20):
        owner = rng.permutation(np.arange(20_000) % 20)
        band.append(skew.total_variation(label_counts(rows, type(answer)(owner, 20))).mean())
    assert distance[-1] < 1.05 * max(band), "a large alpha is no more skewed than chance"
    assert distance[-2] > max(band)


def test_independent_labels_meet_their_quotas_and_alpha() -> None:
    """Where labels do not occur together the quotas can be met, and the shares are Dirichlet again."""
    rows = listed_rows([[c] if c < 49 else [] for c in range(50)] * 2000, 49)
    for alpha in (0.1, 1.0, 10.0):
        answer = run(from_json({"name": "dirichlet", "clients": 10, "alpha": alpha, "min_size": 0}), rows)
        assert_alpha(label_counts(rows, answer).T, alpha)


def test_fill_meets_quotas_that_can_be_met_and_repairs_most_of_the_rest() -> None:
    """Quotas taken from a random partition can be met: what is left is a small part of what the draw moves."""
    rows = scenes(30_000, 40)
    rng = np.random.default_rng(1)
    owner = rng.choice(10, len(rows), p=dirichlet(0.5, 1, 10, rng)[0]).astype(np.int32)
    totals = label_counts(rows, run(from_json({"name": "iid", "clients": 1}), rows))[0]
    wanted = label_counts(rows, _answer(owner)).T
    shares = np.where(totals[:, None] > 0, wanted / np.maximum(totals, 1)[:, None], 0.1)
    got = label_counts(rows, _answer(fill(rows.labels, rows.offsets, shares, rng))).T
    assert np.abs(got - wanted).sum() < 0.01 * totals.sum()


def test_fill_takes_the_whole_row() -> None:
    """Two labels that always occur together cannot be in different places: both get the mean of their quotas."""
    rows = listed_rows([[0, 1]] * 1000, 2)
    shares = np.array([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]])
    owner = fill(rows.labels, rows.offsets, shares, np.random.default_rng(0))
    assert abs(np.mean(owner == 0) - 0.6) < 0.01


def test_images_without_labels_are_a_class_of_their_own() -> None:
    rows = listed_rows([[0], [], [0, 1], []] * 1000, 2)
    empty = np.diff(rows.offsets) == 0
    for name in ("dirichlet", "label-set"):
        answer = run(from_json({"name": name, "clients": 8, "alpha": 1e-6, "min_size": 0}), rows)
        assert len(np.unique(answer.owner[empty])) == 1
    for how in ("first", "rarest"):
        single = reduced(rows, how)
        assert single.is_single
        assert (single.labels == 2).tolist() == empty.tolist()
        assert single.classes == 3


def test_only_empty_label_lists() -> None:
    rows = Rows(np.zeros(0, np.int32), np.zeros(41, np.int64), 5, np.zeros(40, np.int32))
    for name in ("iid", "dirichlet", "label-set", "quantity", "domain"):
        assert sizes_of(run(from_json({"name": name, "clients": 4}), rows)).min() >= 1
    assert sizes_of(run(from_json({"name": "shards", "clients": 4, "reduce": "first"}), rows)).tolist() == [10] * 4


@pytest.mark.parametrize("name", ["iid", "quantity", "domain"])
def test_label_sets_are_stratified(name: str) -> None:
    rows = listed_rows([[0], [0, 1], [1, 2], []] * 300, 3)
    answer = run(from_json({"name": name, "clients": 6}), rows)
    code = np.arange(1200) % 4
    mixtures = skew.mixtures(crosstab(code, 4, answer))
    assert np.abs(mixtures - 0.25).max() < 2.5 / sizes_of(answer).min()


def test_label_sets_ignore_order_and_repetition() -> None:
    codes, sets = label_sets(*_lists([[2, 0], [0, 2], [0, 0, 2], [], [2], [0], []]), 3)
    assert sets == 4
    assert len({codes[0], codes[1], codes[2]}) == len({codes[3], codes[6]}) == 1
    assert len({codes[0], codes[3], codes[4], codes[5]}) == 4


def test_label_sets_are_those_of_python() -> None:
    rows = scenes(3000, 30)
    codes, sets = label_sets(rows.labels, rows.offsets, 30)
    real = [frozenset(rows.labels[a:b].tolist()) for a, b in zip(rows.offsets, rows.offsets[1:], strict=False)]
    assert sets == len(set(real)) == len(set(zip(codes.tolist(), real, strict=True)))


def test_first_and_rarest() -> None:
    given = _lists([[2, 0], [0, 1], [0], [], [1, 2], [2]])
    assert first(*given, 3).tolist() == [2, 0, 0, 3, 1, 2]
    assert rarest(*given, 3).tolist() == [0, 1, 0, 3, 1, 2]  # 0 and 2 are as frequent


def test_multi_hot_and_lists_are_the_same_rows() -> None:
    hot = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    rows, listed = Rows.multi_hot(hot), listed_rows([[0, 2], [], [1]], 3)
    assert rows.labels.tolist() == listed.labels.tolist()
    assert rows.offsets.tolist() == listed.offsets.tolist()
    assert (rows.classes, len(rows), rows.is_single) == (3, 3, False)


@pytest.mark.parametrize("name", [name for name, kind in PARTITIONERS.items() if not kind.multi_label])
def test_single_label_partitioners_refuse_label_sets_or_reduce_them(name: Any) -> None:
    rows = scenes(500, 6)
    clients = {} if name == "class-blocks" else {"clients": 5}
    with pytest.raises(UsageError, match="set reduce to first or rarest"):
        run(from_json({"name": name, **clients}), rows)
    extra = {"classes_per_client": 3} if "classes_per_client" in PARTITIONERS[name].__annotations__ else {}
    for how in ("first", "rarest"):
        answer = run(from_json({"name": name, "reduce": how, **clients, **extra}), rows)
        assert sizes_of(answer).sum() == 500


def test_balance_is_refused_with_label_sets() -> None:
    with pytest.raises(UsageError, match="balance=true.*set balance=false"):
        run(from_json({"name": "dirichlet", "balance": True}), scenes(100, 5))


def test_many_rows_many_labels_stay_small() -> None:
    """Memory does not grow with clients x rows: 100,000 x 5,000 cells would be 500 MB of single bytes."""
    rows = scenes(100_000, 80)
    partitioner = from_json({"name": "dirichlet", "clients": 5_000, "min_size": 0})
    tracemalloc.start()
    answer = assign(partitioner, rows, ids(len(rows)), np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(answer.owner)) > 2_500
    assert peak < 150 * 10**6


def _lists(given: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    rows = listed_rows(given, 3)
    return rows.labels, rows.offsets


def _answer(owner: np.ndarray) -> Assignment:
    return Assignment(owner, 10)
