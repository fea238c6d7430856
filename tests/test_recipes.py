"""Recipes: every shipped one is a case; overrides; refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedrsic_data import partition, recipes
from fedrsic_data.errors import FedkitError, ManifestError, UsageError
from fedrsic_data.settings import encode

SMALL = {"fedkit": 1, "name": "x", "subsets": {"a": {"sources": ["ucmerced"]}}}


@pytest.mark.parametrize("name", recipes.shipped())
def test_shipped_recipes_are_whole_and_round_trip(name: str) -> None:
    wanted = recipes.from_json(recipes.load(name), name)
    assert wanted.name == name
    assert wanted.title
    assert recipes.from_json(encode(wanted), name) == recipes.from_json(json.loads(json.dumps(encode(wanted))), name)


def test_fed_rsic_defaults() -> None:
    wanted = recipes.from_json(recipes.load("fed-rsic"), "fed-rsic")
    assert {"fed-optimal", "fed-ucmerced", "fed-nwpu"} <= set(wanted.subsets)
    assert encode(wanted)["partition"]["name"] == "dirichlet"
    assert encode(wanted)["partition"]["alpha"] == 0.5
    assert encode(wanted)["partition"]["clients"] == 10
    assert (wanted.seed, wanted.splits) == (0, {"test": 0.2})


def test_overrides() -> None:
    data = recipes.override(
        recipes.load("fed-rsic"),
        subsets=["fed-nwpu"],
        partitioner="pathological",
        sample=True,
        sets=["classes_per_client=3", "seed=7", "layout.files=packed", "sample.per_class=5", "splits.test=0.1"],
    )
    wanted = recipes.from_json(data, "test")
    assert list(wanted.subsets) == ["fed-nwpu"]
    assert wanted.name == "fed-rsic-sample"
    partition = encode(wanted)["partition"]
    assert (partition["name"], partition["clients"], partition["classes_per_client"]) == ("pathological", 10, 3)
    assert (wanted.seed, wanted.layout.files, wanted.sample.per_class, wanted.splits) == (7, "packed", 5, {"test": 0.1})


@pytest.mark.parametrize("change", ["clients=3", "partition.clients=3"])
def test_settings_of_a_partition_that_a_recipe_leaves_out_are_those_of_the_default(change: str) -> None:
    data = {"fedkit": 1, "name": "mine", "subsets": {"one": {"sources": ["ucmerced"]}}}
    wanted = recipes.from_json(recipes.override(data, sets=[change]), "test")
    assert (wanted.partition["name"], wanted.partition["clients"]) == ("dirichlet", 3)
    assert wanted.partition == partition.spelled_out({"name": "dirichlet", "clients": 3})


def test_a_setting_reaches_a_subset_with_a_partition_of_its_own() -> None:
    data = SMALL | {"subsets": {"a": {"sources": ["ucmerced"], "partition": {"name": "iid"}}}}
    wanted = recipes.from_json(recipes.override(data, sets=["clients=3"]), "test")
    assert wanted.partition_of("a")["clients"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fedkti": 1}, "unknown key"),
        ({"name": "../x"}, "is not a name"),
        ({"subsets": {}}, "at least one"),
        ({"subsets": {"a/b": {"sources": ["ucmerced"]}}}, "is not a name"),
        ({"subsets": {"a": {"sources": []}}}, "at least one source"),
        ({"subsets": {"a": {"sources": ["ucmerced", "ucmerced"]}}}, "each once"),
        ({"subsets": {"a": {"sources": ["ucmreced"]}}}, "did you mean 'ucmerced'"),
        (
            {"subsets": {"a": {"sources": ["ucmerced"], "partition": {"name": "iid", "alpha": 1}}}},
            "unknown key 'alpha'",
        ),
        ({"partition": {"name": "dirichle"}}, "did you mean 'dirichlet'"),
        ({"partition": {"alpha": 0.5}}, "unknown partitioner None"),
        ({"partition": {"name": "dirichlet", "alpha": -1}}, "alpha=-1"),
        ({"partition": {"name": "dirichlet", "clients": 0}}, "clients=0"),
        ({"partition": {"name": "dirichlet", "balance": "False"}}, "should be true or false"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed: 1.5"),
        ({"splits": {"test": 1.5}}, "test=1.5"),
        ({"layout": {"files": "all"}}, "is not one of"),
        ({"layout": {"row_group_bytes": 10**9}}, "at most"),
        ({"on_bad_image": "fix"}, "is not one of error, skip"),
        ({"sample": {"size": 9}}, "size=9"),
    ],
)
def test_refusals(change: dict, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipes.from_json(SMALL | change, "recipe x")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ("{}", "not a fedkit recipe"),
        ('{"fedkit": 99}', "newer than this"),
    ],
)
def test_files_that_are_no_recipe(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ManifestError, match=words):
        recipes.load(str(path))


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="did you mean 'fed-rsic'"):
        recipes.load("fed-rsci")
    with pytest.raises(FedkitError, match="no such subset"):
        recipes.override(recipes.load("fed-rsic"), subsets=["fed-x"])
    with pytest.raises(UsageError, match="key=value"):
        recipes.override(SMALL, sets=["clients"])


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "", "a\nb"])
def test_a_source_cannot_be_named_like_a_path(name: str) -> None:
    data = {"fedkit": 1, "name": "d", "subsets": {"s": {"sources": [name]}}}
    data["sources"] = {name: {"kind": "folder", "path": "x"}}
    with pytest.raises(UsageError, match="is not a name"):
        recipes.from_json(data, "test")


def test_settings_of_a_source_that_no_subset_has_are_refused() -> None:
    data = recipes.override(recipes.load("coco"), sets=["sources.cocoo.year=2014"])
    with pytest.raises(UsageError, match="did you mean 'coco'"):
        recipes.from_json(data, "test")


def test_recipes_that_claim_fedpgps_protocol_deal_with_its_balance_rule() -> None:
    every = {name: encode(recipes.from_json(recipes.load(name), name)) for name in recipes.shipped()}
    theirs = [wanted["partition"] for wanted in every.values() if "fedpgp" in json.dumps(wanted).lower()]
    dirichlet = [partition for partition in theirs if partition["name"] == "dirichlet"]
    assert dirichlet
    assert all(partition["balance"] for partition in dirichlet)


def test_a_sample_cannot_be_asked_for_and_taken_back() -> None:
    with pytest.raises(UsageError, match="contradict each other"):
        recipes.override(recipes.load("fed-rsic"), sample=True, sets=["sample=null"])
    taken = recipes.override(recipes.load("fed-rsic"), sample=True, sets=["sample.size=32"])
    assert recipes.from_json(taken, "test").sample.size == 32  # type: ignore[union-attr]


@pytest.mark.parametrize("name", recipes.shipped())
def test_a_shipped_recipe_varies_nothing(name: str) -> None:
    for sample in (False, True):
        recipe = recipes.from_json(recipes.override(recipes.load(name), sample=sample), name)
        assert [recipes.varied(recipe, subset) for subset in recipe.subsets] == [{}] * len(recipe.subsets)


def test_the_settings_that_differ_from_the_shipped_recipe() -> None:
    def varied(subset: str, **changes: Any) -> dict[str, Any]:
        return recipes.varied(recipes.from_json(recipes.override(recipes.load("fed-rsic"), **changes), "x"), subset)

    assert varied("fed-ucmerced", sets=["alpha=0.1"], subsets=["fed-ucmerced"]) == {"partition.alpha": 0.1}
    assert varied("fed-ucmerced", sets=["subsets.fed-optimal.splits.test=0.5"]) == {}
    assert varied("fed-ucmerced", sets=["seed=4", "splits.test=0.1", "shots=8", "layout.files=packed"]) == {
        "data_seed": 4,
        "shots": 8,
        "splits.test": 0.1,
    }
    other = varied("fed-ucmerced", partitioner="iid")
    assert (other.pop("partition"), other.pop("partition.clients")) == ("iid", 10)
    assert varied("fed-ucmerced", sample=True, sets=["sample.size=32"]) == {"sample.size": 32}
    assert varied("fed-ucmerced", sets=["sample={}"]) == {"sample": True}  # its name does not say so
    mine = [varied("fed-ucmerced", sets=["name=mine", f"alpha={alpha}"]) for alpha in (0.1, 0.2)]
    assert mine[0].keys() == mine[1].keys() == {"recipe"}
    assert mine[0] != mine[1]
