"""Clients for Flower: what ``flwr-datasets`` calls a partitioner and a federated dataset, without depending on it.

Deviations: partitions are those of the plan, so nothing is drawn, and there is nothing to set.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from fedrsic_data.errors import UsageError

if TYPE_CHECKING:
    import datasets

    from fedrsic_data.dataset.reader import Subset


class ClientPartitioner:
    """The clients of a subset as the partitions of a split, with the methods of flwr-datasets' ``Partitioner``.

    Partition ``i`` is client ``subset.clients[i]``.
    """

    def __init__(self, subset: Subset, split: str = "train") -> None:
        """Reads nothing yet.

        Raises:
            UsageError: There is no such split.
        """
        if split not in subset.splits:
            raise UsageError(f"{subset.name}: no split {split!r}; there are {', '.join(subset.splits)}")
        self.subset, self.split = subset, split

    @property
    def num_partitions(self) -> int:
        """Number of clients, including those without rows."""
        return len(self.subset.clients)

    def load_partition(self, partition_id: int) -> datasets.Dataset:
        """A client's rows with Image and ClassLabel features; nothing else is read.

        Raises:
            UsageError: There is no such partition.
        """
        if not 0 <= partition_id < self.num_partitions:
            raise UsageError(f"partition_id={partition_id} should be from 0 to {self.num_partitions - 1}")
        return self.subset.client(self.subset.clients[partition_id]).dataset(self.split)

    @cached_property
    def dataset(self) -> datasets.Dataset:
        """The rows of all clients, in their order; in memory."""
        import datasets

        return datasets.Dataset(self.subset.read(self.split))

    def is_dataset_assigned(self) -> bool:
        """It always is."""
        return True


class FederatedDataset:
    """A subset with the methods of flwr-datasets' ``FederatedDataset``.

    >>> FederatedDataset(fedrsic_data.open("data/fed-rsic").subset("fed-nwpu")).load_partition(0)  # doctest: +SKIP
    """

    def __init__(self, subset: Subset) -> None:
        """Reads nothing yet."""
        self.partitioners = {split: ClientPartitioner(subset, split) for split in subset.splits}

    def load_partition(self, partition_id: int, split: str = "train") -> datasets.Dataset:
        """A client's rows of a split.

        Raises:
            UsageError: There is no such partition or split.
        """
        return self._of(split).load_partition(partition_id)

    def load_split(self, split: str) -> datasets.Dataset:
        """The rows of all clients, for evaluation at the server; in memory.

        Raises:
            UsageError: There is no such split.
        """
        return self._of(split).dataset

    def _of(self, split: str) -> ClientPartitioner:
        if split not in self.partitioners:
            raise UsageError(f"no split {split!r}; there are {', '.join(self.partitioners)}")
        return self.partitioners[split]
