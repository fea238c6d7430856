"""Partition labels over clients: ``fedrsic_data.partition``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrsic_data import seeds
from fedrsic_data.dataset import skew
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import base, labels, named
from fedrsic_data.partition.base import Owners, Partitioner, Rows
from fedrsic_data.partition.from_labels import Classes, rows_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Partition:
    """Rows dealt out to clients.

    Attributes:
        partitioner: The partitioner and its settings.
        seed: The seed of the draws.
        name: The name that the draws go by; in a recipe, the subset's.
        clients: Client names.
        classes: Class names in index order.
        domains: Domain names; empty without domains.
        owner: int32 [N], the client of each row in ``0..len(clients)-1``; -1 for a row that is left out.
        moved: Rows that changed their owner so that every client reaches its minimum size.
    """

    partitioner: Partitioner
    seed: int
    name: str
    clients: tuple[str, ...]
    classes: tuple[str, ...]
    domains: tuple[str, ...]
    owner: Owners
    moved: int
    _rows: Rows = field(repr=False)

    def __len__(self) -> int:
        """The number of clients."""
        return len(self.clients)

    def __repr__(self) -> str:
        held = int((self.owner >= 0).sum())
        return f"<Partition of {held:,} rows over {len(self):,} clients: {self.partitioner!r}, seed {self.seed}>"

    @cached_property
    def indices(self) -> tuple[NDArray[np.int64], ...]:
        """The rows of each client: one int64 array per client, ascending."""
        held = np.flatnonzero(self.owner >= 0)
        order = held[labels.by_code(self.owner[held], len(self))]
        return tuple(np.split(order, np.cumsum(np.bincount(self.owner[held], minlength=len(self)))[:-1]))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each class at each client: int64 [clients, classes]. A row with several labels counts in each."""
        owner = np.repeat(self.owner, np.diff(self._rows.offsets))
        return self._table(owner, self._rows.labels, len(self.classes))

    def skew(self) -> dict[str, dict[str, float]]:
        """Skew metrics: ``value``, and ``iid_low`` and ``iid_high``, the band that an IID split of these sizes gives.

        The names and definitions are those of ``fedkit inspect``; see ``fedrsic_data.dataset.skew``.
        """
        rng = seeds.generator(self.seed, self.name, "skew")
        held = self.owner >= 0
        rows = self._rows if held.all() else self._rows.take(np.flatnonzero(held))
        times = np.diff(rows.offsets)
        return skew.measure_rows(self.counts, self._domain_rows, self.owner[held], rows.labels, times, rng)

    def to_pandas(self) -> pd.DataFrame:
        """``counts`` as a table: a row per client, a column per class. pandas has to be installed."""
        import pandas as pd

        return pd.DataFrame(self.counts, index=pd.Index(self.clients, name="client"), columns=list(self.classes))

    def plot(self, kind: Literal["clients", "sizes", "domains"] = "clients") -> Figure:
        """A figure: the classes of each client, the sizes of the clients, or their domains.

        Raises:
            UsageError: There is no such figure, or there are no domains.
        """
        from fedrsic_data.report import figures_clients
        from fedrsic_data.report.summary import Summary

        draw = {
            "clients": figures_clients.heat_map,
            "sizes": figures_clients.sizes,
            "domains": figures_clients.domain_mix,
        }
        if kind not in draw:
            raise UsageError(f"plot({kind!r}): should be one of {', '.join(draw)}")
        if kind == "domains" and len(self.domains) < 2:
            raise UsageError("plot('domains'): all rows are of one domain; give domains=...")
        held = np.bincount(self.owner[self.owner >= 0], minlength=len(self))
        summary = Summary(
            name=self.name,
            classes=self.classes,
            clients=self.clients,
            splits=(skew.TRAIN,),
            rows=held.reshape(-1, 1),
            labels=self.counts,
            domains=self.domains,
            domain_rows=self._domain_rows,
            measured={},
            multi_label=not self._rows.is_single,
            sample=False,
        )
        figure: Figure = draw[kind](summary).figure
        return figure

    @property
    def _domain_rows(self) -> NDArray[np.int64]:
        return self._table(self.owner, self._rows.domains, max(len(self.domains), 1))

    def _table(self, owner: Owners, codes: NDArray[np.int32], width: int) -> NDArray[np.int64]:
        held = owner >= 0
        cells = owner[held].astype(np.int64) * width + codes[held]
        return np.bincount(cells, minlength=len(self) * width).reshape(len(self), width)


def partition(
    labels: Any,
    partitioner: str | Partitioner = "dirichlet",
    *,
    seed: int = 0,
    column: str | None = None,
    classes: Classes = None,
    domains: Any = None,
    groups: Any = None,
    ids: Any = None,
    name: str = "data",
    **settings: Any,
) -> Partition:
    """Deal rows out to clients by their labels.

    >>> import fedrsic_data
    >>> split = fedrsic_data.partition([0, 0, 1, 1, 2, 2], "dirichlet", clients=2, alpha=0.5, seed=0)
    >>> sum(map(len, split.indices))
    6

    Args:
        labels: One label per row, or several: a list, a NumPy array, a torch tensor, a pandas Series, an Arrow column,
            lists of labels, a matrix of zeros and ones, a torch dataset with ``targets``, or a ``datasets.Dataset``,
            DataFrame or Arrow table with ``column``.
        partitioner: The name of a partitioner (``fedkit list partitioners``), or one with its settings.
        seed: The seed of all draws.
        column: The column of labels in a table.
        classes: Number or names of the classes; None: see ``from_labels.rows_of``.
        domains: A domain per row, for partitioners that use domains and for the metrics.
        groups: A natural user per row, for ``natural``.
        ids: A name per row, as text; None: row numbers. The order of rows never matters where they have names.
        name: The name that the draws go by. With a recipe's seed and sample ids, and its subset's name, the owners
            are those of the recipe.
        **settings: The partitioner's settings, such as ``clients=20, alpha=0.1``.

    Raises:
        UsageError: Unknown partitioner or setting, a missing or wrong label, lengths that differ, or settings that
            these rows cannot meet.
    """
    if type(seed) is not int or seed < 0:
        raise UsageError(f"seed={seed!r} should be a whole number from 0")
    if not isinstance(name, str) or not name.isprintable():
        raise UsageError(f"name={name!r} should be a text")
    rows, class_names, domain_names = rows_of(labels, column=column, classes=classes, domains=domains, groups=groups)
    if isinstance(partitioner, str):
        chosen = named.from_json({"name": partitioner, **settings})
    elif not hasattr(partitioner, "assign"):
        raise UsageError(f"partitioner={partitioner!r} should be a partitioner, or the name of one")
    elif settings:
        raise UsageError(f"{next(iter(settings))}: is a setting; give it to the partitioner, or name the partitioner")
    else:
        chosen = partitioner
    answer = base.assign(chosen, rows, _ids(ids, len(rows)), seeds.generator(seed, name, "partition"))
    clients = base.names(answer.clients, answer.names)
    return Partition(chosen, seed, name, clients, class_names, domain_names, answer.owner, answer.moved, rows)


def _ids(given: Any, rows: int) -> pa.Array | None:
    if given is None:
        return None
    try:
        ids = pa.array(given, pa.string(), from_pandas=True)
    except (pa.ArrowException, TypeError) as error:
        raise UsageError(f"ids: should be texts ({' '.join(str(error).split())[:200]})") from None
    if len(ids) != rows or ids.null_count or len(ids.unique()) < rows:
        raise UsageError(f"ids: should be {rows:,} different texts, one per row")
    return ids
