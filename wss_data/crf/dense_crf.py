"""Fully connected conditional random field: one door, and two programs behind it.

``builtin`` is our own (``mean_field.py`` on ``permutohedral.py``, compiled by numba), ``pydensecrf`` the authors' C++,
where somebody installed it. At least 99.9 % of the pixels get the same label from both: docs/explanation/dense_crf.md.

Source:
    Krähenbühl and Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*, NIPS 2011.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal, NamedTuple, cast, get_args

import numpy as np

from wss_data.crf.settings import CrfSettings
from wss_data.errors import WssError

Backend = Literal["builtin", "pydensecrf"]

VARIABLE = "WSS_CRF"  # Environment variable that names the backend for a process and its workers
# Probabilities are raised to this before the logarithm: a zero would be a veto that no neighbour can lift
SMALLEST_PROBABILITY = 1e-5
# Pixels of an image up to which it is sharpened in one piece: some 450 bytes a pixel for two labels, 1,000 for 21
LARGEST_WHOLE = 2_000_000
TILE_PIXELS = 1_000_000  # Pixels of a tile, overlap included, of an image that is larger
# Overlap on each side of a tile, in standard deviations of the wider term; at most a quarter of a tile's side
OVERLAP = 3.0
MISSING = (
    "pydensecrf is not installed: pip install pydensecrf2==1.1 (Python 3.11 or 3.12, needs g++), or take the built-in "
    f"CRF, which gives the same masks: pass it, or unset {VARIABLE}."
)


class CrfTile(NamedTuple):
    """A part of an image that is sharpened by itself: what is kept of it, and what is seen."""

    rows: slice  # Of the image, that are kept.
    columns: slice  # Likewise.
    seen_rows: slice  # Of the image, that are seen: ``rows`` and an overlap.
    seen_columns: slice  # Likewise.


def backend() -> Backend:
    """Name the program that ``dense_crf`` uses in this process: the one in ``WSS_CRF``, else ``builtin``.

    Raises:
        WssError: If ``WSS_CRF`` names no backend, or one whose package is not installed.
    """
    wanted = os.environ.get(VARIABLE) or "builtin"
    if wanted not in get_args(Backend):
        raise WssError(f"{VARIABLE} is '{wanted}': the dense CRF knows {', '.join(get_args(Backend))}.")
    if wanted == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise WssError(MISSING)
    return cast(Backend, wanted)


def dense_crf(
    probabilities: np.ndarray, image: np.ndarray, settings: CrfSettings | None = None, using: Backend | None = None
) -> np.ndarray:
    """Sharpen class probabilities along the edges of an image.

    The labels need not be all classes of a dataset: passing only those that an image can show costs
    less and gives the same answer. No gift: confident, good probabilities can come out worse. Measure it.

    Args:
        probabilities: Label probabilities, non-negative; need not sum to one. Shape (L, H, W), float.
        image: The image at the same size. Shape (H, W, 3), uint8, RGB.
        settings: The pairwise terms; ``None`` for the defaults.
        using: The program that does it; ``None`` for what ``backend`` says.

    Returns:
        Marginal of each label at each pixel, sums to one over the labels. Shape (L, H, W), float32, in [0, 1].

    Raises:
        ValueError: If the shapes do not fit together, the image is not uint8, or a probability is not finite.
        WssError: If the backend asked for is not installed.

    Source:
        Krähenbühl and Koltun, NIPS 2011, algorithm 1; tiles are our own.
    """
    if probabilities.ndim != 3 or image.shape != (*probabilities.shape[1:], 3) or image.dtype != np.uint8:
        raise ValueError(
            f"dense_crf wants probabilities (L, H, W) and an image (H, W, 3) of uint8: "
            f"found {probabilities.shape} and {image.shape} of {image.dtype}"
        )
    result = np.empty(probabilities.shape, np.float32)
    for tile, marginals in sharpened_tiles(
        lambda rows, columns: probabilities[:, rows, columns], image, settings, using
    ):
        result[:, tile.rows, tile.columns] = marginals
    return result


def sharpened_tiles(
    probabilities: Callable[[slice, slice], np.ndarray],
    image: np.ndarray,
    settings: CrfSettings | None = None,
    using: Backend | None = None,
) -> Iterator[tuple[CrfTile, np.ndarray]]:
    """Do what ``dense_crf`` does tile by tile, without all probabilities in memory at once.

    ``probabilities`` gives those of some rows and columns of the image, (L, h, w); the others are as there.

    Yields:
        A tile and the marginals of its kept pixels, (L, rows, columns), float32, in [0, 1]. Every pixel is in one tile.
    """
    settings = settings or CrfSettings()
    # Tiles see the lattice of the whole image: their labels are its but for a pixel in some thousands.
    for tile in crf_tiles(image.shape[0], image.shape[1], max(settings.position_px, settings.bilateral_px)):
        top, left = tile.seen_rows.start, tile.seen_columns.start
        part = probabilities(tile.seen_rows, tile.seen_columns)
        marginals = _sharpened(part, image[tile.seen_rows, tile.seen_columns], settings, using, (top, left))
        rows = slice(tile.rows.start - top, tile.rows.stop - top)
        yield tile, marginals[:, rows, tile.columns.start - left : tile.columns.stop - left]


def _sharpened(
    part: np.ndarray, image: np.ndarray, settings: CrfSettings, using: Backend | None, origin: tuple[int, int]
) -> np.ndarray:
    """The marginals of what is seen of a tile, whose first pixel is at ``origin``."""
    if not np.isfinite(part).all():
        raise ValueError("dense_crf found probabilities that are NaN or infinite. Did the network diverge?")
    if len(part) <= 1 or part.size == 0:
        return np.ones(part.shape, np.float32)
    # A copy of ours in any case: pydensecrf refuses read-only memory.
    energies = np.array(-np.log(np.maximum(part, SMALLEST_PROBABILITY)), np.float32, order="C")
    if (using or backend()) == "pydensecrf":
        return _by_pydensecrf(energies, image, settings)
    # Loads numba: a second that only users of the CRF pay.
    from wss_data.crf.mean_field import mean_field

    return mean_field(energies, image, settings, origin)


def crf_tiles(height: int, width: int, deviation_px: float) -> list[CrfTile]:
    """The tiles of an image: itself up to ``LARGEST_WHOLE``, else tiles of at most ``TILE_PIXELS`` that overlap.

    ``deviation_px``: largest standard deviation of the CRF's terms, pixels; a wide one reaches less far.
    """
    if height * width <= LARGEST_WHOLE:
        whole = slice(0, height), slice(0, width)
        return [CrfTile(*whole, *whole)]
    side = math.isqrt(TILE_PIXELS)
    # Along a side that is shorter than a tile's there is one tile, longer along the other.
    most_rows = min(height, max(side, TILE_PIXELS // width))
    most_columns = min(width, TILE_PIXELS // most_rows)
    return [
        CrfTile(rows, columns, seen_rows, seen_columns)
        for rows, seen_rows in _spans(height, most_rows, deviation_px)
        for columns, seen_columns in _spans(width, most_columns, deviation_px)
    ]


def _spans(length: int, most: int, deviation_px: float) -> list[tuple[slice, slice]]:
    """Cut [0, length) into parts of like size; each with what is seen of it, at most ``most`` long."""
    if length <= most:
        return [(slice(0, length), slice(0, length))]
    overlap = min(math.ceil(OVERLAP * deviation_px), most // 4)
    count = math.ceil(length / (most - 2 * overlap))
    edges = [length * part // count for part in range(count + 1)]
    return [
        (slice(start, end), slice(max(0, start - overlap), min(length, end + overlap)))
        for start, end in pairwise(edges)
    ]


def _by_pydensecrf(energies: np.ndarray, image: np.ndarray, settings: CrfSettings) -> np.ndarray:
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise WssError(MISSING) from error
    labels, height, width = energies.shape
    field = DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(energies.reshape(labels, -1))
    field.addPairwiseGaussian(sxy=settings.position_px, compat=settings.position_weight)
    field.addPairwiseBilateral(
        sxy=settings.bilateral_px,
        srgb=settings.bilateral_rgb,
        rgbim=np.array(image, order="C"),
        compat=settings.bilateral_weight,
    )
    marginals = np.array(field.inference(settings.iterations), np.float32)
    return marginals.reshape(labels, height, width)
