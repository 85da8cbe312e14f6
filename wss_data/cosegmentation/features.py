"""Dense descriptors of a network that was not trained on outlines: what the engine ``common`` sees of an image.

It has the role of VGG's last convolution in Wei et al., *Deep Descriptor Transforming for Image Co-Localization*, IJCAI
2017. torch is loaded only when the network is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from wss_data.backbones import BackboneChoice
from wss_data.errors import CosegmentationError
from wss_data.imaging.images import longest_side_size
from wss_data.runtime.parallel import default_workers
from wss_data.runtime.threads import in_threads

if TYPE_CHECKING:
    from torch import Tensor

GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # one is there if a GPU is: NVIDIA's, AMD's, WSL's
SMALLEST_SIDE = 64  # panoramas keep at least this many pixels on their short side


class ImageFeatures(NamedTuple):
    """What the network says of one image. How many channels each map has, and which layer it is, is the backbone's.

    A cell is 16 px of the network's input with EfficientNet-Lite and ResNet, a patch with a transformer.
    """

    descriptors: np.ndarray  # the last stage, not normalised, (h, w, C), float16
    middle: np.ndarray  # a layer between parts and whole objects, on the same cells, (h, w, M), float16


class DescriptorNetwork:
    """The network with its weights, made ready once for many images; for what it takes see ``CommonSettings``.

    Raises:
        CosegmentationError: If precision or device have no such name, or the device is not there.
        WssError: If there is no such backbone, or its weights cannot be had.
    """

    def __init__(
        self,
        long_side: int = 512,
        precision: str = "auto",
        backbone: str = "efficientnet_lite0",
        weights: Path | str | None = None,
        device: str = "auto",
    ) -> None:
        import torch

        self.long_side = long_side
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self._dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        network = BackboneChoice(backbone, weights).load()
        # Memory channels-last, batch norms and ReLU6 folded into convolutions.
        # torch's annotations know only one of the two at a time.
        network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.make_fast(self._dtype)
        self._network = network
        levels = np.arange(256, dtype=np.float32)
        channels = [(levels - m) / d for m, d in zip(network.pixel_mean, network.pixel_divisor, strict=True)]
        self._normalised_level = np.stack(channels, axis=1)[None].astype(np.float32)

    def describe(self, image: np.ndarray) -> ImageFeatures:
        """The maps of one image, (H, W, 3) uint8 RGB."""
        import torch

        with torch.inference_mode():
            maps = self._network.dense(self._prepare(image))
            last, middle = (
                one[0].permute(1, 2, 0).to(torch.float16).contiguous().cpu().numpy() for one in (maps.last, maps.middle)
            )
        return ImageFeatures(last, middle)

    def describe_all(
        self, images: Iterable[np.ndarray], workers: int | None = None
    ) -> Iterator[tuple[np.ndarray, ImageFeatures]]:
        """Yield (image, its descriptors) in the images' order, ``workers`` at a time; ``None``: one a processor.

        Images, (H, W, 3) uint8 RGB, are taken a few ahead of the results, from the calling thread.
        """
        import torch

        def described(image: np.ndarray) -> tuple[np.ndarray, ImageFeatures]:
            # Holds for the thread that says so. The layers are too small to share out, and an image's numbers then do
            # not depend on the number of threads. A batch of four took 1.2 times as long per image: its maps leave
            # the cache.
            torch.set_num_threads(1)
            return image, self.describe(image)

        workers = workers or default_workers()
        intra_op_threads = torch.get_num_threads()
        try:
            yield from in_threads(described, images, workers, ahead=workers + 1)
        finally:
            # torch's number of threads is partly global: what comes after wants all of them.
            torch.set_num_threads(intra_op_threads)

    def _prepare(self, image: np.ndarray) -> Tensor:
        import torch

        height, width = image.shape[:2]
        size = longest_side_size(width, height, self.long_side, True, self._network.side_multiple, SMALLEST_SIDE)
        smaller = size[0] * size[1] < height * width
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
        pixels = torch.from_numpy(cv2.LUT(resized, self._normalised_level))
        # A (1, H, W, 3) block seen as (1, 3, H, W) is channels-last memory already.
        return pixels[None].permute(0, 3, 1, 2).to(self.device, self._dtype)


def resolve_device(device: str) -> str:
    """``auto`` as ``cuda`` where torch finds a GPU, else ``cpu``; ``CosegmentationError`` if it is not there."""
    # Loading torch takes seconds: only where there may be a GPU.
    if device == "cpu" or (device == "auto" and not any(Path(driver).exists() for driver in GPU_DRIVERS)):
        return "cpu"
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if there else "cpu"
    if there and device in ["cuda", *(f"cuda:{number}" for number in range(there))]:
        return device
    found = f"{there} CUDA devices" if there else "no CUDA device"
    raise CosegmentationError(f"there is no device '{device}': torch finds {found}. Known: auto, cpu, cuda, cuda:0.")


def resolve_precision(precision: str, device: str = "cpu") -> str:
    """``auto`` as ``bf16`` on a processor with AMX or AVX512-BF16 and on a GPU since Ampere, ``float32`` on all others.

    ``device`` is from ``resolve_device``. Raises ``CosegmentationError`` if the precision has no such name.
    """
    if precision == "float32" or precision == "bf16":
        return precision
    if precision != "auto":
        raise CosegmentationError(f"there is no precision '{precision}'. Known: auto, bf16, float32.")
    if device != "cpu":
        import torch

        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:
        processor = ""
    # AMD has the latter since Zen 4, Intel since Cooper Lake.
    return "bf16" if "amx_bf16" in processor or "avx512_bf16" in processor else "float32"
