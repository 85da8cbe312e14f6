"""The energy of both cuts: colours by Gaussian mixtures in the hard form of GrabCut, and location. Deterministic."""

from typing import NamedTuple

import cv2
import numpy as np

COMPONENTS = 5  # Gaussians of a colour model
KMEANS_ROUNDS = 5  # Ours: the colours of a small image converge in fewer
VARIANCE_FLOOR = 4.0  # Added to the variances, squared grey levels: a flat surface must not forbid the next shade. Ours
SMOOTHNESS = 50.0  # Energy of a boundary between equal neighbours, per pixel of the image


class Mixture(NamedTuple):
    """Some Gaussians over colours, ready to be evaluated."""

    whitening: np.ndarray  # Inverse Cholesky factors of the covariances, side by side. Shape (3, 3 * K), float32.
    offsets: np.ndarray  # Whitened means. Shape (K, 3), float32.
    constants: np.ndarray  # Cost of each at its mean: 0.5 log det(2 pi covariance) - log weight. Shape (K,), float32.


def fit_mixture(colours: np.ndarray) -> Mixture:
    """Fit Gaussians to colours, (N, 3), 0 to 255, N >= 1, by k-means: ``COMPONENTS``, or fewer for fewer colours."""
    colours = np.ascontiguousarray(colours, dtype=np.float32)
    components = min(COMPONENTS, len(colours))
    labels: np.ndarray = np.zeros((len(colours), 1), np.int32)
    if components > 1:
        # Started from equal slices along the main direction of the colours.
        main = np.linalg.eigh(np.cov(colours.T))[1][:, -1]
        labels[np.argsort(colours @ main, kind="stable"), 0] = np.arange(len(colours)) * components // len(colours)
        criteria = (cv2.TERM_CRITERIA_MAX_ITER + cv2.TERM_CRITERIA_EPS, KMEANS_ROUNDS, 1.0)
        labels = cv2.kmeans(colours, components, labels, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)[1]
    whitening, offsets, constants = [], [], []
    for component in range(components):
        own = colours[labels.ravel() == component]
        if not len(own):
            continue
        mean = own.mean(axis=0)
        centred = (own - mean).astype(np.float64)
        covariance = centred.T @ centred / len(own) + VARIANCE_FLOOR * np.eye(3)
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
    """Minimum over k of -log(weight_k N(colour; k)): shape (..., 3), 0 to 255 -> (...), float32.

    Source:
        Rother, Kolmogorov and Blake, *GrabCut*, SIGGRAPH 2004, eqs. 8 and 9.
    """
    flat = colours.reshape(-1, 3).astype(np.float32)
    white = (flat @ mixture.whitening).reshape(len(flat), -1, 3) - mixture.offsets
    costs = 0.5 * np.einsum("nkc,nkc->nk", white, white) + mixture.constants
    return costs.min(axis=1).reshape(colours.shape[:-1])


def fit_sides(inside: np.ndarray, outside: np.ndarray) -> tuple[Mixture, Mixture] | None:
    """The colours of foreground and background, each (N, 3); ``None`` if one has none, since then they say nothing."""
    return (fit_mixture(inside), fit_mixture(outside)) if len(inside) and len(outside) else None


def foreground_cost(image: np.ndarray, models: tuple[Mixture, Mixture] | None) -> np.ndarray | float:
    """Cost of calling a pixel foreground less that of calling it background, (H, W), float32, by ``fit_sides``."""
    return 0.0 if models is None else colour_cost(models[0], image) - colour_cost(models[1], image)


def location_cost(prior: np.ndarray, tiny: float) -> np.ndarray:
    """Negative log-odds of a prior in [0, 1] that is kept ``tiny`` away from 0 and 1, so that no pixel is forbidden.

    Example:
        >>> location_cost(np.array([0.5, 0.9]), 0.01).round(2).tolist()
        [0.0, -2.2]
    """
    inside = np.clip(prior, tiny, 1 - tiny).astype(np.float64)
    return np.log(1 - inside) - np.log(inside)
