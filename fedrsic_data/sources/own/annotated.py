"""Shared code of sources with annotations in a public format.

A format reads its files into ``Annotations``; here this becomes an index. Labels are the distinct classes of an image's
annotations. An image without annotations keeps its place, with no label, and is counted.
"""

from __future__ import annotations

import dataclasses
import itertools
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.errors import SourceError, UsageError, some
from fedrsic_data.raw.containers import FolderContainer, reading
from fedrsic_data.raw.index import Index, fingerprint
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.own import common, readme, spelling, split_names
from fedrsic_data.sources.own.walk import FolderFiles

MAX_BYTES = 64 * 2**20
"""Largest annotation file of one image, and largest table of settings, in bytes."""

_COPY = re.compile(r"(.+)\.rf\.[0-9A-Za-z]+\.[^.]+")  # Roboflow's names for copies of an image


@dataclass(frozen=True)
class AnnotatedSettings:
    """Place of the images and annotations, and rules for labels.

    Attributes:
        path: The folder, relative to the current one; ``--source NAME=PATH`` replaces it.
        labels: ``multi``: each image has any number of classes; ``single``: it must have exactly one; ``auto``: as the
            format decides, which is ``multi`` for annotations of objects.
        unlabelled: Whether images without annotations are kept, with no label.
        classes: The classes in index order; empty: those of the annotations. Others are refused.
        config: Config to use, if the README has several.
        title: A readable title; the source's name if empty.
        licence: Licence of the images.
        citation: The paper.
    """

    path: str
    labels: Literal["auto", "multi", "single"] = "auto"
    unlabelled: Literal["keep", "leave_out"] = "keep"
    classes: tuple[str, ...] = ()
    config: str | None = None
    title: str = ""
    licence: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        if not self.path:
            raise UsageError("path='' should name a folder")
        if len(set(self.classes)) < len(self.classes):
            raise UsageError("classes: a name occurs twice; list each once")


@dataclass(frozen=True)
class Annotations:
    """Annotations read from the files of a format.

    Attributes:
        files: Files in the folder.
        images: The images that belong to the dataset, as paths from the folder, each once.
        row: int64 [M], of which image each of M annotations is.
        code: int64 [M], of which class it is, an index into ``classes``.
        classes: The names that the files give, in their order.
        splits: The split of each image, None if unknown.
        single: Whether the files give one label per image, if the settings leave it open.
        users: The natural user of each image; None: unknown.
        domains: The domain of each image; None: all are of one.
        outside: Reason for images of the folder not to belong (``in no annotation file``).
        counts: Counts by name.
        notes: Findings and decisions, one line each.
    """

    files: FolderFiles
    images: Sequence[str]
    row: NDArray[np.int64]
    code: NDArray[np.int64]
    classes: Sequence[str]
    splits: Sequence[str | None]
    single: bool = False
    users: Sequence[str] | None = None
    domains: Sequence[str] | None = None
    outside: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotated:
    """A reader of one format.

    Attributes:
        kind: Its name in recipes.
        form: The format in words.
        layout: Where its files lie, for messages.
        read: Reads the files of a folder by these settings. Raises ``SourceError``.
        mark: The file that shows that a folder of these paths has this format, for ``new``; None: it has not.
        settings: Its settings in recipes.
        name: Its name in a recipe.
        aliases: None; a recipe gives the place of such data.
    """

    kind: str
    form: str
    layout: str
    read: Callable[[Path, Any], Annotations]
    mark: Callable[[Path, Sequence[str]], str | None]
    settings: AnnotatedSettings
    name: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def facts(self) -> Facts:
        its = self.settings
        return common.facts(its.title or self.name or self.kind, its.licence, its.citation, self.layout, hub=None)

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:  # noqa: ARG002
        """Read names and labels. An annotation of an image that is not there is refused, whatever ``allow_partial``."""
        return self.look(path)[1]

    def look(self, path: Path) -> tuple[AnnotatedSettings, Index]:
        """The index, and the settings with the classes that were found."""
        with reading(path):
            if not path.is_dir():
                raise SourceError(f"{path}: {'not a folder' if path.exists() else 'does not exist'}")
            name = self.name or self.kind
            config = readme.choose(readme.configs(path), self.settings.config, path, f"sources.{name}")
            found = self.read(path, self.settings)
            index = _index(path, name, self.settings, found if config is None else _of_config(path, config, found))
        return dataclasses.replace(self.settings, classes=index.classes), index


