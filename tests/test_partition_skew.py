"""Sizes, labels and domains at once: margins are exact, homes are single, what gives way is said."""

import dataclasses

import numpy as np
import pytest
from test_partition_measures import crosstab, even_rows, run, sizes_of

from fedrsic_data import skew
from fedrsic_data.partition import Rows, from_json
from fedrsic_data.partition.fit import fit


def source_rows():
    """Three domains of very different sizes, of which the last lacks half the classes."""
    rng = np.random.default_rng(4)
    domain = np.repeat(np.arange(3, dtype=np.int32), [900, 1500, 10_500])
    label = rng.integers(0, 16, len(domain))
    label[domain == 2] = rng.integers(0, 8, 10_500)
    return Rows.single(label, 16, domain)


@pytest.mark.parametrize("alpha", [None, 1e-6, 0.3, 1e6])
@pytest.mark.parametrize("mix", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("clients", [1, 2, 30])
def test_every_margin_is_exact(alpha, mix, clients):
    rows = source_rows()
    wanted = np.random.default_rng(clients).multinomial(len(rows) - 10 * clients, np.full(clients, 1 / clients)) + 10
    spec = {"name": "skew", "clients": clients, "sizes": wanted.tolist(), "alpha": alpha, "domain_mix": mix}
    answer = run(from_json(spec), rows)
    assert sizes_of(answer).tolist() == wanted.tolist()
    assert answer.moved == 0
    cell = rows.domains * 16 + rows.labels
    assert np.array_equal(crosstab(cell, 48, answer).sum(axis=0), np.bincount(cell, minlength=48))
    domains = crosstab(rows.domains, 3, answer)
    if mix == 0:
        assert ((domains > 0).sum(axis=1) - 1).sum() <= 2, "at most domains - 1 borders are crossed"
    if mix == 1:
        expected = np.outer(wanted, np.bincount(rows.domains)) / len(rows)
        assert np.abs(domains - expected).max() <= 1 + 1e-9


def test_rows_beyond_listed_sizes_are_left_out_in_proportion():
    rows = source_rows()
    spec = {"name": "skew", "clients": 3, "sizes": [3000, 2000, 1450], "domain_mix": 1.0}
    answer = run(from_json(spec), rows)
    assert sizes_of(answer).tolist() == [3000, 2000, 1450]
    left_out = np.bincount(rows.domains[answer.owner < 0], minlength=3)
    assert np.abs(left_out - np.array([450, 750, 5250])).max() <= 1


def test_no_alpha_is_no_label_skew():
    rows = Rows.single(np.arange(6000) % 10, 10, np.arange(6000) // 10 % 3)
    plain = run(from_json({"name": "skew", "clients": 12, "alpha": None, "sizes": "lognormal"}), rows)
    expected = sizes_of(plain)[:, None] / 10
    assert np.abs(crosstab(rows.labels, 10, plain) - expected).max() <= 4
    skewed = run(from_json({"name": "skew", "clients": 12, "alpha": 0.1, "sizes": "lognormal"}), rows)
    assert skew.total_variation(crosstab(rows.labels, 10, skewed)).mean() > 0.4


def test_minimum_size_raises_the_smallest_at_the_cost_of_the_largest():
    rows = even_rows(4, 500, domains=2)
    spec = {"name": "skew", "clients": 40, "sizes": "lognormal", "sigma": 2.0}
    free = run(from_json(spec | {"min_size": 0}), rows)
    raised = run(from_json(spec | {"min_size": 10}), rows)
    small = sizes_of(free) < 10
    assert (sizes_of(raised)[small] == 10).all()
    assert raised.moved == (10 - sizes_of(free)[small]).sum() > 0
    largest = sizes_of(free).argmax()
    assert sizes_of(raised)[largest] < sizes_of(free)[largest]


def test_domain_without_a_class_keeps_sizes_and_domains():
    """Clients at home where their class does not occur still get their size."""
    rows = Rows.single(np.repeat([0, 1], 500), 2, np.repeat([0, 1], 500))
    answer = run(from_json({"name": "skew", "clients": 10, "alpha": 1e-6}), rows)
    assert (sizes_of(answer) == 100).all()
    assert ((crosstab(rows.domains, 2, answer) > 0).sum(axis=1) == 1).all()


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0])
def test_fit_meets_margins_and_keeps_odds(alpha):
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.full(6, alpha), 40)
    rows, columns = rng.uniform(1, 50, 40), rng.uniform(1, 9, 6)
    columns *= rows.sum() / columns.sum()
    table = fit(prior, rows, columns)
    assert (table >= 0).all()
    assert np.allclose(table.sum(axis=1), rows, rtol=1e-9)
    assert np.allclose(table.sum(axis=0), columns, rtol=1e-9)
    if alpha == 1.0:  # scaling rows and columns leaves odds ratios alone, but for what the last step adds
        odds = np.log(table / prior)
        assert np.abs(odds - odds.mean(0) - odds.mean(1, keepdims=True) + odds.mean()).max() < 0.5


def test_fit_of_impossible_priors_and_empty_margins():
    table = fit(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), np.array([4.0, 2.0, 0.0]), np.array([1.0, 5.0]))
    assert np.allclose(table.sum(axis=1), [4, 2, 0])
    assert np.allclose(table.sum(axis=0), [1, 5])
    assert np.array_equal(fit(np.ones((2, 2)), np.zeros(2), np.zeros(2)), np.zeros((2, 2)))


def test_one_domain_a_client_when_sizes_agree():
    rows = even_rows(6, 400, domains=4)
    for clients in (4, 8, 40):
        held = crosstab(rows.domains, 4, run(from_json({"name": "skew", "clients": clients}), rows))
        assert ((held > 0).sum(axis=1) == 1).all()


def test_many_domains_are_users_devices():
    rng = np.random.default_rng(0)
    rows = even_rows(5, 800)
    rows = dataclasses.replace(rows, domains=rng.integers(0, 500, 4000).astype(np.int32), domain_count=500)
    for name in ("domain", "skew"):
        answer = run(from_json({"name": name, "clients": 50}), rows)
        held = crosstab(rows.domains, 500, answer)
        assert sizes_of(answer).sum() == 4000
        assert (held > 0).sum() <= 500 + 50
