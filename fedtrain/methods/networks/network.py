"""Train whole networks on clients' images, one client after another, for FedLGT and its baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from fedrsic_data.errors import DownloadError, UsageError
from fedrsic_data.settings import at_least, positive
from fedtrain import trace
from fedtrain.methods import multilabel
from fedtrain.methods.base import Context, Evaluation, Kind, Method, State, Update, label_space
from fedtrain.methods.labels import MultiLabel, SingleLabel, of_others
from fedtrain.methods.lazy import nn, torch
from fedtrain.methods.networks.album import Album, Pictures, ahead, normalised
from fedtrain.methods.networks.flat import Flat
from fedtrain.methods.networks.recorded import Recordable, Recorder
from fedtrain.seeds import generator

Loss: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]"
"""``(images [B, 3, H, W] normalised, targets bool [B, L], rows int64 [B] of the client, epoch) -> scalar``.

On a GPU, the steps of one that is ``Recordable`` are launched as one.
"""

_JUDGED = 64  # images at a time where nothing is trained


@dataclass(frozen=True)
class PictureSettings:
    """Settings for training a network at a client; the defaults are FedLGT's.

    Attributes:
        labels: ``coarse``, or ``fine`` where the dataset has finer labels.
        lr: Learning rate of Adam, which starts fresh at each client and round.
        backbone_lr: Learning rate of the backbone; None: ``lr``.
        freeze_backbone: In how many rounds, from the first, the backbone keeps its weights and statistics while the
            rest learns; ``always``: in all, and it is not sent. It needs pretrained weights.
        clip_norm: Gradients are scaled down to this norm.
        batch: Images a step; a last partial batch counts.
        epochs: Passes over a client's images in each round.
        max_images: Maximum images per client and round, drawn again each round; None: all.
        flip: Mirror images left to right at random.
        frozen_bn: Keep the batch-norm statistics and use them in training too, for clients with very few images.
        image_size: Images are resized to this height and width; None: 256, or the images' own size for sample data.
        backbone_weights: ``imagenet`` (torchvision's), ``none``, or the path of a safetensors file with
            torchvision's names; ``auto``: ``none`` for sample data, else ``imagenet``.
        memory: Bytes of decoded images kept from round to round.
    """

    labels: Literal["coarse", "fine"] = "coarse"
    lr: float = 1e-4
    backbone_lr: float | None = None
    freeze_backbone: int | Literal["always"] = 0
    clip_norm: float = 10.0
    batch: int = 16
    epochs: int = 5
    max_images: int | None = None
    flip: bool = True
    frozen_bn: bool = False
    image_size: int | None = None
    backbone_weights: Literal["auto", "imagenet", "none"] | str = "auto"
    memory: int = 4 * 2**30

    def __post_init__(self) -> None:
        for name in ("lr", "clip_norm"):
            positive(name, getattr(self, name))
        if self.backbone_lr is not None:
            positive("backbone_lr", self.backbone_lr)
        if self.freeze_backbone == "always" and self.backbone_lr is not None:
            raise UsageError(f"backbone_lr={self.backbone_lr}: freeze_backbone=always trains no backbone; set one")
        if self.freeze_backbone != "always":
            at_least("freeze_backbone", self.freeze_backbone, 0)
        for name in ("batch", "epochs"):
            at_least(name, getattr(self, name), 1)
        at_least("max_images", 1 if self.max_images is None else self.max_images, 1)
        at_least("memory", self.memory, 0)
        if self.image_size is not None and not 64 <= self.image_size <= 2048:
            raise UsageError(f"image_size={self.image_size} should be from 64 to 2,048 pixels")


S = TypeVar("S", bound=PictureSettings)


class NetworkMethod(Method, Generic[S]):
    """A method that trains one network on clients' own images, client after client; all of it is shared.

    A subclass gives ``build`` and ``loss``. The network is in memory once, whatever the cohort.

    Attributes:
        recordable: Whether the network computes the same kernels for all images of a shape and waits for no value of
            the GPU. Then its judging is recorded there; for its training, ``loss`` gives a ``Recordable`` too.
        multi_label: Whether an image may have several labels. If not, the targets of an image are its class alone.
        names: Names of the labels, in index order.
        counts: Training rows of each.
        album: The images.
        module: The network.
        flat: Its trained parameters and statistics.
        draws: Generators on the device that losses draw from, by what they draw; see ``seeded``.
    """

    settings: S
    kinds: ClassVar[tuple[Kind, ...]] = ("single-label", "multi-label")
    leaves_out_unknown: ClassVar[bool] = True
    judges_neighbours: ClassVar[bool] = True
    files: ClassVar[tuple[str, ...]] = ("backbone_weights",)
    recordable: bool = False

    def __init__(self, context: Context, settings: S) -> None:
        """Draws fresh weights from the run's seed, and loads the backbone's if the settings name some.

        Raises:
            UsageError: There are no fine labels, the weights do not fit, or there are novel classes.
            DownloadError: The weights cannot be had.
        """
        super().__init__(context, settings)
        if context.subset.entry.novel:
            raise UsageError(
                "base_to_novel: a network has outputs for the classes it was trained on; use a prompt method"
            )
        if context.neighbour and not self.sends_all_the_same:
            raise UsageError(
                "neighbour=true: evaluates one network that all clients receive, not one of each; leave it out"
            )
        if any(context.subset.class_sources):
            raise UsageError(
                "classes=apart: each dataset is evaluated among its own classes, and a network has one output for all; "
                "use a prompt method"
            )
        self.multi_label = context.subset.entry.multi_label
        self.names, self.counts = label_space(context, settings.labels)
        recipe = context.subset.dataset.manifest.recipe
        size = settings.image_size or (max(64, recipe.sample.size) if recipe.sample else 256)
        self.album = Album(
            context.subset, settings.labels, size, context.device, settings.memory, held_out=context.held_out
        )
        with torch.random.fork_rng(devices=[]):  # modules draw their weights from torch's default generator
            torch.manual_seed(generator(context.seed, "weights").initial_seed())
            self.module = self.build()
        weights = settings.backbone_weights
        weights = ("none" if recipe.sample else "imagenet") if weights == "auto" else weights
        if weights != "none":
            _load_backbone(self._backbone, weights)
        if settings.freeze_backbone == "always":
            self._backbone.requires_grad_(False)
        self.flat = Flat(self.module.to(context.device))
        self.draws: dict[str, torch.Generator] = {}
        self._optimisers: dict[bool, torch.optim.Adam] = {}
        self._recorders: dict[Any, Recorder] = {}

    def build(self) -> nn.Module:
        """A fresh network that has a ``backbone``: images ``[B, 3, H, W]`` to logits ``[B, L]``."""
        raise NotImplementedError

    def loss(self, client: int, pictures: Pictures, shared: State, round_: int) -> Loss:
        """The loss of a client in a round; called while the network is the server's.

        Args:
            client: Its number.
            pictures: The images that it trains on.
            shared: The server's state.
            round_: Which round.
        """
        raise NotImplementedError

    def shared(self) -> State:
        """Trained parameters and batch-norm statistics, no table and no counter."""
        return self.flat.state()

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:  # noqa: ARG002
        """Trains clients in turn, while the images of the next are decoded; see ``Method.train``."""
        for client, pictures in zip(clients, ahead(self.pictures(c, round_) for c in clients), strict=True):
            yield self._trained(shared, client, pictures, round_)

    def evaluate(self, shared: State, personal: Callable[[int], State], split: str) -> Evaluation:
        """Judges the network that each client received on a whole split; see ``figures``.

        Leave-one-domain-out: rows of the held-out domain are in none of these metrics; those on them have
        ``held_out/`` in front, and the accuracy is ``held_out`` itself.

        ``neighbour`` is given where the context asks for it: per client that trains, the metric ``local`` of the
        network on the rows of all other clients.
        """
        scores = self.scores(shared, personal, split)
        found = self.figures(scores)
        if self.context.neighbour:
            found = replace(found, clients={**found.clients, "neighbour": self._of_others(scores)})
        if self.context.held_out is None:
            return found
        apart = self.figures(self._scores(shared, split, held_out=True)).metrics
        names = {name: f"held_out/{name}" for name in apart if name != "shared"} | {"pooled": "held_out"}
        apart = {names[name]: value for name, value in apart.items() if name in names}
        return replace(found, metrics={**found.metrics, **apart})

    @property
    def ranks(self) -> bool:
        """Average precisions rank the rows of all clients; see ``Ranked``."""
        return True

    def scores(self, shared: State, personal: Callable[[int], State], split: str) -> State:  # noqa: ARG002
        """Probabilities ``scores`` float32 and ``targets`` bool, ``[N, L]``, and ``owner`` int64 ``[N]`` of a split."""
        return self._scores(shared, split)

    def _scores(self, shared: State, split: str, *, held_out: bool = False) -> State:
        parts = [(self.judge(p.images), p.targets, p.owner) for p in self._loaded(shared, split, held_out)]
        names = ("scores", "targets", "owner")
        return dict(zip(names, map(torch.cat, zip(*parts, strict=True)), strict=True)) if parts else {}

    def _loaded(self, shared: State, split: str, held_out: bool) -> Iterator[Pictures]:
        """The images of a split, some at a time, each with its client's network in memory."""
        if self.sends_all_the_same:
            self.flat.load(shared)
            yield from ahead(self.album.split(split, held_out=held_out))
            return
        for client in range(len(self.context.clients)):
            self.flat.load(self.received(client, shared))
            yield self.album.client(client, split, held_out=held_out)

    def figures(self, scores: State) -> Evaluation:
        """Metrics of scores of all clients; ``AP/<label>`` for up to 100 labels, but not of a site by itself.

        Multi-label: those of ``multilabel.figures``, and per client ``local``, its mean average precision, and its
        overall F1. Single-label: ``pooled``, the accuracy by the surest class, and per client ``local``; ``shared``,
        the same where all clients receive the same network; ``C-AP`` and ``O-AP``.
        """
        if not scores:
            return Evaluation({})
        judged, targets, owner = (scores[name] for name in ("scores", "targets", "owner"))
        figures = multilabel.figures(judged, targets, top=3)
        over: dict[str, int] = {}
        clients = len(self.context.clients)
        if self.multi_label:
            each = {"O-F1 of clients": multilabel.overlap(judged, targets, owner, clients).tolist()}
            each["local"] = MultiLabel().of_clients(judged, targets, owner, clients)
        else:
            answers, classes = judged.argmax(1), targets.int().argmax(1)
            each = {"local": SingleLabel().of_clients(answers, classes, owner, clients)}
            right = dict.fromkeys(
                ("pooled", "shared") if self.sends_all_the_same else ("pooled",),
                SingleLabel().measure(answers, classes),
            )
            figures = right | {name: figures[name] for name in ("C-AP", "O-AP")}
            over = dict.fromkeys(right, len(classes))
        if not self.context.numbers:
            figures |= multilabel.by_label(judged, targets, self.names)
        return Evaluation(
            metrics=figures,
            clients=each,
            over=over,
            rows=torch.bincount(owner, minlength=clients).tolist(),
        )

    def _of_others(self, scores: State) -> list[float]:
        """``neighbour`` of a network that all clients received."""
        answers, labels = scores["scores"], scores["targets"]
        kind = MultiLabel() if self.multi_label else SingleLabel()
        if not self.multi_label:
            answers, labels = answers.argmax(1), labels.int().argmax(1)
        return [
            of_others(kind, answers, labels, scores["owner"], client) if rows else float("nan")
            for client, rows in enumerate(self.context.rows)
        ]

    @property
    def _backbone(self) -> nn.Module:
        return self.module.get_submodule("backbone")

    def pictures(self, client: int, round_: int) -> Pictures:
        """The images a client trains on this round."""
        whole = self.album.client(client)
        most = self.settings.max_images
        if most is None or len(whole.owner) <= most:
            return whole
        drawn = torch.randperm(
            len(whole.owner), generator=generator(self.context.seed, "rows", round_, self.context.number(client))
        )
        return whole.take(drawn[:most].sort().values.to(whole.owner.device))

    def _trained(self, shared: State, client: int, pictures: Pictures, round_: int) -> Update:
        self.flat.load(shared)
        loss = self.loss(client, pictures, shared, round_)
        settings = self.settings
        frozen = settings.freeze_backbone == "always" or round_ <= settings.freeze_backbone
        self.module.train()
        if settings.frozen_bn:
            for module in self.module.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        if frozen:
            self._backbone.eval()
        self._backbone.requires_grad_(not frozen)
        with trace.phase("training"):
            mean = self._epochs(loss, client, pictures, round_, frozen)
        return Update(client, len(pictures.owner), self.flat.state(), {}, mean)

    def _epochs(self, loss: Loss, client: int, pictures: Pictures, round_: int, frozen: bool) -> float:
        """The steps of a client in a round: their mean loss."""
        settings, count = self.settings, len(pictures.owner)
        self._begin(frozen)
        total = torch.zeros((), dtype=torch.float64, device=self.context.device)
        for epoch in range(settings.epochs):
            draws = generator(self.context.seed, "order", round_, self.context.number(client), epoch)
            order = torch.randperm(count, generator=draws)
            flips = (torch.rand(count, generator=draws) < 0.5) & settings.flip
            flips = flips[order].to(self.context.device)
            order = order.to(self.context.device)
            for rows, flip in zip(torch.split(order, settings.batch), torch.split(flips, settings.batch), strict=True):
                batch = {"images": pictures.images[rows], "targets": pictures.targets[rows], "flip": flip}
                key = (frozen, tuple(batch["images"].shape))
                total += trace.step(key, len(rows), partial(self._step, loss, batch, rows, epoch, frozen))
        return float(total) / (settings.epochs * -(-count // settings.batch))

    def _begin(self, frozen: bool) -> None:
        """An optimiser that has seen nothing."""
        if frozen not in self._optimisers:
            here = self.context.device.type == "cuda"
            groups = self._groups(frozen)
            self._optimisers[frozen] = torch.optim.Adam(groups, lr=self.settings.lr, fused=True, capturable=here)
        for state in self._optimisers[frozen].state.values():
            for value in state.values():
                value.zero_()

    def _step(self, loss: Loss, batch: State, rows: torch.Tensor, epoch: int, frozen: bool) -> torch.Tensor:
        """One step of training on a batch of images uint8, targets and flips, recorded where that can be: the loss."""
        if not isinstance(loss, Recordable):
            return self._descended(lambda images, targets, _: loss(images, targets, rows, epoch), batch, frozen)
        given = {f"given {name}": value for name, value in loss.given(rows, epoch).items()}
        step = self._recorded(partial(self._descended, loss.of, frozen=frozen), loss.of, frozen)
        return step(batch | given)

    def _descended(
        self, of: Callable[[torch.Tensor, torch.Tensor, State], torch.Tensor], batch: State, frozen: bool
    ) -> torch.Tensor:
        """Moves the parameters by one step: the loss before it."""
        given = {name.removeprefix("given "): value for name, value in batch.items() if name.startswith("given ")}
        optimiser = self._optimisers[frozen]
        assert self.flat.parameters.grad is not None
        self.flat.parameters.grad.zero_()
        with self.autocast():
            value = of(normalised(batch["images"], batch["flip"]), batch["targets"], given)
        value.backward()  # type: ignore[no-untyped-call]
        learning = [part for group in optimiser.param_groups for part in group["params"]]
        with trace.phase("optimiser"):
            nn.utils.clip_grad_norm_(learning, self.settings.clip_norm)
            optimiser.step()
        return value.detach()

    def _recorded(self, function: Callable[[State], torch.Tensor], *key: Any) -> Callable[[State], torch.Tensor]:
        """A function of tensors, on a GPU with its recordings; functions of the same key are the same."""
        if not self.recordable or self.context.device.type != "cuda":
            return function
        if key not in self._recorders:
            self._recorders[key] = Recorder(function, tuple(self.draws.values()))
        return self._recorders[key]

    @property
    def recordings(self) -> int:
        """The number of recordings; see ``Recorder``."""
        return sum(map(len, self._recorders.values()))

    def seeded(self, purpose: str, round_: int, client: int) -> torch.Generator:
        """A generator on the device for a client's draws in a round: the same object every time, as recordings need."""
        seeded = generator(self.context.seed, purpose, round_, self.context.number(client))
        if purpose not in self.draws:
            self.draws[purpose] = torch.Generator(self.context.device)
        return self.draws[purpose].manual_seed(seeded.initial_seed())

    def _groups(self, frozen: bool) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser, with separate learning rates if set."""
        rate = self.settings.backbone_lr
        if not frozen and rate is None:
            return [{"params": [self.flat.parameters]}]
        inside, outside = self.flat.parts(self._backbone)
        groups: list[dict[str, Any]] = [{"params": outside}]
        return groups if frozen else [*groups, {"params": inside, "lr": rate}]

    def judge(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 ``[n, L]`` of images uint8 ``[n, 3, H, W]``, in evaluation mode.

        The network's mode and statistics are as before afterwards.
        """
        was = self.module.training
        self.module.eval()
        judged = self._recorded(self._judged, "judge")
        found = [judged({"images": part}) for part in torch.split(images, _JUDGED)]
        self.module.train(was)
        return torch.cat(found) if found else torch.zeros(0, len(self.names), device=images.device)

    def _judged(self, inputs: State) -> torch.Tensor:
        with torch.no_grad(), self.autocast():
            return self.probabilities(self.module(normalised(inputs["images"])).float())

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities of labels from logits, ``[n, L]`` both: by default each label by itself."""
        return logits.sigmoid()

    def autocast(self) -> torch.autocast:
        """Where the run's precision says so, bfloat16."""
        return torch.autocast(self.context.device.type, torch.bfloat16, enabled=self.context.precision == "bfloat16")


def _load_backbone(backbone: nn.Module, weights: str) -> None:
    if weights == "imagenet":
        from torchvision.models import ResNet18_Weights

        try:
            state = ResNet18_Weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            raise DownloadError(
                f"backbone_weights=imagenet: cannot be downloaded ({error}); give a file or set backbone_weights=none"
            ) from None
    else:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise UsageError(f"backbone_weights={weights}: not a safetensors file that can be read ({error})") from None
    wanted = backbone.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    if missing or any(state[n].shape != wanted[n].shape for n in wanted if n in state):
        raise UsageError(
            f"backbone_weights={weights}: are not for ResNet-18 ({(missing or ['other shapes'])[0]} is missing)"
        )
    backbone.load_state_dict({name: state[name] for name in wanted if name in state}, strict=False)
