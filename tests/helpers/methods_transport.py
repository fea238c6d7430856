"""FedOTP as an example of a method in one file: classes by optimal transport over the patches of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from fedtrain.methods.base import State
from fedtrain.methods.prompts.inputs import Classes
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


@dataclass(frozen=True)
class TransportSettings(PromptSettings):
    """Settings of FedOTP.

    Attributes:
        eps: Weight of the entropy.
        mass: How much of the patches is transported, above 0 to 1.
        iterations: Of Sinkhorn's algorithm.
    """

    length: int = 4
    eps: float = 0.1
    mass: float = 0.8
    iterations: int = 20


class Transport(PromptMethod[TransportSettings]):
    """FedOTP (Li et al., CVPR 2024, arXiv 2403.00041): a shared prompt and a personal one share the patches.

    The logit of a class is the transported similarity of the image's patches and the class's two texts. The plan gives
    each prompt an equal part of ``mass`` and takes at most 1 / patches of each patch.

    Deviations: a fixed number of iterations in the log domain, so that an image's logits do not depend on its batch.
    """

    Settings = TransportSettings
    rounds: ClassVar[int] = 10
    has_personal: ClassVar[bool] = True
    features: ClassVar[Literal["global", "patches"]] = "patches"

    def shared(self) -> State:
        return {"general": self.drawn("general", self.settings.length, self.clip.width)}

    def personal(self, client: int) -> State:
        return {"own": self.drawn("own", self.settings.length, self.clip.width)}

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features ``[K, 2, C, embed_dim]``."""
        return torch.stack((classes.under(state["general"]), classes.under(state["own"])), dim=1)

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor:
        return classes.under(shared["general"][None])

    def logits(self, images: torch.Tensor, text: torch.Tensor, state: State) -> torch.Tensor:
        similarity = torch.einsum("...bme,...nce->...bcmn", images[..., 1:, :], text)
        settings = self.settings
        plan = transport(similarity.detach(), settings.eps, settings.mass, settings.iterations)
        return self.clip.scale * (plan * similarity).sum((-1, -2))


def transport(similarity: torch.Tensor, eps: float, mass: float, iterations: int) -> torch.Tensor:
    """The plan ``[..., M, N]`` that moves ``mass`` at cost 1 - similarity: at most 1 / M a row, mass / N a column."""
    rows, columns = similarity.shape[-2:]
    kernel = (similarity - 1) / eps
    q = torch.zeros_like(kernel[..., :1, :])
    for _ in range(iterations):
        p = (-math.log(rows) - (kernel + q).logsumexp(-1, keepdim=True)).clamp(max=0)
        q = math.log(mass / columns) - (kernel + p).logsumexp(-2, keepdim=True)
    return (p + kernel + q).exp()
