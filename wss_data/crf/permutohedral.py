"""Gaussian filters on permutohedral lattices, compiled by numba.

The lattice filters N points of d dimensions with a Gaussian of standard deviation 1. Each point is written
(*splatted*) to the d + 1 corners of the simplex that it lies in, the corners are blurred along each axis of the
lattice, and each point reads (*slices*) its corners again. The cost grows with N, not with its square.

Everything here releases Python's global lock and writes only to what it makes itself: threads may run it side by side.

Source:
    Adams, Baek and Davis, *Fast High-Dimensional Filtering Using the Permutohedral Lattice*, Eurographics 2010.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])
Array = np.ndarray

SMALLEST_NORM = 1e-20  # Added to a sum of weights before its root is divided by. Source: the authors' code
SIDE_BY_SIDE = 8  # Labels that are filtered side by side, which share the search for their corners. More are no faster
# Position lattices that are kept, one a size of image, and the pixels of the largest: 32 bytes a pixel
KEPT_LATTICES, LARGEST_KEPT = 8, 1 << 20
# What the compiler may do with sums; not in building a lattice, where the last bit can decide on a corner
SUMS = {"contract", "reassoc", "nsz", "arcp"}

# Odd numbers without pattern. A corner's key is the sum of its coordinates times these, modulo 2^64: the next corner's
# key is a constant away, and among a million corners any two share one with a chance of 3 in 10^8.
KEY_FACTORS = np.array(
    [0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB, 0x56E8FEB86659FD93, 0x20761D6478BD642F]
)


def compiled(**options: Any) -> Callable[[F], F]:
    """``numba.njit`` without Python's lock, its machine code kept on disk where that can be.

    Functions of numbers alone may be called from loops; arrays are handed on to none there, because numba would count
    references to them at each call.
    """

    def compile_later(function: F) -> F:
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
        except RuntimeError:
            # Nothing can be written beside this file, in the user's cache, or in NUMBA_CACHE_DIR.
            return numba.njit(nogil=True, error_model="numpy", **options)(function)

    return compile_later


class Lattice(NamedTuple):
    """Points among the corners of a permutohedral lattice. Corner 0 stands for "none" and holds zeros."""

    corners: Array  # Corners of each point's simplex. Shape (N, d + 1), uint32, in [1, M].
    # Barycentric coordinates; in a normalised lattice, times the point's factor. Shape (N, d + 1), float32.
    weights: Array
    # The lines of neighbouring corners along the first axis, a 0 after each line, then along the second, and so on.
    # Corners without a neighbour on an axis are left out there. Shape (P,), uint32.
    path: Array
    size: int  # M, the number of corners that some point touches.

    def filter(self, signal: Array) -> Array:
        """Sum of all points' signals, weighted by a Gaussian of their distance. ``signal``: (N, lanes), float32."""
        filtered = np.zeros_like(signal)
        self.add_filtered(signal, 1.0, filtered)
        return filtered

    def add_filtered(self, signal: Array, weight: float, message: Array) -> None:
        """Add ``weight`` times ``filter(signal)`` to ``message``. Both: (N, lanes), float32."""
        # What splat, blur and slice lack: 1 / (1 + 2^-d). Source: the code of Adams et al.
        gain = 1 / (1 + 2.0 ** (1 - self.corners.shape[1]))
        for first in range(0, signal.shape[1], SIDE_BY_SIDE):
            # A tuple of zeros, because numba compiles for the length of a tuple: loops of a known length become
            # vectors. Unsigned, because a negative index would be looked for at each access.
            lanes = (0,) * min(SIDE_BY_SIDE, signal.shape[1] - first)
            _add_filtered(self, signal, np.float32(weight * gain), message, np.uint64(first), lanes)


def make_lattice(features: Array) -> Lattice:
    """Find the lattice corners around points, and which of these are neighbours.

    Args:
        features: Where the points are, in units of the Gaussian's standard deviation. Shape (N, d), float32, N >= 1,
            d <= 5.

    Returns:
        The lattice, not normalised.

    Source:
        Adams, Baek and Davis 2010, sections 3 and 4.
    """
    dimensions = features.shape[1]
    deviation = np.float32(math.sqrt(2 / 3) * (dimensions + 1))
    scales = np.array([deviation / math.sqrt((i + 1) * (i + 2)) for i in range(dimensions)], np.float32)
    # The last coordinate follows from the others, which sum to zero with it: it counts for nothing in the key.
    factors = np.append(KEY_FACTORS[:dimensions], 0)
    steps = factors.sum() - (dimensions + 1) * factors
    corners, weights, path, size = _corners_and_lines(features, scales, factors, steps)
    return Lattice(corners, weights, path, int(size))


