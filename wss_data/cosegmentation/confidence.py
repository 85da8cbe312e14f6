"""What an engine knows about its own masks without a truth: for confidence, ranking and search."""

from collections.abc import Sequence

import numpy as np

# Quantile of a group's objects that the others are compared with. In a large group it lies among the class's objects as
# long as these are more than a tenth.
MOST_TYPICAL = 0.9
# An object half as much like the others as the most typical ones are is trusted in full: rare poses are not wrong.
TYPICAL_ENOUGH = 0.5


def confidence(probability: np.ndarray, earlier: np.ndarray, typical: float = 1.0) -> float:
    """Overlap of two foreground probabilities times the mean of abs(2 probability - 1) times ``typicality``, in [0, 1].

    ``probability`` is the final one, on cells, (h, w); ``earlier`` the one before self-training; in a group too small
    for that, the soft map before it was sharpened.
    """
    # A mask that two ways agree on is right more often, and so is one without doubtful pixels. However well it is cut
    # out, an object that is nothing like the group's is not the class's.
    return typical * overlap(probability, earlier) * float(np.abs(2 * probability - 1).mean())


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two soft masks, in [0, 1]; 0 if both are empty. Both the same shape, in [0, 1].

    >>> overlap(np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.0]))
    0.75
    """
    union = float(np.maximum(first, second).sum())
    return float(np.minimum(first, second).sum()) / union if union > 0 else 0.0


def pooled(descriptors: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The mean over cells, weighted by ``weights``, (h, w), if given, as (C,) float32 of length 1; 0 if none counts."""
    cells = np.asarray(descriptors, np.float32).reshape(-1, descriptors.shape[-1])
    counts = np.ones(len(cells), np.float32) if weights is None else np.asarray(weights, np.float32).ravel()
    return of_length_1(counts @ cells)


def of_length_1(vectors: np.ndarray) -> np.ndarray:
    """Vectors along the last axis divided by their length; those of length 0 stay. Any shape, float32."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def prototype_distances(objects: Sequence[np.ndarray]) -> np.ndarray:
    """How far each object of a group, a pooled descriptor (C,) of length 1 or 0, is from the others, (n,) float32.

    1 less the cosine to the mean of the *others*, in [0, 2]: 0 is typical. Nan where there is no other, or no
    foreground.
    """
    vectors = np.stack([np.asarray(vector, np.float32) for vector in objects])
    others = of_length_1(vectors.sum(axis=0) - vectors)
    distances = 1 - (vectors * others).sum(axis=1)
    distances[~vectors.any(axis=1) | ~others.any(axis=1)] = np.nan
    return distances


def typicality(distances: np.ndarray) -> np.ndarray:
    """Whether each object is of its group's kind, from ``prototype_distances``, (n,) float64, in [0, 1].

    1 for an object at least half as much like the others as the most typical tenth, falling to 0 for one that has
    nothing in common with them; 1 where nothing is known.
    """
    alike = 1 - np.asarray(distances, float)
    known = alike[np.isfinite(alike)]
    enough = TYPICAL_ENOUGH * np.quantile(known, MOST_TYPICAL) if len(known) else 0.0
    if enough <= 0:
        return np.ones(len(alike))
    return np.nan_to_num(np.clip(alike / enough, 0, 1), nan=1.0)
