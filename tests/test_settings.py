"""Settings from JSON and back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from fedrsic_data.cli import new_recipe
from fedrsic_data.errors import UsageError
from fedrsic_data.recipes import override
from fedrsic_data.settings import assigned, decode, encode, hint_at, parsed, texts
from fedtrain.config import RunConfig, changed
from fedtrain.methods import METHODS


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 1
    flag: bool = False
    mode: Literal["a", "b"] = "a"
    maybe: int | None = None
    items: tuple[str, ...] = ()
    table: dict[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def test_round_trip() -> None:
    outer = Outer("x", 2, True, "b", 3, ("p", "q"), {"t": 0.2}, Inner(1.5))
    assert decode(Outer, encode(outer), "here") == outer


def test_whole_numbers_serve_as_numbers() -> None:
    assert decode(Outer, {"name": "x", "inner": {"rate": 2}}, "here").inner.rate == 2.0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"nme": "x"}, "unknown key 'nme'; did you mean 'name'"),
        ({}, "'name' is missing"),
        ({"name": 1}, "name: 1 should be a text"),
        ({"name": "x", "count": True}, "count: True should be a whole number"),
        ({"name": "x", "count": 1.0}, "count: 1.0 should be a whole number"),
        ({"name": "x", "flag": "False"}, "flag: 'False' should be true or false"),
        ({"name": "x", "mode": "c"}, "mode: 'c' is not one of a, b"),
        ({"name": "x", "maybe": "3"}, "maybe: '3' should be a whole number"),
        ({"name": "x", "items": "pq"}, "items: 'pq' should be a list"),
        ({"name": "x", "items": ["p", 1]}, "items[1]: 1 should be a text"),
        ({"name": "x", "table": [1]}, "table: [1] should be an object"),
        ({"name": "x", "table": {"t": float("nan")}}, "table.t: nan is not a finite number"),
        ({"name": "x", "inner": {"rat": 1}}, "inner: unknown key 'rat'"),
        ([], "should be an object"),
    ],
)
def test_refusals_name_the_field_and_the_value(data: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        decode(Outer, data, "here")
    assert str(caught.value).startswith("here")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        *[(text, None) for text in ("None", "none", "null", "NULL")],
        *[(text, True) for text in ("true", "True", "TRUE")],
        *[(text, False) for text in ("false", "False")],
        ("3", 3),
        ("0.1", 0.1),
        ("1e-3", 1e-3),
        ('["a", null]', ["a", None]),
        ('"none"', "none"),
        ("", ""),
        ("yes", "yes"),
        ("a=b", "a=b"),
        ("[1", "[1"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_a_typed_value_has_one_meaning(text: str, meaning: object) -> None:
    found = parsed(text)
    assert (found, type(found)) == (meaning, type(meaning))


@pytest.mark.parametrize("text", ['{"name": "iid", "name": "shards"}', '[{"a": {"b": 1, "b": 1}}]'])
def test_a_typed_object_whose_key_occurs_twice_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(text)}: key '(name|b)' occurs twice; leave one out$"):
        parsed(text)


def test_a_number_is_text_where_the_setting_is_text() -> None:
    assert (parsed("2024", str), parsed("007", str | None), parsed("1e3", int | None)) == ("2024", "007", 1000.0)
    assert (parsed("none", str | None), parsed("true", str)) == (None, True)
    assert (parsed("{}", str | tuple[str, ...]), parsed('["{}"]', str | tuple[str, ...])) == ("{}", ["{}"])
    assert (parsed("{}", str | dict[str, int]), parsed("{}")) == ({}, {})


def test_a_choice_is_what_it_is_called() -> None:
    """Also where it is called none, as of ``ule`` and ``backbone_weights``."""
    for hint in (Literal["auto", "none"], Literal["auto", "none"] | str, Literal["auto", "none"] | None):
        assert parsed("none", hint) == "none"
    assert parsed("null", Literal["auto", "none"] | None) is None
    sets = ["ule=none", "class_weights=none", "backbone_weights=none"]
    for written in (sets, texts(dict.fromkeys(["ule", "class_weights", "backbone_weights"], "none"))):
        settings = changed(RunConfig("fedlgt", "data", "s"), written, METHODS["fedlgt"].Settings).method_settings
        assert [settings[text.partition("=")[0]] for text in sets] == ["none"] * 3


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.5, [1, "a"], "uc", "none", "True", "2024", '"x"', '{"a": 1, "a": 2}', "a=b", "", {"test": None}],
)
def test_a_setting_is_written_as_it_is_read(value: object) -> None:
    (text,) = texts({"key": value})
    key, typed = assigned(text)
    assert (key, parsed(typed)) == ("key", value)
    assert texts({"a": "uc", "b": 1}) == ["a=uc", "b=1"]
    assert texts({"a": np.int64(3), "b": [np.int32(1)], "c": np.float64(0.5)}) == ["a=3", "b=[1]", "c=0.5"]
    with pytest.raises(UsageError, match="a setting cannot be written as JSON"):
        texts({"key": object()})


@pytest.mark.parametrize("text", ["lr", "=3", ""])
def test_a_setting_that_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="should look like key=value"):
        assigned(text)
    assert assigned("a.b=c=d") == ("a.b", "c=d")


def test_a_path_of_keys_finds_its_annotation() -> None:
    paths = (["name"], ["inner", "rate"], ["table", "t"], ["items"], ["maybe"], ["nothing"], ["name", "x"])
    found = [hint_at(Outer, path) for path in paths]
    assert found == [str, float, float, tuple[str, ...], int | None, Any, Any]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("None", None),
        ("none", None),
        ("null", None),
        ('"none"', "none"),
        ("2024", "2024"),
        ("1e3", "1e3"),
        ("uc", "uc"),
    ],
)
def test_every_command_gives_a_text_the_same_meaning(text: str, meaning: object) -> None:
    data = {"subsets": {"a": {"sources": ["x"]}}, "partition": {"name": "assigned", "path": "p"}}
    built = override(data, sets=[f"title={text}", f"subsets.a.title={text}", f"path={text}"])
    new = new_recipe.settings(None, None, "x.parquet", [f"split={text}"])
    run = changed(RunConfig("m", "data", "s"), [f"held_out={text}"], Inner)
    found = [built["title"], built["subsets"]["a"]["title"], built["partition"]["path"], new["split"], run.held_out]
    assert found == [meaning] * 5


@pytest.mark.parametrize(("text", "meaning"), [("True", True), ("true", True), ("FALSE", False)])
def test_every_command_gives_a_flag_the_same_meaning(text: str, meaning: object) -> None:
    built = override({"subsets": {"a": {"sources": ["x"]}}}, sets=[f"base_to_novel={text}", f"balance={text}"])
    new = new_recipe.settings("x", None, None, [f"other={text}"])
    run = changed(RunConfig("m", "data", "s"), [f"deterministic={text}", f"flower.scores={text}"], Inner)
    found = [built["base_to_novel"], built["partition"]["balance"], new["other"], run.deterministic, run.flower.scores]
    assert found == [meaning] * 5
