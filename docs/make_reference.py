"""Write docs/reference.md from the code, and the table of methods in docs/methods.md.

The reference has every field of recipes, manifests, runs and methods, and every column.

python docs/make_reference.py
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa

from fedrsic_data import partition
from fedrsic_data.dataset import manifest, recipe, schema
from fedrsic_data.settings import encode, meanings
from fedrsic_data.sources.sample import SampleSettings
from fedtrain.config import RunConfig
from fedtrain.methods import METHODS
from fedtrain.methods.base import Method

TARGET = Path(__file__).parent / "reference.md"
METHODS_PAGE = Path(__file__).parent / "methods.md"
HEAD = """# Reference

Written by `docs/make_reference.py` from the code. What the fields are for, with examples: [format.md](format.md),
[partitioners.md](partitioners.md), [training.md](training.md).
"""

COLUMNS = {
    "image": "the file's bytes as they were, and its name",
    "label": "class index; the names are in the schema's `huggingface` metadata",
    "labels": "class indices, one or more; in `clients.parquet` those that occur, in `plan.parquet` class names",
    "fine_labels": "indices of finer classes; in `plan.parquet` their names, or null",
    "labels_unknown": "class indices that are neither present nor absent; in `plan.parquet` class names; only where a "
    "label of the subset is unknown",
    "labels_true": "all class names of a row with unknown labels, else null; only where a label is unknown",
    "fine_labels_true": "likewise, of the finer classes",
    "client_id": "the owner; in `plan.parquet` null for what the partitioner left out",
    "sample_id": "unique in a subset: source and file",
    "domain": "the sensor, source or style it comes from",
    "subset": "the federation",
    "split": "`train`, or a held-out split",
    "file": "relative to the manifest; null for a client without rows in the split",
    "row_group": "the first of the client's row groups in that file",
    "row_groups": "how many they are",
    "rows": "the client's rows in the split",
    "bytes": "of the image files",
    "counts": "in how many rows each of `labels` occurs",
    "domains": "domains that occur",
    "domain_counts": "in how many rows each of them occurs",
    "group": "natural user, or null",
}
"""Column -> meaning; a column without one is an error."""


def text() -> str:
    """The whole reference."""
    shapes = (recipe.Recipe, recipe.SubsetRecipe, recipe.HiddenLabels, recipe.AnnotatedLabels, recipe.Layout)
    parts = [HEAD, "## Recipes", *map(fields, (*shapes, SampleSettings))]
    parts += ["## Partitioners", *(fields(kind, f"`{name}`") for name, kind in partition.PARTITIONERS.items())]
    kinds = [getattr(manifest, name) for name in vars(manifest)]
    entries = [k for k in kinds if dataclasses.is_dataclass(k) and k.__module__ == manifest.__name__]
    parts += ["## Manifests", *map(fields, entries)]
    parts += ["## Columns", columns("Shards, single-label", schema.shard_schema(("a",), multi_label=False))]
    parts.append(
        columns("Shards, multi-label", schema.shard_schema(("a",), multi_label=True, fine=("b",), unknown=True))
    )
    parts += [
        columns("`clients.parquet`", schema.CLIENTS_SCHEMA),
        columns("`plan.parquet`", schema.plan_schema(unknown=True)),
    ]
    parts += ["## Runs", fields(RunConfig)]
    parts += ["## Methods", *(fields(kind.Settings, f"`{name}`") for name, kind in METHODS.items())]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def methods_text() -> str:
    """``docs/methods.md`` with its table of methods written anew, from what the classes say of themselves."""
    rows = []
    for name, method in METHODS.items():
        shared = "" if method.shared is Method.shared else first(method.shared).rstrip(".")
        personal = first(method.personal).rstrip(".") if method.has_personal else ""
        labels = ", ".join(method.kinds)
        what = re.sub(r"arXiv (\d{4}\.\d{5})", r"[\g<0>](https://arxiv.org/abs/\1)", first(method).rstrip("."))
        rows.append((f"`{name}`", what, labels, shared, personal, str(method.rounds)))
    lines = table(("method", "what it is", "data", "shared", "personal", "rounds"), rows)
    return re.sub(
        r"(?s)(?<=<!-- methods -->\n).*?(?=\n<!-- end -->)", lambda _: "\n".join(lines), METHODS_PAGE.read_text()
    )


def fields(cls: Any, title: str = "") -> str:
    """A table of a dataclass's fields; their meaning is what its docstring, or that of a base, says of them."""
    known = meanings(cls)
    hints = get_type_hints(cls)
    lines = [f"### {title or cls.__name__}", "", first(cls), ""]
    rows = [
        (f"`{f.name}`", f"`{kind(hints[f.name])}`", default(f), known.get(f.name, "")) for f in dataclasses.fields(cls)
    ]
    return "\n".join(lines + table(("field", "type", "default", "what it is"), rows))


def columns(title: str, of: pa.Schema) -> str:
    """A table of a Parquet schema's columns."""
    rows = [(f"`{field.name}`", f"`{field.type}`", COLUMNS[field.name]) for field in of]
    return "\n".join([f"### {title}", "", *table(("column", "type", "what it is"), rows)])


def first(cls: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join(inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`")


def kind(hint: Any) -> str:
    """A type as one reads it."""
    name = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", name).replace("NoneType", "None")


def default(field: dataclasses.Field[Any]) -> str:
    """A field's default as JSON."""
    if field.default is not dataclasses.MISSING:
        return f"`{json.dumps(encode(field.default))}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{json.dumps(encode(field.default_factory()))}`"
    return "required"


def table(header: Iterable[str], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A Markdown table."""
    names = list(header)
    cells = [[cell.replace("|", "\\|").replace("``", "`") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *cells)] if cells else ["No settings."]


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
    METHODS_PAGE.write_text(methods_text(), encoding="utf-8")
    print(TARGET, METHODS_PAGE)
