"""FedCLIP: one small adapter of the image features is trained and averaged; the texts are fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedrsic_data.errors import UsageError
from fedtrain.methods.base import State
from fedtrain.methods.labels import LabelKind
from fedtrain.methods.lazy import functional, torch
from fedtrain.methods.prompts.cohort import Adam, Batch, Optimiser, Sgd
from fedtrain.methods.prompts.features import FeatureKind
from fedtrain.methods.prompts.inputs import Classes, Template, check_template
from fedtrain.methods.prompts.training import TrainedMethod, TrainingSettings
from fedtrain.seeds import generator


@dataclass(frozen=True)
class FedCLIPSettings(TrainingSettings):
    """Settings of ``fedclip``: those of ``TrainingSettings`` with the values of the authors' code, and its own.

    Attributes:
        objective: ``classes``, cross-entropy over the texts of all classes, or multi-label ``loss``; or ``batch``, the
            contrast of a batch's images with the texts of the same images, as the authors train.
        template: Words of the texts, with ``{}`` for the class name; several are averaged; ``recipe``: those that the
            dataset's recipe recommends.
        lr: Learning rate of Adam, the same in all rounds.
        weight_decay: Weight decay of Adam, added to the gradient.
        epochs: Passes over a client's rows in a round.
    """

    objective: Literal["classes", "batch"] = "classes"
    template: Template = "a picture of a {}"
    lr: float = 5e-5
    weight_decay: float = 0.2
    epochs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template("template", self.template)


class FedCLIP(TrainedMethod[FedCLIPSettings]):
    """FedCLIP (Lu, Hu, Wang and Xie, IEEE Data Engineering Bulletin 2023, arXiv 2302.13485).

    An adapter re-weights the d channels of the image feature x as the encoder gives it, before it gets norm 1::

        a(x) = softmax(W_2 tanh(W_1 x + b_1) + b_2)
        v = a(x) * x / |a(x) * x|

    W_1 and W_2 are ``[d, d]``; the logits are logit_scale <v, t_c>, with t_c the text of class c. At its start a(x) is
    almost the same in all channels, so v is almost CLIP's own. With ``objective=batch``, N images x_i of classes y_i::

        loss = mean_i (CE(logit_scale <v_i, t_y_j> over j, i) + CE(logit_scale <v_j, t_y_i> over j, i)) / 2

    Images of one class have the same text and are still each other's negatives there, so a batch with n images of each
    class cannot cost less than log n; the default ``objective=classes`` has no such floor.

    From the authors' code: the adapter and its start, uniform in +-1/sqrt(d), the words of the texts, Adam with
    beta_1 0.9, beta_2 0.98, eps 1e-6, its learning rate and weight decay, and an optimiser that starts anew in every
    round, one epoch a round, rounds. They weigh all clients the same: ``weighting=equal`` of a run.

    Deviations: ``objective``; underscores in class names are read as spaces; a batch of one image costs nothing with
    ``objective=batch``, so that only the weight decay moves the adapter, where the authors skip the step. Multi-label
    data are ours: ``objective=classes`` becomes ``label_loss`` with a shared bias, trained by SGD with learning rate
    1e-3 and momentum 0.9 as in prompt methods, since Adam's rate is too small for it.
    """

    Settings = FedCLIPSettings
    rounds: ClassVar[int] = 200
    features: ClassVar[FeatureKind] = "raw"

    def check_names(self, classes: Classes) -> None:
        """Checks class names in the template; see ``ClipMethod.check_names``."""
        classes.check(template=self.settings.template)

    def kind_of_labels(self) -> LabelKind:
        """The kind of the federation's labels; see ``TrainedMethod.kind_of_labels``.

        Raises:
            UsageError: ``objective=batch``, and images have several labels.
        """
        subset = self.context.subset
        if self.settings.objective == "batch" and subset.entry.multi_label:
            raise UsageError(f"objective=batch: an image has one text, {subset.name} is multi-label; use classes")
        return super().kind_of_labels()

    def shared(self) -> State:
        """The adapter: two linear layers with weights ``[d, d]``, and on multi-label data a bias."""
        d = self.clip.embed_dim
        shapes = {"inner.weight": (d, d), "inner.bias": (d,), "outer.weight": (d, d), "outer.bias": (d,)}
        return {name: self._uniform(name, shape) for name, shape in shapes.items()} | self.offset()

    def text(self, state: State, classes: Classes) -> torch.Tensor:  # noqa: ARG002
        """Text features of the class names in the template, the same for all clients."""
        return classes.fixed(self.settings.template)[None]

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:  # noqa: ARG002
        """As ``text``; the adapter is in ``logits``."""
        return classes.fixed(self.settings.template)

    def logits(self, images: torch.Tensor, text: torch.Tensor, state: State) -> torch.Tensor:
        """Logits of adapted images; see ``ClipMethod.logits``."""
        hidden = torch.tanh(images @ state["inner.weight"].mT + state["inner.bias"][..., None, :])
        weights = (hidden @ state["outer.weight"].mT + state["outer.bias"][..., None, :]).softmax(-1)
        return super().logits(functional.normalize(weights * images, dim=-1), text, state)

    def loss(self, live: State, batch: Batch, shared: State) -> torch.Tensor:
        """The loss of the labels, or the contrast within the batch, ``[K]``."""
        if self.settings.objective == "classes":
            return super().loss(live, batch, shared)
        logits = self.logits(batch.images, self.text(live, self.base), live)
        # [K, B, B]: row i is an image, column j the text of another
        pairs = logits.gather(-1, batch.labels[:, None].expand(-1, logits.shape[1], -1))
        empty, own = batch.weight == 0, pairs.diagonal(dim1=-2, dim2=-1)
        among_texts = pairs.masked_fill(empty[:, None], -torch.inf).logsumexp(-1) - own
        among_images = pairs.masked_fill(empty[..., None], -torch.inf).logsumexp(-2) - own
        return batch.mean((among_texts + among_images) / 2)

    def optimiser(self, name: str) -> Optimiser:
        """Adam for the adapter, SGD for the bias."""
        if name == "bias":
            return Sgd(lr=1e-3, momentum=0.9, weight_decay=0.0)
        return Adam(self.settings.lr, self.settings.weight_decay, beta1=0.9, beta2=0.98, eps=1e-6)

    def _uniform(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Starting values of a linear layer of ``shape[-1]`` inputs, uniform in +-1/sqrt(inputs)."""
        draws = generator(self.context.seed, "initial", name)
        bound = 1 / math.sqrt(shape[-1])
        return torch.empty(shape).uniform_(-bound, bound, generator=draws).to(self.context.device)
