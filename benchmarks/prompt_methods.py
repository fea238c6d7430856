"""Prompt methods beside each other on the procedural sample, with the tiny CLIP.

    python benchmarks/prompt_methods.py                     # builds, tunes, trains; writes results/prompt_methods.md
    python benchmarks/prompt_methods.py --data DIR          # keeps datasets and runs; what is finished is not rerun
    python benchmarks/prompt_methods.py --quick             # two repetitions, three rounds, nothing written

``repetitions.py`` explains the repetitions. A learning rate per method is chosen by local accuracy on the validation
split of three repetitions; their test splits are not looked at, and their pictures are in none of the five that are
judged. The base-to-novel federations take the same rates. All other settings are the methods' defaults. Below the
methods are rows that need no training: they show how much of a metric a method owes to its learning.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from repetitions import CHOSEN, JUDGED, UNIT, Figures, apart, climbed, drawn, order, spread, wins

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.sources.locate import Places
from fedtrain import run
from fedtrain.config import RunConfig
from fedtrain.methods.base import Context
from fedtrain.methods.prompts.inputs import TEMPLATE, Classes, FeatureRows, Images
from fedtrain.metrics import accuracy, mean
from fedtrain.models import clip

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "prompt_methods.md"
TRAINED = {  # where in the grid of rates the search begins
    "promptfl": (-5, -4, -3),
    "kgcoop": (-5, -4, -3),
    "local": (-6, -5, -4),
    "fedpgp": (-3, -2, -1, 0, 1, 2),
    "fedrsclip": (-4, -3, -2, -1),
}
SUBSET, CLIENTS, ALPHA = "fed-ucmerced", 10, 0.1


@dataclass(frozen=True)
class Bench:
    """The settings that all runs share: their folder, rounds, CLIP, and number of pictures per class."""

    data: Path
    rounds: int
    clip: str = "tiny"
    per_class: int = 40

    def federation(self, repetition: int, *, validation: bool = False, novel: bool = False) -> Path:
        """A built sample; the one with a validation split has the same size of test split."""
        kind = "tuning" if validation else "novel" if novel else "all"
        sets = [*drawn(repetition), f"clients={CLIENTS}", f"alpha={ALPHA}", f"sample.per_class={self.per_class}"]
        sets += ["splits.val=0.2"] if validation else []
        sets += ["base_to_novel=true"] if novel else []
        data = recipes.override(recipes.load("fed-rsic"), subsets=[SUBSET], sample=True, sets=sets)
        prepared = pipeline.prepare(recipes.from_json(data, "benchmark"), Places(offline=True))
        return pipeline.build(prepared, self.data / f"{kind}-{repetition}").path

    def train(self, method: str, federation: Path, repetition: int, split: str, rate: float | None) -> Figures:
        """The figures of one run on one split."""
        config = RunConfig(
            method=method,
            manifest=str(federation),
            subset=SUBSET,
            rounds=None if rate is None else self.rounds,
            seed=repetition,
            eval_every=max(1, self.rounds),
            splits=(split,),
            checkpoint_every=max(1, self.rounds),
            device="cpu",
            clip=self.clip,
            method_settings={} if rate is None else {"lr": rate},
        )
        out = self.data / "runs" / f"{federation.name}-{method}-{rate}-r{self.rounds}-{Path(self.clip).name}"
        begun = time.perf_counter()
        found = run.train(config, out, cache=self.data / "cache").data["figures"]
        seconds = time.perf_counter() - begun
        local = found[f"{split}/local/mean"]
        print(f"{federation.name:12} {method:10} lr={rate} {split}: local {local:.1f} in {seconds:.0f} s", flush=True)
        return {name.removeprefix(f"{split}/"): value for name, value in found.items()}

    def plain(self, federation: Path) -> dict[str, Figures]:
        """Rows that train nothing, by name: what class frequencies and frozen features alone give on the test split."""
        subset = fedrsic_data.open(federation).subset(SUBSET)
        counts = tuple(subset.client(name).rows("train") for name in subset.clients)
        tower = clip.load(self.clip)
        context = Context(subset, subset.clients, counts, 0, torch.device("cpu"), cache=self.data / "cache")
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
        return {name: _judged(*linear, test, novel=bool(images.novel)) for name, linear in judged.items()}


def _means(images: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """The L2-normalised mean feature of each class, zeros for one without rows."""
    sums = torch.zeros(classes, images.shape[1]).index_add_(0, labels, images)
    return torch.nn.functional.normalize(sums, dim=1)


def _judged(
    matrices: Sequence[torch.Tensor], added: Sequence[torch.Tensor], test: FeatureRows, *, novel: bool
) -> dict[str, float]:
    """Figures as ``ClipMethod.evaluate`` names them, of a linear classifier of each client."""

    def right(client: int, rows: slice) -> float:
        scores = test.images[rows] @ matrices[client] + added[client]
        return accuracy(int((scores.argmax(1) == test.labels[rows]).sum()), rows.stop - rows.start)

    clients = range(len(matrices))
    local = [right(client, test.of(client)) for client in clients]
    rows = test.counts()
    held = sorted(value for value, n in zip(local, rows, strict=True) if n)
    found = {
        "local/mean": mean(local),
        "local/worst_decile": mean(held[: -(-len(held) // 10)]),
        "pooled": sum(value * n for value, n in zip(local, rows, strict=True) if n) / sum(rows),
    }
    return found | ({"base/mean": mean(right(client, slice(0, len(test))) for client in clients)} if novel else {})


def tuned(bench: Bench, repetitions: Sequence[int]) -> dict[str, dict[float, float]]:
    """Local accuracy on validation rows of every rate of every method, mean over repetitions."""
    built = {n: bench.federation(n, validation=True) for n in repetitions}

    def local(method: str, rate: float) -> float:
        return statistics.mean(bench.train(method, built[n], n, "val", rate)["local/mean"] for n in repetitions)

    return {m: climbed(lambda rate, m=m: local(m, rate), start) for m, start in TRAINED.items()}


def table(columns: Mapping[str, str], rows: Mapping[str, Sequence[Figures]], rates: Mapping[str, float]) -> list[str]:
    """A Markdown table, one row per method."""
    lines = [f"| method | lr | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for method, runs in rows.items():
        cells = " | ".join(spread(runs, name) for name in columns.values())
        lines.append(f"| {method} | {rates.get(method, ''):{'g' if method in rates else ''}} | {cells} |")
    return lines


ALL = {
    "local, mean over clients": "local/mean",
    "worst decile": "local/worst_decile",
    "pooled": "pooled",
    "shared prompt alone, all rows": "shared",
}
NOVEL = {
    "local": "local/mean",
    "base": "base/mean",
    "novel": "novel/mean",
    "HM(base, novel)": "hm_base_novel",
    "HM(local, base, novel)": "hm_local_base_novel",
    "mean of clients' HM": "mean_client_hm",
}


def report(bench: Bench, judged: Sequence[int], chosen: Sequence[int]) -> str:
    """Trains all there is and writes it up."""
    apart({n: bench.federation(n, validation=True) for n in chosen} | {n: bench.federation(n) for n in judged})
    validation = tuned(bench, chosen)
    rates = {method: max(found, key=found.__getitem__) for method, found in validation.items()}
    rows: dict[bool, dict[str, list[Figures]]] = {False: {}, True: {}}
    for novel in (False, True):
        for n in judged:
            federation = bench.federation(n, novel=novel)
            for method in ("zeroshot", *TRAINED):
                found = bench.train(method, federation, n, "test", rates.get(method))
                rows[novel].setdefault(method, []).append(found)
            for name, figures in bench.plain(federation).items():
                rows[novel].setdefault(name, []).append(figures)
    tried = sorted({rate for found in validation.values() for rate in found})
    clips = clip.load(bench.clip)
    lines = [
        "# Prompt methods on the sample",
        "",
        (
            f"Sample of {SUBSET} ({bench.per_class} procedural pictures a class), {CLIENTS} clients, Dirichlet alpha "
            f"{ALPHA} (the textbook draw, `balance=false`; FedPGP's authors balance sizes), CLIP `{bench.clip}` "
            f"({clips.digest[:12]}), {bench.rounds} rounds, all clients each round. Mean ± standard deviation over "
            f"{len(judged)} repetitions, in percent, test split, last round. {UNIT}; no picture is in two of them. "
            f"PyTorch {torch.__version__}, CPU. Made by `benchmarks/prompt_methods.py`. Pictures are no photographs: "
            "the figures compare methods on this task alone, and say nothing of remote sensing."
        ),
        "",
        "## All classes",
        "",
        *table(ALL, rows[False], rates),
        "",
        (
            "The last four train nothing. `majority class`: a client says the class that most of its training rows "
            "have. `zero-shot, own classes`: CLIP's own text, among the classes that the client has in training. "
            "`class means`: the class whose mean frozen feature is nearest, of the training rows of all clients, or of "
            "the client's own rows and classes."
        ),
        "",
        "In how many of the repetitions the method of a row is above that of a column in local accuracy:",
        "",
        *wins(rows[False], "local/mean"),
        "",
        "## Base to novel: trained on 11 classes, the other 10 never seen",
        "",
        *table(NOVEL, rows[True], rates),
        "",
        "`base`: each client's prompt on the test rows of all clients; `novel`: the same under the novel names.",
        "",
        "In how many of the repetitions the method of a row is above that of a column in novel-class accuracy:",
        "",
        *wins(rows[True], "novel/mean"),
        "",
        "## Orders in local accuracy",
        "",
        "An order is stated where it holds in at least four fifths of the repetitions.",
        "",
        *(
            order(rows[False], one, other, "local/mean")
            for one in ("fedpgp", "fedrsclip")
            for other in (*(m for m in rows[False] if m != one),)
        ),
        "",
        "## Learning rates",
        "",
        (
            f"Local accuracy on the validation split of {len(chosen)} other repetitions, from which the rates were "
            "chosen. The grid of a method goes on until its best rate is not at the edge."
        ),
        "",
        f"| method | {' | '.join(f'{rate:g}' for rate in tried)} |",
        f"|---|{'---|' * len(tried)}",
        *(
            f"| {m} | {' | '.join(f'{found[rate]:.1f}' if rate in found else '' for rate in tried)} |"
            for m, found in validation.items()
        ),
        "",
    ]
    (bench.data / "figures.json").write_text(json.dumps({"all": rows[False], "novel": rows[True]}, indent=1))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="where datasets and runs are kept; else a temporary folder")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clip", default="tiny")
    parser.add_argument("--quick", action="store_true", help="two repetitions, three rounds, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        count, rounds = (2, 3) if given.quick else (len(JUDGED), given.rounds)
        text = report(Bench(given.data or Path(temporary), rounds, given.clip), JUDGED[:count], CHOSEN[:count])
    sys.stdout.write(text)
    if not given.quick:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
