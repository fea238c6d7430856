"""FedAvg and FedProx of a plain network on label sets: ResNet-18 with a linear layer, binary cross-entropy.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, arXiv
1602.05629; Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from fedrsic_data.settings import at_least
from fedtrain.methods.base import Context, Evaluation, State, Update
from fedtrain.methods.networks.network import Loss, Network, PictureSettings, label_space, one_by_one
from fedtrain.models.label_transformer import LinearHead


@dataclass(frozen=True)
class FedAvgSettings(PictureSettings):
    """How the baseline is trained: as FedLGT is.

    Attributes:
        mu: FedProx: mu / 2 times the squared distance to the server's parameters is added to the loss; 0 is FedAvg.
    """

    mu: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("mu", self.mu, 0)


class FedAvg:
    """FedAvg (arXiv 1602.05629), or FedProx (arXiv 1812.06127, equation 2): what FedLGT is compared with."""

    Settings = FedAvgSettings
    multi_label: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("backbone_weights",)
    rounds: ClassVar[int] = 50
    clients_per_round: ClassVar[int] = 50

    def __init__(self, context: Context, settings: FedAvgSettings) -> None:
        names, _ = label_space(context, settings.labels)
        self.settings = settings
        self.network = Network(context, settings, lambda: LinearHead(len(names)))

    def shared(self) -> State:
        """See ``Method.shared``."""
        return self.network.flat.state()

    def personal(self, client: int) -> State:  # noqa: ARG002 - nothing is personal
        """See ``Method.personal``."""
        return {}

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:  # noqa: ARG002
        """See ``Method.train``."""
        return one_by_one(self.network, shared, clients, round_, lambda _c, _p: self._loss(shared))

    def evaluate(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:  # noqa: ARG002
        """See ``Method.evaluate``."""
        return self.network.evaluate(shared, split)

    def scores(self, shared: State, split: str) -> State:
        """See ``Ranked.scores``."""
        return self.network.scores(shared, split)

    def figures(self, scores: State) -> Evaluation:
        """See ``Ranked.figures``."""
        return self.network.figures(scores)

    def _loss(self, shared: State) -> Loss:
        def loss(images: torch.Tensor, targets: torch.Tensor, rows: torch.Tensor, epoch: int) -> torch.Tensor:  # noqa: ARG001
            logits = self.network.module(images).float()
            value = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="sum")
            if self.settings.mu:
                value = value + self.settings.mu / 2 * self._distance(shared["parameters"])
            return value

        return loss

    def _distance(self, start: torch.Tensor) -> torch.Tensor:
        """Squared distance of the live parameters to the server's, with a gradient."""
        trained = [p.reshape(-1) for p in self.network.flat.trained]
        return (torch.cat(trained) - start).square().sum()
