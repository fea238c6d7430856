"""Natural partition: the people who took the images are the clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrsic_data.errors import UsageError
from fedrsic_data.partition.base import Assignment, Rows
from fedrsic_data.settings import at_least


@dataclass(frozen=True)
class Natural:
    """A user is a client, or a client is several whole users.

    Attributes:
        clients: None keeps users apart. A number merges them into that many clients: shuffled and dealt, so that
            clients differ by at most one user.
        min_size: Users with fewer rows are left out, and their rows counted; rows never move between users.

    Deviations: the source's own train and test users are not kept apart here; that is a matter of splits.
    """

    clients: int | None = None
    min_size: int = 1

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = False
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "Song, Granqvist and Talwar 2022 (FLAIR), arXiv 2207.08869; LEAF, arXiv 1812.01097"

    def __post_init__(self) -> None:
        at_least("min_size", self.min_size, 0)
        if self.clients is not None:
            at_least("clients", self.clients, 1)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of rows with any number of labels; see ``Partitioner.assign``."""
        if rows.groups is None:
            raise UsageError("natural needs the user of each image, which these sources lack; choose another")
        sizes = np.bincount(rows.groups, minlength=len(rows.group_names))
        users = np.flatnonzero(sizes >= max(self.min_size, 1))
        clients = len(users) if self.clients is None else self.clients
        if not len(users) or clients > len(users):
            raise UsageError(
                f"clients={clients or 'null'} and {len(users):,} users with at least {self.min_size} images each: "
                f"{max(clients - len(users), 1):,} too few; lower clients or min_size"
            )
        client_of = np.full(len(sizes), -1, np.int32)
        if self.clients is None:
            client_of[users] = np.arange(len(users), dtype=np.int32)
            names = tuple(rows.group_names[user] for user in users)
            return Assignment(client_of[rows.groups], clients, names=names)
        client_of[rng.permutation(users)] = np.arange(len(users), dtype=np.int32) % clients
        return Assignment(client_of[rows.groups], clients)
