"""The histogram of gradients of the deformable-parts model: 31 channels a cell, vectorised, and its pyramid.

Source:
    Felzenszwalb, Girshick, McAllester and Ramanan, *Object Detection with Discriminatively Trained Part-Based
    Models*, PAMI 2010, section 6, and ``features.cc`` of its release 5, without the 32nd (truncation) channel.
"""

from functools import cache
from math import ceil, log2
from typing import NamedTuple

import cv2
import numpy as np

CELL_PX = 8  # Side of a cell, pixels
CHANNELS = 31  # 18 signed directions, 9 unsigned ones, 4 of texture
SHORTEST_SIDE = 40  # The pyramid ends before an image's shorter side falls below this, pixels. Source: Chen et al

_SIGNED, _UNSIGNED = 18, 9
_EPSILON, _CLIP = 1e-4, 0.2
_TEXTURE_WEIGHT = 0.2357  # Of the release: one over the root of 18, cut after four digits
# Of the nine directions, cut after four digits as in the release
_COSINES = np.array([1.0, 0.9397, 0.7660, 0.5, 0.1736, -0.1736, -0.5, -0.7660, -0.9397])
_SINES = np.array([0.0, 0.3420, 0.6428, 0.8660, 0.9848, 0.9848, 0.8660, 0.6428, 0.3420])
# Which channel of an image becomes each channel of the flipped image
_MIRROR = [*((9 - o) % 18 for o in range(_SIGNED)), *(18 + (9 - o) % 9 for o in range(_UNSIGNED)), 29, 30, 27, 28]


class Level(NamedTuple):
    """One level of a pyramid."""

    features: np.ndarray  # HOG of the whole level, padded. Shape (rows, cols, 31), float32.
    cell: tuple[float, float]  # (width, height) of a cell in pixels of the image.
    padding: int = 0  # Cells of zeros on each side.


def hog(image: np.ndarray) -> np.ndarray:
    """Histograms of gradients of the inner cells of an image, (H, W, 3) uint8 RGB.

    The colour channel of the largest gradient votes for one of 18 directions, shared linearly between the four nearest
    cells; four normalisations are clipped at 0.2.

    Returns:
        Shape (round(H / 8) - 2, round(W / 8) - 2, 31), or an empty one, float32, in [0, 2]. The outermost cells only
        normalise the others: entry (0, 0) is the cell that begins at pixel (8, 8).
    """
    histogram = _histogram(image)
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


def whole_hog(image: np.ndarray) -> np.ndarray:
    """``hog`` of all cells of an image, (round(H / 8), round(W / 8), 31): its border is repeated outwards by a cell."""
    return hog(cv2.copyMakeBorder(image, CELL_PX, CELL_PX, CELL_PX, CELL_PX, cv2.BORDER_REPLICATE))


def pyramid(
    image: np.ndarray, levels_per_octave: int = 10, largest_scale: float = 1.0, padding: int = 0
) -> list[Level]:
    """HOG of an image, (H, W, 3) uint8 RGB, at falling scales 2 ** (-i / levels_per_octave), down to ``SHORTEST_SIDE``.

    An image that is shorter itself has one level. Levels above ``largest_scale`` are left out; ``padding``: cells of
    zeros around each level, so that a template may reach beyond the image.
    """
    height, width = image.shape[:2]
    # The slack of 1e-9 keeps rounding of the logarithm from losing a level that fits exactly.
    last = max(int(levels_per_octave * log2(max(min(height, width) / SHORTEST_SIDE, 1.0)) + 1e-9), 0)
    first = min(max(ceil(-levels_per_octave * log2(min(largest_scale, 1.0)) - 1e-9), 0), last)
    levels = []
    for step in range(first, last + 1):
        scale = 2.0 ** (-step / levels_per_octave)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        resized = image if step == 0 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        features = np.pad(whole_hog(resized), ((padding, padding), (padding, padding), (0, 0)))
        levels.append(Level(features, (CELL_PX * width / size[0], CELL_PX * height / size[1]), padding))
    return levels


def mirror_template(features: np.ndarray) -> np.ndarray:
    """What a template, or features of an image, (rows, cols, 31), become when the image is flipped left to right."""
    return np.ascontiguousarray(features[:, ::-1][..., _MIRROR])


@cache
def _directions() -> np.ndarray:
    """The direction of each whole-numbered gradient. Shape (511 * 511,), int64, entry (dx + 255) * 511 + dy + 255."""
    # A table, since the release asks nine scalar products of each pixel, and its ties come out the same.
    steps = np.arange(-255, 256, dtype=np.float64)
    products = steps[:, None, None] * _COSINES + steps[None, :, None] * _SINES
    signed = np.stack([products, -products], axis=3).reshape(511, 511, _SIGNED)
    best = signed.argmax(axis=2)
    return np.where(best % 2 == 0, best // 2, best // 2 + _UNSIGNED).ravel()


def _histogram(image: np.ndarray) -> np.ndarray:
    """Gradient magnitude by cell and signed direction. ``image``: uint8. Shape (rows, cols, 18), float32."""
    height, width = image.shape[:2]
    rows, columns = int(height / CELL_PX + 0.5), int(width / CELL_PX + 0.5)
    if min(rows, columns) < 1 or min(height, width) < 3:
        return np.zeros((rows, columns, _SIGNED), np.float32)
    magnitude, direction = _gradients(image)
    # As in the release: the outermost pixels of the visible cells do not vote; beyond the image its last row votes on.
    down, down_block, down_near = _sharing(rows, height)
    across, across_block, across_near = _sharing(columns, width)
    magnitude, direction = (values[down][:, across] for values in (magnitude, direction))
    cells = (down_block * (columns + 1))[:, None] + across_block
    bins = (cells * _SIGNED + direction).ravel()
    shape = (rows + 1, columns + 1, _SIGNED)
    near = magnitude * across_near
    histogram = np.zeros((rows + 2, columns + 2, _SIGNED))
    for right, part in ((0, near), (1, magnitude - near)):
        upper = part * down_near[:, None]
        for below, votes in ((0, upper), (1, part - upper)):
            counts = np.bincount(bins, votes.ravel(), minlength=shape[0] * shape[1] * _SIGNED).reshape(shape)
            histogram[below : below + rows + 1, right : right + columns + 1] += counts
    return histogram[1:-1, 1:-1].astype(np.float32)


def _gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitude and direction of the colour channel that changes most, at inner pixels. Each (H - 2, W - 2)."""
    # Blue first: of equal channels the release takes the last one.
    pixels = image[..., ::-1].astype(np.int32)
    across, down = pixels[1:-1, 2:] - pixels[1:-1, :-2], pixels[2:, 1:-1] - pixels[:-2, 1:-1]
    squares = across * across + down * down
    best = squares.argmax(axis=2)[..., None]
    dx, dy, square = (np.take_along_axis(values, best, axis=2)[..., 0] for values in (across, down, squares))
    return np.sqrt(square, dtype=np.float64), _directions()[dx * 511 + (dy + 255 * 512)]


def _sharing(cells: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How the voting pixels of a line of ``length`` px share their votes between cells; each (cells * CELL_PX - 2,).

    Each voter's index among the inner pixels; the number of the nearer cell before its centre, plus one; and the
    fraction of that cell, of which the next has the rest.
    """
    voters = np.arange(1, cells * CELL_PX - 1)
    position = (voters + 0.5) / CELL_PX - 0.5
    before = np.floor(position).astype(np.int64)
    return np.minimum(voters, length - 2) - 1, before + 1, 1.0 - (position - before)
