"""Feature skew: clusters of given embeddings are shared out over clients by a Dirichlet draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError, translated
from fedrsic_data.partition import draws, external
from fedrsic_data.partition.base import Assignment, Rows, by_class, cut, settle
from fedrsic_data.settings import at_least, positive

_ROUNDS = 25
_LEARN = 20_000  # images from which centres are computed
_CHUNK = 8_192  # images whose distances are held at once


@dataclass(frozen=True)
class Cluster:
    """k-means clusters as classes, then ``p_c ~ Dir(alpha, ..., alpha)`` over clients.

    Pure apart from reading the file.

    Attributes:
        clients: Number of clients.
        alpha: Concentration; small is skewed, large approaches iid.
        clusters: Number of clusters.
        path: Embeddings, from the working directory: ``.parquet`` with columns ``sample_id`` and ``embedding`` (lists
            of equal length), or ``.npy`` [N, features] with the images in the order of their sample ids.
        sha256: Digest of the file; a build records it, and building from its manifest holds to it.
        min_size: Rows every client must have.

    Deviations: the cited benchmark clusters sentence embeddings of text; here the embeddings are whatever is given.
    Centres are computed from at most 20,000 images, drawn at random.
    """

    clients: int = 10
    alpha: float = 0.5
    clusters: int = 20
    path: str = ""
    sha256: str = ""
    min_size: int = 1

    multi_label: ClassVar[bool] = True
    uses_domains: ClassVar[bool] = False
    exact_sizes: ClassVar[bool] = False
    keeps_min_size: ClassVar[bool] = True
    needs_ids: ClassVar[bool] = True
    cites: ClassVar[str] = (
        "Lin et al. 2022 (FedNLP), arXiv 2104.08815; seeding: Arthur and Vassilvitskii 2007 (k-means++), "
        "doi 10.5555/1283383.1283494"
    )

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        positive("alpha", self.alpha)
        at_least("clusters", self.clusters, 1)
        at_least("min_size", self.min_size, 0)

    def assign(self, rows: Rows, rng: np.random.Generator) -> Assignment:
        """Owners of rows with any number of labels; see ``Partitioner.assign``."""
        assert rows.sample_ids is not None, "assign() fills them in"
        if self.clusters > len(rows):
            raise UsageError(f"clusters={self.clusters} is more than the {len(rows):,} images there are")
        codes = k_means(self._embeddings(rows.sample_ids), self.clusters, rng)
        order, counts = by_class(rows.relabelled(codes, self.clusters), rng)
        shares = draws.dirichlet(self.alpha, self.clusters, self.clients, rng)
        return settle(cut(order, draws.whole(shares, counts)), self.clients, self.min_size, rng)

    def _embeddings(self, ids: pa.Array) -> NDArray[np.floating[Any]]:
        """Embeddings float [N, features] in the order of the rows."""
        path = external.existing(self.path, (".npy", ".parquet"), self.sha256)
        if path.suffix == ".parquet":
            table = external.read(path, ("sample_id", "embedding"))
            where = external.locate(ids, table.column("sample_id"), path)
            given = _matrix(table.column("embedding").combine_chunks()).take(where, axis=0)
        else:
            with translated(UsageError, str(path), "cannot be read as an array", also=(ValueError, EOFError)):
                given = np.load(path, mmap_mode="r", allow_pickle=False)
        if given.ndim != 2 or len(given) != len(ids) or not given.shape[1] or given.dtype.kind != "f":
            raise UsageError(
                f"{path}: holds {given.dtype} {list(given.shape)}; should be floats [{len(ids)}, features], a row an "
                "image and as many features in each"
            )
        return given


def _matrix(lists: pa.Array) -> NDArray[np.floating[Any]]:
    """Lists of equal length as float [N, features]; [N, 0] where they are not that."""
    if not (
        pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type) or pa.types.is_fixed_size_list(lists.type)
    ):
        return np.zeros((len(lists), 0))
    values: NDArray[np.floating[Any]] = lists.flatten().to_numpy(zero_copy_only=False)
    width = len(values) // max(len(lists), 1)
    equal = pc.all(pc.equal(pc.list_value_length(lists), width)).as_py()
    return values.reshape(len(lists), width) if equal and not lists.null_count else values[:0].reshape(len(lists), 0)


def k_means(points: NDArray[np.floating[Any]], clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Lloyd's algorithm from k-means++ centres, a bounded number of rounds.

    Args:
        points: float [N, features], N at least ``clusters``.
        clusters: Number of clusters; some may end without points where points coincide.
        rng: A separate generator.

    Returns:
        int64 [N] in ``0..clusters-1``.

    Raises:
        UsageError: A value is not finite.
    """
    drawn = np.sort(rng.choice(len(points), min(len(points), max(_LEARN, clusters)), replace=False))
    learn = np.asarray(points[drawn], np.float64)
    centres = _seeded(learn, clusters, rng)
    for _ in range(_ROUNDS):
        nearest = _nearest(learn, centres)
        sizes = np.bincount(nearest, minlength=clusters)
        order = np.argsort(nearest, kind="stable")
        held = np.flatnonzero(sizes)
        sums = np.add.reduceat(learn[order], (np.cumsum(sizes) - sizes)[held], axis=0)
        moved = centres.copy()
        moved[held] = sums / sizes[held, None]
        if np.array_equal(moved, centres):
            break
        centres = moved
    return _nearest(points, centres)


def _seeded(points: NDArray[np.float64], clusters: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """First centres, each drawn in proportion to its squared distance from those before: [clusters, features]."""
    centres = np.empty((clusters, points.shape[1]))
    far = np.full(len(points), np.inf)
    centres[0] = points[rng.integers(len(points))]
    for c in range(1, clusters):
        far = np.minimum(far, ((points - centres[c - 1]) ** 2).sum(axis=1))
        reach = np.cumsum(far)
        centres[c] = points[min(np.searchsorted(reach, rng.random() * reach[-1], side="right"), len(points) - 1)]
    return centres


def _nearest(points: NDArray[np.floating[Any]], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    """The nearest centre of every point, chunk by chunk: int64 [N]."""
    nearest = np.empty(len(points), np.int64)
    lengths = (centres**2).sum(axis=1)
    for start in range(0, len(points), _CHUNK):
        chunk = np.asarray(points[start : start + _CHUNK], np.float64)
        if not np.isfinite(chunk).all():
            raise UsageError("embeddings: some values are not finite numbers")
        nearest[start : start + _CHUNK] = np.argmin(lengths - 2 * chunk @ centres.T, axis=1)
    return nearest
