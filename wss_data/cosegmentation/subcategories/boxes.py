"""Boxes (x1, y1, x2, y2) in pixels, x2 and y2 exclusive: overlap, suppression, mirroring."""

import numpy as np

ROUNDING = 1e-9
"""Relative slack of thresholds on areas: shifts by half a box are common, and a half is not more than a half."""


def areas(boxes: np.ndarray) -> np.ndarray:
    """Width times height of each box, px^2; 0 where a box is empty. ``boxes``: (N, 4). Shape (N,), float64."""
    sides = np.maximum(np.asarray(boxes, np.float64)[:, 2:] - np.asarray(boxes, np.float64)[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area that each box of ``a`` shares with each of ``b``, px^2.

    Args:
        a: Shape (N, 4), float.
        b: Shape (M, 4), float.

    Returns:
        Shape (N, M), float64.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    widths = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    heights = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    return np.maximum(widths, 0) * np.maximum(heights, 0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of ``a`` with each of ``b``.

    Args:
        a: Shape (N, 4), float.
        b: Shape (M, 4), float.

    Returns:
        Shape (N, M), float64, in [0, 1]; two empty boxes have 0.
    """
    shared = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def ioa_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Suppress boxes that lie in better ones.

    A box goes if a better one that is kept covers more than the threshold of the box's *own* area. A large box around
    a better small one stays, which suppression by intersection over union would not always allow.

    Args:
        boxes: Shape (N, 4), float.
        scores: Shape (N,), float; among equals the first is the better.
        threshold: Largest covered share that is left, in [0, 1].

    Returns:
        Indices of the kept boxes, best first. Shape (K,), int64.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    ordered = np.asarray(boxes, np.float64)[order]
    # Products instead of quotients: an empty box, which nothing covers, needs no case of its own.
    suppresses = intersections(ordered, ordered) > threshold * (1 + ROUNDING) * areas(ordered)[None]
    free = np.ones(len(order), bool)
    kept = []
    for rank in range(len(order)):
        if free[rank]:
            kept.append(rank)
            free &= ~suppresses[rank]
    return order[np.array(kept, dtype=np.int64)]


def clipped(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """The parts of boxes that are inside an image of ``width`` x ``height`` px. ``boxes``: (N, 4). Shape (N, 4)."""
    return np.clip(boxes, 0, [width, height, width, height])


def mirrored(boxes: np.ndarray, width: float) -> np.ndarray:
    """Where boxes lie after the image, ``width`` px wide, was flipped left to right. ``boxes``: (N, 4). Same shape."""
    boxes = np.asarray(boxes)
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
