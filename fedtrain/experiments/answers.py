"""Answers of ``fedkit experiment``: the same facts as data for machines and as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedrsic_data.answer import Shown, together
from fedrsic_data.errors import UsageError
from fedtrain.report.seed_table import FORMS, written
from fedtrain.runs.files import RESULT

if TYPE_CHECKING:
    from fedtrain.experiments.plan import DataPlan, PlannedRun
    from fedtrain.experiments.run import Finished


def check(form: str) -> None:
    """Refuse an unknown form of tables.

    Raises:
        UsageError: There is no such form.
    """
    if form not in FORMS:
        raise UsageError(f"--table {form}: should be one of {', '.join(FORMS)}")


def listed(datasets: Sequence[DataPlan], runs: Sequence[PlannedRun]) -> Shown:
    """The datasets and runs of an experiment, before anything is built."""
    finished = [(run.folder / RESULT).is_file() for run in runs]
    lines = [f"datasets: {len(datasets)}, runs: {len(runs)}, finished: {sum(finished)}"]
    lines += [f"  {run.name}{' (finished)' if done else ''}" for run, done in zip(runs, finished, strict=True)]
    data = {
        "datasets": [one.place for one in datasets],
        "runs": [
            {"name": run.name, "folder": str(run.folder), "finished": done, "seed": run.seed, **run.facts}
            for run, done in zip(runs, finished, strict=True)
        ],
    }
    return Shown(data, together(lines))


def line(run: PlannedRun, number: int, runs: int, failed: str | None) -> str:
    """A line of progress."""
    return f"run {number} of {runs}: {run.name}" + (f" failed: {failed}" if failed else "")


def finished(done: Finished, form: str) -> Shown:
    """The tables, and the runs that failed."""
    lines = [line for table in done.tables for line in [*written(table, form).splitlines(), ""]]
    failed = [f"failed: {name}: {words}" for name, words in done.failed.items()]
    where = (
        [] if form != "text" else [f"{done.folder}: {len(done.runs)} runs", f"next: fedkit report {done.folder}/runs"]
    )
    data = {
        "folder": str(done.folder),
        "runs": [{"name": run.name, "folder": str(run.folder), "seed": run.seed, **run.facts} for run in done.runs],
        "failed": dict(done.failed),
        "tables": [
            {
                "metric": table.metric,
                "cells": [
                    {
                        "row": row,
                        "column": column,
                        "mean": c.mean,
                        "std": c.std,
                        "n": len(c.values),
                        "p": c.p,
                        "best": c.best,
                    }
                    for (row, column), c in table.cells.items()
                ],
            }
            for table in done.tables
        ],
    }
    return Shown(data, together([*lines, *failed, *where]))
