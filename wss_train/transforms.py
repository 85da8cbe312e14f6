"""Resize, scale, flip, pad and crop an image together with its mask.

The random numbers are drawn first (``draw_augmentation``) and used afterwards
(``augment``), so that what happens to an example can be repeated exactly.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from wss_data.imaging.masks import resize_mask
from wss_train.recipes import TrainRecipe


@dataclass(frozen=True)
class Augmentation:
    """The random numbers of one training example.

    Args:
        scale: Factor on the size, above 0.
        flip: Whether the image is mirrored left to right.
        across: Where the crop lies, from the left (0) to the right (1).
        down: Where the crop lies, from the top (0) to the bottom (1).
    """

    scale: float
    flip: bool
    across: float
    down: float


def draw_augmentation(recipe: TrainRecipe, generator: np.random.Generator) -> Augmentation:
    """Draw the numbers of one example: scale uniform in ``recipe.scale_range``, flip with ``recipe.flip``."""
    low, high = recipe.scale_range
    scale, flip, across, down = generator.random(4)
    return Augmentation(low + (high - low) * float(scale), bool(flip < recipe.flip), float(across), float(down))


def scaled_size(width: int, height: int, long_side: float) -> tuple[int, int]:
    """(width, height) in pixels with the longer side at ``long_side`` pixels, larger or smaller; at least 1."""
    factor = long_side / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at ``size`` = (width, height): area average when it shrinks, else bilinear. (H, W, 3), uint8."""
    if image.shape[:2] == size[::-1]:
        return image
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    drawn: Augmentation,
    recipe: TrainRecipe,
    ignore_index: int = 255,
) -> tuple[np.ndarray, np.ndarray]:
    """Turn one image and its mask into a training crop.

    The longer side is brought to ``recipe.long_side`` times the drawn scale in
    one step, because every further interpolation blurs. What the crop shows
    beyond the image is the mean colour in whole numbers, which normalisation
    turns into zero (less than 0.01), and void in the mask. A smaller image lies
    anywhere in the crop.

    Args:
        image: RGB, as large as the mask or decoded at a fraction of that. Shape (h, w, 3), uint8.
        mask: Class indices. Shape (H, W), uint8.
        drawn: The random numbers.
        recipe: Gives ``long_side``, ``crop`` and the mean colour.
        ignore_index: Value of the mask beyond the image.

    Returns:
        The crop, not yet normalised, shape (crop, crop, 3), uint8; its mask, shape (crop, crop), uint8. Bytes, because
        they are copied several times on their way to the network.

    Source:
        Shen et al., BMVC 2017, section 4.2 (sizes); the authors' code (scale and flip).
    """
    # The mask's size, not the image's: that may have been decoded at a fraction of it.
    size = scaled_size(mask.shape[1], mask.shape[0], recipe.long_side * drawn.scale)
    image, mask = resize_image(image, size), resize_mask(mask, size)

    crop = recipe.crop
    # Where the crop's left upper corner lies in the image; negative where the image is smaller than the crop.
    left, top = round(drawn.across * (size[0] - crop)), round(drawn.down * (size[1] - crop))
    if drawn.flip:
        # The crop lies in the mirrored image: cut out what is its mirror image, and mirror no more than that.
        left = size[0] - crop - left
    seen = np.s_[max(top, 0) : top + crop, max(left, 0) : left + crop]
    image, mask = image[seen], mask[seen]
    height, width = mask.shape
    if (height, width) != (crop, crop):
        above, before = max(-top, 0), max(-left, 0)
        margins = above, crop - height - above, before, crop - width - before
        mean = [round(value) for value in recipe.pixel_statistics[0]]
        image = np.asarray(cv2.copyMakeBorder(image, *margins, cv2.BORDER_CONSTANT, value=mean))
        mask = np.asarray(cv2.copyMakeBorder(mask, *margins, cv2.BORDER_CONSTANT, value=ignore_index))
    if drawn.flip:
        return cv2.flip(image, 1), cv2.flip(mask, 1)
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)
