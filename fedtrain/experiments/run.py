"""Run an experiment: build what is missing, train what is not finished, and make its tables and report."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedrsic_data import interrupts
from fedrsic_data.build import pipeline
from fedrsic_data.derive import find
from fedrsic_data.errors import FedkitError, OutputError, UsageError, for_want_of_memory, translated, unforeseen
from fedrsic_data.files import atomic, lock, ownership
from fedrsic_data.recipes import from_json
from fedrsic_data.settings import at_least, encode, local, suggest
from fedrsic_data.sources.locate import Places
from fedtrain.experiments import plan, spec
from fedtrain.experiments.plan import DataPlan, PlannedRun
from fedtrain.experiments.spec import AXES, METRIC, Experiment, ProtocolSpec, TableSpec
from fedtrain.progress import QUIET, Listener
from fedtrain.report import html, papers, seed_table
from fedtrain.run import draft, train
from fedtrain.runs.folder import load
from fedtrain.runs.over_rounds import chosen
from fedtrain.runs.results import Group, by_seed, figures, grouped, over_seeds

SPEC = "experiment.json"
TABLES = "tables"
REPORT = "report.html"
_LOCK = ".lock"
_SUFFIXES = {"text": "txt", "csv": "csv", "markdown": "md", "latex": "tex"}


@dataclass(frozen=True)
class Progress:
    """Receives the progress of an experiment; every call may be ignored.

    Attributes:
        say: Called with a description of the next step.
        done: Called with a run that has ended, its number, and the total number of runs.
        building: Receives the progress of each dataset.
        training: Receives the progress of each run, if they are trained one at a time.
    """

    say: Callable[[str], None] = lambda _: None
    done: Callable[[Ended, int, int], None] = lambda _run, _number, _all: None
    building: pipeline.BuildListener = pipeline.QUIET
    training: Listener = QUIET


@dataclass(frozen=True)
class Ended:
    """A run that has ended.

    Attributes:
        run: The run.
        failed: The reason of its failure; None: it is finished.
        trained: Whether it was trained; else it was finished already.
    """

    run: PlannedRun
    failed: str | None = None
    trained: bool = True


@dataclass(frozen=True)
class Finished:
    """An experiment that was run.

    Attributes:
        folder: Its folder.
        runs: Its runs.
        failed: Name of a run -> reason of its failure.
        tables: Its tables, filled.
        report: Its report; None if no run is finished, if datasets are drawn anew for each seed, or of a part.
        part: Whether these are only some of the experiment's runs; their tables are not written.
        protocol: The protocol that it follows.
        published: Runs with published figures of the same protocol next to them.
        apart: A line for each published protocol that runs do not follow.
    """

    folder: Path
    runs: tuple[PlannedRun, ...]
    failed: Mapping[str, str]
    tables: tuple[seed_table.Filled, ...]
    report: Path | None = None
    part: bool = False
    protocol: ProtocolSpec | None = None
    published: papers.Tables = field(default_factory=dict)
    apart: Sequence[str] = ()


def planned(experiment: Experiment, out: Path, only: str = "") -> tuple[list[DataPlan], list[PlannedRun]]:
    """The datasets and the runs of an experiment; nothing is built.

    Args:
        experiment: The experiment.
        out: Its folder.
        only: Only runs whose name has this text.

    Raises:
        UsageError: An unknown recipe, subset, method or setting, or no run is left.
    """
    return _chosen(*_every(experiment, out), only)


def _every(experiment: Experiment, out: Path) -> tuple[list[DataPlan], list[PlannedRun]]:
    datasets = plan.datasets(experiment, out)
    runs = plan.runs(experiment, datasets, out)
    known = _axes(runs)
    for wanted in experiment.tables:
        for axis in (*wanted.rows, *(axis for axis in wanted.columns if axis != METRIC), *wanted.where):
            if axis not in known:
                raise UsageError(f"tables: {axis!r} does not vary{suggest(axis, known)}")
        rows = dict.fromkeys(plan.heading(one, wanted.rows) for one in runs)
        if wanted.against is not None and wanted.against not in rows:
            raise UsageError(f"tables: against={wanted.against!r} is no row{suggest(wanted.against, rows)}")
        if not _cells(wanted, runs):
            raise UsageError(f"tables: no run has where={json.dumps(wanted.where)}; list the runs with --dry-run")
    return datasets, runs


def _chosen(
    datasets: Sequence[DataPlan], runs: Sequence[PlannedRun], only: str
) -> tuple[list[DataPlan], list[PlannedRun]]:
    chosen = [run for run in runs if only in run.name]
    if not chosen:
        raise UsageError(f"--only {only}: no run has this in its name; list them with --dry-run")
    return [one for one in datasets if any(run.dataset is one for run in chosen)], chosen


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
    every = _every(experiment, out)
    datasets, runs = _chosen(*every, only)
    for one in datasets:
        if one.recipe is None and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(one.place)):
            raise OutputError(
                f"--out {out}: is inside the dataset {one.place}, which may hold nothing else; choose another"
            )
    _check_folder(experiment, out)
    with _locked(out):
        _claim(experiment, out)
        html.check(out / REPORT)
        for one in datasets:
            if one.recipe is not None:
                progress.say(f"dataset {one.name}")
                recipe = from_json(one.recipe, one.place)
                find.built(recipe, Path(one.place), one.place, places, progress.building)
        alone = jobs == 1 and not gpus
        work = _here(runs, cache, progress.training) if alone else _in_processes(runs, jobs, gpus, cache)
        with closing(work):  # whatever ends this, no process goes on
            failed, found = _ended(experiment, runs, work, progress)
        finished = [one.folder for one in runs if one.name in found]
        done = Finished(
            folder=out,
            runs=tuple(runs),
            failed=failed,
            tables=tuple(_filled(wanted, runs, found) for wanted in experiment.tables),
            part=len(runs) < len(every[1]),
            protocol=experiment.protocol,
        )
        if experiment.protocol is not None:
            tables, apart = papers.beside(_groups(runs, found), experiment.protocol.published)
            done = replace(done, published=tables, apart=apart)
        if done.part:  # the files of all runs stay
            return done
        _write(out / TABLES, done.tables)
        return replace(done, report=_report(experiment, out, finished, progress))


def _groups(runs: Sequence[PlannedRun], found: Collection[str]) -> list[Group]:
    """The finished runs in groups that differ in the seed, named as in tables."""
    axes = ("method", *(axis for axis in _axes(runs) if axis not in AXES))
    names = {str(one.folder): plan.heading(one, axes) for one in runs}
    results = [load(one.folder) for one in runs if one.name in found]
    sets = zip(grouped(results), by_seed(results), strict=True)
    return [replace(group, label=names[str(held[0].folder)]) for group, held in sets]


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Lock out other processes, which would train the same runs."""
    words = f"{out}: another process runs this experiment; wait for it, or choose another --out"
    with ExitStack() as stack:
        with _written(out):
            stack.enter_context(lock.alone(out / _LOCK, words))
        yield


