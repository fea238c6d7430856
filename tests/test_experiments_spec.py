"""Files of experiments: what is varied, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import texts
from fedtrain.experiments import run
from fedtrain.experiments.spec import Experiment, MethodSpec, load, shipped, varied, varying

SMALL: dict[str, Any] = {
    "fedkit": 1,
    "name": "small",
    "datasets": [{"recipe": "fed-rsic", "set": {"alpha": [0.1, 0.5]}}],
    "methods": ["local", {"method": "fedpgp", "set": {"rank": 4}}],
    "seeds": [0, 1, 2],
    "tables": [{"metric": "test local accuracy", "columns": ["alpha"]}],
}


def read(tmp_path: Path, data: object) -> Experiment:
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps(data))
    return load(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, SMALL)
    assert found.datasets[0].set == {"alpha": [0.1, 0.5]}
    assert found.methods == ("local", MethodSpec("fedpgp", {"rank": 4}))
    assert found.seeds == (0, 1, 2)
    assert found.tables[0].columns == ("alpha",)


def test_lists_of_values_are_varied_in_every_combination() -> None:
    assert list(varied({"alpha": [0.1, 0.5], "clients": 10, "size": [1, 2]})) == [
        {"alpha": 0.1, "clients": 10, "size": 1},
        {"alpha": 0.1, "clients": 10, "size": 2},
        {"alpha": 0.5, "clients": 10, "size": 1},
        {"alpha": 0.5, "clients": 10, "size": 2},
    ]
    assert list(varied({})) == [{}]
    assert varying({"alpha": [1, 2], "b": 3}, {"lr": [1]}) == ("alpha", "lr")
    assert varying({"splits": [["test"]], "betas": [[1, 2], [3]]}) == ("betas",)
    assert texts({"alpha": 0.1, "name": "x", "flag": True, "none": None}) == [
        "alpha=0.1",
        "name=x",
        "flag=true",
        "none=null",
    ]
    with pytest.raises(UsageError, match=r"set.alpha: is an empty list"):
        list(varied({"alpha": []}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fedkit": 2}, "fedkit=2"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"name": ""}, "name=''"),
        ({"seeds": []}, "seeds: there is none"),
        ({"seeds": [1, 1]}, "seeds: one occurs twice"),
        ({"seeds": [-1]}, "seeds=-1"),
        ({"seeds": ["0"]}, "seeds[0]: '0'"),
        ({"methods": []}, "methods: there is none"),
        ({"methods": [{"metod": "x"}]}, "unknown key 'metod'; did you mean 'method'?"),
        ({"dataset": []}, "unknown key 'dataset'; did you mean 'datasets'?"),
        ({"tables": [{"metric": "x", "better": "most"}]}, "'most' is not one of higher, lower"),
        ({"tables": [{}]}, "'metric' is missing"),
        ({"tables": [{"metric": ["x", "y"]}]}, "should have 'metric' if, and only if, metric is a list"),
        ({"tables": [{"metric": "x", "columns": ["metric"]}]}, "if, and only if, metric is a list"),
        ({"tables": [{"metric": ["x", "x"], "columns": ["metric"]}]}, "should be a metric, or several that differ"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, SMALL | change)
    assert words in str(caught.value)
    assert "experiment.json" in str(caught.value)


def test_keys_that_occur_twice_and_pipes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"fedkit": 1, "seeds": [0], "seeds": [7]}')
    with pytest.raises(UsageError, match="key 'seeds' occurs twice"):
        load(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is no file"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize("text", ["", "[1", "[]", "3", "\udcff"])
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"x\.json"):
        load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "none.json")


@pytest.mark.parametrize("name", shipped())
def test_an_experiment_that_comes_with_fedkit_can_be_planned(name: str, tmp_path: Path) -> None:
    found = load(name)
    assert found.name == name
    assert found.title
    datasets, runs = run.planned(found, tmp_path)
    assert len(runs) == len({one.folder for one in runs}) >= len(datasets) > 0
    assert found.tables


def test_a_name_that_is_mistyped_is_told_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="'prompt-method' is no file and no experiment .* mean 'prompt-methods'?"):
        load("prompt-method")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompt-methods").write_text(json.dumps(SMALL))
    assert load("prompt-methods").name == "small"  # a file comes first
