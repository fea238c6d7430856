"""A folder of your own: images by class, by domain and class, by split and class, or as a table lists them.

``<class>/<image>``, as torchvision's ImageFolder; ``<domain>/<class>/<image>``, as Office-Caltech, PACS and DomainNet;
``<train|val|test>/<class>/<image>``; or ``labels.csv`` beside images that lie anywhere below the folder. Levels of
folders whose name is the same everywhere (a wrapper, the ``images`` of every domain of Office-31) say nothing and
are passed over.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedrsic_data import schema
from fedrsic_data.containers import FolderContainer, reading
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.index import Index, LeftOut
from fedrsic_data.sources import listing, own
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.classfolders import plain
from fedrsic_data.sources.walk import walk

Layout = Literal["auto", "class", "domain/class", "split/class", "csv"]

_EXAMPLES = 5


@dataclass(frozen=True)
class FolderSettings:
    """Where the images are, and how they lie there.

    Attributes:
        path: The folder, from the one fedkit runs in; ``--source NAME=PATH`` replaces it.
        layout: ``auto``: ``csv`` where there is a ``labels.csv``, else what the depth of the images says.
        title: What it is, in words; the source's name if empty.
        licence: Of the images, in words.
        citation: The paper.
    """

    path: str
    layout: Layout = "auto"
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
                layout, index = "csv", _listed(path, self.name)
            else:
                layout, index = _laid_out(path, self.name, layout)
        return dataclasses.replace(self.settings, layout=layout), index


SOURCE = Folder(FolderSettings(path="."))


def _laid_out(root: Path, name: str, layout: Layout) -> tuple[Layout, Index]:
    files = walk(root)
    levels, file = _levels(root, files.paths)
    found, above = _above(root, layout, levels, files.paths)
    classes, codes = own.encoded(levels[-1])
    labels = own.Labels.single(codes, classes)
    labels.check(str(root))
    if above is not None and found == "domain/class":
        _one_spelling(root, above, levels[-1])
    parts = [levels[-1], file] if above is None else [above, levels[-1], file]
    table = own.table(
        ids=pc.binary_join_element_wise(name, *parts, "/"),
        labels=labels,
        domain=name if above is None or found != "domain/class" else above,
        split=own.split_names(above, str(root)) if above is not None and found == "split/class" else None,
        key=files.paths,
        file=file,
    )
    return found, Index(table, classes, FolderContainer(root), files.fingerprint, files.newest, files.left_out)


def _listed(root: Path, name: str) -> Index:
    table = listing.read(root / listing.NAME)
    files = walk(root, lambda path: path == listing.NAME)
    at = listing.places(table, root, files.paths)
    labels = table.labels()
    labels.check(str(table.path))
    unlisted = np.ones(len(files.paths), bool)
    unlisted[at] = False
    left_out = files.left_out
    if unlisted.any():
        few = tuple(files.paths.take(pa.array(np.flatnonzero(unlisted)[:_EXAMPLES])).to_pylist())
        left_out += (LeftOut(f"not in {listing.NAME}", int(unlisted.sum()), few),)
    paths = files.paths.take(pa.array(at))
    columns = table.columns
    return Index(
        own.table(
            ids=pc.binary_join_element_wise(name, paths, "/"),
            labels=labels,
            domain=columns.get("domain", name),
            group=columns.get("user"),
            split=own.split_names(columns["split"], str(table.path)) if "split" in columns else None,
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
    )


def _levels(root: Path, paths: pa.Array) -> tuple[list[pa.Array], pa.Array]:
    """The names of the folders above each image, level by level from the top, and the file names: string [N] each."""
    depth = pc.count_substring(paths, "/").to_numpy()
    least, most = int(depth.argmin()), int(depth.argmax())
    if depth[least] != depth[most]:
        shallow, deep = paths[least].as_py(), paths[most].as_py()
        raise SourceError(
            f"{root}: images stand at two depths, {shallow} and {deep}; move those of one away, or give the folder "
            "that holds the class folders"
        )
    if not depth[most]:
        raise SourceError(
            f"{root}: {paths[0].as_py()} stands in no class folder; make one folder a class, or add a labels.csv"
        )
    parts = pc.split_pattern(paths, "/")
    levels = [pc.list_element(parts, i) for i in range(depth[most] + 1)]
    return levels[:-1], levels[-1]


def _above(root: Path, layout: Layout, levels: list[pa.Array], paths: pa.Array) -> tuple[Layout, pa.Array | None]:
    """What the folders above the classes are, and their names, string [N], where they are anything."""
    upper = levels[:-1]
    telling = [level for level in upper if pc.count_distinct(level).as_py() > 1]
    example = paths[0].as_py()
    if len(telling) > 1 or (telling and layout == "class"):
        raise SourceError(
            f"{root}: {example} has {len(telling)} levels of folders above its class, where layout {layout} has "
            f"{'none' if layout == 'class' else 'one'}; give a folder further down"
        )
    if layout == "auto" and {n.lower() for n in pc.unique(levels[-1]).to_pylist()} <= set(own.SPLIT_WORDS):
        raise SourceError(f"{root}: {example} has its split below its class; put the splits above the classes")
    if layout in ("domain/class", "split/class"):
        if not upper:
            raise SourceError(f"{root}: {example} has no folder above its class, as layout {layout} wants")
        return layout, (telling or upper)[0]
    if layout == "class" or not telling:
        return "class", None
    words = {name.lower() for name in pc.unique(telling[0]).to_pylist()}
    return "split/class" if words <= set(own.SPLIT_WORDS) else "domain/class", telling[0]


def _one_spelling(root: Path, domains: pa.Array, classes: pa.Array) -> None:
    """Refuses domains that spell a class in two ways, which would make it two; ``a`` and ``A`` side by side are two."""
    pairs = pa.table({"domain": domains, "class": classes}).group_by(["domain", "class"]).aggregate([])
    spelled: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for domain, name in zip(pairs["domain"].to_pylist(), pairs["class"].to_pylist(), strict=True):
        if key := plain(name):
            spelled[key][name].add(domain)
    for ways in spelled.values():
        if len(ways) > 1 and not set.intersection(*ways.values()):
            (one, here), (other, there) = sorted(ways.items())[:2]
            raise SourceError(
                f"{root}: class {one!r} of {min(here)} is spelled {other!r} in {min(there)}; rename one of them"
            )
