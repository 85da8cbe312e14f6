"""Mean intersection over union as PASCAL VOC counts it: one confusion matrix over the whole split."""

from typing import Any

import cv2
import numpy as np

from wss_data.imaging.images import strips
from wss_data.imaging.masks import IGNORE_INDEX

# Pixels: cv2.calcHist returns float32, which holds every whole number up to here and not the next one.
_EXACT_COUNT = 1 << 24


class ConfusionMatrix:
    """Pixel counts of truth against prediction, summed over all images of a split.

    Averaging per image instead (as ``torchmetrics.MeanIoU`` does) is another measure: there a class that covers ten
    pixels of one image weighs as much as one that fills another image.

    Args:
        num_classes: Number of classes with background, C + 1.
        ignore_index: Value of void pixels in the truth; they count nowhere. A value that is not between
            ``num_classes`` and 255 raises ``ValueError``.

    Source:
        Everingham et al., The PASCAL Visual Object Classes Challenge 2012 development kit, ``VOCevalseg.m``.

    >>> matrix = ConfusionMatrix(2)
    >>> matrix.update(np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8))  # 255 is void
    >>> matrix.counts.tolist(), matrix.mean_iou
    ([[1, 1], [0, 1]], 0.5)
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX) -> None:
        if not num_classes <= ignore_index <= 255:
            raise ValueError(f"ignore_index is {ignore_index}, wanted a value between {num_classes} and 255")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = np.zeros((num_classes, num_classes), np.int64)
        """Pixels by true class (row) and predicted class (column). Shape (C + 1, C + 1), int64."""

    def update(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image; raises ``ValueError``, and counts nothing, if the shapes differ or a value is no class.

        Args:
            truth: Label mask. Shape (H, W), whole numbers in [0, C] or ``ignore_index``.
            prediction: Label mask of the same shape, values in [0, C] wherever the truth is not void.
        """
        if truth.shape != prediction.shape or truth.ndim != 2:
            raise ValueError(f"truth has shape {truth.shape} and prediction {prediction.shape}, one (H, W) is wanted")
        # All 256 x 256 pairs cost no more than the classes' own and show a value that is no class.
        pairs = count_pairs(_as_bytes(truth, "truth"), _as_bytes(prediction, "prediction"))
        pairs[self.ignore_index] = 0
        for name, axis in (("truth", 1), ("prediction", 0)):
            wrong = np.flatnonzero(np.any(pairs, axis=axis)[self.num_classes :])
            if len(wrong):
                raise ValueError(
                    f"{name} holds the value {wrong[0] + self.num_classes}; classes run from 0 to "
                    f"{self.num_classes - 1} and {self.ignore_index} is void in the truth"
                )
        self.counts += pairs[: self.num_classes, : self.num_classes]

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of ``other``, a part of the same split with the same classes."""
        if (self.num_classes, self.ignore_index) != (other.num_classes, other.ignore_index):
            raise ValueError("only confusion matrices of the same classes and ignore index can be merged")
        self.counts += other.counts

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union per class, in [0, 1]; nan if neither truth nor prediction has it. Shape (C + 1,)."""
        both = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - both
        return np.divide(both, union, out=np.full(self.num_classes, np.nan), where=union > 0)

    @property
    def mean_iou(self) -> float:
        """Mean of ``iou`` over the classes that are present in truth or prediction; nan before the first pixel."""
        # A class that only the prediction holds counts as 0. VOC's splits hold every class: there this is VOC's mean.
        present = self.iou[~np.isnan(self.iou)]
        return float(present.mean()) if len(present) else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of the pixels that are not void whose class is right, in [0, 1]; nan before the first pixel."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ignore_index": self.ignore_index, "counts": self.counts.tolist()}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "ConfusionMatrix":
        """The matrix that ``to_dict`` wrote."""
        counts = np.asarray(value["counts"], np.int64)
        matrix = cls(len(counts), value["ignore_index"])
        matrix.counts += counts
        return matrix


def count_pairs(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """How often each value of one mask lies on each value of another: (H, W) uint8, twice -> (256, 256), int64."""
    pairs = np.zeros((256, 256), np.int64)
    for rows, columns in strips(truth.shape[0], truth.shape[1], _EXACT_COUNT):
        part = [np.ascontiguousarray(plane[rows, columns]) for plane in (truth, prediction)]
        pairs += cv2.calcHist(part, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return pairs


def _as_bytes(mask: np.ndarray, name: str) -> np.ndarray:
    if mask.dtype == np.uint8:
        return mask
    if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) <= 255:
        raise ValueError(f"{name} holds values from {mask.min()} to {mask.max()}; 0 to 255 are possible")
    return mask.astype(np.uint8)
