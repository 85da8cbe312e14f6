"""Masks: read, check, write, resize; the palette.

A *foreground mask* is (H, W) bool. A *label mask* is (H, W) uint8: 0 background, 1..C classes, 255 ignore; on disk it
is a palette PNG whose pixel values are the indices. An *uncertain band* is (H, W) bool beside a foreground mask: pixels
that count as neither foreground nor background, whatever the mask says of them.
"""

import io
import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from wss_data.errors import MaskError
from wss_data.imaging.images import MAX_PIXELS, TURNED
from wss_data.imaging.png import COLOURS, COLOURS_ALPHA, GREY, GREY_ALPHA, Png, promised_size, read_png, samples
from wss_data.runtime.files import write_bytes

IGNORE_INDEX = 255
# The uncertain band in a foreground mask on disk, as in the trimaps of the matting literature: there 255 is taken.
UNCERTAIN_GREY = 128
MAX_BYTES = 128 * 2**20  # of a mask file; 100 million pixels without any compression have less

# Why a file is no mask, whatever image it belongs to: the reasons of open_mask.
FILE_REASONS = ("missing", "unreadable", "too_large", "rgb", "alpha", "16_bit", "palette", "orientation")

_BLACK, _WHITE = 0x000000, 0xFFFFFF

_WANTED = (
    "Wanted is a PNG of class indices: in greyscale, or with VOC's palette in its order. Of an image in colours make "
    "one by looking each colour up; a program's own conversion to a palette numbers the colours as it likes."
)


@cache
def voc_palette() -> np.ndarray:
    """The colours of PASCAL VOC: index -> RGB. Shape (256, 3), uint8, read-only.

    >>> voc_palette()[[0, 1, 10, 255]].tolist()  # background, aeroplane, cow, void
    [[0, 0, 0], [128, 0, 0], [64, 128, 0], [224, 224, 192]]
    """
    # The bits of the index are dealt out to red, green and blue, highest colour bit first, as in the VOC development
    # kit's VOClabelcolormap.
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for step in range(8):
        for channel in range(3):
            bit = (index >> (3 * step + channel)) & 1
            palette[:, channel] |= (bit << (7 - step)).astype(np.uint8)
    palette.flags.writeable = False
    return palette


@dataclass(frozen=True)
class DecodedMask:
    """A mask as its file holds it."""

    values: np.ndarray  # the indices, (H, W) uint8, writable
    depth: int  # bits a pixel in the file
    palette: np.ndarray | None  # RGB of each palette entry, (N, 3) uint8; None for greyscale
    by_colour: bool = False  # whether the values are not those in the file but what the palette's colours stand for

    @property
    def white(self) -> int:
        """The value that is drawn white in greyscale."""
        return 2**self.depth - 1

    @property
    def in_voc_colours(self) -> bool:
        """Whether all values that occur have VOC's colour; void (255), which is drawn in many, is not looked at."""
        if self.palette is None:
            return False
        used = [value for value in used_values(self.values) if value != IGNORE_INDEX]
        drawn = np.zeros((256, 3), np.uint8)  # behind a palette's end all is black
        drawn[: len(self.palette)] = self.palette
        return np.array_equal(drawn[used], voc_palette()[used])

    @property
    def foreground_value(self) -> int | None:
        """The value of the foreground if it is drawn in black and white alone; ``None`` if it is not, or all black."""
        used = used_values(self.values)
        if self.palette is None:
            white = [value for value in used if value]
            return self.white if white == [self.white] else None
        codes = _codes(self.palette)
        if any(value >= len(codes) or codes[value] not in (_BLACK, _WHITE) for value in used):
            return None
        white = [value for value in used if codes[value] == _WHITE]
        return white[0] if len(white) == 1 else None


def mask_names(classes: Sequence[str], ignore_index: int = IGNORE_INDEX) -> dict[int, str]:
    """What the values of a label mask are called, each by a name of its own. ``classes``: names of the classes 1..C.

    >>> mask_names(["cat", "cow"])
    {0: 'background', 1: 'cat', 2: 'cow', 255: 'ignore'}
    """
    void = "ignore"
    while void in classes:  # a class may be called so
        void += "_"
    return {0: "background", **dict(enumerate(classes, start=1)), ignore_index: void}


def used_values(values: np.ndarray) -> list[int]:
    """The values that occur in a mask, (H, W) uint8, rising.

    >>> used_values(np.array([[7, 7, 0], [0, 255, 0]], np.uint8))
    [0, 7, 255]
    """
    occurs, flat = np.zeros(256, bool), values.ravel()
    # Marked, not sorted as np.unique does; in parts, because an index into 256 values is widened to 8 bytes a pixel.
    for start in range(0, len(flat), 1 << 20):
        occurs[flat[start : start + (1 << 20)]] = True
    return np.flatnonzero(occurs).tolist()


