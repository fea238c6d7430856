"""Domain skew: clients see one domain (source, sensor, device), or a mixture of all of them."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import draws, homes
from fedrsic_data.partition.base import Assignment, Owners, Rows, by_class, settle, strata
from fedrsic_data.partition.labels import by_code
from fedrsic_data.settings import at_least


@dataclass(frozen=True)
class Domain:
    """Each client has a home, and a share ``mix`` of its rows comes from the global mixture of domains.

    With as many clients as domains or more, a home is one domain, clients are apportioned to the domains by
    their rows, and a domain's rows are dealt evenly to its clients. With fewer, a home is several whole domains,
    packed so that sizes are as even as they can be. Then every client puts a share ``mix`` of its rows into a pot
    from which it gets back as many: its size never changes and its mixture of domains is
    ``(1 - mix) * home + mix * global`` within rounding. Labels are dealt systematically throughout.

    Attributes:
        clients: Number of clients.
        mix: 0: a client sees its home alone. 1: every client sees the global mixture.
        min_size: Rows every client must have.

    Deviations: the papers put one domain on each client (mix 0, as many clients as domains); mixing is as in
    lambda-interpolations between a partition by domain and a homogeneous one.
    """

    clients: int = 10
    mix: float = 0.0
    min_size: int = 1

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = True
    exact_sizes: ClassVar[bool] = True
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "Li et al. 2021 (FedBN), arXiv 2102.07623; mixing: Bai et al. 2024, arXiv 2307.04942"

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        at_least("min_size", self.min_size, 0)
        if not 0 <= self.mix <= 1:
            raise UsageError(f"mix={self.mix!r} should be from 0 (one domain per client) to 1 (the global mixture)")

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of rows with any number of labels; see ``Partitioner.assign``."""
        order, _ = by_class(strata(rows), rng)
        order = order[by_code(rows.domains[order], rows.domain_count)]  # by domain, then by class
        counts = np.bincount(rows.domains, minlength=rows.domain_count)
        owner = np.empty(len(rows), np.int32)
        owner[order] = self._homes(counts, rng)
        return settle(self._mixed(owner, order, rng), self.clients, self.min_size, rng)

    def _homes(self, counts: NDArray[np.int64], rng: np.random.Generator) -> Owners:
        """Owners int32 [N] of rows sorted by domain, each client within its home."""
        present = np.flatnonzero(counts)
        if self.clients < len(present):
            return np.repeat(_packed(counts, self.clients), counts)
        clients_of = np.zeros(len(counts), np.int64)
        clients_of[present] = homes.seats(counts[present], self.clients)
        number = rng.permutation(self.clients).astype(np.int32)
        first = np.cumsum(clients_of) - clients_of
        domain = np.repeat(np.arange(len(counts)), counts)
        rank = np.arange(len(domain)) - np.repeat(np.cumsum(counts) - counts, counts)
        return number[first[domain] + rank % clients_of[domain]]

    def _mixed(self, owner: Owners, order: NDArray[np.int64], rng: np.random.Generator) -> Owners:
        """Owners after a share ``mix`` of every client's rows went through the pot."""
        by_client = order[by_code(owner[order], self.clients)]
        sizes = np.bincount(owner, minlength=self.clients)
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        # every client's rows at even distances, from a random start, so that the pot is stratified
        reach = rank * self.mix + rng.random(self.clients)[owner[by_client]]
        in_pot = np.zeros(len(owner), bool)
        in_pot[by_client] = np.floor(reach + self.mix) > np.floor(reach)
        pot = order[in_pot[order]]
        mixed = owner.copy()
        mixed[pot] = draws.turns(np.bincount(owner[pot], minlength=self.clients), rng)
        return mixed


def _packed(counts: NDArray[np.int64], clients: int) -> NDArray[np.int32]:
    """The client of each domain, largest domains first, each to the smallest client: int32 [domains]."""
    client_of = np.zeros(len(counts), np.int32)
    queue = [(0, k) for k in range(clients)]
    for d in np.argsort(-counts, kind="stable"):
        size, k = queue[0]
        client_of[d] = k
        heapq.heapreplace(queue, (size + int(counts[d]), k))
    return client_of
