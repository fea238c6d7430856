"""A source whose images are named after their class: ``river_001.png``."""

from dataclasses import dataclass

import pyarrow as pa

from fedrsic_data.errors import SourceError
from fedrsic_data.raw.containers import FolderContainer
from fedrsic_data.raw.index import ClassRows, Index, single_label_table, stamped
from fedrsic_data.sources import Facts

FACTS = Facts(
    title="Tiles",
    homepage="https://example.org/tiles",
    licence="CC0",
    citation="none: an example",
    layout="<class>_<number>.png",
    redistributable=True,
)


@dataclass(frozen=True)
class Tiles:
    """Images in one folder, each named ``<class>_<number>.png``."""

    name: str = "tiles"
    kind: str = "tiles"
    settings: None = None
    aliases: tuple[str, ...] = ("tiles",)
    facts: Facts = FACTS

    def index(self, path, *, allow_partial=False):
        """Names and labels of the files; every copy is complete."""
        files = sorted(path.glob("*_*.png"))
        if not files:
            raise SourceError(f"{path}: holds no images named {self.facts.layout}")
        by_class = {}
        for file in files:
            by_class.setdefault(file.stem.rpartition("_")[0], []).append(file)
        rows = []
        for mine in by_class.values():
            names = pa.array([file.name for file in mine], pa.string())
            rows.append(ClassRows(pa.array([f"{self.name}/{file.stem}" for file in mine], pa.string()), names, names))
        fingerprint, newest = stamped(files)
        table = single_label_table(self.name, rows)
        return Index(table, tuple(by_class), FolderContainer(path), fingerprint, newest)


SOURCE = Tiles()
