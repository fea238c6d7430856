"""Check a dataset against its manifest and its recipe: its files, and what a build would produce."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fedrsic_data.build import duplicates, redraw
from fedrsic_data.dataset import manifest
from fedrsic_data.dataset.manifest import Manifest, SubsetEntry
from fedrsic_data.dataset.verify import Problem, Read, looking_at, reread, until_stopped


def verify(
    path: Path, progress: Callable[[int, int], None] | None = None, note: Callable[[str], None] = lambda _: None
) -> tuple[Manifest, list[Problem]]:
    """Read a whole dataset again, recompute its owners and compare the duplicates; see ``reread``.

    Args:
        path: ``manifest.json`` or its folder.
        progress: Called with ``(bytes read, total bytes)``.
        note: Called with a description of what could not be compared.

    Raises:
        ManifestError: There is no readable manifest to check against.
    """
    return reread(path, progress, partial(_again, note=note))


def _again(read: Read, note: Callable[[str], None]) -> Iterator[Problem]:
    """Report where the manifest differs from what the recipe and the plan give."""
    built = read.manifest
    yield from (Problem(manifest.NAME, words) for words in redraw.of_dataset(built, read.plan, note))
    for name in read.intact:
        if not redraw.is_known(built, name):
            continue
        planned, mine = read.rows(name)
        for words in redraw.of_subset(built, name, planned, mine, note):
            yield Problem(manifest.NAME, f"{name}: {words}")
        if not built.reference and redraw.is_whole(built, name, planned):
            yield from until_stopped(_pictures(read.folder, name, built.subsets[name]))


def _pictures(folder: Path, name: str, subset: SubsetEntry) -> Iterator[Problem]:
    """Compare the images that are listed as duplicates."""
    wanted = pa.array([sample for group in subset.duplicates for sample in group], pa.string())
    files: dict[str, bytes] = {}
    for shard in subset.shards if len(wanted) else ():
        with looking_at(shard.path), pq.ParquetFile(folder / shard.path) as file:
            for number in range(file.metadata.num_row_groups):
                ids = file.read_row_group(number, columns=["sample_id"]).column(0)
                held = pc.is_in(ids, value_set=wanted)
                if pc.any(held).as_py():
                    images = file.read_row_group(number, columns=["image.bytes"]).column(0).filter(held).to_pylist()
                    files |= dict(zip(ids.filter(held).to_pylist(), (one["bytes"] for one in images), strict=True))
    for group in subset.duplicates:
        if len(group) > 1 and files.keys() >= set(group) and not duplicates.alike([files[sample] for sample in group]):
            yield Problem(manifest.NAME, f"duplicates of {name}: {group[0]} and {group[1]} are not one picture")
