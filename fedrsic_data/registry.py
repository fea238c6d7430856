"""Tables of names whose modules are imported on use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, TypeVar

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import suggest

T = TypeVar("T")


class Registry(MutableMapping[str, T]):
    """Things by name; the module of each is imported at ``registry[name]``, and neither by names nor by ``in``.

    A thing that is set (``registry["mine"] = Mine``) serves this process.

    Example:
        >>> kinds = Registry("partitioner", {"iid": "fedrsic_data.partition.iid:Iid"})
        >>> kinds["iid"]().clients
        10

    Args:
        kind: The word for one of the things, for messages.
        table: ``{name: "module:attribute"}``, in the order in which the names are listed.
        group: Entry points of this group are names of other packages, looked up when the table has none.
    """

    def __init__(self, kind: str, table: Mapping[str, str], group: str = "") -> None:
        self.kind = kind
        self._known: dict[str, str | T] = dict(table)
        self._group = group

    def _names(self) -> dict[str, str | T]:
        """The whole table, with what other packages add."""
        if self._group:
            from importlib.metadata import entry_points

            for point in sorted(entry_points(group=self._group)):
                self._known.setdefault(point.name, point.value)
            self._group = ""
        return self._known

    def named(self, name: object, where: str = "") -> T:
        """The thing of this name.

        Args:
            name: Its name, as a person wrote it.
            where: The place where it was written, for the message.

        Raises:
            UsageError: There is none; the message suggests one.
        """
        if not isinstance(name, str) or name not in self:
            prefix = f"{where}: " if where else ""
            raise UsageError(f"{prefix}unknown {self.kind} {name!r}{suggest(str(name), self._names())}")
        found = self._known[name]
        if not isinstance(found, str):
            return found
        module, _, attribute = found.partition(":")
        thing: T = getattr(import_module(module), attribute)
        return thing

    def __getitem__(self, name: str) -> T:
        return self.named(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The thing of this name, or the default."""
        return self.named(name) if name in self else default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._known or name in self._names())

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __setitem__(self, name: str, thing: T) -> None:
        self._known[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._known[name]
