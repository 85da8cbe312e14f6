"""Class probabilities of an image, averaged over several scales.

For each scale the image is resized, the network's logits are brought to one
common grid, a softmax turns them into probabilities, and these are averaged:
the mean has the same argmax as the paper's sum, and stays in [0, 1] as the CRF wants it.

Sides are rounded to whole multiples of the network's output stride, so that its
grid of logits covers the image exactly and no padding leaks in; that changes the
aspect ratio by at most half a stride.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wss_data.errors import ImageError, RecipeError
from wss_data.images import read_image
from wss_train.checkpoints import ModelCard
from wss_train.models import SegmentationModel, usable_precision

MAX_SCALE = 4.0
"""Largest scale accepted: memory grows with its square."""

_BUFFERED = 64
"""Decoded images held while images of equal size are gathered into batches."""


@dataclass(frozen=True)
class InferenceSettings:
    """How an image is looked at.

    Args:
        scales: Sizes relative to ``long_side``; in the paper 0.7, 1.0 and 1.3 for masks and the final score.
        long_side: Longer side of the image at scale 1, in pixels: what the network was trained at.
        precision: ``float32`` or ``bf16`` for the network; the softmax always is float32.
        batch: Most images of equal size in one pass.
    """

    scales: tuple[float, ...] = (1.0,)
    long_side: int = 500
    precision: str = "float32"
    batch: int = 1

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= MAX_SCALE for scale in self.scales):
            raise RecipeError(f"scales are {self.scales}, wanted one or more numbers above 0 and up to {MAX_SCALE:g}.")
        if len(set(self.scales)) != len(self.scales):
            raise RecipeError(f"scales are {self.scales}, wanted each once.")


@dataclass(frozen=True)
class Predicted:
    """What the network says of one image of a list, or why it was not asked.

    Args:
        position: Position in the list.
        image: The image, upright. Shape (H, W, 3), uint8. ``None`` if it could not be read.
        probabilities: On the device of the network. Shape (C + 1, H, W), float32, sums to 1 over the classes.
            ``None`` if the image could not be read.
        error: Why the image could not be read, else ``None``.
    """

    position: int
    image: np.ndarray | None
    probabilities: Tensor | None
    error: ImageError | None = None


def settings_for(card: ModelCard, scales: Sequence[float], device: torch.device) -> InferenceSettings:
    """How a trained model looks at images: at the size it was trained at, in its precision if the device has it."""
    precision = usable_precision(card.recipe.precision, device)
    return InferenceSettings(tuple(scales), card.recipe.long_side, precision, batch=4)


def default_device() -> torch.device:
    """The accelerator if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def network_size(height: int, width: int, long_side: float, stride: int) -> tuple[int, int]:
    """(height, width) in pixels at which the network sees an image of that size.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        long_side: Wanted longer side, in pixels; smaller images are enlarged, as in training.
        stride: Output stride of the network; both sides become whole multiples of it, at least one.
    """
    factor = long_side / max(height, width) / stride
    return max(1, round(height * factor)) * stride, max(1, round(width * factor)) * stride


def predict_probabilities(
    model: SegmentationModel, image: np.ndarray, settings: InferenceSettings | None = None
) -> np.ndarray:
    """Class probabilities of one image at its own size, averaged over the scales.

    Args:
        model: The network, in evaluation mode.
        image: Shape (H, W, 3), uint8 RGB.
        settings: Scales, size and precision.

    Returns:
        Probabilities. Shape (C + 1, H, W), float32 in [0, 1], sums to 1 over the classes.

    Source:
        Shen et al., BMVC 2017, section 3.2: scores of several scales are fused.
    """
    settings = settings or InferenceSettings()
    return batch_probabilities(model, [image], settings)[0].cpu().numpy()


@torch.inference_mode()
def batch_probabilities(model: SegmentationModel, images: Sequence[np.ndarray], settings: InferenceSettings) -> Tensor:
    """Class probabilities of images of one size, averaged over the scales.

    Args:
        model: The network, in evaluation mode.
        images: Each (H, W, 3), uint8 RGB, all of the same shape.
        settings: Scales, size and precision.

    Returns:
        Probabilities on the network's device. Shape (N, C + 1, H, W), float32.
    """
    height, width = images[0].shape[:2]
    device = next(model.parameters()).device
    total: Tensor | None = None
    for scale in settings.scales:
        size = network_size(height, width, settings.long_side * scale, model.output_stride)
        stacked = np.stack([_resize(image, size) for image in images])
        pixels = torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).float()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = model(model.normalise(pixels)).pixel_logits
        logits = functional.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)
        probabilities = logits.softmax(dim=1)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None, "InferenceSettings holds at least one scale"
    return total.div_(len(settings.scales))


def predict_files(
    model: SegmentationModel, paths: Sequence[Path | str], settings: InferenceSettings
) -> Iterator[Predicted]:
    """Class probabilities of image files.

    Files are decoded ahead on threads; images of equal size share a pass. The
    order therefore is not that of ``paths``: use ``position``.

    Args:
        model: The network, in evaluation mode.
        paths: Image files.
        settings: Scales, size, precision and batch.

    Yields:
        One entry per file; an unreadable file yields its error instead of ending the rest.
    """
    buckets: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for position, image in _decode_ahead(paths, ahead=max(4, 2 * settings.batch)):
        if isinstance(image, ImageError):
            yield Predicted(position, None, None, image)
            continue
        bucket = buckets.setdefault(image.shape, [])
        bucket.append((position, image))
        if len(bucket) >= settings.batch:
            yield from _predict_bucket(model, buckets.pop(image.shape), settings)
        elif sum(map(len, buckets.values())) > _BUFFERED:
            fullest = max(buckets, key=lambda shape: len(buckets[shape]))
            yield from _predict_bucket(model, buckets.pop(fullest), settings)
    for bucket in buckets.values():
        yield from _predict_bucket(model, bucket, settings)


def _predict_bucket(
    model: SegmentationModel, bucket: list[tuple[int, np.ndarray]], settings: InferenceSettings
) -> Iterator[Predicted]:
    batch = batch_probabilities(model, [image for _, image in bucket], settings)
    for (position, image), probabilities in zip(bucket, batch, strict=True):
        yield Predicted(position, image, probabilities)


def _decode_ahead(paths: Sequence[Path | str], ahead: int) -> Iterator[tuple[int, np.ndarray | ImageError]]:
    """Yield (position, image or its error), reading a few files ahead of the one that is asked for."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting = enumerate(paths)
        running: list[tuple[int, Future]] = []
        try:
            while True:
                missing = ahead - len(running)
                running += [(position, pool.submit(_read, path)) for position, path in islice(waiting, missing)]
                if not running:
                    return
                position, future = running.pop(0)
                yield position, future.result()
        finally:
            for _, future in running:
                future.cancel()


def _read(path: Path | str) -> np.ndarray | ImageError:
    try:
        return read_image(path)
    except ImageError as error:
        return error


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at ``size`` = (height, width) pixels; averages when it shrinks, so that nothing aliases."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
