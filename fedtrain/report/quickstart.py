"""The first five minutes: the three methods and their nearest baselines, trained briefly on two samples."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrsic_data.answer import Shown, table, together
from fedrsic_data.dataset.recipe import SAMPLE
from fedtrain import run
from fedtrain.progress import QUIET, Listener
from fedtrain.report import html
from fedtrain.runs.folder import Result

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Part:
    """Runs on one of the samples.

    Attributes:
        subset: The federation.
        figure: The metric of its table.
        words: Description of the metric.
        runs: Method -> ``key=value`` texts.
    """

    subset: str
    figure: str
    words: str
    runs: Mapping[str, Sequence[str]]


_PHOTOS = (
    "rounds=4",
    "clients_per_round=8",
    "epochs=1",
    "image_size=64",
    "lr=0.001",
    'splits=["test"]',
)

TOUR = (
    # rates chosen on validation rows of other scenes, rounds as there: benchmarks/results/prompt_methods.md
    Part(
        "fed-ucmerced",
        "test/local/mean",
        "accuracy of a client's model on its own test rows, mean over clients, %",
        {
            "zeroshot": (),
            "promptfl": ("rounds=20", "lr=0.01"),
            "local": ("rounds=20", "lr=0.01"),
            "fedpgp": ("rounds=20", "lr=1.0"),
            "fedrsclip": ("rounds=20", "lr=0.01"),
        },
    ),
    # far fewer rounds, epochs and pixels than published, from random weights: enough to see it run, not to learn
    Part(
        "flair",
        "test/O-AP",
        "average precision over all labels, %, after too few rounds to learn much",
        {"fedavg": _PHOTOS, "fedlgt": _PHOTOS},
    ),
)
"""The runs of ``fedkit quickstart``. No setting was chosen on test rows."""


def train_tour(
    datasets: Mapping[str, Path],
    out: Path,
    *,
    tour: Sequence[Part] = TOUR,
    cache: Path | None = None,
    listener: Listener = QUIET,
) -> Shown:
    """Train the tour, write the report, and return the results and next steps.

    Finished runs are kept, and an interrupted one is resumed.

    Args:
        datasets: Subset -> folder of the built dataset.
        out: Folder of runs and report.
        tour: The runs to train.
        cache: Folder for results that can be recomputed.
        listener: Receives progress.

    Raises:
        OutputError: A folder cannot be written or holds another run.
    """
    report = out / "report.html"
    html.check(report)  # not after all the training
    results: dict[str, list[Result]] = {}
    for part in tour:
        for method, sets in part.runs.items():
            (config,) = run.configs(method, datasets[part.subset], [part.subset], ["seed=0", *sets])
            folder = out / "runs" / f"{method}-{part.subset}"
            results.setdefault(part.subset, []).append(run.train(config, folder, cache=cache, listener=listener))
    listener.say("writing the report")
    runs = [result.folder for done in results.values() for result in done]
    written = html.report([*runs, *datasets.values()], report)
    tables = {part.subset: _ranked(part, results[part.subset]) for part in tour}
    data = {
        "report": str(report),
        "bytes": written.data["bytes"],
        "tables": {n: dict(rows) for n, rows in tables.items()},
    }
    return Shown(data, _text(tour, tables, datasets, out))


def _ranked(part: Part, results: Sequence[Result]) -> list[tuple[str, dict[str, Any]]]:
    """Methods and their metrics, the best first."""
    rows = []
    for result in results:
        counters = result.data["counters"]
        facts = {part.figure: result.data["figures"].get(part.figure), "sent": counters["client_floats"]}
        rows.append((result.facts["config"]["method"], facts))
    return sorted(rows, key=lambda row: -(row[1][part.figure] or 0.0))


def _text(
    tour: Sequence[Part],
    tables: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]],
    datasets: Mapping[str, Path],
    out: Path,
) -> RenderableType:
    parts: list[RenderableType] = []
    for part in tour:
        rows = []
        for method, facts in tables[part.subset]:
            value = facts[part.figure]
            rows.append([method, "-" if value is None else f"{value:.1f}", f"{facts['sent']:,}"])
        header = ["method", part.figure, "numbers sent, client and round"]
        parts += [f"{part.subset} ({SAMPLE}): {part.words}", table(header, rows, right=(1, 2))]
    scenes, report = shlex.quote(str(datasets[tour[0].subset])), out / "report.html"
    steps = [
        "next:",
        f"  open {shlex.quote(str(report))} in a browser: who has what, curves, tables, sample images",
        f"  fedkit inspect {scenes}",
        f"  fedkit train fedpgp --manifest {scenes} --rank 4",
        "  fedkit new my.json --folder PATH       your own images",
        "  fedkit build fed-rsic                  the real images",
    ]
    return together([*parts, "", *steps])