def normalised(lattice: Lattice) -> tuple[Lattice, Array]:
    """Scale a lattice's filter so that the weights of a point's neighbours are comparable everywhere.

    Returns:
        A lattice that filters by k(i, j) / sqrt(sum_j k(i, j) sum_i k(i, j)), and its filter of ones, which is only
        about 1, because the root is not the sum. Shape (N,), float32.

    Source:
        Krähenbühl and Koltun, *Parameter Learning and Convergent Inference for Dense Random Fields*, ICML 2013; what
        pydensecrf calls NORMALIZE_SYMMETRIC, its default.

    Example:
        >>> lattice, of_ones = normalised(make_lattice(np.array([[0.0, 0.0], [50.0, 50.0]], np.float32)))
        >>> print(lattice.filter(np.array([[1.0], [0.0]], np.float32)).ravel().round(3), of_ones.round(3))
        [1. 0.] [1. 1.]
    """
    ones = np.ones((len(lattice.corners), 1), np.float32)
    norms = 1 / np.sqrt(lattice.filter(ones) + np.float32(SMALLEST_NORM))
    scaled = lattice._replace(weights=lattice.weights * norms)
    return scaled, scaled.filter(ones)[:, 0]


@lru_cache(KEPT_LATTICES)
def _position_lattice(height: int, width: int, deviation_px: float, origin: tuple[int, int]) -> tuple[Lattice, Array]:
    return normalised(make_lattice(_places(height, width, origin) / np.float32(deviation_px)))


def position_lattice(
    height: int, width: int, deviation_px: float, origin: tuple[int, int] = (0, 0)
) -> tuple[Lattice, Array]:
    """The normalised lattice of the pixel positions of an image of ``height`` x ``width`` px, and its filter of ones.

    It is kept for the next image of this size, unless the image is very large or a part of a larger one: then
    ``origin`` is the (row, column) of its first pixel. ``deviation_px``: standard deviation, pixels.
    """
    kept = height * width <= LARGEST_KEPT and origin == (0, 0)
    make = _position_lattice if kept else _position_lattice.__wrapped__
    return make(height, width, deviation_px, origin)


def bilateral_lattice(
    image: Array, deviation_px: float, deviation_rgb: float, origin: tuple[int, int] = (0, 0)
) -> tuple[Lattice, Array]:
    """As ``position_lattice``, of an image's pixel positions and colours. ``image``: (H, W, 3), uint8.

    ``deviation_rgb``: standard deviation of colour, in units of 0..255.
    """
    places = _places(image.shape[0], image.shape[1], origin) / np.float32(deviation_px)
    colours = image.reshape(-1, 3) / np.float32(deviation_rgb)
    return normalised(make_lattice(np.hstack([places, colours])))


def _places(height: int, width: int, origin: tuple[int, int]) -> Array:
    """Column and row of each pixel, row by row, counted from the whole image's corner. Shape (H W, 2), float32."""
    rows, columns = np.indices((height, width), np.float32)
    return np.stack([columns.ravel() + np.float32(origin[1]), rows.ravel() + np.float32(origin[0])], axis=1)


@compiled()
def _corners_and_lines(
    features: Array, scales: Array, factors: Array, steps: Array
) -> tuple[Array, Array, Array, np.int64]:
    """The fields of a ``Lattice``; corners are numbered from 1 in the order in which points meet them."""
    count, dimensions = features.shape
    each = dimensions + 1
    corners, weights = np.empty((count, each), np.uint32), np.empty((count, each), np.float32)
    # Our own table of keys: with numba's dictionary a CRF of two labels takes 1.7 times as long. It grows, because a
    # table for the most corners that there can be does not fit the processor's cache, and images need a tenth of it.
    known, table, size = np.empty(1 << 13, np.int64), np.zeros(1 << 14, np.uint32), np.uint32(0)
    width = np.float32(each)
    inverse = np.float32(1) / width
    offset, fraction = np.empty(each, np.float32), np.empty(each + 1, np.float32)
    rank, ranked, before = np.empty(each, np.int64), np.empty(each, np.int64), np.zeros(each, np.int64)
    for point in range(count):
        # The coordinates in the plane of the lattice: Adams et al., section 4.1.
        total = np.float32(0)
        for j in range(dimensions, 0, -1):
            scaled = features[point, j - 1] * scales[j - 1]
            offset[j] = total - np.float32(j) * scaled
            total += scaled
        offset[0] = total
        # The nearest corner of colour 0, and how the coordinates lie beyond it, from the largest to the smallest.
        surplus, key = np.int64(0), np.int64(0)
        for i in range(each):
            cell = np.rint(inverse * offset[i])
            offset[i] -= cell * width
            surplus += np.int64(cell)
            key += np.int64(cell) * each * factors[i]
            rank[i] = 0
        for i in range(dimensions):
            for j in range(i + 1, each):
                less = np.int64(offset[i] < offset[j])
                rank[i] += less
                rank[j] += 1 - less
        fraction[:] = 0
        for i in range(each):
            # Rounding may leave the plane on which coordinates sum to zero: the outermost go one cell back.
            place = rank[i] + surplus
            if place < 0:
                place += each
                offset[i] -= width
                key += each * factors[i]
            elif place >= each:
                place -= each
                offset[i] += width
                key -= each * factors[i]
            ranked[place] = i
            beyond = offset[i] * inverse
            fraction[dimensions - place] += beyond
            fraction[each - place] -= beyond
        fraction[0] += np.float32(1) + fraction[each]
        for colour in range(each):
            if colour > 0:
                key += steps[ranked[each - colour]]
            weights[point, colour] = fraction[colour]
            # Next to each other, points mostly share corners: that saves the look-up.
            if point > 0 and key == before[colour]:
                corners[point, colour] = corners[point - 1, colour]
                continue
            before[colour] = key
            slot = _slot(key, known, table)
            if table[slot] == 0:
                size += np.uint32(1)
                known[size] = key
                table[slot] = size
            corners[point, colour] = table[slot]
            if size + 1 == len(known):
                known, table = _twice(known)
    return corners, weights, _lines(known, table, np.int64(size), steps), np.int64(size)


