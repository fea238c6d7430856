"""Published results, to print next to runs and marked as such: on real data, under their authors' protocol.

We had no access to the tables of FedLGT's paper. Its rows are from the prose of one summary by a third party, in
Chinese, on www.1061937.com; no second source confirms them. How many clients COCO and VOC were dealt to is not known,
nor whether VOC is of both years, as the summary has it, or of 2007 alone, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COLUMNS = ("C-AP", "C-P", "C-R", "C-F1", "O-AP", "O-P", "O-R", "O-F1")
"""Layout of tables in multi-label papers."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a paper's table.

    Attributes:
        paper: Name and number.
        told: Source of the published results.
        source: Name of the source, as in recipes.
        titles: Titles of the source that its images are of, as manifests have them: they say the year.
        partition: Name of the partitioner.
        labels: ``coarse`` or ``fine``.
        method: Method of the row.
        figures: Known metrics by name, in percent.
    """

    paper: str
    told: str
    source: str
    titles: tuple[str, ...]
    partition: str
    labels: str
    method: str
    figures: dict[str, float]

    def differs(self, titles: Mapping[str, str], partition: str) -> list[str]:
        """Describe how its protocol differs from that of a dataset; empty if it does not.

        Args:
            titles: Titles of the dataset's sources.
            partition: Name of its partitioner.
        """
        title = titles.get(self.source, "").removeprefix("sample of ")
        found = [] if any(title.startswith(one) for one in self.titles) else [f"on {' or '.join(self.titles)}"]
        if partition != self.partition:
            found.append(f"{self.partition} clients")
        return found


_FLAIR = ("flair", ("FLAIR",), "natural")
_COCO = ("coco", ("MS-COCO 2014",), "iid")
_VOC = ("voc", ("PASCAL VOC 2007", "PASCAL VOC 2007 + 2012"), "iid")


def _fedlgt(of: tuple[str, tuple[str, ...], str], labels: str, method: str, **figures: float) -> PaperRow:
    named = {name.replace("_", "-"): value for name, value in figures.items()}
    return PaperRow("FedLGT, arXiv 2312.07165", "a third party's summary", *of, labels, method, named)


PUBLISHED = (
    _fedlgt(_FLAIR, "coarse", "FedC-Tran", C_AP=56.0, C_F1=43.1),
    _fedlgt(_FLAIR, "coarse", "FedC-Tran + CA-MLE", C_AP=56.1),
    _fedlgt(_FLAIR, "coarse", "FedC-Tran + ULE", C_AP=59.7),
    _fedlgt(_FLAIR, "coarse", "FedLGT", C_AP=60.9, C_F1=55.1),
    _fedlgt(_FLAIR, "fine", "FedC-Tran", C_AP=3.3, O_F1=31.7),
    _fedlgt(_FLAIR, "fine", "FedLGT", C_AP=10.6, O_F1=33.4),
    _fedlgt(_COCO, "coarse", "FedC-Tran", O_F1=75.3),
    _fedlgt(_COCO, "coarse", "FedLGT", O_F1=76.8),
    _fedlgt(_VOC, "coarse", "FedC-Tran", C_F1=83.6),
    _fedlgt(_VOC, "coarse", "FedLGT", C_F1=85.5),
)


def of(source: str, labels: str) -> tuple[PaperRow, ...]:
    """The rows that were published on a source and label space."""
    return tuple(row for row in PUBLISHED if (row.source, row.labels) == (source, labels))
