"""pFedMoAP as an example of a method in one file: the server keeps all prompts and sends each client other experts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from fedtrain.methods.aggregate import WeightedMean
from fedtrain.methods.base import State, Update
from fedtrain.methods.prompts.cohort import Sgd
from fedtrain.methods.prompts.inputs import Classes
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


@dataclass(frozen=True)
class PoolSettings(PromptSettings):
    """Settings of pFedMoAP.

    Attributes:
        experts: Most prompts that a client classifies with, its own among them.
        gate_width: Channels of the gate; divides the CLIP's.
        heads: Of the gate; divide its channels.
        scaling: What attention scores are multiplied by.
        own_weight: Of the logits of the client's own prompt.
        gate_lr: Learning rate of the gate.
    """

    length: int = 4
    lr: float = 0.002
    experts: int = 10
    gate_width: int = 32
    heads: int = 4
    scaling: float = 10.0
    own_weight: float = 0.5
    gate_lr: float = 0.01


class Pool(PromptMethod[PoolSettings]):
    """pFedMoAP (Luo et al., ICLR 2025, arXiv 2410.10114): a personal gate mixes the experts' texts, image by image.

    The server averages the prompts and keeps the last one of each client. It sends a client the mean, and as experts
    the prompts of others that are nearest to the client's last. A client that never trained gets none.

    Deviations: a constant learning rate; clients are judged after aggregation, with the mean as their own prompt; the
    gate starts as the identity, where the paper draws it.
    """

    Settings = PoolSettings
    rounds: ClassVar[int] = 10
    has_personal: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = frozenset({"experts"})

    def shared(self) -> State:
        start = self.drawn("context", self.settings.length, self.clip.width)
        clients = len(self.context.clients)
        pool, held = start.new_zeros(clients, *start.shape), torch.zeros(clients, dtype=torch.bool)
        return {"context": start, "pool": pool, "held": held.to(start.device)}

    def personal(self, client: int) -> State:
        """The gate: four linear maps ``[4, D, D]`` and their offsets ``[4, D]``, for query, key, value and output."""
        width = self.settings.gate_width
        maps = torch.eye(width, device=self.context.device).expand(4, width, width)
        return {"gate": maps.contiguous(), "offset": maps.new_zeros(4, width)}

    def sent_to(self, client: int, server: State) -> State:
        pool, held = server["pool"], server["held"].clone()
        if not held[client]:
            return {"context": server["context"], "experts": pool[:0]}
        held[client] = False
        others = held.nonzero()[:, 0]
        distance = (pool[others] - pool[client]).square().sum((1, 2))
        nearest = others[distance.argsort(stable=True)[: self.settings.experts - 1]]
        return {"context": server["context"], "experts": pool[nearest]}

    def sent_back(self, server: State) -> State:
        return {"context": server["context"]}

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        mean, pool, held = WeightedMean(), server["pool"].clone(), server["held"].clone()
        for update in updates:
            mean.add(update.shared, update.weight)
            pool[update.client] = update.shared["context"]
            held[update.client] = True
        return mean.over(server) | {"pool": pool, "held": held}

    def optimiser(self, name: str) -> Sgd:
        settings = self.settings
        rate = settings.lr if name == "context" else settings.gate_lr
        return Sgd(rate, settings.momentum, settings.weight_decay)

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features ``[K, experts, C, embed_dim]``, the client's own first."""
        own = classes.under(state["context"])[:, None]
        experts = state["experts"]
        if not experts.shape[1]:
            return own
        with torch.no_grad():
            others = classes.under(experts.flatten(0, 1)).unflatten(0, experts.shape[:2])
        return torch.cat((own, others), dim=1)

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor:
        return classes.under(shared["context"][None])

    def logits(self, images: torch.Tensor, text: torch.Tensor, state: State) -> torch.Tensor:
        plain = super().logits(images, text[..., 0, :, :], state)
        if text.shape[-3] == 1:  # no experts yet
            return plain
        settings, step = self.settings, images.shape[-1] // self.settings.gate_width
        gate, offset = state["gate"], state["offset"]

        def mapped(i: int, x: torch.Tensor) -> torch.Tensor:
            """The gate's i-th map of ``[..., n, D]``."""
            return x @ gate[..., i, :, :].mT + offset[..., i, None, :]

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (settings.heads, -1))

        seen, said = images[..., ::step], text[..., ::step]  # [..., B, D], [..., E, C, D]
        query = heads(mapped(0, seen))
        flat, shape = said.flatten(-3, -2), said.shape[-3:-1]
        key, value = (heads(mapped(i, flat).unflatten(-2, shape)) for i in (1, 2))
        weights = (settings.scaling * torch.einsum("...bhd,...echd->...bhce", query, key)).softmax(-1)
        mixed = torch.einsum("...bhce,...echd->...bchd", weights, value).flatten(-2)
        shape = mixed.shape[-3:-1]
        mixed = mapped(3, mixed.flatten(-3, -2)).unflatten(-2, shape)
        return settings.own_weight * plain + self.clip.scale * torch.einsum("...bd,...bcd->...bc", seen, mixed)
