"""Settings from JSON and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import decode, encode


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
