"""The histogram of gradients of the deformable-parts model: 31 channels a cell, vectorised, and its pyramid.

Source:
    Felzenszwalb, Girshick, McAllester and Ramanan, *Object Detection with Discriminatively Trained Part-Based
    Models*, PAMI 2010, section 6, and ``features.cc`` of its release 5, without the 32nd (truncation) channel.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from math import ceil, log2

import cv2
import numpy as np

CELL_PX = 8
"""Side of a cell, pixels. Source: as above, and Chen et al., CVPR 2014, public code."""

CHANNELS = 31
"""18 signed directions, 9 unsigned ones, 4 of texture. Source: as above."""

LEVELS_PER_OCTAVE = 10
"""Source: Chen et al., CVPR 2014, public code."""

SHORTEST_SIDE = 40
"""The pyramid ends before an image's shorter side falls below this, pixels. Source: as above."""

_SIGNED = 18
_UNSIGNED = 9
_EPSILON = 1e-4
_CLIP = 0.2
_TEXTURE_WEIGHT = 0.2357
"""Of the release: one over the root of 18, cut after four digits."""

_COSINES = np.array([1.0, 0.9397, 0.7660, 0.5, 0.1736, -0.1736, -0.5, -0.7660, -0.9397])
_SINES = np.array([0.0, 0.3420, 0.6428, 0.8660, 0.9848, 0.9848, 0.8660, 0.6428, 0.3420])

