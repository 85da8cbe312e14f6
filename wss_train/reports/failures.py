"""Where a model fails, after the fact: classes that merge, and extent that is under- or overestimated.

Looks at true masks, so it says something about a model and chooses nothing.

Source:
    Shen et al., BMVC 2017, figure 4: objects that always come together merge; extent is wrong.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wss_train.metrics import count_pairs

Kind = Literal["merged", "confused", "underestimated", "overestimated"]
"""How a class fails in an image: ``merged`` into another class that is there, too; ``confused`` with one that is not;
``underestimated``: taken for background; ``overestimated``: background taken for it."""

AT_LEAST = 0.5
"""A class fails in an image where this fraction of its pixels goes the same wrong way."""

SMALLEST_OBJECT = 0.01
"""Classes that cover less of an image than this are not looked at: a few pixels are no failure to learn from."""


@dataclass(frozen=True)
class Failure:
    """One way in which a class failed in one image.

    Args:
        kind: How.
        wanted: Class of the truth; background, 0, for ``overestimated``.
        found: Class of the prediction; background, 0, for ``underestimated``.
        fraction: Of the class's pixels that went this way, in [``AT_LEAST``, 1]; of those of the truth, or, for
            ``overestimated``, of the prediction's.
        cost: Fraction of the image's decided pixels that are wrong by it, in (0, 1].
    """

    kind: Kind
    wanted: int
    found: int
    fraction: float
    cost: float


def failures_of(truth: np.ndarray, prediction: np.ndarray, ignore_index: int = 255) -> list[Failure]:
    """How the classes of one image fail.

    Args:
        truth: Label mask. Shape (H, W), uint8.
        prediction: Label mask of the same shape, without void.
        ignore_index: Value of void in the truth.

    Returns:
        The costliest first; empty where nothing of note fails.

    >>> truth, prediction = np.array([[1, 1, 1, 0]], np.uint8), np.array([[0, 0, 1, 0]], np.uint8)
    >>> [(failure.kind, failure.cost) for failure in failures_of(truth, prediction)]
    [('underestimated', 0.5)]
    """
    pairs = count_pairs(truth, prediction)
    pairs[ignore_index] = 0
    if not pairs.any():
        return []
    total, there, found = pairs.sum(), pairs.sum(axis=1), pairs.sum(axis=0)
    smallest = SMALLEST_OBJECT * total
    wrong = pairs.copy()
    np.fill_diagonal(wrong, 0)
    failures: list[tuple[Kind, int, int, float]] = []
    for wanted in np.flatnonzero(there[1:] >= smallest) + 1:
        other = int(wrong[wanted].argmax())
        kind: Kind = "underestimated" if other == 0 else "merged" if there[other] >= smallest else "confused"
        failures.append((kind, int(wanted), other, wrong[wanted, other] / there[wanted]))
    for predicted in np.flatnonzero(found[1:] >= smallest) + 1:
        failures.append(("overestimated", 0, int(predicted), pairs[0, predicted] / found[predicted]))
    kept = [
        Failure(kind, wanted, other, float(fraction), float(pairs[wanted, other] / total))
        for kind, wanted, other, fraction in failures
        if fraction >= AT_LEAST
    ]
    return sorted(kept, key=lambda failure: -failure.cost)
