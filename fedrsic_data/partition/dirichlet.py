"""Label skew: the rows of each class are shared out over clients by a Dirichlet draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import draws, multilabel
from fedrsic_data.partition.base import Assignment, Reduce, Rows, by_class, cut, settle
from fedrsic_data.settings import at_least, positive


@dataclass(frozen=True)
class Dirichlet:
    """Class-wise Dirichlet: ``p_c ~ Dir(alpha, ..., alpha)`` over clients, independently for every class.

    With several labels per image, the draw sets quotas: client k should hold the share ``p_ck`` of all images that
    have label c, and images without labels are a class of their own; see ``multilabel.fill``.

    Attributes:
        clients: Number of clients.
        alpha: Concentration; small is skewed (each class on few clients), large approaches iid.
        balance: False is the textbook draw. True skips clients that already hold N / clients rows, as
            NIID-Bench, FedOTP and FedPGP do: sizes come out evener and mixtures more skewed.
        min_size: Rows every client must have.
        reduce: Take only the ``first`` or the ``rarest`` label of an image with several.

    Deviations: where those codes draw again until every client is large enough (which may never end), too
    small clients are filled from the largest ones and the rows moved are reported. Quotas for multi-label images are an
    extension; the cited papers know single labels.
    """

    clients: int = 10
    alpha: float = 0.5
    balance: bool = False
    min_size: int = 1
    reduce: Reduce = None

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = False
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "Yurochkin et al. 2019, arXiv 1905.12022; balance: Li et al. 2022, arXiv 2102.02079"

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        positive("alpha", self.alpha)
        at_least("min_size", self.min_size, 0)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of rows with any number of labels; see ``Partitioner.assign``."""
        if not rows.is_single:
            return self._by_quota(rows, rng)
        order, counts = by_class(rows, rng)
        shares = draws.dirichlet(self.alpha, rows.classes, self.clients, rng)
        table = _balanced(shares, counts) if self.balance else draws.whole(shares, counts)
        return settle(cut(order, table), self.clients, self.min_size, rng)

    def _by_quota(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        if self.balance:
            raise UsageError(
                "balance=true is defined for one label per image, but some have none or several; "
                "set balance=false, or reduce to first or rarest"
            )
        shares = draws.dirichlet(self.alpha, rows.classes + 1, self.clients, rng)
        owner = multilabel.fill(rows.labels, rows.offsets, shares, rng)
        return settle(owner, self.clients, self.min_size, rng)


def _balanced(shares: draws.Floats, counts: draws.Counts) -> draws.Counts:
    """As ``draws.whole``, class after class, with clients that are full passed over."""
    classes, clients = shares.shape
    sizes = np.zeros(clients, np.int64)
    full = counts.sum() / clients
    table = np.empty((classes, clients), np.int64)
    for c in range(classes):
        share = np.where(sizes < full, shares[c], 0.0)
        if not share.sum() > 0:  # all of a very small alpha's mass sat on full clients
            share = (sizes < full).astype(float)
        table[c] = np.diff(draws.edges(share / max(share.sum(), 1e-300), counts[c : c + 1]), prepend=0)
        sizes += table[c]
    return table
