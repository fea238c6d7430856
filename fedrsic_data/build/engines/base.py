"""The interface of build engines: they run the function that writes a shard for many shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from fedrsic_data.build import shards
from fedrsic_data.build.shards import Job, Receipt, ShardRows, WriteOptions
from fedrsic_data.raw.index import Container

Containers = Mapping[str, Sequence[Container]]
"""The containers of each subset."""


@dataclass(frozen=True)
class Task:
    """A shard to write.

    Attributes:
        subset: Its subset, whose containers have its images.
        job: Its rows and its path.
        rows: The columns of the subset.
        options: Settings for writing.
    """

    subset: str
    job: Job
    rows: ShardRows
    options: WriteOptions

    def sent(self) -> Task:
        """The same task with the columns of its own rows only and without containers."""
        job, rows = shards.alone(self.job, self.rows)
        return replace(self, job=job, rows=rows)


class BuildEngine(Protocol):
    """Runs tasks, a few at a time.

    Attributes:
        shared: Whether other processes read the containers; see ``Container.prepare``.
    """

    shared: bool

    def run(self, tasks: Iterator[Task], containers: Containers, folder: Path) -> Iterator[tuple[Task, Receipt]]:
        """Writes shards, in any order; the first failure stops the rest.

        Args:
            tasks: Taken one by one, as there is room for them.
            containers: Prepared.
            folder: The dataset's folder.

        Raises:
            SourceError: A file cannot be read or is no image.
            OutputError: A worker died, or wrote somewhere else.
        """
        ...


def pooled(
    pool: Executor, most: int, tasks: Iterator[Task], submit: Callable[[Task], Future[Receipt]]
) -> Iterator[tuple[Task, Receipt]]:
    """Run tasks in a pool, with at most ``most`` waiting; cancel the rest when one fails."""
    pending: dict[Future[Receipt], Task] = {}
    try:
        for task in tasks:
            pending[submit(task)] = task
            while len(pending) > most:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield pending.pop(future), future.result()
        for future, task in pending.items():
            yield task, future.result()
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise


def write(task: Task, containers: Containers, folder: Path) -> Receipt:
    """Writes a shard that was sent here: ``Task.sent``."""
    rows = replace(task.rows, containers=tuple(containers[task.subset]))
    return shards.write(task.job, rows, folder, task.options)
