"""Images that a network is shown again and again during training, to see how it changes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from wss_data.errors import TrainingDataError
from wss_data.imaging.masks import read_mask
from wss_data.records import ExampleTable
from wss_train.checkpoints import ModelCard
from wss_train.data import resize_image
from wss_train.inference import decoded, network_size
from wss_train.metrics import ConfusionMatrix
from wss_train.models import SegmentationModel
from wss_train.selection.signals import cell_centres

_BATCH = 8
"""Images of equal size in one pass: without gradients these take less memory than a training step."""


class Probes:
    """Images, read and resized once and kept as the network sees them, with their masks on its grid of cells.

    Args:
        table: The images; at most some hundred, as they stay in memory (0.3 to 0.6 MB each).
        card: What is trained: gives size, stride and classes.
        masked: Whether the images have masks to compare with.

    Raises:
        ImageError: If an image cannot be read.
        TrainingDataError: If a mask has another size than its image, or holds no class.
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
        sizes = [(seen.shape[0], seen.shape[1]) for seen in self._images]
        self._groups: dict[tuple[int, int], list[int]] = {}
        for row, size in enumerate(sizes):
            self._groups.setdefault(size, []).append(row)
        self._truths: list[np.ndarray] = []
        if masked:
            for row, ((shape, _), (height, width)) in enumerate(zip(looks, sizes, strict=True)):
                mask = self._checked_mask(row, shape)
                self._truths.append(cell_centres(mask, (height // stride, width // stride)))

    def _checked_mask(self, row: int, size: tuple[int, ...]) -> np.ndarray:
        table, path = self.table, self.table.mask_paths[row]
        if path is None:
            raise TrainingDataError(f"{table.image_paths[row]}: the image has no mask to compare with.")
        mask = read_mask(path)
        if mask.shape != size:
            raise TrainingDataError(
                f"{path}: the mask has {mask.shape[1]}x{mask.shape[0]} pixels, its image {size[1]}x{size[0]}. "
                "Masks must have their image's size."
            )
        wrong = [int(v) for v in np.unique(mask) if v >= table.num_classes and v != table.ignore_index]
        if wrong:
            raise TrainingDataError(
                f"{path}: the mask holds the value {wrong[0]}; 0 to {len(table.classes)} and {table.ignore_index} "
                "(void) are wanted."
            )
        return mask

    @torch.inference_mode()
    def predict(self, model: SegmentationModel, precision: str) -> tuple[list[np.ndarray], np.ndarray]:
        """What the network sees, scale 1.

        Returns:
            Predicted class a cell, for each image (h, w), uint8; mean probability of each class but background,
            (N, C), float32.
        """
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
