"""FLAIR: photographs of 51,414 Flickr users under 17 coarse and 1,628 fine labels.

Two forms are read, which give the same index but for where the bytes are:

- Apple's: ``labels_and_metadata.json``, ``label_relationship.txt`` (optional) and the images, unpacked as
  ``small_images/<image_id>.jpg`` or in their ``small_images-*.tar.gz``.
- The Hub's: Parquet files with columns ``user_id, image_id, labels, fine_grained_labels, partition, image``.

The metadata define the dataset: an image they do not list has no labels and is ignored. Users are groups, the
partitions (which share no user) are the source's splits. Archives can only be listed by inflating them, so an image
that is in none is found when they are read for a build, or beforehand under ``allow_partial``.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset.manifest import Fine, LeftOut
from fedrsic_data.errors import SourceError
from fedrsic_data.raw.archives import targz_names
from fedrsic_data.raw.containers import FolderContainer, ParquetContainer, TarGzContainer, reading
from fedrsic_data.raw.index import FINE, INDEX_SCHEMA, Container, Index, fingerprint, stamped
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources import flair_labels
from fedrsic_data.sources.base import Facts, HubMirror
from fedrsic_data.sources.flair_labels import IMAGE, LABELS

_IMAGES = 429_078  # of a complete copy
_METADATA, _ONTOLOGY, _FOLDER = "labels_and_metadata.json", "label_relationship.txt", "small_images"
_ARCHIVES = tuple(f"small_images-{number:02d}.tar.gz" for number in range(43))
_ARCHIVE = re.compile(r"small_images-[0-9]+\.tar\.gz")
_SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.parquet")
_DEPTH = 3  # how far below the given path files are looked for
_BASE = "https://docs-assets.developer.apple.com/ml-research/datasets/flair/"
_COMPLETE = "complete the copy, or use what is there with --allow-partial"


@dataclass(frozen=True)
class _Images:
    """Existing images, and the modification times of their files."""

    ids: NDArray[np.int64] | None  # None: not known before they are read
    stamp: str
    newest: int
    foreign: tuple[str, ...] = ()  # other files next to them


@dataclass(frozen=True)
class _Found:
    """The files of a copy."""

    metadata: tuple[Path, ...]
    ontology: tuple[Path, ...]
    folders: tuple[Path, ...]
    archives: tuple[Path, ...]
    parquet: tuple[Path, ...]


@dataclass(frozen=True)
class Flair:
    """FLAIR in either form.

    Attributes:
        name: Its name in recipes.
        facts: Its provenance.
        aliases: Usual names of its folder.
    """

    name: str
    facts: Facts
    aliases: tuple[str, ...]
    settings: None = None

    @property
    def kind(self) -> str:
        return self.name

    def index(self, path: Path, *, allow_partial: bool = False) -> Index:
        """Read names and labels. The label spaces are those of the metadata, whichever images are there."""
        with reading(path):
            found = _look(path)
            if found.metadata:
                return _native(path, found, allow_partial)
            if found.parquet:
                return _mirrored(found, allow_partial)
        raise SourceError(f"{path}: neither {_METADATA} nor Parquet files of flair; expected {self.facts.layout}")


def _look(path: Path) -> _Found:
    if not path.exists():
        raise SourceError(f"{path}: does not exist; give the folder of flair")
    files: dict[str, list[Path]] = defaultdict(list)
    level = [path]
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for place in level:
            for entry in sorted(os.scandir(place), key=lambda e: e.name) if place.is_dir() else ():
                if entry.is_dir():
                    if not entry.name.startswith((".", "__MACOSX")):
                        (files["folders"] if entry.name == _FOLDER else below).append(Path(entry.path))
                elif entry.is_file():
                    files[_kind(entry.name)].append(Path(entry.path))
        level = below
    if path.is_file():
        files[_kind(path.name)].append(path)
    if len(files["metadata"]) > 1:
        first, second = files["metadata"][:2]
        raise SourceError(f"{path}: {first} and {second} could both be flair; name one folder with --source flair=PATH")
    return _Found(*(tuple(files[k]) for k in ("metadata", "ontology", "folders", "archives", "parquet")))


def _kind(name: str) -> str:
    if name.endswith(".parquet"):
        return "parquet"
    return {_METADATA: "metadata", _ONTOLOGY: "ontology"}.get(name, "archives" if _ARCHIVE.fullmatch(name) else "")


def _native(path: Path, found: _Found, allow_partial: bool) -> Index:
    """Apple's own form."""
    metadata = found.metadata[0]
    with reading(metadata):
        table, fine, counts = flair_labels.tabled(metadata, flair_labels.from_json(metadata), found.ontology)
    if len(found.folders) > 1:
        raise SourceError(f"{path}: {found.folders[0]} and {found.folders[1]} both hold images; keep one")
    if not found.folders and not found.archives:
        raise SourceError(f"{path}: holds no {_FOLDER} folder and no small_images-*.tar.gz; place them there")
    images = _unpacked(found.folders[0]) if found.folders else _packed(found.archives, listed=allow_partial)
    where = found.folders[0] if found.folders else found.archives[0].parent
    ids = table.column("image_id").to_numpy()
    here = np.ones(len(ids), bool) if images.ids is None else np.isin(ids, images.ids)
    absent = ids[~here]
    if len(absent) and (not allow_partial or not here.any()):
        raise SourceError(
            f"{where}: {len(absent):,} of the {len(ids):,} images that {metadata.name} lists are absent, "
            f"e.g. {absent[0]}.jpg; {_COMPLETE}"
        )
    unlisted = np.setdiff1d(images.ids, ids) if images.ids is not None else ids[:0]
    table = table.filter(pa.array(here)) if len(absent) else table
    files = table.column("file").combine_chunks()
    container: Container = FolderContainer(where)
    if not found.folders:
        container = TarGzContainer(found.archives, files, _COMPLETE)
    stamp, newest = stamped([metadata, *found.ontology])
    return _index(
        table.append_column("key", files if found.folders else _numbered(np.arange(len(files)))),
        container,
        fine,
        counts,
        stamp=[stamp, images.stamp],
        newest=max(newest, images.newest),
        left_out=(
            *LeftOut.of(f"listed in {metadata.name} and absent", [f"{name}.jpg" for name in absent]),
            *LeftOut.of(f"not listed in {metadata.name}", [f"{name}.jpg" for name in unlisted]),
            *LeftOut.of("not named as an image of the set", sorted(images.foreign)),
        ),
        missing=(f"{len(absent):,} of {len(ids):,} images are absent",) if len(absent) else (),
    )