class NamedImages:
    """The images of a folder by the names that annotations give them; Unicode forms make no difference."""

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        """Describes ``root``, which holds these paths."""
        self._root = root
        self._files: dict[str, list[str]] = defaultdict(list)
        self._stems: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            name = _nfc(posixpath.basename(path))
            self._files[name].append(path)
            self._stems[name.rpartition(".")[0]].append(path)
        self._elsewhere = 0

    def named(self, name: str, folder: str, split: str | None = None) -> str:
        """The image that an annotation means.

        Args:
            name: Its name as the annotation writes it: with folders, with backslashes, a path of another machine or an
                address; the last part is looked for where the whole of it does not fit.
            folder: The folder of the annotation file, as a path from the root, from which names may start.
            split: The split of the annotation, which distinguishes images of one name.

        Raises:
            ValueError: There is no such image, there are several, or the name leaves the folder; the message says it.
        """
        plain = _nfc(name.replace("\\", "/"))
        address = "://" in plain
        foreign = address or plain.startswith("/") or re.match(r"[A-Za-z]:", plain) is not None
        plain = posixpath.normpath(plain.split("?")[0] if address else plain)
        if not foreign and _outside_of(folder, plain):
            raise ValueError(f"{name[:200]!r} leaves the folder; give the folder that holds all of it")
        known = self._files.get(posixpath.basename(plain), [])
        found = self._one(known, plain, "" if foreign else folder, split, name)
        if found is None:
            raise ValueError(f"{name[:200]!r} is no image below {self._root}; add it, or remove the reference")
        return found

    def exact(self, path: str) -> str | None:
        """The image of this path from the root; None where there is none."""
        known = self._files.get(_nfc(posixpath.basename(path)), [])
        return next((other for other in known if _nfc(other) == _nfc(path)), None)

    def of_stem(self, stem: str, folder: str, split: str | None = None) -> str | None:
        """The same by a name without ending; None where there is no such image."""
        plain = posixpath.normpath(_nfc(stem))
        known = self._stems.get(posixpath.basename(plain), [])
        return self._one(known, plain, folder, split, stem, ending=False)

    def counts(self) -> dict[str, int]:
        """Number of names that were found by their last part alone."""
        return {"images found by their file name alone": self._elsewhere} if self._elsewhere else {}

    def _one(
        self, known: Sequence[str], plain: str, folder: str, split: str | None, name: str, *, ending: bool = True
    ) -> str | None:
        """The image among those of one name that fits best: the whole path, else the longest end of it."""
        called = {path: _nfc(path) if ending else _nfc(path).rpartition(".")[0] for path in known}
        whole = posixpath.normpath(posixpath.join(folder, plain))
        if exact := [path for path in known if called[path] == whole]:
            known = exact
        else:
            alike = {path: _common_end(called[path], plain) for path in known}
            most = max(alike.values(), default=0)
            known = [path for path in known if alike[path] == most]
            self._elsewhere += bool(known) and most < len(plain.lstrip("./").split("/"))
        if len(known) > 1 and split is not None:
            known = [path for path in known if split_of(path) == split] or known
        if len(known) > 1:
            raise ValueError(f"{name[:200]!r} could be {known[0]} or {known[1]}; write its folder, or rename one")
        return known[0] if known else None


