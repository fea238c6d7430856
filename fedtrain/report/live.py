"""A training run in the terminal: its progress, and small curves of its loss and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fedrsic_data.answer import plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_HEIGHTS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_FIGURES = 3


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """A curve of a line's height: its lowest value lowest, more values than ``width`` in as many means.

    Args:
        values: What is not finite is left out.
        width: Most characters.
    """
    held = [value for value in values if math.isfinite(value)]
    if len(held) > width:
        ends = [i * len(held) // width for i in range(width + 1)]
        held = [math.fsum(held[a:b]) / (b - a) for a, b in pairwise(ends)]
    low, high = min(held, default=0.0), max(held, default=0.0)
    steps = (round((value - low) / (high - low) * 7) if high > low else 3 for value in held)
    return "".join(_HEIGHTS[step] for step in steps)


def curves(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Name, curve and latest value of the loss and the first metrics.

    Args:
        lines: Lines of ``metrics.jsonl`` so far.
    """
    series: dict[str, list[float]] = {}
    for line in lines:
        for name, value in {"loss": line.get("loss"), **line.get("figures", {})}.items():
            if isinstance(value, int | float) and math.isfinite(value):
                series.setdefault(name, []).append(float(value))
    shown = [name for name in series if name != "loss"][:_FIGURES]
    ordered = [name for name in ("loss", *shown) if name in series]
    return [(name, sparkline(series[name]), f"{series[name][-1]:.3f}") for name in ordered]


@contextmanager
def view(console: Console, *, quiet: bool) -> Iterator[Callable[[Mapping[str, Any], int], None]]:
    """Gives a callback for each line of ``metrics.jsonl`` and the rounds in all.

    It draws where there is a terminal, and prints a line per round elsewhere.

    Args:
        console: Where to draw or print.
        quiet: Do neither.
    """
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), console=console
    )
    task = progress.add_task("rounds", total=None, visible=False)
    lines: list[Mapping[str, Any]] = []

    if quiet:
        yield lambda _line, _rounds: None
        return
    if not console.is_terminal:
        yield lambda line, rounds: console.out(_in_words(line, rounds), highlight=False)
        return
    with Live(console=console, transient=True, refresh_per_second=4) as live:

        def update(line: Mapping[str, Any], rounds: int) -> None:
            if lines and line["round"] <= lines[-1]["round"]:  # another run has begun
                lines.clear()
            lines.append(line)
            done = line["round"]
            progress.update(task, completed=done, total=rounds, description=f"round {done} of {rounds}", visible=True)
            live.update(_drawn(progress, curves(lines)))

        yield update


def _in_words(line: Mapping[str, Any], rounds: int) -> str:
    """A round in one line: its number, its loss and the first metrics, if it was evaluated."""
    numbers = [f"{name} {value}" for name, _, value in curves([line])]
    return plain(f"round {line['round']} of {rounds}: {', '.join(numbers) or 'nothing was learned'}")


def _drawn(progress: RenderableType, rows: Sequence[tuple[str, str, str]]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, curve, value in rows:
        table.add_row(Text(plain(name)), Text(curve, style="cyan"), Text(value))
    return Group(table, progress)
