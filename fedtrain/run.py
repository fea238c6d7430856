"""A run from config to result: opens the dataset, binds the method, runs the engine in its own folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedrsic_data import distribution
from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.dataset.recipe import Recipe
from fedrsic_data.errors import OutputError, UsageError, blamed, for_want_of_memory
from fedrsic_data.files.atomic import file_digest, write
from fedrsic_data.settings import Setting, decode, encode, local
from fedtrain import methods, metrics, trace
from fedtrain.config import RunConfig, changed, flat, group, identity, known_settings, lineage_of, to_json, told_of
from fedtrain.engines.base import Engine, Outcome, Training
from fedtrain.engines.local import InProcess
from fedtrain.engines.rounds import figures
from fedtrain.methods.base import Context
from fedtrain.methods.lazy import torch
from fedtrain.progress import QUIET, Listener
from fedtrain.resolve import method_class, prepared, remark, resolved
from fedtrain.runs import seal
from fedtrain.runs.files import EVENTS, RESULT, as_json
from fedtrain.runs.folder import FORMAT, Result
from fedtrain.runs.names import folder_name
from fedtrain.runs.resume import holding, holds, key_of, resumes

_HERE = InProcess()

Varied = Callable[[Recipe, str], Mapping[str, Any]]
"""Gives the settings of a recipe that were changed, for one of its subsets; see ``recipes.varied``."""


def draft(method: str, sets: Sequence[str]) -> RunConfig:
    """A config that lacks its dataset.

    Args:
        method: Name of a method.
        sets: ``key=value`` texts; see ``config.changed``.

    Raises:
        UsageError: There is no such method or key, or a value cannot be used.
    """
    return changed(RunConfig(method, manifest="", subset=""), sets, method_class(method).Settings)


def settings_of(words: Sequence[str]) -> tuple[str, dict[str, list[Setting]]]:
    """A method among words that a person typed, and every setting of a run with it, by the title of its kind.

    Args:
        words: The method is the first that names one, or else the first. None: settings of all methods alone.

    Raises:
        UsageError: There is no such method.
    """
    named = [word for word in words if word in methods.METHODS or ":" in word]
    name = next(iter(named or words), "")
    method = method_class(name) if name else None
    known = known_settings(method.Settings if method else None)
    titles = {"run": "Settings of the run", "method": f"Settings of {name}"}
    titles |= {"dp": "Differential privacy, with --engine flower", "flower": "Flower, with --engine flower"}
    published = {"rounds": method.rounds, "clients_per_round": method.clients_per_round} if method else {}
    known["run"] = [replace(one, default=published.get(one.name, one.default)) for one in known["run"]]
    return name, {titles[scope]: known[scope] for scope in titles if scope in known}


def configs(
    method: str, manifest: str | os.PathLike[str], subsets: Sequence[str], sets: Sequence[str]
) -> list[RunConfig]:
    """A config for each subset.

    Args:
        method: Name of a method.
        manifest: A built ``manifest.json`` or its folder, or ``hf://USER/NAME[@REVISION]``.
        subsets: Which of its subsets; none: all.
        sets: ``key=value`` texts; see ``config.changed``.

    Raises:
        UsageError: There is no such method, subset or key, or a value cannot be used.
        ManifestError: The dataset cannot be read.
    """
    wanted = list(dict.fromkeys(subsets)) or Dataset(manifest).subsets
    return [replace(draft(method, sets), manifest=str(manifest), subset=subset) for subset in wanted]


def train_all(
    wanted: Sequence[RunConfig],
    out: Path | None = None,
    *,
    overwrite: bool = False,
    cache: Path | None = None,
    listener: Listener = QUIET,
    engine: Engine = _HERE,
    varied: Varied = lambda _recipe, _subset: {},
    profile: bool = False,
) -> list[Result]:
    """Train one config after another; all are checked before the first begins.

    A run that was killed resumes, and a finished one is only read, or goes on if it is to have more rounds.

    Args:
        wanted: The runs; ``auto`` and None are resolved here.
        out: The run's folder, or the parent of a folder per subset; None:
            ``runs/METHOD-DATASET-SUBSET-seedN``, and before ``seedN`` what differs from defaults; see ``folder_name``.
        overwrite: Replace an existing run; it stays until the new one has finished a round.
        cache: Folder for what can be computed again (features of images); None: keep nothing.
        listener: Receives progress.
        engine: Where clients train.
        varied: Gives the settings of a recipe that were changed, which the default folder's name contains.
        profile: Trace where the time of each run goes; see ``fedtrain.trace``. It is part of the result.

    Raises:
        UsageError: A value of a config cannot be used with this dataset or machine, or ``out`` is an address.
        ManifestError: The dataset cannot be read.
        OutputError: A folder cannot be written, or holds another run or a damaged checkpoint.
    """
    local("--out", out or "")
    jobs = [
        _checked(config, out / config.subset if out and len(wanted) > 1 else out, engine, varied) for config in wanted
    ]
    for job in jobs:
        resumes(job.folder, job.facts, overwrite=overwrite)
    return [_train(job, overwrite, cache, listener, engine, profile) for job in jobs]


def train(
    config: RunConfig,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    cache: Path | None = None,
    listener: Listener = QUIET,
    engine: Engine = _HERE,
    varied: Varied = lambda _recipe, _subset: {},
) -> Result:
    """Train a method on a subset; see ``train_all``."""
    (result,) = train_all(
        [config], out, overwrite=overwrite, cache=cache, listener=listener, engine=engine, varied=varied
    )
    return result


@dataclass(frozen=True)
class _Job:
    """A run that can be trained: its resolved config, its data, and its folder with the facts about it."""

    config: RunConfig
    subset: Subset
    rows: tuple[int, ...]
    folder: Path
    facts: dict[str, Any]


def _checked(config: RunConfig, out: Path | None, engine: Engine, varied: Varied) -> _Job:
    config, subset, rows = prepared(config)
    engine.check(config)
    if subset.entry.withheld and not engine.at_sites:
        raise UsageError(f"{config.manifest}: holds no images, which are at the sites; train with: fedkit flower run")
    facts = _facts(config, subset.dataset)
    folder = out or _default_folder(config, facts, subset.dataset, varied)
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(subset.dataset.folder)):
        raise OutputError(f"--out {folder}: is inside the dataset, which may hold nothing else; choose another")
    return _Job(config, subset, rows, folder, facts)


def _train(job: _Job, overwrite: bool, cache: Path | None, listener: Listener, engine: Engine, profile: bool) -> Result:
    config, subset, folder = job.config, job.subset, job.folder
    method = method_class(config.method)
    with holding(folder, job.facts, overwrite=overwrite) as held:
        if held.standing is not None:
            return held.standing
        remark(subset, job.rows, config, listener)
        context = Context(
            subset=subset,
            clients=subset.clients,
            rows=job.rows,
            seed=config.seed,
            device=torch.device(config.device),
            precision=config.precision,
            clip=str(config.clip),
            cache=cache,
            held_out=config.held_out,
            neighbour=config.neighbour,
            say=listener.say,
        )
        with ExitStack() as around:
            if config.deterministic:
                around.enter_context(_deterministic())
            traced = around.enter_context(trace.traced(context.device)) if profile else None
            after = f": goes on after round {held.done} of {config.rounds}" if held.done else ""
            listener.say(f"training {config.method} on {config.subset}{after}")
            around.enter_context(blamed("method", method))
            around.enter_context(_enough_memory(config))
            bound = method(context, decode(method.Settings, config.method_settings, config.method))
            around.enter_context(_threads(bound.threads))

            def trained(place: Path, until: int | None = None) -> Outcome:
                with _tensorboard(place, listener) if config.tensorboard else nullcontext(listener) as hears:
                    return engine.run(Training(bound, context, config, place, key_of(place), hears, until))

            place = held.begin()
            if place != folder and config.rounds and config.rounds > 1:
                trained(place, until=1)
                place = held.replace()
            done = trained(place)
        told = {} if traced is None else {"trace": traced.told()}
        data = seal.sealed(place, _result(context, config, done, engine.name) | told)
        write(place / RESULT, as_json(data))
        if place != folder:
            held.replace()
    return Result(folder, job.facts, data, trained=True)


def _facts(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Content of ``config.json``."""
    manifest = dataset.manifest
    weights = _weights(config)
    return {
        "fedkit": FORMAT,
        "run": identity(config, manifest.digest, weights),
        "group": group(to_json(config), manifest, weights),
        "states": lineage_of(to_json(config), manifest.digest, weights),
        "config": to_json(config),
        "dataset": told_of(manifest, config.subset),
        "weights": weights,
        "versions": {
            **methods.METHODS.versions(config.method),
            "fedkit": distribution.version(),
            "torch": version("torch"),
        },
    }


