"""Frozen dataclasses from JSON and back, and from ``key=value`` texts: every key and value is checked."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import math
import operator
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fedrsic_data.errors import UsageError, discreet, is_ours

T = TypeVar("T")

LATER = types.MappingProxyType({"absent by default": True})
"""Metadata of a field that came after others were digested: where it has its default, it is not in the JSON."""

_HUGE = 1e300
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_FULL_STOP = re.compile(r"(?<!\.)\. ")  # and no ellipsis
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+|):[/\\]")  # one letter and a colon is a drive
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "an object"}


def decode(cls: type[T], data: object, where: str) -> T:
    """A settings dataclass from parsed JSON.

    Args:
        cls: A frozen dataclass whose annotations are ``bool | int | float | str``, ``Literal``,
            ``X | None``, ``tuple[X, ...]``, ``dict[str, X]``, ``Any`` or other such dataclasses.
        data: What ``json.load`` gave.
        where: What the data are, for messages (``"recipe my.json: partition"``).

    Raises:
        UsageError: An unknown or missing key, or a value of the wrong type or out of range.
    """
    if not isinstance(data, Mapping):
        raise UsageError(f"{where}: {data!r} should be an object with named fields")
    hints = hints_of(cls)
    for key in data:
        if key not in hints:
            raise UsageError(f"{where}: unknown key {key!r}{suggest(str(key), hints)}")
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    missing = [f.name for f in fields if f.name not in data and _required(f)]
    if missing:
        raise UsageError(f"{where}: {missing[0]!r} is missing")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    except (ValueError, TypeError) as error:
        if is_ours(cls):
            raise
        raise UsageError(f"{where}: {discreet(error)}") from error  # other packages refuse values as Python does


def encode(settings: Any) -> Any:
    """Plain JSON values of a settings dataclass, the inverse of ``decode``; see ``LATER``."""
    if dataclasses.is_dataclass(settings):
        named = ((f, getattr(settings, f.name)) for f in dataclasses.fields(settings))
        return {
            f.name: encode(value)
            for f, value in named
            if not (LATER.items() <= f.metadata.items() and value == f.default)
        }
    if isinstance(settings, Mapping):
        return {key: encode(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [encode(value) for value in settings]
    return settings


def suggest(word: str, known: Iterable[str]) -> str:
    """A tail for a message about an unknown word: the nearest known one, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names) or 'none'}"


