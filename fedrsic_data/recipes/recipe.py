"""What a person writes: sources, label spaces, splits, partition, seed and shard layout."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedrsic_data import partition
from fedrsic_data.build import splits
from fedrsic_data.build.splits import By
from fedrsic_data.errors import ManifestError, UsageError
from fedrsic_data.partition.base import Partitioner
from fedrsic_data.settings import LATER, at_least, decode, encode, suggest
from fedrsic_data.sources import SOURCES, Source, configured, spelled_out
from fedrsic_data.sources.sample import SampleSettings

SCHEMA = 1
"""Version of the recipe and manifest format."""

_DEFAULT_PARTITION = {"name": "dirichlet"}
_RESERVED = ("manifest.json", "plan.parquet", "clients.parquet", "readme.md")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

_MOST_FILES = 300  # clients up to which each gets files of its own, in layout "auto"


@dataclass(frozen=True)
class Layout:
    """How rows are laid out in files.

    Attributes:
        files: ``client``: a file for each client and split. ``packed``: clients together in larger shards.
            ``auto``: ``client`` up to 300 clients.
        row_group_bytes: Image bytes after which a row group ends. A row group never holds two clients.
        shard_bytes: Image bytes a packed shard aims at.
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
class Subset:
    """A federation with its own label space inside a dataset; the Hub calls it a config.

    Attributes:
        sources: Names of sources, in order.
        title: What it is, in words.
        classes: ``all``, or ``shared``: only those that every source of the subset has.
        class_names: ``unified``: the readable names of the 47-class vocabulary where a source is in it.
            ``native``: the source's own spelling.
        partition: Replaces the recipe's partition in this subset.
        splits: Replaces the recipe's splits in this subset.
    """

    sources: tuple[str, ...]
    title: str = ""
    classes: Literal["all", "shared"] = "all"
    class_names: Literal["unified", "native"] = "unified"
    partition: dict[str, Any] | None = None
    splits: dict[str, float] | None = None


@dataclass(frozen=True)
class Recipe:
    """A federated dataset to build.

    Attributes:
        fedkit: Version of this format.
        name: Name of the dataset, and of its folder.
        subsets: Its federations by name.
        title: What it is, in words.
        seed: Seed of everything drawn, 0 or more.
        splits: Held-out split -> fraction; the rest is ``train``.
        split_by: What is held out whole: a ``sample`` of every client, a ``client``, or a ``group`` (natural user);
            ``source``: the splits that the sources define, with ``splits`` empty.
        shots: Most training rows of a class at a client; None: all of them.
        base_to_novel: Train on the first half of the classes only; all rows of the others are split ``novel``.
        partition: ``{"name": ..., setting: value}``; see ``fedkit list partitioners``.
        layout: How rows are laid out in files.
        sources: Settings of sources by name; ``kind`` names the source where it is not the name itself.
        sample: Procedural stand-ins instead of the real sources.
        allow_partial: Take incomplete copies of sources for what they hold.
        on_bad_image: ``error`` stops at a damaged image; ``skip`` leaves it out and lists it.
        duplicates: Pictures that a subset holds more than once. ``group`` keeps the copies on one side of the split;
            ``drop-extra`` keeps one copy, a held-out one where the source splits; ``error`` stops; ``keep`` does not
            look for them.
        near_duplicates: Which copies count that are not the same byte for byte, but re-encoded or resized: those
            ``between`` sources, or ``all``, within a source too.
    """

    fedkit: int
    name: str
    subsets: dict[str, Subset]
    title: str = ""
    seed: int = 0
    splits: dict[str, float] = field(default_factory=lambda: {"test": 0.2})
    split_by: By = "sample"
    shots: int | None = None
    base_to_novel: bool = False
    partition: dict[str, Any] = field(default_factory=lambda: dict(_DEFAULT_PARTITION))
    layout: Layout = field(default_factory=Layout)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    sample: SampleSettings | None = None
    allow_partial: bool = False
    on_bad_image: Literal["error", "skip"] = "error"
    duplicates: Literal["keep", "group", "drop-extra", "error"] = field(default="group", metadata=LATER)
    near_duplicates: Literal["between", "all"] = field(default="between", metadata=LATER)

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
            raise UsageError("subsets: there is none; a recipe needs at least one")
        self._check_sources()
        for name, subset in self.subsets.items():
            if name.lower() in _RESERVED:
                raise UsageError(f"subsets: {name!r} is the name of a file every dataset has; choose another")
            if not subset.sources or len(set(subset.sources)) < len(subset.sources):
                raise UsageError(f"subsets.{name}.sources: should name at least one source, each once")
            for source in subset.sources:
                if source not in self.sources and source not in SOURCES:
                    known = [*self.sources, *SOURCES]
                    raise UsageError(f"subsets.{name}.sources: unknown source {source!r}{suggest(source, known)}")
                self.source(source)
            self.partitioner(name)
            splits.check(self.fractions(name))
            if self.split_by == "source" and self.fractions(name):
                raise UsageError("split_by=source takes the sources' own splits; set splits={}")

    def _check_sources(self) -> None:
        used = dict.fromkeys(source for subset in self.subsets.values() for source in subset.sources)
        for name in self.sources:
            if not _NAME.fullmatch(name):  # it names a folder of the cache
                raise UsageError(f"sources: {name!r} is not a name (letters, digits, '.', '_', '-'; at most 96)")
            if name not in used:
                raise UsageError(f"sources: no subset has a source {name!r}{suggest(name, used)}")

    def source(self, name: str) -> Source:
        """A source of a subset, with its settings."""
        return configured(name, self.sources.get(name, {}), f"sources.{name}")

    def partitioner(self, subset: str) -> Partitioner:
        """The partitioner of a subset."""
        own = self.subsets[subset].partition
        return partition.from_json(
            self.partition if own is None else own,
            "partition" if own is None else f"subsets.{subset}.partition",
        )

    def fractions(self, subset: str) -> dict[str, float]:
        """The held-out splits of a subset."""
        own = self.subsets[subset].splits
        return self.splits if own is None else own


