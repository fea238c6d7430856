"""The server's step by default: the weighted mean of the updates, one at a time."""

from __future__ import annotations

from collections.abc import Iterable

from fedrsic_data.errors import PluginError
from fedtrain.methods.lazy import torch


def weighted_mean(
    server: dict[str, torch.Tensor], updates: Iterable[tuple[dict[str, torch.Tensor], float]]
) -> dict[str, torch.Tensor]:
    """The server's state after a round: the mean of the updates.

    Args:
        server: Its state before; tensors that no update has stay as they are.
        updates: What each client sent, and its weight, in the order of the clients' numbers.

    Raises:
        PluginError: There are no updates.
    """
    mean = WeightedMean()
    for shared, weight in updates:
        mean.add(shared, weight)
    return mean.over(server)


class WeightedMean:
    """The mean of states, each with its client's weight (McMahan et al. 2017, arXiv 1602.05629, algorithm 1).

    One accumulator is kept, however many states come. It is float64 and is rounded once, at the end: a float32 sum
    loses a bit or more over some hundreds of clients. Its last bits depend on the order of the sum, so states are
    to be added in the order of their clients' numbers, whatever cohorts they were trained in.
    """

    def __init__(self) -> None:
        self.weight = 0.0
        self.count = 0
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, state: dict[str, torch.Tensor], weight: float) -> None:
        """Adds a state.

        Args:
            state: Tensors by name, the same names and shapes every time. Integer tensors are passed over: the mean
                of counters means nothing.
            weight: Its weight, above 0.
        """
        assert weight > 0, weight
        floating = {name: value for name, value in state.items() if value.is_floating_point()}
        if not self.count:
            self._sums = {n: torch.zeros(v.shape, dtype=torch.float64, device=_place(v)) for n, v in floating.items()}
        assert floating.keys() == self._sums.keys(), sorted(floating.keys() ^ self._sums.keys())
        for name, value in floating.items():
            self._sums[name].add_(value.detach().to(self._sums[name].device), alpha=weight)
        self.weight += weight
        self.count += 1

    def over(self, base: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The mean, in the types and on the devices of ``base``; other tensors are as in ``base``.

        Raises:
            PluginError: No state was added.
        """
        if not self.count:
            raise PluginError("the mean of no updates: give at least one; a method reads its updates only once")
        means = {name: total / self.weight for name, total in self._sums.items()}
        return {name: means[name].to(value) if name in means else value for name, value in base.items()}


def _place(value: torch.Tensor) -> torch.device:
    """Where its sum is kept: Apple's GPUs have no float64."""
    return torch.device("cpu") if value.device.type == "mps" else value.device