def _weights(config: RunConfig) -> dict[str, str]:
    """sha256 of the files of weights that a config names, by field; those that are fetched go by their names."""
    named = {"clip": str(config.clip).partition(":")[2]}
    named |= {key: str(config.method_settings[key]) for key in method_class(config.method).files}
    return {key: file_digest(Path(path)) for key, path in named.items() if path and os.path.isfile(path)}


def _default_folder(config: RunConfig, facts: Mapping[str, Any], dataset: Dataset, varied: Varied) -> Path:
    """The folder of a run by its name; earlier versions left out what was varied, and their folder serves the same run.

    The number of rounds is left out, since a run that is to have more of them goes on.
    """
    usual = RunConfig(config.method, config.manifest, config.subset, seed=config.seed, rounds=config.rounds)
    plain = flat(to_json(resolved(usual, dataset, method_class(config.method))))
    here = flat(to_json(config))
    changed = {key: here.get(key) for key in {**plain, **here} if here.get(key) != plain.get(key)}
    parts = (config.method, facts["dataset"]["name"], config.subset)
    words = {**varied(dataset.manifest.recipe, config.subset), **changed}
    wanted = Path("runs") / folder_name(parts, words, config.seed)
    before = Path("runs") / "-".join(dict.fromkeys((*parts, f"seed{config.seed}")))
    return before if before != wanted and not wanted.exists() and holds(before, facts) else wanted


