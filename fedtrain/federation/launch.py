"""Runs the app of a federation through ``flwr``, and waits for its end."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedrsic_data.answer import Shown, together
from fedrsic_data.distribution import install
from fedrsic_data.errors import FedkitError, UsageError, translated
from fedrsic_data.settings import local
from fedtrain.federation.app import OURS, PACKAGE, Wanted

_POLL = 5.0  # seconds from one look at a run to the next
_DEAF = 5  # looks in a row that may fail: a SuperLink is at times too busy to answer
_CHANGES = re.compile(rf"""\s*(({"|".join(vars(Wanted()))})=('[^']*'|"[^"]*"|true|false)(\s+|$))+""")


def run(folder: Path, connection: str | None, overrides: Sequence[str], say: Callable[[str], None]) -> Shown:
    """Runs an app through ``flwr``, waits until it ends, and prints the server's messages meanwhile.

    Args:
        folder: The app.
        connection: A SuperLink that Flower's ``config.toml`` names; None: its default.
        overrides: ``key=value`` texts for ``--run-config``.
        say: Called with descriptions of the run's progress.

    Raises:
        FedkitError: It could not be started, or failed.
    """
    local("folder", folder)
    if connection is not None and connection.startswith("-"):
        raise UsageError(f"{connection}: is not the name of a SuperLink; give one from Flower's config.toml")
    for text in overrides:
        if not text.endswith(".toml") and not _CHANGES.fullmatch(text):  # Flower would pass over what it cannot read
            raise UsageError(
                f"--run-config {text!r}: should be KEY=VALUE texts with a space between them, KEY one of "
                f"{', '.join(vars(Wanted()))}, and VALUE true, false or a text in quotes"
            )
    changes = [word for text in overrides for word in ("--run-config", text)]
    at = [connection] if connection else []
    started = _flwr("run", str(folder.absolute()), *at, *changes, "--format", "json")
    number = str(started.get("run-id", ""))
    if not started.get("success", True) or not number:
        raise FedkitError(f"flwr run {folder}: {started.get('error-message', 'gave no run')}")
    say(f"run {number}; its log: flwr log {shlex.join([number, *at])}")
    # from a folder without others: Flower takes a connection for an app where a folder has its name
    return _followed(number, at, folder / PACKAGE, say)


def _followed(number: str, at: Sequence[str], folder: Path, say: Callable[[str], None]) -> Shown:
    """Waits for the end of a run.

    Raises:
        FedkitError: It failed, or cannot be seen any more.
    """
    deaf, status, said = 0, "", list[str]()
    while True:
        try:
            told = _flwr("list", *at, "--run-id", number, "--format", "json", folder=folder)
        except FedkitError as error:
            told = {"error-message": str(error)}
        runs = told.get("runs", [])
        deaf = 0 if runs else deaf + 1
        if deaf > _DEAF:
            words = told.get("error-message", "knows no such run")
            raise FedkitError(f"run {number}: its status cannot be read ({words}); see: flwr list {shlex.join(at)}")
        before, status = status, str(runs[0]["status"]) if runs else status
        if status != before:
            say(f"run {number}: {status}")
        for line in (heard := _heard(number, at, folder))[len(said) :]:
            say(line)
        said = heard or said
        if status == "finished:completed":
            return Shown(
                {"run": number, "status": status, "log": said}, together([f"run {number}: {status}", *said[-2:]])
            )
        if status.startswith("finished"):
            why = next((line for line in reversed(said) if line.startswith("error: ")), "")
            raise FedkitError(
                f"run {number} ended as {status}{', ' * bool(why)}{why}; its log: flwr log {shlex.join([number, *at])} "
                "--show; the same command goes on from the last checkpoint, if there is one"
            )
        time.sleep(_POLL)


def _heard(number: str, at: Sequence[str], folder: Path) -> list[str]:
    """The server's log of a run so far; empty if it cannot be read now."""
    done = subprocess.run(
        ["flwr", "log", number, *at, "--show"], cwd=folder, capture_output=True, text=True, check=False
    )
    return [line.partition(OURS)[2] for line in done.stdout.splitlines() if OURS in line]


def _flwr(*arguments: str, folder: Path | None = None) -> dict[str, Any]:
    """JSON output of a Flower command.

    Raises:
        FedkitError: It cannot be run, or says no JSON.
    """
    with translated(UsageError, "flwr", "cannot be run", install("flower")):
        done = subprocess.run(["flwr", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        words = " ".join((done.stderr or done.stdout).split())[-300:]
        raise FedkitError(f"flwr {arguments[0]}: {words or 'failed'}") from None
    return said
