"""A table of 4 methods x 2 alphas x 3 seeds by one ``fedkit experiment``, beside the same by separate commands.

    python benchmarks/experiment.py             # two pairs; writes results/experiment.md
    python benchmarks/experiment.py --pairs 1   # one pair

Both sides of a pair begin with empty folders and an empty cache, build the two datasets, train the 24 runs, and make
the table; which side goes first alternates. Processor time is that of all processes of a side. Every run of one side
has to have the rounds and metrics of the same run of the other side, byte for byte.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "experiment.md"
METHODS, ALPHAS, SEEDS = ("promptfl", "kgcoop", "local", "fedpgp"), (0.1, 0.5), (0, 1, 2)
RECIPE, SUBSET = "fed-rsic", "fed-ucmerced"
DRAWN = {"clients": 5, "sample.per_class": 8}
ROUNDS = 3
MOST = 1 / 3
"""The most of the processor time of separate commands that the experiment may take."""


@dataclass(frozen=True)
class Used:
    """Seconds that a side took."""

    processor: float
    wall: float


def measured(commands: Iterator[list[str]], folder: Path) -> Used:
    """Run the commands of a side, one after the other, in an empty folder with a cache of its own."""
    folder.mkdir()
    environment = os.environ | {"FEDKIT_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        call = [sys.executable, str(ROOT / "cli.py"), *command]
        done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Used(processor, time.perf_counter() - begun)


def together(folder: Path) -> Iterator[list[str]]:
    """The one command; its file is written first."""
    data = {
        "fedkit": 1,
        "name": "table",
        "datasets": [{"recipe": RECIPE, "subsets": [SUBSET], "sample": True, "set": {"alpha": [*ALPHAS], **DRAWN}}],
        "methods": METHODS,
        "seeds": SEEDS,
        "set": {"rounds": ROUNDS},
        "tables": [{"metric": "test/local/mean", "columns": ["alpha"]}],
    }
    (folder / "table.json").write_text(json.dumps(data))
    yield ["experiment", "table.json"]


def apart() -> Iterator[list[str]]:
    """The 27 commands: two builds, 24 runs and a comparison."""
    for alpha in ALPHAS:
        sets = itertools.chain(*(("--set", f"{key}={value}") for key, value in {"alpha": alpha, **DRAWN}.items()))
        yield ["build", RECIPE, "--sample", "--subset", SUBSET, *sets, "--out", f"data/{alpha}"]
    for alpha, method, seed in itertools.product(ALPHAS, METHODS, SEEDS):
        run = ["train", method, "--manifest", f"data/{alpha}", "--subset", SUBSET]
        yield [*run, "--rounds", str(ROUNDS), "--seed", str(seed), "--out", f"runs/{alpha}-{method}-{seed}"]
    yield ["compare", "runs"]


def rounds(folder: Path) -> list[bytes]:
    """The rounds and metrics of every run, in an order that does not depend on folders' names."""
    return sorted((path.parent / "metrics.jsonl").read_bytes() for path in folder.rglob("result.json"))


def pair(folder: Path, number: int) -> tuple[Used, Used]:
    """What the experiment and the separate commands took."""
    one, other = folder / f"experiment-{number}", folder / f"commands-{number}"
    sides = {one: together(one), other: apart()}
    used = {side: measured(sides[side], side) for side in (sides if number % 2 else reversed(sides))}
    held = rounds(one)
    if len(held) != len(METHODS) * len(ALPHAS) * len(SEEDS) or held != rounds(other):
        raise SystemExit(f"pair {number}: the two sides did not train the same runs")
    return used[one], used[other]


def report(pairs: list[tuple[Used, Used]]) -> str:
    """The results in Markdown."""
    shares = [one.processor / other.processor for one, other in pairs]
    rows = [
        f"| {number} | {one.processor:.1f} | {other.processor:.1f} | {share:.3f} | {one.wall:.1f} | {other.wall:.1f} |"
        for number, ((one, other), share) in enumerate(zip(pairs, shares, strict=True), 1)
    ]
    words = (
        f"{len(METHODS)} methods ({', '.join(METHODS)}) x {len(ALPHAS)} alphas x {len(SEEDS)} seeds on the sample of "
        f"{SUBSET} ({DRAWN['clients']} clients, {DRAWN['sample.per_class']} pictures per class), {ROUNDS} rounds: two "
        "builds, 24 runs and their table. Made by `python benchmarks/experiment.py`, which says how it measures; "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, PyTorch {version('torch')}, CPU. Both sides of "
        "every pair had the same rounds and metrics, byte for byte."
    )
    gate = (
        f"{'PASS' if max(shares) <= MOST else 'FAIL'}  the experiment takes at most a third of the processor time: "
        f"{statistics.fmean(shares):.2f} of it on average, {max(shares):.2f} at most"
    )
    head = ["pair", "experiment, CPU s", "separate commands, CPU s", "share", "experiment, s", "separate commands, s"]
    table = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *rows]
    return "\n".join(["# One experiment beside separate commands", "", words, "", *table, "", gate, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        pairs = [pair(Path(temporary), number) for number in range(given.pairs)]
    text = report(pairs)
    RESULTS.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
