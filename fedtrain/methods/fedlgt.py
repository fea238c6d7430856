"""FedLGT: language-guided transformers for federated multi-label classification.

Liu, Fang, Zhang, Chou and Wang, "Language-Guided Transformer for Federated Multi-Label Classification", AAAI 2024,
arXiv 2312.07165.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import at_least
from fedtrain import trace
from fedtrain.methods.base import Context, State
from fedtrain.methods.lazy import functional, nn, torch
from fedtrain.methods.networks.album import Pictures
from fedtrain.methods.networks.network import Loss, NetworkMethod, PictureSettings
from fedtrain.methods.networks.recorded import Recordable
from fedtrain.seeds import generator


@dataclass(frozen=True)
class FedLGTSettings(PictureSettings):
    """Settings of FedLGT; the defaults are the paper's.

    FedC-Tran, the paper's own baseline, is ``ule=none`` with ``ca_mle=false``.

    Attributes:
        ule: Universal label embeddings, frozen text features: see ``fedtrain.models.label_text.told``. ``none``:
            learned embeddings.
        ca_mle: Client-aware masked label embedding: labels the server's model is unsure of become unknown.
        margin: Unsure is a probability within this distance of 0.5.
        label_masks: Train with a random part of the labels known.
        known: Maximum fraction of known labels.
        mask: Which labels may be known: ``all``, or ``negatives``, those that an image has not. ``auto``: ``negatives``
            for single-label data, where the class, once known, leaves nothing to learn; else ``all``.
        state_embeddings: ``text``: features of "positive" and "negative"; ``none``: known labels look unknown.
        class_weights: ``inverse``: the loss of a label is weighted by the inverse of its training rows, mean 1. That
            there is a weighting is from the paper's summary, its form an assumption of ours.
        heads: Attention heads of the transformer.
        layers: Its encoder layers.
        hidden: Width of its feed-forward blocks.
        dropout: Rate of dropout, see ``fedtrain.models.label_transformer.Layer``.
    """

    ule: Literal["auto", "name", "concat", "avg", "none"] = "auto"
    ca_mle: bool = True
    margin: float = 0.02
    label_masks: bool = True
    known: float = 0.75
    mask: Literal["auto", "all", "negatives"] = "auto"
    state_embeddings: Literal["text", "none"] = "text"
    class_weights: Literal["none", "inverse"] = "none"
    heads: int = 4
    layers: int = 3
    hidden: int = 512
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("margin", 0.5), ("known", 1.0), ("dropout", 1.0)):
            if not 0 <= getattr(self, name) < most:
                raise UsageError(f"{name}={getattr(self, name)} should be from 0 to below {most}")
        for name in ("heads", "layers", "hidden"):
            at_least(name, getattr(self, name), 1)


class FedLGT(NetworkMethod[FedLGTSettings]):
    """FedLGT (arXiv 2312.07165) and its ablations.

    Deviations: no dropout on attention weights (see ``fedtrain.models.label_transformer.Layer``); the server's model
    guides a client once a round, on its images as they are, not mirrored. As in the authors' code, states are frozen
    text features in FedC-Tran too; those of C-Tran itself are learned. ``freeze_backbone`` and ``backbone_lr`` are
    ours, and so is the projection of image tokens where the text encoder is not 512 wide. Single-label data are ours
    too: targets are one-hot, the loss stays, and ``ca_mle`` does next to nothing, since few probabilities are near 0.5.
    """

    Settings = FedLGTSettings
    rounds: ClassVar[int] = 50
    clients_per_round: ClassVar[int] = 50
    recordable = True

    def __init__(self, context: Context, settings: FedLGTSettings) -> None:
        from fedtrain.models import clip
        from fedtrain.models.label_text import embed, told

        encoder = clip.load(context.clip, context.device)
        if encoder.embed_dim % settings.heads:
            raise UsageError(f"heads={settings.heads}: should divide the text encoder's {encoder.embed_dim} features")
        context.say("encoding the labels")
        words = "name" if settings.ule == "none" else settings.ule
        texts = told(context.subset.entry, settings.labels, words, encoder)
        self._labels, self._states = embed(encoder, texts, context.cache)
        super().__init__(context, settings)
        self.counts_labels = settings.class_weights == "inverse"  # a server then tells its sites the counts of all
        self.weights = _weights(self.counts).to(context.device) if self.counts_labels else None

    def build(self) -> nn.Module:
        """The transformer over the labels' embeddings and the states'."""
        from fedtrain.models.label_transformer import LabelTransformer

        settings, states = self.settings, self._states
        return LabelTransformer(
            len(self.names),
            None if settings.ule == "none" else self._labels,
            torch.zeros_like(states) if settings.state_embeddings == "none" else states,
            heads=settings.heads,
            layers=settings.layers,
            hidden=settings.hidden,
            dropout=settings.dropout,
        )

    def loss(self, client: int, pictures: Pictures, shared: State, round_: int) -> Loss:  # noqa: ARG002
        """Binary cross-entropy summed over the labels of every image of a batch that are not shown to the network.

        The guide is the server's model. Labels that nobody knows are neither shown nor in the loss.
        """
        settings, count = self.settings, len(pictures.targets)
        negatives = settings.mask == "negatives" or (settings.mask == "auto" and not self.multi_label)
        unsure = torch.zeros_like(pictures.targets)
        if settings.ca_mle:
            with trace.phase("guide"):
                unsure = uncertain(self.judge(pictures.images), settings.margin)
        self.seeded("dropout", round_, client)
        masks: dict[int, torch.Tensor] = {}

        def given(rows: torch.Tensor, epoch: int) -> State:
            targets = pictures.targets[rows]
            if epoch not in masks:
                draws = generator(self.context.seed, "masks", round_, self.context.number(client), epoch)
                most = settings.known if settings.label_masks else 0.0
                masks[epoch] = known_labels(count, targets.shape[1], most, draws).to(targets.device)
            known = masks[epoch][rows] & ~unsure[rows]
            if negatives:
                known = known & ~targets
            left_out = known
            if pictures.unknown is not None:
                known, left_out = known & ~pictures.unknown[rows], known | pictures.unknown[rows]
            return {"states": states_of(targets, known), "left_out": left_out}

        return Recordable(given, self._unknown_loss)

    def _unknown_loss(self, images: torch.Tensor, targets: torch.Tensor, given: State) -> torch.Tensor:
        logits = self.module(images, given["states"], self.draws["dropout"])
        return unknown_loss(logits, targets, given["left_out"], self.weights)


def known_labels(count: int, labels: int, most: float, draws: torch.Generator) -> torch.Tensor:
    """Which labels of each image are known in an epoch: k of them at random, k uniform in 0..floor(most x labels).

    Returns:
        bool ``[count, labels]``.
    """
    k = torch.randint(int(most * labels) + 1, (count, 1), generator=draws)
    rank = torch.rand(count, labels, generator=draws).argsort(1).argsort(1)
    return rank < k


def uncertain(probabilities: torch.Tensor, margin: float) -> torch.Tensor:
    """Labels that the guide is unsure of: bool, where a probability is within ``margin`` of 0.5."""
    return (probabilities - 0.5).abs() <= margin


def states_of(targets: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """The state of each label, int64: the truth where it is known."""
    from fedtrain.models.label_transformer import NEGATIVE, POSITIVE, UNKNOWN

    truth = torch.where(targets, POSITIVE, NEGATIVE)
    return torch.where(known, truth, UNKNOWN)


def unknown_loss(
    logits: torch.Tensor, targets: torch.Tensor, known: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy summed over unknown labels, of logits float, targets bool, known bool, all ``[B, L]``."""
    weight = (~known).float() if weights is None else (~known).float() * weights
    return functional.binary_cross_entropy_with_logits(logits.float(), targets.float(), weight, reduction="sum")


def _weights(counts: Sequence[int]) -> torch.Tensor:
    inverse = 1 / torch.tensor(counts, dtype=torch.float32).clamp(min=1)
    return inverse / inverse.mean()
