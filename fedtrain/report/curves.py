"""Figures of runs: curves over rounds, over clients, and over traffic; pure functions of finished runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.report import style
from fedrsic_data.report.style import Drawing, Numbers, count, short
from fedtrain.runs.folder import Result
from fedtrain.runs.over_rounds import OWN, rounds_of
from fedtrain.runs.results import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE = "zeroshot"
"""Untrained baseline, drawn as a grey line."""

_DASHES = ("-", "--", ":", "-.")
_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class Runs:
    """A group of runs that differ only in their seed, and its style.

    Attributes:
        group: Its label and metrics.
        results: The runs.
        place: Its place among the groups of its method on its subset, from 0.
        series: Place of its method among those of the page but the reference, in order of appearance, from 0.
    """

    group: Group
    results: tuple[Result, ...]
    place: int
    series: int = 0

    @property
    def method(self) -> str:
        """Its method."""
        return str(self.results[0].facts["config"]["method"])

    @property
    def color(self) -> str:
        """The same for a method wherever it is drawn."""
        if self.method == REFERENCE:
            return style.LIGHT["muted"]
        return style.series(self.series)

    @property
    def marker(self) -> str:
        """As its colour."""
        return style.MARKERS[self.series % len(style.MARKERS)]

    @property
    def dash(self) -> str:
        """Label that distinguishes groups of one method."""
        return _DASHES[self.place % len(_DASHES)]

    @cached_property
    def lines(self) -> tuple[tuple[dict[str, Any], ...], ...]:
        """Lines of ``metrics.jsonl``, for each run.

        Raises:
            OutputError: One is damaged.
        """
        return tuple(rounds_of(result) for result in self.results)

    def curve(self, figure: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """A metric, or ``loss``, in the rounds in which every run has it: int64 [rounds], float64 [runs, rounds]."""
        held = [
            {line["round"]: value for line in run if (value := _value(line, figure)) is not None} for run in self.lines
        ]
        rounds = sorted(set.intersection(*map(set, held))) if held else []
        return np.array(rounds, np.int64), np.array([[run[r] for r in rounds] for run in held], float)


def names(runs: Iterable[Runs]) -> tuple[str, ...]:
    """Metrics that some run has in more than one round, in their order; ``loss`` last."""
    found: dict[str, None] = {}
    for lines in (lines for one in runs for lines in one.lines):
        times = Counter(n for line in lines for n, value in line.get("figures", {}).items() if value is not None)
        found |= dict.fromkeys(name for name, count in times.items() if count > 1)
    return (*found, "loss")


def parts(runs: Sequence[Runs]) -> list[list[Runs]]:
    """The runs of each picture: as many methods as there are colours, and the reference in every picture."""
    numbers = sorted({one.series // style.SERIES for one in runs if one.method != REFERENCE}) or [0]
    return [[one for one in runs if one.method == REFERENCE or one.series // style.SERIES == n] for n in numbers]


def curve(subset: str, figure: str, runs: Sequence[Runs]) -> Drawing:
    """Curves of a metric over rounds: the mean over seeds, and a band from the lowest to the highest."""
    rows: list[tuple[str | int | float | None, ...]] = []
    with style.look():
        from matplotlib.ticker import MaxNLocator

        drawn = style.figure(3.0 + 0.2 * (len(runs) // 2), sample=runs[0].group.sample)
        axes = drawn.subplots()
        for one in runs:
            rounds, values = one.curve(figure)
            final = one.group.figures.get(figure)
            if len(rounds):
                mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
                if len(values) > 1:
                    axes.fill_between(rounds, low, high, color=one.color, alpha=0.15, linewidth=0)
                every = max(len(rounds) // 8, 1)
                axes.plot(rounds, mean, one.dash, markevery=every, **_look(one))
                cells = zip(rounds.tolist(), mean.tolist(), low.tolist(), high.tolist(), strict=True)
                rows += [(one.group.label, r, m, a, b) for r, m, a, b in cells]
            elif final is not None:
                _level(axes, one, final.mean, _label(one))
                rows.append((one.group.label, None, final.mean, final.least, final.most))
        axes.set(xlabel="round", ylabel=figure)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes)
    ends = [f"{label} {mean:.2f}" for label, mean in {str(row[0]): row[2] for row in rows}.items() if mean is not None]
    return Drawing(
        style.slug(f"{subset}-{figure}"),
        f"{figure} over rounds",
        f"Curves of {figure} over the rounds on {subset}, bands from the smallest to the largest of the seeds. At the "
        f"end: {', '.join(ends)}.",
        drawn,
        Numbers(("run", "round", "mean", "smallest", "largest"), tuple(rows)),
    )


def clients(subset: str, split: str, figure: str, runs: Sequence[Runs]) -> Drawing:
    """Spread of a metric over the clients: quantiles over all clients of all seeds."""
    held = [(one, _of_clients(one, split, figure)) for one in runs]
    held = [(one, values) for one, values in held if len(values)]
    with style.look():
        drawn = style.figure(1.0 + 0.42 * len(held), sample=runs[0].group.sample)
        axes = drawn.subplots()
        for i, (one, values) in enumerate(held):
            _box(axes, i, np.quantile(values, _QUANTILES), one.color)
        axes.set_yticks(range(len(held)), [short(one.group.label, 24) for one, _ in held])
        axes.set(ylim=(len(held) - 0.4, -0.6), xlabel=f"{split}/{figure}, each client")
        axes.grid(axis="x")
    rows = tuple((one.group.label, len(values), *np.quantile(values, _QUANTILES).tolist()) for one, values in held)
    middle = [f"{one.group.label} {np.median(values):.1f}" for one, values in held]
    return Drawing(
        style.slug(f"{subset}-{split}-{figure}-clients"),
        f"{split}/{figure}, client by client",
        f"Of the clients of {subset}, all seeds together: the middle half as a thick bar, the middle four fifths as a "
        f"thin one, all as a line, the median as a dot. Medians: {', '.join(middle)}.",
        drawn,
        Numbers(("run", "clients", *(f"{q:.0%}" for q in _QUANTILES)), rows),
    )


def sent(subset: str, figure: str, runs: Sequence[Runs]) -> Drawing:
    """Curves of a metric against the numbers sent by all clients so far; a method that sends none is a level line."""
    rows: list[tuple[str | int | float | None, ...]] = []
    with style.look():
        drawn = style.figure(3.0 + 0.2 * (len(runs) // 2), sample=runs[0].group.sample)
        axes = drawn.subplots()
        for one in runs:
            rounds, values = one.curve(figure)
            floats = one.curve("floats_sent")
            final = one.group.figures.get(figure)
            by_then = {r: floats[1][:, i].mean() for i, r in enumerate(floats[0].tolist())}
            cells = [(by_then[r], values[:, i].mean()) for i, r in enumerate(rounds.tolist()) if by_then.get(r)]
            if cells:
                axes.plot(*zip(*cells, strict=True), one.dash, **_look(one))
                rows += [(one.group.label, round(x), float(y)) for x, y in cells]
            elif final is not None:
                _level(axes, one, final.mean, f"{_label(one)}: none sent")
                rows.append((one.group.label, 0, final.mean))
        if any(row[1] for row in rows):
            axes.set_xscale("log")
        axes.set(xlabel="numbers sent by all clients so far", ylabel=figure)
        axes.grid(axis="y")
        _counts(axes)
        _legend(axes)
    return Drawing(
        style.slug(f"{subset}-sent"),
        f"What was sent for {figure}",
        f"Curves of {figure} on {subset} against how many floating-point numbers the clients had sent to the server; "
        "what stands further left costs less.",
        drawn,
        Numbers(("run", "numbers sent", figure), tuple(rows)),
    )


def _box(axes: Axes, at: int, q: NDArray[np.float64], color: str) -> None:
    axes.plot(q[[0, -1]], [at, at], color=color, linewidth=1)
    axes.plot(q[[1, -2]], [at, at], color=color, linewidth=4, solid_capstyle="butt")
    axes.plot(q[[2, -3]], [at, at], color=color, linewidth=11, solid_capstyle="butt")
    axes.plot(q[3], at, "o", color=style.LIGHT["page"], markersize=6)


def _of_clients(one: Runs, split: str, figure: str) -> NDArray[np.float64]:
    values = [v for run in one.results for v in run.data["clients"].get(split, {}).get(figure, {}).values()]
    return np.array([v for v in values if v is not None], float)


def _look(one: Runs) -> dict[str, Any]:
    return {"color": one.color, "marker": one.marker, "ms": 5, "label": _label(one)}


def _level(axes: Axes, one: Runs, value: float, label: str) -> None:
    """A dotted line across, for runs that have one value and no curve."""
    axes.axhline(value, color=one.color, linestyle=(0, (1, 2)), label=label)


def _label(one: Runs) -> str:
    return short(one.group.label, 30)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    fit = max(1, min(3, 48 // (max(map(len, labels), default=1) + 6)))
    axes.figure.legend(handles, labels, loc="outside upper left", ncols=fit, handlelength=2.2, columnspacing=1.2)


def _counts(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _value(line: dict[str, Any], figure: str) -> float | None:
    value: float | None = line.get(figure) if figure in OWN else line.get("figures", {}).get(figure)
    return value
