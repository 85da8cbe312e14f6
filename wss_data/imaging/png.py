"""The samples of a PNG as they are written, from files that anybody made.

Of a file only what makes up the pixels is looked at, so that no text, colour profile or animation reaches a decoder.
Checksums count, and so does data that ends before the image does: Pillow fills up what is missing with zeros.

Source:
    Portable Network Graphics (PNG) Specification, third edition, W3C, sections 5 and 11.
"""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"

GREY, COLOURS, PALETTE, GREY_ALPHA, COLOURS_ALPHA = 0, 2, 3, 4, 6  # colour types

_DEPTHS = {GREY: (1, 2, 4, 8, 16), COLOURS: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), COLOURS_ALPHA: (8, 16)}
_STRETCHED = {1: 1, 2: 85, 4: 17, 8: 1}  # bits a sample -> the factor by which Pillow stretches grey

# Passes of an interlaced image: first column and row, and the steps between them.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))

_LOOKED_AT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"acTL")

_ORIENTATION = 0x0112  # EXIF tag of the rotation and mirroring that makes an image upright


@dataclass(frozen=True)
class Png:
    """The chunks of a PNG that matter to its pixels."""

    width: int  # pixels
    height: int
    depth: int  # bits a sample
    colour: int  # colour type, such as PALETTE
    interlaced: bool
    palette: np.ndarray | None  # RGB of each entry, (N, 3) uint8; None without a palette
    transparency: bytes  # chunk tRNS: opacity of each palette entry, or the one grey value that is see-through
    animated: bool
    orientation: int  # by its EXIF block, 1 (upright) to 8
    data: bytes  # the pixels, compressed


def promised_size(data: bytes) -> tuple[int, int]:
    r"""(width, height) that a PNG's header promises, whatever follows; (0, 0) where there is none.

    >>> promised_size(SIGNATURE + b"\0\0\0\rIHDR" + struct.pack(">II", 4, 3)), promised_size(b"GIF89a")
    ((4, 3), (0, 0))
    """
    if len(data) < 24 or not data.startswith(SIGNATURE) or data[12:16] != b"IHDR":
        return 0, 0
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def read_png(data: bytes) -> Png:
    """Take the bytes of a PNG apart; no pixel is decoded.

    Raises:
        ValueError: If they are no whole PNG, with what is wrong as the end of a sentence.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("it is no PNG")
    found: dict[bytes, bytes] = {}
    parts, position = [], len(SIGNATURE)
    while b"IEND" not in found:
        length, kind = struct.unpack_from(">I4s", data, position) if position + 12 <= len(data) else (len(data), b"")
        end = position + 12 + length
        if end > len(data):
            raise ValueError("the file is truncated")
        if kind in _LOOKED_AT:
            if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise ValueError(f"the checksum of its chunk {kind.decode()} is wrong")
            if kind in found and kind != b"IDAT":
                raise ValueError(f"it has two chunks {kind.decode()}")
            found[kind] = data[position + 8 : end - 4]
            if kind == b"IDAT":
                parts.append(found[kind])
        elif not kind[0] & 0x20:  # a capital letter: a reader that does not know it cannot show the image
            raise ValueError(f"it has a chunk {kind!r} that no reader may pass over")
        if b"IHDR" not in found:
            raise ValueError("it does not begin with its header")
        position = end
    header, colours = found[b"IHDR"], found.get(b"PLTE", b"")
    if len(header) != 13:
        raise ValueError("its header has another length than 13 bytes")
    width, height, depth, colour, compression, filtering, interlacing = struct.unpack(">IIBBBBB", header)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlacing > 1:
        raise ValueError("its header holds what PNG does not know")
    if not width or not height:
        raise ValueError(f"it has {width}x{height} pixels")
    if colour == PALETTE and (not colours or len(colours) % 3 or len(colours) > 768):
        raise ValueError("its palette is missing or damaged")

    def exif() -> Image.Exif:
        block = Image.Exif()
        block.load(found.get(b"eXIf", b""))
        return block

    palette = np.frombuffer(colours, np.uint8).reshape(-1, 3) if colour == PALETTE else None
    clear, animated, turned = found.get(b"tRNS", b""), b"acTL" in found, exif_orientation(exif)
    return Png(width, height, depth, colour, bool(interlacing), palette, clear, animated, turned, b"".join(parts))


def samples(png: Png) -> np.ndarray:
    """Decode the samples of a greyscale or palette PNG of at most 8 bits, whose size was looked at.

    Returns:
        The samples as they are written, as a writable array. Shape (H, W), uint8.

    Raises:
        ValueError: If the data is damaged or ends before the image does, with what is wrong as the end of a sentence.
    """
    passes = _ADAM7 if png.interlaced else ((0, 0, 1, 1),)
    sizes = ((-((x - png.width) // dx), -((y - png.height) // dy)) for x, y, dx, dy in passes)
    # Each line has one byte more, for its filter.
    wanted = sum(rows * (1 + (columns * png.depth + 7) // 8) for columns, rows in sizes if columns > 0)
    try:
        raw = zlib.decompressobj().decompress(png.data, wanted)
    except zlib.error as error:
        raise ValueError(f"its pixel data is damaged ({error})") from error
    if len(raw) < wanted:
        raise ValueError(f"its pixel data ends before its {png.width}x{png.height} pixels do")
    if png.depth == 8 and not png.interlaced:
        lines = np.frombuffer(raw, np.uint8).reshape(png.height, 1 + png.width)
        if not lines[:, 0].any():
            return lines[:, 1:].copy()  # no line is filtered, as in label maps: nothing is left to decode
    # As greyscale and without any other chunk: Pillow sees nothing of the file but what was checked above.
    header = struct.pack(">IIBBBBB", png.width, png.height, png.depth, GREY, 0, 0, png.interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", png.data), (b"IEND", b""))
    plain = SIGNATURE + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in chunks
    )
    try:
        with Image.open(io.BytesIO(plain), formats=("PNG",)) as image:
            return np.array(image).astype(np.uint8, copy=False) // np.uint8(_STRETCHED[png.depth])
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        raise ValueError(f"its pixels cannot be decoded ({error})") from error


def exif_orientation(read: Callable[[], Image.Exif]) -> int:
    """EXIF orientation, 1 to 8, of the block that ``read`` returns; 1 (upright) where none is or it cannot be read."""
    try:
        orientation = read().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # a broken block of metadata says nothing against the image
        return 1
    return orientation if orientation in range(1, 9) else 1
