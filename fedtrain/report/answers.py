"""Answers of the training commands: the same facts as data for machines and as tables for people."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrsic_data import answer
from fedrsic_data.answer import Shown, as_json, csv_cell, markdown, records, together
from fedrsic_data.dataset.recipe import SAMPLE
from fedrsic_data.errors import UsageError
from fedrsic_data.settings import assigned, encode, suggest
from fedtrain.report.papers import as_papers, rows_of
from fedtrain.runs.folder import Result
from fedtrain.runs.results import Group, account, cell, engine, figures, story

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fedrsic_data.dataset.verify import Problem
    from fedtrain.methods.base import Method


def trained(results: Sequence[Result], sets: Sequence[str] = ()) -> Shown:
    """Table of finished runs of one method, one column per subset, and the next steps.

    Args:
        results: The runs.
        sets: The ``key=value`` texts they were made with, for the command that makes another.
    """
    data = {"runs": [_run(result) for result in results]}
    first = results[0].facts["config"]
    columns = {r.facts["config"]["subset"]: {name: cell(name, v) for name, v in figures(r).items()} for r in results}
    sample = f" ({SAMPLE})" if results[0].facts["dataset"]["sample"] else ""
    parts: list[RenderableType] = [f"{first['method']} on {results[0].facts['dataset']['name']}{sample}"]
    parts += [f"  {result.folder}: {story(result)}" for result in results]
    parts.append(_table("metric", columns))
    accounts = {r.facts["config"]["subset"]: found for r in results if (found := account(r))}
    parts += [_table("time and memory", accounts)] if accounts else []
    parts.append("next:")
    parts.append(f"  fedkit compare {shlex.join(str(r.folder) for r in results)}")
    if len(results) == 1:
        subset, path = first["subset"], first["manifest"]
        seed = first["seed"] + 1
        where = ["--engine", "flower"] if engine(results[0]) == "simulation" else []
        same = [word for text in sets for word in _option(*assigned(text))]
        words = ["fedkit", "train", first["method"], "--manifest", path, "--subset", subset, *same, *where]
        words += ["--seed", str(seed)]
        parts.append(f"  {shlex.join(words)}")
    return Shown(data, together(parts))


def compared(groups: Sequence[Group], form: str) -> Shown:
    """A table of groups of runs: a row per metric, a column per group, with mean and spread over seeds.

    Args:
        groups: From ``grouped``.
        form: ``text``, ``csv``, ``json`` or ``markdown``.

    Raises:
        UsageError: There is no such form.
    """
    forms: dict[str, Callable[[Sequence[Group]], RenderableType]] = {
        "text": _as_text,
        "csv": lambda groups: _verbatim(_as_csv(groups)),
        "json": lambda groups: _verbatim(as_json(_as_data(groups))),
        "markdown": lambda groups: _verbatim(_as_markdown(groups)),
    }
    if form not in forms:
        raise UsageError(f"--format {form!r}: is not a format{suggest(form, forms)}")
    return Shown(_as_data(groups), forms[form](groups))


def verified(path: Path, run: Result, problems: Sequence[Problem], notes: Sequence[str]) -> Shown:
    """The outcome of verifying a run; see ``runs.verify.check_run``."""
    config, dataset = run.facts["config"], run.facts["dataset"]
    seal = run.data.get("seal")
    data = {
        "path": str(path),
        "ok": not problems,
        "sealed": seal is not None,
        "seal": seal,
        "run": run.facts["run"],
        "dataset": dataset,
        "problems": [encode(problem) for problem in problems],
        "notes": list(notes),
    }
    lines = [f"{problem.file}: {problem.words}" for problem in problems]
    if problems:
        return Shown(data, together([*lines, *notes, "FAILED"]))
    what = f"{config['method']} on {config['subset']} of {dataset['name']}, seed {config['seed']}"
    return Shown(
        data,
        together(
            [
                f"{path}: config, rounds and metrics of {what}, are what the run left",
                f"  seal {seal}",
                f"  dataset {dataset['digest']}",
                *(f"  {note}" for note in notes),
            ]
        ),
    )


def methods() -> Shown:
    """The methods that can be trained, with their settings."""
    from fedtrain.methods import METHODS

    rows = [{"method": name, **its} for name, its in METHODS.facts(_method)]
    return Shown({"methods": rows}, together(["methods", *records(rows)]))


def _method(kind: type[Method]) -> dict[str, Any]:
    what = (kind.__doc__ or "").strip().partition("\n")[0]
    return {
        "data": ", ".join(kind.kinds),
        "rounds": kind.rounds,
        "settings (default)": encode(kind.Settings()),
        "what": what,
    }


def _run(result: Result) -> dict[str, Any]:
    config = result.facts["config"]
    return {
        "folder": str(result.folder),
        "trained": result.trained,
        **{key: config[key] for key in ("method", "subset", "seed")},
        "dataset": result.facts["dataset"],
        "config": config,
        **{key: value for key, value in result.data.items() if key != "fedkit"},
    }


def _option(key: str, value: str) -> list[str]:
    """A setting as an option; the seed has none, for the next run has another."""
    return [] if key in ("seed", "run.seed") else [f"--{key.replace('_', '-')}", value]


def _by_subset(groups: Sequence[Group]) -> dict[str, dict[str, dict[str, str]]]:
    """Title of a table -> label of a group -> metric -> cell."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for group in groups:
        title = f"{group.subset} of {group.dataset}" + (f" ({SAMPLE})" if group.sample else "")
        label = f"{group.label} ({len(group.seeds)} runs)" if len(group.seeds) > 1 else group.label
        columns = tables.setdefault(title, {})
        if label in columns:  # the dataset was built anew in between
            label += f" #{len(columns) + 1}"
        columns[label] = {name: cell(name, spread) for name, spread in group.figures.items()}
    return tables


