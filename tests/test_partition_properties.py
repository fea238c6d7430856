"""What holds for every partitioner whatever the rows: nothing lost, nothing twice, order and repetition immaterial."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_partition_measures import ids

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS, Rows, assign, from_json, spelled_out

FOLDER = tempfile.TemporaryDirectory()
CHOICES = {
    "alpha": st.sampled_from([1e-6, 0.01, 0.5, 3.0, 1e6]),
    "balance": st.booleans(),
    "classes_per_client": st.integers(1, 3),
    "clients": st.integers(1, 20),
    "clusters": st.integers(1, 4),
    "domain_mix": st.sampled_from([0.0, 0.3, 1.0]),
    "drawn": st.booleans(),
    "min_size": st.integers(0, 3),
    "mix": st.sampled_from([0.0, 0.3, 1.0]),
    "reduce": st.sampled_from(["first", "rarest"]),
    "sets": st.integers(0, 4),
    "shards_per_client": st.integers(1, 3),
    "sizes": st.sampled_from(["even", "dirichlet", "lognormal", "power", "zipf"]),
}
"""A law's parameter is left at its default: others are refused, which has tests of its own."""


@st.composite
def some_rows(draw: st.DrawFn, single: bool) -> Rows:
    n = draw(st.integers(1, 60))
    classes, domains = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    domain = rng.integers(0, domains, n)
    if single:
        rows = Rows.single(rng.integers(0, classes, n), classes, domain)
    else:
        rows = Rows.multi_hot(rng.random((n, classes)) < rng.random(), domain)
    users = draw(st.integers(1, 8))
    names = tuple(f"user-{u}" for u in range(users))
    return dataclasses.replace(rows, groups=rng.integers(0, users, n).astype(np.int32), group_names=names)


def spec_of(draw: st.DrawFn, name: str, n: int) -> dict[str, Any]:
    """Settings for a partitioner; files that it reads are written."""
    fields = {field.name for field in dataclasses.fields(PARTITIONERS[name])}
    spec = {"name": name} | {key: draw(CHOICES[key]) for key in sorted(fields & CHOICES.keys())}
    if "reduce" in spec and PARTITIONERS[name].multi_label and draw(st.booleans()):
        spec["reduce"] = None
    if name == "assigned":
        path = Path(FOLDER.name) / "assigned.parquet"
        clients = [f"site-{k}" for k in np.arange(n) % 4]
        pq.write_table(pa.table({"sample_id": ids(n), "client_id": clients}), path)
        spec["path"] = str(path)
    if name == "cluster":
        path = Path(FOLDER.name) / "points.npy"
        np.save(path, np.random.default_rng(n).standard_normal((n, 3)))
        spec["path"] = str(path)
    return spec


@pytest.mark.parametrize("single", [True, False], ids=["single", "multi"])
@pytest.mark.parametrize("name", PARTITIONERS)
@settings(deadline=None, max_examples=25, derandomize=True, database=None)
@given(data=st.data())
def test_any_rows_any_settings(name: Any, single: bool, data: st.DataObject) -> None:
    rows = data.draw(some_rows(single))
    spec = spec_of(data.draw, name, len(rows))
    partitioner = from_json(spec)
    assert from_json(json.loads(json.dumps(spelled_out(spec)))) == partitioner
    seed = data.draw(st.integers(0, 100))
    try:
        answer = assign(partitioner, rows, ids(len(rows)), np.random.default_rng(seed))
    except UsageError:  # some settings cannot be met by some rows; which, other tests say
        return
    assert answer.owner.dtype == np.int32
    assert answer.owner.shape == (len(rows),)
    assert -1 <= answer.owner.min() <= answer.owner.max() < answer.clients
    assert answer.clients == (spec.get("clients") or answer.clients)
    assert len(answer.names) in (0, answer.clients)
    sizes = np.bincount(answer.owner[answer.owner >= 0], minlength=answer.clients)
    if partitioner.keeps_min_size:
        assert sizes.min() >= spec["min_size"]
    if name not in ("natural", "pathological"):  # those alone may leave rows out, with these settings
        assert (answer.owner >= 0).all()
    assert 0 <= answer.moved <= len(rows)
    again = assign(partitioner, rows, ids(len(rows)), np.random.default_rng(seed))
    assert np.array_equal(answer.owner, again.owner)
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = assign(partitioner, rows.take(order), ids(len(rows)).take(order), np.random.default_rng(seed))
    assert np.array_equal(shuffled.owner, answer.owner[order])
    assert shuffled.moved == answer.moved


