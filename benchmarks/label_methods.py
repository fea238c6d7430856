"""FedLGT, its ablations and FedAvg beside each other on the procedural FLAIR sample.

    python benchmarks/label_methods.py                     # builds, tunes, trains; writes results/label_methods.md
    python benchmarks/label_methods.py --data DIR          # keeps datasets and runs; what is finished is not rerun
    python benchmarks/label_methods.py --quick             # two repetitions, three rounds, nothing written

``repetitions.py`` explains the repetitions. A learning rate per method is chosen by C-AP on the validation split
of another repetition (``--tuning 3``: of three), whose pictures are in none of the five that are judged; its test split
is not looked at. Users are dealt whole to the clients, all of which train each round.

The paper's networks start from ImageNet's weights; here they start from those of a ResNet-18 that has learned to tell
single-label scenes of the sample apart, of a seed that no photograph has. This backbone is frozen and only the head or
the label transformer, which starts at random, learns; with ``--whole N``, all is trained in N rounds more, the backbone
at a separate rate. The output of a frozen backbone for an image is computed once and kept, which changes metrics by no
more than rounding. Below the methods are rows that train nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from repetitions import CHOSEN, UNIT, Figures, apart, climbed, drawn, order, spread, wins
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torchvision.models import resnet18

import fedrsic_data
from fedrsic_data import recipes, sample
from fedrsic_data.build import pipeline
from fedrsic_data.sources.locate import Places
from fedtrain import run
from fedtrain.config import RunConfig
from fedtrain.methods.networks import multilabel
from fedtrain.methods.networks.album import Album, Pictures, normalised
from fedtrain.metrics import mean
from fedtrain.models import label_transformer
from fedtrain.runs.files import METRICS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "label_methods.md"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "FedAvg": ("fedavg", {}),
    "FedC-Tran": ("fedlgt", {"ule": "none", "ca_mle": False}),
    "+ ULE": ("fedlgt", {"ca_mle": False}),
    "+ CA-MLE": ("fedlgt", {"ule": "none"}),
    "FedLGT": ("fedlgt", {}),
}
START = {"fedavg": (-5, -4), "fedlgt": (-7, -6)}  # where in the grid of rates the search begins: 3e-4 is -7
BACKBONE_RATE = 1e-4  # that of the paper
SUBSET = "flair-100"
FIGURES = ("C-AP", "O-AP", "C-F1", "O-F1", "C-F1@3", "O-F1@3", "O-F1 of clients/mean", "O-F1 of clients/worst_decile")

_BACKBONE = label_transformer.backbone
MOST = 2_000  # training pictures of a repetition: how many photographs users take is heavy-tailed
SCENES, SCENE_SEED, PASSES = 40, 7_000, 4  # scenes a class and sensor, their seed, and how often each is seen


class Remembering(nn.Sequential):
    """A backbone that computes the features of an image once while it is frozen; the same for all networks."""

    features: ClassVar[dict[bytes, torch.Tensor]] = {}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See ``label_transformer.backbone``."""
        if self.training or any(p.requires_grad for p in self.parameters()):
            return super().forward(images)
        keys = [hashlib.blake2b(image.numpy(), digest_size=16).digest() for image in images]
        new = [i for i, key in enumerate(keys) if key not in self.features]
        if new:
            with torch.no_grad():
                made = super().forward(images[new])
            self.features.update(zip((keys[i] for i in new), made.clone(), strict=True))
        return torch.stack([self.features[key] for key in keys])


def remembering() -> Remembering:
    """ResNet-18 as the networks have it, which remembers."""
    return Remembering(OrderedDict(_BACKBONE().named_children()))


