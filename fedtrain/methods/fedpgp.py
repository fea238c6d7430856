"""FedPGP: a shared prompt under CLIP's guidance, and a personal low-rank offset from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import at_least, positive
from fedtrain.methods.base import State
from fedtrain.methods.lazy import functional, torch
from fedtrain.methods.prompts.cohort import Batch
from fedtrain.methods.prompts.inputs import TEMPLATE, Classes, Template, check_template
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


@dataclass(frozen=True)
class FedPGPSettings(PromptSettings):
    """Settings of ``fedpgp``: those of ``PromptSettings`` with the paper's values, and its own.

    Attributes:
        batch: Images in a batch; as many as shots.
        shots: Maximum training rows per class and client.
        rank: Rank of the personal offset, r; at most the number of context vectors.
        mu: Weight of the contrast.
        tau: Its temperature.
        anchor: Target of the shared prompt: ``template``, the texts in ``template``, or ``placeholder``, "X X ... X
            {class}." with an X for each context vector, as the authors' code has it.
        template: Words of the anchor, with ``{}`` for the class name; several are averaged; ``recipe``: those that the
            dataset's recipe recommends.
    """

    batch: int = 16
    shots: int | None = 16
    rank: int = 8
    mu: float = 0.5
    tau: float = 0.5
    anchor: Literal["template", "placeholder"] = "template"
    template: Template = TEMPLATE

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("rank", self.rank, 1)
        if self.rank > self.length:
            raise UsageError(f"rank={self.rank} should be at most length={self.length}")
        at_least("mu", self.mu, 0)
        positive("tau", self.tau)
        check_template("template", self.template)
        if self.anchor == "placeholder" and self.template != TEMPLATE:
            raise UsageError(f"template={self.template!r}: anchor=placeholder has its own words; leave one of them out")


class FedPGP(PromptMethod[FedPGPSettings]):
    """FedPGP (Cui et al., ICML 2024, arXiv 2405.09771).

    The shared prompt is sigma ``[m, d]``; client k adds a low-rank offset that never leaves it: p_k = sigma + U_k V_k.
    With a_c the text of the anchor of class c, g_c its text under sigma and l_c under p_k, all L2-normalised::

        loss = CE(logit_scale <image, l>, y) + mu mean_c softplus((cos(g_c, l_c) - cos(g_c, a_c)) / tau)

    which draws the shared prompt to CLIP's knowledge and the personal one away from it. Gradients reach sigma, U
    and V through all of it. The server averages sigma alone, by rows; every client classifies with p_k.

    Deviations: U and V are the same draw for every client and, as sigma, from N(0, std^2). The anchor of the paper's
    text is the default, that of the authors' code an option. Multi-label data are ours: CE becomes ``label_loss``,
    whose bias or negative context is shared, and the contrast stays as it is.
    """

    Settings = FedPGPSettings
    rounds: ClassVar[int] = 25
    has_personal: ClassVar[bool] = True

    def shared(self) -> State:
        """The prompt sigma, ``[m, d]``, and on multi-label data a bias or a negative context."""
        return {"sigma": self.drawn("sigma", self.settings.length, self.clip.width), **self.offset()}

    def personal(self, client: int) -> State:  # noqa: ARG002
        """A low-rank offset: U ``[m, r]`` and V ``[r, d]``."""
        settings = self.settings
        return {
            "u": self.drawn("u", settings.length, settings.rank),
            "v": self.drawn("v", settings.rank, self.clip.width),
        }

    def check_names(self, classes: Classes) -> None:
        """Checks class names under a context and in the anchor; see ``ClipMethod.check_names``."""
        classes.check(length=self.settings.length, template=self._anchor())

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features under p_k."""
        return classes.under(_own(state))

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """Text features under sigma."""
        return classes.under(shared["sigma"][None])[0]

    def loss(self, live: State, batch: Batch, shared: State) -> torch.Tensor:  # noqa: ARG002
        """The loss of the labels and the contrast, ``[K]``."""
        settings = self.settings
        both = self.base.under(torch.cat((live["sigma"], _own(live))))
        general, own = both.chunk(2)
        anchor = self.base.fixed(self._anchor())
        contrast = functional.softplus(((general * own).sum(-1) - (general * anchor).sum(-1)) / settings.tau).mean(-1)
        return self.label_loss(batch, own, live) + settings.mu * contrast

    def _anchor(self) -> Template:
        return self.settings.template if self.settings.anchor == "template" else "X " * self.settings.length + "{}."


def _own(state: State) -> torch.Tensor:
    """The personal prompt sigma + U V, ``[K, m, d]``."""
    return state["sigma"] + state["u"] @ state["v"]
