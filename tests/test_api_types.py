"""Arguments of Python functions that are of another type than they should be: one line each, no raw exception."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

import fedrsic_data
import fedtrain
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS, Assignment
from fedrsic_data.partition.iid import Iid
from fedtrain.methods.promptfl import PromptFL

PIXELS = np.zeros((4, 8, 8, 3), np.uint8)
ROWS = datasets.Dataset.from_dict({"label": [0, 1, 0, 1], "x": [1, 2, 3, 4]})


def endless() -> list[Any]:
    """A list that holds itself, as data frames of objects do by mistake."""
    found: list[Any] = [1]
    found.append(found)
    return found


def split(labels: Any, partitioner: Any = "iid", **more: Any) -> Callable[[], object]:
    return lambda: fedrsic_data.partition(labels, partitioner, clients=2, **more)


def built(what: Any, **more: Any) -> Callable[[], object]:
    return lambda: fedrsic_data.build(what, more.pop("out", "never"), **more)


def resplit(**more: Any) -> Callable[[], object]:
    return lambda: fedrsic_data.resplit("never", "out", **more)


def publish(repo: Any, **more: Any) -> Callable[[], object]:
    return lambda: fedrsic_data.publish("never", repo, **more)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (split(endless()), "labels: row 1 is nested"),
        (split([endless()]), "labels: row 0 is nested"),
        (split(np.array([*endless(), 1], dtype=object)), "labels: row 1 is nested"),
        (split([[1, [2]], [1]]), "labels: row 0 is nested"),
        (split([0, {}]), "labels: row 1 is nested"),
        (split([0, 1], domains=endless()), "domains: row 1 is nested"),
        (split([0, 1, 2], domains=[1]), "domains have 1 values for 3 labels"),
        (split([0.0, float("nan")]), "labels: 1 of 2 are missing, row 1 for one"),
        (split([0, 1], 5), "partitioner=5 should be a partitioner, or the name of one"),
        (split([0, 1], classes=2.5), "classes=2.5 should be a number of classes"),
        (split([0, 1], classes=True), "classes=True should be a number of classes"),
        (split([0, 1], classes=-1), "classes=-1 should be a number of classes"),
        (split([0, 1], classes="ab"), "classes='ab' should be a number of classes, or a list of their names"),
        (split([0, 1], classes=[1, 0]), r"classes=\[1, 0\] should be a number of classes"),
        (split(["a", "b"], classes=["a", "b", "b"]), "classes: a name occurs twice"),
        (split(torch.zeros(4, dtype=torch.bfloat16)), "labels: the tensor is no NumPy array"),
        (split(torch.eye(2).to_sparse()), "labels: the tensor is no NumPy array"),
        (split(torch.zeros(4, device="meta")), "labels: the tensor is no NumPy array"),
        (split(np.array([0, 2**64 - 1], np.uint64)), "classes=18,446,744,073,709,551,616 are more than can be"),
        (split(np.array([[0.0, float("nan")]])), "should be zeros and ones"),
        (split(ROWS), "labels: a table has several columns; name one with column="),
        (
            split(TensorDataset(torch.zeros(2), torch.arange(2))),
            r"labels: a TensorDataset has several tensors",
        ),
        (built((PIXELS, pd.DataFrame({"a": [0, 1] * 2, "b": 1}))), "labels: a table has several columns; name one"),
        (built((PIXELS, [[1, 0], [0, 1]] * 2)), "labels: every row has 2 zeros and ones.*give numpy.array"),
        (built((PIXELS, np.full((4, 2), 2))), "should be zeros and ones"),
        (split(ROWS.to_iterable_dataset(), column="label"), "column='label': a IterableDataset is no table"),
        (split(datasets.DatasetDict(train=ROWS), column="label"), "column='label': a DatasetDict is no table"),
        (split([0, 1], column="label"), "column='label': a list is no table"),
        (built((PIXELS, torch.zeros(4, dtype=torch.bfloat16))), "labels: the tensor is no NumPy array"),
        (built((PIXELS, {3, 2, 1, 0})), "labels: a set is no column"),
        (built((PIXELS, "abab")), "labels: a str is no column"),
        (built(ROWS.to_iterable_dataset()), "a IterableDataset is no dataset with rows"),
        (
            built(datasets.DatasetDict(train=ROWS)),
            "a DatasetDict is no dataset with rows that can be counted; give one of its splits",
        ),
        (built({"fedkit": 1, "name": "x", "subsets": {Path("a"): {}}}), "recipe: should be plain JSON"),
        (built("fed-rsic", offline="no"), "offline='no' should be True or False"),
        (resplit(overwrite="no"), "overwrite='no' should be True or False"),
        (publish("a/b", redistribute="no"), "redistribute='no' should be True or False"),
        (publish("a/b", dry_run=1), "dry_run=1 should be True or False"),
        (publish(5), "repo=5 and revision=None should be texts"),
        (publish("a/b", revision=5), "repo='a/b' and revision=5 should be texts"),
        (lambda: fedrsic_data.split_sites("never", "out", group=1.5), "group=1.5 should be a whole number"),  # type: ignore[arg-type]
        (lambda: fedrsic_data.split_sites("never", "a\0b"), r"out='a\\x00b' should be a path"),
        (lambda: fedrsic_data.resplit("never", "\ud800"), r"out='\\ud800' should be a path"),
        (built((PIXELS, endless())), "labels: row 1 is nested"),
        (built((PIXELS, [endless()] * 4)), "labels: row 0 is nested"),
        (built((PIXELS, [0, 1, 0])), "there are 4 images and 3 labels"),
        (built((5, [1])), "a int holds no images"),
        (built("fed-rsic", out=5), "out=5 should be a path"),
        (built("fed-rsic", sample=True, subsets=5), "subsets=5 should be a name"),
        (built("fed-rsic", sample=True, subsets=[5]), r"subsets=\[5\] should be a name"),
        (built("fed-rsic", sample=True, jobs="x"), "jobs='x' should be a whole number"),
        (built("fed-rsic", sources=5), "sources=5 should be a path"),
        (built("fed-rsic", sources={"ucmerced": 5}), r"sources\['ucmerced'\]=5 should be a path"),
        (lambda: fedrsic_data.open(5), "dataset=5 should be a path"),  # type: ignore[arg-type]
        (lambda: fedrsic_data.verify(None), "dataset=None should be a path"),  # type: ignore[arg-type]
        (lambda: fedrsic_data.resplit(5, "never"), "dataset=5 should be a path"),  # type: ignore[arg-type]
        (lambda: fedrsic_data.split_sites("never", 5), "out=5 should be a path"),  # type: ignore[arg-type]
        (lambda: fedtrain.train(5, "never"), "method=5 should be a method's name"),  # type: ignore[arg-type]
        (lambda: fedtrain.train(PromptFL, "never"), "should be a method's name, or its place"),  # type: ignore[arg-type]
        (lambda: fedtrain.train("fedpgp", None), "dataset=None should be a path"),  # type: ignore[arg-type]
        (lambda: fedtrain.load(None), "run=None should be a path"),  # type: ignore[arg-type]
        (lambda: fedtrain.compare(5), r"compare\(5\): should be runs"),  # type: ignore[arg-type]
        (lambda: fedtrain.compare([5]), "run=5 should be a path"),  # type: ignore[list-item]
    ],
)
def test_a_wrong_type_is_refused(
    call: Callable[[], object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "never").exists()


def test_a_run_refuses_wrong_types(sample_build: Path, tmp_path: Path) -> None:
    for settings, words in (
        ({"subset": 5}, "no subset 5"),
        ({"out": 5}, "out=5 should be a path"),
        ({"lr": torch.nn.ReLU()}, "cannot be written as JSON"),
        ({"rounds": 1.5}, "rounds"),
    ):
        with pytest.raises(UsageError, match=words):
            fedtrain.train("promptfl", sample_build, **settings)


class Broken(Iid):
    """A partitioner with a mistake."""

    def assign(self, rows: Any, rng: Any) -> Assignment:
        raise LookupError("no such row")


def test_a_partitioner_that_fails_keeps_its_exception_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARTITIONERS, "broken", Broken)
    with pytest.raises(LookupError, match="no such row") as caught:
        fedrsic_data.partition([0, 1], "broken", clients=2)
    assert caught.value.__notes__ == ["in the partitioner Broken of test_api_types"]
