"""Learning from masks that are partly wrong: which images and pixels count, and how much.

Off in the preset ``paper``. Each is one value of the recipe; what each gave on
real photographs stands in the experiment log.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

from wss_data.errors import TrainingDataError
from wss_data.records import ExampleTable


def share_at(progress: float, share: float, ramp: float) -> float:
    """Share of the pixels that teach at some point of a run.

    Networks learn what is common before what is rare: at first all pixels teach,
    then fewer and fewer, until only ``share`` of them do.

    Args:
        progress: Share of the iterations that are done, in [0, 1].
        share: What remains in the end, in (0, 1].
        ramp: Share of the iterations after which it has come to that; 0 from the start.

    Source:
        Han et al., *Co-teaching*, NeurIPS 2018, algorithm 1, line 11: R(T).
    """
    done = 1.0 if ramp == 0 else min(1.0, progress / ramp)
    return 1.0 - done * (1.0 - share)


def smallest_losses(losses: Tensor, taught: Tensor, share: float) -> Tensor:
    """The pixels with the smallest losses: a wrong mask costs most where the rest of the data contradicts it.

    Args:
        losses: Loss of each pixel. Shape (N, H, W), float.
        taught: Which pixels have a class. Shape (N, H, W), bool.
        share: Share of these that stays, over the whole batch, in (0, 1].

    Returns:
        Which pixels stay, equal losses at the edge included. Shape (N, H, W), bool.

    Source:
        Han et al., NeurIPS 2018, algorithm 1: small-loss instances, here pixels, and one network instead of two.
    """
    found = losses.detach()[taught]
    if share >= 1 or found.numel() == 0:
        return taught
    rank = max(1, round(share * found.numel()))
    edge = torch.kthvalue(found, rank).values
    return taught & (losses.detach() <= edge)


def boundary_to_void(mask: np.ndarray, width_px: int, ignore_index: int = 255) -> np.ndarray:
    """Make void what lies close to a boundary between classes, where a mask made by a cut is least sure.

    Args:
        mask: Class indices. Shape (H, W), uint8.
        width_px: Pixels on either side of the boundary that become void; 0 for none.
        ignore_index: Value of void.

    Returns:
        The mask. Shape (H, W), uint8.
    """
    if width_px == 0:
        return mask
    # The smallest and the largest value around a pixel differ where a boundary passes.
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width_px + 1, 2 * width_px + 1))
    crossed = cv2.erode(mask, around) != cv2.dilate(mask, around)
    return np.where(crossed, np.uint8(ignore_index), mask)


def image_weights(table: ExampleTable, weighting: str) -> np.ndarray | None:
    """How much each image counts in the loss.

    Args:
        table: Images with the number that is asked for.
        weighting: ``none``, ``confidence`` (of the co-segmentation) or ``quality`` (compactness times colour contrast
            of the mask).

    Returns:
        Weights with mean 1; an image without the number weighs 1. Shape (N,), float32. ``None`` for ``none`` and
        where no image has the number, as with pseudo masks.

    Raises:
        TrainingDataError: If every image weighs nothing.
    """
    numbers = {"none": None, "confidence": table.confidence, "quality": table.quality}[weighting]
    if numbers is None or np.isnan(numbers).all():
        return None
    mean = float(np.nanmean(numbers))
    if not mean > 0:
        raise TrainingDataError(
            f"image_weighting={weighting}: the {weighting} of all {len(table)} images is 0, so that none would teach. "
            "Set image_weighting=none."
        )
    return np.nan_to_num(np.asarray(numbers, np.float32) / np.float32(mean), nan=1.0)


def balanced_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An order in which every class comes equally often, whatever its number of images.

    Args:
        labels: Which classes each image shows. Shape (N, C), bool.
        generator: Source of chance.

    Returns:
        N rows, some of them several times, others not at all. Shape (N,), int64. Images without a label do not come,
        unless no image has one.
    """
    total = len(labels)
    members = [rows for rows in (np.flatnonzero(column) for column in labels.T) if len(rows)]
    if not members:
        return generator.permutation(total)
    each = -(-total // len(members))
    picked = []
    for rows in members:
        # Whole passes over the class, so that no image comes twice before each has come once.
        passes = [generator.permutation(rows) for _ in range(-(-each // len(rows)))]
        picked.append(np.concatenate(passes)[:each])
    return generator.permutation(np.stack(picked, axis=1).ravel()[:total])
