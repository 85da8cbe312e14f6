import math

import pytest
import torch

from wss_train.losses import (
    at_one_resolution,
    classes_in_masks,
    multilabel_loss,
    segmentation_loss,
    total_loss,
)

VOID = 255


def literal_equation_1(logits, masks):
    total, count = 0.0, 0
    for n in range(logits.shape[0]):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                label = int(masks[n, y, x])
                if label == VOID:
                    continue
                scores = logits[n, :, y, x].tolist()
                total -= math.log(math.exp(scores[label]) / sum(math.exp(s) for s in scores))
                count += 1
    return total / count


def literal_equation_3(scores, labels):
    total = 0.0
    for score_row, label_row in zip(scores.tolist(), labels.tolist(), strict=True):
        for score, label in zip(score_row, label_row, strict=True):
            p = 1 / (1 + math.exp(-score))
            total -= label * math.log(p) + (1 - label) * math.log(1 - p)
    return total / scores.numel()


def test_equation_1_agrees_with_its_literal_version():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, 5)
    masks = torch.randint(0, 4, (2, 3, 5))
    masks[0, 0, :2] = VOID

    assert segmentation_loss(logits, masks).item() == pytest.approx(literal_equation_1(logits, masks), rel=1e-5)


def test_equation_3_agrees_with_its_literal_version():
    torch.manual_seed(0)
    scores, labels = torch.randn(3, 5), torch.randint(0, 2, (3, 5)).float()

    assert multilabel_loss(scores, labels).item() == pytest.approx(literal_equation_3(scores, labels), rel=1e-5)


def test_equation_4_adds_lambda_times_equation_3():
    assert total_loss(torch.tensor(2.0), torch.tensor(3.0), 0.5).item() == 3.5
    assert total_loss(torch.tensor(2.0), None, 0.5).item() == 2.0


def test_losses_are_negated_so_that_a_good_score_gives_a_small_loss():
    good, bad = torch.tensor([5.0, -5.0])[None, :, None, None], torch.tensor([-5.0, 5.0])[None, :, None, None]
    background = torch.zeros(1, 1, 1, dtype=torch.long)

    assert 0 <= segmentation_loss(good, background) < segmentation_loss(bad, background)


def test_a_batch_of_void_gives_zero_and_a_zero_gradient_instead_of_nan():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)

    loss = segmentation_loss(logits, torch.full((2, 4, 4), VOID))
    loss.backward()

    assert loss.item() == 0.0
    assert logits.grad.abs().max().item() == 0.0


def test_void_pixels_change_neither_loss_nor_gradient():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 1, 4)
    masks = torch.tensor([[[0, 2, VOID, VOID]]])

    assert segmentation_loss(logits, masks) == segmentation_loss(logits[..., :2], masks[..., :2])


def test_at_mask_resolution_the_logits_grow_and_at_stride_the_mask_shrinks():
    logits, masks = torch.zeros(1, 2, 2, 2), torch.arange(16).view(1, 4, 4)

    grown, same = at_one_resolution(logits, masks, "mask")
    kept, sampled = at_one_resolution(logits, masks, "stride")

    assert grown.shape == (1, 2, 4, 4)
    assert same is masks
    assert kept is logits
    assert sampled.tolist() == [[[0, 2], [8, 10]]]


def test_void_stays_void_when_the_mask_is_sampled():
    _, sampled = at_one_resolution(torch.zeros(1, 2, 1, 1), torch.full((1, 8, 8), VOID), "stride")

    assert sampled.tolist() == [[[VOID]]]


def test_classes_in_masks_counts_background_but_not_void():
    masks = torch.tensor([[[0, 2], [VOID, 2]], [[1, 1], [1, 1]]])

    assert classes_in_masks(masks, 4).tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]
