"""One class spelled in two ways: case, spaces, ``_``, ``-`` and Unicode forms make no other class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_BETWEEN = re.compile(r"(?<=\d)[\s_-]+(?=\d)")
_SEPARATORS = re.compile(r"[\s_-]+")


def key(name: str) -> str:
    """The same for all spellings of a class: ``Storage Tank`` and ``storage_tank``, but not ``1_0`` and ``10``."""
    plain = unicodedata.normalize("NFC", name).casefold()
    return unicodedata.normalize("NFC", _SEPARATORS.sub("", _BETWEEN.sub("\0", plain))) or name


def by_case(one: str, other: str) -> bool:
    """Whether two names differ in capitals alone, as the letters ``a`` and ``A`` do."""
    return one != other and one.casefold() == other.casefold()


def twins(names: Iterable[str], *, cases: bool = False) -> tuple[str, str] | None:
    """The first two of some names, in alphabetical order, that are two spellings of one class; None where none are.

    Args:
        names: Class names.
        cases: Accept names that differ only in case.
    """
    seen: dict[str, str] = {}
    for name in sorted(set(names)):
        other = seen.setdefault(key(name), name)
        if other != name and not (cases and by_case(other, name)):
            return other, name
    return None


def shown(name: str, other: str) -> str:
    """A name for a message beside another, in escapes where the two look the same."""
    alike = unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)
    return ascii(name) if alike else repr(name)


def pair(one: str, other: str) -> str:
    """Two spellings for a message."""
    return f"{shown(one, other)} and {shown(other, one)}"
