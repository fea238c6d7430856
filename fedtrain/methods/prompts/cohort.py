"""Local training of many clients at once: each has its own batches, its own optimiser and its own end.

The tensors of K clients are stacked along a first axis. The loss of a step is a number a client, and their sum has, for
each client's tensors, the gradient of that client's loss alone; so one backward pass is the K passes of training them
one at a time. Clients that have made all their steps leave the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch


@dataclass(frozen=True)
class Batch:
    """One batch of each of K clients; B is the largest batch there can be.

    Attributes:
        images: Features, float32 ``[K, B, embed_dim]``, or with patches ``[K, B, 1 + patches, embed_dim]``.
        labels: int64 ``[K, B]``; multi-label int8 ``[K, B, C]``, see ``fedtrain.methods.labels``.
        weight: float32 ``[K, B]``: 1 / images in the client's batch, 0 where a batch has fewer than B.
    """

    images: torch.Tensor
    labels: torch.Tensor
    weight: torch.Tensor

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over each client's images of values ``[K, B]``: ``[K]``."""
        return (values * self.weight).sum(1)


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent as ``torch.optim.SGD`` does it.

    Attributes:
        lr: Learning rate.
        momentum: From 0 to below 1.
        weight_decay: Added to the gradient, times the value.
    """

    lr: float
    momentum: float
    weight_decay: float

    def step(self, value: torch.Tensor, grad: torch.Tensor, velocity: torch.Tensor) -> None:
        """Moves ``value`` and ``velocity`` in place, elementwise: nothing passes from client to client."""
        velocity.mul_(self.momentum).add_(grad.add(value, alpha=self.weight_decay))
        value.add_(velocity, alpha=-self.lr)


def schedule(rows: torch.Tensor, batch: int, epochs: int, generator: torch.Generator) -> torch.Tensor:
    """Which rows a client sees in which step.

    Args:
        rows: Numbers of its rows, int64 ``[n]``, n at least 1.
        batch: Rows in a batch; the last of an epoch has what is left.
        epochs: Each is a permutation of the rows.
        generator: The client's own, on the CPU.

    Returns:
        int64 ``[steps, batch]``, -1 where a batch is not full.
    """
    steps = -(-len(rows) // batch)
    table = torch.full((epochs, steps * batch), -1, dtype=torch.long)
    for epoch in table:
        epoch[: len(rows)] = rows[torch.randperm(len(rows), generator=generator)]
    return table.reshape(epochs * steps, batch)


def gather(
    tables: Sequence[torch.Tensor],
    step: int,
    images: torch.Tensor,
    labels: torch.Tensor,
    views: Sequence[torch.Tensor] = (),
) -> Batch:
    """The batch of each client at a step.

    Args:
        tables: A ``schedule`` a client, all of the same batch size and longer than ``step``.
        step: From 0.
        images: Features of all rows, ``[N, ...]``, or of their views, ``[N, V, ...]``.
        labels: Those of all rows, ``[N, ...]``.
        views: Which view of each row, a table a client like ``tables``; none where rows have one.
    """
    at = torch.stack([table[step] for table in tables])
    full = at >= 0
    weight = full / full.sum(1, keepdim=True)
    at = torch.where(full, at, at[:, :1]).to(images.device)  # filled up with a row of the client's own, of weight 0
    drawn = (torch.stack([view[step] for view in views]).to(images.device),) if views else ()
    return Batch(images[(at, *drawn)].float(), labels[at], weight.to(images.device))


def descend(
    start: State, steps: Sequence[int], loss: Callable[[State, int], torch.Tensor], sgd: Callable[[str], Sgd]
) -> tuple[State, torch.Tensor]:
    """Trains K clients, each from zero momentum.

    Args:
        start: Tensors ``[K, ...]`` by name; not changed.
        steps: Steps of each client, at least 1, from the most to the fewest.
        loss: Given the tensors ``[k, ...]`` of the first k clients, those still at it, and the number of the step;
            returns the loss of each, ``[k]``.
        sgd: The optimiser of a tensor, by its name.

    Returns:
        The tensors after each client's last step, and each client's mean loss ``[K]``.
    """
    assert list(steps) == sorted(steps, reverse=True), steps
    state = {name: value.detach().clone() for name, value in start.items()}
    rules = {name: sgd(name) for name in start}
    velocity = {name: torch.zeros_like(value) for name, value in state.items()}
    total: torch.Tensor | None = None
    for step in range(max(steps, default=0)):
        active = sum(count > step for count in steps)
        live = {name: value[:active].detach().requires_grad_() for name, value in state.items()}
        losses = loss({**live}, step)
        grads = torch.autograd.grad(losses.sum(), list(live.values()), materialize_grads=True)  # 0 where not used
        for name, grad in zip(live, grads, strict=True):
            rules[name].step(state[name][:active], grad, velocity[name][:active])
        total = losses.detach().clone() if total is None else total
        if step:
            total[:active] += losses.detach()
    assert total is not None
    return state, total / torch.tensor(steps, device=total.device)
