"""Read images safely, shrink them, write them."""

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from wss_data.errors import ImageError
from wss_data.files import write_bytes

# Too many pixels are an error here, not Pillow's warning. Set once: filters are not safe to change between threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are read at all; everything else is refused before a decoder sees it."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""File names that are taken for images when a folder is listed."""

MAX_PIXELS = 100_000_000
"""Images with more pixels than this are refused as decompression bombs."""

MIN_SIDE = 16
"""Images with a side shorter than this (pixels) cannot show an object."""


def read_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image file as upright RGB.

    Args:
        path: The file.
        max_pixels: Largest number of pixels accepted.

    Returns:
        The image, EXIF rotation applied, first frame of an animation, alpha over white. Shape (H, W, 3), uint8.

    Raises:
        ImageError: If it is no usable image; ``reason`` is one of ``missing``, ``unreadable``, ``unsupported_format``,
            ``truncated``, ``too_large``, ``too_small``.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{path}: the image cannot be opened ({error.strerror}).") from error
    return decode_image(data, str(path), max_pixels)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the bytes of an image as upright RGB.

    Args:
        data: The whole file's bytes.
        name: What to call it in an error.
        max_pixels: Largest number of pixels accepted; checked before the pixels are decoded.

    Returns:
        The image, as from ``read_image``. Shape (H, W, 3), uint8.

    Raises:
        ImageError: As ``read_image``.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ImageError(
            "unreadable", f"{name}: not an image in a format that is read ({', '.join(FORMATS)})."
        ) from error
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        reason = "too_large" if isinstance(error, Image.DecompressionBombError) else "unreadable"
        raise ImageError(reason, f"{name}: the image header cannot be read ({error}).") from error

    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_large", f"{name}: {width}x{height} pixels, at most {max_pixels:,} pixels are read.")
    if min(width, height) < MIN_SIDE:
        raise ImageError("too_small", f"{name}: {width}x{height} pixels, at least {MIN_SIDE} a side are needed.")
    try:
        return _to_rgb(image)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        reason = "truncated" if "truncated" in str(error) else "unreadable"
        raise ImageError(reason, f"{name}: the image data cannot be decoded ({error}).") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit and float grey: Pillow's own conversion clips instead of scaling.
        values = np.asarray(image, dtype=np.float32)
        top = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1.0)
        grey = np.clip(values / top * 255.0, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def longest_side_size(width: int, height: int, longest_side: int) -> tuple[int, int]:
    """(width, height) in pixels after shrinking to ``longest_side``; never larger than given, never below 1."""
    scale = min(1.0, longest_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def resize_longest_side(image: np.ndarray, longest_side: int) -> np.ndarray:
    """Shrink an image so that its longer side is at most ``longest_side`` pixels; never enlarge.

    Args:
        image: Shape (H, W, 3), uint8.
        longest_side: Longest side allowed, in pixels.

    Returns:
        The image itself if it is small enough, else its area-averaged reduction. Shape (h, w, 3), uint8.

    Source:
        Shen et al., BMVC 2017, section 4.1: 340 pixels.
    """
    height, width = image.shape[:2]
    size = longest_side_size(width, height, longest_side)
    if size == (width, height):
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """The bytes of ``image`` (shape (H, W, 3), uint8, RGB) as a JPEG without chroma subsampling losses at 95."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 95 else -1)
    return buffer.getvalue()


def write_jpeg(image: np.ndarray, path: Path, quality: int = 95) -> None:
    """Write ``image`` (shape (H, W, 3), uint8, RGB) to ``path`` atomically."""
    write_bytes(path, encode_jpeg(image, quality))


def list_images(folder: Path) -> list[Path]:
    """All files below ``folder`` whose name looks like an image, sorted; hidden files are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
