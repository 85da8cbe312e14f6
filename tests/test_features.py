import numpy as np
import pytest
import torch
import torchvision

from wss_data.backbones.networks import load_backbone
from wss_data.backbones.vit import TransformerBackbone, TransformerShape
from wss_data.cosegmentation.features import SMALLEST_SIDE, DescriptorNetwork, resolve_device, resolve_precision
from wss_data.errors import CosegmentationError, WssError
from wss_data.imaging.images import longest_side_size

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    return DescriptorNetwork(long_side=128, precision="float32", device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights for the backbones that have none installed: name -> file."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    transformer = TransformerBackbone(TransformerShape(channels=128, depth=3, patch_px=14, grid=5, hidden=256)).network
    torch.nn.init.normal_(transformer.pos_embed)
    for name, module in (("resnet50", torchvision.models.resnet50(weights=None)), ("vit", transformer)):
        torch.save(module.state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in ("resnet50", "vit")}


def picture(seed, height=64, width=96):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [
        ((340, 255), 32, (512, 384)),
        ((340, 340), 32, (512, 512)),
        ((1000, 30), 32, (512, 64)),
        ((20, 16), 32, (512, 416)),
        # A transformer sees sides that its patch divides.
        ((340, 255), 14, (518, 378)),
        ((1000, 30), 14, (518, 70)),
        ((340, 255), 8, (512, 384)),
    ],
)
def test_the_longer_side_is_512_and_sides_are_multiples_of_a_cell_but_at_least_64(size, multiple, expected):
    assert longest_side_size(*size, 512, True, multiple, SMALLEST_SIDE) == expected


def test_one_cell_stands_for_16_pixels(network):
    features = network.describe(picture(0, height=50, width=100))

    assert features.descriptors.shape == (4, 8, 320) and features.descriptors.dtype == np.float16
    assert features.middle.shape == (4, 8, 112) and features.middle.dtype == np.float16


@pytest.mark.parametrize(
    ("backbone", "cells", "channels"),
    [
        ("efficientnet_lite1", (4, 8), (320, 112)),
        ("efficientnet_lite2", (4, 8), (352, 120)),
        ("resnet50", (4, 8), (2048, 1024)),
        ("vit", (5, 9), (128, 128)),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_backbone_gives_the_same_kinds_of_maps(backbone, cells, channels, precision, files):
    network = DescriptorNetwork(128, precision, backbone, files.get(backbone), device="cpu")

    features = network.describe(picture(0, height=50, width=100))

    assert (features.descriptors.shape, features.middle.shape) == tuple((*cells, depth) for depth in channels)
    for one in (features.descriptors, features.middle):
        assert one.dtype == np.float16 and one.flags.c_contiguous and np.isfinite(one).all()


def test_each_channel_is_normalised_by_its_own_mean_and_deviation(files):
    network = DescriptorNetwork(128, "float32", "vit", files["vit"], device="cpu")
    image = np.empty((70, 126, 3), np.uint8)
    image[:] = (124, 116, 0)

    red, green, blue = network._prepare(image)[0, :, 3, 3].tolist()

    assert red == pytest.approx((124 - 255 * 0.485) / (255 * 0.229), abs=1e-4)
    assert green == pytest.approx((116 - 255 * 0.456) / (255 * 0.224), abs=1e-4)
    assert blue == pytest.approx(-0.406 / 0.225, abs=1e-4)


def test_folding_and_memory_layout_change_no_number(network):
    image = picture(1, height=96, width=128)
    plain = load_backbone("efficientnet_lite0")
    pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.no_grad():
        expected = plain.dense(pixels)

    features = network.describe(image)

    np.testing.assert_allclose(features.descriptors, expected.last[0].permute(1, 2, 0).numpy(), atol=0.01)
    np.testing.assert_allclose(features.middle, expected.middle[0].permute(1, 2, 0).numpy(), atol=0.01)


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet50", "vit"])
def test_bf16_sees_nearly_the_same(backbone, files):
    exact, coarse = (
        DescriptorNetwork(128, precision, backbone, files.get(backbone), device="cpu").describe(picture(2))
        for precision in ("float32", "bf16")
    )

    for one, other in ((exact.descriptors, coarse.descriptors), (exact.middle, coarse.middle)):
        assert np.corrcoef(one.astype(float).ravel(), other.astype(float).ravel())[0, 1] > 0.99


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "resnet50", "vit"])
def test_a_gpu_sees_nearly_the_same_as_the_processor(backbone, files):
    there, here = (
        DescriptorNetwork(128, precision, backbone, files.get(backbone), device=device).describe(picture(2))
        for precision, device in (("auto", "auto"), ("float32", "cpu"))
    )

    assert np.corrcoef(there.descriptors.astype(float).ravel(), here.descriptors.astype(float).ravel())[0, 1] > 0.99


def test_the_device_is_the_processor_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert resolve_device("auto") == resolve_device("cpu") == "cpu"
    for device in ("cuda", "cuda:0", "gpu", ""):
        with pytest.raises(CosegmentationError, match=f"no device '{device}': torch finds no CUDA device"):
            resolve_device(device)


def test_a_gpu_is_taken_where_there_is_one_and_a_third_of_two_is_refused(monkeypatch):
    monkeypatch.setattr("wss_data.cosegmentation.features.GPU_DRIVERS", ("/dev/null",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if device == "cuda:1" else (9, 0))

    assert resolve_device("auto") == "cuda" and resolve_device("cuda:1") == "cuda:1"
    assert resolve_precision("auto", "cuda") == "bf16" and resolve_precision("auto", "cuda:1") == "float32"
    with pytest.raises(CosegmentationError, match="no device 'cuda:2': torch finds 2 CUDA devices"):
        resolve_device("cuda:2")


def test_a_backbone_that_does_not_exist_is_refused_with_the_known_ones():
    with pytest.raises(WssError, match=r"backbone is 'alexnet', expected efficientnet_lite0, .* or a network of timm"):
        DescriptorNetwork(backbone="alexnet")


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
