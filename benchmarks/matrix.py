"""Every method on every recipe's sample: the metric before training and after.

    python benchmarks/matrix.py [--recipe NAME ...] [--method NAME ...] [--device cuda] [--jobs 4]

A cell is two runs with seed 0 on the first federation of a recipe, one untrained and one trained, with the embedded
CLIP and networks from random weights: it shows whether training gains anything over the start, and compares no methods.
``--jobs`` processes train so many cells at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import fedrsic_data
import fedtrain
from fedrsic_data.dataset.reader import Subset
from fedrsic_data.errors import UsageError
from fedrsic_data.recipes.shipped import shipped
from fedrsic_data.sources import SOURCES
from fedrsic_data.sources.benchmark import Benchmark
from fedtrain.methods import METHODS
from fedtrain.methods.networks.network import NetworkMethod
from fedtrain.methods.prompts.prompt import PromptMethod

NETWORK = {"lr": 1e-3, "epochs": 2, "image_size": 64, "rounds": 6}
PROMPTS = {"lr": 0.003, "epochs": 2, "rounds": 24}
PROMPTS_MULTI_LABEL = {"lr": 0.001, "epochs": 2, "rounds": 40}  # they fall below their start in first rounds
OTHERS = {"rounds": 24}
SETTINGS = {
    "fedclip": {"lr": 0.001},  # its own is for 200 rounds
    "pfedmoap": {"gate_lr": 0.001},  # its own overshoots where the loss is a sum over labels
}
SCENES = ("fed-rsic", "fedtpg", *(name for name, one in SOURCES.items() if isinstance(one, Benchmark)))
SAMPLES = {name: {"per_class": 20} for name in SCENES}
SAMPLES |= {"fedpgp-nwpu": {"per_class": 40}, "flair-100": {"users": 160}}
SAMPLES |= {"cifar10": {"per_class": 100}, "cifar100": {"per_class": 40}}
CLIENTS = 8  # of a round, where there are more


def settings(method: str, subset: Subset, device: str) -> dict[str, Any]:
    """Those of the trained run. The device is for networks: the small CLIP's texts are faster on a CPU."""
    kind = METHODS[method]
    network = issubclass(kind, NetworkMethod)
    several = subset.entry.multi_label
    prompts = PROMPTS_MULTI_LABEL if several else PROMPTS
    wanted = NETWORK if network else prompts if issubclass(kind, PromptMethod) else OTHERS
    wanted = wanted | SETTINGS.get(method, {}) | ({"loss": "bce"} if several and not network else {})
    known = {"rounds", *(field.name for field in dataclasses.fields(kind.Settings))}
    given = {name: value for name, value in wanted.items() if name in known}
    given |= {"clients_per_round": CLIENTS} if len(subset.clients) > CLIENTS else {}
    return given | {"device": device if network else "cpu", "precision": "float32"}


def metric_of(method: str, subset: Subset) -> str:
    """The pooled accuracy; of multi-label data C-AP, or of personal models, which rank apart, the mean of clients."""
    if not subset.entry.multi_label:
        return "test/pooled"
    return "test/local/mean" if METHODS[method].has_personal else "test/C-AP"


def built(recipe: str, folder: Path) -> Path:
    """The sample of a recipe."""
    place = folder / recipe
    fedrsic_data.build(recipe, out=place / "data", sample=SAMPLES.get(recipe, {"users": 120}))
    return place


def cell(place: Path, method: str, device: str) -> list[float] | str:
    """The metric before training and after, in percent: see ``metric_of``.

    Only one of a method that does not train; of one that is refused, the reason.
    """
    subset = fedrsic_data.open(place / "data")[0]
    metric = metric_of(method, subset)
    given = settings(method, subset, device)
    found = []
    for count in (0, given["rounds"]) if METHODS[method].rounds else (0,):
        given |= {"rounds": count, "eval_every": max(count, 1), "splits": ["test"]}
        try:
            run = fedtrain.train(method, subset, out=place / f"{method}-{count}", **given)
        except UsageError as error:
            return f"is refused: {error}"
        except Exception as error:  # one cell must not end the others
            return f"fails: {error!r}"
        found.append(float(run.final[metric]))
    return found


def row(place: Path, names: list[str], cells: list[list[float] | str]) -> tuple[str, list[str]]:
    """A row of the table, and its cells that do not show a gain."""
    subset = fedrsic_data.open(place / "data")[0]
    metric = "mAP" if subset.entry.multi_label else "accuracy"
    texts, others = [], []
    for name, found in zip(names, cells, strict=True):
        texts.append(
            found.partition(":")[0] if isinstance(found, str) else " → ".join(f"{value:.1f}" for value in found)
        )
        if isinstance(found, str):
            others.append(f"{name} on {place.name} {found}")
        elif METHODS[name].rounds and not found[-1] > found[0]:
            others.append(f"{name} on {place.name} is not better after training than before: {texts[-1]}")
    return f"| {place.name}, {subset.name} | {metric} | {' | '.join(texts)} |", others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="*", default=list(shipped()))
    parser.add_argument("--method", nargs="*", default=list(METHODS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of networks; prompts are on the CPU")
    parser.add_argument("--jobs", type=int, default=1, help="cells at once")
    given = parser.parse_args()
    print("| recipe, first federation | metric |", " | ".join(f"`{name}`" for name in given.method), "|")
    print("|---|---|" + "---|" * len(given.method), flush=True)
    threads, begun, others = max(1, (os.cpu_count() or 1) // given.jobs), time.monotonic(), []
    spawning = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(given.jobs, spawning, torch.set_num_threads, (threads,)) as pool,
    ):
        places = list(pool.map(built, given.recipe, itertools.repeat(Path(folder))))
        cells = pool.map(cell, *zip(*itertools.product(places, given.method, [given.device]), strict=True))
        for place in places:
            text, more = row(place, given.method, list(itertools.islice(cells, len(given.method))))
            print(text, flush=True)
            others += more
    print("\nEvery trained cell gains." if not others else "", *others, sep="\n- " if others else "")
    print(f"\n{time.monotonic() - begun:.0f} seconds with {given.jobs} processes.")


if __name__ == "__main__":
    main()
