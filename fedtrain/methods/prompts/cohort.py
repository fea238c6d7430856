"""Local training of many clients at once: each has its own batches, its own optimiser and its own end.

The tensors of K clients are stacked along a first axis. The loss of a step is a number a client, and their sum has, for
each client's tensors, the gradient of that client's loss alone; so one backward pass is the K passes of training them
one at a time. Clients that have made all their steps leave the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

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


class Optimiser(Protocol):
    """A rule by which gradients move the values of clients, elementwise: nothing passes from client to client.

    Attributes:
        moments: Tensors that it keeps of each value between steps, all zero before the first.
    """

    moments: ClassVar[int]

    def step(self, value: torch.Tensor, grad: torch.Tensor, moments: Sequence[torch.Tensor], count: int) -> None:
        """Moves ``value`` and its ``moments`` in place; ``count`` is the number of the step, from 1."""
        ...


@dataclass(frozen=True)
class Steps:
    """The steps of a client.

    Attributes:
        rows: The rows of each step, int64 ``[steps, batch]``, as ``schedule`` gives them.
        views: The view of each of these rows, likewise; None where images have one.
    """

    rows: torch.Tensor
    views: torch.Tensor | None


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
    moments: ClassVar[int] = 1

    def step(self, value: torch.Tensor, grad: torch.Tensor, moments: Sequence[torch.Tensor], count: int) -> None:  # noqa: ARG002
        """Moves a value by its velocity; see ``Optimiser.step``."""
        (velocity,) = moments
        velocity.mul_(self.momentum).add_(grad.add(value, alpha=self.weight_decay))
        value.add_(velocity, alpha=-self.lr)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980) as ``torch.optim.Adam`` does it.

    Attributes:
        lr: Learning rate.
        weight_decay: Added to the gradient, times the value.
        beta1: Decay of the mean of gradients, from 0 to below 1.
        beta2: Decay of the mean of their squares.
        eps: Added to the root of that mean.
        decoupled: AdamW (Loshchilov and Hutter, ICLR 2019, arXiv 1711.05101): the value decays by lr x weight_decay of
            itself instead.
    """

    lr: float
    weight_decay: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    decoupled: bool = False
    moments: ClassVar[int] = 2

    def step(self, value: torch.Tensor, grad: torch.Tensor, moments: Sequence[torch.Tensor], count: int) -> None:
        """Moves a value by the means of its gradients and of their squares; see ``Optimiser.step``."""
        first, second = moments
        if self.decoupled:
            value.mul_(1 - self.lr * self.weight_decay)
        else:
            grad = grad.add(value, alpha=self.weight_decay)
        first.mul_(self.beta1).add_(grad, alpha=1 - self.beta1)
        second.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        root = second.sqrt().div_((1 - self.beta2**count) ** 0.5).add_(self.eps)
        value.addcdiv_(first, root, value=-self.lr / (1 - self.beta1**count))


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
    start: State,
    steps: Sequence[int],
    loss: Callable[[State, int], torch.Tensor],
    optimiser: Callable[[str], Optimiser],
) -> tuple[State, torch.Tensor]:
    """Trains K clients, each from moments of zero.

    Args:
        start: Tensors ``[K, ...]`` by name; not changed.
        steps: Steps of each client, at least 1, from the most to the fewest.
        loss: Given the tensors ``[k, ...]`` of the first k clients, those still at it, and the number of the step;
            returns the loss of each, ``[k]``.
        optimiser: That of a tensor, by its name.

    Returns:
        The tensors after each client's last step, and each client's mean loss ``[K]``.
    """
    assert list(steps) == sorted(steps, reverse=True), steps
    state = {name: value.detach().clone() for name, value in start.items()}
    rules = {name: optimiser(name) for name in start}
    moments = {name: [torch.zeros_like(state[name]) for _ in range(rule.moments)] for name, rule in rules.items()}
    total: torch.Tensor | None = None
    for step in range(max(steps, default=0)):
        active = sum(count > step for count in steps)
        live = {name: value[:active].detach().requires_grad_() for name, value in state.items()}
        losses = loss({**live}, step)
        grads = torch.autograd.grad(losses.sum(), list(live.values()), materialize_grads=True)  # 0 where not used
        for name, grad in zip(live, grads, strict=True):
            rules[name].step(state[name][:active], grad, [kept[:active] for kept in moments[name]], step + 1)
        total = losses.detach().clone() if total is None else total
        if step:
            total[:active] += losses.detach()
    assert total is not None
    return state, total / torch.tensor(steps, device=total.device)
