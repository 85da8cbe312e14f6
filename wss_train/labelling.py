"""From class probabilities to label masks: eq. 2, and a dense CRF beside the network where it is wanted."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from wss_data.crf.dense_crf import (
    LARGEST_WHOLE,
    TILE_PIXELS,
    CrfSettings,
    backend,
    dense_crf,
    sharpened_tiles,
)
from wss_data.errors import ImageError
from wss_data.imaging.images import read_image, strips
from wss_data.runtime.parallel import default_workers, map_images
from wss_data.runtime.threads import Room, in_threads
from wss_train.inference import DECODED, Predicted, at_image_size, window_at_image_size
from wss_train.recipes import TrainRecipe

SMALLEST_SUPPORT = 0.05
"""A class that reaches this probability nowhere in an image is left out of its CRF, whose cost grows with the classes.
An approximation: such a class hardly wins a pixel, but the CRF could have lifted it."""

_SHARPENED = Room(1_500_000_000)
"""Bytes that the CRFs of several images take together, in threads; one that needs more runs alone."""

_STRIP = 250_000
"""Pixels of a large image that are decided at a time: their scores stay in the processor's cache."""

_BYTES, _BYTES_A_LABEL = 400, 32
"""What a CRF takes a pixel, as measured with 2 and 21 labels."""

Allowed = Callable[[int], np.ndarray]
"""Position of an image -> which classes it may show. Shape (C + 1,), bool; background always is."""


def label_constrained_argmax(scores: Tensor, labels: Tensor) -> Tensor:
    """Pick the best-scoring class at each pixel among the classes the image is known to show.

    Background (class 0) is always allowed: an image-level label says what is
    present, never that it fills the frame.

    Absent classes are excluded rather than multiplied by zero. The two agree
    for probabilities, but a zero would outrank a negative logit.

    Args:
        scores: Class scores, logits or probabilities. Shape (C, H, W), float.
        labels: Which classes the image shows; entry 0 is ignored. Shape (C,), bool.

    Returns:
        Class index per pixel. Shape (H, W), int64, values in [0, C).

    Raises:
        ValueError: If ``labels`` does not have one entry per class.

    Source:
        Shen et al., BMVC 2017, eq. (2).
    """
    num_classes = scores.shape[0]
    if labels.shape != (num_classes,):
        raise ValueError(
            f"labels must have one entry per class: scores has {num_classes} classes, "
            f"labels has shape {tuple(labels.shape)}"
        )
    allowed = labels.clone()
    allowed[0] = True
    return scores.masked_fill(~allowed[:, None, None], float("-inf")).argmax(dim=0)


def chosen_crf(crf: bool | CrfSettings, recipe: TrainRecipe) -> CrfSettings | None:
    """The CRF that was asked for: settings as given, the recipe's for ``True``, none for ``False``."""
    if isinstance(crf, CrfSettings):
        return crf
    return recipe.crf_settings if crf else None


@dataclass(frozen=True)
class LabelledImage:
    """The label mask of one image of a list, or why there is none.

    Args:
        position: Position in the list.
        mask: Shape (H, W), uint8; ``None`` if the image could not be read.
        error: Why not, else ``None``.
    """

    position: int
    mask: np.ndarray | None
    error: ImageError | None = None


def pixels_of(result: LabelledImage) -> int:
    """Pixels of its mask; 0 without one."""
    return 0 if result.mask is None else result.mask.size


@dataclass(frozen=True)
class _Undecided:
    """Probabilities of the few classes that can win, still on the coarse grid: little to send to another process.

    They may have one plane more than there are classes: the strongest of all others at each point, which cannot win.
    """

    predicted: Predicted
    probabilities: np.ndarray
    classes: np.ndarray


def candidate_classes(maps: Tensor, allowed: np.ndarray | None, support: float) -> np.ndarray:
    """Classes that are allowed and reach a probability somewhere; background always is among them.

    Args:
        maps: Class probabilities. Shape (C + 1, h, w), float.
        allowed: Which classes the image may show; ``None`` for all. Shape (C + 1,), bool.
        support: The probability to reach, in [0, 1].

    Returns:
        Their indices, rising. Shape (K,), int64, 1 <= K <= C + 1.
    """
    possible = (maps.amax(dim=(1, 2)) >= support).cpu().numpy()
    if allowed is not None:
        possible &= allowed
    possible[0] = True
    return np.flatnonzero(possible)


