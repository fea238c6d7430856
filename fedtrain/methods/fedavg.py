"""FedAvg and FedProx of a plain network: ResNet-18 with a linear layer.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, arXiv
1602.05629; Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import at_least
from fedtrain.methods.base import Context, State
from fedtrain.methods.lazy import functional, nn, torch
from fedtrain.methods.networks.album import Pictures
from fedtrain.methods.networks.network import Loss, NetworkMethod, PictureSettings
from fedtrain.methods.networks.recorded import Recordable


@dataclass(frozen=True)
class FedAvgSettings(PictureSettings):
    """Settings of the baseline, trained like FedLGT.

    Attributes:
        loss: ``bce``, binary cross-entropy of each label; ``cross_entropy``, of the classes, for single-label data;
            ``auto``: what is usual for the data.
        mu: FedProx: mu / 2 times the squared distance to the server's parameters is added to the loss; 0 is FedAvg.
    """

    loss: Literal["auto", "bce", "cross_entropy"] = "auto"
    mu: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("mu", self.mu, 0)


class FedAvg(NetworkMethod[FedAvgSettings]):
    """FedAvg (arXiv 1602.05629), or FedProx (arXiv 1812.06127, equation 2): what FedLGT is compared with."""

    Settings = FedAvgSettings
    rounds: ClassVar[int] = 50
    clients_per_round: ClassVar[int] = 50
    recordable = True

    def __init__(self, context: Context, settings: FedAvgSettings) -> None:
        super().__init__(context, settings)
        if self.multi_label and settings.loss == "cross_entropy":
            raise UsageError(f"loss=cross_entropy: {context.subset.name} is multi-label; use loss=bce")
        self._one_class = not self.multi_label and settings.loss != "bce"

    def build(self) -> nn.Module:
        """ResNet-18 with a linear layer."""
        from fedtrain.models.label_transformer import LinearHead

        return LinearHead(len(self.names))

    def loss(self, client: int, pictures: Pictures, shared: State, round_: int) -> Loss:  # noqa: ARG002
        """The loss, summed over known labels and images, and the proximal term."""

        def given(rows: torch.Tensor, epoch: int) -> State:  # noqa: ARG001
            found = {} if pictures.unknown is None else {"known": ~pictures.unknown[rows]}
            return found | ({"start": shared["parameters"]} if self.settings.mu else {})

        return Recordable(given, self._loss)

    def _loss(self, images: torch.Tensor, targets: torch.Tensor, given: State) -> torch.Tensor:
        logits = self.module(images).float()
        if self._one_class:
            value = functional.cross_entropy(logits, targets.float(), reduction="sum")
        else:
            weight = given["known"].float() if "known" in given else None
            value = functional.binary_cross_entropy_with_logits(logits, targets.float(), weight, reduction="sum")
        if self.settings.mu:
            value = value + self.settings.mu / 2 * self._distance(given["start"])
        return value

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """As the loss takes logits: of the classes together, or of each label by itself."""
        return logits.softmax(1) if self._one_class else logits.sigmoid()

    def _distance(self, start: torch.Tensor) -> torch.Tensor:
        """Squared distance of the live parameters to the server's, with a gradient."""
        trained = [p.reshape(-1) for p in self.flat.trained]
        return (torch.cat(trained) - start).square().sum()
