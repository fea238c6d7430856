"""Configs: JSON both ways, changed by key=value texts, and what they have in common."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from fedrsic_data.dataset.recipe import Recipe, SubsetRecipe
from fedrsic_data.errors import UsageError
from fedtrain.config import NEUTRAL, FlowerSettings, Privacy, RunConfig, changed, from_json, group, identity, to_json


@dataclass(frozen=True)
class Settings:
    lr: float = 0.1
    rank: int | None = 8
    flag: bool = True
    anchor: str = "template"
    dropout: float = 0.5


BASE = RunConfig("m", "data/x", "s")


def of(*sets: str) -> RunConfig:
    return changed(BASE, sets, Settings)


def test_json_both_ways() -> None:
    config = of("rounds=3", 'splits=["test"]', "lr=1", "held_out=uc")
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert config.method_settings == {"lr": 1.0, "rank": 8, "flag": True, "anchor": "template", "dropout": 0.5}
    with pytest.raises(UsageError, match="unknown key 'round'; did you mean 'rounds'"):
        from_json({**to_json(config), "round": 3})


@pytest.mark.parametrize("text", ["false", "False"])
def test_defect_14_false_is_false(text: str) -> None:
    assert of(f"flag={text}").method_settings["flag"] is False
    assert of("deterministic=true", f"deterministic={text}").deterministic is False
    for other in ("no", "0", '"false"'):
        with pytest.raises(UsageError, match="flag: .* should be true or false"):
            of(f"flag={other}")


def test_values_are_what_their_field_takes() -> None:
    assert of("held_out=2024").held_out == "2024"
    assert of("held_out=None").held_out is None
    assert of("anchor=7").method_settings["anchor"] == "7"
    assert of("rank=null").method_settings["rank"] is None
    assert of("anchor=a=b").method_settings["anchor"] == "a=b"


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("ruonds=3", "unknown key 'ruonds' for m; did you mean 'rounds'"),
        ("rnak=3", "did you mean 'rank'"),
        ("manifest=x", "unknown key 'manifest'"),
        ("method.rounds=3", "unknown key 'method.rounds'"),
        (".rounds=3", "unknown key '.rounds'"),
        ("rounds", "should look like key=value"),
        ("=3", "should look like key=value"),
        ("dropout=0.1", "say run.dropout or method.dropout"),
        ("rounds=-1", "rounds=-1 should be at least 0"),
        ("rounds=2.5", "should be a whole number"),
        ("rounds=true", "should be a whole number"),
        ("seed=-1", "seed=-1 should be at least 0"),
        ("run.dropout=1", "dropout=1.0 should be from 0 to below 1"),
        ("run.dropout=NaN", "not a finite number"),
        ("lr=x", "'x' should be a number"),
        ("device=gpu", "'gpu' is not one of auto, cpu, cuda, mps"),
        ('splits=["test", "test"]', "one occurs twice; name each once"),
        ("cohort=0", "cohort=0 should be at least 1"),
        ("clients_per_round=0", "clients_per_round=0 should be at least 1"),
    ],
)
def test_what_cannot_be_used(sets: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        of(sets)


def test_names_that_both_have() -> None:
    config = of("run.dropout=0.25", "method.dropout=0.75", "method.lr=2")
    assert (config.dropout, config.method_settings["dropout"], config.method_settings["lr"]) == (0.25, 0.75, 2.0)


def test_all_and_a_number_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="sampling=all uses all"):
        of("sampling=all", "clients_per_round=3")


def test_identity_is_of_what_changes_a_result() -> None:
    other = {
        "method": "n", "subset": "t", "rounds": 9, "seed": 1, "sampling": "all", "clients_per_round": 2, "dropout": 0.1,
        "weighting": "rows", "eval_every": 2, "splits": ("v",), "device": "cpu", "precision": "float32",
        "deterministic": True, "clip": "tiny", "held_out": "d", "neighbour": True, "method_settings": {"lr": 2.0},
        "manifest": "elsewhere", "cohort": 1, "checkpoint_every": 7, "store": "disk", "tensorboard": True,
        "dp": Privacy(noise=1.0), "flower": FlowerSettings(timeout=1.0),
    }  # fmt: skip
    assert set(other) == {field.name for field in dataclasses.fields(RunConfig)}
    for key, value in other.items():
        same = identity(dataclasses.replace(BASE, **{key: value}), "d", {}) == identity(BASE, "d", {})
        assert same == (key in NEUTRAL), key
    assert identity(BASE, "d", {}) != identity(BASE, "e", {})
    assert identity(BASE, "d", {}) != identity(BASE, "d", {"clip": "0"})


def test_row_weights_are_refused_where_noise_counts_every_client_the_same() -> None:
    with pytest.raises(UsageError, match="weighting=rows: with dp.noise"):
        dataclasses.replace(BASE, weighting="rows", dp=Privacy(noise=1.0))


def test_whole_numbers_that_mean_nothing() -> None:
    for key in ("rounds", "cohort", "seed", "clients_per_round"):
        with pytest.raises(UsageError, match=f"{key}=99999999999999999999 should be at most 9,007,199,254,740,992"):
            dataclasses.replace(BASE, **{key: 99999999999999999999})
    with pytest.raises(UsageError, match="lr=1e\\+308 should be at most 1e\\+38"):
        dataclasses.replace(BASE, method_settings={"lr": 1e308})
    with pytest.raises(UsageError, match="batch=99999999999999999999"):
        dataclasses.replace(BASE, method_settings={"batch": 99999999999999999999})


def group_of(config: RunConfig, **recipe: object) -> str:
    built = Recipe(1, "d", {"s": SubsetRecipe(("ucmerced",))}, **recipe)
    return group(to_json(config), SimpleNamespace(recipe=built), {})


def test_a_group_is_runs_but_for_their_seed() -> None:
    again = dataclasses.replace(BASE, seed=4, cohort=1)
    assert group_of(BASE) == group_of(again) == group_of(BASE, seed=7)
    assert group_of(BASE) != group_of(dataclasses.replace(BASE, rounds=4))
    assert group_of(BASE) != group_of(BASE, shots=3)
