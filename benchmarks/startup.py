"""The time that commands take to start and answer, next to another version of fedkit: both in turn, in pairs.

Each pair runs a command once with either version, which take turns to go first, on one small sample dataset. The table
has wall-clock time and processor time of the process and its threads; other work of the machine that lasts longer than
a pair does not change the difference of a pair.

    git worktree add ../before 09f9e58
    python benchmarks/startup.py ../before --pairs 20
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def main() -> None:
    """Prints a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="A checkout of the other version.")
    parser.add_argument("--pairs", type=int, default=20)
    chosen = parser.parse_args()
    if chosen.pairs < 2:
        parser.error("--pairs should be at least 2")
    print("| command | seconds | before | now | faster by: median | 10th to 90th percentile | pairs won |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        build = ("build", "fed-rsic", "--sample", "--subset", "fed-ucmerced", "--set", "sample.per_class=6")
        timed(HERE, *build, "--out", str(data))
        commands = [("inspect", str(data)), ("verify", str(data)), ("list",), ("list", "methods"), ("--version",)]
        for command in commands:
            for row in compared(chosen.before.resolve(), command, chosen.pairs):
                print(f"| `fedkit {' '.join(command).replace(str(data), 'data')}` | {row} |", flush=True)


def compared(other: Path, command: tuple[str, ...], pairs: int) -> list[str]:
    """Rows of the table: wall-clock and processor time of a command, before and now."""
    for tree in (other, HERE):
        timed(tree, *command)  # fills the caches of files and of compiled modules
    found = []
    for pair in range(pairs):
        order = (other, HERE) if pair % 2 else (HERE, other)
        times = {tree: timed(tree, *command) for tree in order}
        found.append((times[other], times[HERE]))
    rows = []
    for kind, words in enumerate(("wall clock", "processor")):
        old, new = ([run[side][kind] for run in found] for side in (0, 1))
        saved = [a - b for a, b in zip(old, new, strict=True)]
        tenths = statistics.quantiles(saved, n=10)
        before, now, median = map(statistics.median, (old, new, saved))
        rows.append(
            f"{words} | {before:.2f} | {now:.2f} | **{median:.2f}**"
            f" | {tenths[0]:.2f} to {tenths[-1]:.2f} | {sum(s > 0 for s in saved)} of {pairs}"
        )
    return rows


def timed(tree: Path, *arguments: str) -> tuple[float, float]:
    """Wall-clock and processor seconds of a command with the modules of ``tree``."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    used, start = _used(), time.perf_counter()
    done = subprocess.run([sys.executable, str(tree / "cli.py"), *arguments], env=environment, capture_output=True)
    wall = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{tree}: fedkit {' '.join(arguments)} failed:\n{done.stderr.decode()}")
    return wall, _used() - used


def _used() -> float:
    mine = resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime


if __name__ == "__main__":
    main()
