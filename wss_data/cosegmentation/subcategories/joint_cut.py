"""S8: cut an exemplar's boxes together; the average of the masks is what its objects look like."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wss_data.cosegmentation.cut import minimum_cut, neighbour_weights
from wss_data.cosegmentation.subcategories.mixture import Mixture, colour_cost, fit_mixture

_TINY = 1e-2
"""Location priors stay this far from 0 and 1: no pixel is forbidden by the others' masks alone."""


@dataclass(frozen=True)
class JointCutSettings:
    """The energy of the joint cut and when it ends.

    Args:
        components: Gaussians of each colour model.
        smoothness: Energy of a boundary between equal neighbours, per pixel of the image.
        rounds: Most rounds of fitting and cutting.
        border_share: An image is bad if less than this share of its box's border is background, [0, 1].
        least_px: An image is bad if its foreground has fewer pixels.
        still_share: A mask stands still if at most this share of its pixels changed, [0, 1].
        moving_share: The rounds end when fewer than this share of the images still move, [0, 1].
        grid_px: Longer side of a box on the grid on which the cut runs, pixels.
        outside_px: Pixels around the box that teach the background's colours, at most.
        average_px: Side of the average mask, pixels.

    Source:
        Chen et al., CVPR 2014, public code, but for the grid, the rounds and the standing still, which are ours.
    """

    components: int = 5
    smoothness: float = 50.0
    rounds: int = 6
    border_share: float = 0.8
    least_px: int = 50
    still_share: float = 0.01
    moving_share: float = 0.1
    grid_px: int = 48
    outside_px: int = 2000
    average_px: int = 200


@dataclass(frozen=True)
class Window:
    """What the joint cut sees of one image.

    Args:
        inside: The box, shrunk to the grid. Shape (h, w, 3), uint8.
        outside: Colours around the box. Shape (n, 3), uint8; n may be 0.
        scale: Pixels of the grid per pixel of the image, in (0, 1].
    """

    inside: np.ndarray
    outside: np.ndarray
    scale: float


