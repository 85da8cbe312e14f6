import numpy as np
import pytest
import torch

from wss_data.backbones import efficientnet_lite0
from wss_data.cosegmentation.features import DescriptorNetwork, network_size, resolve_precision
from wss_data.errors import CosegmentationError


@pytest.fixture(scope="module")
def network():
    return DescriptorNetwork(long_side=128, precision="float32")


def picture(seed, height=64, width=96):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((340, 255), (512, 384)), ((340, 340), (512, 512)), ((1000, 30), (512, 64)), ((20, 16), (512, 416))],
)
def test_the_longer_side_is_512_and_sides_are_multiples_of_32_but_at_least_64(size, expected):
    assert network_size(*size) == expected


def test_one_cell_stands_for_16_pixels(network):
    features = network.describe(picture(0, height=50, width=100))

    assert features.descriptors.shape == (4, 8, 320) and features.descriptors.dtype == np.float16
    assert features.activation.shape == (4, 8) and features.activation.dtype == np.float32
    assert (features.activation >= 0).all()


def test_folding_and_memory_layout_change_no_number(network):
    image = picture(1, height=96, width=128)
    plain = efficientnet_lite0(output_stride=16)
    pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.no_grad():
        expected = plain(pixels)
        activation = plain.head(expected).sum(dim=1)[0]

    features = network.describe(image)

    np.testing.assert_allclose(features.descriptors, expected[0].permute(1, 2, 0).numpy(), atol=0.01)
    np.testing.assert_allclose(features.activation, activation.numpy(), rtol=1e-3)


def test_bf16_sees_nearly_the_same(network):
    image = picture(2)
    exact = network.describe(image).descriptors.astype(float).ravel()
    coarse = DescriptorNetwork(long_side=128, precision="bf16").describe(image).descriptors.astype(float).ravel()

    assert np.corrcoef(exact, coarse)[0, 1] > 0.99


def test_the_number_of_threads_changes_no_bit_and_is_given_back(network):
    images = [picture(seed) for seed in range(5)]
    before = torch.get_num_threads()

    one, three = (list(network.describe_all(images, workers)) for workers in (1, 3))

    assert all(np.array_equal(a, b) for (a, _), b in zip(one, images, strict=True))
    assert all(np.array_equal(a.descriptors, b.descriptors) for (_, a), (_, b) in zip(one, three, strict=True))
    assert torch.get_num_threads() == before


def test_images_are_taken_only_a_few_ahead(network):
    taken = []

    def images():
        for seed in range(10):
            taken.append(seed)
            yield picture(seed)

    results = network.describe_all(images(), workers=2)
    next(results)

    assert len(taken) == 3
    results.close()


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(CosegmentationError, match="auto, bf16, float32"):
        resolve_precision("float64")
    assert resolve_precision("auto") in ("bf16", "float32")
