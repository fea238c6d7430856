"""Sizes, labels and domains skewed at once, with exact margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import draws, homes
from fedrsic_data.partition.base import Assignment, Reduce, Rows, by_class, cut
from fedrsic_data.partition.fit import fit
from fedrsic_data.partition.rounding import round_table
from fedrsic_data.partition.sizes import Sized, without_nobody
from fedrsic_data.settings import positive

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_CELLS = 30_000_000


@dataclass(frozen=True)
class Skew(Sized):
    """Client sizes by a law, label mixtures by a Dirichlet draw, domains by mixing, in one table.

    1. Clients are apportioned to the domains by their rows, one at least each. In each domain the sizes of its
       clients follow the law (see ``Sized``), scaled to the domain's rows, and are met to the row.
    2. Client x domain amounts are ``(1 - domain_mix) * home + domain_mix * global``: with ``domain_mix`` 0 every
       client sees exactly one domain.
    3. Each client draws a label mixture ``q_k ~ Dir(alpha * C * p)``; in every domain the mixtures are fitted to
       the client x domain amounts and to the class x domain counts (see ``fit``).
    4. Both tables are rounded with their margins kept: client sizes and class x domain counts are exact.

    Homes cannot be single where ``sizes`` is a list, clients are fewer than domains, or domains are too small for
    ``min_size``. Then sizes are those listed or drawn from the law over all rows, and clients are laid end to end
    beside the domains, so that at most domains - 1 of them lie across a border and see two domains or more when
    ``domain_mix`` is 0.

    Attributes:
        alpha: Concentration per class, as in ``dirichlet-client``; None: no label skew.
        domain_mix: 0: a client sees its home alone. 1: every client sees the global mixture of domains.
        reduce: Take only the ``first`` or the ``rarest`` label of an image with several.

    Deviations: the composition is fedkit's own; the parts are those cited. Where classes differ between domains,
    sizes and domains are kept and label mixtures give way.
    """

    alpha: float | None = 0.5
    domain_mix: float = 0.0
    reduce: Reduce = None

    multi_label: ClassVar[bool] = False
    uses_domains: ClassVar[bool] = True
    exact_sizes: ClassVar[bool] = True
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = (
        "labels: Hsu, Qi and Brown 2019, arXiv 1909.06335; domains: Bai et al. 2024, arXiv 2307.04942; "
        "fitting: Deming and Stephan 1940, doi 10.1214/aoms/1177731829; rounding: Cox 1987, doi 10.2307/2289455"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None:
            positive("alpha", self.alpha)
        if not 0 <= self.domain_mix <= 1:
            raise UsageError(f"domain_mix={self.domain_mix!r} should be from 0 (one domain per client) to 1 (mixed)")

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of single-label rows; see ``Partitioner.assign``."""
        self._check_cells(rows.classes, rows.domain_count)
        cell = rows.relabelled(rows.domains * rows.classes + rows.labels, rows.domain_count * rows.classes)
        order, flat = by_class(cell, rng)
        counts = flat.reshape(rows.domain_count, rows.classes)
        table, moved = self._homes(counts.sum(axis=1), rng)
        amounts = round_table(self._mixed(table, counts.sum(axis=1)).T, rng)
        mixtures = self._mixtures(counts.sum(axis=0), rng)
        owner = np.empty(len(rows), np.int32)
        for d, mine in enumerate(np.split(order, np.cumsum(counts.sum(axis=1))[:-1])):
            here, some = np.flatnonzero(counts[d]), np.flatnonzero(amounts[d])
            prior = mixtures[np.ix_(some, here)] * counts[d, here]
            wanted = fit(prior, amounts[d, some].astype(float), counts[d, here].astype(float))
            owner[mine] = some[cut(np.arange(len(mine)), round_table(wanted.T, rng))]
        return Assignment(without_nobody(owner, self.clients), self.clients, moved)

    def _check_cells(self, classes: int, domains: int) -> None:
        _, long, longest = sorted((self.clients + 1, classes, domains))
        if long * longest > _CELLS:
            raise UsageError(
                f"clients={self.clients}, {classes:,} classes and {domains:,} domains make tables of more than "
                f"{_CELLS:,} cells; lower clients, or merge domains"
            )

    def _homes(self, domains: Counts, rng: np.random.Generator) -> tuple[Floats, int]:
        """Rows of clients that see only their home, and the rows that the minimum size took from larger ones.

        Returns:
            float64 [clients, domains], whose rows sum to the client sizes.
        """
        table = np.zeros((self.clients, len(domains)))
        present = np.flatnonzero(domains)
        turn = rng.permutation(self.clients)
        if isinstance(self.sizes, tuple) or not homes.roomy(domains[present], self.clients, self.min_size):
            sizes, moved = self.draw_sizes(int(domains.sum()), rng)
            table[turn] = homes.laid(sizes[turn], np.cumsum(domains * (sizes.sum() / domains.sum())))
            return table, moved
        seats = homes.seats(domains[present], self.clients, self.min_size)
        drawn = [self.draw_law(int(domains[d]), int(seat), rng) for d, seat in zip(present, seats, strict=True)]
        table[turn, np.repeat(present, seats)] = np.concatenate([sizes for sizes, _ in drawn])
        return table, sum(moved for _, moved in drawn)

    def _mixed(self, table: Floats, domains: Counts) -> Floats:
        """Rows of each domain for each client and, last, for nobody: float64 [clients + 1, domains]."""
        sizes, shares = np.rint(table.sum(axis=1)), domains / domains.sum()
        mixed = (1 - self.domain_mix) * table + self.domain_mix * np.outer(sizes, shares)
        return np.vstack([mixed, (domains.sum() - sizes.sum()) * shares])

    def _mixtures(self, labels: Counts, rng: np.random.Generator) -> Floats:
        """Label mixtures relative to the global one, the last is nobody's: float64 [clients + 1, classes]."""
        relative = np.ones((self.clients + 1, len(labels)))
        if self.alpha is not None:
            present = np.flatnonzero(labels)
            overall = labels[present] / labels.sum()
            drawn = draws.dirichlet(self.alpha * len(present) * overall, self.clients, len(present), rng)
            relative[np.ix_(np.arange(self.clients), present)] = drawn / overall
        return relative
