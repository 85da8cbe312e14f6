"""S4: the ten best boxes of each exemplar, and which exemplars they speak for; and how large groups are sampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wss_data.cosegmentation.subcategories.boxes import clipped, ioa_nms
from wss_data.cosegmentation.subcategories.detect import SMALLEST_SHARE, SUPPRESSION, Detections

BOXES = 10
"""Boxes that an exemplar must find in the group, and that are kept of it. Source: Chen et al., CVPR 2014, code."""

KEPT_SHARE = 0.8
"""Share of the exemplars that are kept, those with the best mean score. Source: as above."""


@dataclass(frozen=True)
class TopBoxes:
    """The best boxes of the exemplars that are kept; by exemplar, best box first.

    Args:
        boxes: (x1, y1, x2, y2), pixels, inside the image. Shape (N, 4), float64.
        scores: Shape (N,), float64.
        images: Position in the group of each box's image. Shape (N,), int64.
        exemplars: Exemplar of each box, numbered from 0 in the order of ``kept``. Shape (N,), int64.
        kept: The kept exemplars, as they were numbered before; best mean score first. Shape (E,), int64.
        means: Their mean scores, falling. Shape (E,), float64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    exemplars: np.ndarray
    kept: np.ndarray
    means: np.ndarray


def sampled(positions: Sequence[int], most: int, seed: int = 0) -> list[int]:
    """At most so many of the positions, by lot.

    Stages S1 to S4 cost exemplars times images searched. With both taken from one such sample of a group, their cost
    does not grow with the group beyond it.

    Args:
        positions: What to draw from, in a fixed order.
        most: Largest number that is drawn.
        seed: Of the lot.

    Returns:
        All of them, or ``most`` of them, in the order given.
    """
    if len(positions) <= most:
        return list(positions)
    chosen = np.random.default_rng(seed).choice(len(positions), size=most, replace=False)
    return [positions[index] for index in sorted(chosen.tolist())]


def top_boxes(
    detections: Sequence[Detections],
    images: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    own: Sequence[int],
    boxes: int = BOXES,
    kept_share: float = KEPT_SHARE,
    nms: float = SUPPRESSION,
    smallest_share: float = SMALLEST_SHARE,
) -> TopBoxes:
    """The best boxes of each exemplar over all images searched.

    Args:
        detections: Of all exemplars on each image searched.
        images: Position in the group of each image searched.
        sizes: (width, height) of each image searched, pixels.
        own: Position in the group of each exemplar's own image, on which only its best box counts.
        boxes: Boxes that an exemplar needs, and that are kept of it.
        kept_share: Share of the exemplars with enough boxes that are kept, rounded up, in (0, 1].
        nms: Largest share of a box that a better box of the same exemplar on the same image may cover, in [0, 1].
        smallest_share: Smallest width over the image's or height over the image's, whichever is larger, of a box.

    Returns:
        The boxes; empty if no exemplar found enough.

    Raises:
        ValueError: If the lists of images are not of one length.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    if not len(detections) == len(images) == len(sizes):
        raise ValueError(f"top_boxes wants one of each per image: {len(detections)}, {len(images)}, {len(sizes)}")
    found: list[list[tuple[np.ndarray, np.ndarray, int]]] = [[] for _ in own]
    for one, image, (width, height) in zip(detections, images, sizes, strict=True):
        inside = clipped(one.boxes.astype(np.float64), width, height)
        shares = (inside[:, 2:] - inside[:, :2]) / [width, height]
        large = np.flatnonzero(shares.max(axis=1, initial=0) >= smallest_share)
        large = large[np.argsort(one.templates[large], kind="stable")]
        exemplars, firsts = np.unique(one.templates[large], return_index=True)
        for exemplar, here in zip(exemplars.tolist(), np.split(large, firsts[1:]), strict=False):
            kept_here = ioa_nms(inside[here], one.scores[here], nms) if len(here) > 1 else [0]
            left = here[kept_here][: 1 if own[exemplar] == image else boxes]
            found[exemplar].append((inside[left], one.scores[left].astype(np.float64), image))
    best = {exemplar: _best(parts, boxes) for exemplar, parts in enumerate(found)}
    enough = {exemplar: one for exemplar, one in best.items() if len(one[1]) >= boxes}
    means = {exemplar: float(scores.mean()) for exemplar, (_, scores, _) in enough.items()}
    ranked = sorted(means, key=lambda exemplar: (-means[exemplar], exemplar))
    kept = ranked[: int(np.ceil(kept_share * len(ranked) - 1e-9))]
    none = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    joined = [np.concatenate([part, *(enough[exemplar][i] for exemplar in kept)]) for i, part in enumerate(none)]
    numbers = np.repeat(np.arange(len(kept)), boxes)
    return TopBoxes(
        joined[0], joined[1], joined[2], numbers, np.array(kept, np.int64), np.array([means[e] for e in kept])
    )


def _best(parts: Sequence[tuple[np.ndarray, np.ndarray, int]], most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best boxes of one exemplar over all images, their scores and images, best first."""
    if not parts:
        return np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)
    boxes = np.concatenate([part[0] for part in parts])
    scores = np.concatenate([part[1] for part in parts])
    images = np.concatenate([np.full(len(part[1]), part[2], np.int64) for part in parts])
    order = np.argsort(-scores, kind="stable")[:most]
    return boxes[order], scores[order], images[order]
