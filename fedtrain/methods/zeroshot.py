"""Zero-shot CLIP: class names in fixed words, nothing trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedtrain.methods.base import State, Update
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.inputs import TEMPLATE, TRAIN, Classes, Template, check_template
from fedtrain.methods.prompts.judge import ClipMethod


@dataclass(frozen=True)
class ZeroShotSettings:
    """Settings of ``zeroshot``.

    Attributes:
        template: The words, with ``{}`` for the class name; several are averaged; ``recipe``: those that the dataset's
            recipe recommends.
        labels: ``coarse``, or ``fine`` where the dataset has finer labels.
    """

    template: Template = TEMPLATE
    labels: Literal["coarse", "fine"] = "coarse"

    def __post_init__(self) -> None:
        check_template("template", self.template)


class ZeroShot(ClipMethod[ZeroShotSettings]):
    """Zero-shot classification (Radford et al. 2021, arXiv 2103.00020, section 3.1): the start of every prompt method.

    Deviations: by default one template, where the authors average eighty on ImageNet.
    """

    Settings = ZeroShotSettings
    rounds: ClassVar[int] = 0

    def check_names(self, classes: Classes) -> None:
        """Checks class names in the template; see ``ClipMethod.check_names``."""
        classes.check(template=self.settings.template)

    def text(self, state: State, classes: Classes) -> torch.Tensor:  # noqa: ARG002
        """Text features of the class names in the template, ``[1, C, embed_dim]``."""
        return classes.fixed(self.settings.template)[None]

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:  # noqa: ARG002
        """As ``text``: what every client has beforehand."""
        return classes.fixed(self.settings.template)

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:  # noqa: ARG002
        """Nothing is trained and nothing sent; the loss is that of the client's rows, see ``LabelKind.loss``."""
        rows = self.images.rows(TRAIN)
        text = self.base.fixed(self.settings.template)
        for client in clients:
            mine = rows.of(client)
            logits = self.biased(self.logits(rows.images[mine], text, {}), {})
            yield Update(
                client, mine.stop - mine.start, {}, {}, float(self.labels.loss(logits, rows.labels[mine]).mean())
            )
