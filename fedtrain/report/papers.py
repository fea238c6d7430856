"""Runs in the layout of papers, with published figures next to them, or the reasons why these are not comparable."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from fedrsic_data.dataset.recipe import SAMPLE
from fedtrain import published
from fedtrain.published import COLUMNS, METRICS, ZERO_SHOT, PaperRow
from fedtrain.runs.results import Group, cell

Tables = dict[str, dict[str, dict[str, str]]]
"""Title -> method -> metric -> cell."""


def rows_of(group: Group, protocol: str = "fedlgt") -> list[PaperRow]:
    """The published rows of a protocol on the sources and labels of a group."""
    mine = (row for row in published.rows() if row.protocol == protocol and row.source in group.sources)
    return [row for row in mine if row.labels in ("", group.labels)]


def as_papers(groups: Sequence[Group]) -> Tables:
    """Multi-label test metrics in the layout of papers, with the rows of FedLGT's paper, whatever their protocol."""
    tables: Tables = {}
    for group in groups:
        known = rows_of(group)
        if not known or "test/C-AP" not in group.figures:
            continue
        title = f"{_place(group)}, {group.labels} labels, as papers print them"
        tables.setdefault(title, {})[_ours(group)] = _measured(group, COLUMNS)
        for row in known:
            apart = row.differs(_held(group))
            _below(tables[title], row, COLUMNS, f"; another protocol: {', '.join(apart)}" if apart else "")
    return tables


def beside(groups: Sequence[Group], protocols: Sequence[str]) -> tuple[Tables, list[str]]:
    """Runs with the published figures of the same protocol next to them.

    Args:
        groups: The runs.
        protocols: Names of the protocols to look at.

    Returns:
        The tables, and lines for runs that do not follow a protocol, which say how it differs.
    """
    tables: Tables = {}
    apart: dict[tuple[str, tuple[str, ...], str], dict[str, None]] = {}  # protocol, differences, dataset -> runs
    for group, name in itertools.product(groups, protocols):
        every = rows_of(group, name)
        columns = tuple(dict.fromkeys(metric for row in every for metric in row.figures))
        for row in every if "rounds" in group.settings else (row for row in every if row.method in ZERO_SHOT):
            rules = published.protocol(name)
            if differences := row.differs(_held(group)):
                apart.setdefault((name, tuple(differences), row.dataset), {})[group.label] = None
                continue
            title = f"{_place(group)}, beside {rules.of} ({name})"
            tables.setdefault(title, {}).setdefault(_ours(group), _measured(group, columns))
            _below(tables[title], row, columns, "".join(f"; not known: {one}" for one in rules.unknown))
    places: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (name, differing, dataset), labels in apart.items():
        places.setdefault((name, differing, tuple(labels)), []).append(dataset)
    return tables, [_apart(*key, datasets) for key, datasets in places.items()]


def _apart(name: str, differences: Sequence[str], labels: Sequence[str], datasets: Sequence[str]) -> str:
    where = f"{'; '.join(labels)}, on {', '.join(datasets)}"
    words = f"figures of {published.protocol(name).of} ({name}) are not printed next to {where}"
    return f"{words}: its protocol has {'; '.join(differences)}"


def _held(group: Group) -> dict[str, Any]:
    """Settings of a group as ``PaperRow.differs`` compares them."""
    return {**group.settings, "titles": group.titles, "partition": group.partition}


def _place(group: Group) -> str:
    return f"{group.subset} of {group.dataset}" + (f" ({SAMPLE})" if group.sample else "")


def _ours(group: Group) -> str:
    count = len(group.seeds)
    return f"{group.label} ({count} run{'s' if count > 1 else ''}, ours)"


def _measured(group: Group, columns: Sequence[str]) -> dict[str, str]:
    metrics = {name: f"test/{METRICS[name]}" for name in columns}
    return {name: cell(metric, group.figures.get(metric)) for name, metric in metrics.items()}


def _below(table: dict[str, dict[str, str]], row: PaperRow, columns: Sequence[str], more: str) -> None:
    """Adds a published row below all measured ones."""
    where = f"as {row.told} tells" if row.kind == "summary" else f"{row.where}, {row.kind}"
    note = f"; {row.note}" if row.note and row.kind != "summary" else ""
    words = f"published on real {row.source}: {row.paper}, {where}; not measured here{note}{more}"
    theirs = f"{row.method} ({words})"
    table[theirs] = table.pop(theirs, {name: cell(name, row.figures.get(name)) for name in columns})
