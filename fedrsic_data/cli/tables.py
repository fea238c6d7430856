"""Answers of the commands: the same facts as data for machines and as tables for people."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrsic_data.answer import ByWidth, Shown, table, together
from fedrsic_data.dataset import recipe, schema, skew
from fedrsic_data.dataset.manifest import NAME, Manifest, SourceEntry, repeated
from fedrsic_data.settings import encode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fedrsic_data.build.pipeline import Built
    from fedrsic_data.build.plan import Planned
    from fedrsic_data.dataset.reader import Dataset
    from fedrsic_data.dataset.verify import Problem
    from fedrsic_data.derive.sites import SiteFolder

_BARS = 48  # most characters for the classes of a client
_LABELS = "train labels"  # the column of the bars
_HEIGHTS = "·▁▂▃▄▅▆▇█"


def planned(plan: Planned) -> Shown:
    """A plan that was not written."""
    data: dict[str, Any] = {"dry_run": True, "name": plan.recipe.name, "plan": plan.digest, "subsets": {}}
    parts: list[RenderableType] = [f"{plan.recipe.name}{_sample(plan.recipe)}: planned, nothing written"]
    for subset in plan.subsets:
        labels = subset.counts("train")
        sizes = subset.counts().sum(axis=1) if not subset.multi_label else subset.domain_counts().sum(axis=1)
        rows = {
            name: int(((subset.split == i) & (subset.owner >= 0)).sum()) for i, name in enumerate(subset.split_names)
        }
        left_out = sum(left.count for left in subset.left_out)
        data["subsets"][subset.name] = {
            "classes": len(subset.classes),
            "clients": len(subset.clients),
            "rows": rows,
            "client_rows": {"min": int(sizes.min()), "max": int(sizes.max())},
            "total_variation": round(float(skew.METRICS["total_variation"](labels)), 6),
            "moved": subset.moved,
            "left_out": left_out,
            "duplicates": len(subset.duplicates),
            "duplicate_images": sum(map(len, subset.duplicates)),
            "duplicates_across": subset.across,
            **({"unknown": subset.unknown} if subset.unknown else {}),
        }
        facts = data["subsets"][subset.name]
        parts.append(
            f"  {subset.name}: {_many(len(subset.classes), 'class')}, {_rows(rows)}, "
            f"{_many(len(subset.clients), 'client')} of {sizes.min():,} to {sizes.max():,} images, "
            f"total variation {facts['total_variation']:.3f}"
            + (f", {subset.moved:,} moved to reach min_size" if subset.moved else "")
            + (f", {left_out:,} left out" if left_out else "")
            + (f", {subset.unknown:,} labels unknown" if subset.unknown else "")
        )
        parts += [f"    {repeated(subset.duplicates, subset.across)}"] if subset.duplicates else []
    return Shown(data, together([*parts, *_incomplete(plan.sources)]))


def built(done: Built) -> Shown:
    """A finished build and what to do next."""
    manifest, path = done.manifest, done.uri or _short(done.path)
    data = {
        "name": manifest.name,
        "path": done.uri or str(done.path),
        "manifest": f"{done.uri}/{NAME}" if done.uri else str(done.path / NAME),
        "digest": manifest.digest,
        "plan": manifest.plan.digest,
        "shards_written": done.written,
        "subsets": {
            name: {"rows": s.rows, "clients": s.clients, "skipped": len(s.skipped)}
            for name, s in manifest.subsets.items()
        },
    }
    size = sum(shard.bytes for s in manifest.subsets.values() for shard in s.shards)
    state = "already existed, nothing to do" if not done.written else f"{done.written} shards, {size / 1e6:,.1f} MB"
    parts: list[RenderableType] = [f"{path}{_sample(manifest.recipe)}: {state}"]
    for name, subset in manifest.subsets.items():
        parts.append(
            f"  {name}: {_many(len(subset.classes), 'class')}, {_rows(subset.rows)}, {_many(subset.clients, 'client')}"
        )
        parts += [f"    {remark}" for remark in subset.remarks]
        parts += [f"      {skip.sample_id}: {skip.reason}" for skip in subset.skipped]
    parts += _incomplete(manifest.sources)
    first, word = next(iter(manifest.subsets)), shlex.quote(str(path))
    code = f"import fedrsic_data as f; print(f.open({str(path)!r}).subset({first!r}).clients)"
    code = f'"{code}"' if word == str(path) else shlex.quote(code)  # the first is easier on the eye
    if done.uri:
        files = f"{done.uri}/{first}/train/*.parquet"
        code = shlex.quote(f"import datasets; print(datasets.load_dataset('parquet', data_files={files!r}))")
        parts += ["next:", f"  python -c {code}"]
        return Shown(data, together(parts))
    method = "fedlgt" if manifest.subsets[first].multi_label else "fedpgp"
    train = f"  fedkit train {method} --manifest {word} --subset {shlex.quote(first)}"
    parts += ["next:", f"  fedkit inspect {word}", f"  fedkit verify {word}", train, f"  python -c {code}"]
    return Shown(data, together(parts))


def _incomplete(sources: Mapping[str, SourceEntry]) -> list[str]:
    """A line for everything that the copies of some sources lack."""
    return [f"  incomplete copy of {source.title}: {words}" for source in sources.values() for words in source.missing]


def handed_out(out: Path, written: Sequence[SiteFolder]) -> Shown:
    """Folders for sites, and what to do with them."""
    from fedrsic_data.derive.sites import SERVER

    data = {"path": str(out), "sites": [encode(site) for site in written], "server": str(out / SERVER)}
    first = shlex.quote(str(out / written[0].name))
    parts: list[RenderableType] = [f"{out}: {_many(len(written), 'site')}, and {SERVER}, which has no images"]
    parts += [f"  {s.name}: {_many(len(s.clients), 'client')}, {s.rows:,} rows" for s in written[:10]]
    parts += [f"  ... and {len(written) - 10:,} more"] if len(written) > 10 else []
    parts += [
        "next:",
        f"  fedkit verify {first}",
        "  hand each folder to its site; certificates and nodes: docs/distributed.md",
        f"  fedkit flower app my-app --method fedpgp --manifest {shlex.quote(str(out / SERVER))}",
    ]
    return Shown(data, together(parts))


def inspected(dataset: Dataset, wanted: Sequence[str], most: int) -> Shown:
    """Tables of a built dataset, of all subsets or some."""
    for name in wanted:
        dataset.subset(name)
    manifest = dataset.manifest
    data: dict[str, Any] = {"name": manifest.name, "digest": manifest.digest, "subsets": {}}
    parts: list[RenderableType] = []
    for name in wanted or dataset.subsets:
        facts, text = _subset(dataset, name, most)
        data["subsets"][name] = facts
        parts += text
    return Shown(data, together(parts))


def with_files(shown: Shown, files: Sequence[Path]) -> Shown:
    """An answer, and the pictures that were written beside it."""
    lines = ["pictures:", *(f"  {_short(path)}" for path in files)]
    return Shown({**shown.data, "pictures": [str(path) for path in files]}, together([shown.text, *lines]))


def verified(path: Path, manifest: Manifest, problems: Sequence[Problem], notes: Sequence[str] = ()) -> Shown:
    """The outcome of a verification, and what could not be compared."""
    data = {
        "path": str(path),
        "ok": not problems,
        "digest": manifest.digest,
        "problems": [encode(problem) for problem in problems],
        "notes": list(notes),
    }
    rows = sum(n for subset in manifest.subsets.values() for n in subset.rows.values())
    shards = sum(len(subset.shards) for subset in manifest.subsets.values())
    if problems:
        return Shown(data, together([*(f"{problem.file}: {problem.words}" for problem in problems), *notes, "FAILED"]))
    if all(subset.withheld for subset in manifest.subsets.values()):
        words = "clients and sizes match the manifest; its images are at the sites"
    elif manifest.reference:
        words = f"the owners of {rows:,} images match the manifest; it holds no images"
    else:
        words = f"{rows:,} images in {shards} shards match the manifest"
    return Shown(data, together([f"{path}: {words}", *(f"  {note}" for note in notes)]))


def _subset(dataset: Dataset, name: str, most: int) -> tuple[dict[str, Any], list[RenderableType]]:
    subset = dataset.subset(name)
    entry, wanted = subset.entry, dataset.manifest.recipe
    tables = {split: skew.tables(subset.client_table, len(entry.classes), split) for split in subset.splits}
    labels, domains = tables[schema.TRAIN]
    sizes = {split: _sizes(dataset, name, split) for split in subset.splits}
    kinds = sorted({d for row in subset.client_table.column("domains").to_pylist() for d in row})
    spec = wanted.partition_of(name)
    unknown = subset.unknown
    facts = {
        "partition": spec,
        "seed": wanted.seed,
        "classes": list(entry.classes),
        "novel": list(entry.novel),
        "rows": entry.rows,
        "skew": entry.skew,
        "moved": entry.moved,
        "left_out": [encode(left) for left in entry.left_out],
        "skipped": [encode(skip) for skip in entry.skipped],
        **({} if unknown is None else {"unknown": _named(entry.unknown or (), entry.classes)}),
        "duplicates": [list(group) for group in entry.duplicates],
        "duplicates_across": entry.across,
        "clients": [
            {
                "client_id": client,
                "rows": {split: int(sizes[split][k]) for split in subset.splits},
                "labels": _named(labels[k], entry.classes),
                **({} if unknown is None else {"unknown": _named(unknown[k], entry.classes)}),
            }
            for k, client in enumerate(subset.clients)
        ],
    }
    size = f"{_many(len(entry.classes), 'class')}, {_many(entry.clients, 'client')}, {_rows(entry.rows)}"
    how = f"  {wanted.drawn_in_words(name)}"
    text: list[RenderableType] = [f"{name}{_sample(wanted)}: {size}", how]
    text += [f"  {remark}" for remark in entry.remarks]
    train_domains = sorted({d for d, n in zip(kinds, domains.sum(axis=0), strict=False) if n}) if domains.size else []
    rows = []
    for k, client in enumerate(subset.clients[:most]):
        seen = str(int((labels[k] > 0).sum())) if labels[k].any() or not sizes[schema.TRAIN][k] else "-"
        hidden = [] if unknown is None else [_unknown(unknown[k], sizes[schema.TRAIN][k])]
        spread = [_shares(domains[k], train_domains)] if len(train_domains) > 1 else []
        rows.append([client, *(f"{sizes[split][k]:,}" for split in subset.splits), seen, *hidden, "", *spread])
    if rows:
        header = ["client", *subset.splits, "classes", *([] if unknown is None else ["unknown"]), _LABELS]
        header += ["domains"] if len(train_domains) > 1 else []
        text.append(_clients(header, rows, labels[:most], entry.classes))
    if len(subset.clients) > most:
        text.append(f"  ... and {_many(len(subset.clients) - most, 'more client')} (--clients N, or --json)")
    if entry.withheld:
        text.append("  classes and labels stay at the sites: skew is not known here")
    elif len(subset.clients) > 1:  # a single client has no skew
        text.append(_skew_table(entry.skew))
    text.append("")
    return facts, text


def _clients(
    header: Sequence[str], rows: Sequence[Sequence[str]], labels: np.ndarray[Any, Any], classes: Sequence[str]
) -> RenderableType:
    """A row per client: its sizes, a bar for each class and, where there is room, its domains and largest labels.

    Args:
        header: Names of the columns.
        rows: A cell for each, that of the bars empty.
        labels: int64 ``[clients, classes]``.
        classes: Their names.
    """
    at = header.index(_LABELS)
    largest = [_largest(counts, classes) for counts in labels]

    def made(width: int) -> RenderableType:
        names = [*header, "largest"]
        cells = [[*row, top] for row, top in zip(rows, largest, strict=True)]
        wide = [max(len(row[i]) for row in (names, *cells)) for i in range(len(names))]
        wide[at] = max(min(len(classes), _BARS), len(_LABELS))
        kept = len(names)
        while kept > at + 1 and sum(wide[:kept]) + 3 * kept > width:
            kept -= 1
        room = max(width - sum(wide[:kept]) + wide[at] - 3 * kept, len(_LABELS))
        for row, counts in zip(cells, labels, strict=True):
            row[at] = _bars(counts, room)
        return table(names[:kept], [row[:kept] for row in cells], right=range(1, at), fold=False)

    return ByWidth(made)


def _sizes(dataset: Dataset, name: str, split: str) -> np.ndarray[Any, Any]:
    clients = dataset.subset(name).client_table
    rows = clients.filter(np.equal(clients.column("split").to_numpy(zero_copy_only=False), split)).column("rows")
    return np.asarray(rows.to_numpy())


def _skew_table(measured: Mapping[str, Mapping[str, float]]) -> RenderableType:
    rows = []
    for name, facts in measured.items():
        band = f"{facts['iid_low']:.3f} to {facts['iid_high']:.3f}" if "iid_low" in facts else "-"
        rows.append([name.replace("_", " "), f"{facts['value']:.3f}", band])
    return table(["skew (train)", "measured", "by chance (IID)"], rows, right=(1, 2))


def _bars(counts: np.ndarray[Any, Any], room: int) -> str:
    """A bar for each class in index order, so that clients compare column by column; many classes share bars."""
    width = min(len(counts), _BARS, room)
    heights = np.add.reduceat(counts, np.arange(width) * len(counts) // max(width, 1)) if width else counts
    top = heights.max(initial=0)
    steps = np.ceil(heights / max(top, 1) * (len(_HEIGHTS) - 1)).astype(int)
    return "".join(_HEIGHTS[step] for step in steps) if top else ""


def _shares(counts: np.ndarray[Any, Any], names: Sequence[str]) -> str:
    """The domains of a client and their shares."""
    total = max(int(counts.sum()), 1)
    held = [(name.removeprefix("sample-"), n / total) for name, n in zip(names, counts, strict=False) if n]
    return ", ".join(f"{name} {share:.0%}" if share >= 0.01 else f"{name} <1%" for name, share in held)


def _largest(counts: np.ndarray[Any, Any], classes: Sequence[str]) -> str:
    top = [i for i in np.argsort(-counts, kind="stable")[:2] if counts[i]]
    return ", ".join(f"{classes[i]} {counts[i]}" for i in top)


def _named(counts: Sequence[int] | np.ndarray[Any, Any], classes: Sequence[str]) -> dict[str, int]:
    """Counts of those classes that have any, by name."""
    return {c: int(n) for c, n in zip(classes, counts, strict=True) if n}


def _unknown(counts: np.ndarray[Any, Any], rows: int) -> str:
    """The share of a client's labels of training rows that are unknown."""
    return f"{counts.sum() / (rows * len(counts)):.0%}" if rows else "-"


def _many(count: int, noun: str) -> str:
    """A count and its noun in the right number."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural}"


def _sample(wanted: recipe.Recipe) -> str:
    return f" ({recipe.SAMPLE})" if wanted.sample is not None else ""


def _rows(rows: Mapping[str, int]) -> str:
    return " + ".join(f"{n:,} {split}" for split, n in rows.items())


def _short(path: Path) -> Path:
    """Relative to the current folder, if it is below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
