"""A report of datasets and runs as one page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrsic_data.answer import Shown, together
from fedrsic_data.dataset.manifest import located
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.dataset.recipe import SAMPLE_WARNING
from fedrsic_data.errors import OutputError, UsageError, translated
from fedrsic_data.files import ownership
from fedrsic_data.files.atomic import write
from fedrsic_data.report import style
from fedrsic_data.report.dataset import sections
from fedrsic_data.report.page import Block, Cell, Figure, Page, Section, Table, render
from fedrsic_data.report.style import Drawing, Numbers
from fedrsic_data.settings import local
from fedtrain.report.papers import as_papers
from fedtrain.runs.files import CONFIG
from fedtrain.runs.results import cell, is_cost

if TYPE_CHECKING:
    from fedtrain.report.curves import Runs

_REPORT = re.compile(  # how a report begins; the second is of fedkit 0.1
    rb"""\s*<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta """
    rb"""(name="generator" content="fedkit">|http-equiv="Content-Security-Policy" content="default-src 'none'; """
    rb"""img-src data:; style-src 'unsafe-inline'; script-src 'sha256-)"""
)
CURVES = 9
"""Maximum number of metrics per subset that are drawn over rounds; the others are in the tables."""


def report(
    paths: Sequence[Path], out: Path, *, images: bool = True, step: Callable[[str], None] = lambda _: None
) -> Shown:
    """Write a report of built datasets and finished runs, and return its place.

    Args:
        paths: Manifests or their folders, runs, folders of runs.
        out: The HTML file; another report is replaced, nothing else.
        images: Show thumbnails of sample images.
        step: Called with the next step.

    Raises:
        UsageError: ``out`` is a folder or a URL.
        ManifestError: A dataset cannot be read.
        OutputError: A run is damaged or not finished, or the file cannot be written or is no report.
    """
    check(out)
    made = page(paths, images=images, step=step)
    html = render(made).encode()
    with translated(OutputError, f"--out {out}", "cannot be written", "choose another"):
        out.parent.mkdir(parents=True, exist_ok=True)
    write(out, html)
    data = {"report": str(out), "bytes": len(html), "sections": [section.title for section in made.sections]}
    size = f"{len(html) / 1e6:.1f} MB" if len(html) >= 1e5 else f"{len(html) / 1e3:.0f} kB"
    count = f"{len(made.sections)} section{'s' * (len(made.sections) != 1)}"
    return Shown(data, together([f"{out}: {count}, {size}, one file; open it in a browser"]))


def page(paths: Sequence[Path], *, images: bool = True, step: Callable[[str], None] = lambda _: None) -> Page:
    """The report before it is HTML; see ``report``."""
    runs = [path for path in paths if _has_runs(path)]
    folders = dict.fromkeys(located(path) for path in paths if path not in runs)
    datasets = [Dataset(path) for path in folders]
    left_out: list[str] = []
    groups = _grouped(runs, left_out.append) if runs else []
    parts = [*_run_sections(groups, step)]
    parts += [part for dataset in datasets for part in sections(dataset, images=images, step=step)]
    sample = any(d.manifest.recipe.sample is not None for d in datasets) or any(g.group.sample for g in groups)
    names = dict.fromkeys([*(d.manifest.name for d in datasets), *(g.group.dataset for g in groups)])
    methods = dict.fromkeys(one.method for one in groups)
    words = [*([f"Methods: {', '.join(methods)}."] if methods else []), *left_out]
    ids = [section.name for section in parts]
    parts = [  # two datasets may have a subset of one name
        Section(f"{s.name}-{i}" if ids.count(s.name) > 1 else s.name, s.title, s.words, s.blocks)
        for i, s in enumerate(parts)
    ]
    return Page(" and ".join(names), tuple(words), tuple(parts), f"Sample data: {SAMPLE_WARNING}" if sample else "")


def _has_runs(path: Path) -> bool:
    """Whether a path is a run or a folder of runs; else it is a dataset, or nothing."""
    try:
        return any(next(path.glob(f"{depth}{CONFIG}"), None) for depth in ("", "*/", "*/*/"))
    except OSError:  # reading it as a manifest next says why
        return False


