"""A table of an experiment: means over seeds, the best in bold, as text, CSV, Markdown or LaTeX."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fedrsic_data.answer import columns, csv_cell, markdown
from fedrsic_data.errors import UsageError
from fedtrain.runs.results import digits, is_cost

if TYPE_CHECKING:
    from rich.console import RenderableType

Better = Literal["higher", "lower"]
FORMS = ("text", "csv", "markdown", "latex")

_COLUMNS = ("row", "column", "metric", "mean", "std", "n", "p", "best")
_STARS, _BEST = ("*", "*"), "* best of the column"
_SPREAD = "mean ± standard deviation over seeds"


@dataclass(frozen=True)
class Cell:
    """The runs of one row and column.

    Attributes:
        values: Seed of the run, or another key of it -> the metric.
        best: Whether its mean is the best of its column.
        p: The p-value of a paired test against the row that was named; None: there is none.
        metric: The metric; None: that of the table or, if it has none, of the row.
    """

    values: Mapping[Any, float]
    best: bool = False
    p: float | None = None
    metric: str | None = None

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def std(self) -> float | None:
        """The standard deviation of a sample (runs - 1); None for one run."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Filled:
    """A table with its cells.

    Attributes:
        metric: The metric of all cells; None: each row or each cell has its own.
        corner: Meaning of the rows.
        rows: Row names, in order.
        columns: Column names, in order.
        cells: ``(row, column)`` -> cell; without those that no run has.
    """

    metric: str | None
    corner: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]


