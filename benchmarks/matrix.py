"""Every method on every recipe's sample: the metric before training and after.

    python benchmarks/matrix.py [--recipe NAME ...] [--method NAME ...] [--device cuda] [--jobs 4]

A cell is two runs with seed 0 on the first federation of a recipe, one untrained and one trained, with the embedded
CLIP and networks from random weights: it shows whether training gains anything over the start, and compares no methods.
Recipes are independent of each other, and ``--jobs`` trains so many at once, each in a process.
"""

from __future__ import annotations

import argparse
import dataclasses
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

NETWORK = {"lr": 1e-3, "epochs": 2, "image_size": 64, "rounds": 6}
OTHERS = {"lr": 0.003, "rounds": 40}
SCENES = ("fed-rsic", *(name for name, one in SOURCES.items() if isinstance(one, Benchmark)))
SAMPLES = {name: {"per_class": 20} for name in SCENES}
SAMPLES |= {"fedpgp-nwpu": {"per_class": 40}, "flair-100": {"users": 160}}
SAMPLES |= {"cifar10": {"per_class": 100}, "cifar100": {"per_class": 40}}
CLIENTS = 20  # of a round, where there are more


@dataclasses.dataclass(frozen=True)
class Row:
    """A recipe's row of the table.

    Attributes:
        text: In Markdown.
        worse: Methods that training did not improve, with the reason of those that are refused.
        seconds: What it took.
    """

    text: str
    worse: list[str]
    seconds: float


def settings(method: str) -> dict[str, Any]:
    """Those of the trained run."""
    kind = METHODS[method]
    if not kind.rounds:
        return {"rounds": 0}
    wanted = NETWORK if issubclass(kind, NetworkMethod) else OTHERS
    known = {"rounds", *(field.name for field in dataclasses.fields(kind.Settings))}
    return {name: value for name, value in wanted.items() if name in known}


def cell(method: str, subset: Subset, folder: Path, more: dict[str, Any]) -> tuple[float, float]:
    """The metric before training and after, in percent: C-AP of multi-label data, else the pooled accuracy."""
    metric = "test/C-AP" if subset.entry.multi_label else "test/pooled"
    given = settings(method) | more
    found = []
    for count in sorted({0, given["rounds"]}):
        given |= {"rounds": count, "eval_every": max(count, 1), "splits": ["test"]}
        run = fedtrain.train(method, subset, out=folder / f"{method}-{count}", **given)
        found.append(float(run.final[metric]))
    return found[0], found[-1]


def row(recipe: str, names: list[str], device: str) -> Row:
    """Trains every method on a recipe."""
    begun = time.monotonic()
    cells, worse = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = fedrsic_data.build(recipe, out=Path(folder) / "data", sample=SAMPLES.get(recipe, {"users": 60}))
        subset = data[0]
        more = {"device": device, "precision": "float32"}
        more |= {"clients_per_round": CLIENTS} if len(subset.clients) > CLIENTS else {}
        for name in names:
            try:
                before, after = cell(name, subset, Path(folder), more)
            except UsageError as error:
                cells.append("refused")
                worse.append(f"{name} on {recipe} is refused ({error})")
                continue
            trained = METHODS[name].rounds
            cells.append(f"{before:.1f} → {after:.1f}" if trained else f"{before:.1f}")
            if trained and not after > before:
                worse.append(f"{name} on {recipe}")
    metric = "C-AP" if subset.entry.multi_label else "accuracy"
    return Row(f"| {recipe}, {subset.name} | {metric} | {' | '.join(cells)} |", worse, time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="*", default=list(shipped()))
    parser.add_argument("--method", nargs="*", default=list(METHODS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--jobs", type=int, default=1, help="recipes at once")
    given = parser.parse_args()
    print("| recipe, first federation | metric |", " | ".join(f"`{name}`" for name in given.method), "|")
    print("|---|---|" + "---|" * len(given.method), flush=True)
    threads, rows = max(1, (os.cpu_count() or 1) // given.jobs), []
    spawning = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(given.jobs, spawning, torch.set_num_threads, (threads,)) as pool:
        count = len(given.recipe)
        for found in pool.map(row, given.recipe, [given.method] * count, [given.device] * count):
            print(found.text, flush=True)
            rows.append(found)
    print()
    print(f"Not better after training than before: {', '.join(w for found in rows for w in found.worse) or 'none'}.")
    print(f"Seconds of a recipe: {', '.join(f'{found.seconds:.0f}' for found in rows)}.")


if __name__ == "__main__":
    main()
