"""FedProx on contexts: clients are held near where the round began."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedrsic_data.settings import at_least
from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.cohort import Batch
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


@dataclass(frozen=True)
class FedProxSettings(PromptSettings):
    """Settings of ``fedprox``: those of ``PromptSettings``, and the pull.

    Attributes:
        mu: Weight of the proximal term; the paper tries 0.001, 0.01, 0.1 and 1. 0 is ``promptfl``.
    """

    mu: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("mu", self.mu, 0)


class FedProx(PromptMethod[FedProxSettings]):
    """FedProx (Li et al. 2020, arXiv 1812.06127, equation 2) on the context of PromptFL (arXiv 2208.11625).

    Clients minimise cross-entropy + mu / 2 |P - P_global|^2, P the context in training and P_global the one that the
    server sent.

    Deviations: the paper's inexactness (clients that make fewer steps) is left to the engine; mu is one of the paper's
    values, chosen by us.
    """

    Settings = FedProxSettings
    rounds: ClassVar[int] = 50

    def loss(self, live: State, batch: Batch, shared: State) -> torch.Tensor:
        """The loss of the labels and the proximal term over all that is sent, ``[K]``."""
        away = sum((live[name] - value).square().flatten(1).sum(1) for name, value in shared.items())
        return super().loss(live, batch, shared) + self.settings.mu / 2 * away
