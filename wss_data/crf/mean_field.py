"""Mean-field inference in a fully connected conditional random field: the built-in backend.

It releases Python's global lock nearly all the time, and writes only to what it makes itself.

Source:
    Krähenbühl and Koltun, *Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials*, NIPS 2011.
"""

import numpy as np

from wss_data.crf.permutohedral import (
    CHUNK,
    SUMS,
    Array,
    bilateral_lattice,
    blur,
    compiled,
    position_lattice,
    slice_,
    splat,
)

WIDTHS = (1, 4, 8)
"""Labels that are filtered side by side: the first that takes all, or the last, several times. More are no faster."""

LOWEST_EXPONENT = -50.0
"""Below it e^x counts as e^-50: smaller marginals change nothing, and sums of them would be slow (subnormal)."""


def mean_field(
    energies: Array,
    image: Array,
    *,
    position_px: float,
    position_weight: float,
    bilateral_px: float,
    bilateral_rgb: float,
    bilateral_weight: float,
    iterations: int,
    origin: tuple[int, int] = (0, 0),
) -> Array:
    """Infer the marginals of a fully connected CRF with two Gaussian terms and Potts compatibility.

    The last label is not filtered. Marginals sum to one, so what the filters make of it is what they make of ones
    less what they make of the others; and only differences of scores matter. With two labels that halves the work.

    Args:
        energies: Unary energies, negative log probabilities. Shape (L, H, W), float32, finite, L >= 2, H W >= 1.
        image: Shape (H, W, 3), uint8, RGB.
        position_px: See ``wss_data.crf.dense_crf.CrfSettings``, as all that follow.
        position_weight: As above.
        bilateral_px: As above.
        bilateral_rgb: As above.
        bilateral_weight: As above.
        iterations: As above; 0 gives the softmax of the negated energies.
        origin: (row, column) of the first pixel, where this is a part of a larger image: its lattice is then a part of
            the larger one's.

    Returns:
        Marginal of each label at each pixel. Shape (L, H, W), float32, in [0, 1].

    Source:
        Krähenbühl and Koltun, NIPS 2011, algorithm 1.
    """
    labels, height, columns = energies.shape
    count, filtered = height * columns, labels - 1
    # A tuple of zeros, because numba compiles for the length of a tuple.
    width = next(width for width in WIDTHS if filtered <= width or width == WIDTHS[-1])
    lanes = (0,) * width
    blocks = -(-filtered // width)
    scores = np.ascontiguousarray((energies[-1] - energies[:-1]).reshape(filtered, count))
    marginals, last = np.zeros((blocks, count, width), np.float32), np.empty(count, np.float32)
    messages, pull = np.zeros_like(marginals), np.zeros(count, np.float32)
    _softmax(scores, messages, pull, marginals, last)
    if iterations:
        terms = []
        # The first term overwrites the messages of the iteration before, the second adds to them.
        for weight, kept, (lattice, of_ones) in (
            (position_weight, np.float32(0), position_lattice(height, columns, position_px, origin)),
            (bilateral_weight, np.float32(1), bilateral_lattice(image, bilateral_px, bilateral_rgb, origin)),
        ):
            pull += np.float32(weight) * of_ones
            factor, values = np.float32(weight * lattice.gain), np.empty((lattice.size + 1, width), np.float32)
            terms.append((lattice, factor, kept, values))
        for _ in range(iterations):
            for lattice, factor, kept, values in terms:
                for signal, message in zip(marginals, messages, strict=True):
                    splat(lattice.corners, lattice.weights, signal, values, lanes)
                    blur(values, lattice.path, lanes)
                    slice_(lattice.corners, lattice.weights, values, factor, kept, message, lanes)
            _softmax(scores, messages, pull, marginals, last)
    others = marginals.transpose(0, 2, 1).reshape(blocks * width, count)[:filtered]
    return np.concatenate([others, last[None]]).reshape(labels, height, columns)


@compiled(forceinline=True)
def _exp(x: np.float32) -> np.float32:
    """e^x for x <= 0 within two units of the last place. Source: Cephes' ``expf`` (Moshier), its polynomial."""
    x = x if x > np.float32(LOWEST_EXPONENT) else np.float32(LOWEST_EXPONENT)
    halvings = np.rint(x * np.float32(1.44269504))
    r = x - halvings * np.float32(0.693359375) + halvings * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1)
    return p * np.int32((np.int32(halvings) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled(fastmath=SUMS)
def _softmax(scores: Array, messages: Array, pull: Array, marginals: Array, last: Array) -> None:
    """Turn scores (K, N) and messages (B, N, lanes) into ``marginals`` (B, N, lanes) and those of the last label.

    The last label's message is ``pull`` less the others': it is taken off all scores, which changes no marginal.
    """
    labels, count = scores.shape
    lanes = messages.shape[2]
    values = np.empty((labels, CHUNK), np.float32)
    shift, peak, total = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    for start in range(0, count, CHUNK):
        end = min(start + CHUNK, count)
        size = end - start
        whole, final = pull[start:end], last[start:end]
        # Along many pixels of one label the compiler makes vectors, if it sees that no index is negative.
        for i in range(size):
            peak[i] = 0
            shift[i] = -whole[i]
        for label in range(labels):
            message = messages[label // lanes, start:end, label % lanes]
            score, value = scores[label, start:end], values[label]
            for i in range(size):
                shift[i] += message[i]
                value[i] = score[i] + message[i]
        for label in range(labels):
            value = values[label]
            for i in range(size):
                value[i] += shift[i]
                peak[i] = value[i] if value[i] > peak[i] else peak[i]
        for i in range(size):
            total[i] = final[i] = _exp(-peak[i])
        for label in range(labels):
            value = values[label]
            for i in range(size):
                value[i] = _exp(value[i] - peak[i])
                total[i] += value[i]
        for i in range(size):
            total[i] = np.float32(1) / total[i]
            final[i] *= total[i]
        for label in range(labels):
            marginal, value = marginals[label // lanes, start:end, label % lanes], values[label]
            for i in range(size):
                marginal[i] = value[i] * total[i]
