import numpy as np
import pytest
import torch

from wss_data.errors import TrainingDataError
from wss_data.records import ExampleTable
from wss_train.data import Batch, TrainingDraws
from wss_train.engine.loop import MovingAverage
from wss_train.engine.objective import Objective
from wss_train.losses import pixel_losses, weighted_mean
from wss_train.models import ModelOutput
from wss_train.noise import (
    balanced_order,
    boundary_to_void,
    image_weights,
    share_at,
    smallest_losses,
)
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


def literal(logits, masks, one):
    """The loss of each pixel by loops: ``one`` gets the probabilities of a pixel and its class."""
    result = torch.zeros(masks.shape)
    for n in range(2):
        for y in range(2):
            for x in range(2):
                if masks[n, y, x] != VOID:
                    probabilities = torch.exp(logits[n, :, y, x]) / torch.exp(logits[n, :, y, x]).sum()
                    result[n, y, x] = one(probabilities, int(masks[n, y, x]))
    return result


def test_cross_entropy_of_a_pixel_is_the_negated_logarithm_of_its_class(logits, masks):
    expected = literal(logits, masks, lambda p, c: -torch.log(p[c]))
    torch.testing.assert_close(pixel_losses(logits, masks, recipe()), expected)


def test_the_bootstrapped_loss_has_a_fifth_of_its_target_from_the_network_itself(logits, masks):
    expected = literal(logits, masks, lambda p, c: -0.8 * torch.log(p[c]) - 0.2 * torch.log(p.max()))
    found = pixel_losses(logits, masks, recipe(pixel_loss="bootstrapped", bootstrap_weight=0.8))
    torch.testing.assert_close(found, expected)


def test_the_symmetric_loss_adds_the_cross_entropy_with_mask_and_network_exchanged(logits, masks):
    def one(p, c):
        target = torch.full((3,), -4.0)  # the logarithm of zero, by agreement
        target[c] = 0.0
        return -0.1 * torch.log(p[c]) - 1.0 * (p * target).sum()

    expected = literal(logits, masks, one)
    found = pixel_losses(logits, masks, recipe(pixel_loss="symmetric"))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "bootstrapped", "symmetric"])
def test_void_pixels_have_no_gradient(loss, logits, masks):
    logits.requires_grad_()
    pixel_losses(logits, masks, recipe(pixel_loss=loss)).sum().backward()
    assert logits.grad[0, :, 1, 1].tolist() == [0, 0, 0]
    assert logits.grad[1, :, 1, 0].tolist() == [0, 0, 0]
    assert logits.grad[0, :, 0, 0].abs().sum() > 0


def test_a_wrong_pixel_pulls_less_where_the_loss_is_bounded():
    sure_and_contradicted = torch.tensor([-9.0, 9.0]).view(1, 2, 1, 1)
    mask = torch.zeros((1, 1, 1), dtype=torch.int64)

    def pull(**values):
        logits = sure_and_contradicted.clone().requires_grad_()
        pixel_losses(logits, mask, recipe(**values)).sum().backward()
        return float(logits.grad.abs().max())

    assert pull() == pytest.approx(1.0, abs=1e-3)
    assert pull(pixel_loss="bootstrapped") == pytest.approx(0.8, abs=1e-3)
    assert pull(pixel_loss="symmetric") == pytest.approx(0.1, abs=1e-3)


def test_the_mean_counts_an_image_of_twice_the_weight_twice():
    losses = torch.tensor([[[1.0, 1.0]], [[4.0, 7.0]]])
    taught = torch.tensor([[[True, True]], [[True, False]]])
    assert float(weighted_mean(losses, taught, None)) == pytest.approx((1 + 1 + 4) / 3)
    assert float(weighted_mean(losses, taught, torch.tensor([1.0, 2.0]))) == pytest.approx((1 + 1 + 2 * 4) / 4)
    assert float(weighted_mean(losses, taught, torch.zeros(2))) == 0
    assert float(weighted_mean(losses, torch.zeros_like(taught), None)) == 0


def test_small_losses_stay_and_void_is_not_counted():
    losses = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 0.0]]])
    taught = torch.tensor([[[True, True, True, True, False]]])
    assert smallest_losses(losses, taught, 0.5).tolist() == [[[True, True, False, False, False]]]
    assert smallest_losses(losses, taught, 1.0).equal(taught)
    assert smallest_losses(losses, taught, 0.01).tolist() == [[[True, False, False, False, False]]]
    nothing = torch.zeros_like(taught)
    assert smallest_losses(losses, nothing, 0.5).equal(nothing)


def test_all_pixels_teach_at_first():
    assert [share_at(progress, 0.8, 0.5) for progress in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.9, 0.8, 0.8])
    assert share_at(0, 0.8, 0) == 0.8


def test_a_boundary_becomes_void_on_both_sides_and_no_more():
    mask = np.zeros((5, 8), np.uint8)
    mask[:, 4:] = 3
    expected = [0, 0, VOID, VOID, VOID, VOID, 3, 3]
    assert boundary_to_void(mask, 2).tolist() == [expected] * 5
    assert boundary_to_void(mask, 0) is mask
    assert boundary_to_void(np.full((4, 4), 2, np.uint8), 3).tolist() == [[2] * 4] * 4


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


def test_a_class_without_images_and_images_without_a_class_do_not_stop_balanced_sampling():
    labels = np.array([[1, 0], [1, 0], [0, 0]], bool)
    assert set(balanced_order(labels, np.random.default_rng(0)).tolist()) == {0, 1}
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


def test_the_objective_joins_weights_and_small_losses(logits, masks):
    batch = Batch(torch.zeros(2, 3, 2, 2), masks, torch.ones(2, 2), ("a", "b"), torch.tensor([0.5, 1.5]))
    chosen = recipe(small_loss_share=0.5, small_loss_ramp=0, loss_resolution="stride")
    found = Objective(chosen, 3, VOID, 10)(ModelOutput(logits, None), batch, 0)

    losses = pixel_losses(logits, masks, chosen)
    smallest = sorted((float(losses[n, y, x]), n) for n, y, x in torch.nonzero(masks != VOID).tolist())[:3]
    weights = [0.5, 1.5]
    expected = sum(weights[n] * loss for loss, n in smallest) / sum(weights[n] for _, n in smallest)
    assert float(found.total) == pytest.approx(expected, rel=1e-5)
    assert found.multilabel is None


def test_without_options_the_objective_is_equation_1(logits, masks):
    batch = Batch(torch.zeros(2, 3, 2, 2), masks, torch.ones(2, 2), ("a", "b"))
    found = Objective(recipe(loss_resolution="stride"), 3, VOID, 10)(ModelOutput(logits, None), batch, 0)
    assert float(found.total) == pytest.approx(float(pixel_losses(logits, masks, recipe()).sum() / 6), rel=1e-5)


def test_the_moving_average_forgets_its_random_start_and_then_follows_slowly():
    average = MovingAverage(torch.nn.Linear(1, 1, bias=False), decay=0.5)
    weights = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(average.model.weight, 0.0)
    torch.nn.init.constant_(weights.weight, 8.0)

    found = []
    for iteration in (0, 1, 100):
        average.update(weights, iteration)
        found.append(float(average.model.weight))

    # Kept of itself: 1/10, 2/11, then a half.
    first = 0.9 * 8
    second = 2 / 11 * first + 9 / 11 * 8
    assert found == pytest.approx([first, second, (second + 8) / 2])
    assert not average.model.weight.requires_grad
