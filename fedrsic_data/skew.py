"""How skewed a partition is, from its client x class counts alone, beside what chance gives.

Every metric compares clients with the global mixture or with each other; its band is what an IID split with
the same client sizes gives (5th to 95th percentile of random draws), so a figure can be told from noise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Counts = NDArray[np.int64]

_DRAWS = 40
_CELLS = 4_000_000  # bounds the work of the band: fewer draws for very large tables


def mixtures(counts: Counts) -> NDArray[np.float64]:
    """Each client's label mixture: float64 [clients, classes], rows summing to one (zero without rows)."""
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def total_variation(counts: Counts) -> NDArray[np.float64]:
    """Total variation distance of each client's mixture to the global one: float64 [clients], in 0..1."""
    return np.asarray(0.5 * np.abs(mixtures(counts) - _overall(counts)).sum(axis=1))


def jensen_shannon(counts: Counts) -> NDArray[np.float64]:
    """Jensen-Shannon divergence (base 2) of each client's mixture to the global one: float64 [clients], in 0..1."""
    p, q = mixtures(counts), _overall(counts)
    middle = (p + q) / 2
    halves = _relative_entropy(p, middle) + _relative_entropy(np.broadcast_to(q, p.shape), middle)
    return np.asarray(halves / 2)


def hellinger(counts: Counts) -> NDArray[np.float64]:
    """Hellinger distance of each client's mixture to the global one: float64 [clients], in 0..1."""
    affinity = np.sqrt(mixtures(counts) * _overall(counts)).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(1.0 - affinity, 0.0)))


def classes_per_client(counts: Counts) -> NDArray[np.float64]:
    """Number of classes each client holds: float64 [clients]."""
    return np.asarray((counts > 0).sum(axis=1), float)


def size_gini(counts: Counts) -> float:
    """Gini coefficient of the client sizes: 0 all equal, towards 1 one client holds everything."""
    sizes = np.sort(counts.sum(axis=1))
    n, total = len(sizes), sizes.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ sizes / (n * total)) if total else 0.0


def entropy(counts: Counts) -> NDArray[np.float64]:
    """Entropy in bits of each client's mixture: float64 [clients]; of domains, 0 means a single domain."""
    p = mixtures(counts)
    return np.asarray(-(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=1))


def _mean(metric: Callable[[Counts], NDArray[np.float64]]) -> Callable[[Counts], float]:
    def mean(counts: Counts) -> float:
        held = counts[counts.sum(axis=1) > 0]
        return float(metric(held).mean()) if len(held) else 0.0

    return mean


METRICS: dict[str, Callable[[Counts], float]] = {
    "total_variation": _mean(total_variation),
    "jensen_shannon": _mean(jensen_shannon),
    "hellinger": _mean(hellinger),
    "classes_per_client": _mean(classes_per_client),
}
"""Label-skew metrics as means over the clients that have rows."""


def measure(labels: Counts, domains: Counts, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """All metrics of a partition.

    Args:
        labels: int64 [clients, classes], rows of each class.
        domains: int64 [clients, domains], rows of each domain.
        rng: Draws the band.

    Returns:
        Metric -> ``value`` and, where chance has a say, ``iid_low`` and ``iid_high``; rounded to 6 digits.
    """
    measured = {name: {"value": metric(labels)} for name, metric in METRICS.items()}
    for name, values in _band(labels, METRICS, rng).items():
        measured[name] |= values
    measured["size_gini"] = {"value": size_gini(labels)}
    if domains.shape[1] > 1:
        spread = {"domain_entropy": _mean(entropy)}
        measured["domain_entropy"] = {"value": spread["domain_entropy"](domains)}
        measured["domain_entropy"] |= _band(domains, spread, rng)["domain_entropy"]
    return {name: {key: round(value, 6) for key, value in facts.items()} for name, facts in measured.items()}


def tables(clients: pa.Table, classes: int, split: str = "train") -> tuple[Counts, Counts]:
    """The counts that ``measure`` takes, from one subset's rows of a client table.

    Args:
        clients: Rows of ``schema.CLIENTS_SCHEMA`` of one subset.
        classes: Number of classes.
        split: Which split is counted.

    Returns:
        int64 [clients, classes] and int64 [clients, domains].
    """
    mine = clients.filter(pc.equal(clients.column("split"), split))
    names = sorted(set(pc.list_flatten(mine.column("domains")).to_pylist()))
    codes = pc.index_in(pc.list_flatten(mine.column("domains")), value_set=pa.array(names, pa.string())).to_numpy()
    return (
        _dense(mine, "labels", "counts", pc.list_flatten(mine.column("labels")).to_numpy(), classes),
        _dense(mine, "domains", "domain_counts", codes, len(names)),
    )


def _dense(clients: pa.Table, keys: str, counts: str, codes: NDArray[np.integer], width: int) -> Counts:
    table = np.zeros((clients.num_rows, width), np.int64)
    client = np.repeat(np.arange(clients.num_rows), pc.list_value_length(clients.column(keys)).to_numpy())
    table[client, codes] = pc.list_flatten(clients.column(counts)).to_numpy()
    return table


def _band(
    counts: Counts, metrics: dict[str, Callable[[Counts], float]], rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """5th and 95th percentile of each metric over IID draws with the same client sizes."""
    draws = int(np.clip(_CELLS // max(counts.size, 1), 5, _DRAWS))
    overall = _overall(counts)
    sizes = counts.sum(axis=1)
    drawn = [rng.multinomial(sizes, overall) for _ in range(draws)] if sizes.sum() else [counts]
    band = {}
    for name, metric in metrics.items():
        low, high = np.percentile([metric(d) for d in drawn], [5, 95])
        band[name] = {"iid_low": float(low), "iid_high": float(high)}
    return band


def _overall(counts: Counts) -> NDArray[np.float64]:
    totals = counts.sum(axis=0).astype(float)
    return np.asarray(totals / max(totals.sum(), 1.0))


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = np.where(p > 0, p / np.where(q > 0, q, 1.0), 1.0)
    return np.asarray((p * np.log2(ratio)).sum(axis=1))
