"""What makes a mask suspicious, without a truth to compare with. For ranking and sorting, not for training."""

from dataclasses import dataclass

import cv2
import numpy as np

SMALL_PIECE = 0.01
"""Pieces below this share of the foreground are specks and are not counted."""


@dataclass(frozen=True)
class MaskQuality:
    """Four measures of one foreground mask, none of which knows the truth.

    Args:
        compactness: Share of the foreground in its convex hull, in [0, 1]: 1 is convex, a comb or scattered pieces
            are low. 0 for an empty mask.
        pieces: Number of 8-connected pieces with at least 1 % of the foreground; 0 for an empty mask. One object is
            rarely in many pieces.
        border_contact: Share of the image's border pixels that are foreground, in [0, 1]. High where the background
            was taken for the object.
        colour_contrast: How little the colours inside and outside overlap, in [0, 1]: half the L1 distance of their
            8x8x8 Lab histograms, 0 if one side is empty. Low where the mask follows no edge of colour.
    """

    compactness: float
    pieces: int
    border_contact: float
    colour_contrast: float


def mask_quality(image: np.ndarray, mask: np.ndarray) -> MaskQuality:
    """Measure one mask.

    Args:
        image: Shape (H, W, 3), uint8, RGB.
        mask: The foreground. Shape (H, W), bool.

    Returns:
        The four measures.

    Raises:
        ValueError: If image and mask differ in size.
    """
    if image.shape != (*mask.shape, 3):
        raise ValueError(f"mask_quality wants an image (H, W, 3) and its mask (H, W): {image.shape}, {mask.shape}")
    return MaskQuality(compactness(mask), pieces(mask), border_contact(mask), colour_contrast(image, mask))


def compactness(mask: np.ndarray) -> float:
    """Share of the foreground in its convex hull, in [0, 1]; 0 if empty. ``mask``: (H, W), bool."""
    area = int(mask.sum())
    if area == 0:
        return 0.0
    # OpenCV's hull area joins pixel centres and loses half a pixel on each side: draw the hull and count it instead.
    points = cv2.findNonZero(mask.astype(np.uint8))
    hull = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(points), 1)
    return area / max(int(hull.sum()), area)


def pieces(mask: np.ndarray) -> int:
    """Number of 8-connected pieces with at least 1 % of the foreground. ``mask``: (H, W), bool."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    return int((areas >= SMALL_PIECE * areas.sum()).sum()) if len(areas) else 0


def border_contact(mask: np.ndarray) -> float:
    """Share of the image's border pixels that are foreground, in [0, 1]. ``mask``: (H, W), bool."""
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1] = False
    return float(mask[border].mean())


def colour_contrast(image: np.ndarray, mask: np.ndarray, bins: int = 8) -> float:
    """Half the L1 distance between the Lab histograms inside and outside a mask.

    Args:
        image: Shape (H, W, 3), uint8, RGB.
        mask: The foreground. Shape (H, W), bool.
        bins: Bins a channel.

    Returns:
        0 where inside and outside have the same colours (or one of them is empty), 1 where they share none.
    """
    if mask.all() or not mask.any():
        return 0.0
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int64) * bins // 256
    cells = (lab[..., 0] * bins + lab[..., 1]) * bins + lab[..., 2]
    inside, outside = (np.bincount(cells[side], minlength=bins**3) / side.sum() for side in (mask, ~mask))
    return float(np.abs(inside - outside).sum() / 2)
