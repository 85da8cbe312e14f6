"""Signals: numbers that say how good a network is, computed without a mask drawn by a person.

Everything here is a function of arrays. *Cells* are pixels sampled once a cell of the
network's logits, so that a look at some images costs little more than the forward pass.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

PRESENT_SHARE = 0.01
"""A class counts as predicted in an image where it covers at least this share of it: one stray cell is no object."""


def cell_centres(mask: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """A mask's values at the centres of a grid of cells laid over it.

    Args:
        mask: Label mask. Shape (H, W), uint8.
        cells: (rows, columns) of the grid; may be finer than the mask.

    Returns:
        Shape ``cells``, uint8.
    """
    rows, columns = (
        ((np.arange(count) + 0.5) * side / count).astype(np.int64)
        for count, side in zip(cells, mask.shape, strict=True)
    )
    return mask[rows][:, columns]


def class_shares(cells: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of an image that each class but background covers.

    Args:
        cells: Predicted classes, any shape, values in [0, C].
        num_classes: C + 1.

    Returns:
        Shape (C,), float64 in [0, 1].
    """
    return np.bincount(cells.ravel(), minlength=num_classes)[1:] / cells.size


def label_f1(shares: np.ndarray, labels: np.ndarray, at_least: float = PRESENT_SHARE) -> float:
    """How well the predicted masks name the classes that the images show: F1 of each class, averaged.

    F1 rather than a ranking such as average precision: a wrong patch of a class in an image that lacks it costs
    intersection over union however low its score is, and so does an object that was not found.

    Args:
        shares: Share of each image that each class covers in its predicted mask. Shape (N, C), in [0, 1].
        labels: Which classes each image shows. Shape (N, C), bool.
        at_least: Share from which a class counts as predicted, in (0, 1].

    Returns:
        Mean over the classes of 2 TP / (2 TP + FP + FN), in [0, 1]. A class that is neither shown nor predicted does
        not count; nan if that is all of them.
    """
    predicted = shares >= at_least
    hits = (predicted & labels).sum(axis=0)
    named = predicted.sum(axis=0) + labels.sum(axis=0)
    there = named > 0
    return float(np.mean(2 * hits[there] / named[there])) if there.any() else float("nan")


def label_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """How well the images are ranked for each class: average precision, averaged over the classes that are shown.

    Args:
        scores: How much of each class the network sees in each image, such as its mean probability. Shape (N, C).
        labels: Which classes each image shows. Shape (N, C), bool.

    Returns:
        In [0, 1]; images of equal score count together, so that their order is of no effect. nan if no image shows
        any class.
    """
    values = [_average_precision(scores[:, c], labels[:, c]) for c in range(labels.shape[1]) if labels[:, c].any()]
    return float(np.mean(values)) if values else float("nan")


def _average_precision(scores: np.ndarray, shown: np.ndarray) -> float:
    """Sum over the distinct scores, falling, of (recall gained there) times (precision there)."""
    order = np.argsort(-scores, kind="stable")
    falling, hits = scores[order], np.cumsum(shown[order])
    last_of_equals = np.flatnonzero(np.append(np.diff(falling) != 0, True))
    recall = hits[last_of_equals] / hits[-1]
    precision = hits[last_of_equals] / (last_of_equals + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def changed_share(before: np.ndarray, now: np.ndarray) -> float:
    """Share of the cells whose class changed, in [0, 1]. ``before`` and ``now``: predicted classes of one shape."""
    return float(np.mean(before != now))


def smoothed(values: Sequence[float] | np.ndarray, window: int = 3) -> np.ndarray:
    """Running mean, centred; at both ends over what is there. nan is left out where something else is there.

    Args:
        values: One number a look; nan where there was none.
        window: Looks that are averaged, odd.

    Returns:
        One number a look, float64. The last ``window // 2`` of them change when further looks come.
    """
    numbers, half = np.asarray(values, np.float64), window // 2
    there = ~np.isnan(numbers)
    means = np.full(len(numbers), np.nan)
    for position in range(len(numbers)):
        part = slice(max(0, position - half), position + half + 1)
        if there[part].any():
            means[position] = numbers[part][there[part]].mean()
    return means


def best_look(values: Sequence[float] | np.ndarray, window: int = 3) -> int | None:
    """Position of the look with the highest running mean, the first of equals; ``None`` if there is no number."""
    means = smoothed(values, window)
    return None if np.isnan(means).all() else int(np.nanargmax(means))


def settled_look(changes: Sequence[float] | np.ndarray, at_most: float, window: int = 3) -> int | None:
    """Position of the first look that, with those before it, changed at most this share; ``None`` if none did.

    Args:
        changes: Share that changed since the look before, one number a look, nan for the first.
        at_most: Share in [0, 1].
        window: Looks that must have passed: the mean of this one and the ``window - 1`` before it is compared.
    """
    numbers = np.asarray(changes, np.float64)
    for position in range(window - 1, len(numbers)):
        # A mean with the nan of the first look is nan, which is below nothing.
        if numbers[position - window + 1 : position + 1].mean() <= at_most:
            return position
    return None


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank.

    Args:
        one: Numbers, nan where there is none. Shape (N,).
        other: Shape (N,).

    Returns:
        In [-1, 1], over the places where both are numbers; nan for fewer than two of them, or where all of one are
        equal.
    """
    both = ~(np.isnan(one) | np.isnan(other))
    ranks = np.stack([_ranks(one[both]), _ranks(other[both])])
    deviations = ranks - ranks.mean(axis=1, keepdims=True) if both.any() else ranks
    norms = np.sqrt((deviations**2).sum(axis=1))
    return float(deviations[0] @ deviations[1] / norms.prod()) if norms.all() else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each value from 1 up; equal ones share the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]


def hash_order(ids: Sequence[str]) -> list[int]:
    """Positions of the ids in the order of their hashes: the same ids give the same order wherever they stand."""
    return sorted(range(len(ids)), key=lambda i: (hashlib.sha256(ids[i].encode()).digest(), i))
