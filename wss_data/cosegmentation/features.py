"""Dense descriptors of an ImageNet-classification network: what the deep engine sees of an image.

torch is loaded only when the network is.

Source:
    EfficientNet-Lite0 (Tan and Le, ICML 2019) at stride 16, in the role that VGG's last convolution has in
    Wei et al., *Deep Descriptor Transforming for Image Co-Localization*, IJCAI 2017.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from wss_data.errors import CosegmentationError
from wss_data.parallel import default_workers

if TYPE_CHECKING:
    from torch import Tensor

    from wss_data.backbones import EfficientNetLite0

DESCRIPTOR_CHANNELS = 320
"""Channels of block 15, linear, before the classification head."""

CELL_PX = 16
"""Stride of the descriptors: block 11 keeps its resolution, the blocks after it are dilated by 2."""

SIDE_MULTIPLE = 32
"""Sides are rounded to this, so that no cell hangs over the border."""

SMALLEST_SIDE = 64
"""Panoramas keep at least this many pixels on their short side."""


@dataclass(frozen=True)
class ImageFeatures:
    """What the network says of one image.

    Args:
        descriptors: Output of the last block, not normalised. Shape (h, w, 320), float16.
        activation: Sum over the classification head's channels: how much of anything the network knows is here.
            Shape (h, w), float32, non-negative.
    """

    descriptors: np.ndarray
    activation: np.ndarray


def network_size(width: int, height: int, long_side: int = 512) -> tuple[int, int]:
    """(width, height) in pixels at which the network sees an image: its longer side is ``long_side``.

    The aspect is kept up to rounding; each side is a multiple of 32 and at least 64.
    """
    scale = long_side / max(width, height)
    sides = (max(SMALLEST_SIDE, round(side * scale / SIDE_MULTIPLE) * SIDE_MULTIPLE) for side in (width, height))
    return tuple(sides)  # type: ignore[return-value]


class DescriptorNetwork:
    """The network with its weights, made ready once for many images.

    Batch norms are folded into the convolutions and memory runs channels-last: 0.61 times the time of the
    plain network in float32, 0.37 times in bf16 on a processor with AMX. Images go one by one: a batch of
    four took 1.2 times as long per image (its maps leave the cache).

    Args:
        long_side: Longer side of the network's input, pixels; smaller images are enlarged.
        precision: ``float32``, ``bf16``, or ``auto``: bf16 where the processor has AMX.

    Raises:
        CosegmentationError: If the precision has no such name.
        WssError: If the packages that hold network and weights are missing.
    """

    def __init__(self, long_side: int = 512, precision: str = "auto") -> None:
        import torch

        from wss_data.backbones import efficientnet_lite0

        self.long_side = long_side
        self.precision = resolve_precision(precision)
        self._dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        network = _fold_batch_norms(efficientnet_lite0(output_stride=CELL_PX))
        # torch's annotations know only one of the two at a time.
        self._network: EfficientNetLite0 = network.to(  # type: ignore[call-overload]
            dtype=self._dtype, memory_format=torch.channels_last
        )

    def describe(self, image: np.ndarray) -> ImageFeatures:
        """The descriptors of one image.

        Args:
            image: Shape (H, W, 3), uint8, RGB.

        Returns:
            Descriptors and activation, one cell per 16 px of the network's input.
        """
        import torch

        with torch.inference_mode():
            features = self._network(self._prepare(image))
            activation = self._network.head(features).sum(dim=1, dtype=torch.float32)[0]
            descriptors = features[0].permute(1, 2, 0).to(torch.float16)
        return ImageFeatures(descriptors.contiguous().numpy(), activation.numpy())

    def describe_all(
        self, images: Iterable[np.ndarray], workers: int | None = None
    ) -> Iterator[tuple[np.ndarray, ImageFeatures]]:
        """Yield (image, its descriptors) in the images' order.

        One thread an image: the network's layers are too small to share out, and an image's numbers then do not
        depend on the number of threads.

        Args:
            images: Each (H, W, 3), uint8, RGB; taken a few ahead of the results, from the calling thread.
            workers: Images described at a time; ``None`` for one a processor.
        """
        import torch

        workers = workers or default_workers()
        intra_op_threads = torch.get_num_threads()
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            under_way: deque[tuple[np.ndarray, Future[ImageFeatures]]] = deque()
            try:
                for image in images:
                    under_way.append((image, pool.submit(self.describe, image)))
                    if len(under_way) > workers:
                        yield _finished(under_way)
                while under_way:
                    yield _finished(under_way)
            finally:
                pool.shutdown(cancel_futures=True)
                # torch's number of threads is partly global: what comes after wants all of them.
                torch.set_num_threads(intra_op_threads)

    def _prepare(self, image: np.ndarray) -> Tensor:
        import torch

        from wss_data.backbones import PIXEL_MEAN, PIXEL_SCALE

        size = network_size(image.shape[1], image.shape[0], self.long_side)
        smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        pixels = torch.from_numpy((resized.astype(np.float32) - PIXEL_MEAN) / PIXEL_SCALE)
        # A (1, H, W, 3) block seen as (1, 3, H, W) is channels-last memory already.
        return pixels[None].permute(0, 3, 1, 2).to(self._dtype)


def _finished(under_way: deque[tuple[np.ndarray, Future[ImageFeatures]]]) -> tuple[np.ndarray, ImageFeatures]:
    image, future = under_way.popleft()
    return image, future.result()


def resolve_precision(precision: str) -> str:
    """``auto`` as what this processor is good at: ``bf16`` with AMX tiles, ``float32`` otherwise.

    Raises:
        CosegmentationError: If the precision has no such name.
    """
    if precision == "float32" or precision == "bf16":
        return precision
    if precision != "auto":
        raise CosegmentationError(f"there is no precision '{precision}'. Known: auto, bf16, float32.")
    return "bf16" if _has_amx() else "float32"


def _has_amx() -> bool:
    try:
        with open("/proc/cpuinfo") as info:
            return "amx_bf16" in info.read()
    except OSError:
        return False


def _fold_batch_norms(network: EfficientNetLite0) -> EfficientNetLite0:
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for block in network.blocks:
        for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
            if hasattr(block, convolution):
                setattr(block, convolution, fuse_conv_bn_eval(getattr(block, convolution), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
        # Nobody else looks at a convolution's output: clamped where it lies, float32 takes 0.61 instead of 0.78.
        block._swish = nn.ReLU6(inplace=True)
    for part in (network.stem, network.head):
        part[0] = fuse_conv_bn_eval(cast(nn.Conv2d, part[0]), cast(nn.BatchNorm2d, part[1]))
        part[1], part[2] = nn.Identity(), nn.ReLU6(inplace=True)
    return network