def assigned(text: str) -> tuple[str, str]:
    """The key and the value of a ``key=value`` text; ``parsed`` gives the value its meaning.

    Raises:
        UsageError: The text has another form.
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"--set {text!r}: should look like key=value")
    return key, value


def parsed(value: str, hint: Any = Any) -> Any:
    """The meaning of a value that a person typed after ``key=``, the same for every command.

    It is one of the setting's choices, or ``true``, ``false``, ``null`` or ``none`` in any case, or JSON, or else text.
    Where the setting is a text, a number is text too, and so is ``{}`` where it is no object.

    Args:
        value: As typed.
        hint: The setting's annotation, where it is known.

    Raises:
        UsageError: A JSON object has a key twice.
    """
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if any(value in get_args(choice) for choice in choices if get_origin(choice) is Literal):
        return value
    if value.lower() in _WORDS:
        return _WORDS[value.lower()]
    try:
        found = json.loads(value, object_pairs_hook=once)
    except UsageError as error:
        raise UsageError(f"{value}: {error}; leave one out") from None
    except (ValueError, RecursionError):
        return value
    other = (int, float, *(() if any((get_origin(one) or one) in (dict, Mapping, Any) for one in choices) else (dict,)))
    return value if str in choices and isinstance(found, other) else found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys occur once; the library's own takes the last of several without a word.

    Raises:
        UsageError: A key occurs twice.
    """
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        raise UsageError(f"key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return data


def _hints(cls: type) -> dict[str, Any]:
    try:
        hints = get_type_hints(cls)
    except Exception as error:  # code of others: a name that is imported for type checkers alone, for one
        raise UsageError(f"{cls.__module__}: annotations of {cls.__qualname__} cannot be read ({error})") from error
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


hints_of: Callable[[Any], dict[str, Any]] = cache(_hints)
"""The annotations of a dataclass's fields, by name."""


def texts(values: Mapping[str, Any]) -> list[str]:
    """Settings as ``key=value`` texts, the inverse of ``assigned`` and ``parsed``.

    Raises:
        UsageError: JSON has no form for a value.
    """
    return [f"{key}={value if _is_plain(value) else _json(key, value)}" for key, value in values.items()]


def _json(key: str, value: Any) -> str:
    try:
        return json.dumps(value, default=operator.index)  # whole numbers of NumPy
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{key}: a setting cannot be written as JSON ({error})") from None


def _is_plain(value: Any) -> bool:
    """Whether a value is a text that is read as itself."""
    try:
        return isinstance(value, str) and bool(parsed(value) == value)
    except UsageError:
        return False


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting as people give it by name.

    Attributes:
        name: Its name in the dataclass.
        scope: The part of a config that it belongs to, such as ``method``; ``SCOPE.NAME`` is the name in full.
        hint: Its annotation.
        default: Its default as plain JSON; None also where it is required.
        meaning: The first sentence that the docstring has for it, without its full stop.
    """

    name: str
    scope: str
    hint: Any
    default: Any
    meaning: str


def listed(cls: type, scope: str) -> list[Setting]:
    """The settings of a dataclass."""
    hints, known = hints_of(cls), meanings(cls)
    return [
        Setting(
            field.name,
            scope,
            hints[field.name],
            None if _required(field) else encode(_default(field)),
            _FULL_STOP.split(known.get(field.name, ""))[0].rstrip(".").replace("``", ""),
        )
        for field in dataclasses.fields(cls)
    ]


def meanings(cls: type) -> dict[str, str]:
    """Field -> meaning, from the ``Attributes`` of docstrings; those of a class go before those of its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        body = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        body = re.split(r"\n(?=\S)", body)[0]
        for name, words in re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", body, flags=re.MULTILINE):
            found[name] = " ".join(words.split())
    return found


def hint_at(cls: type, path: Iterable[str]) -> Any:
    """The annotation of the setting that a path of keys leads to, below a dataclass; ``Any`` where nothing says."""
    hint: Any = cls
    for key in path:
        if get_origin(hint) is dict:
            hint = get_args(hint)[1]
            continue
        parts = [kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)]
        hint = hints_of(parts[0]).get(key, Any) if parts else Any
    return hint


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _value(hint: Any, value: object, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return decode(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        if value in args and type(value) in {type(a) for a in args}:
            return value
        raise UsageError(f"{where}: {value!r} is not one of {', '.join(map(str, args))}")
    if origin in (Union, types.UnionType):
        return _optional(args, value, where)
    if origin in (tuple, Sequence) and isinstance(value, list | tuple):
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is None:
        return _scalar(hint, value, where)
    raise UsageError(f"{where}: {value!r} should be {'an object' if origin is dict else 'a list'}")


def _optional(args: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [a for a in args if a is not type(None)]
    for choice in choices[:-1]:
        try:
            return _value(choice, value, where)
        except UsageError:
            continue
    return _value(choices[-1], value, where)


def _scalar(hint: type, value: object, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300:
        value = float(value)
    if type(value) is not hint:
        raise UsageError(f"{where}: {value!r} should be {_NAMES.get(hint, hint.__name__)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value!r} is not a finite number")
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        raise UsageError(f"{where}: {value!r} is not valid Unicode text")
    return value


def path_of(name: str, value: object) -> Path:
    """A path that a script gave as an argument.

    Raises:
        UsageError: It is none.
    """
    try:
        if not isinstance(value, str | os.PathLike) or b"\0" in os.fsencode(value):
            raise UsageError(f"{name}={value!r} should be a path")
    except UnicodeEncodeError:
        raise UsageError(f"{name}={value!r} should be a path") from None
    return Path(value)


def flags(**given: object) -> None:
    """Checks arguments that are True or False: ``"no"`` would be taken for True.

    Raises:
        UsageError: One is something else.
    """
    for name, value in given.items():
        if not isinstance(value, bool):
            raise UsageError(f"{name}={value!r} should be True or False")


def local(name: str, path: str | os.PathLike[str]) -> None:
    """Checks that a path is of this machine and no address, of which a folder of that name would be made.

    Raises:
        UsageError: It is an address; what follows the scheme is not repeated, it may be a password.
    """
    if address := _ADDRESS.match(os.fspath(path)):
        raise UsageError(f"{name} {address[1]}://...: is a URL; give a local folder")


def at_least(name: str, value: float, least: float) -> None:
    """Checks a setting's lower bound.

    Raises:
        UsageError: ``value`` is below ``least``.
    """
    if not value >= least:
        raise UsageError(f"{name}={value!r} should be at least {least}")


def positive(name: str, value: float) -> None:
    """Checks that a setting is a number above zero that can be reckoned with: sums and quotients of it are finite.

    Raises:
        UsageError: It is not.
    """
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{name}={value!r} should be a finite number above 0")
    if not 1 / _HUGE <= value <= _HUGE:
        raise UsageError(f"{name}={value!r} should be between {1 / _HUGE} and {_HUGE}; beyond that, sums are not exact")
