"""Local training on features of a frozen CLIP: the settings of every method that trains so, and a round of it.

A method says what is shared and what is personal, how states become classifiers, what its loss is and which optimiser
trains which tensor; the rest is here.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import ClassVar, Literal, Self, TypeVar

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import at_least, positive
from fedtrain import trace
from fedtrain.methods.base import Context, State, Update
from fedtrain.methods.labels import LabelKind, MultiLabel, SingleLabel
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.cohort import Batch, Optimiser, Steps, descend, gather, schedule
from fedtrain.methods.prompts.inputs import TRAIN
from fedtrain.methods.prompts.judge import ClipMethod, stacked
from fedtrain.seeds import generator

_ASYMMETRIC = ("gamma_neg", "gamma_pos", "shift")
_MULTI_LABEL = ("score", "loss", *_ASYMMETRIC)


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of every method that trains on features of a frozen CLIP.

    Attributes:
        lr: Learning rate, the same in all rounds.
        weight_decay: Weight decay of the optimiser.
        batch: Images in a batch; the last one of an epoch has what is left.
        epochs: Passes over a client's rows in a round.
        views: Random views of each training image: crops of 8% to 100% of its area, mirrored half of the time, see
            ``fedtrain.models.views``. They are drawn with the run's seed, encoded once and cached, views x the CLIP's
            embed_dim x 4 bytes an image, and each step draws one. 1: no augmentation; training images are seen as in
            evaluation.
        shots: Maximum training rows per class and client, drawn once for the run; None: all of them. Multi-label:
            see ``fedtrain.methods.labels.MultiLabel.few_shot``.
        labels: ``coarse``, or ``fine`` where the dataset has finer labels.
        loss_over: Classes that a client's loss is over: ``all`` of the run, or its ``own``, those of the rows that it
            trains on. Multi-label data: always all, since an absent label teaches too.
        loss: Multi-label: ``asl``, the asymmetric loss, or ``bce``, binary cross-entropy.
        gamma_neg: Asymmetric loss: focus of labels that an image has not.
        gamma_pos: Asymmetric loss: focus of labels that it has.
        shift: Probability below which a label that an image has not costs nothing.
    """

    lr: float = 1e-3
    weight_decay: float = 5e-4
    batch: int = 32
    epochs: int = 2
    views: int = 1
    shots: int | None = None
    labels: Literal["coarse", "fine"] = "coarse"
    loss_over: Literal["all", "own"] = "all"
    loss: Literal["asl", "bce"] = "asl"
    gamma_neg: float = 2.0
    gamma_pos: float = 1.0
    shift: float = 0.05

    def __post_init__(self) -> None:
        for name in ("batch", "epochs", "views"):
            at_least(name, getattr(self, name), 1)
        positive("lr", self.lr)
        for name in ("weight_decay", "gamma_neg", "gamma_pos"):
            at_least(name, getattr(self, name), 0)
        if not 0 <= self.shift < 1:
            raise UsageError(f"shift={self.shift} should be from 0 to below 1")
        if self.shots is not None:
            at_least("shots", self.shots, 1)


T = TypeVar("T", bound=TrainingSettings)