@compiled(forceinline=True)
def _slot(key: np.int64, known: Array, table: Array) -> np.int64:
    """The slot of ``table`` that holds the number of a key of ``known``, or the empty one where it belongs."""
    # Fibonacci hashing: the upper bits of a product, brought into the table's length without knowing its logarithm.
    upper = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    slot = np.int64((upper * np.uint64(len(table))) >> np.uint64(32))
    while table[slot] != 0 and known[table[slot]] != key:
        slot = (slot + 1) & (len(table) - 1)
    return slot


@compiled()
def _twice(known: Array) -> tuple[Array, Array]:
    """The keys with room for as many more, and a table for them that is half empty when they are there."""
    longer, table = np.empty(2 * len(known), np.int64), np.zeros(4 * len(known), np.uint32)
    # One by one: numba takes a second and more to compile the assignment of a slice.
    for corner in range(1, len(known)):
        longer[corner] = known[corner]
        table[_slot(known[corner], longer, table)] = corner
    return longer, table


@compiled()
def _lines(known: Array, table: Array, size: np.int64, steps: Array) -> Array:
    """The ``path`` of a ``Lattice``: the corners that have a neighbour along each axis, line by line."""
    path, length = np.empty(2 * size * len(steps), np.uint32), 0
    for step in steps:
        following, follows = np.zeros(size + 1, np.uint32), np.zeros(size + 1, np.bool_)
        for corner in range(1, size + 1):
            following[corner] = table[_slot(known[corner] + step, known, table)]
            follows[following[corner]] = True  # Of corner 0 as well, which nobody asks.
        for corner in range(1, size + 1):
            if follows[corner] or following[corner] == 0:
                continue
            other = np.uint32(corner)
            while other != 0:
                path[length] = other
                length += 1
                other = following[other]
            path[length] = 0
            length += 1
    return path[:length].copy()


@compiled(fastmath=SUMS)
def _add_filtered(
    lattice: Lattice, signal: Array, factor: np.float32, message: Array, first: np.uint64, lanes: tuple[int, ...]
) -> None:
    """Add ``factor`` times the filtered columns of ``signal`` from ``first`` on to those of ``message``."""
    corners, weights, path = lattice.corners, lattice.weights, lattice.path
    count, each = corners.shape
    values = np.zeros((lattice.size + 1, len(lanes)), np.float32)
    # Splat: sum up at each corner what the points around it bring.
    for i in range(count):
        for j in range(each):
            corner, weight = corners[i, j], weights[i, j]
            for lane in range(len(lanes)):
                values[corner, lane] += weight * signal[i, first + np.uint64(lane)]
    # Blur: add to each corner half of its two neighbours, axis after axis, in place.
    before = np.zeros(len(lanes), np.float32)
    here, half = np.uint32(0), np.float32(0.5)
    for t in range(len(path)):
        # At a line's end "here" is corner 0, which stays zero: so lines do not touch.
        live, after = np.float32(here != 0), path[t]
        for lane in range(len(lanes)):
            now = values[here, lane]
            values[here, lane] = live * (now + half * (before[lane] + values[after, lane]))
            before[lane] = now
        here = after
    # Slice: give each point what its corners hold.
    for i in range(count):
        for j in range(each):
            corner, weight = corners[i, j], factor * weights[i, j]
            for lane in range(len(lanes)):
                message[i, first + np.uint64(lane)] += weight * values[corner, lane]
