"""The repetitions of an experiment that draws its datasets anew for each seed, and the orders that they support.

    fedkit experiment prompt-methods
    python benchmarks/repetitions.py experiments/prompt-methods --metric test/novel/mean
    python benchmarks/repetitions.py experiments/label-methods --backbone backbone.safetensors

A repetition has new pictures, a new split and partition, and new weights; repetitions that share a picture are refused
without ``--same-pictures``. It prints, for each kind of dataset, rows that train nothing, which show how much of a
metric a method owes to its learning; in how many repetitions a row is above another; and the orders that hold.

Rows that train nothing, with single labels: ``majority class``, where a client says the class that most of its
training rows have; ``zero-shot, own classes``, CLIP's own text among the classes that the client has in training; and
``class means``, the class whose mean frozen feature is nearest, of the training rows of all clients, or of the
client's own rows and classes. With several labels: ``label frequencies``, how frequent each label is in all training
rows, or in those of the image's client; and ``class means``, whether the features of the frozen backbone are nearer to
the mean of the images with the label or without (no probabilities, so average precisions only).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional

import fedrsic_data
from fedrsic_data.dataset.reader import Subset
from fedrsic_data.files.cache import cache_folder
from fedtrain.experiments import run, spec
from fedtrain.methods import multilabel
from fedtrain.methods.base import Context
from fedtrain.methods.networks.album import Album, Pictures, normalised
from fedtrain.methods.prompts.inputs import TEMPLATE, Classes, FeatureRows, Images
from fedtrain.metrics import accuracy, mean, over_clients
from fedtrain.models import clip, label_transformer
from fedtrain.report import seed_table
from fedtrain.runs.folder import load

ENOUGH = 0.8  # of the repetitions: an order is stated from here on

Metrics = Mapping[str, float]


def pictures(dataset: Path) -> set[str]:
    """Digests of all images of a built dataset, whatever their split."""
    opened = fedrsic_data.open(dataset)
    return {
        hashlib.sha256(file.as_py()).hexdigest()
        for name in opened.subsets
        for split in opened.subset(name).splits
        for file in opened.subset(name).read(split, ["image"]).column("image").combine_chunks().field("bytes")
    }


def apart(datasets: Mapping[int, Path]) -> None:
    """Refuse repetitions that share a picture.

    Raises:
        ValueError: Two of them do.
    """
    owner: dict[str, int] = {}
    for repetition, path in datasets.items():
        for digest in pictures(path):
            if owner.setdefault(digest, repetition) != repetition:
                raise ValueError(f"repetitions {owner[digest]} and {repetition} share pictures; they repeat nothing")


def untrained(subset: Subset, backbone: Path | None) -> dict[str, Metrics]:
    """Metrics of the test split by rows that train nothing, named as the trainer names them."""
    found = _labels(subset, backbone) if subset.entry.multi_label else _scenes(subset)
    return {row: {f"test/{name}": value for name, value in figures.items()} for row, figures in found.items()}


def _scenes(subset: Subset) -> dict[str, Metrics]:
    counts = tuple(subset.client(name).rows("train") for name in subset.clients)
    tower = clip.load("tiny")
    context = Context(subset, subset.clients, counts, 0, torch.device("cpu"), cache=cache_folder())
    images = Images(context, tower)
    train, test = images.rows("train"), images.rows("test")
    classes = len(images.classes)
    owned = [torch.bincount(train.labels[train.of(k)], minlength=classes) for k in range(len(counts))]
    text = Classes(tower, images.classes).fixed(TEMPLATE)
    everyone = [_means(train.images, train.labels, classes).T] * len(counts)
    own = [_means(train.images[mine], train.labels[mine], classes).T for mine in map(train.of, range(len(counts)))]
    never = [torch.where(held > 0, 0.0, -9.0) for held in owned]  # cosines are above -1
    none = [torch.zeros(classes)] * len(counts)
    blank = [torch.zeros_like(text.T)] * len(counts)
    judged = {  # what a client classifies features with: a matrix, and what is added
        "majority class": (blank, [held.float() for held in owned]),
        "zero-shot, own classes": ([text.T] * len(counts), never),
        "class means, all clients": (everyone, none),
        "class means, own rows": (own, never),
    }
    return {name: _accuracies(*linear, test, novel=bool(images.novel)) for name, linear in judged.items()}


def _means(images: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """The L2-normalised mean feature of each class, zeros for one without rows."""
    sums = torch.zeros(classes, images.shape[1]).index_add_(0, labels, images)
    return functional.normalize(sums, dim=1)


def _accuracies(
    matrices: Sequence[torch.Tensor], added: Sequence[torch.Tensor], test: FeatureRows, *, novel: bool
) -> dict[str, float]:
    """Metrics of a linear classifier of each client."""

    def right(client: int, rows: slice) -> float:
        scores = test.images[rows] @ matrices[client] + added[client]
        return accuracy(int((scores.argmax(1) == test.labels[rows]).sum()), rows.stop - rows.start)

    clients = range(len(matrices))
    found = over_clients("local", [right(client, test.of(client)) for client in clients], test.counts())
    found["pooled"] = found["local/weighted"]
    return found | ({"base/mean": mean(right(client, slice(0, len(test))) for client in clients)} if novel else {})


def _labels(subset: Subset, backbone: Path | None) -> dict[str, Metrics]:
    clients = len(subset.clients)
    album = Album(subset, "coarse", 64, torch.device("cpu"), 2**30)
    train = [album.client(k) for k in range(clients)]
    (test,) = album.split("test")
    everyone = torch.cat([held.targets for held in train]).float()
    own = torch.stack([held.targets.float().mean(0) for held in train])
    count = len(test.targets)
    found = {
        "label frequencies": _precisions(everyone.mean(0).expand(count, -1), test, clients),
        "own label frequencies": _precisions(own[test.owner], test, clients),
    }
    if backbone is None:
        return found
    network = label_transformer.backbone().eval().requires_grad_(False)
    network.load_state_dict({n: v for n, v in load_file(backbone).items() if not n.startswith("fc.")})
    known, asked = (
        torch.cat([functional.normalize(network(normalised(part)).mean((2, 3)), dim=1) for part in images.split(64)])
        for images in (torch.cat([held.images for held in train]), test.images)
    )
    with_, without = (functional.normalize(mask.T @ known, dim=1) for mask in (everyone, 1 - everyone))
    means = _precisions(asked @ (with_ - without).T, test, clients)
    return found | {"class means": {name: value for name, value in means.items() if name.endswith("AP")}}


def _precisions(scores: torch.Tensor, test: Pictures, clients: int) -> dict[str, float]:
    own = multilabel.overlap(scores, test.targets, test.owner, clients).tolist()
    rows = torch.bincount(test.owner, minlength=clients).tolist()
    return {**multilabel.figures(scores, test.targets, top=3), **over_clients("O-F1 of clients", own, rows)}


def measured(
    folder: Path, backbone: Path | None, *, same_pictures: bool = False
) -> dict[str, dict[str, list[Metrics]]]:
    """Kind of dataset -> row of its table -> metrics of each repetition.

    Raises:
        ValueError: Two repetitions share a picture, without ``same_pictures``.
    """
    datasets, runs = run.planned(spec.load(folder / run.SPEC), folder)
    kinds: dict[str, dict[str, list[Metrics]]] = {}
    for facts in dict.fromkeys(json.dumps(one.facts) for one in datasets):
        mine = [one for one in datasets if json.dumps(one.facts) == facts]
        if not same_pictures:
            apart({one.seed or 0: Path(one.place) for one in mine})
        for dataset in mine:
            for subset in map(fedrsic_data.open(dataset.place).subset, dataset.subsets):
                rows = kinds.setdefault(f"{subset.name} {facts}", {})
                for one in runs:
                    if (one.dataset.place, one.subset) == (dataset.place, subset.name):
                        rows.setdefault(one.facts["method"], []).append(load(one.folder).data["figures"])
                for name, figures in untrained(subset, backbone).items():
                    rows.setdefault(name, []).append(figures)
    return kinds


def wins(rows: Mapping[str, Sequence[Metrics]], name: str) -> list[str]:
    """A Markdown table: in how many repetitions the method of a row is above that of a column in a metric."""
    held = [method for method, runs in rows.items() if all(name in figures for figures in runs)]
    lines = [f"| above | {' | '.join(held)} |", f"|---|{'---|' * len(held)}"]
    for one in held:
        cells = ["" if one == other else str(_above(rows[one], rows[other], name)) for other in held]
        lines.append(f"| {one} | {' | '.join(cells)} |")
    return lines


def order(rows: Mapping[str, Sequence[Metrics]], one: str, other: str, name: str) -> str:
    """A sentence on two methods: an order holds if it does in four fifths of the repetitions, either way round."""
    count, up, down = len(rows[one]), _above(rows[one], rows[other], name), _above(rows[other], rows[one], name)
    mean = statistics.mean(a[name] - b[name] for a, b in zip(rows[one], rows[other], strict=True))
    if up >= ENOUGH * count and mean > 0:
        return f"- **{one} above {other}**: {mean:+.1f} points, in {up} of {count} repetitions"
    if down >= ENOUGH * count and mean < 0:
        return f"- **{other} above {one}**: {-mean:+.1f} points, in {down} of {count} repetitions"
    return f"- no order of {one} and {other}: {mean:+.1f} points, {one} above in {up} and below in {down} of {count}"


def _above(one: Sequence[Metrics], other: Sequence[Metrics], name: str) -> int:
    return sum(a[name] > b[name] for a, b in zip(one, other, strict=True))


def table(rows: Mapping[str, Sequence[Metrics]], metrics: Sequence[str]) -> str:
    """The metrics of every row in Markdown."""
    cells = {
        (row, metric): {i: figures[metric] for i, figures in enumerate(runs) if metric in figures}
        for row, runs in rows.items()
        for metric in metrics
    }
    return seed_table.written(seed_table.fill(dict(zip(metrics, metrics, strict=True)), "method", cells), "markdown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="the folder of a finished experiment")
    parser.add_argument("--backbone", type=Path, help="with several labels: the file that networks started from")
    parser.add_argument(
        "--metric",
        help="the metric of orders, such as test/novel/mean; default: test/local/mean, with several labels test/C-AP",
    )
    parser.add_argument(
        "--same-pictures",
        action="store_true",
        help="repetitions may share pictures; their spread then says nothing of other pictures",
    )
    given = parser.parse_args()
    for kind, rows in measured(given.experiment, given.backbone, same_pictures=given.same_pictures).items():
        shared = [name for name in next(iter(rows.values()))[0] if name.startswith("test/")]
        everywhere = (n for n in ("test/local/mean", "test/C-AP") if all(n in runs[0] for runs in rows.values()))
        metric = given.metric if given.metric in shared else next(everywhere)
        print(
            f"## {kind}\n\n{table(rows, shared)}\nIn how many of the repetitions a row is above another in {metric}:\n"
        )
        print("\n".join([*wins(rows, metric), ""]))
        names = [name for name, runs in rows.items() if all(metric in figures for figures in runs)]
        pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
        print("\n".join([*(order(rows, *pair, metric) for pair in pairs), ""]))


if __name__ == "__main__":
    main()
