"""Read images safely, shrink them, write them."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO, TypeAlias

import cv2
import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from wss_data.errors import ImageError, shown
from wss_data.imaging.jpeg import decode_jpeg
from wss_data.imaging.png import exif_orientation
from wss_data.reading.listing import SUFFIXES, Listing, list_files
from wss_data.runtime.files import write_bytes

_WANTED = (
    "Wanted is a file, an image of Pillow's, or an array of RGB pixels, (height, width, 3), uint8; several are given "
    "as a list."
)

# Too many pixels are an error here, not Pillow's warning. Set once: filters are not safe to change between threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# A broken block of metadata says nothing against the image.
warnings.filterwarnings("ignore", message="Corrupt EXIF data")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # all others are refused before a decoder sees them
MAX_PIXELS = 100_000_000  # more are refused as a decompression bomb
LONGEST_JPEG = 65_500  # longest side of a JPEG that libjpeg writes, in pixels
MIN_SIDE = 16  # images with a side shorter than this (pixels) cannot show an object

# An image that was averaged while it was decoded is shrunk by up to this factor linearly, at a quarter of the cost.
# From half of 1,024 px to 340 px (1.5) the result is as near to Pillow's bicubic reduction of the whole image as that
# of area averaging (both 39.5 dB), and 0.5 dB farther from the area average of the whole image (40.3 dB); at 1.9 it
# would be 3 dB farther from both.
_LINEAR_UP_TO = 1.6

AnyImage: TypeAlias = Path | str | Image.Image | np.ndarray
"""An image wherever it is: a file, an image of Pillow's, or RGB pixels, (H, W, 3), uint8."""

_LOADING = Lock()  # an image that Pillow has only opened must not be loaded by two threads at once

# EXIF orientation -> how an image lies in its file; 1 is upright
TURNED = {
    2: "mirrored",
    3: "half a turn",
    4: "half a turn, mirrored",
    5: "a quarter turn, mirrored",
    6: "a quarter turn",
    7: "a quarter turn, mirrored",
    8: "a quarter turn",
}


def read_image(path: Path | str) -> np.ndarray:
    """Read an image file as upright RGB.

    Returns:
        The image, EXIF rotation applied, first frame of an animation, alpha over white. Shape (H, W, 3), uint8.

    Raises:
        ImageError: If it is no usable image; ``reason`` is one of ``missing``, ``unreadable``, ``truncated``,
            ``too_large``, ``too_small``.
    """
    return decode_image(image_bytes(path), str(path))


def pixels_of(image: AnyImage, name: str = "the image") -> np.ndarray:
    """An image as upright RGB, whatever holds it; an image of Pillow's is turned as its EXIF orientation says.

    Args:
        image: See ``AnyImage``. Files are read by ``read_image``.
        name: What to call it in an error, if it is no file.

    Returns:
        Shape (H, W, 3), uint8, contiguous; pixels that are so already are not copied.

    Raises:
        ImageError: As ``read_image``; also ``unreadable`` for anything else than ``AnyImage``.
    """
    if isinstance(image, Path | str):
        return read_image(image)
    count_pixels(image, name)
    if isinstance(image, np.ndarray):
        return np.ascontiguousarray(image)
    with _decoding(name):
        with _LOADING:
            image.load()
        return _turned(_to_rgb(image, None), exif_orientation(image.getexif))