def cut_window(image: np.ndarray, box: np.ndarray, grid_px: int = 48, outside_px: int = 2000) -> Window | None:
    """Take from an image what the joint cut needs of it.

    Args:
        image: Shape (H, W, 3), uint8.
        box: (x1, y1, x2, y2), pixels; what lies outside the image is left out.
        grid_px: Longer side of the box on the grid, pixels; a smaller box keeps its size.
        outside_px: Colours taken from outside the box, evenly spread, at most.

    Returns:
        The window, or ``None`` if less than 3 pixels a side lie in the image.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = clipped(box, width, height)
    if x2 - x1 < 3 or y2 - y1 < 3:
        return None
    scale = min(1.0, grid_px / max(x2 - x1, y2 - y1))
    size = (max(3, round((x2 - x1) * scale)), max(3, round((y2 - y1) * scale)))
    around = np.ones((height, width), bool)
    around[y1:y2, x1:x2] = False
    outside = image[around]
    step = max(1, len(outside) // outside_px)
    return Window(cv2.resize(image[y1:y2, x1:x2], size, interpolation=cv2.INTER_AREA), outside[::step], scale)


def clipped(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """The box, (x1, y1, x2, y2), in whole pixels inside an image of ``width`` x ``height``."""
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    return max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)


def border_background(mask: np.ndarray) -> float:
    """Share of the outermost ring that is background, in [0, 1]. ``mask``: (h, w), bool, both at least 2."""
    ring = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return float(1 - ring.mean())


def joint_cut(windows: Sequence[Window], settings: JointCutSettings | None = None) -> np.ndarray | None:
    """Cut all boxes of an exemplar, each with its own colours and those of all, and average the masks.

    All pixels outside the boxes are background. A round fits the colours to the last masks (the first: the whole box
    is foreground) and cuts each image anew; an image that was bad gets the average of the good ones as a location.

    Args:
        windows: The exemplar's boxes; at least one.
        settings: The energy and when it ends; ``None`` for the defaults.

    Returns:
        Mean of the masks that are good and stand still, each stretched to a square: share of the images
        in which a place of the box is foreground. Shape (average_px, average_px), float32, in [0, 1]; ``None`` if no
        image is good.

    Source:
        Chen et al., CVPR 2014, section 3.2 and public code. Theirs runs at the image's size; here the grid is smaller
        and the smoothness smaller by the same factor, which leaves the energy the same but for its scale.
    """
    settings = settings or JointCutSettings()
    masks = [np.ones(window.inside.shape[:2], bool) for window in windows]
    pairwise = [_four_connected(window, settings.smoothness) for window in windows]
    usable = np.zeros(len(windows), bool)
    average: np.ndarray | None = None
    for _ in range(settings.rounds):
        pools = [_pooled(windows, masks, side, settings) for side in (True, False)]
        good, moving = np.zeros(len(windows), bool), np.zeros(len(windows), bool)
        new = []
        for position, (window, mask) in enumerate(zip(windows, masks, strict=True)):
            unary = _appearance(window, mask, pools, settings)
            if average is not None and not usable[position]:
                unary += _location(average, mask.shape)
            fresh = _cut_box(unary, pairwise[position])
            moving[position] = (fresh != mask).mean() > settings.still_share
            least = settings.least_px * window.scale**2
            good[position] = border_background(fresh) >= settings.border_share and fresh.sum() >= least
            new.append(fresh)
        masks, usable = new, good & ~moving
        chosen = usable if usable.any() else good
        if chosen.any():
            average = _average([mask for mask, take in zip(masks, chosen, strict=True) if take], settings.average_px)
        if moving.mean() < settings.moving_share:
            break
    return average


def _colours(window: Window, mask: np.ndarray, side: bool) -> np.ndarray:
    inside = window.inside[mask == side]
    return inside if side else np.concatenate([inside, window.outside])


def _pooled(
    windows: Sequence[Window], masks: Sequence[np.ndarray], side: bool, settings: JointCutSettings
) -> Mixture | None:
    colours = np.concatenate([_colours(window, mask, side) for window, mask in zip(windows, masks, strict=True)])
    # As many colours as one image has tell as much of five Gaussians as ten times so many.
    colours = colours[:: max(1, len(colours) // (2 * settings.outside_px))]
    return fit_mixture(colours, settings.components) if len(colours) else None


def _appearance(
    window: Window, mask: np.ndarray, pools: Sequence[Mixture | None], settings: JointCutSettings
) -> np.ndarray:
    """Cost of foreground less cost of background, own and pooled colours; a side without colours says nothing."""
    unary = np.zeros(mask.shape)
    own = [_colours(window, mask, side) for side in (True, False)]
    models = [(fit_mixture(colours, settings.components) if len(colours) else None) for colours in own]
    for foreground, background in (models, pools):
        if foreground is not None and background is not None:
            unary += colour_cost(foreground, window.inside) - colour_cost(background, window.inside)
    return unary


def _location(average: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    inside = cv2.resize(average, (shape[1], shape[0]), interpolation=cv2.INTER_AREA).clip(_TINY, 1 - _TINY)
    return np.log(1 - inside) - np.log(inside)


def _four_connected(window: Window, smoothness: float) -> list[np.ndarray]:
    weights = neighbour_weights(window.inside, smoothness * window.scale)
    return [*weights[:2], *(np.zeros_like(weight) for weight in weights[2:])]


def _cut_box(unary: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Cut with background all around: foreground at the box's edge pays for the boundary there."""
    unary = unary.copy()
    across, down = weights[0], weights[1]
    unary[:, 0] += across[:, 0]
    unary[:, -1] += across[:, -2]
    unary[0] += down[0]
    unary[-1] += down[-2]
    return minimum_cut(unary, weights)


def _average(masks: Sequence[np.ndarray], side: int) -> np.ndarray:
    squares = [cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR) for mask in masks]
    return np.stack(squares).mean(axis=0)