def _mirrored(found: _Found, allow_partial: bool) -> Index:
    """The Hub's form."""
    where = found.parquet[0].parent
    absent = _absent_shards(found.parquet)
    if absent and not allow_partial:
        raise SourceError(f"{where}: {len(absent)} files are absent, e.g. {absent[0]}; {_COMPLETE}")
    table, fine, counts = flair_labels.tabled(where, flair_labels.from_parquet(found.parquet), found.ontology)
    stamp, newest = stamped([*found.parquet, *found.ontology])
    return _index(
        table.append_column("key", _numbered(table.column("entry").to_numpy())),
        ParquetContainer(found.parquet),
        fine,
        counts,
        stamp=[stamp],
        newest=newest,
        missing=(f"{len(absent)} Parquet files are absent",) if absent else (),
    )


def _index(
    table: pa.Table,
    container: Container,
    fine: Fine,
    counts: dict[str, int],
    *,
    stamp: Sequence[str],
    newest: int,
    left_out: tuple[LeftOut, ...] = (),
    missing: tuple[str, ...] = (),
) -> Index:
    if not missing and table.num_rows < _IMAGES:
        missing = (f"the metadata list {table.num_rows:,} of {_IMAGES:,} images",)
    schema = INDEX_SCHEMA.append(FINE)
    return Index(
        table=table.select(schema.names).cast(schema),
        classes=LABELS,
        container=container,
        fingerprint=fingerprint(stamp),
        newest=newest,
        left_out=left_out,
        missing=missing,
        multi_label=True,
        fine=fine,
        counts=counts,
    )


def _absent_shards(paths: Sequence[Path]) -> list[str]:
    """Files that the names of others, ``train-00000-of-00010.parquet``, say there should be."""
    names = {path.name for path in paths}
    series = {(match[1], match[3]) for match in map(_SHARD.fullmatch, names) if match}
    wanted = (f"{kind}-{i:05d}-of-{count}.parquet" for kind, count in sorted(series) for i in range(int(count)))
    return [name for name in wanted if name not in names]


def _unpacked(folder: Path) -> _Images:
    names, facts, foreign = [], [], []
    for file in os.scandir(folder):
        if not IMAGE.fullmatch(file.name) or not file.is_file():
            foreign += [] if file.name.startswith(".") else [file.name]
            continue
        stat = file.stat()
        names.append(file.name)
        facts.append((stat.st_size, stat.st_mtime_ns, max(stat.st_mtime_ns, stat.st_ctime_ns)))
    ids = _ids(names)
    order = np.argsort(ids)
    sizes = np.array(facts, np.int64).reshape(-1, 3)[order]
    stamp = fingerprint([ids[order].tobytes(), sizes[:, :2].tobytes()])
    shown = tuple(os.fsencode(name).decode("utf-8", "replace") for name in foreign)
    return _Images(ids, stamp, int(sizes[:, 2].max(initial=0)), shown)


def _packed(archives: Sequence[Path], *, listed: bool) -> _Images:
    stamp, newest = stamped(archives)
    if not listed:
        return _Images(None, stamp, newest)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda path: _ids(name.rpartition("/")[2] for name in targz_names(path)), archives))
    return _Images(np.concatenate(found), stamp, newest)


def _ids(names: Iterable[str]) -> NDArray[np.int64]:
    return np.fromiter((int(match[1]) for match in map(IMAGE.fullmatch, names) if match), np.int64)


def _numbered(rows: NDArray[np.int64]) -> pa.Array:
    return pc.cast(pa.array(rows), pa.string())


SOURCE = Flair(
    name="flair",
    facts=Facts(
        title="FLAIR, Federated Learning Annotated Image Repository",
        homepage="https://github.com/apple/ml-flair",
        licence="annotations CC BY-NC 4.0; each photograph under its own Flickr licence (ATTRIBUTION.txt of the set)",
        citation=(
            "Song, Granqvist and Talwar 2022. FLAIR: Federated Learning Annotated Image Repository. NeurIPS "
            "Datasets and Benchmarks. arXiv 2207.08869"
        ),
        layout=f"flair/{_METADATA} and flair/{_FOLDER}/<image_id>.jpg or flair/small_images-*.tar.gz",
        downloads=(  # no checksums are published; those of the first download are recorded
            *(RemoteFile(f"{_BASE}labels/{name}", name) for name in (_METADATA, _ONTOLOGY)),
            *(RemoteFile(f"{_BASE}images/small/{name}", name) for name in _ARCHIVES),
        ),
        hub=HubMirror("apple/flair"),
    ),
    aliases=("flair", "flairdata", "appleflair", "mlflair"),
)
