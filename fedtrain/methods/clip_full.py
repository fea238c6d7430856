"""Full fine-tuning: the server averages CLIP's image tower, or all of CLIP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from fedtrain.methods.base import Context, State
from fedtrain.methods.lazy import functional, torch
from fedtrain.methods.prompts.cohort import Adam, Batch
from fedtrain.methods.prompts.features import FeatureKind
from fedtrain.methods.prompts.inputs import TEMPLATE, Classes, FeatureRows, Template, check_template, templates
from fedtrain.methods.prompts.training import TrainedMethod, TrainingSettings

_JUDGED = 64  # images encoded at a time where nothing is trained
_COPIES = 9  # the frozen CLIP, the server's state, a client's, its gradient, two moments, its update, a mean in float64


@dataclass(frozen=True)
class ClipFullSettings(TrainingSettings):
    """Settings of ``clip-full``: those of ``TrainingSettings``, and these.

    Attributes:
        lr: Learning rate of AdamW, which starts fresh at every client in every round.
        weight_decay: Its decay of the weights.
        epochs: Passes over a client's rows in a round.
        parts: ``image``, the image tower; or ``all``, the text tower and the scale of logits too.
        template: The words, with ``{}`` for the class name; several are averaged; ``recipe``: those that the dataset's
            recipe recommends.
    """

    lr: float = 1e-5
    weight_decay: float = 0.1
    epochs: int = 1
    parts: Literal["image", "all"] = "image"
    template: Template = TEMPLATE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_template("template", self.template)


class ClipFull(TrainedMethod[ClipFullSettings]):
    """FedAvg (McMahan et al. 2017, arXiv 1602.05629) of CLIP itself: the baseline of FedCLIP (arXiv 2302.13485).

    Clients minimise the cross-entropy of exp(logit_scale) x cosine to the texts of the class names, and the server
    averages all weights. The first round begins at zero-shot CLIP.

    **Its cost** is that of whole networks: with ViT-B/16, ``parts=image`` sends 86 million floats (345 MB) per client
    and round, where a prompt of 16 vectors sends 8,192, and ``all`` 150 million; memory holds about nine copies of
    them, besides activations and the decoded images (150 kB each). No feature is cached, since the encoder changes.
    The numbers are said before training begins. It is meant for small federations on a GPU.

    Deviations: FedCLIP's authors train all of CLIP; our default, optimiser and rates are choices of ours. Batch norms
    of ResNets keep CLIP's statistics. All weights decay alike, and images are not augmented unless ``views`` says so.
    Multi-label data are ours too: a shared bias learns along, as in prompt methods.
    """

    Settings = ClipFullSettings
    rounds: ClassVar[int] = 50
    features: ClassVar[FeatureKind] = "pixels"

    def __init__(self, context: Context, settings: ClipFullSettings) -> None:
        super().__init__(context, settings)
        self.stack = 1  # two clients that step as one would take twice the memory
        held = dict(self.clip.model.named_parameters())
        self._trained_shapes = {
            name: value.shape for name, value in held.items() if settings.parts == "all" or name.startswith("visual.")
        }
        self._start = torch.cat([held[name].detach().reshape(-1).float() for name in self._trained_shapes])
        self._judged: tuple[State, dict[tuple[str, bool], FeatureRows]] = {}, {}
        if not context.numbers:
            count, size = len(self._start), 4 * len(self._start)
            context.say(
                f"clip-full: a client trains and sends {count:,} floats ({size / 1e6:,.1f} MB) per round; with "
                f"gradients and AdamW they take about {_COPIES * size / 1e9:,.2f} GB of memory, besides activations "
                "and images"
            )

    def check_names(self, classes: Classes) -> None:
        """Checks class names in the template; see ``ClipMethod.check_names``."""
        classes.check(template=self.settings.template)

    def shared(self) -> State:
        """The weights of the trained part of CLIP, ``[P]``, and on multi-label data a bias."""
        return {"parameters": self._start.clone(), **self.offset()}

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features of the class names in the template: by the frozen text tower once, or by the trained one."""
        if self.settings.parts == "image":
            return classes.fixed(self.settings.template)[None]
        (weights,) = state["parameters"][:1]
        each = [self._encoded(weights, text=self._tokens(classes, one)) for one in templates(self.settings.template)]
        return functional.normalize(torch.stack(each).mean(0), dim=-1)[None]

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """As ``text``."""
        return self.text({"parameters": shared["parameters"][None]}, classes)[0]

    def logits(self, images: torch.Tensor, text: torch.Tensor, state: State) -> torch.Tensor:
        """Scale x cosine, of features that the state's image tower made; the scale is trained with ``parts=all``."""
        if self.settings.parts == "image":
            return super().logits(images, text, state)
        place = list(self._trained_shapes).index("logit_scale")
        scale = torch.split(state["parameters"], self._sizes(), dim=-1)[place].exp()
        return scale[..., None] * (images @ text.mT)

    def loss(self, live: State, batch: Batch, shared: State) -> torch.Tensor:
        """The loss of the labels of one client's batch, whose images the tower in training encodes."""
        full = batch.weight[0] > 0  # the last batch of an epoch is filled up
        images = self._encoded(live["parameters"][0], image=self.clip.pixels(batch.images[0, full]))
        own = Batch(images[None], batch.labels[:, full], batch.weight[:, full])
        return super().loss(live, own, shared)

    def optimiser(self, name: str) -> Adam:
        """AdamW; a bias does not decay."""
        decay = 0.0 if name == "bias" else self.settings.weight_decay
        return Adam(self.settings.lr, decay, decoupled=True)

    def judged_rows(self, shared: State, split: str, *, held_out: bool = False) -> FeatureRows:
        """Rows whose images the tower of a state encodes, once for all that is judged of it."""
        if self._judged[0] is not shared:
            self._judged = shared, {}
        known, key = self._judged[1], (split, held_out)
        if key not in known:
            rows = self.images.rows(split, held_out=held_out)
            with torch.no_grad():
                found = [
                    self._encoded(shared["parameters"], image=self.clip.pixels(part))
                    for part in (torch.split(rows.images, _JUDGED) if len(rows) else ())
                ]
            known[key] = replace(rows, images=torch.cat(found) if found else self.base.fixed(TEMPLATE)[:0])
        return known[key]

    def _encoded(self, weights: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        """Features of norm 1, float32 ``[n, embed_dim]``, of an ``image`` or ``text`` under weights ``[P]``."""
        parts = torch.split(weights, self._sizes())  # one gradient of [P], where slices would make one each
        named = {
            name: part.view(shape) for part, (name, shape) in zip(parts, self._trained_shapes.items(), strict=True)
        }
        with torch.autocast(self.context.device.type, torch.bfloat16, enabled=self.context.precision == "bfloat16"):
            found: Any = torch.func.functional_call(self.clip.model, named, (), given)
        (features,) = (one for one in found[:2] if one is not None)
        return functional.normalize(features.float(), dim=-1)

    def _sizes(self) -> list[int]:
        return [shape.numel() for shape in self._trained_shapes.values()]

    def _tokens(self, classes: Classes, template: str) -> torch.Tensor:
        return self.clip.tokenize(classes.texts(template)).to(self.context.device)