def _written(out: Path) -> AbstractContextManager[None]:
    """Says in words that the folder could not be written."""
    return translated(OutputError, str(out), "cannot be written", "choose another --out")


def _ended(
    experiment: Experiment, runs: Sequence[PlannedRun], work: Iterable[Ended], progress: Progress
) -> tuple[dict[str, str], dict[str, dict[str, float | None]]]:
    """The reasons of the runs that failed, and the metrics of the others, by name of the run.

    Raises:
        UsageError: A table names a metric that none of its finished runs has.
    """
    failed: dict[str, str] = {}
    found: dict[str, dict[str, float | None]] = {}
    wanted = [metric for table in experiment.tables for metric in table.metrics]
    untried = {json.dumps(one.facts) for one in runs}
    for number, ended in enumerate(work, 1):
        if ended.failed is not None:
            failed[ended.run.name] = ended.failed
        else:
            result = load(ended.run.folder)
            found[ended.run.name] = figures(result) | chosen(result, wanted)
            if untried and not (untried := untried - {json.dumps(ended.run.facts)}):  # but for seeds, all have one
                _check_metrics(experiment, runs, found)
        progress.done(ended, number, len(runs))
    _check_metrics(experiment, runs, found)
    return failed, found


def _report(experiment: Experiment, out: Path, finished: Sequence[Path], progress: Progress) -> Path | None:
    """Write the report; its columns are of one dataset, and runs on datasets drawn anew would have one each."""
    if not finished or any(data.redraw for data in experiment.datasets):
        return None
    progress.say(f"writing {out / REPORT}")
    html.report(finished, out / REPORT)
    return out / REPORT


def _check_folder(experiment: Experiment, out: Path) -> None:
    """Refuses a folder that holds something else."""
    file = out / SPEC
    try:
        held = [path for path in out.iterdir() if path.name != _LOCK] if out.exists() else []
        if not file.is_file() and any(not atomic.TEMPORARY.fullmatch(path.name) for path in held):
            raise OutputError(f"{out}: is not empty and holds no experiment; choose another --out")
        there = spec.load(file).name if file.is_file() else experiment.name
        if there != experiment.name:
            raise OutputError(f"{out}: holds the experiment {there!r}, not {experiment.name!r}; choose another --out")
    except OSError as error:
        raise OutputError(f"{out}: cannot be read ({error.strerror}); choose another --out") from None
    except UsageError as error:
        raise OutputError(f"{error}; it is no experiment of fedkit, choose another --out") from None


