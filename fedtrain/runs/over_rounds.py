"""The rounds of a finished run, and the metrics that are read off them: the last few, and the cost of a target."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from fedrsic_data.errors import OutputError, UsageError
from fedrsic_data.settings import suggest
from fedtrain.metrics import mean
from fedtrain.runs.files import METRICS, is_number, parsed, read
from fedtrain.runs.folder import Result
from fedtrain.runs.results import figures, is_cost

OWN = {"loss": -1e100, "floats_sent": 0}
"""Metrics of a line itself, and the least they can be."""

_ALMOST = re.compile(r"(?:(?:rounds|megabytes) to|last).* of .+")
_NAMED = re.compile(r"(?:(rounds|megabytes) to ([0-9]+(?:\.[0-9]+)?)|last([1-9][0-9]*)) of (.+)")


def rounds_of(result: Result) -> tuple[dict[str, Any], ...]:
    """The lines of ``metrics.jsonl`` of a run, one per round; none where nothing was trained.

    Raises:
        OutputError: The file is damaged.
    """
    path = result.folder / METRICS
    if not path.is_file():  # nothing was trained
        return ()
    try:
        lines = tuple(parsed(text) for text in read(path).splitlines())
    except ValueError:
        lines = (None,)
    if not all(map(_whole, lines)):
        raise OutputError(f"{path}: is damaged; start the run anew with --overwrite")
    return lines


def reader(results: Sequence[Result], metrics: Sequence[str]) -> Callable[[Result], dict[str, float | None]]:
    """A function that reads metrics of a run.

    Args:
        results: The runs that it is for.
        metrics: Names of ``chosen``; none: all that a run ended with.

    Raises:
        UsageError: No run has one of them, or a value for it.
        OutputError: A run's file is damaged.
    """
    if not metrics:
        return figures
    for name in metrics:
        named = _NAMED.fullmatch(name)
        if named is None and _ALMOST.fullmatch(name):
            raise UsageError(f"metric {name!r}: give a number, as in 'rounds to 80 of METRIC' or 'last5 of METRIC'")
        held = [values[name] for result in results if name in (values := chosen(result, [name]))]
        if named is not None and held and all(value is None for value in held):
            why = "was evaluated in so many rounds" if named[1] is None else f"reached {named[2]}"
            raise UsageError(f"metric {name!r}: no run {why}")
        if not held:
            known = dict.fromkeys(metric for result in results for metric in figures(result))
            raise UsageError(f"metric {name!r}: no run has it{suggest(named[4] if named else name, known)}")
    return lambda result: chosen(result, metrics)


def chosen(result: Result, metrics: Sequence[str]) -> dict[str, float | None]:
    """Metrics of a run by name, without those that it has not.

    Besides a metric that the run ended with, a name may be, of the rounds in which the model was evaluated:

    - ``last5 of METRIC``: the mean over the last five, or another number; None if there are fewer.
    - ``rounds to 80 of METRIC``: the first in which the metric is at least 80, or at most, where less of it is better;
      None if there is none.
    - ``megabytes to 80 of METRIC``: the megabytes (10^6 bytes) that all clients had sent to the server by then.

    A run without rounds has one evaluation, of its start.

    Raises:
        OutputError: The run's file is damaged.
    """
    final = figures(result)
    found = {}
    for name in metrics:
        named = _NAMED.fullmatch(name)
        if name in final:
            found[name] = final[name]
        elif named is not None and named[4] in final:
            found[name] = _over_rounds(result, *named.groups())
    return found


def _over_rounds(result: Result, what: str | None, target: str, count: str, metric: str) -> float | None:
    lines = rounds_of(result) or ({"round": 0, "bytes_sent": 0, "figures": figures(result)},)
    held = [(line, value) for line in lines if (value := line.get("figures", {}).get(metric)) is not None]
    if what is None:
        last = [value for _, value in held[-int(count) :]]
        return mean(last) if len(last) == int(count) or not lines[0]["round"] else None
    bound = float(target)
    for line, value in held:
        if value <= bound if is_cost(metric) else value >= bound:
            return float(line["round"]) if what == "rounds" else line["bytes_sent"] / 1e6
    return None


def _whole(line: object) -> bool:
    """Whether a line of ``metrics.jsonl`` holds what is read of it."""
    if not isinstance(line, dict):
        return False
    metrics = line.get("figures", {})
    return (
        type(line.get("round")) is int
        and 0 <= line["round"] < 2**31
        and is_number(line.get("bytes_sent", 0), 0)
        and all(line.get(name) is None or is_number(line[name], least) for name, least in OWN.items())
        and isinstance(metrics, dict)
        and all(value is None or is_number(value) for value in metrics.values())
    )
