"""Label skew: rows sorted by class, cut into equal shards, a few shards a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrsic_data.errors import UsageError
from fedrsic_data.partition.base import Assignment, Reduce, Rows, by_class, settle
from fedrsic_data.settings import at_least


@dataclass(frozen=True)
class Shards:
    """``shards_per_client`` shards for each client, drawn without replacement.

    Attributes:
        clients: Number of clients.
        shards_per_client: Shards of each client; two give most clients two classes.
        min_size: Rows every client must have.
        reduce: Take only the ``first`` or the ``rarest`` label of an image with several.

    Deviations: the paper's shards divide its data without rest; here shard sizes differ by at most one and no row
    is left over.
    """

    clients: int = 10
    shards_per_client: int = 2
    min_size: int = 1
    reduce: Reduce = None

    multi_label: ClassVar[bool] = False
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = True
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "McMahan et al. 2017, arXiv 1602.05629, section 3"

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        at_least("shards_per_client", self.shards_per_client, 1)
        at_least("min_size", self.min_size, 0)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of single-label rows; see ``Partitioner.assign``."""
        shards = self.clients * self.shards_per_client
        if shards > len(rows):
            raise UsageError(
                f"clients={self.clients} x shards_per_client={self.shards_per_client} are {shards:,} shards of "
                f"{len(rows):,} images: {shards - len(rows):,} shards would be empty; lower one of them"
            )
        order, _ = by_class(rows, rng)
        holder = rng.permutation(shards) % self.clients
        owner = np.empty(len(rows), np.int32)
        owner[order] = holder[np.arange(len(rows)) * shards // len(rows)]
        return settle(owner, self.clients, self.min_size, rng)
