"""The sample: rendered scenes under the real class names, for machines without the real data.

``SAMPLE`` images say so: their sample ids, domain names, dataset name and manifest all carry the word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data import sample
from fedrsic_data.dataset.recipe import SampleSettings
from fedrsic_data.errors import UsageError
from fedrsic_data.raw.index import INDEX_SCHEMA, ClassRows, Container, Index, fingerprint, single_label_table
from fedrsic_data.sources import flair_sample, vocabulary
from fedrsic_data.sources.base import Source
from fedrsic_data.sources.benchmark import Benchmark

_LOOKS = (*sample.SENSORS, *sample.CAMERAS)  # of the domains of a benchmark, in turn
_SIBLINGS = 5  # classes of a superclass
_TURNS = 5  # one in so many images of a class is in each official split but train


class SceneContainer(Container):
    """Renders the scene that a sample id names: ``sample-sensor/class/number``."""

    def __init__(self, sensor: str, settings: SampleSettings) -> None:
        self.sensor = sensor
        self.settings = settings
        self._unified = vocabulary.to_unified(sensor)

    def read(self, keys: Sequence[str]) -> list[bytes]:
        return [self._render(*key.split("/")[1:]) for key in keys]

    def where(self, key: str) -> str:
        return f"sample of {self.sensor}: {key}"

    def firsts(self, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        return np.arange(len(keys))  # no two are the same

    def _render(self, name: str, number: str) -> bytes:
        scene = sample.render(
            self._unified[name], self.sensor, seed=self.settings.seed, index=int(number), size=self.settings.size
        )
        return sample.encode(scene)


class BenchmarkContainer(Container):
    """Renders the scene that a sample id names: ``sample-set/domain/class/number``."""

    def __init__(self, domains: Sequence[str], settings: SampleSettings) -> None:
        self._looks = {domain: _LOOKS[i % len(_LOOKS)] for i, domain in enumerate(domains)}
        self._settings = settings

    def read(self, keys: Sequence[str]) -> list[bytes]:
        return [self._render(*key.rsplit("/", 2)) for key in keys]

    def where(self, key: str) -> str:
        return f"sample of {key}"

    def firsts(self, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        return np.arange(len(keys))  # no two are the same

    def suffix(self, domain: str) -> str:
        """The file name ending of a domain's images."""
        return sample.suffix(self._looks[domain])

    def _render(self, domain: str, name: str, number: str) -> bytes:
        seed = self._settings.seed << 32 | crc32(domain.encode())  # no two sets have a picture in common
        scene = sample.render(name, self._looks[domain], seed=seed, index=int(number), size=self._settings.size)
        return sample.encode(scene)


def check(sources: Iterable[Source], settings: SampleSettings) -> None:
    """Refuse sample settings that no source uses.

    Raises:
        UsageError: There is one, with another value than its default.
    """
    heeded = {"users" if source.kind in flair_sample.KINDS else "per_class" for source in sources}
    for name, other in (("per_class", "users"), ("users", "per_class")):
        value = getattr(settings, name)
        if name not in heeded and value != getattr(SampleSettings, name):
            raise UsageError(f"sample.{name}={value}: has no effect on these sources; set sample.{other}")


def title(source: Source) -> str:
    """The title of a source's sample, which says whether its classes are others."""
    words = "procedural, scenes under their own names" if isinstance(source, Benchmark) else "procedural"
    return f"sample of {source.facts.title} ({words})"


def index(source: Source, settings: SampleSettings) -> Index:
    """The sample of a source: its classes that can be rendered, scenes of other classes, or multi-label photographs.

    Raises:
        UsageError: The source has no sample.
    """
    sensor = source.kind
    if isinstance(source, Benchmark):
        return _benchmark(source, settings)
    if sensor in flair_sample.KINDS:
        return flair_sample.index(source, users=settings.users, seed=settings.seed, size=settings.size)
    if sensor not in sample.SENSORS:
        known = ", ".join([*sample.SENSORS, *flair_sample.KINDS])
        raise UsageError(f"source {source.name!r} has no procedural sample (only {known} do); build without --sample")
    unified = vocabulary.to_unified(sensor)
    classes = tuple(name for name in vocabulary.native(sensor) if unified[name] in sample.CLASSES)
    width = len(str(settings.per_class - 1))
    numbers = pa.array([f"{i:0{width}d}" for i in range(settings.per_class)], pa.string())
    ending = sample.suffix(sensor)
    rows = []
    for name in classes:
        ids = pc.binary_join_element_wise(f"sample-{sensor}/{name}/", numbers, "")
        rows.append(ClassRows(ids, ids, pc.binary_join_element_wise(f"{name}_", numbers, ending, "")))
    return Index(
        table=single_label_table(f"sample-{sensor}", rows),
        classes=classes,
        container=SceneContainer(sensor, settings),
        fingerprint=fingerprint([sensor, settings]),
    )


def _benchmark(source: Benchmark, settings: SampleSettings) -> Index:
    """Scenes under their own names, as many classes as the set has and can be rendered, in its domains and splits.

    ``per_class`` images of a class are in each domain.
    """
    name = f"sample-{source.name}"
    looks = {f"{name}/{domain}": domain for domain in source.domains} or {name: source.name}
    classes, grouped = sample.CLASSES[: len(source.classes)], source.settings.domains == "superclass"
    container = BenchmarkContainer(tuple(looks), settings)
    held_out = [split for split in source.splits if split != "train"]
    turns = [*held_out, *["train"] * (_TURNS - len(held_out))] if source.splits else [None]
    width = len(str(settings.per_class - 1))
    table = pa.Table.from_pylist(
        [
            {
                "sample_id": f"{place}/{scene}/{number:0{width}d}",
                "labels": [label],
                "domain": f"sample-superclass-{label // _SIBLINGS}" if grouped else f"sample-{domain}",
                "split": turns[number % len(turns)],
                "key": f"{place}/{scene}/{number:0{width}d}",
                "file": f"{scene}_{number:0{width}d}{container.suffix(place)}",
            }
            for place, domain in looks.items()
            for label, scene in enumerate(classes)
            for number in range(settings.per_class)
        ],
        INDEX_SCHEMA,
    )
    return Index(table, classes, container, fingerprint([source.name, settings]))
