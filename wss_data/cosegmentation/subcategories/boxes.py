"""Boxes (x1, y1, x2, y2) in pixels, x2 and y2 exclusive: overlap and suppression. All computed in float64."""

from collections.abc import Iterator

import numpy as np

# Relative slack of thresholds on areas: shifts by half a box are common, and a half is not more than a half
ROUNDING = 1e-9


def areas(boxes: np.ndarray) -> np.ndarray:
    """Width times height of each box, px^2; 0 where a box is empty. ``boxes``: (N, 4). Shape (N,)."""
    sides = np.maximum(np.asarray(boxes, np.float64)[:, 2:] - np.asarray(boxes, np.float64)[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area that each box of ``a``, (N, 4), shares with each of ``b``, (M, 4), px^2. Shape (N, M)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.maximum(sides, 0).prod(axis=2)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of ``a``, (N, 4), with each of ``b``, (M, 4): (N, M), in [0, 1].

    Example:
        >>> iou(np.array([[0, 0, 2, 2]]), np.array([[0, 1, 2, 3], [5, 5, 6, 6]])).round(2).tolist()
        [[0.33, 0.0]]
    """
    shared = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None] - shared
    # Two empty boxes have 0, not nan.
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def greedy_groups(takes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Group items greedily: the first free item takes itself and all free items that it can take.

    Args:
        takes: Whether item i can take item j; the items are in order of preference. Shape (N, N), bool.

    Yields:
        The item that took, and all that it took, itself included, ascending.

    Example:
        >>> chain = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
        >>> [(first, taken.tolist()) for first, taken in greedy_groups(chain)]  # item 1 is taken: it takes nothing
        [(0, [0, 1]), (2, [2])]
    """
    free = np.ones(len(takes), bool)
    for first in range(len(takes)):
        if free[first]:
            taken = free & takes[first]
            taken[first] = True
            free &= ~taken
            yield first, np.flatnonzero(taken)


def ioa_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Suppress a box, (4,), if a better one that is kept covers more than the threshold of the box's *own* area.

    A large box around a better small one stays, which suppression by intersection over union would not always allow.

    Returns:
        Indices of the kept boxes, best first, of equal scores the first. Shape (K,), int64.

    Example:
        >>> small, large = [4, 4, 6, 6], [0, 0, 10, 10]
        >>> ioa_nms(np.array([small, large]), np.array([2.0, 1.0])).tolist()
        [0, 1]
        >>> ioa_nms(np.array([small, large]), np.array([1.0, 2.0])).tolist()
        [1]
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    ordered = np.asarray(boxes, np.float64)[order]
    # Products instead of quotients: an empty box, which nothing covers, needs no case of its own.
    suppresses = intersections(ordered, ordered) > threshold * (1 + ROUNDING) * areas(ordered)[None]
    return order[np.array([rank for rank, _ in greedy_groups(suppresses)], dtype=np.int64)]


def pixels_of(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """(x1, y1, x2, y2) of a box, (4,), in whole pixels inside an image of ``width`` x ``height`` px."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    return max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
