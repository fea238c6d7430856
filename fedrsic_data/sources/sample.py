"""The sample: rendered scenes under the real class names, for machines without the real data.

``SAMPLE`` images say so: their sample ids, domain names, dataset name and manifest all carry the word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data import sample
from fedrsic_data.dataset.recipe import SampleSettings
from fedrsic_data.errors import UsageError
from fedrsic_data.raw.index import ClassRows, Container, Index, fingerprint, single_label_table
from fedrsic_data.sources import flair_sample, vocabulary
from fedrsic_data.sources.base import Source


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


def index(source: Source, settings: SampleSettings) -> Index:
    """The sample of a source: its classes that can be rendered, or multi-label photographs.

    Raises:
        UsageError: The source has no sample.
    """
    sensor = source.kind
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
