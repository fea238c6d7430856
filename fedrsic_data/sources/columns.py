"""Any dataset of the Hugging Face Hub that is Parquet, or Parquet files of your own, by their columns.

The image column holds ``struct<bytes, path>``, as the Hub has images, or the bytes of the files. Labels are class
indices whose names stand in the schema (ClassLabel), other whole numbers, texts, or lists of any of these. Splits
are those of the file names, as ``datasets`` finds them: ``train-00000-of-00002.parquet``, ``train/0000.parquet``,
``test.parquet``. Only the columns that are needed are read, and they stay Arrow columns.

Sample ids are ``name/split/number``, the number of the row within the split's files in the order of their names, so
they depend on neither row groups nor the number of files; or ``name/id`` where a column has ids.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.containers import ParquetContainer, reading
from fedrsic_data.errors import SourceError, UsageError
from fedrsic_data.index import Index, LeftOut, fingerprint
from fedrsic_data.settings import suggest
from fedrsic_data.sources import own
from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.classfolders import named
from fedrsic_data.sources.features import Columns, choose, coded

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5,}(?:-\w+)?")
_PARTIAL = "partial-"  # what the Hub puts before the split of a dataset that it converted a part of
_NO_CONFIG = ("data", "default")  # folders that are not configs of their own
_DIGITS = 9  # of row numbers in ids


@dataclass(frozen=True)
class ColumnsSettings:
    """Where the dataset is, and what its columns are.

    Attributes:
        repo: ``USER/NAME`` of a dataset on the Hub; or else ``path`` is given.
        revision: Commit or branch of it; None: the commit seen at first use is kept to.
        path: A Parquet file, or a folder of them, from the folder fedkit runs in.
        config: Folder of the files, where a dataset has several configs.
        image: The column of images; None: ``image``, or the only one that can be it.
        label: The column of labels or label lists; None: ``label``, ``labels``, or the only ClassLabel.
        domain: The column of domains; None: ``domain`` if there is one; empty: none, the source is one domain.
        user: The column of natural users; None: ``user`` if there is one; empty: none.
        split: The column of splits; None: those of the file names.
        id: A column of unique ids; None: rows are numbered within the split of their files.
        splits: Split in the dataset -> its name here, or null to leave it out.
        title: What it is, in words.
        licence: Of the images, in words.
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
    title: str = ""
    licence: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        if bool(self.repo) == bool(self.path):
            raise UsageError(f"repo={self.repo!r} and path={self.path!r}: give one of them")
        if self.repo and not _REPO.fullmatch(self.repo):
            raise UsageError(f"repo={self.repo!r} should look like USER/NAME")
        if self.revision and not self.repo:
            raise UsageError(f"revision={self.revision!r} is of a repo, and none is given; leave it out")


@dataclass(frozen=True)
class ColumnsSource:
    """Images in a column of Parquet files; see the module."""

    settings: ColumnsSettings
    name: str = "hub"
    aliases: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """See ``Source.kind``."""
        return "hub"

    @property
    def place(self) -> str | None:
        """Where it is unless ``--source`` says otherwise; None: on the Hub."""
        return self.settings.path

    @property
    def facts(self) -> Facts:
        """See ``Source.facts``."""
        its = self.settings
        return own.facts(
            its.title or its.repo or self.name,
            its.licence,
            its.citation,
            "Parquet files with an image and a label column",
            homepage=f"https://huggingface.co/datasets/{its.repo}" if its.repo else "",
            hub=HubMirror(its.repo, its.revision) if its.repo else None,
        )

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """See ``Source.index``. A copy is known to be partial only where the Hub says so in the names of folders."""
        return self.look(path, allow_partial=allow_partial)[1]

    def look(self, path: Path, *, allow_partial: bool = False) -> tuple[ColumnsSettings, Index]:
        """The index, and the settings with the columns that were found; errors as for ``index``."""
        its, where = self.settings, f"sources.{self.name}"
        said = {"image": its.image, "label": its.label, "domain": its.domain, "user": its.user}
        said |= {"split": its.split, "id": its.id}
        with reading(path):
            files = _files(path, its, where)
            missing = _partial(path, files, allow_partial)
            columns = choose(files[0].path, said, where)
            for file in files[1:]:
                if choose(file.path, said, where) != columns:
                    raise SourceError(
                        f"{file.path}: has other columns or class names than {files[0].path}; set {where}.config or "
                        "splits to files that are alike"
                    )
            index = dataclasses.replace(_index(path, self.name, its, files, columns), missing=missing)
        domain, user = columns.others.get("domain", its.domain), columns.others.get("user", its.user)
        return dataclasses.replace(its, image=columns.image, label=columns.label, domain=domain, user=user), index


