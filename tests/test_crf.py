import importlib.util
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from wss_data.crf.dense_crf import VARIABLE, CrfSettings, backend, dense_crf
from wss_data.errors import WssError
from wss_data.imaging.images import read_image
from wss_data.imaging.masks import read_mask
from wss_data.runtime.parallel import map_images

needs_pydensecrf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None, reason="pydensecrf is not installed"
)
both = pytest.mark.parametrize("using", ["builtin", pytest.param("pydensecrf", marks=needs_pydensecrf)])


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


@both
@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_it_agrees_with_mean_field_over_every_pair_of_pixels(iterations, using):
    probabilities, image = two_halves()
    settings = CrfSettings(3, 1, 5, 30, 1, iterations)

    marginals = dense_crf(probabilities, image, settings, using)

    # The lattice behind both is an approximation of the sum over pairs.
    np.testing.assert_allclose(marginals, literal_mean_field(probabilities, image, settings), atol=0.03)


@both
def test_noise_is_cleaned_up_to_the_colour_edge(using):
    probabilities, image = two_halves()
    truth = np.arange(9)[None] >= 4
    wrong_before = ((probabilities[1] > 0.5) != truth).sum()

    marginals = dense_crf(probabilities, image, CrfSettings(1, 1, 5, 30, 3, 5), using)

    wrong_after = ((marginals[1] > 0.5) != truth).sum()
    assert (wrong_before, wrong_after) == (19, 0)
    np.testing.assert_allclose(marginals.sum(axis=0), 1, atol=1e-5)


@both
def test_read_only_arrays_and_zero_probabilities_are_taken_and_left_as_they_are(using):
    probabilities, image = two_halves()
    probabilities[0, 0, 0], probabilities[1, 0, 0] = 0, 1
    probabilities.flags.writeable = image.flags.writeable = False

    marginals = dense_crf(probabilities, image, using=using)

    assert np.isfinite(marginals).all() and marginals.dtype == np.float32


def test_a_single_label_is_certain():
    _, image = two_halves()

    assert (dense_crf(np.full((1, 8, 9), 0.3, np.float32), image) == 1).all()


@pytest.mark.parametrize("shape", [(2, 9, 8), (8, 9)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="dense_crf wants"):
        dense_crf(np.ones(shape, np.float32), two_halves()[1])


def test_views_that_are_not_contiguous_give_what_their_copies_give():
    probabilities, image = two_halves(height=10, width=12)
    turned, mirrored = probabilities.transpose(0, 2, 1)[:, ::-1], image.transpose(1, 0, 2)[::-1]

    assert np.array_equal(dense_crf(turned, mirrored), dense_crf(turned.copy(), mirrored.copy()))


@both
@pytest.mark.parametrize("labels", [1, 2, 3, 21])
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (2, 2), (5, 3)])
@pytest.mark.parametrize("colour", ["one", "many"])
def test_tiny_images_and_images_of_one_colour(labels, size, colour, using):
    random = np.random.default_rng(5)
    probabilities = random.dirichlet(np.ones(labels), size).transpose(2, 0, 1)
    image = np.full((*size, 3), 128, np.uint8) if colour == "one" else random.integers(0, 256, (*size, 3), np.uint8)

    marginals = dense_crf(probabilities, image, using=using)

    assert marginals.shape == probabilities.shape and marginals.dtype == np.float32
    assert np.isfinite(marginals).all() and marginals.min() >= 0 and marginals.max() <= 1 + 1e-6
    np.testing.assert_allclose(marginals.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 0, 5), (3, 5, 0), (0, 4, 4)])
def test_nothing_in_gives_nothing_out(shape):
    marginals = dense_crf(np.zeros(shape), np.zeros((*shape[1:], 3), np.uint8))

    assert marginals.shape == shape and marginals.size == 0


def test_the_same_call_gives_the_same_bits():
    probabilities, image = two_halves(height=40, width=50)

    assert len({dense_crf(probabilities, image).tobytes() for _ in range(3)}) == 1


def _bits(pair):
    return dense_crf(*pair).tobytes()


