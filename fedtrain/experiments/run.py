"""Run an experiment: build what is missing, train what is not finished, and make its tables."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fedrsic_data import interrupts
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.derive import find
from fedrsic_data.errors import FedkitError, OutputError, UsageError, translated
from fedrsic_data.files import atomic, ownership
from fedrsic_data.recipes import from_json
from fedrsic_data.settings import at_least, encode, local, suggest
from fedrsic_data.sources.locate import Places
from fedtrain.experiments import plan, spec
from fedtrain.experiments.plan import DataPlan, PlannedRun
from fedtrain.experiments.spec import AXES, Experiment, TableSpec
from fedtrain.report import seed_table
from fedtrain.run import draft, train
from fedtrain.runs.folder import load
from fedtrain.runs.results import figures

SPEC = "experiment.json"
TABLES = "tables"
_SUFFIXES = {"text": "txt", "csv": "csv", "markdown": "md", "latex": "tex"}


@dataclass(frozen=True)
class Progress:
    """Receives the progress of an experiment; every call may be ignored.

    Attributes:
        say: Called with a description of the next step.
        done: Called with a run, its number, the total number of runs, and a description of its failure.
    """

    say: Callable[[str], None] = lambda _: None
    done: Callable[[PlannedRun, int, int, str | None], None] = lambda _run, _number, _all, _failed: None


@dataclass(frozen=True)
class Finished:
    """An experiment that was run.

    Attributes:
        folder: Its folder.
        runs: Its runs.
        failed: Name of a run -> reason of its failure.
        tables: Its tables, filled.
    """

    folder: Path
    runs: tuple[PlannedRun, ...]
    failed: Mapping[str, str]
    tables: tuple[seed_table.Filled, ...]


def planned(experiment: Experiment, out: Path, only: str = "") -> tuple[list[DataPlan], list[PlannedRun]]:
    """The datasets and the runs of an experiment; nothing is built.

    Args:
        experiment: The experiment.
        out: Its folder.
        only: Only runs whose name has this text.

    Raises:
        UsageError: An unknown recipe, subset, method or setting, or no run is left.
    """
    datasets = plan.datasets(experiment, out)
    subsets = {one.place: one.subsets if one.recipe is not None else _subsets(one) for one in datasets}
    runs = [run for run in plan.runs(experiment, subsets, datasets, out) if only in run.name]
    if not runs:
        raise UsageError(f"--only {only}: no run has this in its name; list them with --dry-run")
    known = _axes(runs)
    for wanted in experiment.tables:
        rows = dict.fromkeys(plan.heading(one, wanted.rows, known) for one in runs)
        plan.heading(runs[0], wanted.columns, known)
        if wanted.against is not None and wanted.against not in rows and not only:
            raise UsageError(f"tables: against={wanted.against!r} is no row{suggest(wanted.against, rows)}")
    return [one for one in datasets if any(run.dataset is one for run in runs)], runs


def run(
    experiment: Experiment,
    out: Path,
    *,
    jobs: int = 1,
    gpus: Sequence[str] = (),
    only: str = "",
    places: Places | None = None,
    cache: Path | None = None,
    progress: Progress = Progress(),
) -> Finished:
    """Run or resume an experiment; finished runs are only read.

    Args:
        experiment: The experiment.
        out: Its folder; made if it is not there.
        jobs: Number of parallel runs, each in its own process.
        gpus: GPUs that the processes share, by the numbers that CUDA gives them; empty: all of them see all.
        only: Only runs whose name has this text.
        places: Places of the recipes' sources.
        cache: Folder for features of images.
        progress: Receives the progress.

    Raises:
        UsageError: The experiment cannot be run as it is written, or a table names a metric that no run has.
        OutputError: The folder holds something else, or cannot be written.
    """
    local("--out", out)
    at_least("--jobs", jobs, 1)
    for gpu in gpus:
        if not gpu.isdecimal():
            raise UsageError(f"--gpus {gpu}: should be numbers of GPUs, such as 0,1")
    datasets, runs = planned(experiment, out, only)
    _claim(experiment, out)
    for one in datasets:
        if one.recipe is not None:
            progress.say(f"dataset {Path(one.place).name}")
            find.built(from_json(one.recipe, one.place), Path(one.place), one.place, places)
    failed: dict[str, str] = {}
    untried, metrics = {one.method for one in runs}, dict[str, None]()
    work = _in_processes(runs, jobs, gpus, cache) if jobs > 1 or gpus else _here(runs, cache)
    with closing(work):  # whatever ends this, no process goes on
        for number, (done, words) in enumerate(work, 1):
            if words is not None:
                failed[done.name] = words
            else:
                metrics |= dict.fromkeys(figures(load(done.folder)))
                if untried and not (untried := untried - {done.method}):  # each method has finished a run
                    _check_metrics(experiment, metrics)
            progress.done(done, number, len(runs), words)
    finished = [one for one in runs if one.name not in failed]
    if finished:
        _check_metrics(experiment, metrics)
    tables = tuple(_filled(wanted, finished, runs, some=bool(only)) for wanted in experiment.tables)
    _write(out / TABLES, tables)
    return Finished(out, tuple(runs), failed, tables)


def _subsets(built: DataPlan) -> tuple[str, ...]:
    """The subsets of a built dataset that are wanted, all of them by default."""
    dataset = Dataset(built.place)
    return tuple(dataset.subset(name).name for name in built.subsets or dataset.subsets)


def _claim(experiment: Experiment, out: Path) -> None:
    """Makes the folder an experiment's, and refuses one that holds something else."""
    file = out / SPEC
    try:
        if out.exists() and any(out.iterdir()) and not file.is_file():
            raise OutputError(f"{out}: is not empty and holds no experiment; choose another --out")
        there = spec.load(file).name if file.is_file() else experiment.name
        if there != experiment.name:
            raise OutputError(f"{out}: holds the experiment {there!r}, not {experiment.name!r}; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(file) as written:
            written.write((json.dumps(encode(experiment), indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    except UsageError as error:
        raise OutputError(f"{error}; it is no experiment of fedkit, choose another --out") from None


def _here(runs: Sequence[PlannedRun], cache: Path | None) -> Generator[tuple[PlannedRun, str | None], None, None]:
    for one in runs:
        yield one, _trained(one, cache)


def _trained(one: PlannedRun, cache: Path | None, *, on_gpu: bool = False) -> str | None:
    """Train or resume a run; return a description of its failure."""
    try:
        config = replace(draft(one.method, one.sets), manifest=one.dataset.place, subset=one.subset)
        if on_gpu and config.device == "auto":
            config = replace(config, device="cuda")  # refused where there is none, and not trained on the CPU
        train(config, one.folder, cache=cache)
    except FedkitError as error:
        return str(error)
    return None


def _in_processes(
    runs: Sequence[PlannedRun], jobs: int, gpus: Sequence[str], cache: Path | None
) -> Generator[tuple[PlannedRun, str | None], None, None]:
    """The same in processes; results are those of one process, since a run's draws depend on its config alone."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of other threads
    queue = context.Queue()
    for number in range(jobs):
        queue.put(gpus[number % len(gpus)] if gpus else None)
    with ProcessPoolExecutor(jobs, context, _begin, (queue,)) as pool:
        with interrupts.starting():
            waiting = [(one, pool.submit(_trained, one, cache, on_gpu=bool(gpus))) for one in runs]
        try:
            for one, future in waiting:
                try:
                    yield one, future.result()
                except BrokenProcessPool:
                    yield one, "its process died, perhaps for lack of memory; run the same command again to resume"
        except BaseException:  # runs may take hours, and they resume
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _begin(queue: multiprocessing.Queue[str | None]) -> None:
    """Readies a worker, which sees its GPU alone."""
    interrupts.started()
    if (gpu := queue.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def _check_metrics(experiment: Experiment, known: Mapping[str, None]) -> None:
    """Refuses a table of a metric that no run has."""
    for wanted in experiment.tables:
        if wanted.metric not in known:
            raise UsageError(f"tables: no run has the metric {wanted.metric!r}{suggest(wanted.metric, known)}")


def _axes(runs: Sequence[PlannedRun]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*AXES, *(axis for one in runs for axis in one.facts)]))


def _filled(
    wanted: TableSpec, done: Sequence[PlannedRun], runs: Sequence[PlannedRun], *, some: bool
) -> seed_table.Filled:
    """A table from the finished runs; rows and columns keep the order of all runs, which may be ``some`` of them."""
    known = _axes(runs)
    values: dict[tuple[str, str], dict[int, float]] = {}
    owners: dict[tuple[str, str, int], PlannedRun] = {}
    finished = {one.name for one in done}
    for one in runs:
        key = plan.heading(one, wanted.rows, known), plan.heading(one, wanted.columns, known)
        held = values.setdefault(key, {})
        if one.name not in finished:
            continue
        twin = owners.setdefault((*key, one.seed), one)
        if twin is not one:
            differing = [axis for axis in known if twin.facts.get(axis) != one.facts.get(axis)]
            raise UsageError(f"tables: rows and columns do not tell {twin.name} from {one.name}; add {differing[0]}")
        value = figures(load(one.folder)).get(wanted.metric)
        if value is not None:
            held[one.seed] = value
    against = None if some and wanted.against not in {row for row, _ in values} else wanted.against
    return seed_table.fill(wanted.metric, ", ".join(wanted.rows), values, wanted.better, against)


def _write(out: Path, tables: Sequence[seed_table.Filled]) -> None:
    """Writes every table in every form; a file that is no table of fedkit is never replaced."""
    texts = {
        out / f"{number}.{suffix}": seed_table.written(filled, form).encode()
        for number, filled in enumerate(tables, 1)
        for form, suffix in _SUFFIXES.items()
    }
    with translated(OutputError, str(out), "cannot be written"):
        if out.is_symlink():
            raise OutputError(f"{out}: is a link; remove it")
        out.mkdir(exist_ok=True)
        for path in texts:
            ownership.check_file(path, seed_table.is_ours, "table", "move it away")
        for path, text in texts.items():
            with atomic.replacing(path) as file:
                file.write(text)
