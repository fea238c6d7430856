"""Linear probe, federated: a linear classifier of the image features of a frozen CLIP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedrsic_data.errors import UsageError
from fedtrain.methods.base import Context, State
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.cohort import Optimiser, Sgd
from fedtrain.methods.prompts.inputs import TEMPLATE, Classes, Template, check_template
from fedtrain.methods.prompts.training import TrainedMethod, TrainingSettings


@dataclass(frozen=True)
class LinearProbeSettings(TrainingSettings):
    """Settings of ``linear-probe``: those of ``TrainingSettings``, and its own.

    Attributes:
        init: Start of the classifier: ``zero``; or ``text``, the text features of the class names x CLIP's
            logit_scale, so that the model of round 0 is zero-shot CLIP.
        personal: Part that stays at each client: ``none``; ``head``, the classifier, behind a shared linear map of the
            features, as in FedPer; ``all``, a probe of each client alone.
        template: Words of ``init=text``, with ``{}`` for the class name; several are averaged; ``recipe``: those that
            the dataset's recipe recommends.
        lr: Learning rate of SGD, the same in all rounds. Features have norm 1, so the curvature of the cross-entropy in
            W and b is at most 1, and rates below 2 do not diverge.
        momentum: Momentum of SGD; starts from zero at every client in every round.
        weight_decay: Weight decay of SGD; the biases do not decay.
    """

    init: Literal["zero", "text"] = "zero"
    personal: Literal["none", "head", "all"] = "none"
    template: Template = TEMPLATE
    lr: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template("template", self.template)
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum={self.momentum} should be from 0 to below 1")


class LinearProbe(TrainedMethod[LinearProbeSettings]):
    """Linear probe of CLIP (Radford et al. 2021, arXiv 2103.00020), averaged by FedAvg (arXiv 1602.05629).

    With v the L2-normalised image feature, clients minimise the cross-entropy of the logits W v + b, and the server
    averages W and b by rows: C x (d + 1) numbers. With ``personal=head``, the logits are W A v + b; the server averages
    A ``[d, d]`` alone, which starts as the identity, and W and b stay at the client: FedPer (Arivazhagan et al. 2019,
    arXiv 1912.00818) with one layer in the place of its base, since CLIP is frozen.

    Our choices: all settings. CLIP's authors fit one probe by L-BFGS, with an L2 penalty chosen on validation rows. On
    multi-label data, where the loss is ``label_loss``, b starts where a label has probability 1 / C: for ``text`` as in
    prompt methods, see ``ClipMethod.first_bias``.
    """

    Settings = LinearProbeSettings
    rounds: ClassVar[int] = 50
    has_personal: ClassVar[bool] = True

    def __init__(self, context: Context, settings: LinearProbeSettings) -> None:
        """Binds the method; see ``Method``.

        Raises:
            UsageError: There are novel classes.
        """
        if context.subset.entry.novel:
            raise UsageError(
                "base_to_novel: a probe has outputs for the classes it was trained on; use a prompt method"
            )
        super().__init__(context, settings)

    def check_names(self, classes: Classes) -> None:
        """Checks class names in the template; see ``ClipMethod.check_names``."""
        if self.settings.init == "text":
            classes.check(template=self.settings.template)

    def shared(self) -> State:
        """W ``[C, d]`` and b ``[C]``; with ``personal=head`` the map A, ``[d, d]``."""
        if self.settings.personal == "head":
            return {"map": torch.eye(self.clip.embed_dim, device=self.context.device)}
        return self._classifier() if self.settings.personal == "none" else {}

    def personal(self, client: int) -> State:  # noqa: ARG002
        """W and b with ``personal=head`` or ``all``."""
        return {} if self.settings.personal == "none" else self._classifier()

    @property
    def all_classify_the_same(self) -> bool:
        """Whether W and b are shared."""
        return self.settings.personal == "none"

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """The rows of W and of b for the classes, side by side in the place of text features: ``[K, C, d + 1]``."""
        rows = torch.cat((state["weight"], state["bias"][..., None]), dim=-1)
        return rows[..., list(classes.places), :]

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """As ``text``, where W and b are shared."""
        return self.text(shared, classes) if "weight" in shared else None

    def logits(self, images: torch.Tensor, text: torch.Tensor, state: State) -> torch.Tensor:
        """W A v + b; see ``ClipMethod.logits``."""
        if "map" in state:
            images = images @ state["map"].mT
        return images @ text[..., :-1].mT + text[..., None, :, -1]

    def biased(self, logits: torch.Tensor, state: State) -> torch.Tensor:  # noqa: ARG002
        """Logits as they are: b is in them."""
        return logits

    def optimiser(self, name: str) -> Optimiser:
        """SGD by the settings; b does not decay."""
        return Sgd(self.settings.lr, self.settings.momentum, 0.0 if name == "bias" else self.settings.weight_decay)

    def _classifier(self) -> State:
        """W and b before training."""
        count, device = len(self.base), self.context.device
        weight = torch.zeros(count, self.clip.embed_dim, device=device)
        bias = torch.zeros(count, device=device)
        if self.labels.multi_label:
            bias -= math.log(count - 1)
        if self.settings.init == "text":
            weight = self.clip.scale * self.base.fixed(self.settings.template)
            bias = self.first_bias().expand(count).clone() if self.labels.multi_label else bias
        return {"weight": weight, "bias": bias}
