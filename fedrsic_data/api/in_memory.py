"""Images that a script holds, as a Parquet file that a recipe can name."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedrsic_data.dataset.schema import IMAGE, features_json
from fedrsic_data.errors import UsageError, translated
from fedrsic_data.files import atomic
from fedrsic_data.files.cache import cache_folder
from fedrsic_data.partition.from_labels import plain, refuse_matrix, rows_of


def parquet_of(data: Any) -> Path:
    """A Parquet file of images and labels, in the cache, named after its content.

    Args:
        data: A ``datasets.Dataset`` with a column of images and one of labels; or a pair of images and labels. An
            image is the bytes of a file, a path, a PIL image, or a uint8 array [height, width, 3] or [height, width];
            arrays and PIL images become PNG files. Labels are names, numbers, lists of them, or a matrix of zeros and
            ones.

    Raises:
        UsageError: There are not as many labels as images, or a value is none of these.
    """
    if hasattr(data, "with_format") and (isinstance(data, dict) or not hasattr(data, "__len__")):
        raise UsageError(f"a {type(data).__name__} is no dataset with rows that can be counted; give one of its splits")
    table = data.with_format("arrow")[:] if hasattr(data, "with_format") else _table(*_pair(data))
    if not table.num_rows:
        raise UsageError("there are no images to build a dataset of")
    path = cache_folder() / "in-memory" / f"{_digest(table)}.parquet"
    with translated(UsageError, path, "cannot be written", "set FEDKIT_CACHE to another folder"):
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic.replacing(path) as file:
                pq.write_table(table, file, row_group_size=1024)
    return path


class _Hashing(io.RawIOBase):
    """A file that keeps only the digest of the bytes that are written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Adds bytes to the digest."""
        self.digest.update(data)
        return len(data)


def _digest(table: pa.Table) -> str:
    """A digest, in hex, of the rows and of the schema, whose metadata hold the class names."""
    sink = _Hashing()
    with pa.ipc.new_stream(sink, table.schema) as stream:  # writes these rows alone, whatever they are a slice of
        stream.write_table(table.combine_chunks())
    return sink.digest.hexdigest()[:32]


def _pair(data: Any) -> tuple[Iterable[Any], Any]:
    try:
        images, labels = data
    except (TypeError, ValueError):
        kind = type(data).__name__
        raise UsageError(f"a {kind} is no dataset; give a recipe, a datasets.Dataset, or (images, labels)") from None
    return images, labels


def _table(images: Iterable[Any], labels: Any) -> pa.Table:
    labels = plain(labels, "labels")
    if not isinstance(images, Iterable):
        raise UsageError(f"a {type(images).__name__} holds no images; give a list or an array of them")
    column, classes = _column(labels)
    files = [_file(number, image) for number, image in enumerate(images)]
    if len(files) != len(column):
        raise UsageError(f"there are {len(files):,} images and {len(column):,} labels; give one label per image")
    several = pa.types.is_list(column.type)
    table = pa.table({"image": pa.array(files, IMAGE), "labels" if several else "label": column})
    if not classes:
        return table
    features = features_json(classes, multi_label=True)
    held = {name: features[name] for name in table.column_names}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": held}})})


def _column(labels: Any) -> tuple[pa.Array, tuple[str, ...]]:
    """Labels as Arrow has them, and the classes of a multi-hot matrix, some of which may have no image."""
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        rows, classes, _ = rows_of(labels)
        return pa.ListArray.from_arrays(rows.offsets.astype(np.int32), rows.labels.astype(np.int64)), classes
    try:
        column = pa.array(labels, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UsageError(f"labels: cannot be read as one column ({' '.join(str(error).split())[:200]})") from None
    if pa.types.is_list(column.type):
        refuse_matrix(pc.list_flatten(column), pc.fill_null(pc.list_value_length(column), 0).to_numpy())
    return column, ()


def _file(number: int, image: Any) -> dict[str, Any]:
    """An image's file and its name."""
    if isinstance(image, bytes):
        return {"bytes": image, "path": f"{number:09d}"}
    if isinstance(image, str | Path):
        with translated(UsageError, image):
            return {"bytes": Path(image).read_bytes(), "path": Path(image).name}
    from PIL import Image

    if not isinstance(image, Image.Image):
        shape, dtype = getattr(image, "shape", ()), str(getattr(image, "dtype", type(image).__name__))
        if dtype != "uint8" or len(shape) not in (2, 3):
            raise UsageError(f"image {number} is {dtype} {[*shape]}; give bytes, a path, a PIL image or uint8 pixels")
        try:
            image = Image.fromarray(image)
        except TypeError:
            words = f"image {number} has shape {[*shape]}; give [height, width] or [height, width, 3]"
            raise UsageError(words) from None
    out = io.BytesIO()
    with translated(UsageError, f"image {number}", "cannot be written as PNG", "convert it to RGB", also=(ValueError,)):
        image.save(out, "PNG")
    return {"bytes": out.getvalue(), "path": f"{number:09d}.png"}


def recipe_of(name: str, file: Path) -> dict[str, Any]:
    """A recipe's JSON for the images of ``parquet_of``, with one subset of that name.

    It holds the file's name and not the place of this machine's cache, so that the same images give the same dataset
    everywhere; a build has to be given the place.
    """
    return {
        "fedkit": 1,
        "name": name,
        "subsets": {name: {"sources": [name]}},
        "sources": {name: {"kind": "hub", "path": f"in-memory/{file.name}"}},
    }
