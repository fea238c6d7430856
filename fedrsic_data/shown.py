"""What a command answers with: data for machines and text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Shown:
    """A command's answer.

    Attributes:
        data: Plain JSON values.
        text: The same for a person, something rich prints.
    """

    data: dict[str, Any]
    text: RenderableType


def plain(text: str) -> str:
    """A line with what would steer a terminal written as an escape: names come from other people's data."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def together(parts: Sequence[RenderableType]) -> RenderableType:
    """Parts of an answer below one another; a text is a line, taken as it is and not as rich's markup.

    A line is never broken: people copy commands from here, and machines read it.
    """
    from rich.console import Group
    from rich.text import Text

    return Group(*(Text(plain(p), no_wrap=True, overflow="ignore") if isinstance(p, str) else p for p in parts))
