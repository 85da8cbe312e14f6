"""Masks: read, check, write, resize; the palette.

A *foreground mask* is (H, W) bool. A *label mask* is (H, W) uint8: 0 background,
1..C classes, 255 ignore; on disk it is a palette PNG whose pixel values are the
indices.
"""

import io
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from wss_data.errors import MaskError
from wss_data.files import write_bytes

IGNORE_INDEX = 255


@cache
def voc_palette() -> np.ndarray:
    """The colours of PASCAL VOC: index -> RGB. Shape (256, 3), uint8, read-only.

    The bits of the index are dealt out to red, green and blue, highest colour
    bit first, as in the VOC development kit's ``VOClabelcolormap``.
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for step in range(8):
        for channel in range(3):
            bit = (index >> (3 * step + channel)) & 1
            palette[:, channel] |= (bit << (7 - step)).astype(np.uint8)
    palette.flags.writeable = False
    return palette


def read_mask(path: Path | str) -> np.ndarray:
    """Read a mask's indices, never its colours.

    Pillow is used on purpose: OpenCV and others expand a palette to RGB.

    Args:
        path: A palette or 8-bit greyscale PNG.

    Returns:
        The indices, as a writable array. Shape (H, W), uint8.

    Raises:
        MaskError: With reason ``missing``, ``unreadable``, ``rgb`` or ``16_bit``.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "1":
                return np.array(image).astype(np.uint8)
            if image.mode in ("P", "L"):
                return np.array(image)
            mode = image.mode
    except FileNotFoundError as error:
        raise MaskError("missing", f"{path}: there is no such mask.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise MaskError("unreadable", f"{path}: the mask cannot be read ({error}).") from error
    if mode.startswith("I") or mode == "F":
        raise MaskError(
            "16_bit", f"{path}: the mask has 16 or more bits a pixel ({mode}), 8 are wanted. Save it as an 8-bit PNG."
        )
    raise MaskError(
        "rgb",
        f"{path}: the mask holds colours ({mode}), class indices are wanted. Save it as a palette or greyscale PNG.",
    )


def encode_mask(mask: np.ndarray) -> bytes:
    """The bytes of a palette PNG in VOC colours. ``mask``: (H, W), uint8 or bool, values are the indices."""
    image = Image.fromarray(np.asarray(mask, dtype=np.uint8))
    image.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_mask(mask: np.ndarray, path: Path) -> None:
    """Write a label mask atomically as a palette PNG in VOC colours. ``mask``: (H, W), uint8."""
    write_bytes(path, encode_mask(mask))


def write_foreground(mask: np.ndarray, path: Path) -> None:
    """Write a foreground mask atomically as a greyscale PNG of 0 and 255. ``mask``: (H, W), bool."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(mask, dtype=np.uint8) * 255).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask, (H, W) uint8 or bool, at ``size`` = (width, height) by nearest neighbour: no new index appears."""
    if mask.shape == (size[1], size[0]):
        return mask
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(mask.dtype)


def foreground_ratio(mask: np.ndarray) -> float:
    """Share of the pixels that are foreground, in [0, 1].

    Args:
        mask: Foreground mask (bool), or label mask (uint8) in which 255 counts as neither. Shape (H, W).
    """
    if mask.dtype == bool:
        return float(mask.mean())
    decided = mask != IGNORE_INDEX
    return float((decided & (mask != 0)).sum() / max(int(decided.sum()), 1))


def label_mask(foreground: np.ndarray, class_index: int) -> np.ndarray:
    """The label mask in which the foreground takes the class index. ``foreground``: (H, W), bool -> (H, W), uint8.

    Source:
        Shen et al., BMVC 2017, section 3.1.
    """
    return np.where(foreground, np.uint8(class_index), np.uint8(0))


def check_foreground(values: np.ndarray, image_size: tuple[int, int], name: str) -> np.ndarray:
    """Turn a mask computed elsewhere into a foreground mask, or say what is wrong with it.

    Accepted: 0 and 255, or 0 and 1. Everything else is one of the mistakes that
    cost people days: see the reasons.

    Args:
        values: What ``read_mask`` returned. Shape (H, W), uint8.
        image_size: (width, height) of the stored image in pixels, after EXIF rotation.
        name: What to call it in an error.

    Returns:
        The foreground. Shape (H, W), bool.

    Raises:
        MaskError: With reason ``size`` (other size), ``rotated`` (width and height swapped: the mask was drawn on an
            image before its EXIF rotation), ``values`` (more than two values, or neither 0/1 nor 0/255), ``empty``,
            ``full``.
    """
    size = (values.shape[1], values.shape[0])
    if size != image_size:
        found = f"{name}: the mask has {size[0]}x{size[1]} pixels, the image {image_size[0]}x{image_size[1]}."
        if size == image_size[::-1] and size[0] != size[1]:
            raise MaskError(
                "rotated",
                f"{found} It was made from the image before its EXIF rotation; make it from the upright image.",
            )
        raise MaskError("size", f"{found} Masks must have the stored image's size.")
    present = np.unique(values).tolist()
    if not set(present) <= {0, 1} and not set(present) <= {0, 255}:
        shown = ", ".join(map(str, present[:6])) + (", ..." if len(present) > 6 else "")
        raise MaskError("values", f"{name}: the mask holds the values {shown}; 0 and 255 (or 0 and 1) are wanted.")
    foreground = values > 0
    if not foreground.any():
        raise MaskError("empty", f"{name}: the mask has no foreground.")
    if foreground.all():
        raise MaskError("full", f"{name}: the mask is all foreground.")
    return foreground
