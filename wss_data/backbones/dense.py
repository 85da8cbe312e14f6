"""What all backbones have in common: the maps that they give, and how they are made fast. Loads torch."""

from abc import ABC, abstractmethod
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_DEVIATION = (58.395, 57.12, 57.375)
"""Per channel, RGB, of pixels in [0, 255]: (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225) of 255."""


class DenseMaps(NamedTuple):
    """What a backbone says of the cells of a batch.

    Args:
        last: The last stage. Shape (N, C, h, w).
        middle: A layer between parts and whole objects, on the same cells. Shape (N, M, h, w).
    """

    last: Tensor
    middle: Tensor


class DenseBackbone(nn.Module, ABC):
    """A network that describes an image cell by cell.

    Attributes:
        cell_px: Pixels of the image per cell of ``DenseMaps.last``.
        side_multiple: The sides of an image must be multiples of this.
        pixel_mean: Taken off each pixel, which is in [0, 255], per RGB channel.
        pixel_divisor: What the difference is then divided by.
    """

    cell_px: int
    side_multiple: int
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_divisor: tuple[float, float, float] = IMAGENET_DEVIATION

    @abstractmethod
    def dense(self, images: Tensor) -> DenseMaps:
        """The maps of a batch of normalised images. Shape (N, 3, H, W), float."""

    def fold_batch_norms(self) -> None:
        """Put batch norms into the convolutions before them; only for a network that is not trained any more."""


def fold(parent: nn.Module, convolution: str, norm: str) -> None:
    """Put the batch norm called ``norm`` into the convolution before it; both are children of ``parent``."""
    before, after = cast(nn.Conv2d, parent.get_submodule(convolution)), cast(nn.BatchNorm2d, parent.get_submodule(norm))
    setattr(parent, convolution, fuse_conv_bn_eval(before, after))
    setattr(parent, norm, nn.Identity())


def cast_products(network: nn.Module, dtype: torch.dtype) -> None:
    """Let convolutions and matrix products compute in ``dtype``.

    Layer norms and a transformer's stream from block to block stay in float32, as under autocast; but the weights are
    cast once, not for every image.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)
