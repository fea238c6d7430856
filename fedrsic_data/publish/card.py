"""The card of a published dataset: what the Hub and its tools read of it, and what a person must know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from fedrsic_data.answer import markdown
from fedrsic_data.build.card import UNKNOWN, configs
from fedrsic_data.build.finish import SAMPLE_LICENCE
from fedrsic_data.dataset.manifest import Manifest, SubsetEntry
from fedrsic_data.dataset.recipe import SAMPLE_WARNING
from fedrsic_data.partition import PARTITIONERS
from fedrsic_data.publish.rebuild import command
from fedrsic_data.report.figures import Picture
from fedrsic_data.settings import encode

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
# identifiers as SPDX or people write them, in small letters with dashes for spaces -> the Hub's
_LICENCES = {
    **{f"cc-{kind}-{v}": f"cc-{kind}-{v}" for kind in ("by", "by-sa", "by-nc", "by-nc-sa") for v in ("3.0", "4.0")},
    **{name: name for name in ("cc-by-nd-4.0", "cc-by-nc-nd-4.0", "apache-2.0", "mit", "bsd-3-clause")},
    **{name: name for name in ("cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0")},
    **dict.fromkeys(("cc0", "cc0-1.0"), "cc0-1.0"),
    "odbl-1.0": "odbl",
    "odc-by-1.0": "odc-by",
    "pddl-1.0": "pddl",
    SAMPLE_LICENCE.lower().replace(" ", "-"): "apache-2.0",
}
_REFERENCE = (
    "> **Without images**: this repository says who has which image, in `plan.parquet` and `clients.parquet`. The "
    "images are built from the sources, see below, and must then have the digests in `manifest.json`."
)


def render(built: Manifest, repo: str, tag: str, pictures: Sequence[Picture]) -> str:
    """The text of ``README.md``.

    Args:
        built: What is published; without images, if it is a reference.
        repo: ``user/name``.
        tag: Name of the commit that holds this plan.
        pictures: They lie beside it.
    """
    head = yaml.safe_dump(_head(built, repo), sort_keys=False, allow_unicode=True, width=10**6)
    parts = [
        f"---\n{head}---",
        f"# {markdown(built.name)}",
        markdown(built.recipe.title or built.name),
        *([f"> **Sample data**: {SAMPLE_WARNING}"] if built.recipe.sample is not None else []),
        *([_REFERENCE] if built.reference else []),
        *([f"> {UNKNOWN}"] if any(subset.unknown is not None for subset in built.subsets.values()) else []),
        _table(built),
        *(f"![{markdown(picture.alt)}]({picture.name})" for picture in pictures),
        *_partition(built, tag),
        *_loading(built, repo),
        *_rebuilding(built, repo),
        *_sources(built),
    ]
    return "\n\n".join(parts) + "\n"


def _head(built: Manifest, repo: str) -> dict[str, Any]:
    sample = built.recipe.sample is not None
    many = any(subset.multi_label for subset in built.subsets.values())
    one = not all(subset.multi_label for subset in built.subsets.values())
    rows = sum(sum(subset.rows.values()) for subset in built.subsets.values())
    tags = [
        "federated-learning",
        *(["sample-data"] if sample else []),
        *(["reference-only"] if built.reference else []),
    ]
    return {
        **_licence(built, repo),
        "pretty_name": built.name,
        "task_categories": ["image-classification"],
        "task_ids": [
            *(["multi-class-image-classification"] if one else []),
            *(["multi-label-image-classification"] if many else []),
        ],
        "tags": tags,
        "size_categories": [next((words for most, words in _SIZES if rows < most), "n>10M")],
        "configs": _reference_configs(built) if built.reference else configs(built.subsets),
        **({} if built.reference else {"dataset_info": [_info(name, s) for name, s in built.subsets.items()]}),
    }


def _licence(built: Manifest, repo: str) -> dict[str, str]:
    """The licence as the Hub names it, where all sources name one that it knows, and nothing more than its name."""
    known = {
        _LICENCES.get(source.licence.strip().lower().replace(" ", "-"), "other") for source in built.sources.values()
    }
    if len(known) == 1 and "other" not in known:
        return {"license": known.pop()}
    link = f"https://huggingface.co/datasets/{repo}#sources-and-licences"
    return {"license": "other", "license_name": "see-sources", "license_link": link}


def _reference_configs(built: Manifest) -> list[dict[str, Any]]:
    tables = {"plan": built.plan.path, "clients": built.clients.path}
    return [{"config_name": name, "data_files": path} for name, path in tables.items()]


def _info(name: str, subset: SubsetEntry) -> dict[str, Any]:
    splits = [
        {
            "name": split,
            "num_bytes": sum(shard.bytes for shard in subset.shards if shard.split == split),
            "num_examples": sum(shard.rows for shard in subset.shards if shard.split == split),
        }
        for split in _splits(subset)
    ]
    size = sum(shard.bytes for shard in subset.shards)
    return {
        "config_name": name,
        "features": _features(subset),
        "splits": splits,
        "download_size": size,
        "dataset_size": size,
    }


def _features(subset: SubsetEntry) -> list[dict[str, Any]]:
    def labels(names: Sequence[str]) -> dict[str, Any]:
        return {"class_label": {"names": {str(i): name for i, name in enumerate(names)}}}

    label = {"name": "labels", "list": labels(subset.classes)} if subset.multi_label else None
    hidden = [{"name": "labels_unknown", "list": labels(subset.classes)}] if subset.unknown is not None else []
    fine = [{"name": "fine_labels", "list": labels(subset.fine.classes)}] if subset.fine else []
    return [
        {"name": "image", "dtype": "image"},
        label or {"name": "label", "dtype": labels(subset.classes)},
        *hidden,
        *fine,
        *({"name": name, "dtype": "string"} for name in ("client_id", "sample_id", "domain")),
    ]


def _splits(subset: SubsetEntry) -> list[str]:
    return list(dict.fromkeys(shard.split for shard in subset.shards))


def _table(built: Manifest) -> str:
    rows = [
        [markdown(name), f"{len(s.classes)}", f"{s.clients:,}", ", ".join(f"{k} {n:,}" for k, n in s.rows.items())]
        for name, s in built.subsets.items()
    ]
    return _markdown(["subset", "classes", "clients", "images"], rows)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows))


def _partition(built: Manifest, tag: str) -> Iterator[str]:
    yield "## How it is partitioned"
    for name, subset in built.subsets.items():
        spec = built.recipe.partition_of(name)
        kind = PARTITIONERS.get(spec["name"])
        how = f"{markdown(built.recipe.drawn_in_words(name))}."
        how += f" {markdown(kind.cites)}." if kind is not None else ""
        yield f"**{markdown(name)}**: {how}"
        yield _skew(subset.skew)
        if subset.remarks:
            yield "\n".join(f"- {markdown(remark)}." for remark in subset.remarks)
    yield (
        f"Measured on the training rows, each beside the 5th to 95th percentile of IID splits of the same sizes. "
        f"The plan, the owner of every image, has the digest `{built.plan.digest}`; the tag `{tag}` names the commit "
        "that holds it. The recipe in full:"
    )
    yield "```json\n" + json.dumps(encode(built.recipe), indent=1, ensure_ascii=False) + "\n```"


def _skew(measured: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        [
            name.replace("_", " "),
            f"{facts['value']:.3f}",
            f"{facts['iid_low']:.3f} to {facts['iid_high']:.3f}" if "iid_low" in facts else "",
        ]
        for name, facts in measured.items()
    ]
    return _markdown(["skew", "measured", "by chance"], rows)


def _loading(built: Manifest, repo: str) -> Iterator[str]:
    if built.reference:
        return
    name, subset = next(iter(built.subsets.items()))
    yield "## How to load it"
    yield (
        "`client_id` is a column, and a row group never holds two clients; `clients.parquet` says where each client's "
        "rows are. So one client is read without the others."
    )
    yield f"""```python
from datasets import load_dataset

load_dataset({json.dumps(repo)}, {json.dumps(name)})  # all clients
```"""
    yield f"""```python
import fedrsic_data
from fedrsic_data.dataset.flower import ClientPartitioner

subset = fedrsic_data.open({json.dumps(f"hf://{repo}")}).subset({json.dumps(name)})
subset.client(subset.clients[0]).dataset("train")  # fetches this client's images only
ClientPartitioner(subset, "train").load_partition(0)  # the same for Flower
```"""
    yield f"""```bash
fedkit train {"fedlgt" if subset.multi_label else "fedpgp"} --manifest hf://{repo} --subset {name}
```"""
    query = f"SELECT client_id, count(*) FROM 'hf://datasets/{repo}/{name}/train/*.parquet' GROUP BY ALL;"  # noqa: S608
    yield f"```sql\n{query}  -- DuckDB\n```"


def _rebuilding(built: Manifest, repo: str) -> Iterator[str]:
    versions = ", ".join(f"{markdown(name)} {markdown(version)}" for name, version in built.writer.items())
    yield "## How to build it again"
    yield f"```bash\n{command(built.recipe, f'hf://{repo}')}\n```"
    yield f"From the same sources this gives the same plan, and with the same {versions} the same shards, to the byte."


def _sources(built: Manifest) -> Iterator[str]:
    yield "## Sources and licences"
    for source in built.sources.values():
        lines = [f"- **{markdown(source.title)}**, {source.images:,} images. {markdown(source.homepage)}"]
        lines += [f"  - Licence: {markdown(source.licence)}.", f"  - Cite: {markdown(source.citation)}."]
        lines += [f"  - Incomplete copy: {markdown(words)}." for words in source.missing]
        yield "\n".join(lines)
    yield "The partition was made with fedkit."
