"""What an engine knows about its own masks: small cases by hand, and the engine's word on a real group."""

import numpy as np
import pytest

from wss_data.cosegmentation.common import CommonEngine
from wss_data.cosegmentation.confidence import (
    confidence,
    of_length_1,
    overlap,
    pooled,
    prototype_distances,
    typicality,
)
from wss_data.imaging.images import list_images, read_image

EAST, NORTH = np.array([1, 0], np.float32), np.array([0, 1], np.float32)


def test_confidence_is_overlap_times_certainty():
    sure, half = np.array([[1.0, 0.0]]), np.array([[1.0, 0.5]])
    assert confidence(sure, sure) == 1.0
    assert confidence(half, half) == 0.5
    assert confidence(sure, 1 - sure) == 0.0
    assert confidence(half, half, typical=0.5) == 0.25


def test_overlap_of_soft_masks_is_smaller_over_larger():
    assert overlap(np.array([0.5, 0.5]), np.array([1.0, 0.5])) == pytest.approx(2 / 3)
    assert overlap(np.zeros(2), np.zeros(2)) == 0.0


def test_pooling_takes_the_mean_of_the_cells_that_count():
    cells = np.array([[[3.0, 0.0], [0.0, 4.0]]])
    assert pooled(cells).tolist() == pytest.approx([0.6, 0.8])
    assert pooled(cells, np.array([[1.0, 0.0]])).tolist() == [1.0, 0.0]
    assert pooled(cells, np.zeros((1, 2))).tolist() == [0.0, 0.0]
    assert of_length_1(np.array([[0.0, 5.0], [0.0, 0.0]])).tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_the_odd_one_is_farthest_from_what_the_others_have_in_common():
    assert prototype_distances([EAST, EAST, EAST, NORTH]).round(3).tolist() == [
        pytest.approx(1 - 2 / 5**0.5, abs=1e-3)
    ] * 3 + [1.0]


def test_nobody_can_say_how_typical_a_single_object_is_or_none_at_all():
    assert np.isnan(prototype_distances([EAST])).all()
    assert np.isnan(prototype_distances([EAST, EAST, 0 * EAST])).tolist() == [False, False, True]


def test_only_an_object_less_than_half_as_typical_as_the_most_typical_loses_trust():
    distances = np.array([0.2] * 9 + [0.4, 0.6, 0.8, 1.0, 1.3])  # alike: 0.8, then 0.6, 0.4, 0.2, 0, -0.3
    assert typicality(distances).tolist() == pytest.approx([1.0] * 9 + [1.0, 1.0, 0.5, 0.0, 0.0])


def test_an_object_that_nothing_is_known_of_is_trusted_and_so_is_a_group_with_nothing_in_common():
    assert typicality(np.array([0.1, 0.1, np.nan])).tolist() == [1.0, 1.0, 1.0]
    assert typicality(np.array([np.nan])).tolist() == [1.0]
    assert typicality(np.array([1.0, 1.2, 1.1])).tolist() == [1.0, 1.0, 1.0]
    assert typicality(prototype_distances([EAST, NORTH])).tolist() == [1.0, 1.0]


def test_most_of_a_group_may_be_noise():
    distances = np.array([0.1] * 3 + [0.95] * 17)
    assert typicality(distances)[3:].max() < 0.15


@pytest.mark.data
def test_the_engine_tells_of_each_image_what_it_shows_and_how_typical_it_is(test_data):
    """Eight cheetahs and a boat: the boat is the least typical, and the farthest from all others for search."""
    cheetahs = list_images(test_data / "web_wild6" / "images" / "cheetah")[:8]
    boat = list_images(test_data / "caltech_web" / "images" / "boat")[:1]
    images = [read_image(path) for path in [*cheetahs, *boat]]

    found = [segmented for _, segmented in CommonEngine(self_training_folds=0).segment_group(images, workers=1)]

    assert max(range(9), key=lambda i: found[i].prototype_distance) == 8
    assert min(range(9), key=lambda i: found[i].confidence) == 8
    assert all(0 <= segmented.agreement <= 1 for segmented in found)
    descriptors = np.stack([segmented.descriptor for segmented in found])
    assert descriptors.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(descriptors.astype(float), axis=1), 1, atol=2e-3)
    alike = descriptors.astype(np.float32) @ descriptors.T.astype(np.float32)
    assert alike[8, :8].max() < np.median(alike[:8, :8])
