"""Draws for partitioners: Dirichlet shares, cuts into whole rows, holders of classes, even turns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_CELLS = 100_000_000


def dirichlet(alpha: float | Floats, rows: int, columns: int, rng: np.random.Generator) -> Floats:
    """Dirichlet vectors that stay finite for any ``alpha > 0``.

    Gamma variates are drawn in logarithms (``G(a) = G(a + 1) * U ** (1 / a)``), where the usual draw
    underflows to 0 / 0 below alpha of about 0.001.

    Args:
        alpha: Concentration of every component, or float64 [columns], one each, above zero.
        rows: Number of vectors.
        columns: Length of each.
        rng: A separate generator.

    Returns:
        float64 [rows, columns], non-negative, rows summing to one.

    Raises:
        UsageError: That is a table too large to hold.
    """
    logs = log_gamma(alpha, rows, columns, rng)
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def log_gamma(alpha: float | Floats, rows: int, columns: int, rng: np.random.Generator) -> Floats:
    """Logarithms of gamma variates, float64 [rows, columns]: those of ``dirichlet`` before they are shares.

    Raises:
        UsageError: That is a table too large to hold.
    """
    few_cells(rows, columns)
    logs = np.log(rng.standard_gamma(alpha + 1.0, (rows, columns)))
    return np.asarray(logs + np.log1p(-rng.random((rows, columns))) / alpha)


def edges(shares: Floats, counts: Counts) -> Counts:
    """Where to cut ``counts`` rows so that client k gets its share: int64 [..., clients], the last is the count."""
    cuts = np.floor(np.cumsum(shares, axis=-1) * counts + 1e-9).astype(np.int64)
    cuts[..., -1:] = counts
    return np.minimum(cuts, counts)


def whole(shares: Floats, counts: Counts) -> Counts:
    """Rows of each class for each client, every cell within one of its share.

    Args:
        shares: float64 [classes, clients], rows summing to one.
        counts: int64 [classes].

    Returns:
        int64 [classes, clients], rows summing to ``counts``.
    """
    return np.diff(edges(shares, counts[:, None]), axis=1, prepend=0)


def even(holds: NDArray[np.bool_], counts: Counts) -> Counts:
    """Counts int64 [classes, clients]: each class shared by its holders, differing by at most one."""
    holders = np.maximum(holds.sum(axis=1, keepdims=True), 1)
    rank = np.cumsum(holds, axis=1) - 1
    base, extra = np.divmod(counts[:, None], holders)
    return np.where(holds, base + (rank < extra), 0)


def holders(clients: int, each: int, classes: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """``each`` distinct classes for every client, dealt so that the numbers of holders differ by at most one.

    Returns:
        bool [classes, clients]; every class is held.

    Raises:
        UsageError: More classes a client than there are, or too few clients to hold all of them.
    """
    few_enough(each, classes)
    if clients * each < classes:
        raise UsageError(
            f"clients={clients} x classes_per_client={each} hold {clients * each} of {classes} classes; "
            "raise one of them"
        )
    holds = np.zeros((classes, clients), bool)
    # each run of a shuffled deck that repeats holds distinct classes
    deck = rng.permutation(classes)
    chosen = deck[np.arange(clients * each) % classes].reshape(clients, each)
    holds[chosen, np.arange(clients)[:, None]] = True
    return holds


def few_enough(each: int, classes: int) -> None:
    """Refuses more classes a client than there are.

    Raises:
        UsageError: ``each`` is more than ``classes``.
    """
    if each > classes:
        raise UsageError(f"classes_per_client={each} is more than the {classes} classes there are")


def few_cells(rows: int, columns: int) -> None:
    """Refuses tables of classes and clients that are too large to hold, before they are made.

    Raises:
        UsageError: They have more than 100,000,000 cells.
    """
    if rows * columns > _CELLS:
        raise UsageError(
            f"{rows:,} x {columns:,} classes and clients make a table of more than {_CELLS:,} cells; lower clients"
        )


def turns(sizes: Counts, rng: np.random.Generator) -> NDArray[np.int32]:
    """Deal turns so that those of each client are spread evenly from the first to the last.

    Client k has its j-th turn at ``(j + u_k) / size_k`` for one uniform ``u_k``: rows sorted by class and dealt
    in these turns are a systematic sample, stratified by class, of every client's exact size.

    Args:
        sizes: int64 [clients], non-negative.
        rng: A separate generator.

    Returns:
        int32 [sizes.sum()], client numbers.
    """
    client = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    turn = np.arange(len(client)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    when = (turn + rng.random(len(sizes))[client]) / sizes[client]
    return client[np.argsort(when, kind="stable")]
