"""Draw which labels of training rows are unknown: those that are hidden, and those not annotated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedrsic_data import seeds
from fedrsic_data.dataset.recipe import AnnotatedLabels, Recipe
from fedrsic_data.errors import UsageError
from fedrsic_data.partition import draws
from fedrsic_data.settings import suggest

_CELLS = 1_000_000  # labels of rows that are drawn at once
_MOST = 2**31 - 1  # labels of rows that a list column can hold


def unknown_labels(
    recipe: Recipe,
    name: str,
    labels: pa.ListArray,
    owner: NDArray[np.int32],
    classes: Sequence[str],
    clients: Sequence[str],
) -> pa.ListArray | None:
    """The unknown labels of a subset's rows.

    Every client has its own generator, which takes its rows in their order: the hidden labels of a row depend on
    neither other clients nor, with ``of: entries``, any label.

    Args:
        recipe: The recipe.
        name: Name of the subset.
        labels: The true labels, lists of class indices [N].
        owner: int32 [N], client of each training row; -1 for other rows.
        classes: Class names in index order.
        clients: Client names.

    Returns:
        Lists of int32 class indices [N], ascending; None if every label is known.

    Raises:
        UsageError: The settings name clients or labels that are not there, or a list column cannot hold so many.
    """
    hidden, wanted = recipe.hidden_of(name), recipe.annotated_of(name)
    if hidden is None and wanted is None:
        return None
    if int((owner >= 0).sum()) * len(classes) > _MOST:
        raise UsageError(f"training rows have more than {_MOST:,} labels to hide; split the data into subsets")
    rng = seeds.generator(recipe.seed, name, "annotated_labels")
    annotates = None if wanted is None else _annotated(wanted, owner, classes, clients, rng)
    rows, codes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for client, mine in _by_client(owner):
        draw = seeds.generator(recipe.seed, name, "hidden_labels", client)
        most = max(1, _CELLS // len(classes))
        for some in (mine[start : start + most] for start in range(0, len(mine), most)):
            unknown = np.zeros((len(some), len(classes)), bool)
            if hidden is not None:
                unknown |= draw.random(unknown.shape) < hidden.share
                if hidden.of == "positives":
                    unknown &= _present(labels, some, len(classes))
            if annotates is not None:
                unknown |= ~annotates[client]
            row, code = np.nonzero(unknown)
            rows.append(some[row])
            codes.append(code)
    row, code = np.concatenate(rows), np.concatenate(codes).astype(np.int32)
    if not len(row):
        return None
    ends = np.cumsum(np.bincount(row, minlength=len(labels)))
    order = np.argsort(row, kind="stable")
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]).astype(np.int32)), pa.array(code[order]))


def _by_client(owner: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each client that has training rows, and these rows in order."""
    order = np.argsort(owner, kind="stable")
    order = order[owner[order] >= 0]
    for mine in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1):
        if len(mine):
            yield int(owner[mine[0]]), mine


def _present(labels: pa.ListArray, rows: NDArray[np.int64], classes: int) -> NDArray[np.bool_]:
    """Which labels rows have: bool [rows, classes]."""
    lists = labels.take(pa.array(rows))
    table = np.zeros((len(rows), classes), bool)
    table[np.repeat(np.arange(len(rows)), pc.list_value_length(lists).to_numpy()), lists.flatten().to_numpy()] = True
    return table


def _annotated(
    wanted: AnnotatedLabels,
    owner: NDArray[np.int32],
    classes: Sequence[str],
    clients: Sequence[str],
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Which labels each client annotates: bool [clients, classes]; none of clients without training rows."""
    draws.few_cells(len(clients), len(classes))
    annotates = np.zeros((len(clients), len(classes)), bool)
    if wanted.clients is not None:
        _check_names(wanted.clients, classes, clients)
        for k, client in enumerate(clients):
            annotates[k, [classes.index(label) for label in wanted.clients[client]]] = True
        return annotates
    count = wanted.count or 0
    if count > len(classes):
        raise UsageError(f"annotated_labels.count={count} is more than the {len(classes)} labels there are")
    training = np.unique(owner[owner >= 0])
    popularity = None if wanted.alpha is None else draws.log_gamma(wanted.alpha, 1, len(classes), rng)[0]
    held = np.zeros(len(classes), np.int64)
    for client in training:
        chance = rng.random(len(classes))
        if popularity is not None:  # exponential variates come in the order of draws without replacement
            order = np.argsort(np.log(-np.log1p(-chance)) - popularity, kind="stable")
        else:
            order = np.lexsort((chance, held))
        annotates[client, order[:count]] = True
        held[order[:count]] += 1
    return annotates


def _check_names(named: dict[str, tuple[str, ...]], classes: Sequence[str], clients: Sequence[str]) -> None:
    known = set(clients)
    for client, labels in named.items():
        where = f"annotated_labels.clients.{client}"
        if client not in known:
            raise UsageError(f"{where}: there is no such client{suggest(client, clients)}")
        for label in labels:
            if label not in classes:
                raise UsageError(f"{where}: unknown label {label!r}{suggest(label, classes)}")
    lacking = [client for client in clients if client not in named]
    if lacking:
        raise UsageError(f"annotated_labels.clients: names no labels of {lacking[0]}; name those of every client")
