"""Skew metrics against figures worked out by hand, and the band against chance."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from fedrsic_data.dataset import skew


def test_by_hand() -> None:
    counts = np.array([[10, 0], [0, 10]])
    assert skew.total_variation(counts) == pytest.approx([0.5, 0.5])
    assert skew.hellinger(counts) == pytest.approx([np.sqrt(1 - np.sqrt(0.5))] * 2)
    divergence = 0.5 * np.log2(1 / 0.75) + 0.5 * (0.5 * np.log2(0.5 / 0.75) + 0.5 * np.log2(0.5 / 0.25))
    assert skew.jensen_shannon(counts) == pytest.approx([divergence] * 2)
    assert skew.classes_per_client(counts).tolist() == [1, 1]
    assert skew.size_gini(np.array([[1], [1], [1], [9], [0]])) == pytest.approx(0.5)
    assert skew.entropy(np.array([[5, 5], [9, 0]])) == pytest.approx([1.0, 0.0])


def test_no_skew_is_zero() -> None:
    even = np.full((5, 4), 25)
    for metric in (skew.total_variation, skew.jensen_shannon, skew.hellinger):
        assert metric(even) == pytest.approx(np.zeros(5))
    assert skew.size_gini(even) == 0


def test_the_band_holds_iid_draws_and_not_skewed_ones() -> None:
    rng = np.random.default_rng(0)
    iid = rng.multinomial(100, np.full(10, 0.1), size=20)
    measured = skew.measure_counts(iid, np.full((20, 1), 100), rng)
    tv = measured["total_variation"]
    assert tv["iid_low"] * 0.9 <= tv["value"] <= tv["iid_high"] * 1.1
    skewed = np.stack([rng.multinomial(100, p) for p in rng.dirichlet([0.1] * 10, 20)])
    assert skew.measure_counts(skewed, np.full((20, 1), 100), rng)["total_variation"]["value"] > 3 * tv["iid_high"]
    assert "domain_entropy" not in measured
    assert "domain_entropy" in skew.measure_counts(iid, iid[:, :2], rng)


def test_clients_without_rows_do_not_count() -> None:
    counts = np.array([[10, 0], [0, 10], [0, 0]])
    assert skew.METRICS["total_variation"](counts) == pytest.approx(0.5)
    assert skew.METRICS["total_variation"](np.zeros((3, 2), int)) == 0.0


def test_cooccurrence_drift_by_hand() -> None:
    # client 0 sees labels 0 and 1 together, client 1 sees 2 and 3; a third sees no pair
    owner = np.array([0, 0, 1, 1, 2])
    labels, times = np.array([0, 1, 1, 0, 2, 3, 2, 3, 0]), np.array([2, 2, 2, 2, 1])
    drift = skew.cooccurrence_drift(owner, labels, times, 4, np.random.default_rng(0))
    assert drift["value"] == pytest.approx(0.5)
    same = skew.cooccurrence_drift(np.array([0, 1, 0, 1, 2]), labels, times, 4, np.random.default_rng(0))
    assert same["value"] == pytest.approx(0.0)


def test_cooccurrence_drift_beside_its_band() -> None:
    rng = np.random.default_rng(0)
    hot = rng.random((4000, 6)) < 0.4
    times, labels = hot.sum(axis=1), np.nonzero(hot)[1]
    chance = skew.cooccurrence_drift(rng.integers(0, 8, 4000), labels, times, 6, rng)
    assert chance["iid_low"] * 0.8 <= chance["value"] <= chance["iid_high"] * 1.2
    by_label = skew.cooccurrence_drift(hot @ (1 << np.arange(6)) % 8, labels, times, 6, rng)
    assert by_label["value"] > 3 * by_label["iid_high"]
    none = skew.cooccurrence_drift(np.zeros(3, int), np.arange(3), np.ones(3, int), 3, rng)
    assert none["value"] == 0.0


def test_label_sets_have_their_drift_in_the_measure() -> None:
    plan = pa.table(
        {
            "client_id": ["a", "a", "b", None],
            "split": ["train", "train", "train", None],
            "labels": [["x", "y"], ["y"], ["y", "z"], ["x"]],
        }
    )
    clients = pa.Table.from_pylist(
        [
            {"split": "train", "labels": [0, 1], "counts": [1, 2], "domains": ["d"], "domain_counts": [2]},
            {"split": "train", "labels": [1, 2], "counts": [1, 1], "domains": ["d"], "domain_counts": [1]},
        ]
    )
    measured = skew.measure(clients, plan, ["x", "y", "z"], np.random.default_rng(0))
    assert measured["cooccurrence_drift"]["value"] == pytest.approx(0.5)
    assert skew.as_table(measured).num_rows == len(measured)


def test_the_band_of_label_sets_is_that_of_whole_images() -> None:
    """Two labels of an image are never the same, so its counts vary less than draws of single labels do."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 6, 3000)
    sets = np.sort(np.stack([first, (first + rng.integers(1, 6, 3000)) % 6], axis=1), axis=1)
    owner = rng.integers(0, 300, 3000)
    counts = np.zeros((300, 6), np.int64)
    np.add.at(counts, (owner[:, None], sets), 1)
    names = [f"{i}" for i in range(6)]
    plan = pa.table(
        {
            "client_id": pa.array([f"{k:03d}" for k in owner]),
            "split": ["train"] * 3000,
            "labels": [[names[i] for i in row] for row in sets],
        }
    )
    clients = pa.table(
        {
            "split": ["train"] * 300,
            "labels": [np.flatnonzero(row).tolist() for row in counts],
            "counts": [row[row > 0].tolist() for row in counts],
            "domains": [["d"]] * 300,
            "domain_counts": [[int(n)] for n in np.bincount(owner, minlength=300)],
        }
    )
    measured = skew.measure(clients, plan, names, rng)
    for name in ("total_variation", "jensen_shannon", "hellinger", "classes_per_client"):
        facts = measured[name]
        assert facts["iid_low"] * 0.98 <= facts["value"] <= facts["iid_high"] * 1.02, name
    alone = skew.measure_counts(counts, np.ones((300, 1), np.int64), rng)["total_variation"]
    assert alone["value"] < alone["iid_low"] * 0.95


def test_the_band_is_of_the_same_rows_dealt_anew() -> None:
    """One client has all there is however it is dealt; of few rows, draws with replacement would lack classes."""
    rng = np.random.default_rng(0)
    alone = skew.measure_counts(np.full((1, 20), 2), np.full((1, 1), 40), rng)["classes_per_client"]
    assert alone == {"value": 20, "iid_low": 20, "iid_high": 20}
    few = np.zeros((5, 30), np.int64)
    np.add.at(few, (rng.permutation(np.repeat(np.arange(5), 6)), np.arange(30)), 1)  # one row a class
    facts = skew.measure_counts(few, few.sum(axis=1, keepdims=True), rng)["classes_per_client"]
    assert facts == {"value": 6, "iid_low": 6, "iid_high": 6}
