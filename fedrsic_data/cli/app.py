"""Command lines whose help says what each argument is, with every supported pair of typer and click."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand


class Command(TyperCommand):
    """A command of an ``App``.

    Click from 8.5 on takes the help of arguments away from typer 0.20, which also escapes brackets for a printer that
    it does not use.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Lists arguments with their help, and options."""
        hints = get_type_hints(inspect.unwrap(self.callback), include_extras=True) if self.callback else {}
        mute: list[Any] = [
            one for one in self.params if one.param_type_name == "argument" and not getattr(one, "help", None)
        ]
        for one in mute:
            (declared, *_) = getattr(hints.get(one.name or ""), "__metadata__", (None,))
            one.help = getattr(declared, "help", None)
        super().format_options(ctx, formatter)
        for one in mute:  # click has a section of its own for those with help
            one.help = None

    def get_help(self, ctx: Any) -> str:
        """The help without escapes."""
        return super().get_help(ctx).replace("\\[", "[")


class App(typer.Typer):
    """A command line of such commands."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **more: Any
    ) -> Callable[..., Any]:
        """Adds a command, as typer does."""
        return super().command(name, cls=cls, **more)
