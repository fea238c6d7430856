"""Label skew: every client holds a block of classes that follow one another, of one source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrsic_data.partition.base import Assignment, Reduce, Rows
from fedrsic_data.settings import at_least


@dataclass(frozen=True)
class ClassBlocks:
    """``classes_per_client`` classes for each client, in index order; no two clients share a class.

    A source of n classes gets round(n / classes_per_client) clients, halves to the even number and at least one. The
    last of them takes the classes that are left: fewer than the others have, or up to half as many more. Where sources
    keep their classes apart, each is cut by itself, so that a client holds classes of one dataset; elsewhere all
    classes are one. Classes without rows are passed over. Nothing is drawn.

    Attributes:
        classes_per_client: Classes of each client.
        reduce: Take only the ``first`` or the ``rarest`` label of an image with several.

    Deviations: none; the authors' rounding makes the 30 clients of their nine datasets.
    """

    classes_per_client: int = 20
    reduce: Reduce = None

    multi_label: ClassVar[bool] = False
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = False
    keeps_min_size: ClassVar[bool] = False
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = "FedTPG, Qiu et al. 2024, arXiv 2310.06123"

    def __post_init__(self) -> None:
        at_least("classes_per_client", self.classes_per_client, 1)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:  # noqa: ARG002
        """Owners of single-label rows; see ``Partitioner.assign``."""
        present = np.flatnonzero(np.bincount(rows.labels, minlength=rows.classes))
        sources = np.zeros(rows.classes, np.int32) if rows.sources is None else rows.sources
        client_of, clients = np.full(rows.classes, -1, np.int32), 0
        for source in dict.fromkeys(sources[present].tolist()):  # in the order of their classes
            mine = present[sources[present] == source]
            own = max(1, round(len(mine) / self.classes_per_client))
            client_of[mine] = clients + np.minimum(np.arange(len(mine)) // self.classes_per_client, own - 1)
            clients += own
        return Assignment(client_of[rows.labels], clients)
