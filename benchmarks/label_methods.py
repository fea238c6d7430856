"""FedLGT, its ablations and FedAvg beside each other on the procedural FLAIR sample.

    python benchmarks/label_methods.py                     # builds, tunes, trains; writes results/label_methods.md
    python benchmarks/label_methods.py --data DIR          # keeps datasets and runs; what is finished is not rerun
    python benchmarks/label_methods.py --quick             # two seeds, one round, nothing written

A learning rate a method is chosen by C-AP on the validation split of a federation of its own (another seed of pictures,
users and run); its test split is not looked at. The table is of the test splits of five federations, seed s for
pictures, users and run alike. Users are dealt whole to the clients, all of which train each round. The paper's networks
start from ImageNet's weights; here they start from those of a ResNet-18 that has learnt to tell single-label scenes of
the sample apart, of seeds that the photographs do not have. The label transformer starts at random, as in the paper.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torchvision.models import resnet18

from fedrsic_data import build, recipe, sample
from fedrsic_data.sources.locate import Places
from fedtrain import run
from fedtrain.config import RunConfig
from fedtrain.images import normalised

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "label_methods.md"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "FedAvg": ("fedavg", {}),
    "FedC-Tran": ("fedlgt", {"ule": "none", "ca_mle": False}),
    "+ ULE": ("fedlgt", {"ca_mle": False}),
    "+ CA-MLE": ("fedlgt", {"ule": "none"}),
    "FedLGT": ("fedlgt", {}),
}
RATES = (3e-4, 1e-3)
SUBSET, TUNING_SEED = "flair-100", 100
FIGURES = ("C-AP", "O-AP", "C-F1", "O-F1", "C-F1@3", "O-F1@3", "O-F1 of clients/mean", "O-F1 of clients/worst_decile")

SCENES, SCENE_SEED, PASSES = 40, 7_000, 4  # scenes a class and sensor, their seed, and how often each is seen

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    data: Path
    clients: int
    rounds: int
    epochs: int
    batch: int

    def pretrain(self) -> None:
        """Weights to start from: a ResNet-18 that tells the sample's scene classes apart; kept once made."""
        if (self.data / "backbone.safetensors").exists():
            return
        names = list(sample.CLASSES)
        drawn = [(label, sensor, i) for label in range(len(names)) for sensor in sample.SENSORS for i in range(SCENES)]
        pixels = torch.from_numpy(
            np.stack(
                [
                    sample.render(names[label], sensor, seed=SCENE_SEED, index=i, size=64).pixels
                    for label, sensor, i in drawn
                ]
            )
        ).permute(0, 3, 1, 2)
        labels = torch.tensor([label for label, _, _ in drawn])
        draws = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = resnet18(num_classes=len(names)).train()
        optimiser = torch.optim.Adam(network.parameters(), 1e-3)
        for once in range(PASSES):
            right = 0
            for part in torch.randperm(len(labels), generator=draws).split(32):
                logits = network(normalised(pixels[part]))
                loss = functional.cross_entropy(logits, labels[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                right += int((logits.argmax(1) == labels[part]).sum())
            print(f"pretraining, pass {once + 1}: {100 * right / len(labels):.1f}% right", file=sys.stderr, flush=True)
        state = {name: value.detach() for name, value in network.state_dict().items() if not name.startswith("fc.")}
        save_file(state, self.data / "backbone.safetensors")

    def federation(self, seed: int) -> Path:
        """A built sample with the source's own user-disjoint splits."""
        sets = [f"seed={seed}", f"clients={self.clients}"]
        wanted = recipe.override(recipe.load("flair-100"), sample=True, sets=sets)
        prepared = build.prepare(recipe.from_json(wanted, "benchmark"), Places(offline=True))
        return build.build(prepared, self.data / f"flair-{self.clients}-{seed}").path

    def train(self, name: str, seed: int, split: str, rate: float) -> Figures:
        """The figures of one run on one split."""
        method, settings = METHODS[name]
        config = RunConfig(
            method=method,
            manifest=str(self.federation(seed)),
            subset=SUBSET,
            rounds=self.rounds,
            seed=seed,
            sampling="all",
            eval_every=self.rounds,
            splits=(split,),
            device="cpu",
            method_settings={
                **settings,
                "lr": rate,
                "epochs": self.epochs,
                "batch": self.batch,
                "backbone_weights": str(self.data / "backbone.safetensors"),
            },
        )
        words = "-".join(
            [name.strip("+ "), str(seed), split, f"{rate:g}", f"r{self.rounds}", f"e{self.epochs}", f"b{self.batch}"]
        )
        begun = time.perf_counter()
        found = run.train(config, self.data / "runs" / words, cache=self.data / "cache").data["figures"]
        seconds = time.perf_counter() - begun
        print(f"{words}: C-AP {found[f'{split}/C-AP']:.1f} in {seconds:.0f} s", file=sys.stderr, flush=True)
        return {key.removeprefix(f"{split}/"): value for key, value in found.items()}


def row(name: str, rate: float, runs: Sequence[Figures]) -> str:
    """A row of the table: mean and standard deviation over seeds."""
    cells = [name, f"{rate:g}"]
    for figure in FIGURES:
        values = [found[figure] for found in runs]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.1f}{spread}")
    return f"| {' | '.join(cells)} |"


def order(rows: Mapping[str, Sequence[Figures]], better: str, worse: str) -> str:
    """Whether one method is above another in C-AP, by how much, and in how many seeds."""
    differences = [a["C-AP"] - b["C-AP"] for a, b in zip(rows[better], rows[worse], strict=True)]
    mean, won = statistics.mean(differences), sum(d > 0 for d in differences)
    verdict = "holds" if mean > 0 and 2 * won > len(differences) else "is not decided" if mean > 0 else "does not hold"
    return f"- {better} above {worse}: {verdict}, {mean:+.1f} points, in {won} of {len(differences)} seeds"


def report(bench: Bench, seeds: Sequence[int], names: Sequence[str]) -> str:
    """Trains all there is and writes it up."""
    bench.pretrain()
    tried = {name: {rate: bench.train(name, TUNING_SEED, "val", rate)["C-AP"] for rate in RATES} for name in names}
    rates = {name: max(found, key=found.__getitem__) for name, found in tried.items()}
    rows: dict[str, list[Figures]] = {name: [] for name in names}
    for seed in seeds:  # seed by seed: what is cut short has whole seeds
        for name in names:
            rows[name].append(bench.train(name, seed, "test", rates[name]))
    pairs = [(a, b) for a, b in (("FedLGT", "FedC-Tran"), ("FedC-Tran", "FedAvg"), ("FedLGT", "FedAvg"))]
    lines = [
        "# Multi-label methods on the sample",
        "",
        (
            "Sample of FLAIR (17 labels, 64-pixel procedural photographs), users dealt whole to "
            f"{bench.clients} clients, {bench.rounds} rounds of {bench.epochs} epochs, batch {bench.batch}, all "
            f"clients each round, from a ResNet-18 pretrained on scenes. Mean ± standard deviation over {len(seeds)} "
            f"seeds, in percent, test split, last round. PyTorch {torch.__version__}, CPU. Made by "
            "`benchmarks/label_methods.py`. Pictures are no photographs, and so few rounds are no reproduction of the "
            "paper: the figures compare methods on this task alone."
        ),
        "",
        f"| method | lr | {' | '.join(FIGURES)} |",
        f"|---|---|{'---|' * len(FIGURES)}",
        *(row(name, rates[name], runs) for name, runs in rows.items()),
        "",
        "## Order in C-AP",
        "",
        *(order(rows, *pair) for pair in pairs if set(pair) <= set(names)),
        "",
        "## Learning rates",
        "",
        "C-AP on the validation split of another federation, from which the rates were chosen.",
        "",
        f"| method | {' | '.join(f'{rate:g}' for rate in RATES)} |",
        f"|---|{'---|' * len(RATES)}",
        *(f"| {name} | {' | '.join(f'{found[rate]:.1f}' for rate in RATES)} |" for name, found in tried.items()),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="where datasets and runs are kept; else a temporary folder")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["FedAvg", "FedC-Tran", "FedLGT"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="two seeds, one round, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as aside:
        rounds, seeds = (1, 2) if given.quick else (given.rounds, given.seeds)
        bench = Bench(given.data or Path(aside), given.clients, rounds, given.epochs, given.batch)
        text = report(bench, range(seeds), given.methods)
    sys.stdout.write(text)
    if not given.quick:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
