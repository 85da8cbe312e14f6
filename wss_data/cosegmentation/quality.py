"""What makes a mask suspicious, without a truth to compare with. For ranking and sorting.

Some measures describe the mask; others ask for it a second time: how much of it does another way of finding it give?
The score is made of these alone (``quality_scores``); why, and what it is worth, says docs/explanation/quality.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from wss_data.cosegmentation.confidence import overlap
from wss_data.crf.dense_crf import dense_crf
from wss_data.crf.settings import CrfSettings
from wss_data.imaging.images import longest_side_size

SMALLEST_COMPONENT = 0.01  # connected components below this fraction of the foreground are specks and not counted
CRF_LONG_SIDE = 96  # longer side at which the mask is asked for again by a CRF, pixels: 6 ms of CPU time an image
CRF_DOUBT = 0.2  # probability that a pixel is not what the mask says, before that CRF
_CRF = CrfSettings(
    position_px=1.8, position_weight=3.0, bilateral_px=15.0, bilateral_rgb=5.0, bilateral_weight=6.0, iterations=5
)


@dataclass(frozen=True)
class MaskQuality:
    """Measures of one foreground mask, none of which knows the truth; each is described at its function.

    Pixels of an uncertain band count as neither foreground nor background; ``uncertain`` is their fraction, in [0, 1].
    ``agreement`` and ``prototype_distance`` are the engine's, see ``Segmented``. ``None`` where not computed or known.
    """

    compactness: float  # solidity, and components below: the names of the fields are those in databases and exports
    pieces: int
    border_contact: float
    colour_contrast: float
    uncertain: float = 0.0
    crf_agreement: float | None = None
    agreement: float | None = None
    prototype_distance: float | None = None


RANGES: Mapping[str, tuple[float, float]] = {field.name: (0, 1) for field in fields(MaskQuality)} | {
    "pieces": (0, 1 / SMALLEST_COMPONENT),
    "prototype_distance": (0, 2),
}
"""Smallest and largest value of each measure."""


def mask_quality(image: np.ndarray, mask: np.ndarray, uncertain: np.ndarray | None = None) -> MaskQuality:
    """Measure one mask, (H, W) bool, of an image, (H, W, 3) uint8; ``ValueError`` if it or the band differs in size."""
    band = np.zeros(mask.shape, bool) if uncertain is None else uncertain
    if image.shape != (*mask.shape, 3) or band.shape != mask.shape:
        raise ValueError(f"mask_quality wants one size, not {image.shape}, {mask.shape} and {band.shape}")
    mask = mask & ~band
    return MaskQuality(
        solidity(mask, band),
        connected_components(mask, band),
        border_contact(mask, band),
        colour_contrast(image, mask, band),
        float(band.mean()),
        crf_agreement(image, mask, band),
    )


def solidity(mask: np.ndarray, uncertain: np.ndarray | None = None) -> float:
    """Fraction of its convex hull that the foreground fills, in [0, 1]: 1 is convex, a comb is low; 0 if empty.

    ``uncertain``: pixels outside the mask that are not counted; so below.

    >>> solidity(np.array([[1, 0, 1], [1, 1, 1], [1, 0, 1]], bool)).__round__(2)
    0.78
    """
    area = int(mask.sum())
    if area == 0:
        return 0.0
    # OpenCV's hull area joins pixel centres and loses half a pixel on each side: draw the hull and count it instead.
    points = cv2.findNonZero(mask.astype(np.uint8))
    hull = cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(points), 1)
    if uncertain is not None:
        hull[uncertain] = 0
    return area / max(int(hull.sum()), area)


def connected_components(mask: np.ndarray, uncertain: np.ndarray | None = None) -> int:
    """Number of 8-connected components with at least 1 % of the foreground; 0 if empty. One object rarely has many.

    >>> connected_components(np.array([[1, 0, 0, 1], [0, 1, 0, 1]], bool))
    2
    """
    # Uncertain pixels may be foreground and connect: a mask is not to be suspected for what it leaves open.
    joined = mask if uncertain is None else mask | uncertain
    count, labels = cv2.connectedComponents(joined.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels[mask], minlength=count)
    areas = areas[areas > 0]
    return int((areas >= SMALLEST_COMPONENT * areas.sum()).sum())


def border_contact(mask: np.ndarray, uncertain: np.ndarray | None = None) -> float:
    """Fraction of the image's border pixels that are foreground, in [0, 1]: high where the background was taken for it.

    >>> border_contact(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool))  # 3 of 10
    0.3
    """
    border = np.ones(mask.shape, bool)
    border[1:-1, 1:-1] = False
    if uncertain is not None:
        border &= ~uncertain
    return float(mask[border].mean()) if border.any() else 0.0


def colour_contrast(image: np.ndarray, mask: np.ndarray, uncertain: np.ndarray | None = None, bins: int = 8) -> float:
    """Half the L1 distance between the Lab histograms inside and outside a mask, ``bins`` a channel.

    0 where inside and outside have the same colours (or one of them is empty), 1 where they have none in common.
    """
    background = ~mask if uncertain is None else ~(mask | uncertain)
    if not background.any() or not mask.any():
        return 0.0
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.int64) * bins // 256
    cells = (lab[..., 0] * bins + lab[..., 1]) * bins + lab[..., 2]
    inside, outside = (np.bincount(cells[side], minlength=bins**3) / side.sum() for side in (mask, background))
    return float(np.abs(inside - outside).sum() / 2)


def crf_agreement(image: np.ndarray, mask: np.ndarray, uncertain: np.ndarray | None = None) -> float:
    """Overlap of a mask with what a CRF makes of it, at 96 pixels: does the image's own structure give it again?

    Intersection over union of the two as soft masks, in [0, 1]; 0 for an empty mask.
    """
    size = longest_side_size(image.shape[1], image.shape[0], CRF_LONG_SIDE)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    given = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    doubt = np.zeros_like(given)
    if uncertain is not None and uncertain.any():
        doubt = cv2.resize(uncertain.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    # No evidence for uncertain pixels, and they do not count.
    likely = CRF_DOUBT + (1 - 2 * CRF_DOUBT) * (given + doubt / 2)
    found = dense_crf(np.stack([1 - likely, likely]), small, _CRF)[1]
    return overlap(found * (1 - doubt), given * (1 - doubt))


def quality_scores(measures: Sequence[Sequence[float | None]]) -> list[float | None]:
    """One number for each mask of a dataset: 1 is the least suspicious of all, 0 the most.

    Each measure says where a mask stands among those that have it (0: the lowest, 1: the highest, equal ones share the
    middle); the score is the mean of that over the measures that a mask has, ``None`` without any.

    ``measures``: one sequence a measure, higher is better, with an entry a mask, ``None`` where it has none.
    """
    # Places, so that measures of different units count alike; unweighted, as there is no truth to weight them by.
    table = np.array([[np.nan if value is None else value for value in measure] for measure in measures], np.float64)
    known = ~np.isnan(table)
    places = np.zeros_like(table)
    for row, measure, there in zip(places, table, known, strict=True):
        # Not by scipy.stats, whose import takes longer than the ranks of 100,000 masks.
        _, at, equal = np.unique(measure[there], return_inverse=True, return_counts=True)
        row[there] = (equal.cumsum() - equal / 2)[at] / max(there.sum(), 1)
    sums, counted = places.sum(axis=0), known.sum(axis=0)
    return [float(total / count) if count else None for total, count in zip(sums, counted, strict=True)]
