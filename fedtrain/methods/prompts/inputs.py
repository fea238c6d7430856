"""The inputs of prompt methods: the images of a federation as features, and its class names as text features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import suggest
from fedtrain.methods.base import Context, label_space
from fedtrain.methods.lazy import functional, torch
from fedtrain.methods.prompts.features import FeatureKind, Features, Kept, features

if TYPE_CHECKING:
    from fedrsic_data.dataset.recipe import Recipe
    from fedtrain.models.clip import Clip
    from fedtrain.models.prompts import PromptEncoder

TRAIN, NOVEL = "train", "novel"

Template = str | tuple[str, ...]
"""Words around a class name, with ``{}`` for it; several are averaged."""

TEMPLATE = "a photo of a {}."
"""The words that CLIP's authors put around a class name."""

RECIPE = "recipe"
"""The template that stands for the one that the recipe of a dataset recommends; see ``recommended``."""

_SATELLITE = "a centered satellite photo of {}."
_OF_SOURCES = dict.fromkeys(
    ("aid-multilabel", "mlrsnet", "optimal31", "resisc45", "ucmerced", "ucmerced-multilabel"), _SATELLITE
)
"""Templates for sources whose recipes are older than their field ``template``, and keep their digests without it."""


@dataclass(frozen=True)
class FeatureRows:
    """Rows of a split, those of a client side by side.

    Attributes:
        images: Features as ``Features.values`` has them: training rows of a method with several views have all of them.
        labels: int64 ``[N]``, places in the label space they are judged in; multi-label int8 ``[N, C]``, see
            ``fedtrain.methods.labels``.
        starts: First row of each client and the end, int64 ``[clients + 1]`` on the CPU.
    """

    images: torch.Tensor
    labels: torch.Tensor
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, client: int) -> slice:
        """A client's rows."""
        return slice(self.starts[client], self.starts[client + 1])

    def among(self, places: Sequence[int]) -> FeatureRows:
        """The rows of some classes, by their rising places in the label space; labels are places among them."""
        some = torch.tensor(places, device=self.labels.device)
        mask = torch.isin(self.labels, some)
        before = torch.cat((mask.new_zeros(1, dtype=torch.long), mask.cumsum(0)))
        labels = torch.searchsorted(some, self.labels[mask])
        return FeatureRows(self.images[mask.to(self.images.device)], labels, tuple(before[list(self.starts)].tolist()))

    def counts(self) -> list[int]:
        """Rows of each client."""
        return [end - start for start, end in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def owner(self) -> torch.Tensor:
        """The client of each row, int64 ``[N]``."""
        counts = torch.tensor(self.counts(), device=self.labels.device)
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


class Images:
    """The rows of a subset by split: base and novel classes each labelled from 0, a held-out domain apart."""

    def __init__(
        self,
        context: Context,
        clip: Clip,
        *,
        labels: str = "coarse",
        kind: FeatureKind = "global",
        kept: Kept = "float16",
        views: int = 1,
    ) -> None:
        """Binds a subset to a CLIP; images are encoded on first use.

        Args:
            context: The federation.
            clip: Frozen.
            labels: ``coarse``, or ``fine`` where the dataset has finer labels.
            kind: Features of an image, see ``features``.
            kept: Numbers that features with patches are kept in.
            views: Random views of each training image, drawn with the run's seed; 1: the view of evaluation. Other
                splits have that one always.

        Raises:
            UsageError: No such labels, fewer than two classes to tell apart, no such domain, or several views of
                patches.
        """
        if kind == "patches" and views > 1:
            raise UsageError(
                f"views={views}: this method reads the patches of images, about 200 kB a view; it takes one view, "
                "so leave views out"
            )
        entry, subset = context.subset.entry, context.subset
        names, _ = label_space(context, labels)
        self.classes = tuple(name for name in names if name not in entry.novel)
        self.novel = entry.novel
        if len(self.classes) < 2:
            raise UsageError(f"{subset.name} has {len(self.classes)} class to train on; at least 2 are needed")
        if context.held_out is not None:
            lists = subset.client_table.column("domains").to_pylist()
            domains = sorted({domain for held in lists for domain in held})
            if context.held_out not in domains:
                raise UsageError(
                    f"held_out={context.held_out!r}: {subset.name} has no such domain"
                    f"{suggest(context.held_out, domains)}"
                )
        self._context = context
        self._clip, self._kind, self._kept, self._views, self._labels = clip, kind, kept, views, labels
        self._splits: dict[str, Features] = {}
        self._rows: dict[tuple[str, bool], FeatureRows] = {}

    def rows(self, split: str, *, held_out: bool = False) -> FeatureRows:
        """Rows of a split.

        Args:
            split: The split ``novel`` has labels among the novel classes, every other among the base classes.
            held_out: Those of the held-out domain instead of all others.
        """
        if (split, held_out) not in self._rows:
            self._rows[split, held_out] = self._select(split, held_out)
        return self._rows[split, held_out]

    def _select(self, split: str, held_out: bool) -> FeatureRows:
        context = self._context
        if split not in self._splits:
            self._splits[split] = features(
                self._clip,
                context.subset,
                split,
                cache=context.cache,
                say=context.say,
                labels=self._labels,
                kind=self._kind,
                kept=self._kept,
                views=self._views if split == TRAIN else 1,
                seed=context.seed,
            )
        found = self._splits[split]
        values, labels, client = found.values, found.labels.cpu(), found.client.cpu()
        if context.held_out is not None:
            apart = torch.tensor([name == context.held_out for name in found.domains], dtype=torch.bool)
            mask = apart[found.domain.cpu()] == held_out
            values, labels, client = values[mask.to(values.device)], labels[mask], client[mask]
        if not context.subset.entry.multi_label:
            names = self.novel if split == NOVEL else self.classes
            place = {name: i for i, name in enumerate(names)}
            labels = torch.tensor([place.get(name, -1) for name in context.subset.classes])[labels]
            assert bool((labels >= 0).all()), f"{split}: a row of a class that is not of the split"
        starts = torch.searchsorted(client, torch.arange(len(context.clients) + 1)).tolist()
        return FeatureRows(values.to(context.device), labels.to(context.device), tuple(starts))


class Classes:
    """Class names in index order, and their text features.

    Attributes:
        names: As the federation has them.
        places: The place of each class among those that these were taken from, see ``only``.
        sources: The source of each class where sources keep their classes apart, ``SOURCE/CLASS``; "" elsewhere.
    """

    def __init__(
        self, clip: Clip, names: Sequence[str], precision: str = "float32", sources: Mapping[str, str] | None = None
    ) -> None:
        """Binds names to a CLIP.

        Args:
            clip: Frozen.
            names: In index order; underscores are read as spaces.
            precision: ``bfloat16`` for autocast of the text encoder under learned contexts.
            sources: The source of each name that begins with it; texts have the name without it.
        """
        self.names = tuple(names)
        self.places = tuple(range(len(self.names)))
        self.sources = tuple((sources or {}).get(name, "") for name in names)
        self._words = [
            name.removeprefix(f"{source}/" if source else "") for name, source in zip(names, self.sources, strict=True)
        ]
        self._clip = clip
        self._precision = precision
        self._encoders: dict[int, PromptEncoder] = {}
        self._fixed: dict[Template, torch.Tensor] = {}
        self._whole: tuple[Classes, list[int]] | None = None
        self._parts: dict[tuple[int, ...], Classes] = {}

    def __len__(self) -> int:
        return len(self.names)

    def only(self, places: Sequence[int]) -> Classes:
        """Some of the classes, by their places; their texts in fixed words are taken from those of all."""
        key = tuple(places)
        if key not in self._parts:
            names, sources = [self.names[place] for place in key], dict(zip(self.names, self.sources, strict=True))
            self._parts[key] = some = Classes(self._clip, names, self._precision, sources)
            some.places, some._whole = tuple(self.places[place] for place in key), (self, list(key))
        return self._parts[key]

    def datasets(self) -> dict[str, tuple[int, ...]]:
        """Places of the classes of each source; of all classes, under "", where sources do not keep theirs apart."""
        found: dict[str, list[int]] = {}
        for place, source in enumerate(self.sources):
            found.setdefault(source, []).append(place)
        return {source: tuple(places) for source, places in found.items()}

    def under(self, context: torch.Tensor) -> torch.Tensor:
        """Text features under learned contexts.

        Args:
            context: float32 ``[K, m, d]``; any m.

        Returns:
            float32 ``[K, C, embed_dim]``, L2-normalised, differentiable in ``context``.
        """
        from fedtrain.models.prompts import PromptEncoder

        length = context.shape[1]
        if length not in self._encoders:
            self._encoders[length] = PromptEncoder(self._clip, self._words, length)
        with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=self._precision == "bfloat16"):
            return self._encoders[length](context).float()

    def fixed(self, template: Template) -> torch.Tensor:
        """Text features of the names in fixed words; encoded once.

        Args:
            template: With ``{}`` for the name. The features under several are averaged, as CLIP's authors do.

        Returns:
            float32 ``[C, embed_dim]``, L2-normalised.
        """
        if template not in self._fixed:
            self._fixed[template] = self._encoded(template)
        return self._fixed[template]

    def _encoded(self, template: Template) -> torch.Tensor:
        if self._whole is not None:
            whole, places = self._whole
            return whole.fixed(template)[places]
        each = torch.stack([self._clip.encode_texts(self.texts(one)) for one in templates(template)])
        return each[0] if len(each) == 1 else functional.normalize(each.mean(0), dim=-1)

    def check(self, *, length: int | None = None, template: Template | None = None) -> None:
        """Checks that the names are not too long, before any image is encoded.

        Args:
            length: Length of the contexts before them.
            template: The fixed words around them.

        Raises:
            UsageError: A text is too long for the CLIP; the message names it.
        """
        from fedtrain.models.prompts import class_tokens

        if length is not None:
            class_tokens(self._clip, self._words, length)
        for one in () if template is None else templates(template):
            self._clip.tokenize(self.texts(one))

    def texts(self, template: str) -> list[str]:
        """The names in a template."""
        return [template.replace("{}", name.replace("_", " ")) for name in self._words]


