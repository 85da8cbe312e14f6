from itertools import product

import numpy as np
import pytest

from wss_data.cosegmentation.cut import (
    NEIGHBOURS,
    colour_log_ratio,
    graph_cut,
    minimum_cut,
    neighbour_weights,
)


def energy(mask, unary, weights):
    """Literal: every pixel of the mask, every pair that it separates."""
    height, width = unary.shape
    total = 0.0
    for row, column in product(range(height), range(width)):
        total += unary[row, column] * mask[row, column]
        for (down, right), weight in zip(NEIGHBOURS, weights, strict=True):
            other = row + down, column + right
            inside = 0 <= other[0] < height and 0 <= other[1] < width
            if inside and mask[row, column] != mask[other]:
                total += weight[row, column]
    return total


@pytest.mark.parametrize("seed", range(5))
def test_the_cut_has_the_least_energy_of_all_512_masks_of_a_3_by_3_image(seed):
    random = np.random.default_rng(seed)
    unary = random.normal(0, 2, (3, 3))
    weights = neighbour_weights(random.integers(0, 256, (3, 3, 3), dtype=np.uint8), smoothness=2.0)
    every_mask = [np.array(bits, bool).reshape(3, 3) for bits in product([0, 1], repeat=9)]

    mask = minimum_cut(unary, weights)

    assert energy(mask, unary, weights) == pytest.approx(min(energy(m, unary, weights) for m in every_mask), abs=0.02)


def test_without_smoothness_each_pixel_decides_for_itself():
    unary = np.array([[-1.0, 2.0], [0.5, -0.1]])

    mask = minimum_cut(unary, [np.zeros((2, 2))] * 4)

    assert mask.tolist() == [[True, False], [False, True]]


def test_nothing_wanted_gives_an_empty_mask_and_everything_wanted_a_full_one():
    weights = [np.ones((4, 5))] * 4

    assert not minimum_cut(np.full((4, 5), 1.0), weights).any()
    assert not minimum_cut(np.zeros((4, 5)), weights).any()
    assert minimum_cut(np.full((4, 5), -1.0), weights).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1)])
def test_one_pixel_wide_images_are_cut_too(shape):
    evidence = np.ones(shape)

    assert graph_cut(evidence, np.zeros((*shape, 3), np.uint8)).all()


def test_energies_of_any_size_do_not_overflow_the_flow():
    unary = np.full((20, 20), 1e6)
    unary[5:10, 5:10] = -1e7

    mask = minimum_cut(unary, [np.ones((20, 20))] * 4)

    assert mask.sum() == 25


def test_separating_neighbours_costs_most_where_their_colours_agree():
    lab = np.zeros((2, 3, 3), np.uint8)
    lab[:, 2] = 200

    right, down, diagonal, _ = neighbour_weights(lab, smoothness=2.0)

    assert right[0, 0] == down[0, 0] == 2.0
    assert diagonal[0, 0] == pytest.approx(2.0 / np.sqrt(2))
    assert right[0, 1] < 1.0
    assert right[0, 2] == 0.0  # nothing to its right


def test_colours_of_the_mask_speak_for_the_foreground_and_an_empty_mask_says_nothing():
    lab = np.zeros((4, 4, 3), np.uint8)
    lab[:2] = 220
    top = np.zeros((4, 4), bool)
    top[:2] = True

    ratio = colour_log_ratio(lab, top)

    assert (ratio[:2] > 0).all() and (ratio[2:] < 0).all()
    assert not colour_log_ratio(lab, np.zeros((4, 4), bool)).any()
    assert not colour_log_ratio(lab, np.ones((4, 4), bool)).any()


def test_the_cut_follows_the_colour_edge_rather_than_the_blurred_evidence():
    image = np.full((20, 20, 3), 40, np.uint8)
    image[4:16, 4:16] = (220, 60, 40)
    evidence = np.full((20, 20), -0.5)
    evidence[7:13, 7:13] = 1.0

    mask = graph_cut(evidence, image)

    assert (mask == (image[..., 0] == 220)).all()


def test_evidence_of_another_size_than_the_image_is_refused():
    with pytest.raises(ValueError, match="graph_cut wants"):
        graph_cut(np.zeros((4, 4)), np.zeros((4, 5, 3), np.uint8))
