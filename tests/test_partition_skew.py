"""Sizes, labels and domains at once: margins are exact, homes are single, what gives way is said."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from test_partition_measures import crosstab, even_rows, run, sizes_of

from fedrsic_data.dataset import skew
from fedrsic_data.partition import Rows, from_json, homes
from fedrsic_data.partition.fit import fit


def source_rows() -> Rows:
    """Three domains of very different sizes, of which the last lacks half the classes."""
    rng = np.random.default_rng(4)
    domain = np.repeat(np.arange(3, dtype=np.int32), [900, 1500, 10_500])
    label = rng.integers(0, 16, len(domain))
    label[domain == 2] = rng.integers(0, 8, 10_500)
    return Rows.single(label, 16, domain)


@pytest.mark.parametrize("alpha", [None, 1e-6, 0.3, 1e6])
@pytest.mark.parametrize("mix", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("clients", [1, 2, 30])
def test_every_margin_is_exact(alpha: float | None, mix: float, clients: int) -> None:
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


UNEVEN = np.array([10_500, 1_500, 900])


def uneven_rows() -> Rows:
    """Three uneven domains of 15 classes each, some of which they share."""
    domain = np.repeat(np.arange(3, dtype=np.int32), UNEVEN)
    label = domain * 5 + np.arange(len(domain)) % 15
    order = np.random.default_rng(6).permutation(len(domain))
    return Rows.single(label[order], 25, domain[order])


def sizes_in_domains(law: str | tuple[int, ...], clients: int, seed: int = 0, **extra: Any) -> list[np.ndarray]:
    """Client sizes of each domain, with every client at home."""
    rows = uneven_rows()
    answer = run(from_json({"name": "skew", "clients": clients, "sizes": law, **extra}), rows, seed)
    held = crosstab(rows.domains, 3, answer)
    assert ((held > 0).sum(axis=1) <= 1).all()
    return [column[column > 0] for column in held.T]


@pytest.mark.parametrize("sizes", ["even", "dirichlet", "lognormal", "power", "zipf"])
@pytest.mark.parametrize("clients", [3, 10, 30])
def test_one_domain_a_client_and_more_with_the_mix(clients: int, sizes: str) -> None:
    rows = uneven_rows()
    cell = rows.domains * 25 + rows.labels
    spec = {"name": "skew", "clients": clients, "sizes": sizes, "alpha": 0.3}
    tables, entropies = [], []
    for mix in (0.0, 0.1, 0.3, 0.6, 1.0):
        answer = run(from_json(spec | {"domain_mix": mix}), rows)
        assert np.array_equal(crosstab(cell, 75, answer).sum(axis=0), np.bincount(cell, minlength=75))
        held = crosstab(rows.domains, 3, answer)
        tables.append(held)
        assert np.array_equal(held.sum(axis=1), tables[0].sum(axis=1)), "the mix leaves sizes alone"
        expected = (1 - mix) * tables[0] + mix * np.outer(held.sum(axis=1), UNEVEN) / len(rows)
        assert np.abs(held - expected).max() <= 1
        entropies.append(np.average(skew.entropy(held), weights=held.sum(axis=1)))
    assert ((tables[0] > 0).sum(axis=1) == 1).all()
    assert (tables[0] > 0).any(axis=0).all()
    assert entropies[0] == 0
    assert (np.diff(entropies) > 0).all()
    assert abs(entropies[-1] - skew.entropy(UNEVEN[None])[0]) < 0.01


def test_clients_are_apportioned_by_rows() -> None:
    for clients, seats in ((3, [1, 1, 1]), (10, [8, 1, 1]), (30, [24, 4, 2])):
        assert [len(sizes) for sizes in sizes_in_domains("even", clients)] == seats


def test_sizes_follow_the_law_within_each_domain() -> None:
    assert all(np.ptp(sizes) <= 1 for sizes in sizes_in_domains("even", 31))
    for sizes, rows in zip(sizes_in_domains("zipf", 30, exponent=1.5), UNEVEN, strict=True):
        law = np.arange(1, len(sizes) + 1) ** -1.5
        assert np.abs(np.sort(sizes)[::-1] - rows * law / law.sum()).max() < 1
    for sigma in (0.3, 0.8):
        drawn = [sizes_in_domains("lognormal", 30, seed, sigma=sigma) for seed in range(40)]
        for d, freedom in enumerate((23, 3, 1)):
            spread = np.array([np.log(sizes[d]).var(ddof=1) for sizes in drawn])
            assert abs(spread.mean() / sigma**2 - 1) < 4 * np.sqrt(2 / (40 * freedom)) + 0.02


def test_minimum_size_is_met_within_domains() -> None:
    free = sizes_in_domains("lognormal", 30, sigma=2.5, min_size=0)
    raised = sizes_in_domains("lognormal", 30, sigma=2.5, min_size=200)
    assert min(sizes.min() for sizes in free) < 200
    assert min(sizes.min() for sizes in raised) == 200
    assert [sizes.sum() for sizes in raised] == UNEVEN.tolist()
    rows = Rows.single(np.zeros(120, int), 1, np.repeat([0, 1], [19, 101]))  # by rows alone the first has two clients
    held = crosstab(rows.domains, 2, run(from_json({"name": "skew", "clients": 11, "min_size": 10}), rows))
    assert (held > 0).sum(axis=0).tolist() == [1, 10]
    assert held.max(axis=1).min() == 10
    tight = sizes_in_domains("power", 43, min_size=300)  # no more would fit
    assert [sizes.tolist() for sizes in tight] == [[300] * 35, [300] * 5, [300] * 3]


@pytest.mark.parametrize(("clients", "min_size"), [(2, 1), (6, 1000), (12, 1000)])
def test_homes_straddle_where_domains_are_too_small(clients: int, min_size: int) -> None:
    rows = uneven_rows()
    spec = {"name": "skew", "clients": clients, "sizes": "lognormal", "min_size": min_size}
    answer = run(from_json(spec), rows)
    assert sizes_of(answer).min() >= min_size
    assert sizes_of(answer).sum() == len(rows)
    assert 1 <= ((crosstab(rows.domains, 3, answer) > 0).sum(axis=1) - 1).sum() <= 2


@pytest.mark.parametrize("sizes", ["dirichlet", "lognormal", "power"])
def test_extreme_laws_within_domains_stay_finite(sizes: str) -> None:
    extreme = {"dirichlet": {"beta": 1e-6}, "lognormal": {"sigma": 1e4}, "power": {"exponent": 1 + 1e-6}}
    for drawn, rows in zip(sizes_in_domains(sizes, 30, **extreme[sizes]), UNEVEN, strict=True):
        assert drawn.sum() == rows
        assert drawn.max() > 0.9 * rows


def test_seats_are_those_of_the_one_by_one_rule() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        counts = rng.integers(1, rng.choice([10, 1000, 10**6]), rng.integers(1, 9))
        clients = int(len(counts) + rng.integers(0, 60))
        wanted = np.ones(len(counts), int)
        for _ in range(clients - len(counts)):
            wanted[np.argmax(counts / wanted)] += 1
        assert homes.seats(counts, clients).tolist() == wanted.tolist()


def test_seats_leave_room_for_everyone() -> None:
    rng = np.random.default_rng(1)
    served = 0
    for _ in range(500):
        counts, least = rng.integers(1, 60, rng.integers(1, 9)), int(rng.integers(1, 9))
        room = (counts // least).tolist()
        clients = max(1, sum(room) + int(rng.integers(-6, 2)))
        assert homes.roomy(counts, clients, least) == (min(room) >= 1 and len(room) <= clients <= sum(room))
        if homes.roomy(counts, clients, least):
            seats = homes.seats(counts, clients, least)
            served += 1
            assert seats.sum() == clients
            assert (seats >= 1).all()
            assert (counts >= seats * least).all()
    assert served > 50


def test_rows_beyond_listed_sizes_are_left_out_in_proportion() -> None:
    rows = source_rows()
    spec = {"name": "skew", "clients": 3, "sizes": [3000, 2000, 1450], "domain_mix": 1.0}
    answer = run(from_json(spec), rows)
    assert sizes_of(answer).tolist() == [3000, 2000, 1450]
    left_out = np.bincount(rows.domains[answer.owner < 0], minlength=3)
    assert np.abs(left_out - np.array([450, 750, 5250])).max() <= 1


def test_no_alpha_is_no_label_skew() -> None:
    rows = Rows.single(np.arange(6000) % 10, 10, np.arange(6000) // 10 % 3)
    plain = run(from_json({"name": "skew", "clients": 12, "alpha": None, "sizes": "lognormal"}), rows)
    expected = sizes_of(plain)[:, None] / 10
    assert np.abs(crosstab(rows.labels, 10, plain) - expected).max() <= 4
    skewed = run(from_json({"name": "skew", "clients": 12, "alpha": 0.1, "sizes": "lognormal"}), rows)
    assert skew.total_variation(crosstab(rows.labels, 10, skewed)).mean() > 0.4


def test_minimum_size_raises_the_smallest_at_the_cost_of_the_largest() -> None:
    rows = even_rows(4, 500, domains=2)
    spec = {"name": "skew", "clients": 40, "sizes": "lognormal", "sigma": 2.0}
    free = run(from_json(spec | {"min_size": 0}), rows)
    raised = run(from_json(spec | {"min_size": 10}), rows)
    small = sizes_of(free) < 10
    assert (sizes_of(raised)[small] == 10).all()
    assert raised.moved == (10 - sizes_of(free)[small]).sum() > 0
    largest = sizes_of(free).argmax()
    assert sizes_of(raised)[largest] < sizes_of(free)[largest]


def test_domain_without_a_class_keeps_sizes_and_domains() -> None:
    """Clients at home where their class does not occur still get their size."""
    rows = Rows.single(np.repeat([0, 1], 500), 2, np.repeat([0, 1], 500))
    answer = run(from_json({"name": "skew", "clients": 10, "alpha": 1e-6}), rows)
    assert (sizes_of(answer) == 100).all()
    assert ((crosstab(rows.domains, 2, answer) > 0).sum(axis=1) == 1).all()


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0])
def test_fit_meets_margins_and_keeps_odds(alpha: float) -> None:
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


def test_fit_of_impossible_priors_and_empty_margins() -> None:
    table = fit(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), np.array([4.0, 2.0, 0.0]), np.array([1.0, 5.0]))
    assert np.allclose(table.sum(axis=1), [4, 2, 0])
    assert np.allclose(table.sum(axis=0), [1, 5])
    assert np.array_equal(fit(np.ones((2, 2)), np.zeros(2), np.zeros(2)), np.zeros((2, 2)))


def test_one_domain_a_client_when_sizes_agree() -> None:
    rows = even_rows(6, 400, domains=4)
    for clients in (4, 8, 40):
        held = crosstab(rows.domains, 4, run(from_json({"name": "skew", "clients": clients}), rows))
        assert ((held > 0).sum(axis=1) == 1).all()


def test_many_domains_are_users_devices() -> None:
    rng = np.random.default_rng(0)
    rows = even_rows(5, 800)
    rows = dataclasses.replace(rows, domains=rng.integers(0, 500, 4000).astype(np.int32), domain_count=500)
    for name in ("domain", "skew"):
        answer = run(from_json({"name": name, "clients": 50}), rows)
        held = crosstab(rows.domains, 500, answer)
        assert sizes_of(answer).sum() == 4000
        assert (held > 0).sum() <= 500 + 50
