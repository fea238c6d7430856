"""The contract of a partitioner as checks that any package can run: ``check_partitioner(Mine(clients=4))``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from fedrsic_data.errors import UsageError
from fedrsic_data.partition.base import Assignment, Partitioner, Rows, assign
from fedrsic_data.settings import decode, encode

_ROWS = 240
_FLAGS = ("multi_label", "uses_domains", "exact_sizes", "keeps_min_size", "needs_ids")


def check_partitioner(partitioner: Partitioner) -> None:
    """Run the checks that every partitioner of fedkit passes.

    >>> from fedrsic_data.partition.iid import Iid
    >>> check_partitioner(Iid(clients=4))

    Args:
        partitioner: One whose settings 240 rows of 6 classes, 2 domains and 12 users can meet.

    Raises:
        AssertionError: It breaks the contract; the message says how.
    """
    kind = type(partitioner)
    _check(
        dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen,
        "is no frozen dataclass: its fields are its settings",
    )
    for flag in _FLAGS:
        _check(isinstance(getattr(kind, flag, None), bool), f"has no class attribute {flag}, true or false")
    _check(
        isinstance(getattr(kind, "cites", None), str), "has no class attribute cites: say where the scheme comes from"
    )
    settings = json.loads(json.dumps(encode(partitioner)))
    _check(decode(kind, settings, "settings") == partitioner, "is another one after a trip through JSON")
    served = 0
    for words, rows, ids in _federations():
        try:
            first = assign(partitioner, rows, ids, np.random.default_rng(1))
        except UsageError as error:
            _check(words != "one label per row", f"refuses {words}: {error}")
            continue
        served += 1
        _check_answer(partitioner, first, words)
        before = _global_draws()
        again = assign(partitioner, rows, ids, np.random.default_rng(1))
        _check(np.array_equal(first.owner, again.owner), f"{words}: equal generators give different owners")
        unused = _global_draws() == before
        _check(unused, f"{words}: draws from NumPy's global generator; draw from the one that it is given")
        order = np.random.default_rng(2).permutation(len(rows))
        other = assign(partitioner, rows.take(order), ids.take(pa.array(order)), np.random.default_rng(1))
        _check(np.array_equal(first.owner[order], other.owner), f"{words}: the order of the rows changes the owners")
    _check(served > 0, "serves no rows")
    _refuses_nothing(partitioner)


def _federations() -> Iterator[tuple[str, Rows, pa.Array]]:
    rng = np.random.default_rng(0)
    ids = pa.array([f"image-{i:04d}" for i in range(_ROWS)])
    domains, groups = np.arange(_ROWS) % 2, (np.arange(_ROWS) % 12).astype(np.int32)
    users = tuple(f"user-{i:02d}" for i in range(12))
    single = Rows.single(rng.integers(0, 6, _ROWS), 6, domains)
    yield "one label per row", dataclasses.replace(single, groups=groups, group_names=users), ids
    several = Rows.multi_hot(rng.random((_ROWS, 6)) < 0.3, domains)
    yield "several labels per row", dataclasses.replace(several, groups=groups, group_names=users), ids


def _check_answer(partitioner: Partitioner, answer: Assignment, words: str) -> None:
    owner = answer.owner
    _check(owner.dtype == np.int32 and owner.shape == (_ROWS,), f"{words}: owners are not int32, one per row")
    _check(answer.clients >= 1, f"{words}: there is no client")
    _check(owner.min() >= -1 and owner.max() < answer.clients, f"{words}: an owner is not from -1 to clients - 1")
    _check(not answer.names or len(answer.names) == answer.clients, f"{words}: there are not as many names as clients")
    sizes = np.bincount(owner[owner >= 0], minlength=answer.clients)
    least = getattr(partitioner, "min_size", 0) if partitioner.keeps_min_size else 0
    _check(sizes.min() >= least, f"{words}: a client has {sizes.min()} rows, min_size is {least}")


def _refuses_nothing(partitioner: Partitioner) -> None:
    """Checks that it refuses fewer rows than it has clients, where it says how many it has."""
    clients = getattr(partitioner, "clients", None)
    if clients is None or not partitioner.keeps_min_size or getattr(partitioner, "min_size", 0) < 1 or clients < 2:
        return
    few = Rows.single(np.zeros(clients - 1, np.int32), 1)
    ids = pa.array([f"image-{i:09d}" for i in range(clients - 1)])
    try:
        assign(partitioner, few, ids, np.random.default_rng(0))
    except UsageError:
        return
    _check(False, f"takes {clients - 1} rows for {clients} clients, each of at least one; refuse with UsageError")


def _global_draws() -> tuple[int, int]:
    """Where NumPy's global generator is."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    return int(state["state"]["key"].sum()), int(state["state"]["pos"])


def _check(holds: bool, words: str) -> None:
    if not holds:
        raise AssertionError(f"the partitioner {words}")
