import numpy as np
import pytest

from wss_data.cosegmentation.quality import (
    border_contact,
    colour_contrast,
    connected_components,
    crf_agreement,
    mask_quality,
    quality_scores,
    solidity,
)


def blank(height=20, width=20):
    return np.zeros((height, width), bool)


def test_a_square_is_convex_and_a_cross_is_not():
    square, cross = blank(), blank()
    square[5:15, 5:15] = True
    cross[9:11, 2:18] = cross[2:18, 9:11] = True

    assert solidity(square) == 1.0
    assert 0.2 < solidity(cross) < 0.6


def test_a_single_pixel_and_a_line_are_convex():
    dot, line = blank(), blank()
    dot[3, 4] = line[3, 2:9] = True

    assert solidity(dot) == solidity(line) == 1.0


def test_two_blobs_are_two_components_and_specks_are_not_counted():
    mask = blank(40, 40)
    mask[2:14, 2:14] = mask[20:34, 20:34] = True
    mask[0, 39] = True

    assert connected_components(mask) == 2


def test_components_that_touch_at_a_corner_are_one():
    mask = blank()
    mask[2:5, 2:5] = mask[5:8, 5:8] = True

    assert connected_components(mask) == 1


def test_border_contact_is_the_fraction_of_border_pixels():
    mask = np.zeros((4, 5), bool)
    mask[0] = True

    assert border_contact(mask) == 5 / 14
    assert border_contact(np.ones((4, 5), bool)) == 1.0


def test_contrast_is_one_for_two_colours_and_zero_for_one():
    left = blank()
    left[:, :10] = True
    image = np.zeros((20, 20, 3), np.uint8)

    assert colour_contrast(image, left) == 0.0
    image[:, :10] = (220, 60, 40)
    assert colour_contrast(image, left) == 1.0
    assert colour_contrast(image, ~left) == 1.0


@pytest.mark.parametrize("mask", [blank(), ~blank()])
def test_empty_and_full_masks_have_no_contrast(mask):
    quality = mask_quality(np.zeros((20, 20, 3), np.uint8), mask)

    assert quality.colour_contrast == 0.0
    assert quality.compactness == float(mask.any())
    assert quality.pieces == int(mask.any())


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="mask_quality wants"):
        mask_quality(np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4), bool))


def test_a_crf_gives_a_mask_on_the_edges_of_a_colour_again_and_not_one_beside_them():
    image = np.full((96, 96, 3), (40, 120, 60), np.uint8)
    image[30:70, 30:70] = (220, 40, 40)
    right, shifted = blank(96, 96), blank(96, 96)
    right[30:70, 30:70] = shifted[30:70, 38:78] = True

    assert crf_agreement(image, right) > 0.9
    assert crf_agreement(image, shifted) < 0.8
    assert crf_agreement(image, blank(96, 96)) == 0.0


def test_what_a_mask_leaves_open_is_not_held_against_it():
    image = np.full((96, 96, 3), (40, 120, 60), np.uint8)
    image[30:70, 30:70] = (220, 40, 40)
    most, rest = blank(96, 96), blank(96, 96)
    most[30:70, 30:60] = rest[30:70, 60:70] = True

    assert crf_agreement(image, most) < 0.9
    assert crf_agreement(image, most, rest) > 0.95


def test_the_score_is_the_mean_of_a_masks_places_among_the_others():
    assert quality_scores([[10, 20, 30, 40]]) == [0.125, 0.375, 0.625, 0.875]
    assert quality_scores([[10, 20, 30, 40], [4, 3, 2, 1]]) == [0.5] * 4
    assert quality_scores([[1, 1, 5]]) == [1 / 3, 1 / 3, 5 / 6], "equal ones share their place"


def test_the_score_uses_the_measures_that_a_mask_has():
    assert quality_scores([[10, None, 30, None], [1, 2, None, None]]) == [(0.25 + 0.25) / 2, 0.75, 0.75, None]
    assert quality_scores([[], []]) == []


def test_the_score_does_not_depend_on_units():
    values = [0.3, 0.1, 0.9, 0.4]
    assert quality_scores([values]) == quality_scores([[100 * v**3 for v in values]])
