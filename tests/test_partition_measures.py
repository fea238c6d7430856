"""What the partitioner tests measure with: rows, owners as tables, fitted Dirichlets; and that these measure right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fedrsic_data.dataset import skew
from fedrsic_data.partition import Rows, assign
from fedrsic_data.partition.base import Assignment


def ids(n: int) -> pa.Array:
    return pa.array([f"{i:07d}" for i in range(n)])


@cache
def even_rows(classes: int, each: int, domains: int = 1, users: int = 0) -> Rows:
    """``each`` rows of every class, in random order; domains and users independent of the classes."""
    rng = np.random.default_rng(99)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    rows = Rows.single(labels, classes, rng.permutation(np.arange(len(labels)) % domains))
    if users:
        names = tuple(f"user-{u:04d}" for u in range(users))
        rows = dataclasses.replace(rows, groups=rng.integers(0, users, len(rows)).astype(np.int32), group_names=names)
    return rows


def listed_rows(lists: Sequence[Sequence[int]], classes: int, domains: np.ndarray | None = None) -> Rows:
    offsets = np.cumsum([0, *map(len, lists)])
    labels = np.array([label for row in lists for label in row], np.int32)
    where = np.zeros(len(lists), np.int32) if domains is None else domains
    return Rows(labels, offsets, classes, where, int(where.max()) + 1)


def run(partitioner: Any, rows: Rows, seed: int = 0) -> Assignment:
    return assign(partitioner, rows, ids(len(rows)), np.random.default_rng(seed))


def crosstab(codes: np.ndarray, width: int, answer: Assignment) -> np.ndarray:
    held = answer.owner >= 0
    cells = np.bincount(answer.owner[held].astype(np.int64) * width + codes[held], minlength=answer.clients * width)
    return cells.reshape(answer.clients, width)


def sizes_of(answer: Assignment) -> np.ndarray:
    return np.bincount(answer.owner[answer.owner >= 0], minlength=answer.clients)


def total_variation(rows: Rows, answer: Assignment) -> float:
    return skew.total_variation(crosstab(rows.labels, rows.classes, answer))


def digamma(x: Any) -> np.ndarray:
    """Psi by its recurrence up to 6 and its asymptotic series from there."""
    x = np.array(x, float)
    shift = np.zeros_like(x)
    while (x < 6).any():
        low = x < 6
        shift[low] -= 1 / x[low]
        x[low] += 1
    inverse = 1 / x**2
    return shift + np.log(x) - 0.5 / x - inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252 - inverse / 240)))


def fit_alpha(counts: np.ndarray, censored: int = 5) -> tuple[float, float]:
    """Maximum likelihood of a symmetric Dirichlet (Minka 2000, "Estimating a Dirichlet distribution"), by bisection.

    Shares below ``censored`` rows are known only to lie below that: near zero the density goes as p ** (alpha - 1),
    so their expected logarithm is log(bound) - 1 / alpha, which put into the score gives the censored likelihood's.

    Args:
        counts: int [vectors, components], each vector drawn as shares of its sum and rounded.

    Returns:
        alpha and its standard error, relative, from the curvature.
    """
    total = counts.sum(axis=1, keepdims=True)
    vectors, components = counts.shape
    low = counts < censored
    seen = np.log(np.where(low, censored, counts) / total).sum()

    def score(alpha: float) -> float:
        psi = digamma([components * alpha, alpha])
        return vectors * components * (psi[0] - psi[1]) + seen - low.sum() / alpha

    bottom, top = 1e-4, 1e5
    for _ in range(80):
        middle = math.sqrt(bottom * top)
        bottom, top = (middle, top) if score(middle) > 0 else (bottom, middle)
    curvature = -(score(bottom * 1.01) - score(bottom / 1.01)) / (bottom * (1.01 - 1 / 1.01))
    return bottom, 1 / (bottom * math.sqrt(curvature))


def expected_total_variation(alpha: float, classes: int) -> float:
    """Mean total variation of Dir(alpha, ..., alpha) to the uniform mixture: the beta's mean absolute deviation."""
    a, b = alpha, alpha * (classes - 1)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return classes * math.exp(a * math.log(a) + b * math.log(b) - log_beta - (a + b + 1) * math.log(a + b))


def assert_alpha(counts: np.ndarray, alpha: float) -> None:
    fitted, error = fit_alpha(counts)
    assert abs(math.log(fitted / alpha)) < 4 * error + 0.02, f"alpha {alpha} gave {fitted:.4g} +- {100 * error:.1f}%"


@pytest.mark.parametrize("alpha", [0.05, 0.5, 10.0, 100.0])
def test_fit_alpha_finds_what_numpy_drew_and_its_error(alpha: float) -> None:
    rng = np.random.default_rng(1)
    fits = [fit_alpha((rng.dirichlet(np.full(10, alpha), 100) * 3000).astype(int)) for _ in range(40)]
    logs = np.log([fitted / alpha for fitted, _ in fits])
    error = np.mean([error for _, error in fits])
    assert abs(logs.mean()) < 4 * error / math.sqrt(40) + 0.01
    assert abs(logs.std() / error - 1) < 0.4


@pytest.mark.parametrize("alpha", [0.1, 1.0, 10.0])
def test_expected_total_variation_is_that_of_numpys_draws(alpha: float) -> None:
    drawn = np.random.default_rng(2).dirichlet(np.full(8, alpha), 20_000)
    assert abs(0.5 * np.abs(drawn - 1 / 8).sum(axis=1).mean() - expected_total_variation(alpha, 8)) < 0.005