def templates(template: Template) -> tuple[str, ...]:
    """The templates that are averaged, one or several."""
    return (template,) if isinstance(template, str) else template


def check_template(name: str, template: Template) -> None:
    """Checks a setting that is to hold a class name, or is ``RECIPE``.

    Raises:
        UsageError: There is not exactly one ``{}`` in a template, there is none, or one occurs twice.
    """
    several = templates(template)
    if not several or len(set(several)) < len(several):
        raise UsageError(f"{name}={list(several)} should name at least one template, each once")
    for one in several if template != RECIPE else ():
        if one.count("{}") != 1:
            raise UsageError(f"{name}={one!r} should have one {{}} for the class name, e.g. {TEMPLATE!r}")


def recommended(recipe: Recipe, subset: str) -> Template:
    """The template that a recipe recommends for a subset: its own, or that of its sources if they have one in common.

    Raises:
        UsageError: There is none.
    """
    its = recipe.subsets[subset]
    if its.template:
        return its.template[0] if len(its.template) == 1 else its.template
    known = {_OF_SOURCES.get(recipe.sources.get(name, {}).get("kind", name)) for name in its.sources}
    found = known.pop() if len(known) == 1 else None
    if found is None:
        raise UsageError(f"template={RECIPE}: the recipe of {subset} recommends none; give one, e.g. {TEMPLATE!r}")
    return found


def cosine_loss(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Mean over classes of 1 - cosine: ``[K, C, e]`` and ``[K, C, e]`` or ``[C, e]``, L2-normalised, to ``[K]``."""
    return (1 - (left * right).sum(-1)).mean(-1)
