"""Tables of labels as multi-label sources publish them: a row per image, a column of 0 and 1 per label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.dataset.manifest import LeftOut
from fedrsic_data.dataset.schema import repeated
from fedrsic_data.errors import SourceError, some
from fedrsic_data.raw.index import INDEX_SCHEMA, Index, fingerprint
from fedrsic_data.sources.classfolders import Entries, Found
from fedrsic_data.sources.tree import Tree


@dataclass(frozen=True)
class Matrix:
    """Images and their labels.

    Attributes:
        images: Their names as the table has them.
        labels: bool [N, K], in the order of the source's labels.
    """

    images: tuple[str, ...]
    labels: NDArray[np.bool_]


def read(data: bytes, where: str, separator: str, labels: Sequence[str], again: str, unnamed: str = "") -> Matrix:
    """A table of labels; its columns may be in any order.

    Args:
        data: The file.
        where: Its place, for messages.
        separator: Character between two columns.
        labels: Names of the labels.
        again: How to get a correct file, for messages.
        unnamed: The label of the column without a name, where the published file has such a column.

    Raises:
        SourceError: It is no such table; the message names the line and says why.
    """
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: is not UTF-8 text (byte {error.start:,}); {again}") from None
    header, *rows = [line.split(separator) for line in lines]
    order = _order([name.strip() or unnamed for name in header[1:]], labels, f"{where}: line 1", again)
    images, values = [], []
    for number, row in enumerate(rows, 2):
        if row == [""]:
            continue
        if len(row) != len(header):
            raise SourceError(f"{where}: line {number:,} has {len(row)} columns, its header {len(header)}; {again}")
        if odd := set(row[1:]) - {"0", "1"}:
            at = next(i for i, value in enumerate(row) if i and value in odd)
            label = labels[order.index(at - 1)]
            raise SourceError(f"{where}: line {number:,}, {label}: {row[at][:40]!r} is neither 0 nor 1; {again}")
        images.append(row[0])
        values.append("".join(row[1:]))
    counts = Counter(map(_stem, images))
    if twice := [image for image in images if counts[_stem(image)] > 1]:
        raise SourceError(f"{where}: has {twice[0][:80]!r} in two rows; {again}")
    told = np.frombuffer("".join(values).encode(), np.uint8).reshape(len(images), len(labels)) == ord("1")
    return Matrix(tuple(images), told[:, order])


def _order(header: Sequence[str], labels: Sequence[str], where: str, again: str) -> list[int]:
    """The column of each label.

    Raises:
        SourceError: A column is no label, or a label has no column or two.
    """
    if unknown := [name for name in header if name not in labels]:
        raise SourceError(f"{where}: {unknown[0][:40]!r} is not one of the {len(labels)} labels; {again}")
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise SourceError(f"{where}: has two columns {twice[0]!r}; {again}")
    if absent := [name for name in labels if name not in header]:
        raise SourceError(f"{where}: has no column for {some(absent)}; {again}")
    return [header.index(name) for name in labels]


def _stem(image: str) -> str:
    return image.rpartition(".")[0] or image


def index(
    name: str,
    path: Path,
    found: Found,
    tree: Tree,
    tables: Mapping[str, Matrix],
    labels: Sequence[str],
    *,
    by_scene: bool,
    keep_bare: bool,
) -> Index:
    """The index of labelled images in class folders. Rows and images are matched by scene class and file name.

    Args:
        name: Name of the source.
        path: Place of the images, for messages.
        found: The images of each scene class.
        tree: The files of labels, which have been read.
        tables: Labels of the images of each scene class, whose file names may have endings.
        labels: Names of the labels.
        by_scene: Whether an image's scene class is its domain; else the source is one domain.
        keep_bare: Whether images without labels stay.

    Returns:
        The index; ``missing`` describes rows without images and images without rows.

    Raises:
        SourceError: There are two files for one image.
    """
    parts, absent, left_out, bare = [INDEX_SCHEMA.empty_table()], list[str](), list[LeftOut](), list[str]()
    lost, listed, unlisted = list[str](), 0, list[str]()
    for scene, matrix in tables.items():
        entries = found.files.get(scene, Entries.of_paths([]))
        if len(twice := repeated(entries.stems)):
            raise SourceError(f"{path}: {scene}/{twice[0]} is there with two endings; remove one of the files")
        rows = pa.array(map(_stem, matrix.images), pa.string())
        lost += [f"{scene}/{row}" for row in rows.filter(pc.invert(pc.is_in(rows, entries.stems))).to_pylist()]
        listed += len(rows)
        row = pc.index_in(entries.stems, rows)
        here = row.is_valid()
        unlisted += entries.keys.filter(pc.invert(here)).to_pylist()
        told = matrix.labels[row.drop_null().to_numpy()]
        ids = pc.binary_join_element_wise(f"{name}/{scene}/", entries.stems.filter(here), "")
        table = _table(ids, told, scene if by_scene else name, entries.keys.filter(here), entries.files.filter(here))
        labelled = pa.array(told.any(axis=1))
        bare += ids.filter(pc.invert(labelled)).to_pylist()
        parts.append(table if keep_bare else table.filter(labelled))
    unlisted += [
        key for scene, entries in found.files.items() if scene not in tables for key in entries.keys.to_pylist()
    ]
    if lost:
        absent.append(f"{len(lost):,} of {listed:,} images that have labels are not in {path}: {some(lost)}")
    if unlisted:
        absent.append(f"{len(unlisted):,} images in {path} have no row of labels: {some(sorted(unlisted))}")
        left_out += LeftOut.of("without a row of labels", sorted(unlisted))
    if bare and not keep_bare:
        left_out += LeftOut.of("without labels", bare)
    return Index(
        table=pa.concat_tables(parts),
        classes=tuple(labels),
        container=found.container,
        fingerprint=fingerprint([found.fingerprint, tree.fingerprint]),
        newest=max(found.newest, tree.newest),
        left_out=(*found.left_out, *left_out),
        missing=tuple(absent),
        multi_label=True,
    )


def _table(ids: pa.Array, labels: NDArray[np.bool_], domain: str, keys: pa.Array, files: pa.Array) -> pa.Table:
    nothing = pa.nulls(len(ids), pa.string())
    ends = np.concatenate([[0], np.cumsum(labels.sum(axis=1))]).astype(np.int32)
    sets = pa.ListArray.from_arrays(pa.array(ends), pa.array(np.nonzero(labels)[1].astype(np.int32)))
    domains = pa.repeat(pa.scalar(domain, pa.string()), len(ids))
    return pa.table([ids, sets, domains, nothing, nothing, keys, files], schema=INDEX_SCHEMA)
