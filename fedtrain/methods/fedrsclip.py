"""FedRSCLIP: a shared and a private prompt, aligned with each other and with the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedrsic_data.settings import at_least
from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.cohort import Batch
from fedtrain.methods.prompts.inputs import Classes, cosine_loss
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


@dataclass(frozen=True)
class FedRSCLIPSettings(PromptSettings):
    """Settings of ``fedrsclip``: those of ``PromptSettings``, and its own. All but ``length`` are our assumptions.

    Attributes:
        length: Context vectors of each prompt, m: 4 of 512 are the 2,048 numbers that the paper sends.
        combine: Combination of the two prompts: ``mean`` of their logits; ``concat``, one prompt of 2 m vectors, shared
            ones first; ``add``, one prompt that is their sum.
        dpa: Distance of the dual prompt alignment: ``cosine``, mean over classes of 1 - cosine of the two texts;
            ``mse``, mean squared difference of their numbers; ``kl``, KL divergence from the class probabilities
            that the shared prompt gives a batch's images to those of the private one.
        dpa_weight: Its weight.
        cma: Loss of the cross-modal alignment, for each prompt by itself, then averaged: ``cosine``, 1 - cosine of an
            image and its class's text; ``infonce``, cross-entropy of an image among the texts of all classes, or of
            its known labels.
        cma_weight: Its weight.
    """

    length: int = 4
    combine: Literal["mean", "concat", "add"] = "mean"
    dpa: Literal["cosine", "mse", "kl"] = "cosine"
    dpa_weight: float = 0.5
    cma: Literal["cosine", "infonce"] = "cosine"
    cma_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("dpa_weight", self.dpa_weight, 0)
        at_least("cma_weight", self.cma_weight, 0)


class FedRSCLIP(PromptMethod[FedRSCLIPSettings]):
    """FedRSCLIP (arXiv 2501.02461, IEEE GRSM 2025), as far as it is public, the rest our assumptions.

    From the paper: CLIP is frozen; shared prompts are federated and private prompts stay; a Dual Prompt Alignment
    Constraint keeps the two coherent; a Cross-Modal Feature Alignment Constraint holds texts and images together; as
    few as 2,048 parameters are sent.

    Our assumptions, since we had no access to its equations: P_s and P_k are ``[m, d]`` each, from
    different draws of N(0, std^2) (from the same draw both would get the same gradient and stay equal); with t_s and
    t_p their L2-normalised texts and v the image::

        logits = logit_scale (<v, t_s> + <v, t_p>) / 2
        loss = CE + 0.5 mean_c (1 - cos(t_s_c, t_p_c)) + 0.5 mean_batch ((1 - cos(v, t_s_y)) + (1 - cos(v, t_p_y))) / 2

    and the optimiser, batch, epochs and rounds. The server averages P_s by rows; P_k never leaves. All clients start
    from the same P_k. Multi-label data are ours too: CE becomes ``label_loss``, whose bias or negative context is
    shared, and 1 - cos of an image is averaged over the labels that it has.
    """

    Settings = FedRSCLIPSettings
    rounds: ClassVar[int] = 50
    has_personal: ClassVar[bool] = True

    def shared(self) -> State:
        """The shared prompt P_s, ``[m, d]``, and on multi-label data a bias or a negative context."""
        return {"shared_prompt": self.drawn("shared_prompt", self.settings.length, self.clip.width), **self.offset()}

    def personal(self, client: int) -> State:  # noqa: ARG002
        """The private prompt P_k, ``[m, d]``."""
        return {"private_prompt": self.drawn("private_prompt", self.settings.length, self.clip.width)}

    def check_names(self, classes: Classes) -> None:
        """Checks class names under both contexts as they are joined; see ``ClipMethod.check_names``."""
        both = 1 if self.settings.combine in ("mean", "add") else 2
        classes.check(length=both * self.settings.length)

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features of both prompts combined; for ``mean``, they give its logits and are not normalised."""
        if self.settings.combine == "mean":
            return torch.stack(_texts(state, classes)).mean(0)
        return self._joint(state, classes)

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """Text features under P_s."""
        return classes.under(shared["shared_prompt"][None])[0]

    def loss(self, live: State, batch: Batch, shared: State) -> torch.Tensor:  # noqa: ARG002
        """The loss of the labels and the two alignments, ``[K]``."""
        settings = self.settings
        common, private = _texts(live, self.base)
        both = (common + private) / 2 if settings.combine == "mean" else self._joint(live, self.base)
        loss = self.label_loss(batch, both, live)
        loss = loss + settings.dpa_weight * self._dual_prompt(batch, live, common, private)
        return loss + settings.cma_weight * self._cross_modal(batch, common, private)

    def _joint(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features under the one prompt that both make."""
        common, private = state["shared_prompt"], state["private_prompt"]
        if self.settings.combine == "add":
            return classes.under(common + private)
        return classes.under(torch.cat((common, private), dim=1))

    def _dual_prompt(self, batch: Batch, live: State, common: torch.Tensor, private: torch.Tensor) -> torch.Tensor:
        """Distance of the two prompts' texts ``[K, C, embed_dim]``: ``[K]``."""
        if self.settings.dpa == "cosine":
            return cosine_loss(common, private)
        if self.settings.dpa == "mse":
            return (common - private).square().mean((1, 2))
        left, right = (self.biased(self.logits(batch.images, text, {}), live) for text in (common, private))
        return batch.mean(self.labels.divergence(left, right))

    def _cross_modal(self, batch: Batch, common: torch.Tensor, private: torch.Tensor) -> torch.Tensor:
        """Distance of the images from the texts of their labels, ``[K]``; the mean of both prompts' own."""
        if self.settings.cma == "infonce":
            logits = (self.logits(batch.images, text, {}) for text in (common, private))
            left, right = (self.labels.among(each, batch.labels) for each in logits)
            return -batch.mean(left + right) / 2
        similarity = batch.images @ ((common + private) / 2).mT  # cosines are linear in the text
        return batch.mean(self.labels.own(1 - similarity, batch.labels))


def _texts(state: State, classes: Classes) -> tuple[torch.Tensor, torch.Tensor]:
    """Text features under P_s and under P_k, ``[K, C, embed_dim]`` each, in one pass."""
    common, private = classes.under(torch.cat((state["shared_prompt"], state["private_prompt"]))).chunk(2)
    return common, private
