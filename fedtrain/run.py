"""A run from config to result: opens the dataset, binds the method, runs the engine in a folder of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fedrsic_data.errors import ManifestError, UsageError
from fedrsic_data.manifest import NAME
from fedrsic_data.manifest import digest as digest_of
from fedrsic_data.reader import Dataset, Subset
from fedrsic_data.settings import decode, encode, suggest
from fedtrain import folder as folders
from fedtrain import methods
from fedtrain.config import Device, Precision, RunConfig, changed, digest, full_settings, group, identity, to_json
from fedtrain.engines import Engine, local
from fedtrain.engines.base import QUIET, Listener, plain
from fedtrain.engines.rounds import Outcome, figures
from fedtrain.files import RESULT, write
from fedtrain.methods.base import Context

_TRAIN = "train"


def method_class(name: str) -> Any:
    """A method by name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in methods.METHODS:
        raise UsageError(f"no method {name!r}{suggest(name, methods.METHODS)}")
    return methods.METHODS[name]


def engine(name: str) -> Engine:
    """Where clients train: ``local``, in this process, or ``flower``, in its simulation.

    Raises:
        UsageError: There is none of that name, or Flower is not installed.
    """
    if name == "local":
        return local
    if name != "flower":
        raise UsageError(f"--engine {name}: should be local or flower")
    if find_spec("flwr") is None or find_spec("ray") is None:
        raise UsageError("--engine flower: Flower is not installed; pip install 'fedkit[flower]'")
    from fedtrain.flower import simulation

    return simulation


def draft(method: str, sets: Sequence[str]) -> RunConfig:
    """A config that lacks its dataset.

    Args:
        method: Name of a method.
        sets: ``key=value`` texts; see ``config.changed``.

    Raises:
        UsageError: There is no such method or key, or a value cannot be used.
    """
    return changed(RunConfig(method, manifest="", subset=""), sets, method_class(method).Settings)


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
    engine: Engine = local,
) -> list[folders.Result]:
    """Runs one after another; each is checked before the first begins. See ``train``.

    Args:
        wanted: What to run.
        out: The run's folder; of several, the folder that a folder for each subset is made in. None: below ``runs``.
        overwrite: Start anew, whatever runs are there.
        cache: Folder for what can be computed again.
        listener: Hears of the progress.
        engine: Where clients train.
    """
    places = [out / config.subset if out is not None and len(wanted) > 1 else out for config in wanted]
    for config, place in zip(wanted, places, strict=True):
        ready, subset, _ = _prepared(config)
        engine.check(ready)
        facts = _facts(ready, subset.dataset)
        folders.check(place or _default_folder(ready, facts), facts, overwrite=overwrite)
    return [
        train(config, place, overwrite=overwrite, cache=cache, listener=listener, engine=engine)
        for config, place in zip(wanted, places, strict=True)
    ]


def train(
    config: RunConfig,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    cache: Path | None = None,
    listener: Listener = QUIET,
    engine: Engine = local,
) -> folders.Result:
    """Trains a method on a subset, or goes on with a run that was killed; a finished run is only read.

    Args:
        config: What to run; ``auto`` and None are resolved here.
        out: The run's folder; None: ``runs/<method>-<dataset>-<subset>-seed<seed>``.
        overwrite: Start anew, whatever run is in the folder.
        cache: Folder for what can be computed again (features of images); None: keep nothing.
        listener: Hears of the progress.
        engine: Where clients train.

    Raises:
        UsageError: A value of the config cannot be used with this dataset or machine.
        ManifestError: The dataset cannot be read.
        OutputError: The folder cannot be written, or holds another run or a damaged checkpoint.
    """
    config, subset, rows = _prepared(config)
    engine.check(config)
    method = method_class(config.method)
    facts = _facts(config, subset.dataset)
    folder = out or _default_folder(config, facts)
    with folders.held(folder, facts, overwrite=overwrite) as held:
        if held.standing is not None:
            return held.standing
        _remark(subset, rows, config, listener)
        context = Context(
            subset=subset,
            clients=subset.clients,
            rows=rows,
            seed=config.seed,
            device=torch.device(config.device),
            precision=config.precision,
            clip=str(config.clip),
            cache=cache,
            held_out=config.held_out,
            say=listener.say,
        )
        with ExitStack() as around:
            if config.deterministic:
                around.enter_context(_deterministic())
            if config.tensorboard:
                listener = around.enter_context(_tensorboard(folder, listener))
            listener.say(f"training {config.method} on {config.subset}")
            around.enter_context(_enough_memory(config))
            bound = method(context, decode(method.Settings, config.method_settings, config.method))
            around.enter_context(_threads(getattr(bound, "threads", None)))
            held.begin()
            done = engine.run(bound, context, config, folder, facts["run"], listener)
        data = _result(context, config, done)
        write(folder / RESULT, folders.text(data))
    return folders.Result(folder, facts, data, trained=True)


