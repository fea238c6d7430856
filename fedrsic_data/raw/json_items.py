"""Large JSON files, read an item at a time: memory does not grow with the file."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

_SPACE = re.compile(r"[ \t\n\r]*")
_LONGEST = 32 * 2**20  # characters that one item may have
_AFTER = frozenset(" \t\n\r,:]}")
_NOTHING: dict[str, None] = {}
_DECODER = json.JSONDecoder(parse_float=_NOTHING.get)  # gives None, in a third of the time that numbers take
_BLOCK = 1 << 20
_EXACT = json.JSONDecoder()


def lists(blocks: Iterable[bytes], wanted: Collection[str], *, floats: bool = False) -> Iterator[tuple[str, Any]]:
    """The items of some lists of a JSON object, such as ``{"images": [...], "annotations": [...], ...}``.

    Args:
        blocks: The file, in pieces of any size.
        wanted: Keys whose values must be lists; others are passed over, whatever their values.
        floats: Read numbers with a fraction or an exponent. They are None otherwise: nearly all of them are
            coordinates, of no use here, and nearly all of such a file is made of them.

    Yields:
        Key and item, in the order of the file.

    Raises:
        ValueError: It is no such object, is cut short, or something follows it; the message says what and where.
        RecursionError: An item is nested too deeply.
    """
    text = _Text(blocks, _EXACT if floats else _DECODER)
    missing = list(wanted)
    for key in text.members():
        if key in wanted:
            if key not in missing:
                raise text.error(f"key {key!r} occurs twice")
            if text.next() != "[":
                raise text.error(f"{key!r} is not a list")
            missing.remove(key)
        if text.next() == "[":
            for item in text.items():
                if key in wanted:
                    yield key, item
        else:
            text.value()
    if missing:
        raise ValueError(f"it has no list {missing[0]!r}")


def blocks(path: Path) -> Iterator[bytes]:
    """A file in pieces of at most 1 MiB."""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def items(blocks: Iterable[bytes]) -> Iterator[Any]:
    """The items of a JSON list that is all of a file, in order; arguments, numbers and errors as for ``lists``."""
    text = _Text(blocks)
    if text.next() != "[":
        raise ValueError("not a JSON list")
    yield from text.items()
    if text.next():
        raise text.error("something follows the list")


class _Text:
    """The part of a file that is being read, and how to get more of it."""

    def __init__(self, blocks: Iterable[bytes], decoder: json.JSONDecoder = _DECODER) -> None:
        self._json = decoder
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._blocks = iter(blocks)
        self._text = ""
        self._at = 0
        self._before = 0  # characters that are no longer in _text

    def next(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            end = _SPACE.match(self._text, self._at)
            assert end is not None
            self._at = end.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self) -> str:
        """As ``next``, and goes past it."""
        mark = self.next()
        self._at += len(mark)
        return mark

    def value(self) -> Any:
        """The next JSON value, and goes past it."""
        self.next()
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
                if self._text[end : end + 1] in _AFTER or not self._more():  # a number may go on
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                if not self._more():
                    raise ValueError(f"{error.msg} at character {self._before + error.pos:,}") from None

    def members(self) -> Iterator[str]:
        """The keys of the object that is all of the text; the value of each must be taken before the next one."""
        if self.take() != "{":
            raise ValueError("not a JSON object")
        mark = "," if self.next() != "}" else self.take()
        while mark == ",":
            key = self.value()
            if not isinstance(key, str) or self.take() != ":":
                raise self.error("no key and value")
            yield key
            mark = self.take()
        if mark != "}" or self.next():
            raise self.error("no comma or closing brace" if mark != "}" else "more than one object")

    def items(self) -> Iterator[Any]:
        """The items of the list that is next."""
        self.take()
        mark = "," if self.next() != "]" else self.take()
        while mark == ",":
            yield self.value()
            mark = self.take()
        if mark != "]":
            raise self.error("no comma or closing bracket")

    def error(self, what: str) -> ValueError:
        """The error and its place."""
        return ValueError(f"{what} at character {self._before + self._at:,}")

    def _more(self) -> bool:
        """Drops what was read and adds a block; False at the end, or where an item is too long to be one."""
        if len(self._text) - self._at > _LONGEST:
            return False
        block = next(self._blocks, None)
        if block is None:
            self._decoder.decode(b"", final=True)
            return False
        self._before += self._at
        self._text, self._at = self._text[self._at :] + self._decoder.decode(block), 0
        return True
