"""Tables of names whose modules are imported on use; other packages add names by entry points."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from contextlib import redirect_stdout, suppress
from functools import cached_property
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from fedrsic_data.errors import UsageError, in_words, is_ours
from fedrsic_data.settings import suggest

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

T = TypeVar("T")

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class Registry(MutableMapping[str, T]):
    """Things by name; the module of each is imported at ``registry[name]``, and neither by names nor by ``in``.

    A thing that is set (``registry["mine"] = Mine``) serves this process. An installed package adds one with an entry
    point of the registry's group.

    Example:
        >>> kinds = Registry("partitioner", {"iid": "fedrsic_data.partition.iid:Iid"})
        >>> kinds["iid"]().clients
        10

    Args:
        kind: The word for one of the things, for messages.
        table: ``{name: "module:attribute"}``, in the order in which the names are listed.
        group: The group of entry points, such as ``fedkit.partitioners``; None: nobody adds to it.
        needs: Attributes that a thing of another package has to have.
        taken: Names that nobody may add either, since fedkit has them elsewhere.
    """

    def __init__(
        self,
        kind: str,
        table: Mapping[str, str],
        group: str | None = None,
        needs: Sequence[str] = (),
        taken: Collection[str] = (),
    ) -> None:
        self.kind = kind
        self.group = group
        self.needs = needs
        self.taken = taken
        self._own = dict(table)
        self._known: dict[str, str | T] = {**table}

    def named(self, name: object, where: str = "") -> T:
        """The thing of this name.

        Args:
            name: Its name, as a person wrote it.
            where: The place where it was written, for the message.

        Raises:
            UsageError: There is none, and the message suggests one; two packages have it; or it cannot be imported.
        """
        if not isinstance(name, str) or name not in self:
            prefix = f"{where}: " if where else ""
            raise UsageError(f"{prefix}unknown {self.kind} {name!r}{suggest(str(name), self)}")
        if self._plugins.get(name):
            return self._plugged(name)
        found = self._known[name]
        return imported(found) if isinstance(found, str) else found

    def register(self, name: str, thing: T) -> T:
        """Adds a thing for this process, and returns it.

        Raises:
            UsageError: Another thing has the name, or the thing is of another kind.
        """
        if lacking := [need for need in self.needs if not hasattr(thing, need)]:
            raise UsageError(f"{self.kind} {name!r}: {thing!r} is no {self.kind}, it has no {lacking[0]!r}")
        if name in self.taken or (name in self and self.get(name) is not thing):
            raise UsageError(f"{self.kind} {name!r}: is taken; choose another name")
        if name not in self:  # a package may register here as well what it adds by an entry point
            self[name] = thing
        return thing

    def at(self, path: str) -> T:
        """The thing at ``package.module:attribute``, which nobody has to register.

        Raises:
            UsageError: There is none, or it is of another kind.
        """
        return self._loaded(f"{self.kind} {path!r}", path, lambda: imported(path))

    def versions(self, name: str) -> dict[str, str]:
        """The package of a plug-in and its version, for records; empty for a thing of fedkit.

        A thing of a script has no package: then its module and name are given, and the version is ``unknown``.

        Args:
            name: The thing's name, or its ``package.module:attribute``.
        """
        if name in self._plugins:
            dist = self._plugins[name][0].dist
            return {dist.name: dist.version} if dist else {self._plugins[name][0].value: "unknown"}
        held = self._known.get(name)
        if isinstance(held, str) or (name in self._own and imported(self._own[name]) is held):
            return {}
        thing = self.at(name) if is_path(name) else self.named(name)
        kind = thing if isinstance(thing, type) else type(thing)
        if is_ours(kind):
            return {} if kind is thing else {f"{self.kind} {name}": "unknown"}
        dist = _package_with(kind.__module__.partition(".")[0])
        return {dist.name: dist.version} if dist else {f"{kind.__module__}:{kind.__qualname__}": "unknown"}

    def facts(self, describe: Callable[[T], Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each name with the facts of its thing, for lists.

        A name that another package adds also has ``package``, the package and its version. If that thing cannot be
        imported or described, ``problem`` says so in place of its facts, and the other names are listed all the same.

        Args:
            describe: Gives a thing's facts, plain JSON values.
        """
        for name in self:
            if name not in self._plugins:
                yield name, {**describe(self[name])}
                continue
            dist = self._plugins[name][0].dist
            facts: dict[str, Any] = {"package": f"{dist.name} {dist.version}" if dist else ""}
            try:
                found = {**describe(self[name])}
                json.dumps(found, allow_nan=False)
                facts = found | facts
            except UsageError as error:
                facts["problem"] = str(error)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # code of others may raise anything
                facts["problem"] = f"cannot be described ({in_words(error)})"
            yield name, facts

    @cached_property
    def _plugins(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name."""
        if self.group is None:
            return {}
        found: dict[str, list[EntryPoint]] = {}
        for point in sorted(_points(self.group), key=lambda point: point.value):
            found.setdefault(point.name, []).append(point)
        return found

    def _plugged(self, name: str) -> T:
        point, *others = self._plugins[name]
        package = point.dist.name if point.dist else point.value
        if name in self._known or name in self.taken:
            raise UsageError(
                f"{self.kind} {name!r}: is of fedkit and of the package {package}; rename or uninstall that"
            )
        if others:
            raise UsageError(f"{self.kind} {name!r}: {point.value} and {others[0].value} both add it; uninstall one")
        return self._loaded(f"{self.kind} {name!r} of the package {package}", point.value, point.load)

    def _loaded(self, where: str, path: str, load: Callable[[], T]) -> T:
        try:
            with redirect_stdout(sys.stderr):  # where a command answers in JSON, nothing else may be
                thing = load()
            lacking = [need for need in self.needs if not hasattr(thing, need)]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # code of others may raise anything
            raise UsageError(f"{where}: cannot be imported ({in_words(error)})") from error
        if lacking:
            raise UsageError(f"{where}: {path} is no {self.kind}, it has no {lacking[0]!r}")
        return thing

    def __getitem__(self, name: str) -> T:
        return self.named(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The thing of this name, or the default."""
        return self.named(name) if name in self else default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._known or name in self._plugins)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._known, *self._plugins]))

    def __len__(self) -> int:
        return len({*self._known, *self._plugins})

    def __setitem__(self, name: str, thing: T) -> None:
        self._known[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._known[name]


def _package_with(module: str) -> Distribution | None:
    """The installed package that holds a top-level module.

    ``packages_distributions`` knows it too, but parses the lists of files of all packages, which takes seconds.
    """
    from importlib.metadata import distributions

    listed = re.compile(rf"^{re.escape(module)}(/.*)?\.py,", re.MULTILINE)
    for dist in distributions():
        declared = (dist.read_text("top_level.txt") or "").split()
        if module in declared or (not declared and listed.search(dist.read_text("RECORD") or "")):
            return dist
    return None


def is_path(name: str) -> bool:
    """Whether a name has the form ``package.module:attribute``."""
    return _PATH.fullmatch(name) is not None


def imported(path: str) -> Any:
    """The thing at ``module:attribute``."""
    module, _, attribute = path.partition(":")
    return attrgetter(attribute)(import_module(module))


def _points(group: str) -> list[EntryPoint]:
    """The entry points of a group; a package whose metadata cannot be read adds none, and spoils no other one."""
    from importlib.metadata import distributions, entry_points

    try:
        return list(entry_points(group=group))
    except Exception:  # of any of the installed packages
        found: list[EntryPoint] = []
        for package in distributions():
            with suppress(Exception):
                found += package.entry_points.select(group=group)
        return found
