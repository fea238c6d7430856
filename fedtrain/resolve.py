"""A config with nothing left to choose, for a dataset and a machine; configs that cannot train are refused here."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedrsic_data.dataset.manifest import NAME, digest
from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.distribution import install
from fedrsic_data.errors import ManifestError, UsageError
from fedrsic_data.registry import is_path
from fedrsic_data.settings import encode, suggest
from fedtrain import methods
from fedtrain.config import Device, Precision, RunConfig, full_settings
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.inputs import RECIPE, recommended
from fedtrain.progress import Listener

_TRAIN = "train"


def method_class(name: str) -> Any:
    """A method by name, or by its place, ``package.module:Class``; the working directory is searched for that as well.

    Raises:
        UsageError: There is none, or it is no method.
    """
    if not isinstance(name, str):
        raise UsageError(f"method={name!r} should be a method's name, or its place: package.module:Class")
    found: Any
    if name in methods.METHODS:
        found = methods.METHODS[name]
    elif is_path(name):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)  # a script's folder is searched already, and that of a command is not
        found = methods.METHODS.at(name)
    else:
        raise UsageError(f"no method {name!r}{suggest(name, methods.METHODS)}")
    if not (dataclasses.is_dataclass(found.Settings) and isinstance(found, type)):
        raise UsageError(f"method {name!r}: is no class whose Settings are a dataclass; see fedtrain.testing")
    return found


def prepared(config: RunConfig) -> tuple[RunConfig, Subset, tuple[int, ...]]:
    """The config resolved, its subset, and the training rows of each client.

    Raises:
        UsageError: A value of the config cannot be used with this dataset or machine, or no training can come of it.
        ManifestError: The dataset cannot be read, or was edited.
    """
    method = method_class(config.method)
    dataset = Dataset(config.manifest, proved=True)
    if digest(dataset.manifest) != dataset.manifest.digest:
        raise ManifestError(f"{dataset.where}: {NAME} was edited, its digest differs; run: fedkit verify")
    dataset.check_images()
    dataset.files.prove_tables()
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
        raise UsageError(f"tensorboard=true: the package is not installed; {install('tensorboard')}")
    device = _device(config.device)
    sample = dataset.manifest.recipe.sample is not None
    clip = ("tiny" if sample else "ViT-B-16:openai") if config.clip is None else config.clip
    settings = full_settings(config.method, config.method_settings, method.Settings)
    if settings.get("template") == RECIPE:
        settings["template"] = encode(recommended(dataset.manifest.recipe, config.subset))
    count = config.clients_per_round
    if count is None and config.sampling != "all":
        count = method.clients_per_round
    if count is None and config.sampling in ("uniform", "size"):
        raise UsageError(f"sampling={config.sampling}: set clients_per_round too")
    return dataclasses.replace(
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
    """Refuses a subset that the method cannot train on.

    Raises:
        UsageError: It has one class, the other kind of labels, unknown labels, or no held-out rows, or the method
            does not give a metric.
    """
    name = subset.name
    if len(subset.classes) < 2:
        raise UsageError(f"{name}: its label space has {len(subset.classes)} class; there is nothing to tell apart")
    kind = "multi-label" if subset.entry.multi_label else "single-label"
    if kind not in method.kinds:
        takes = " and ".join(method.kinds)
        raise UsageError(f"{name}: is {kind}, but {config.method} is for {takes} data; see: fedkit list methods")
    if config.neighbour and not method.judges_neighbours:
        raise UsageError(f"neighbour=true: {config.method} does not evaluate clients on rows of others; leave it out")
    if subset.entry.unknown is not None and not method.leaves_out_unknown:
        raise UsageError(
            f"{name}: some of its labels are unknown, and {config.method} does not leave these out of its loss; train "
            "on the dataset without hidden_labels and annotated_labels, or set leaves_out_unknown in the method"
        )
    if subset.entry.unknown is not None and config.rounds and min(subset.entry.unknown) == subset.entry.rows[_TRAIN]:
        raise UsageError(
            f"{name}: no label of a training row is known, so there is nothing to learn; hide fewer labels"
        )
    if not config.splits:
        raise UsageError(
            f"{name}: has no held-out rows for evaluation; build it with a split, e.g. --set splits.test=0.2"
        )


def remark(subset: Subset, rows: Sequence[int], config: RunConfig, listener: Listener) -> None:
    """Says which clients do not take part as one would think."""
    empty = sum(n == 0 for n in rows)
    if empty:
        listener.note(f"{subset.name}: {empty} of {len(rows)} clients have no training rows and are never sampled")
    columns = (subset.client_table.column(name).to_pylist() for name in ("split", "rows"))
    held = list(zip(*columns, strict=True))
    if subset.unknown is not None:
        labels = (n * len(subset.classes) for split, n in held if split == _TRAIN)
        blind = sum(0 < n == hidden for n, hidden in zip(labels, subset.unknown.sum(axis=1).tolist(), strict=True))
        if blind:
            words = "clients know no label of their training rows, which enter no loss of labels"
            listener.note(f"{subset.name}: {blind} of {len(rows)} {words}")
    lacking = Counter(split for split, n in held if n == 0)
    for split in config.splits:
        without = lacking[split]
        if without:
            words = "enter no mean over clients" + (" but those of neighbour" if config.neighbour else "")
            listener.note(f"{subset.name}: {without} of {len(rows)} clients have no {split} rows and {words}")
    if config.clients_per_round is not None and config.clients_per_round > len(rows) - empty:
        listener.note(
            f"{subset.name}: all {len(rows) - empty} clients train every round (requested: {config.clients_per_round})"
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
        raise UsageError(f"device={wanted}: this machine has none that PyTorch can use; use auto or cpu")
    return wanted


def _precision(wanted: Precision, device: Device) -> Precision:
    if wanted == "auto":
        return "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    if wanted == "bfloat16" and device == "cpu":
        raise UsageError("precision=bfloat16: is for GPUs only; use auto or float32")
    return wanted
