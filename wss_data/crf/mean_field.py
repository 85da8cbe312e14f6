"""Mean-field inference in a fully connected conditional random field: the built-in backend.

It releases Python's global lock nearly all the time, and writes only to what it makes itself.
"""

import numpy as np

from wss_data.crf.permutohedral import SUMS, Array, bilateral_lattice, compiled, position_lattice
from wss_data.crf.settings import CrfSettings

# Below it e^x counts as e^-50: smaller marginals change nothing, and sums of them would be slow (subnormal)
LOWEST_EXPONENT = -50.0


def mean_field(energies: Array, image: Array, settings: CrfSettings, origin: tuple[int, int] = (0, 0)) -> Array:
    """Infer the marginals of a fully connected CRF with two Gaussian terms and Potts compatibility.

    Args:
        energies: Unary energies, negative log probabilities. Shape (L, H, W), float32, finite, L >= 2, H W >= 1.
        image: Shape (H, W, 3), uint8, RGB.
        settings: The pairwise terms; 0 iterations give the softmax of the negated energies.
        origin: (row, column) of the first pixel, where this is a part of a larger image: its lattice is then a part of
            the larger one's.

    Returns:
        Marginal of each label at each pixel. Shape (L, H, W), float32, in [0, 1].

    Source:
        Krähenbühl and Koltun, NIPS 2011, algorithm 1.
    """
    labels, height, columns = energies.shape
    # The last label is not filtered. Marginals sum to one, so what the filters make of it is what they make of ones
    # less what they make of the others; and only differences of scores matter. With two labels that halves the work.
    scores = np.ascontiguousarray((energies[-1] - energies[:-1]).reshape(labels - 1, -1).T)
    marginals, last = np.empty_like(scores), np.empty(len(scores), np.float32)
    messages, pull = np.zeros_like(scores), np.zeros_like(last)
    _softmax(scores, messages, pull, marginals, last)
    terms = []
    if settings.iterations:
        place = position_lattice(height, columns, settings.position_px, origin)
        colour = bilateral_lattice(image, settings.bilateral_px, settings.bilateral_rgb, origin)
        for weight, (lattice, of_ones) in ((settings.position_weight, place), (settings.bilateral_weight, colour)):
            pull += np.float32(weight) * of_ones
            terms.append((weight, lattice))
    for _ in range(settings.iterations):
        messages[:] = 0
        for weight, lattice in terms:
            lattice.add_filtered(marginals, weight, messages)
        _softmax(scores, messages, pull, marginals, last)
    return np.concatenate([marginals.T, last[None]]).reshape(labels, height, columns)


@compiled(forceinline=True)
def _exp(x: np.float32) -> np.float32:
    """e^x for x <= 0 within two units of the last place. Source: Cephes' ``expf`` (Moshier), its polynomial."""
    # numba's own exponential is a call for each number; this one becomes vectors.
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
    # 2^halvings, written into the exponent of a float32.
    return p * np.int32((np.int32(halvings) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled(fastmath=SUMS)
def _softmax(scores: Array, messages: Array, pull: Array, marginals: Array, last: Array) -> None:
    """Turn scores and messages, (N, K), into ``marginals``, (N, K), and those of the last label, (N,).

    The last label's message is ``pull`` less the others': it is subtracted from all scores, which changes no marginal.
    """
    count, labels = scores.shape
    for i in range(count):
        shift, peak = -pull[i], np.float32(0)
        for label in range(labels):
            shift += messages[i, label]
        for label in range(labels):
            score = scores[i, label] + messages[i, label] + shift
            marginals[i, label] = score
            peak = score if score > peak else peak
        last[i] = -peak
        for label in range(labels):
            marginals[i, label] -= peak
    # Loops of their own over all numbers, so that the compiler makes vectors of them.
    flat = marginals.reshape(count * labels)
    for i in range(len(flat)):
        flat[i] = _exp(flat[i])
    for i in range(count):
        last[i] = _exp(last[i])
    for i in range(count):
        total = last[i]
        for label in range(labels):
            total += marginals[i, label]
        scale = np.float32(1) / total
        last[i] *= scale
        for label in range(labels):
            marginals[i, label] *= scale
