"""People who are logged in to a Hub: their environment, scripts and commands of theirs in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

from conftest import environment
from hubserver import WRITER, Hub


def around(hub: Hub, folder: Path, **more: str) -> dict[str, str]:
    """The environment of somebody who is logged in to that Hub."""
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "hf"), "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1"}
    return {**env, "FEDKIT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", **more}


def python(code: str, env: dict[str, str], *arguments: object) -> str:
    """Runs a script as a user would, in a process of its own; gives what it printed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    full = environment(**env)
    done = subprocess.run(command, capture_output=True, text=True, env=full, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


RUN = """
import contextlib, io, json, os, sys
import cli
found = []
for arguments, env in json.loads(sys.argv[1]):
    os.environ.update(env)
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["fedkit", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
        try:
            cli.main()
        except SystemExit as left:
            code = left.code
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def commands(env: dict[str, str], *runs: tuple[tuple[object, ...], dict[str, str]]) -> list[CompletedProcess[str]]:
    """Runs commands one after another in one process, each with its changes of the environment, which stay."""
    given = [([str(argument) for argument in arguments], more) for arguments, more in runs]
    found = json.loads(python(RUN, {"FEDKIT_DEBUG": "0", **env}, json.dumps(given)))
    return [CompletedProcess(a, code, out, err) for (a, _), (code, out, err) in zip(given, found, strict=True)]


def at(hub: Hub, repo: str = "me/fed") -> dict[str, bytes]:
    held = hub.repos[repo]
    commit = held.commits[held.branches["main"]]
    return {path: blob.bytes(0, blob.size) for path, blob in commit.files.items()}
