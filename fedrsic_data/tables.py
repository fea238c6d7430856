"""Integer tables: controlled rounding that keeps both margins."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray


def round_table(table: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rounds every cell up or down so that every row sum and column sum is rounded up or down too.

    Integer margins are kept exactly. Such a rounding always exists (Cox 1987, "A constructive procedure for
    unbiased controlled rounding"); here rows are rounded one after another, each to the columns that are
    furthest behind, and what is left of the column margins is mended along alternating paths.

    Args:
        table: float64 [rows, columns], non-negative.
        rng: Decides the order of the rows and between equals.

    Returns:
        int64 [rows, columns], each cell the floor or the ceiling of the given one.
    """
    whole = np.floor(table + 1e-9).astype(np.int64)
    part = np.clip(table - whole, 0.0, None)
    part[part < 1e-9] = 0.0
    # slack row and column make both margins integers; a slack cell of exactly 0 can never be rounded up
    rows, columns = part.shape
    wide = np.zeros((rows + 1, columns + 1))
    wide[:rows, :columns] = part
    wide[:rows, -1] = _slack(part.sum(axis=1))
    wide[-1, :columns] = _slack(part.sum(axis=0))
    wide[-1, -1] = _slack(wide[-1, :columns].sum())
    need_rows = np.rint(wide.sum(axis=1)).astype(np.int64)
    need_columns = np.rint(wide.sum(axis=0)).astype(np.int64)
    up = _by_rows(wide, need_rows, rng)
    _mend(up, wide > 0, need_columns)
    return whole + up[:rows, :columns]


def _slack(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    rest = np.ceil(sums - 1e-7) - sums
    return np.where(np.abs(rest) < 1e-7, 0.0, rest)


def _by_rows(part: NDArray[np.float64], need: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    up = np.zeros(part.shape, bool)
    behind = rng.random(part.shape[1]) * 1e-6
    for r in rng.permutation(len(part)):
        behind += part[r]
        if need[r]:
            score = np.where(part[r] > 0, behind, -np.inf)
            chosen = np.argpartition(-score, need[r] - 1)[: need[r]]
            up[r, chosen] = True
            behind[chosen] -= 1
    return up


def _mend(up: NDArray[np.bool_], free: NDArray[np.bool_], need: NDArray[np.int64]) -> None:
    """Moves ones along rows, from columns with too many to columns with too few, until both margins hold."""
    over = up.sum(axis=0) - need
    while (over > 0).any():
        start = int(np.argmax(over))
        path = _path(up, free, start, over < 0)
        for row, source, target in path:
            up[row, source], up[row, target] = False, True
        over[start] -= 1
        over[path[-1][2]] += 1


def _path(
    up: NDArray[np.bool_], free: NDArray[np.bool_], start: int, goal: NDArray[np.bool_]
) -> list[tuple[int, int, int]]:
    """Shortest chain of ``(row, from column, to column)`` moves from ``start`` to a column of ``goal``."""
    came: dict[int, tuple[int, int]] = {start: (-1, -1)}
    queue = deque([start])
    while queue:
        column = queue.popleft()
        holders = np.flatnonzero(up[:, column])
        takes = free[holders] & ~up[holders]
        for target in np.flatnonzero(takes.any(axis=0)):
            if int(target) in came:
                continue
            came[int(target)] = (int(holders[np.argmax(takes[:, target])]), column)
            if goal[target]:
                return _walk(came, int(target))
            queue.append(int(target))
    raise AssertionError("a controlled rounding always exists")


def _walk(came: dict[int, tuple[int, int]], target: int) -> list[tuple[int, int, int]]:
    steps = []
    while came[target][0] >= 0:
        row, source = came[target]
        steps.append((row, source, target))
        target = source
    return steps[::-1]
