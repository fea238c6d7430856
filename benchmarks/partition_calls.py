"""Owners of labels in memory, from Python, beside flwr-datasets and FedLab.

    python benchmarks/partition_calls.py --env DIR    # 1M labels x 1,000 clients; writes results/partition_calls.md
    python benchmarks/partition_calls.py --skip-other

From a NumPy array of labels to owners drawn by a Dirichlet with alpha 0.5. Every call is a separate process, which
first makes a small call that imports what its library needs. The sides run in turn, and the fastest call of each
counts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from partition import (
    ALPHA,
    CLASSES,
    FEDKIT,
    FEDLAB,
    FLWR,
    PLAN_CLIENTS,
    PLAN_GATE_S,
    ROOT,
    ROWS,
    Job,
    Other,
    Report,
    Result,
    fedlab_functions,
    gate,
    grid,
    machine,
    others,
    peak,
    run,
)

RESULTS = ROOT / "benchmarks" / "results" / "partition_calls.md"
HEAD = ("rows", "clients", "side", "seconds", "CPU s", "peak MB", "CPU to fedkit's", "load", "remarks")


def called(job: Job, divide: Callable[[Any, int], int]) -> Result:
    """Seconds from a NumPy array of labels to owners; ``divide`` gives the number of rows that have one."""
    import numpy as np

    labels = np.random.default_rng(1).integers(0, CLASSES, job.settings["n"])
    divide(labels[: 20 * CLASSES], 2)
    start, cpu = perf_counter(), process_time()
    rows = divide(labels, job.clients)
    return {"call_s": perf_counter() - start, "call_cpu_s": process_time() - cpu, "rows": rows, **peak()}


def fedkit_call(job: Job) -> Result:
    import fedrsic_data

    def divide(labels: Any, clients: int) -> int:
        split = fedrsic_data.partition(labels, "dirichlet", clients=clients, alpha=ALPHA, min_size=0)
        return sum(map(len, split.indices))

    return called(job, divide)


def flwr_call(job: Job) -> Result:
    from datasets import Dataset
    from flwr_datasets.partitioner import DirichletPartitioner

    def divide(labels: Any, clients: int) -> int:
        partitioner = DirichletPartitioner(clients, partition_by="label", alpha=ALPHA, min_partition_size=0)
        partitioner.dataset = Dataset.from_dict({"label": labels})
        partitioner.load_partition(0)  # draws all of them
        return len(labels)

    return called(job, divide)


def fedlab_call(job: Job) -> Result:
    functional = fedlab_functions(job.settings["module"])

    def divide(labels: Any, clients: int) -> int:
        found = functional.hetero_dir_partition(labels, clients, CLASSES, ALPHA, min_require_size=1)
        return sum(map(len, found.values()))

    return called(job, divide)


TASKS = {FEDKIT: fedkit_call, FLWR: flwr_call, FEDLAB: fedlab_call}


def calls(n: int, clients: int, repeats: int, folder: Path, sides: dict[str, Other]) -> list[Result]:
    """The fastest call of each side, fedkit's last."""
    runs: dict[str, list[Result]] = {side: [] for side in (*sides, FEDKIT)}
    for side in list(runs) * repeats:
        settings = {"n": n} | ({"module": sides[side].module} if side == FEDLAB else {})
        python = sides[side].python if side in sides else sys.executable
        runs[side].append(run(Job(side, "", str(folder), clients, 60, settings), python, script=Path(__file__)))
    fastest = {side: min(found, key=lambda result: result.get("call_s", math.inf)) for side, found in runs.items()}
    return [{"side": side, "n": n, "clients": clients, **result} for side, result in fastest.items()]


def row(call: Result, fedkit_cpu_s: float) -> tuple[str, ...]:
    first, load = (f"{call['n']:,}", f"{call['clients']:,}", call["side"]), str(call["load"])
    if "error" in call:
        return (*first, *[""] * 4, load, call["error"])
    seconds = (f"{call[key]:.2f}" for key in ("call_s", "call_cpu_s"))
    lost = "" if call["rows"] == call["n"] else f"LOST ROWS: {call['rows']:,}"
    return (*first, *seconds, f"{call['peak_MB']:.0f}", f"{call['call_cpu_s'] / fedkit_cpu_s:.1f}x", load, lost)


def markdown(report: Report, found: list[Result]) -> str:
    """The result file."""
    own = found[-1]
    text = f"fedrsic_data.partition of {max(ROWS):,} labels over {PLAN_CLIENTS:,} clients in at most {PLAN_GATE_S:g} s"
    seconds = own.get("call_s", math.inf)
    full = (own["n"], own["clients"]) == (max(ROWS), PLAN_CLIENTS)
    facts = f"{seconds:.2f} s" if full else "needs the full number of rows"
    call = f'fedrsic_data.partition(labels, "dirichlet", clients={own["clients"]}, alpha={ALPHA})'
    parts = [
        "# Labels in memory beside other libraries",
        (
            f"`{call}` and the nearest calls of the other libraries, from a NumPy array of labels. Written by "
            "`benchmarks/partition_calls.py`, which says how it measures."
        ),
        "\n".join(f"- {name}: {words}" for name, words in report.machine.items()),
        "\n".join(f"- {line}" for line in (*report.notes, gate(seconds <= PLAN_GATE_S if full else None, text, facts))),
        grid(HEAD, [row(one, own.get("call_cpu_s", math.nan)) for one in found]),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=max(ROWS))
    parser.add_argument("--clients", type=int, default=PLAN_CLIENTS)
    parser.add_argument("--skip-other", action="store_true", help="fedkit alone")
    parser.add_argument("--repeats", type=int, default=3, help="calls of each side, of which the fastest counts")
    parser.add_argument("--env", type=Path, help="keep the other sides' environments here")
    parser.add_argument("--markdown", type=Path, default=RESULTS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        job = Job(**json.loads(arguments.worker))
        print(json.dumps(TASKS[job.task](job)))
        return
    report = Report(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        sides = others(arguments, folder, report)
        text = markdown(report, calls(arguments.rows, arguments.clients, arguments.repeats, folder, sides))
    arguments.markdown.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
