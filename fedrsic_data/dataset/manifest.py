"""The manifest: the recipe and what was built from it, with a digest of every file and of itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa

from fedrsic_data.dataset.recipe import SCHEMA, UNKNOWN_LABELS, Recipe, read_json
from fedrsic_data.dataset.schema import TRAIN, plan_schema
from fedrsic_data.errors import ManifestError, UsageError
from fedrsic_data.settings import LATER, decode, encode, local

NAME, PLAN, CLIENTS, CARD = "manifest.json", "plan.parquet", "clients.parquet", "README.md"

_NO_NAME = re.compile(r"[\\:\0\ud800-\udfff]")  # drives, other systems' separators, what no file name can hold


@dataclass(frozen=True)
class File:
    """A file beside the manifest.

    Attributes:
        path: Relative to the manifest.
        bytes: Its size.
        sha256: Digest of its bytes, in hex.
    """

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Plan(File):
    """The plan: its file, and the digest of its content.

    Attributes:
        digest: sha256 of its values, which no Parquet version changes.
        rows: Number of images.
    """

    digest: str
    rows: int


@dataclass(frozen=True)
class Shard:
    """A Parquet file of rows sorted by client.

    Attributes:
        path: Relative to the manifest.
        split: The split its rows are of.
        rows: Number of rows.
        bytes: Size of the file.
        sha256: Digest of its bytes, in hex.
    """

    path: str
    split: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class LeftOut:
    """Files or images of a source that are in no shard.

    Attributes:
        reason: Why.
        count: Number of images.
        examples: Some of their sample ids or names.
    """

    reason: str
    count: int
    examples: tuple[str, ...]

    @classmethod
    def of(cls, reason: str, names: Sequence[str]) -> tuple[LeftOut, ...]:
        """These, with the first five as examples; nothing where there are none."""
        return (cls(reason, len(names), tuple(names[:5])),) if names else ()


@dataclass(frozen=True)
class Skipped:
    """An image left out because its file is damaged (``on_bad_image: skip``).

    Attributes:
        sample_id: Which.
        client_id: The client that would have had it.
        split: The split that it would have been in.
        reason: What is wrong with it.
    """

    sample_id: str
    client_id: str
    split: str
    reason: str


@dataclass(frozen=True)
class SourceEntry:
    """Provenance of a source.

    Attributes:
        title: A readable title.
        homepage: Where its authors publish it.
        licence: Licence of the images.
        citation: Text to cite.
        redistributable: Whether the licence allows to publish the images again.
        images: Number of images found.
        missing: Description of what was missing.
        counts: Other counts, by name.
    """

    title: str
    homepage: str
    licence: str
    citation: str
    redistributable: bool
    images: int
    missing: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fine:
    """A second, finer label space of the same images.

    Attributes:
        classes: Names in index order.
        parents: Coarse class of each; empty if it has none.
    """

    classes: tuple[str, ...]
    parents: tuple[str, ...]


@dataclass(frozen=True)
class FineEntry(Fine):
    """The finer label space of a subset.

    Attributes:
        train_counts: Training rows of each.
    """

    train_counts: tuple[int, ...]


@dataclass(frozen=True)
class SubsetEntry:
    """A subset as it was built.

    Attributes:
        classes: Class names in index order.
        multi_label: Whether shards have ``labels`` lists instead of ``label``.
        clients: Number of clients, those without rows included.
        rows: Split -> rows.
        train_counts: Training rows of each class.
        novel: Classes that are never trained on (base-to-novel protocol).
        moved: Rows moved so that every client reaches its minimum size.
        duplicates: Groups of sample ids that are one picture; each is in one split, but for ``across``.
        left_out: Images in no shard, counted by reason.
        skipped: Damaged images that were left out.
        skew: Metric -> value and the band that an IID split of the same sizes gives by chance.
        shards: The files.
        fine: The finer label space, where the sources have one.
        across: How many of the ``duplicates`` are in several splits: the sources split them so, or one copy is of a
            novel class. Absent from the file where there are none.
        unknown: Training rows in which each class is unknown. Absent from the file where all labels are known.
    """

    classes: tuple[str, ...]
    multi_label: bool
    clients: int
    rows: dict[str, int]
    train_counts: tuple[int, ...]
    novel: tuple[str, ...]
    moved: int
    duplicates: tuple[tuple[str, ...], ...]
    left_out: tuple[LeftOut, ...]
    skipped: tuple[Skipped, ...]
    skew: dict[str, dict[str, float]]
    shards: tuple[Shard, ...]
    fine: FineEntry | None = None
    across: int = field(default=0, metadata=LATER)
    unknown: tuple[int, ...] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        """Refuses counts of other classes than there are.

        Raises:
            UsageError: There is no class, or not one count for each, or one of unknown labels that is none of training
                rows, or labels of single-label images are unknown.
        """
        if self.unknown is not None and not self.multi_label:
            raise UsageError("unknown counts labels of multi-label images, and multi_label is false")
        if self.unknown is not None and len(self.unknown) != len(self.classes):
            raise UsageError(f"unknown has {len(self.unknown)} numbers for {len(self.classes)} classes")
        if odd := [n for n in self.unknown or () if not 0 <= n <= self.rows.get(TRAIN, 0)]:
            raise UsageError(f"unknown has {odd[0]}; should be from 0 to {self.rows.get(TRAIN, 0)}, the training rows")
        if not self.classes or len(self.train_counts) != len(self.classes):
            raise UsageError(f"train_counts has {len(self.train_counts)} numbers for {len(self.classes)} classes")

    @property
    def withheld(self) -> bool:
        """Whether its images are at other sites: it has rows, and no shards to hold them; see ``sites``."""
        return any(self.rows.values()) and not self.shards

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks on images that were moved, left out, skipped or kept together."""
        words = [f"{self.moved:,} images were moved so that every client has its minimum"] if self.moved else []
        for left in self.left_out:
            some = f" ({left.examples[0]}, ...)" if left.examples else ""
            words.append(f"{left.count:,} images are left out: {left.reason}{some}")
        words += [f"{len(self.skipped):,} damaged images were skipped"] if self.skipped else []
        words += [f"{len(self.novel):,} classes are novel: never trained on"] if self.novel else []
        if self.duplicates:
            words.append(repeated(self.duplicates, self.across))
        return (*words, *self._unknown_in_words())

    def _unknown_in_words(self) -> list[str]:
        """Remarks on labels that are unknown."""
        rows, counts = self.rows.get(TRAIN, 0), self.unknown or ()
        if not rows or not any(counts):
            return []
        every = rows * len(counts)
        words = f"{sum(counts):,} of {every:,} labels of training rows are unknown ({sum(counts) / every:.1%})"
        words += "; counts of labels and skew are those of known labels"
        lost = sum(count >= rows for count in counts)
        return [words, *([f"{lost:,} of {len(counts):,} labels are unknown at every training row"] if lost else [])]