def test_worker_processes_get_the_bits_of_this_one():
    pairs = [two_halves(seed, 20, 30) for seed in range(4)]

    assert list(map_images(_bits, pairs, workers=2)) == [_bits(pair) for pair in pairs]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_of_a_network_that_diverged_are_refused(value):
    probabilities, image = two_halves()
    probabilities[1, 3, 4] = value

    with pytest.raises(ValueError, match="NaN or infinite"):
        dense_crf(probabilities, image)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"position_px": 0.0}, "position_px is 0.0"),
        ({"bilateral_rgb": -3.0}, "bilateral_rgb is -3.0"),
        ({"bilateral_weight": float("nan")}, "bilateral_weight is nan"),
        ({"iterations": -1}, "iterations is -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values, message):
    with pytest.raises(WssError, match=f"the dense CRF: {message}, expected a"):
        CrfSettings(**values)


def test_the_built_in_crf_is_used_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert backend() == "builtin"
    monkeypatch.setenv(VARIABLE, "builtin")
    assert backend() == "builtin"


@needs_pydensecrf
def test_the_environment_chooses_pydensecrf(monkeypatch):
    monkeypatch.setenv(VARIABLE, "pydensecrf")
    probabilities, image = two_halves()

    assert backend() == "pydensecrf"
    assert np.array_equal(dense_crf(probabilities, image), dense_crf(probabilities, image, using="pydensecrf"))


def test_an_unknown_backend_is_named_with_those_there_are(monkeypatch):
    monkeypatch.setenv(VARIABLE, "densecrf")

    with pytest.raises(WssError, match="WSS_CRF is 'densecrf': the dense CRF knows builtin, pydensecrf"):
        backend()


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    probabilities, image = two_halves()

    with pytest.raises(WssError, match="pip install pydensecrf2"):
        dense_crf(probabilities, image, using="pydensecrf")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv(VARIABLE, "pydensecrf")
    with pytest.raises(WssError, match="or unset WSS_CRF"):
        backend()


def test_the_built_in_crf_works_where_pydensecrf_is_missing_and_loads_numba_only_when_called():
    code = """
import sys
sys.modules["pydensecrf"] = None
import numpy as np
from wss_data.crf.dense_crf import dense_crf
assert "numba" not in sys.modules
dense_crf(np.full((2, 4, 4), 0.5), np.zeros((4, 4, 3), np.uint8))
print("numba" in sys.modules)
"""
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "True", done.stderr


def score_maps(truth, labels, seed):
    """What a network might say: the mask, softened as by cells of 16 px, and smooth noise that errs here and there."""
    random = np.random.default_rng(seed)
    height, width = truth.shape
    _, classes = np.unique(np.where(truth == 255, 0, truth), return_inverse=True)
    scores = np.stack([4.0 * (classes.reshape(truth.shape) % labels == label) for label in range(labels)])
    noise = random.normal(0, 1.3, (labels, height // 16 + 2, width // 16 + 2))
    for label in range(labels):
        scores[label] = cv2.GaussianBlur(scores[label], (0, 0), 8) + cv2.resize(
            noise[label], (width, height), interpolation=cv2.INTER_CUBIC
        )
    values = np.exp(scores - scores.max(axis=0))
    return values / values.sum(axis=0)


@needs_pydensecrf
@pytest.mark.data
@pytest.mark.parametrize(
    ("labels", "settings"),
    [
        (2, CrfSettings(3.0, 3.0, 25.0, 5.0, 6.0, 5)),  # the co-segmentation engine's
        (2, CrfSettings()),
        (3, CrfSettings(position_px=2.0)),
        (4, CrfSettings()),
        (21, CrfSettings()),
    ],
)
def test_real_photographs_get_the_labels_that_pydensecrf_gives(test_data, labels, settings):
    folder = test_data / "voc_animals"
    names = sorted(path.stem for path in (folder / "SegmentationClass").glob("*.png"))[::110]
    assert len(names) >= 2
    same = []
    for seed, name in enumerate(names):
        image = read_image(folder / "JPEGImages" / f"{name}.jpg")
        probabilities = score_maps(read_mask(folder / "SegmentationClass" / f"{name}.png"), labels, seed)
        ours, theirs = (dense_crf(probabilities, image, settings, using) for using in ("builtin", "pydensecrf"))
        np.testing.assert_allclose(ours, theirs, atol=0.01)
        same.append((ours.argmax(axis=0) == theirs.argmax(axis=0)).mean())
        assert (ours.argmax(axis=0) != probabilities.argmax(axis=0)).mean() > 0.001, "the CRF had nothing to do"
    assert min(same) >= 0.999
