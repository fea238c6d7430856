"""Any dataset of the Hugging Face Hub that is Parquet, or your own Parquet files, by their columns.

The image column holds ``struct<bytes, path>``, as the Hub has images, or the bytes of the files; a path without bytes
names a file beside the Parquet file or below the folder. Labels are class
indices with names in the schema (ClassLabel), other whole numbers, texts, or lists of any of these. Splits
are those of a column ``split``, or else of the names of folders and files, as ``datasets`` finds them. Only the columns
that are needed are read, and they stay Arrow columns.

Sample ids are ``name/split/number``, the number of the row within the split's files in the order of their names, so
they depend on neither row groups nor the number of files; or ``name/id`` where a column has ids.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset.schema import TRAIN
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.raw.containers import ParquetContainer, reading
from fedrsic_data.raw.index import Index, fingerprint, stamped
from fedrsic_data.settings import suggest
from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.classfolders import named
from fedrsic_data.sources.own import common, readme, split_names
from fedrsic_data.sources.own.features import LabelColumn, ParquetColumns, choose
from fedrsic_data.sources.own.readme import Config
from fedrsic_data.sources.own.split_names import Spoken

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_PARTIAL = "partial-"  # what the Hub puts before the split of a dataset that it converted a part of
_NO_CONFIG = ("data", "default")  # folders that are not configs of their own
_DIGITS = 9  # of row numbers in ids


@dataclass(frozen=True)
class ColumnsSettings:
    """Place of the dataset, and roles of its columns.

    Attributes:
        repo: ``USER/NAME`` of a dataset on the Hub; or else ``path`` is given.
        revision: Commit or branch of it; None: the commit seen at first use is kept to.
        path: A Parquet file, or a folder of them, relative to the current folder.
        config: Config to use, if the README or the folders of the files have several.
        image: The column of images; None: ``image``, or the only one that can be it.
        label: The column of labels or label lists; None: ``label``, ``labels``, or the only ClassLabel.
        domain: The column of domains; None: ``domain`` if there is one; empty: none, the source is one domain.
        user: The column of natural users; None: ``user`` if there is one; empty: none.
        split: The column of splits; None: ``split`` if there is one, or else those of the names of folders and files;
            empty: there are none.
        id: A column of unique ids; None: rows are numbered within the split of their files.
        splits: Split in the files -> its name in the dataset, or null to leave it out.
        classes: Names of the classes where labels are numbers without names, or vectors of 0 and 1.
        title: A readable title.
        licence: Licence of the images.
        citation: The paper.
    """

    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    config: str | None = None
    image: str | None = None
    label: str | None = None
    domain: str | None = None
    user: str | None = None
    split: str | None = None
    id: str | None = None
    splits: dict[str, str | None] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    title: str = ""
    licence: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        if bool(self.repo) == bool(self.path):
            raise UsageError(f"repo={self.repo!r} and path={self.path!r}: give one of them")
        if self.repo and not _REPO.fullmatch(self.repo):
            raise UsageError(f"repo={self.repo!r} should look like USER/NAME")
        if self.revision and not self.repo:
            raise UsageError(f"revision={self.revision!r} belongs to repo, which is not given; leave it out")


@dataclass(frozen=True)
class ColumnsSource:
    """Images in a column of Parquet files; see the module."""

    settings: ColumnsSettings
    name: str = "hub"
    aliases: tuple[str, ...] = ()
    kind: str = "hub"

    @property
    def facts(self) -> Facts:
        its = self.settings
        return common.facts(
            its.title or its.repo or self.name,
            its.licence,
            its.citation,
            "Parquet files with an image and a label column",
            homepage=f"https://huggingface.co/datasets/{its.repo}" if its.repo else "",
            hub=HubMirror(its.repo, its.revision) if its.repo else None,
        )

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. A copy is known to be partial only where the Hub says so in the names of folders."""
        return self.look(path, allow_partial=allow_partial)[1]

    def look(self, path: Path, *, allow_partial: bool = False) -> tuple[ColumnsSettings, Index]:
        """The index, and the settings with the columns that were found; errors as for ``index``."""
        its, where = self.settings, f"sources.{self.name}"
        said = {"image": its.image, "label": its.label, "domain": its.domain, "user": its.user}
        said |= {"split": its.split, "id": its.id}
        with reading(path):
            files, config, notes = _files(path, its, where)
            missing = _partial(path, files, allow_partial)
            columns = choose(files[0].path, said, where)
            for file in files[1:]:
                if choose(file.path, said, where) != columns:
                    raise SourceError(
                        f"{file.path}: has other columns or class names than {files[0].path}; set {where}.config or "
                        "splits to files that are alike"
                    )
            found = _index(path, self.name, its, files, columns)
        domain, user, split = (columns.others.get(key, said[key]) for key in ("domain", "user", "split"))
        stamp = found.fingerprint if config is None else fingerprint([found.fingerprint, config])
        index = dataclasses.replace(found, fingerprint=stamp, missing=missing, notes=(*found.notes, *notes))
        its = dataclasses.replace(its, domain=domain, user=user, split=split)
        return dataclasses.replace(its, image=columns.image, label=columns.label), index


