"""Every setting of every partitioner does what it says, and a partitioner that ignored one would be caught."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from test_partition_checks import ALPHAS, CHECKS, Make
from test_partition_measures import crosstab, even_rows, expected_total_variation, run, sizes_of, total_variation

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import Assignment, Rows, from_json

CASES = [
    pytest.param(n, s, check, id=f"{n}-{s}") for n, by_setting in CHECKS.items() for s, check in by_setting.items()
]


class Seedless:
    """A mutant that answers as if the seed were always the same."""

    def __init__(self, partitioner: Any) -> None:
        self.partitioner = partitioner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.partitioner, name)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        return self.partitioner.assign(rows, np.random.default_rng(0))


def maker(name: str, ignored: str | None = None) -> Make:
    """Makes partitioners; a mutant drops one setting, so that it stays at its default."""

    def make(**settings: Any) -> Any:
        settings.pop(ignored, None)
        partitioner = from_json({"name": name, **settings})
        return Seedless(partitioner) if ignored == "seed" else partitioner

    return make


@pytest.mark.parametrize(("name", "setting", "check"), CASES)
def test_setting_does_what_it_says(name: Any, setting: Any, check: Any) -> None:
    check(maker(name))


@pytest.mark.parametrize(("name", "setting", "check"), CASES)
def test_mutant_that_ignores_the_setting_is_caught(name: Any, setting: Any, check: Any) -> None:
    with pytest.raises((AssertionError, UsageError, pytest.fail.Exception)):
        check(maker(name, ignored=setting))


@pytest.mark.parametrize("name", ["dirichlet", "dirichlet-client", "skew"])
def test_total_variation_falls_with_alpha_and_is_near_theory(name: str) -> None:
    rows = even_rows(10, 20_000)
    realised = []
    for alpha in ALPHAS:
        values = total_variation(rows, run(from_json({"name": name, "clients": 200, "alpha": alpha}), rows))
        realised.append(values.mean())
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - expected_total_variation(alpha, 10)) < 4 * error + 0.01, alpha
    assert (np.diff(realised) < 0).all()


def test_iid_is_within_rounding() -> None:
    rows = even_rows(7, 101)
    answer = run(from_json({"name": "iid", "clients": 9}), rows)
    assert np.ptp(sizes_of(answer)) <= 1
    assert np.ptp(crosstab(rows.labels, 7, answer), axis=0).max() <= 1


def test_quantity_leaves_label_mixtures_global() -> None:
    rows = even_rows(10, 2000)
    answer = run(from_json({"name": "quantity", "clients": 30, "sizes": "lognormal"}), rows)
    expected = sizes_of(answer)[:, None] / 10
    assert np.abs(crosstab(rows.labels, 10, answer) - expected).max() < 2
