"""Find finished runs in folders, group those that differ in the seed, and describe them."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrsic_data.settings import local
from fedtrain.config import flat
from fedtrain.methods import METHODS
from fedtrain.runs.files import CONFIG, RESULT
from fedtrain.runs.folder import Result, load
from fedtrain.runs.names import short

FLOATS, BYTES = "sent/floats per client and round", "sent/bytes per client and round"
_TO = ("rounds to ", "megabytes to ")  # the cost of a target, see ``over_rounds.chosen``
_TRAINING = {"rounds", "sampling", "clients_per_round", "weighting", "dropout"}


@dataclass(frozen=True)
class Spread:
    """A metric over runs that differ in their seed alone.

    Attributes:
        mean: Its mean.
        std: Its standard deviation (of a sample: divided by runs - 1); None for one run.
        least: Its smallest value.
        most: Its largest value.
        runs: How many runs have it.
    """

    mean: float
    std: float | None
    least: float
    most: float
    runs: int


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: The method, what distinguishes the group from others of that method, and a mark if it is unsealed.
        subset: The federation.
        dataset: Name of the dataset.
        sample: Whether its images are procedural.
        sources: Names of the sources of its dataset.
        titles: Their titles, which say the year, by name.
        partition: Name of the partitioner of its subset.
        labels: ``coarse`` or ``fine`` for multi-label images; otherwise empty.
        seeds: Seeds of the runs.
        figures: Spread of every metric.
        sealed: Whether every run has a seal, which holds; see ``seal``.
        settings: Settings of its runs and of their dataset by name, ``sample`` among them; ``shots`` of either.
    """

    label: str
    subset: str
    dataset: str
    sample: bool
    sources: tuple[str, ...]
    titles: dict[str, str]
    partition: str
    labels: str
    seeds: tuple[int, ...]
    figures: dict[str, Spread]
    sealed: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


def found(paths: Sequence[Path], note: Callable[[str], None] = lambda _: None) -> list[Result]:
    """The finished runs that a person names, each once.

    Args:
        paths: Folders of runs, or folders that hold such folders, or folders of those.
        note: Called with runs that are left out, and why, and with runs that have no seal.

    Raises:
        UsageError: One is an address.
        OutputError: A folder holds no finished run, or one that was changed since.
    """
    runs: dict[tuple[str, str], Result] = {}
    for path in paths:
        local("run", path)
        inner = []
        if not (path / CONFIG).is_file():
            inner = sorted(p.parent for depth in ("*", "*/*") for p in path.glob(f"{depth}/{CONFIG}"))
            inner = [one for one in inner if not one.name.startswith(".")]  # a run that is to take another's place
        finished = [one for one in inner if (one / RESULT).is_file()]
        for one in inner:
            if one not in finished:
                note(f"{one}: is not finished and is left out")
        for one in finished or [path]:
            run = load(one)
            twin = runs.setdefault((run.facts["run"], engine(run)), run)
            if twin.folder.resolve() != one.resolve():
                note(f"{one}: is the same run as {twin.folder} and is left out")
            elif not run.sealed:
                note(f"{one}: has no seal, since an older fedkit wrote it; its metrics cannot be verified")
    return list(runs.values())


def learned(results: Sequence[Result]) -> bool:
    """Whether every run that trained could use an update."""
    counters = [result.data["counters"] for result in results]
    return not any(held["updates"] and held["refused"] == held["updates"] for held in counters)


def by_seed(results: Sequence[Result]) -> list[list[Result]]:
    """Runs of one engine with the same config but for the seed beside each other, in the order they were named.

    Seeds of run and dataset that both come again are of a copy of the dataset, and no repetition: they begin a set.
    """
    sets: dict[tuple[str, str, int], list[Result]] = {}
    times: Counter[tuple[str, str, int, int]] = Counter()
    for result in results:
        like = result.facts["group"], engine(result)
        again = (*like, result.facts["config"]["seed"], result.facts["dataset"]["seed"])
        sets.setdefault((*like, times[again]), []).append(result)
        times[again] += 1
    return list(sets.values())


