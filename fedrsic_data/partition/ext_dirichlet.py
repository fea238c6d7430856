"""Label skew: a few classes a client, the rows of each class shared by its holders by a Dirichlet draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrsic_data.partition import draws
from fedrsic_data.partition.base import Assignment, Reduce, Rows, by_class, cut, settle
from fedrsic_data.settings import at_least, positive


@dataclass(frozen=True)
class ExtDirichlet:
    """Extended Dirichlet: ``classes_per_client`` classes for each client, then ``p_c ~ Dir(alpha)`` over the holders.

    Attributes:
        clients: Number of clients.
        classes_per_client: Classes of each client, dealt so that the numbers of holders differ by at most one.
        alpha: Concentration; small gives most rows of a class to one of its holders, large shares them evenly.
        min_size: Rows every client must have.
        reduce: Take only the ``first`` or the ``rarest`` label of an image with several.

    Deviations: classes without rows are not dealt; too small clients are filled from the largest ones, by which
    a client may hold rows of more classes, and the rows moved are reported.
    """

    clients: int = 10
    classes_per_client: int = 2
    alpha: float = 0.5
    min_size: int = 1
    reduce: Reduce = None

    multi_label: ClassVar[bool] = False
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = False
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "Li and Lyu 2023, arXiv 2311.03154, extended Dirichlet strategy"

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        at_least("classes_per_client", self.classes_per_client, 1)
        positive("alpha", self.alpha)
        at_least("min_size", self.min_size, 0)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of single-label rows; see ``Partitioner.assign``."""
        order, counts = by_class(rows, rng)
        present = np.flatnonzero(counts)
        draws.few_cells(rows.classes, self.clients)
        holds = draws.holders(self.clients, self.classes_per_client, len(present), rng)
        table = np.zeros((rows.classes, self.clients), np.int64)
        for c, held in zip(present, holds, strict=True):
            shares = draws.dirichlet(self.alpha, 1, int(held.sum()), rng)
            table[c, held] = draws.whole(shares, counts[c : c + 1])[0]
        return settle(cut(order, table), self.clients, self.min_size, rng)
