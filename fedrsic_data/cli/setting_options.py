"""Commands whose options are also the settings of what they run: ``fedkit train fedpgp --lr 0.1``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperOption

from fedrsic_data.cli.app import Command
from fedrsic_data.cli.console import HELP
from fedrsic_data.errors import UsageError
from fedrsic_data.settings import Setting, parsed

Sections = Mapping[str, Sequence[Setting]]
"""Title -> the settings below it in the help."""

_SECTIONS, _SETS = "fedkit.sections", "fedkit.sets"
_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}


def given_settings(context: typer.Context) -> list[str]:
    """The settings that were given as options, as ``key=value`` texts in the order of the options."""
    found: list[str] = context.meta[_SETS]
    return found


def with_settings(known: Callable[[Sequence[str]], tuple[str, Sections]], argument: str) -> type[Command]:
    """A kind of command that has an option for each setting.

    Args:
        known: Gives, from the words that were typed and are neither options nor their values, the name of the thing
            that is run (empty: there is none) and the settings.
        argument: The parameter of the command that names the thing.
    """

    class SettingsCommand(Command):
        """Makes its options when it knows what it runs."""

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Parses in two steps: the first finds the name of what is run, the second knows its settings too."""
            ctx.meta[_SETS], ctx.meta[_SECTIONS] = [], {}
            ctx.meta[_SECTIONS] = self._made(ctx, known([])[1])
            try:
                name, sections = known(self._words(ctx, args))
                ctx.meta[_SECTIONS] = self._made(ctx, sections)
                ctx.meta[HELP] = " ".join([ctx.command_path, *([*self._before(), name] if name else [])])
            except UsageError:
                if not ctx.resilient_parsing:  # while a shell completes a line, half of it is not there yet
                    raise
            return super().parse_args(ctx, list(_flags(args, self.get_params(ctx))))

        def get_params(self, ctx: Any) -> list[Any]:
            """The command's own parameters, and those of the settings."""
            return [*super().get_params(ctx), *(one for made in ctx.meta.get(_SECTIONS, {}).values() for one in made)]

        def format_options(self, ctx: Any, formatter: Any) -> None:
            """Lists the settings in sections of their own, below the options of the command."""
            sections = ctx.meta.get(_SECTIONS, {})
            ctx.meta[_SECTIONS] = {}
            super().format_options(ctx, formatter)
            ctx.meta[_SECTIONS] = sections
            for title, made in sections.items():
                if records := [record for one in made if (record := one.get_help_record(ctx)) is not None]:
                    with formatter.section(title):
                        formatter.write_dl(records)

        def _before(self) -> list[str]:
            """The word that comes before the name of what is run."""
            (named,) = (one for one in self.params if one.name == argument)
            return named.opts if named.param_type_name == "option" else []

        def _words(self, ctx: Any, args: Sequence[str]) -> list[str]:
            parser = self.make_parser(ctx)
            parser.ignore_unknown_options = True
            values, rest, _ = parser.parse_args(list(_flags(args, self.get_params(ctx))))
            return [word for word in (values.get(argument), *rest) if isinstance(word, str) and word[:1] != "-"]

        def _made(self, ctx: Any, sections: Sections) -> dict[str, list[_Option]]:
            names = [one.name for settings in sections.values() for one in settings if one.scope in ("run", "method")]
            taken = {opt for one in Command.get_params(self, ctx) for opt in one.opts}
            made = {title: [_option(one, _name(one, names, taken)) for one in sections[title]] for title in sections}
            twice = dict.fromkeys(name for name in names if names.count(name) > 1 and _typed(name) not in taken)
            return made | {"": [_Option(name, "", hidden=True) for name in twice]}

    return SettingsCommand


def _name(setting: Setting, names: Sequence[str], taken: Iterable[str]) -> str:
    """The name of a setting on the command line: in full where the short one means something else as well."""
    short = setting.scope in ("run", "method") and names.count(setting.name) == 1 and _typed(setting.name) not in taken
    return setting.name if short else f"{setting.scope}.{setting.name}"


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class _Option(TyperOption):
    """An option that adds ``key=value`` to the settings that are given."""

    def __init__(self, key: str, words: str, hint: Any = str, **more: Any) -> None:
        typed, flag, several = _typed(key), hint is bool, get_origin(hint) in (tuple, Sequence)
        choices = [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []

        def give(ctx: Any, _: Any, value: Any) -> None:
            if value is None or value == ():
                return
            text = _listed(value) if several else json.dumps(value) if flag else value
            ctx.meta[_SETS].append(f"{key}={text}")

        super().__init__(
            param_decls=[f"setting_{key.replace('.', '_')}", f"{typed}/--no-{typed[2:]}" if flag else typed],
            type=bool if flag else str,
            is_flag=flag,
            default=None,
            multiple=several,
            expose_value=False,
            callback=give,
            metavar=None if flag else "|".join(choices) or ("TEXT" if several else _METAVARS.get(hint, "JSON")),
            help=words,
            autocompletion=(lambda ctx, args, incomplete: choices) if choices else None,  # noqa: ARG005
            **more,
        )


def _option(setting: Setting, name: str) -> _Option:
    one = setting.hint
    if get_origin(one) in (Union, UnionType):
        one = next(choice for choice in get_args(one) if choice is not type(None))
    words = setting.meaning + (" (repeatable)" if get_origin(one) in (tuple, Sequence) else "")
    if setting.default not in (None, [], ""):
        words += f"  [default: {setting.default if isinstance(setting.default, str) else json.dumps(setting.default)}]"
    return _Option(name, words, one)


def _listed(values: Sequence[str]) -> str:
    """A list as JSON; one value that is a list in JSON already stays."""
    return values[0] if values[0][:1] == "[" else json.dumps([parsed(value) for value in values])


def _flags(args: Iterable[str], params: Sequence[Any]) -> Iterator[str]:
    """The arguments with ``--flip false`` and ``--flip=false`` in the form ``--no-flip``."""
    flags = {opt for one in params if isinstance(one, _Option) and one.is_flag for opt in one.opts}
    held: str | None = None
    for word in args:
        name, equals, value = word.partition("=")
        name = _typed(name[2:]) if name[:2] == "--" else name
        if held is not None:
            yield _flag(held, word) if word.lower() in ("true", "false") else held
            held = None
            if word.lower() in ("true", "false"):
                continue
        if name in flags and equals and value.lower() in ("true", "false"):
            yield _flag(name, value)
        elif name in flags and not equals:
            held = name
        else:
            yield word
    if held is not None:
        yield held


def _flag(name: str, value: str) -> str:
    return name if value.lower() == "true" else f"--no-{name[2:]}"
