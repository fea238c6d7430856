"""Metrics of a partition's skew, next to the range that chance gives.

Every metric compares clients with the global mixture or with each other; its band is what an IID split with
the same client sizes gives (5th to 95th percentile of random draws), to distinguish skew from noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Measured = dict[str, dict[str, float]]

TRAIN = "train"

_DRAWS = 40
_CELLS = 4_000_000  # bounds the work of the band: fewer draws for very large tables


def mixtures(counts: Counts) -> NDArray[np.float64]:
    """Each client's label mixture: float64 [clients, classes], rows summing to one (zero without rows)."""
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def total_variation(counts: Counts) -> NDArray[np.float64]:
    """Total variation distance of each client's mixture to the global one: float64 [clients], in 0..1."""
    return np.asarray(0.5 * np.abs(mixtures(counts) - _overall(counts)).sum(axis=1))


def earth_movers(counts: Counts) -> NDArray[np.float64]:
    """Sum over classes of the distance to the global mixture: float64 [clients], in 0..2.

    The "earth mover's distance" of Zhao et al. 2018 (arXiv 1806.00582), twice the total variation.
    """
    return 2 * total_variation(counts)


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
    """Gini coefficient of the sizes of the clients with rows: 0 all equal, towards 1 one client holds everything."""
    sizes = np.sort(counts.sum(axis=1))
    sizes = sizes[sizes > 0]
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
    "earth_movers": _mean(earth_movers),
    "classes_per_client": _mean(classes_per_client),
}
"""Label-skew metrics as means over the clients that have rows."""


def measure(clients: pa.Table, plan: pa.Table | None, classes: Sequence[str], rng: np.random.Generator) -> Measured:
    """All metrics of a subset's training rows.

    Args:
        clients: Its rows of the client table (``schema.CLIENTS_SCHEMA``).
        plan: Its rows of the plan (``schema.PLAN_SCHEMA``); None where images have one label each.
        classes: Class names in index order.
        rng: Draws the bands.

    Returns:
        Metric -> ``value`` and, where chance has a say, ``iid_low`` and ``iid_high``; rounded to 6 digits.
        ``domain_entropy`` (bits) where there are several domains, ``cooccurrence_drift`` where images have
        several labels.
    """
    labels, domains = tables(clients, len(classes))
    if plan is None:
        return measure_counts(labels, domains, rng)
    return measure_rows(labels, domains, *label_lists(plan, classes), rng)


def measure_rows(
    labels: Counts,
    domains: Counts,
    owner: NDArray[np.integer],
    codes: NDArray[np.integer],
    times: NDArray[np.integer],
    rng: np.random.Generator,
) -> Measured:
    """The metrics of rows with any number of labels each.

    Args:
        labels: int64 [clients, classes], rows of each class.
        domains: int64 [clients, domains], rows of each domain.
        owner: int [N], client of each row.
        codes: int [E], labels of the rows end to end.
        times: int [N], labels of each row, summing to E.
        rng: Draws the bands.
    """
    if not len(times) or times.max() < 2:
        return measure_counts(labels, domains, rng)
    width, clients_held = labels.shape[1], int(owner.max()) + 1

    def dealt() -> Counts:  # labels of an image stay together, so that clients' counts are not multinomial
        cells = np.repeat(rng.permutation(owner) * width, times) + codes
        return np.bincount(cells, minlength=clients_held * width).reshape(-1, width)

    measured = measure_counts(labels, domains, rng, dealt)
    measured["cooccurrence_drift"] = _rounded(cooccurrence_drift(owner, codes, times, width, rng))
    return measured


