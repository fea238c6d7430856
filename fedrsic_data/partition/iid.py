"""No skew: every client's label mixture is within rounding of the global one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrsic_data.partition.base import Assignment, Rows, by_class, settle, strata
from fedrsic_data.settings import at_least


@dataclass(frozen=True)
class Iid:
    """Rows of each class dealt out evenly, continuing from class to class.

    Both a client's size and its number of rows of any class differ by at most one between clients. For
    multi-label images this holds for every distinct set of labels; a single label is even up to the noise of rare sets.

    Attributes:
        clients: Number of clients.
        min_size: Rows every client must have.
    """

    clients: int = 10
    min_size: int = 1

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = True
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "stratified random split, the baseline of every federated benchmark"

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        at_least("min_size", self.min_size, 0)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of rows with any number of labels; see ``Partitioner.assign``."""
        order, _ = by_class(strata(rows), rng)
        turn = rng.permutation(self.clients).astype(np.int32)
        owner = np.empty(len(rows), np.int32)
        owner[order] = turn[np.arange(len(rows)) % self.clients]
        return settle(owner, self.clients, self.min_size, rng)
