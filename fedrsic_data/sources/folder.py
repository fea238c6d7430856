"""Your own folder: images by class, by domain and class, by split and class, or as a table lists them.

``<class>/<image>``, as torchvision's ImageFolder; ``<domain>/<class>/<image>``, as Office-Caltech, PACS and DomainNet;
``<train|val|test>/<class>/<image>``; or ``labels.csv`` and images anywhere below the folder. Levels of
folders whose name is the same everywhere (a wrapper, the ``images`` of every domain of Office-31)
are ignored.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedrsic_data.dataset import schema
from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.raw.containers import FolderContainer, reading
from fedrsic_data.raw.index import Index, fingerprint
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.own import common, layouts, listing, readme, split_names
from fedrsic_data.sources.own.layouts import FolderLayout, LayoutOptions
from fedrsic_data.sources.own.listing import Listing
from fedrsic_data.sources.own.walk import FolderFiles, walk


@dataclass(frozen=True)
class FolderSettings:
    """Place and layout of the images.

    Attributes:
        path: The folder, relative to the current one; ``--source NAME=PATH`` replaces it.
        config: Config to use, if a README has several.
        layout: ``auto``: ``csv`` if there is a ``labels.csv``, else by names and depth of the folders.
        split: ``names``: take splits from the names of folders and files, as ``datasets`` does; empty:
            ignore names.
        splits: Split in the folder -> its name in the dataset, or null to leave it out.
        empty_classes: ``leave_out`` ignores class folders without images; ``keep`` keeps them as classes.
        title: A readable title; the source's name if empty.
        licence: Licence of the images.
        citation: The paper.
    """

    path: str
    config: str | None = None
    layout: FolderLayout = "auto"
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
    """Images in the user's folders; see the module."""

    settings: FolderSettings
    name: str = "folder"
    aliases: tuple[str, ...] = ()
    kind: str = "folder"

    @property
    def facts(self) -> Facts:
        its = self.settings
        layout = "<class>/<image>, <domain>/<class>/<image>, or labels.csv and images"
        return common.facts(its.title or self.name, its.licence, its.citation, layout, hub=None)

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:  # noqa: ARG002
        """Read names and labels; a complete copy is unknown here, so ``allow_partial`` changes nothing."""
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
                layout, index = _by_class(path, self.name, self.settings)
        return dataclasses.replace(self.settings, layout=layout), index


SOURCE = Folder(FolderSettings(path="."))


def _is_listing(path: str) -> bool:
    return path.rpartition("/")[2].lower() == listing.NAME


def _by_class(root: Path, name: str, its: FolderSettings) -> tuple[FolderLayout, Index]:
    """Images that lie by class, of the README's config where it says one."""
    wanted = LayoutOptions(its.layout, bool(its.split), its.splits, its.empty_classes == "keep")
    files = walk(root, _is_listing) if its.layout == "auto" else walk(root)
    if len(files.notes):
        raise SourceError(
            f"{root / files.notes[0].as_py()}: a {listing.NAME} is read only at the top of the folder, in small "
            "letters: move it there, with paths relative to it, or ignore it with a layout, such as --set layout=class"
        )
    config = readme.choose(readme.configs(root), its.config, root, f"sources.{name}")
    if config is None:
        return layouts.index(root, name, wanted, files)
    if config.patterns is None:
        mine = pc.starts_with(files.paths, f"{config.folder}/" if config.folder else "")
        below = config.folder.count("/") + 1 if config.folder else 0
        wanted = dataclasses.replace(wanted, below=below)
    else:
        said = pa.array(config.splits(files.paths.to_pylist(), root, "images"), pa.string())
        mine = pc.is_valid(said)
        wanted = dataclasses.replace(wanted, given=said.drop_null(), names=False)
        if not its.split:
            wanted = dataclasses.replace(wanted, given=None)
    of, others = len(files.paths), files.paths.filter(pc.invert(mine))
    if len(others) == of:
        raise SourceError(f"{root}: README.md: no images are below {config.folder}, data_dir of {config.name!r}")
    reason = f"not in config {config.name} of README.md"
    left = LeftOut.of(reason, others.to_pylist())
    stamp = fingerprint([files.fingerprint, config])
    files = dataclasses.replace(
        files, paths=files.paths.filter(mine), fingerprint=stamp, left_out=(*files.left_out, *left)
    )
    layout, index = layouts.index(root, name, wanted, files)
    notes = readme.note(config, len(files.paths), of, "images")
    return layout, dataclasses.replace(index, notes=(*notes, *index.notes))


def _listed(root: Path, name: str, its: FolderSettings) -> Index:
    table = listing.read(root / listing.NAME)
    files = walk(root, lambda path: path == listing.NAME)
    at = listing.places(table, root, files.paths)
    unlisted = np.ones(len(files.paths), bool)
    unlisted[at] = False
    left_out = files.left_out
    left_out += LeftOut.of(f"not in {listing.NAME}", files.paths.filter(pa.array(unlisted)).to_pylist())
    paths = files.paths.take(pa.array(at))
    words, notes = table.columns.get("split"), tuple[str, ...]()
    if words is None and its.split:
        words, notes = _said(root, name, its, paths)
    split, kept = split_names.renamed(words, words, its.splits, table.path, f"sources.{name}.splits")
    if kept is not None:
        left_out += common.of_left_out_splits(len(paths) - len(kept), its.splits)
        table, paths = table.take(kept), paths.take(kept)
    return listed(root, name, table, files, paths, split, left_out, notes)


def listed(
    root: Path,
    name: str,
    table: Listing,
    files: FolderFiles,
    paths: pa.Array,
    split: pa.Array | None,
    left_out: tuple[LeftOut, ...] = (),
    notes: tuple[str, ...] = (),
) -> Index:
    """The index of images that a table lists.

    Args:
        root: The folder.
        name: Name of the source.
        table: A row an image.
        files: The images below the folder.
        paths: string [N], the image of each row as a path from the folder.
        split: string [N], the split of each row; None: there is none.
        left_out: Images that the index does not have.
        notes: As ``Index.notes``.

    Raises:
        SourceError: The labels cannot be learned from.
    """
    labels = table.labels()
    labels.check(str(table.path))
    columns = table.columns
    return Index(
        common.table(
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


def _said(root: Path, name: str, its: FolderSettings, paths: pa.Array) -> tuple[pa.Array | None, tuple[str, ...]]:
    """The splits of images that a table lists and says none of: those of the README, or else of their paths."""
    config = readme.choose(readme.configs(root), its.config, root, f"sources.{name}")
    if config is None or config.patterns is None:
        return split_names.of_images(paths, str(root))
    said = config.splits(paths.to_pylist(), root, f"images of {listing.NAME}")
    if None in said:
        raise SourceError(
            f"{root / listing.NAME}: {paths[said.index(None)].as_py()} is not in config {config.name!r} of README.md; "
            "add a column split, or pass the README over with --set split="
        )
    notes = readme.note(config, len(said), len(said), f"images of {listing.NAME}")
    return common.known_splits(pa.array(said, pa.string())), notes
