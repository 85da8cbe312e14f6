"""From the bytes that a stranger sent to a stored file, in worker processes that may be killed."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import PickleBuffer
from typing import Any, Literal

import cv2
import numpy as np

from wss_data.errors import ImageError
from wss_data.imaging.images import decode_shrunk, encode_jpeg
from wss_data.records import stem_of
from wss_data.runtime.files import remove_unfinished, write_bytes
from wss_data.runtime.killable import KillablePool
from wss_data.runtime.parallel import default_workers

_HASHED_SIDE = 64  # images are averaged to at most this many pixels a side before they are hashed
_COSINES = 2 * np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))  # the first 8 of a DCT of 32 values
_SURE = 1e-6  # coefficients reach 10^6 and are rounded at 10^-9: what differs by more differs


@dataclass(frozen=True)
class Decoded:
    """One stored image."""

    sha256: str  # hex digest of the original bytes
    path: Path  # the stored file, <folder>/<first 20 digits of sha256>.jpg
    size: tuple[int, int]  # stored (width, height) in pixels
    original_size: tuple[int, int]  # (width, height) of the upright original in pixels
    phash: str  # perceptual hash, 16 hex digits


def decode_to_file(data: bytes, name: str, folder: Path, longest_side: int) -> Decoded:
    """Verify, shrink, hash and store the bytes of one image; the same bytes always give the same file.

    ``name`` stands in errors; an image whose longest side has more pixels than ``longest_side`` is shrunk to that.
    Raises ``ImageError`` as ``decode_shrunk``, and ``OSError`` if the file cannot be written.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    image, original_size = decode_shrunk(data, name, longest_side)
    path = folder / f"{stem_of(sha256)}.jpg"
    write_bytes(path, encode_jpeg(image))
    return Decoded(sha256, path, (image.shape[1], image.shape[0]), original_size, perceptual_hash(image))


def perceptual_hash(image: np.ndarray) -> str:
    """Perceptual hash of an (H, W, 3) uint8 RGB image, as 16 hex digits: near-duplicates differ in few of 64 bits.

    That of ``imagehash.phash`` for the grey image, averaged to 64 pixels a side where it has more: signs, against their
    median, of the lowest 8x8 DCT coefficients of 32x32 pixels.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    # Averaging first saves most of the time that ``phash`` takes, and changes at most 2 bits.
    size = (min(width, _HASHED_SIDE), min(height, _HASHED_SIDE))
    if size != (width, height):
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    if size == (_HASHED_SIDE, _HASHED_SIDE):
        # What Pillow's resize and SciPy do, as small products: a third of the time, the same bits.
        shrink = _shrink()
        lines = np.floor(np.clip(grey @ shrink.T + 0.5, 0, 255))
        small = np.floor(np.clip(shrink @ lines + 0.5, 0, 255))
        lowest = (_COSINES @ small @ _COSINES.T).ravel()
        below, above = np.sort(lowest)[31:33]
        if above - below > _SURE:
            return np.packbits(lowest > (below + above) / 2).tobytes().hex()
    # An even or mirrored image has coefficients that differ by rounding alone; only the library knows its own.
    # SciPy stands behind it: loaded where it is needed, not when the package is imported.
    from imagehash import phash
    from PIL import Image

    return str(phash(Image.fromarray(grey)))


@cache
def _shrink() -> np.ndarray:
    """How Pillow's Lanczos filter makes 32 pixels of 64. Shape (32, 64), float64.

    In whole multiples of 2^-22, as Pillow counts in whole numbers: sums of such products are exact.
    """
    x = (np.arange(_HASHED_SIDE) + 0.5) / 2 - (np.arange(32)[:, None] + 0.5)
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    weights *= 2**22 / weights.sum(axis=1, keepdims=True)
    return np.trunc(weights + np.copysign(0.5, weights)) / 2**22


class DecodePool(KillablePool):
    """Worker processes that run ``decode_to_file``; hostile bytes cost a worker at most. See ``KillablePool``.

    One image may take ``seconds``, and ``memory_mb`` MiB on top of what a worker needs to start.
    """

    def __init__(self, workers: int | None = None, memory_mb: int = 1024, seconds: float = 20.0) -> None:
        self._folders: set[Path] = set()
        super().__init__(workers or default_workers(), memory_mb << 20, seconds, _begin_worker)

    def decode(
        self, data: bytes | Callable[[], bytes], name: str, folder: Path, longest_side: int
    ) -> "Future[Decoded]":
        """Hand one image to the workers; arguments as of ``decode_to_file``, ``data`` may be a function that gives it.

        The future, which holds the bytes until it is done, raises the errors of ``decode_to_file``, or ``ImageError``
        with reason ``decoder_timeout``, ``decoder_killed`` or ``decoder_memory``.
        """
        self._folders.add(folder)
        shared = PickleBuffer(data) if isinstance(data, bytes) else data
        return self.submit(_decode_in_worker, shared, name, folder, longest_side)

    def failure(self, arguments: tuple[Any, ...], reason: Literal["killed", "timeout"], detail: str) -> Exception:
        """``decoder_killed`` or ``decoder_timeout`` for this image."""
        return ImageError(f"decoder_{reason}", f"{arguments[1]}: the decoder gave no image ({reason}: {detail}).")

    def close(self, wait: bool = True) -> None:
        """End the workers: after their work, or (``wait`` false) now; what they had half written is removed."""
        super().close(wait)
        for folder in () if wait else self._folders:
            remove_unfinished(folder)


def _begin_worker() -> None:
    cv2.setNumThreads(1)  # there is a process for each processor already
    perceptual_hash(np.zeros((_HASHED_SIDE, _HASHED_SIDE, 3), np.uint8))  # loads what the first image needs


def _decode_in_worker(data: bytes | Callable[[], bytes], name: str, folder: Path, longest_side: int) -> Decoded:
    try:
        return decode_to_file(data() if callable(data) else data, name, folder, longest_side)
    except (MemoryError, cv2.error) as error:
        raise ImageError("decoder_memory", f"{name}: decoding needs more memory than is allowed.") from error
