"""What all backbones have in common: the maps that they give, and how they are made fast. Loads torch and timm."""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wss_data.backbones.depthwise import leave_training
from wss_data.backbones.lean import load_timm
from wss_data.backbones.published import IMAGENET_PIXELS

timm = load_timm()


class DenseMaps(NamedTuple):
    """What a backbone says of the cells of a batch."""

    last: Tensor  # The last stage. Shape (N, C, h, w).
    middle: Tensor  # A layer between parts and whole objects, on the same cells. Shape (N, M, h, w).


class DenseBackbone(nn.Module, ABC):
    """A network that describes an image cell by cell."""

    cell_px: int  # Pixels of the image per cell of ``DenseMaps.last``.
    side_multiple: int  # The sides of an image must be multiples of this.
    pixel_mean: tuple[float, ...] = IMAGENET_PIXELS[
        0
    ]  # Subtracted from each pixel, which is in [0, 255], per RGB channel.
    pixel_divisor: tuple[float, ...] = IMAGENET_PIXELS[1]  # What the difference is then divided by.

    @abstractmethod
    def dense(self, images: Tensor) -> DenseMaps:
        """The maps of a batch of normalised images. Shape (N, 3, H, W), float."""

    def make_fast(self, dtype: torch.dtype) -> None:
        """Let products compute in ``dtype``, and save what else can be saved. Not for training."""
        make_fast(self, dtype)


class Parts(nn.Sequential):
    """Modules that run one after the other; the features after ``middle`` of them are the middle ones."""

    middle: int = 0

    def dense(self, features: Tensor) -> DenseMaps:
        """The last features and the middle ones. ``features``: (N, C, h, w)."""
        for part in list(self)[: self.middle]:
            features = part(features)
        middle = features
        for part in list(self)[self.middle :]:
            features = part(features)
        return DenseMaps(features, middle)


class FusedConvolution(nn.Module):
    """A convolution and the ReLU6 after it, if any, as one product of oneDNN. Not for training.

    Weights are not laid out ahead: where the layout was not that of the maps' size, layers took twenty times as long.
    """

    def __init__(self, convolution: nn.Conv2d, clips: bool) -> None:
        super().__init__()
        # timm's pads by itself, as much as the image's size asks for.
        self._pads = isinstance(convolution, timm.layers.Conv2dSame)
        self._window = list(convolution.kernel_size), list(convolution.stride), list(convolution.dilation)
        self._where = ((0, 0) if self._pads else convolution.padding, *self._window[1:], convolution.groups)
        self._then = ("hardtanh", [0.0, 6.0], "") if clips else ("none", [], "")
        self.weight = nn.Parameter(convolution.weight.detach(), requires_grad=False)
        self.bias = None if convolution.bias is None else nn.Parameter(convolution.bias.detach(), requires_grad=False)

    def forward(self, features: Tensor) -> Tensor:
        """``features``: (N, C, h, w) -> (N, C', h', w'), in the weights' type."""
        features = features.to(self.weight.dtype)
        if self._pads:
            features = timm.layers.padding.pad_same(features, *self._window)
        product = torch.ops.mkldnn._convolution_pointwise
        return product(features, self.weight, self.bias, *self._where, *self._then)


class WholeNumberReLU6(nn.Module):
    """ReLU6 of bfloat16, in place, as integers of 16 bits: the same values, in a sixth of the time. Not for training.

    Numbers that are not negative are in the order of their bits, and negative ones are negative as integers, too.
    """

    _SIX = 0x40C0  # the bits of 6 in bfloat16

    def forward(self, features: Tensor) -> Tensor:
        """``features``: of any shape; those of another type than bfloat16 are clipped as they are."""
        if features.dtype != torch.bfloat16:
            return nn.functional.relu6(features, inplace=True)
        features.view(torch.int16).clamp_(0, self._SIX)
        return features


def clip_whole_numbers(network: nn.Module) -> None:
    """Let a network that computes in bfloat16 take its ReLU6 faster, with the same values. Not for training."""
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.ReLU6) and module.inplace:
                setattr(parent, name, WholeNumberReLU6())


def _can_fuse(convolution: nn.Conv2d) -> bool:
    """Whether oneDNN is there and takes it: on a processor, with zeros around the image."""
    return (
        convolution.weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        # What torch's own compiler calls; it is no public name.
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and (convolution.weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and type(convolution) in (nn.Conv2d, timm.layers.Conv2dSame)
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    )


def make_fast(network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Fold batch norms into the convolutions before them, and let products compute in ``dtype``. Not for training.

    Layer norms and a transformer's stream from block to block stay in float32, as under autocast; but the weights are
    cast once, not for every image. On a processor the ReLU6 after a convolution becomes part of it:
    the network must be there already.
    """
    leave_training(network)
    for parent in list(network.modules()):
        for (before, convolution), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(convolution, norm))
                # timm's norms hold the activation that follows them.
                setattr(parent, name, getattr(norm, "act", nn.Identity()))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
            module.register_forward_pre_hook(_in_own_dtype)
    for parent in list(network.modules()):
        for (name, module), (following, after) in pairwise([*parent.named_children(), ("", nn.Identity())]):
            if isinstance(module, nn.Conv2d) and _can_fuse(module):
                clips = isinstance(after, nn.ReLU6)
                setattr(parent, name, FusedConvolution(module, clips))
                if clips:
                    setattr(parent, following, nn.Identity())


def _in_own_dtype(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Weights that are cast need inputs of their type; timm's blocks, unlike autocast, do not see to it.
    return tuple(value.to(module.weight.dtype) for value in inputs)