def read_mask(path: Path | str) -> np.ndarray:
    """A mask's indices, (H, W) uint8, writable: as they are written, unless its palette says that they mean others.

    Raises:
        MaskError: As ``open_mask``.
    """
    return open_mask(path).values


def open_mask(
    path: Path | str, size: tuple[int, int] | None = None, allowed: Collection[int] | None = None
) -> DecodedMask:
    """Read a mask file for what it is: the one reader of masks. Arguments as of ``decode_mask``.

    Raises:
        MaskError: With reason ``missing``, or as ``decode_mask``.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
            raise MaskError("unreadable", f"{path}: the mask is no file, but a folder, a pipe or a device.")
        if status.st_size > MAX_BYTES:
            raise MaskError(
                "too_large", f"{path}: the mask has {status.st_size:,} bytes, at most {MAX_BYTES:,} are read."
            )
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MaskError("missing", f"{path}: there is no such mask.") from error
    except (OSError, ValueError) as error:
        raise MaskError("unreadable", f"{path}: the mask cannot be opened ({error}).") from error
    return decode_mask(data, str(path), size, allowed)


def decode_mask(
    data: bytes, name: str, size: tuple[int, int] | None = None, allowed: Collection[int] | None = None
) -> DecodedMask:
    """Decode the bytes of a mask file, a palette or greyscale PNG of at most 8 bits a pixel.

    Values are those in the file, of 1, 2 and 4 bits a pixel, too, which image libraries stretch to 0..255. Colours
    count where they contradict the values. A palette in black and white is read by colour, black as 0 and white as 255,
    unless black is its first entry. One that holds VOC's colours at other places, as programs leave that sort
    or compact palettes, is read by colour if all its entries are VOC's, and refused if not. In any other palette the
    values count, as in greyscale.

    Args:
        data: The whole file's bytes.
        name: What to call it in an error.
        size: (width, height) in pixels that it must have, looked at before a pixel is decoded; ``None`` for any.
        allowed: Values that it may hold; ``None`` for any.

    Raises:
        MaskError: With reason ``unreadable`` (no whole PNG, or an animation), ``too_large``, ``16_bit``, ``rgb``,
            ``alpha`` (transparency), ``orientation`` (an EXIF orientation other than upright), ``palette`` (colours
            that contradict the values), with ``size``, ``size`` or ``rotated``, or, with ``allowed``, ``values``.
    """
    width, height = promised_size(data)
    if width * height > MAX_PIXELS:  # before its chunks are looked at
        raise MaskError("too_large", f"{name}: the mask has {width}x{height} pixels, at most {MAX_PIXELS:,} are read.")
    try:
        png = read_png(data)
        _check_kind(png, name)
        if size is not None:
            check_size((png.width, png.height), size, name)
        values = samples(png)
    except ValueError as error:
        raise MaskError("unreadable", f"{name}: the mask cannot be read: {error}. {_WANTED}") from error
    if png.colour == GREY:  # tRNS holds one value in 16 bits there, else an opacity for each entry of the palette
        clear = [png.transparency[1]] if len(png.transparency) == 2 else []
    else:
        clear = [value for value, opacity in enumerate(png.transparency) if opacity < 255]
    foreign = png.palette is not None and not np.array_equal(png.palette, voc_palette()[: len(png.palette)])
    used = used_values(values) if clear or foreign else []  # most masks need no look at every pixel
    if seen := [value for value in used if value in clear]:
        raise MaskError(
            "alpha",
            f"{name}: the mask is transparent where it holds {seen[0]}, so that nobody knows what is meant. {_WANTED}",
        )
    mask = DecodedMask(values, png.depth, png.palette)
    if png.palette is not None and foreign:
        try:
            meant = _meant(_codes(png.palette), used)
        except ValueError as error:
            raise MaskError("palette", f"{name}: {error} {_WANTED}") from error
        if meant is not None:
            mask = DecodedMask(meant[0][values], 8, meant[1], by_colour=True)
    if allowed is not None and (wrong := [value for value in used_values(mask.values) if value not in allowed]):
        raise MaskError(
            "values",
            f"{name}: the mask holds the value {wrong[0]}, wanted are {sorted(allowed)}. Was it saved with other class "
            "indices?",
        )
    return mask


def _check_kind(png: Png, name: str) -> None:
    """Raise ``MaskError`` unless a PNG is of a kind that holds indices."""
    no_indices = f"class indices are wanted. {_WANTED}"
    turned = f"({png.orientation}: {TURNED.get(png.orientation)}), which some programs follow and others do not"
    for wrong, reason, found in (
        (png.animated, "unreadable", "is an animation, one image is wanted."),
        (png.colour == COLOURS_ALPHA, "alpha", f"has an alpha channel (RGBA), {no_indices}"),
        (png.colour == GREY_ALPHA, "alpha", f"has an alpha channel (grey with alpha), {no_indices}"),
        (png.colour == COLOURS, "rgb", f"holds colours (RGB), {no_indices}"),
        (png.depth > 8, "16_bit", f"has {png.depth} bits a pixel, 8 are wanted. Save it as an 8-bit PNG."),
        (png.orientation != 1, "orientation", f"has an EXIF orientation {turned}. Save it upright, without EXIF."),
    ):
        if wrong:
            raise MaskError(reason, f"{name}: the mask {found}")


def _codes(palette: np.ndarray) -> list[int]:
    """Each entry of a palette, (N, 3) uint8, as one number 0xRRGGBB."""
    return (palette.astype(np.int64) @ (0x10000, 0x100, 1)).tolist()


def _is_grey(code: int) -> bool:
    return code % 0x10101 == 0


def _meant(codes: list[int], used: list[int]) -> tuple[np.ndarray, np.ndarray | None] | None:
    """What the values ``used`` in a mask stand for where its palette's colours ``codes`` contradict them.

    Returns:
        Value -> what it stands for, shape (256,), uint8, and the palette of that: VOC's, or ``None`` for grey; ``None``
        where the values count as they are.

    Raises:
        ValueError: If neither colours nor values can be trusted, with what was found as a sentence.
    """
    # Where black is the first entry, further black ones that fill the palette up, or are used beside it, say nothing.
    end = max((place for place, code in enumerate(codes, 1) if code != _BLACK), default=1)
    filling = {v for v in used if v and codes[0] == _BLACK and (v >= end or 0 in used)}
    shown = {v: codes[v] for v in used if v < len(codes) and not (codes[v] == _BLACK and v in filling)}
    table = np.arange(256, dtype=np.uint8)
    if any((value == 0) != (code == _BLACK) for value, code in shown.items()) and all(map(_is_grey, shown.values())):
        every, two = set(codes), {_BLACK, _WHITE}
        if two <= set(shown.values()) or every <= two or (two <= every and all(map(_is_grey, every))):
            for value, code in shown.items():
                table[value] = code & 0xFF
            return table, None
    voc = {code: index for index, code in enumerate(_codes(voc_palette()))}  # no colour comes twice in it
    moved = [value for value, code in shown.items() if voc.get(code, value) != value and value != IGNORE_INDEX]
    foreign = {code for code in shown.values() if code not in voc}
    if not moved or all(code == value * 0x10101 for value, code in shown.items()) or foreign - {_WHITE}:
        return None  # VOC's own, a ramp of grey, or colours of another's choice
    # Ramps of grey have some of VOC's colours, too.
    odd = [code for code in codes if code not in voc]
    if not odd and (all(map(_is_grey, codes)) or (codes[0] == _BLACK and _BLACK in (shown[v] for v in moved))):
        odd = [shown[moved[0]]]
    if odd:
        raise ValueError(
            f"the palette contradicts the values: {moved[0]} is drawn in the colour that VOC gives to "
            f"{voc[shown[moved[0]]]}, and with #{odd[-1]:06x} in it, it is not VOC's in another order."
        )
    for value, code in shown.items():
        table[value] = voc[code]
    return table, voc_palette()


def encode_mask(mask: np.ndarray, coloured: bool = True) -> bytes:
    """The bytes of a PNG in VOC colours, or in grey. ``mask``: (H, W), uint8 or bool, values are the indices."""
    image = Image.fromarray(np.asarray(mask, dtype=np.uint8))
    if coloured:
        image.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_mask(mask: np.ndarray, path: Path) -> None:
    """Write a label mask atomically as a palette PNG in VOC colours. ``mask``: (H, W), uint8."""
    write_bytes(path, encode_mask(mask))


def write_foreground(mask: np.ndarray, path: Path, uncertain: np.ndarray | None = None) -> None:
    """Write a foreground mask, (H, W) bool, atomically as a grey PNG of 0 and 255, and 128 in the uncertain band."""
    values = np.asarray(mask, dtype=np.uint8) * 255
    if uncertain is not None:
        values[uncertain] = UNCERTAIN_GREY
    write_bytes(path, encode_mask(values, coloured=False))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask, (H, W) uint8 or bool, at ``size`` = (width, height) by nearest neighbour: no new index appears.

    >>> resize_mask(np.array([[0, 7], [255, 7]], np.uint8), (4, 3)).tolist()
    [[0, 0, 7, 7], [255, 255, 7, 7], [255, 255, 7, 7]]
    """
    if mask.shape == (size[1], size[0]):
        return mask
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(mask.dtype)


