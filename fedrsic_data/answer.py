"""Answers of commands: data for machines and text for people, escaped for where they go."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedrsic_data.errors import masked_in
from fedrsic_data.settings import texts

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

_GAP = 3  # blanks between two columns; one less around a table
_NARROW = 80  # columns below which the cells of a list are too narrow to read
# the Hub reads $ and a double backslash as the beginning of a formula
_MARKS = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "\\": "&#92;", **{c: f"\\{c}" for c in "`*_[]|#~"}}
)
_BEGINS = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[-+=]))")  # how a list or a rule begins
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are wide forms of the same


@dataclass(frozen=True)
class Shown:
    """A command's answer.

    Attributes:
        data: Plain JSON values.
        text: The same for a person, something rich prints.
    """

    data: dict[str, Any]
    text: RenderableType


@dataclass(frozen=True)
class ByWidth:
    """Something to print that depends on the width of the terminal.

    Attributes:
        made: Makes it for a number of columns.
    """

    made: Callable[[int], RenderableType]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        yield self.made(options.max_width)


def plain(text: str) -> str:
    """One line for a terminal: what would steer it is written as an escape, and addresses are masked.

    Names come from other people's data, and addresses from people who may show their screen.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in masked_in(text))


def markdown(text: str) -> str:
    """A line that is nothing but text in Markdown, also in a cell of a table; see ``plain``."""
    return _BEGINS.sub(r"\1\\", plain(" ".join(text.split())).translate(_MARKS))


def csv_cell(text: str) -> str:
    """A line that a spreadsheet takes for text and never for a formula; see ``plain``."""
    line = plain(text)
    return f"'{line}" if line.lstrip().startswith(_FORMULA) else line


def as_json(data: object) -> str:
    """Plain JSON values as one line of ASCII, the addresses in them masked."""
    return json.dumps(_masked(data), allow_nan=False)


def _masked(data: Any) -> Any:
    if isinstance(data, str):
        return masked_in(data)
    if isinstance(data, dict):
        return {_masked(key): _masked(value) for key, value in data.items()}
    return [_masked(value) for value in data] if isinstance(data, list | tuple) else data


def together(parts: Sequence[RenderableType]) -> RenderableType:
    """Parts of an answer below one another; a text is a line, taken as it is and not as rich's markup.

    A line is never broken: people copy commands from here, and machines read it.
    """
    from rich.console import Group
    from rich.text import Text

    return Group(*(Text(plain(p), no_wrap=True, overflow="ignore") if isinstance(p, str) else p for p in parts))


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[int] = (),
    *,
    fold: bool = True,
    widths: Sequence[int] = (),
) -> RenderableType:
    """A table that folds long cells, or else one in which only the last column gives way to a narrow terminal.

    Args:
        header: Names of the columns.
        rows: Cells.
        right: Columns that are aligned to the right.
        fold: Fold cells.
        widths: The width of each column; none: rich decides.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(header):
        least = None if fold or i == len(header) - 1 else max(len(row[i]) for row in [header, *rows])
        width = widths[i] if widths else None
        style: Any = {"overflow": "fold"} if fold else {"overflow": "ellipsis", "no_wrap": True}
        made.add_column(
            Text(plain(name)), justify="right" if i in right else "left", min_width=least, width=width, **style
        )
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """A table of numbers below names of columns and beside names of rows.

    Columns that a narrow terminal has no room for go into further tables below. No number is broken, and no word that
    is shorter than half the terminal.
    """
    whole = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def least(i: int, width: int) -> int:
        texts = [row[i] for row in rows if i]
        words = [word for text in (header[i], *(row[0] for row in rows if not i)) for word in text.split()]
        return min(max(map(len, (*texts, *words)), default=0), width // 2)

    def made(width: int) -> RenderableType:
        from rich.console import Group

        needed = [least(i, width) + _GAP for i in range(len(header))]
        parts: list[list[int]] = [[0]]
        for i in range(1, len(header)):
            if len(parts[-1]) > 1 and sum(needed[k] for k in (*parts[-1], i)) - 1 > width:
                parts.append([0])
            parts[-1].append(i)
        tables = []
        for part in parts:
            widths = {i: needed[i] - _GAP for i in part}
            for i in (*part[1:], 0):  # what is left goes to the names of columns first
                room = width + 1 - sum(widths.values()) - _GAP * len(part)
                widths[i] = min(whole[i], widths[i] + max(room, 0))
            chosen = [[row[i] for i in part] for row in (header, *rows)]
            tables.append(table(chosen[0], chosen[1:], range(1, len(part)), widths=[*widths.values()]))
        return Group(*tables)

    return ByWidth(made)


def records(rows: Sequence[dict[str, Any]]) -> list[RenderableType]:
    """A table of things that are listed, the name of each first, and a line for each that has a ``problem``.

    Settings are written as ``key=value``. A narrow terminal gets a paragraph for each thing.
    """
    sound = [row for row in rows if "problem" not in row]
    header = list(dict.fromkeys(key for row in sound for key in row))
    cells = [[_cell(row.get(key, "")) for key in header] for row in sound]
    problems = [f"{next(iter(row.values()))} ({row['package']}): {row['problem']}" for row in rows if "problem" in row]
    forms = ByWidth(lambda width: table(header, cells) if width >= _NARROW else _paragraphs(header, cells))
    return [forms, *problems]


def _paragraphs(header: Sequence[str], cells: Sequence[Sequence[str]]) -> RenderableType:
    """A name and its facts below one another, those it has."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    for name, *values in cells:
        parts.append(Text(plain(name)))
        parts += [
            Padding(Text(plain(f"{key}: {value}")), (0, 0, 0, 2))
            for key, value in zip(header[1:], values, strict=True)
            if value
        ]
    return Group(*parts)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(texts(value))
    return value if isinstance(value, str) else json.dumps(value)
