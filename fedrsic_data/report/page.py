"""A page that opens in a browser from one file: sections of pictures, tables and sample images.

Everything is inside: no request leaves the page, and its policy forbids any. Names come from other people's data,
so the template escapes all that it is given; only pictures drawn here are markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any

from fedrsic_data.report import style
from fedrsic_data.report.style import Drawing, Numbers

_NUMBER = re.compile(r"<?-?[\d,]*\.?\d+(%| ± .*)?")  # as page.js knows them

Cell = str | int | float | None

PAGE_ROWS = 50
"""Rows of a table that are shown at once; a script turns the pages of longer ones."""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by every column.

    Attributes:
        caption: What it holds.
        numbers: Header and rows. Texts, whole numbers, and fractions, which are shown with ``digits``.
        note: Said below it.
        digits: Decimals of fractions.
        marked: Numbers of the rows to mark as different.
        best: Cells to mark as the best of their column, as (row, column).
    """

    caption: str
    numbers: Numbers
    note: str = ""
    digits: int = 3
    marked: frozenset[int] = frozenset()
    best: frozenset[tuple[int, int]] = frozenset()

    @property
    def kind(self) -> str:
        """Which block of the template it is."""
        return "table"

    @cached_property
    def right(self) -> tuple[bool, ...]:
        """For each column whether it holds numbers, which are aligned at the right."""
        columns = zip(*self.numbers.rows, strict=True) if self.numbers.rows else [()] * len(self.numbers.header)
        return tuple(all(_numeric(cell) for cell in column) for column in columns)

    @property
    def shown(self) -> tuple[tuple[str, ...], ...]:
        """The rows of the first page as texts."""
        first = self.numbers.rows[:PAGE_ROWS] if self.paged else self.numbers.rows
        return tuple(tuple(self.text(cell) for cell in row) for row in first)

    @property
    def paged(self) -> bool:
        """Whether it has more rows than a page."""
        return len(self.numbers.rows) > 2 * PAGE_ROWS

    @property
    def data(self) -> str:
        """All rows for the script, column by column; repeated texts once. Safe inside a ``<script>`` element."""
        columns = [self._column(i) for i in range(len(self.numbers.header))]
        text = json.dumps(columns, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

    def text(self, cell: Cell) -> str:
        """A cell as it is shown."""
        if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
            return "-"
        if isinstance(cell, float):
            return f"{cell:,.{self.digits}f}"
        return f"{cell:,}" if isinstance(cell, int) else cell

    def _column(self, i: int) -> dict[str, Any]:
        values = [row[i] for row in self.numbers.rows]
        if any(isinstance(value, str) for value in values):
            texts = [self.text(value) for value in values]
            names = list(dict.fromkeys(texts))
            if len(names) > len(texts) // 4:
                return {"values": texts}
            place = {name: at for at, name in enumerate(names)}
            return {"names": names, "values": [place[text] for text in texts]}
        fractions = any(isinstance(value, float) for value in values)
        digits = self.digits if fractions else 0
        return {"digits": digits, "values": [None if v is None else round(v, digits) for v in values]}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Figure:
    """A picture, and the numbers behind it."""

    drawing: Drawing

    @property
    def kind(self) -> str:
        """Which block of the template it is."""
        return "figure"

    @property
    def svg(self) -> str:
        """The picture as markup."""
        return style.svg(self.drawing)

    @property
    def table(self) -> Table:
        """Its numbers."""
        return Table(f"Numbers: {self.drawing.title}", self.drawing.numbers)


@dataclass(frozen=True)
class Thumbnail:
    """A small image; ``jpeg`` is None where it cannot be shown, and ``words`` say why."""

    jpeg: bytes | None
    words: str

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg or b"").decode()


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: rows of thumbnails under a name."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[Thumbnail, ...], ...]], ...]
    note: str = ""

    @property
    def kind(self) -> str:
        """Which block of the template it is."""
        return "sheet"


Block = Table | Figure | Sheet


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        name: Letters, digits, dots and dashes; unique in a page.
        title: Its heading.
        words: Paragraphs under it.
        blocks: Its content; adjacent figures form a grid.
    """

    name: str
    title: str
    words: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()

    @property
    def groups(self) -> tuple[tuple[str, tuple[Block, ...]], ...]:
        """Blocks of one kind that follow each other."""
        found: list[tuple[str, list[Block]]] = []
        for block in self.blocks:
            if found and found[-1][0] == block.kind:
                found[-1][1].append(block)
            else:
                found.append((block.kind, [block]))
        return tuple((kind, tuple(blocks)) for kind, blocks in found)


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: Its heading, and the name of the browser's window.
        words: Paragraphs under it.
        sections: Its parts.
        warning: What must not be overlooked; empty: nothing.
    """

    title: str
    words: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default=())
    warning: str = ""


def render(page: Page) -> str:
    """The page as HTML; equal text for equal pages."""
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return str(_template().render(page=page, css=style.css() + _asset("page.css"), script=script, script_digest=digest))


def facts(pairs: Sequence[tuple[str, Cell]]) -> Table:
    """A table of two columns, name and value."""
    return Table("Facts", Numbers(("what", "value"), tuple(pairs)))


def _numeric(cell: Cell) -> bool:
    return not isinstance(cell, str) or cell in ("", "-") or _NUMBER.fullmatch(cell) is not None


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        _asset("page.html")
    )
