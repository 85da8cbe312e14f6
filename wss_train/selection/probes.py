"""Images that a network is shown again and again during training, and the signals that are computed from what it sees.

Signals are numbers that say how good a network is, computed without a mask drawn by a person. *Cells* are pixels
sampled once a cell of the network's logits, so that a look costs little more than the forward pass.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from wss_data.records import ExampleTable
from wss_train.checkpoints import ModelCard
from wss_train.data import read_class_mask, resize_image
from wss_train.inference import decoded, network_size
from wss_train.metrics import ConfusionMatrix
from wss_train.models import SegmentationModel

PRESENT = 0.01  # A class counts as predicted where it covers at least this fraction of an image: a cell is no object
_BATCH = 8  # Images of equal size in one pass: without gradients these take less memory than a training step


class Probes:
    """Images, read and resized once and kept as the network sees them, with their masks on its grid of cells.

    Args:
        table: The images; at most some hundred, as they stay in memory (0.3 to 0.6 MB each).
        card: What is trained: gives size, stride and classes.
        masked: Whether the images have masks to compare with.

    Raises:
        ImageError: If an image cannot be read.
        MaskError: If a mask has another size than its image.
        TrainingDataError: If an image has no mask, or it holds a value that is no class.
    """

    def __init__(self, table: ExampleTable, card: ModelCard, masked: bool = False) -> None:
        self.table = table
        self._card = card
        stride, long_side = card.recipe.output_stride, card.recipe.long_side

        def look(path: Path | str) -> tuple[tuple[int, int], np.ndarray]:
            """(height, width) of an image, and what the network sees of it: no more than that is kept."""
            with decoded(path) as image:
                height, width = image.shape[:2]
                return (height, width), resize_image(image, network_size(height, width, long_side, stride)[::-1])

        with ThreadPoolExecutor(4) as pool:
            looks = list(pool.map(look, table.image_paths))
        self._images = [seen for _, seen in looks]
        self._groups: dict[tuple[int, ...], list[int]] = {}
        self._truths: list[np.ndarray] = []
        for row, (shape, seen) in enumerate(looks):
            self._groups.setdefault(seen.shape, []).append(row)
            if masked:
                mask = read_class_mask(table, row, shape[::-1])
                self._truths.append(cell_centres(mask, (seen.shape[0] // stride, seen.shape[1] // stride)))

    @torch.inference_mode()
    def predict(self, model: SegmentationModel, precision: str) -> tuple[list[np.ndarray], np.ndarray]:
        """Predicted class a cell, of each image (h, w) uint8; mean probability of each class but background, (N, C)."""
        device = next(model.parameters()).device
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        cells: list[np.ndarray] = [np.empty(0, np.uint8)] * len(self.table)
        means = np.zeros((len(self.table), self._card.num_classes - 1), np.float32)
        for rows in self._groups.values():
            for start in range(0, len(rows), _BATCH):
                part = rows[start : start + _BATCH]
                stacked = torch.from_numpy(np.stack([self._images[row] for row in part]))
                pixels = stacked.to(device).permute(0, 3, 1, 2).float()
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    logits = model(model.normalise(pixels)).pixel_logits
                probabilities = logits.float().softmax(dim=1)
                classes = probabilities.argmax(dim=1).to(torch.uint8).cpu().numpy()
                mean = probabilities.mean(dim=(2, 3))[:, 1:].cpu().numpy()
                for position, row in enumerate(part):
                    cells[row], means[row] = classes[position], mean[position]
        return cells, means

    def agreement(self, cells: list[np.ndarray]) -> float:
        """Mean IoU of predicted classes with the masks, one confusion matrix over all images."""
        matrix = ConfusionMatrix(self._card.num_classes, self.table.ignore_index)
        for truth, predicted in zip(self._truths, cells, strict=True):
            matrix.update(truth, predicted)
        return matrix.mean_iou


def cell_centres(mask: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """A mask's values at the centres of a grid of (rows, columns) cells laid over it, which may be finer than the mask.

    >>> cell_centres(np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.uint8), (1, 2)).tolist()
    [[5, 7]]
    """
    rows, columns = (
        ((np.arange(count) + 0.5) * side / count).astype(np.int64)
        for count, side in zip(cells, mask.shape, strict=True)
    )
    return mask[rows][:, columns]


def class_fractions(cells: np.ndarray, num_classes: int) -> np.ndarray:
    """Fraction of an image's cells, of values in [0, C], that each class but background covers: (C,), in [0, 1].

    >>> class_fractions(np.array([[0, 0, 1, 1], [0, 3, 1, 1]], np.uint8), 4).tolist()
    [0.5, 0.0, 0.125]
    """
    return np.bincount(cells.ravel(), minlength=num_classes)[1:] / cells.size


def label_f1(fractions: np.ndarray, labels: np.ndarray, at_least: float = PRESENT) -> float:
    """How well the predicted masks name the classes that the images show: F1 of each class, averaged.

    Args:
        fractions: Fraction of each image that each class covers in its predicted mask. Shape (N, C), in [0, 1].
        labels: Which classes each image shows. Shape (N, C), bool.
        at_least: Fraction from which a class counts as predicted, in (0, 1].

    Returns:
        In [0, 1]. A class that is neither shown nor predicted does not count; nan if that is all of them.
    """
    # Late: only a run that is looked at pays for this import, in memory and in seconds.
    from sklearn.metrics import f1_score

    # F1 rather than a ranking such as average precision: a wrong patch of a class in an image that lacks it costs
    # intersection over union however low its score is, and so does an object that was not found.
    predicted = fractions >= at_least
    there = (predicted | labels).any(axis=0)
    if not there.any():
        return float("nan")
    # The columns one by one: a single one would be read as one label an image.
    return float(np.mean([f1_score(labels[:, c], predicted[:, c]) for c in np.flatnonzero(there)]))


def label_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """How well scores, (N, C), rank the images for each class by their labels, (N, C) bool: mean average precision.

    In [0, 1], over the classes that are shown, images of equal score together; nan if no image shows any class.
    """
    from sklearn.metrics import average_precision_score

    shown = np.flatnonzero(labels.any(axis=0))
    values = [average_precision_score(labels[:, c], scores[:, c]) for c in shown]
    return float(np.mean(values)) if values else float("nan")


def smoothed(values: Sequence[float] | np.ndarray, window: int = 3) -> np.ndarray:
    """Running mean of one number a look, centred, ``window`` odd; at both ends, and around nan, over what is there.

    The last ``window // 2`` means change when further looks come.

    >>> smoothed([1, 2, 6, 4]).tolist()
    [1.5, 3.0, 4.0, 5.0]
    """
    numbers, half = np.asarray(values, np.float64), window // 2
    parts = [numbers[max(0, i - half) : i + half + 1] for i in range(len(numbers))]
    there = [part[~np.isnan(part)] for part in parts]
    return np.array([part.mean() if len(part) else np.nan for part in there])


def best_look(values: Sequence[float] | np.ndarray, window: int = 3) -> int | None:
    """Position of the look with the highest running mean, the first of equals; ``None`` if there is no number.

    >>> best_look([0.1, 0.9, 0.1, 0.5, 0.6, 0.55, 0.2])  # a single high look is chance
    4
    """
    means = smoothed(values, window)
    return None if np.isnan(means).all() else int(np.nanargmax(means))


def settled_look(changes: Sequence[float] | np.ndarray, at_most: float, window: int = 3) -> int | None:
    """Position of the first look of which, with the ``window - 1`` before it, the mean change is at most this.

    ``changes``: fraction that changed since the look before, nan for the first. ``None`` if there is none.
    """
    numbers = np.asarray(changes, np.float64)
    for position in range(window - 1, len(numbers)):
        # A mean with the nan of the first look is nan, which is below nothing.
        if numbers[position - window + 1 : position + 1].mean() <= at_most:
            return position
    return None


def hash_order(ids: Sequence[str]) -> list[int]:
    """Positions of the ids in the order of their hashes: the same ids give the same order wherever they stand."""
    return sorted(range(len(ids)), key=lambda i: (hashlib.sha256(ids[i].encode()).digest(), i))
