"""A model's tensors in one flat buffer: one copy, one optimiser step, one weighted sum a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from fedtrain.methods.lazy import nn, torch

_STATISTICS = ("running_mean", "running_var")


class Flat:
    """The trained parameters and the batch-norm statistics of a module as views of two flat tensors.

    Frozen tables, statistics of layers whose parameters are frozen, and integer counters are in neither: they do not
    travel.

    Attributes:
        module: The module, whose parameters are views from now on.
        trained: Its parameters that are, in the order in which they stand in ``parameters``.
        parameters: float32 ``[P]``, with its gradient in ``.grad``; the only tensor an optimiser needs.
        statistics: float32 ``[S]``: running means and variances.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        trained = self.trained = tuple(p for p in module.parameters() if p.requires_grad)
        self.parameters = nn.Parameter(_gathered(p.detach() for p in trained))
        self.parameters.grad = torch.zeros_like(self.parameters)
        start = 0
        for p in trained:
            end = start + p.numel()
            p.data = self.parameters.data[start:end].view_as(p)
            p.grad = self.parameters.grad[start:end].view_as(p)
            start = end
        held = [
            (m, n)
            for m in module.modules()
            for n in _STATISTICS
            if isinstance(getattr(m, n, None), torch.Tensor) and any(p.requires_grad for p in m.parameters())
        ]
        self.statistics = _gathered(getattr(m, name) for m, name in held)
        start = 0
        for owner, name in held:
            buffer: torch.Tensor = getattr(owner, name)
            end = start + buffer.numel()
            setattr(owner, name, self.statistics[start:end].view_as(buffer))
            start = end

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of both tensors; of one that is empty, nothing."""
        both = {"parameters": self.parameters.detach(), "statistics": self.statistics}
        return {name: value.clone() for name, value in both.items() if len(value)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over the values of a ``state``."""
        with torch.no_grad():
            self.parameters.copy_(state["parameters"])
            if len(self.statistics):
                self.statistics.copy_(state["statistics"])

    def parts(self, module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """``parameters`` in runs that lie within a part of the module, and in those that do not: views of them."""
        inside = {id(p) for p in module.parameters()}
        found: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        start = 0
        for within, run in itertools.groupby(self.trained, lambda p: id(p) in inside):
            end = start + sum(p.numel() for p in run)
            part = nn.Parameter(self.parameters.data[start:end])
            assert self.parameters.grad is not None
            part.grad = self.parameters.grad[start:end]
            found[not within].append(part)
            start = end
        return found


def _gathered(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    parts = [tensor.reshape(-1).float() for tensor in tensors]
    return torch.cat(parts) if parts else torch.zeros(0)
