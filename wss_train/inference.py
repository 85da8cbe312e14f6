"""Class probabilities of an image, averaged over several scales.

For each scale the image is resized, the network's logits are brought to one common grid, a softmax over all classes
turns them into probabilities, and these are averaged: the mean has the same argmax as the paper's sum, and stays in
[0, 1] as the CRF wants it.

The grid is coarser than the image (``grid_size``), and only the few classes that can win are brought to the image's
size afterwards: see ``docs/explanation/inference.md`` for what that saves and changes.

Sides are rounded to whole multiples of the network's output stride, so that its grid of logits covers the image exactly
and no padding leaks in; that changes the aspect ratio by at most half a stride.

An image of more than 2 megapixels is not kept once it is resized, and what is wanted at its size is made in parts
(``window_at_image_size``): memory does not grow with the images.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wss_data.crf.dense_crf import LARGEST_WHOLE
from wss_data.errors import ImageError, RecipeError, shown
from wss_data.imaging.images import AnyImage, count_pixels, longest_side_size, pixels_of, read_image
from wss_data.reading.settings import Rule, settings
from wss_data.runtime.threads import Room, in_threads
from wss_train.data import resize_image
from wss_train.models import SegmentationModel

FINE_STRIDE = 8  # up to this output stride, in pixels, GRID_FINE is enough

# Points of the common grid along each cell of the finest scale's logits, for small and for large cells. Odd, so that
# the middle of each cell is one of them.
GRID_FINE, GRID_COARSE = 3, 5

_BUFFERED = 64_000_000  # pixels of decoded images held while images that fit into one pass are gathered: 0.2 GB

_DECODERS = 4  # threads that read and resize images

# Pixels of images that are decoded side by side: one of the largest that are read, or many small ones.
DECODED = Room(100_000_000)


@contextmanager
def decoded(path: Path | str) -> Iterator[np.ndarray]:
    """The image of a file as ``read_image`` gives it, in the block, once there is room for it beside others."""
    with DECODED.taken(count_pixels(path)):
        yield read_image(path)


@settings("inference settings", RecipeError)
class InferenceSettings:
    """How an image is looked at."""

    # Sizes relative to long_side; in the paper 0.7, 1.0 and 1.3 for masks and the final score. At most 4: memory grows
    # with the square.
    scales: Annotated[tuple[Annotated[float, Rule(gt=0, le=4)], ...], Rule(min_length=1)] = (1.0,)
    long_side: int = 500  # longer side of the image at scale 1, in pixels: what the network was trained at
    precision: str = "float32"  # float32 or bf16 for the network; the softmax always is float32
    batch: int = 1  # most images in one pass; they are of equal size once resized

    def __post_init__(self) -> None:
        if len(set(self.scales)) != len(self.scales):
            raise RecipeError(f"inference settings: scales are {self.scales}, expected each once.")


@dataclass(frozen=True)
class Predicted:
    """What the network says of one image of a list, or why it was not asked."""

    position: int  # position in the list
    # The image, upright, (H, W, 3), uint8. None if it could not be read, or has more than 2 megapixels.
    image: np.ndarray | None
    # Of all classes, on the network's device and a grid that may be coarser than the image; at_image_size brings them
    # there. Shape (C + 1, h, w), float32, sums to 1. None without an image.
    probabilities: Tensor | None
    error: ImageError | None = None  # why the image could not be read, else None
    source: AnyImage | None = None  # what an image that is not held is read from again
    size: tuple[int, int] = (0, 0)  # its (height, width) in pixels, upright

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the image in pixels; (0, 0) if it could not be read."""
        return self.size if self.image is None else (self.image.shape[0], self.image.shape[1])