def label_images(
    predictions: Iterable[Predicted],
    allowed: Allowed | None = None,
    crf: CrfSettings | None = None,
    workers: int | None = None,
) -> Iterator[LabelledImage]:
    """Decide each pixel of each image.

    Only classes that can win are brought from the grid of the probabilities to the image's size. The CRF sees those
    that are allowed and reach 5 % somewhere, and the strongest of the others as one label, which cannot win: without
    it, pixels in which the network sees an absent class would go to the present ones before the CRF has weighed them.
    It runs beside the network: the built-in one in threads, pydensecrf, which holds Python's lock, in processes.

    Args:
        predictions: Probabilities, as from ``predict_files``.
        allowed: Which classes each image may show (eq. 2); ``None`` for all.
        crf: Settings of the dense CRF; ``None`` for none.
        workers: Threads or processes for the CRF; ``None`` for one a processor.

    Yields:
        One entry per image, in the order of ``predictions``.
    """
    if crf is None:
        for predicted in predictions:
            yield _decide_plainly(predicted, allowed)
        return
    candidates = (_candidates(predicted, allowed) for predicted in predictions)
    decide = partial(_decide_by_crf, settings=crf)
    count = workers or default_workers()
    if count > 1 and backend() == "builtin":
        yield from in_threads(decide, candidates, count, 2 * count, _pixels)
    else:
        yield from map_images(decide, candidates, workers=count)


def _pixels(candidate: _Undecided | LabelledImage) -> int:
    return 0 if isinstance(candidate, LabelledImage) else math.prod(candidate.predicted.shape)


def _decide_plainly(predicted: Predicted, allowed: Allowed | None) -> LabelledImage:
    if predicted.probabilities is None:
        return LabelledImage(predicted.position, None, predicted.error)
    maps = predicted.probabilities
    if allowed is None:
        # The best of K probabilities that sum to one is at least 1 / K, and interpolation never exceeds the peak.
        classes = candidate_classes(maps, None, 0.999 / len(maps))
    else:
        classes = candidate_classes(maps, allowed(predicted.position), 0.0)
    indices = torch.from_numpy(classes).to(maps.device)
    few, height, width = maps[indices], *predicted.shape
    if height * width <= LARGEST_WHOLE:
        mask = indices.to(torch.uint8)[at_image_size(few, height, width).argmax(dim=0)]
        return LabelledImage(predicted.position, mask.cpu().numpy())
    whole = np.empty((height, width), np.uint8)
    for rows, columns in strips(height, width, _STRIP):
        part = window_at_image_size(few, (height, width), rows, columns)
        whole[rows, columns] = indices.to(torch.uint8)[part.argmax(dim=0)].cpu().numpy()
    return LabelledImage(predicted.position, whole)


def _candidates(predicted: Predicted, allowed: Allowed | None) -> _Undecided | LabelledImage:
    if predicted.probabilities is None:
        return LabelledImage(predicted.position, None, predicted.error)
    maps, position = predicted.probabilities, predicted.position
    classes = candidate_classes(maps, allowed(position) if allowed is not None else None, SMALLEST_SUPPORT)
    few = maps[torch.from_numpy(classes).to(maps.device)]
    absent = np.setdiff1d(np.arange(len(maps)), classes)
    if len(absent):
        others = maps[torch.from_numpy(absent).to(maps.device)].amax(dim=0, keepdim=True)
        if float(others.max()) >= SMALLEST_SUPPORT:
            few = torch.cat([few, others])
    # Of the network's maps nothing goes on but these.
    return _Undecided(replace(predicted, probabilities=None), few.cpu().numpy(), classes)


def _decide_by_crf(candidate: _Undecided | LabelledImage, settings: CrfSettings) -> LabelledImage:
    if isinstance(candidate, LabelledImage):
        return candidate
    predicted, maps, count = candidate.predicted, candidate.probabilities, len(candidate.classes)
    height, width = predicted.shape
    winners = np.empty((height, width), np.uint8)
    with _SHARPENED.taken(min(height * width, TILE_PIXELS) * (_BYTES + _BYTES_A_LABEL * len(maps))):
        image = predicted.image
        if image is None:
            assert predicted.path is not None, "an image that is not held has its file"
            try:
                with DECODED.taken(height * width):
                    image = read_image(predicted.path)
            except ImageError as error:
                return LabelledImage(predicted.position, None, error)
        if height * width <= LARGEST_WHOLE:
            # The same interpolation as ``at_image_size``.
            whole = np.stack([cv2.resize(plane, (width, height)) for plane in maps])
            winners[:] = dense_crf(whole, image, settings)[:count].argmax(axis=0)
        else:
            coarse = torch.from_numpy(maps)

            def of_part(rows: slice, columns: slice) -> np.ndarray:
                return window_at_image_size(coarse, (height, width), rows, columns).numpy()

            for tile, marginals in sharpened_tiles(of_part, image, settings):
                winners[tile.rows, tile.columns] = marginals[:count].argmax(axis=0)
    return LabelledImage(predicted.position, candidate.classes.astype(np.uint8)[winners])
