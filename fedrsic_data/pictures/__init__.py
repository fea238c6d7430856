"""Pictures of built datasets, drawn by matplotlib, which is imported only when something is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from fedrsic_data.pictures import partition, style
from fedrsic_data.pictures.summary import summarise
from fedrsic_data.reader import Dataset, Subset


@dataclass(frozen=True)
class Picture:
    """A picture for a dataset card.

    Attributes:
        name: Its path beside the card.
        alt: What one sees in it.
        png: The file; equal bytes for equal datasets and versions of matplotlib.
    """

    name: str
    alt: str
    png: bytes


def of_partition(subset: Subset) -> tuple[style.Drawing, ...]:
    """What there is to see of a subset: classes by clients, sizes, and domains where there are several.

    Raises:
        ManifestError: The client table cannot be read.
    """
    summary = summarise(subset)
    drawn = [partition.heat_map(summary), partition.sizes(summary)]
    return (*drawn, partition.domain_mix(summary)) if len(summary.domains) > 1 else tuple(drawn)


def for_card(dataset: Dataset) -> tuple[Picture, ...]:
    """The pictures of a dataset's card, subset after subset.

    Raises:
        ManifestError: The client table cannot be read.
    """
    return tuple(
        Picture(f"figures/{drawing.name}.png", drawing.alt, style.png(drawing))
        for name in dataset.subsets
        for drawing in of_partition(dataset.subset(name))
    )