def check(out: Path) -> None:
    """Refuse to overwrite another file with a report, before reading anything; errors as for ``report``."""
    local("--out", out)
    with translated(OutputError, f"--out {out}", "cannot be written", "choose another"):
        if out.is_dir():
            raise UsageError(f"--out {out}: is a folder; name a file, such as {out / 'report.html'}")
        if out.suffix.lower() not in (".html", ".htm"):
            raise UsageError(f"--out {out}: should end in .html")
        ownership.check_file(out, lambda text: _REPORT.match(text) is not None, "report", "choose another --out")


def _grouped(paths: Sequence[Path], note: Callable[[str], None]) -> list[Runs]:
    from fedtrain.report.curves import REFERENCE, Runs
    from fedtrain.runs.results import by_seed, found, grouped

    results = found(paths, note)
    made: list[Runs] = []
    series: dict[str, int] = {REFERENCE: 0}
    for group, runs in zip(grouped(results), by_seed(results), strict=True):
        method = runs[0].facts["config"]["method"]
        place = sum(one.method == method and one.group.subset == group.subset for one in made)
        made.append(Runs(group, tuple(runs), place, series.setdefault(method, len(series) - 1)))
    return made


def _run_sections(groups: Sequence[Runs], step: Callable[[str], None]) -> Iterator[Section]:
    """A section for every subset that was trained on."""
    subsets: dict[tuple[str, str], list[Runs]] = {}
    for one in groups:
        subsets.setdefault((one.group.dataset, one.group.subset), []).append(one)
    for (dataset, subset), runs in subsets.items():
        step(f"drawing the runs on {subset} of {dataset}")
        yield _runs(dataset, subset, runs)


def _runs(dataset: str, subset: str, runs: Sequence[Runs]) -> Section:
    from fedtrain.report import curves

    known = [name for name in curves.names(runs) if not _of_class(name)]
    headline = next((name for name in known if name.endswith("/mean")), known[0])
    drawn: list[Drawing] = []
    for i, part in enumerate(curves.parts(runs)):
        made = [curves.curve(subset, name, part) for name in (*known[:-1][: CURVES - 1], known[-1])]
        made += [curves.sent(subset, headline, part)] if headline != "loss" else []
        made += [curves.clients(subset, split, figure, part) for split, figure in _client_figures(part)]
        drawn += [replace(one, name=f"{one.name}-{i + 1}") for one in made] if i else made
    blocks: list[Block] = [_finals(runs), *map(Figure, drawn)]
    blocks += [table for table in (_classes(runs),) if table.numbers.rows]
    blocks += [*_papers(runs), _configs(runs), _single(runs)]
    blocks += [table for table in (_accounts(runs),) if table.numbers.rows]
    seeds = max(len(one.results) for one in runs)
    words = ["Curves are means over seeds, bands reach from the smallest to the largest."] if seeds > 1 else []
    left = known[:-1][CURVES - 1 :]
    words += [f"In the tables only: {', '.join(left)}."] if left else []
    title = f"{', '.join(dict.fromkeys(one.method for one in runs))} on {subset} of {dataset}"
    return Section(f"runs-{style.slug(dataset)}-{style.slug(subset)}", title, tuple(words), tuple(blocks))


def _finals(runs: Sequence[Runs]) -> Table:
    """One row per method and one column per metric, as papers print them; the best of a column is marked."""
    names = [n for n in dict.fromkeys(n for one in runs for n in one.group.figures) if not _of_class(n)]
    rows = []
    for one in runs:
        cells: list[Cell] = [one.group.label, len(one.results)]
        rows.append((*cells, *(cell(name, one.group.figures.get(name)) for name in names)))
    best = set()
    for column, name in enumerate(names, 2):
        if is_cost(name) or len(runs) < 2:
            continue
        means = {i: one.group.figures[name].mean for i, one in enumerate(runs) if name in one.group.figures}
        best |= {(i, column) for i, mean in means.items() if len(means) > 1 and mean == max(means.values())}
    note = (
        "Mean ± standard deviation over seeds (divided by runs - 1); metrics in percent; the best of a column is bold."
    )
    return Table("Final metrics", Numbers(("run", "seeds", *names), tuple(rows)), note, best=frozenset(best))


