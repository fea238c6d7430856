"""The contract of a source as checks that any package can run: ``check_source(SOURCE, "small/copy")``."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fedrsic_data.dataset import images, schema
from fedrsic_data.errors import FedkitError, SourceError
from fedrsic_data.raw.index import FINE, INDEX_SCHEMA, Index
from fedrsic_data.settings import decode, encode
from fedrsic_data.sources.base import Facts, Source

_READ = 64  # images that are read


def check_source(source: Source, path: str | os.PathLike[str]) -> None:
    """Run the checks that every source of fedkit passes.

    >>> from fedrsic_data.sources import SOURCES
    >>> check_source(SOURCES["ucmerced"], "data/UCMerced_LandUse")  # doctest: +SKIP

    Args:
        source: The source.
        path: A copy of its files; it may be a part of them.

    Raises:
        AssertionError: It breaks the contract; the message says how.
        SourceError: The copy is not one.
    """
    _check_facts(source)
    index = source.index(Path(path), allow_partial=True)
    _check_table(source, index)
    again = source.index(Path(path), allow_partial=True)
    same = (again.classes, again.fingerprint) == (index.classes, index.fingerprint)
    _check(same and again.table.equals(index.table), "gives another index each time that it reads the same files")
    _check_images(index)
    with TemporaryDirectory() as empty:
        words = "takes an empty folder for a copy; raise SourceError"
        _check(_refuses(lambda: source.index(Path(empty))), words)
        _check(_refuses(lambda: source.index(Path(empty) / "nowhere")), words.replace("an empty", "an absent"))


def _check(holds: object, words: str) -> None:
    if not holds:
        raise AssertionError(f"the source {words}")


def _check_facts(source: Source) -> None:
    """Checks what lists, recipes, cards and the search for files read."""
    for name in ("name", "kind"):
        _check(re.fullmatch(r"[a-z0-9][a-z0-9_-]*", getattr(source, name)), f"has a {name} that no recipe can hold")
    _check(isinstance(source.facts, Facts), "has facts that are not fedrsic_data.sources.Facts")
    for name in ("title", "layout"):
        _check(getattr(source.facts, name), f"has no {name} among its facts")
    for name in source.aliases:
        _check(re.fullmatch("[a-z0-9]+", name), f"has an alias {name!r}; use lower case letters and digits alone")
    kind: type[Any] = type(source.settings)
    if source.settings is None:
        return
    frozen = "__dataclass_params__" in vars(kind) and vars(kind)["__dataclass_params__"].frozen
    _check(frozen, "has settings that are no frozen dataclass")
    data = json.loads(json.dumps(encode(source.settings)))
    _check(decode(kind, data, "settings") == source.settings, "has settings that are others after a trip through JSON")
    _check(dataclasses.is_dataclass(source), "has settings and is no dataclass, so they cannot be replaced")


def _check_table(source: Source, index: Index) -> None:
    table = index.table
    for field in INDEX_SCHEMA:
        there = field.name in table.column_names and table.schema.field(field.name).type == field.type
        _check(there, f"has no column {field.name} of type {field.type} in its index")
    _check(table.num_rows, "finds no image in the copy")
    _check(len(set(index.classes)) == len(index.classes) > 0, "has a class twice, or none")
    ids = schema.whole(table.column("sample_id"))
    for name in ("sample_id", "labels", "domain", "key", "file"):
        _check(not table.column(name).null_count, f"has rows without {name}")
    _check(pc.count_distinct(ids).as_py() == len(ids), "gives two images one sample_id")
    own = pc.all(pc.starts_with(ids, f"{source.name}/")).as_py()
    _check(own, f"has a sample_id that does not begin with {source.name}/")
    _check_labels(schema.whole(table.column("labels")), len(index.classes), "label", single=not index.multi_label)
    if index.fine is not None:
        _check_labels(schema.whole(table.column(FINE.name)), len(index.fine.classes), "fine label")
    splits = set(pc.unique(table.column("split")).to_pylist()) - {None}
    _check(all(re.fullmatch(r"[\w.-]+", name) for name in splits), f"has splits {sorted(splits)} that name no folder")


def _check_labels(labels: pa.Array, classes: int, what: str, *, single: bool = False) -> None:
    numbers = pc.list_flatten(labels)
    if len(numbers):
        low, high = pc.min_max(numbers).as_py().values()
        _check(low is not None and low >= 0 and high < classes, f"has a {what} that is none of its {classes} classes")
    if single:
        one = pc.all(pc.equal(pc.list_value_length(labels), 1)).as_py()
        _check(one, "has an image with no label or several, and multi_label is False")


def _check_images(index: Index) -> None:
    """Checks that the container reads some of the images, also as a copy in another process does."""
    keys = schema.whole(index.table.column("key"))[:: max(1, index.table.num_rows // _READ)].to_pylist()
    with TemporaryDirectory() as scratch:
        index.container.prepare(Path(scratch), shared=True)
        files = index.container.read(keys)
        _check(len(files) == len(keys), "reads other numbers of files than it is asked for")
        for key, data in zip(keys, files, strict=True):
            _check(isinstance(data, bytes), f"reads {key} as {type(data).__name__}, not bytes")
            _check(index.container.where(key), f"does not say where {key} is")
            try:
                images.check(data, key)
            except FedkitError as error:
                raise AssertionError(f"the source reads something that is no image ({error})") from error
        _check(index.container.read(keys[::-1]) == files[::-1], "reads files in another order than it is asked for")
        pickle.dumps(index.container)  # as build engines send it to processes; a copy is made by the same hooks
        _check(copy.deepcopy(index.container).read(keys) == files, "reads other files in another process")
    firsts = index.container.firsts(index.table.column("key"))
    _check(len(firsts) == index.table.num_rows, "tells identical files for another number of rows")


def _refuses(work: Callable[[], Index]) -> bool:
    try:
        work()
    except SourceError:
        return True
    return False
