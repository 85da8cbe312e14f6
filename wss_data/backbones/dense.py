"""What all backbones have in common: the maps that they give, and how they are made fast. Loads torch."""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wss_data.backbones.published import IMAGENET_PIXELS


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


def make_fast(network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Fold batch norms into the convolutions before them, and let products compute in ``dtype``. Not for training.

    Layer norms and a transformer's stream from block to block stay in float32, as under autocast; but the weights are
    cast once, not for every image.
    """
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


def _in_own_dtype(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Weights that are cast need inputs of their type; timm's blocks, unlike autocast, do not see to it.
    return tuple(value.to(module.weight.dtype) for value in inputs)