def _as_text(groups: Sequence[Group]) -> RenderableType:
    parts: list[RenderableType] = []
    for title, columns in _by_subset(groups).items():
        parts += [title, _table("metric", columns)]
    for title, rows in as_papers(groups).items():
        parts += [title, _rows("method", rows)]
    if any(len(group.seeds) > 1 for group in groups):
        parts.append("mean ± standard deviation over runs that differ in their seed alone")
    return together(parts)


def _as_markdown(groups: Sequence[Group]) -> str:
    tables = [("metric", title, _by_row(columns)) for title, columns in _by_subset(groups).items()]
    tables += [("method", title, rows) for title, rows in as_papers(groups).items()]
    return "\n".join(_markdown_table(*parts) for parts in tables)


def _markdown_table(corner: str, title: str, rows: Mapping[str, Mapping[str, str]]) -> str:
    names = _names(rows)
    cells = [[markdown(name), *(row.get(column, "-") for column in names)] for name, row in rows.items()]
    lines = ["| " + " | ".join(line) + " |" for line in ([corner, *map(markdown, names)], *cells)]
    return "\n".join([f"### {markdown(title)}", "", lines[0], "|---|" + "---:|" * len(names), *lines[1:], ""])


def _as_csv(groups: Sequence[Group]) -> str:
    """One row per group and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["dataset", "subset", "run", "metric", "mean", "std", "least", "most", "runs"])
    for group in groups:
        for name, s in group.figures.items():
            std = "" if s.std is None else s.std
            names = map(csv_cell, (group.dataset, group.subset, group.label, name))
            writer.writerow([*names, s.mean, std, s.least, s.most, s.runs])
    return file.getvalue().rstrip("\n")


def _as_data(groups: Sequence[Group]) -> dict[str, Any]:
    known = {json.dumps(encode(row)): row for group in groups for row in rows_of(group)}
    return {"groups": [encode(group) for group in groups], "published": [encode(row) for row in known.values()]}


def _names(columns: Mapping[str, Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for column in columns.values() for name in column))


def _by_row(columns: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Rows from columns: all that any column has."""
    return {name: {label: column.get(name, "-") for label, column in columns.items()} for name in _names(columns)}


def _table(corner: str, columns: Mapping[str, Mapping[str, str]]) -> RenderableType:
    """A table from its columns."""
    return _rows(corner, _by_row(columns))


def _rows(corner: str, rows: Mapping[str, Mapping[str, str]]) -> RenderableType:
    return answer.columns([corner, *_names(rows)], [[name, *row.values()] for name, row in rows.items()])


def _verbatim(text: str) -> RenderableType:
    from rich.console import Group as Together
    from rich.text import Text

    return Together(Text(text, no_wrap=True, overflow="ignore"))  # alone, it would lose these settings