@dataclass(frozen=True)
class Manifest:
    """A built dataset.

    Attributes:
        fedkit: Version of this format.
        name: Name of the dataset.
        recipe: The recipe, in full.
        writer: Versions that the bytes depend on.
        sources: Provenance of the sources.
        plan: The owner of every image.
        clients: ``clients.parquet``.
        card: The dataset card, ``README.md``.
        subsets: The subsets as built.
        digest: sha256 of the rest.
        reference: True for a dataset published without its images: the shards are listed by their
            digests only, and must be built again. Absent from the file, and from the digest, where false.
    """

    fedkit: int
    name: str
    recipe: Recipe
    writer: dict[str, str]
    sources: dict[str, SourceEntry]
    plan: Plan
    clients: File
    card: File
    subsets: dict[str, SubsetEntry]
    digest: str = ""
    reference: bool = field(default=False, metadata=LATER)

    @property
    def plan_schema(self) -> pa.Schema:
        """The columns of its plan."""
        return plan_schema(unknown=self.fedkit >= UNKNOWN_LABELS)


def repeated(groups: Sequence[Sequence[str]], across: int) -> str:
    """Describe images that occur more than once, and how many of them are in several splits."""
    images = sum(map(len, groups))
    several = "picture is" if len(groups) == 1 else "pictures are"
    words = f"{len(groups):,} {several} there more than once ({images:,} images)"
    if not across:
        return f"{words}; each is kept in one split"
    return (
        f"WARNING: {words}, and {across:,} of them are in several splits: the sources split them so, or a copy is of a "
        "novel class; duplicates=drop-extra keeps one copy of each"
    )


