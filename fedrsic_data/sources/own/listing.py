"""``labels.csv``: a table of a folder's images with labels, domains, users and splits.

Comma-separated UTF-8 with a header. ``file`` is the path of an image below the folder; ``label`` its class, or
``labels`` its classes, separated by ``;`` or ``|``, and none where the field is empty. ``domain``, ``user`` and
``split`` may follow, in any order, and are given for every image or for none.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.errors import SourceError
from fedrsic_data.files.atomic import file_digest
from fedrsic_data.raw.containers import reading
from fedrsic_data.settings import suggest
from fedrsic_data.sources.classfolders import no_file
from fedrsic_data.sources.own import common, spelling

NAME = "labels.csv"
COLUMNS = ("file", "label", "labels", "domain", "user", "split")

_BLOCK = 1 << 16  # rows at a time


@dataclass(frozen=True)
class Listing:
    """The table.

    Attributes:
        path: The file.
        columns: Column name -> string [N], spaces at the ends taken off.
        sha256: Digest of the file.
        newest: Modification time, in nanoseconds since the epoch.
    """

    path: Path
    columns: Mapping[str, pa.Array]
    sha256: str
    newest: int

    def take(self, rows: pa.Array) -> Listing:
        """The table of these rows, int [n]."""
        return dataclasses.replace(self, columns={name: column.take(rows) for name, column in self.columns.items()})

    def labels(self) -> common.Labels:
        """The labels of its rows; classes are all that occur, alphabetical.

        Raises:
            SourceError: One class is spelled in two ways, or labels are vectors of 0 and 1.
        """
        labels = self._labels()
        if pair := spelling.twins(labels.classes):
            first = [int(np.flatnonzero(labels.codes == labels.classes.index(name))[0]) for name in pair]
            one, other = np.searchsorted(labels.offsets, first, side="right")
            raise SourceError(
                f"{self.path}: row {one} has class {spelling.shown(*pair)}, row {other} {spelling.shown(*pair[::-1])}; "
                "write it in one way"
            )
        return labels

    def _labels(self) -> common.Labels:
        if "label" in self.columns:
            classes, codes = common.encoded(self.columns["label"])
            return common.Labels.single(codes, classes)
        lists = pc.split_pattern_regex(self.columns["labels"], "[;|]")
        texts = pc.utf8_trim_whitespace(lists.flatten())
        said = pc.not_equal(texts, "").to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(lists)), np.diff(lists.offsets.to_numpy()))[said]
        sizes = np.bincount(row, minlength=len(lists))
        if set(pc.unique(texts).to_pylist()) == {"0", "1"} and sizes.min() == sizes.max() > 1:
            raise SourceError(
                f"{self.path}: labels are vectors of {sizes.max()} zeros and ones; write the names of the classes "
                "that each image has, with ; between them"
            )
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        classes, codes = common.encoded(texts.filter(pa.array(said)))
        return common.Labels.sets(codes, offsets, classes)


def read(path: Path) -> Listing:
    """Reads a ``labels.csv``.

    Raises:
        SourceError: It cannot be read, its header is wrong, or a field is missing.
    """
    try:
        with reading(path):
            stat = path.stat()
            sha256 = file_digest(path)
            with path.open(encoding="utf-8-sig", newline="") as file:
                try:
                    columns = _columns(path, file)
                except UnicodeDecodeError:
                    raise SourceError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    except csv.Error as error:
        raise SourceError(f"{path}: not a table of comma-separated values ({error})") from None
    for name, column in columns.items():
        if name != "labels" and (row := common.first(pc.equal(column, "").to_numpy(zero_copy_only=False))) is not None:
            raise SourceError(f"{path}: row {row + 1} has no {name}; give one to every image")
    return Listing(path, columns, sha256, max(stat.st_mtime_ns, stat.st_ctime_ns))


def places(table: Listing, root: Path, paths: pa.Array) -> NDArray[np.int64]:
    """Which of the images below a folder each row means, int64 [N].

    Args:
        table: The table.
        root: The folder.
        paths: string [M], the images in it, as paths from it.

    Raises:
        SourceError: A row names no image in the folder, or one that another row has.
    """
    wanted = pc.replace_substring_regex(table.columns["file"], r"^(\./)+", "")
    at = pc.index_in(wanted, value_set=paths)
    if at.null_count:  # names in another Unicode form, as file systems and archives change them
        at = pc.coalesce(at, _by_form(table, wanted, at, paths))
    if (row := common.first(at.is_null().to_numpy(zero_copy_only=False))) is not None:
        file = wanted[row].as_py()
        raise SourceError(f"{table.path}: row {row + 1}: file {file!r} {_why_not(root, file)}")
    codes: NDArray[np.int64] = at.to_numpy().astype(np.int64)
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    if len(first) < len(codes):
        code = codes[first[counts > 1]][0]
        one, other = np.flatnonzero(codes == code)[:2] + 1
        raise SourceError(f"{table.path}: rows {one} and {other} are both of {wanted[one - 1].as_py()!r}; keep one")
    return codes


def _by_form(table: Listing, wanted: pa.Array, at: pa.Array, paths: pa.Array) -> pa.Array:
    """The same for rows whose file has another Unicode form: int32 [N], null where no image has it in any."""
    composed = pc.utf8_normalize(paths, "NFC")
    found = pc.index_in(pc.utf8_normalize(wanted, "NFC"), value_set=composed)
    open_rows = pc.is_null(at).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(open_rows & pc.is_valid(found).to_numpy(zero_copy_only=False)):
        if pc.sum(pc.equal(composed, composed[found[row].as_py()])).as_py() > 1:
            raise SourceError(
                f"{table.path}: row {row + 1}: file {wanted[row].as_py()!a} is the name of two files but for their "
                "Unicode form; rename one"
            )
    return found


def _why_not(root: Path, file: str) -> str:
    parts = file.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or parts[0].endswith(":"):
        return "is not below the folder; write its path from there"
    if "\\" in file:
        return "has backslashes; write / between folders"
    try:
        there = (root / file).is_file()
    except (OSError, ValueError):
        there = False
    if there:
        return "is not named as an image"
    return f"is {no_file(root / file)}" if os.path.lexists(root / file) else "does not exist"


def _columns(path: Path, file: TextIO) -> dict[str, pa.Array]:
    rows = csv.reader(file, strict=True)
    header = [name.strip() for name in next(rows, [])]
    _check_header(path, header)
    parts: list[list[pa.Array]] = [[pa.array([], pa.string())] for _ in header]
    for block in _blocks(path, rows, len(header)):
        for column, texts in zip(parts, zip(*block, strict=True), strict=True):
            column.append(pc.utf8_trim_whitespace(pa.array(texts, pa.string())))
    columns = {name: pa.concat_arrays(part) for name, part in zip(header, parts, strict=True)}
    if not len(columns["file"]):
        raise SourceError(f"{path}: lists no images; it has a header and no rows")
    return columns


def _check_header(path: Path, header: Sequence[str]) -> None:
    shown = ", ".join(header) or "nothing"
    unnamed = [number for number, name in enumerate(header, 1) if not name or re.fullmatch(r"Unnamed: \d+", name)]
    if unnamed and "file" in header:
        raise SourceError(
            f"{path}: column {unnamed[0]} has no name, as the row numbers that pandas writes; leave it out "
            "(to_csv(..., index=False))"
        )
    for name in header:
        if name not in COLUMNS and "file" in header:
            raise SourceError(f"{path}: unknown column {name!r}{suggest(name, COLUMNS)}")
        if header.count(name) > 1:
            raise SourceError(f"{path}: column {name!r} occurs twice; keep one")
    if "file" not in header or ("label" in header) == ("labels" in header):
        raise SourceError(
            f"{path}: the first line is {shown!r}; it should name the columns: file, label or labels, "
            "and optionally domain, user, split, separated by commas"
        )


def _blocks(path: Path, rows: Iterator[list[str]], width: int) -> Iterator[list[list[str]]]:
    """Rows some at a time, empty lines left out."""
    before = 0
    while block := list(islice(rows, _BLOCK)):
        block = [row for row in block if row]
        for number, row in enumerate(block, before + 1):
            if len(row) != width:
                words = f"has {len(row)} fields, the header {width}; put quotes around fields with commas"
                raise SourceError(f"{path}: row {number} {words}")
        before += len(block)
        if block:
            yield block
