"""Splits named by files and folders, as ``datasets`` finds them.

A split word counts in any folder above a file; where no folder has one, it counts in the file's own name. A word
is at the start of a name or after one of ``- . _``, a space or a digit, and ends likewise: ``train2017``,
``my-train-set``, ``birds-test.parquet``, but not ``latest``. Capitals count too, which ``datasets`` ignores.

``datasets`` reads only the files whose names say a split, once one does. Nothing is lost here: such a name becomes a
split of its own beside ``train``, or the files are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.settings import suggest
from fedrsic_data.sources.own import common

_SPLITS = ("train", "val", "test")
_WORDS = {s: "|".join(word for word, split in common.SPLIT_WORDS.items() if split == s) for s in _SPLITS}
_FOLDER = {split: re.compile(rf"(?i)(?:^|[-._ 0-9])({words})(?=[-._ 0-9]|\Z)") for split, words in _WORDS.items()}
_FILE = {split: rf"(?i)(?:^|[-._ 0-9])({words})[-._ 0-9]" for split, words in _WORDS.items()}
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5,}(?:-\w+)?")
_HUB_SHARD = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_FEW = 3


@dataclass(frozen=True)
class Spoken:
    """The split of a file.

    Attributes:
        word: The word as written in the name, by which settings and sample ids call the split; None: there is none.
        split: Its name here; None: the ignore names.
    """

    word: str | None
    split: str | None


def words(name: str) -> dict[str, str]:
    """The splits that a folder's name says, and the word by which it says each."""
    return {split: match[1] for split, pattern in _FOLDER.items() if (match := pattern.search(name))}


def file_words(name: str) -> dict[str, str]:
    """The same of the name of a file, its ending included."""
    return {split: match[1] for split, pattern in _FILE.items() if (match := re.search(pattern, name))}


def of_level(
    names: Iterable[str], renames: Mapping[str, str | None], where: str, otherwise: str = ""
) -> tuple[dict[str, Spoken] | None, tuple[str, ...]]:
    """Splits named by sibling folders, none of which is a class.

    Args:
        names: The names.
        renames: Word or name -> the split it means, or null to leave it out; it counts before what the name says.
        where: The place, for messages.
        otherwise: What to do if the names are no splits, for messages.

    Returns:
        The split of each name, or None where they say nothing; and notes on what ``datasets`` would do.

    Raises:
        SourceError: A name names two splits, or some names say none and none of the others says ``train``.
    """
    names = sorted(names)
    spoken = {name: _one(name, words(name), name, where) for name in names}
    if all(said.word is None and name not in renames for name, said in spoken.items()):
        return None, ()
    return _completed(spoken, {name: name for name in names}, renames, where, otherwise)


def of_files(paths: Sequence[str], renames: Mapping[str, str | None], where: str) -> tuple[list[Spoken], list[str]]:
    """The split of each of some data files, such as Parquet files, by their paths.

    Args:
        paths: Paths from the dataset's folder, with ``/``.
        renames: As in ``of_level``.
        where: The folder, for messages.

    Returns:
        The split of each, and notes; errors as for ``of_level``.
    """
    places = [PurePosixPath(path) for path in paths]
    hub = [match[1] if (match := _HUB_SHARD.fullmatch(path)) else None for path in paths]
    above = [_merged(words(part.removeprefix("partial-")) for part in place.parent.parts) for place in places]
    inside = [file_words(place.name) for place in places]
    called = {path: _called(place, places if any(above) else ()) for path, place in zip(paths, places, strict=True)}
    spoken: dict[str, Spoken] = {}
    for path, shard, folders, file in zip(paths, hub, above, inside, strict=True):
        if any(hub):
            spoken[path] = Spoken(shard, None if shard is None else common.SPLIT_WORDS.get(shard, shard))
        elif any(above):
            said = _one(path, folders, path, where)
            spoken[path] = Spoken(file[said.split], said.split) if said.split in file else said
        else:
            said = _one(path, file, path, where)
            shard_name = _shard_name(path)
            spoken[path] = Spoken(shard_name, said.split) if said.split and shard_name else said
    if all(said.word is None and called[path] not in renames for path, said in spoken.items()):
        return [Spoken(_shard_name(path), None) for path in paths], []
    known, notes = _completed(spoken, called, renames, where)
    return [known[path] for path in paths], list(notes)


def of_images(paths: pa.Array, where: str) -> tuple[pa.Array | None, tuple[str, ...]]:
    """The split of each of some images by their paths alone, string [N]; None where these say nothing.

    Args:
        paths: string [N], paths from the dataset's folder.
        where: The folder, for messages.

    Returns:
        The splits, and notes.

    Raises:
        SourceError: A path names two splits, or some say a split and others none, so that images of a test set would
            be taken for others.
    """
    coded = pc.replace_substring_regex(paths, "/?[^/]*$", "").dictionary_encode()
    folders = coded.dictionary.to_pylist()
    told = [_merged(words(part) for part in folder.split("/")) for folder in folders]
    if not any(told):
        return of_file_names(pc.replace_substring_regex(paths, "(?s)^.*/", ""), where)
    hits = np.array([[split in splits for splits in told] for split in _SPLITS])[:, coded.indices.to_numpy()]
    return _by_hits(hits, paths, where, "folders")


def of_file_names(files: pa.Array, where: str) -> tuple[pa.Array | None, tuple[str, ...]]:
    """The same by the names of the files, string [N]; where only some say a split, and all say one, it is no split."""
    hits = np.stack([pc.match_substring_regex(files, _FILE[split]).to_numpy(zero_copy_only=False) for split in _SPLITS])
    return _by_hits(hits, files, where, "file names")


