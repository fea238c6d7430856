"""Label skew: every client holds only a few classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import draws
from fedrsic_data.partition.base import Assignment, Reduce, Rows, by_class, cut, settle
from fedrsic_data.settings import at_least


@dataclass(frozen=True)
class Pathological:
    """``classes_per_client`` classes for each client, the rows of a class shared evenly by its holders.

    Attributes:
        clients: Number of clients.
        classes_per_client: Classes of each client; None deals the classes out disjointly, so that the
            numbers of classes differ by at most one between clients.
        drawn: False deals shuffled classes round the clients, so that every class is held and the numbers of
            holders differ by at most one. True lets each client draw its classes on its own; the rows of a
            class that nobody drew are left out and counted.
        min_size: Rows every client must have.
        reduce: Take only the ``first`` or the ``rarest`` label of an image with several.

    Deviations: public codes give each client round(classes / clients) consecutive classes and the rest to the
    last one, which leaves clients empty (35 classes, 10 clients); here they are dealt.
    """

    clients: int = 10
    classes_per_client: int | None = None
    drawn: bool = False
    min_size: int = 1
    reduce: Reduce = None

    multi_label: ClassVar[bool] = False
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = False
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "McMahan et al. 2017, arXiv 1602.05629; disjoint: FedPGP, arXiv 2405.09771"

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        at_least("min_size", self.min_size, 0)
        if self.classes_per_client is not None:
            at_least("classes_per_client", self.classes_per_client, 1)
        elif self.drawn:
            raise UsageError("drawn=true needs classes_per_client: how many classes each client draws")

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of single-label rows; see ``Partitioner.assign``."""
        order, counts = by_class(rows, rng)
        present = np.flatnonzero(counts)
        draws.few_cells(rows.classes, self.clients)
        holds = np.zeros((rows.classes, self.clients), bool)
        holds[present] = self._held(len(present), rng)
        held = holds.any(axis=1)
        kept = order[np.repeat(held, counts)]
        owner = np.full(len(rows), -1, np.int32)
        owner[kept] = cut(np.arange(len(kept)), draws.even(holds, np.where(held, counts, 0)))
        return settle(owner, self.clients, self.min_size, rng)

    def _held(self, classes: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Which client holds which class: bool [classes, clients]."""
        holds = np.zeros((classes, self.clients), bool)
        if self.classes_per_client is None:
            if self.clients > classes:
                raise UsageError(
                    f"clients={self.clients} is more than the {classes} classes that can be dealt out disjointly; "
                    "set classes_per_client so that clients share classes"
                )
            holds[rng.permutation(classes), np.arange(classes) % self.clients] = True
            return holds
        if not self.drawn:
            return draws.holders(self.clients, self.classes_per_client, classes, rng)
        draws.few_enough(self.classes_per_client, classes)
        chosen = np.argsort(rng.random((self.clients, classes)), axis=1)[:, : self.classes_per_client]
        holds[chosen, np.arange(self.clients)[:, None]] = True
        return holds
