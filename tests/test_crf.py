import sys

import numpy as np
import pytest

from wss_data.crf import CrfSettings, dense_crf
from wss_data.errors import WssError


def two_halves(seed=0, height=8, width=9):
    """An image dark on the left and red on the right, and noisy probabilities that lean the same way."""
    random = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    image[:, width // 2 :] = (180, 60, 40)
    image = (image + random.integers(0, 20, image.shape)).astype(np.uint8)
    right = np.where(np.arange(width) >= width // 2, 0.65, 0.35) + random.normal(0, 0.2, (height, width))
    right = np.clip(right, 0.05, 0.95)
    return np.stack([1 - right, right]).astype(np.float32), image


def literal_mean_field(probabilities, image, settings):
    """Every pair of pixels, algorithm 1 of the paper, kernels normalised symmetrically."""
    labels, height, width = probabilities.shape
    places = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(float)
    colours = image.reshape(-1, 3).astype(float)
    apart = ((places[:, None] - places[None]) ** 2).sum(-1)
    unlike = ((colours[:, None] - colours[None]) ** 2).sum(-1)
    near = np.exp(-apart / (2 * settings.position_px**2))
    alike = np.exp(-apart / (2 * settings.bilateral_px**2) - unlike / (2 * settings.bilateral_rgb**2))
    pull = 0
    for kernel, weight in ((near, settings.position_weight), (alike, settings.bilateral_weight)):
        root = 1 / np.sqrt(kernel.sum(axis=1))
        pull = pull + weight * kernel * root[:, None] * root[None]
    energies = -np.log(probabilities.reshape(labels, -1))
    marginals = np.exp(-energies) / np.exp(-energies).sum(axis=0)
    for _ in range(settings.iterations):
        marginals = np.exp(-energies + marginals @ pull.T)
        marginals /= marginals.sum(axis=0)
    return marginals.reshape(labels, height, width)


@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_it_agrees_with_mean_field_over_every_pair_of_pixels(iterations):
    probabilities, image = two_halves()
    settings = CrfSettings(3, 1, 5, 30, 1, iterations)

    marginals = dense_crf(probabilities, image, settings)

    # The lattice behind pydensecrf is an approximation of the sum over pairs.
    np.testing.assert_allclose(marginals, literal_mean_field(probabilities, image, settings), atol=0.03)


def test_noise_is_cleaned_up_to_the_colour_edge():
    probabilities, image = two_halves()
    truth = np.arange(9)[None] >= 4
    wrong_before = ((probabilities[1] > 0.5) != truth).sum()

    marginals = dense_crf(probabilities, image, CrfSettings(1, 1, 5, 30, 3, 5))

    wrong_after = ((marginals[1] > 0.5) != truth).sum()
    assert (wrong_before, wrong_after) == (19, 0)
    np.testing.assert_allclose(marginals.sum(axis=0), 1, atol=1e-5)


def test_read_only_arrays_and_zero_probabilities_are_taken_and_left_as_they_are():
    probabilities, image = two_halves()
    probabilities[0, 0, 0], probabilities[1, 0, 0] = 0, 1
    probabilities.flags.writeable = image.flags.writeable = False

    marginals = dense_crf(probabilities, image)

    assert np.isfinite(marginals).all() and marginals.dtype == np.float32


def test_a_single_label_is_certain():
    _, image = two_halves()

    assert (dense_crf(np.full((1, 8, 9), 0.3, np.float32), image) == 1).all()


@pytest.mark.parametrize("shape", [(2, 9, 8), (8, 9)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="dense_crf wants"):
        dense_crf(np.ones(shape, np.float32), two_halves()[1])


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    probabilities, image = two_halves()

    with pytest.raises(WssError, match="pip install pydensecrf2"):
        dense_crf(probabilities, image)
