"""PromptFL: federated averaging of learned contexts."""

from __future__ import annotations

from typing import ClassVar

from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


class PromptFL(PromptMethod[PromptSettings]):
    """PromptFL (Guo et al. 2022, arXiv 2208.11625): one CoOp context (Zhou et al. 2022, arXiv 2109.01134), averaged.

    Clients minimise the cross-entropy under the context, and the server averages what they send by their rows. Nothing
    is personal.

    Deviations: optimiser, batch, epochs and rounds are those this package gives all prompt methods, so that tables
    compare losses and not schedules.
    """

    Settings = PromptSettings
    rounds: ClassVar[int] = 50
