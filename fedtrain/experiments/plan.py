"""The runs of an experiment: every dataset x method x setting x seed, each with its own folder."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data import recipes
from fedrsic_data.dataset.local import is_address
from fedrsic_data.dataset.manifest import located
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.derive import find
from fedrsic_data.errors import UsageError
from fedrsic_data.settings import encode, texts
from fedtrain import run
from fedtrain.config import essence, to_json
from fedtrain.experiments.spec import AXES, METRIC, DataSpec, Experiment, MethodSpec, Values, varied, varying
from fedtrain.runs.names import plain


@dataclass(frozen=True)
class DataPlan:
    """A dataset of the experiment.

    Attributes:
        place: Folder where it is or is built, or its address on the Hub.
        recipe: The recipe's JSON; None for a dataset that is built already.
        subsets: Names of the subsets to train on.
        facts: Its name and its settings that vary.
        seed: The only seed whose runs train on it; None: all do.
    """

    place: str
    recipe: Mapping[str, Any] | None
    subsets: tuple[str, ...]
    facts: Mapping[str, Any]
    seed: int | None = None

    @property
    def name(self) -> str:
        """The name of its folder, or its address."""
        return self.place if self.recipe is None else Path(self.place).name


@dataclass(frozen=True)
class PlannedRun:
    """A run of the experiment.

    Attributes:
        dataset: Its dataset.
        subset: Which of its subsets.
        method: The method's name.
        sets: Settings as ``key=value`` texts.
        seed: Its seed.
        folder: Its folder.
        facts: Names for rows and columns of tables: method, dataset, subset, and every setting that varies.
    """

    dataset: DataPlan
    subset: str
    method: str
    sets: tuple[str, ...]
    seed: int
    folder: Path
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name


def datasets(experiment: Experiment, out: Path) -> list[DataPlan]:
    """Every dataset of an experiment; those that are built already are opened.

    Raises:
        UsageError: An unknown recipe, subset or setting, or two datasets that are the same.
        ManifestError: A built dataset cannot be read.
    """
    found: dict[str, DataPlan] = {}
    vary = varying(*(data.set for data in experiment.datasets))
    for data in experiment.datasets:
        for key, one in [_built(data)] if _is_built(data) else _drawn(data, out, vary, experiment.seeds):
            if (twin := found.setdefault(key, one)) is not one:
                other = f", as {twin.name}" if twin.name != one.name else ""
                raise UsageError(f"datasets: {one.name} occurs twice{other}; leave one of them out")
    return list(found.values())


def _is_built(data: DataSpec) -> bool:
    return is_address(data.recipe) or (not find.is_recipe(data.recipe) and os.path.lexists(data.recipe))


def _built(data: DataSpec) -> tuple[str, DataPlan]:
    """A built dataset, after what it was built from: its recipe could be named beside it."""
    if data.set or data.sample or data.partition or data.redraw:
        raise UsageError(f"datasets: {data.recipe} is built already; partition, sample, redraw and set are for recipes")
    dataset = Dataset(data.recipe)
    place = data.recipe if is_address(data.recipe) else str(located(Path(data.recipe)).parent)
    subsets = tuple(dataset.subset(name).name for name in data.subsets or dataset.subsets)
    name = Path(place).name or Path(place).resolve().name
    return _digest(encode(dataset.manifest.recipe)), DataPlan(place, None, subsets, {"dataset": name})


def _drawn(data: DataSpec, out: Path, vary: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, DataPlan]]:
    """The datasets of a recipe, after the recipe with every setting spelled out."""
    for values in varied(data.set):
        changed = recipes.override(
            recipes.load(data.recipe),
            subsets=data.subsets,
            partitioner=data.partition,
            sample=data.sample,
            sets=texts(values),
        )
        seeded = ("seed",) if changed.get("sample") is None else ("seed", "sample.seed")
        for seed in seeds if data.redraw else [None]:
            own = {} if seed is None else dict.fromkeys(seeded, seed)
            if both := own.keys() & values:
                raise UsageError(f"datasets: redraw gives {min(both)}; leave it out of set")
            recipe = recipes.from_json(recipes.override(changed, sets=texts(own)), f"datasets: {data.recipe}")
            full = encode(recipe)
            words = [f"{key}-{plain(values[key])}" for key in vary if key in values]
            words += [] if seed is None else [f"seed{seed}"]
            place = out / "data" / "-".join([recipe.name, *words, _digest(full)[:8]])
            facts = {"dataset": recipe.name, **{key: values[key] for key in vary if key in values}}
            plan = DataPlan(str(place), full, tuple(recipe.subsets), facts, seed)
            yield _digest(encode(recipes.pinned(recipe))), plan


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def runs(experiment: Experiment, planned: Sequence[DataPlan], out: Path) -> list[PlannedRun]:
    """Every run of an experiment, seeds last, so that a table fills row by row.

    Args:
        experiment: The experiment.
        planned: From ``datasets``.
        out: The experiment's folder.

    Raises:
        UsageError: An unknown method or setting, a value that cannot be used, or two runs that are the same.
    """
    methods = [MethodSpec(one) if isinstance(one, str) else one for one in experiment.methods]
    vary = varying(experiment.set, *(method.set for method in methods))
    made: dict[str, PlannedRun] = {}
    for dataset in planned:
        seeds = experiment.seeds if dataset.seed is None else (dataset.seed,)
        for subset, method in itertools.product(dataset.subsets, methods):
            for values, seed in itertools.product(varied({**experiment.set, **method.set}), seeds):
                key, one = _run(dataset, subset, method, values, vary, seed, out)
                if made.setdefault(key, one) is not one:
                    raise UsageError(f"methods: the run {one.name} occurs twice; give one of them another setting")
    return list(made.values())


def _run(
    dataset: DataPlan, subset: str, method: MethodSpec, values: Values, vary: Sequence[str], seed: int, out: Path
) -> tuple[str, PlannedRun]:
    """A run, after what it trains: other spellings of its settings give the same."""
    if "seed" in values or "run.seed" in values:
        raise UsageError("set.seed: is given by the experiment's seeds; leave it out")
    sets = (*texts(values), f"seed={seed}")
    config = run.draft(method.method, sets)  # refuses what is mistyped before anything is built
    name = method.name or method.method
    held = {key: values[key] for key in vary if key in values}
    names = map(plain, dict.fromkeys([name, str(dataset.facts["dataset"]), subset]))
    words = [f"{key}-{plain(value)}" for key, value in {**_rest(dataset), **held}.items()]
    digest = _digest([dataset.name, subset, method.method, sorted(sets)])[:8]
    folder = out / "runs" / "-".join([*names, *words, f"seed{seed}", digest])
    facts = {**dataset.facts, "method": name, "subset": subset, **held}
    one = PlannedRun(dataset, subset, method.method, sets, seed, folder, facts)
    return _digest([dataset.place, subset, essence(to_json(config))]), one


def _rest(dataset: DataPlan) -> dict[str, Any]:
    return {key: value for key, value in dataset.facts.items() if key not in AXES}


def heading(run_: PlannedRun, axes: Sequence[str], metric: str = "") -> str:
    """The name of a run's row or column: ``fedpgp, alpha 0.1``.

    Args:
        run_: The run.
        axes: Facts that name it.
        metric: What ``metric`` among them is.
    """
    held = {METRIC: metric, **run_.facts}
    words = [_word(held[a]) if a in (*AXES, METRIC) else f"{a} {_word(held[a])}" for a in axes if a in held]
    return ", ".join(words) or "-"


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