def folder() -> Path:
    """Where the recipes that come with fedkit are: in the package, or ``manifests/`` of a checkout."""
    packaged = Path(__file__).parent.parent / "manifests"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "manifests"


def shipped() -> dict[str, Path]:
    """The recipes that come with fedkit, by name."""
    return {path.stem: path for path in sorted(folder().glob("*.json"))}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ManifestError: It cannot be read or is no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise ManifestError(f"{path}: should hold a JSON object, not {type(data).__name__}")
    _check_version(data, path)
    return data


def _check_version(data: Mapping[str, Any], path: Path) -> None:
    version = data.get("fedkit")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ManifestError(f"{path}: no fedkit recipe or manifest (its 'fedkit' field is {version!r}, not {SCHEMA})")
    if version > SCHEMA:
        raise ManifestError(f"{path}: format {version} is newer than this fedkit reads ({SCHEMA}); upgrade fedkit")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys occur once; the library's own takes the last of several without a word."""
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return data


def load(name_or_path: str) -> dict[str, Any]:
    """A recipe's JSON by the name of a shipped one or by path. A built manifest gives the recipe it was built from.

    Raises:
        UsageError: There is no such recipe.
        ManifestError: It is not one.
    """
    recipes = shipped()
    path = Path(name_or_path)
    if name_or_path in recipes:
        path = recipes[name_or_path]
    elif not os.path.isfile(name_or_path):  # pathlib raises on names that are too long
        raise UsageError(f"{name_or_path!r} is no recipe file and no shipped recipe{suggest(name_or_path, recipes)}")
    data = read_json(path)
    inner = data.get("recipe")
    if not isinstance(inner, dict):
        return data
    _check_version(inner, path)
    return inner


