"""PNG files bit by bit, also those that no library writes, and the kinds of masks that people have."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wss_data.imaging.masks import voc_palette

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
BLACK, WHITE, GREY_128 = (0, 0, 0), (255, 255, 255), (128, 128, 128)
VOC = voc_palette()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(samples: np.ndarray, depth: int) -> bytes:
    """Rows of samples, (H, W) or (H, W, channels), as the lines of a PNG, each without a filter."""
    lines = samples.reshape(len(samples), -1)
    if depth == 16:
        rows = [line.astype(">u2").tobytes() for line in lines]
    else:
        bits = [np.unpackbits(line[:, None].astype(np.uint8), axis=1)[:, 8 - depth :] for line in lines]
        rows = [np.packbits(line.ravel()).tobytes() for line in bits]
    return b"".join(b"\0" + row for row in rows)


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def png(
    samples,
    depth: int = 8,
    colour: int = GREY,
    palette=None,
    chunks: tuple[tuple[bytes, bytes], ...] = (),
    interlaced: bool = False,
    size: tuple[int, int] | None = None,
) -> bytes:
    """The bytes of a PNG. ``palette``: RGB rows; ``chunks``: further ones; ``size``: what the header says instead."""
    samples = np.asarray(samples)
    width, height = size or (samples.shape[1], samples.shape[0])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    pixels = b"".join(packed(part, depth) for part in passes if part.size)
    parts = [chunk(b"IHDR", header)]
    if palette is not None:
        parts.append(chunk(b"PLTE", np.asarray(palette, np.uint8).tobytes()))
    parts += [chunk(kind, data) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")])


def exif(orientation: int) -> tuple[bytes, bytes]:
    return b"eXIf", b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + b"\0\0\0\0"


def huge(side: int, data: bytes = b"\0" * 1000) -> bytes:
    """A few hundred bytes whose header promises ``side`` x ``side`` pixels."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def shape(inside: int, outside: int = 0, border: int | None = None) -> np.ndarray:
    """A rectangle off the middle of 20 x 12 px, so that every turn shows; ``border``: the value of its upper edge."""
    samples = np.full((12, 20), outside)
    samples[2:8, 3:15] = inside
    if border is not None:
        samples[2, 3:15] = border
    return samples


@dataclass(frozen=True)
class Kind:
    """A kind of mask file.

    Args:
        data: The file.
        reason: Why it is refused; empty where it is read.
        values: What is read, (H, W), where it is.
    """

    data: bytes
    reason: str = ""
    values: np.ndarray = field(default_factory=lambda: shape(1))


