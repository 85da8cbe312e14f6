"""S3: find all templates on one image, in a few convolutions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wss_data.cosegmentation.subcategories.boxes import ioa_nms
from wss_data.cosegmentation.subcategories.hog import CELL_PX, Level

SUPPRESSION = 0.5  # Largest fraction of a box that a better one may cover
SMALLEST_FRACTION = 0.5  # A box counts if its width over the image's, or its height over the image's, reaches this
# Templates of shapes are sought together if the shape that holds them has at most this times the cells. Ours
GROWTH = 1.3
MOST = 10  # Boxes of one template on one image: no more than 10 of a group are ever used


class Detections(NamedTuple):
    """Boxes on one image, by template, best first."""

    # (x1, y1, x2, y2), pixels of the image; may reach beyond it where levels are padded. Shape (N, 4), float64.
    boxes: np.ndarray
    scores: np.ndarray  # w . f. Shape (N,), float32.
    templates: np.ndarray  # Which template found each. Shape (N,), int64.


NOTHING = Detections(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int64))


class _Group(NamedTuple):
    """Templates of similar shapes, each with zeros below and to the right up to a common shape."""

    weights: np.ndarray  # Shape (T, rows, cols, 31), float32.
    shapes: np.ndarray  # (rows, cols) of each without the zeros. Shape (T, 2), int.
    numbers: np.ndarray  # Which template each is. Shape (T,), int.


class TemplateBank:
    """Templates, each (rows, cols, 31), float, prepared for the search on many images."""

    def __init__(self, templates: Sequence[np.ndarray]) -> None:
        self.shapes = list({(template.shape[0], template.shape[1]) for template in templates})
        self.groups: list[_Group] = []
        # Zeros change no score, and a convolution with a few templates costs nearly as much as one with many: 60
        # exemplars of 14 shapes made 3 groups, at a quarter of the cost.
        for together in similar_shapes(self.shapes):
            numbers = [i for shape in together for i, one in enumerate(templates) if one.shape[:2] == shape]
            own = np.array([templates[number].shape[:2] for number in numbers])
            zeros = own.max(axis=0) - own
            padded = [np.pad(templates[i], ((0, z[0]), (0, z[1]), (0, 0))) for i, z in zip(numbers, zeros, strict=True)]
            self.groups.append(_Group(np.stack(padded).astype(np.float32), own, np.array(numbers)))

    def largest_scale(self, width: int, height: int) -> float:
        """The scale of an image of ``width`` x ``height`` px above which no template covers enough of it to count."""
        sides = [max(columns * CELL_PX / width, rows * CELL_PX / height) for rows, columns in self.shapes]
        return min(1.0, max(sides, default=1.0) / SMALLEST_FRACTION)


def similar_shapes(shapes: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Sort shapes, (rows, cols), into groups of similar aspect, greedily.

    The smallest shape that holds a whole group has at most ``GROWTH`` times the area of its smallest member.

    Example:
        >>> similar_shapes([(9, 12), (12, 9), (9, 13)])
        [[(12, 9)], [(9, 12), (9, 13)]]
    """
    groups: list[list[tuple[int, int]]] = []
    for shape in sorted(shapes, key=lambda shape: (shape[1] / shape[0], shape)):
        together = [*groups[-1], shape] if groups else [shape]
        held = max(rows for rows, _ in together) * max(columns for _, columns in together)
        if groups and held <= GROWTH * min(rows * columns for rows, columns in together):
            groups[-1] = together
        else:
            groups.append([shape])
    return groups


def detect(
    bank: TemplateBank,
    pyramid: Sequence[Level],
    threshold: float,
    most: int = MOST,
    smallest_fraction: float = SMALLEST_FRACTION,
) -> Detections:
    """Find templates on the pyramid of one image: at most ``most`` boxes of each, of scores from ``threshold`` on.

    Levels on which a template covers less than ``smallest_fraction`` of the image both ways are not searched.
    """
    found = [
        NOTHING,
        *(_above(level, group, threshold, smallest_fraction) for group in bank.groups for level in pyramid),
    ]
    boxes, scores, templates = (np.concatenate(values) for values in zip(*found, strict=True))
    # Suppression within each template.
    by_template = np.argsort(templates, kind="stable")
    firsts = np.unique(templates[by_template], return_index=True)[1]
    kept = [own[ioa_nms(boxes[own], scores[own], SUPPRESSION)[:most]] for own in np.split(by_template, firsts)]
    order = np.concatenate(kept)
    return Detections(boxes[order], scores[order], templates[order])


def _above(level: Level, group: _Group, threshold: float, smallest_fraction: float) -> Detections:
    """All boxes of a level on which templates of a group reach the threshold."""
    rows, columns = level.features.shape[:2]
    inner = np.maximum(np.array([rows, columns]) - 2 * level.padding, 1)
    fits = (group.shapes <= [rows, columns]).all(axis=1)
    # What would be found on the other levels is dropped by S4, and rarely suppresses what is not: 7 of 640 top boxes
    # differed, at a third of the cost.
    searched = np.flatnonzero(fits & ((group.shapes / inner).max(axis=1) >= smallest_fraction))
    if not len(searched):
        return NOTHING
    # Room below and to the right for the zeros of the smaller templates.
    room = np.array(group.weights.shape[1:3]) - group.shapes[searched].min(axis=0)
    features = np.pad(level.features, ((0, room[0]), (0, room[1]), (0, 0)))
    scores = _scores(features, group.weights[searched])
    which, y, x = np.nonzero(scores >= threshold)
    shapes = group.shapes[searched][which]
    inside = (y + shapes[:, 0] <= rows) & (x + shapes[:, 1] <= columns)
    which, y, x, shapes = which[inside], y[inside], x[inside], shapes[inside]
    width, height = level.cell
    left, top = (x - level.padding) * width, (y - level.padding) * height
    boxes = np.stack([left, top, left + shapes[:, 1] * width, top + shapes[:, 0] * height], axis=1)
    return Detections(boxes, scores[which, y, x], group.numbers[searched][which])


def _scores(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scores w . f of ``weights``, (T, rows, cols, 31), at all places of ``features``, (R, C, 31): (T, R', C')."""
    import torch

    threads = torch.get_num_threads()
    # One thread, so that no sum depends on how many processors there are.
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            # A convolution with the channels last in memory takes half the time of a matrix product with copied
            # windows. Not in bf16 (0.65 times that): then the boxes would depend on the processor.
            level = torch.from_numpy(features).permute(2, 0, 1)[None]
            kernels = torch.from_numpy(weights).permute(0, 3, 1, 2)
            return torch.nn.functional.conv2d(level, kernels)[0].contiguous().numpy()
    finally:
        torch.set_num_threads(threads)
