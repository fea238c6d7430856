"""FedLGT's local training, piece by piece; names of tests say which defect of public code they rule out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fedtrain.methods.fedlgt import known_labels, states_of, uncertain, unknown_loss
from fedtrain.models.label_transformer import NEGATIVE, POSITIVE, UNKNOWN


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_known_labels_are_between_none_and_three_quarters() -> None:
    known = known_labels(4000, 17, 0.75, draws())
    counts = known.sum(1)
    assert counts.min() == 0
    assert counts.max() == 12
    assert torch.bincount(counts).float() / 4000 == pytest.approx([1 / 13] * 13, abs=0.02)  # k is uniform
    assert known.float().mean(0) == pytest.approx([6 / 17] * 17, abs=0.03)  # and so is which labels


def test_known_labels_differ_between_the_images_of_a_batch() -> None:
    known = known_labels(8, 80, 0.75, draws())
    assert len({tuple(row.tolist()) for row in known}) == 8
    assert torch.equal(known, known_labels(8, 80, 0.75, draws()))
    assert not torch.equal(known, known_labels(8, 80, 0.75, draws(1)))


def test_no_label_is_known_without_masks() -> None:
    assert not known_labels(5, 17, 0.0, draws()).any()


def test_states_are_positive_where_true_and_negative_where_not() -> None:
    targets = torch.tensor([[True, False, True, False]])
    known = torch.tensor([[True, True, False, False]])
    assert states_of(targets, known).tolist() == [[POSITIVE, NEGATIVE, UNKNOWN, UNKNOWN]]


def test_unsure_is_near_a_half_inclusive() -> None:
    p = torch.tensor([0.47, 0.4801, 0.5, 0.5199, 0.53])
    assert uncertain(p, 0.02).tolist() == [False, True, True, True, False]
    assert not uncertain(torch.tensor([0.499]), 0.0).any()


def test_masking_touches_every_image_of_a_batch_and_only_ever_hides() -> None:
    known = known_labels(16, 17, 0.75, draws())
    unsure = torch.rand(16, 17, generator=draws(1)) < 0.5
    after = known & ~unsure
    assert not (after & ~known).any()  # an unknown label never becomes a known one
    changed = (after != known).any(1)
    assert changed.sum() >= 12  # all images that had a known label the guide was unsure of
    assert torch.equal(changed, (known & unsure).any(1))


def test_the_loss_is_summed_over_unknown_labels_of_all_images() -> None:
    logits = torch.randn(3, 5, generator=draws(), requires_grad=True)
    targets = torch.rand(3, 5, generator=draws(1)) < 0.5
    known = torch.rand(3, 5, generator=draws(2)) < 0.5
    loss = unknown_loss(logits, targets, known)
    by_hand = sum(
        F.binary_cross_entropy_with_logits(logits[b, c], targets[b, c].float())
        for b in range(3)
        for c in range(5)
        if not known[b, c]
    )
    torch.testing.assert_close(loss, by_hand)
    loss.backward()
    assert torch.equal(logits.grad != 0, ~known)
    weights = torch.tensor([2.0, 0, 0, 0, 0])
    weighted = unknown_loss(logits, targets, known, weights)
    first = unknown_loss(logits[:, :1], targets[:, :1], known[:, :1])
    torch.testing.assert_close(weighted, 2 * first)
