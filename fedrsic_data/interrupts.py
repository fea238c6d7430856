"""Ctrl-C and SIGTERM: a command stops where it is, says so in one line, and exits with 130 or 143.

While a command works, a signal is an exception of its own kind, ``Stopped``, so that locks are let go of, processes
are ended, and what can be resumed stays. Before and after, when there is nothing to let go of, it ends the process.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_GRACE = 5.0  # seconds to let go of everything, after which a second signal ends the process


class Stopped(KeyboardInterrupt):
    """A signal asks this process to end."""


class _State:
    installed = False
    working = False
    first: tuple[signal.Signals, float] | None = None
    """The first signal since a command began to work, and when it came."""
    held = False
    late: signal.Signals | None = None
    """A signal that came while none is answered."""
    code: int | None = None
    """What the command came to, once there is nothing left to do."""


_state = _State()


def install() -> None:
    """Answers both signals in this process from now on; one that is ignored, as in a shell's background, stays so."""
    _state.installed, _state.code = True, None
    take_back()


def take_back() -> None:
    """Answers them again, where ``install`` was called: Ray, for one, puts an answer of its own in place of ours."""
    if _state.installed and threading.current_thread() is threading.main_thread():
        for number in _WORDS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _answer)
        sys.unraisablehook = _unraisable


@contextmanager
def working() -> Iterator[None]:
    """In here a signal raises ``Stopped``, in the main thread."""
    _state.first, _state.working = None, True
    try:
        yield
    finally:
        _state.working = False


def ended(code: int) -> None:
    """All is said and done: a signal that still comes ends the process with the command's own code."""
    _state.code = code


def leave(code: int) -> None:
    """Ends a process that a signal stopped, without waiting for threads: those of Flower may work for minutes more.

    What is to be done at the exit is done, for as long as one may be asked to wait. Does nothing in a process that is
    not ours alone, where ``install`` was not called.
    """
    if not _state.installed:
        return
    patience = threading.Timer(_GRACE, os._exit, (code,))
    patience.daemon = True
    patience.start()
    atexit._run_exitfuncs()
    os._exit(code)


def asked() -> signal.Signals | None:
    """Which signal the command was stopped by."""
    return _state.first[0] if _state.first else None


def line(number: signal.Signals) -> str:
    """What a person is told of it."""
    return f"error: {_WORDS[number]}; run the same command to resume"


def code(number: signal.Signals) -> int:
    """The exit code for it, as shells count."""
    return 128 + number


@contextmanager
def starting() -> Iterator[None]:
    """Processes that are started in here never hear of the signals, which are this process's to answer.

    Terminals and service managers send them to all processes at once, also to one that is still importing.
    """
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"  # it would list what dies with this process
    if quiet not in sys.warnoptions:
        sys.warnoptions.append(quiet)
    mask = getattr(signal, "pthread_sigmask", lambda *_: None)
    before = mask(signal.SIG_BLOCK, _WORDS)  # a process inherits it
    _state.held = True  # any thread of this one may be given the signal instead
    try:
        yield
    finally:
        _state.held = False
        mask(signal.SIG_SETMASK, before)
        if _state.late is not None:
            number, _state.late = _state.late, None
            _answer(number, None)


def started() -> None:
    """In a process that was started so: its parent may end it again."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def settle() -> None:
    """Waits for a signal that other processes may have had before this one; they died of it."""
    if threading.current_thread() is threading.main_thread():
        time.sleep(0.2)


def _answer(number: int, _: FrameType | None) -> None:
    sent, now = signal.Signals(number), time.monotonic()
    if _state.code is not None:
        os._exit(_state.code)
    if _state.held:
        _state.late = sent
        return
    if _state.working and _state.first is None:
        _state.first = sent, now
        raise Stopped
    if not _state.working or (_state.first and now - _state.first[1] > _GRACE):
        os.write(2, f"{line(sent)}\n".encode())
        os._exit(code(sent))


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Sends a signal again that came where nothing can be raised: while an object was being deleted."""
    if isinstance(lost.exc_value, Stopped) and _state.first is not None:
        number, _state.first = _state.first[0], None
        again = threading.Timer(0.05, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)