def foreground_ratio(mask: np.ndarray, uncertain: np.ndarray | None = None) -> float:
    """Fraction of the decided pixels that are foreground, in [0, 1]; 0 where none is decided.

    Args:
        mask: Foreground mask (bool), or label mask (uint8) in which 255 counts as neither. Shape (H, W).
        uncertain: The band of a foreground mask, which counts as neither, too. Shape (H, W), bool.

    >>> foreground_ratio(np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool))
    0.25
    >>> foreground_ratio(np.array([[7, 7, 0, 0], [255, 255, 255, 255]], np.uint8))  # void does not count
    0.5
    """
    if mask.dtype == bool and uncertain is None:
        return float(mask.mean())
    # Not of all pixels: a wide band would push a mask below the filter's lower threshold although nobody said that the
    # object is small, and never above the upper one.
    decided = mask != IGNORE_INDEX if uncertain is None else ~uncertain
    return float((decided & (mask != 0)).sum() / max(int(decided.sum()), 1))


def label_mask(
    foreground: np.ndarray, class_index: int, uncertain: np.ndarray | None = None, ignore_index: int = IGNORE_INDEX
) -> np.ndarray:
    """The label mask, (H, W) uint8, in which the foreground takes the class index, and the band the ignore index.

    ``foreground`` and ``uncertain``, the band: shape (H, W), bool.

    Source:
        Shen et al., BMVC 2017, section 3.1; the band is our own.

    >>> object_, band = np.array([[1, 1, 0, 0]], bool), np.array([[0, 1, 1, 0]], bool)
    >>> label_mask(object_, 10, band).tolist()  # the band counts as neither, whatever the mask says there
    [[10, 255, 255, 0]]
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
    index: ``class_index``, or any), and a label mask with a band (0, index, ignore index). Whatever else comes back as
    it is.

    Returns:
        The mask, its band background, shape (H, W), uint8; and the band, shape (H, W), bool, or ``None`` without one.

    >>> mask, band = split_band(np.array([[0, 10, 10, 255]], np.uint8))
    >>> mask.tolist(), band.tolist()
    ([[0, 255, 255, 0]], [[False, False, False, True]])
    """
    present = set(used_values(values))
    # A label mask of which nothing but the band is left is taken for a foreground mask: only its colours could tell.
    indices = present - {0, ignore_index}
    # Before label masks of any class: there 128 could be an index.
    if class_index != UNCERTAIN_GREY and UNCERTAIN_GREY in present <= {0, UNCERTAIN_GREY, 255}:
        return np.where(values == 255, np.uint8(255), np.uint8(0)), values == UNCERTAIN_GREY
    if len(indices) == 1 and (class_index is None or indices == {class_index}):
        (index,) = indices
        band = values == ignore_index if ignore_index in present else None
        return np.where(values == index, np.uint8(255), np.uint8(0)), band
    return values, None


