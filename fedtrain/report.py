"""What the trainer's commands print: the same facts as data for machines and as tables for people."""

from __future__ import annotations

import csv
import io
import json
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import encode, suggest
from fedrsic_data.shown import Shown, plain, together
from fedtrain import folder as folders
from fedtrain import published
from fedtrain.config import NEUTRAL
from fedtrain.files import CONFIG, RESULT
from fedtrain.folder import Result

if TYPE_CHECKING:
    from rich.console import RenderableType

FLOATS, BYTES = "sent/floats per client and round", "sent/bytes per client and round"


@dataclass(frozen=True)
class Spread:
    """A figure over runs that differ in their seed alone.

    Attributes:
        mean: Its mean.
        std: Its standard deviation (of a sample: divided by runs - 1); None for one run.
        least: Its smallest value.
        most: Its largest value.
        runs: How many runs have it.
    """

    mean: float
    std: float | None
    least: float
    most: float
    runs: int


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: The method, and what tells it from other groups of that method.
        subset: The federation.
        dataset: Name of the dataset.
        sample: Whether its images are procedural.
        sources: Names of the sources of its dataset.
        labels: ``coarse`` or ``fine``, where images have label sets; else empty.
        seeds: Seeds of the runs.
        figures: Spread of every figure.
    """

    label: str
    subset: str
    dataset: str
    sample: bool
    sources: tuple[str, ...]
    labels: str
    seeds: tuple[int, ...]
    figures: dict[str, Spread]


def trained(results: Sequence[Result], sets: Sequence[str] = ()) -> Shown:
    """Finished runs of one method, a column a subset, and what to do next.

    Args:
        results: The runs.
        sets: The ``key=value`` texts they were made with, for the command that makes another.
    """
    data = {"runs": [_run(result) for result in results]}
    first = results[0].facts["config"]
    columns = {r.facts["config"]["subset"]: {name: _cell(name, v) for name, v in _figures(r).items()} for r in results}
    sample = " (procedural sample, not real data)" if results[0].facts["dataset"]["sample"] else ""
    parts: list[RenderableType] = [f"{first['method']} on {results[0].facts['dataset']['name']}{sample}"]
    parts += [f"  {result.folder}: {_story(result)}" for result in results]
    parts += [_table("figure", columns), "next:"]
    parts.append(f"  fedkit compare {shlex.join(str(r.folder) for r in results)}")
    if len(results) == 1:
        subset, path = first["subset"], first["manifest"]
        seed = first["seed"] + 1
        same = [word for text in sets if text.partition("=")[0] not in ("seed", "run.seed") for word in ("--set", text)]
        words = ["fedkit", "train", first["method"], "--manifest", path, "--subset", subset, *same, "--seed", str(seed)]
        parts.append(f"  {shlex.join(words)}")
    return Shown(data, together(parts))


def found(paths: Sequence[Path], note: Callable[[str], None] = lambda _: None) -> list[Result]:
    """The finished runs that a person names, each once.

    Args:
        paths: Folders of runs, or folders that hold such folders, or folders of those.
        note: Told which of the runs in a folder are left out, and why.

    Raises:
        OutputError: A folder holds no finished run.
    """
    runs: dict[str, Result] = {}
    for path in paths:
        inner = []
        if not (path / CONFIG).is_file():
            inner = sorted(p.parent for depth in ("*", "*/*") for p in path.glob(f"{depth}/{CONFIG}"))
        finished = [one for one in inner if (one / RESULT).is_file()]
        for one in inner:
            if one not in finished:
                note(f"{one}: is not finished, left out")
        for one in finished or [path]:
            run = folders.load(one)
            twin = runs.setdefault(run.facts["run"], run)
            if twin.folder.resolve() != one.resolve():
                note(f"{one}: is the same run as {twin.folder}, left out")
    return list(runs.values())


def learned(results: Sequence[Result]) -> bool:
    """Whether every run that trained could use an update."""
    counters = [result.data["counters"] for result in results]
    return not any(held["updates"] and held["refused"] == held["updates"] for held in counters)


def by_seed(results: Sequence[Result]) -> list[list[Result]]:
    """Runs with the same config but for the seed beside each other, in the order they were named."""
    sets: dict[str, list[Result]] = {}
    for result in results:
        sets.setdefault(result.facts["group"], []).append(result)
    return list(sets.values())


def grouped(results: Sequence[Result]) -> list[Group]:
    """A group for each of ``by_seed``, told apart from the others by its label."""
    sets = by_seed(results)
    labels = _labels([runs[0] for runs in sets])
    groups = []
    for label, runs in zip(labels, sets, strict=True):
        facts = runs[0].facts
        names = dict.fromkeys(name for run in runs for name in _figures(run))
        groups.append(
            Group(
                label=label,
                subset=facts["config"]["subset"],
                dataset=facts["dataset"]["name"],
                sample=facts["dataset"]["sample"],
                sources=tuple(facts["dataset"].get("sources", ())),
                labels=facts["config"]["method_settings"].get("labels", ""),
                seeds=tuple(run.facts["config"]["seed"] for run in runs),
                figures={name: spread for name in names if (spread := _spread([_figures(r)[name] for r in runs]))},
            )
        )
    return groups


def compared(groups: Sequence[Group], form: str) -> Shown:
    """A table of groups of runs: figures down, groups across, mean and spread over seeds.

    Args:
        groups: From ``grouped``.
        form: ``text``, ``csv``, ``json`` or ``markdown``.

    Raises:
        UsageError: There is no such form.
    """
    forms: dict[str, Callable[[Sequence[Group]], RenderableType]] = {
        "text": _as_text,
        "csv": lambda groups: _verbatim(_as_csv(groups)),
        "json": lambda groups: _verbatim(json.dumps(_as_data(groups), allow_nan=False)),
        "markdown": lambda groups: _verbatim(_as_markdown(groups)),
    }
    if form not in forms:
        raise UsageError(f"--format {form!r}: there is no such form{suggest(form, forms)}")
    return Shown(_as_data(groups), forms[form](groups))


def methods() -> Shown:
    """The methods that can be trained, with their settings."""
    from fedtrain.methods import METHODS

    rows = [
        {
            "method": name,
            "rounds": kind.rounds,
            "settings (default)": encode(kind.Settings()),
            "what": (kind.__doc__ or "").strip().partition("\n")[0],
        }
        for name, kind in METHODS.items()
    ]
    cells = {
        str(row["method"]): {
            "rounds": str(row["rounds"]),
            "settings (default)": ", ".join(f"{k}={json.dumps(v)}" for k, v in row["settings (default)"].items()),
            "what": str(row["what"]),
        }
        for row in rows
    }
    return Shown({"methods": rows}, together(["methods", _rows("method", cells)]))


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


def _figures(result: Result) -> dict[str, float | None]:
    """Its figures, and what its clients sent."""
    counters = result.data["counters"]
    sent = {FLOATS: float(counters["client_floats"]), BYTES: float(counters["client_bytes"])}
    return {**result.data["figures"], **sent}


def _story(result: Result) -> str:
    """How a run went, in words."""
    data, counters = result.data, result.data["counters"]
    words = [f"{data['rounds']} rounds in {data['seconds']:,.1f} s" if result.trained else "was finished already"]
    if n := len(data["clients_without_training_rows"]):
        words.append(f"{n} clients without training rows")
    words += [f"{counters[key]} updates {key}" for key in ("refused", "dropped") if counters[key]]
    if not learned([result]):
        words.append("which is every one: the model is the one it began with")
    return ", ".join(words)


def _spread(values: Sequence[float | None]) -> Spread | None:
    held = [value for value in values if value is not None]
    if not held:
        return None
    std = statistics.stdev(held) if len(held) > 1 else None
    return Spread(statistics.fmean(held), std, min(held), max(held), len(held))


def _labels(results: Sequence[Result]) -> list[str]:
    """Names of groups: the method, and what of its config differs between groups of that method on that subset."""
    flat = [_flat(result) for result in results]
    labels = []
    for mine in flat:
        rivals = [f for f in flat if (f["method"], f["subset"]) == (mine["method"], mine["subset"])]
        differing = [key for key in mine if any(f.get(key) != mine[key] for f in rivals)]
        settings = [f"{key}={_word(mine[key])}" for key in differing]
        labels.append(" ".join([mine["method"], *settings]))
    return labels


def _flat(result: Result) -> dict[str, Any]:
    config = result.facts["config"]
    flat = {k: v for k, v in config.items() if k not in (*NEUTRAL, "seed", "method_settings")}
    return {**flat, **config["method_settings"], "manifest": config["manifest"]}


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(name: str, value: float | Spread | None) -> str:
    if value is None:
        return "-"
    form = ",.0f" if name in (FLOATS, BYTES) else ".2f"
    if not isinstance(value, Spread):
        return f"{value:{form}}"
    return f"{value.mean:{form}}" + (f" ± {value.std:{form}}" if value.std else "")


def _by_subset(groups: Sequence[Group]) -> dict[str, dict[str, dict[str, str]]]:
    """Title of a table -> label of a group -> figure -> cell."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for group in groups:
        title = f"{group.subset} of {group.dataset}" + (" (procedural sample, not real data)" if group.sample else "")
        label = f"{group.label} ({len(group.seeds)} runs)" if len(group.seeds) > 1 else group.label
        columns = tables.setdefault(title, {})
        if label in columns:  # the dataset was built anew in between
            label += f" #{len(columns) + 1}"
        columns[label] = {name: _cell(name, spread) for name, spread in group.figures.items()}
    return tables


