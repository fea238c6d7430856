"""Published figures: what papers print, under which protocol, and who says so. fedkit measured none of them.

``figures.json`` holds them with their sources. A figure is printed next to a run's only as a figure of its paper, with
the ways in which the run's protocol differs from the paper's; an unsound one is never printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import decode, once, suggest

COLUMNS = ("C-AP", "C-P", "C-R", "C-F1", "O-AP", "O-P", "O-R", "O-F1")
"""Layout of tables in multi-label papers."""

METRICS = {
    "local": "local/mean",
    "base": "base/mean",
    "novel": "novel/mean",
    "neighbour": "neighbour/mean",
    "cm": "CM",
    **{name: name for name in COLUMNS},
    "mAP": "C-AP",
    "CF1": "C-F1",
    "OF1": "O-F1",
}
"""Metric of a paper -> the same metric of a run, after the name of its split."""

ZERO_SHOT = ("CLIP (zero-shot)", "ZS-CLIP")
"""Methods of papers that train nothing, by their names there."""

_SETTINGS = {"clients": "partition.clients", "epsilon": "dp.epsilon"}
"""Setting that a protocol varies -> its name in recipes and runs; others have the same."""


@dataclass(frozen=True)
class PaperSource:
    """Where figures were read.

    Attributes:
        paper: The paper, and its number.
        told_by: Whose text was read.
        read: The text that was read.
    """

    paper: str
    told_by: str
    read: str


@dataclass(frozen=True)
class PaperDataset:
    """A dataset of papers.

    Attributes:
        source: Name of its source, as in recipes.
        titles: Beginnings of the titles that the source may have, which say the year; empty: any.
        facts: Settings of the recipe by which the source has the papers' rows.
    """

    source: str
    titles: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperProtocol:
    """The protocol by which figures were measured.

    Attributes:
        of: The paper.
        read: Where the protocol was read.
        words: The protocol in words.
        facts: Settings of recipe and run that are known, by name; ``shots`` of either.
        by_dataset: Those that some datasets have besides.
        unknown: Parts of the protocol that are not known.
        apart: Ways in which every run of fedkit differs from it.
    """

    of: str
    read: str
    words: str
    facts: dict[str, Any] = field(default_factory=dict)
    by_dataset: dict[str, dict[str, Any]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


@dataclass(frozen=True)
class PaperFigure:
    """One number of a paper.

    Attributes:
        method: The method, by its name in the paper.
        dataset: The dataset; None: it is a figure of none.
        protocol: The protocol's name.
        metric: The metric, by its name in the paper.
        value: In percent, unless the metric says otherwise.
        source: Where it was read.
        where: The table.
        kind: ``first-hand``: its authors' own; ``re-run``: by authors of another method; ``summary``: a third party
            quotes it.
        confidence: How certain it is that the paper has this number.
        setting: Settings that the protocol varies.
        std: Standard deviation over runs, where it is known.
        note: A remark on it.
        unsound: The reason why it is no target; None: it may be one.
    """

    method: str
    dataset: str | None
    protocol: str
    metric: str
    value: float
    source: str
    where: str
    kind: Literal["first-hand", "re-run", "summary"]
    confidence: Literal["high", "medium", "medium-low", "low"]
    setting: dict[str, Any] = field(default_factory=dict)
    std: float | None = None
    note: str = ""
    unsound: str | None = None


@dataclass(frozen=True)
class Papers:
    """All published figures, with what they refer to by name.

    Attributes:
        about: A description.
        sources: Where they were read.
        datasets: Datasets of papers that fedkit has a source for.
        protocols: How they were measured.
        figures: The figures.
    """

    about: str
    sources: dict[str, PaperSource]
    datasets: dict[str, PaperDataset]
    protocols: dict[str, PaperProtocol]
    figures: tuple[PaperFigure, ...]


@dataclass(frozen=True)
class PaperRow:
    """A row of a paper's table: a method on a dataset under a protocol.

    Attributes:
        paper: Name and number.
        told: Source of the published results.
        source: Name of the dataset's source, as in recipes.
        titles: Titles of the source that its images are of, as manifests have them: they say the year.
        partition: Name of the partitioner.
        labels: ``coarse`` or ``fine`` for multi-label data; otherwise empty.
        method: Method of the row.
        figures: Known metrics by name, in percent.
        dataset: The paper's name of the dataset.
        protocol: Name of the protocol.
        setting: Settings that the protocol varies.
        where: The table.
        kind: As of ``PaperFigure``.
        note: A remark.
    """

    paper: str
    told: str
    source: str
    titles: tuple[str, ...]
    partition: str
    labels: str
    method: str
    figures: dict[str, float]
    dataset: str
    protocol: str
    setting: dict[str, Any]
    where: str
    kind: str
    note: str

    def differs(self, held: Mapping[str, Any]) -> list[str]:
        """Describe how its protocol differs from that of a run; empty if it does not.

        Args:
            held: Settings of the run and of its dataset by name, ``titles``, of the sources by name, and ``sample``.
                Settings that are not among them are not compared.
        """
        papers = published()
        dataset, protocol = papers.datasets[self.dataset], papers.protocols[self.protocol]
        title = held.get("titles", {}).get(self.source, "").removeprefix("sample of ").removesuffix(" (procedural)")
        said = not self.titles or any(title == one or title.startswith(f"{one},") for one in self.titles)
        found = [] if said else [f"on {' or '.join(self.titles)}"]
        facts = {**protocol.facts, **protocol.by_dataset.get(self.dataset, {})}
        facts |= {_SETTINGS.get(key, key): value for key, value in self.setting.items()}
        found += [_words(key, value) for key, value in facts.items() if key in held and not _agrees(value, held[key])]
        if "sample" in held:
            found += [_words(key, value) for key, value in dataset.facts.items() if held.get(key) != value]
            found += ["real images"] if held["sample"] else []
            found += protocol.apart
        return found


@cache
def published() -> Papers:
    """The published figures."""
    text = Path(__file__).with_name("figures.json").read_text(encoding="utf-8")
    return decode(Papers, json.loads(text, object_pairs_hook=once), "figures.json")


def protocol(name: str) -> PaperProtocol:
    """A protocol by name.

    Raises:
        UsageError: There is none.
    """
    known = published().protocols
    if name not in known:
        raise UsageError(f"no published protocol {name!r}{suggest(name, known)}")
    return known[name]


@cache
def rows() -> tuple[PaperRow, ...]:
    """The rows of papers on datasets that fedkit has a source for, of sound figures alone."""
    papers = published()
    found: dict[tuple[str, ...], PaperRow] = {}
    for one in papers.figures:
        if one.unsound is not None or one.dataset not in papers.datasets or one.metric not in METRICS:
            continue
        place, rules = papers.datasets[one.dataset], papers.protocols[one.protocol]
        facts = {**rules.facts, **rules.by_dataset.get(one.dataset, {})}
        row = PaperRow(
            paper=papers.sources[one.source].paper,
            told=papers.sources[one.source].told_by,
            source=place.source,
            titles=place.titles,
            partition=facts.get("partition", ""),
            labels=one.setting.get("labels", ""),
            method=one.method,
            figures={},
            dataset=one.dataset,
            protocol=one.protocol,
            setting=one.setting,
            where=one.where,
            kind=one.kind,
            note=one.note,
        )
        key = (one.protocol, one.dataset, json.dumps(one.setting), one.method, one.source, one.where)
        found.setdefault(key, row).figures[one.metric] = one.value
    return tuple(found.values())


def _agrees(wanted: Any, value: Any) -> bool:
    return bool(value > 1) if wanted == "several" else bool(wanted == value)


def _words(key: str, value: Any) -> str:
    """A setting of a paper in words: ``iid clients``, ``rounds 50``."""
    if key == "partition":
        return f"{value} clients"
    word = {None: "all", True: "true", False: "false"}.get(value, value) if not isinstance(value, str) else value
    return f"{key} {word}"
