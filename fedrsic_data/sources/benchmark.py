"""Single-label datasets that papers compare on: Parquet files of a Hub mirror, or folders, checked against the set.

A mirror may spell, order or count otherwise than the set, and says nothing of it. So classes and domains are found
whatever their case and punctuation and get the names and the order of the set, images are counted, and whatever is not
of the set is refused or left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset import schema
from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.errors import SourceError, UsageError, some
from fedrsic_data.raw.containers import reading
from fedrsic_data.raw.index import Index
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.classfolders import plain
from fedrsic_data.sources.folder import Folder, FolderSettings, listed
from fedrsic_data.sources.own import coop, listing
from fedrsic_data.sources.own.coop import CoOpList
from fedrsic_data.sources.own.walk import walk
from fedrsic_data.sources.parquet import ColumnsSettings, ColumnsSource
from fedrsic_data.sources.tree import check_complete

_OTHER = "of a class that is not of the set"
_EXAMPLES = 5


@dataclass(frozen=True)
class BenchmarkSettings:
    """Which of the splits of a set is meant, and its domains.

    Attributes:
        domains: ``source``: those of the set, or one for all; ``superclass``: the superclass of an image's class.
        split: ``official``, or where there is none, that of the mirror, if it has one; ``coop``: that of CoOp's list
            (``own.coop``), which papers on prompts use, with its order of classes, over the authors' files.
    """

    domains: Literal["source", "superclass"] = "source"
    split: Literal["official", "coop"] = "official"


@dataclass(frozen=True)
class Benchmark:
    """A single-label dataset of images.

    Attributes:
        kind: Its name in ``SOURCES``.
        classes: All its class names in index order, as prompts are to have them.
        published: Its provenance; ``hub`` is the mirror.
        settings: As recipes give them.
        name: Its name in recipes; empty: ``kind``.
        aliases: Usual names of its folder, in lower case, with letters and digits only.
        official: Images of each official split, by its name here; empty: the set has none, and may be class folders.
        coop: CoOp's list of it; None: there is none.
        images: Images of a set without splits; None: not known for certain.
        domains: Its domains, sorted; empty: it is one domain.
        superclasses: Superclass -> its classes; empty: the set has none.
        image: The mirror's column of images.
        label: The mirror's column of classes.
        spelled: Other names of classes -> the name here.
        ignored: Classes of the copies that are not of the set; their images are left out and counted.
        only: Whether copies may have any other classes, which are left out likewise.
        split_words: Split as the mirror has it -> its name here, where they differ.
        numbered: Whether files are called ``<domain>_<number of the class>_<number>``, so that a misfiled one shows.
    """

    kind: str
    classes: tuple[str, ...]
    published: Facts
    settings: BenchmarkSettings = BenchmarkSettings()
    name: str = ""
    aliases: tuple[str, ...] = ()
    official: Mapping[str, int] = field(default_factory=dict)
    coop: CoOpList | None = None
    images: int | None = None
    domains: tuple[str, ...] = ()
    superclasses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    image: str = "image"
    label: str = "label"
    spelled: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    only: bool = False
    split_words: Mapping[str, str] = field(default_factory=dict)
    numbered: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.kind)
        if self.settings.split == "coop" and self.coop is None:
            raise UsageError(f"split=coop: CoOp has no list of {self.published.title}; leave it out")
        if self.settings.domains == "superclass" and not self.superclasses:
            raise UsageError(f"domains=superclass: {self.published.title} has no superclasses; leave it out")

    @property
    def chosen(self) -> CoOpList | None:
        """CoOp's list, if the settings ask for its split."""
        return self.coop if self.settings.split == "coop" else None

    @property
    def facts(self) -> Facts:
        """Provenance; CoOp's lists and the files that they list are fetched by hand."""
        if self.chosen is None:
            return self.published
        layout = f"{self.chosen.file} next to the authors' folder {self.chosen.folder}"
        return replace(self.published, hub=None, layout=layout)

    @property
    def splits(self) -> Mapping[str, int]:
        """Images of each split, by its name here."""
        return self.official if self.chosen is None else self.chosen.splits

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. The label space of a partial copy is the whole set's.

        Raises:
            SourceError: An unknown class, domain or split, a misfiled image, more images than the set has, or fewer,
                unless ``allow_partial``.
        """
        if self.chosen is not None:
            found, order = _of_list(self.name, self.chosen.find(path), self.chosen.folder, allow_partial)
        else:
            found, order = self._read(path, allow_partial), ()
        code, kept = self._codes(path, found.classes)
        labels = schema.whole(found.table.column("labels")).flatten().to_numpy()
        rows = np.flatnonzero(kept[labels])
        table, labels = found.table.take(pa.array(rows)), code[labels[rows]]
        table = _with(table, "labels", _lists(labels))
        table = self._with_domains(path, table)
        table = self._with_splits(path, table)
        if self.numbered:
            self._check_names(path, table, labels)
        absent = self._absent(path, table, labels)
        check_complete(path, self.facts.title, absent, len(rows), allow_partial)
        lost = found.table.column("sample_id").filter(pa.array(~kept[_labels(found.table)]))
        left = (LeftOut(_OTHER, len(lost), tuple(lost.slice(0, _EXAMPLES).to_pylist())),) if len(lost) else ()
        classes, table = self._ordered(path, table, labels, order)
        return replace(
            found,
            table=table,
            classes=classes,
            left_out=(*found.left_out, *left),
            missing=(*found.missing, *absent),
            notes=(),
        )

    def _read(self, path: Path, allow_partial: bool) -> Index:
        """The index of a copy as it spells itself."""
        with reading(path):
            parquet = path.suffix == ".parquet" or (path.is_dir() and next(path.rglob("*.parquet"), None) is not None)
        if not parquet and not self.splits:
            layout = FolderSettings(str(path), layout="domain/class" if self.domains else "class", split="")
            return Folder(layout, self.name).index(path)
        columns = ColumnsSettings(
            path=str(path),
            image=self.image,
            label=self.label,
            domain="domain" if self.domains else "",
            user="",
            split=None if self.splits else "",
        )
        index = ColumnsSource(columns, self.name).index(path, allow_partial=allow_partial)
        if index.multi_label:
            raise SourceError(f"{path}: column {self.label} has lists of labels; expected {self.facts.layout}")
        return index

    def _ordered(
        self, path: Path, table: pa.Table, labels: NDArray[np.int32], order: tuple[str, ...]
    ) -> tuple[tuple[str, ...], pa.Table]:
        """The label space in another order, that of these names for the same classes; none: as it is."""
        if not order:
            return self.classes, table
        code, _ = self._codes(path, order)
        if len(code) < len(self.classes):
            raise SourceError(
                f"{path}: CoOp's list names {len(code)} classes, {self.facts.title} has {len(self.classes)}"
            )
        place = np.argsort(code).astype(np.int32)
        return tuple(self.classes[i] for i in code), _with(table, "labels", _lists(place[labels]))

    def _codes(self, path: Path, classes: tuple[str, ...]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The index here of each class of a copy, and whether it is of the set."""
        place = {plain(name): i for i, name in enumerate(self.classes)}
        place |= {plain(other): self.classes.index(name) for other, name in self.spelled.items()}
        code = np.array([place.get(plain(name), -1) for name in classes], np.int32)
        known = {plain(name) for name in self.ignored}
        strange = [name for name, at in zip(classes, code, strict=True) if at < 0 and plain(name) not in known]
        if strange and not self.only:
            raise SourceError(
                f"{path}: {strange[0]!r} is not one of the {len(self.classes)} classes of {self.facts.title}; "
                f"give its files alone ({self.facts.layout})"
            )
        held = code[code >= 0]
        if len(np.unique(held)) < len(held):
            twice = self.classes[int(np.argmax(np.bincount(held)))]
            raise SourceError(f"{path}: class {twice!r} of {self.facts.title} is there in two spellings; keep one")
        return code, code >= 0

    def _with_domains(self, path: Path, table: pa.Table) -> pa.Table:
        if self.settings.domains == "superclass":
            above = {c: name for name, classes in self.superclasses.items() for c in classes}
            return _with(table, "domain", pa.array([above[c] for c in self.classes]).take(pa.array(_labels(table))))
        if not self.domains:
            return table
        names = {plain(name): name for name in self.domains}
        coded = schema.whole(table.column("domain")).dictionary_encode()
        here = [names.get(plain(domain)) for domain in coded.dictionary.to_pylist()]
        if None in here:
            strange = coded.dictionary.to_pylist()[here.index(None)]
            raise SourceError(f"{path}: {strange!r} is no domain of {self.facts.title} ({', '.join(self.domains)})")
        for name in self.domains:
            if here.count(name) > 1:
                raise SourceError(f"{path}: domain {name!r} of {self.facts.title} is there in two spellings; keep one")
        return _with(table, "domain", pa.array(here, pa.string()).take(coded.indices))

    def _with_splits(self, path: Path, table: pa.Table) -> pa.Table:
        """The table with the official splits by their names here, and none for a set without."""
        if not self.splits:
            return _with(table, "split", pa.nulls(len(table), pa.string()))
        names = self.split_words if self.chosen is None else {}
        words = [names.get(word, word) for word in table.column("split").to_pylist()]
        for word in dict.fromkeys(words):
            if word not in self.splits:
                raise SourceError(f"{path}: {word!r} is no split of {self.facts.title} ({', '.join(self.splits)})")
        return _with(table, "split", pa.array(words, pa.string()))

    def _absent(self, path: Path, table: pa.Table, labels: NDArray[np.int32]) -> list[str]:
        """Descriptions of what a copy lacks; one with more images than the set is refused."""
        absent = []
        counts = dict.fromkeys(self.splits, 0)
        for item in pc.value_counts(table.column("split")).to_pylist():
            counts[item["values"] or "all"] = item["counts"]
        wanted = dict(self.splits) or ({} if self.images is None else {"all": self.images})
        for split, most in wanted.items():
            here, of = counts.get(split, 0), "" if split == "all" else f" of split {split}"
            if here > most:
                raise SourceError(
                    f"{path}: holds {here:,} images{of}, {self.facts.title} has {most:,}; give its files alone"
                )
            if here < most:
                absent.append(f"{here:,} of {most:,} images{of} are there")
        domain = np.array(table.column("domain").to_pylist())
        for name in self.domains or (None,):
            mine = labels if name is None else labels[domain == name]
            lacking = [
                c for c, n in zip(self.classes, np.bincount(mine, minlength=len(self.classes)), strict=True) if not n
            ]
            if lacking:
                of = "" if name is None else f" of domain {name}"
                absent.append(f"{len(lacking)} of {len(self.classes)} classes{of} have no image: {some(lacking, 8)}")
        return absent

    def _check_names(self, path: Path, table: pa.Table, labels: NDArray[np.int32]) -> None:
        """Refuse an image whose name says another domain or class than its folder."""
        number: dict[str, tuple[int, str]] = {}
        columns = (table.column(name).to_pylist() for name in ("file", "domain", "key"))
        for file, domain, key, label in zip(*columns, labels.tolist(), strict=True):
            said = re.fullmatch(r"([a-z]+)_(\d{3})_\d+\.\w+", file)
            if said is None:
                continue
            first, where = number.setdefault(said[2], (label, key))
            if said[1] != domain:
                raise SourceError(
                    f"{path}: {key} lies in domain {domain}, but is called {file}; put it where it belongs"
                )
            if first != label:
                raise SourceError(
                    f"{path}: {key} and {where} have class number {said[2]}, but lie in {self.classes[label]} and "
                    f"{self.classes[first]}; put them where they belong"
                )


def _of_list(name: str, file: Path, folder: str, allow_partial: bool) -> tuple[Index, tuple[str, ...]]:
    """The index of the images that a list of CoOp's has, and its classes in the order of their labels."""
    table, classes = coop.read(file)
    root = file.parent / folder
    files = walk(root)
    if allow_partial:
        table = table.take(pa.array(np.flatnonzero(pc.is_in(table.columns["file"], files.paths).to_numpy(False))))
    at = listing.places(table, root, files.paths)
    unlisted = np.ones(len(files.paths), bool)
    unlisted[at] = False
    left = LeftOut.of(f"not in {file.name}", files.paths.filter(pa.array(unlisted)).to_pylist())
    paths = files.paths.take(pa.array(at))
    return listed(root, name, table, files, paths, table.columns["split"], (*files.left_out, *left)), classes


def _lists(labels: NDArray[np.int32]) -> pa.Array:
    return pa.ListArray.from_arrays(np.arange(len(labels) + 1, dtype=np.int32), labels)


def _labels(table: pa.Table) -> NDArray[np.int32]:
    labels: NDArray[np.int32] = schema.whole(table.column("labels")).flatten().to_numpy()
    return labels


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), column)
