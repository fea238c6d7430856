"""Metrics of multi-label classification, as the literature since WARP and ML-GCN reports them, in percent.

All are pure tensor functions and run where their arguments are. torchmetrics has them too, but forty lines are not
worth a dependency; tests compare them with scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedtrain.methods.lazy import torch

_LABELS = 64  # sorted at a time
_NAMED = 100  # labels whose own average precision is reported


def average_precision(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Average precision of each label: sum over thresholds of the gain in recall times the precision.

    Equal scores are one threshold, whatever their order.

    Args:
        scores: float ``[N, L]``, higher is surer.
        targets: bool ``[N, L]``.

    Returns:
        float64 ``[L]``, 0 to 1; NaN for a label without a positive.
    """
    one = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
    parts = list(_parts(scores, targets, one, 1))
    return torch.cat(parts, 1)[0] if parts else torch.zeros(0, dtype=torch.float64)


def own_average_precision(scores: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor, count: int) -> torch.Tensor:
    """Mean average precision of each client's images, over the labels that its images have, in percent.

    Args:
        scores: float ``[N, L]``, higher is surer.
        targets: bool ``[N, L]``.
        owner: int64 ``[N]``, client of each image.
        count: Number of clients.

    Returns:
        float64 ``[count]``; NaN for a client whose images have no label.
    """
    total = torch.zeros(count, dtype=torch.float64, device=scores.device)
    labels = torch.zeros_like(total)
    for found in _parts(scores, targets, owner, count):
        total += found.nansum(1)
        labels += (~found.isnan()).sum(1)
    return 100 * total / labels  # 0 / 0 is NaN


def _parts(scores: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Average precision by client, ``[count, labels]`` for some labels at a time."""
    by_owner = owner.argsort(stable=True)
    owner, rows = owner[by_owner], torch.bincount(owner, minlength=count)
    starts = rows.cumsum(0) - rows
    for first in range(0, scores.shape[1], _LABELS):
        part = slice(first, first + _LABELS)
        yield _columns(scores[by_owner, part], targets[by_owner, part], owner, starts)


def _columns(scores: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Average precision of rows that stand client by client, from ``starts``."""
    count, place = len(scores), torch.arange(len(scores), device=scores.device)[:, None]
    ordered, order = scores.sort(dim=0, descending=True)
    if len(starts) > 1:  # by client, and there from the highest score
        again = owner[order].argsort(dim=0, stable=True)
        ordered, order = ordered.gather(0, again), order.gather(0, again)
    hit = targets.gather(0, order)
    hits = hit.cumsum(0).double()  # counted as integers: a GPU has no deterministic sum of floats
    ends = torch.ones_like(hit)
    ends[:-1] = ordered[:-1] != ordered[1:]
    if len(starts) > 1:
        ends[:-1] |= (owner[:-1] != owner[1:])[:, None]
    last = torch.where(ends, place, count).flip(0).cummin(0).values.flip(0)  # where the equal scores of each end
    if len(starts) == 1:
        precision = hits.gather(0, last) / (last + 1)
        return ((precision * hit).sum(0) / hit.sum(0))[None]  # 0 / 0 is NaN
    first = starts[owner][:, None]
    before = torch.where(first > 0, hits[(first - 1).clamp(min=0)[:, 0]], 0.0)  # hits of the clients before
    precision = (hits.gather(0, last) - before) / (last + 1 - first)
    sums = torch.zeros(2, len(starts), hit.shape[1], dtype=torch.float64, device=scores.device)
    sums[0].index_add_(0, owner, precision * hit)
    sums[1].index_add_(0, owner, hit.double())
    return sums[0] / sums[1]


def figures(scores: torch.Tensor, targets: torch.Tensor, top: int | None = None) -> dict[str, float]:
    """Precision, recall and F1 by class (C-) and overall (O-), and average precisions.

    ``C-AP`` is the mean over labels with a positive; ``O-AP`` ranks all (image, label) pairs together. ``C-P`` and
    ``C-R`` are means over all labels, 0 / 0 being 0; ``C-F1`` is the harmonic mean of the two means, 0 if both are.
    All are NaN without images.

    Args:
        scores: float ``[N, L]`` probabilities; a label is predicted from 0.5 on.
        targets: bool ``[N, L]``.
        top: Also report metrics that end in ``@top``, for which a label is predicted if it is among the ``top`` surest
            of its image and its probability is at least 0.5: as in the code of ML-GCN (Chen et al., CVPR 2019, arXiv
            1904.03582) and of FedLGT, so an image may have fewer. An image with equal scores at the border has some of
            them, ``top`` in all.

    Returns:
        Name -> percent.
    """
    each = average_precision(scores, targets)
    together = average_precision(scores.reshape(-1, 1), targets.reshape(-1, 1))
    found = {"C-AP": 100 * float(each.nanmean()), "O-AP": 100 * float(together.nanmean())}
    sure = scores >= 0.5
    found |= _of_predicted(sure, targets)
    if top is not None and top < scores.shape[1]:
        first = torch.zeros_like(targets).scatter_(1, scores.topk(top, 1).indices, True)
        found |= {f"{name}@{top}": value for name, value in _of_predicted(first & sure, targets).items()}
    return found if len(scores) else dict.fromkeys(found, float("nan"))


def by_label(scores: torch.Tensor, targets: torch.Tensor, names: Sequence[str]) -> dict[str, float]:
    """Average precision of each label in percent, ``AP/<label>``; none where there are more than 100 labels.

    Args:
        scores: float ``[N, L]``, higher is surer.
        targets: bool ``[N, L]``.
        names: The labels'.
    """
    if len(names) > _NAMED:
        return {}
    each = average_precision(scores, targets)
    return {f"AP/{name}": 100 * float(ap) for name, ap in zip(names, each, strict=True)}


def overlap(scores: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor, count: int) -> torch.Tensor:
    """Overall F1 of each client's images, in percent.

    Args:
        scores: float ``[N, L]`` probabilities.
        targets: bool ``[N, L]``.
        owner: int64 ``[N]``, client of each image.
        count: Number of clients.

    Returns:
        float64 ``[count]``; 0 where nothing is right, NaN for a client without an image.
    """
    predicted = scores >= 0.5
    sums = torch.zeros(count, 4, dtype=torch.float64, device=scores.device)
    ones = torch.ones(len(owner), device=scores.device)
    rows = torch.stack([(predicted & targets).sum(1), predicted.sum(1), targets.sum(1), ones], 1)
    sums.index_add_(0, owner, rows.double())
    right, said, true, images = sums.unbind(1)
    f1 = torch.where(said + true > 0, 2 * right / (said + true).clamp(min=1), 0.0)
    return torch.where(images > 0, 100 * f1, torch.nan)


def _of_predicted(predicted: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    right = (predicted & targets).sum(0).double()
    said, true = predicted.sum(0).double(), targets.sum(0).double()
    by_class = [float((right / of.clamp(min=1)).mean()) for of in (said, true)]
    overall = [float(right.sum() / of.sum().clamp(min=1)) for of in (said, true)]
    found: dict[str, float] = {}
    for letter, (precision, recall) in (("C", by_class), ("O", overall)):
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        found |= {f"{letter}-P": 100 * precision, f"{letter}-R": 100 * recall, f"{letter}-F1": 100 * f1}
    return found