def grouped(
    results: Sequence[Result], read: Callable[[Result], Mapping[str, float | None]] | None = None
) -> list[Group]:
    """A group for each of ``by_seed``, with a label that distinguishes it.

    Args:
        results: The runs.
        read: Gives the metrics of a run; None: ``figures``.
    """
    read = read or figures
    sets = by_seed(results)
    labels = _labels([runs[0] for runs in sets])
    groups = []
    for label, runs in zip(labels, sets, strict=True):
        facts = runs[0].facts
        sealed = all(run.sealed for run in runs)
        metrics = [read(run) for run in runs]
        names = dict.fromkeys(name for one in metrics for name in one)
        held = {name: over_seeds(name, [one.get(name) for one in metrics]) for name in names}
        groups.append(
            Group(
                label=label if sealed else f"{label} (unsealed)",
                subset=facts["config"]["subset"],
                dataset=facts["dataset"]["name"],
                sample=facts["dataset"]["sample"],
                sources=tuple(facts["dataset"].get("sources", ())),
                titles=facts["dataset"].get("titles", {}),
                partition=facts["dataset"].get("partition", ""),
                labels=facts["config"]["method_settings"].get("labels", ""),
                seeds=tuple(run.facts["config"]["seed"] for run in runs),
                figures={name: _spread(values) for name, values in held.items() if values},
                sealed=sealed,
                settings=_held(runs[0]),
            )
        )
    return groups


def digits(metric: str) -> str:
    """The format of a metric's numbers: two digits, one of rounds, none where something is counted."""
    return ",.0f" if metric in (FLOATS, BYTES) else ",.1f" if metric.startswith("rounds to ") else ".2f"


def cell(name: str, value: float | Spread | None) -> str:
    """A metric in a table: two digits, or whole numbers where something is counted; and its spread, if it has one."""
    if value is None:
        return "-"
    form = digits(name)
    if not isinstance(value, Spread):
        return f"{value:{form}}"
    return f"{value.mean:{form}}" + (f" ± {value.std:{form}}" if value.std else "")


def is_cost(metric: str) -> bool:
    """Whether less of a metric is better: what clients send, epsilon, the cost of a target, the spread over clients."""
    return metric.startswith(("sent/", "epsilon ", *_TO)) or metric.endswith("/std")


def over_seeds(metric: str, values: Sequence[float | None]) -> list[float]:
    """The values of runs that a mean over seeds is of: those that are there; of the cost of a target, all or none.

    The mean over the runs that reached a target would flatter a method of which some did not.
    """
    held = [value for value in values if value is not None]
    return [] if metric.startswith(_TO) and len(held) < len(values) else held


def figures(result: Result) -> dict[str, float | None]:
    """Its metrics, and what its clients sent."""
    counters = result.data["counters"]
    sent = {FLOATS: float(counters["client_floats"]), BYTES: float(counters["client_bytes"])}
    noise = result.data.get("privacy", {})
    spent = {f"epsilon ({noise['kind']})": noise["epsilon"]} if noise else {}
    return {**result.data["figures"], **sent, **spent}


def account(result: Result) -> dict[str, str]:
    """Where the time and memory of a run went, as texts by name, if it was profiled; see ``fedtrain.trace``."""
    trace = result.data.get("trace")
    if not trace:
        return {}
    whole = sum(trace["seconds"].values()) or 1.0
    found = {name: f"{spent:,.2f} s ({spent / whole:.0%})" for name, spent in trace["seconds"].items()}
    found |= {f"{name}, meanwhile": f"{spent:,.2f} s" for name, spent in trace["beside"].items()}
    numbers = {
        "images_per_second": "{:,.1f}",
        "operations_per_second": "{:,.0f}",
        "share_of_matrix_rate": "{:.0%}",
        "peak_host_bytes": "{:,.0f}",
        "peak_device_bytes": "{:,.0f}",
    }
    return found | {k.replace("_", " "): form.format(trace[k]) for k, form in numbers.items() if k in trace}


def story(result: Result) -> str:
    """Describe how a run went."""
    data, counters = result.data, result.data["counters"]
    done = f"{data['rounds']} round{'s' * (data['rounds'] != 1)} in {data['seconds']:,.1f} s"
    words = [done if result.trained else f"was finished already, after {done}"]
    words += [] if result.sealed else ["has no seal: nothing proves its metrics"]
    if n := len(data["clients_without_training_rows"]):
        words.append(f"{n} clients without training rows")
    words += [f"{counters[key]} updates {key}" for key in ("refused", "dropped") if counters[key]]
    if not learned([result]):
        words.append("which is every one: the model is the one it began with")
    return ", ".join(words)


