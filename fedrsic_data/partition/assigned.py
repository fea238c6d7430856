"""Explicit partition: a file lists the client of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import external
from fedrsic_data.partition.base import Assignment, Rows


@dataclass(frozen=True)
class Assigned:
    """Owners from a CSV or Parquet file with the columns ``sample_id`` and ``client_id``.

    Every image has exactly one row there, and no other rows are there. An empty ``client_id`` leaves the image out.
    Clients keep their names and are in the order of these names. Pure apart from reading the file.

    Attributes:
        path: The file, from the working directory. The plan of a built dataset serves as well.
        sha256: Digest of the file; a build records it, and building from its manifest holds to it.
    """

    path: str = ""
    sha256: str = ""

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = True
    keeps_min_size: ClassVar[bool] = False
    needs_ids: ClassVar[bool] = True
    cites: ClassVar[str] = "none: the partition is given"

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:  # noqa: ARG002 - nothing is drawn
        """Owners of rows with any number of labels; see ``Partitioner.assign``."""
        assert rows.sample_ids is not None, "assign() fills them in"
        path = external.existing(self.path, (".csv", ".parquet"), self.sha256)
        table = external.read(path, ("sample_id", "client_id"))
        where = external.locate(rows.sample_ids, table.column("sample_id"), path)
        given = table.column("client_id").cast(pa.string()).combine_chunks().take(pa.array(where))
        names = given.unique().drop_null().sort()
        if not len(names):
            raise UsageError(f"{path}: no row has a client_id")
        owner = pc.fill_null(pc.index_in(given, value_set=names), -1).to_numpy()
        return Assignment(owner.astype(np.int32), len(names), names=tuple(names.to_pylist()))
