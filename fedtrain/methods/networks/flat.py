"""A model's tensors in one flat buffer: one copy, one optimiser step, one weighted sum a model."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from fedtrain.methods.lazy import nn, torch

_GPU_ALIGN = 64
_STATISTICS = ("running_mean", "running_var")


class Flat:
    """The trained parameters and the batch-norm statistics of a module as views of two flat tensors.

    Frozen tables, statistics of layers whose parameters are frozen, and integer counters are in neither: they do not
    travel.

    Attributes:
        module: The module, whose parameters are views from now on.
        trained: Its parameters that are, in the order in which they stand in ``parameters``.
        parameters: float32 ``[P + gaps]``, with its gradient in ``.grad``; the only tensor an optimiser needs. Gaps
            hold zeros, and so do their gradients.
        statistics: float32 ``[S]``: running means and variances.
    """

    def __init__(self, module: nn.Module, align: int | None = None) -> None:
        """Moves the parameters; they stay in place from now on.

        Args:
            module: On its device.
            align: Every parameter begins at a multiple of so many numbers, with gaps before it. None: 1 on a CPU; 64 on
                a GPU, whose fast kernels read 16 bytes at a time and refuse weights that begin elsewhere.
        """
        self.module = module
        trained = self.trained = tuple(p for p in module.parameters() if p.requires_grad)
        if align is None:
            align = _GPU_ALIGN if any(p.is_cuda for p in trained) else 1
        self._spans = _spans([p.numel() for p in trained], align)
        last = self._spans[-1].stop if self._spans else 0
        device = trained[0].device if trained else None
        self.parameters = nn.Parameter(torch.zeros(last, device=device))
        self.parameters.grad = torch.zeros_like(self.parameters)
        for p, span in zip(trained, self._spans, strict=True):
            self.parameters.data[span].copy_(p.detach().reshape(-1))
            p.data = self.parameters.data[span].view_as(p)
            p.grad = self.parameters.grad[span].view_as(p)
        self._whole = _joined(self._spans)
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
        """A copy of both tensors, the parameters without gaps; of one that is empty, nothing."""
        both = {"parameters": [self.parameters.detach()[span] for span in self._whole], "statistics": [self.statistics]}
        return {name: torch.cat(parts) for name, parts in both.items() if sum(map(len, parts))}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Takes over the values of a ``state``."""
        with torch.no_grad():
            lengths = [span.stop - span.start for span in self._whole]
            for span, part in zip(self._whole, torch.split(state["parameters"], lengths), strict=True):
                self.parameters[span].copy_(part)
            if len(self.statistics):
                self.statistics.copy_(state["statistics"])

    def parts(self, module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """``parameters`` in runs that lie within a part of the module, and in those that do not: views of them."""
        inside = {id(p) for p in module.parameters()}
        found: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for within, run in itertools.groupby(
            zip(self.trained, self._spans, strict=True), lambda pair: id(pair[0]) in inside
        ):
            spans = [span for _, span in run]
            span = slice(spans[0].start, spans[-1].stop)
            part = nn.Parameter(self.parameters.data[span])
            assert self.parameters.grad is not None
            part.grad = self.parameters.grad[span]
            found[not within].append(part)
        return found


def _spans(sizes: Sequence[int], align: int) -> list[slice]:
    """Where tensors of these sizes lie, each at a multiple of ``align``."""
    found, end = [], 0
    for size in sizes:
        start = -(-end // align) * align
        end = start + size
        found.append(slice(start, end))
    return found


def _joined(spans: Sequence[slice]) -> list[slice]:
    """Spans with those joined that follow each other without a gap."""
    found: list[slice] = []
    for span in spans:
        if found and found[-1].stop == span.start:
            found[-1] = slice(found[-1].start, span.stop)
        else:
            found.append(span)
    return found


def _gathered(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    parts = [tensor.reshape(-1).float() for tensor in tensors]
    return torch.cat(parts) if parts else torch.zeros(0)
