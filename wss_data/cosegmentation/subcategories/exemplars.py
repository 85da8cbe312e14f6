"""S2 and S9: linear templates of boxes, learned against the statistics of images in general.

Linear discriminant analysis with one positive: the background's mean and covariance are learned once and serve all
templates. Both are stationary: the same at every cell, the covariance a function of the offset between two cells.

Source:
    Hariharan, Malik and Ramanan, *Discriminative Decorrelation for Clustering and Classification*, ECCV 2012.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from wss_data.cosegmentation.subcategories.hog import CELL_PX, CHANNELS, hog

LARGEST_OFFSET = 19  # Cells further apart than this count as unrelated
# A box is scaled so that its area lies between these: 78 to 109 cells
SMALLEST_AREA_PX, LARGEST_AREA_PX = 5000.0, 7000.0
LARGEST_ASPECT = 4.0  # Boxes with one side this many times the other are skipped
REGULARISER = 0.01  # Added to the covariance's diagonal


class BackgroundStatistics(NamedTuple):
    """What HOG looks like in general."""

    mean: np.ndarray  # Mean of a cell. Shape (31,), float64.
    # Covariance of a cell with the one at each offset, [down, right + L]: down 0 to L, right -L to L; zero where no
    # image was large enough. Offsets upwards are those of the pair seen from the other end. Shape (L + 1, 2 L + 1, 31,
    # 31), float64.
    covariance: np.ndarray


def background_sums(levels: Sequence[np.ndarray], largest_offset: int = LARGEST_OFFSET) -> np.ndarray:
    """What an image's pyramid adds to the background's statistics; the sums of several images add up.

    ``levels``: HOG of each level without padding, (rows, cols, 31); ``largest_offset``: L, cells.

    Returns:
        Sum of x(p) x(p + offset)^T over all pairs of cells, by offset down (0 to L) and right (-L to L). x has a
        constant 1 as its 32nd channel, so that the entries also count the pairs and sum their first and second cells.
        Shape (L + 1, 2 L + 1, 32, 32), float64.
    """
    from scipy.fft import irfft2, next_fast_len, rfft2

    products = np.zeros((largest_offset + 1, 2 * largest_offset + 1, CHANNELS + 1, CHANNELS + 1))
    members = [features for features in levels if features.size]
    if not members:
        return products
    # Correlations at all offsets at once, by the Fourier transform. The room keeps cells from meeting around the edge,
    # and is the same for all levels, because the inverse transform costs most.
    sides = np.max([features.shape[:2] for features in members], axis=0) + largest_offset
    size = [next_fast_len(int(side), real=True) for side in sides]
    stacked = np.zeros((len(members), CHANNELS + 1, *size), np.float32)
    for own, features in zip(stacked, members, strict=True):
        rows, columns = features.shape[:2]
        own[:CHANNELS, :rows, :columns] = features.transpose(2, 0, 1)
        own[CHANNELS, :rows, :columns] = 1.0
    transformed = np.ascontiguousarray(rfft2(stacked, axes=(2, 3)).transpose(2, 3, 1, 0))
    spectrum = np.matmul(transformed.conj(), transformed.transpose(0, 1, 3, 2)).transpose(2, 3, 0, 1)
    # Half of the pairs of channels is enough: the others are the same seen from the other end.
    first, second = np.triu_indices(CHANNELS + 1)
    half = irfft2(spectrum[first, second], s=size, axes=(1, 2), overwrite_x=True)
    down, right = np.arange(largest_offset + 1)[:, None], np.arange(-largest_offset, largest_offset + 1)
    products[:, :, first, second] = half[:, down, right].transpose(1, 2, 0)
    products[:, :, second, first] = half[:, -down, -right].transpose(1, 2, 0)
    return products


def statistics_of(sums: np.ndarray) -> BackgroundStatistics | None:
    """Mean and covariance from ``background_sums``; ``None`` if no image had a single cell."""
    products, firsts, seconds = sums[..., :-1, :-1], sums[..., :-1, -1], sums[..., -1, :-1]
    # The transform leaves rounding where there is no pair.
    pairs = np.rint(sums[..., -1, -1])[..., None, None]
    middle = sums.shape[1] // 2
    if pairs[0, middle, 0, 0] < 1:
        return None
    mean = firsts[0, middle] / pairs[0, middle, 0, 0]
    centred = products - mean[:, None] * seconds[..., None, :] - firsts[..., :, None] * mean[None, :]
    centred += pairs * np.outer(mean, mean)
    return BackgroundStatistics(mean, np.where(pairs > 0, centred / np.maximum(pairs, 1), 0.0))


def template_shape(width: float, height: float) -> tuple[int, int] | None:
    """(rows, cols), cells, of the template of a box of ``width`` x ``height`` px: the box's aspect, its area clamped.

    ``None`` for an empty box, or one whose one side is ``LARGEST_ASPECT`` times the other.

    Example:
        >>> template_shape(90, 70)  # 6300 px^2, within the limits: 8 px a cell
        (9, 11)
        >>> template_shape(300, 300), template_shape(400, 100)
        ((10, 10), None)
    """
    if min(width, height) <= 0 or max(width, height) >= LARGEST_ASPECT * min(width, height):
        return None
    scale = np.sqrt(np.clip(width * height, SMALLEST_AREA_PX, LARGEST_AREA_PX) / (width * height))
    return max(round(scale * height / CELL_PX), 1), max(round(scale * width / CELL_PX), 1)


def box_features(image: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """HOG of a box (x1, y1, x2, y2), px, stretched to a template's (rows, cols), normalised by a cell around it.

    ``image``: (H, W, 3), uint8; its border is repeated outwards where the box reaches it. (rows, cols, 31), float32.
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