def _result(context: Context, config: RunConfig, done: Outcome, engine: str) -> dict[str, Any]:
    """Content of ``result.json``."""
    counters = encode(done.counters)
    return {
        "fedkit": FORMAT,
        "engine": engine,
        "rounds": config.rounds,
        "figures": figures(done.evaluations),
        "clients": {
            split: {
                "rows": dict(zip(context.clients, map(int, e.rows), strict=True)) if e.rows else {},
                **{
                    name: dict(zip(context.clients, map(metrics.finite_or_none, map(float, values)), strict=True))
                    for name, values in e.clients.items()
                },
            }
            for split, e in done.evaluations.items()
        },
        "clients_without_training_rows": [c for c, n in zip(context.clients, context.rows, strict=True) if not n],
        "seconds": counters.pop("seconds"),
        "counters": counters,
        **done.facts,
    }


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """As many threads of a CPU as a method asks for; on leaving, as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, wanted or before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _enough_memory(config: RunConfig) -> Iterator[None]:
    """Says in words that there is not."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or for_want_of_memory(error):
            smaller = {"cohort": config.cohort, **config.method_settings}
            named = [f"{key}={smaller[key]}" for key in ("cohort", "batch", "image_size") if smaller.get(key)]
            raise UsageError(
                f"{config.method}: {config.device} does not have enough memory for {', '.join(named)}; set less"
            ) from None
        raise


@contextmanager
def _deterministic() -> Iterator[None]:
    """Only algorithms that repeat bit by bit; on leaving, as before."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


@contextmanager
def _tensorboard(folder: Path, listener: Listener) -> Iterator[Listener]:
    """A listener that also writes every number of every round as a TensorBoard event."""
    from torch.utils.tensorboard import SummaryWriter

    writers: list[SummaryWriter] = []

    def log(line: Mapping[str, Any], rounds: int) -> None:
        round_ = line["round"]
        if not writers:  # events from this round on, which a killed run may have left, are void
            writers.append(SummaryWriter(str(folder / EVENTS), purge_step=round_))
        numbers = {key: value for key, value in line.items() if key != "round"} | line.get("figures", {})
        for name, value in numbers.items():
            if isinstance(value, int | float):
                writers[0].add_scalar(name, value, round_)
        listener.round(line, rounds)

    try:
        yield replace(listener, round=log)
    finally:
        for writer in writers:
            writer.close()
