import cv2
import numpy as np
import pytest
from drawings import disc

from wss_data.cosegmentation.saliency import (
    BASELINES,
    background_contrast,
    background_probability,
    border_saliency,
    cells_of,
    centred,
    cut_out_saliency,
    evidence_of,
    smooth_over_cells,
)


def four_cells():
    """Two border cells of one green, a red one in the middle, and one that is nearly green and inside."""
    index = np.array([[0, 0, 0, 1, 1], [0, 2, 2, 3, 1], [0, 2, 2, 3, 1], [0, 0, 0, 1, 1]])
    image = np.zeros((4, 5, 3), np.uint8)
    for cell, colour in enumerate([(0, 120, 0), (0, 120, 0), (200, 0, 0), (10, 125, 0)]):
        image[index == cell] = colour
    return image, cells_of(image, index)


def test_cells_know_colour_place_border_and_neighbours():
    image, cells = four_cells()

    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    np.testing.assert_allclose(cells.colours[2], lab[1, 1], rtol=1e-5)
    np.testing.assert_allclose(cells.places[2], [2 / 5, 2 / 4])
    assert cells.border.tolist() == [True, True, False, False]
    assert cells.neighbours.astype(int).tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]


def test_background_probability_is_that_of_the_literal_shortest_paths():
    _, cells = four_cells()
    steps = [[float(np.linalg.norm(a - b)) for b in cells.colours] for a in cells.colours]
    joined = cells.neighbours | (cells.border[:, None] & cells.border[None])
    far = [[0.0 if i == j else steps[i][j] if joined[i, j] else np.inf for j in range(4)] for i in range(4)]
    for middle in range(4):  # Floyd and Warshall
        for i in range(4):
            for j in range(4):
                far[i][j] = min(far[i][j], far[i][middle] + far[middle][j])
    expected = []
    for i in range(4):
        near = [np.exp(-(far[i][j] ** 2) / (2 * 10.0**2)) for j in range(4)]
        connectivity = sum(n for n, b in zip(near, cells.border, strict=True) if b) / np.sqrt(sum(near))
        expected.append(1 - np.exp(-(connectivity**2) / 2))

    found = background_probability(cells)

    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.argmin() == 2 and found[3] > 2 * found[2]


def test_contrast_is_the_literal_sum_over_background_cells_scaled():
    _, cells = four_cells()
    background = np.array([0.9, 0.8, 0.1, 0.5])
    sums = []
    for i in range(4):
        total = 0.0
        for j in range(4):
            square = sum((a - b) ** 2 for a, b in zip(cells.places[i], cells.places[j], strict=True))
            colour = float(np.linalg.norm(cells.colours[i] - cells.colours[j]))
            total += background[j] * colour * np.exp(-square / (2 * 0.25**2))
        sums.append(total)

    found = background_contrast(cells, background)

    np.testing.assert_allclose(found, (np.array(sums) - min(sums)) / (max(sums) - min(sums)))
    assert found.argmax() == 2


def test_the_smoothed_saliency_costs_less_than_any_neighbouring_one():
    _, cells = four_cells()
    background, foreground = np.array([0.9, 0.8, 0.0, 0.4]), np.array([0.0, 0.1, 0.9, 0.2])
    steps = np.linalg.norm(cells.colours[:, None] - cells.colours[None], axis=-1)
    weights = np.exp(-(steps**2) / (2 * 10.0**2)) + 0.1

    def cost(values):
        pairs = sum(weights[i, j] * (values[i] - values[j]) ** 2 for i in range(4) for j in range(i))
        return (background * values**2).sum() + (foreground * (values - 1) ** 2).sum() + pairs

    # Four cells touch, are neighbours of neighbours, or lie on the border: all are pairs.
    found = smooth_over_cells(cells, background, foreground)

    for nudge in np.vstack([np.eye(4), -np.eye(4)]) * 1e-3:
        assert cost(found) < cost(found + nudge)


def test_a_disc_stands_out_of_its_ground():
    image, inside = disc()

    saliency = border_saliency(image)

    assert saliency.shape == inside.shape and saliency.min() >= 0 and saliency.max() <= 1
    assert saliency[inside].mean() > 1.5 * saliency[~inside].mean()


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (2, 40)])
def test_an_image_of_one_colour_has_no_salient_pixel_however_small(size):
    assert not border_saliency(np.full((*size, 3), 77, np.uint8)).any()


@pytest.mark.parametrize("name", [*BASELINES])
@pytest.mark.parametrize("image", [disc()[0], np.zeros((16, 16, 3), np.uint8), np.full((1, 9, 3), 255, np.uint8)])
def test_every_baseline_gives_a_mask_of_the_images_size_and_a_fraction_as_confidence(name, image):
    segmented = BASELINES[name](image)

    assert segmented.mask.shape == image.shape[:2] and segmented.mask.dtype == bool
    assert 0 <= segmented.confidence <= 1


@pytest.mark.parametrize("name", [*BASELINES])
def test_baselines_cut_out_a_plain_disc(name):
    image, inside = disc()
    mask = BASELINES[name](image).mask

    assert (mask & inside).sum() / (mask | inside).sum() > 0.8


def test_evidence_runs_from_the_floors_to_the_peaks_log_odds_and_a_flat_map_says_nothing():
    evidence = evidence_of(np.array([[0.2, 0.6], [0.4, 0.2]]))

    assert evidence.min() == pytest.approx(np.log(0.02 / 0.98))
    assert evidence.max() == pytest.approx(np.log(0.95 / 0.05))
    assert not evidence_of(np.full((3, 3), 0.7)).any()


def test_the_centred_map_is_the_geometric_mean_with_the_gaussian():
    saliency = np.full((3, 3), 0.64)
    corner = np.exp(-((1 / 3) ** 2 + (1 / 3) ** 2) / (2 * 0.3**2))

    found = centred(saliency)

    assert found[1, 1] == pytest.approx(0.8)
    assert found[0, 0] == pytest.approx(np.sqrt(0.64 * corner))


def test_confidence_is_the_overlap_of_the_cut_with_what_was_salient_before_it():
    image, inside = disc()

    sure = cut_out_saliency(image, lambda small: cv2.resize(inside.astype(float), small.shape[1::-1]))
    unsure = cut_out_saliency(image, lambda small: np.eye(*small.shape[:2]))

    assert sure.confidence > 0.9 > unsure.confidence
