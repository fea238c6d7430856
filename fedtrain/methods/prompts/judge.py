"""Methods that classify images by the text features of a frozen CLIP: binding and judging.

Logits are exp(logit_scale) x cosine(image, text of the class). Images are never encoded twice
(``fedtrain.methods.prompts.features``), so judging a prompt is one text pass and one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Generic, TypeVar

import torch
from torch.nn import functional

from fedrsic_data.errors import UsageError
from fedtrain.methods.base import Context, Evaluation, State
from fedtrain.methods.prompts.classes import Classes
from fedtrain.methods.prompts.cohort import Batch
from fedtrain.methods.prompts.rows import NOVEL, TRAIN, Images, Rows
from fedtrain.metrics import accuracy, harmonic, mean
from fedtrain.models import clip

_WIDE = 256  # of a text tower: below, threads wait for each other longer than they work
_STACK = 16  # clients whose texts are encoded at once when they are judged


S = TypeVar("S")


class ClipMethod(Generic[S]):
    """A method whose model is a text feature per class.

    Attributes:
        context: The federation.
        settings: The method's own.
        clip: The frozen CLIP.
        images: Rows of every split as features.
        base: The classes of the run; in base-to-novel those that are trained.
        novel: The classes never trained; empty elsewhere.
    """

    multi_label: ClassVar[bool] = False

    def __init__(self, context: Context, settings: S) -> None:
        """Binds the method; see ``fedtrain.methods.base.Method``.

        Raises:
            UsageError: Data or settings the method cannot be used with.
            DownloadError: The CLIP's weights are not on this machine and cannot be fetched.
        """
        if context.numbers and (context.held_out is not None or context.subset.entry.novel):
            what = "held_out" if context.held_out is not None else "base_to_novel"
            raise UsageError(
                f"{what}: evaluates clients on rows of others, which stay at their sites; use --engine local"
            )
        self.context = context
        self.settings = settings
        self.clip = clip.load(context.clip, context.device)
        self.images = Images(context, self.clip)
        self.base = Classes(self.clip, self.images.classes, context.precision)
        self.novel = Classes(self.clip, self.images.novel, context.precision)
        for classes in (self.base, self.novel):
            self.check_names(classes)

    def check_names(self, classes: Classes) -> None:
        """Checks class names in the texts that the method makes of them, before any image is encoded.

        Raises:
            UsageError: A text is too long for the CLIP.
        """

    @property
    def threads(self) -> int | None:
        """Threads of a CPU that are worth their while: one for text towers too narrow to share; None: all."""
        return 1 if self.clip.width < _WIDE else None

    def shared(self) -> State:
        """The server's state before the first round; empty where nothing travels."""
        return {}

    def personal(self, client: int) -> State:  # noqa: ARG002
        """A client's own state before its first round; empty where it has none."""
        return {}

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """What clients classify with.

        Args:
            state: Shared and personal tensors of K clients, ``[K, ...]`` each; of none where a method has none.
            classes: The label space.

        Returns:
            float32 ``[K, C, embed_dim]``; of one row where all clients have the same.
        """
        raise NotImplementedError

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """What the shared state alone classifies with, ``[C, embed_dim]``; None where nothing is shared."""
        raise NotImplementedError

    def logits(self, batch: Batch, text: torch.Tensor) -> torch.Tensor:
        """Logits ``[K, B, C]`` of a batch under text features ``[K or 1, C, embed_dim]``."""
        return self.clip.scale * (batch.images @ text.mT)

    def cross_entropy(self, batch: Batch, text: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of each client's batch, ``[K]``."""
        logits = self.logits(batch, text)
        losses = functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none")
        return batch.mean(losses.view_as(batch.labels))

    @torch.no_grad()
    def evaluate(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
        """Judges every client's classifier and the shared one.

        Per client: ``local``, accuracy on the client's own rows, over all classes of the run. Over all: ``pooled``, the
        share of all rows that their own client gets right, and ``shared``, accuracy of the shared state alone on all
        rows.

        Base-to-novel adds, per client that trains, ``base``, its classifier on the rows of all clients, and ``novel``,
        its prompt under the novel classes' names on the split ``novel``; ``shared_novel``; and three harmonic means:
        ``hm_base_novel``, of the means over clients of base and novel (CoCoOp, arXiv 2203.05557);
        ``hm_local_base_novel``, of the means over clients of all three (FedTPG, arXiv 2310.06123; FedPGP, arXiv
        2405.09771); ``mean_client_hm``, the mean over clients of each one's own of the three. The split ``novel`` by
        itself gives ``novel`` and ``shared``.

        Leave-one-domain-out: rows of the held-out domain are in none of these. ``held_out`` is the accuracy of the
        shared state on them, ``held_out_local`` the mean over the clients that train of their own classifiers'.

        All in percent, NaN where there are no rows.
        """
        if split == TRAIN:
            raise UsageError("split='train': a model is evaluated on held-out rows; use one of the other splits")
        rows = self.images.rows(split)
        apart = self.images.rows(split, held_out=True) if self.context.held_out is not None else None
        if split == NOVEL:
            novel = self._everywhere(shared, personal, self.novel, rows)
            metrics = self._shared(shared, {"shared": (self.novel, rows)})
            return Evaluation(metrics, {"novel": novel}, rows.counts())
        local, hits = self._local(shared, personal, rows)
        clients = {"local": local}
        metrics = {"pooled": accuracy(hits, len(rows))} | self._shared(shared, {"shared": (self.base, rows)})
        if apart is not None:
            metrics |= self._shared(shared, {"held_out": (self.base, apart)})
            metrics["held_out_local"] = mean(self._everywhere(shared, personal, self.base, apart))
        if len(self.novel):
            unseen = self.images.rows(NOVEL)
            clients["base"] = self._everywhere(shared, personal, self.base, rows)
            clients["novel"] = self._everywhere(shared, personal, self.novel, unseen)
            metrics |= self._shared(shared, {"shared_novel": (self.novel, unseen)}) | harmonic_means(**clients)
        over = {name: len(rows) for name in metrics if name in ("pooled", "shared")}
        return Evaluation(metrics, clients, rows.counts(), over)

    def _local(self, shared: State, personal: Callable[[int], State], rows: Rows) -> tuple[list[float], int]:
        """Accuracy of each client on its own rows, and how many rows are right in all."""
        found, total = [], 0
        for client, text in self._classifiers(shared, personal, self.base):
            mine = rows.of(client)
            hits = _hits(text, rows.images[mine], rows.labels[mine])
            found.append(accuracy(hits, mine.stop - mine.start))
            total += hits
        return found, total

    def _everywhere(self, shared: State, personal: Callable[[int], State], classes: Classes, rows: Rows) -> list[float]:
        """Accuracy of each client that trains on all of the rows; NaN for the others."""
        found: list[float] = []
        last: tuple[torch.Tensor, float] | None = None
        for client, text in self._classifiers(shared, personal, classes):
            if last is None or last[0] is not text:  # what all clients share is judged once
                last = text, accuracy(_hits(text, rows.images, rows.labels), len(rows))
            found.append(last[1] if self.context.rows[client] else float("nan"))
        return found

    def _shared(self, shared: State, wanted: dict[str, tuple[Classes, Rows]]) -> dict[str, float]:
        """Accuracy of the shared state alone; nothing where nothing is shared."""
        found = {}
        for name, (classes, rows) in wanted.items():
            text = self.shared_text(shared, classes)
            if text is not None:
                found[name] = accuracy(_hits(text, rows.images, rows.labels), len(rows))
        return found

    def _classifiers(
        self, shared: State, personal: Callable[[int], State], classes: Classes
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Each client's text features ``[C, embed_dim]``, encoded in stacks of clients; once if all have the same."""
        count = len(self.context.clients)
        if not self.personal(0):
            text = self.text(stacked(shared, [{}]), classes)[0]
            yield from ((client, text) for client in range(count))
            return
        for first in range(0, count, _STACK):
            members = range(first, min(first + _STACK, count))
            texts = self.text(stacked(shared, [personal(client) for client in members]), classes)
            yield from zip(members, texts, strict=True)


def stacked(shared: State, personal: Sequence[State]) -> State:
    """Tensors ``[K, ...]`` by name: the shared ones repeated, the personal ones of K clients side by side."""
    repeated = {name: value.expand(len(personal), *value.shape) for name, value in shared.items()}
    return repeated | {name: torch.stack([state[name] for state in personal]) for name in personal[0]}


def harmonic_means(local: Sequence[float], base: Sequence[float], novel: Sequence[float]) -> dict[str, float]:
    """The three harmonic means of the literature; see ``ClipMethod.evaluate``.

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
    }


def _hits(text: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> int:
    return int(((images @ text.T).argmax(1) == labels).sum())
