"""Tables as HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], total: int | None = None) -> str:
    """An HTML table; numbers have separators of thousands.

    Args:
        title: The caption.
        header: Names of the columns.
        rows: Cells, a row each.
        total: How many rows there are, where ``rows`` are only the first of them.
    """
    lines = [f"<table><caption>{escape(title)}</caption>", _row("th", header), *(_row("td", row) for row in rows)]
    more = (total or 0) - len(rows)
    lines += [f'<tr><td colspan="{len(header)}">... and {more:,} more</td></tr>'] if more > 0 else []
    return "".join([*lines, "</table>"])


def _row(tag: str, cells: Sequence[object]) -> str:
    texts = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells)
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"
