"""The kind of a federation's labels, as the loss of logits and the metrics of answers; all else is the same code.

Labels of N images are int64 ``[N]`` (single-label: the class) or int8 ``[N, C]`` (multi-label: 1 the image has it, 0
it has not, -1 unknown). The tensors of several clients or images stand in front of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from fedtrain.methods import multilabel
from fedtrain.methods.lazy import functional, torch
from fedtrain.metrics import accuracy


class LabelKind(Protocol):
    """The loss and the metrics that a kind of labels has.

    Attributes:
        multi_label: Whether an image may have several labels.
    """

    multi_label: ClassVar[bool]

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of each image: logits ``[..., B, C]`` and its labels to ``[..., B]``."""
        ...

    def own(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean of values ``[..., B, C]`` over the labels that an image has, ``[..., B]``; 0 where it has none."""
        ...

    def among(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """``own`` of the log-probabilities that logits ``[..., B, C]`` give by a softmax over known labels."""
        ...

    def divergence(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """KL divergence from the probabilities of logits ``left [..., B, C]`` to those of ``right``: ``[..., B]``."""
        ...

    def few_shot(self, labels: torch.Tensor, shots: int, generator: torch.Generator) -> torch.Tensor:
        """Rows of at most ``shots`` images of each label, drawn at random: rising places int64 in ``labels``."""
        ...

    def answers(self, logits: torch.Tensor) -> torch.Tensor:
        """The answers that metrics need of logits ``[N, C]``: the class int64 ``[N]``, or probabilities ``[N, C]``."""
        ...

    def measure(self, answers: torch.Tensor, labels: torch.Tensor) -> float:
        """The metric of images in percent: accuracy, or the mean average precision; NaN without any."""
        ...

    def of_clients(self, answers: torch.Tensor, labels: torch.Tensor, owner: torch.Tensor, count: int) -> list[float]:
        """``measure`` of each of ``count`` clients on its own images; ``owner`` int64 ``[N]``."""
        ...

    def metrics(self, answers: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """The metrics of images by name; the name of the only one is empty."""
        ...


def of_others(kind: LabelKind, answers: torch.Tensor, labels: torch.Tensor, owner: torch.Tensor, client: int) -> float:
    """``measure`` of a client's answers to the images of all others; ``owner`` int64 ``[N]``."""
    others = owner != client
    return kind.measure(answers[others], labels[others])


@dataclass(frozen=True)
class SingleLabel:
    """One class an image: cross-entropy and accuracy."""

    multi_label: ClassVar[bool] = False

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy."""
        losses = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
        return losses.view_as(labels)

    def own(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The value of the image's class."""
        return values.gather(-1, labels[..., None])[..., 0]

    def among(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """That of the image's class among all classes."""
        return self.own(functional.log_softmax(logits, -1), labels)

    def divergence(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Between the class probabilities."""
        left, right = functional.log_softmax(left, dim=-1), functional.log_softmax(right, dim=-1)
        return (left.exp() * (left - right)).sum(-1)

    def few_shot(self, labels: torch.Tensor, shots: int, generator: torch.Generator) -> torch.Tensor:
        """At most ``shots`` rows of each class, each as likely as any other."""
        shuffled = torch.randperm(len(labels), generator=generator)
        by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
        ordered = labels[by_class]
        rank = torch.arange(len(labels)) - torch.searchsorted(ordered, ordered)
        return by_class[rank < shots].sort().values

    def answers(self, logits: torch.Tensor) -> torch.Tensor:
        """The class of the largest logit."""
        return logits.argmax(-1)

    def measure(self, answers: torch.Tensor, labels: torch.Tensor) -> float:
        """Accuracy."""
        return accuracy(int((answers == labels).sum()), len(labels))

    def of_clients(self, answers: torch.Tensor, labels: torch.Tensor, owner: torch.Tensor, count: int) -> list[float]:
        """Accuracy of each client."""
        rows = torch.bincount(owner, minlength=count).tolist()
        hits = torch.bincount(owner[answers == labels], minlength=count).tolist()
        return [accuracy(*pair) for pair in zip(hits, rows, strict=True)]

    def metrics(self, answers: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """Accuracy."""
        return {"": self.measure(answers, labels)}


@dataclass(frozen=True)
class MultiLabel:
    """Any number of labels an image, each a decision by itself; unknown ones enter neither a loss nor a mean.

    Attributes:
        objective: ``asl``, the asymmetric loss (Ben-Baruch et al., ICCV 2021, arXiv 2009.14119), or ``bce``, binary
            cross-entropy; summed over labels.
        gamma_neg: Asymmetric loss: focus of labels that an image has not.
        gamma_pos: Asymmetric loss: focus of labels that it has.
        shift: Probability below which a label that an image has not costs nothing.
    """

    objective: Literal["asl", "bce"] = "asl"
    gamma_neg: float = 2.0
    gamma_pos: float = 1.0
    shift: float = 0.05
    multi_label: ClassVar[bool] = True

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The objective, summed over known labels.

        As in DualCoOp (Sun et al., NeurIPS 2022, arXiv 2206.09541), no gradient passes through the focus. Deviation:
        logarithms are not cut off at a smallest probability, so a label of an image keeps its gradient however small
        its probability is.
        """
        positive = labels == 1
        if self.objective == "bce":
            each = functional.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none")
        else:
            p = logits.sigmoid()
            absent = (1 - p + self.shift).clamp(max=1)
            with torch.no_grad():
                focus = torch.where(positive, (1 - p) ** self.gamma_pos, (1 - absent) ** self.gamma_neg)
            rest = absent.log() if self.shift else functional.logsigmoid(-logits)  # 1 - p can round to 0
            each = -focus * torch.where(positive, functional.logsigmoid(logits), rest)
        return torch.where(labels >= 0, each, 0.0).sum(-1)

    def own(self, values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over the labels that are known to be there."""
        positive = labels == 1
        return torch.where(positive, values, 0.0).sum(-1) / positive.sum(-1).clamp(min=1)

    def among(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean over the labels that are known to be there; 0 where there is none."""
        return self.own(functional.log_softmax(logits.masked_fill(labels < 0, -torch.inf), -1), labels)

    def divergence(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Between the probabilities of each label, summed over labels."""
        there = left.sigmoid() * (functional.logsigmoid(left) - functional.logsigmoid(right))
        absent = (-left).sigmoid() * (functional.logsigmoid(-left) - functional.logsigmoid(-right))
        return (there + absent).sum(-1)

    def few_shot(self, labels: torch.Tensor, shots: int, generator: torch.Generator) -> torch.Tensor:
        """Rows in random order, each taken if one of its labels has fewer than ``shots`` rows so far.

        Rows without a label count as rows of one more label. Our choice: so a rare label has its shots, and a frequent
        one may have more, from images that also show a rare one.
        """
        positive = (labels == 1).int()
        held = torch.cat((positive, 1 - positive.amax(1, keepdim=True)), 1).bool()
        counts = torch.zeros(held.shape[1], dtype=torch.long)
        taken = []
        for row in torch.randperm(len(labels), generator=generator).tolist():
            if bool((counts[held[row]] < shots).any()):
                counts += held[row]
                taken.append(row)
        return torch.tensor(sorted(taken), dtype=torch.long)

    def answers(self, logits: torch.Tensor) -> torch.Tensor:
        """The probability of each label."""
        return logits.sigmoid()

    def measure(self, answers: torch.Tensor, labels: torch.Tensor) -> float:
        """Mean average precision over the labels that some image has."""
        return 100 * float(multilabel.average_precision(answers, labels == 1).nanmean())

    def of_clients(self, answers: torch.Tensor, labels: torch.Tensor, owner: torch.Tensor, count: int) -> list[float]:
        """Mean average precision of each client, over the labels that its images have."""
        found: list[float] = multilabel.own_average_precision(answers, labels == 1, owner, count).tolist()
        return found

    def metrics(self, answers: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """Those of ``fedtrain.methods.multilabel.figures``."""
        return multilabel.figures(answers, labels == 1, top=3)