def _prepared(config: RunConfig) -> tuple[RunConfig, Subset, tuple[int, ...]]:
    """The config resolved, its subset, and the training rows of each client; refuses what no training can come of."""
    method = method_class(config.method)
    dataset = Dataset(config.manifest)
    if digest_of(dataset.manifest) != dataset.manifest.digest:
        raise ManifestError(f"{dataset.where}: {NAME} was edited, its digest differs; run: fedkit verify")
    dataset.check_images()
    config = resolved(config, dataset, method)
    subset = dataset.subset(config.subset)
    _check(subset, config, method)
    return config, subset, _training_rows(subset, config.held_out)


def resolved(config: RunConfig, dataset: Dataset, method: Any) -> RunConfig:
    """The config with nothing left to choose.

    Raises:
        UsageError: It names a subset, split or device that is not there.
    """
    subset = dataset.subset(config.subset)
    held_out = [split for split in subset.splits if split != _TRAIN]
    for split in config.splits:
        if split not in held_out:
            raise UsageError(f"splits: {config.subset} has no held-out split {split!r}{suggest(split, held_out)}")
    if config.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("tensorboard=true: the package is not installed; pip install 'fedkit[tensorboard]'")
    device = _device(config.device)
    sample = dataset.manifest.recipe.sample is not None
    clip = config.clip or ("tiny" if sample else "ViT-B-16:openai")
    settings = full_settings(config.method, config.method_settings, method.Settings)
    count = config.clients_per_round
    if count is None and config.sampling != "all":
        count = getattr(method, "clients_per_round", None)
    if count is None and config.sampling in ("uniform", "size"):
        raise UsageError(f"sampling={config.sampling}: set clients_per_round too")
    return replace(
        config,
        manifest=dataset.where,
        sampling=("all" if count is None else "uniform") if config.sampling == "auto" else config.sampling,
        clients_per_round=count,
        rounds=method.rounds if config.rounds is None else config.rounds,
        splits=config.splits or tuple(split for split in held_out if subset.entry.rows[split]),
        device=device,
        precision=_precision(config.precision, device),
        clip=clip,
        method_settings=settings,
    )


def _training_rows(subset: Subset, held_out: str | None) -> tuple[int, ...]:
    """Training rows of each client, those of a held-out domain apart.

    Raises:
        UsageError: There is no such domain, or no row is left.
    """
    table = subset.client_table
    columns = (table.column(name).to_pylist() for name in ("split", "rows", "domains", "domain_counts"))
    train = [
        (rows, dict(zip(domains, counts, strict=True)))
        for s, rows, domains, counts in zip(*columns, strict=True)
        if s == _TRAIN
    ]
    known = dict.fromkeys(domain for _, counts in train for domain in counts)
    if held_out is not None and held_out not in known:
        raise UsageError(f"held_out={held_out}: {subset.name} has no such domain{suggest(held_out, known)}")
    rows = tuple(rows - counts.get(held_out, 0) for rows, counts in train)
    if not any(rows):
        but = f" outside domain {held_out}" if held_out else ""
        raise UsageError(f"{subset.name}: no client has training rows{but}; there is nothing to train on")
    return rows


