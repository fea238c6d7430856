"""The runs of an experiment: every dataset x method x setting x seed, each with a folder of its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data import recipes
from fedrsic_data.dataset.local import is_address
from fedrsic_data.derive import find
from fedrsic_data.errors import UsageError
from fedrsic_data.settings import encode, suggest, texts
from fedtrain import run
from fedtrain.experiments.spec import AXES, DataSpec, Experiment, MethodSpec, varied, varying


@dataclass(frozen=True)
class DataPlan:
    """A dataset of the experiment.

    Attributes:
        place: Folder where it is or is built, or its address on the Hub.
        recipe: The recipe's JSON; None for a dataset that is built already.
        subsets: Names of the subsets to train on; empty: all of a built dataset.
        facts: Its name and its settings that vary.
    """

    place: str
    recipe: Mapping[str, Any] | None
    subsets: tuple[str, ...]
    facts: Mapping[str, Any]

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
    """Every dataset of an experiment.

    Raises:
        UsageError: An unknown recipe, subset or setting.
    """
    found: dict[str, DataPlan] = {}
    for data in experiment.datasets:
        for one in _datasets(data, out, varying(*(d.set for d in experiment.datasets))):
            if one.place in found:
                raise UsageError(f"datasets: {data.recipe} with {json.dumps(dict(one.facts))} occurs twice")
            found[one.place] = one
    return list(found.values())


def _datasets(data: DataSpec, out: Path, vary: Sequence[str]) -> Iterator[DataPlan]:
    if not find.is_recipe(data.recipe) and (is_address(data.recipe) or Path(data.recipe).exists()):
        if data.set or data.sample or data.partition:
            raise UsageError(f"datasets: {data.recipe} is built already; partition, sample and set are for recipes")
        yield DataPlan(data.recipe, None, data.subsets, {"dataset": Path(data.recipe).name})
        return
    for values in varied(data.set):
        changed = recipes.override(
            recipes.load(data.recipe),
            subsets=data.subsets,
            partitioner=data.partition,
            sample=data.sample,
            sets=texts(values),
        )
        recipe = recipes.from_json(changed, f"datasets: {data.recipe}")
        full = encode(recipe)
        digest = hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()[:8]
        words = [f"{key}-{_plain(values[key])}" for key in vary if key in values]
        place = out / "data" / "-".join([recipe.name, *words, digest])
        facts = {"dataset": recipe.name, **{key: values[key] for key in vary if key in values}}
        yield DataPlan(str(place), full, tuple(recipe.subsets), facts)


def runs(
    experiment: Experiment, found: Mapping[str, Sequence[str]], planned: Sequence[DataPlan], out: Path
) -> list[PlannedRun]:
    """Every run of an experiment, seeds last, so that a table fills row by row.

    Args:
        experiment: The experiment.
        found: Place of a dataset -> names of its subsets.
        planned: From ``datasets``.
        out: The experiment's folder.

    Raises:
        UsageError: An unknown method or setting, a value that cannot be used, or two runs that are the same.
    """
    methods = [MethodSpec(one) if isinstance(one, str) else one for one in experiment.methods]
    vary = varying(experiment.set, *(method.set for method in methods))
    made: dict[Path, PlannedRun] = {}
    for dataset in planned:
        for subset in found[dataset.place]:
            for method in methods:
                for values in varied({**experiment.set, **method.set}):
                    for seed in experiment.seeds:
                        one = _run(dataset, subset, method.method, values, vary, seed, out)
                        if one.folder in made:
                            raise UsageError(
                                f"methods: the run {one.name} occurs twice; give one of them another setting"
                            )
                        made[one.folder] = one
    return list(made.values())


def _run(
    dataset: DataPlan, subset: str, method: str, values: Mapping[str, Any], vary: Sequence[str], seed: int, out: Path
) -> PlannedRun:
    if "seed" in values:
        raise UsageError("set.seed: is given by the experiment's seeds; leave it out")
    sets = (*texts(dict(values)), f"seed={seed}")
    run.draft(method, sets)  # refuses what is mistyped before anything is built
    held = {key: values[key] for key in vary if key in values}
    words = [f"{key}-{_plain(value)}" for key, value in {**_rest(dataset), **held}.items()]
    plain = "-".join(map(_plain, dict.fromkeys([method, str(dataset.facts["dataset"]), subset])))
    digest = hashlib.sha256(json.dumps([dataset.name, subset, method, sorted(sets)]).encode()).hexdigest()[:8]
    folder = out / "runs" / "-".join([plain, *words, f"seed{seed}", digest])
    return PlannedRun(
        dataset, subset, method, sets, seed, folder, {**dataset.facts, "method": method, "subset": subset, **held}
    )


def _rest(dataset: DataPlan) -> dict[str, Any]:
    return {key: value for key, value in dataset.facts.items() if key not in AXES}


def heading(run_: PlannedRun, axes: Sequence[str], known: Sequence[str]) -> str:
    """The name of a run's row or column: ``fedpgp, alpha 0.1``.

    Args:
        run_: The run.
        axes: Facts that name it.
        known: Every name that any run has, for the message.

    Raises:
        UsageError: No run has an axis of this name.
    """
    for axis in axes:
        if axis not in known:
            raise UsageError(f"tables: {axis!r} does not vary{suggest(axis, known)}")
    held = {axis: run_.facts[axis] for axis in axes if axis in run_.facts}
    return ", ".join(str(value) if axis in AXES else f"{axis} {_word(value)}" for axis, value in held.items()) or "-"


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _plain(value: object) -> str:
    """A value as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", _word(value)).strip("_.") or "x"
