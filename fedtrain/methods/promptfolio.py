"""PromptFolio: every client mixes the texts of a shared prompt and of its own prompt in fixed parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedrsic_data.errors import UsageError
from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.inputs import Classes
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


@dataclass(frozen=True)
class PromptFolioSettings(PromptSettings):
    """Settings of ``promptfolio``: those of ``PromptSettings`` with the values of the authors' code, and its own.

    Attributes:
        mix: Part of the client's own prompt in the mixture, theta in the paper, from 0 to 1. 0 is ``promptfl``, 1
            classifies with the own prompt alone.
        lr: Learning rate of SGD, the same in all rounds.
        batch: Images in a batch.
        epochs: Passes over a client's rows in a round.
    """

    mix: float = 0.4
    lr: float = 2e-3
    batch: int = 16
    epochs: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mix <= 1:
            raise UsageError(f"mix={self.mix} should be from 0 to 1")


class PromptFolio(PromptMethod[PromptFolioSettings]):
    """PromptFolio (Pan, Huang and Shi, NeurIPS 2024, arXiv 2409.19610).

    The global prompt G and the client's own prompt L are ``[m, d]`` each. With t^G_c and t^L_c the L2-normalised texts
    of class c under them, v the image, and theta = ``mix``::

        h_c = (1 - theta) t^G_c + theta t^L_c
        loss = CE(logit_scale <v, h>, y)

    h_c is not normalised again, so the logits are the same mixture of those of the two prompts. Gradients reach both.
    The server averages G by rows; L never leaves, and is trained on from round to round.

    From the authors' code: ``mix``, ``lr``, ``batch``, ``epochs``, rounds, and that G and L are different draws of
    N(0, std^2), the same at all clients.

    Deviations: 16 context vectors, as in the methods it is compared with, where the code has 8; a constant learning
    rate, where the code has a warm-up of an epoch and a cosine over the rest of the first round; float32, where it
    computes in float16. Multi-label data are ours: CE becomes ``label_loss``, whose bias or negative context is shared.
    """

    Settings = PromptFolioSettings
    rounds: ClassVar[int] = 10
    has_personal: ClassVar[bool] = True

    def shared(self) -> State:
        """The global prompt G, ``[m, d]``, and on multi-label data a bias or a negative context."""
        return {"global_prompt": self.drawn("global_prompt", self.settings.length, self.clip.width), **self.offset()}

    def personal(self, client: int) -> State:  # noqa: ARG002
        """The client's own prompt L, ``[m, d]``."""
        return {"local_prompt": self.drawn("local_prompt", self.settings.length, self.clip.width)}

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """The mixture h, whose norm is at most 1; both prompts pass the text encoder as one."""
        both = classes.under(torch.cat((state["global_prompt"], state["local_prompt"])))
        common, own = both.chunk(2)
        return torch.lerp(common, own, self.settings.mix)

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """Text features under G."""
        return classes.under(shared["global_prompt"][None])[0]
