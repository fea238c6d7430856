"""Terminal functions for every command: printing, progress bars, and one-line errors."""

from __future__ import annotations

import errno
import math
import os
import re
import signal
import sys
import time
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from fedrsic_data import interrupts
from fedrsic_data.answer import Shown, as_json, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedrsic_data.build.pipeline import BuildListener

HELP = "fedkit.help"
"""Key of a context's ``meta``: the command whose ``--help`` says more than that of the context's own."""

_INTERRUPTED = 130
_BETWEEN_LINES = 5.0  # seconds
_UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF)
_SUGGESTED = re.compile(r"\(?(Did you mean [^?]*\?).*", re.DOTALL)
_ENDLESS = re.compile(r"\S{300,}")
_LEAST = 700 << 20  # bytes of addresses, most of them never used, without which Arrow and numpy cannot even begin


def answer(shown: Shown, json: bool) -> None:
    """Print an answer: its data as JSON, or its text."""
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
        raise OutputError(f"standard output: cannot be written ({error.strerror}); redirect it elsewhere") from None


class _WithoutPandas:
    """A finder of modules that finds no pandas."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def without_pandas() -> None:
    """Keeps Arrow from importing pandas at its first array, which takes longer than all else that a command imports.

    No command hands a data frame to Arrow. What imports pandas itself still gets it.
    """
    import pyarrow as pa

    sys.meta_path.insert(0, _WithoutPandas)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(_WithoutPandas)


@contextmanager
def bars(*, quiet: bool) -> Iterator[Callable[[str], Callable[..., None]]]:
    """Makes progress callbacks ``(done, total[, words])`` by name, for the standard error.

    A terminal gets bars; a file or a pipe gets a line now and then, and none of what is done soon.
    """
    if quiet:
        yield lambda _: lambda *_: None
        return
    if not sys.stderr.isatty():
        yield _lines
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def bar(name: str) -> Callable[..., None]:
            task = bars.add_task(plain(name), total=None, visible=False)

            def update(done: int, total: int, words: str = name) -> None:
                bars.update(task, completed=done, total=total, description=plain(words), visible=True)

            return update

        yield bar


def _lines(name: str) -> Callable[..., None]:
    """A progress callback that prints a line every few seconds."""
    last = time.monotonic()

    def update(done: int, total: int, words: str = name) -> None:
        nonlocal last
        if time.monotonic() - last >= _BETWEEN_LINES:
            last = time.monotonic()
            say(f"{words}: {done:,} of {total:,} ..." if total else f"{words}: {done:,} ...")

    return update


@contextmanager
def listening(*, quiet: bool) -> Iterator[BuildListener]:
    """Print the steps of a build, with bars for long ones."""
    from fedrsic_data.build.pipeline import BuildListener

    with bars(quiet=quiet) as bar:
        yield BuildListener(step=telling(quiet=quiet), images=bar("images"), download=bar)


def telling(*, quiet: bool) -> Callable[[str], None]:
    """Report the next step."""
    return lambda words: say(f"{words} ...", quiet=quiet)


def say(words: str, *, quiet: bool = False) -> None:
    """Prints a line on the standard error."""
    if not quiet:
        print(plain(words), file=sys.stderr)


def run_app(app: typer.Typer) -> NoReturn:
    """Run a command line; a failure prints one line on standard error and gives an exit code of 1 or 2."""
    # Arrow's own allocator keeps what its threads freed; the system's gives it back (100 MB at 200,000 images)
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    _open_streams()
    try:
        with interrupts.working():
            _check_memory()
            words, code = "", app(standalone_mode=False, prog_name="fedkit") or 0
    except BaseException as error:
        if os.environ.get("FEDKIT_DEBUG") == "1" and not isinstance(error, KeyboardInterrupt | typer.Abort):
            raise
        words, code = _told(error)
    number = interrupts.asked()
    if code == _INTERRUPTED:  # typer's newer versions make this of Ctrl-C, older ones Abort
        number = number or signal.SIGINT
    if number is not None:
        words, code = interrupts.line(number), interrupts.code(number)
    interrupts.ended(code)
    if words:
        say(_short(words))
    _leave(code, stopped=number is not None)


def _told(error: BaseException) -> tuple[str, int]:
    """One line about an error, and the exit code."""
    from fedrsic_data.errors import FedkitError, for_want_of_memory, unforeseen

    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return interrupts.line(signal.SIGINT), _INTERRUPTED
    if isinstance(error, SystemExit):
        if error.code == signal.SIGTERM:  # Ray's answer to it, which replaces ours while Ray is there
            return interrupts.line(signal.SIGTERM), interrupts.code(signal.SIGTERM)
        return "", error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, FedkitError):
        return f"error: {error}", error.exit_code
    if isinstance(error, BrokenPipeError):
        return "", 1
    # typer carries a click of its own or the installed one, depending on its version: know their errors by shape
    if hasattr(error, "format_message"):
        return f"error: {_of_the_command_line(error)}", 2
    if for_want_of_memory(error):
        bound = "" if math.isinf(limit := _limit()) else f" ({limit / 1e6:,.0f} MB, ulimit -v)"
        return f"error: not enough memory{bound}; let the process have more, or give the command less to do", 1
    if isinstance(error, OSError) and error.errno is not None:
        return f"error: {_of_the_system(error)}", 1
    return f"error: {unforeseen(error)}", 1


def _of_the_command_line(error: Any) -> str:
    """An error of typer or click in one line with one suggestion, ours where an unknown option has a place."""
    context = getattr(error, "ctx", None)
    command = (context.meta.get(HELP) or context.command_path) if context else "fedkit"
    unknown = getattr(error, "option_name", None) if hasattr(error, "possibilities") else None
    if pointer := _pointer(unknown, context) if unknown and context else "":
        return f"No such option {unknown!r}; {pointer} (see {command} --help)"
    words = _SUGGESTED.sub(r"\1", error.format_message())
    return f"{words} (see {command} --help)"


def _pointer(option: str, context: Any) -> str:
    """Where an unknown option belongs: to other commands, or to the option whose help has its words."""
    commands = getattr(context.find_root().command, "commands", {})
    if others := [name for name, other in commands.items() if any(option in one.opts for one in other.params)]:
        return f"it is an option of fedkit {', '.join(others)}"
    meaning = re.compile(rf"\b{re.escape(option.strip('-').replace('-', ' '))}\b", re.IGNORECASE)
    near = [
        one.opts[0] for one in context.command.get_params(context) if meaning.search(getattr(one, "help", "") or "")
    ]
    return f"did you mean {near[0]!r}?" if len(near) == 1 else ""


def _check_memory() -> None:
    """Refuses to begin with so little that libraries written in C would end the process, without a word of use."""
    if (limit := _limit()) < _LEAST:
        raise MemoryError(limit)


def _limit() -> float:
    """Bytes of addresses that this process may use."""
    try:
        import resource
    except ImportError:  # another system than Unix
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _of_the_system(error: OSError) -> str:
    """Describe a failed system call and its file."""
    if error.filename is None:  # of what is written, only the opening of a file has a name
        if error.errno in _UNWRITTEN:
            return f"the output: cannot be written ({error.strerror}); free some space, or redirect it elsewhere"
        return f"a system call failed ({error.strerror}); try again"
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    return f"{where}: cannot be used ({error.strerror}); check the path and its permissions"


def _short(words: str) -> str:
    """One line, of which no word is longer than a person reads."""
    return _ENDLESS.sub(lambda found: f"{found[0][:100]}...{found[0][-100:]}", " ".join(words.split()))


def _open_streams() -> None:
    """Puts the null device where a standard stream is closed, and lets no letter stop a terminal that lacks it.

    Otherwise the next file opened would take the stream's number, and what a library prints would end up in it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - stays open as the streams do
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _leave(code: int, *, stopped: bool) -> NoReturn:
    """Exits; what nobody takes from the standard output any more is dropped, lest Python complains of it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    interrupts.said()
    if stopped:
        interrupts.leave(code)
    sys.exit(code)
