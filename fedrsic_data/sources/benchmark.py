"""Single-label sets that papers compare on: Parquet files of a Hub mirror, or class folders, checked against the set.

A mirror may spell, order or count otherwise than the set, and says nothing of it. So classes and domains are found
whatever their case and punctuation and get the names and the order of the set, images are counted, and whatever is not
of the set is refused or left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset import schema
from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.errors import SourceError, some
from fedrsic_data.raw.containers import reading
from fedrsic_data.raw.index import Index
from fedrsic_data.sources.base import Facts
from fedrsic_data.sources.classfolders import plain
from fedrsic_data.sources.folder import Folder, FolderSettings
from fedrsic_data.sources.parquet import ColumnsSettings, ColumnsSource
from fedrsic_data.sources.tree import check_complete

_OTHER = "of a class that is not of the set"
_EXAMPLES = 5


@dataclass(frozen=True)
class Benchmark:
    """A single-label set of photographs.

    Attributes:
        name: Its name in recipes.
        classes: All its class names in index order, as prompts are to have them.
        facts: Its provenance; ``hub`` is the mirror.
        aliases: Usual names of its folder, in lower case, with letters and digits only.
        splits: Images of each official split, by its name here; empty: the set has none, and may be class folders.
        images: Images of a set without splits; None: not known for certain.
        domains: Its domains, sorted; empty: it is one domain.
        image: The mirror's column of images.
        label: The mirror's column of classes.
        spelled: Other names of classes -> the name here.
        ignored: Classes of the copies that are not of the set; their images are left out and counted.
        only: Whether copies may have any other classes, which are left out likewise.
        split_words: Split as the mirror has it -> its name here, where they differ.
        numbered: Whether files are called ``<domain>_<number of the class>_<number>``, so that a misfiled one shows.
    """

    name: str
    classes: tuple[str, ...]
    facts: Facts
    aliases: tuple[str, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    images: int | None = None
    domains: tuple[str, ...] = ()
    image: str = "image"
    label: str = "label"
    spelled: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    only: bool = False
    split_words: Mapping[str, str] = field(default_factory=dict)
    numbered: bool = False
    settings: None = None

    @property
    def kind(self) -> str:
        return self.name

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. The label space of a partial copy is the whole set's.

        Raises:
            SourceError: An unknown class, domain or split, a misfiled image, more images than the set has, or fewer,
                unless ``allow_partial``.
        """
        found = self._read(path, allow_partial)
        code, kept = self._codes(path, found.classes)
        labels = schema.whole(found.table.column("labels")).flatten().to_numpy()
        rows = np.flatnonzero(kept[labels])
        table, labels = found.table.take(pa.array(rows)), code[labels[rows]]
        table = _with(table, "labels", pa.ListArray.from_arrays(np.arange(len(rows) + 1, dtype=np.int32), labels))
        table = self._with_domains(path, table)
        table = self._with_splits(path, table)
        if self.numbered:
            self._check_names(path, table, labels)
        absent = self._absent(path, table, labels)
        check_complete(path, self.facts.title, absent, len(rows), allow_partial)
        lost = found.table.column("sample_id").filter(pa.array(~kept[_labels(found.table)]))
        left = (LeftOut(_OTHER, len(lost), tuple(lost.slice(0, _EXAMPLES).to_pylist())),) if len(lost) else ()
        return replace(
            found,
            table=table,
            classes=self.classes,
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
        if not self.domains:
            return table
        names = {plain(name): name for name in self.domains}
        coded = schema.whole(table.column("domain")).dictionary_encode()
        here = [names.get(plain(domain)) for domain in coded.dictionary.to_pylist()]
        if None in here:
            strange = coded.dictionary.to_pylist()[here.index(None)]
            raise SourceError(f"{path}: {strange!r} is no domain of {self.facts.title} ({', '.join(self.domains)})")
        return _with(table, "domain", pa.array(here, pa.string()).take(coded.indices))

    def _with_splits(self, path: Path, table: pa.Table) -> pa.Table:
        """The table with the official splits by their names here, and none for a set without."""
        if not self.splits:
            return _with(table, "split", pa.nulls(len(table), pa.string()))
        words = [self.split_words.get(word, word) for word in table.column("split").to_pylist()]
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


def _labels(table: pa.Table) -> NDArray[np.int32]:
    labels: NDArray[np.int32] = schema.whole(table.column("labels")).flatten().to_numpy()
    return labels


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), column)