@dataclass(frozen=True)
class Bench:
    """The settings that all runs share.

    Attributes:
        data: Where datasets and runs are.
        clients: Number of clients that the users are dealt to.
        frozen: Rounds with a frozen backbone.
        whole: Rounds after them, in which all is trained.
        epochs: Epochs per round.
        batch: Images per step.
        users: Users of a sample.
    """

    data: Path
    clients: int = 10
    frozen: int = 12
    whole: int = 0
    epochs: int = 2
    batch: int = 16
    users: int = 200

    @property
    def trunk(self) -> Path:
        """Weights to start from."""
        return self.data / "backbone.safetensors"

    def pretrain(self) -> None:
        """Makes them: a ResNet-18 that tells the sample's scene classes apart; kept once made."""
        if self.trunk.exists():
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
        save_file(state, self.trunk)

    def federation(self, repetition: int) -> Path:
        """A built sample with the source's own user-disjoint splits."""
        sets = [*drawn(repetition), f"clients={self.clients}", f"sample.users={self.users}"]
        wanted = recipes.override(recipes.load("flair-100"), sample=True, sets=sets)
        prepared = pipeline.prepare(recipes.from_json(wanted, "benchmark"), Places(offline=True))
        return pipeline.build(prepared, self.data / f"flair-{self.clients}-{repetition}").path

    def judged(self, count: int) -> tuple[int, ...]:
        """The first repetitions that are not too large."""
        fits = (n for n in itertools.count() if n not in CHOSEN and self._rows(n) <= MOST)
        return tuple(itertools.islice(fits, count))

    def _rows(self, repetition: int) -> int:
        subset = fedrsic_data.open(self.federation(repetition)).subset(SUBSET)
        return subset.entry.rows["train"]

    def train(self, name: str, repetition: int, split: str, rate: float, whole: int) -> dict[int, Figures]:
        """The figures of one run on one split, by round."""
        method, settings = METHODS[name]
        config = RunConfig(
            method=method,
            manifest=str(self.federation(repetition)),
            subset=SUBSET,
            rounds=self.frozen + whole,
            seed=repetition,
            sampling="all",
            eval_every=max(1, self.frozen // 6),
            checkpoint_every=self.frozen + whole,
            splits=(split,),
            device="cpu",
            method_settings={
                **settings,
                "lr": rate,
                "epochs": self.epochs,
                "batch": self.batch,
                "backbone_weights": str(self.trunk),
                "freeze_backbone": self.frozen if whole else "always",
                "backbone_lr": BACKBONE_RATE if whole else None,
            },
        )
        sizes = f"r{self.frozen}+{whole}-e{self.epochs}-b{self.batch}"
        out = self.data / "runs" / "-".join([name.strip("+ "), str(repetition), split, f"{rate:g}", sizes])
        begun = time.perf_counter()
        run.train(config, out, cache=self.data / "cache")
        lines = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
        found = {
            line["round"]: {key.removeprefix(f"{split}/"): value for key, value in line["figures"].items()}
            for line in lines
            if "figures" in line
        }
        aps = ", ".join(f"{figures['C-AP']:.1f}" for figures in found.values())
        print(f"{out.name}: C-AP {aps} in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        return found

    def plain(self, repetition: int) -> dict[str, Figures]:
        """Rows that train nothing, by name: what frequencies of labels and frozen features alone give."""
        subset = fedrsic_data.open(self.federation(repetition)).subset(SUBSET)
        clients, names = len(subset.clients), subset.classes
        album = Album(subset, "labels", len(names), 64, torch.device("cpu"), 2**30)
        train = [album.client(k) for k in range(clients)]
        (test,) = album.split("test")
        everyone = torch.cat([held.targets for held in train]).float()
        own = torch.stack([held.targets.float().mean(0) for held in train])
        network = remembering().eval().requires_grad_(False)
        network.load_state_dict({n: v for n, v in load_file(self.trunk).items() if not n.startswith("fc.")})
        known, asked = (
            functional.normalize(network(normalised(images)).mean((2, 3)), dim=1)
            for images in (torch.cat([held.images for held in train]), test.images)
        )
        with_, without = (functional.normalize(mask.T @ known, dim=1) for mask in (everyone, 1 - everyone))
        nearer = asked @ (with_ - without).T
        count = len(test.targets)
        return {
            "label frequencies": _judged(everyone.mean(0).expand(count, -1), test, clients),
            "own label frequencies": _judged(own[test.owner], test, clients),
            "class means": {n: v for n, v in _judged(nearer, test, clients).items() if n.endswith("AP")},
        }


def _judged(scores: torch.Tensor, test: Pictures, clients: int) -> Figures:
    """Figures as the trainer names them."""
    held = sorted(v for v in multilabel.overlap(scores, test.targets, test.owner, clients).tolist() if v == v)
    return {
        **multilabel.figures(scores, test.targets, top=3),
        "O-F1 of clients/mean": mean(held),
        "O-F1 of clients/worst_decile": mean(held[: -(-len(held) // 10)]),
    }


def _aps(runs: Sequence[Mapping[int, Figures]]) -> list[list[float]]:
    """C-AP of each run, round by round."""
    return [[figures["C-AP"] for _, figures in sorted(run.items())] for run in runs]


def tuned(bench: Bench, names: Sequence[str], chosen: Sequence[int]) -> dict[str, dict[float, float]]:
    """C-AP on validation rows of every rate of every method with a frozen backbone, mean over repetitions."""

    def ap(name: str, rate: float) -> float:
        return statistics.mean(bench.train(name, n, "val", rate, 0)[bench.frozen]["C-AP"] for n in chosen)

    return {n: climbed(lambda rate, n=n: ap(n, rate), START[METHODS[n][0]]) for n in names}


def report(bench: Bench, names: Sequence[str], judged: Sequence[int], chosen: Sequence[int]) -> str:
    """Trains all there is and writes it up."""
    label_transformer.backbone = remembering  # type: ignore[assignment]
    apart({n: bench.federation(n) for n in (*chosen, *judged)})
    bench.pretrain()
    tried = tuned(bench, names, chosen)
    rates = {name: max(found, key=found.__getitem__) for name, found in tried.items()}
    curves: dict[str, list[dict[int, Figures]]] = {name: [] for name in names}
    plain: dict[str, list[Figures]] = {}
    for n in judged:  # repetition by repetition: what is cut short has whole ones
        for name in names:
            curves[name].append(bench.train(name, n, "test", rates[name], bench.whole))
        for name, figures in bench.plain(n).items():
            plain.setdefault(name, []).append(figures)
    last = bench.frozen + bench.whole
    rows = {at: {m: [c[at] for c in runs] for m, runs in curves.items()} | plain for at in (bench.frozen, last)}
    pairs = [
        (one, other)
        for i, one in enumerate(reversed(names))
        for other in (*list(reversed(names))[i + 1 :], "class means", "label frequencies")
    ]
    marks = sorted(curves[names[0]][0])
    later = (
        f", then {bench.whole} rounds in which all is trained (backbone_lr {BACKBONE_RATE:g}, not tuned)"
        if bench.whole
        else ""
    )
    grid = sorted({rate for found in tried.values() for rate in found})
    lines = [
        "# Multi-label methods on the sample",
        "",
        (
            f"Sample of FLAIR (17 labels, {bench.users} users, 64-pixel procedural photographs), users dealt whole to "
            f"{bench.clients} clients, rounds of {bench.epochs} epochs, batch {bench.batch}, all clients each round. A "
            "ResNet-18 pretrained on scenes of another seed is the backbone, frozen in "
            f"{bench.frozen} rounds{later}. Mean ± standard deviation over {len(judged)} repetitions, in percent, test "
            f"split; the seeds are {', '.join(map(str, judged))}, the first with at most {MOST:,} training pictures. "
            f"{UNIT}; no picture is in two of them; the backbone is the same. PyTorch {torch.__version__}, CPU. Made "
            f"by `benchmarks/label_methods.py --repetitions {len(judged)}`. Pictures are no photographs, and so "
            "small a federation is no reproduction of the paper: the figures compare methods on this task alone."
        ),
    ]
    for at in rows:
        words = "with the backbone frozen" if at == bench.frozen else "with all trained at last"
        lines += [
            "",
            f"## After {at} rounds, {words}",
            "",
            f"| method | lr | {' | '.join(FIGURES)} |",
            f"|---|---|{'---|' * len(FIGURES)}",
            *(
                f"| {m} | {f'{rates[m]:g}' if m in rates else ''} | {' | '.join(spread(r, f) for f in FIGURES)} |"
                for m, r in rows[at].items()
            ),
            "",
            "In how many of the repetitions the method of a row is above that of a column in C-AP:",
            "",
            *wins(rows[at], "C-AP"),
            "",
            "An order is stated where it holds in at least four fifths of the repetitions.",
            "",
            *(order(rows[at], *pair, "C-AP") for pair in pairs),
        ]
    lines += [
        "",
        (
            "The last three rows train nothing. `label frequencies` scores every image by how frequent each label is "
            "in all training rows, `own label frequencies` in those of the image's client; `class means` by whether "
            "its frozen features are nearer to the mean of the images with the label or without (no probabilities, so "
            "average precisions only)."
        ),
        "",
        "## Curves",
        "",
        f"C-AP after so many rounds, mean over the repetitions; the backbone is frozen up to round {bench.frozen}.",
        "",
        f"| method | {' | '.join(map(str, marks))} |",
        f"|---|{'---|' * len(marks)}",
        *(
            f"| {m} | {' | '.join(f'{statistics.mean(at):.1f}' for at in zip(*_aps(runs), strict=True))} |"
            for m, runs in curves.items()
        ),
        "",
        "## Learning rates",
        "",
        (
            f"C-AP after {bench.frozen} rounds with a frozen backbone, on the validation split of other repetitions "
            f"({len(chosen)}), from which the rates were chosen. The grid of a method goes on until its best rate is "
            "not at the edge."
        ),
        "",
        f"| method | {' | '.join(f'{rate:g}' for rate in grid)} |",
        f"|---|{'---|' * len(grid)}",
        *(
            f"| {name} | {' | '.join(f'{found[rate]:.1f}' if rate in found else '' for rate in grid)} |"
            for name, found in tried.items()
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="where datasets and runs are kept; else a temporary folder")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--frozen", type=int, default=12, help="rounds with a frozen backbone")
    parser.add_argument("--whole", type=int, default=0, help="rounds after them in which all is trained")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["FedAvg", "FedC-Tran", "FedLGT"])
    parser.add_argument("--repetitions", type=int, default=5, help="that are judged")
    parser.add_argument("--tuning", type=int, choices=(1, 2, 3), default=1, help="repetitions that choose the rates")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two repetitions, three rounds, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        data = given.data or Path(temporary)
        data.mkdir(parents=True, exist_ok=True)
        count, frozen, whole = (2, 2, 1) if given.quick else (given.repetitions, given.frozen, given.whole)
        bench = Bench(data, given.clients, frozen, whole, given.epochs, given.batch)
        text = report(bench, given.methods, bench.judged(count), CHOSEN[: given.tuning])
    sys.stdout.write(text)
    if not given.quick:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
