"""Fine-tuned: PromptFL, and before its evaluation every client takes its own steps from the shared context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedrsic_data.settings import at_least, positive
from fedtrain.methods.base import Context, State
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.cohort import Sgd
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings

_STACK = 16  # clients that are tuned as one graph where a device gains by it


@dataclass(frozen=True)
class FineTunedSettings(PromptSettings):
    """Settings of ``finetuned``: those of ``PromptSettings``, and of the steps before a client is judged.

    Attributes:
        tune_epochs: Passes over a client's training rows before it is judged; 0 is ``promptfl``.
        tune_lr: Learning rate of these; None: ``lr``.
    """

    tune_epochs: int = 5
    tune_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("tune_epochs", self.tune_epochs, 0)
        if self.tune_lr is not None:
            positive("tune_lr", self.tune_lr)


class FineTuned(PromptMethod[FineTunedSettings]):
    """Local adaptation of a shared model (Wang et al. 2019, arXiv 1910.10252), here PromptFL's (arXiv 2208.11625).

    Training is that of ``promptfl``. When the model is judged, every client begins at the shared context, trains it on
    its own rows for ``tune_epochs``, and classifies with it; then the result is thrown away, so no client has a state,
    and clients that were never drawn are judged like all others. A client without training rows has the shared
    context. The metric ``shared`` is that of ``promptfl``.

    Every evaluation trains every client; with many clients, set ``eval_every``. The number of epochs is our choice:
    the paper's depends on the data.
    """

    Settings = FineTunedSettings
    rounds: ClassVar[int] = 50

    def __init__(self, context: Context, settings: FineTunedSettings) -> None:
        super().__init__(context, settings)
        self._tuned: tuple[State, dict[int, State]] = {}, {}

    def judged(self, client: int, received: State, personal: State) -> State:  # noqa: ARG002
        """The tensors after the client's own steps, which are taken once for a state of the server."""
        if self._tuned[0] is not received:
            self._tuned = received, {}
        tuned = self._tuned[1]
        if client not in tuned:
            tuned |= self._tune(received, range(client, len(self.context.clients))[:_STACK])
        return tuned[client]

    def _tune(self, shared: State, clients: range) -> dict[int, State]:
        """The contexts of some clients after their own steps."""
        able = [client for client in clients if self.context.rows[client] and self.settings.tune_epochs]
        tuned: dict[int, State] = dict.fromkeys(clients, shared)
        with torch.enable_grad():
            for part, places in self.stacks(able):
                plans = [self.plan(client, self.settings.tune_epochs, "tuned") for client in able[part]]
                found = self.learned(shared, [{}] * len(plans), plans, self._optimiser, places)
                tuned |= {client: state for client, (state, _) in zip(able[part], found, strict=True)}
        return tuned

    def _optimiser(self, name: str) -> Sgd:
        rule, rate = self.optimiser(name), self.settings.tune_lr
        assert isinstance(rule, Sgd)
        return rule if rate is None else replace(rule, lr=rate)
