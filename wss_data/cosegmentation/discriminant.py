"""The naive linear discriminant of a group's descriptors, from sums over cells.

A target says of each cell how much it belongs to the foreground: at first only where it lies in its image, later what a
mask says. The discriminant weighs each channel by its covariance with the target.

Source:
    Bickel and Levina, *Some theory for Fisher's linear discriminant function, "naive Bayes", and some alternatives when
    there are many more variables than observations*, Bernoulli 2004: the discriminant that takes channels for
    independent. The full covariance was tried and is much worse here: its small variances, inverted, learn where a cell
    lies rather than what it shows (J on web_wild6 0.69 against 0.82).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wss_data.errors import CosegmentationError

NEGLIGIBLE = 1e-6  # a channel that varies less than this fraction of its own size is rounding: images of one colour


class TargetSums(NamedTuple):
    """Sums over the cells of some images of a group, of descriptors x and targets t; sums of shards add up."""

    cells: int  # their number
    total: np.ndarray  # of x, (C,), float64
    squares: np.ndarray  # of x^2, (C,), float64
    target: float  # of t
    products: np.ndarray  # of x t, (C,), float64

    def plus(self, other: "TargetSums") -> "TargetSums":
        """The sums over the images of both."""
        return TargetSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))  # type: ignore[operator]


class Discriminant(NamedTuple):
    """A direction in a group's descriptors along which the target grows."""

    mean: np.ndarray  # of the group's descriptors, (C,), float64
    weights: np.ndarray  # covariance of channel and target over the channel's variance, 0 without it, (C,), float64


def centred_gaussian(shape: Sequence[int], prior_width: float) -> np.ndarray:
    """exp(-(u^2 + w^2) / (2 prior_width^2)), u and w from -0.5 to 0.5. ``shape``: (height, width); in (0, 1].

    >>> centred_gaussian((3, 3), 0.5).round(2).tolist()
    [[0.64, 0.8, 0.64], [0.8, 1.0, 0.8], [0.64, 0.8, 0.64]]
    """
    height, width = shape
    rows = (np.arange(height) + 0.5) / height - 0.5
    columns = (np.arange(width) + 0.5) / width - 0.5
    return np.exp(-(rows[:, None] ** 2 + columns[None] ** 2) / (2 * prior_width**2))


def target_sums(descriptors: np.ndarray, target: np.ndarray) -> TargetSums:
    """The sums of one image: ``descriptors`` (h, w, C); ``target``, how much each cell is foreground, (h, w)."""
    # Sums over one image are exact enough in float32; those over thousands are kept in float64.
    cells = descriptors.reshape(-1, descriptors.shape[-1]).astype(np.float32)
    flat = target.ravel().astype(np.float32)
    return TargetSums(
        len(cells),
        cells.sum(axis=0).astype(np.float64),
        np.einsum("nc,nc->c", cells, cells).astype(np.float64),
        float(flat.sum()),
        (flat @ cells).astype(np.float64),
    )


def discriminant(sums: TargetSums) -> Discriminant:
    """The direction along which the target grows, channels taken for independent."""
    if sums.cells == 0:
        raise CosegmentationError("the group is empty: co-segmentation needs at least one readable image.")
    mean = sums.total / sums.cells
    size = sums.squares / sums.cells
    variance = size - mean**2
    covariance = sums.products / sums.cells - mean * (sums.target / sums.cells)
    varies = variance > NEGLIGIBLE * np.maximum(size, 1e-30)
    return Discriminant(mean, np.where(varies, covariance / np.where(varies, variance, 1.0), 0.0))


def project(descriptors: np.ndarray, direction: Discriminant) -> np.ndarray:
    """How far each cell lies along a direction: (x - mean) . weights. ``descriptors``: (h, w, C) -> (h, w), float32."""
    along = descriptors.astype(np.float32) @ direction.weights.astype(np.float32)
    return along - np.float32(direction.mean @ direction.weights)


def standardised(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Maps of a group, each (h, w), in standard deviations from the mean over all their cells, float32; zeros if equal.

    >>> [map.tolist() for map in standardised([np.array([[1.0, 3.0]]), np.array([[2.0], [2.0]])])]
    [[[-1.4142135381698608, 1.4142135381698608]], [[0.0], [0.0]]]
    """
    cells = sum(values.size for values in maps)
    mean = sum(float(values.sum(dtype=np.float64)) for values in maps) / cells
    variance = sum(float(((values - mean) ** 2).sum(dtype=np.float64)) for values in maps) / cells
    scale = 0.0 if variance <= 1e-12 * max(mean**2, 1e-12) else 1 / np.sqrt(variance)
    return [((values - mean) * scale).astype(np.float32) for values in maps]
