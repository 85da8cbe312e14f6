"""S8: cut an exemplar's boxes together; the average of the masks is what its objects look like."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from wss_data.cosegmentation.cut import minimum_cut, neighbour_weights
from wss_data.cosegmentation.subcategories.boxes import pixels_of
from wss_data.cosegmentation.subcategories.mixture import SMOOTHNESS, fit_sides, foreground_cost, location_cost

# An image is bad if less of its box's border is background, or its foreground has fewer pixels of the image
BORDER_FRACTION, LEAST_PX = 0.8, 50
MOVING_FRACTION = 0.1  # The rounds end when fewer than this fraction of the images still change
AVERAGE_PX = 200  # Side of the average mask, pixels
STILL_FRACTION = 0.01  # A mask has converged if at most this fraction of its pixels changed. Ours
# Most rounds of fitting and cutting; longer side of the grid on which a box is cut, pixels. Ours, for speed
ROUNDS, GRID_PX = 6, 48
# Pixels around a box that teach the background's colours; up to twice as many are taken. Ours, for speed
OUTSIDE_PX = 2000
TINY = 1e-2  # Location priors stay this far from 0 and 1: no pixel is forbidden by the others' masks alone


class Window(NamedTuple):
    """What the joint cut sees of one image."""

    inside: np.ndarray  # The box, shrunk to the grid. Shape (h, w, 3), uint8.
    outside: np.ndarray  # Colours around the box. Shape (n, 3), uint8; n may be 0.
    scale: float  # Pixels of the grid per pixel of the image, in (0, 1].


def cut_window(image: np.ndarray, box: np.ndarray) -> Window | None:
    """What the joint cut sees of a box in an image; ``None`` if less than 3 pixels a side lie in the image."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = pixels_of(box, width, height)
    if x2 - x1 < 3 or y2 - y1 < 3:
        return None
    scale = min(1.0, GRID_PX / max(x2 - x1, y2 - y1))
    size = (max(3, round((x2 - x1) * scale)), max(3, round((y2 - y1) * scale)))
    around = np.ones((height, width), bool)
    around[y1:y2, x1:x2] = False
    outside = image[around]
    step = max(1, len(outside) // OUTSIDE_PX)
    return Window(cv2.resize(image[y1:y2, x1:x2], size, interpolation=cv2.INTER_AREA), outside[::step], scale)


def border_background(mask: np.ndarray) -> float:
    """Fraction of the outermost ring that is background, in [0, 1]. ``mask``: (h, w), bool, both at least 2.

    Example:
        >>> border_background(np.array([[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], bool))  # 1 of 10 is foreground
        0.9
    """
    ring = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return float(1 - ring.mean())


def joint_cut(windows: Sequence[Window]) -> np.ndarray | None:
    """Cut all boxes of an exemplar, each with its own colours and those of all, and average the masks.

    All pixels outside the boxes are background. A round fits the colours to the last masks (the first: the whole box
    is foreground) and cuts each image anew; an image that was bad gets the average of the good ones as a location.

    Returns:
        Mean of the masks that are good and have converged, each stretched to a square: in which fraction of the images
        a place of the box is foreground. Shape (AVERAGE_PX, AVERAGE_PX), float32, in [0, 1]; ``None`` if none is good.

    Source:
        Chen et al., CVPR 2014, section 3.2 and public code.
    """
    masks = [np.ones(window.inside.shape[:2], bool) for window in windows]
    # Theirs runs at the image's size. The smoothness shrinks with the grid, so that the energy differs by a scale only.
    smoothness = [neighbour_weights(window.inside, SMOOTHNESS * window.scale) for window in windows]
    usable = np.zeros(len(windows), bool)
    average: np.ndarray | None = None
    for _ in range(ROUNDS if windows else 0):
        good, moving = np.zeros(len(windows), bool), np.zeros(len(windows), bool)
        new = []
        # The colours of foreground and background, those around the box among these.
        sides = [(w.inside[m], np.concatenate([w.inside[~m], w.outside])) for w, m in zip(windows, masks, strict=True)]
        pooled = fit_sides(*(_thinned(np.concatenate(side)) for side in zip(*sides, strict=True)))
        for position, (window, mask) in enumerate(zip(windows, masks, strict=True)):
            unary = np.zeros(mask.shape)
            for models in (fit_sides(*sides[position]), pooled):
                unary += foreground_cost(window.inside, models)
            if average is not None and not usable[position]:
                unary += location_cost(cv2.resize(average, mask.shape[::-1], interpolation=cv2.INTER_AREA), TINY)
            # Background all around, 4-connected: foreground at the box's edge pays for the boundary there.
            across, down = smoothness[position][:2]
            unary[:, 0] += across[:, 0]
            unary[:, -1] += across[:, -2]
            unary[0] += down[0]
            unary[-1] += down[-2]
            fresh = minimum_cut(unary, [across, down, np.zeros_like(across), np.zeros_like(down)])
            moving[position] = (fresh != mask).mean() > STILL_FRACTION
            good[position] = border_background(fresh) >= BORDER_FRACTION and fresh.sum() >= LEAST_PX * window.scale**2
            new.append(fresh)
        masks, usable = new, good & ~moving
        chosen = np.flatnonzero(usable if usable.any() else good)
        if len(chosen):
            squares = [cv2.resize(masks[i].astype(np.float32), (AVERAGE_PX, AVERAGE_PX)) for i in chosen]
            average = np.stack(squares).mean(axis=0)
        if moving.mean() < MOVING_FRACTION:
            break
    return average


def _thinned(colours: np.ndarray) -> np.ndarray:
    # As many colours as one image has determine five Gaussians as well as ten times so many.
    return colours[:: max(1, len(colours) // (2 * OUTSIDE_PX))]
