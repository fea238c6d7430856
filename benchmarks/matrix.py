"""Every method on every recipe's sample: the metric before training and after.

python benchmarks/matrix.py [--recipe NAME ...] [--method NAME ...]

A cell is two runs with seed 0 on the first federation of a recipe, one untrained and one trained, with the embedded
CLIP and networks from random weights: it shows whether training gains anything over the start, and compares no methods.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import fedrsic_data
import fedtrain
from fedrsic_data.recipes.shipped import shipped
from fedtrain.methods import METHODS

NETWORK = {"lr": 1e-3, "epochs": 2, "image_size": 64}
SETTINGS: dict[str, dict[str, Any]] = {
    "fedavg": {**NETWORK, "rounds": 6},
    "fedlgt": {**NETWORK, "rounds": 6},
    "zeroshot": {"rounds": 0},
}
PROMPTS = {"rounds": 40, "lr": 0.003}
SAMPLES = {"fed-rsic": {"per_class": 20}, "fedpgp-nwpu": {"per_class": 40}, "flair-100": {"users": 160}}
CLIENTS = 20  # of a round, where there are more


def cell(method: str, data: fedrsic_data.Dataset, folder: Path) -> tuple[float, float]:
    """The metric before training and after, in percent: C-AP of multi-label data, else the pooled accuracy."""
    subset = data[0]
    metric = "test/C-AP" if subset.entry.multi_label else "test/pooled"
    settings = SETTINGS.get(method, PROMPTS)
    rounds = settings["rounds"]
    more = {"clients_per_round": CLIENTS} if len(subset.clients) > CLIENTS else {}
    found = []
    for count in (0, rounds) if rounds else (0,):
        given = {**settings, **more, "rounds": count, "eval_every": max(count, 1), "splits": ["test"]}
        run = fedtrain.train(method, subset, out=folder / f"{method}-{count}", **given)
        found.append(float(run.final[metric]))
    return found[0], found[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="*", default=list(shipped()))
    parser.add_argument("--method", nargs="*", default=list(METHODS))
    given = parser.parse_args()
    print("| recipe, first federation | metric |", " | ".join(f"`{name}`" for name in given.method), "|")
    print("|---|---|" + "---|" * len(given.method))
    worse = []
    for recipe in given.recipe:
        with tempfile.TemporaryDirectory() as folder:
            sample = SAMPLES.get(recipe, {"users": 60})
            data = fedrsic_data.build(recipe, out=Path(folder) / "data", sample=sample)
            subset = data[0]
            cells = []
            for method in given.method:
                before, after = cell(method, data, Path(folder))
                cells.append(f"{before:.1f} → {after:.1f}" if METHODS[method].rounds else f"{before:.1f}")
                if METHODS[method].rounds and not after > before:
                    worse.append(f"{method} on {recipe}")
        metric = "C-AP" if subset.entry.multi_label else "accuracy"
        print(f"| {recipe}, {subset.name} | {metric} |", " | ".join(cells), "|", flush=True)
    print()
    print(f"Not better after training than before: {', '.join(worse) or 'none'}.")


if __name__ == "__main__":
    main()