def _common_end(one: str, other: str) -> int:
    """Count the last parts that two paths have in common."""
    pairs = zip(reversed(one.split("/")), reversed(other.split("/")), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _outside_of(folder: str, name: str) -> bool:
    return posixpath.normpath(posixpath.join(folder, name)).split("/")[0] == ".."


def split_of(path: str) -> str | None:
    """The split named by the folders of a path, the deepest first; None if none is."""
    for part in reversed(path.split("/")[:-1]):
        if (split := split_word(part)) is not None:
            return split
    return None


def split_word(name: str) -> str | None:
    """The split that one name says by a word between separators, such as ``train2017`` or ``my-test``."""
    said = list(split_names.words(name))
    return said[0] if len(said) == 1 else None


def small(root: Path, path: str) -> bytes:
    """Content of an annotation file.

    Raises:
        SourceError: It cannot be read, or is larger than ``MAX_BYTES``.
    """
    if not (root / path).is_file():  # opening a pipe would block for ever
        raise SourceError(f"{root / path}: is not a regular file; remove it")
    data = FolderContainer(root).read([path])[0]
    if len(data) > MAX_BYTES:
        raise SourceError(f"{root / path}: has more than {MAX_BYTES:,} bytes, which no annotation file has")
    return data


def text(root: Path, path: str) -> str:
    """The same as UTF-8 text."""
    try:
        return small(root, path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{root / path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def lines(root: Path, path: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not empty, without spaces at their ends, and their numbers."""
    return [(number, line.strip()) for number, line in enumerate(text(root, path).split("\n"), 1) if line.strip()]


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _index(root: Path, name: str, its: AnnotatedSettings, found: Annotations) -> Index:
    classes, code = _classes(root, its, found)
    n, width = len(found.images), max(len(classes), 1)
    cells = np.unique(found.row * width + code)
    row, codes = cells // width, (cells % width).astype(np.int32)
    sizes = np.bincount(row, minlength=n)
    bare = np.flatnonzero(sizes == 0)
    single = its.labels == "single" or (its.labels == "auto" and found.single)
    if single:
        _one_each(root, its, found.images, classes, row, codes, sizes)
    keep = sizes > 0 if its.unlabelled == "leave_out" else np.ones(n, bool)
    counts, left_out = dict(found.counts), [*found.files.left_out, *_outside(found)]
    if len(bare) and its.unlabelled == "leave_out":
        left_out += LeftOut.of("without annotations", [found.images[i] for i in bare.tolist()])
    elif len(bare):
        counts["images without annotations, kept with no label"] = len(bare)
    offsets = np.concatenate([[0], np.cumsum(sizes[keep])]).astype(np.int32)
    labels = common.Labels(codes, offsets, classes, multi=not single)
    labels.check(str(root))
    at = pa.array(np.flatnonzero(keep))
    paths = pa.array(found.images, pa.string()).take(at)
    splits = None if all(split is None for split in found.splits) else pa.array(found.splits, pa.string()).take(at)
    return Index(
        common.table(
            ids=pc.binary_join_element_wise(name, paths, "/"),
            labels=labels,
            domain=name if found.domains is None else pa.array(found.domains, pa.string()).take(at),
            group=None if found.users is None else pa.array(found.users, pa.string()).take(at),
            split=None if splits is None else common.split_names(splits, str(root)),
            key=paths,
            file=pc.replace_substring_regex(paths, "(?s)^.*/", ""),
        ),
        classes,
        FolderContainer(root),
        found.files.fingerprint,
        found.files.newest,
        tuple(left_out),
        multi_label=not single,
        counts=counts,
        notes=(*found.notes, *_notes(found, single=single, sizes=sizes, classes=classes, codes=codes)),
    )


def _of_config(root: Path, config: readme.Config, found: Annotations) -> Annotations:
    """Keep the images of one config of the README, with its splits."""
    if config.patterns is None:
        splits = list(found.splits)
        here = np.array([config.within(path) for path in found.images], bool)
    else:
        splits = config.splits(found.images, root, "images")
        here = np.array([split is not None for split in splits], bool)
    place = np.cumsum(here) - 1
    mine = here[found.row]
    rows = np.flatnonzero(here).tolist()
    return dataclasses.replace(
        found,
        files=dataclasses.replace(found.files, fingerprint=fingerprint([found.files.fingerprint, config])),
        images=[found.images[i] for i in rows],
        row=place[found.row[mine]],
        code=found.code[mine],
        splits=[splits[i] for i in rows],
        users=None if found.users is None else [found.users[i] for i in rows],
        domains=None if found.domains is None else [found.domains[i] for i in rows],
        outside=" or ".join([*([found.outside] if found.outside else []), f"not in config {config.name}"]),
        notes=(*readme.note(config, len(rows), len(found.images), "images"), *found.notes),
    )


def _classes(root: Path, its: AnnotatedSettings, found: Annotations) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The label space, and the annotations' indices into it."""
    if pair := spelling.twins([*its.classes, *found.classes]):
        raise SourceError(f"{root}: one class is spelled in two ways, {spelling.pair(*pair)}; rename one of them")
    if not its.classes:
        return tuple(found.classes), found.code
    place = {name: i for i, name in enumerate(its.classes)}
    for code in np.unique(found.code).tolist():
        if found.classes[code] not in place:
            at = int(found.row[np.flatnonzero(found.code == code)[0]])
            raise SourceError(
                f"{root}: {found.images[at]} has class {found.classes[code]!r}, which is not one of the "
                f"{len(its.classes)} of the recipe; add it to the setting classes"
            )
    renumbered = np.array([place.get(name, -1) for name in found.classes], np.int64)
    return its.classes, renumbered[found.code]


def _one_each(
    root: Path,
    its: AnnotatedSettings,
    images: Sequence[str],
    classes: Sequence[str],
    row: NDArray[np.int64],
    codes: NDArray[np.int32],
    sizes: NDArray[np.int64],
) -> None:
    """Refuse images without exactly one class."""
    if (several := common.first(sizes > 1)) is not None:
        names = [classes[code] for code in codes[row == several]]
        raise SourceError(
            f"{root}: {images[several]} has {len(names)} classes ({some(names)}), where each image must have one; "
            "for several, set labels=multi"
        )
    if its.unlabelled == "keep" and (bare := common.first(sizes == 0)) is not None:
        count = int((sizes == 0).sum())
        raise SourceError(
            f"{root}: {images[bare]} has no class, where each image must have one; {count:,} images have none: label "
            "them, or leave them out with unlabelled=leave_out"
        )


def _outside(found: Annotations) -> tuple[LeftOut, ...]:
    mine = pa.array(found.images, pa.string())
    others = found.files.paths.filter(pc.invert(pc.is_in(found.files.paths, mine)))
    return LeftOut.of(found.outside, others.to_pylist())


def _notes(
    found: Annotations, *, single: bool, sizes: NDArray[np.int64], classes: Sequence[str], codes: NDArray[np.int32]
) -> list[str]:
    notes = []
    empty = [classes[i] for i in np.flatnonzero(np.bincount(codes, minlength=len(classes)) == 0).tolist()]
    if empty:
        few, stay = ("class has", "it stays") if len(empty) == 1 else ("classes have", "they stay")
        notes.append(f"{len(empty)} {few} no image ({some(empty)}); {stay} in the label space")
    for split in dict.fromkeys(split for split in found.splits if split is not None):
        mine = np.array([one == split for one in found.splits])
        if not sizes[mine].any():
            notes.append(f"no image of split {split} has annotations; leave them out with --set unlabelled=leave_out")
    if not single and len(sizes) and (sizes == 1).all():
        notes.append("every image has exactly one class; --set labels=single makes a single-label dataset of them")
    copied = [match for path in found.images if (match := _COPY.fullmatch(posixpath.basename(path)))]
    if more := len(copied) - len({match[1] for match in copied}):
        notes.append(f"{more:,} images are augmented copies of others (x.rf.*): keep them out of other splits")
    return notes
