"""Pictures of a partition: pure functions of a ``Summary``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.dataset import skew
from fedrsic_data.report import style
from fedrsic_data.report.style import Drawing, Numbers, count, short
from fedrsic_data.report.summary import Columns, Summary, columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EDGES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)
"""Bounds of a heat map's levels as shares; the same in every picture, so that pictures compare."""

QUANTILES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)

_ROW = 0.21  # inches a class
_TICKS = 14  # most labels under columns


def heat_map(summary: Summary) -> Drawing:
    """Which client has how much of which class: classes down, clients across, those alike beside each other."""
    of = columns(summary)
    held = summary.labels.sum(axis=1) > 0
    shares = of.mean(skew.mixtures(summary.labels), held)
    with style.look():
        figure = style.figure(0.75 + _ROW * len(summary.classes) + _foot(of), sample=summary.sample)
        axes = figure.subplots()
        cells(axes, shares.T)
        axes.set_yticks(range(len(summary.classes)), [short(name) for name in summary.classes])
        _across(axes, of, int((~held).sum()))
        legend(axes)
    what = "labels" if summary.multi_label else "training rows"
    each = "a client" if of.single else f"a band of about {round(len(summary.clients) / len(of.labels)):,} clients"
    lead = _leading(shares, summary.classes)
    return Drawing(
        f"{summary.name}-clients",
        f"Which client has which class ({summary.name})",
        f"Heat map of {len(summary.classes)} classes by {len(summary.clients):,} clients of {summary.name}: the "
        f"share of each class in the {what} of {each}, clients with the same leading class beside each other. {lead}",
        figure,
        Numbers(
            ("clients" if not of.single else "client", *summary.classes),
            tuple((label, *map(_percent, row)) for label, row in zip(of.labels, shares.tolist(), strict=True)),
        ),
    )


def sizes(summary: Summary) -> Drawing:
    """Figure of rows per client: one bar each, or a curve over all clients."""
    of = columns(summary)
    draw = _size_bars if of.single else _size_curve
    total = summary.rows.sum(axis=1)
    least, middle, largest = (int(q) for q in np.quantile(total, (0, 0.5, 1))) if len(total) else (0, 0, 0)
    return draw(
        summary, of, f"The {len(total):,} clients have {least:,} to {largest:,} rows, {middle:,} in the middle."
    )


def domain_mix(summary: Summary) -> Drawing:
    """Which domains the clients' training rows come from, as shares."""
    of = columns(summary)
    held = summary.domain_rows.sum(axis=1) > 0
    shares = of.mean(skew.mixtures(summary.domain_rows), held)
    with style.look():
        figure = style.figure(2.2 + _foot(of), sample=summary.sample)
        axes = figure.subplots()
        _stack(axes, [short(name, 28) for name in summary.domains], shares * 100)
        axes.set_ylabel("training rows, %")
        _across(axes, of)
        _below(figure, axes)
    several = int((summary.domain_rows > 0).sum(axis=1).max(initial=0))
    return Drawing(
        f"{summary.name}-domains",
        f"Where the rows of a client come from ({summary.name})",
        f"Stacked bars: shares of {len(summary.domains)} domains in the training rows of {len(summary.clients):,} "
        f"clients of {summary.name}; a client has rows of up to {several} of them.",
        figure,
        Numbers(
            ("clients" if not of.single else "client", *summary.domains),
            tuple((label, *map(_percent, row)) for label, row in zip(of.labels, shares.tolist(), strict=True)),
        ),
    )


