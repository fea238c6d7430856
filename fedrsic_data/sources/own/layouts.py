"""Images in folders by class: which level of the folders is the class, and which is the domain or the split.

The folder of an image is its class. Above it may be a level of splits and one of domains, in either order;
levels whose name is the same everywhere are wrappers and say nothing more than, perhaps, the split of all.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedrsic_data.errors import SourceError, some
from fedrsic_data.raw.containers import FolderContainer
from fedrsic_data.raw.index import Index
from fedrsic_data.sources.classfolders import is_image
from fedrsic_data.sources.own import common, spelling, split_names
from fedrsic_data.sources.own.walk import FolderFiles

FolderLayout = Literal[
    "auto", "class", "domain/class", "split/class", "split/domain/class", "domain/split/class", "csv"
]

_FEW = 5


@dataclass(frozen=True)
class LayoutOptions:
    """The layout settings of a user.

    Attributes:
        layout: One of those above, or ``auto``.
        names: Whether names may say splits.
        splits: Split in the folder -> its name in the dataset, or null to leave it out.
        keep_empty: Whether classes without images are in the label space.
        given: string [N], the split of each image where a README says it; None: names say them.
        below: How many levels of folders, from the top, names are not looked at.
    """

    layout: FolderLayout
    names: bool
    splits: Mapping[str, str | None]
    keep_empty: bool
    given: pa.Array | None = None
    below: int = 0


@dataclass(frozen=True)
class _Roles:
    """Roles of the levels above the classes: their numbers from the top, and the split of every image."""

    layout: FolderLayout
    domain: int | None
    split: int | None
    words: pa.Array | None  # string [N]: the split in the folder's own words
    splits: pa.Array | None  # string [N]: its name, but for what settings say
    shown: tuple[int, ...]  # the levels that are part of sample ids
    notes: tuple[str, ...] = ()


def index(root: Path, name: str, wanted: LayoutOptions, files: FolderFiles) -> tuple[FolderLayout, Index]:
    """The images of a folder by class.

    Args:
        root: The folder.
        name: Name of the source.
        wanted: What is known of the layout.
        files: Files in the folder.

    Returns:
        The layout that was found, and the index.

    Raises:
        SourceError: The images do not lie by class, or their splits or classes contradict each other.
        UsageError: A setting that nothing in the folder fits.
    """
    paths = files.paths
    levels, file = _levels(root, paths)
    roles = _roles(root, wanted, levels, file, paths)
    empty, bare = _without_images(root, levels)
    left_out = files.left_out
    split, kept = split_names.renamed(roles.words, roles.splits, wanted.splits, root, f"sources.{name}.splits")
    if kept is not None:
        left_out += common.of_left_out_splits(len(paths) - len(kept), wanted.splits)
        levels, file, paths = [level.take(kept) for level in levels], file.take(kept), paths.take(kept)
    present, codes = common.encoded(levels[-1])
    classes = tuple(sorted({*present, *empty})) if wanted.keep_empty else present
    labels = common.Labels.single(np.searchsorted(classes, present).astype(np.int32)[codes], classes)
    labels.check(str(root))
    above = [levels[i] for i in roles.shown]
    _one_spelling(root, above, levels[-1])
    table = common.table(
        ids=pc.binary_join_element_wise(name, *above, levels[-1], file, "/"),
        labels=labels,
        domain=name if roles.domain is None else levels[roles.domain],
        split=split,
        key=paths,
        file=file,
    )
    return roles.layout, Index(
        table,
        classes,
        FolderContainer(root),
        files.fingerprint,
        files.newest,
        left_out,
        notes=(*roles.notes, *_named_empty(bare, set(empty) - set(present), wanted.keep_empty)),
    )


def _levels(root: Path, paths: pa.Array) -> tuple[list[pa.Array], pa.Array]:
    """The names of the folders above each image, level by level from the top, and the file names: string [N] each."""
    depth = pc.count_substring(paths, "/").to_numpy()
    least, most = int(depth.argmin()), int(depth.argmax())
    if depth[least] != depth[most]:
        shallow, deep = paths[least].as_py(), paths[most].as_py()
        raise SourceError(
            f"{root}: images are at two depths, {shallow} and {deep}; move those of one away, or give the folder "
            "that holds the class folders"
        )
    if not depth[most]:
        raise SourceError(
            f"{root}: {paths[0].as_py()} is not in a class folder; make one folder a class, or add a labels.csv"
        )
    parts = pc.split_pattern(paths, "/")
    levels = [pc.list_element(parts, i) for i in range(depth[most] + 1)]
    return levels[:-1], levels[-1]


def _roles(root: Path, wanted: LayoutOptions, levels: list[pa.Array], file: pa.Array, paths: pa.Array) -> _Roles:
    upper = range(len(levels) - 1)
    telling = [i for i in upper if pc.count_distinct(levels[i]).as_py() > 1]
    example = paths[0].as_py()
    layout = wanted.layout
    if wanted.given is not None:
        return _given(root, layout, levels, wanted.given, telling, example)
    if layout == "auto":
        return _found(root, wanted, levels, file, telling, example)
    roles = layout.split("/")[:-1]
    if len(telling) > len(roles):
        raise SourceError(
            f"{root}: {example} has {len(telling)} levels of folders above its class, where layout {layout} has "
            f"{('none', 'one', 'two')[len(roles)]}; give a folder further down"
        )
    if len(upper) < len(roles):
        raise SourceError(f"{root}: {example} has no folder above its class, as layout {layout} wants")
    others = [i for i in upper if i not in telling]
    used = sorted([*telling, *others[: len(roles) - len(telling)]])
    at = dict(zip(roles, used, strict=True))
    split, domain, shown = at.get("split"), at.get("domain"), tuple(used)
    if split is not None:
        said = {name: _whole(name, f"{root}: {example}") for name in pc.unique(levels[split]).to_pylist()}
        return _Roles(layout, domain, split, *_spoken(levels[split], said), shown)
    if wanted.names and layout == "class" and (wrapper := _wrapper(levels, telling, wanted.below)) is not None:
        splits = pa.repeat(pa.scalar(wrapper, pa.string()), len(file))
        return _Roles(layout, domain, None, splits, splits, shown)
    splits, notes = split_names.of_file_names(file, str(root)) if wanted.names else (None, ())
    return _Roles(layout, domain, None, splits, splits, shown, notes)


def _whole(name: str, where: str) -> split_names.Spoken:
    """The split of a folder that is one by settings: its word, or else its whole name."""
    said = split_names.words(name)
    if len(said) > 1:
        raise SourceError(f"{where}: {name!r} names two splits, {' and '.join(said)}; rename it")
    return next((split_names.Spoken(word, split) for split, word in said.items()), split_names.Spoken(name, name))


def _found(
    root: Path, wanted: LayoutOptions, levels: list[pa.Array], file: pa.Array, telling: list[int], example: str
) -> _Roles:
    """The roles that names and depth say."""
    notes: tuple[str, ...] = ()
    split: int | None = None
    said: dict[str, split_names.Spoken] | None = None
    for level in telling if wanted.names else ():
        names = pc.unique(levels[level]).to_pylist()
        otherwise = "; if these are domains, set layout=domain/class"
        said, notes = split_names.of_level(names, wanted.splits, str(root), otherwise)
        if said is not None:
            split = level
            break
    layout, domain, shown = _order(root, split, telling, example)
    if said is not None and split is not None:
        names_say = f"splits are those that the names of folders say: {some(sorted(said), _FEW)}"
        notes = (names_say, *notes, *_class_words(levels[-1], split_above=True))
        return _Roles(layout, domain, split, *_spoken(levels[split], said), shown, notes)
    if not wanted.names:
        return _Roles(layout, domain, None, None, None, shown)
    if (wrapper := _wrapper(levels, telling, wanted.below)) is not None:
        splits = pa.repeat(pa.scalar(wrapper, pa.string()), len(file))
        notes = _class_words(levels[-1], split_above=True)
        return _Roles(layout, domain, None, splits, splits, shown, notes)
    class_names = pc.unique(levels[-1]).to_pylist()
    if all(split_names.words(name) for name in class_names):
        raise SourceError(
            f"{root}: {example} has its split below its class; put the splits above the classes, or, if "
            f"{class_names[0]} is a class, set layout={layout}"
        )
    splits, notes = split_names.of_file_names(file, str(root))
    return _Roles(layout, domain, None, splits, splits, shown, (*_class_words(levels[-1], split_above=False), *notes))


def _given(
    root: Path, layout: FolderLayout, levels: list[pa.Array], given: pa.Array, telling: list[int], example: str
) -> _Roles:
    """The roles of levels where the splits are known: a level of whose folders each is of one split is of splits."""
    split = None
    if layout not in ("class", "domain/class"):
        split = next((level for level in telling if _tells(levels[level], given)), None)
    found, domain, shown = _order(root, split, telling, example)
    if layout not in ("auto", found):
        raise SourceError(f"{root}: {example} has layout {found} by the splits of the README, not {layout}; see layout")
    return _Roles(found, domain, split, given, common.known_splits(given), shown)


def _tells(level: pa.Array, splits: pa.Array) -> bool:
    pairs = pa.table({"name": level, "split": splits}).group_by(["name", "split"]).aggregate([])
    alone = len(pairs) == pc.count_distinct(level).as_py()
    words = [split_names.words(name) for name in pc.unique(level).to_pylist()]
    return alone and (pc.count_distinct(splits).as_py() > 1 or all(words))


def _order(
    root: Path, split: int | None, telling: Sequence[int], example: str
) -> tuple[FolderLayout, int | None, tuple[int, ...]]:
    """The layout, the level of domains, and the levels of splits and domains from the top."""
    domains = [level for level in telling if level != split]
    if len(domains) > 1:
        raise SourceError(
            f"{root}: {example} has {len(telling)} levels of folders above its class, where layout auto has one of "
            "domains and one of splits; give a folder further down"
        )
    domain = domains[0] if domains else None
    order = sorted((level, role) for level, role in ((split, "split"), (domain, "domain")) if level is not None)
    layout: FolderLayout = "/".join([*(role for _, role in order), "class"])  # type: ignore[assignment]
    return layout, domain, tuple(level for level, _ in order)


def _wrapper(levels: Sequence[pa.Array], telling: Sequence[int], below: int) -> str | None:
    """The one split that the folders around all images say."""
    said: dict[str, str] = {}
    for level in range(below, len(levels) - 1):
        if level not in telling:
            said |= split_names.words(levels[level][0].as_py())
    return next(iter(said)) if len(said) == 1 else None


def _class_words(classes: pa.Array, *, split_above: bool) -> tuple[str, ...]:
    """A note on classes in whose names ``datasets`` would see splits."""
    odd = sorted(name for name in pc.unique(classes).to_pylist() if split_names.words(name))
    if not odd:
        return ()
    would = "put their images in two splits" if split_above else "read no other folder"
    one = len(odd) == 1
    here, words = ("is a class", "a split word in this name") if one else ("are classes", "split words in these names")
    return (f"{some(odd, _FEW)} {here} here; load_dataset sees {words} and would {would}",)


def _spoken(level: pa.Array, said: Mapping[str, split_names.Spoken]) -> tuple[pa.Array, pa.Array]:
    """The word and the split of each image by the folders of a level, string [N] each."""
    coded = level.dictionary_encode()
    spoken = [said[name] for name in coded.dictionary.to_pylist()]
    words, splits = pa.array([one.word for one in spoken]), pa.array([one.split for one in spoken])
    return words.take(coded.indices), splits.take(coded.indices)


def _without_images(root: Path, levels: Sequence[pa.Array]) -> tuple[list[str], list[str]]:
    """The names of the class folders without images, and the paths of these and of all others down to the classes."""
    empty: list[str] = []
    places: list[str] = []
    above = [""]
    for depth in range(len(levels)):
        full = levels[0] if depth == 0 else pc.binary_join_element_wise(*levels[: depth + 1], "/")
        here = set(pc.unique(full).to_pylist())
        for folder in above:
            for entry in os.scandir(f"{root}{os.sep}{folder}"):
                path = f"{folder}/{entry.name}" if folder else entry.name
                hidden = entry.name.startswith((".", "__MACOSX"))
                if path not in here and not hidden and entry.is_dir() and not _has_images(entry.path):
                    places.append(path)
                    empty += [entry.name] if depth == len(levels) - 1 else []
        above = sorted(here)
    return empty, sorted(places)


def _has_images(folder: str) -> bool:
    """Whether an image lies below a folder: one of another config of the README, or of a split that is left out."""
    return any(is_image(file) for _, _, files in os.walk(folder) for file in files)


def _named_empty(places: Sequence[str], classes: Set[str], kept: bool) -> tuple[str, ...]:
    """Notes on folders without images: those of classes that have none anywhere, and the others."""
    bare = [place for place in places if place.rpartition("/")[2] in classes]
    rest = [place for place in places if place not in bare]
    notes = (f"without images: {some(rest, _FEW)}",) if rest else ()
    if not bare:
        return notes
    words = "kept as a class" if kept else "no class; keep it as one with --set empty_classes=keep"
    if len(bare) > 1:
        words = "kept as classes" if kept else "no classes; keep them as such with --set empty_classes=keep"
    return (f"without images: {some(bare, _FEW)}: {words}", *notes)


def _one_spelling(root: Path, above: Sequence[pa.Array], classes: pa.Array) -> None:
    """Refuses a class that is spelled in two ways; ``a`` and ``A`` side by side in one folder are two classes."""
    if spelling.twins(pc.unique(classes).to_pylist()) is None:
        return
    place = pc.binary_join_element_wise(*above, "/") if above else pa.repeat("", len(classes))
    pairs = pa.table({"place": place, "class": classes}).group_by(["place", "class"]).aggregate([])
    spelled: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for folder, name in zip(pairs["place"].to_pylist(), pairs["class"].to_pylist(), strict=True):
        spelled[spelling.key(name)][name].add(folder)
    for ways in spelled.values():
        for (one, here), (other, there) in pairwise(sorted(ways.items())):
            if spelling.by_case(one, other) and here & there:
                continue
            of, place = (f"of {min(here)} is", f" in {min(there)}") if here != there else ("is also", "")
            names = f"{spelling.shown(one, other)} {of} spelled {spelling.shown(other, one)}"
            raise SourceError(f"{root}: class {names}{place}; rename one of them")