def device_of(name: str | None) -> torch.device:
    """The device ``cpu``, ``cuda`` or ``cuda:N``; for ``None`` the GPU if there is one, else the processor.

    Raises:
        RecipeError: If there is no such device, or this machine lacks it.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise RecipeError(f"{shown(name)} is no device; known are cpu, cuda and cuda:N, such as cuda:0.") from error
    if device.type == "cuda" and (device.index or 0) >= count:
        has = f"{count} that PyTorch can use" if count else "none that PyTorch can use"
        raise RecipeError(f"the device {name} is a GPU, and this machine has {has}. Take another, or cpu.")
    return device


def network_size(height: int, width: int, long_side: float, stride: int) -> tuple[int, int]:
    """(height, width) in pixels at which the network sees an image of (height, width).

    >>> network_size(375, 500, long_side=340, stride=16)  # 255 x 340 in whole cells of 16
    (256, 336)

    ``long_side``: wanted longer side in pixels; smaller images are enlarged, as in training. Both sides become whole
    multiples of the network's output ``stride``.
    """
    return longest_side_size(width, height, long_side, enlarge=True, multiple=stride)[::-1]


def grid_size(height: int, width: int, cells: tuple[int, int], stride: int) -> tuple[int, int]:
    """(height, width) of the grid on which an image's scales are fused; ``cells``: those of the finest scale's logits.

    Never finer than the image. ``stride``: the network's output stride, in pixels.
    """
    points = GRID_FINE if stride <= FINE_STRIDE else GRID_COARSE
    return min(height, points * cells[0]), min(width, points * cells[1])


def at_image_size(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps on a coarser grid, (K, h, w), at the image's size, (K, H, W), by bilinear interpolation."""
    if maps.shape[1:] == (height, width):
        return maps
    return functional.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def window_at_image_size(maps: Tensor, size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    """Some rows and columns of what ``at_image_size`` gives, equal but for float rounding; ``size``: (H, W)."""
    if (rows, columns) == (slice(0, size[0]), slice(0, size[1])):
        return at_image_size(maps, *size)
    for axis, wanted in ((1, rows), (2, columns)):
        points = maps.shape[axis]
        if wanted == slice(0, size[axis - 1]):
            maps = at_image_size(maps, *((size[0], maps.shape[2]) if axis == 1 else (maps.shape[1], size[1])))
            continue
        # As interpolate has it without align_corners: the middle of a pixel, not its corner, is at half a pixel.
        places = torch.arange(wanted.start, wanted.stop, device=maps.device, dtype=torch.float64)
        places = ((places + 0.5) * (points / size[axis - 1]) - 0.5).clamp(0, points - 1)
        before = places.long()
        fraction = (places - before).to(maps.dtype)
        fraction = fraction[:, None] if axis == 1 else fraction
        after = (before + 1).clamp(max=points - 1)
        maps = torch.lerp(maps.index_select(axis, before), maps.index_select(axis, after), fraction)
    return maps


def _pyramid(image: np.ndarray, settings: InferenceSettings, stride: int) -> tuple[np.ndarray, ...]:
    """The image at each scale, as the network sees it."""
    height, width = image.shape[:2]
    sizes = (network_size(height, width, settings.long_side * scale, stride) for scale in settings.scales)
    return tuple(resize_image(image, size[::-1]) for size in sizes)


@torch.inference_mode()
def _fuse(
    model: SegmentationModel,
    pyramids: Sequence[Sequence[np.ndarray]],
    size: tuple[int, ...],
    settings: InferenceSettings,
) -> Tensor:
    """Class probabilities averaged over the scales, on the network's device: (N, C + 1, height, width), float32.

    ``pyramids``: of each image one array a scale, (H, W, 3), uint8 RGB, of the same shapes for all images; ``size``:
    (height, width) of the grid.
    """
    device = next(model.parameters()).device
    total: Tensor | None = None
    for level in zip(*pyramids, strict=True):
        pixels = torch.from_numpy(np.stack(level)).to(device).permute(0, 3, 1, 2).float()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = model(model.normalise(pixels)).pixel_logits
        logits = functional.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        # Over all classes: which of them an image may hold is asked afterwards.
        probabilities = logits.softmax(dim=1)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None, "InferenceSettings holds at least one scale"
    return total.div_(len(settings.scales))


@dataclass(frozen=True)
class _Ready:
    """An image on its way to the network, resized already, and the grid for its probabilities."""

    image: Predicted
    pyramid: tuple[np.ndarray, ...]
    grid: tuple[int, int]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """What images that share a pass have in common."""
        return (self.grid, *(level.shape for level in self.pyramid))

    @property
    def pixels(self) -> int:
        """Pixels held, of the image and of its scales."""
        held = [*self.pyramid] if self.image.image is None else [self.image.image, *self.pyramid]
        return sum(level.shape[0] * level.shape[1] for level in held)


def predict_files(
    model: SegmentationModel, images: Sequence[AnyImage], settings: InferenceSettings
) -> Iterator[Predicted]:
    """Yield the class probabilities of images; an unreadable one yields its error instead of ending the rest.

    Files are decoded and resized ahead on threads; images that are of equal size then share a pass, even if
    they were not before. The order therefore is not that of ``images``: use ``position``.
    """

    def predicted(bucket: Sequence[_Ready]) -> Iterator[Predicted]:
        maps = _fuse(model, [ready.pyramid for ready in bucket], bucket[0].grid, settings)
        for ready, probabilities in zip(bucket, maps, strict=True):
            yield replace(ready.image, probabilities=probabilities)

    read = partial(_read, settings=settings, stride=model.output_stride)
    buckets: dict[tuple[tuple[int, ...], ...], list[_Ready]] = {}
    held = 0
    for ready in in_threads(read, enumerate(images), _DECODERS, ahead=max(_DECODERS, 2 * settings.batch)):
        if isinstance(ready, Predicted):
            yield ready
            continue
        buckets.setdefault(ready.shapes, []).append(ready)
        held += ready.pixels
        full = ready.shapes if len(buckets[ready.shapes]) >= settings.batch else None
        if full is None and held > _BUFFERED:  # the fullest goes first: it wastes least of a pass
            full = max(buckets, key=lambda shapes: len(buckets[shapes]))
        if full is not None:
            bucket = buckets.pop(full)
            held -= sum(entry.pixels for entry in bucket)
            yield from predicted(bucket)
    while buckets:
        yield from predicted(buckets.popitem()[1])


def _read(numbered: tuple[int, AnyImage], settings: InferenceSettings, stride: int) -> _Ready | Predicted:
    """An image that is ready for the network, or why it is not."""
    position, source = numbered
    name = f"images[{position}]"
    try:
        count = count_pixels(source, name)
        with DECODED.taken(count):
            image = pixels_of(source, name)
            size = image.shape[0], image.shape[1]
            pyramid = _pyramid(image, settings, stride)
            kept = image if count <= LARGEST_WHOLE else None
            del image  # before the room is given back
    except ImageError as error:
        return Predicted(position, None, None, error)
    height, width = (max(level.shape[axis] for level in pyramid) // stride for axis in (0, 1))
    ready = Predicted(position, kept, None, None, source, size)
    return _Ready(ready, pyramid, grid_size(*size, (height, width), stride))
