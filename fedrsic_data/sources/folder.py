"""A folder of your own: images by class, by domain and class, by split and class, or as a table lists them.

``<class>/<image>``, as torchvision's ImageFolder; ``<domain>/<class>/<image>``, as Office-Caltech, PACS and DomainNet;
``<train|val|test>/<class>/<image>``; or ``labels.csv`` beside images that lie anywhere below the folder. Levels of
folders whose name is the same everywhere (a wrapper, the ``images`` of every domain of Office-31) say nothing and
are passed over.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedrsic_data import schema
from fedrsic_data.containers import FolderContainer, reading
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.index import Index, LeftOut
from fedrsic_data.sources import layouts, listing, own, splitwords
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.layouts import Layout, Wanted
from fedrsic_data.sources.walk import walk

_EXAMPLES = 5


@dataclass(frozen=True)
class FolderSettings:
    """Where the images are, and how they lie there.

    Attributes:
        path: The folder, from the one fedkit runs in; ``--source NAME=PATH`` replaces it.
        layout: ``auto``: ``csv`` where there is a ``labels.csv``, else what names and depth of the folders say.
        split: ``names``: splits are those that the names of folders and files say, as ``datasets`` finds them; empty:
            names say none.
        splits: Split in the folder -> its name here, or null to leave it out.
        empty_classes: ``leave_out``: a class folder without images is no class; ``keep``: it is one.
        title: What it is, in words; the source's name if empty.
        licence: Of the images, in words.
        citation: The paper.
    """

    path: str
    layout: Layout = "auto"
    split: Literal["names", ""] = "names"
    splits: dict[str, str | None] = field(default_factory=dict)
    empty_classes: Literal["leave_out", "keep"] = "leave_out"
    title: str = ""
    licence: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            raise UsageError("path='' should name a folder")


@dataclass(frozen=True)
class Folder:
    """Images in folders of a person's own; see the module."""

    settings: FolderSettings
    name: str = "folder"
    aliases: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """See ``Source.kind``."""
        return "folder"

    @property
    def place(self) -> str:
        """Where it is unless ``--source`` says otherwise."""
        return self.settings.path

    @property
    def facts(self) -> Facts:
        """See ``Source.facts``."""
        its = self.settings
        layout = "<class>/<image>, <domain>/<class>/<image>, or labels.csv and images"
        return own.facts(its.title or self.name, its.licence, its.citation, layout, hub=None)

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:  # noqa: ARG002
        """See ``Source.index``. Nobody knows what a complete copy has, so ``allow_partial`` changes nothing."""
        return self.look(path)[1]

    def look(self, path: Path) -> tuple[FolderSettings, Index]:
        """The index, and the settings with the layout that was found."""
        with reading(path):
            if not path.is_dir():
                raise SourceError(f"{path}: {'not a folder' if path.exists() else 'does not exist'}")
            listed = path / listing.NAME
            layout = self.settings.layout
            if layout == "csv" and not listed.is_file():
                raise SourceError(f"{listed}: {'not a file' if listed.exists() else 'does not exist'}; see layout")
            if layout == "csv" or (layout == "auto" and listed.is_file()):
                layout, index = "csv", _listed(path, self.name, self.settings)
            else:
                its = self.settings
                wanted = Wanted(layout, bool(its.split), its.splits, its.empty_classes == "keep")
                layout, index = layouts.index(path, self.name, wanted, walk(path))
        return dataclasses.replace(self.settings, layout=layout), index


SOURCE = Folder(FolderSettings(path="."))


def _listed(root: Path, name: str, its: FolderSettings) -> Index:
    table = listing.read(root / listing.NAME)
    files = walk(root, lambda path: path == listing.NAME)
    at = listing.places(table, root, files.paths)
    unlisted = np.ones(len(files.paths), bool)
    unlisted[at] = False
    left_out = files.left_out
    if unlisted.any():
        few = tuple(files.paths.take(pa.array(np.flatnonzero(unlisted)[:_EXAMPLES])).to_pylist())
        left_out += (LeftOut(f"not in {listing.NAME}", int(unlisted.sum()), few),)
    paths = files.paths.take(pa.array(at))
    words, notes = table.columns.get("split"), tuple[str, ...]()
    if words is None and its.split:
        words, notes = splitwords.of_images(paths, str(root))
    split, kept = splitwords.renamed(words, words, its.splits, table.path, f"sources.{name}.splits")
    if kept is not None:
        left_out += own.of_left_out_splits(len(paths) - len(kept), its.splits)
        table, paths = table.take(kept), paths.take(kept)
    labels = table.labels()
    labels.check(str(table.path))
    columns = table.columns
    return Index(
        own.table(
            ids=pc.binary_join_element_wise(name, paths, "/"),
            labels=labels,
            domain=columns.get("domain", name),
            group=columns.get("user"),
            split=split,
            key=paths,
            file=pc.replace_substring_regex(paths, "(?s)^.*/", ""),
        ),
        labels.classes,
        FolderContainer(root),
        schema.content_digest(pa.table({"files": [files.fingerprint], "table": [table.sha256]}))[:32],
        max(files.newest, table.newest),
        left_out,
        multi_label=labels.multi,
        counts=labels.counts,
        notes=notes,
    )
