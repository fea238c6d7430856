"""Label skew of two levels: each client draws its mixture of superclasses, and one of classes within each."""

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
class Pachinko(Sized):
    """Pachinko allocation: domains ``q_k ~ Dir(alpha * D * p)``, and classes of each ``~ Dir(alpha_fine * C_d * p_d)``.

    p are the shares of the D domains in all rows, p_d those of the C_d classes in the rows of domain d. With
    superclasses as domains (``sources.cifar100.domains=superclass``) this is the partition of CIFAR-100 in the papers;
    with one domain, classes alone are drawn. Sizes are set first, as in ``Sized``.

    Attributes:
        alpha: Concentration per domain.
        alpha_fine: Concentration per class within a domain.
        reduce: Take only the ``first`` or the ``rarest`` label of an image with several.

    Deviations: the paper draws row after row until classes run out, which leaves the last clients what is left. Here
    all mixtures are fitted to the class counts at once, as in ``dirichlet-client``.
    """

    alpha: float = 0.1
    alpha_fine: float = 10.0
    reduce: Reduce = None

    multi_label: ClassVar[bool] = False
    uses_domains: ClassVar[bool] = True
    exact_sizes: ClassVar[bool] = True
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = (
        "Reddi et al. 2021, arXiv 2003.00295, appendix; Li and McCallum 2006, doi 10.1145/1143844.1143917"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("alpha", self.alpha)
        positive("alpha_fine", self.alpha_fine)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of single-label rows; see ``Partitioner.assign``."""
        sizes, moved = self.draw_sizes(len(rows), rng)
        # a leaf is a class in a domain
        leaves, codes = np.unique(rows.domains.astype(np.int64) * rows.classes + rows.labels, return_inverse=True)
        order, counts = by_class(rows.relabelled(codes, len(leaves)), rng)
        overall = counts / len(rows)
        domains, domain = np.unique(leaves // rows.classes, return_inverse=True)
        shares = np.array([overall[domain == d].sum() for d in range(len(domains))])
        above = draws.dirichlet(self.alpha * len(domains) * shares, self.clients, len(domains), rng)
        mixtures = np.empty((self.clients, len(leaves)))
        for d, share in enumerate(shares):
            mine = np.flatnonzero(domain == d)
            within = self.alpha_fine * len(mine) * overall[mine] / share
            mixtures[:, mine] = above[:, [d]] * draws.dirichlet(within, self.clients, len(mine), rng)
        wanted = fit(np.vstack([mixtures, overall]), with_nobody(sizes, len(rows)).astype(float), counts.astype(float))
        owner = cut(order, round_table(wanted.T, rng))
        return Assignment(without_nobody(owner, self.clients), self.clients, moved)