def fill(
    metric: str | Mapping[str, str],
    corner: str,
    values: Mapping[tuple[str, str], Mapping[int, float]],
    better: Better = "higher",
    against: str | None = None,
) -> Filled:
    """A table from its values.

    Args:
        metric: The metric of all cells, or column -> metric.
        corner: Meaning of the rows.
        values: ``(row, column)`` -> seed -> the metric, in the order of the table.
        better: Whether the ``higher`` or the ``lower`` mean is the best of a column; the lower of a cost, always.
        against: The row that all others are tested against, seed by seed.

    Raises:
        UsageError: There is no row ``against``.
    """
    rows = tuple(dict.fromkeys(row for row, _ in values))
    columns = tuple(dict.fromkeys(column for _, column in values))
    if against is not None and against not in rows:
        raise UsageError(f"against={against!r}: is no row of the table; there are {', '.join(rows)}")
    held = {key: Cell(dict(its)) for key, its in values.items() if its}
    of = metric if isinstance(metric, Mapping) else dict.fromkeys(columns or (metric,), metric)
    cells = {}
    for column in columns:
        choose = min if better == "lower" or is_cost(of[column]) else max
        mine = {row: held[row, column] for row in rows if (row, column) in held}
        best = choose((cell.mean for cell in mine.values()), default=math.nan)
        for row, cell in mine.items():
            rival = mine.get(against) if against is not None and row != against else None
            p = paired(cell.values, rival.values) if rival is not None else None
            cells[row, column] = Cell(cell.values, cell.mean == best, p, of[column])
    one = next(iter(of.values())) if len({*of.values()}) == 1 else None
    return Filled(one, corner, rows, columns, cells)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """The two-sided p-value of a sign-flip test of the differences, seed by seed (Fisher 1935).

    It is exact with up to 16 seeds, where it is at least 2 / 2**n: five seeds cannot show less than 0.0625. With more,
    the normal distribution approximates it. None with fewer than two seeds that both have.
    """
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if len(differences) < 2:
        return None
    observed = abs(math.fsum(differences)) * (1 - 1e-12)
    if len(differences) <= 16:
        flips = itertools.product((1, -1), repeat=len(differences))
        sums = [abs(math.fsum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips]
        return sum(one >= observed for one in sums) / len(sums)
    spread = statistics.stdev(differences)  # by the normal distribution, which so many differences are near to
    z = abs(statistics.fmean(differences)) / (spread / math.sqrt(len(differences))) if spread else math.inf
    return 2 * (1 - statistics.NormalDist().cdf(z)) if observed else 1.0


def check(form: str) -> None:
    """Refuse an unknown form of tables.

    Raises:
        UsageError: It is none of ``FORMS``.
    """
    if form not in FORMS:
        raise UsageError(f"--table {form}: should be one of {', '.join(FORMS)}")


def written(table: Filled, form: str) -> str:
    """The table in one of ``FORMS``; errors as for ``check``."""
    check(form)
    forms: dict[str, Callable[[Filled], str]] = {"text": _text, "csv": _csv, "markdown": _markdown, "latex": _latex}
    return forms[form](table)


def on_screen(table: Filled) -> list[RenderableType]:
    """The table for a terminal of any width, and the line below it."""
    parts = columns([table.corner, *table.columns], _grid(table, " ± ", _STARS))
    return [parts, _note(table, _BEST)]


def is_ours(data: bytes) -> bool:
    """Whether a file is a table that ``written`` made, with no line before, between or after its own."""
    lines = data.decode(errors="replace").removesuffix("\n").split("\n")
    return any(_has_shape(lines, *shape) for shape in _shapes())


def _has_shape(lines: Sequence[str], head: Sequence[str], row: str, foot: Sequence[str]) -> bool:
    body = len(lines) - len(head) - len(foot)
    wanted = [*head, *[row] * body, *foot]
    return body >= 0 and all(map(re.fullmatch, wanted, lines))


def _shapes() -> Iterator[tuple[list[str], str, list[str]]]:
    """Expressions for the first lines, each row and the last lines of every form."""
    number = r"-?(?:[\d,.]+(?:e[+-]\d+)?|inf|nan)"
    note = rf"(?:.+: )?{_SPREAD}, (?:n=\d+(?: to \d+)?|no runs)"

    def cell(plus_minus: str, left: str, right: str) -> str:
        return rf"(?:-|(?:{left})?{number}(?:{plus_minus}{number})?(?:{right})?(?: \(p={number}\))?)"

    text, mark = cell(" ± ", r"\*", r"\*"), cell(" ± ", r"\*\*", r"\*\*")
    tex = cell(r" \$\\pm\$ ", r"\\textbf\{", r"\}")
    yield [",".join(_COLUMNS)], rf".+,{number},(?:{number})?,\d+,(?:{number})?,(?:True|False)", []
    yield [".*"], rf".*  {text}", [rf"{note}(?:; \* best of the column)?"]
    yield (
        [r"\|.*\|", r"\| ---(?: \| ---:)* \|"],
        rf"\| .* \| {mark} \|",
        ["", rf"{note}(?:; the best of a column is bold)?\."],
    )
    yield (
        [r"\\begin\{tabular\}\{lr*\}", r"\\toprule", r".* \\\\", r"\\midrule"],
        rf".* & {tex} \\\\",
        [r"\\bottomrule", r"\\end\{tabular\}", rf"% {note}"],
    )


def _words(cell: Cell | None, metric: str, plus_minus: str, bold: tuple[str, str]) -> str:
    """``89.80 ± 0.42``, and its p-value."""
    if cell is None:
        return "-"
    form = digits(cell.metric or metric)
    mean = f"{cell.mean:{form}}"
    spread = f"{plus_minus}{cell.std:{form}}" if cell.std is not None else ""
    words = f"{bold[0]}{mean}{spread}{bold[1]}" if cell.best else f"{mean}{spread}"
    return words + (f" (p={cell.p:.3g})" if cell.p is not None else "")


def _note(table: Filled, best: str = "") -> str:
    counts = sorted({len(cell.values) for cell in table.cells.values()})
    n = f"n={counts[0]}" if len(counts) == 1 else f"n={counts[0]} to {counts[-1]}" if counts else "no runs"
    words = f"{table.metric}: {_SPREAD}" if table.metric is not None else _SPREAD
    return f"{words}, {n}" + (f"; {best}" if best and any(cell.best for cell in table.cells.values()) else "")


def _grid(table: Filled, plus_minus: str, bold: tuple[str, str]) -> list[list[str]]:
    return [
        [
            row,
            *(
                _words(table.cells.get((row, column)), table.metric or row, plus_minus, bold)
                for column in table.columns
            ),
        ]
        for row in table.rows
    ]


def _text(table: Filled) -> str:
    grid = [[table.corner, *table.columns], *_grid(table, " ± ", _STARS)]
    widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
    lines = [
        "  ".join([r[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(r[1:], widths[1:], strict=True))]) for r in grid
    ]
    return "\n".join([*(line.rstrip() for line in lines), _note(table, _BEST)]) + "\n"


def _csv(table: Filled) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for (row, column), cell in table.cells.items():
        metric, facts = cell.metric or table.metric or row, [cell.mean, cell.std, len(cell.values), cell.p, cell.best]
        writer.writerow([csv_cell(row), csv_cell(column), metric, *("" if f is None else f for f in facts)])
    return out.getvalue()


def _markdown(table: Filled) -> str:
    header = [*map(markdown, (table.corner, *table.columns))]
    grid = [[markdown(row), *cells] for row, *cells in _grid(table, " ± ", ("**", "**"))]
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---", *("---:" for _ in table.columns)], *grid)]
    return "\n".join([*lines, "", f"{_note(table, 'the best of a column is bold')}."]) + "\n"


def _latex(table: Filled) -> str:
    """A tabular in the style of the package booktabs."""
    lines = [f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}", "\\toprule"]
    lines += [" & ".join(map(_tex, [table.corner, *table.columns])) + " \\\\", "\\midrule"]
    for row in _grid(table, " $\\pm$ ", ("\\textbf{", "}")):
        lines.append(" & ".join([_tex(row[0]), *row[1:]]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"% {_note(table)}"]) + "\n"


def _tex(text: str) -> str:
    """A text that LaTeX prints as it is."""
    names = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "|": "bar", "<": "less", ">": "greater"}
    return "".join(f"\\text{names[c]}{{}}" if c in names else f"\\{c}" if c in "&%$#_{}" else c for c in text)
