"""Commands whose options are also the settings of what they run: ``fedkit train fedpgp --lr 0.1``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

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


def joined(options: Sequence[str], sets: Sequence[str] | None) -> list[str]:
    """Settings from options, and those from ``--set``, as ``key=value`` texts.

    Raises:
        UsageError: An option and ``--set`` give the same setting.
    """
    names = {text.partition("=")[0] for text in options}
    for text in sets or []:
        key = text.partition("=")[0]
        ways = {key, key.removeprefix("run."), key.removeprefix("method."), f"run.{key}", f"method.{key}"}
        for name in names & ways:
            raise UsageError(f"--set {text}: {_typed(name)} gives this setting too; leave one of them out")
    return [*options, *(sets or [])]


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
            rest = super().parse_args(ctx, list(_flags(args, self.get_params(ctx))))
            keys = {one.name: one.key for made in ctx.meta[_SECTIONS].values() for one in made}
            given = {keys[name]: ctx.params.pop(name) for name in [*ctx.params] if name in keys}
            ctx.meta[_SETS] = [f"{key}={_text(value)}" for key, value in given.items() if value not in (None, [], ())]
            return rest

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

        def _made(self, ctx: Any, sections: Sections) -> dict[str, list[Any]]:
            names = [one.name for settings in sections.values() for one in settings if one.scope in ("run", "method")]
            taken = {opt for one in Command.get_params(self, ctx) for opt in one.opts}
            twice = {name: (str, "", True) for name in names if names.count(name) > 1 and _typed(name) not in taken}
            made = {
                title: {_name(one, names, taken): (*_said(one), False) for one in settings}
                for title, settings in sections.items()
            }
            return {title: _options(wanted) for title, wanted in (made | {"": twice}).items()}

    return SettingsCommand


def _name(setting: Setting, names: Sequence[str], taken: Iterable[str]) -> str:
    """The name of a setting on the command line: in full where the short one means something else as well."""
    short = setting.scope in ("run", "method") and names.count(setting.name) == 1 and _typed(setting.name) not in taken
    return setting.name if short else f"{setting.scope}.{setting.name}"


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _said(setting: Setting) -> tuple[Any, str]:
    """The annotation of a setting without None, and its help."""
    one = setting.hint
    if get_origin(one) in (Union, UnionType):
        one = next(choice for choice in get_args(one) if choice is not type(None))
    words = setting.meaning + (" (repeatable)" if _is_list(one) else "")
    if setting.default not in (None, [], ""):
        words += f"  [default: {setting.default if isinstance(setting.default, str) else json.dumps(setting.default)}]"
    return one, words


def _is_list(hint: Any) -> bool:
    return get_origin(hint) in (tuple, Sequence)


def _options(wanted: Mapping[str, tuple[Any, str, bool]]) -> list[Any]:
    """Options as typer makes them of a function's parameters: key -> annotation, help and whether it is hidden."""

    def function(**_: Any) -> None: ...

    function.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(f"setting_{i}", Parameter.KEYWORD_ONLY, default=None, annotation=_annotated(key, *facts))
            for i, (key, facts) in enumerate(wanted.items())
        ]
    )
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(function)
    made: list[Any] = typer.main.get_command(app).params
    for key, one in zip(wanted, made, strict=True):
        one.key, one.name = key, f"setting {key}"  # no argument of a command has a space
    return made


def _annotated(key: str, hint: Any, words: str, hidden: bool) -> Any:
    typed, several = _typed(key), _is_list(hint)
    choices = [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []
    kind: Any = bool if hint is bool else list[str] if several else str
    option = typer.Option(
        f"{typed}/--no-{typed[2:]}" if hint is bool else typed,
        metavar=None if hint is bool else "|".join(choices) or _METAVARS.get(str if several else hint, "JSON"),
        help=words,
        hidden=hidden,
        autocompletion=(lambda: choices) if choices else None,
        show_default=False,
    )
    return Annotated[kind | None, option]


def _text(value: Any) -> str:
    """A value as it is written after ``key=``; one text of a list that is a list in JSON already stays."""
    if isinstance(value, list | tuple):
        return str(value[0]) if len(value) == 1 and value[0][:1] == "[" else json.dumps([parsed(one) for one in value])
    return value if isinstance(value, str) else json.dumps(value)


def _flags(args: Iterable[str], params: Sequence[Any]) -> Iterator[str]:
    """The arguments with ``--flip false`` and ``--flip=false`` in the form ``--no-flip``."""
    flags = {opt for one in params if hasattr(one, "key") and one.is_flag for opt in one.opts}
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
