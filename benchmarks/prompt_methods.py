"""Prompt methods beside each other on the procedural sample, with the tiny CLIP.

    python benchmarks/prompt_methods.py                     # builds, tunes, trains; writes results/prompt_methods.md
    python benchmarks/prompt_methods.py --data DIR          # keeps datasets and runs; what is finished is not rerun
    python benchmarks/prompt_methods.py --quick             # two seeds, three rounds

A learning rate a method is chosen on the validation split of federations of their own (other seeds of pictures,
partition and run), by local accuracy; the test split of those is not looked at. The table is of the test splits of
five federations, seed s for pictures, partition and run alike, trained with the rates chosen; the base-to-novel
federations take the same rates. All other settings are the methods' defaults.
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

from fedrsic_data import build, recipe
from fedrsic_data.sources.locate import Places
from fedtrain import run
from fedtrain.config import RunConfig
from fedtrain.models import clip

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "prompt_methods.md"
METHODS = ("zeroshot", "promptfl", "kgcoop", "local", "fedpgp", "fedrsclip")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SUBSET, CLIENTS, ALPHA, PER_CLASS = "fed-ucmerced", 10, 0.1, 40
TUNING_SEEDS = (100, 101)

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Bench:
    """What all runs share: where they are, how long they train, and on which CLIP."""

    data: Path
    rounds: int
    clip: str
    digest: str

    def federation(self, seed: int, *, validation: bool = False, novel: bool = False) -> Path:
        """A built sample; the one with a validation split has the same size of test split."""
        kind = "tuning" if validation else "novel" if novel else "all"
        out = self.data / f"{kind}-{seed}"
        sets = [f"seed={seed}", f"clients={CLIENTS}", f"alpha={ALPHA}", f"sample.per_class={PER_CLASS}"]
        sets += ["splits.val=0.2"] if validation else []
        sets += ["base_to_novel=true"] if novel else []
        data = recipe.override(recipe.load("fed-rsic"), subsets=[SUBSET], sample=True, sets=sets)
        prepared = build.prepare(recipe.from_json(data, "benchmark"), Places(offline=True))
        return build.build(prepared, out).path

    def train(self, method: str, federation: Path, seed: int, split: str, rate: float | None) -> Figures:
        """The figures of one run on one split."""
        config = RunConfig(
            method=method,
            manifest=str(federation),
            subset=SUBSET,
            rounds=None if rate is None else self.rounds,
            seed=seed,
            eval_every=max(1, self.rounds),
            splits=(split,),
            checkpoint_every=max(1, self.rounds),
            device="cpu",
            clip=self.clip,
            method_settings={} if rate is None else {"lr": rate},
        )
        out = self.data / "runs" / f"{federation.name}-{method}-{rate}-r{self.rounds}-{self.digest[:12]}"
        begun = time.perf_counter()
        found = run.train(config, out, cache=self.data / "cache").data["figures"]
        seconds = time.perf_counter() - begun
        local = found[f"{split}/local/mean"]
        print(f"{federation.name:12} {method:10} lr={rate} {split}: local {local:.1f} in {seconds:.0f} s", flush=True)
        return {name.removeprefix(f"{split}/"): value for name, value in found.items()}


def tuned(bench: Bench, seeds: Sequence[int]) -> dict[str, dict[float, float]]:
    """Local accuracy on validation rows of every rate of every method, mean over seeds."""
    federations = {seed: bench.federation(seed, validation=True) for seed in seeds}
    return {
        method: {
            rate: statistics.mean(
                bench.train(method, federations[seed], seed, "val", rate)["local/mean"] for seed in seeds
            )
            for rate in RATES
        }
        for method in METHODS
        if method != "zeroshot"
    }


def spread(runs: Sequence[Figures], name: str) -> str:
    """Mean and standard deviation over seeds; empty for a figure a method does not have."""
    if name not in runs[0]:
        return ""
    values = [figures[name] for figures in runs]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def table(columns: Mapping[str, str], rows: Mapping[str, Sequence[Figures]], rates: Mapping[str, float]) -> list[str]:
    """A Markdown table, a row a method."""
    lines = [f"| method | lr | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    for method, runs in rows.items():
        cells = " | ".join(spread(runs, name) for name in columns.values())
        lines.append(f"| {method} | {rates.get(method, '')} | {cells} |")
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


def gates(everything: Mapping[str, Sequence[Figures]], novel: Mapping[str, Sequence[Figures]]) -> list[str]:
    """What should hold, PASS or FAIL, with the difference in points and in how many seeds it holds."""

    def line(left: str, right: str, rows: Mapping[str, Sequence[Figures]], figure: str, words: str) -> str:
        differences = [a[figure] - b[figure] for a, b in zip(rows[left], rows[right], strict=True)]
        mean = statistics.mean(differences)
        won = sum(d > 0 for d in differences)
        verdict = "PASS" if mean > 0 else "FAIL"
        return f"- {verdict}: {left} above {right} in {words}: {mean:+.1f} points, in {won} of {len(differences)} seeds"

    wanted = [(m, other) for m in ("fedpgp", "fedrsclip") for other in ("zeroshot", "promptfl")]
    lines = [line(m, other, everything, "local/mean", "local accuracy") for m, other in wanted]
    return [*lines, line("fedpgp", "local", novel, "novel/mean", "novel-class accuracy")]


def report(bench: Bench, seeds: Sequence[int]) -> str:
    """Trains all there is and writes it up."""
    validation = tuned(bench, TUNING_SEEDS[: len(seeds)])
    rates = {method: max(found, key=found.__getitem__) for method, found in validation.items()}
    rows: dict[bool, dict[str, list[Figures]]] = {False: {m: [] for m in METHODS}, True: {m: [] for m in METHODS}}
    for novel in (False, True):
        for seed in seeds:
            federation = bench.federation(seed, novel=novel)
            for method in METHODS:
                rows[novel][method].append(bench.train(method, federation, seed, "test", rates.get(method)))
    heads = " | ".join(f"lr {rate:g}" for rate in RATES)
    lines = [
        "# Prompt methods on the sample",
        "",
        (
            f"Sample of {SUBSET} ({PER_CLASS} procedural pictures a class), {CLIENTS} clients, Dirichlet alpha "
            f"{ALPHA}, CLIP `{bench.clip}` ({bench.digest[:12]}), {bench.rounds} rounds, all clients each round. Mean "
            f"± standard deviation over {len(seeds)} seeds, in percent, test split. PyTorch {torch.__version__}, CPU. "
            "Made by `benchmarks/prompt_methods.py`. Pictures are no photographs: the figures compare methods, and say "
            "nothing of remote sensing."
        ),
        "",
        "## All classes",
        "",
        *table(ALL, rows[False], rates),
        "",
        "## Base to novel: trained on 11 classes, the other 10 never seen",
        "",
        *table(NOVEL, rows[True], rates),
        "",
        "`base`: each client's prompt on the test rows of all clients; `novel`: the same under the novel names.",
        "",
        "## What should hold",
        "",
        *gates(rows[False], rows[True]),
        "",
        "## Learning rates",
        "",
        "Local accuracy on the validation split of other federations, from which the rates were chosen.",
        "",
        f"| method | {heads} |",
        f"|---|{'---|' * len(RATES)}",
        *(f"| {m} | {' | '.join(f'{found[rate]:.1f}' for rate in RATES)} |" for m, found in validation.items()),
        "",
    ]
    (bench.data / "figures.json").write_text(json.dumps({"all": rows[False], "novel": rows[True]}, indent=1))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="where datasets and runs are kept; else a temporary folder")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clip", default="tiny")
    parser.add_argument("--quick", action="store_true", help="two seeds, three rounds, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as aside:
        rounds, seeds = (3, 2) if given.quick else (given.rounds, given.seeds)
        text = report(Bench(given.data or Path(aside), rounds, given.clip, clip.load(given.clip).digest), range(seeds))
    sys.stdout.write(text)
    if not given.quick:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