_MIRROR = np.array(
    [(9 - o) % 18 for o in range(_SIGNED)] + [18 + (9 - o) % 9 for o in range(_UNSIGNED)] + [29, 30, 27, 28]
)
"""Which channel of an image becomes each channel of the flipped image."""


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Args:
        scale: The level's size over the image's, in (0, 1].
        features: HOG that covers the whole level, with ``padding`` cells of zeros around it. Shape (rows + 2
            padding, cols + 2 padding, 31), float32.
        cell: (width, height) of a cell in pixels of the image. Not quite ``CELL_PX / scale``: levels have whole
            pixels.
        padding: Cells of zeros on each side.
    """

    scale: float
    features: np.ndarray
    cell: tuple[float, float]
    padding: int = 0


def hog(image: np.ndarray, cell_px: int = CELL_PX) -> np.ndarray:
    """Histograms of gradients of an image's inner cells.

    Args:
        image: RGB in 0 to 255; float values are rounded. Shape (H, W, 3), uint8 or float.
        cell_px: Side of a cell, pixels.

    Returns:
        Shape (round(H / cell_px) - 2, round(W / cell_px) - 2, 31), or an empty one, float32, in [0, 2]. The outermost
        cells only normalise the others: entry (0, 0) is the cell that begins at pixel (cell_px, cell_px).

    Source:
        Felzenszwalb et al., ``features.cc``: colour channel of the largest gradient, 18 directions, linear sharing
        between the four nearest cells, four normalisations clipped at 0.2.
    """
    histogram = _histogram(_whole_numbers(image), cell_px)
    rows, columns = histogram.shape[:2]
    if rows < 3 or columns < 3:
        return np.zeros((max(rows - 2, 0), max(columns - 2, 0), CHANNELS), np.float32)
    unsigned = histogram[..., :_UNSIGNED] + histogram[..., _UNSIGNED:]
    energy = (unsigned**2).sum(axis=2)
    blocks = energy[:-1, :-1] + energy[1:, :-1] + energy[:-1, 1:] + energy[1:, 1:]
    norms = 1.0 / np.sqrt(blocks + _EPSILON)
    # The blocks around a cell, in the release's order: down right, up right, down left, up left.
    around = (norms[1:, 1:], norms[:-1, 1:], norms[1:, :-1], norms[:-1, :-1])
    inner, inner_unsigned = histogram[1:-1, 1:-1], unsigned[1:-1, 1:-1]
    features = np.zeros((rows - 2, columns - 2, CHANNELS), np.float32)
    for block, norm in enumerate(around):
        signed = np.minimum(inner * norm[..., None], _CLIP)
        features[..., :_SIGNED] += signed
        features[..., _SIGNED : _SIGNED + _UNSIGNED] += np.minimum(inner_unsigned * norm[..., None], _CLIP)
        features[..., _SIGNED + _UNSIGNED + block] = signed.sum(axis=2) * _TEXTURE_WEIGHT
    features[..., : _SIGNED + _UNSIGNED] *= 0.5
    return features


def whole_hog(image: np.ndarray, cell_px: int = CELL_PX) -> np.ndarray:
    """Histograms of gradients of all of an image's cells: the border is repeated outwards by a cell first.

    Args:
        image: As ``hog``.
        cell_px: Side of a cell, pixels.

    Returns:
        Shape (round(H / cell_px), round(W / cell_px), 31), float32.
    """
    bordered = cv2.copyMakeBorder(_whole_numbers(image), cell_px, cell_px, cell_px, cell_px, cv2.BORDER_REPLICATE)
    return hog(bordered, cell_px)


def pyramid(
    image: np.ndarray,
    levels_per_octave: int = LEVELS_PER_OCTAVE,
    shortest_side: int = SHORTEST_SIDE,
    largest_scale: float = 1.0,
    padding: int = 0,
    cell_px: int = CELL_PX,
) -> list[Level]:
    """HOG of an image at falling scales.

    Args:
        image: Shape (H, W, 3), uint8 or float, RGB in 0 to 255.
        levels_per_octave: Levels until the scale has halved.
        shortest_side: No level is shorter than this, pixels; an image that is shorter itself has its own level.
        largest_scale: Levels of a larger scale are left out; see ``largest_useful_scale``. In (0, 1].
        padding: Cells of zeros around each level, so that a template may reach beyond the image.
        cell_px: Side of a cell, pixels.

    Returns:
        The levels, largest first: of scales 2 ** (-i / levels_per_octave).
    """
    image = _whole_numbers(image)
    height, width = image.shape[:2]
    last = max(int(levels_per_octave * log2(max(min(height, width) / shortest_side, 1.0)) + 1e-9), 0)
    first = min(max(ceil(-levels_per_octave * log2(min(largest_scale, 1.0)) - 1e-9), 0), last)
    levels = []
    for step in range(first, last + 1):
        scale = 2.0 ** (-step / levels_per_octave)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        resized = image if step == 0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        features = np.pad(whole_hog(resized, cell_px), ((padding, padding), (padding, padding), (0, 0)))
        levels.append(Level(scale, features, (cell_px * width / size[0], cell_px * height / size[1]), padding))
    return levels


def largest_useful_scale(
    width: int, height: int, shapes: Iterable[tuple[int, int]], smallest_share: float = 0.5, cell_px: int = CELL_PX
) -> float:
    """The scale above which no template covers enough of the image to count.

    Args:
        width: Of the image, pixels.
        height: Of the image, pixels.
        shapes: (rows, cols) of the templates, cells.
        smallest_share: A box counts if its width over the image's, or its height over the image's, reaches this;
            0 lets every box count.
        cell_px: Side of a cell, pixels.

    Returns:
        In (0, 1].
    """
    if smallest_share <= 0:
        return 1.0
    sides = [max(columns * cell_px / width, rows * cell_px / height) for rows, columns in shapes]
    return min(1.0, max(sides, default=1.0) / smallest_share)


def mirror_template(features: np.ndarray) -> np.ndarray:
    """What a template, or the features of an image, become when the image is flipped left to right.

    Args:
        features: Shape (rows, cols, 31), float.

    Returns:
        Same shape and dtype.
    """
    return np.ascontiguousarray(features[:, ::-1][..., _MIRROR])


def _whole_numbers(image: np.ndarray) -> np.ndarray:
    """The image as uint8. (H, W, 3)."""
    return image if image.dtype == np.uint8 else np.clip(np.rint(image), 0, 255).astype(np.uint8)


@cache
def _directions() -> np.ndarray:
    """The direction of each whole-numbered gradient. Shape (511 * 511,), int64, entry (dx + 255) * 511 + dy + 255.

    A table, since the release asks nine scalar products of each pixel, and its ties come out the same.
    """
    steps = np.arange(-255, 256, dtype=np.float64)
    products = steps[:, None, None] * _COSINES + steps[None, :, None] * _SINES
    signed = np.stack([products, -products], axis=3).reshape(511, 511, _SIGNED)
    best = signed.argmax(axis=2)
    table = np.where(best % 2 == 0, best // 2, best // 2 + _UNSIGNED)
    table[255, 255] = 0
    return table.ravel()


def _histogram(image: np.ndarray, cell_px: int) -> np.ndarray:
    """Gradient magnitude by cell and signed direction. ``image``: uint8. Shape (rows, cols, 18), float32."""
    height, width = image.shape[:2]
    rows, columns = int(height / cell_px + 0.5), int(width / cell_px + 0.5)
    if min(rows, columns) < 1 or min(height, width) < 3:
        return np.zeros((rows, columns, _SIGNED), np.float32)
    magnitude, direction = _gradients(image)
    # As in the release: the outermost pixels of the visible cells do not vote; beyond the image its last row votes on.
    down, down_block, down_near = _sharing(rows, height, cell_px)
    across, across_block, across_near = _sharing(columns, width, cell_px)
    if (rows * cell_px, columns * cell_px) != (height, width):
        magnitude, direction = (values[down][:, across] for values in (magnitude, direction))
    cells = (down_block * (columns + 1))[:, None] + across_block
    bins = (cells * _SIGNED + direction).ravel()
    shape = (rows + 1, columns + 1, _SIGNED)
    near = magnitude * across_near
    histogram = np.zeros((rows + 2, columns + 2, _SIGNED))
    for right, share in ((0, near), (1, magnitude - near)):
        upper = share * down_near[:, None]
        for below, votes in ((0, upper), (1, share - upper)):
            counts = np.bincount(bins, votes.ravel(), minlength=shape[0] * shape[1] * _SIGNED).reshape(shape)
            histogram[below : below + rows + 1, right : right + columns + 1] += counts
    return histogram[1:-1, 1:-1].astype(np.float32)


def _gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and direction of the colour channel that changes most, at inner pixels. Each (H - 2, W - 2)."""
    # Blue first: of equal channels the release takes the last one.
    dx, dy, best = _differences(image[..., 2])
    for channel in (1, 0):
        across, down, squares = _differences(image[..., channel])
        more = squares > best
        for kept, other in ((dx, across), (dy, down), (best, squares)):
            np.copyto(kept, other, where=more)
    return np.sqrt(best, dtype=np.float64), _directions()[dx * 511 + (dy + 255 * 512)]


def _differences(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences across and down, and the sum of their squares, at inner pixels. Each (H - 2, W - 2), int32."""
    plane = plane.astype(np.int32)
    across = plane[1:-1, 2:] - plane[1:-1, :-2]
    down = plane[2:, 1:-1] - plane[:-2, 1:-1]
    return across, down, across * across + down * down


@lru_cache(maxsize=1024)
def _sharing(cells: int, length: int, cell_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How the voting pixels of a line share their votes.

    Returns:
        Each voter's index among the inner pixels; the number of the nearer cell before its centre, plus one; the share
        of that cell. The next cell has the rest. Each (cells * cell_px - 2,).
    """
    voters = np.arange(1, cells * cell_px - 1)
    position = (voters + 0.5) / cell_px - 0.5
    before = np.floor(position).astype(np.int64)
    return np.minimum(voters, length - 2) - 1, before + 1, 1.0 - (position - before)
