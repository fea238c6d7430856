"""Figures of multi-label classification, against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from fedtrain.methods.multilabel import average_precision, figures, overlap, own_average_precision


def drawn(n: int, labels: int, seed: int, decimals: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    scores = rng.random((n, labels)).round(decimals)
    return torch.from_numpy(scores), torch.from_numpy(rng.random((n, labels)) < rng.random(labels))


CASES = {
    "random": drawn(200, 17, 0),
    "ties": drawn(200, 9, 1, decimals=1),
    "one label": drawn(50, 1, 2),
    "one image": drawn(1, 6, 3),
    "more labels than are sorted at a time": drawn(40, 150, 4),
    "all scores equal": (torch.full((30, 3), 0.5), drawn(30, 3, 5)[1]),
    "no positives": (drawn(20, 4, 6)[0], torch.zeros(20, 4, dtype=torch.bool)),
    "all positives": (drawn(20, 4, 7)[0], torch.ones(20, 4, dtype=torch.bool)),
}


@pytest.mark.parametrize("case", CASES)
def test_average_precision_is_scikit_learns(case: str) -> None:
    scores, targets = CASES[case]
    each = average_precision(scores, targets)
    for label in range(scores.shape[1]):
        if not targets[:, label].any():
            assert torch.isnan(each[label])
        else:
            assert each[label].item() == pytest.approx(average_precision_score(targets[:, label], scores[:, label]))


@pytest.mark.parametrize("case", CASES)
def test_the_average_precision_of_each_client_is_that_of_its_images_alone(case: str) -> None:
    scores, targets = CASES[case]
    owner = torch.from_numpy(np.random.default_rng(8).integers(5, size=len(scores)))
    found = own_average_precision(scores, targets, owner, 7)
    for client, value in enumerate(found.tolist()):
        mine = owner == client
        alone = average_precision(scores[mine], targets[mine])
        assert value == pytest.approx(100 * float(alone.nanmean()), nan_ok=True)


def test_no_metric_is_known_without_images() -> None:
    found = figures(torch.zeros(0, 5), torch.zeros(0, 5, dtype=torch.bool), top=3)
    assert {"C-AP", "O-F1", "C-P@3"} <= found.keys()
    assert all(map(math.isnan, found.values()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_figures_are_scikit_learns(case: str) -> None:
    scores, targets = CASES[case]
    found = figures(scores, targets)
    predicted = (scores >= 0.5).numpy()
    macro, micro = ("binary", "binary") if scores.shape[1] == 1 else ("macro", "micro")  # one label is a class, not two
    p, r, _, _ = precision_recall_fscore_support(targets.numpy(), predicted, average=macro, zero_division=0)
    assert (found["C-P"], found["C-R"]) == pytest.approx((100 * p, 100 * r))
    assert found["C-F1"] == pytest.approx(200 * p * r / (p + r) if p + r else 0)
    overall = precision_recall_fscore_support(targets.numpy(), predicted, average=micro, zero_division=0)[:3]
    assert (found["O-P"], found["O-R"], found["O-F1"]) == pytest.approx([100 * value for value in overall])
    held = targets.any(0)
    if held.any():
        mean = np.mean([average_precision_score(targets[:, i], scores[:, i]) for i in np.flatnonzero(held)])
        assert found["C-AP"] == pytest.approx(100 * mean)
        assert found["O-AP"] == pytest.approx(100 * average_precision_score(targets.ravel(), scores.ravel()))
    else:
        assert np.isnan(found["C-AP"])
        assert np.isnan(found["O-AP"])


def test_the_f1_by_class_is_of_the_means_and_not_a_mean() -> None:
    scores = torch.tensor([[0.9, 0.9], [0.9, 0.1]])
    targets = torch.tensor([[True, True], [False, True]])
    found = figures(scores, targets)
    assert found["C-P"] == pytest.approx(75)
    assert found["C-R"] == pytest.approx(75)
    assert found["C-F1"] == pytest.approx(75)  # the mean of the labels' F1 would be 66.7


def test_half_is_predicted() -> None:
    assert figures(torch.tensor([[0.5, 0.1]]), torch.tensor([[True, False]]))["O-F1"] == 100


def test_among_the_three_surest_only_labels_from_a_half_on_are_predicted_as_in_ml_gcn() -> None:
    """By hand. Image 1 has four sure labels, of which the fourth is not predicted; image 2 has one; image 3 none."""
    scores = torch.tensor(
        [
            [0.9, 0.8, 0.7, 0.6, 0.1],  # predicted: a, b, c
            [0.2, 0.5, 0.4, 0.3, 0.1],  # predicted: b
            [0.4, 0.3, 0.2, 0.1, 0.0],  # predicted: none
            [0.0, 0.1, 0.6, 0.2, 0.7],  # predicted: c, e
        ]
    )
    targets = torch.tensor([[1, 0, 1, 1, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]).bool()
    found = figures(scores, targets, top=3)
    # label:     a    b    c    d    e
    # predicted  1    2    2    0    1   = 6
    # right      1    1    1    0    1   = 4
    # true       2    1    2    1    1   = 7
    by_class = 100 * (1 + 1 / 2 + 1 / 2 + 0 + 1) / 5, 100 * (1 / 2 + 1 + 1 / 2 + 0 + 1) / 5
    overall = 100 * 4 / 6, 100 * 4 / 7
    for letter, (precision, recall) in (("C", by_class), ("O", overall)):
        f1 = 2 * precision * recall / (precision + recall)
        assert [found[f"{letter}-{name}@3"] for name in ("P", "R", "F1")] == pytest.approx([precision, recall, f1])


def test_top_three_of_each_image_are_scikit_learns() -> None:
    scores, targets = drawn(60, 8, 9)
    found = figures(scores, targets, top=3)
    first = torch.zeros_like(targets)
    for row, order in enumerate(scores.argsort(1, descending=True)):
        first[row, [label for label in order[:3] if scores[row, label] >= 0.5]] = True
    assert (first.sum(1) < 3).any()
    p, r, f1, _ = precision_recall_fscore_support(targets.numpy(), first.numpy(), average="micro", zero_division=0)
    assert (found["O-P@3"], found["O-R@3"], found["O-F1@3"]) == pytest.approx((100 * p, 100 * r, 100 * f1))
    assert not any("@" in name for name in figures(scores[:, :3], targets[:, :3], top=3))


def test_overlap_of_each_client() -> None:
    scores, targets = drawn(50, 5, 10)
    owner = torch.from_numpy(np.random.default_rng(0).integers(0, 4, 50))
    owner[owner == 2] = 3
    each = overlap(scores, targets, owner, 5)
    assert torch.isnan(each[[2, 4]]).all()
    for client in (0, 1, 3):
        mine = owner == client
        assert each[client].item() == pytest.approx(figures(scores[mine], targets[mine])["O-F1"])
    assert overlap(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, dtype=torch.long), 1)[0] == 0
