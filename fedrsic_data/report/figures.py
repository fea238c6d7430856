"""Pictures of built datasets, drawn by matplotlib, which is imported only when something is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.errors import OutputError
from fedrsic_data.files import atomic, ownership
from fedrsic_data.report import figures_clients, figures_labels, style
from fedrsic_data.report.summary import Summary, summarise
from fedrsic_data.settings import local


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
    """Figures of a subset: classes by clients, sizes, and domains if there are several.

    Raises:
        ManifestError: The client table cannot be read.
    """
    return drawings(summarise(subset))


def drawings(summary: Summary) -> tuple[style.Drawing, ...]:
    """Figures of a subset that was counted."""
    drawn = [figures_clients.heat_map(summary), figures_clients.sizes(summary)]
    return (*drawn, figures_clients.domain_mix(summary)) if len(summary.domains) > 1 else tuple(drawn)


def write(
    dataset: Dataset, wanted: Sequence[str], folder: Path, step: Callable[[str], None] = lambda _: None
) -> tuple[Path, ...]:
    """Writes all pictures of some subsets, or of all, as SVG and PNG files; pictures of these names are replaced.

    Args:
        dataset: A built dataset.
        wanted: Names of subsets; none: all.
        folder: Is made if it is not there.
        step: Called with the next step.

    Raises:
        UsageError: There is no such subset, or the folder is an address.
        ManifestError: The client table or the plan cannot be read.
        OutputError: The folder cannot be written, or a file there is no picture of fedkit's; then none is written.
    """
    local("--plot", folder)
    drawn: dict[Path, bytes] = {}
    for name in wanted or dataset.subsets:
        subset = dataset.subset(name)
        step(f"drawing {name}")
        for drawing in everything(subset, summarise(subset)):
            slug = style.slug(drawing.name)
            drawn[folder / f"{slug}.svg"] = style.standalone(drawing).encode()
            drawn[folder / f"{slug}.png"] = style.png(drawing, software=style.SOFTWARE)
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in drawn:
            ownership.check_file(path, style.is_ours, "picture", "choose another folder")
        for path, data in drawn.items():
            with atomic.replacing(path, lasting=False) as file:
                file.write(data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from None
    return tuple(drawn)


def everything(subset: Subset, summary: Summary) -> tuple[style.Drawing, ...]:
    """All pictures of a subset: those of its card, skew beside chance, and labels that go together."""
    drawn = (*drawings(summary), figures_labels.skews(summary))
    found = figures_labels.together(subset) if summary.multi_label else None
    return (
        drawn
        if found is None
        else (*drawn, figures_labels.matrix(summary, found), figures_labels.drift(summary, found))
    )


def for_card(dataset: Dataset) -> tuple[Picture, ...]:
    """The pictures of a dataset's card, subset after subset.

    Raises:
        ManifestError: The client table cannot be read.
    """
    return tuple(
        Picture(f"figures/{style.slug(drawing.name)}.png", drawing.alt, style.png(drawing))
        for name in dataset.subsets
        for drawing in of_partition(dataset.subset(name))
    )
