"""Steps of a network recorded as CUDA graphs: clients with few images otherwise wait for hundreds of small launches.

A step of a ResNet and a transformer launches about a thousand kernels, whatever its batch; with a handful of images,
launching takes ten times what the GPU computes. A CUDA graph launches all of them at once. The kernels, their order and
their random draws are those of the plain step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch


@dataclass(frozen=True)
class Recordable:
    """The loss of a client whose steps can be recorded: all that differs between batches is in tensors.

    It is called as every ``Loss``.

    Attributes:
        given: Makes the tensors that the loss of a batch needs besides images and targets, by name, from the rows
            int64 ``[B]`` and the epoch.
        of: Computes the loss from normalised images, targets and ``given``. It reads nothing else but the network
            and constants, is the same function for all clients, and waits for no value of the GPU.
    """

    given: Callable[[torch.Tensor, int], State]
    of: Callable[[torch.Tensor, torch.Tensor, State], torch.Tensor]

    def __call__(self, images: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, epoch: int) -> torch.Tensor:
        """The loss of a batch, not recorded."""
        return self.of(images, targets, self.given(rows, epoch))


class Recorder:
    """Recordings of one function by the shapes of its inputs, which share one pool of memory.

    A shape is computed plainly when it first comes, which also makes kernels and optimisers ready, and recorded when it
    comes again: what comes once is not worth a recording.
    """

    def __init__(self, function: Callable[[State], torch.Tensor], generators: Sequence[torch.Generator] = ()) -> None:
        """Records nothing yet.

        Args:
            function: Maps tensors by name to one tensor; what it changes besides lies in memory that stays in place.
            generators: Those that it draws from, on the GPU. They may be seeded anew between calls.
        """
        self._function = function
        self._generators = generators
        self._seen: set[tuple[Any, ...]] = set()
        self._recorded: dict[tuple[Any, ...], tuple[torch.cuda.CUDAGraph, State, torch.Tensor]] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._recorded)

    def __call__(self, inputs: State) -> torch.Tensor:
        """The function's value, in its own memory."""
        shape = tuple((name, tuple(value.shape), value.dtype) for name, value in inputs.items())
        if shape in self._recorded:
            graph, held, value = self._recorded[shape]
            for name, tensor in held.items():
                tensor.copy_(inputs[name])
            graph.replay()
            return value.clone()
        if shape not in self._seen:
            self._seen.add(shape)
            return self._function(inputs)
        self._recorded[shape] = self._record(inputs)
        return self(inputs)

    def _record(self, inputs: State) -> tuple[torch.cuda.CUDAGraph, State, torch.Tensor]:
        """A recording, which computes nothing yet, with its inputs and its value."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        held = {name: value.clone() for name, value in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # other threads may go on decoding and copying images
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            value = self._function(held)
        return graph, held, value
