"""S3: find all templates on one image, in a few convolutions.

Templates of similar shapes are the kernels of one convolution. Boxes of one shape on one image are the same for all its
templates, so that suppression too runs for all of them at once.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from wss_data.cosegmentation.subcategories.boxes import ROUNDING
from wss_data.cosegmentation.subcategories.exemplars import THRESHOLD
from wss_data.cosegmentation.subcategories.hog import CHANNELS, Level, largest_useful_scale

SUPPRESSION = 0.5
"""Largest share of a box that a better one may cover. Source: Chen et al., CVPR 2014, public code."""

SMALLEST_SHARE = 0.5
"""A box counts if its width over the image's, or its height over the image's, reaches this. Source: as above (S4)."""

GROWTH = 1.3
"""Templates of different shapes are sought together if the shape that holds them has at most this times the cells."""

MOST = 10
"""Boxes of one template on one image: no more than 10 of a group are ever used. Source: as above (S4)."""


@dataclass(frozen=True)
class Detections:
    """Boxes on one image, by template, best first.

    Args:
        boxes: (x1, y1, x2, y2), pixels of the image; may reach beyond it where levels are padded. Shape (N, 4),
            float64.
        scores: w . f. Shape (N,), float32.
        templates: Which template found each. Shape (N,), int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    templates: np.ndarray


@dataclass(frozen=True)
class _Group:
    """Templates of similar shapes, each with zeros below and to the right up to a common one.

    Args:
        weights: Shape (T, rows, cols, 31), float32.
        members: Which templates, by shape: each (rows, cols), first in the group, one past the last, numbers.
    """

    weights: np.ndarray
    members: list[tuple[tuple[int, int], int, int, np.ndarray]]


class TemplateBank:
    """Templates made ready to be sought on many images.

    Templates of similar shapes are brought to one shape by zeros, which changes no score: a convolution with a few
    templates costs nearly as much as one with many. 60 exemplars of 14 shapes made 3 groups, at a quarter of the cost.

    Args:
        templates: Each (rows, cols, 31), float; shapes may differ.
    """

    def __init__(self, templates: Sequence[np.ndarray]) -> None:
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, template in enumerate(templates):
            by_shape[template.shape[0], template.shape[1]].append(index)
        self.count = len(templates)
        self.groups: list[_Group] = []
        for shapes in similar_shapes(list(by_shape)):
            common = tuple(max(shape[axis] for shape in shapes) for axis in (0, 1))
            weights = np.zeros((sum(len(by_shape[shape]) for shape in shapes), *common, CHANNELS), np.float32)
            members, first = [], 0
            for shape in shapes:
                last = first + len(by_shape[shape])
                weights[first:last, : shape[0], : shape[1]] = [templates[index] for index in by_shape[shape]]
                members.append((shape, first, last, np.array(by_shape[shape])))
                first = last
            self.groups.append(_Group(weights, members))

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(rows, cols) of all templates, each once."""
        return [shape for group in self.groups for shape, _, _, _ in group.members]

    def largest_scale(self, width: int, height: int, smallest_share: float = SMALLEST_SHARE) -> float:
        """The scale from which a pyramid is worth building; see ``largest_useful_scale``."""
        return largest_useful_scale(width, height, self.shapes, smallest_share)


def similar_shapes(shapes: Sequence[tuple[int, int]], growth: float = GROWTH) -> list[list[tuple[int, int]]]:
    """Sort shapes into groups of similar aspect.

    Args:
        shapes: (rows, cols), different ones.
        growth: Largest area of the smallest shape that holds a whole group, in areas of its smallest member.

    Returns:
        The groups, greedily by aspect.
    """
    groups: list[list[tuple[int, int]]] = []
    for shape in sorted(shapes, key=lambda shape: (shape[1] / shape[0], shape)):
        together = [*groups[-1], shape] if groups else [shape]
        held = max(rows for rows, _ in together) * max(columns for _, columns in together)
        if groups and held <= growth * min(rows * columns for rows, columns in together):
            groups[-1] = together
        else:
            groups.append([shape])
    return groups


def detect(
    templates: Sequence[np.ndarray] | TemplateBank,
    pyramid: Sequence[Level],
    threshold: float = THRESHOLD,
    nms: float = SUPPRESSION,
    most: int = MOST,
    smallest_share: float = SMALLEST_SHARE,
) -> Detections:
    """Find templates on one image.

    Args:
        templates: The templates, or a bank of them: quicker for many images.
        pyramid: Of the image.
        threshold: Smallest score.
        nms: Largest share of a box that a better box of the same template may cover, in [0, 1].
        most: Boxes of one template on the image.
        smallest_share: Levels on which a template covers less of the image both ways are not searched; what would be
            found there is dropped by S4, and rarely suppresses what is not (7 of 640 top boxes differed, at a third of
            the cost). 0 searches all.

    Returns:
        The boxes that are left, by template, best first.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    bank = templates if isinstance(templates, TemplateBank) else TemplateBank(templates)
    parts = [_empty()]
    with _one_thread():
        for group in bank.groups:
            found = [_above(level, group, threshold, smallest_share) for level in pyramid]
            for index, (_, _, _, numbers) in enumerate(group.members):
                here = [by_shape[index] for by_shape in found if index in by_shape]
                if here:
                    boxes = np.concatenate([one[0] for one in here])
                    scores = np.concatenate([one[1] for one in here], axis=1)
                    which, places, best = _suppressed(boxes, scores, threshold, nms, most)
                    parts.append(Detections(boxes[places], best, numbers[which]))
    joined = Detections(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "templates"))
    )
    order = np.argsort(joined.templates, kind="stable")
    return Detections(joined.boxes[order], joined.scores[order], joined.templates[order])


