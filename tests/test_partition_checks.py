"""A check for every setting of every partitioner, on what comes out.

A check takes ``make(**settings) -> partitioner`` and asserts on realised owners; the conformance tests run each on the
real partitioner, where it must pass, and on a mutant, where it must not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_partition_measures import (
    assert_alpha,
    crosstab,
    even_rows,
    listed_rows,
    run,
    sizes_of,
    total_variation,
)

from fedrsic_data.dataset import skew
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS, Rows

Make = Callable[..., Any]
ALPHAS = (0.05, 0.1, 0.3, 0.5, 1.0, 10.0, 100.0)


def class_wise_alpha(make: Make) -> None:
    rows = even_rows(100, 3000)
    for alpha in ALPHAS:
        answer = run(make(clients=10, alpha=alpha, min_size=0), rows)
        assert_alpha(crosstab(rows.labels, 100, answer).T, alpha)


def client_wise_alpha(make: Make) -> None:
    rows = even_rows(10, 30_000)
    for alpha in ALPHAS:
        answer = run(make(clients=300, alpha=alpha), rows)
        assert_alpha(crosstab(rows.labels, 10, answer), alpha)
        assert (sizes_of(answer) == 1000).all()


def two_levels() -> tuple[Rows, Rows]:
    """Four superclasses of five classes each as domains, and the same rows by superclass."""
    rows = even_rows(20, 15_000)
    above = (rows.labels // 5).astype(np.int32)
    return dataclasses.replace(rows, domains=above, domain_count=4), rows.relabelled(above, 4)


def superclass_alpha(make: Make) -> None:
    rows, above = two_levels()
    for alpha in ALPHAS:
        answer = run(make(clients=300, alpha=alpha, alpha_fine=1.0), rows)
        assert_alpha(crosstab(above.labels, 4, answer), alpha)
        assert (sizes_of(answer) == 1000).all()


def alpha_within(make: Make) -> None:
    rows, _ = two_levels()
    for alpha in ALPHAS:
        answer = run(make(clients=300, alpha=1e4, alpha_fine=alpha), rows)
        for held in np.split(crosstab(rows.labels, 20, answer), 4, axis=1):
            assert_alpha(held, alpha)


def holder_alpha(make: Make) -> None:
    rows = even_rows(100, 3000)
    for alpha in ALPHAS:  # every class has 5 of the 50 clients
        answer = run(make(clients=50, classes_per_client=10, alpha=alpha, min_size=0), rows)
        ranked = np.sort(crosstab(rows.labels, 100, answer).T, axis=1)
        assert (ranked[:, :-5] == 0).all()
        assert_alpha(ranked[:, -5:], alpha)


def balance(make: Make) -> None:
    """Mean total variation of PARTITIONING's example: 10 clients, alpha 0.5, 20 even classes."""
    rows = even_rows(20, 500)
    for balanced, mean in ((False, 0.442), (True, 0.485)):
        values = [
            total_variation(rows, run(make(clients=10, alpha=0.5, balance=balanced), rows, seed)).mean()
            for seed in range(60)
        ]
        assert abs(np.mean(values) - mean) < 4 * np.std(values) / math.sqrt(60) + 0.002, (balanced, np.mean(values))


def clients(make: Make, **settings: Any) -> None:
    for wanted in (1, 4, 23):
        answer = run(make(clients=wanted, **settings), even_rows(6, 200, domains=4, users=50))
        assert answer.clients == wanted
        assert set(np.unique(answer.owner)) - {-1} == set(range(wanted))


def minimum_size(make: Make, rows: Rows | None = None, **settings: Any) -> None:
    rows = even_rows(5, 60, domains=3, users=40) if rows is None else rows
    for least in (0, 9):
        answer = run(make(clients=20, min_size=least, **settings), rows)
        smallest = sizes_of(answer).min()
        assert smallest >= least
        assert least or smallest < 9, "the example should need the minimum size"
        assert least or not answer.moved
    with pytest.raises(UsageError, match=r"need 2,000 images and there are 300: 1,700 too few"):
        run(make(clients=20, min_size=100, **settings), rows)


def minimum_exact(make: Make, **settings: Any) -> None:
    """Where sizes are exact and even, a minimum size can only be refused."""
    with pytest.raises(UsageError, match="too few"):
        run(make(clients=20, min_size=16, **settings), even_rows(5, 60))
    assert sizes_of(run(make(clients=20, min_size=15, **settings), even_rows(5, 60))).min() == 15