SOURCE = ColumnsSource(ColumnsSettings(path="."))


@dataclass(frozen=True)
class _File:
    """A Parquet file and the split that its path says."""

    path: Path
    said: Spoken


def _index(root: Path, name: str, its: ColumnsSettings, files: Sequence[_File], columns: ParquetColumns) -> Index:
    parts: list[pa.Table] = []
    labels: list[LabelColumn] = []
    numbered: Counter[str | None] = Counter()
    spoken: set[str | None] = set()
    used: list[_File] = []
    first = left = 0
    for file in files:
        part = columns.read(file.path)
        n = len(part)
        row = np.arange(first, first + n)
        if "split" not in columns.others:
            part = part.append_column("word", pa.repeat(pa.scalar(file.said.word, pa.string()), n))
            part = part.append_column("split", pa.repeat(pa.scalar(file.said.split, pa.string()), n))
        else:
            _agreeing(file, columns.others["split"], part.column("split"), its)
            part = part.append_column("word", part.column("split"))
        if "id" not in columns.others:
            part = part.append_column("id", _row_ids(file.said.word, numbered[file.said.word], n))
            numbered[file.said.word] += n
        spoken.update(pc.unique(part.column("word")).to_pylist())
        part = part.append_column("key", pa.array(row))
        part = part.filter(pa.array(_kept(part.column("word"), its)))
        left += n - len(part)
        if not len(part):
            continue
        labels.append(
            LabelColumn(file.path, part.column("label").combine_chunks(), part.column("key").to_numpy() - first)
        )
        parts.append(part.drop_columns(["label"]))
        used.append(file)
        first += n
    split_names.check_known(
        its.splits, sorted(word for word in spoken if word is not None), root, f"sources.{name}.splits"
    )
    if not parts:
        raise SourceError(f"{root}: holds no images{' in the splits that are kept' if left else ''}")
    joined = pa.concat_tables(parts).combine_chunks()
    told = columns.told(labels, its.classes)
    told.check(str(root))
    if "id" in columns.others:
        _distinct(root, columns.others["id"], joined.column("id"))
    get = {column: joined.column(column).combine_chunks() for column in joined.column_names}
    if "split" in columns.others and its.split is None:
        _for_training(root, columns.others["split"], get["word"], its)
    split = _renamed(root, get["word"], get["split"], its)
    return Index(
        common.table(
            ids=pc.binary_join_element_wise(name, get["id"], "/"),
            labels=told,
            domain=get.get("domain", name),
            group=get.get("user"),
            split=split,
            key=get["key"].cast(pa.string()),
            file=named(get["path"], get["key"]),
        ),
        told.classes,
        ParquetContainer([file.path for file in used], columns.image, root if root.is_dir() else root.parent),
        *stamped((file.path for file in used), root if root.is_dir() else None),
        left_out=common.of_left_out_splits(left, its.splits),
        multi_label=told.multi,
        counts=told.counts,
    )


def _kept(splits: pa.ChunkedArray, its: ColumnsSettings) -> NDArray[np.bool_]:
    """Whether each row is of a split that is not left out."""
    unwanted = pa.array([split for split, new in its.splits.items() if new is None], pa.string())
    kept: NDArray[np.bool_] = ~pc.is_in(splits, unwanted).to_numpy()
    return kept


def _agreeing(file: _File, column: str, splits: pa.ChunkedArray, its: ColumnsSettings) -> None:
    """Refuse a column of splits that was found, not requested, if the path of the file says another split."""
    if its.split is not None or file.said.split is None:
        return
    for word in pc.unique(splits).to_pylist():
        if common.SPLIT_WORDS.get(word.lower(), word) != file.said.split:
            raise SourceError(
                f"{file.path}: its name says split {file.said.split}, its column {column!r} has {word!r}; say which "
                f"one counts: the column with --set split={column}, the name with --set split="
            )


def _for_training(root: Path, column: str, words: pa.Array, its: ColumnsSettings) -> None:
    """Refuse a column of splits that was found, not requested, and in which no value is ``train``."""
    some = sorted(pc.unique(words).to_pylist())
    if TRAIN in (its.splits.get(word) or common.SPLIT_WORDS.get(word.lower(), word) for word in some):
        return
    raise SourceError(
        f"{root}: column {column!r} has {', '.join(map(repr, some[:3]))}, and none is train; say what they are, "
        f"""such as --set 'splits={{"{some[0]}": "train"}}', or pass the column over with --set split="""
    )


def _row_ids(split: str | None, first: int, count: int) -> pa.Array:
    numbers = pc.utf8_lpad(pa.array(np.arange(first, first + count)).cast(pa.string()), _DIGITS, "0")
    return numbers if split is None else pc.binary_join_element_wise(split, numbers, "/")


