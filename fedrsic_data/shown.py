"""What a command answers with: data for machines and text for people."""

from __future__ import annotations

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
