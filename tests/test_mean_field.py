from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from wss_data.crf.mean_field import mean_field
from wss_data.crf.permutohedral import bilateral_lattice, position_lattice
from wss_data.crf.settings import CrfSettings

TERMS = CrfSettings(
    position_px=2.0, position_weight=1.5, bilateral_px=6.0, bilateral_rgb=25.0, bilateral_weight=2.0, iterations=5
)


def scene(labels, height=9, width=11, seed=0):
    random = np.random.default_rng(seed)
    image = random.integers(0, 60, (height, width, 3)).astype(np.uint8)
    image[:, width // 2 :] += 120
    return random.uniform(0, 4, (labels, height, width)).astype(np.float32), image


def softmax(scores):
    values = np.exp(scores - scores.max(axis=0))
    return values / values.sum(axis=0)


def literal_step(marginals, energies, image):
    """Algorithm 1 with both filters over all labels, in float64, one label at a time."""
    labels, height, width = energies.shape
    pull = np.zeros((labels, height * width))
    for weight, (lattice, _) in (
        (TERMS.position_weight, position_lattice(height, width, TERMS.position_px)),
        (TERMS.bilateral_weight, bilateral_lattice(image, TERMS.bilateral_px, TERMS.bilateral_rgb)),
    ):
        for label in range(labels):
            pull[label] += weight * lattice.filter(marginals[label].reshape(-1, 1).astype(np.float32))[:, 0]
    return softmax(-energies.astype(float) + pull.reshape(energies.shape))


def literal_pairs(marginals, energies, image):
    """Algorithm 1 over all pairs of pixels."""
    labels, height, width = energies.shape
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([columns.ravel(), rows.ravel()], axis=1)
    colours = image.reshape(-1, 3).astype(float)
    pull = 0
    for weight, features in (
        (TERMS.position_weight, places / TERMS.position_px),
        (TERMS.bilateral_weight, np.hstack([places / TERMS.bilateral_px, colours / TERMS.bilateral_rgb])),
    ):
        kernel = np.exp(-((features[:, None] - features[None]) ** 2).sum(axis=-1) / 2)
        root = 1 / np.sqrt(kernel.sum(axis=1))
        pull = pull + weight * marginals.reshape(labels, -1) @ (kernel * root[:, None] * root[None])
    return softmax(-energies.astype(float) + pull.reshape(energies.shape))


@pytest.mark.parametrize("labels", [2, 3, 5, 6, 9, 10, 21])
def test_the_label_that_is_not_filtered_gets_what_filtering_it_would_give(labels):
    energies, image = scene(labels)
    expected = softmax(-energies.astype(float))

    for iterations in range(4):
        found = mean_field(energies, image, replace(TERMS, iterations=iterations))
        np.testing.assert_allclose(found, expected, atol=2e-6)
        expected = literal_step(expected, energies, image)


@pytest.mark.parametrize("labels", [2, 4])
def test_a_step_is_that_over_all_pairs_within_what_the_lattice_is_worth(labels):
    energies, image = scene(labels)

    found = mean_field(energies, image, replace(TERMS, iterations=1))

    expected = literal_pairs(softmax(-energies.astype(float)), energies, image)
    assert np.abs(found - expected).mean() < 0.01
    np.testing.assert_allclose(found, expected, atol=0.05)


@pytest.mark.parametrize("labels", [2, 3, 21])
def test_energies_that_are_far_apart_give_neither_overflow_nor_nan(labels):
    energies, image = scene(labels)
    energies *= 1000

    found = mean_field(energies, image, replace(TERMS, iterations=3))

    assert np.isfinite(found).all() and found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
    assert np.array_equal(found.argmax(axis=0), energies.argmin(axis=0))


def test_strong_terms_make_one_label_of_an_even_image():
    energies, image = scene(3)
    image[:] = 77
    energies[1] -= 0.5

    found = mean_field(energies, image, replace(TERMS, bilateral_weight=500.0, iterations=10))

    assert (found.argmax(axis=0) == 1).all()


def test_the_order_of_labels_does_not_matter():
    energies, image = scene(4)
    order = [2, 0, 3, 1]

    found = mean_field(energies[order], image, TERMS)

    np.testing.assert_allclose(found, mean_field(energies, image, TERMS)[order], atol=1e-6)


def test_four_threads_get_the_bits_that_one_gets():
    scenes = [scene(labels, 30, 40, seed) for seed in range(3) for labels in (2, 3, 6, 21)]

    def work(one):
        return mean_field(*one, TERMS)

    alone = [work(one).tobytes() for one in scenes]
    with ThreadPoolExecutor(4) as threads:
        together = [marginals.tobytes() for marginals in threads.map(work, scenes * 5)]

    assert together == alone * 5
