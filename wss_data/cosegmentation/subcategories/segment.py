"""S11: cut an image by its own colours and where the group says that the object is."""

import cv2
import numpy as np

from wss_data.cosegmentation.cut import minimum_cut, neighbour_weights
from wss_data.cosegmentation.subcategories.boxes import pixels_of
from wss_data.cosegmentation.subcategories.joint_cut import border_background
from wss_data.cosegmentation.subcategories.mixture import SMOOTHNESS, fit_sides, foreground_cost, location_cost

DISK_PX = 3.0  # Radius of the disk that closes and opens the mask, pixels of the image
BORDER_FRACTION = 0.4  # A mask is refused if more than this fraction of its box's border is foreground
# Most rounds of fitting and cutting; longer side of the grid on which the cut runs, pixels. Ours, for speed
ROUNDS, GRID_PX = 5, 100
TINY = 1e-3  # Location priors stay this far from 0 and 1, so that every energy is finite


def segment(small: np.ndarray, prior: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut an image on the grid, (h, w, 3) uint8: colours learned from the prior, then from the last mask.

    ``prior``: H on the grid, (h, w), in [0, 1]; ``scale``: pixels of the grid per pixel of the image, in (0, 1].

    Returns:
        The cleaned mask, (h, w), bool; and what colours and location say of each pixel by itself, (h, w), float32, in
        [0, 1].
    """
    location = location_cost(prior, TINY)
    # Smoothness shrinks with the grid, as in the joint cut.
    weights = neighbour_weights(small, SMOOTHNESS * scale)
    mask, unary = prior >= 0.5, location
    seen = {mask.tobytes()}
    for _ in range(ROUNDS):
        unary = location + foreground_cost(small, fit_sides(small[mask], small[~mask]))
        mask = minimum_cut(unary, weights)
        # A mask seen before stands still, or swings between two: either way nothing new will come.
        if mask.tobytes() in seen:
            break
        seen.add(mask.tobytes())
    soft = 1 / (1 + np.exp(np.clip(unary, -30, 30)))
    return cleaned(mask, max(1, round(DISK_PX * scale))), soft.astype(np.float32)


def cleaned(mask: np.ndarray, radius: int) -> np.ndarray:
    """Close a mask, (h, w) bool, by a disk of ``radius`` px, fill it, open it, and keep the largest component."""
    from scipy.ndimage import binary_fill_holes

    steps = np.arange(-radius, radius + 1)
    disk = (steps[:, None] ** 2 + steps[None] ** 2 <= radius**2).astype(np.uint8)
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disk)
    filled = binary_fill_holes(closed).astype(np.uint8)
    opened = cv2.morphologyEx(filled, cv2.MORPH_OPEN, disk)
    # A thin mask, of which opening leaves nothing, is not opened.
    result = opened if opened.any() else filled
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(result, connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    return labels == 1 + int(np.argmax(areas)) if len(areas) else np.zeros(mask.shape, bool)


def refused(mask: np.ndarray, box: np.ndarray) -> bool:
    """Whether a mask, (h, w) bool, leaks out of its box, (x1, y1, x2, y2) px, or the box lies outside the image.

    Example:
        >>> mask = np.zeros((4, 4), bool)
        >>> mask[1:3, 1:3] = True
        >>> refused(mask, np.array([0, 0, 4, 4])), refused(mask, np.array([1, 1, 3, 3]))
        (False, True)
    """
    x1, y1, x2, y2 = pixels_of(box, mask.shape[1], mask.shape[0])
    if x2 - x1 < 2 or y2 - y1 < 2:
        return True
    return 1 - border_background(mask[y1:y2, x1:x2]) > BORDER_FRACTION
