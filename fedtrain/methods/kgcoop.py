"""KgCoOp, federated: learned texts are held near the texts of fixed words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedrsic_data.settings import at_least
from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.cohort import Batch
from fedtrain.methods.prompts.inputs import TEMPLATE, Classes, Template, check_template, cosine_loss
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


@dataclass(frozen=True)
class KgCoOpSettings(PromptSettings):
    """Settings of ``kgcoop``: those of ``PromptSettings``, and the anchor.

    Attributes:
        weight: Weight of the distance to the anchor, the paper's lambda.
        template: Words of the anchor, with ``{}`` for the class name; several are averaged; ``recipe``: those that the
            dataset's recipe recommends.
    """

    weight: float = 8.0
    template: Template = TEMPLATE

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("weight", self.weight, 0)
        check_template("template", self.template)


class KgCoOp(PromptMethod[KgCoOpSettings]):
    """KgCoOp (Yao et al. 2023, arXiv 2303.13283) with the averaging of PromptFL (arXiv 2208.11625).

    Clients minimise cross-entropy + weight x mean over classes of 1 - cos(g_c, a_c): g the texts under the context in
    training, a the texts in fixed words, which are encoded once.

    Deviations: federated, where the paper has one learner; by default one template for all datasets, where it has one
    for each (``template=recipe``); the context starts from random draws, as in the methods it is compared with, not
    from the words of the template.
    """

    Settings = KgCoOpSettings
    rounds: ClassVar[int] = 50

    def check_names(self, classes: Classes) -> None:
        """Checks class names under a context and in the template; see ``ClipMethod.check_names``."""
        classes.check(length=self.settings.length, template=self.settings.template)

    def loss(self, live: State, batch: Batch, shared: State) -> torch.Tensor:  # noqa: ARG002
        """The loss of the labels and the distance to the anchor, ``[K]``."""
        text = self.text(live, self.base)
        anchor = self.base.fixed(self.settings.template)
        return self.label_loss(batch, text, live) + self.settings.weight * cosine_loss(text, anchor)