def check_size(size: tuple[int, int], image_size: tuple[int, int], name: str) -> None:
    """Make sure that the mask ``name`` has its image's (width, height), in pixels after EXIF rotation.

    Raises:
        MaskError: With reason ``rotated`` (width and height swapped: the mask was drawn on an image before its EXIF
            rotation) or ``size``.
    """
    if size == image_size:
        return
    found = f"{name}: the mask has {size[0]}x{size[1]} pixels, the image {image_size[0]}x{image_size[1]}."
    if size == image_size[::-1]:
        raise MaskError(
            "rotated", f"{found} It was made from the image before its EXIF rotation; make it from the upright image."
        )
    raise MaskError("size", f"{found} Masks must have the stored image's size.")


def check_foreground(values: np.ndarray, image_size: tuple[int, int], name: str) -> np.ndarray:
    """The foreground, (H, W) bool, of a mask of 0 and 255, or 0 and 1, that was computed elsewhere.

    An uncertain band is taken out first (``split_band``): whoever forgets that must not get it as background.

    Raises:
        MaskError: As ``check_size``, or with reason ``values`` (more than two values, or neither 0/1 nor 0/255),
            ``empty``, ``full``.

    >>> check_foreground(np.array([[0, 255, 255], [0, 0, 255]], np.uint8), (3, 2), "cow.png").tolist()
    [[False, True, True], [False, False, True]]
    """
    check_size((values.shape[1], values.shape[0]), image_size, name)
    present = used_values(values)
    if not set(present) <= {0, 1} and not set(present) <= {0, 255}:
        shown = ", ".join(map(str, present[:6])) + (", ..." if len(present) > 6 else "")
        raise MaskError("values", f"{name}: the mask holds the values {shown}; 0 and 255 (or 0 and 1) are wanted.")
    foreground = values > 0
    if not foreground.any():
        raise MaskError("empty", f"{name}: the mask has no foreground.")
    if foreground.all():
        raise MaskError("full", f"{name}: the mask is all foreground.")
    return foreground
