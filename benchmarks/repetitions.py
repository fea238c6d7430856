"""Repetitions of an experiment, and the orders of methods that they support.

A repetition draws everything anew: its pictures (``sample.seed``), their split and their clients
(``seed``), and the weights that training starts from (the run's seed). Learning rates are chosen on repetitions whose
pictures are in none of those that are judged.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import fedrsic_data

JUDGED = (0, 1, 2, 3, 4)
"""Repetitions whose test rows are in the tables."""

CHOSEN = (100, 101, 102)
"""Repetitions on whose validation rows learning rates are chosen."""

UNIT = "A repetition has new pictures, a new split and partition, and new weights"

ENOUGH = 0.8  # of the repetitions: an order is stated from here on

Figures = Mapping[str, float]


def drawn(repetition: int) -> list[str]:
    """The ``--set`` texts of a repetition."""
    return [f"seed={repetition}", f"sample.seed={repetition}"]


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
    """Refuses repetitions that share a picture.

    Raises:
        ValueError: Two of them do.
    """
    owner: dict[str, int] = {}
    for repetition, path in datasets.items():
        for digest in pictures(path):
            if owner.setdefault(digest, repetition) != repetition:
                raise ValueError(f"repetitions {owner[digest]} and {repetition} share pictures; they repeat nothing")


def climbed(measure: Callable[[float], float], start: Iterable[int]) -> dict[float, float]:
    """Figures by learning rate, of a grid 1, 3, 10, ... that goes on until the best rate is not at its edge.

    Args:
        measure: The figure of a rate; more is better.
        start: Places in the grid to begin with: -4 is 0.01, -3 is 0.03, 0 is 1.
    """
    found = {place: measure(rate(place)) for place in sorted(start)}
    while (best := max(found, key=found.__getitem__)) in (min(found), max(found)):
        beyond = best - 1 if best == min(found) else best + 1
        found[beyond] = measure(rate(beyond))
    return {rate(place): found[place] for place in sorted(found)}


def rate(place: int) -> float:
    """A learning rate by its place in the grid."""
    return float(f"{'31'[place % 2 == 0]}e{place // 2}")


def spread(runs: Sequence[Figures], name: str) -> str:
    """Mean and standard deviation over repetitions; empty for a figure that a method does not have."""
    if not all(name in figures for figures in runs):
        return ""
    values = [figures[name] for figures in runs]
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def wins(rows: Mapping[str, Sequence[Figures]], name: str) -> list[str]:
    """A Markdown table: in how many repetitions the method of a row is above that of a column in a figure."""
    held = [method for method, runs in rows.items() if all(name in figures for figures in runs)]
    lines = [f"| above | {' | '.join(held)} |", f"|---|{'---|' * len(held)}"]
    for one in held:
        cells = ["" if one == other else str(_above(rows[one], rows[other], name)) for other in held]
        lines.append(f"| {one} | {' | '.join(cells)} |")
    return lines


def order(rows: Mapping[str, Sequence[Figures]], one: str, other: str, name: str) -> str:
    """A sentence on two methods: an order holds if it does in four fifths of the repetitions, either way round."""
    count, up, down = len(rows[one]), _above(rows[one], rows[other], name), _above(rows[other], rows[one], name)
    mean = statistics.mean(a[name] - b[name] for a, b in zip(rows[one], rows[other], strict=True))
    if up >= ENOUGH * count and mean > 0:
        return f"- **{one} above {other}**: {mean:+.1f} points, in {up} of {count} repetitions"
    if down >= ENOUGH * count and mean < 0:
        return f"- **{other} above {one}**: {-mean:+.1f} points, in {down} of {count} repetitions"
    return f"- no order of {one} and {other}: {mean:+.1f} points, {one} above in {up} and below in {down} of {count}"


def _above(one: Sequence[Figures], other: Sequence[Figures], name: str) -> int:
    return sum(a[name] > b[name] for a, b in zip(one, other, strict=True))
