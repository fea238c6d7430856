"""Integer tables: controlled rounding that keeps both margins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]


def round_table(table: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rounds every cell up or down so that every row sum and column sum is rounded up or down too.

    Integer margins are kept exactly. Such a rounding always exists (Cox 1987, "A constructive procedure for
    unbiased controlled rounding"); here rows are rounded one after another, each to the columns that are
    furthest behind, and the remaining errors of column margins are fixed along alternating paths.

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
    _fix(up, wide > 0, need_columns, rng)
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


def _fix(up: Bools, free: Bools, need: Counts, rng: np.random.Generator) -> None:
    """Moves ones along rows, from columns with too many to columns with too few, until both margins hold.

    Only free cells are looked at. Each search grows shortest paths from all columns with too many at once, and every
    path that those before it have left intact is taken, so a few searches fix any number of columns.
    """
    over = up.sum(axis=0) - need
    if not over.any():
        return
    row, column = np.nonzero(free)
    shuffled = rng.permutation(len(row))  # so that paths branch at random cells and few of them meet
    row, column = row[shuffled], column[shuffled]
    held = up[row, column]
    while (over > 0).any():
        entered, left = _forest(row, column, held, over)
        fixed = False
        for goal in np.flatnonzero((over < 0) & (entered >= 0)).tolist():
            path, start = _walk(row, column, entered, left, goal)
            if over[start] > 0 and held[left[row[path]]].all() and not held[path].any():
                held[left[row[path]]], held[path] = False, True
                over[start] -= 1
                over[goal] += 1
                fixed = True
        assert fixed, "a controlled rounding always exists"
    up[row, column] = held


def _forest(row: Counts, column: Counts, held: Bools, over: Counts) -> tuple[Counts, Counts]:
    """Shortest chains of moves from the columns with too many ones, all at once, level by level.

    Args:
        row: int64 [M], the row of each free cell.
        column: int64 [M], its column.
        held: bool [M], whether it has a one.
        over: int64 [columns], ones too many (or, below zero, too few).

    Returns:
        The cell that each column was entered by, int64 [columns], and the cell that a one leaves in each row on the
        way there, int64 [rows]; -1 for those that were not reached and for the columns that chains start from.
    """
    entered, left = np.full(len(over), -1), np.full(int(row.max()) + 1, -1)
    gives, takes = np.flatnonzero(held), np.flatnonzero(~held)
    front = over > 0
    unseen = ~front
    while front.any() and unseen[over < 0].any():
        gives = gives[left[row[gives]] < 0]
        from_front = gives[front[column[gives]]]
        left[row[from_front]] = from_front  # where several cells lead to a row or column, the last one stays
        takes = takes[unseen[column[takes]]]
        into = takes[left[row[takes]] >= 0]
        entered[column[into]] = into
        front = np.zeros(len(over), bool)
        front[column[into]] = True
        unseen &= ~front
    return entered, left


def _walk(row: Counts, column: Counts, entered: Counts, left: Counts, goal: int) -> tuple[list[int], int]:
    """The cells by which the chain to a column enters columns, from its end, and the column that it starts from."""
    path = []
    while entered[goal] >= 0:
        path.append(int(entered[goal]))
        goal = int(column[left[row[path[-1]]]])
    return path, goal
