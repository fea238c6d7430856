"""Figures that papers publish, to print beside runs and never as ours: on real data, under their authors' protocol."""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = ("C-AP", "C-P", "C-R", "C-F1", "O-AP", "O-P", "O-R", "O-F1")
"""How multi-label papers lay out their tables."""


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Attributes:
        paper: Name and number.
        source: Name of the source, as in recipes.
        labels: ``coarse`` or ``fine``.
        method: What the row is of.
        figures: Percent by name; those that we know.
    """

    paper: str
    source: str
    labels: str
    method: str
    figures: dict[str, float]


_FEDLGT = "FedLGT, arXiv 2312.07165"

PUBLISHED = (
    Published(_FEDLGT, "flair", "coarse", "FedC-Tran", {"C-AP": 56.0, "C-F1": 43.1}),
    Published(_FEDLGT, "flair", "coarse", "FedC-Tran + CA-MLE", {"C-AP": 56.1}),
    Published(_FEDLGT, "flair", "coarse", "FedC-Tran + ULE", {"C-AP": 59.7}),
    Published(_FEDLGT, "flair", "coarse", "FedLGT", {"C-AP": 60.9, "C-F1": 55.1}),
    Published(_FEDLGT, "flair", "fine", "FedC-Tran", {"C-AP": 3.3, "O-F1": 31.7}),
    Published(_FEDLGT, "flair", "fine", "FedLGT", {"C-AP": 10.6, "O-F1": 33.4}),
    Published(_FEDLGT, "coco", "coarse", "FedC-Tran", {"O-F1": 75.3}),
    Published(_FEDLGT, "coco", "coarse", "FedLGT", {"O-F1": 76.8}),
    Published(_FEDLGT, "voc", "coarse", "FedC-Tran", {"C-F1": 83.6}),
    Published(_FEDLGT, "voc", "coarse", "FedLGT", {"C-F1": 85.5}),
)


def of(source: str, labels: str) -> tuple[Published, ...]:
    """The rows that were published on a source and label space."""
    return tuple(row for row in PUBLISHED if (row.source, row.labels) == (source, labels))