def _renamed(root: Path, words: pa.Array, splits: pa.Array, its: ColumnsSettings) -> pa.Array:
    """Splits by their names here: those that the settings give to a word, else those that the names say."""
    coding = words.dictionary_encode()
    given = pa.array([its.splits.get(word) for word in coding.dictionary.to_pylist()], pa.string())
    return common.split_names(pc.coalesce(given.take(coding.indices), splits), f"{root}: splits")


def _distinct(root: Path, column: str, ids: pa.ChunkedArray) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids.combine_chunks())
    worst = int(np.argmax(counts.field("counts").to_numpy()))
    raise SourceError(
        f"{root}: column {column!r} has {counts.field('values')[worst].as_py()!r} in "
        f"{counts.field('counts')[worst].as_py()} rows, but ids are unique; choose another id, or none"
    )


def _files(root: Path, its: ColumnsSettings, where: str) -> tuple[list[_File], Config | None, tuple[str, ...]]:
    """The Parquet files of one config in the order of their names, that config if the README says it, and notes."""
    if root.is_file():
        shown, chosen = {root.name: root}, None
    elif not root.is_dir():
        raise SourceError(f"{root}: {'not a folder or file' if root.exists() else 'does not exist'}")
    else:
        paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.parquet"))}
        shown = {at: path for at, path in paths.items() if not any(part.startswith(".") for part in at.split("/"))}
        if not shown:
            raise SourceError(f"{root}: holds no Parquet files (*.parquet)")
        chosen = _of_readme(root, shown, its, where)
    words, notes = dict[str, str](), list[str]()
    if chosen is not None:
        shown, words, notes = _of_config(root, shown, chosen)
    elif not root.is_file():
        shown = _of_folder(root, shown, its, where)
    names = sorted(shown, key=PurePosixPath)
    if its.split == "":
        said = [Spoken(None, None)] * len(names)
    elif words:
        said = [Spoken(words[name], common.SPLIT_WORDS.get(words[name], words[name])) for name in names]
    else:
        below = f"{chosen.folder}/" if chosen and chosen.folder else ""
        said, more = split_names.of_files([name.removeprefix(below) for name in names], its.splits, str(root))
        notes += more
    return [_File(shown[name], one) for name, one in zip(names, said, strict=True)], chosen, tuple(notes)


def _of_config(
    root: Path, paths: Mapping[str, Path], config: Config
) -> tuple[dict[str, Path], dict[str, str], list[str]]:
    """The files of a README's config, their splits in its words if it says some, and notes."""
    words: dict[str, str] = {}
    if config.patterns is None:
        taken = {name: path for name, path in paths.items() if config.within(name)}
    else:
        said = config.splits(list(paths), root, "Parquet files")
        words = {name: word for name, word in zip(paths, said, strict=True) if word is not None}
        taken = {name: paths[name] for name in words}
    if not taken:
        raise SourceError(f"{root}: README.md: no Parquet files are below {config.folder}, data_dir of {config.name!r}")
    return taken, words, list(readme.note(config, len(taken), len(paths), "Parquet files"))


def _of_readme(root: Path, paths: Iterable[str], its: ColumnsSettings, where: str) -> Config | None:
    """The config in the README, unless the requested one is only a folder."""
    found = readme.configs(root)
    known = {config.name for config in found}
    folders = {_config(PurePosixPath(at)) for at in paths}
    if its.config is not None and its.config not in known and (not known or its.config in folders):
        return None
    return readme.choose(found, its.config, root, where)


def _of_folder(root: Path, paths: Mapping[str, Path], its: ColumnsSettings, where: str) -> dict[str, Path]:
    """The files in the folder of the config; where a folder is a split, those beside it are no configs."""
    in_splits = any(split_names.words(at.split("/")[0]) for at in paths if "/" in at)
    of = {at: "" if in_splits else _config(PurePosixPath(at)) for at in paths}
    configs = sorted(set(of.values()))
    if its.config is not None and its.config not in configs:
        known = [name for name in configs if name]
        raise UsageError(f"{where}: config={its.config!r} is no folder of {root}{suggest(its.config, known)}")
    if its.config is None and len(configs) > 1:
        names = ", ".join(name or "(files in no folder)" for name in configs)
        raise SourceError(f"{root}: {readme.several(names, where)}")
    config = its.config if its.config is not None else configs[0]
    return {at: path for at, path in paths.items() if of[at] == config}


def _partial(root: Path, files: Sequence[_File], allowed: bool) -> tuple[str, ...]:
    """The splits of which the Hub converted the first gigabytes only, in words."""
    splits = sorted({file.said.word or "" for file in files if file.path.parent.name.startswith(_PARTIAL)})
    words = tuple(f"split {split} is cut short where the Hub stopped converting it" for split in splits)
    if words and not allowed:
        raise SourceError(f"{root}: {words[0]}; use what is there with --allow-partial")
    return words


def _config(at: PurePosixPath) -> str:
    """The folder that distinguishes configs; empty for files in none."""
    top = at.parts[0] if len(at.parts) > 1 else ""
    return "" if top in _NO_CONFIG else top
