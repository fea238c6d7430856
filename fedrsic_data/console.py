"""What every command needs of a terminal: printing, progress bars, and endings of one line."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from fedrsic_data.shown import Shown, as_json, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedrsic_data.build import Listener

_INTERRUPTED = 130


def answer(shown: Shown, json: bool) -> None:
    """Prints what a ``show`` function gave: its data as JSON, or its text."""
    from fedrsic_data.errors import OutputError

    try:
        if json:
            print(as_json(shown.data))
        else:
            from rich.console import Console

            # a pipe has no width: give tables room instead of folding them at 80 characters
            width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
            Console(highlight=False, width=width).print(shown.text, crop=False)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output: cannot be written ({error.strerror}); send it elsewhere") from None


@contextmanager
def bars(*, quiet: bool) -> Iterator[Callable[[str], Callable[..., None]]]:
    """Makes progress callbacks ``(done, total[, words])`` by name: bars on the standard error if it is a terminal."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:

        def bar(name: str) -> Callable[..., None]:
            task = bars.add_task(plain(name), total=None, visible=False)

            def update(done: int, total: int, words: str = name) -> None:
                bars.update(task, completed=done, total=total, description=plain(words), visible=True)

            return update

        yield bar


@contextmanager
def listening(*, quiet: bool) -> Iterator[Listener]:
    """Tells of the steps of a build, with bars for what takes long."""
    from fedrsic_data.build import Listener

    with bars(quiet=quiet) as bar:
        yield Listener(step=telling(quiet=quiet), images=bar("images"), download=bar)


def telling(*, quiet: bool) -> Callable[[str], None]:
    """Tells what happens next, in words."""
    return lambda words: say(f"{words} ...", quiet=quiet)


def say(words: str, *, quiet: bool = False) -> None:
    """Prints a line on the standard error."""
    if not quiet:
        print(plain(words), file=sys.stderr)


def run_app(app: typer.Typer) -> NoReturn:
    """Runs a command line; every failure is one line on the standard error, and an exit code of 1 or 2."""
    from fedrsic_data.errors import FedkitError

    # Arrow's own allocator keeps what its threads freed; the system's gives it back (100 MB at 200,000 images)
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    _open_streams()
    try:
        code = app(standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except FedkitError as error:
        if os.environ.get("FEDKIT_DEBUG") == "1":
            raise
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        _leave(1)
    except Exception as error:
        if os.environ.get("FEDKIT_DEBUG") == "1":
            raise
        # typer carries a click of its own or the installed one, depending on its version: know their errors by shape
        if hasattr(error, "format_message"):
            _fail(f"{error.format_message()} (see fedkit --help)", 2)
        _fail(f"unexpected {type(error).__name__}: {error}; this is a bug, FEDKIT_DEBUG=1 shows where", 1)
    if code == _INTERRUPTED:  # typer's newer versions make this of Ctrl-C, older ones Abort
        _fail("interrupted; run the same command to resume", code)
    _leave(code)


def _open_streams() -> None:
    """Puts the null device where a standard stream is closed, and lets no letter stop a terminal that lacks it.

    Otherwise the next file opened would take the stream's number, and what a library prints would end up in it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - stays open as the streams do
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _fail(words: str, code: int) -> NoReturn:
    say(f"error: {' '.join(words.split())}")
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Exits; what nobody takes from the standard output any more is dropped, lest Python complains of it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
