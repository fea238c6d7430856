"""Every error a user can meet, in one place.

A message is one line: the argument or file, its value, and the fix. The
command line prints it without a traceback and exits with ``exit_code``.
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote, unquote

P = ParamSpec("P")
T = TypeVar("T")

# a login may hold anything, so what follows "Bearer" is all taken for it
_SECRET = re.compile(r"(?<=Bearer ).+|hf_[\w.-]+|(?<=://)[^/\s]+(?=@)", re.IGNORECASE)
# a password, a login without one, and the values of a query, save those that only say where something is; a secret
# may hold an @, a / or an &. pathlib leaves one slash of two, and some stores name a container before the @
_HIDDEN = re.compile(
    r"(:/{1,2}[^:/?@]*:).*(?=@)"
    r"|((?<!\babfs)(?<!\babfss)(?<!\bwasb)(?<!\bwasbs):/{1,2})[^:/?@\s]+(?=@)"
    r"|([?&;](?!(?:scheme|region|endpoint_override)=)[^=&;]*=).*?(?=[&;][^=&;]*=|$)",
    re.DOTALL,
)
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/\S*")  # one letter and a colon is a drive
_NO_MEMORY = (
    "llocate memory",  # PyTorch, the loader of libraries
    "failed to map segment",
    "can't start new thread",
    "std::bad_alloc",
)
_BLAME = "in the "
_LONGEST = 300  # characters of a foreign message


# a whole command; a setting; a flag; another option
_TYPED = re.compile(
    r"(fedkit [^;,)]*)|--set |--(overwrite|sample|offline|private|redistribute|allow-partial)\b|--([a-z-]+)"
)


def for_scripts(function: Callable[P, T]) -> Callable[P, T]:
    """A function whose errors name arguments where a command's errors name options: ``out`` for ``--out``."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except FedkitError as error:
            error.args = (_TYPED.sub(_argument, str(error)),)
            raise

    return called


def _argument(option: re.Match[str]) -> str:
    command, flag, other = option.groups()
    if command:
        return str(command)
    name = (flag or other or "").replace("-", "_")
    return f"{name}=True" if flag else name or "the setting "


def masked(address: str) -> str:
    """A URL that can be shown: ``***`` replaces its password or login and the values of its query."""
    return _HIDDEN.sub(lambda found: f"{found[1] or found[2] or found[3]}***", address)


def masked_in(words: str) -> str:
    """Words in which every address is ``masked``."""

    def mask(found: re.Match[str]) -> str:
        address = found[0].rstrip(".,:;)'\"")
        return masked(address) + found[0][len(address) :]

    return _ADDRESS.sub(mask, words) if ":/" in words else words


def discreet(error: object, most: int = _LONGEST, address: str = "") -> str:
    """A foreign message as one line of bounded length, without tokens and passwords of URLs.

    Args:
        error: An error of another library.
        most: Characters.
        address: What they were given; what is masked in it is not said in any other way either.
    """
    words = str(error)
    secrets = (found[0][len(found[1] or found[2] or found[3]) :] for found in _HIDDEN.finditer(address))
    forms = {form for raw in secrets for form in (raw, unquote(raw), quote(unquote(raw), safe="")) if form}
    for form in sorted(forms, key=len, reverse=True):
        words = words.replace(form, "***")
    words = _SECRET.sub("...", " ".join(words.split())) or type(error).__name__
    return words if len(words) <= most else words[:most] + "..."


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names of some for a message, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def for_want_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; libraries report it in many ways."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    words = str(error) if isinstance(error, ImportError | OSError | RuntimeError) else ""
    if any(sign in words for sign in _NO_MEMORY):
        return True
    return error.__cause__ is not None and for_want_of_memory(error.__cause__)


class FedkitError(Exception):
    """Something failed that the user can fix; the message says how, and holds no password of an address.

    Attributes:
        exit_code: The status the command line exits with (1: the work failed).
    """

    exit_code = 1

    def __init__(self, words: str = "", *more: object) -> None:
        """Keeps the message without passwords of the addresses in it."""
        super().__init__(masked_in(words), *more)


class UsageError(FedkitError, ValueError):
    """An argument, option or recipe field has a value that cannot be used."""

    exit_code = 2


class PluginError(FedkitError):
    """Code of another package failed, or does not keep the contract of what it is."""


class SourceError(FedkitError):
    """A source's files are missing, incomplete or not what they should be."""


class UnsafeArchiveError(SourceError):
    """An archive holds a member that must not be read."""


class BadImageError(SourceError):
    """A file that should be an image is empty, truncated, too large or not an image."""


class DownloadError(SourceError):
    """A download failed, or what arrived is not what was expected."""


class HubError(FedkitError):
    """The Hugging Face Hub cannot be reached, or refuses what was asked of it."""


class OutputError(FedkitError):
    """The output folder cannot be written, or holds something else already."""


class ManifestError(FedkitError):
    """A manifest or recipe cannot be read, or contradicts itself."""


class VerificationError(FedkitError):
    """Built data differ from what their manifest says."""


def in_words(error: BaseException) -> str:
    """An error of another package as one line."""
    return f"{type(error).__name__}: {discreet(error)}"


def is_ours(thing: type) -> bool:
    """Whether a class is fedkit's, and not of another package or a script."""
    return thing.__module__.partition(".")[0] in ("fedrsic", "fedrsic_data", "fedtrain")


@contextmanager
def blamed(what: str, thing: type) -> Iterator[None]:
    """Note on an exception that it comes from code of another package; ``unforeseen`` says so.

    Args:
        what: The word for the thing whose code runs.
        thing: Its class; exceptions of fedkit's own ones pass as they are.
    """
    note = f"{_BLAME}{what} {thing.__qualname__} of {thing.__module__}"
    try:
        yield
    except SystemExit as end:  # would end the command as if all were done; Ray ends it so after SIGTERM
        if is_ours(thing) or end.code == signal.SIGTERM:
            raise
        fault = RuntimeError(f"it calls sys.exit({end.code!r})")
        fault.add_note(note)
        raise fault from end
    except (FedkitError, OSError):
        raise
    except Exception as error:
        if not is_ours(thing) and not for_want_of_memory(error):
            error.add_note(note)
        raise


def unforeseen(error: BaseException) -> str:
    """One line about an error that is no ``FedkitError``: the plug-in that raised it, or that it is a bug of ours."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith(_BLAME):
            return f"{note.removeprefix('in ')} failed ({in_words(error)}); FEDKIT_DEBUG=1 shows where"
    return f"unexpected {type(error).__name__}: {error}; this is a bug, FEDKIT_DEBUG=1 shows where"


@contextmanager
def translated(
    kind: type[FedkitError],
    where: Path | str,
    problem: str = "cannot be read",
    fix: str = "",
    *,
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn an error of the operating system, or one of ``also``, into one line; fedkit's own errors pass.

    Args:
        kind: The error to raise.
        where: A path, unless the system names another file; or a text, which always begins the line.
        problem: What cannot be done.
        fix: What to do about it.
        also: Errors of a parser, which mean that the content of a file is damaged.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except FedkitError:
        raise
    except kinds as error:
        name = getattr(error, "filename", None) if isinstance(where, Path) else None
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{name or where}: {problem} ({reason}){'; ' if fix else ''}{fix}") from None
