"""Methods that classify images by the text features of a frozen CLIP: binding and judging.

Logits are exp(logit_scale) x cosine(image, text of the class). Images are never encoded twice
(``fedtrain.methods.prompts.features``), so judging a prompt is one text pass and one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Generic, Literal, TypeVar

from fedrsic_data.errors import UsageError
from fedtrain.methods.base import Context, Evaluation, Method, State
from fedtrain.methods.lazy import functional, torch
from fedtrain.methods.prompts.cohort import Batch
from fedtrain.methods.prompts.inputs import NOVEL, TRAIN, Classes, FeatureRows, Images
from fedtrain.metrics import accuracy, harmonic, mean

_WIDE = 256  # of a text tower: below, threads wait for each other longer than they work
_STACK = 16  # clients whose texts are encoded at once when they are judged
_JUDGED = 256  # images with patches that are judged at a time


S = TypeVar("S")


class ClipMethod(Method, Generic[S]):
    """A method that classifies images by the features that a frozen CLIP makes of class names.

    A subclass gives ``text`` and ``shared_text``, and ``logits`` where they are not cosines of one feature per image.

    Attributes:
        features: The features of an image in ``images``: ``global``, one vector; or ``patches``, that vector and then
            one for each patch, all in the space of the texts. See ``Clip.encode_patches``.
        clip: The frozen CLIP.
        images: Rows of every split as features.
        base: The classes of the run; in base-to-novel those that are trained.
        novel: The classes never trained; empty elsewhere.
    """

    settings: S
    features: ClassVar[Literal["global", "patches"]] = "global"

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
        self.clip = clip.load(context.clip, context.device)
        self.images = Images(context, self.clip, patches=self.features == "patches")
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

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """The classifiers of clients, as texts.

        Args:
            state: Shared and personal tensors of K clients, ``[K, ...]`` each; of none where a method has none.
            classes: The label space.

        Returns:
            float32 ``[K, C, embed_dim]``, or whatever ``logits`` takes, K first; of one row where all clients have
            the same.
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

    def cross_entropy(self, batch: Batch, text: torch.Tensor, state: State) -> torch.Tensor:
        """Mean cross-entropy of each client's batch, ``[K]``."""
        logits = self.logits(batch.images, text, state)
        losses = functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none")
        return batch.mean(losses.view_as(batch.labels))

    def evaluate(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
        """Evaluate every client's classifier and the shared one.

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
        with torch.no_grad():
            return self._evaluation(shared, personal, split)

    def _evaluation(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
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

    def _local(self, shared: State, personal: Callable[[int], State], rows: FeatureRows) -> tuple[list[float], int]:
        """Accuracy of each client on its own rows, and how many rows are right in all."""
        found, total = [], 0
        for client, text, state in self._classifiers(shared, personal, self.base):
            mine = rows.of(client)
            hits = self._hits(text, state, rows.images[mine], rows.labels[mine])
            found.append(accuracy(hits, mine.stop - mine.start))
            total += hits
        return found, total

    def _everywhere(
        self, shared: State, personal: Callable[[int], State], classes: Classes, rows: FeatureRows
    ) -> list[float]:
        """Accuracy of each client that trains on all of the rows; NaN for the others."""
        found: list[float] = []
        last: tuple[torch.Tensor, float] | None = None
        for client, text, state in self._classifiers(shared, personal, classes):
            if last is None or last[0] is not text:  # a classifier of all clients is judged once
                last = text, accuracy(self._hits(text, state, rows.images, rows.labels), len(rows))
            found.append(last[1] if self.context.rows[client] else float("nan"))
        return found

    def _shared(self, shared: State, wanted: dict[str, tuple[Classes, FeatureRows]]) -> dict[str, float]:
        """Accuracy of the shared state alone; nothing where nothing is shared."""
        found = {}
        for name, (classes, rows) in wanted.items():
            text = self.shared_text(shared, classes)
            if text is not None:
                found[name] = accuracy(self._hits(text, shared, rows.images, rows.labels), len(rows))
        return found

    def _classifiers(
        self, shared: State, personal: Callable[[int], State], classes: Classes
    ) -> Iterator[tuple[int, torch.Tensor, State]]:
        """Each client's ``text`` and state, encoded in stacks of clients; once if all have the same."""
        count, one = len(self.context.clients), self.sends_all_the_same
        if one and not self.has_personal:
            text = self.text(stacked(shared, [{}]), classes)[0]
            yield from ((client, text, shared) for client in range(count))
            return
        step = _STACK if one else 1  # clients that received the same are in one stack
        for first in range(0, count, step):
            members = range(first, min(first + step, count))
            state = stacked(self.received(first, shared), [personal(client) for client in members])
            texts = self.text(state, classes)
            texts = texts.expand(len(members), *texts.shape[1:])  # of one row where all have the same
            for i, (client, text) in enumerate(zip(members, texts, strict=True)):
                yield client, text, {name: value[i] for name, value in state.items()}

    def _hits(self, text: torch.Tensor, state: State, images: torch.Tensor, labels: torch.Tensor) -> int:
        """Count images that are classified correctly; those with patches some at a time."""
        parts = torch.split(images, _JUDGED) if images.dim() > 2 else [images]
        found = [self.logits(part.float(), text, state).argmax(-1) for part in parts]
        return int((torch.cat(found) == labels).sum())


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
