"""S2: one linear template a box, learned against the statistics of images in general.

Linear discriminant analysis with one positive: the background's mean and covariance are learned once and serve all
templates. Both are stationary: the same at every cell, the covariance a function of the offset between two cells.

Templates of one shape share one matrix and so one factorisation, which is nearly all the cost:
``learn_templates`` takes them together.

Source:
    Hariharan, Malik and Ramanan, *Discriminative Decorrelation for Clustering and Classification*, ECCV 2012, with
    the values of Chen et al., CVPR 2014, public code.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wss_data.cosegmentation.subcategories.hog import CELL_PX, CHANNELS, Level, hog
from wss_data.errors import CosegmentationError

LARGEST_OFFSET = 19
"""Cells between two that are still taken for related. Source: Chen et al., CVPR 2014, public code."""

SMALLEST_AREA_PX = 5000.0
LARGEST_AREA_PX = 7000.0
"""A box is scaled so that its area lies between these: 78 to 109 cells. Source: as above."""

LARGEST_ASPECT = 4.0
"""Boxes with one side as many times the other teach nothing. Source: as above."""

REGULARISER = 0.01
"""Added to the covariance's diagonal. Source: as above."""

THRESHOLD = 0.5
"""A template fires where w . f reaches this. Source: as above."""


@dataclass(frozen=True)
class BackgroundSums:
    """Sums over pairs of cells of some images; sums of shards add up.

    Args:
        products: Sum of x(p) x(p + offset)^T with a constant 1 as the 32nd channel, which makes the entries count
            pairs and sum their first and second cells. Shape (offsets down 0 to L, offsets right -L to L, 32, 32),
            float64.
    """

    products: np.ndarray

    def __add__(self, other: "BackgroundSums") -> "BackgroundSums":
        return BackgroundSums(self.products + other.products)


@dataclass(frozen=True)
class BackgroundStatistics:
    """What HOG looks like in general.

    Args:
        mean: Mean of a cell. Shape (31,), float64.
        covariance: Covariance of a cell with the one at each offset, [down, right + L]: down 0 to L, right -L to L;
            zero where no image was large enough. Offsets upwards are those of the pair seen from the other end.
            Shape (L + 1, 2 L + 1, 31, 31), float64.
    """

    mean: np.ndarray
    covariance: np.ndarray


def background_sums(levels: Sequence[Level | np.ndarray], largest_offset: int = LARGEST_OFFSET) -> BackgroundSums:
    """What the levels of one image's pyramid, or of several, add to the background.

    Correlations at all offsets at once, by way of the Fourier transform; padding is left out.

    Args:
        levels: Levels, or their features (rows, cols, 31), float.
        largest_offset: L, cells.

    Returns:
        Their sums.
    """
    from scipy.fft import next_fast_len

    side, offsets = largest_offset + 1, 2 * largest_offset + 1
    whole = [level if isinstance(level, np.ndarray) else _without_padding(level) for level in levels]
    members = [features for features in whole if features.size]
    if not members:
        return BackgroundSums(np.zeros((side, offsets, CHANNELS + 1, CHANNELS + 1)))
    # So much room that no cell meets another around the edge, for all levels alike: the inverse costs most.
    down, right = (
        next_fast_len(max(features.shape[axis] for features in members) + largest_offset, real=True) for axis in (0, 1)
    )
    return BackgroundSums(_correlations(members, (down, right), largest_offset))


def statistics_of(sums: BackgroundSums) -> BackgroundStatistics:
    """Mean and covariance from sums.

    Args:
        sums: Over all images.

    Returns:
        The statistics; covariances divide by the number of pairs at each offset.

    Raises:
        CosegmentationError: If there is no cell at all.
    """
    products = sums.products[..., :CHANNELS, :CHANNELS]
    firsts = sums.products[..., :CHANNELS, CHANNELS]
    seconds = sums.products[..., CHANNELS, :CHANNELS]
    # The transform leaves rounding where there is no pair.
    pairs = np.rint(sums.products[..., CHANNELS, CHANNELS])[..., None, None]
    middle = sums.products.shape[1] // 2
    if pairs[0, middle, 0, 0] < 1:
        raise CosegmentationError(
            "no image of the group is large enough to learn a background from: one of at least 4 px a side is wanted."
        )
    mean = firsts[0, middle] / pairs[0, middle, 0, 0]
    centred = (
        products
        - mean[:, None] * seconds[..., None, :]
        - firsts[..., :, None] * mean[None, :]
        + pairs * np.outer(mean, mean)
    )
    return BackgroundStatistics(mean, np.where(pairs > 0, centred / np.maximum(pairs, 1), 0.0))


