"""S10: what the group knows of a subcategory's shape, laid over an image where the subcategory was found."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wss_data.cosegmentation.subcategories.boxes import areas, intersections
from wss_data.cosegmentation.subcategories.joint_cut import clipped


@dataclass(frozen=True)
class Pick:
    """A detection that was kept on an image.

    Args:
        position: Its place among the image's detections.
        count: How many detections it stands for, itself counted.
    """

    position: int
    count: int


def pick_detections(
    boxes: np.ndarray, scores: np.ndarray, threshold: float = 0.5, count_share: float = 0.7
) -> list[Pick]:
    """Suppress detections that lie in better ones, and keep those that many agree on.

    By score, each box that is left takes all that are left and lie in it by more than the threshold. Kept are boxes
    that stand for at least 0.7 times as many as the one that stands for most, and for more than themselves; if
    there is none, the best box.

    Args:
        boxes: Detections of all subcategories, (x1, y1, x2, y2), pixels. Shape (N, 4), float.
        scores: Shape (N,), float.
        threshold: Largest intersection over own area that is left, in [0, 1].
        count_share: Share of the largest count that a kept box needs, in [0, 1].

    Returns:
        The kept boxes, best first; empty only if there are no detections.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    if not len(boxes):
        return []
    order = np.argsort(-scores, kind="stable")
    inside = intersections(boxes, boxes) > threshold * areas(boxes)[None]
    np.fill_diagonal(inside, True)
    free = np.ones(len(boxes), bool)
    picks = []
    for position in order:
        if not free[position]:
            continue
        taken = free & inside[position]
        free &= ~taken
        picks.append(Pick(int(position), int(taken.sum())))
    most = max(pick.count for pick in picks)
    kept = [pick for pick in picks if pick.count >= count_share * most and pick.count > 1]
    return kept or picks[:1]


def subcategory_average(masks: Sequence[np.ndarray], largest_share: float = 0.8) -> np.ndarray | None:
    """Mean of the average masks of a subcategory's exemplars, their vertical centres of mass brought together.

    Args:
        masks: From ``joint_cut``. Each (S, S), float, in [0, 1].
        largest_share: A mask with a larger mean says nothing of a shape and is left out, in [0, 1].

    Returns:
        Shape (S, S), float32, in [0, 1]; ``None`` if no mask is usable.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    usable = [mask for mask in masks if 0 < mask.mean() <= largest_share]
    if not usable:
        return None
    side = usable[0].shape[0]
    centres = [float(mask.sum(axis=1) @ np.arange(side) / mask.sum()) for mask in usable]
    middle = float(np.mean(centres))
    return np.mean(
        [_shifted(mask, round(middle - centre)) for mask, centre in zip(usable, centres, strict=True)], axis=0
    ).astype(np.float32)


def _shifted(mask: np.ndarray, down: int) -> np.ndarray:
    """The mask moved ``down`` rows (up if negative); the rows that come free repeat the one at the edge."""
    rows = np.clip(np.arange(len(mask)) - down, 0, len(mask) - 1)
    return mask[rows]


def location_prior(average: np.ndarray, box: np.ndarray, size: tuple[int, int], mirrored: bool = False) -> np.ndarray:
    """The average mask in its box, its smallest value outside.

    Args:
        average: From ``subcategory_average``. Shape (S, S), float, in [0, 1].
        box: (x1, y1, x2, y2), pixels; may reach beyond the image.
        size: (width, height) of the image, pixels.
        mirrored: Whether the mirrored template found the box.

    Returns:
        H, how likely each pixel is foreground. Shape (height, width), float32, in [0, 1].

    Source:
        Chen et al., CVPR 2014, public code.
    """
    width, height = size
    prior = np.full((height, width), float(average.min()), np.float32)
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    left, top, right, bottom = clipped(box, width, height)
    if right <= left or bottom <= top:
        return prior
    source = np.ascontiguousarray(average[:, ::-1] if mirrored else average, dtype=np.float32)
    whole = cv2.resize(source, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    prior[top:bottom, left:right] = whole[top - y1 : bottom - y1, left - x1 : right - x1]
    return prior


def centred_prior(box: np.ndarray, size: tuple[int, int], spread: float = 0.45) -> np.ndarray:
    """A soft blob in a box, for images where no average mask is to be had.

    Args:
        box: (x1, y1, x2, y2), pixels.
        size: (width, height) of the image, pixels.
        spread: Standard deviation of the Gaussian in half sides of the box.

    Returns:
        Shape (height, width), float32, in (0, 1].
    """
    width, height = size
    x1, y1, x2, y2 = (float(value) for value in box)
    across = (np.arange(width) + 0.5 - (x1 + x2) / 2) / max(spread * (x2 - x1) / 2, 0.5)
    down = (np.arange(height) + 0.5 - (y1 + y2) / 2) / max(spread * (y2 - y1) / 2, 0.5)
    return np.exp(-0.5 * (down[:, None] ** 2 + across[None] ** 2)).astype(np.float32)


def normalised(prior: np.ndarray, peak: float = 0.95, floor: float = 0.02) -> np.ndarray:
    """Stretch a location prior so that its largest value is ``peak`` and none is below ``floor``.

    Args:
        prior: Shape (H, W), float, >= 0.
        peak: Largest value afterwards, in (0, 1).
        floor: Smallest value afterwards, in (0, peak).

    Returns:
        Shape (H, W), float32; a prior of zeros becomes the floor.

    Source:
        Our own; it was worth 0.06 J in a prototype.
    """
    largest = float(prior.max())
    stretched = prior * (peak / largest) if largest > 0 else prior
    return np.clip(stretched, floor, peak).astype(np.float32)


def mix_priors(priors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Join location priors by the weighted sum of their log-odds.

    Args:
        priors: Each (H, W), float, inside (0, 1).
        weights: One for each.

    Returns:
        Shape (H, W), float32, in (0, 1).
    """
    odds = sum(
        weight * (np.log(prior) - np.log1p(-prior))
        for prior, weight in zip((np.clip(p, 1e-4, 1 - 1e-4) for p in priors), weights, strict=True)
    )
    return (1 / (1 + np.exp(-np.asarray(odds)))).astype(np.float32)
