"""The dataset card, ``README.md``: the configs for ``datasets``, and a description for readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedrsic_data.dataset.manifest import SourceEntry, SubsetEntry
from fedrsic_data.dataset.recipe import SAMPLE_WARNING, Recipe

_FILES = """
`client_id` is a column, and a row group never holds two clients. `clients.parquet` says where each client's
rows are, `plan.parquet` who owns which image, and `manifest.json` holds the recipe and the digest of every file.
"""


UNKNOWN = (
    "**Unknown labels**: `labels_unknown` lists the labels of a training row that are neither present nor absent; a "
    "fine label is unknown where its class is. The whole dataset's `plan.parquet` has the true ones in `labels_true`; "
    "that of a site has none. Leave unknown labels out of a loss: without this column they would be read as absent."
)
"""Note on the cards of datasets in which labels are unknown."""


def render(recipe: Recipe, sources: Mapping[str, SourceEntry], subsets: Mapping[str, SubsetEntry]) -> str:
    """The card's text: YAML that maps each subset to its files, then prose and tables."""
    lines = ["---", *_yaml(recipe, subsets), "---", "", f"# {recipe.name}", "", _text(recipe.title or recipe.name), ""]
    if recipe.sample is not None:
        lines += [f"**Sample data**: {SAMPLE_WARNING}", ""]
    lines += ["| subset | classes | clients | rows | partition |", "|---|---|---|---|---|"]
    for name, subset in subsets.items():
        rows = ", ".join(f"{split} {n:,}" for split, n in subset.rows.items())
        spec = _text(json.dumps(recipe.partition_of(name)))
        counts = f"{len(subset.classes)} | {subset.clients} | {rows}"
        lines.append(f"| {name} | {counts} | `{spec}`, seed {recipe.seed} |")
    if any(subset.unknown is not None for subset in subsets.values()):
        lines += ["", UNKNOWN]
    load = f'load_dataset("PATH", {json.dumps(next(iter(subsets)))})'
    lines += ["", "```python", "from datasets import load_dataset", "", load, "```", _FILES, "## Sources", ""]
    for source in sources.values():
        facts = f"{_text(source.licence)}. {_text(source.citation)}."
        lines.append(f"- **{_text(source.title)}** ({source.images:,} images): {facts}")
        lines += [f"  Incomplete copy: {_text(words)}." for words in source.missing]
    return "\n".join(lines) + "\n"


def configs(subsets: Mapping[str, SubsetEntry]) -> list[dict[str, Any]]:
    """Configs by which ``datasets`` finds the files of each subset."""
    found: list[dict[str, Any]] = []
    for name, subset in subsets.items():
        splits = dict.fromkeys(shard.split for shard in subset.shards)
        files = [{"split": split, "path": f"{name}/{split}/*.parquet"} for split in splits]
        found.append({"config_name": name, "data_files": files, **({} if found else {"default": True})})
    return found


def _yaml(recipe: Recipe, subsets: Mapping[str, SubsetEntry]) -> list[str]:
    # a JSON string is a YAML string, whatever is in it
    lines = ["configs:"]
    for config in configs(subsets):
        lines += [f"- config_name: {json.dumps(config['config_name'])}", "  data_files:"]
        for files in config["data_files"]:
            lines += [f"  - split: {json.dumps(files['split'])}", f"    path: {json.dumps(files['path'])}"]
        lines += ["  default: true"] if "default" in config else []
    lines += ["task_categories:", "- image-classification", "tags:", "- federated-learning"]
    return [*lines, "- sample-data"] if recipe.sample is not None else lines


def _text(words: str) -> str:
    """One line that cannot break a table or become markup."""
    return " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")