def _empty() -> Detections:
    return Detections(np.zeros((0, 4)), np.zeros(0, np.float32), np.zeros(0, np.int64))


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for PyTorch in the block, so that no sum depends on how many processors there are."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _worth_searching(level: Level, shape: tuple[int, int], smallest_share: float) -> bool:
    """Whether a template of a shape fits on a level, and covers enough of the image there."""
    rows, columns = level.features.shape[:2]
    if shape[0] > rows or shape[1] > columns:
        return False
    inner = max(rows - 2 * level.padding, 1), max(columns - 2 * level.padding, 1)
    return max(shape[0] / inner[0], shape[1] / inner[1]) >= smallest_share


def _above(
    level: Level, group: _Group, threshold: float, smallest_share: float
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Where templates of a group fire on a level.

    Returns:
        By place in ``group.members``, for shapes that fire at all: boxes (P, 4) where any of its templates does, and
        scores (T, P) of all of them there.
    """
    shapes = [shape for shape, _, _, _ in group.members]
    searched = [index for index, shape in enumerate(shapes) if _worth_searching(level, shape, smallest_share)]
    if not searched:
        return {}
    rows, columns = level.features.shape[:2]
    least = [min(shapes[index][axis] for index in searched) for axis in (0, 1)]
    room = np.zeros(
        (rows + group.weights.shape[1] - least[0], columns + group.weights.shape[2] - least[1], CHANNELS), np.float32
    )
    room[:rows, :columns] = level.features
    first, last = group.members[searched[0]][1], group.members[searched[-1]][2]
    scores = _scores(room, group.weights[first:last])
    fires = {}
    for index in searched:
        shape, start, end, _ = group.members[index]
        own = scores[start - first : end - first, : rows - shape[0] + 1, : columns - shape[1] + 1]
        y, x = np.nonzero(own.max(axis=0) >= threshold)
        if len(y):
            fires[index] = _boxes(level, shape, y, x), own[:, y, x]
    return fires


def _scores(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scores w . f of templates of one shape at all places of a level.

    A convolution with the channels last in memory: half the time of a matrix product with copied windows. bf16 would
    take 0.65 times its time where the processor has AMX, but then the boxes would depend on the processor.

    Args:
        features: Shape (R, C, 31), float32.
        weights: Shape (T, rows, cols, 31), float32.

    Returns:
        Shape (T, R - rows + 1, C - cols + 1), float32.
    """
    import torch

    with torch.inference_mode():
        level = torch.from_numpy(features).permute(2, 0, 1)[None]
        kernels = torch.from_numpy(weights).permute(0, 3, 1, 2)
        return torch.nn.functional.conv2d(level, kernels)[0].contiguous().numpy()


def _boxes(level: Level, shape: tuple[int, int], y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The boxes of windows of a shape that begin at cells (y, x) of a level, pixels of the image. Shape (P, 4)."""
    width, height = level.cell
    left, top = (x - level.padding) * width, (y - level.padding) * height
    return np.stack([left, top, left + shape[1] * width, top + shape[0] * height], axis=1)


def _suppressed(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, nms: float, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``ioa_nms`` for many templates with the same boxes, one kept box of each at a time.

    Args:
        boxes: Shape (P, 4), float.
        scores: Shape (T, P), float; changed.
        threshold: Smallest score.
        nms: As ``ioa_nms``.
        most: Boxes of one template.

    Returns:
        Template, box and score of what is kept, by template, best first. Each (K,).
    """
    left = scores
    left[left < threshold] = -np.inf
    alive = np.arange(left.shape[0])
    x1, y1, x2, y2 = boxes.T
    limit = nms * (1 + ROUNDING) * (x2 - x1) * (y2 - y1)
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for _ in range(most):
        places = left.argmax(axis=1)
        best = left[np.arange(len(left)), places]
        fires = best > -np.inf
        if not fires.any():
            break
        left, alive, places, best = left[fires], alive[fires], places[fires], best[fires]
        kept.append((alive, places, best))
        widths = np.minimum(x2[places][:, None], x2) - np.maximum(x1[places][:, None], x1)
        heights = np.minimum(y2[places][:, None], y2) - np.maximum(y1[places][:, None], y1)
        left[np.maximum(widths, 0) * np.maximum(heights, 0) > limit] = -np.inf
        left[np.arange(len(left)), places] = -np.inf
    if not kept:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    which, places, best = (np.concatenate([part[i] for part in kept]) for i in range(3))
    order = np.argsort(which, kind="stable")
    return which[order], places[order], best[order].astype(np.float32)