def read_at_least(path: Path | str, longest_side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image file as upright RGB, decoded no larger than is needed.

    A JPEG is averaged over 2, 4 or 8 pixels while it is decoded, other formats over whole pixels afterwards. Damage is
    painted over where ``read_image`` does.

    Returns:
        The image, (h, w, 3) uint8, at least ``longest_side`` pixels long if it was, and the (width, height) of the
        original in pixels, both upright.

    Raises:
        ImageError: As ``read_image``.
    """
    data = image_bytes(path)
    try:
        return _decode(data, str(path), True, longest_side)
    except ImageError as error:
        if error.reason != "corrupt":
            raise
    return _decode(data, str(path), False, longest_side)


@contextmanager
def _header(source: Path | str | bytes) -> Iterator[Image.Image]:
    """An image, a file or its bytes, of which the header alone was read."""
    name = "the image" if isinstance(source, bytes) else str(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            yield _open(file, name)
    except OSError as error:
        raise ImageError("missing", f"{name}: the image cannot be opened ({error.strerror}).") from error


def read_size(path: Path | str) -> tuple[int, int]:
    """(width, height) in pixels of an image file, upright, from its header alone; raises as ``read_image``."""
    with _header(path) as image:
        width, height = image.size
        return (height, width) if exif_orientation(image.getexif) >= 5 else (width, height)


def count_pixels(image: AnyImage, name: str = "the image") -> int:
    """Pixels of an image, of a file from its header alone: what it will take to decode it; raises as ``pixels_of``."""
    if isinstance(image, Path | str):
        # Not by read_size: Pillow decodes a whole PNG to look for its EXIF block.
        with _header(image) as opened:
            return opened.width * opened.height
    if isinstance(image, Image.Image):
        return _check_size(*image.size, name)
    if not isinstance(image, np.ndarray):
        raise ImageError("unreadable", f"{name}: {shown(image)} is no image. {_WANTED}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError("unreadable", f"{name}: an array of shape {image.shape} and type {image.dtype}. {_WANTED}")
    return _check_size(image.shape[1], image.shape[0], name)


def unseen_turn(source: bytes | Path) -> int:
    """The EXIF orientation of an image whose size does not tell whether a mask was drawn on it before or after turning.

    That is half a turn, a mirrored image, or a quarter turn of a square one: 2 to 8, as in ``TURNED``; 1 where the
    image, a file or its bytes, lies upright, its size tells, or it cannot be read.
    """
    if isinstance(source, Path) and not source.is_file():
        return 1  # a pipe would be waited for
    try:
        with _header(source) as image:
            orientation = exif_orientation(image.getexif)
            return orientation if orientation < 5 or image.width == image.height else 1
    except (ImageError, ValueError):
        return 1


def image_bytes(path: Path | str) -> bytes:
    """The bytes of an image file; an ``ImageError`` with reason ``missing`` if it cannot be opened."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{path}: the image cannot be opened ({error.strerror}).") from error


def decode_image(data: bytes, name: str, strict: bool = False) -> np.ndarray:
    """Decode the bytes of an image, called ``name`` in an error, as ``read_image`` does.

    Raises:
        ImageError: As ``read_image``; where ``strict``, also ``corrupt``: damage that decoders of JPEG usually paint
            over.
    """
    return _decode(data, name, strict, None)[0]