def label_lists(
    plan: pa.Table, classes: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Owners and labels of the training rows of a plan.

    Args:
        plan: A subset's rows of the plan (``schema.PLAN_SCHEMA``).
        classes: Class names in index order.

    Returns:
        int64 [N], a number for each client with training rows; int32 [E], labels of the rows end to end; int32 [N],
        labels of each row, summing to E.
    """
    train = plan.filter(pc.and_(pc.is_valid(plan.column("client_id")), pc.equal(plan.column("split"), TRAIN)))
    lists = train.column("labels").combine_chunks()
    codes = pc.index_in(lists.flatten(), value_set=pa.array(classes, pa.string())).to_numpy()
    owner = train.column("client_id").combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return owner, codes, pc.list_value_length(lists).to_numpy()


def measure_counts(
    labels: Counts, domains: Counts, rng: np.random.Generator, dealt: Callable[[], Counts] | None = None
) -> Measured:
    """The metrics that counts alone give.

    Args:
        labels: int64 [clients, classes], rows of each class.
        domains: int64 [clients, domains], rows of each domain.
        rng: Draws the bands.
        dealt: Draws the labels of an IID split of the same images; None: images have one label each.
    """
    measured = {name: {"value": metric(labels)} for name, metric in METRICS.items()}
    for name, values in _band(labels, METRICS, rng, dealt).items():
        measured[name] |= values
    measured["size_gini"] = {"value": size_gini(labels)}
    if domains.shape[1] > 1:
        spread = {"domain_entropy": _mean(entropy)}
        measured["domain_entropy"] = {"value": spread["domain_entropy"](domains)}
        measured["domain_entropy"] |= _band(domains, spread, rng)["domain_entropy"]
    return {name: _rounded(facts) for name, facts in measured.items()}


def cooccurrence_drift(
    owner: NDArray[np.integer],
    labels: NDArray[np.integer],
    times: NDArray[np.integer],
    classes: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Measure how much the co-occurrence of labels differs between clients.

    The mean over clients of the total variation between a client's distribution of label pairs and the global one,
    in 0..1, and its band over random owners with the same client sizes. Clients without a pair do not count.

    Args:
        owner: int [N], client of each row.
        labels: int [E], labels of the rows end to end.
        times: int [N], labels of each row, summing to E.
        classes: Number of classes.
        rng: Draws the band.
    """
    row, pair = pairs(labels, times, classes)
    pair = np.unique(pair, return_inverse=True)[1]
    draws = 5 if len(pair) > _CELLS // 4 else 20
    drawn = [_drift(rng.permutation(owner)[row], pair) for _ in range(draws)]
    low, high = np.percentile(drawn, [5, 95])
    return {"value": _drift(owner[row], pair), "iid_low": float(low), "iid_high": float(high)}


def cooccurrence_drifts(
    owner: NDArray[np.integer], labels: NDArray[np.integer], times: NDArray[np.integer], classes: int
) -> NDArray[np.float64]:
    """Terms of the mean in ``cooccurrence_drift``: float64 [clients that have a pair], in 0..1; same arguments."""
    row, pair = pairs(labels, times, classes)
    return _drifts(owner[row], np.unique(pair, return_inverse=True)[1])


def pairs(
    labels: NDArray[np.integer], times: NDArray[np.integer], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and code (smaller label x classes + larger) of every unordered pair of labels of one row: int64 [P] each."""
    ends = np.repeat(np.cumsum(times), times)
    later = ends - np.arange(len(labels)) - 1  # labels of the same row that follow
    left = np.repeat(np.arange(len(labels)), later)
    right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(later) - later, later)
    a, b = labels[left].astype(np.int64), labels[right].astype(np.int64)
    row = np.repeat(np.arange(len(times)), times)[left]
    return row, np.minimum(a, b) * classes + np.maximum(a, b)


def _drift(owner: NDArray[np.integer], pair: NDArray[np.int64]) -> float:
    drifts = _drifts(owner, pair)
    return float(drifts.mean()) if len(drifts) else 0.0


def _drifts(owner: NDArray[np.integer], pair: NDArray[np.int64]) -> NDArray[np.float64]:
    if not len(pair):
        return np.zeros(0)
    overall = np.bincount(pair) / len(pair)
    cells, counts = np.unique(owner.astype(np.int64) * len(overall) + pair, return_counts=True)
    client, kind = np.divmod(cells, len(overall))
    held = np.bincount(client, counts)
    share = counts / held[client]
    # pairs a client has not: their global share, all of it, is distance too
    distance = np.bincount(client, np.abs(share - overall[kind]) - overall[kind]) + 1.0
    return np.asarray(0.5 * distance[held > 0])


def as_table(measured: Mapping[str, Mapping[str, float]]) -> pa.Table:
    """Metrics as an Arrow table: ``metric``, ``value``, ``iid_low``, ``iid_high`` (null without a band)."""
    rows = [{"metric": name, **facts} for name, facts in measured.items()]
    fields = [("metric", pa.string()), *((name, pa.float64()) for name in ("value", "iid_low", "iid_high"))]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def per_client(counts: Counts, names: Sequence[str]) -> pa.Table:
    """Metrics of each client as an Arrow table: ``client_id``, ``rows``, ``classes`` and the distances."""
    distances = {m.__name__: m(counts) for m in (total_variation, jensen_shannon, hellinger, earth_movers)}
    facts = {"client_id": pa.array(names, pa.string()), "rows": counts.sum(axis=1), "classes": (counts > 0).sum(axis=1)}
    return pa.table(facts | distances)


def tables(clients: pa.Table, classes: int, split: str = TRAIN) -> tuple[Counts, Counts]:
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


def train_counts(clients: pa.Table, classes: int) -> tuple[int, ...]:
    """Training rows of each class, from a subset's rows of the client table."""
    return tuple(tables(clients, classes)[0].sum(axis=0).tolist())


def _dense(clients: pa.Table, keys: str, counts: str, codes: NDArray[np.integer], width: int) -> Counts:
    table = np.zeros((clients.num_rows, width), np.int64)
    client = np.repeat(np.arange(clients.num_rows), pc.list_value_length(clients.column(keys)).to_numpy())
    table[client, codes] = pc.list_flatten(clients.column(counts)).to_numpy()
    return table


def _band(
    counts: Counts,
    metrics: dict[str, Callable[[Counts], float]],
    rng: np.random.Generator,
    dealt: Callable[[], Counts] | None = None,
) -> dict[str, dict[str, float]]:
    """5th and 95th percentile of each metric over IID splits: the same rows, dealt to clients of the same sizes."""
    total, width = int(counts.sum()), counts.shape[1]
    draws = int(np.clip(_CELLS // max(counts.size, total, 1), 5, _DRAWS))
    place = np.repeat(np.arange(len(counts)) * width, counts.sum(axis=1))
    kinds = np.repeat(np.arange(width), counts.sum(axis=0))
    values: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(draws if total else 1):
        drawn = dealt() if dealt else _dealt(counts, place, rng.permutation(kinds))
        for name, metric in metrics.items():
            values[name].append(metric(drawn))
    return {
        name: {"iid_low": float(low), "iid_high": float(high)}
        for name, (low, high) in ((name, np.percentile(found, [5, 95])) for name, found in values.items())
    }


def _dealt(counts: Counts, place: NDArray[np.int64], kinds: NDArray[np.int64]) -> Counts:
    return np.bincount(place + kinds, minlength=counts.size).reshape(counts.shape)


def _rounded(facts: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 6) for key, value in facts.items()}


def _overall(counts: Counts) -> NDArray[np.float64]:
    totals = counts.sum(axis=0).astype(float)
    return np.asarray(totals / max(totals.sum(), 1.0))


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = np.where(p > 0, p / np.where(q > 0, q, 1.0), 1.0)
    return np.asarray((p * np.log2(ratio)).sum(axis=1))
