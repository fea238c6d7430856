"""Homes: which domain each client belongs to."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def seats(counts: Counts, clients: int, least: int = 0) -> Counts:
    """Clients of each domain, one at least, so that the largest client is as small as can be.

    Args:
        counts: int64 [domains], rows of each domain, above zero.
        clients: Number of clients, no fewer than domains.
        least: Rows that a domain must have for each of its clients; see ``roomy``.

    Returns:
        int64 [domains] that sum to ``clients``.
    """
    most: Counts = np.maximum(counts // least, 1) if least else np.full(len(counts), clients)
    # the seats that come first anyway: all those whose rows are more than a divisor that gives too few
    taken: Counts = np.minimum(np.maximum(-(-counts * (clients - len(counts)) // counts.sum()), 1), most)
    queue = [(-counts[d] / taken[d], d) for d in np.flatnonzero(taken < most).tolist()]
    heapq.heapify(queue)
    for _ in range(clients - int(taken.sum())):
        _, d = queue[0]
        taken[d] += 1
        if taken[d] < most[d]:
            heapq.heapreplace(queue, (-counts[d] / taken[d], d))
        else:
            heapq.heappop(queue)
    return taken


def roomy(counts: Counts, clients: int, least: int) -> bool:
    """Whether every domain has a client of its own, and all of them ``least`` rows from their domains alone."""
    if clients < len(counts) or (counts < least).any():
        return False
    return not least or int((counts // least).sum()) >= clients


def laid(sizes: Counts, borders: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of clients that are laid end to end along the domains: float64 [clients, domains].

    At most domains - 1 of them lie across a border.

    Args:
        sizes: int64 [clients], in the order they are laid.
        borders: float64 [domains], where each domain ends; the last is the sum of the sizes.
    """
    ends, starts = np.cumsum(sizes)[:, None], np.append(0.0, borders[:-1])
    home = np.minimum(ends, borders) - np.maximum(ends - sizes[:, None], starts)
    return np.where(home > 1e-8, home, 0.0)
