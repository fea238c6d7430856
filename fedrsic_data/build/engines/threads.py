"""Threads of this process: reading and checking images and writing Parquet mostly run without Python's lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fedrsic_data.build import shards
from fedrsic_data.build.engines.base import Containers, Task, pooled
from fedrsic_data.build.shards import Receipt

_WORKERS = min(4, os.cpu_count() or 1)


class Threads:
    """Writes shards on a few threads; see ``BuildEngine``."""

    shared = False

    def run(self, tasks: Iterator[Task], containers: Containers, folder: Path) -> Iterator[tuple[Task, Receipt]]:  # noqa: ARG002
        """Run tasks, see ``BuildEngine.run``; the rows have their containers already."""
        with ThreadPoolExecutor(_WORKERS) as pool:

            def submit(task: Task) -> Future[Receipt]:
                return pool.submit(shards.write, task.job, task.rows, folder, task.options)

            yield from pooled(pool, _WORKERS, tasks, submit)