def renamed(
    words: pa.Array | None, splits: pa.Array | None, renames: Mapping[str, str | None], root: Path, where: str
) -> tuple[pa.Array | None, pa.Array | None]:
    """Splits by their names here: those that settings give to a word, else those that the names say.

    Args:
        words: string [N], the splits in the words of the data; None: there are none.
        splits: string [N], their names here.
        renames: Word -> name, or null to leave its images out.
        root: What says so, for messages.
        where: The setting, for messages.

    Returns:
        string [n] of the images that stay, and their numbers, int [n], or None where all do.

    Raises:
        UsageError: A word that no image has.
        SourceError: A name that no split can have.
    """
    known = [] if words is None else sorted(pc.unique(words).to_pylist())
    check_known(renames, known, root, where)
    if words is None or splits is None:
        return None, None
    coded = words.dictionary_encode()
    given = pa.array([renames.get(word) for word in coded.dictionary.to_pylist()], pa.string())
    splits = pc.coalesce(given.take(coded.indices), splits)
    kept = None
    if unwanted := [word for word, new in renames.items() if new is None]:
        kept = pa.array(np.flatnonzero(~pc.is_in(words, pa.array(unwanted)).to_numpy(zero_copy_only=False)))
        splits = splits.take(kept)
    return common.split_names(splits, str(root)), kept


def check_known(renames: Iterable[str], known: Sequence[str], root: Path, where: str) -> None:
    """Refuses a split in the settings that the data do not have.

    Raises:
        UsageError: It is unknown.
    """
    for word in renames:
        if word not in known:
            raise UsageError(f"{where}: {word!r} is no split of {root}{suggest(word, known)}")


def _by_hits(
    hits: NDArray[np.bool_], names: pa.Array, where: str, what: str
) -> tuple[pa.Array | None, tuple[str, ...]]:
    """The splits from which of the three each image's names say, bool [3, N]."""
    count, found = hits.sum(axis=0), [_SPLITS[i] for i in np.flatnonzero(hits.any(axis=1))]
    if not found:
        return None, ()
    if (count == 1).all():
        splits = pa.array(_SPLITS).take(pa.array(hits.argmax(axis=0)))
        return splits, (f"splits are those that the {what} say: {', '.join(found)}",)
    telling, odd = int(np.flatnonzero(count)[0]), int(np.flatnonzero(count != 1)[0])
    example = names[telling].as_py()
    if len(found) == 1 and (what == "file names" or found == ["train"]):
        share = f"{int((count > 0).sum()):,} of {hits.shape[1]:,} images"
        note = f"{share} have the word {found[0]!r} in their {what} ({example}): no split here, but load_dataset"
        return None, (f"{note} would read these alone",)
    says = "no split" if not count[odd] else "more than one split"
    raise SourceError(
        f"{where}: {what} say the split of some images ({example}) and {says} of others ({names[odd].as_py()}); "
        "rename those, or pass all over with the setting split: fedkit new --set split="
    )


def _merged(parts: Iterable[dict[str, str]]) -> dict[str, str]:
    """The splits that a path's folders say; of two words for one, the deeper."""
    whole: dict[str, str] = {}
    for part in parts:
        whole |= part
    return whole


def _one(name: str, said: Mapping[str, str], path: str, where: str) -> Spoken:
    if len(said) > 1:
        (one, other), of = list(said)[:2], list(said.values())
        raise SourceError(f"{where}: {path} names two splits, {one} ({of[0]}) and {other} ({of[1]}); rename {name!r}")
    return next((Spoken(word, split) for split, word in said.items()), Spoken(None, None))


def _completed(
    spoken: Mapping[str, Spoken],
    called: Mapping[str, str],
    renames: Mapping[str, str | None],
    where: str,
    otherwise: str = "",
) -> tuple[dict[str, Spoken], tuple[str, ...]]:
    """The same with splits for the names that say none: their own names, where others say ``train``."""
    silent = [name for name, said in spoken.items() if said.word is None]
    whole = {name: Spoken(called[name], called[name]) if said.word is None else said for name, said in spoken.items()}
    unsaid = [name for name in silent if called[name] not in renames]
    meant = {name: renames.get(str(said.word), said.split) for name, said in whole.items() if name not in unsaid}
    if unsaid and "train" not in meant.values():
        name, split = next(iter(meant.items()))
        fix = f"""--set 'splits={{"{called[unsaid[0]]}": "train"}}'"""
        raise SourceError(
            f"{where}: {name} says split {split}, {unsaid[0]} says none, and nothing says train; rename it, or say "
            f"which split it is with the setting splits: {fix}{otherwise}"
        )
    some = ", ".join(silent[:_FEW]) + (", ..." if len(silent) > _FEW else "")
    notes = [f"load_dataset would pass over {some}, which no split word is in; nothing is lost here"] if silent else []
    if capital := sorted({str(said.word) for said in spoken.values() if said.word and said.word != said.word.lower()}):
        notes.append(f"load_dataset sees no split in the capitals of {capital[0]}; it is one here")
    return whole, tuple(notes)


def _called(place: PurePosixPath, among: Sequence[PurePosixPath]) -> str:
    """Name of a file's split: its first folder that not all files are in, or the file's name."""
    shared = [set(parts) for parts in zip(*(other.parent.parts for other in among), strict=False)]
    apart = next((depth for depth, names in enumerate(shared) if len(names) > 1), len(shared))
    if among and apart < len(place.parent.parts):
        return place.parts[apart]
    return _shard_name(place.as_posix()) or re.sub(r"[-._ 0-9]+$", "", place.stem) or place.stem


def _shard_name(path: str) -> str | None:
    """``validation_matched`` of ``validation_matched-00000-of-00001.parquet``, if it is a name for a split."""
    match = _SHARD.fullmatch(PurePosixPath(path).stem)
    return match[1] if match and match[1].isidentifier() else None
