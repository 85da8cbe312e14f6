from dataclasses import replace

import numpy as np
import pytest
from drawings import rectangles

from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask, write_mask
from wss_train.reports.failures import Failure, failures_of
from wss_train.reports.sheets import write_failures

CAT, DOG, VOID = 1, 2, 255


def image(left: int, right: int) -> np.ndarray:
    """10 x 10 px, two halves."""
    mask = np.full((10, 10), left, np.uint8)
    mask[:, 5:] = right
    return mask


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (image(CAT, DOG), image(CAT, CAT), [Failure("merged", DOG, CAT, 1.0, 0.5)]),
        (image(CAT, 0), image(DOG, 0), [Failure("confused", CAT, DOG, 1.0, 0.5)]),
        (image(CAT, 0), image(0, 0), [Failure("underestimated", CAT, 0, 1.0, 0.5)]),
        (image(CAT, 0), image(CAT, CAT), [Failure("overestimated", 0, CAT, 0.5, 0.5)]),
        (image(CAT, DOG), image(CAT, DOG), []),
        (image(VOID, VOID), image(CAT, DOG), []),
        (image(0, VOID), image(0, CAT), []),
    ],
)
def test_a_failure_is_named_by_the_way_that_most_of_the_pixels_go(truth, prediction, expected):
    assert failures_of(truth, prediction) == expected


def test_less_than_half_of_a_class_and_objects_of_a_few_pixels_are_no_failure():
    prediction = image(CAT, 0)
    prediction[:4] = 0
    assert failures_of(image(CAT, 0), prediction) == []
    speck = np.zeros((20, 20), np.uint8)
    speck[0, :3] = CAT
    assert failures_of(speck, np.zeros_like(speck)) == []


def test_the_costliest_failure_comes_first():
    truth = np.zeros((10, 10), np.uint8)
    truth[0], truth[1:4] = CAT, DOG
    assert [f.wanted for f in failures_of(truth, np.zeros_like(truth))] == [DOG, CAT]


def test_a_sheet_shows_each_kind_and_says_in_how_many_images_it_happens(tmp_path):
    table = replace(rectangles(tmp_path, 4), source="rectangles")
    for position, name in enumerate(table.ids):
        mask = read_mask(table.mask_paths[position])
        # Missed, called by the other class's name, much too large, and right.
        made = [np.zeros_like(mask), np.where(mask > 0, 3 - mask, 0), np.full_like(mask, mask.max()), mask][position]
        write_mask(made.astype(np.uint8), tmp_path / "predictions" / f"{name}.png")

    found = write_failures(table, tmp_path / "predictions", tmp_path / "failures.png")

    assert found == {"merged": 0, "confused": 1, "underestimated": 1, "overestimated": 1}
    assert read_image(tmp_path / "failures.png").shape[1] > 3 * 210
