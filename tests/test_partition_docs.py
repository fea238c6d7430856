"""The table in the docs is what the code says of itself, and what the code says of itself is so."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_partition_measures import even_rows, run, sizes_of

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS, Rows, from_json
from fedrsic_data.partition.sizes import Sized

DOCS = Path(__file__).parent.parent / "docs" / "partitioners.md"
INSIDE = [name for name in PARTITIONERS if name not in ("assigned", "cluster")]  # those that read no file


def documented(first: str) -> list[dict[str, str]]:
    """The rows of the table whose first heading is ``first``, as dicts."""
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    cells = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_table_is_what_the_code_says() -> None:
    word = {True: "yes", False: "no"}
    said = [
        {
            "partitioner": f"`{name}`",
            "multi-label": "yes" if kind.multi_label else "reduced",
            "domain": word[kind.uses_domains],
            "exact sizes": word[kind.exact_sizes],
            "minimum size": word[kind.keeps_min_size],
            "cites": kind.cites,
        }
        for name, kind in PARTITIONERS.items()
    ]
    assert [{key: row[key] for key in said[0]} for row in documented("partitioner")] == said


def test_size_laws_are_those_of_the_code() -> None:
    laws = [row["`sizes`"].strip("`") for row in documented("`sizes`")]
    for law in laws:
        assert from_json({"name": "quantity", "sizes": law}).sizes == law
    with pytest.raises(UsageError, match=f"is not one of {', '.join(laws)}"):
        from_json({"name": "quantity", "sizes": "gauss"})


@pytest.mark.parametrize(("name", "kind"), PARTITIONERS.items())
def test_partitioner_says_all_of_itself(name: Any, kind: Any) -> None:
    """One that does not take multi-label images can reduce them; a minimum size kept is one that can be set."""
    fields = {field.name for field in dataclasses.fields(kind)}
    assert kind.multi_label or "reduce" in fields
    assert kind.keeps_min_size == ("min_size" in fields)
    assert kind.cites
    assert kind.__doc__
    assert inspect.getmodule(kind).__doc__
    assert "Deviations:" in kind.__doc__ or name in ("iid", "assigned")
    told = kind.__doc__ + (Sized.__doc__ if issubclass(kind, Sized) else "")
    assert all(f"{field}:" in told for field in fields), "every setting is described"
    assert kind.__dataclass_params__.frozen


@pytest.mark.parametrize("name", INSIDE)
def test_exact_sizes_are_those_whatever_the_labels(name: Any) -> None:
    """Those that control domains may set sizes by them."""
    extra = {"classes_per_client": 3} if "classes_per_client" in PARTITIONERS[name].__annotations__ else {}
    extra |= {"clients": 10} if name not in ("class-blocks", "natural") else {}
    of_domains = PARTITIONERS[name].uses_domains
    rows = even_rows(10, 60, domains=3, users=30)
    rng = np.random.default_rng(0)
    others = [
        dataclasses.replace(
            rows.relabelled(rng.choice(10, 600, p=rng.dirichlet(np.ones(10))), 10),
            domains=rows.domains if of_domains else rng.choice(3, 600, p=[0.1, 0.3, 0.6]).astype(np.int32),
            groups=rng.choice(30, 600, p=rng.dirichlet(np.ones(30) * 5)).astype(np.int32),
        )
        for _ in range(3)
    ]
    sizes = [sorted(sizes_of(run(from_json({"name": name, **extra}), r, seed=5)).tolist()) for r in (rows, *others)]
    assert all(s == sizes[0] for s in sizes) == PARTITIONERS[name].exact_sizes


@pytest.mark.parametrize("name", INSIDE)
def test_domains_matter_where_it_says_so(name: Any) -> None:
    rows = even_rows(6, 100, domains=3, users=10)
    moved = dataclasses.replace(rows, domains=np.roll(rows.domains, 7))
    extra = {"classes_per_client": 2} if "classes_per_client" in PARTITIONERS[name].__annotations__ else {}
    one, other = (run(from_json({"name": name, **extra}), r) for r in (rows, moved))
    assert np.array_equal(one.owner, other.owner) != PARTITIONERS[name].uses_domains


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "dirichlet", "alpha": 0}, "alpha=0.0 should be a finite number above 0"),
        ({"name": "dirichlet", "clients": 0}, "clients=0 should be at least 1"),
        ({"name": "dirichlet", "beta": 1.0}, "unknown key 'beta'"),
        ({"name": "dirichlett"}, "unknown partitioner 'dirichlett'; did you mean 'dirichlet'"),
        ({"name": "quantity", "sizes": "zipf", "beta": 1}, "beta=1.0 belongs to sizes=dirichlet, and sizes is zipf"),
        ({"name": "quantity", "sizes": [5] * 10, "sigma": 1}, "sigma=1.0 belongs to sizes=lognormal.*is a list"),
        ({"name": "quantity", "sizes": "even", "exponent": 1}, "exponent=1.0 belongs to sizes=power or zipf"),
        ({"name": "quantity", "sizes": "power", "exponent": 1}, "exponent=1.0 should be above 1"),
        ({"name": "quantity", "sizes": "lognormal", "sigma": -1}, "sigma=-1.0 should be a finite number above 0"),
        ({"name": "quantity", "sizes": [5, 6]}, "sizes lists 2 clients and clients=10; make them agree"),
        ({"name": "quantity", "sizes": [5, 0], "clients": 2}, r"sizes\[1\]=0 should be at least 1"),
        ({"name": "skew", "domain_mix": 1.5}, "domain_mix=1.5 should be from 0"),
        ({"name": "skew", "alpha": -1}, "alpha=-1.0 should be"),
        ({"name": "domain", "mix": -0.1}, "mix=-0.1 should be from 0"),
        ({"name": "pathological", "drawn": True}, "drawn=true needs classes_per_client"),
        ({"name": "shards", "shards_per_client": 0}, "shards_per_client=0 should be at least 1"),
        ({"name": "shards", "reduce": "last"}, "'last' is not one of first, rarest"),
        ({"name": "natural", "clients": 0}, "clients=0 should be at least 1"),
        ({"name": "natural", "min_size": -1}, "min_size=-1 should be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_words(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_json(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "quantity", "sizes": [300, 400], "clients": 2}, "sizes sum to 700 and there are 600 images: 100 too"),
        ({"name": "pathological", "clients": 7}, "clients=7 is more than the 6 classes"),
        ({"name": "pathological", "classes_per_client": 7}, "classes_per_client=7 is more than the 6 classes"),
        ({"name": "pathological", "classes_per_client": 7, "drawn": True}, "classes_per_client=7 is more than the 6"),
        ({"name": "ext-dirichlet", "clients": 2}, "clients=2 x classes_per_client=2 hold 4 of 6 classes; raise one"),
        ({"name": "natural"}, "natural needs the user of each image"),
        ({"name": "skew", "clients": 6_000_000, "min_size": 0}, "more than 30,000,000 cells; lower clients"),
        ({"name": "iid", "clients": 10_000_001, "min_size": 0}, "clients=10000001 is more than 10,000,000, the most"),
    ],
)
def test_settings_that_rows_cannot_meet_are_refused_in_words(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(from_json(spec), even_rows(6, 100))


@pytest.mark.parametrize("name", ["dirichlet", "dirichlet-client", "pathological", "ext-dirichlet", "label-set"])
def test_tables_too_large_to_hold_are_refused_before_they_are_made(name: str) -> None:
    extra = {"classes_per_client": 2} if "classes_per_client" in PARTITIONERS[name].__annotations__ else {}
    with pytest.raises(UsageError, match=r"[\d,]+ x [\d,]+ classes and clients make a table of more than 100,000,000"):
        run(from_json({"name": name, "clients": 9_000_000, "min_size": 0, **extra}), even_rows(12, 5))


def test_natural_refuses_more_clients_than_users() -> None:
    rows = even_rows(6, 100, users=20)
    with pytest.raises(UsageError, match="clients=25 and 20 users with at least 1 images each: 5 too few"):
        run(from_json({"name": "natural", "clients": 25}), rows)
    with pytest.raises(UsageError, match="0 users with at least 100 images"):
        run(from_json({"name": "natural", "min_size": 100}), rows)


def test_rows_of_one_class_that_others_lack() -> None:
    """A class that no image has is no class to deal."""
    rows = Rows.single(np.arange(60) % 3 * 2, 9)
    for spec in ({"name": "pathological", "clients": 3}, {"name": "ext-dirichlet", "clients": 3}, {"name": "skew"}):
        assert sizes_of(run(from_json(spec), rows)).min() >= 1
