"""Methods that learn context vectors: their common settings, and their text features.

A method that trains contexts says what is shared and what is personal, how states become text features, and what its
loss is; the rest is here and in ``fedtrain.methods.prompts.training``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import at_least, positive
from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.cohort import Optimiser, Sgd
from fedtrain.methods.prompts.inputs import Classes
from fedtrain.methods.prompts.training import TrainedMethod, TrainingSettings
from fedtrain.seeds import generator


@dataclass(frozen=True)
class PromptSettings(TrainingSettings):
    """Settings of every method that learns context vectors: those of ``TrainingSettings``, and these.

    Attributes:
        length: Context vectors, m.
        std: Standard deviation of the normal distribution they are drawn from.
        momentum: Momentum of SGD; starts from zero at every client in every round.
        score: Multi-label: ``sigmoid``, of scaled cosine and a learned bias; ``pair``, the softmax of the logits under
            the context and under a negative one, which is learned like the bias and takes a second text pass.
    """

    length: int = 16
    std: float = 0.02
    momentum: float = 0.9
    score: Literal["sigmoid", "pair"] = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("length", self.length, 1)
        positive("std", self.std)
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum={self.momentum} should be from 0 to below 1")


P = TypeVar("P", bound=PromptSettings)


class PromptMethod(TrainedMethod[P]):
    """A method that learns context vectors; see ``fedtrain.methods.base.Method``.

    A subclass gives at least one of ``shared`` and ``personal``, whose names must differ, ``text`` and ``shared_text``
    to match, and ``loss``. As it is, the one context ``context`` is shared and is what every client classifies with.

    Example:
        PromptFL with a penalty on long context vectors::

            class Short(PromptMethod[PromptSettings]):
                Settings = PromptSettings
                rounds = 50

                def loss(self, live, batch, shared):
                    return super().loss(live, batch, shared) + 0.1 * live["context"].square().sum((1, 2))
    """

    def check_names(self, classes: Classes) -> None:
        """Checks class names under a context; see ``ClipMethod.check_names``."""
        classes.check(length=self.settings.length)

    def shared(self) -> State:
        """The context, ``[m, d]``, and on multi-label data a bias or a negative context."""
        return {"context": self.drawn("context", self.settings.length, self.clip.width), **self.offset()}

    def offset(self) -> State:
        """As ``TrainedMethod.offset``; with ``score=pair`` the context ``negative``, ``[m, d]``, in place of a bias."""
        if self.labels.multi_label and self.settings.score == "pair":
            return {"negative": self.drawn("negative", self.settings.length, self.clip.width)}
        return super().offset()

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features under the context."""
        return classes.under(state["context"])

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """Text features under the shared context."""
        return classes.under(shared["context"][None])[0]

    def optimiser(self, name: str) -> Optimiser:
        """Optimiser of a tensor; by default the settings apply to all tensors, and a bias does not decay."""
        return Sgd(self.settings.lr, self.settings.momentum, 0.0 if name == "bias" else self.settings.weight_decay)

    def drawn(self, purpose: str, rows: int, width: int) -> torch.Tensor:
        """Starting values from N(0, std^2), float32 ``[rows, width]``: the same at all clients."""
        from fedtrain.models.prompts import initial_context

        draws = generator(self.context.seed, "initial", purpose)
        return initial_context(rows, width, draws, self.settings.std).to(self.context.device)