def lda_templates(features: np.ndarray, background: BackgroundStatistics) -> np.ndarray:
    """Templates that tell boxes of one shape from the background: w = Sigma^-1 (x - mu), unit length, 0 where x is mu.

    ``features``: one x each; the mean of several boxes gives their common template. (N, rows, cols, 31), float32.

    Source:
        Hariharan, Malik and Ramanan, ECCV 2012, eq. (5); section 4 for the mean of a cluster.
    """
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    number, rows, columns, _ = features.shape
    regulariser = REGULARISER
    while True:
        # In float32: the regulariser bounds the condition number to some hundreds.
        sigma = block_toeplitz(background.covariance, rows, columns)
        np.einsum("ii->i", sigma)[...] += np.float32(regulariser)
        try:
            # The matrix is its own transpose, whose memory order LAPACK works in without a copy.
            factor = cho_factor(sigma.T, lower=True, overwrite_a=True, check_finite=False)
            break
        except LinAlgError:
            # Not positive definite yet.
            regulariser *= 10
    centred = (features - background.mean).reshape(number, -1).astype(np.float32)
    solved = cho_solve(factor, centred.T, check_finite=False).T
    lengths = np.linalg.norm(solved, axis=1, keepdims=True)
    return np.divide(solved, lengths, out=np.zeros_like(solved), where=lengths > 0).reshape(features.shape)


def block_toeplitz(covariance: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The covariance of all cells of a template of ``rows`` x ``columns`` cells with each other.

    ``covariance``: of ``BackgroundStatistics``. Symmetric, zero beyond the largest offset. Shape (rows * columns * 31,
    same), float32.
    """
    beyond = covariance.shape[0]
    # All offsets, the upper half from the lower: cov(-d) = cov(d)^T. The border of zeros is all that is further away.
    upper = covariance[::-1, ::-1].transpose(0, 1, 3, 2)
    table = np.pad(np.concatenate([upper, covariance[1:]]), ((1, 1), (1, 1), (0, 0), (0, 0))).astype(np.float32)
    down, right = (
        np.clip(np.arange(count)[None] - np.arange(count)[:, None], -beyond, beyond) + beyond
        for count in (rows, columns)
    )
    # (row, column, other row, other column, channel, other channel)
    sigma = table[down[:, None, :, None], right[None, :, None, :]]
    return sigma.transpose(0, 1, 4, 2, 3, 5).reshape(rows * columns * covariance.shape[-1], -1)


def learn_templates(features: Sequence[np.ndarray], background: BackgroundStatistics) -> list[np.ndarray]:
    """The template of each box, (rows, cols, 31), by ``lda_templates``, in order."""
    templates: dict[int, np.ndarray] = {}
    # Templates of one shape share one matrix and its factorisation, which is nearly all the cost.
    for shape in {one.shape for one in features}:
        members = [position for position, one in enumerate(features) if one.shape == shape]
        together = np.stack([features[position] for position in members])
        templates |= dict(zip(members, lda_templates(together, background), strict=True))
    return [templates[position] for position in range(len(features))]