SOURCE = ColumnsSource(ColumnsSettings(path="."))


@dataclass(frozen=True)
class _File:
    """A Parquet file and the split its name says, in the dataset's own words."""

    path: Path
    split: str | None


def _index(root: Path, name: str, its: ColumnsSettings, files: Sequence[_File], columns: Columns) -> Index:
    parts, labels, counts = [], [], []
    numbered: Counter[str | None] = Counter()
    spoken: set[str | None] = set()
    used: list[_File] = []
    first = left = 0
    for file in files:
        part = columns.read(file.path)
        n = len(part)
        row = np.arange(first, first + n)
        if "split" not in columns.others:
            part = part.append_column("split", pa.repeat(pa.scalar(file.split, pa.string()), n))
        if "id" not in columns.others:
            part = part.append_column("id", _row_ids(file.split, numbered[file.split], n))
            numbered[file.split] += n
        spoken.update(pc.unique(part.column("split")).to_pylist())
        part = part.append_column("key", pa.array(row))
        part = part.filter(pa.array(_kept(part.column("split"), its)))
        left += n - len(part)
        if not len(part):
            continue
        numbers, count = columns.labels(
            file.path, _whole(part.column("label"), columns), part.column("key").to_numpy() - first
        )
        labels.append(numbers)
        counts.append(count)
        parts.append(part.drop_columns(["label"]))
        used.append(file)
        first += n
    _known_splits(root, spoken, its, f"sources.{name}.splits")
    if not parts:
        raise SourceError(f"{root}: holds no images{' in the splits that are kept' if left else ''}")
    joined = pa.concat_tables(parts).combine_chunks()
    classes, codes = coded(labels, columns.named.get(columns.label))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    told = own.Labels.sets(codes, offsets, classes) if columns.multi else own.Labels.single(codes, classes)
    told.check(str(root))
    if "id" in columns.others:
        _distinct(root, columns.others["id"], joined.column("id"))
    get = {column: joined.column(column).combine_chunks() for column in joined.column_names}
    return Index(
        own.table(
            ids=pc.binary_join_element_wise(name, get["id"], "/"),
            labels=told,
            domain=get.get("domain", name),
            group=get.get("user"),
            split=_renamed(root, get["split"], its),
            key=get["key"].cast(pa.string()),
            file=named(get["path"], get["key"]),
        ),
        classes,
        ParquetContainer([file.path for file in used], columns.image),
        *_stamp(root, used),
        left_out=_left_out(left, its),
        multi_label=told.multi,
        counts=told.counts,
    )


def _kept(splits: pa.ChunkedArray, its: ColumnsSettings) -> NDArray[np.bool_]:
    """Whether each row is of a split that is not left out."""
    unwanted = pa.array([split for split, new in its.splits.items() if new is None], pa.string())
    kept: NDArray[np.bool_] = ~pc.is_in(splits, unwanted).to_numpy()
    return kept


def _whole(column: pa.ChunkedArray, columns: Columns) -> pa.Array:
    """A label column in one piece, without a dictionary."""
    whole = column.combine_chunks()
    return whole.dictionary_decode() if pa.types.is_dictionary(whole.type) and not columns.multi else whole


def _row_ids(split: str | None, first: int, count: int) -> pa.Array:
    numbers = pc.utf8_lpad(pa.array(np.arange(first, first + count)).cast(pa.string()), _DIGITS, "0")
    return numbers if split is None else pc.binary_join_element_wise(split, numbers, "/")


