"""A round of a prompt method at multi-label sizes: peak memory, and seconds next to the plain formulation.

    python benchmarks/prompts_multilabel.py coco                          # PromptFL, 10 of 100 clients, and plain steps
    python benchmarks/prompts_multilabel.py fine                          # one step of a client, 1,628 labels
    python benchmarks/prompts_multilabel.py fine --method fedpgp --set score=pair

ViT-B/16 at its real size with random weights, a prompt of 16 vectors, batches of 32 images, float32. No image is read:
features and labels are drawn, which makes no difference to time or memory.

- ``coco``: 82,081 images, 80 labels, 100 clients of which ``--clients`` train, 2 local epochs as the engine calls them.
  The plain formulation encodes the 32 images and 80 sequences of 77 tokens in each step; some of its steps are timed.
  Then the metrics of all 82,081 rows, for all clients together and for each of 100.
- ``fine``: as many labels as FLAIR has fine ones, with drawn names of one to three words; one client, one step.

A case is a process of its own, whose largest resident size is its peak memory. In ``coco`` it is read before the plain
steps begin.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import torch
from prompts import SPEC, Plain, cost, peak
from torch.nn import functional

from fedrsic_data.dataset.reader import Subset
from fedrsic_data.settings import decode, parsed
from fedrsic_data.sources import coco
from fedtrain.methods import METHODS, multilabel
from fedtrain.methods.base import Context
from fedtrain.methods.labels import MultiLabel
from fedtrain.methods.prompts import inputs
from fedtrain.methods.prompts.features import Features

CPU = torch.device("cpu")
IMAGES, CLIENTS = 82_081, 100
FINE = 1_628
WORDS = tuple(dict.fromkeys(" ".join(coco.CLASSES).split()))


def drawn_names(count: int) -> tuple[str, ...]:
    """Names of one to three words, no two alike."""
    draws, found = torch.Generator().manual_seed(1), dict.fromkeys(WORDS)
    while len(found) < count:
        words = torch.randint(len(WORDS), (int(torch.randint(2, 4, (), generator=draws)),), generator=draws)
        found["_".join(WORDS[i] for i in words)] = None
    return tuple(found)[:count]


def drawn_features(rows: list[int], labels: int) -> Features:
    """Features and labels of clients with so many rows: 3 labels an image on average, their frequencies by Zipf."""
    draws, count = torch.Generator().manual_seed(0), sum(rows)
    values = functional.normalize(torch.randn(count, 512, generator=draws), dim=1)
    share = 1 / torch.arange(1, labels + 1)
    truth = (torch.rand(count, labels, generator=draws) < (3 * share / share.sum()).clamp(max=0.5)).to(torch.int8)
    client = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(rows))
    return Features(values, truth, client, client * 0, ("drawn",))


def bound(method: str, settings: dict[str, Any], names: tuple[str, ...], rows: list[int]) -> Any:
    """A method on drawn features."""
    entry = SimpleNamespace(
        classes=names, train_counts=(0,) * len(names), fine=None, novel=(), multi_label=True, unknown=None
    )
    clients = tuple(map(str, range(len(rows))))
    told = SimpleNamespace(name="drawn", classes=names, class_sources=("",) * len(names), entry=entry, clients=clients)
    subset = cast(Subset, told)
    kind = METHODS[method]
    made = kind(Context(subset, clients, tuple(rows), 0, CPU, clip=SPEC), decode(kind.Settings, settings, "--set"))
    with mock.patch.object(inputs, "features", return_value=drawn_features(rows, len(names))):
        made.images.rows("train")
    return made


class PlainPromptFL(Plain):
    """A step of PromptFL with several labels an image."""

    names = ("context", "bias")

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """One step of one client."""
        with torch.no_grad():
            seen = self.clip.model.encode_image(images, normalize=True)
        context, bias = self.state
        logits = self.clip.scale * (seen @ self.text(context).T) + bias
        loss = MultiLabel().loss(logits, labels).mean()
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()


def of_coco(args: argparse.Namespace) -> list[str]:
    """A round of some clients, plain steps, and the metrics of all rows."""
    each, left = divmod(IMAGES, CLIENTS)
    method = bound(args.method, args.set, coco.CLASSES, [each + (client < left) for client in range(CLIENTS)])
    clients = list(range(args.clients))
    steps = sum(method.settings.epochs * -(-len(method.trained_rows(c)) // method.settings.batch) for c in clients)
    shared, personal = method.shared(), [method.personal(c) for c in clients]
    ours = cost(lambda: list(method.train(shared, personal, clients, 1)), CPU)
    memory = peak()
    size = f"{IMAGES:,} images, {len(method.base)} labels"
    first = f"{args.method}, {size}, {len(clients)} of {CLIENTS} clients: {steps} steps"
    second = (
        f"fedkit: {ours.wall / steps:.2f} s a step, {ours.cpu / steps:.2f} processor seconds; {ours.wall:.0f} s in all"
    )
    facts = [first, f"{second}; peak memory {memory:.2f} GiB (gate: 4 GB)"]
    if args.method == "promptfl" and args.steps:
        plain, size = PlainPromptFL(method), method.clip.preprocessing.size
        batch = torch.randn(method.settings.batch, 3, size, size)
        labels = method.images.rows("train").labels[: len(batch)]
        timed = [cost(lambda: plain.step(batch, labels), CPU) for _ in range(args.steps)]
        wall, cpu = (statistics.median(getattr(one, name) for one in timed) for name in ("wall", "cpu"))
        ratios = f"ratio {wall * steps / ours.wall:.0f}, of processor seconds {cpu * steps / ours.cpu:.0f}"
        said = f"plain, median of {args.steps}: {wall:.1f} s a step, {cpu:.1f} processor seconds"
        facts.append(f"{said}; {ratios}; peak memory {peak():.2f} GiB")
    rows = method.images.rows("train")
    truth, owner = rows.labels == 1, torch.repeat_interleave(torch.arange(CLIENTS), torch.tensor(rows.counts()))
    scores = torch.rand(truth.shape)
    measured = {
        "mAP": lambda: multilabel.average_precision(scores, truth).nanmean(),
        "all metrics": lambda: multilabel.figures(scores, truth, top=3),
        f"mAP of each of {CLIENTS} clients": lambda: multilabel.own_average_precision(scores, truth, owner, CLIENTS),
    }
    for name, work in measured.items():
        spent = cost(work, CPU)
        facts.append(
            f"{name}, {IMAGES:,} x {truth.shape[1]} scores: {spent.wall:.2f} s, {spent.cpu:.2f} processor seconds"
        )
    return facts


def of_fine(args: argparse.Namespace) -> list[str]:
    """One step of one client."""
    method = bound(args.method, args.set | {"epochs": 1}, drawn_names(FINE), [32])
    shared, personal = method.shared(), method.personal(0)
    ours = cost(lambda: list(method.train(shared, [personal], [0], 1)), CPU)
    case = ", ".join([args.method, *(f"{key}={value}" for key, value in args.set.items())])
    spent = f"a step {ours.wall:.1f} s, {ours.cpu:.1f} processor seconds"
    return [f"{case}, {FINE:,} labels: {spent}; peak memory {peak():.2f} GiB (gate: 8 GB)"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("coco", "fine"))
    parser.add_argument("--method", default="promptfl")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the method")
    parser.add_argument("--clients", type=int, default=10, help="clients that train, of 100")
    parser.add_argument("--steps", type=int, default=2, help="plain steps to time")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    pairs = [text.partition("=") for text in args.set]
    args.set = {key: parsed(value) for key, _, value in pairs}
    torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]
    lines = of_coco(args) if args.case == "coco" else of_fine(args)
    print(f"{time.strftime('%Y-%m-%d')}, {args.threads} threads, load at the start {load:.1f}", *lines, sep="\n- ")


if __name__ == "__main__":
    main()
