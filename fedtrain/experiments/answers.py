"""Answers of ``fedkit experiment``: the same facts as data for machines and as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedrsic_data.answer import Shown, columns, records, together
from fedrsic_data.settings import encode
from fedtrain.experiments import spec
from fedtrain.report.seed_table import on_screen, written
from fedtrain.runs.files import RESULT

if TYPE_CHECKING:
    from fedtrain.experiments.plan import DataPlan, PlannedRun
    from fedtrain.experiments.run import Ended, Finished
    from fedtrain.experiments.spec import ProtocolSpec


def shipped() -> Shown:
    """The experiments that come with fedkit."""
    rows = []
    for name, path in spec.shipped().items():
        held = spec.load(path)
        methods = dict.fromkeys(one if isinstance(one, str) else one.name or one.method for one in held.methods)
        rows.append({"experiment": name, "methods": ", ".join(methods), "title": held.title})
    return Shown({"experiments": rows}, together(["experiments", *records(rows)]))


def listed(datasets: Sequence[DataPlan], runs: Sequence[PlannedRun], protocol: ProtocolSpec | None = None) -> Shown:
    """The datasets and runs of an experiment, before anything is built."""
    finished = [(run.folder / RESULT).is_file() for run in runs]
    lines = [f"datasets: {len(datasets)}, runs: {len(runs)}, finished: {sum(finished)}"]
    lines += [f"  {run.name}{' (finished)' if done else ''}" for run, done in zip(runs, finished, strict=True)]
    lines += _protocol(protocol)
    data = {
        "protocol": encode(protocol),
        "datasets": [one.place for one in datasets],
        "runs": [
            {"name": run.name, "folder": str(run.folder), "finished": done, "seed": run.seed, **run.facts}
            for run, done in zip(runs, finished, strict=True)
        ],
    }
    return Shown(data, together(lines))


def _protocol(protocol: ProtocolSpec | None) -> list[str]:
    if protocol is None:
        return []
    return [
        f"protocol: {protocol.of}",
        *(f"  certain: {words}" for words in protocol.certain),
        *(f"  assumed: {words}" for words in protocol.assumed),
    ]


def line(ended: Ended, number: int, runs: int) -> str:
    """A line of progress."""
    how = f" failed: {ended.failed}" if ended.failed else "" if ended.trained else " was finished already"
    return f"run {number} of {runs}: {ended.run.name}{how}"


def finished(done: Finished, form: str) -> Shown:
    """The tables, and the runs that failed; a text ends with the tables as LaTeX."""
    tables = [
        part
        for table in done.tables
        for part in [*(on_screen(table) if form == "text" else written(table, form).splitlines()), ""]
    ]
    failed = [f"failed: {name}: {words}" for name, words in done.failed.items()]
    report = [f"{done.report}: open it in a browser"] if done.report else []
    where = [f"{done.folder}: {len(done.runs)} runs and their tables", *report]
    if done.part:
        where = [f"{done.folder}: --only took {len(done.runs)} runs; their tables are printed and not written"]
    if form == "text":
        for title, rows in done.published.items():
            names = list(dict.fromkeys(name for row in rows.values() for name in row))
            cells = [[label, *(row.get(name, "-") for name in names)] for label, row in rows.items()]
            tables += [title, columns(["method", *names], cells), ""]
        where = [*_protocol(done.protocol), *done.apart, *where]
        where += [line for table in done.tables for line in ["", *written(table, "latex").splitlines()]]
    data = {
        "protocol": encode(done.protocol),
        "published": {"tables": done.published, "apart": list(done.apart)},
        "folder": str(done.folder),
        "report": str(done.report) if done.report else None,
        "part": done.part,
        "runs": [{"name": run.name, "folder": str(run.folder), "seed": run.seed, **run.facts} for run in done.runs],
        "failed": dict(done.failed),
        "tables": [
            {
                "metric": table.metric,
                "cells": [
                    {
                        "row": row,
                        "column": column,
                        "metric": c.metric,
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
    return Shown(data, together([*tables, *failed, *(where if form == "text" else [])]))