def _claim(experiment: Experiment, out: Path) -> None:
    """Makes the folder an experiment's."""
    with _written(out):
        for left in [*_unfinished(out), *_unfinished(out / TABLES)]:
            left.unlink(missing_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(out / SPEC) as written:
            written.write((json.dumps(encode(experiment), indent=1, ensure_ascii=False) + "\n").encode())


def _unfinished(folder: Path) -> list[Path]:
    """Files that a killed process was writing."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if atomic.TEMPORARY.fullmatch(path.name)]


def _here(runs: Sequence[PlannedRun], cache: Path | None, listener: Listener) -> Generator[Ended, None, None]:
    for one in runs:
        yield _trained(one, cache, listener)


def _trained(one: PlannedRun, cache: Path | None, listener: Listener = QUIET, *, on_gpu: bool = False) -> Ended:
    """Train or resume a run."""
    try:
        config = replace(draft(one.method, one.sets), manifest=one.dataset.place, subset=one.subset)
        if on_gpu and config.device == "auto":
            config = replace(config, device="cuda")  # refused where there is none, and not trained on the CPU
        return Ended(one, trained=train(config, one.folder, cache=cache, listener=listener).trained)
    except FedkitError as error:
        return Ended(one, str(error))
    except Exception as error:
        if isinstance(error, OSError) or for_want_of_memory(error):
            raise
        return Ended(one, unforeseen(error))


def _in_processes(
    runs: Sequence[PlannedRun], jobs: int, gpus: Sequence[str], cache: Path | None
) -> Generator[Ended, None, None]:
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
                    yield future.result()
                except BrokenProcessPool:
                    words = "its process died, perhaps for lack of memory; run the same command again to resume"
                    yield Ended(one, words)
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


def _check_metrics(
    experiment: Experiment, runs: Sequence[PlannedRun], found: Mapping[str, Mapping[str, float | None]]
) -> None:
    """Refuses a table of a metric that none of its finished runs has."""
    for wanted in experiment.tables:
        mine = [found[one.name] for one in runs if one.name in found and _is_in(wanted, one)]
        known = dict.fromkeys(metric for one in mine for metric in one)
        for metric in wanted.metrics if mine else ():
            if metric not in known:
                raise UsageError(f"tables: no run has the metric {metric!r}{suggest(metric, known)}")


def _is_in(wanted: TableSpec, one: PlannedRun) -> bool:
    return all(one.facts.get(axis) == value for axis, value in wanted.where.items())


def _axes(runs: Sequence[PlannedRun]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*AXES, *(axis for one in runs for axis in one.facts)]))


def _cells(wanted: TableSpec, runs: Sequence[PlannedRun]) -> dict[str, dict[tuple[str, str], dict[int, PlannedRun]]]:
    """Row -> column and its metric -> seed -> run.

    Raises:
        UsageError: Two runs of a seed have one cell.
    """
    cells: dict[str, dict[tuple[str, str], dict[int, PlannedRun]]] = {}
    for one in runs:
        if not _is_in(wanted, one):
            continue
        row = cells.setdefault(plan.heading(one, wanted.rows), {})
        for metric in wanted.metrics:
            held = row.setdefault((plan.heading(one, wanted.columns, metric), metric), {})
            if (twin := held.setdefault(one.seed, one)) is not one:
                differing = [axis for axis in _axes(runs) if twin.facts.get(axis) != one.facts.get(axis)]
                fix = f"add {differing[0]}" if differing else "give one of the methods another name"
                raise UsageError(f"tables: rows and columns do not tell {twin.name} from {one.name}; {fix}")
    return cells


def _filled(
    wanted: TableSpec, runs: Sequence[PlannedRun], found: Mapping[str, Mapping[str, float | None]]
) -> seed_table.Filled:
    """A table from the metrics of the finished runs; rows and columns keep the order of all runs."""
    values: dict[tuple[str, str], dict[int, float]] = {}
    metrics: dict[str, str] = {}
    for row, columns in _cells(wanted, runs).items():
        for (column, metric), held in columns.items():
            metrics[column] = metric
            cell = {seed: found[one.name].get(metric) for seed, one in held.items() if one.name in found}
            some = bool(over_seeds(metric, list(cell.values())))
            values[row, column] = {seed: value for seed, value in cell.items() if some and value is not None}
    against = wanted.against if wanted.against in {row for row, _ in values} else None  # some runs alone
    return seed_table.fill(metrics, ", ".join(wanted.rows), values, wanted.better, against)


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
