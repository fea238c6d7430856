"""Several processes on one machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from fedrsic_data import interrupts
from fedrsic_data.build.engines.base import Containers, Task, pooled, write
from fedrsic_data.build.shards import Receipt
from fedrsic_data.errors import OutputError

_here: Containers = {}  # containers that every task of a worker reads from, sent once


class Processes:
    """Writes shards in ``jobs`` processes; see ``BuildEngine``."""

    shared = True

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def run(self, tasks: Iterator[Task], containers: Containers, folder: Path) -> Iterator[tuple[Task, Receipt]]:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of Arrow's threads
        with ProcessPoolExecutor(self.jobs, context, _begin, (containers,)) as pool:

            def submit(task: Task) -> Future[Receipt]:
                with interrupts.starting():
                    return pool.submit(_write, task.sent(), folder)

            try:
                yield from pooled(pool, self.jobs, tasks, submit)
            except BrokenProcessPool:
                interrupts.settle()
                raise OutputError(
                    f"{folder}: a process writing shards died, perhaps for lack of memory; "
                    f"run the same command again to resume, with fewer than --jobs {self.jobs} if it recurs"
                ) from None


def _begin(containers: Containers) -> None:
    """Readies a worker."""
    global _here
    _here = containers
    interrupts.started()


def _write(task: Task, folder: Path) -> Receipt:
    return write(task, _here, folder)
