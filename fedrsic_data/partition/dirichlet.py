"""Label skew: the rows of each class are shared out over clients by a Dirichlet draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.partition.base import Assignment, Rows, by_class, cut, settle
from fedrsic_data.settings import at_least, positive


@dataclass(frozen=True)
class Dirichlet:
    """Class-wise Dirichlet: ``p_c ~ Dir(alpha, ..., alpha)`` over clients, independently for every class.

    Attributes:
        clients: Number of clients.
        alpha: Concentration; small is skewed (each class on few clients), large approaches iid.
        balance: False is the textbook draw. True passes over clients that already hold N / clients rows, as
            NIID-Bench, FedOTP and FedPGP do: sizes come out evener and mixtures more skewed.
        min_size: Rows every client must have.

    Deviations: where those codes draw again until every client is large enough (which may never end), too
    small clients are filled from the largest ones and the rows moved are reported.
    """

    clients: int = 10
    alpha: float = 0.5
    balance: bool = False
    min_size: int = 1

    multi_label: ClassVar[bool] = False
    cites: ClassVar[str] = "Hsu, Qi and Brown 2019, arXiv 1909.06335; balance: Li et al. 2022, arXiv 2102.02079"

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        positive("alpha", self.alpha)
        at_least("min_size", self.min_size, 0)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of single-label rows; see ``Partitioner.assign``."""
        order, counts = by_class(rows, rng)
        shares = draw(self.alpha, rows.classes, self.clients, rng)
        edges = _balanced_edges(shares, counts) if self.balance else _edges(shares, counts[:, None])
        table = np.diff(edges, axis=1, prepend=0)
        return settle(cut(order, table), self.clients, self.min_size, rng)


def draw(alpha: float, rows: int, columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Symmetric Dirichlet vectors that stay finite for any ``alpha > 0``.

    Gamma variates are drawn in logarithms (``G(a) = G(a + 1) * U ** (1 / a)``), where the usual draw
    underflows to 0 / 0 below alpha of about 0.001.

    Returns:
        float64 [rows, columns], non-negative, rows summing to one.
    """
    log_gamma = np.log(rng.standard_gamma(alpha + 1.0, (rows, columns)))
    log_gamma += np.log1p(-rng.random((rows, columns))) / alpha
    shares = np.exp(log_gamma - log_gamma.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _edges(shares: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut ``counts`` rows so that client k gets its share: int64 [..., clients], the last is the count."""
    edges = np.floor(np.cumsum(shares, axis=-1) * counts + 1e-9).astype(np.int64)
    edges[..., -1:] = counts
    return np.minimum(edges, counts)


def _balanced_edges(shares: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """As ``_edges``, class after class, with clients that are full passed over."""
    classes, clients = shares.shape
    sizes = np.zeros(clients, np.int64)
    full = counts.sum() / clients
    edges = np.empty((classes, clients), np.int64)
    for c in range(classes):
        open_share = np.where(sizes < full, shares[c], 0.0)
        if not open_share.sum() > 0:  # all of a very small alpha's mass sat on full clients
            open_share = (sizes < full).astype(float)
        edges[c] = _edges(open_share / max(open_share.sum(), 1e-300), counts[c : c + 1])
        sizes += np.diff(edges[c], prepend=0)
    return edges
