"""The interface of a source, and the reader shared by sources with one folder per class."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow.compute as pc

from fedrsic_data.errors import SourceError, some
from fedrsic_data.raw.index import ClassRows, Index, single_label_table
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources import classfolders


@dataclass(frozen=True)
class HubMirror:
    """A copy on the Hugging Face Hub as Parquet.

    Attributes:
        repo: ``user/name`` of a dataset repository.
        revision: Commit it is pinned to; None: the commit seen at first use is recorded and reused.
    """

    repo: str
    revision: str | None = None


@dataclass(frozen=True)
class Facts:
    """Provenance of a source.

    Attributes:
        title: Its full name.
        homepage: Where its authors publish it.
        licence: The licence, or the owner of the rights in the pixels.
        citation: The paper.
        redistributable: Whether the pixels may be published again.
        downloads: Official archives; those with the same file name are mirrors, tried in order.
        hub: A mirror to use if no archive can be downloaded without a browser.
        layout: The native layout, for messages.
    """

    title: str
    homepage: str
    licence: str
    citation: str
    layout: str
    redistributable: bool = False
    downloads: tuple[RemoteFile, ...] = ()
    hub: HubMirror | None = None


class Source(Protocol):
    """A dataset as its authors publish it."""

    @property
    def name(self) -> str:
        """Its name in recipes."""
        ...

    @property
    def kind(self) -> str:
        """Its name in ``SOURCES``."""
        ...

    @property
    def settings(self) -> Any:
        """A frozen dataclass of its settings in recipes; None: no settings."""
        ...

    @property
    def facts(self) -> Facts:
        """Provenance: title, homepage, licence, citation."""
        ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """Usual names of its folder or archive, in lower case, with letters and digits only."""
        ...

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels below ``path``, never pixels.

        Raises:
            SourceError: The layout is not the source's, or images are missing and ``allow_partial`` is False.
        """
        ...


@runtime_checkable
class Relabelled(Protocol):
    """The part of a source whose own files are labels for the images of another source."""

    @property
    def images_of(self) -> ClassFolders:
        """The source of the images."""
        ...

    def over(self, images: Path) -> Source:
        """The source with its images at this place; ``index`` gets that of its labels."""
        ...


@dataclass(frozen=True)
class ClassFolders:
    """A single-label source: a folder, zip or Parquet mirror with one folder (or label) per class.

    Attributes:
        name: Its name in recipes.
        classes: All its class names.
        per_class: Images of each class in a complete copy.
        facts: Its provenance.
        aliases: Usual names of its folder or archive.
    """

    name: str
    classes: tuple[str, ...]
    per_class: int
    facts: Facts
    aliases: tuple[str, ...] = field(default=())
    settings: None = None

    @property
    def kind(self) -> str:
        return self.name

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. Classes without an image are not in the label space of a partial copy."""
        found = classfolders.find(path, self.name, self.classes, self.facts.layout)
        counts = {name: len(found.files[name]) for name in self.classes if name in found.files}
        missing = self._missing(path, counts, allow_partial)
        present = tuple(name for name in self.classes if counts.get(name))
        rows = [self._rows(name, found.files[name]) for name in present]
        for mine in rows:
            self._distinct(path, mine)
        return Index(
            table=single_label_table(self.name, rows),
            classes=present,
            container=found.container,
            fingerprint=found.fingerprint,
            newest=found.newest,
            left_out=found.left_out,
            missing=missing,
        )

    def _missing(self, path: Path, counts: dict[str, int], allow_partial: bool) -> tuple[str, ...]:
        absent = [name for name in self.classes if not counts.get(name)]
        short = {n: c for n, c in counts.items() if 0 < c < self.per_class}
        excess = {n: c for n, c in counts.items() if c > self.per_class}
        if excess:
            name, count = next(iter(excess.items()))
            raise SourceError(
                f"{path}: class {name!r} of {self.name} has {count} images, the published set has {self.per_class}; "
                f"remove the {count - self.per_class} that do not belong"
            )
        if len(absent) == len(self.classes):
            raise SourceError(f"{path}: the class folders of {self.name} hold no images; expected {self.facts.layout}")
        words = []
        if absent:
            words.append(f"{len(absent)} of {len(self.classes)} classes are missing: {some(absent, 8)}")
        if short:
            listed = [f"{n} has {c} of {self.per_class}" for n, c in short.items()]
            words.append(f"{len(short)} classes are short of images: {some(listed, 4)}")
        if words and not allow_partial:
            raise SourceError(
                f"{path}: this copy of {self.name} is incomplete; {'; '.join(words)}. "
                "Complete it, or use what is there with --allow-partial"
            )
        return tuple(words)

    def _rows(self, name: str, entries: classfolders.Entries) -> ClassRows:
        width = len(str(self.per_class - 1))  # numbers are padded, so that ids sort as numbers do
        stems = classfolders.padded(entries.stems, width)
        return ClassRows(pc.binary_join_element_wise(f"{self.name}/{name}/", stems, ""), entries.keys, entries.files)

    def _distinct(self, path: Path, rows: ClassRows) -> None:
        if pc.count_distinct(rows.ids).as_py() == len(rows.ids):
            return
        seen: dict[str, str] = {}
        for sample_id, key in zip(rows.ids.to_pylist(), rows.keys.to_pylist(), strict=True):
            if sample_id in seen:
                raise SourceError(
                    f"{path}: {seen[sample_id]} and {key} are two files for one image ({sample_id}); remove one"
                )
            seen[sample_id] = key
