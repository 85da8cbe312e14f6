"""Gaussian mixtures of colours, in the hard form that GrabCut uses; without any random number."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Mixture:
    """Some Gaussians over colours, ready to be evaluated.

    Args:
        whitening: Inverse Cholesky factors of the covariances, side by side. Shape (3, 3 * K), float32.
        offsets: Whitened means. Shape (K, 3), float32.
        constants: Cost of each Gaussian at its mean: 0.5 log det(2 pi covariance) - log weight. Shape (K,), float32.
    """

    whitening: np.ndarray
    offsets: np.ndarray
    constants: np.ndarray


def fit_mixture(colours: np.ndarray, components: int = 5, rounds: int = 5, floor: float = 4.0) -> Mixture:
    """Fit Gaussians to colours by k-means, started from equal slices along the main direction of the colours.

    Args:
        colours: At least one colour, 0 to 255. Shape (N, 3), float32.
        components: Number of Gaussians; fewer if there are fewer colours.
        rounds: Rounds of k-means.
        floor: Added to the variances, squared grey levels: a flat surface must not forbid the next shade.

    Returns:
        The mixture.
    """
    colours = np.ascontiguousarray(colours, dtype=np.float32)
    components = min(components, len(colours))
    labels: np.ndarray = np.zeros((len(colours), 1), np.int32)
    if components > 1:
        main = np.linalg.eigh(np.cov(colours.T))[1][:, -1]
        labels[np.argsort(colours @ main, kind="stable"), 0] = np.arange(len(colours)) * components // len(colours)
        criteria = (cv2.TERM_CRITERIA_MAX_ITER + cv2.TERM_CRITERIA_EPS, rounds, 1.0)
        labels = cv2.kmeans(colours, components, labels, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)[1]
    return _of_labels(colours, labels.ravel(), components, floor)


def _of_labels(colours: np.ndarray, labels: np.ndarray, components: int, floor: float) -> Mixture:
    whitening, offsets, constants = [], [], []
    for component in range(components):
        own = colours[labels == component]
        if not len(own):
            continue
        mean = own.mean(axis=0)
        centred = (own - mean).astype(np.float64)
        covariance = centred.T @ centred / len(own) + floor * np.eye(3)
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        whitening.append(inverse.T)
        offsets.append(inverse @ mean)
        half_log_det = -np.log(np.diag(inverse)).sum()
        constants.append(half_log_det + 1.5 * np.log(2 * np.pi) - np.log(len(own) / len(colours)))
    return Mixture(
        np.concatenate(whitening, axis=1).astype(np.float32),
        np.array(offsets, np.float32),
        np.array(constants, np.float32),
    )


def colour_cost(mixture: Mixture, colours: np.ndarray) -> np.ndarray:
    """Negative log-likelihood under the best of the Gaussians, its weight counted.

    Args:
        mixture: The Gaussians.
        colours: 0 to 255. Shape (..., 3), any number.

    Returns:
        min over k of -log(weight_k N(colour; k)). Shape (...), float32.

    Source:
        Rother, Kolmogorov and Blake, *GrabCut*, SIGGRAPH 2004, eqs. 8 and 9.
    """
    flat = colours.reshape(-1, 3).astype(np.float32)
    white = (flat @ mixture.whitening).reshape(len(flat), -1, 3) - mixture.offsets
    costs = 0.5 * np.einsum("nkc,nkc->nk", white, white) + mixture.constants
    return costs.min(axis=1).reshape(colours.shape[:-1])
