"""``fedrsic_data.partition``: labels of any kind dealt out in three lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import fedrsic_data
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS, Assignment, Rows
from fedrsic_data.partition.dirichlet import Dirichlet

Y = np.random.default_rng(0).integers(0, 5, 400)
NAMES = ("ash", "birch", "cedar", "elm", "fir")
SETS = [sorted({int(y), int(y) // 2}) for y in Y]
HOT = np.zeros((400, 5), int)
for _row, _labels in enumerate(SETS):
    HOT[_row, _labels] = 1
PINE = datasets.Features({"x": datasets.Value("int64"), "y": datasets.ClassLabel(names=list(NAMES))})

SINGLE: dict[str, tuple[Any, dict[str, Any]]] = {
    "a NumPy array": (Y, {}),
    "a small unsigned array": (Y.astype(np.uint8), {}),
    "a list": (Y.tolist(), {}),
    "a list of names": ([NAMES[y] for y in Y], {}),
    "an array of names": (np.array(NAMES)[Y], {}),
    "a tensor": (torch.tensor(Y), {}),
    "a Series": (pd.Series(Y), {}),
    "a Series of names": (pd.Series([NAMES[y] for y in Y]), {}),
    "a categorical": (pd.Series(pd.Categorical.from_codes(Y, NAMES)), {}),
    "an Arrow array": (pa.array(Y), {}),
    "an Arrow column": (pa.chunked_array([pa.array(Y[:9]), pa.array(Y[9:])]), {}),
    "a column of a table": (pa.table({"y": Y}), {"column": "y"}),
    "a column of a DataFrame": (pd.DataFrame({"y": Y}), {"column": "y"}),
    "a column of a datasets.Dataset": (datasets.Dataset.from_dict({"x": Y, "y": Y}, features=PINE), {"column": "y"}),
    "a column taken out of a datasets.Dataset": (datasets.Dataset.from_dict({"x": Y, "y": Y}, features=PINE)["y"], {}),
    "a torch dataset": (SimpleNamespace(targets=Y.tolist(), classes=list(NAMES)), {}),
    "a subset of a torch dataset": (
        torch.utils.data.Subset(SimpleNamespace(targets=[*Y, 0, 0]), range(400)),  # type: ignore[arg-type]
        {},
    ),
    "lists of one label": ([[int(y)] for y in Y], {}),
    "zeros and ones": (np.eye(5, dtype=bool)[Y], {}),
}
MULTI: dict[str, tuple[Any, dict[str, Any]]] = {
    "lists": (SETS, {}),
    "lists of names": ([[NAMES[label] for label in labels] for labels in SETS], {}),
    "an Arrow column of lists": (pa.array(SETS), {}),
    "zeros and ones": (HOT, {}),
    "a tensor of zeros and ones": (torch.tensor(HOT), {}),
    "a tensor of zeros and ones as a loss takes them": (torch.tensor(HOT, dtype=torch.float32), {}),
    "a column of a datasets.Dataset": (datasets.Dataset.from_dict({"y": SETS}), {"column": "y"}),
    "a column taken out of a datasets.Dataset": (datasets.Dataset.from_dict({"y": SETS})["y"], {}),
    "a column of class labels": (
        datasets.Dataset.from_dict(
            {"y": SETS}, features=datasets.Features({"y": datasets.List(datasets.ClassLabel(names=list(NAMES)))})
        ),
        {"column": "y"},
    ),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_labels_of_every_kind_have_the_same_owners(kind: str) -> None:
    labels, more = SINGLE[kind]
    expected = fedrsic_data.partition(Y, "dirichlet", clients=6, alpha=0.3, seed=3)
    found = fedrsic_data.partition(labels, "dirichlet", clients=6, alpha=0.3, seed=3, **more)
    assert np.array_equal(found.owner, expected.owner)
    assert np.array_equal(found.counts, expected.counts)
    named = any(word in kind for word in ("names", "categorical", "datasets.Dataset", "a torch dataset"))
    assert found.classes == (NAMES if named and "subset" not in kind else tuple("01234"))


@pytest.mark.parametrize("kind", MULTI)
@pytest.mark.parametrize("partitioner", ["dirichlet", "label-set"])
def test_several_labels_of_every_kind_have_the_same_owners(kind: str, partitioner: str) -> None:
    labels, more = MULTI[kind]
    expected = fedrsic_data.partition(HOT, partitioner, clients=4, seed=1)
    found = fedrsic_data.partition(labels, partitioner, clients=4, seed=1, **more)
    assert np.array_equal(found.owner, expected.owner)
    assert found.counts.sum() == HOT.sum()
    assert "cooccurrence_drift" in found.skew()


def test_indices_are_the_rows_of_each_client() -> None:
    found = fedrsic_data.partition(Y, "dirichlet", clients=6, alpha=0.3)
    assert len(found) == len(found.indices) == len(found.clients) == 6
    assert np.array_equal(np.sort(np.concatenate(found.indices)), np.arange(400))
    for client, rows in enumerate(found.indices):
        assert rows.dtype == np.int64
        assert (found.owner[rows] == client).all()
        assert np.array_equal(np.bincount(Y[rows], minlength=5), found.counts[client])


def test_another_seed_or_name_is_another_draw() -> None:
    first = fedrsic_data.partition(Y, "dirichlet", clients=6)
    assert np.array_equal(first.owner, fedrsic_data.partition(Y, "dirichlet", clients=6).owner)
    assert not np.array_equal(first.owner, fedrsic_data.partition(Y, "dirichlet", clients=6, seed=1).owner)
    assert not np.array_equal(first.owner, fedrsic_data.partition(Y, "dirichlet", clients=6, name="other").owner)


def test_a_recipe_and_a_call_give_the_same_owners(sample_build: Path) -> None:
    data = fedrsic_data.open(sample_build)
    subset = data.subset("fed-ucmerced")
    rows = data.plan.filter(pa.compute.equal(data.plan.column("subset"), subset.name))
    spec = dict(data.manifest.recipe.partition_of(subset.name))
    labels = [name for (name,) in rows.column("labels").to_pylist()]
    found = fedrsic_data.partition(
        labels,
        spec.pop("name"),
        seed=data.manifest.recipe.seed,
        name=subset.name,
        ids=rows.column("sample_id"),
        classes=subset.classes,
        **spec,
    )
    assert [found.clients[owner] for owner in found.owner] == rows.column("client_id").to_pylist()


def test_the_order_of_rows_with_ids_does_not_matter() -> None:
    ids = np.array([f"image-{i}" for i in range(400)])
    order = np.random.default_rng(1).permutation(400)
    one = fedrsic_data.partition(Y, "dirichlet", clients=6, ids=ids)
    other = fedrsic_data.partition(Y[order], "dirichlet", clients=6, ids=ids[order])
    assert np.array_equal(one.owner[order], other.owner)


def test_domains_and_users_are_heeded() -> None:
    users = [f"user-{i % 7}" for i in range(400)]
    found = fedrsic_data.partition(Y, "natural", groups=users, domains=["city", "field"] * 200)
    assert found.clients == tuple(f"user-{i}" for i in range(7))
    assert all(len({users[row] for row in rows}) == 1 for rows in found.indices)
    assert found.domains == ("city", "field")
    assert "domain_entropy" in found.skew()


def test_rows_that_are_left_out_are_nobodys() -> None:
    found = fedrsic_data.partition(Y, "natural", groups=["few"] * 3 + ["many"] * 397, min_size=10)
    assert (found.owner[:3] == -1).all()
    assert found.counts.sum() == sum(map(len, found.indices)) == 397
    assert found.skew()["total_variation"]["value"] == 0


def test_a_partitioner_with_its_settings_is_taken_too() -> None:
    found = fedrsic_data.partition(Y, Dirichlet(clients=6, alpha=0.3), seed=3)
    assert np.array_equal(found.owner, fedrsic_data.partition(Y, "dirichlet", clients=6, alpha=0.3, seed=3).owner)


def test_skew_stands_beside_chance_and_tables_and_figures_show_the_counts() -> None:
    found = fedrsic_data.partition(Y, "dirichlet", clients=6, alpha=0.05)
    measured = found.skew()["total_variation"]
    assert measured["value"] > measured["iid_high"] > measured["iid_low"]
    assert measured == found.skew()["total_variation"]
    table = found.to_pandas()
    assert table.index.tolist() == list(found.clients)
    assert np.array_equal(table.to_numpy(), found.counts)
    assert [found.plot(kind).get_axes() != [] for kind in ("clients", "sizes")] == [True, True]
    assert "6 clients" in repr(found)
    assert "400 rows" in repr(found)


@pytest.mark.parametrize("name", PARTITIONERS)
def test_every_partitioner_can_be_called(name: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "natural": {"groups": Y},
        "domain": {"domains": Y % 2, "clients": 4},
        "pathological": {"clients": 5},
    }.get(name, {})
    (tmp_path / "owners.csv").write_text("sample_id,client_id\n" + "".join(f"r{i},c{i % 3}\n" for i in range(400)))
    if name in ("assigned", "cluster"):
        vectors = pa.table({"sample_id": [f"r{i}" for i in range(400)], "embedding": np.eye(5)[Y].tolist()})
        pa.parquet.write_table(vectors, tmp_path / "vectors.parquet")
        file = "owners.csv" if name == "assigned" else "vectors.parquet"
        more = {"path": str(tmp_path / file), "ids": [f"r{i}" for i in range(400)]}
    found = fedrsic_data.partition(Y, name, **more)
    assert sum(map(len, found.indices)) == 400


@pytest.mark.parametrize(
    ("labels", "more", "words"),
    [
        ([0, 1, None], {}, "labels: 1 of 3 are missing, row 2"),
        ([0.0, float("nan")], {}, "labels: 1 of 2 are missing, row 1"),
        (pd.Series([0, None]), {}, "labels: 1 of 2 are missing"),
        ([0.5, 1.0], {}, "labels are of type double"),
        ([0, -1], {}, "labels: -1 is not from 0"),
        ([0, 7], {"classes": 3}, "labels: 7 is not from 0 to 2"),
        (["ash", "oak"], {"classes": NAMES}, "'oak' is not one of the 5 classes"),
        (["ash", "oak"], {"classes": 3}, "classes=3 and labels name 2"),
        ([0, 1], {"classes": ["a", "a"]}, "a name occurs twice"),
        ([[0], [1, 1]], {}, "one label twice"),
        ([[0], None], {}, "labels: 1 of 2 are missing"),
        ([[0], [None]], {}, "are missing"),
        (np.array([[0, 2]]), {}, "zeros and ones"),
        (np.zeros((2, 2, 2), int), {}, "3 dimensions"),
        ([10**9, 0], {}, "are these labels row numbers"),
        ([0, "a"], {}, "cannot be read as one column"),
        ([], {}, "there are no images to partition"),
        (object(), {}, "cannot be read as one column"),
        ([0, 1], {"domains": ["a"]}, "domains have 1 values for 2 labels"),
        ([0, 1], {"domains": ["a", None]}, "domains: 1 of 2 are missing"),
        ([0, 1], {"groups": [0.5, 1.5]}, "groups are of type double"),
        ([0, 1], {"ids": ["a", "a"]}, "ids: should be 2 different texts"),
        ([0, 1], {"ids": ["a"]}, "ids: should be 2 different texts"),
        (pa.table({"y": [0, 1]}), {"column": "z"}, "column='z': there is none of that name; there are y"),
        ([0, 1], {"column": "y"}, "column='y'"),
        ([0, 1], {"clients": 5}, "too few"),
        (np.array([[0], [1]]), {}, "flatten them"),
        (pa.DictionaryArray.from_arrays([0, 1], pa.array(["a", None])), {}, "labels: 1 of 2 are missing"),
        ("aabb", {}, "a str is no column"),
        ({0: 1}, {}, "a dict is no column"),
        (pd.DataFrame({"y": [0, 1]}), {}, "name one with column="),
        (pd.DataFrame([[0, 1], [1, 0]], columns=["y", "y"]), {"column": "y"}, "occurs 2 times"),
        ([0, 1], {"seed": -1}, "seed=-1 should be a whole number"),
        ([0, 1], {"seed": True}, "seed=True should be a whole number"),
        ([0, 1], {"name": None}, "name=None should be a text"),
        ([10**30, 1], {}, "cannot be read as one column"),
        ([0, 1], {"alhpa": 1}, "did you mean 'alpha'?"),
        ([0, 1], {"partitioner": "dirichlett"}, "did you mean 'dirichlet'?"),
        ([0, 1], {"partitioner": Dirichlet(), "alpha": 1.0}, "alpha: is a setting"),
        ([[0], [0, 1]], {"partitioner": "shards", "clients": 2}, "one label per image"),
    ],
)
def test_bad_labels_are_refused_in_one_line(labels: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        fedrsic_data.partition(labels, **{"clients": 2, **more} if "partitioner" not in more else more)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", ["np.full(n, 0.5)", "np.full(n, 9, np.int32)", "np.zeros(3, np.int32)", "None"])
def test_a_partitioner_that_gives_no_owners_is_named(answer: str) -> None:
    class Wrong(Dirichlet):
        def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
            owner = eval(answer, {"np": np, "n": len(rows)})
            return Assignment(owner, 2)

    with pytest.raises(UsageError, match="the partitioner Wrong of test_partition_result gave no int32 owner"):
        fedrsic_data.partition(Y, Wrong(clients=2))


def test_nothing_heavy_is_loaded_for_a_list() -> None:
    code = (
        "import sys, fedrsic_data\n"
        "found = fedrsic_data.partition([0, 1, 0, 1], clients=2)\n"
        "found.counts, found.indices, found.skew()\n"
        "assert not {'torch', 'matplotlib', 'datasets'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_of_partitioners_can_still_be_imported() -> None:
    code = (
        "import fedrsic_data.partition\n"
        "from fedrsic_data.partition import PARTITIONERS, Assignment, Rows\n"
        "import fedrsic_data\n"
        "assert 'iid' in fedrsic_data.partition.PARTITIONERS\n"
        "assert len(fedrsic_data.partition([0, 1], clients=2)) == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("row", [[1, 0], [0, 1, 0], [True, False]])
def test_lists_that_may_be_a_matrix_are_refused(row: list[int]) -> None:
    """Read as class numbers, every row of two would have both classes."""
    with pytest.raises(UsageError, match=r"every row has \d zeros and ones.*give numpy.array"):
        fedrsic_data.partition([row, row[::-1]] * 10, "iid", clients=2)
    matrix = fedrsic_data.partition(np.array([row, row[::-1]] * 10), "iid", clients=2)
    assert matrix.counts.sum() == 20 * sum(row)
