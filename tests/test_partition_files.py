"""Partitions that come from files: owners by sample id, embeddings to cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_partition_measures import even_rows, ids, run

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import Rows, assign, from_json
from fedrsic_data.partition.base import Assignment
from fedrsic_data.partition.cluster import k_means

ROWS = even_rows(2, 3)
NAMES = ids(6).to_pylist()


def assigned(path: Path) -> Assignment:
    return run(from_json({"name": "assigned", "path": str(path)}), ROWS)


def csv(folder: Path, *lines: str) -> Path:
    path = folder / "owners.csv"
    path.write_text("\n".join(["sample_id,client_id", *lines]) + "\n")
    return path


def test_csv_and_parquet_give_the_same_owners_in_any_order(tmp_path: Path) -> None:
    clients = ["b", "a", "b", "c", "a", "a"]
    shuffled = [4, 2, 0, 5, 1, 3]
    path = csv(tmp_path, *(f"{NAMES[i]},{clients[i]}" for i in shuffled))
    table = pa.table({"extra": shuffled, "client_id": clients, "sample_id": NAMES})
    pq.write_table(table, tmp_path / "owners.parquet")
    for file in (path, tmp_path / "owners.parquet"):
        answer = assigned(file)
        assert answer.owner.tolist() == [1, 0, 1, 2, 0, 0]
        assert answer.names == ("a", "b", "c")


def test_an_empty_client_leaves_the_image_out_and_numbers_are_names(tmp_path: Path) -> None:
    answer = assigned(csv(tmp_path, *(f"{name},{7 if i else ''}" for i, name in enumerate(NAMES))))
    assert answer.owner.tolist() == [-1, 0, 0, 0, 0, 0]
    assert answer.names == ("7",)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"{n},a" for n in NAMES[:5]], "sample_id '0000005' is missing; every image needs a row"),
        ([f"{n},a" for n in NAMES[:1]], r"5 sample ids \('0000001', '0000002', '0000003', ...\) are missing"),
        ([f"{n},a" for n in [*NAMES, "x"]], "sample_id 'x' is not among the images"),
        ([f"{n},a" for n in [*NAMES, NAMES[0]]], "sample_id '0000000' is more than once"),
        ([*(f"{n},a" for n in NAMES), ",b"], "1 rows have no sample_id"),
        ([f"{n}," for n in NAMES], "no row has a client_id"),
        (["a,b,c"], "cannot be read as a table with columns sample_id, client_id"),
    ],
)
def test_owners_that_do_not_fit_are_refused_in_words(tmp_path: Path, lines: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assigned(csv(tmp_path, *lines))


def test_files_that_cannot_be_read_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="path='' should name a .csv or .parquet file"):
        run(from_json({"name": "assigned"}), ROWS)
    with pytest.raises(UsageError, match="there is no such file"):
        assigned(tmp_path / "none.csv")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UsageError, match="cannot be read as a table"):
        assigned(tmp_path / "broken.parquet")
    (tmp_path / "other.csv").write_text("id,client\n1,2\n")
    with pytest.raises(UsageError, match="with columns sample_id, client_id"):
        assigned(tmp_path / "other.csv")
    pq.write_table(pa.table({"sample_id": NAMES}), tmp_path / "half.parquet")
    with pytest.raises(UsageError, match="with columns sample_id, client_id"):
        assigned(tmp_path / "half.parquet")


def cluster(path: Path, rows: Rows = ROWS, order: np.ndarray | None = None) -> Assignment:
    partitioner = from_json(
        {"name": "cluster", "clients": 2, "clusters": 2, "alpha": 1e-6, "path": str(path), "min_size": 0}
    )
    names = ids(len(rows))
    if order is not None:
        rows, names = rows.take(order), names.take(order)
    return assign(partitioner, rows, names, np.random.default_rng(0))


def test_embeddings_by_id_and_in_order_of_ids_are_the_same(tmp_path: Path) -> None:
    points = np.array([[0.0, 9], [5, 1], [0, 9], [5, 1], [0, 8.5], [5.5, 1]], np.float32)
    np.save(tmp_path / "e.npy", points)
    shuffled = np.array([3, 1, 5, 0, 4, 2])
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float32(), 2), pa.large_list(pa.float64())):
        table = pa.table({"sample_id": ids(6).take(shuffled), "embedding": pa.array(points[shuffled].tolist(), kind)})
        pq.write_table(table, tmp_path / "e.parquet")
        one, other = cluster(tmp_path / "e.npy"), cluster(tmp_path / "e.parquet", order=shuffled)
        assert np.array_equal(one.owner[shuffled], other.owner)
    assert len(set(one.owner[::2])) == len(set(one.owner[1::2])) == 1


@pytest.mark.parametrize(
    "points",
    [np.zeros((5, 3)), np.zeros(6), np.zeros((6, 0)), np.zeros((6, 2), np.int64), np.full((6, 2), np.nan)],
    ids=["rows", "flat", "empty", "integers", "nan"],
)
def test_embeddings_that_do_not_fit_are_refused_in_words(tmp_path: Path, points: Any) -> None:
    np.save(tmp_path / "e.npy", points)
    with pytest.raises(UsageError, match=r"should be floats \[6, features\]|not finite"):
        cluster(tmp_path / "e.npy")


def test_embeddings_that_cannot_be_read_are_refused_in_words(tmp_path: Path) -> None:
    for content in (b"", b"not numpy", b"\x93NUMPY"):
        (tmp_path / "e.npy").write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read as an array"):
            cluster(tmp_path / "e.npy")
    np.save(tmp_path / "e.npy", np.array([{"pickled": 1}] * 6, object), allow_pickle=True)
    with pytest.raises(UsageError, match="cannot be read as an array"):
        cluster(tmp_path / "e.npy")
    for column in ([[1.0], [1.0, 2.0], [], [], [], []], [1.0] * 6, ["x"] * 6, [None, *[[1.0]] * 5]):
        pq.write_table(pa.table({"sample_id": NAMES, "embedding": column}), tmp_path / "e.parquet")
        with pytest.raises(UsageError, match=r"should be floats \[6, features\]"):
            cluster(tmp_path / "e.parquet")
    with pytest.raises(UsageError, match="clusters=20 is more than the 6 images"):
        run(from_json({"name": "cluster", "clients": 2, "path": str(tmp_path / "e.npy")}), ROWS)


def test_k_means_finds_separate_blobs_and_survives_equal_points() -> None:
    rng = np.random.default_rng(0)
    blob = rng.integers(0, 7, 40_000)  # more than the centres are learnt from
    points = (20 * rng.standard_normal((7, 4)))[blob] + rng.standard_normal((40_000, 4))
    found = k_means(points.astype(np.float32), 7, rng)
    table = np.bincount(blob * 7 + found, minlength=49).reshape(7, 7)
    assert (np.sort(table, axis=1)[:, -1] >= 0.99 * table.sum(axis=1)).all()
    assert (np.count_nonzero(table > 100, axis=0) == 1).all()
    assert set(k_means(np.ones((10, 2)), 4, rng)) <= set(range(4))


def test_owners_by_id_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    path = csv(tmp_path, *(f"{name},c{i % 3}" for i, name in enumerate(NAMES)))
    partitioner = from_json({"name": "assigned", "path": str(path)})
    order = np.array([5, 3, 1, 0, 2, 4])
    rows = Rows.single(np.arange(6), 6).take(order)
    answer = assign(partitioner, rows, ids(6).take(order), np.random.default_rng(0))
    assert answer.owner.tolist() == (order % 3).tolist()
