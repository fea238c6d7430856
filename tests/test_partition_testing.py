"""The contract checks of partitioners: those of fedkit pass, and each fault is found."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from fedrsic_data.partition import PARTITIONERS, Assignment, Rows
from fedrsic_data.partition.testing import check_partitioner

SETTINGS: dict[str, dict[str, Any]] = {"pathological": {"clients": 6}, "domain": {"clients": 4}}


@pytest.mark.parametrize("name", [name for name in PARTITIONERS if name not in ("assigned", "cluster")])
def test_every_partitioner_passes(name: str) -> None:
    check_partitioner(PARTITIONERS[name](**SETTINGS.get(name, {})))


@dataclass(frozen=True)
class Good:
    clients: int = 4
    min_size: int = 1

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = False
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "nobody"

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        return Assignment((rng.permutation(len(rows)) % self.clients).astype(np.int32), self.clients)


class GlobalDraws(Good):
    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        return Assignment((np.random.permutation(len(rows)) % self.clients).astype(np.int32), self.clients)  # noqa: NPY002


class HiddenDraws(Good):
    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        np.random.rand()  # noqa: NPY002
        return super().assign(rows, rng)


class WrongType(Good):
    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        answer = super().assign(rows, rng)
        return dataclasses.replace(answer, owner=answer.owner.astype(np.int64))  # type: ignore[arg-type]


class TooMany(Good):
    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        return dataclasses.replace(super().assign(rows, rng), clients=3)


class Starving(Good):
    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        return Assignment(np.zeros(len(rows), np.int32), self.clients)


class Misnamed(Good):
    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        return dataclasses.replace(super().assign(rows, rng), names=("a", "b"))


class Uncited(Good):
    cites = None  # type: ignore[assignment]


class Undeclared(Good):
    needs_ids = None  # type: ignore[assignment]


@dataclass
class Thawed:
    clients: int = 4


def test_a_good_one_passes() -> None:
    check_partitioner(Good())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (GlobalDraws, "equal generators give different owners"),
        (HiddenDraws, "global generator"),
        (WrongType, "gave no int32 owner"),
        (TooMany, "gave no int32 owner from -1 to clients - 1"),
        (Starving, "a client has 0 rows"),
        (Misnamed, "as many names as clients"),
        (Uncited, "cites"),
        (Undeclared, "needs_ids"),
        (Thawed, "frozen dataclass"),
    ],
)
def test_each_fault_is_found(kind: type[Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_partitioner(kind())
