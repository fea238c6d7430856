"""Quantity skew: client sizes follow a law, label mixtures stay global."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fedrsic_data.partition import draws
from fedrsic_data.partition.base import Assignment, Rows, by_class, strata
from fedrsic_data.partition.sizes import Sized, with_nobody, without_nobody


@dataclass(frozen=True)
class Quantity(Sized):
    """Sizes by a law (see ``Sized``), each client a stratified sample of all rows.

    Deviations: the cited benchmark draws ``dirichlet`` sizes and fills them at random; here the fill is systematic
    within classes (distinct sets of labels, for multi-label images), so that only the size differs.
    """

    sizes: tuple[int, ...] | Literal["even", "dirichlet", "lognormal", "power", "zipf"] = "dirichlet"

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = True
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "Li et al. 2022, arXiv 2102.02079; power law: Li et al. 2020 (FedProx), arXiv 1812.06127"

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of rows with any number of labels; see ``Partitioner.assign``."""
        sizes, moved = self.draw_sizes(len(rows), rng)
        order, _ = by_class(strata(rows), rng)
        owner = np.empty(len(rows), np.int32)
        owner[order] = draws.turns(with_nobody(sizes, len(rows)), rng)
        return Assignment(without_nobody(owner, self.clients), self.clients, moved)
