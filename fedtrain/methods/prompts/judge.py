"""Methods that classify images by the text features of a frozen CLIP: binding and judging.

Logits are exp(logit_scale) x cosine(image, text of the class), for multi-label data with a bias. Images are never
encoded twice (``fedtrain.methods.prompts.features``), so judging a prompt is one text pass and one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

import pyarrow.compute as pc

from fedrsic_data.errors import UsageError
from fedtrain.methods import multilabel
from fedtrain.methods.base import Context, Evaluation, Kind, Method, State
from fedtrain.methods.labels import LabelKind, MultiLabel, SingleLabel, of_others
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.features import FeatureKind, Kept
from fedtrain.methods.prompts.inputs import NOVEL, TEMPLATE, TRAIN, Classes, FeatureRows, Images
from fedtrain.metrics import accuracy, harmonic, mean

_WIDE = 256  # of a text tower: below, threads wait for each other longer than they work
_STACK = 16  # clients whose texts are encoded at once when they are judged
_JUDGED = 32  # images with patches that are judged at a time
_GREY = 128  # of 255


S = TypeVar("S")


class ClipMethod(Method, Generic[S]):
    """A method that classifies images by the features that a frozen CLIP makes of class names.

    A subclass gives ``text`` and ``shared_text``, and ``logits`` where they are not cosines of one feature per image.

    Attributes:
        features: The features of an image in ``images``: ``global``, one vector of norm 1; ``raw``, that vector as the
            image encoder gives it, whose norm ``logits`` must see to; or ``patches``, the first and then one for each
            patch, all in the space of the texts, see ``Clip.encode_patches``. These are kept in the numbers that a
            setting ``patches`` names, float16 without one.
        at_once: Images that are judged at a time, where ``logits`` takes much memory; None: all, or 32 with patches.
        clip: The frozen CLIP.
        labels: The kind of the federation's labels: its loss and its metrics.
        images: Rows of every split as features.
        base: The classes of the run; in base-to-novel those that are trained.
        novel: The classes never trained; empty elsewhere.
    """

    settings: S
    kinds: ClassVar[tuple[Kind, ...]] = ("single-label", "multi-label")
    leaves_out_unknown: ClassVar[bool] = True
    judges_neighbours: ClassVar[bool] = True
    features: ClassVar[FeatureKind] = "global"
    at_once: ClassVar[int | None] = None

    def __init__(self, context: Context, settings: S) -> None:
        """Binds the method; see ``Method``.

        Raises:
            UsageError: Data or settings the method cannot be used with.
            DownloadError: The CLIP's weights are not on this machine and cannot be fetched.
        """
        from fedtrain.models import clip

        if context.numbers and (context.held_out is not None or context.subset.entry.novel):
            what = "held_out" if context.held_out is not None else "base_to_novel"
            raise UsageError(
                f"{what}: evaluates clients on rows of others, which stay at their sites; use --engine local"
            )
        super().__init__(context, settings)
        self._first_bias: torch.Tensor | None = None
        self.clip = clip.load(context.clip, context.device)
        self.labels = self.kind_of_labels()
        space, views = getattr(settings, "labels", "coarse"), getattr(settings, "views", 1)
        kept: Kept = getattr(settings, "patches", "float16")
        self.images = Images(context, self.clip, labels=space, kind=self.features, kept=kept, views=views)
        sources = dict(zip(context.subset.classes, context.subset.class_sources, strict=True))
        self.base = Classes(self.clip, self.images.classes, context.precision, sources)
        self.novel = Classes(self.clip, self.images.novel, context.precision, sources)
        for classes in (self.base, self.novel):
            self.check_names(classes)
        if self.labels.multi_label:
            self.base.check(template=TEMPLATE)  # see first_bias

    def check_names(self, classes: Classes) -> None:
        """Checks class names in the texts that the method makes of them, before any image is encoded.

        Raises:
            UsageError: A text is too long for the CLIP.
        """

    def kind_of_labels(self) -> LabelKind:
        """The kind of the federation's labels, with the settings' choices for it."""
        return MultiLabel() if self.context.subset.entry.multi_label else SingleLabel()

    @cached_property
    def _owned(self) -> dict[str, tuple[int, ...]]:
        subset, place = self.context.subset, {name: i for i, name in enumerate(self.images.classes)}
        trained = subset.client_table.filter(pc.equal(subset.client_table.column("split"), TRAIN))
        return {
            row["client_id"]: tuple(sorted(place[subset.classes[label]] for label in row["labels"]))
            for row in trained.select(["client_id", "labels"]).to_pylist()
        }

    def own_classes(self, client: int) -> tuple[int, ...]:
        """Places in ``base`` of the classes of a client's training rows, rising; single-label."""
        return self._owned[self.context.clients[client]]

    @property
    def threads(self) -> int | None:
        """Threads of a CPU that are worth their while: one for text towers too narrow to share; None: all."""
        return 1 if self.clip.width < _WIDE else None

    @property
    def all_classify_the_same(self) -> bool:
        """Whether all clients have one classifier: they receive the same state and are evaluated with that alone."""
        return self.sends_all_the_same and not self.has_personal and type(self).judged is ClipMethod.judged

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """The classifiers of clients, as texts.

        Args:
            state: Shared and personal tensors of K clients, ``[K, ...]`` each; of none where a method has none.
            classes: The label space.

        Returns:
            float32 ``[K, C, embed_dim]``, or whatever ``logits`` takes, ``[K, ..., C, embed_dim]``; of one row where
            all clients have the same.
        """
        raise NotImplementedError

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """The classifier of the shared state alone, one row of ``text``; None if nothing is shared.

        Args:
            shared: The server's state; over Flower, the state that a client received. A method that overrides
                ``sent_to`` reads only tensors that are the same in all of these.
            classes: The label space.
        """
        raise NotImplementedError

    def logits(self, images: torch.Tensor, text: torch.Tensor, state: State) -> torch.Tensor:  # noqa: ARG002
        """Logits of images: by default exp(logit_scale) x cosine.

        Args:
            images: Features, float32 ``[..., B, embed_dim]``; with ``features = "patches"``
                ``[..., B, 1 + patches, embed_dim]``.
            text: From ``text``, ``[..., C, embed_dim]``. Leading dimensions are K clients, or none.
            state: Tensors of the same clients, with the same leading dimensions.

        Returns:
            float32 ``[..., B, C]``.
        """
        return self.clip.scale * (images @ text.mT)

    def judged_rows(self, shared: State, split: str, *, held_out: bool = False) -> FeatureRows:  # noqa: ARG002
        """The rows of ``images``, as ``logits`` takes them; see ``Images.rows``.

        Args:
            shared: The server's state; at a site, the state that its client received.
            split: A held-out split.
            held_out: Those of the held-out domain instead of all others.
        """
        return self.images.rows(split, held_out=held_out)

    def biased(self, logits: torch.Tensor, state: State) -> torch.Tensor:
        """Logits as the loss and the metrics take them: for multi-label data with the bias of a state, or the first.

        A state with a negative context needs none, see ``against``.

        A cosine of CLIP is about the same for a label that an image has and one that it has not, and a sigmoid of
        scale x cosine near 1 for all of them; the bias is that of SigLIP (Zhai et al. 2023, arXiv 2303.15343).
        """
        if not self.labels.multi_label or "negative" in state:
            return logits
        return logits + (state["bias"] if "bias" in state else self.first_bias())[..., None]

    def first_bias(self) -> torch.Tensor:
        """float32 ``[1]``: a label whose logit is the mean one of a grey picture gets probability 1 / C.

        Our choice. It takes CLIP and the labels' names alone, so a server without images and all its sites start from
        the same one. Started from probability 1 / 2, prompts first learn that most labels are absent, and forget more.
        """
        if self._first_bias is None:
            size = self.clip.preprocessing.size
            encode = self.clip.encode_patches if self.features == "patches" else self.clip.encode_images
            mean = self.first_logits(encode(torch.full((1, 3, size, size), _GREY, dtype=torch.uint8))).mean()
            self._first_bias = -(mean + math.log(len(self.base) - 1))[None]
        return self._first_bias

    def first_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images with the names in fixed words, before anything is learned: see ``first_bias``."""
        return self.clip.scale * (images @ self.base.fixed(TEMPLATE).T)

    def judged(self, client: int, received: State, personal: State) -> State:  # noqa: ARG002
        """The tensors of its own that a client is evaluated with, by default its personal state.

        Those that have the name of a received tensor take its place.

        Args:
            client: Its place in the context.
            received: The state that it received.
            personal: Its personal state.
        """
        return personal

    def classifier(self, state: State, classes: Classes) -> torch.Tensor:
        """The classifiers of clients: ``text``, less the texts under a negative context if there is one."""
        return self.against(self.text(state, classes), state, classes)

    def against(self, text: torch.Tensor, state: State, classes: Classes) -> torch.Tensor:
        """Texts, less those under the negative context of a state if it has one.

        The probability of a label is then the softmax of its logits under both contexts, as in DualCoOp.
        """
        if "negative" not in state:
            return text
        context = state["negative"]
        one = context.stride(0) == 0  # all clients have the same
        negative = classes.under(context[:1] if one else context)
        return text - negative.view(-1, *[1] * (text.dim() - 3), *negative.shape[1:])

    def evaluate(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
        """Evaluate every client's classifier and the shared one.

        Per client: ``local``, accuracy on the client's own rows, over all classes of the run. Over all: ``pooled``, the
        share of all rows that their own client gets right, and ``shared``, accuracy of the shared state alone on all
        rows.

        Base-to-novel adds, per client that trains, ``base``, its classifier on the rows of all clients, and ``novel``,
        its prompt under the novel classes' names on the split ``novel``; ``shared_novel``; three harmonic means:
        ``hm_base_novel``, of the means over clients of base and novel (CoCoOp, arXiv 2203.05557);
        ``hm_local_base_novel``, of the means over clients of all three (FedTPG, arXiv 2310.06123; FedPGP, arXiv
        2405.09771); ``mean_client_hm``, the mean over clients of each one's own of the three; and ``CM``, the mean
        of ``local/mean`` and ``hm_base_novel`` (FedMGP). The split ``novel`` by itself gives ``novel`` and ``shared``.

        Where the context asks for it, per client that trains ``neighbour``, its classifier on the rows of all other
        clients, over all classes of the run (DP-FPL).

        Leave-one-domain-out: rows of the held-out domain are in none of these. ``held_out`` is the accuracy of the
        shared state on them, ``held_out_local`` the mean over the clients that train of their own classifiers'.

        Several datasets, each with classes of its own (``classes=apart``): every row is classified among the classes of
        its dataset alone, and for ``local`` and ``pooled`` among those that its client trains on. ``local/<source>``,
        ``base/<source>`` and ``novel/<source>`` are those on the rows of one dataset. ``base`` and ``novel`` are means
        over datasets, and ``local_datasets`` is the mean over datasets of the mean over clients of ``local/<source>``
        (FedTPG, arXiv 2310.06123).

        Multi-label data: ``local`` is the mean average precision on the client's own rows. Over all rows, the metrics
        of ``fedtrain.methods.multilabel.figures``, each row scored by its own client, and ``AP/<label>`` for up to 100
        labels; those of the shared state alone have ``shared/`` in front, those on the held-out domain ``held_out/``.

        All in percent, NaN where there are no rows.
        """
        if split == TRAIN:
            raise UsageError("split='train': a model is evaluated on held-out rows; use one of the other splits")
        with torch.no_grad():
            return self._evaluation(shared, personal, split)

    @property
    def ranks(self) -> bool:
        """Whether metrics rank the rows of all clients; see ``Ranked``."""
        return self.labels.multi_label

    def scores(self, shared: State, personal: Callable[[int], State], split: str) -> State:
        """Answers and labels of every row, as ``LabelKind`` has them, with its ``owner``; see ``Ranked``.

        ``answers`` are those of each row's own client, ``shared`` those of the shared state where there is one.
        """
        rows = self.judged_rows(shared, split)
        with torch.no_grad():
            found = [
                self._answers(text, state, rows.images[rows.of(client)])
                for client, text, state in self._classifiers(shared, personal, self.base)
            ]
            alone = self._shared_answers(shared, self.base, rows)
        whole = {
            "answers": torch.cat(found),
            "labels": rows.labels,
            "owner": rows.owner(),
        }
        return whole if alone is None else whole | {"shared": alone}

    def figures(self, scores: State) -> Evaluation:
        """The metrics of ``evaluate`` that rows by themselves give; see ``Ranked``."""
        if not scores:
            return Evaluation({})
        answers, labels, owner = scores["answers"], scores["labels"], scores["owner"]
        metrics = _named("pooled", self.labels.metrics(answers, labels))
        if "shared" in scores:
            metrics |= _named("shared", self.labels.metrics(scores["shared"], labels))
        if self.labels.multi_label and not self.context.numbers:
            metrics |= multilabel.by_label(answers, labels == 1, self.base.names)
        count = len(self.context.clients)
        return Evaluation(
            metrics=metrics,
            clients={"local": self.labels.of_clients(answers, labels, owner, count)},
            rows=torch.bincount(owner, minlength=count).tolist(),
            over={} if self.labels.multi_label else {name: len(labels) for name in metrics},
        )

    def _evaluation(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
        if any(self.base.sources):
            return self._of_datasets(shared, personal, split)
        if split == NOVEL:
            rows = self.judged_rows(shared, split)
            novel = self._everywhere(shared, personal, self.novel, rows)
            return Evaluation(self._shared(shared, "shared", self.novel, rows), {"novel": novel}, rows.counts())
        found = self.figures(self.scores(shared, personal, split))
        metrics, clients = dict(found.metrics), dict(found.clients)
        if self.context.held_out is not None:
            apart = self.judged_rows(shared, split, held_out=True)
            metrics |= self._shared(shared, "held_out", self.base, apart)
            metrics["held_out_local"] = mean(self._everywhere(shared, personal, self.base, apart))
        if len(self.novel):
            unseen = self.judged_rows(shared, NOVEL)
            clients["base"] = self._everywhere(shared, personal, self.base, self.judged_rows(shared, split))
            clients["novel"] = self._everywhere(shared, personal, self.novel, unseen)
            metrics |= self._shared(shared, "shared_novel", self.novel, unseen) | harmonic_means(**clients)
        if self.context.neighbour:
            rows = self.judged_rows(shared, split)
            clients["neighbour"] = self._everywhere(shared, personal, self.base, rows, apart=True)
        return Evaluation(metrics, clients, found.rows, found.over)

    def _of_datasets(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
        """``_evaluation`` of a federation of several datasets, each judged in its own label space."""
        rows, held_out = self.judged_rows(shared, split), self.context.held_out
        if split == NOVEL:
            novel = self._by_dataset("novel", shared, personal, self.novel, rows)
            return Evaluation(self._shared_by_dataset("shared", shared, self.novel, rows), novel, rows.counts())
        answers, owner = self._among_own(shared, personal, rows), rows.owner()
        found = self.figures({"answers": answers, "labels": rows.labels, "owner": owner})
        metrics = {**found.metrics, **self._shared_by_dataset("shared", shared, self.base, rows)}
        over = {name: len(rows) for name in metrics}
        local = {}
        for source, places in self.base.datasets().items():
            mask = torch.isin(rows.labels, torch.tensor(places, device=rows.labels.device))
            given = answers[mask], rows.labels[mask], owner[mask], len(self.context.clients)
            local[f"local/{source}"] = self.labels.of_clients(*given)
        clients: dict[str, Sequence[float]] = {**found.clients, **local}
        if not self.context.numbers:
            metrics["local_datasets"] = mean(mean(values) for values in local.values())
        if held_out is not None:
            apart = self.judged_rows(shared, split, held_out=True)
            metrics |= self._shared_by_dataset("held_out", shared, self.base, apart)
            everywhere = self._by_dataset("held_out", shared, personal, self.base, apart)
            metrics["held_out_local"] = mean(everywhere["held_out"])
        if len(self.novel):
            unseen = self.judged_rows(shared, NOVEL)
            clients |= self._by_dataset("base", shared, personal, self.base, rows)
            clients |= self._by_dataset("novel", shared, personal, self.novel, unseen)
            metrics |= self._shared_by_dataset("shared_novel", shared, self.novel, unseen)
            metrics |= harmonic_means(clients["local"], clients["base"], clients["novel"])
        if self.context.neighbour:
            clients["neighbour"] = self._everywhere(shared, personal, self.base, rows, apart=True)
        return Evaluation(metrics, clients, found.rows, over)

    def _among_own(self, shared: State, personal: Callable[[int], State], rows: FeatureRows) -> torch.Tensor:
        """Answers of each client to its rows, among its own classes; among all if it has no training rows."""
        answers = torch.full_like(rows.labels, -1)
        for client in range(len(self.context.clients)):
            mine, places = rows.of(client), self.own_classes(client) or range(len(self.base))
            if mine.start < mine.stop:
                ((_, text, state),) = self._classifiers(shared, personal, self.base.only(places), [client])
                own = self._answers(text, state, rows.images[mine])
                answers[mine] = torch.tensor(places, device=own.device)[own]
        return answers

    def _by_dataset(
        self, name: str, shared: State, personal: Callable[[int], State], classes: Classes, rows: FeatureRows
    ) -> dict[str, list[float]]:
        """``_everywhere`` on the rows of each dataset among its classes, and the mean of these for each client."""
        each = {
            f"{name}/{source}": self._everywhere(shared, personal, classes.only(places), rows.among(places))
            for source, places in classes.datasets().items()
        }
        return {name: [mean(values) for values in zip(*each.values(), strict=True)], **each}

    def _shared_by_dataset(self, name: str, shared: State, classes: Classes, rows: FeatureRows) -> dict[str, float]:
        """Accuracy of the shared state alone on all rows, each among the classes of its dataset; none without one."""
        hits = 0
        for places in classes.datasets().values():
            some = rows.among(places)
            answers = self._shared_answers(shared, classes.only(places), some)
            if answers is None:
                return {}
            hits += int((answers == some.labels).sum())
        return {name: accuracy(hits, len(rows))}

    def _everywhere(
        self,
        shared: State,
        personal: Callable[[int], State],
        classes: Classes,
        rows: FeatureRows,
        *,
        apart: bool = False,
    ) -> list[float]:
        """The metric of each client that trains, on all of the rows, or on all but its own; NaN for the others."""
        found = [float("nan")] * len(self.context.rows)
        owner = rows.owner()
        last: torch.Tensor | None = None
        for client, text, state in self._classifiers(shared, personal, classes):
            if text is not last:  # a classifier of all clients answers once
                last, answers = text, self._answers(text, state, rows.images)
                whole = None if apart else self.labels.measure(answers, rows.labels)
            if self.context.rows[client]:
                found[client] = of_others(self.labels, answers, rows.labels, owner, client) if whole is None else whole
        return found

    def _shared(self, shared: State, name: str, classes: Classes, rows: FeatureRows) -> dict[str, float]:
        """Metrics of the shared state alone; none where nothing is shared."""
        answers = self._shared_answers(shared, classes, rows)
        return {} if answers is None else _named(name, self.labels.metrics(answers, rows.labels))

    def _shared_answers(self, shared: State, classes: Classes, rows: FeatureRows) -> torch.Tensor | None:
        text = self.shared_text(shared, classes)
        if text is None:
            return None
        (text,) = self.against(text[None], {name: value[None] for name, value in shared.items()}, classes)
        return self._answers(text, shared, rows.images)

    def _classifiers(
        self,
        shared: State,
        personal: Callable[[int], State],
        classes: Classes,
        clients: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, torch.Tensor, State]]:
        """The ``classifier`` and state of all or some clients, encoded in stacks of them; once if all have the same."""
        clients, one = range(len(self.context.clients)) if clients is None else clients, self.sends_all_the_same
        if self.all_classify_the_same:
            text = self.classifier(stacked(shared, [{}]), classes)[0]
            yield from ((client, text, shared) for client in clients)
            return
        step = _STACK if one else 1  # clients that received the same are in one stack
        for first in range(0, len(clients), step):
            members = clients[first : first + step]
            received = self.received(members[0], shared)
            state = stacked(received, [self.judged(client, received, personal(client)) for client in members])
            texts = self.classifier(state, classes)
            texts = texts.expand(len(members), *texts.shape[1:])  # of one row where all have the same
            for i, (client, text) in enumerate(zip(members, texts, strict=True)):
                yield client, text, {name: value[i] for name, value in state.items()}

    def _answers(self, text: torch.Tensor, state: State, images: torch.Tensor) -> torch.Tensor:
        """Answers to images, some at a time where logits take much memory."""
        size = self.at_once or (_JUDGED if images.dim() > 2 else None)
        parts = torch.split(images, size) if size else [images]
        found = [self.biased(self.logits(part.float(), text, state), state) for part in parts]
        return torch.cat([self.labels.answers(logits) for logits in found])


def _named(name: str, metrics: dict[str, float]) -> dict[str, float]:
    """Metrics with ``name`` in front: the only one by the name itself, several of all clients by their own."""
    found = {}
    for key, value in metrics.items():
        own = key if name == "pooled" else f"{name}/{key}"
        found[own if key else name] = value
    return found


def stacked(shared: State, personal: Sequence[State]) -> State:
    """Tensors ``[K, ...]`` by name: the shared ones repeated, the personal ones of K clients side by side."""
    repeated = {name: value.expand(len(personal), *value.shape) for name, value in shared.items()}
    return repeated | {name: torch.stack([state[name] for state in personal]) for name in personal[0]}


def harmonic_means(local: Sequence[float], base: Sequence[float], novel: Sequence[float]) -> dict[str, float]:
    """The harmonic means of the literature, and the mean of one with the local metric; see ``ClipMethod.evaluate``.

    Args:
        local: Accuracy of each client in percent, NaN where there is none.
        base: As ``local``.
        novel: As ``local``.
    """
    own = [harmonic(*three) for three in zip(local, base, novel, strict=True)]
    return {
        "hm_base_novel": harmonic(mean(base), mean(novel)),
        "hm_local_base_novel": harmonic(mean(local), mean(base), mean(novel)),
        "mean_client_hm": mean(own),
        "CM": (mean(local) + harmonic(mean(base), mean(novel))) / 2,
    }
