"""A partitioner with one large client."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import Assignment


@dataclass(frozen=True)
class Leader:
    """Give the first client a share of the images, and the others the rest in even parts.

    Attributes:
        clients: Number of clients, at least 2.
        share: The first client's part of the images, above 0 and below 1.
    """

    clients: int = 10
    share: float = 0.5

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = True
    keeps_min_size: ClassVar[bool] = False
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "none: an example"

    def __post_init__(self):
        if self.clients < 2 or not 0 < self.share < 1:
            raise UsageError(f"clients={self.clients}, share={self.share} should be at least 2, and between 0 and 1")

    def assign(self, rows, rng):
        """Owners of rows in random order: the leader's first, then those of the others in turn."""
        order = rng.permutation(len(rows))
        first = round(self.share * len(rows))
        owner = np.zeros(len(rows), np.int32)
        owner[order[first:]] = 1 + np.arange(len(rows) - first) % (self.clients - 1)
        return Assignment(owner, self.clients)
