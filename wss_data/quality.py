"""What makes a mask suspicious, without a truth to compare with. For ranking and sorting, not for training."""

from dataclasses import dataclass

import cv2
import numpy as np

SMALL_PIECE = 0.01
"""Pieces below this share of the foreground are specks and are not counted."""


@dataclass(frozen=True)
class MaskQuality:
    """Measures of one foreground mask, none of which knows the truth.

    Pixels of an uncertain band count as neither foreground nor background.

    Args:
        compactness: Share of the foreground in its convex hull, in [0, 1]: 1 is convex, a comb or scattered pieces
            are low. 0 for an empty mask.
        pieces: Number of 8-connected pieces with at least 1 % of the foreground; 0 for an empty mask. One object is
            rarely in many pieces.
        border_contact: Share of the image's border pixels that are foreground, in [0, 1]. High where the background
            was taken for the object.
        colour_contrast: How little the colours inside and outside overlap, in [0, 1]: half the L1 distance of their
            8x8x8 Lab histograms, 0 if one side is empty. Low where the mask follows no edge of colour.
        uncertain: Share of the pixels in the uncertain band, in [0, 1]; 0 without a band.
    """

    compactness: float
    pieces: int
    border_contact: float
    colour_contrast: float
    uncertain: float = 0.0


def mask_quality(image: np.ndarray, mask: np.ndarray, uncertain: np.ndarray | None = None) -> MaskQuality:
    """Measure one mask.

    Args:
        image: Shape (H, W, 3), uint8, RGB.
        mask: The foreground. Shape (H, W), bool.
        uncertain: The band that counts as neither. Shape (H, W), bool, or ``None``.

    Returns:
        The measures.

    Raises:
        ValueError: If image, mask and band differ in size.
    """
    band = np.zeros(mask.shape, bool) if uncertain is None else uncertain
    if image.shape != (*mask.shape, 3) or band.shape != mask.shape:
        raise ValueError(
            f"mask_quality wants an image (H, W, 3) and its mask and band (H, W): {image.shape}, {mask.shape}, "
            f"{band.shape}"
        )
    mask = mask & ~band
    return MaskQuality(
        compactness(mask, band),
        pieces(mask, band),
        border_contact(mask, band),
        colour_contrast(image, mask, band),
        float(band.mean()),
    )


def compactness(mask: np.ndarray, uncertain: np.ndarray | None = None) -> float:
    """Share of the foreground in its convex hull, in [0, 1]; 0 if empty.

    Args:
        mask: The foreground. Shape (H, W), bool.
        uncertain: Pixels outside the mask that are not counted. Shape (H, W), bool.
    """
    area = int(mask.sum())
    if area == 0:
        return 0.0
    # OpenCV's hull area joins pixel centres and loses half a pixel on each side: draw the hull and count it instead.
    points = cv2.findNonZero(mask.astype(np.uint8))
    hull = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(points), 1)
    if uncertain is not None:
        hull[uncertain] = 0
    return area / max(int(hull.sum()), area)


def pieces(mask: np.ndarray, uncertain: np.ndarray | None = None) -> int:
    """Number of 8-connected pieces with at least 1 % of the foreground.

    Args:
        mask: The foreground. Shape (H, W), bool.
        uncertain: Pixels outside the mask. What hangs together through them is one piece: they may be foreground, and
            a mask is not to be suspected for what it leaves open. Shape (H, W), bool.
    """
    joined = mask if uncertain is None else mask | uncertain
    count, labels = cv2.connectedComponents(joined.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels[mask], minlength=count)
    areas = areas[areas > 0]
    return int((areas >= SMALL_PIECE * areas.sum()).sum())


def border_contact(mask: np.ndarray, uncertain: np.ndarray | None = None) -> float:
    """Share of the image's border pixels that are foreground, in [0, 1]; 0 if none is decided.

    Args:
        mask: The foreground. Shape (H, W), bool.
        uncertain: Pixels outside the mask that are not counted. Shape (H, W), bool.
    """
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1] = False
    if uncertain is not None:
        border &= ~uncertain
    return float(mask[border].mean()) if border.any() else 0.0


def colour_contrast(image: np.ndarray, mask: np.ndarray, uncertain: np.ndarray | None = None, bins: int = 8) -> float:
    """Half the L1 distance between the Lab histograms inside and outside a mask.

    Args:
        image: Shape (H, W, 3), uint8, RGB.
        mask: The foreground. Shape (H, W), bool.
        uncertain: Pixels outside the mask whose colours count on neither side. Shape (H, W), bool.
        bins: Bins a channel.

    Returns:
        0 where inside and outside have the same colours (or one of them is empty), 1 where they share none.
    """
    background = ~mask if uncertain is None else ~(mask | uncertain)
    if not background.any() or not mask.any():
        return 0.0
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int64) * bins // 256
    cells = (lab[..., 0] * bins + lab[..., 1]) * bins + lab[..., 2]
    inside, outside = (np.bincount(cells[side], minlength=bins**3) / side.sum() for side in (mask, background))
    return float(np.abs(inside - outside).sum() / 2)