def from_json(data: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from parsed JSON.

    Raises:
        UsageError: An unknown key, or a value that cannot be used.
    """
    return decode(Recipe, data, where)


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Every field of a recipe, its partitions spelled out in full."""
    data: dict[str, Any] = encode(recipe)
    data["partition"] = partition.to_json(partition.from_json(recipe.partition))
    used = dict.fromkeys(source for subset in recipe.subsets.values() for source in subset.sources)
    data["sources"] = {name: spelled_out(recipe.source(name)) for name in used if recipe.source(name).settings}
    for name, subset in recipe.subsets.items():
        if subset.partition is not None:
            data["subsets"][name]["partition"] = partition.to_json(recipe.partitioner(name))
    return data


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with the digests of the files its partitioners read, so that it means the same tomorrow."""
    subsets = {
        name: subset
        if subset.partition is None
        else dataclasses.replace(subset, partition=partition.pinned(subset.partition))
        for name, subset in recipe.subsets.items()
    }
    return dataclasses.replace(recipe, partition=partition.pinned(recipe.partition), subsets=subsets)


def override(
    data: dict[str, Any],
    *,
    subsets: Sequence[str] = (),
    partitioner: str | None = None,
    sample: bool = False,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """A recipe's JSON changed by what the command line said.

    Args:
        data: Recipe JSON, which is not changed.
        subsets: Keep only these, in the recipe's order.
        partitioner: Replaces the partition; ``clients`` and ``min_size`` carry over to where they exist.
        sample: Use procedural stand-ins, and say so in the name.
        sets: ``key=value`` texts. A plain key is a field of the recipe, or else a setting of its partitions,
            where they have it; a dotted one (``layout.files``, ``subsets.NAME.title``) is a path. Values are
            JSON, else text.

    Raises:
        UsageError: An unknown subset or a malformed ``key=value``.
    """
    data = {"partition": dict(_DEFAULT_PARTITION), **json.loads(json.dumps(data))}  # whose settings may be changed
    known = data.get("subsets")
    known = known if isinstance(known, dict) else {}
    for name in subsets:
        if name not in known:
            raise UsageError(f"--subset {name}: the recipe has no such subset{suggest(name, known)}")
    if subsets:
        data["subsets"] = {name: known[name] for name in known if name in subsets}
        data["sources"] = _used(data)
    scopes = _scopes(data, known)
    if partitioner is not None:
        has = partition.defaults(partitioner)
        for scope in scopes:
            old = _spec(scope)
            kept = {key: old[key] for key in ("clients", "min_size") if key in old and has.get(key) is not None}
            scope["partition"] = {"name": partitioner, **kept}
    if sample and not data.get("sample"):
        data |= {"sample": {}, "name": f"{data.get('name')}-sample"}
    fields = [f.name for f in dataclasses.fields(Recipe)]
    for text in sets:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UsageError(f"--set {text!r}: should look like key=value")
        if "." in key or key in fields:
            _put(data, key.split("."), _parse(value), text)
            continue
        kinds = [_spec(scope).get("name") for scope in scopes]
        takers = [scope for scope, kind in zip(scopes, kinds, strict=True) if key in partition.defaults(kind)]
        if not takers and all(partition.defaults(kind) for kind in kinds):
            settings = [*fields, *(setting for kind in kinds for setting in partition.defaults(kind))]
            raise UsageError(
                f"--set {key}=...: unknown key {key!r} for partition {kinds[0]}{suggest(key, dict.fromkeys(settings))}"
            )
        for scope in takers or scopes:  # a partition that is unknown is found out when the recipe is read
            _put(scope, ["partition", key], _parse(value), text)
    return data


def _used(data: Mapping[str, Any]) -> Any:
    """The settings of those sources that a subset has; what is malformed is found out when the recipe is read."""
    settings = data.get("sources", {})
    named = [s.get("sources") for s in data["subsets"].values() if isinstance(s, dict)]
    used = [name for names in named if isinstance(names, list) for name in names]
    return {name: its for name, its in settings.items() if name in used} if isinstance(settings, dict) else settings


def _scopes(data: dict[str, Any], subsets: dict[str, Any]) -> list[dict[str, Any]]:
    """Where partitions stand: subsets with one of their own, and the recipe if a subset uses its."""
    own = [s for s in data["subsets"].values() if isinstance(s, dict) and s.get("partition")] if subsets else []
    return own if subsets and len(own) == len(data["subsets"]) else [data, *own]


def _spec(scope: Mapping[str, Any]) -> dict[str, Any]:
    spec = scope.get("partition", _DEFAULT_PARTITION)
    return spec if isinstance(spec, dict) else {}


def _put(data: dict[str, Any], path: Sequence[str], value: Any, text: str) -> None:
    for step in path[:-1]:
        if data.get(step) is None:
            data[step] = {}
        data = data[step]
        if not isinstance(data, dict):
            raise UsageError(f"--set {text!r}: {step!r} has no fields")
    data[path[-1]] = value


def _parse(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
