"""Threads of this process: reading and checking images and writing Parquet mostly run without Python's lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from fedrsic_data import shards
from fedrsic_data.engines.base import Containers, Task
from fedrsic_data.shards import Receipt

_WORKERS = min(4, os.cpu_count() or 1)


class Threads:
    """Writes shards on a few threads; see ``Engine``."""

    shared = False

    def run(self, tasks: Iterator[Task], containers: Containers, folder: Path) -> Iterator[tuple[Task, Receipt]]:  # noqa: ARG002
        """See ``Engine.run``; the rows have their containers already."""
        pending: dict[Future[Receipt], Task] = {}
        with ThreadPoolExecutor(_WORKERS) as pool:
            try:
                for task in tasks:
                    pending[pool.submit(shards.write, task.job, task.rows, folder, **task.options)] = task
                    while len(pending) > _WORKERS:
                        for future in wait(pending, return_when=FIRST_COMPLETED).done:
                            yield pending.pop(future), future.result()
                for future, task in pending.items():
                    yield task, future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
