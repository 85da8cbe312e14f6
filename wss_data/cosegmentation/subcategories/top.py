"""S4: the ten best boxes of each exemplar over all images; and how large groups are sampled."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wss_data.cosegmentation.subcategories.boxes import ioa_nms
from wss_data.cosegmentation.subcategories.detect import SMALLEST_FRACTION, SUPPRESSION, Detections

KEPT_FRACTION = 0.8  # Fraction of the exemplars that are kept, those with the best mean score


class TopBoxes(NamedTuple):
    """The best boxes of the exemplars that are kept; by exemplar, best box first."""

    boxes: np.ndarray  # (x1, y1, x2, y2), pixels, inside the image. Shape (N, 4), float64.
    images: np.ndarray  # Image of each box. Shape (N,), int64.
    exemplars: np.ndarray  # Exemplar of each box, numbered from 0 in the order of ``kept``. Shape (N,), int64.
    kept: np.ndarray  # The kept exemplars, as they were numbered before; best mean score first. Shape (E,), int64.


def sampled(positions: Sequence[int], most: int, seed: int = 0) -> list[int]:
    """At most ``most`` of the positions, drawn at random by ``seed``, in the order given.

    Example:
        >>> sampled([3, 5, 7], 10)
        [3, 5, 7]
    """
    if len(positions) <= most:
        return list(positions)
    chosen = np.random.default_rng(seed).choice(len(positions), size=most, replace=False)
    return [positions[index] for index in sorted(chosen.tolist())]


def top_boxes(
    detections: Sequence[Detections], sizes: Sequence[tuple[int, int]], own: Sequence[int], count: int
) -> TopBoxes:
    """The ``count`` best boxes of each exemplar, which needs so many, over all images searched.

    ``sizes``: (width, height) of each image, pixels; ``own``: the image that each exemplar comes from, on which only
    its best box counts.
    """
    found: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in own]
    for image, (one, (width, height)) in enumerate(zip(detections, sizes, strict=True)):
        inside = np.clip(one.boxes.astype(np.float64), 0, [width, height, width, height])
        fractions = (inside[:, 2:] - inside[:, :2]) / [width, height]
        large = np.flatnonzero(fractions.max(axis=1, initial=0) >= SMALLEST_FRACTION)
        # Detections come by template: each template's are side by side.
        exemplars, firsts = np.unique(one.templates[large], return_index=True)
        for exemplar, here in zip(exemplars.tolist(), np.split(large, firsts[1:]), strict=False):
            kept_here = ioa_nms(inside[here], one.scores[here], SUPPRESSION) if len(here) > 1 else [0]
            left = here[kept_here][: 1 if own[exemplar] == image else count]
            found[exemplar].append((inside[left], one.scores[left].astype(np.float64), np.full(len(left), image)))
    best = {}
    for exemplar, parts in enumerate(found):
        if sum(len(part[1]) for part in parts) >= count:
            boxes, scores, images = (np.concatenate(values) for values in zip(*parts, strict=True))
            order = np.argsort(-scores, kind="stable")[:count]
            best[exemplar] = boxes[order], float(scores[order].mean()), images[order]
    ranked = sorted(best, key=lambda exemplar: (-best[exemplar][1], exemplar))
    # The slack of 1e-9 keeps rounding of the product from keeping one more.
    kept = ranked[: int(np.ceil(KEPT_FRACTION * len(ranked) - 1e-9))]
    return TopBoxes(
        np.concatenate([np.zeros((0, 4)), *(best[exemplar][0] for exemplar in kept)]),
        np.concatenate([np.zeros(0, np.int64), *(best[exemplar][2] for exemplar in kept)]),
        np.repeat(np.arange(len(kept)), count),
        np.array(kept, np.int64),
    )
