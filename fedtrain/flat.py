"""A model's tensors in one flat buffer: one copy, one optimiser step, one weighted sum a model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_STATISTICS = ("running_mean", "running_var")


class Flat:
    """The trained parameters and the batch-norm statistics of a module as views of two flat tensors.

    Frozen tables and integer counters are in neither: they do not travel.

    Attributes:
        module: The module, whose parameters are views from now on.
        parameters: float32 ``[P]``, with its gradient in ``.grad``; the only tensor an optimiser needs.
        statistics: float32 ``[S]``: running means and variances.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        trained = [p for p in module.parameters() if p.requires_grad]
        self.parameters = nn.Parameter(_gathered(p.detach() for p in trained))
        self.parameters.grad = torch.zeros_like(self.parameters)
        start = 0
        for p in trained:
            end = start + p.numel()
            p.data = self.parameters.data[start:end].view_as(p)
            p.grad = self.parameters.grad[start:end].view_as(p)
            start = end
        held = [(m, n) for m in module.modules() for n in _STATISTICS if isinstance(getattr(m, n, None), torch.Tensor)]
        self.statistics = _gathered(getattr(m, name) for m, name in held)
        start = 0
        for owner, name in held:
            buffer: torch.Tensor = getattr(owner, name)
            end = start + buffer.numel()
            setattr(owner, name, self.statistics[start:end].view_as(buffer))
            start = end

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of both tensors."""
        return {"parameters": self.parameters.detach().clone(), "statistics": self.statistics.clone()}

    @torch.no_grad()
    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over the values of a ``state``."""
        self.parameters.copy_(state["parameters"])
        self.statistics.copy_(state["statistics"])

    def zero_grad(self) -> None:
        """Sets the gradient to zero, in place: the views stay."""
        assert self.parameters.grad is not None
        self.parameters.grad.zero_()


def _gathered(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    parts = [tensor.reshape(-1).float() for tensor in tensors]
    return torch.cat(parts) if parts else torch.zeros(0)
