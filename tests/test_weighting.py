"""What an image counts by in the loss, and how often it is drawn."""

import numpy as np
import pytest
import torch

from wss_data.errors import TrainingDataError
from wss_data.records import ExampleTable
from wss_train.data import Batch, TrainingDraws, balanced_order, image_weights
from wss_train.engine.step import batch_losses
from wss_train.losses import segmentation_loss
from wss_train.models import ModelOutput
from wss_train.recipes import preset, with_values

VOID = 255


def recipe(**values):
    return with_values(preset("paper"), values)


def table(count: int = 3, **numbers) -> ExampleTable:
    names = tuple(f"i{n}" for n in range(count))
    return ExampleTable(names, names, names, np.ones((count, 1), bool), ("cat",), **numbers)


@pytest.fixture
def logits():
    return torch.randn((2, 3, 2, 2), generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def masks():
    return torch.tensor([[[0, 1], [2, VOID]], [[2, 2], [VOID, 0]]])


def test_void_pixels_of_a_weighted_image_have_no_gradient(logits, masks):
    logits.requires_grad_()
    segmentation_loss(logits, masks, weights=torch.tensor([0.5, 1.5])).backward()
    assert logits.grad[0, :, 1, 1].tolist() == [0, 0, 0]
    assert logits.grad[1, :, 1, 0].tolist() == [0, 0, 0]
    assert logits.grad[0, :, 0, 0].abs().sum() > 0


def test_the_mean_counts_an_image_of_twice_the_weight_twice(logits, masks):
    def mean(first, second):
        """Of the three decided pixels of each image, counted as often as reported."""
        losses = torch.nn.functional.cross_entropy(logits, masks, ignore_index=VOID, reduction="none").flatten(1)
        return float((losses.sum(dim=1) * torch.tensor([first, second])).sum() / (3 * first + 3 * second))

    def loss(*weights):
        return float(segmentation_loss(logits, masks, VOID, torch.tensor(weights)))

    assert loss(1.0, 2.0) == pytest.approx(mean(1.0, 2.0))
    assert loss(1.0, 1.0) == pytest.approx(float(segmentation_loss(logits, masks)))
    assert loss(0.0, 0.0) == 0
    assert float(segmentation_loss(logits, torch.full_like(masks, VOID), VOID, torch.ones(2))) == 0


def test_weights_of_images_have_mean_one_and_an_unknown_one_weighs_one():
    found = image_weights(table(confidence=np.array([0.2, 0.6, np.nan], np.float32)), "confidence")
    assert found.tolist() == pytest.approx([0.5, 1.5, 1.0])
    assert image_weights(table(quality=np.array([1, 1, 4], np.float32)), "quality").tolist() == [0.5, 0.5, 2.0]
    assert image_weights(table(), "confidence") is None
    assert image_weights(table(confidence=np.full(3, np.nan, np.float32)), "confidence") is None
    assert image_weights(table(confidence=np.ones(3, np.float32)), "none") is None


def test_a_table_in_which_nothing_counts_is_refused():
    with pytest.raises(TrainingDataError, match=r"confidence of all 3 images is 0.*image_weighting=none"):
        image_weights(table(confidence=np.zeros(3, np.float32)), "confidence")


def test_every_class_comes_equally_often():
    labels = np.zeros((12, 2), bool)
    labels[:9, 0] = True
    labels[9:, 1] = True
    order = balanced_order(labels, np.random.default_rng(0))
    assert len(order) == 12
    assert labels[order].sum(axis=0).tolist() == [6, 6]
    assert np.bincount(order[order >= 9] - 9).tolist() == [2, 2, 2], "each image once before one comes again"
    assert len(set(order[order < 9].tolist())) == 6


def test_a_class_without_images_does_not_stop_balanced_sampling_and_images_without_a_class_come_as_one():
    labels = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], bool)
    assert balanced_order(labels, np.random.default_rng(0)).tolist().count(3) == 2
    assert sorted(balanced_order(np.zeros((4, 2), bool), np.random.default_rng(0)).tolist()) == [0, 1, 2, 3]


def test_the_draws_of_a_balanced_recipe_are_balanced_and_repeatable():
    labels = np.zeros((12, 2), bool)
    labels[:10, 0] = True
    labels[10:, 1] = True
    names = tuple(f"i{n}" for n in range(12))
    rows = ExampleTable(names, names, names, labels, ("cat", "dog"))
    draws = TrainingDraws(rows, recipe(balanced_sampling=True, seed=3))
    first = [draws.row(n) for n in range(24)]
    assert first == [draws.row(n) for n in range(24)]
    assert labels[first].sum(axis=0).tolist() == [12, 12]


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.5])])
def test_the_losses_of_a_batch_hold_equation_1_with_the_weights_of_its_images(logits, masks, weights):
    batch = Batch(torch.zeros(2, 3, 2, 2), masks, torch.ones(2, 2), ("a", "b"), weights)
    found = batch_losses(ModelOutput(logits, None), batch, recipe(loss_resolution="stride"), VOID)
    assert float(found.total) == float(found.segmentation) == float(segmentation_loss(logits, masks, VOID, weights))
    assert found.multilabel is None
