"""Pictures of what an IID split would look like beside what is, and of labels that go together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedrsic_data import seeds
from fedrsic_data.dataset import skew
from fedrsic_data.dataset.reader import Subset
from fedrsic_data.report import style
from fedrsic_data.report.figures_clients import cells, legend
from fedrsic_data.report.style import Drawing, Numbers, short
from fedrsic_data.report.summary import Summary

_EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class Together:
    """Counts of the co-occurrence of labels in the training rows of a subset.

    Attributes:
        given: float64 [classes, classes], share of the images with the row's label that have the column's too; the
            diagonal is 0.
        drifts: float64 [clients with a pair], ascending; see ``skew.cooccurrence_drift``.
        chance: The same of one random split with the same client sizes.
    """

    given: NDArray[np.float64]
    drifts: NDArray[np.float64]
    chance: NDArray[np.float64]


def together(subset: Subset) -> Together | None:
    """Reads the plan; None where no image has two labels."""
    owner, labels, times = skew.label_lists(subset.plan, subset.classes)
    if not len(times) or times.max() < 2:
        return None
    width = len(subset.classes)
    _, codes = skew.pairs(labels, times, width)
    both = np.bincount(codes, minlength=width * width).reshape(width, width)
    both = both + both.T
    np.fill_diagonal(both, 0)
    alone = np.bincount(labels, minlength=width)
    rng = seeds.generator(subset.dataset.manifest.recipe.seed, subset.name, "pictures")
    return Together(
        given=both / np.maximum(alone, 1)[:, None],
        drifts=np.sort(skew.cooccurrence_drifts(owner, labels, times, width)),
        chance=np.sort(skew.cooccurrence_drifts(rng.permutation(owner), labels, times, width)),
    )


def matrix(summary: Summary, found: Together) -> Drawing:
    """Which labels go together: of the images with the row's label, the share that has the column's too."""
    n = len(summary.classes)
    names = [short(name, 16) for name in summary.classes]
    every = max(-(-n // 22), 1)
    with style.look():
        figure = style.figure(0.8 + 0.21 * min(n, 45) + 0.1 * max(map(len, names), default=0), sample=summary.sample)
        axes = figure.subplots()
        cells(axes, found.given, _EDGES)
        axes.set_yticks(range(0, n, every), names[::every])
        axes.set_xticks(range(0, n, every), names[::every], rotation=90)
        legend(axes, _EDGES)
    top = np.argsort(-found.given, axis=None, kind="stable")[:200]
    a, b = np.unravel_index(top, found.given.shape)
    shown = [(summary.classes[i], summary.classes[j], float(found.given[i, j])) for i, j in zip(a, b, strict=True)]
    pairs = tuple((i, j, f"{share:.1%}") for i, j, share in shown if share)
    first = f"Most often: {pairs[0][2]} of the images with {pairs[0][0]} also have {pairs[0][1]}." if pairs else ""
    first += " Unknown labels are counted as absent." if summary.unknown is not None else ""
    return Drawing(
        f"{summary.name}-pairs",
        f"Which labels go together ({summary.name})",
        f"Heat map of {n} by {n} labels of {summary.name}: of the training images with the row's label, the share that "
        f"also has the column's. {first}",
        figure,
        Numbers(("images with", "also have", "share"), pairs),
    )


def drift(summary: Summary, found: Together) -> Drawing:
    """Figure of the drift of co-occurrence between clients, next to a random split."""
    with style.look():
        figure = style.figure(2.9, sample=summary.sample)
        axes = figure.subplots()
        for values, name, color, dash in (
            (found.drifts, "measured", style.series(0), "-"),
            (found.chance, "by chance (IID)", style.series(1), "--"),
        ):
            at = np.unique(np.linspace(0, max(len(values) - 1, 0), min(len(values), 300)).astype(int))
            axes.plot(100 * (at + 1) / max(len(values), 1), values[at], dash, color=color, label=name)
        axes.set(xlim=(0, 100), ylim=(0, 1.02), xlabel="% of the clients that have a pair", ylabel="distance to all")
        axes.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=2, handlelength=2)
    quantiles = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
    rows = [(f"{q:.0%}", float(np.quantile(found.drifts, q)), float(np.quantile(found.chance, q))) for q in quantiles]
    means = found.drifts.mean(), found.chance.mean()
    return Drawing(
        f"{summary.name}-drift",
        f"Co-occurrence drift ({summary.name})",
        f"Curves over {len(found.drifts):,} clients of {summary.name}: the distance of a client's label pairs to those "
        f"of all, {means[0]:.2f} on average; in a random split of the same sizes {means[1]:.2f}.",
        figure,
        Numbers(("share of clients with at most", "measured", "by chance (IID)"), tuple(rows)),
    )


def skews(summary: Summary) -> Drawing:
    """Every skew metric with the band that an IID split of the same sizes gives, from 0 to the most it can be."""
    known = summary.measured
    with style.look():
        figure = style.figure(0.55 + 0.52 * max(len(known), 1), sample=summary.sample)
        every = figure.subplots(max(len(known), 1), 1, squeeze=False)[:, 0].tolist()
        for axes, (name, facts) in zip(every, known.items(), strict=False):
            low, high = facts.get("iid_low"), facts.get("iid_high")
            top = max(_scale(name, summary), facts["value"])
            axes.axhline(0, color=style.LIGHT["grid"], linewidth=1, zorder=0)
            if low is not None and high is not None:
                width = max(high - low, top * 0.01)  # a band narrower than a hair would not be seen
                axes.barh(0, width, left=low, height=0.7, color=style.LIGHT["chance"], linewidth=0)
            axes.plot(facts["value"], 0, "o", color=style.series(0), markersize=8, clip_on=False)
            axes.set(xlim=(0, top), ylim=(-0.6, 0.6), yticks=[], xticks=[])
            axes.spines[:].set_visible(False)
            band = f", by chance {low:.3f} to {high:.3f}" if low is not None else ""
            axes.set_title(f"{name.replace('_', ' ')} {facts['value']:.3f}{band}", loc="left", pad=1)
    rows = tuple(
        (name.replace("_", " "), facts["value"], facts.get("iid_low"), facts.get("iid_high"))
        for name, facts in known.items()
    )
    over = [n for n, value, _, high in rows if high is not None and value > high]
    return Drawing(
        f"{summary.name}-skew",
        f"Skew beside chance ({summary.name})",
        f"A row a metric of {summary.name}: a dot where it was measured, a grey band where an IID split would fall. "
        f"Above the band: {', '.join(over) or 'none'}.",
        figure,
        Numbers(("skew (train)", "measured", "IID, 5th percentile", "IID, 95th percentile"), rows),
    )


def _scale(name: str, summary: Summary) -> float:
    """The most that a metric can be."""
    most = {"earth_movers": 2.0, "classes_per_client": len(summary.classes)}
    return most.get(name, float(np.log2(max(len(summary.domains), 2))) if name == "domain_entropy" else 1.0)