def _known_splits(root: Path, spoken: Iterable[str | None], its: ColumnsSettings, where: str) -> None:
    known = sorted(split for split in spoken if split is not None)
    for split in its.splits:
        if split not in known:
            raise UsageError(f"{where}: {split!r} is no split of {root}{suggest(split, known)}")


def _renamed(root: Path, column: pa.Array, its: ColumnsSettings) -> pa.Array:
    """Splits by their names here."""
    coding = column.dictionary_encode()
    names = [its.splits.get(name) or name for name in coding.dictionary.to_pylist()]
    return own.split_names(pa.array(names, pa.string()).take(coding.indices), f"{root}: splits")


def _left_out(count: int, its: ColumnsSettings) -> tuple[LeftOut, ...]:
    unwanted = tuple(split for split, new in its.splits.items() if new is None)
    return (LeftOut("of a split that the recipe leaves out", count, unwanted),) if count else ()


def _distinct(root: Path, column: str, ids: pa.ChunkedArray) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids.combine_chunks())
    worst = int(np.argmax(counts.field("counts").to_numpy()))
    raise SourceError(
        f"{root}: column {column!r} has {counts.field('values')[worst].as_py()!r} in "
        f"{counts.field('counts')[worst].as_py()} rows, but ids are unique; choose another id, or none"
    )


def _stamp(root: Path, files: Sequence[_File]) -> tuple[str, int]:
    """Changes when a file changes; and when one last did."""
    stats = [file.path.stat() for file in files]
    facts = [
        (file.path.relative_to(root).as_posix() if root.is_dir() else file.path.name, stat.st_size, stat.st_mtime_ns)
        for file, stat in zip(files, stats, strict=True)
    ]
    return fingerprint(facts), max(max(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)


def _files(root: Path, its: ColumnsSettings, where: str) -> list[_File]:
    """The Parquet files of one config in the order of their names, but for splits that are left out."""
    if root.is_file():
        return [_File(root, _split(PurePosixPath(root.name)))]
    if not root.is_dir():
        raise SourceError(f"{root}: {'not a folder or file' if root.exists() else 'does not exist'}")
    paths = {PurePosixPath(path.relative_to(root).as_posix()): path for path in root.rglob("*.parquet")}
    shown = {at: path for at, path in paths.items() if not any(part.startswith(".") for part in at.parts)}
    if not shown:
        raise SourceError(f"{root}: holds no Parquet files (*.parquet)")
    configs = sorted({_config(at) for at in shown})
    if its.config is not None and its.config not in configs:
        known = [name for name in configs if name]
        raise UsageError(f"{where}: config={its.config!r} is no folder of {root}{suggest(its.config, known)}")
    if its.config is None and len(configs) > 1:
        names = ", ".join(name or "(files in no folder)" for name in configs)
        raise SourceError(
            f"{root}: holds several configs: {names}; say which with {where}.config (fedkit new --set config=NAME)"
        )
    config = its.config if its.config is not None else configs[0]
    return [_File(path, _split(at)) for at, path in sorted(shown.items()) if _config(at) == config]


def _partial(root: Path, files: Sequence[_File], allowed: bool) -> tuple[str, ...]:
    """The splits of which the Hub converted the first gigabytes only, in words."""
    splits = sorted({file.split or "" for file in files if file.path.parent.name.startswith(_PARTIAL)})
    words = tuple(f"split {split} is cut short where the Hub stopped converting it" for split in splits)
    if words and not allowed:
        raise SourceError(f"{root}: {words[0]}; use what is there with --allow-partial")
    return words


def _config(at: PurePosixPath) -> str:
    """The folder that tells configs apart; empty for files that are in none."""
    top = at.parts[0] if len(at.parts) > 1 else ""
    return "" if top in _NO_CONFIG or top.lower() in own.SPLIT_WORDS else top


def _split(at: PurePosixPath) -> str | None:
    """The split that a file's name says, or else the folder it is in."""
    if match := _SHARD.fullmatch(at.stem):
        return match[1]
    parts = (at.stem, at.parent.name.removeprefix(_PARTIAL))
    words = [re.split(r"[^A-Za-z]", part, maxsplit=1)[0] for part in parts]
    return next((word for word in words if word.lower() in own.SPLIT_WORDS), None)
