"""Ray: the same tasks on a cluster.

A task carries names and labels of its rows and gives a receipt back; image bytes never pass through Ray's object
store. Every node reads the sources and writes the shards under the paths of the driver, so both lie on a file system
that all nodes share.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrsic_data import interrupts
from fedrsic_data.build.engines.base import Containers, Task, write
from fedrsic_data.build.shards import Receipt
from fedrsic_data.errors import OutputError, UsageError

_RETRIES = 3  # retries of a task whose worker or node died, or whose file system failed
_PATIENCE = 20  # seconds that Ray has to answer
_MEND = {  # whether it was "auto"
    False: "give HOST:PORT of its head, or auto",
    True: "start one, or give HOST:PORT of its head (auto takes RAY_ADDRESS or the Ray that this machine started last)",
}


class Ray:
    """Writes shards as Ray tasks; see ``BuildEngine``."""

    shared = True

    def __init__(self, address: str | None = None, cpus: int | None = None) -> None:
        """Starts nothing yet.

        Args:
            address: Address of a running cluster; None: start a local Ray for this build.
            cpus: Number of CPUs of a local Ray; None: all.
        """
        self.address = address
        self.cpus = cpus

    def run(self, tasks: Iterator[Task], containers: Containers, folder: Path) -> Iterator[tuple[Task, Receipt]]:
        """Run tasks, see ``BuildEngine.run``; twice as many tasks wait or run as there are CPUs."""
        with _connected(self.address, self.cpus) as ray:
            remote = ray.remote(write).options(num_cpus=1, max_retries=_RETRIES, retry_exceptions=[OSError])
            held, where = ray.put(dict(containers)), folder.resolve()
            room = max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
            pending: dict[Any, Task] = {}
            for task in tasks:
                while len(pending) >= room:
                    yield from _finished(ray, pending, where)
                pending[remote.remote(task.sent(), held, where)] = task
            while pending:
                yield from _finished(ray, pending, where)


def _finished(ray: Any, pending: dict[Any, Task], folder: Path) -> Iterator[tuple[Task, Receipt]]:
    """Waits for a task."""
    for done in ray.wait(list(pending), num_returns=1)[0]:
        task = pending.pop(done)
        try:
            receipt: Receipt = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            words = str(error).split("\n")[0]
            raise OutputError(
                f"{folder}: {task.job.path} was not written in {_RETRIES + 1} attempts ({words}); "
                "run the same command again to resume"
            ) from None
        path = folder / receipt.path
        if not path.is_file() or path.stat().st_size != receipt.bytes:
            raise OutputError(
                f"{path}: was written on another machine; choose an --out that all nodes of the cluster share"
            )
        yield task, receipt


@contextmanager
def _connected(address: str | None, cpus: int | None) -> Iterator[Any]:
    """Ray, as it was found or started for this block.

    Raises:
        UsageError: There is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    if address:
        _answers(address)
    given: dict[str, Any] = {"address": address} if address else {"address": "local", "num_cpus": cpus}
    if not address:
        given["include_dashboard"] = False
    try:
        ray.init(**given, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UsageError(f"--ray-address {address}: no Ray cluster answers there ({words})") from None
    interrupts.take_back()
    try:
        yield ray
    finally:
        ray.shutdown()


def _answers(address: str) -> None:
    """Ray itself would try for minutes, and longer where something else listens.

    Raises:
        UsageError: No Ray answers at ``HOST:PORT``, or at the address that Ray takes for ``auto``.
    """
    asked = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check", "--skip-version-check"]
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        # in a process of its own: nothing else puts an end to it
        done = subprocess.run([*asked, "--address", address], capture_output=True, timeout=_PATIENCE, check=False)
        words = "there is no cluster" if done.returncode else ""
    except subprocess.TimeoutExpired:
        words = f"the server there did not answer in {_PATIENCE} seconds"
    except (OSError, ValueError, OverflowError) as error:
        words = str(error)
    if words:
        raise UsageError(f"--ray-address {address}: no Ray cluster answers there ({words}); {_MEND[address == 'auto']}")