def _as_text(groups: Sequence[Group]) -> RenderableType:
    parts: list[RenderableType] = []
    for title, columns in _by_subset(groups).items():
        parts += [title, _table("figure", columns)]
    for title, rows in as_papers(groups).items():
        parts += [title, _rows("method", rows, right=True)]
    if any(len(group.seeds) > 1 for group in groups):
        parts.append("mean ± standard deviation over runs that differ in their seed alone")
    return together(parts)


def _as_markdown(groups: Sequence[Group]) -> str:
    lines = []
    for title, columns in _by_subset(groups).items():
        lines += [f"### {title}", "", "| figure | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
        for name in _names(columns):
            lines.append(f"| {name} | " + " | ".join(column.get(name, "-") for column in columns.values()) + " |")
        lines.append("")
    for title, rows in as_papers(groups).items():
        names = _names(rows)
        lines += [f"### {title}", "", "| method | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        lines += [f"| {row} | " + " | ".join(cells.values()) + " |" for row, cells in rows.items()] + [""]
    return "\n".join(lines)


def _as_csv(groups: Sequence[Group]) -> str:
    """A row a group and figure."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["dataset", "subset", "run", "figure", "mean", "std", "least", "most", "runs"])
    for group in groups:
        for name, s in group.figures.items():
            std = "" if s.std is None else s.std
            writer.writerow([group.dataset, group.subset, group.label, name, s.mean, std, s.least, s.most, s.runs])
    return file.getvalue().rstrip("\n")


def _as_data(groups: Sequence[Group]) -> dict[str, Any]:
    known = {key: published.of(*key) for group in groups for key in _published_keys(group)}
    return {
        "groups": [encode(group) for group in groups],
        "published": [encode(row) for rows in known.values() for row in rows],
    }


def _published_keys(group: Group) -> list[tuple[str, str]]:
    return [(source, group.labels) for source in group.sources]


def as_papers(groups: Sequence[Group]) -> dict[str, dict[str, dict[str, str]]]:
    """Title -> method -> figure -> cell: test figures of label sets as papers lay them out, with what they publish."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for group in groups:
        known = [row for key in _published_keys(group) for row in published.of(*key)]
        if not known or "test/C-AP" not in group.figures:
            continue
        stand_in = " (procedural sample, not real data)" if group.sample else ""
        title = f"{group.subset} of {group.dataset}{stand_in}, {group.labels} labels, as papers print them"
        ours = {name: _cell(name, group.figures.get(f"test/{name}")) for name in published.COLUMNS}
        tables.setdefault(title, {})[f"{group.label} ({_runs(len(group.seeds))}, ours)"] = ours
        for row in known:
            cells = {name: _cell(name, row.figures.get(name)) for name in published.COLUMNS}
            theirs = f"{row.method} (published on real {row.source}: {row.paper}; not measured here)"
            tables[title][theirs] = tables[title].pop(theirs, cells)  # below all of ours
    return tables


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"


def _names(columns: Mapping[str, Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(name for column in columns.values() for name in column))


def _table(corner: str, columns: Mapping[str, Mapping[str, str]]) -> RenderableType:
    """A table from its columns; rows are all that any column has."""
    rows = {name: {label: column.get(name, "-") for label, column in columns.items()} for name in _names(columns)}
    return _rows(corner, rows, right=True)


def _rows(corner: str, rows: Mapping[str, Mapping[str, str]], *, right: bool = False) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(corner, overflow="fold")
    for name in _names(rows):
        table.add_column(Text(plain(name)), justify="right" if right else "left", overflow="fold")
    for name, cells in rows.items():
        table.add_row(*(Text(plain(cell)) for cell in (name, *cells.values())))
    return table


def _verbatim(text: str) -> RenderableType:
    from rich.console import Group as Together
    from rich.text import Text

    return Together(Text(text, no_wrap=True, overflow="ignore"))  # alone, it would lose these settings