def template_shape(box: np.ndarray, cell_px: int = CELL_PX) -> tuple[int, int] | None:
    """(rows, cols) of a box's template: its aspect, its area clamped.

    Args:
        box: (x1, y1, x2, y2), pixels. Shape (4,), float.
        cell_px: Side of a cell, pixels.

    Returns:
        Cells, each at least 1; ``None`` for an empty box or one whose one side is ``LARGEST_ASPECT`` times the other.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    width, height = float(box[2] - box[0]), float(box[3] - box[1])
    if min(width, height) <= 0 or max(width, height) >= LARGEST_ASPECT * min(width, height):
        return None
    scale = np.sqrt(np.clip(width * height, SMALLEST_AREA_PX, LARGEST_AREA_PX) / (width * height))
    return max(round(scale * height / cell_px), 1), max(round(scale * width / cell_px), 1)


def box_features(image: np.ndarray, box: np.ndarray, cell_px: int = CELL_PX) -> np.ndarray | None:
    """HOG of a box at the size of its template, normalised by one cell of what surrounds it.

    Args:
        image: Shape (H, W, 3), uint8 or float, RGB; its border is repeated outwards where the box is at it.
        box: (x1, y1, x2, y2), pixels. Shape (4,), float.
        cell_px: Side of a cell, pixels.

    Returns:
        Shape (rows, cols, 31), float32; ``None`` if ``template_shape`` says so.

    Source:
        Chen et al., CVPR 2014, public code.
    """
    shape = template_shape(box, cell_px)
    if shape is None:
        return None
    rows, columns = shape
    x1, y1, x2, y2 = (float(value) for value in box)
    across, down = (x2 - x1) / columns, (y2 - y1) / rows
    size = ((columns + 2) * cell_px, (rows + 2) * cell_px)
    return hog(_crop(image, (x1 - across, y1 - down, x2 + across, y2 + down), size), cell_px)


def lda_template(
    features: np.ndarray, background: BackgroundStatistics, regulariser: float = REGULARISER
) -> np.ndarray:
    """The template that tells one box from the background; see ``lda_templates``.

    Args:
        features: x. Shape (rows, cols, 31), float.
        background: Mean and covariance.
        regulariser: Added to the diagonal.

    Returns:
        w. Same shape, float32.
    """
    return lda_templates(features[None], background, regulariser)[0]


def lda_templates(
    features: np.ndarray, background: BackgroundStatistics, regulariser: float = REGULARISER
) -> np.ndarray:
    """Templates that tell boxes of one shape from the background: w = Sigma^-1 (x - mu), unit length.

    One factorisation for all. In float32: the regulariser bounds the condition number to some hundreds.

    Args:
        features: One x each. Shape (N, rows, cols, 31), float.
        background: Mean and covariance.
        regulariser: Added to the diagonal; raised tenfold until the matrix is positive definite.

    Returns:
        w; zero where x is the mean. Shape (N, rows, cols, 31), float32.

    Source:
        Hariharan, Malik and Ramanan, ECCV 2012, eq. (5).
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    number, rows, columns, _ = features.shape
    while True:
        sigma = block_toeplitz(background.covariance, rows, columns)
        np.einsum("ii->i", sigma)[...] += np.float32(regulariser)
        try:
            # The matrix is its own transpose, whose memory order LAPACK works in without a copy.
            factor = cho_factor(sigma.T, lower=True, overwrite_a=True, check_finite=False)
            break
        except LinAlgError:
            regulariser *= 10
    centred = (features - background.mean).reshape(number, -1).astype(np.float32)
    solved = cho_solve(factor, centred.T, check_finite=False).T
    lengths = np.linalg.norm(solved, axis=1, keepdims=True)
    return np.divide(solved, lengths, out=np.zeros_like(solved), where=lengths > 0).reshape(features.shape)