def decode_shrunk(data: bytes, name: str, longest_side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode the bytes of an image, called ``name`` in an error, strictly and straight to the size that is wanted.

    Returns:
        The upright image, (h, w, 3) uint8 RGB, of at most ``longest_side`` pixels a side, and the (width, height) of
        the upright original in pixels.

    Raises:
        ImageError: As ``decode_image`` with ``strict``.
    """
    image, (width, height) = _decode(data, name, True, longest_side)
    size = longest_side_size(width, height, longest_side)
    if size != (image.shape[1], image.shape[0]):
        averaged = image.shape[1] < width and image.shape[1] <= _LINEAR_UP_TO * size[0]
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if averaged else cv2.INTER_AREA)
    return image, (width, height)


def _decode(data: bytes, name: str, strict: bool, longest_side: int | None) -> tuple[np.ndarray, tuple[int, int]]:
    """The upright image, no smaller than ``longest_side`` needs, and the original's upright (width, height)."""
    image = _open(io.BytesIO(data), name)
    width, height = image.size
    with _decoding(name):
        pixels = None
        if strict and image.format in ("JPEG", "MPO"):
            pixels = decode_jpeg(data, name, image.size, longest_side)
        if pixels is None:
            image.load()
            width, height = image.size
            pixels = _to_rgb(image, longest_side)
        elif pixels.shape[2] == 4:
            # Adobe's programs store ink inverted. Each colour is what its ink and black leave of white.
            light = (pixels if "adobe" in image.info else 255 - pixels).astype(np.uint16)
            pixels = ((light[:, :, :3] * light[:, :, 3:] + 127) // 255).astype(np.uint8)
        orientation = exif_orientation(image.getexif)
    return _turned(pixels, orientation), (height, width) if orientation >= 5 else (width, height)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Whatever goes wrong in the block is an ``ImageError``."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        reason = "truncated" if "truncated" in str(error) else "unreadable"
        raise ImageError(reason, f"{name}: the image data cannot be decoded ({error}).") from error


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels that lie as an EXIF orientation says, upright and contiguous."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _open(file: BinaryIO, name: str) -> Image.Image:
    """The image with its header read and its size checked, its pixels not yet decoded."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(
            "unreadable", f"{name}: not an image in a format that is read ({', '.join(FORMATS)})."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        reason = "too_large" if isinstance(error, Image.DecompressionBombError) else "unreadable"
        raise ImageError(reason, f"{name}: the image header cannot be read ({error}).") from error

    _check_size(*image.size, name)
    return image


def _check_size(width: int, height: int, name: str) -> int:
    """Pixels of an image of that size, or ``ImageError`` if it is too large or too small."""
    if width * height > MAX_PIXELS:
        raise ImageError("too_large", f"{name}: {width}x{height} pixels, at most {MAX_PIXELS:,} pixels are read.")
    if min(width, height) < MIN_SIDE:
        raise ImageError("too_small", f"{name}: {width}x{height} pixels, at least {MIN_SIDE} a side are needed.")
    return width * height


def _to_rgb(image: Image.Image, longest_side: int | None) -> np.ndarray:
    """Pixels of a loaded image as RGB, averaged over whole pixels as far as ``longest_side`` allows."""
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit and float grey: Pillow's own conversion clips instead of scaling.
        values = np.nan_to_num(np.array(image, dtype=np.float32), copy=False)
        values /= 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1.0)
        values *= 255.0
        return np.repeat(np.clip(values, 0, 255, out=values).astype(np.uint8)[:, :, None], 3, axis=2)
    # Pillow takes every JPEG in ink for one of Adobe's, which are stored inverted.
    inverted = image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info
    wanted = "RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB"

    def converted(part: Image.Image) -> Image.Image:
        part = ImageChops.invert(part) if inverted and part.mode == "CMYK" else part
        return part if part.mode == wanted else part.convert(wanted)

    by = 1 if longest_side is None else max(image.size) // longest_side
    if by > 1:
        image = converted(image).reduce(by)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    # In strips: several whole copies at once would be much for a large image.
    for rows, columns in strips(image.height, image.width):
        part = converted(image.crop((columns.start, rows.start, columns.stop, rows.stop)))
        if wanted == "RGBA":
            white = Image.new("RGBA", part.size, (255, 255, 255, 255))
            part = Image.alpha_composite(white, part).convert("RGB")
        pixels[rows, columns] = np.asarray(part)
    return pixels


def longest_side_size(
    width: int, height: int, longest_side: float, enlarge: bool = False, multiple: int = 1, smallest: int = 1
) -> tuple[int, int]:
    """(width, height) in pixels after scaling the longer side to ``longest_side``; larger than given only on demand.

    >>> longest_side_size(1024, 768, 340), longest_side_size(300, 200, 340), longest_side_size(1000, 1, 340)
    ((340, 255), (300, 200), (340, 1))
    >>> longest_side_size(340, 255, 512, enlarge=True), longest_side_size(1000, 30, 512, multiple=32, smallest=64)
    ((512, 384), (512, 64))

    Args:
        width: Of the image, pixels.
        height: Likewise.
        longest_side: Wanted longer side, pixels.
        enlarge: Whether a smaller image is enlarged to it.
        multiple: Both sides become multiples of it, so that no cell of a network hangs over the border.
        smallest: Least side, pixels, made a multiple, too: a panorama keeps something to see.
    """
    scale = longest_side / max(width, height)
    scale = scale if enlarge else min(1.0, scale)
    least = -(-smallest // multiple) * multiple
    return tuple(max(least, round(side * scale / multiple) * multiple) for side in (width, height))  # type: ignore[return-value]


def resize_longest_side(image: np.ndarray, longest_side: int) -> np.ndarray:
    """Shrink an image, (H, W, 3) uint8, by area averaging so that its longer side is at most ``longest_side`` pixels.

    A smaller one is returned itself: nothing is enlarged.

    Source:
        Shen et al., BMVC 2017, section 4.1: 340 pixels.
    """
    size = longest_side_size(image.shape[1], image.shape[0], longest_side)
    same = size == (image.shape[1], image.shape[0])
    return image if same else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def strips(height: int, width: int, pixels: int = 2_000_000) -> Iterator[tuple[slice, slice]]:
    """Cut an image across its longer side into (rows, columns) of at most ``pixels`` pixels, one line at least.

    >>> list(strips(5, 2, pixels=6))
    [(slice(0, 3, None), slice(0, 2, None)), (slice(3, 5, None), slice(0, 2, None))]
    """
    lines, across = max(height, width), min(height, width)
    step = max(1, pixels // max(across, 1))
    for start in range(0, lines, step):
        part = slice(start, min(start + step, lines))
        yield (part, slice(0, width)) if height >= width else (slice(0, height), part)


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """The bytes of ``image`` (shape (H, W, 3), uint8, RGB) as a JPEG without chroma subsampling losses at 95."""
    # OpenCV and Pillow write the same bytes. TurboJPEG's own interface, as in simplejpeg, is no faster and 0.4 dB
    # worse: it takes a coarser transform.
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444 if quality >= 95 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    written, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not written:
        raise RuntimeError(f"an image of shape {image.shape} could not be encoded as JPEG")
    return data.tobytes()


def write_jpeg(image: np.ndarray, path: Path, quality: int = 95) -> None:
    """Write ``image`` (shape (H, W, 3), uint8, RGB) to ``path`` atomically."""
    write_bytes(path, encode_jpeg(image, quality))


def list_images(folder: Path, deep: bool = True) -> Listing:
    """The files of ``folder`` whose name looks like an image, sorted, and what was passed over: see ``list_files``."""
    return list_files(folder, SUFFIXES, deep)
