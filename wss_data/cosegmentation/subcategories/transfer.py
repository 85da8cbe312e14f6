"""S10: what the group knows of a subcategory's shape, laid over an image where the subcategory was found."""

from collections.abc import Sequence

import cv2
import numpy as np

from wss_data.cosegmentation.subcategories.boxes import areas, greedy_groups, intersections, pixels_of
from wss_data.cosegmentation.subcategories.detect import SUPPRESSION

COUNT_FRACTION = 0.7  # Fraction of the largest count that a kept detection needs
LARGEST_AVERAGE = 0.8  # An average mask with more foreground than this fraction says nothing of a shape
FALLBACK_SPREAD = 0.45  # Standard deviation of the centred prior, half sides of the box. Ours


def pick_detections(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Suppress detections that lie in better ones, and keep those that many agree on.

    By score, each free box takes all free boxes that lie in it. Kept are boxes that took more than themselves and
    at least ``COUNT_FRACTION`` times as many as the box that took most; if there is none, the best box.

    Returns:
        Positions of the kept boxes, best first; empty only if there are no detections.

    Example:
        >>> boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [1, 1, 9, 9]])
        >>> pick_detections(boxes, np.array([2.0, 3.0, 1.0]))  # the best box stands for itself alone
        [0]
    """
    if not len(boxes):
        return []
    order = np.argsort(-scores, kind="stable")
    ordered = boxes[order]
    inside = intersections(ordered, ordered) > SUPPRESSION * areas(ordered)[None]
    picks = [(int(order[first]), len(taken)) for first, taken in greedy_groups(inside)]
    most = max(count for _, count in picks)
    kept = [position for position, count in picks if count >= COUNT_FRACTION * most and count > 1]
    return kept or [picks[0][0]]


def subcategory_average(masks: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Mean of masks of ``joint_cut``, (S, S), their vertical centres of mass brought together: (S, S), float32.

    ``None`` if none is usable.
    """
    usable = [mask for mask in masks if mask is not None and 0 < mask.mean() <= LARGEST_AVERAGE]
    if not usable:
        return None
    side = usable[0].shape[0]
    centres = [float(mask.sum(axis=1) @ np.arange(side) / mask.sum()) for mask in usable]
    # Rows that become free by the shift repeat the one at the edge.
    rows = [np.clip(np.arange(side) - round(float(np.mean(centres)) - centre), 0, side - 1) for centre in centres]
    return np.mean([mask[row] for mask, row in zip(usable, rows, strict=True)], axis=0).astype(np.float32)


def location_prior(average: np.ndarray, box: np.ndarray, size: tuple[int, int], mirrored: bool = False) -> np.ndarray:
    """H, how likely each pixel is foreground: the average mask in its box, its smallest value outside.

    ``box``, (x1, y1, x2, y2) px, may reach beyond the image of ``size`` (width, height) px; ``mirrored``: whether the
    mirrored template found it. Shape (height, width), float32, in [0, 1].
    """
    width, height = size
    prior = np.full((height, width), float(average.min()), np.float32)
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    left, top, right, bottom = pixels_of(box, width, height)
    if right <= left or bottom <= top:
        return prior
    source = np.ascontiguousarray(average[:, ::-1] if mirrored else average, dtype=np.float32)
    whole = cv2.resize(source, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
    prior[top:bottom, left:right] = whole[top - y1 : bottom - y1, left - x1 : right - x1]
    return prior


def centred_prior(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A Gaussian in a box, in place of ``location_prior`` where there is no average mask."""
    width, height = size
    x1, y1, x2, y2 = box.tolist()
    across = (np.arange(width) + 0.5 - (x1 + x2) / 2) / max(FALLBACK_SPREAD * (x2 - x1) / 2, 0.5)
    down = (np.arange(height) + 0.5 - (y1 + y2) / 2) / max(FALLBACK_SPREAD * (y2 - y1) / 2, 0.5)
    return np.exp(-0.5 * (down[:, None] ** 2 + across[None] ** 2)).astype(np.float32)
