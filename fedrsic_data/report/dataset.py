"""Report sections of a built dataset, one per subset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedrsic_data.answer import plain
from fedrsic_data.dataset import skew
from fedrsic_data.dataset.manifest import Manifest, SubsetEntry
from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.report import style
from fedrsic_data.report.contact_sheet import sheet
from fedrsic_data.report.figures import everything
from fedrsic_data.report.page import Block, Cell, Figure, Section, Table, facts
from fedrsic_data.report.style import Numbers
from fedrsic_data.report.summary import Summary, ordered, summarise


def sections(
    dataset: Dataset, *, images: bool = True, step: Callable[[str], None] = lambda _: None
) -> tuple[Section, ...]:
    """A section for every subset, and one on sources and provenance.

    Args:
        dataset: A built dataset.
        images: Show thumbnails.
        step: Called with the next step.

    Raises:
        ManifestError: Its tables, its plan or a shard cannot be read.
    """
    parts = []
    for name in dataset.subsets:
        step(f"drawing {name} of {dataset.manifest.name}")
        parts.append(_subset(dataset.subset(name), images=images))
    return (*parts, _provenance(dataset.manifest))


def _subset(subset: Subset, *, images: bool) -> Section:
    summary = summarise(subset)
    drawn = map(Figure, everything(subset, summary))
    blocks: list[Block] = [*drawn, _clients(summary), _classes(summary, subset.entry)]
    if images:
        blocks.append(sheet(subset))
    rows = ", ".join(f"{n:,} {split}" for split, n in subset.entry.rows.items())
    size = f"{len(subset.classes)} classes, {len(subset.clients):,} clients, {rows} rows."
    manifest = subset.dataset.manifest
    how = f"Partition: {plain(manifest.recipe.drawn_in_words(subset.name))}."
    words = (size, how, *(f"{remark}." for remark in subset.entry.remarks))
    return Section(f"subset-{style.slug(subset.name)}", f"{subset.name} of {manifest.name}", words, tuple(blocks))


def _clients(summary: Summary) -> Table:
    """One row per client, in the order of the heat map."""
    order = ordered(summary)
    shares = skew.mixtures(summary.labels)
    lead, held = shares.argmax(axis=1), summary.labels.sum(axis=1) > 0
    several = len(summary.domains) > 1
    distance = skew.total_variation(summary.labels)
    columns: list[tuple[str, list[Cell]]] = [("client", [summary.clients[i] for i in order])]
    columns += [(split, summary.rows[order, s].tolist()) for s, split in enumerate(summary.splits)]
    columns.append(("classes", (summary.labels[order] > 0).sum(axis=1).tolist()))
    columns.append(("leading class", [summary.classes[lead[i]] if held[i] else "-" for i in order]))
    columns.append(("its share, %", [float(100 * shares[i, lead[i]]) if held[i] else None for i in order]))
    if summary.unknown is not None:
        every = np.maximum(summary.rows[:, 0] * len(summary.classes), 1)
        columns.append(("unknown labels, %", (100 * summary.unknown.sum(axis=1) / every)[order].tolist()))
    if several:
        main, any_ = summary.domain_rows.argmax(axis=1), summary.domain_rows.sum(axis=1) > 0
        columns.append(("leading domain", [summary.domains[main[i]] if any_[i] else "-" for i in order]))
    columns.append(("distance to all", [float(distance[i]) if held[i] else None for i in order]))
    header = tuple(name for name, _ in columns)
    rows = tuple(zip(*(values for _, values in columns), strict=True))
    note = "In the order of the heat map. Distance: total variation between a client's label mixture and that of all."
    return Table("Clients", Numbers(header, rows), note, digits=2)


def _classes(summary: Summary, entry: SubsetEntry) -> Table:
    total = summary.labels.sum(axis=0)
    holders = (summary.labels > 0).sum(axis=0)
    share = 100 * total / max(int(total.sum()), 1)
    largest = summary.labels.max(axis=0, initial=0) / np.maximum(total, 1) * 100
    rows = tuple(
        (
            name + (" (novel)" if name in entry.novel else ""),
            int(total[i]),
            float(share[i]),
            int(holders[i]),
            float(largest[i]),
            *(() if summary.unknown is None else (int(summary.unknown[:, i].sum()),)),
        )
        for i, name in enumerate(summary.classes)
    )
    header = ("class", "training rows", "share, %", "clients that have it", "of it at one client, %")
    hidden = () if summary.unknown is None else ("unknown in rows",)
    return Table("Classes", Numbers((*header, *hidden), rows), digits=1)


def _provenance(manifest: Manifest) -> Section:
    rows = tuple(
        (name, s.title, s.images, s.licence, "yes" if s.redistributable else "ask the authors", s.homepage, s.citation)
        for name, s in manifest.sources.items()
    )
    header = ("source", "title", "images", "licence", "may be published", "home", "cite")
    writer = ", ".join(f"{name} {version}" for name, version in manifest.writer.items())
    pairs: list[tuple[str, Cell]] = [
        ("dataset", manifest.name),
        ("digest of the manifest", manifest.digest),
        ("digest of the plan", manifest.plan.digest),
        ("seed", str(manifest.recipe.seed)),
        ("written by", writer),
    ]
    blocks = (Table("Sources", Numbers(header, rows)), facts(pairs))
    return Section(f"provenance-{style.slug(manifest.name)}", f"Where {manifest.name} comes from", (), blocks)