def _papers(runs: Sequence[Runs]) -> list[Table]:
    """Multi-label metrics in the layout of papers, with published results."""
    tables = []
    for title, cells in as_papers([one.group for one in runs]).items():
        names = tuple(dict.fromkeys(name for row in cells.values() for name in row))
        rows = tuple((method, *(row.get(name, "-") for name in names)) for method, row in cells.items())
        tables.append(Table(title, Numbers(("method", *names), rows)))
    return tables


def _classes(runs: Sequence[Runs]) -> Table:
    """Metrics of single classes: one row per class."""
    names = dict.fromkeys(n for one in runs for n in one.group.figures if _of_class(n))
    rows = tuple((name, *(cell(name, one.group.figures.get(name)) for one in runs)) for name in names)
    return Table("Metrics of classes", Numbers(("metric", *(one.group.label for one in runs)), rows))


def _configs(runs: Sequence[Runs]) -> Table:
    """Configs side by side, with differences first and marked."""
    flat = [_flat(one.results[0].facts) for one in runs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    differs = [key for key in keys if len({config.get(key) for config in flat}) > 1]
    ordered = [*differs, *(key for key in keys if key not in differs)]
    rows = tuple((key, *(config.get(key, "-") for config in flat), "yes" if key in differs else "") for key in ordered)
    note = "Seeds apart. What differs stands first."
    header = ("setting", *(one.group.label for one in runs), "differs")
    return Table("Configs side by side", Numbers(header, rows), note, marked=frozenset(range(len(differs))))


def _flat(facts: Mapping[str, Any]) -> dict[str, str]:
    config = {k: v for k, v in facts["config"].items() if k not in ("method_settings", "seed", "manifest")}
    flat = {**config, **{f"method.{k}": v for k, v in facts["config"].get("method_settings", {}).items()}}
    flat |= {"dataset": facts["dataset"].get("digest", "")[:12], **facts["dataset"].get("recipe", {})}
    flat |= facts.get("versions", {})
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}


def _single(runs: Sequence[Runs]) -> Table:
    """Every run: its folder, time and traffic."""
    rows = []
    for one in runs:
        for run in one.results:
            counters = run.data["counters"]
            counted: list[Cell] = [counters.get(key, 0) for key in ("updates", "floats", "bytes", "refused", "dropped")]
            seed, rounds = run.facts["config"]["seed"], run.data.get("rounds")
            rows.append(
                (os.fspath(run.folder), one.group.label, seed, rounds, float(run.data.get("seconds", 0)), *counted)
            )
    counted_as = ("updates", "numbers sent", "bytes sent", "refused", "dropped")
    header = ("folder", "run", "seed", "rounds", "seconds", *counted_as)
    return Table("Runs", Numbers(header, tuple(rows)), digits=1)


def _accounts(runs: Sequence[Runs]) -> Table:
    """Where the time and memory of profiled runs went."""
    from fedtrain.runs.results import account

    found = [(os.fspath(run.folder), account(run)) for one in runs for run in one.results]
    found = [(folder, texts) for folder, texts in found if texts]
    names = dict.fromkeys(name for _, texts in found for name in texts)
    rows = tuple((name, *(texts.get(name, "") for _, texts in found)) for name in names)
    return Table("Time and memory", Numbers(("phase", *(folder for folder, _ in found)), rows))


def _client_figures(runs: Sequence[Runs]) -> list[tuple[str, str]]:
    found = (
        (split, figure)
        for one in runs
        for run in one.results
        for split, figures in run.data["clients"].items()
        for figure in figures
        if figure != "rows"
    )
    return list(dict.fromkeys(found))


def _of_class(figure: str) -> bool:
    """Whether a metric is of one class: ``test/AP/court``."""
    return "/AP/" in figure
