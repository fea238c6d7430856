"""Ctrl-C and SIGTERM: a command stops where it is, says so in one line, and exits with 130 or 143.

While a command works, a signal is an exception of its own kind, ``Stopped``, so that locks are let go of, processes
are ended, and what can be resumed stays. Before and after, when there is nothing to let go of, it ends the process.

Code in C and destructors can lose an exception: Arrow, for one, imports pandas when it first needs to know whether a
value is one of pandas', and drops whatever that import raises. So each ``Stopped`` sees to it that it is not the last:
if it ceases to exist while the command still works, it is raised again.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_GRACE = 5.0  # seconds to let go of everything, after which a second signal ends the process
_AGAIN = 0.02  # seconds after which a signal that was lost is sent again; what lost it is mostly done by then


class Stopped(KeyboardInterrupt):
    """A signal asks this process to end."""

    def __del__(self) -> None:
        """Sends the signal again if this was lost on its way; nothing can be raised in here."""
        if _state.working and _state.first is not None:
            _state.lost = True
            again = threading.Timer(_AGAIN, _resend, (_state.first[0],))
            again.daemon = True
            with suppress(RuntimeError):  # no room for a thread: the command still ends as one that was stopped
                again.start()


class _State:
    installed = False
    working = False
    first: tuple[signal.Signals, float] | None = None
    """The first signal since a command began to work, and when it came."""
    lost = False
    """Whether its exception ceased to exist before it had ended the command."""
    held = False
    late: signal.Signals | None = None
    """A signal that came while none is answered."""
    code: int | None = None
    """Exit code of a finished command."""
    said = False
    """Whether the user has been informed."""


_state = _State()


def install() -> None:
    """Answers both signals in this process from now on; one that is ignored, as in a shell's background, stays so."""
    if not _state.installed:
        atexit.register(_deaf)  # among the first, so it is called after all others
    _state.installed, _state.code, _state.said = True, None, False
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
    _state.first, _state.lost, _state.working = None, False, True
    try:
        yield
    finally:
        _state.working = False


def ended(code: int) -> None:
    """Sets the code of a command that has ended; a signal that still comes does not change it."""
    _state.code = code


def said() -> None:
    """Marks the answer as printed: a signal that still comes ends the process at once, with the command's own code."""
    _state.said = True


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
    """Message for the user."""
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
    """Prepares a process that ``starting`` started: its parent may end it, and it does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def settle() -> None:
    """Waits for a signal that other processes may have had before this one; they died of it."""
    if threading.current_thread() is threading.main_thread():
        time.sleep(0.2)


def _answer(number: int, _: FrameType | None) -> None:
    sent, now = signal.Signals(number), time.monotonic()
    if _state.code is not None and _state.said:
        os._exit(_state.code)
    if _state.held:
        _state.late = sent
        return
    if _state.first is None:
        _state.first = sent, now
        if _state.working:
            raise Stopped
        if _state.code is not None:
            return
    elif _state.lost and _state.working:
        _state.lost = False
        raise Stopped
    elif now - _state.first[1] < _GRACE:
        return
    os.write(2, f"{line(sent)}\n".encode())
    os._exit(code(sent))


def _resend(number: signal.Signals) -> None:
    """To the main thread itself, which may be waiting for something."""
    if _state.working and _state.lost:
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, number)
        else:
            signal.raise_signal(number)


def _deaf() -> None:
    """Nothing is left but to end, by itself: Python takes our answer away before it has, and the signal would kill."""
    if _state.installed and threading.current_thread() is threading.main_thread():
        for number in _WORDS:
            signal.signal(number, signal.SIG_IGN)


def _unraisable(lost: sys.UnraisableHookArgs) -> None:
    """Says nothing of a signal that came where nothing can be raised: it comes again."""
    if not isinstance(lost.exc_value, Stopped):
        sys.__unraisablehook__(lost)
