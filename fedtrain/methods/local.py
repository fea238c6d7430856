"""Local: every client learns its own context, without communication."""

from __future__ import annotations

from typing import ClassVar

from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.inputs import Classes
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


class Local(PromptMethod[PromptSettings]):
    """CoOp (Zhou et al. 2022, arXiv 2109.01134) at each client alone: what a federation must beat to be worth it.

    There is no server: the context is personal and every round goes on where the client's last one ended, so R rounds
    of E epochs are R x E epochs in all. All clients start from the same draw.

    Deviations: the momentum starts anew each round, as it does in the federated methods it is compared with.
    """

    Settings = PromptSettings
    rounds: ClassVar[int] = 50
    has_personal: ClassVar[bool] = True

    def shared(self) -> State:
        """Nothing; there is no server."""
        return {}

    def personal(self, client: int) -> State:  # noqa: ARG002
        """The context, ``[m, d]``, and on multi-label data a bias or a negative context."""
        return {"context": self.drawn("context", self.settings.length, self.clip.width), **self.offset()}

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:  # noqa: ARG002
        """There is none."""
        return None
