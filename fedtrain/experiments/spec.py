"""The file of an experiment: datasets, methods, seeds and tables."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fedrsic_data.errors import UsageError, translated
from fedrsic_data.recipes.shipped import folder
from fedrsic_data.settings import LATER, at_least, decode, once, suggest
from fedtrain.published import protocol

Values = dict[str, Any]
"""Setting -> its value, or a list of values to vary it over."""

AXES = ("method", "dataset", "subset")
"""Names that rows and columns of a table may use, besides the settings that vary."""

METRIC = "metric"
"""Name that the columns of a table of several metrics use."""


@dataclass(frozen=True)
class DataSpec:
    """Datasets of one recipe, or one built dataset.

    Attributes:
        recipe: The name or path of a recipe, or a built dataset: its folder or ``hf://USER/NAME[@REVISION]``.
        subsets: Names of its subsets; empty: all.
        partition: Replaces the recipe's partitioner.
        sample: Use rendered sample images instead of the real ones.
        redraw: Draw the dataset anew for each seed: the seeds of the recipe and of its sample are those of the runs.
        set: Settings of the recipe as for ``fedkit build --set``. A list of values gives a dataset for each.
    """

    recipe: str
    subsets: tuple[str, ...] = ()
    partition: str | None = None
    sample: bool = False
    redraw: bool = False
    set: Values = field(default_factory=dict)


@dataclass(frozen=True)
class MethodSpec:
    """A method with its settings.

    Attributes:
        method: Its name.
        set: Settings of the run and the method as for ``fedkit train --set``. A list of values gives a run for each.
        name: Its name in tables, which tells it from the same method with other settings; empty: the method's own.
    """

    method: str
    set: Values = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class TableSpec:
    """The table to make.

    Attributes:
        metric: The metric in the cells, as ``fedkit compare`` prints it; or several, which are columns.
        rows: Meaning of the rows: ``method``, ``dataset``, ``subset`` or a setting that varies.
        columns: Meaning of the columns, likewise; with several metrics, ``metric`` is one.
        where: Only runs with these values of ``method``, ``dataset``, ``subset`` or of settings that vary.
        better: Best value of a column, in bold: the ``higher`` or the ``lower``; the lower of a cost, always.
        against: A row; every other is compared with it over seeds, and the p-value printed. None: no test.
    """

    metric: str | tuple[str, ...]
    rows: tuple[str, ...] = ("method",)
    columns: tuple[str, ...] = ("subset",)
    where: dict[str, Any] = field(default_factory=dict)
    better: Literal["higher", "lower"] = "higher"
    against: str | None = None

    def __post_init__(self) -> None:
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise UsageError(f"metric={list(self.metrics)}: should be a metric, or several that differ")
        if METRIC in self.rows or (len(self.metrics) > 1) != (METRIC in self.columns):
            raise UsageError(f"columns={list(self.columns)}: should have {METRIC!r} if, and only if, metric is a list")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics in the cells."""
        return (self.metric,) if isinstance(self.metric, str) else self.metric


@dataclass(frozen=True)
class ProtocolSpec:
    """The protocol of a paper, as far as it is known, which an experiment follows.

    Attributes:
        of: The paper.
        certain: Sentences on what is known of it, and from where.
        assumed: Sentences on what is not known, or different here, and the choice that was made.
        published: Names of the protocols whose published figures are printed next to runs that follow them; see
            ``fedtrain.published``.
    """

    of: str
    certain: tuple[str, ...]
    assumed: tuple[str, ...]
    published: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(words.strip() for words in (self.of, *self.certain, *self.assumed)):
            raise UsageError("of, certain or assumed has an empty text; say what it is, or leave the sentence out")
        for name in self.published:
            protocol(name)


@dataclass(frozen=True)
class SampleSpec:
    """Changes that make a short run of an experiment on sample images.

    Attributes:
        data: Settings of every recipe, over those of its ``set``.
        set: Settings of all runs, over those of the experiment's ``set``.
        seeds: Seeds instead of the experiment's; empty: the same.
    """

    data: Values = field(default_factory=dict)
    set: Values = field(default_factory=dict)
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    Attributes:
        fedkit: Version of this format, 1.
        name: Its name, and that of its folder below ``experiments``.
        datasets: Its datasets.
        methods: Its methods: names, or objects with settings.
        seeds: Seeds of the runs.
        title: A readable title.
        set: Settings of all runs.
        tables: The tables to make of it.
        protocol: The protocol that it follows; None: its own.
        sample: Changes by ``on_sample``.
    """

    fedkit: int
    name: str
    datasets: tuple[DataSpec, ...]
    methods: tuple[str | MethodSpec, ...]
    seeds: tuple[int, ...] = (0,)
    title: str = ""
    set: Values = field(default_factory=dict)
    tables: tuple[TableSpec, ...] = ()
    protocol: ProtocolSpec | None = field(default=None, metadata=LATER)
    sample: SampleSpec | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.fedkit != 1:
            raise UsageError(f"fedkit={self.fedkit}: this fedkit reads format 1 of experiments")
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f"name={self.name!r} should be letters, digits, '-' and '_'; it names a folder")
        for what in ("datasets", "methods", "seeds"):
            if not getattr(self, what):
                raise UsageError(f"{what}: there is none; an experiment needs at least one")
        for seed in self.seeds:
            at_least("seeds", seed, 0)
        if len(set(self.seeds)) < len(self.seeds):
            raise UsageError("seeds: one occurs twice; the same seed gives the same run")


def on_sample(experiment: Experiment) -> Experiment:
    """The same experiment on sample images, under its own name."""
    short = experiment.sample or SampleSpec()
    datasets = (replace(data, sample=True, set={**data.set, **short.data}) for data in experiment.datasets)
    return replace(
        experiment,
        name=f"{experiment.name}-sample",
        datasets=tuple(datasets),
        set={**experiment.set, **short.set},
        seeds=short.seeds or experiment.seeds,
    )


def shipped() -> dict[str, Path]:
    """The experiments that come with fedkit, by name."""
    return {path.stem: path for path in sorted((folder() / "experiments").glob("*.json"))}


def load(name_or_path: str | os.PathLike[str]) -> Experiment:
    """An experiment from its file, or one that comes with fedkit by its name.

    Raises:
        UsageError: It cannot be read, or a key or value cannot be used.
    """
    known = shipped()
    name = os.fspath(name_or_path)
    path = Path(name) if os.path.lexists(name) else known.get(name, Path(name))
    with translated(UsageError, path, also=(ValueError,)):
        if not path.suffix and not path.exists():
            raise UsageError(f"{name!r} is no file and no experiment that comes with fedkit{suggest(name, known)}")
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: is no file; give the JSON file of an experiment")
        text = path.read_bytes()
    try:
        data = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON ({error})") from None
    return decode(Experiment, data, str(path))


def varied(values: Values) -> Iterator[Values]:
    """Every combination of the values that are lists, in the order of the file; the last one changes first."""
    choices = [value if isinstance(value, list) else [value] for value in values.values()]
    for key, value in values.items():
        if isinstance(value, list) and not value:
            raise UsageError(f"set.{key}: is an empty list; give it at least one value")
    yield from (dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*choices))


def varying(*of: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the settings that are lists of values in any of some mappings, not those whose one value is a list."""
    return tuple(dict.fromkeys(key for one in of for key, value in one.items() if _varies(value)))


def _varies(value: object) -> bool:
    return isinstance(value, list) and not (len(value) == 1 and isinstance(value[0], list))
