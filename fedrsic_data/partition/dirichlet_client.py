"""Label skew: each client draws its own label mixture, with sizes set beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrsic_data.partition import draws
from fedrsic_data.partition.base import Assignment, Reduce, Rows, by_class, cut
from fedrsic_data.partition.fit import fit
from fedrsic_data.partition.rounding import round_table
from fedrsic_data.partition.sizes import Sized, with_nobody, without_nobody
from fedrsic_data.settings import positive


@dataclass(frozen=True)
class DirichletClient(Sized):
    """Client-wise Dirichlet: ``q_k ~ Dir(alpha * C * p)`` over C classes with the global mixture p.

    Sizes are set first, as in ``Sized``.

    Attributes:
        alpha: Concentration per class: with even classes every component has it, as in ``dirichlet``.
        reduce: Take only the ``first`` or the ``rarest`` label of an image with several.

    Deviations: the paper writes Dir(alpha * p), so its alpha is C times this one, and draws row after row until
    classes run out, which leaves the last clients what is left. Here all mixtures are fitted to the class counts
    at once, nearest in relative entropy (see ``fit``), and rounded with both margins kept.
    """

    alpha: float = 0.5
    reduce: Reduce = None

    multi_label: ClassVar[bool] = False
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = True
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "Hsu, Qi and Brown 2019, arXiv 1909.06335, section 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("alpha", self.alpha)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of single-label rows; see ``Partitioner.assign``."""
        sizes, moved = self.draw_sizes(len(rows), rng)
        order, counts = by_class(rows, rng)
        present = np.flatnonzero(counts)
        overall = counts[present] / len(rows)
        mixtures = draws.dirichlet(self.alpha * len(present) * overall, self.clients, len(present), rng)
        wanted = fit(
            np.vstack([mixtures, overall]), with_nobody(sizes, len(rows)).astype(float), counts[present].astype(float)
        )
        owner = cut(order, round_table(wanted.T, rng))
        return Assignment(without_nobody(owner, self.clients), self.clients, moved)