def block_toeplitz(covariance: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The covariance of all cells of a template with each other.

    Args:
        covariance: As in ``BackgroundStatistics``.
        rows: Of the template.
        columns: Of the template.

    Returns:
        Symmetric; zero beyond the largest offset. Shape (rows * columns * 31, same), float32.
    """
    largest = covariance.shape[0] - 1
    channels = covariance.shape[-1]
    # All offsets down and right, the upper half from the lower: cov(-d) = cov(d)^T; beyond the largest: the zero last.
    reach_down, reach_right = min(rows - 1, largest), min(columns - 1, largest)
    table = np.zeros((2 * rows - 1, 2 * columns - 1, channels, channels), np.float32)
    lower = covariance[: reach_down + 1, largest - reach_right : largest + reach_right + 1]
    right = slice(columns - 1 - reach_right, columns + reach_right)
    table[rows - 1 : rows + reach_down, right] = lower
    table[rows - 1 - reach_down : rows, right] = lower[::-1, ::-1].transpose(0, 1, 3, 2)
    across = np.arange(columns)[None, :] - np.arange(columns)[:, None] + columns - 1
    # One row of cells against another, by how far down that is: (2 rows - 1, cols * 31, cols * 31).
    strips = table[:, across].transpose(0, 1, 3, 2, 4).reshape(2 * rows - 1, columns * channels, columns * channels)
    sigma = np.empty((rows, columns * channels, rows, columns * channels), np.float32)
    for row, other in np.ndindex(rows, rows):
        sigma[row, :, other] = strips[other - row + rows - 1]
    return sigma.reshape(rows * columns * channels, -1)


def learn_templates(features: Sequence[np.ndarray], background: BackgroundStatistics) -> list[np.ndarray]:
    """The template of each box, one factorisation a shape.

    Args:
        features: x of each box, from ``box_features``. Each (rows, cols, 31), float.
        background: Mean and covariance.

    Returns:
        w of each, in order. Each (rows, cols, 31), float32.
    """
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for position, one in enumerate(features):
        by_shape[one.shape].append(position)
    templates: dict[int, np.ndarray] = {}
    for members in by_shape.values():
        together = np.stack([features[position] for position in members])
        templates |= dict(zip(members, lda_templates(together, background), strict=True))
    return [templates[position] for position in range(len(features))]


def _crop(image: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """A box of an image, which may reach beyond it, at ``size`` (width, height), px. Shape (height, width, 3)."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = round(box[0]), round(box[1]), round(box[2]), round(box[3])
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    rows = np.clip(np.arange(y1, y2), 0, height - 1)
    columns = np.clip(np.arange(x1, x2), 0, width - 1)
    return cv2.resize(image[rows][:, columns], size, interpolation=cv2.INTER_AREA)


def _without_padding(level: Level) -> np.ndarray:
    """The level's features alone. Shape (rows, cols, 31)."""
    pad = level.padding
    rows, columns = level.features.shape[:2]
    return level.features[pad : rows - pad, pad : columns - pad]


def _correlations(members: Sequence[np.ndarray], size: tuple[int, int], largest_offset: int) -> np.ndarray:
    """``BackgroundSums.products`` of some levels by transforms of ``size``. Shape (L + 1, 2 L + 1, 32, 32), float64."""
    from scipy.fft import irfft2, rfft2

    stacked = np.zeros((len(members), CHANNELS + 1, *size), np.float32)
    for index, features in enumerate(members):
        rows, columns = features.shape[:2]
        stacked[index, :CHANNELS, :rows, :columns] = features.transpose(2, 0, 1)
        stacked[index, CHANNELS, :rows, :columns] = 1.0
    transformed = np.ascontiguousarray(rfft2(stacked, axes=(2, 3)).transpose(2, 3, 1, 0))
    spectrum = np.matmul(transformed.conj(), transformed.transpose(0, 1, 3, 2)).transpose(2, 3, 0, 1)
    # Half of the pairs of channels is enough: the others are the same seen from the other end.
    first, second = np.triu_indices(CHANNELS + 1)
    half = irfft2(spectrum[first, second], s=size, axes=(1, 2), overwrite_x=True)
    down, right = np.arange(largest_offset + 1)[:, None], np.arange(-largest_offset, largest_offset + 1)
    products = np.empty((largest_offset + 1, 2 * largest_offset + 1, CHANNELS + 1, CHANNELS + 1))
    products[:, :, first, second] = half[:, down, right].transpose(1, 2, 0)
    products[:, :, second, first] = half[:, -down, -right].transpose(1, 2, 0)
    return products
