"""Masks: read, check, write, resize; the palette.

A *foreground mask* is (H, W) bool. A *label mask* is (H, W) uint8: 0 background,
1..C classes, 255 ignore; on disk it is a palette PNG whose pixel values are the
indices.

An *uncertain band* is (H, W) bool beside a foreground mask: pixels that count as
neither foreground nor background, whatever the mask says of them. On disk it is
255 in a label mask, and 128 between 0 and 255 in a foreground mask, as in the
trimaps of the matting literature: there 255 is taken.
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

UNCERTAIN_GREY = 128
"""The uncertain band in a foreground mask on disk."""


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


def write_foreground(mask: np.ndarray, path: Path, uncertain: np.ndarray | None = None) -> None:
    """Write a foreground mask atomically as a greyscale PNG of 0 and 255, and 128 in the uncertain band.

    Args:
        mask: Shape (H, W), bool.
        path: The file.
        uncertain: The band, shape (H, W), bool, or ``None``.
    """
    values = np.asarray(mask, dtype=np.uint8) * 255
    if uncertain is not None:
        values[uncertain] = UNCERTAIN_GREY
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask, (H, W) uint8 or bool, at ``size`` = (width, height) by nearest neighbour: no new index appears."""
    if mask.shape == (size[1], size[0]):
        return mask
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(mask.dtype)


def foreground_ratio(mask: np.ndarray, uncertain: np.ndarray | None = None) -> float:
    """Share of the decided pixels that are foreground, in [0, 1]; 0 where none is decided.

    Why not of all pixels: a wide band would push a mask below the filter's lower threshold although nobody said that
    the object is small, and never above the upper one.

    Args:
        mask: Foreground mask (bool), or label mask (uint8) in which 255 counts as neither. Shape (H, W).
        uncertain: The band of a foreground mask, which counts as neither. Shape (H, W), bool, or ``None``.
    """
    if mask.dtype == bool and uncertain is None:
        return float(mask.mean())
    decided = mask != IGNORE_INDEX if uncertain is None else ~uncertain
    return float((decided & (mask != 0)).sum() / max(int(decided.sum()), 1))


def label_mask(
    foreground: np.ndarray,
    class_index: int,
    uncertain: np.ndarray | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> np.ndarray:
    """The label mask in which the foreground takes the class index, and the uncertain band the ignore index.

    Args:
        foreground: Shape (H, W), bool.
        class_index: Of its class, 1..C.
        uncertain: The band, shape (H, W), bool, or ``None``.
        ignore_index: Value of void pixels.

    Returns:
        Shape (H, W), uint8.

    Source:
        Shen et al., BMVC 2017, section 3.1; the band is our own.
    """
    mask = np.where(foreground, np.uint8(class_index), np.uint8(0))
    if uncertain is not None:
        mask[uncertain] = ignore_index
    return mask


def split_band(
    values: np.ndarray, class_index: int | None = None, ignore_index: int = IGNORE_INDEX
) -> tuple[np.ndarray, np.ndarray | None]:
    """Take the uncertain band out of a mask from disk, so that a plain foreground mask of 0 and 255 is left.

    Three things are understood: a foreground mask with a band (0, 128, 255), a label mask of one class (0 and its
    index), and a label mask with a band (0, index, ignore index). Whatever else comes back as it is.

    A mask of 0 and 255 alone is a foreground mask. A label mask of which nothing but the band is left looks the same
    and is taken for one: only its colours could tell.

    Args:
        values: What ``read_mask`` returned. Shape (H, W), uint8.
        class_index: The index that a label mask may hold; ``None`` for any.
        ignore_index: The value of the band in a label mask.

    Returns:
        The mask, its band background, shape (H, W), uint8; and the band, shape (H, W), bool, or ``None`` without one.
    """
    present = set(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())
    indices = present - {0, ignore_index}
    # Before label masks of any class: there 128 could be an index.
    if class_index != UNCERTAIN_GREY and UNCERTAIN_GREY in present <= {0, UNCERTAIN_GREY, 255}:
        return np.where(values == 255, np.uint8(255), np.uint8(0)), values == UNCERTAIN_GREY
    if len(indices) == 1 and (class_index is None or indices == {class_index}):
        (index,) = indices
        band = values == ignore_index if ignore_index in present else None
        return np.where(values == index, np.uint8(255), np.uint8(0)), band
    return values, None


def check_foreground(values: np.ndarray, image_size: tuple[int, int], name: str) -> np.ndarray:
    """Turn a mask computed elsewhere into a foreground mask, or say what is wrong with it.

    Accepted: 0 and 255, or 0 and 1. Everything else is one of the mistakes that
    cost people days: see the reasons. An uncertain band is taken out first
    (``split_band``): whoever forgets that must not get it as background.

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