class TrainedMethod(ClipMethod[T]):
    """A method that trains on features of a frozen CLIP; see ``fedtrain.methods.base.Method``.

    A subclass gives at least one of ``shared`` and ``personal``, whose names must differ, ``text``, ``shared_text`` and
    ``optimiser``, and its own ``logits`` and ``loss`` where it has some. Both kinds of data are the same code:
    ``offset`` and ``label_loss`` know which it is.

    The authors of FedPGP, PromptFolio, FedOTP and pFedMoAP train photographs on random crops and mirror images, a new
    one at every step. Training here is on the view of evaluation, unless ``views`` asks for several; the more there
    are, the nearer it is to theirs.

    Attributes:
        fixed: Names of received tensors that are only read: they are not trained, and ``sent_back`` leaves them out.
        stack: Maximum number of clients that step as one graph. Larger matrix products may round the last bit
            differently, so stacks of different sizes agree to about 1e-6, and equal sizes to the bit. A GPU takes the
            whole cohort. A CPU gains little by it (a tenth of the time with the text tower of ViT-B) and takes one
            client at a time, and so does a deterministic run: there, cohorts of any size give the same bits.
    """

    fixed: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, context: Context, settings: T) -> None:
        super().__init__(context, settings)
        alone = context.device.type == "cpu" or torch.are_deterministic_algorithms_enabled()
        self.stack = 1 if alone else sys.maxsize
        self._trained: dict[int, torch.Tensor] = {}
        self._narrowed: dict[tuple[int, ...], Self] = {}

    def kind_of_labels(self) -> LabelKind:
        """The kind of the federation's labels, with the settings' choices for it.

        Raises:
            UsageError: A choice for data of the other kind, or for another loss.
        """
        settings, subset = self.settings, self.context.subset
        if not subset.entry.multi_label:
            self._refuse(_MULTI_LABEL, f"is for multi-label data, {subset.name} is single-label")
            return SingleLabel()
        if settings.loss_over == "own":  # of a method that needs it, all labels are its own
            self._refuse(("loss_over",), f"is for single-label data, {subset.name} is multi-label; use loss_over=all")
        if settings.loss != "asl":
            self._refuse(_ASYMMETRIC, f"is for the asymmetric loss, the loss is {settings.loss}; use loss=asl")
        return MultiLabel(settings.loss, settings.gamma_neg, settings.gamma_pos, settings.shift)

    def _refuse(self, names: Sequence[str], why: str) -> None:
        """Refuses settings that would be ignored, where they have other values than their defaults."""
        for field in fields(self.settings):
            value = getattr(self.settings, field.name)
            if field.name in names and value != field.default:
                raise UsageError(f"{field.name}={value}: {why}")

    def offset(self) -> State:
        """Multi-label: tensors that lift or lower all logits, for ``shared``, or ``personal`` where nothing is shared.

        The bias ``bias``, float32 ``[1]``.
        """
        return {"bias": self.first_bias().clone()} if self.labels.multi_label else {}

    def loss(self, live: State, batch: Batch, shared: State) -> torch.Tensor:  # noqa: ARG002
        """The loss of each client's batch.

        Args:
            live: Tensors in training, shared and personal, and the fixed ones, ``[K, ...]``.
            batch: A batch of each of the K clients.
            shared: What the round began with.

        Returns:
            float32 ``[K]``: ``label_loss``, where a method has nothing to add to it.
        """
        return self.label_loss(batch, self.text(live, self.base), live)

    def label_loss(self, batch: Batch, text: torch.Tensor, live: State) -> torch.Tensor:
        """The loss of the labels of each client's batch, mean over its images: ``[K]``.

        Cross-entropy; multi-label ``settings.loss``, summed over labels.

        Args:
            batch: A batch of each of K clients.
            text: Their classifiers, as ``text`` has them.
            live: Their tensors; the bias and the negative context are taken from here.
        """
        logits = self.logits(batch.images, self.against(text, live, self.base), live)
        if logits.shape[-1] != len(self.base):
            raise UsageError(
                f"loss_over=own: {type(self).__name__} classifies with {logits.shape[-1]} classes where a client has "
                f"{len(self.base)}; use loss_over=all"
            )
        return batch.mean(self.labels.loss(self.biased(logits, live), batch.labels))

    def optimiser(self, name: str) -> Optimiser:
        """The optimiser of a tensor, by its name."""
        raise NotImplementedError

    def trained_rows(self, client: int) -> torch.Tensor:
        """Numbers of the rows a client trains on, int64 on the CPU, among those of ``images.rows("train")``."""
        if client not in self._trained:
            rows = self.images.rows(TRAIN)
            mine = rows.of(client)
            numbers = torch.arange(mine.start, mine.stop)
            if self.settings.shots is not None:
                draws = generator(self.context.seed, "shots", self.context.number(client))
                numbers = numbers[self.labels.few_shot(rows.labels[mine].cpu(), self.settings.shots, draws)]
            self._trained[client] = numbers
        return self._trained[client]

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:
        """Trains a cohort stack by stack; see ``fedtrain.methods.base.Method``."""
        for part, places in self.stacks(clients):
            plans = [self.plan(client, self.settings.epochs, round_) for client in clients[part]]
            found = self.learned(shared, personal[part], plans, self.optimiser, places)
            for client, own, (state, loss) in zip(clients[part], personal[part], found, strict=True):
                yield Update(
                    client=client,
                    rows=len(self.trained_rows(client)),
                    shared={name: state[name] for name in shared if name not in self.fixed},
                    personal={name: state[name] for name in own},
                    loss=loss,
                )

    def stacks(self, clients: Sequence[int]) -> Iterator[tuple[slice, tuple[int, ...]]]:
        """Runs of at most ``stack`` of these clients whose losses are over the same classes, with their places."""
        for places, members in groupby(range(len(clients)), lambda i: self._over(clients[i])):
            alike = list(members)
            for first in range(0, len(alike), self.stack):
                at = alike[first : first + self.stack]
                yield slice(at[0], at[-1] + 1), places

    def over(self, places: tuple[int, ...]) -> Self:
        """The method with these classes of ``base`` alone: its ``loss`` is over them."""
        if len(places) == len(self.base):
            return self
        if places not in self._narrowed:
            self._narrowed[places] = narrowed = copy.copy(self)
            narrowed.base = self.base.only(places)
        return self._narrowed[places]

    def _over(self, client: int) -> tuple[int, ...]:
        """Places in ``base`` of the classes that a client's loss is over."""
        if self.settings.loss_over == "all" or self.labels.multi_label:
            return tuple(range(len(self.base)))
        return self.own_classes(client)

    def plan(self, client: int, epochs: int, *purpose: str | int) -> Steps:
        """The steps of a client over its rows, drawn for a purpose such as the round."""
        return self.planned(self.trained_rows(client), epochs, *purpose, self.context.number(client))

    def planned(self, rows: torch.Tensor, epochs: int, *purpose: str | int) -> Steps:
        """Steps over rows int64 ``[n]``, drawn for a purpose."""
        table = schedule(rows, self.settings.batch, epochs, generator(self.context.seed, "batches", *purpose))
        if self.settings.views == 1:
            return Steps(table, None)
        draws = generator(self.context.seed, "views", *purpose)
        return Steps(table, torch.randint(self.settings.views, table.shape, generator=draws))

    def learned(
        self,
        shared: State,
        personal: Sequence[State],
        plans: Sequence[Steps],
        optimiser: Callable[[str], Optimiser],
        places: tuple[int, ...],
    ) -> list[tuple[State, float]]:
        """Trains as many clients as there are plans as one graph, each from moments of zero.

        Args:
            shared: The state that they received.
            personal: The personal state of each.
            plans: The steps of each.
            optimiser: The optimiser of a tensor, by its name.
            places: Places in ``base`` of the classes that the loss is over.

        Returns:
            For each, the tensors after its last step, shared ones and its own without the fixed, and its mean loss.
        """
        rows, method = self.images.rows(TRAIN), self.over(places)
        labels = rows.labels
        if method is not self:  # no row of another class is in a batch
            labels = torch.searchsorted(torch.tensor(places, device=labels.device), labels)
        # by falling steps, so that the clients still at it are the first of the stack
        order = sorted(range(len(plans)), key=lambda i: -len(plans[i].rows))
        tables = [plans[i].rows for i in order]
        views = [view for i in order if (view := plans[i].views) is not None]
        learning = {name: value for name, value in shared.items() if name not in self.fixed}
        fixed = {name: shared[name] for name in self.fixed}

        def loss(live: State, step: int) -> torch.Tensor:
            active = len(next(iter(live.values())))
            live |= {name: value.expand(active, *value.shape) for name, value in fixed.items()}
            batch = gather(tables[:active], step, rows.images, labels, views[:active])
            return method.loss(live, batch, shared)

        start = stacked(learning, [personal[i] for i in order])
        steps = [len(table) for table in tables]
        with trace.phase("training"):
            images = sum(int((table >= 0).sum()) for table in tables)
            state, losses = trace.step(tuple(steps), images, lambda: descend(start, steps, loss, optimiser))
        back = sorted(range(len(order)), key=order.__getitem__)
        return [({name: value[at].clone() for name, value in state.items()}, float(losses[at])) for at in back]