def _spread(held: Sequence[float]) -> Spread:
    std = statistics.stdev(held) if len(held) > 1 else None
    return Spread(statistics.fmean(held), std, min(held), max(held), len(held))


def _labels(results: Sequence[Result]) -> list[str]:
    """Names of groups: the method, and the settings that differ, as ``fedpgp, alpha 0.1, lr 0.01``.

    Settings of the recipe and of the run are compared with those of all groups on the subset, those of the method with
    the same method there. Groups that differ in none are named by their datasets' folders, or by digests.
    """
    labels = []
    for mine in results:
        near = [other for other in results if _place(other) == _place(mine)]
        differing = {key for other in near for key in _apart(mine, other)}
        words = _differing(_recipe(mine), list(map(_recipe, near)))
        words += [_words(key, value) for key, value in _settings(mine).items() if key in differing]
        labels.append(", ".join([_method(mine), *words]))
    named: list[Callable[[Result], str]] = [
        lambda result: Path(result.facts["config"]["manifest"]).name,
        lambda result: str(result.facts["dataset"]["digest"])[:8],
    ]
    for name in named:
        keys = [(label, *_place(result)) for label, result in zip(labels, results, strict=True)]
        twins = [{name(r) for other, r in zip(keys, results, strict=True) if other == key} for key in keys]
        labels = [
            f"{label}, dataset {name(result)}" if len(alike) > 1 else label
            for label, result, alike in zip(labels, results, twins, strict=True)
        ]
    return labels


def _place(result: Result) -> tuple[str, str]:
    return result.facts["config"]["subset"], result.facts["dataset"]["name"]


def _method(result: Result) -> str:
    return str(result.facts["config"]["method"])


def _settings(result: Result) -> dict[str, Any]:
    settings = flat(result.facts["config"])
    count = settings.get("clients_per_round")
    return {**settings, "seed": None, "clients_per_round": "all" if count is None else count, "engine": engine(result)}


def _apart(mine: Result, other: Result) -> set[str]:
    """The settings that tell a run from another on the subset: all of them, or those of the run for two methods."""
    ours, theirs = _settings(mine), _settings(other)
    keys = {key for key, value in ours.items() if theirs.get(key) != value}
    if _method(mine) == _method(other):
        return keys
    keys &= {*flat({**mine.facts["config"], "method_settings": {}}), "engine"} - {"method"}
    if not (ours["rounds"] and theirs["rounds"]):  # one does not train, and says no more than that of its training
        never = _method(mine) in METHODS and not METHODS[_method(mine)].rounds  # zero-shot
        keys -= _TRAINING if ours["rounds"] or never else _TRAINING - {"rounds"}
    return keys


def _recipe(result: Result) -> dict[str, Any]:
    """Settings of its recipe; runs of earlier versions do not record them."""
    return dict(result.facts["dataset"].get("recipe", {}))


def _held(result: Result) -> dict[str, Any]:
    """Settings of its recipe and of the run by name; those of training only if it trains."""
    recipe, config = _recipe(result), result.facts["config"]
    run = {key: config[key] for key in ("clip", "rounds", "clients_per_round")} | config["method_settings"]
    run |= {f"dp.{key}": value for key, value in (config.get("dp") or {}).items() if key in ("noise", "epsilon")}
    if _method(result) in METHODS and not METHODS[_method(result)].rounds:
        run = {"clip": config["clip"]}
    shots = [value for value in (recipe.get("shots"), run.get("shots")) if value is not None]
    few = {"shots": min(shots, default=None)} if len(run) > 1 else {}
    return {**recipe, **run, **few, "sample": result.facts["dataset"]["sample"]}


def _differing(mine: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that some others have otherwise, in words; of a partition, those that have the same partition."""
    rivals = [other for other in others if other]
    alike = [other for other in rivals if other.get("partition") == mine.get("partition")]
    return [
        _words(key, value)
        for key, value in mine.items()
        if any(other.get(key) != value for other in (alike if key.startswith("partition.") else rivals))
    ]


def engine(result: Result) -> str:
    """The engine: ``local``, Flower's ``simulation`` or a ``federation``."""
    return str(result.data.get("engine", "local"))


def _words(key: str, value: Any) -> str:
    word = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return f"{short(key)} {word}".removeprefix("partition ")
