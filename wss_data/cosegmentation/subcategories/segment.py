"""S11: cut an image by its own colours and where the group says that the object is."""

from dataclasses import dataclass

import cv2
import numpy as np

from wss_data.cosegmentation.cut import minimum_cut, neighbour_weights
from wss_data.cosegmentation.subcategories.joint_cut import border_background, clipped
from wss_data.cosegmentation.subcategories.mixture import colour_cost, fit_mixture

_TINY = 1e-3
"""Location priors stay this far from 0 and 1, so that every energy is finite."""


@dataclass(frozen=True)
class SegmentSettings:
    """The energy of the last cut and how its mask is cleaned.

    Args:
        components: Gaussians of each colour model.
        smoothness: Energy of a boundary between equal neighbours, per pixel of the image.
        location_weight: Weight of -log H against the colours.
        rounds: Most rounds of fitting and cutting.
        disk_px: Radius of the disk that closes and opens the mask, pixels of the image.
        border_share: A mask is refused if more than this share of its box's border is foreground, [0, 1].
        grid_px: Longer side of the image on the grid on which the cut runs, pixels.

    Source:
        Chen et al., CVPR 2014, public code, but for the grid and the rounds, which are ours.
    """

    components: int = 5
    smoothness: float = 50.0
    location_weight: float = 1.0
    rounds: int = 5
    disk_px: float = 3.0
    border_share: float = 0.4
    grid_px: int = 100


@dataclass(frozen=True)
class Cut:
    """A mask on the grid.

    Args:
        mask: The cleaned foreground. Shape (h, w), bool.
        soft: What colours and location say of each pixel by itself. Shape (h, w), float32, in [0, 1].
    """

    mask: np.ndarray
    soft: np.ndarray


def segment(small: np.ndarray, prior: np.ndarray, scale: float, settings: SegmentSettings | None = None) -> Cut:
    """Cut an image: colours learned from the prior, then from the last mask, until it stands still.

    Args:
        small: The image on the grid. Shape (h, w, 3), uint8.
        prior: H, the location prior on the grid. Shape (h, w), float, in [0, 1].
        scale: Pixels of the grid per pixel of the image, in (0, 1].
        settings: The energy; ``None`` for the defaults.

    Returns:
        Mask and soft map. Where one side has no pixel, the colours say nothing.

    Source:
        Chen et al., CVPR 2014, public code. Smoothness shrinks with the grid, which leaves the energy the same
        but for its scale.
    """
    settings = settings or SegmentSettings()
    inside = np.clip(prior, _TINY, 1 - _TINY).astype(np.float64)
    location = settings.location_weight * (np.log(1 - inside) - np.log(inside))
    weights = neighbour_weights(small, settings.smoothness * scale)
    mask = inside >= 0.5
    unary = location
    seen = {mask.tobytes()}
    for _ in range(settings.rounds):
        unary = location + _appearance(small, mask, settings.components)
        mask = minimum_cut(unary, weights)
        # A mask seen before stands still, or swings between two: either way nothing new will come.
        if mask.tobytes() in seen:
            break
        seen.add(mask.tobytes())
    soft = 1 / (1 + np.exp(np.clip(unary, -30, 30)))
    return Cut(cleaned(mask, max(1, round(settings.disk_px * scale))), soft.astype(np.float32))


def _appearance(small: np.ndarray, mask: np.ndarray, components: int) -> np.ndarray | float:
    if mask.all() or not mask.any():
        return 0.0
    foreground, background = (fit_mixture(small[side], components) for side in (mask, ~mask))
    return (colour_cost(foreground, small) - colour_cost(background, small)).astype(np.float64)


def cleaned(mask: np.ndarray, radius: int) -> np.ndarray:
    """Close, fill, open, and keep the largest component.

    Args:
        mask: Shape (h, w), bool.
        radius: Of the disk, pixels.

    Returns:
        Shape (h, w), bool; if opening leaves nothing, the mask as it was before.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    from scipy.ndimage import binary_fill_holes

    steps = np.arange(-radius, radius + 1)
    disk = (steps[:, None] ** 2 + steps[None] ** 2 <= radius**2).astype(np.uint8)
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disk)
    filled = binary_fill_holes(closed).astype(np.uint8)
    opened = cv2.morphologyEx(filled, cv2.MORPH_OPEN, disk)
    result = opened if opened.any() else filled
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(result, connectivity=8)
    if count <= 1:
        return result > 0
    return labels == 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))


def refused(mask: np.ndarray, box: np.ndarray, border_share: float = 0.4) -> bool:
    """Whether a mask leaks out of its box.

    Args:
        mask: Shape (h, w), bool.
        box: (x1, y1, x2, y2), pixels of the mask.
        border_share: Largest share of the box's border that may be foreground, in [0, 1].

    Returns:
        True if more of the border is foreground, or the box has no border inside the image.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    x1, y1, x2, y2 = clipped(box, mask.shape[1], mask.shape[0])
    if x2 - x1 < 2 or y2 - y1 < 2:
        return True
    return 1 - border_background(mask[y1:y2, x1:x2]) > border_share
