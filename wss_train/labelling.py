"""From class probabilities to label masks: eq. 2, and a dense CRF beside the network where it is wanted."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wss_data.crf import CrfSettings, dense_crf
from wss_data.errors import ImageError
from wss_data.parallel import map_images
from wss_train.inference import Predicted
from wss_train.recipes import TrainRecipe

SMALLEST_SUPPORT = 0.05
"""A class that reaches this probability nowhere in an image is left out of its CRF, whose cost grows with the classes.
An approximation: such a class hardly wins a pixel, but the CRF could have lifted it."""

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


@dataclass(frozen=True)
class _Undecided:
    """Probabilities of the few classes that can win, small enough to send to another process."""

    position: int
    image: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray


def label_images(
    predictions: Iterable[Predicted],
    allowed: Allowed | None = None,
    crf: CrfSettings | None = None,
    workers: int | None = None,
) -> Iterator[LabelledImage]:
    """Decide each pixel of each image.

    The CRF runs on worker processes while the network goes on: it holds Python's
    lock. It sees the classes that are allowed and reach 5 % somewhere, no others.

    Args:
        predictions: Probabilities, as from ``predict_files``.
        allowed: Which classes each image may show (eq. 2); ``None`` for all.
        crf: Settings of the dense CRF; ``None`` for none.
        workers: Worker processes for the CRF; ``None`` for one a processor.

    Yields:
        One entry per image, in the order of ``predictions``.
    """
    if crf is None:
        for predicted in predictions:
            yield _decide_plainly(predicted, allowed)
        return
    failed: list[LabelledImage] = []
    candidates = _candidates(predictions, allowed, failed)
    for labelled in map_images(partial(_decide_by_crf, settings=crf), candidates, workers=workers):
        yield from _drain(failed)
        yield labelled
    yield from _drain(failed)


def _drain(entries: list[LabelledImage]) -> Iterator[LabelledImage]:
    while entries:
        yield entries.pop(0)


def _decide_plainly(predicted: Predicted, allowed: Allowed | None) -> LabelledImage:
    if predicted.probabilities is None or predicted.image is None:
        return LabelledImage(predicted.position, None, predicted.error)
    maps = predicted.probabilities
    labels = torch.ones(len(maps), dtype=torch.bool)
    if allowed is not None:
        labels = torch.from_numpy(allowed(predicted.position))
    mask = label_constrained_argmax(maps, labels.to(maps.device))
    return LabelledImage(predicted.position, mask.to(torch.uint8).cpu().numpy())


def _candidates(
    predictions: Iterable[Predicted], allowed: Allowed | None, failed: list[LabelledImage]
) -> Iterator[_Undecided]:
    for predicted in predictions:
        if predicted.probabilities is None or predicted.image is None:
            failed.append(LabelledImage(predicted.position, None, predicted.error))
            continue
        maps = predicted.probabilities.cpu().numpy()
        possible = maps.max(axis=(1, 2)) >= SMALLEST_SUPPORT
        if allowed is not None:
            possible &= allowed(predicted.position)
        possible[0] = True
        classes = np.flatnonzero(possible)
        yield _Undecided(predicted.position, predicted.image, maps[classes], classes)


def _decide_by_crf(undecided: _Undecided, settings: CrfSettings) -> LabelledImage:
    marginals = dense_crf(undecided.probabilities, undecided.image, settings)
    return LabelledImage(undecided.position, undecided.classes[marginals.argmax(axis=0)].astype(np.uint8))
