"""Train, load and compare runs from Python; the command line calls the same functions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.errors import UsageError, for_scripts
from fedrsic_data.files.cache import cache_folder
from fedrsic_data.settings import flags, path_of, suggest, texts
from fedtrain.progress import QUIET, Listener
from fedtrain.report.curves import Runs, curve
from fedtrain.report.seed_table import Cell, Filled, written
from fedtrain.runs.folder import Result
from fedtrain.runs.over_rounds import reader, rounds_of
from fedtrain.runs.results import by_seed, found, grouped, over_seeds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Place = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        result: What its folder holds.
    """

    result: Result

    @property
    def folder(self) -> Path:
        """Its folder, which ``load`` and ``compare`` take too."""
        return self.result.folder

    @property
    def config(self) -> dict[str, Any]:
        """Every setting of the run, none left to choose."""
        return dict(self.result.facts["config"])

    @cached_property
    def metrics(self) -> tuple[dict[str, Any], ...]:
        """A row per round: ``round``, ``loss``, what was sent, and the metrics of the rounds that were evaluated."""
        rows = rounds_of(self.result)
        return tuple({k: v for k, v in {**row, **row.get("figures", {})}.items() if k != "figures"} for row in rows)

    @property
    def final(self) -> dict[str, float | None]:
        """The metrics of the model that the run ended with; percentages are 0 to 100."""
        return dict(self.result.data["figures"])

    @property
    def clients(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Split -> metric -> client -> value."""
        return dict(self.result.data["clients"])

    def to_pandas(self) -> pd.DataFrame:
        """``metrics`` as a table with a row per round. pandas has to be installed."""
        import pandas as pd

        return pd.DataFrame(list(self.metrics)).set_index("round")

    def plot(self, metric: str = "loss") -> Figure:
        """A curve of a metric over the rounds.

        Raises:
            UsageError: The run has no metric of this name.
        """
        known = dict.fromkeys(name for row in self.metrics for name in row if name != "round")
        if metric not in known:
            raise UsageError(f"plot({metric!r}): the run has no such metric{suggest(metric, known)}")
        (group,) = grouped([self.result])
        figure: Figure = curve(self.config["subset"], metric, [Runs(group, (self.result,), 0)]).figure
        return figure

    def __repr__(self) -> str:
        config = self.config
        return f"<Run of {config['method']} on {config['subset']}, seed {config['seed']}, in {self.folder}>"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs side by side: a row per metric, a column per group of runs that differ in their seed alone.

    Attributes:
        table: The table, with the value of every seed in each cell.
    """

    table: Filled

    def to_markdown(self) -> str:
        """The table in Markdown: mean ± standard deviation over seeds."""
        return written(self.table, "markdown")

    def to_latex(self) -> str:
        """The table in LaTeX, for the package booktabs."""
        return written(self.table, "latex")

    def to_csv(self) -> str:
        """A row per cell with its mean, standard deviation and number of runs."""
        return written(self.table, "csv")

    def to_pandas(self) -> pd.DataFrame:
        """The means. pandas has to be installed."""
        import pandas as pd

        means = pd.Series({key: cell.mean for key, cell in self.table.cells.items()})
        return means.unstack().reindex(index=self.table.rows, columns=self.table.columns)

    def __repr__(self) -> str:
        return written(self.table, "text").rstrip()


@for_scripts
def train(
    method: str,
    data: Subset | Dataset | Place,
    *,
    subset: str | None = None,
    out: Place | None = None,
    overwrite: bool = False,
    engine: str = "local",
    listener: Listener = QUIET,
    **settings: Any,
) -> Run:
    """Train a method on a federation, or go on with a run that was stopped, or that is to have more rounds.

    A finished run is only read.

    >>> run = fedtrain.train("fedpgp", data["fed-ucmerced"], rounds=20, seed=0)  # doctest: +SKIP

    Args:
        method: The name of a method; see ``fedkit list methods``.
        data: A subset; or a dataset, opened or by its path or address, with ``subset`` where it has several.
        subset: Which subset of the dataset.
        out: The run's folder; None: ``runs/METHOD-DATASET-SUBSET-seedN``, with the settings that were changed.
        overwrite: Replace another run in the folder.
        engine: ``local``, in this process, or ``flower``, in its simulation.
        listener: Receives the progress.
        **settings: Settings of the run and the method, such as ``rounds=20, lr=0.1``; a dotted one is given as
            ``**{"dp.noise": 0.5}``.

    Raises:
        UsageError: An unknown method, subset or setting, or a value that cannot be used with this dataset.
        OutputError: The folder cannot be written, or holds another run.
    """
    from fedrsic_data import recipes
    from fedtrain import engines, run

    flags(overwrite=overwrite)
    config = run.draft(method, texts(settings))
    chosen = _subset(data, subset)
    wanted = replace(config, manifest=chosen.dataset.where, subset=chosen.name)
    return Run(
        run.train(
            wanted,
            path_of("out", out) if out is not None else None,
            overwrite=overwrite,
            cache=cache_folder(),
            listener=listener,
            engine=engines.chosen(engine),
            varied=recipes.varied,
        )
    )


@for_scripts
def load(place: Place) -> Run:
    """A finished run from its folder.

    Raises:
        OutputError: The folder holds no finished run, or one that was changed.
    """
    from fedtrain.runs import folder

    return Run(folder.load(path_of("run", place)))


@for_scripts
def compare(runs: Run | Place | Iterable[Run | Place], metrics: Sequence[str] = ()) -> Comparison:
    """Runs side by side; runs that differ in their seed alone share a column.

    Args:
        runs: Runs, folders of runs, or folders of such folders.
        metrics: The metrics to compare; none: all that the runs ended with. Also ``last5 of METRIC``, the mean over the
            last five evaluated rounds, and ``rounds to 80 of METRIC`` and ``megabytes to 80 of METRIC``, the rounds and
            the traffic until the metric is 80, which a column has if each of its runs comes to it.

    Raises:
        UsageError: There is none, or none has one of the metrics.
        OutputError: A folder holds no finished run, or one that was changed.
    """
    runs = [runs] if isinstance(runs, Run | str | os.PathLike) else runs
    if not isinstance(runs, Iterable):
        raise UsageError(f"compare({runs!r}): should be runs, or folders of runs")
    results = found([one.folder if isinstance(one, Run) else path_of("run", one) for one in runs])
    if not results:
        raise UsageError("compare: there are no runs to compare")
    read = reader(results, [metrics] if isinstance(metrics, str) else metrics)
    groups, sets = grouped(results), by_seed(results)
    subsets, datasets = {group.subset for group in groups}, {group.dataset for group in groups}
    names = [
        f"{group.label} ({group.subset} of {group.dataset})"
        if len(datasets) > 1
        else f"{group.label} ({group.subset})"
        if len(subsets) > 1
        else group.label
        for group in groups
    ]
    cells: dict[tuple[str, str], dict[Path, float]] = {}  # two runs may share a seed, on datasets of two seeds
    for name, members in zip(names, sets, strict=True):
        read_of = {result.folder: read(result) for result in members}
        for metric in dict.fromkeys(metric for its in read_of.values() for metric in its):
            values = [its.get(metric) for its in read_of.values()]
            if over_seeds(metric, values):
                held = zip(read_of, values, strict=True)
                cells[metric, name] = {folder: value for folder, value in held if value is not None}
    rows = tuple(dict.fromkeys(row for row, _ in cells))
    return Comparison(Filled(None, "metric", rows, tuple(names), {key: Cell(values) for key, values in cells.items()}))


def _subset(data: Subset | Dataset | Place, name: str | None) -> Subset:
    if isinstance(data, Subset):
        if name not in (None, data.name):
            raise UsageError(f"subset={name!r}: the subset {data.name} is given already; leave it out")
        return data
    dataset = data if isinstance(data, Dataset) else Dataset(data)
    if name is None and len(dataset) > 1:
        known = ", ".join(dataset.subsets)
        raise UsageError(f"{dataset.where}: has {len(dataset)} subsets; give one as subset=, of {known}")
    return dataset.subset(name) if name is not None else dataset[0]