def version(subsets: Mapping[str, SubsetEntry]) -> int:
    """The version of a manifest of these subsets."""
    return SCHEMA if all(subset.unknown is None for subset in subsets.values()) else UNKNOWN_LABELS


def load(path: Path) -> Manifest:
    """A built manifest, checked for shape and for paths that leave its folder; not against its files.

    Args:
        path: ``manifest.json`` or the folder it is in.

    Raises:
        ManifestError: It cannot be read, is a recipe that was not built yet, or is malformed.
    """
    path = located(path)
    data = read_json(path)
    if "recipe" not in data and "subsets" in data:
        raise ManifestError(f"{path}: is a recipe, not a built dataset; run: fedkit build {path}")
    try:
        manifest = decode(Manifest, data, str(path))
    except UsageError as error:
        raise ManifestError(str(error)) from None
    if manifest.subsets.keys() != manifest.recipe.subsets.keys():
        raise ManifestError(f"{path}: its subsets differ from its recipe, so it was edited; build it again")
    if manifest.fedkit != version(manifest.subsets):
        raise ManifestError(f"{path}: fedkit={manifest.fedkit} does not fit its subsets, so it was edited")
    for entry in (*files(manifest), *shards(manifest)):
        safe(path.parent, entry.path)
        if entry.path != str(PurePosixPath(entry.path)):
            raise ManifestError(f"{path}: path {entry.path!r} is not spelled as a build spells it, so it was edited")
    return manifest


def located(path: Path) -> Path:
    """The manifest that a person names by itself or by its folder.

    Raises:
        UsageError: It is a URL.
        ManifestError: There is none, or it is not a regular file.
    """
    if path.parts[:1] == ("hf:",):
        raise ManifestError(f"{path}: is on the Hub, but this needs a local folder; download it with: hf download")
    local("manifest", path)
    try:
        file = path / NAME if path.is_dir() else path
        regular = stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        raise ManifestError(
            f"{file}: does not exist; give a manifest.json or its folder, or run: fedkit build"
        ) from None
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise ManifestError(f"{path}: cannot be read ({words}); give a manifest.json or its folder") from None
    if not regular:
        raise ManifestError(f"{file}: is not a file; give a manifest.json or its folder")
    return file


def files(manifest: Manifest) -> list[File | Shard]:
    """Every file of a dataset but the manifest itself; the shards are no files of a reference."""
    return [manifest.plan, manifest.clients, manifest.card, *([] if manifest.reference else shards(manifest))]


def shards(manifest: Manifest) -> list[Shard]:
    """All shards, including those that a reference only lists."""
    return [shard for subset in manifest.subsets.values() for shard in subset.shards]


def safe(folder: Path, relative: str) -> Path:
    """The path of a file named in a manifest.

    Raises:
        ManifestError: It would leave the manifest's folder.
    """
    pure = PurePosixPath(relative)
    if not relative or pure.is_absolute() or ".." in pure.parts or _NO_NAME.search(relative):
        raise ManifestError(
            f"{folder / NAME}: path {relative!r} leaves the dataset's folder; do not trust this manifest"
        )
    path = folder / pure
    root = os.path.realpath(folder)
    if os.path.commonpath([root, os.path.realpath(path)]) != root:
        raise ManifestError(f"{folder / NAME}: path {relative!r} is a link out of the dataset's folder")
    return path


def dumps(manifest: Manifest) -> str:
    """Serialise a manifest. Equal manifests give equal bytes."""
    return json.dumps(encode(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its own digest filled in."""
    return dataclasses.replace(manifest, digest=digest(manifest))


def digest(manifest: Manifest) -> str:
    """sha256 of everything in a manifest but its own digest."""
    data = encode(manifest)
    del data["digest"]
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