def kinds() -> dict[str, Kind]:
    """All kinds of masks by name: each is read for what it is, or refused with its reason."""
    person, void, car = VOC[15], VOC[255], VOC[7]
    full = [WHITE, BLACK, *(VOC[2:])]
    text = zlib.compress(b"\0" * 30_000_000)
    bomb = b"a\0\0" + text
    whole = png(shape(1))
    found = {
        # as written
        "grey of 1 bit": Kind(png(shape(1), 1)),
        "grey of 2 bits": Kind(png(shape(2), 2), values=shape(2)),
        "grey of 4 bits": Kind(png(shape(15, border=1), 4), values=shape(15, border=1)),
        "grey of 8 bits": Kind(png(shape(1))),
        "palette of 1 bit": Kind(png(shape(1), 1, PALETTE, VOC[:2])),
        "palette of 2 bits": Kind(png(shape(3), 2, PALETTE, VOC[:4]), values=shape(3)),
        "palette of 4 bits": Kind(png(shape(15), 4, PALETTE, VOC[:16]), values=shape(15)),
        "palette of 8 bits, interlaced": Kind(png(shape(9), 8, PALETTE, VOC, interlaced=True), values=shape(9)),
        "grey of 4 bits, interlaced": Kind(png(shape(15), 4, interlaced=True), values=shape(15)),
        "grey of 2 bits, interlaced": Kind(png(shape(3), 2, interlaced=True), values=shape(3)),
        "grey of 1 bit, interlaced": Kind(png(shape(1), 1, interlaced=True)),
        "void drawn in white": Kind(
            png(shape(15, border=255), 8, PALETTE, [*VOC[:255], WHITE]), values=shape(15, border=255)
        ),
        "void behind the palette's end": Kind(
            png(shape(15, border=255), 8, PALETTE, VOC[:21]), values=shape(15, border=255)
        ),
        "palette filled up with black": Kind(
            png(shape(15, border=255), 8, PALETTE, [*VOC[:16], *[BLACK] * 240]), values=shape(15, border=255)
        ),
        "a class in a palette filled up with black": Kind(
            png(shape(4), 8, PALETTE, [*VOC[:2], *[BLACK] * 254]), values=shape(4)
        ),
        "a ramp of grey as palette": Kind(
            png(shape(128), 8, PALETTE, np.repeat(np.arange(256)[:, None], 3, 1)), values=shape(128)
        ),
        "colours of another's choice": Kind(
            png(shape(2, 1), 8, PALETTE, [(70, 70, 70), (128, 64, 128), (244, 35, 232)]), values=shape(2, 1)
        ),
        "white as background of coloured classes": Kind(
            png(shape(1), 8, PALETTE, [WHITE, (255, 0, 0), (0, 0, 255)]), values=shape(1)
        ),
        "only white, the background of coloured classes": Kind(
            png(shape(0), 8, PALETTE, [WHITE, (255, 0, 0), BLACK]), values=shape(0)
        ),
        "opaque throughout": Kind(png(shape(1), 8, PALETTE, VOC, ((b"tRNS", b"\xff\xff"),))),
        "transparent where nothing is": Kind(png(shape(1), 8, PALETTE, VOC, ((b"tRNS", b"\xff\xff\0"),))),
        "upright by EXIF": Kind(png(shape(1), chunks=(exif(1),))),
        "text that unpacks to 30 MB": Kind(png(shape(1), chunks=((b"zTXt", bomb),))),
        "profile that unpacks to 30 MB": Kind(png(shape(1), chunks=((b"iCCP", bomb),))),
        "text of 2 MB": Kind(png(shape(1), chunks=((b"tEXt", b"a\0" + b"x" * 2_000_000),))),
        "something behind its end": Kind(whole + b"\0" * 100),
        # by colour
        "white first": Kind(png(shape(0, 1), 1, PALETTE, [WHITE, BLACK]), values=shape(255)),
        "white first of 8 bits, black last": Kind(
            png(shape(0, 255), 8, PALETTE, 255 - VOC * 0 - np.repeat(np.arange(256)[:, None], 3, 1)), values=shape(255)
        ),
        "all white, white first": Kind(png(shape(0), 1, PALETTE, [WHITE, BLACK]), values=np.full((12, 20), 255)),
        "black and white far back": Kind(
            png(shape(225, 10), 8, PALETTE, [*VOC[:10], BLACK, *VOC[11:225], WHITE]), values=shape(255)
        ),
        "white, grey and black": Kind(
            png(shape(0, 2, 1), 8, PALETTE, [WHITE, GREY_128, BLACK]), values=shape(255, border=128)
        ),
        "white and black before VOC's": Kind(png(shape(0, 1), 8, PALETTE, full), values=shape(255)),
        "VOC's compacted": Kind(
            png(shape(1, border=2), 2, PALETTE, [BLACK, person, void]), values=shape(15, border=255)
        ),
        "VOC's sorted": Kind(png(shape(2, 1, 0), 8, PALETTE, [void, BLACK, car, person]), values=shape(7, border=255)),
        "VOC's moved by one": Kind(png(shape(3, 1), 8, PALETTE, np.roll(VOC, 1, axis=0)), values=shape(2)),
        # refused
        "VOC's compacted, void in white": Kind(png(shape(1, border=2), 2, PALETTE, [BLACK, person, WHITE]), "palette"),
        "VOC's at other places among others": Kind(png(shape(1), 2, PALETTE, [BLACK, person, (1, 2, 3)]), "palette"),
        "black alone, at another place": Kind(png(shape(3, 3), 8, PALETTE, [(9, 9, 9), *VOC[1:3], BLACK]), "palette"),
        "greys that are VOC's": Kind(png(shape(1), 2, PALETTE, [BLACK, GREY_128, (192, 192, 192)]), "palette"),
        "colours": Kind(png(np.repeat(shape(1)[:, :, None], 3, 2), 8, RGB), "rgb"),
        "colours of 16 bits": Kind(png(np.repeat(shape(1)[:, :, None], 3, 2), 16, RGB), "rgb"),
        "colours with alpha": Kind(png(np.repeat(shape(1)[:, :, None], 4, 2), 8, RGBA), "alpha"),
        "grey with alpha": Kind(png(np.repeat(shape(1)[:, :, None], 2, 2), 8, GREY_ALPHA), "alpha"),
        "transparent background": Kind(png(shape(1), 8, PALETTE, VOC, ((b"tRNS", b"\0"),)), "alpha"),
        "half transparent object": Kind(png(shape(1), 8, PALETTE, VOC, ((b"tRNS", b"\xff\x80"),)), "alpha"),
        "grey that is transparent": Kind(png(shape(1), chunks=((b"tRNS", b"\0\1"),)), "alpha"),
        "grey of 16 bits": Kind(png(shape(1), 16), "16_bit"),
        "half a turn by EXIF": Kind(png(shape(1), chunks=(exif(3),)), "orientation"),
        "mirrored by EXIF": Kind(png(shape(1), chunks=(exif(2),)), "orientation"),
        "60,000 x 60,000 promised": Kind(huge(60_000), "too_large"),
        "2,147,483,647 x 2,147,483,647 promised": Kind(huge(2**31 - 1), "too_large"),
        "10,000 x 10,000 promised": Kind(huge(10_000), "unreadable"),
        "more rows promised than held": Kind(png(shape(1), size=(20, 13)), "unreadable"),
        "animated": Kind(png(shape(1), chunks=((b"acTL", b"\0\0\0\2\0\0\0\0"),)), "unreadable"),
        "no pixels": Kind(png(shape(1), size=(0, 12)), "unreadable"),
        "truncated": Kind(whole[:-20], "unreadable"),
        "cut in its header": Kind(whole[:20], "unreadable"),
        "a wrong checksum": Kind(whole[:-14] + bytes([whole[-14] ^ 1]) + whole[-13:], "unreadable"),
        "no palette": Kind(png(shape(1), 8, PALETTE), "unreadable"),
        "half a colour": Kind(
            png(shape(1), 8, PALETTE).replace(b"", b"", 0)[:33]
            + chunk(b"PLTE", b"\0" * 4)
            + png(shape(1), 8, PALETTE)[33:],
            "unreadable",
        ),
        "grey of 3 bits": Kind(png(shape(1), 3), "unreadable"),
        "two headers": Kind(whole[:33] + whole[8:], "unreadable"),
        "an unknown chunk that matters": Kind(png(shape(1), chunks=((b"CgBI", b""),)), "unreadable"),
        "empty": Kind(b"", "unreadable"),
        "text": Kind(b"no picture", "unreadable"),
        "a JPEG": Kind(b"\xff\xd8\xff\xe0\0\x10JFIF\0", "unreadable"),
        "PostScript": Kind(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable"),
    }
    return found


Mutate = Callable[[np.random.Generator, bytes], bytes]


def mutated(random: np.random.Generator, data: bytes) -> bytes:
    """A file that was damaged or made up: bytes changed, cut, doubled; half of the time with checksums made right."""
    raw = bytearray(data)
    for _ in range(int(random.integers(1, 6))):
        at = int(random.integers(0, max(1, len(raw))))
        match int(random.integers(0, 5)):
            case 0:
                raw[at : at + 1] = bytes([int(random.integers(0, 256))])
            case 1:
                del raw[at : at + int(random.integers(1, 9))]
            case 2:
                raw[at:at] = raw[at : at + int(random.integers(1, 40))]
            case 3:
                raw[at : at + 4] = random.integers(0, 256, 4, np.uint8).tobytes()
            case _:
                raw[min(at, 29) : min(at, 29) + 1] = bytes([int(random.integers(0, 256))])  # the header
    return with_checksums(bytes(raw)) if random.integers(0, 2) else bytes(raw)


def with_checksums(data: bytes) -> bytes:
    """The bytes with the checksum of each chunk made right, as far as chunks can be known."""
    raw, position = bytearray(data), 8
    while position + 12 <= len(raw):
        length = int.from_bytes(raw[position : position + 4], "big")
        end = position + 12 + length
        if end > len(raw):
            break
        raw[end - 4 : end] = struct.pack(">I", zlib.crc32(bytes(raw[position + 4 : end - 4])))
        position = end
    return bytes(raw)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
