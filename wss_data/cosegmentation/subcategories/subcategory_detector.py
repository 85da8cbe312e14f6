"""S9: one template for a subcategory, learned from all its detections at once."""

from collections.abc import Sequence

import cv2
import numpy as np

from wss_data.cosegmentation.subcategories.exemplars import BackgroundStatistics, lda_template, template_shape
from wss_data.cosegmentation.subcategories.hog import CELL_PX, hog


def common_shape(boxes: np.ndarray) -> tuple[int, int] | None:
    """(rows, cols), cells, of the template of boxes of median width and height.

    Args:
        boxes: (x1, y1, x2, y2), pixels; at least one. Shape (N, 4), float.

    Returns:
        ``None`` if such a box is too long for a template, see ``template_shape``.
    """
    width, height = np.median(boxes[:, 2:] - boxes[:, :2], axis=0)
    return template_shape(np.array([0.0, 0.0, width, height]))


def features_at(image: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """HOG of a box, stretched to a template's shape, normalised by one cell of what surrounds it.

    Args:
        image: Shape (H, W, 3), uint8, RGB; its border is repeated outwards.
        box: (x1, y1, x2, y2), pixels. Shape (4,), float.
        shape: (rows, cols), cells.

    Returns:
        Shape (rows, cols, 31), float32.
    """
    rows, columns = shape
    height, width = image.shape[:2]
    x1, y1, x2, y2 = (float(value) for value in box)
    across, down = (x2 - x1) / columns, (y2 - y1) / rows
    left, right = round(x1 - across), max(round(x2 + across), round(x1 - across) + 1)
    top, bottom = round(y1 - down), max(round(y2 + down), round(y1 - down) + 1)
    inside = image[np.clip(np.arange(top, bottom), 0, height - 1)][:, np.clip(np.arange(left, right), 0, width - 1)]
    size = ((columns + 2) * CELL_PX, (rows + 2) * CELL_PX)
    return hog(cv2.resize(inside, size, interpolation=cv2.INTER_AREA))


def learn_detector(features: Sequence[np.ndarray], background: BackgroundStatistics) -> np.ndarray:
    """The template that tells a subcategory's mean from the background.

    A departure: the authors train a latent SVM against generic scenes, with hard negatives.

    Args:
        features: Of the subcategory's detections, at one shape; at least one. Each (rows, cols, 31), float.
        background: Mean and covariance of HOG in general.

    Returns:
        w, unit length. Shape (rows, cols, 31), float32.

    Source:
        Hariharan, Malik and Ramanan, ECCV 2012, section 4 (one template for the mean of a cluster).
    """
    return lda_template(np.mean(features, axis=0), background)