WITH_CLIENTS = [name for name in PARTITIONERS if name not in ("assigned", "class-blocks", "natural")]


def absurd(name: str, clients: int, alpha: float, n: int) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(PARTITIONERS[name])}
    spec = {"name": name, "clients": clients}
    wishes = {"alpha": alpha, "classes_per_client": 2, "shards_per_client": 1, "clusters": 1, "sizes": "lognormal"}
    spec |= {key: value for key, value in wishes.items() if key in fields}
    if "path" in fields:
        path = Path(FOLDER.name) / "absurd.npy"
        np.save(path, np.arange(2.0 * n).reshape(n, 2))
        spec["path"] = str(path)
    return from_json(spec)


@pytest.mark.parametrize("name", WITH_CLIENTS)
def test_more_clients_than_rows_is_refused_with_the_number_missing(name: Any) -> None:
    rows = Rows.single(np.arange(50) % 2, 2)
    with pytest.raises(UsageError, match=r"500.*50.*450 (too few|shards would be empty)"):
        assign(absurd(name, 500, 0.5, 50), rows, ids(50), np.random.default_rng(0))


@pytest.mark.parametrize("name", PARTITIONERS)
@pytest.mark.parametrize("clients", [10**9, 10**30])
@pytest.mark.parametrize("min_size", [0, 1])
def test_an_absurd_number_of_clients_is_refused_before_anything_of_its_size_is_made(
    name: Any, clients: int, min_size: int
) -> None:
    fields = {field.name for field in dataclasses.fields(PARTITIONERS[name])}
    if "clients" not in fields:
        with pytest.raises(UsageError, match="unknown key 'clients'"):
            from_json({"name": name, "clients": clients})
        return
    rows = Rows.single(np.arange(50) % 2, 2, np.arange(50) % 3)
    rows = dataclasses.replace(rows, groups=np.arange(50, dtype=np.int32) % 4, group_names=("a", "b", "c", "d"))
    partitioner = dataclasses.replace(absurd(name, 1, 0.5, 50), clients=clients, min_size=min_size)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=f"clients={clients} .*lower clients"):
            assign(partitioner, rows, ids(50), np.random.default_rng(0))
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", WITH_CLIENTS)
@pytest.mark.parametrize("alpha", [1e-6, 1e6])
@pytest.mark.parametrize(
    ("n", "clients"), [(1, 1), (50, 1), (50, 50), (600, 13)], ids=["one-row", "one-client", "a-row-each", "lone-class"]
)
def test_extremes_end_and_serve_every_client(name: Any, alpha: float, n: int, clients: int) -> None:
    labels = np.arange(n) % 2
    labels[-1] = 2  # a class with one image
    partitioner = absurd(name, clients, alpha, n)
    if hasattr(partitioner, "classes_per_client") and clients == 1:  # which has to hold all classes
        partitioner = dataclasses.replace(partitioner, classes_per_client=len(set(labels)))
    answer = assign(partitioner, Rows.single(labels, 3), ids(n), np.random.default_rng(3))
    assert set(answer.owner) == set(range(clients))


@pytest.mark.parametrize("name", PARTITIONERS)
def test_an_empty_dataset_is_refused(name: Any) -> None:
    with pytest.raises(UsageError, match="no images"):
        assign(PARTITIONERS[name](), Rows.single(np.zeros(0, int), 3), ids(0), np.random.default_rng(0))


KEPT = {
    "iid": ({}, [1, 1, 0, 0, 0, 2, 2, 1, 0, 2, 2, 1]),
    "dirichlet": ({"alpha": 0.3}, [0, 2, 1, 2, 1, 1, 2, 1, 2, 0, 1, 1]),
}


@pytest.mark.parametrize("name", KEPT)
def test_single_label_owners_stay_what_they_were(name: str) -> None:
    """Digests of builds depend on these owners."""
    extra, owners = KEPT[name]
    rows = Rows.single(np.arange(12) % 3, 3)
    answer = assign(from_json({"name": name, "clients": 3, **extra}), rows, ids(12), np.random.default_rng(0))
    assert answer.owner.tolist() == owners