def _check(subset: Subset, config: RunConfig, method: Any) -> None:
    """Refuses what no training can come of."""
    name = subset.name
    if len(subset.classes) < 2:
        raise UsageError(f"{name}: its label space has {len(subset.classes)} class; there is nothing to tell apart")
    if subset.entry.multi_label != getattr(method, "multi_label", False):
        kinds = ("multi-label", "single-label") if subset.entry.multi_label else ("single-label", "multi-label")
        raise UsageError(f"{name}: is {kinds[0]}, and {config.method} is for {kinds[1]} data; see: fedkit list methods")
    if not config.splits:
        raise UsageError(
            f"{name}: has no held-out rows to evaluate on; build it with a split, e.g. --set splits.test=0.2"
        )


def _remark(subset: Subset, rows: Sequence[int], config: RunConfig, listener: Listener) -> None:
    """Says which clients do not take part as one would think."""
    empty = sum(n == 0 for n in rows)
    if empty:
        listener.note(f"{subset.name}: {empty} of {len(rows)} clients have no training rows and are never asked")
    for split in config.splits:
        without = sum(subset.client(client).rows(split) == 0 for client in subset.clients)
        if without:
            listener.note(
                f"{subset.name}: {without} of {len(rows)} clients have no {split} rows and are in no mean over clients"
            )
    if config.clients_per_round is not None and config.clients_per_round > len(rows) - empty:
        listener.note(
            f"{subset.name}: clients_per_round={config.clients_per_round}, but only {len(rows) - empty} can train"
        )


def _device(wanted: Device) -> Device:
    """The device to use.

    Raises:
        UsageError: It is not there.
    """
    there: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, usable in there.items() if usable)
    if not there[wanted]:
        raise UsageError(f"device={wanted}: this machine has none that PyTorch can use; take auto or cpu")
    return wanted


def _precision(wanted: Precision, device: Device) -> Precision:
    if wanted == "auto":
        return "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    if wanted == "bfloat16" and device == "cpu":
        raise UsageError("precision=bfloat16: is for GPUs; take auto or float32")
    return wanted


def _facts(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """What ``config.json`` holds."""
    manifest = dataset.manifest
    recipe = {key: value for key, value in encode(manifest.recipe).items() if key != "seed"}
    weights = _weights(config)
    return {
        "fedkit": folders.FORMAT,
        "run": identity(config, manifest.digest, weights),
        "group": group(config, digest(recipe), weights),
        "config": to_json(config),
        "dataset": {
            "name": manifest.name,
            "digest": manifest.digest,
            "seed": manifest.recipe.seed,
            "sample": manifest.recipe.sample is not None,
            "sources": sorted(manifest.sources),
        },
        "weights": weights,
        "versions": {name: version(name) for name in ("fedkit", "torch")},
    }


def _weights(config: RunConfig) -> dict[str, str]:
    """sha256 of the files of weights that a config names, by field; those that are fetched go by their names."""
    named = {"clip": str(config.clip).partition(":")[2]}
    named |= {key: str(config.method_settings[key]) for key in getattr(method_class(config.method), "files", ())}
    found = {}
    for key, path in named.items():
        if path and os.path.isfile(path):
            with Path(path).open("rb") as file:
                found[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _default_folder(config: RunConfig, facts: Mapping[str, Any]) -> Path:
    names = dict.fromkeys((config.method, facts["dataset"]["name"], config.subset, f"seed{config.seed}"))
    return Path("runs") / "-".join(names)


def _result(context: Context, config: RunConfig, done: Outcome) -> dict[str, Any]:
    """What ``result.json`` holds."""
    counters = encode(done.counters)
    return {
        "fedkit": folders.FORMAT,
        "rounds": config.rounds,
        "figures": figures(done.evaluations),
        "clients": {
            split: {
                "rows": dict(zip(context.clients, map(int, e.rows), strict=True)) if e.rows else {},
                **{
                    name: dict(zip(context.clients, map(plain, map(float, values)), strict=True))
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
    except (MemoryError, RuntimeError) as error:  # of a CPU's memory PyTorch only tells in the text
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            smaller = {"cohort": config.cohort, **config.method_settings}
            named = [f"{key}={smaller[key]}" for key in ("cohort", "batch", "image_size") if smaller.get(key)]
            raise UsageError(
                f"{config.method}: {config.device} has not enough memory with {', '.join(named)}; set less"
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
            writers.append(SummaryWriter(str(folder / "tensorboard"), purge_step=round_))
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
