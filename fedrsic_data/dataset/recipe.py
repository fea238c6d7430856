"""A recipe's shape: sources, label spaces, splits, partition, seed and shard layout, as plain data.

Which sources and partitioners there are is not known here; see ``recipes.resolve``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedrsic_data.dataset.schema import NOVEL, TRAIN
from fedrsic_data.errors import ManifestError, UsageError, translated
from fedrsic_data.settings import LATER, at_least, encode, once, positive, suggest

SCHEMA = 1
"""Version of the recipe format, and of manifests whose labels are all known."""

UNKNOWN_LABELS = 2
"""Version of manifests in which labels are unknown: an older fedkit, which would read them as absent, refuses it."""

DEFAULT_PARTITION = {"name": "dirichlet"}
"""The partition of a recipe that names none."""

SAMPLE = "procedural sample, not real data"
"""Note on lines that show metrics of a sample."""

SAMPLE_WARNING = (
    "procedurally rendered stand-ins, under the real class names or, for label sets, their own. Figures measured on "
    "them say nothing about the real datasets."
)
"""Note on pages about a sample; the card of every built sample holds these words."""

By = Literal["sample", "client", "group", "source"]
"""Unit that is held out: images of every client, clients, or natural users; or the splits of the source."""

_RESERVED = ("manifest.json", "plan.parquet", "clients.parquet", "readme.md")

_PARTS = ("sample", "hidden_labels", "annotated_labels")
_APART = ("fedkit", "name", "title", "seed", "subsets", "layout", "partition", "splits", "sources", *_PARTS)
"""Fields that ``Recipe.settings_of`` gives in another form, or that change no row of a subset."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_MOST_FILES = 300  # clients up to which each gets files of its own, in layout "auto"


@dataclass(frozen=True)
class Layout:
    """Layout of rows in files.

    Attributes:
        files: ``client``: a file for each client and split. ``packed``: clients together in larger shards.
            ``auto``: ``client`` up to 300 clients.
        row_group_bytes: Image bytes after which a row group ends. A row group never holds two clients.
        shard_bytes: Target image bytes of a packed shard.
    """

    files: Literal["auto", "client", "packed"] = "auto"
    row_group_bytes: int = 16 * 2**20
    shard_bytes: int = 300 * 10**6

    def __post_init__(self) -> None:
        at_least("row_group_bytes", self.row_group_bytes, 1)
        if self.row_group_bytes > 32 * 2**20:  # one more image of 64 MiB keeps it under 100 MB
            raise UsageError(f"row_group_bytes={self.row_group_bytes} should be at most {32 * 2**20}")
        at_least("shard_bytes", self.shard_bytes, 1)

    def packed(self, clients: int) -> bool:
        """Whether so many clients of a subset are together in shards."""
        return self.files == "packed" or (self.files == "auto" and clients > _MOST_FILES)


@dataclass(frozen=True)
class SampleSettings:
    """Number and size of the rendered images.

    Attributes:
        per_class: Images per class, for single-label sources.
        users: Photographers with about eight photographs each, for multi-label sources.
        size: Side in pixels, 32 to 512.
        seed: Seed of the scenes, apart from the recipe's own seed.
    """

    per_class: int = 40
    users: int = 200
    size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.per_class <= 1_000_000:
            raise UsageError(f"per_class={self.per_class} should be from 1 to 1,000,000 images")
        if not 10 <= self.users <= 1_000_000:  # fewer may lack a split
            raise UsageError(f"users={self.users} should be from 10 to 1,000,000")
        at_least("seed", self.seed, 0)
        if not 32 <= self.size <= 512:
            raise UsageError(f"size={self.size} should be from 32 to 512 pixels")


