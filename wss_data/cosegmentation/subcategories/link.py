"""S5: boxes of different exemplars that show the same thing become one detection."""

from dataclasses import dataclass

import numpy as np

from wss_data.cosegmentation.subcategories.boxes import iou


@dataclass(frozen=True)
class Linked:
    """The detections of a group and who found them.

    Args:
        boxes: Median box of each detection, (x1, y1, x2, y2), pixels. Shape (D, 4), float.
        images: Image that each detection lies on. Shape (D,), int.
        counts: C: how many boxes of each exemplar each detection joins. Shape (D, E), int.
    """

    boxes: np.ndarray
    images: np.ndarray
    counts: np.ndarray


def link(boxes: np.ndarray, images: np.ndarray, exemplars: np.ndarray, columns: int, threshold: float = 0.5) -> Linked:
    """Join boxes that overlap on an image, greedily by area.

    The largest box that is left takes all boxes that are left and overlap it by the threshold.

    Args:
        boxes: All top boxes of all exemplars, (x1, y1, x2, y2), pixels. Shape (N, 4), float.
        images: Image of each box. Shape (N,), int.
        exemplars: Exemplar that found each box, from 0. Shape (N,), int.
        columns: Number of exemplars E.
        threshold: Smallest intersection over union with the largest box, in (0, 1].

    Returns:
        The detections, by image, largest first.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    linked_boxes, linked_images, rows = [], [], []
    for image in np.unique(images):
        here = np.flatnonzero(images == image)
        sides = boxes[here, 2:] - boxes[here, :2]
        left = here[np.argsort(-sides[:, 0] * sides[:, 1], kind="stable")]
        overlaps = iou(boxes[left], boxes[left])
        free = np.ones(len(left), bool)
        for position in range(len(left)):
            if not free[position]:
                continue
            joined = free & (overlaps[position] >= threshold)
            joined[position] = True
            free &= ~joined
            linked_boxes.append(np.median(boxes[left[joined]], axis=0))
            linked_images.append(image)
            rows.append(np.bincount(exemplars[left[joined]], minlength=columns))
    if not rows:
        return Linked(np.zeros((0, 4)), np.zeros(0, int), np.zeros((0, columns), int))
    return Linked(np.array(linked_boxes), np.array(linked_images, dtype=int), np.array(rows, dtype=int))
