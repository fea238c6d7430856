"""Label skew for multi-label images: whole label sets are divided by a Dirichlet draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedrsic_data.partition import draws, labels
from fedrsic_data.partition.base import Assignment, Rows, by_class, cut, settle
from fedrsic_data.settings import at_least, positive


@dataclass(frozen=True)
class LabelSet:
    """``p_s ~ Dir(alpha, ..., alpha)`` over clients for every label set s, so that labels stay together.

    The most frequent sets are classes of their own, no labels at all among them; images of rarer sets are merged
    by their rarest label.

    Attributes:
        clients: Number of clients.
        alpha: Concentration; small is skewed, large approaches iid.
        sets: How many sets are classes of their own.
        min_size: Rows every client must have.

    Deviations: the label powerset is from multi-label classification, where rare sets are pruned; here they are
    merged, and no image is lost.
    """

    clients: int = 10
    alpha: float = 0.5
    sets: int = 100
    min_size: int = 1

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = False
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = False
    cites: ClassVar[str] = (
        "label powerset: Tsoumakas and Katakis 2007, doi 10.4018/jdwm.2007070101; draw: Yurochkin et al. 2019, "
        "arXiv 1905.12022"
    )

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        positive("alpha", self.alpha)
        at_least("sets", self.sets, 0)
        at_least("min_size", self.min_size, 0)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of rows with any number of labels; see ``Partitioner.assign``."""
        order, counts = by_class(self._merged(rows), rng)
        shares = draws.dirichlet(self.alpha, len(counts), self.clients, rng)
        return settle(cut(order, draws.whole(shares, counts)), self.clients, self.min_size, rng)

    def _merged(self, rows: Rows) -> Rows:
        """The rows with one code each, without gaps: the label set, or what rare sets are merged by."""
        codes, sets = labels.label_sets(rows.labels, rows.offsets, rows.classes)
        frequent = np.zeros(sets, bool)
        frequent[np.argsort(-np.bincount(codes, minlength=sets), kind="stable")[: self.sets]] = True
        rarest = labels.rarest(rows.labels, rows.offsets, rows.classes)
        distinct, merged = np.unique(np.where(frequent[codes], codes, sets + rarest), return_inverse=True)
        return rows.relabelled(merged, len(distinct))