def cells(axes: Axes, shares: NDArray[np.float64], edges: Sequence[float] = EDGES) -> None:
    """Cells of a heat map as one shape a level: small as SVG, and each level takes the page's colour.

    Args:
        axes: Row 0 at the top, a unit a cell, centres at whole numbers.
        shares: float64 [rows, columns]; what is 0 is left blank.
        edges: Bounds of the levels, ascending; a value on a bound is of the level below.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    level = np.searchsorted(np.asarray(edges), shares, side="left") - 1
    gap = 0.04 if shares.shape[1] <= 60 else 0.0
    for i in range(len(edges) - 1):
        rows, at = np.nonzero((level == i) & (shares > 0))
        if not len(rows):
            continue
        x0, x1, y0, y1 = at - 0.5 + gap, at + 0.5 - gap, rows - 0.5 + gap, rows + 0.5 - gap
        corners = np.stack([np.stack(c, -1) for c in ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))], 1)
        codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(rows))
        axes.add_patch(PathPatch(Path(corners.reshape(-1, 2), codes), facecolor=style.heat(i), linewidth=0))
    axes.set(xlim=(-0.5, max(shares.shape[1], 1) - 0.5), ylim=(max(shares.shape[0], 1) - 0.5, -0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def legend(axes: Axes, edges: Sequence[float] = EDGES) -> None:
    """Levels of a heat map above it."""
    from matplotlib.patches import Patch

    names = [f"{low:.0%} to {high:.0%}" if low else f"under {high:.0%}" for low, high in pairwise(edges)]
    names[-1] = f"over {edges[-2]:.0%}"
    patches = [Patch(facecolor=style.heat(i), label=name) for i, name in enumerate(names)]
    axes.figure.legend(
        handles=patches, loc="outside upper center", ncols=4, handlelength=1, columnspacing=0.9, handletextpad=0.4
    )


def _size_bars(summary: Summary, of: Columns, words: str) -> Drawing:
    order = np.concatenate(of.members) if of.members else np.zeros(0, np.int64)
    rows = summary.rows[order]
    with style.look():
        from matplotlib.ticker import MaxNLocator

        figure = style.figure(2.2 + _foot(of), sample=summary.sample)
        axes = figure.subplots()
        _stack(axes, summary.splits, rows.astype(float))
        axes.set_ylabel("rows")
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        _counted(axes.yaxis)
        _across(axes, of)
        _below(figure, axes)
    return Drawing(
        f"{summary.name}-sizes",
        f"How many rows a client has ({summary.name})",
        f"Bars: rows of each client of {summary.name} by split, in the order of the heat map. {words}",
        figure,
        Numbers(
            ("client", *summary.splits),
            tuple((label, *row) for label, row in zip(of.labels, rows.tolist(), strict=True)),
        ),
    )


def _size_curve(summary: Summary, _: Columns, words: str) -> Drawing:
    held = np.sort(summary.rows[:, 0])
    without = int((held == 0).sum())
    held = held[without:]
    step = max(len(held) // 400, 1)  # a curve needs no more points than the figure has columns
    at = np.unique([*range(0, len(held), step), max(len(held) - 1, 0)])[: len(held)]
    place = 100 * (at + 1) / max(len(held), 1)
    with style.look():
        figure = style.figure(2.9, sample=summary.sample)
        axes = figure.subplots()
        axes.fill_between(place, 0.7, held[at], color=style.heat(0), linewidth=0)
        axes.plot(place, held[at], color=style.series(0))
        axes.set(xlim=(0, 100), xlabel="% of the clients that train, by size", ylabel="training rows (log)")
        axes.set_yscale("log")
        axes.set_ylim(0.7, max(float(held.max(initial=1)) * 1.4, 10))
        axes.grid(axis="y")
        axes.minorticks_off()
        _counted(axes.yaxis)
    quantiles = np.quantile(summary.rows, QUANTILES, axis=0, method="nearest")
    nothing = f" {without:,} of them have no training rows and are not drawn." if without else ""
    return Drawing(
        f"{summary.name}-sizes",
        f"How many rows a client has ({summary.name})",
        f"Curve of the training rows of {len(held):,} clients of {summary.name}, from the smallest to the largest, on "
        f"a logarithmic axis. {words}{nothing}",
        figure,
        Numbers(
            ("share of clients with at most", *summary.splits),
            tuple((f"{q:.0%}", *map(int, row)) for q, row in zip(QUANTILES, quantiles, strict=True)),
        ),
    )


def _stack(axes: Axes, names: Sequence[str], heights: NDArray[np.float64]) -> None:
    """Stacked bars, one column per row of ``heights``."""
    bottom = np.zeros(len(heights))
    for i, name in enumerate(names):
        axes.bar(range(len(heights)), heights[:, i], 0.86, bottom, color=style.series(i), label=name, linewidth=0)
        bottom += heights[:, i]
    axes.grid(axis="y")
    axes.set_xlim(-0.6, max(len(heights), 1) - 0.4)


def _below(figure: Any, axes: Axes) -> None:
    """The legend above a picture, in as many columns as have room."""
    handles, names = axes.get_legend_handles_labels()
    fit = max(1, min(len(names), 46 // (max(map(len, names), default=1) + 4)))
    figure.legend(handles, names, loc="outside upper left", ncols=fit, handlelength=1, columnspacing=1.2)


def _across(axes: Axes, of: Columns, empty: int = 0) -> None:
    """Client ids under columns, or how many clients a band has."""
    n = len(of.labels)
    nothing = f"\n{empty:,} without training rows at the right" if empty else ""
    if not of.single:
        axes.set_xticks([])
        clients = sum(len(some) for some in of.members)
        sizes = f"{clients // n:,}" + (f" to {clients // n + 1:,}" if clients % n else "")
        axes.set_xlabel(f"{clients:,} clients in {n} bands of {sizes}{nothing}")
        return
    start = _prefix(of.labels)
    every = max(-(-n // _TICKS), 1)
    axes.set_xticks(range(0, n, every), [short(label[len(start) :], 14) for label in of.labels[::every]], rotation=90)
    words = f"clients ({short(start, 20)}…)" if start else "clients"
    axes.set_xlabel(words + (f", one in {every} named" if every > 1 else "") + nothing)


def _foot(of: Columns) -> float:
    """Inches that the labels under columns take."""
    if not of.single:
        return 0.5
    start = len(_prefix(of.labels))
    return 0.6 + 0.095 * max((len(short(label[start:], 14)) for label in of.labels), default=0)


def _prefix(labels: Sequence[str]) -> str:
    """Common prefix of all ids, up to a separator."""
    first, last = (min(labels), max(labels)) if labels else ("", "")
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    while same and first[same - 1] not in "-_/.:":
        same -= 1
    return first[:same]


def _counted(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))


def _percent(share: float) -> str:
    """A share in percent: blank for nothing, and never 0 for something."""
    return "" if not share else f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def _leading(shares: NDArray[np.float64], classes: Sequence[str]) -> str:
    """Describe the share of a column's leading class."""
    held = shares[shares.sum(axis=1) > 0]
    if not held.size:
        return "No client has training rows."
    mean = held.max(axis=1).mean()
    return f"The leading class of a column has {mean:.0%} of it on average; evenly it were {1 / len(classes):.0%}."