@dataclass(frozen=True)
class HiddenLabels:
    """A share of the labels of training rows that is unknown.

    Attributes:
        share: Probability that a label of a training row is unknown, from 0 up to, but not including, 1.
        of: ``entries``: every label of every training row, whether the image has it or not (as DualCoOp does).
            ``positives``: only labels that the image has, so that every unknown label is one that it has.
    """

    share: float
    of: Literal["entries", "positives"] = "entries"

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise UsageError(f"share={self.share!r} should be at least 0 and below 1")


@dataclass(frozen=True)
class AnnotatedLabels:
    """Labels that each client annotates; all others are unknown at its training rows.

    Attributes:
        count: Number of labels per client, drawn at random. Labels that the fewest clients annotate are drawn first,
            so that every label is annotated somewhere if there are clients enough.
        alpha: With ``count``: draw labels by their popularity, which is Dirichlet(``alpha``) and the same for all
            clients. The smaller it is, the more clients annotate the same labels, and labels may be left to none.
        clients: Names of the labels of each client, instead of ``count``.
    """

    count: int | None = None
    alpha: float | None = None
    clients: dict[str, tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        if (self.count is None) == (self.clients is None):
            raise UsageError("should have either 'count' or 'clients'")
        if self.count is not None:
            at_least("count", self.count, 1)
        if self.alpha is not None:
            positive("alpha", self.alpha)
            if self.count is None:
                raise UsageError(f"alpha={self.alpha}: draws labels, and 'clients' names them; leave one out")
        for client, names in (self.clients or {}).items():
            if not names or len(set(names)) < len(names):
                raise UsageError(f"clients.{client}: should name at least one label, each once")


@dataclass(frozen=True)
class SubsetRecipe:
    """A federation with its own label space inside a dataset; the Hub calls it a config.

    Attributes:
        sources: Names of sources, in order.
        title: A readable title.
        classes: ``all``, or ``shared``: only those that every source of the subset has. ``apart``: those of every
            source under their own names, ``SOURCE/CLASS``, so that one federation holds several datasets. They are
            evaluated each in its own label space; for single-label sources.
        class_names: ``unified``: the readable names of the 47-class vocabulary where a source is in it.
            ``native``: the source's own spelling.
        partition: Replaces the recipe's partition in this subset.
        splits: Replaces the recipe's splits in this subset.
        hidden_labels: Replaces the recipe's hidden labels in this subset.
        annotated_labels: Replaces the recipe's annotated labels in this subset.
        template: Words that are recommended for prompts, with ``{}`` for the class name; several are to be averaged.
    """

    sources: tuple[str, ...]
    title: str = ""
    classes: Literal["all", "shared", "apart"] = "all"
    class_names: Literal["unified", "native"] = "unified"
    partition: dict[str, Any] | None = None
    splits: dict[str, float] | None = None
    hidden_labels: HiddenLabels | None = field(default=None, metadata=LATER)
    annotated_labels: AnnotatedLabels | None = field(default=None, metadata=LATER)
    template: tuple[str, ...] = field(default=(), metadata=LATER)

    def __post_init__(self) -> None:
        for one in self.template:
            if one.count("{}") != 1:
                raise UsageError(f"template={one!r} should have one {{}} for the class name")


@dataclass(frozen=True)
class Recipe:
    """A federated dataset to build.

    Attributes:
        fedkit: Version of this format.
        name: Name of the dataset, and of its folder.
        subsets: Its federations by name.
        title: A readable title.
        seed: Seed of every random draw, 0 or more.
        splits: Held-out split -> fraction; the rest is ``train``.
        split_by: What is held out whole: a ``sample`` of every client, a ``client``, or a ``group`` (natural user);
            ``source``: the splits that the sources define, with ``splits`` empty.
        shots: Maximum training rows per class and client; None: all of them.
        base_to_novel: Train on the first half of the classes only, of each source where they are apart; all rows of the
            others are split ``novel``.
        partition: ``{"name": ..., setting: value}``; see ``fedkit list partitioners``.
        layout: Layout of rows in files.
        sources: Settings of sources by name; ``kind`` names the source where it is not the name itself.
        sample: Procedural stand-ins instead of the real sources.
        allow_partial: Accept incomplete copies of sources.
        on_bad_image: ``error`` stops at a damaged image; ``skip`` leaves it out and lists it.
        duplicates: Images that a subset holds more than once. ``group`` keeps the copies on one side of the split;
            ``drop-extra`` keeps one copy, a held-out one where the source splits; ``error`` stops; ``keep`` does not
            look for them.
        near_duplicates: Which copies count that are not the same byte for byte, but re-encoded or resized: those
            ``between`` sources, or ``all``, within a source too.
        hidden_labels: Labels of training rows that are unknown, for multi-label images; None: none are.
        annotated_labels: Labels that each client annotates, for multi-label images; None: all of them.
    """

    fedkit: int
    name: str
    subsets: dict[str, SubsetRecipe]
    title: str = ""
    seed: int = 0
    splits: dict[str, float] = field(default_factory=lambda: {"test": 0.2})
    split_by: By = "sample"
    shots: int | None = None
    base_to_novel: bool = False
    partition: dict[str, Any] = field(default_factory=lambda: dict(DEFAULT_PARTITION))
    layout: Layout = field(default_factory=Layout)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    sample: SampleSettings | None = None
    allow_partial: bool = False
    on_bad_image: Literal["error", "skip"] = "error"
    duplicates: Literal["keep", "group", "drop-extra", "error"] = field(default="group", metadata=LATER)
    near_duplicates: Literal["between", "all"] = field(default="between", metadata=LATER)
    hidden_labels: HiddenLabels | None = field(default=None, metadata=LATER)
    annotated_labels: AnnotatedLabels | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.fedkit != SCHEMA:
            raise UsageError(f"fedkit={self.fedkit}: this fedkit reads format {SCHEMA}")
        at_least("seed", self.seed, 0)
        if self.shots is not None:
            at_least("shots", self.shots, 1)
        for name in (self.name, *self.subsets):
            if not _NAME.fullmatch(name):
                raise UsageError(f"{name!r} is not a name (letters, digits, '.', '_', '-'; at most 96)")
        if not self.subsets:
            raise UsageError("subsets: is empty; a recipe needs at least one")
        self._check_sources()
        for name, subset in self.subsets.items():
            if name.lower() in _RESERVED:
                raise UsageError(f"subsets: {name!r} is reserved for a file of the dataset; choose another")
            if not subset.sources or len(set(subset.sources)) < len(subset.sources):
                raise UsageError(f"subsets.{name}.sources: should name at least one source, each once")
            kind = self.partition_of(name).get("name")
            if not isinstance(kind, str):
                raise UsageError(f"subsets.{name}: unknown partitioner {kind!r}; see: fedkit list partitioners")
            check_fractions(self.fractions(name))
            if self.split_by == "source" and self.fractions(name):
                raise UsageError("split_by=source uses the splits of the sources; set splits={}")

    def _check_sources(self) -> None:
        used = self.used
        for name in self.sources:
            if not _NAME.fullmatch(name):  # it names a folder of the cache
                raise UsageError(f"sources: {name!r} is not a name (letters, digits, '.', '_', '-'; at most 96)")
            if name not in used:
                raise UsageError(f"sources: no subset has a source {name!r}{suggest(name, used)}")

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the sources that subsets have, each once."""
        return tuple(dict.fromkeys(source for subset in self.subsets.values() for source in subset.sources))

    def partition_of(self, subset: str) -> dict[str, Any]:
        """The partition of a subset: its name and settings."""
        own = self.subsets[subset].partition
        return self.partition if own is None else own

    def settings_of(self, subset: str) -> dict[str, Any]:
        """The settings that decide the rows of a subset, seed apart, as plain JSON values by name.

        Those of a part have its name in front: ``partition`` is its name, ``partition.alpha`` a setting of it.
        """
        own, spec = self.subsets[subset], self.partition_of(subset)
        settings = (self.sample, self.hidden_of(subset), self.annotated_of(subset))
        parts = {
            "partition": {key: value for key, value in spec.items() if key != "name"},
            "splits": self.fractions(subset),
            **{f"sources.{name}": its for name, its in self.sources.items() if name in own.sources},
            **{key: encode(its) for key, its in zip(_PARTS, settings, strict=True) if its is not None},
        }
        return {
            **{key: encode(value) for key, value in vars(self).items() if key not in _APART},
            "classes": own.classes,
            "class_names": own.class_names,
            "partition": spec.get("name"),
            **{f"{part}.{key}": value for part, its in parts.items() for key, value in its.items()},
        }

    def fractions(self, subset: str) -> dict[str, float]:
        """The held-out splits of a subset."""
        own = self.subsets[subset].splits
        return self.splits if own is None else own

    def class_sources(self, subset: str, classes: Sequence[str]) -> tuple[str, ...]:
        """The source of each class of a subset that keeps those of its sources apart; elsewhere "" for each."""
        apart = self.subsets[subset].classes == "apart"
        return tuple(name.partition("/")[0] if apart else "" for name in classes)

    def hidden_of(self, subset: str) -> HiddenLabels | None:
        """The hidden labels of a subset."""
        return self.subsets[subset].hidden_labels or self.hidden_labels

    def annotated_of(self, subset: str) -> AnnotatedLabels | None:
        """The annotated labels of a subset."""
        return self.subsets[subset].annotated_labels or self.annotated_labels

    def drawn_in_words(self, subset: str) -> str:
        """The partition of a subset, the seed, and its unknown labels in words."""
        words = f"{partition_in_words(self.partition_of(subset))}, seed {self.seed}"
        hidden, annotated = self.hidden_of(subset), self.annotated_of(subset)
        if hidden is not None:
            words += f"; hidden labels: a share of {hidden.share} of {hidden.of}"
        if annotated is not None:
            by = "" if annotated.alpha is None else f", drawn with alpha={annotated.alpha}"
            words += f"; annotated labels: {'given' if annotated.clients else f'{annotated.count} per client{by}'}"
        return words


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ManifestError: It cannot be read or is no JSON object.
    """
    try:
        with translated(ManifestError, str(path)):
            data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise ManifestError(f"{path}: should hold a JSON object, not {type(data).__name__}")
    check_version(data, path)
    return data


def check_version(data: Mapping[str, Any], path: Path) -> None:
    """Refuses what is no recipe or manifest, or one of a newer format.

    Raises:
        ManifestError: It is.
    """
    version = data.get("fedkit")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ManifestError(f"{path}: is not a fedkit recipe or manifest (field 'fedkit' is {version!r}, not {SCHEMA})")
    newest = UNKNOWN_LABELS if "recipe" in data else SCHEMA
    if version > newest:
        raise ManifestError(f"{path}: format {version} is newer than this fedkit reads ({newest}); upgrade fedkit")


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Refuses fractions that are no split.

    Raises:
        UsageError: A bad name or fraction, or nothing left for training.
    """
    for name, fraction in fractions.items():
        if len(name) > 50 or not (name.isidentifier() and name.isascii()) or name in (TRAIN, NOVEL):
            allowed = "at most 50 letters, digits, _; not 'train' or 'novel'"
            raise UsageError(f"splits: {name!r} is not a name for a held-out split ({allowed})")
        if not 0 < fraction < 1:
            raise UsageError(f"splits: {name}={fraction!r} should be above 0 and below 1")
    if sum(fractions.values()) >= 1:
        raise UsageError(f"splits: {dict(fractions)} leave nothing for training; their sum should be below 1")


def partition_in_words(spec: Mapping[str, Any]) -> str:
    """A partition in words: its name, and the settings that are set."""
    settings = [f"{k}={v}" for k, v in spec.items() if k != "name" and v is not None and v is not False]
    return " ".join([str(spec["name"]), *settings])