def reduction(make: Make, **settings: Any) -> None:
    """Labels 0 and 1 come first, 2 and 3 are rarer: under ``first`` clients differ in 0 and 1, else in 2 and 3."""
    lists = [[i % 2, 2 + (i // 2) % 2] for i in range(4000)] + [[0, 1]] * 2000
    rows = listed_rows(lists, 4)
    first, last = rows.labels[::2], rows.labels[1::2]
    for how, told in (("first", first), ("rarest", np.where(last < 2, first, last))):
        answer = run(make(clients=2, reduce=how, **settings), rows)
        single = run(make(clients=2, **settings), rows.relabelled(told, 4))
        assert np.array_equal(answer.owner, single.owner), how


def classes_per_client(make: Make) -> None:
    rows = even_rows(12, 50)
    for each in (1, 3, 12):
        answer = run(make(clients=24, classes_per_client=each), rows)
        held = crosstab(rows.labels, 12, answer) > 0
        assert (held.sum(axis=1) == each).all()
        assert np.ptp(held.sum(axis=0)) <= 1


def disjoint_or_drawn(make: Make) -> None:
    rows = even_rows(35, 20)
    dealt = crosstab(rows.labels, 35, run(make(clients=10), rows)) > 0
    assert (dealt.sum(axis=0) == 1).all()
    assert set(dealt.sum(axis=1)) == {3, 4}
    answer = run(make(clients=10, classes_per_client=2, drawn=True), rows)
    held = crosstab(rows.labels, 35, answer) > 0
    assert (held.sum(axis=1) == 2).all()
    assert (answer.owner < 0).sum() == 20 * (~held.any(axis=0)).sum() > 0


def shards_per_client(make: Make) -> None:
    rows = even_rows(10, 600)
    for shards in (1, 2, 5):
        answer = run(make(clients=100 // shards, shards_per_client=shards), rows)  # 100 shards of 60, 10 a class
        held = crosstab(rows.labels, 10, answer)
        assert (held.sum(axis=1) == 60 * shards).all()
        assert (held % 60 == 0).all()
        assert held.max() >= 60
        assert 1 <= (held > 0).sum(axis=1).mean() <= shards
        assert shards == 1 or (held > 0).sum(axis=1).mean() > 0.75 * shards


def many_sizes(make: Make, seeds: int = 30, **settings: Any) -> np.ndarray:
    return np.array([sizes_of(run(make(clients=20, min_size=0, **settings), ROWS_20K, s)) for s in range(seeds)])


ROWS_20K = even_rows(2, 10_000)


def size_laws(make: Make, **settings: Any) -> None:
    listed = tuple(range(10, 210, 10))
    answer = run(make(clients=20, sizes=listed, **settings), ROWS_20K)
    assert sizes_of(answer).tolist() == list(listed)
    assert (answer.owner < 0).sum() == 20_000 - sum(listed)
    assert (many_sizes(make, 2, sizes="even", **settings) == 1000).all()
    zipf = -np.sort(-many_sizes(make, 2, sizes="zipf", **settings), axis=1)
    assert np.allclose(zipf, 20_000 / np.arange(1, 21) / (1 / np.arange(1, 21)).sum(), atol=1)


def size_beta(make: Make, **settings: Any) -> None:
    for beta in (0.1, 0.5, 5.0):
        assert_alpha(many_sizes(make, sizes="dirichlet", beta=beta, **settings), beta)


def size_sigma(make: Make, **settings: Any) -> None:
    for sigma in (0.2, 0.6, 1.5):
        logs = np.log(np.maximum(many_sizes(make, sizes="lognormal", sigma=sigma, **settings), 0.5))
        realised = logs.std(axis=1, ddof=1)
        assert abs(np.sqrt((realised**2).mean()) / sigma - 1) < 4 / math.sqrt(2 * 30 * 19)


def size_exponent(make: Make, **settings: Any) -> None:
    for exponent in (0.5, 1.5):
        zipf = -np.sort(-many_sizes(make, 1, sizes="zipf", exponent=exponent, **settings)[0])
        slope = np.polyfit(np.log(np.arange(1, 11)), np.log(zipf[:10]), 1)[0]
        assert abs(slope + exponent) < 0.02
    for exponent in (2.0, 4.0):  # Hill's estimator over all ranks, relative to the smallest client
        drawn = many_sizes(make, sizes="power", exponent=exponent, **settings).astype(float)
        excess = np.log(drawn / drawn.min(axis=1, keepdims=True)).sum() / (30 * 19)
        assert abs(1 / excess / (exponent - 1) - 1) < 4 / math.sqrt(30 * 19) + 0.02


def domain_mixing(make: Make, setting: str, **settings: Any) -> None:
    """Every client's mixture of domains is home and global as the setting says, and its entropy rises with it."""
    rows = even_rows(5, 1200, domains=4)
    for count in (4, 10, 3):
        entropies = []
        homes = None
        for mix in (0.0, 0.25, 0.5, 0.75, 1.0):
            answer = run(make(clients=count, **{setting: mix}, **settings), rows)
            held = crosstab(rows.domains, 4, answer)
            mixture = skew.mixtures(held)
            homes = mixture if homes is None else homes
            assert np.abs(mixture - (1 - mix) * homes - mix * 0.25).max() < 8 / sizes_of(answer).min()
            entropies.append(skew.entropy(held).mean())
        single = (homes > 0).sum(axis=1) == 1
        if count >= 4:
            assert single.all()
        assert (homes > 0).any(axis=0).all()
        assert (np.diff(entropies) > 0.05).all()
        assert abs(entropies[-1] - 2) < 1e-3
        if count == 4:
            assert entropies[0] == 0


def label_sets_kept(make: Make) -> None:
    """With enough ``sets`` a rare set is a class of its own; merged with others of its label it is not."""
    lists = [[0], [0, 1], [0, 2], []] * 500
    rows = listed_rows(lists, 3)
    code = np.arange(2000) % 4
    for sets in (4, 0):
        answers = [run(make(clients=40, alpha=1e-6, sets=sets, min_size=0), rows, s) for s in range(3)]
        holders = [len(np.unique(a.owner[code == c])) for a in answers for c in range(4)]
        assert set(holders) == {1}
    merged = listed_rows([[0], [0, 1], [0, 2], [1], [2], [1, 2]] * 100, 3)
    code = np.arange(600) % 6
    own = run(make(clients=1000, alpha=1e-6, sets=6, min_size=0), merged)
    pooled = run(make(clients=1000, alpha=1e-6, sets=0, min_size=0), merged)
    assert len({int(own.owner[code == c][0]) for c in range(6)}) == 6
    assert len({int(pooled.owner[code == c][0]) for c in range(6)}) == 3


def set_alpha(make: Make) -> None:
    lists = [[c % 8, 8 + c // 8] for c in range(64)] * 1500
    rows, code = listed_rows(lists, 16), np.arange(len(lists)) % 64
    for alpha in ALPHAS:
        answer = run(make(clients=10, alpha=alpha, min_size=0), rows)
        assert_alpha(crosstab(code, 64, answer).T, alpha)


FOLDER = tempfile.TemporaryDirectory()


def blob_of(n: int) -> np.ndarray:
    return np.random.default_rng(7).permutation(np.arange(n) % 64)


@cache
def embeddings(n: int) -> str:
    """A file of n points in 64 tight blobs."""
    rng = np.random.default_rng(8)
    path = Path(FOLDER.name) / f"{n}.npy"
    np.save(path, (10 * rng.standard_normal((64, 8)))[blob_of(n)] + 0.01 * rng.standard_normal((n, 8)))
    return str(path)


def cluster_alpha(make: Make) -> None:
    rows = even_rows(64, 300)
    for alpha in ALPHAS:
        answer = run(make(clients=10, alpha=alpha, clusters=64, min_size=0, path=embeddings(len(rows))), rows)
        assert_alpha(crosstab(blob_of(len(rows)), 64, answer).T, alpha)


def clusters(make: Make) -> None:
    """64 blobs: with as many clusters and a tiny alpha each blob goes to one client; with 2, many share one."""
    rows = even_rows(64, 300)
    blob = blob_of(len(rows))
    for wanted in (64, 2):
        answer = run(make(clients=1000, alpha=1e-9, clusters=wanted, min_size=0, path=embeddings(len(rows))), rows)
        used = len(np.unique(answer.owner))
        assert used == 2 if wanted == 2 else used > 50  # of 1,000 clients, some are drawn twice
        if wanted == 64:
            assert (np.count_nonzero(crosstab(blob, 64, answer), axis=0) == 1).all()


def seed(make: Make, **settings: Any) -> None:
    rows = even_rows(6, 60, domains=3, users=30)
    one, same, other = (run(make(clients=5, **settings), rows, s) for s in (1, 1, 2))
    assert np.array_equal(one.owner, same.owner)
    assert not np.array_equal(one.owner, other.owner)


def given_digest(make: Make) -> None:
    path = Path(FOLDER.name) / "pinned.csv"
    path.write_text("sample_id,client_id\n" + "".join(f"{i:07d},site-{i % 3}\n" for i in range(30)))
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert run(make(path=str(path), sha256=right), even_rows(3, 10)).clients == 3
    with pytest.raises(UsageError, match="remove sha256"):
        run(make(path=str(path), sha256="0" * 64), even_rows(3, 10))


def embedded_digest(make: Make) -> None:
    path = embeddings(64)
    with pytest.raises(UsageError, match="remove sha256"):
        run(make(clients=2, clusters=2, path=path, sha256="0" * 64), even_rows(2, 32))


def given_path(make: Make) -> None:
    path = Path(FOLDER.name) / "given.csv"
    path.write_text("sample_id,client_id\n" + "".join(f"{i:07d},site-{i % 3}\n" for i in range(30)))
    answer = run(make(path=str(path)), even_rows(3, 10))
    assert answer.owner.tolist() == [i % 3 for i in range(30)]
    assert answer.names == ("site-0", "site-1", "site-2")


def users_merged(make: Make) -> None:
    rows = even_rows(3, 500, users=40)
    apart = run(make(), rows)
    assert np.array_equal(apart.owner, rows.groups)
    assert apart.names == rows.group_names
    merged = run(make(clients=7), rows)
    client_of = [set(merged.owner[rows.groups == user]) for user in range(40)]
    assert all(len(owners) == 1 for owners in client_of)
    users = np.bincount([owners.pop() for owners in client_of], minlength=7)
    assert (merged.clients, np.ptp(users)) == (7, 1)


def small_users_left_out(make: Make) -> None:
    sizes = np.array([1, 2, 5, 9, 30])
    rows = even_rows(1, 47, users=5)
    rows = dataclasses.replace(rows, groups=np.repeat(np.arange(5, dtype=np.int32), sizes))
    for least in (1, 5, 10):
        answer = run(make(min_size=least), rows)
        assert sizes_of(answer).tolist() == [size for size in sizes if size >= least]
        assert answer.names == tuple(n for n, size in zip(rows.group_names, sizes, strict=True) if size >= least)
        assert (answer.owner < 0).sum() == sizes[sizes < least].sum()


def blocks(make: Make) -> None:
    """The 30 clients of FedTPG, from the numbers of base classes of its nine datasets."""
    sets = {"caltech101": 50, "flowers": 51, "aircraft": 50, "ucf101": 51, "pets": 19, "food101": 51, "dtd": 24}
    sets |= {"cars": 98, "sun397": 199}
    per_set = {"caltech101": 2, "flowers": 3, "aircraft": 2, "ucf101": 3, "pets": 1, "food101": 3, "dtd": 1}
    per_set |= {"cars": 5, "sun397": 10}
    for name, count in sets.items():
        answer = run(make(), even_rows(count, 2))
        assert answer.clients == per_set[name]
        held = [sorted(set(even_rows(count, 2).labels[answer.owner == k].tolist())) for k in range(answer.clients)]
        assert [c for classes in held for c in classes] == list(range(count)), "not in index order, or not disjoint"
        assert {len(classes) for classes in held[:-1]} <= {20}
    sources = np.repeat(np.arange(len(sets), dtype=np.int32), list(sets.values()))
    together = dataclasses.replace(even_rows(len(sources), 2), sources=sources)
    answer = run(make(), together)
    assert answer.clients == 30
    assert all(len(set(sources[together.labels[answer.owner == k]])) == 1 for k in range(30))
    assert run(make(), even_rows(len(sources), 2)).clients == round(len(sources) / 20) == 30
    assert run(make(classes_per_client=50), together).clients == 1 + 1 + 1 + 1 + 1 + 1 + 1 + 2 + 4
    some = even_rows(50, 10)
    some = some.take(np.flatnonzero(some.labels % 5 > 0))  # classes without rows are passed over
    held = [len(set(some.labels[run(make(), some).owner == k])) for k in range(2)]
    assert held == [20, 20]


def uneven(counts: Sequence[int], of: str) -> Rows:
    """300 rows whose classes or domains have these counts."""
    codes = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return Rows.single(codes, len(counts)) if of == "classes" else Rows.single(np.arange(300) % 5, 5, codes)


SIZE_CHECKS = {"sizes": size_laws, "beta": size_beta, "sigma": size_sigma, "exponent": size_exponent}
SKEWED = {"sizes": "lognormal", "sigma": 2.0}

CHECKS = {
    "iid": {"clients": clients, "min_size": minimum_exact, "seed": seed},
    "dirichlet": {
        "clients": clients,
        "alpha": class_wise_alpha,
        "balance": balance,
        "min_size": partial(minimum_size, alpha=0.05),
        "reduce": reduction,
        "seed": seed,
    },
    "dirichlet-client": SIZE_CHECKS
    | {
        "clients": clients,
        "alpha": client_wise_alpha,
        "min_size": partial(minimum_size, **SKEWED),
        "reduce": reduction,
        "seed": seed,
    },
    "pachinko": SIZE_CHECKS
    | {
        "clients": clients,
        "alpha": superclass_alpha,
        "alpha_fine": alpha_within,
        "min_size": partial(minimum_size, **SKEWED),
        "reduce": reduction,
        "seed": seed,
    },
    "pathological": {
        "clients": partial(clients, classes_per_client=6),
        "classes_per_client": classes_per_client,
        "drawn": disjoint_or_drawn,
        "min_size": partial(minimum_size, classes_per_client=1, rows=uneven([20, 70, 70, 70, 70], "classes")),
        "reduce": reduction,
        "seed": seed,
    },
    "class-blocks": {
        "classes_per_client": blocks,
        "reduce": lambda make: reduction(lambda clients, **more: make(**more), classes_per_client=1),
    },
    "shards": {
        "clients": clients,
        "shards_per_client": shards_per_client,
        "min_size": minimum_exact,
        "reduce": reduction,
        "seed": seed,
    },
    "ext-dirichlet": {
        "clients": partial(clients, classes_per_client=6),
        "classes_per_client": lambda make: classes_per_client(partial(make, alpha=1e4)),
        "alpha": holder_alpha,
        "min_size": partial(minimum_size, alpha=0.05),
        "reduce": reduction,
        "seed": partial(seed, classes_per_client=2),
    },
    "quantity": SIZE_CHECKS | {"clients": clients, "min_size": partial(minimum_size, **SKEWED), "seed": seed},
    "domain": {
        "clients": clients,
        "mix": partial(domain_mixing, setting="mix"),
        "min_size": partial(minimum_size, rows=uneven([5, 295], "domains")),
        "seed": seed,
    },
    "natural": {"clients": users_merged, "min_size": small_users_left_out, "seed": seed},
    "skew": SIZE_CHECKS
    | {
        "clients": clients,
        "alpha": client_wise_alpha,
        "domain_mix": partial(domain_mixing, setting="domain_mix"),
        "min_size": partial(minimum_size, **SKEWED),
        "reduce": reduction,
        "seed": seed,
    },
    "assigned": {"path": given_path, "sha256": given_digest},
    "label-set": {
        "clients": clients,
        "alpha": set_alpha,
        "sets": label_sets_kept,
        "min_size": partial(minimum_size, alpha=0.05),
        "seed": seed,
    },
    "cluster": {
        "clients": partial(clients, path=embeddings(1200)),
        "alpha": cluster_alpha,
        "clusters": clusters,
        "path": clusters,
        "sha256": embedded_digest,
        "min_size": partial(minimum_size, alpha=0.05, path=embeddings(300)),
        "seed": partial(seed, path=embeddings(360)),
    },
}


@pytest.mark.parametrize("name", PARTITIONERS)
def test_every_setting_has_a_check(name: Any) -> None:
    settings = {field.name for field in dataclasses.fields(PARTITIONERS[name])}
    assert settings | {"seed"} == set(CHECKS[name]) | ({"seed"} if name in ("assigned", "class-blocks") else set())
