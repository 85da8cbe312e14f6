"""JPEG decoded strictly, and at a fraction of its size where a smaller image is wanted.

libjpeg repairs what it can and says so in a warning that image libraries swallow: a file with a kilobyte missing
becomes an image with shifted blocks. Here a warning is a refusal, unless it is about bytes that do not matter to the
image; then the file is decoded again without those bytes, just as strictly.
"""

import re
from collections.abc import Iterator

import numpy as np

from wss_data.errors import ImageError

_HOLE = bytes(64)  # zeros that make a hole; a block of common Huffman tables has at most 24 zero bytes in a row
_PADDING = 4  # stray bytes before the end of a file that are put down to careless software, more to lost blocks

_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_APP0, _APP14, _APP15, _COM = 0xE0, 0xEE, 0xEF, 0xFE
_DHT, _EOI, _SOS = 0xC4, 0xD9, 0xDA


def decode_jpeg(data: bytes, name: str, size: tuple[int, int], longest_side: int | None = None) -> np.ndarray | None:
    """Decode a JPEG and refuse it if any part of its image is damaged.

    Damage to the last refinement of a progressive file can stay unseen; it changes pixels by about as much as the
    compression itself does.

    Args:
        data: The whole file's bytes.
        name: What to call it in an error.
        size: (width, height) in pixels, as the header says.
        longest_side: Side in pixels that the image will be shrunk to; it is then decoded at 1/2, 1/4 or 1/8 of its
            size as far as its longer side stays at least this long. ``None`` for full size.

    Returns:
        The image as stored, not rotated: RGB of shape (H, W, 3) or ink of shape (H, W, 4), uint8. ``None`` if it is
        damaged in no known way and yet cannot be decoded here; another decoder may be tried.

    Raises:
        ImageError: If it is damaged; ``reason`` is ``truncated`` or ``corrupt``.

    Source:
        The warnings of libjpeg-turbo (``jerror.h``); scaled decoding by powers of two is its fast and exact case.
    """
    import simplejpeg

    width, height = size
    wanted = longest_side or max(size)
    # Powers of two alone: the decoder's other eighths are slow.
    fraction = next((by for by in (8, 4, 2) if -(-max(size) // by) >= wanted), 1)
    # The decoder takes the smallest scale at which both sides are at least as asked.
    least = {"min_width": -(-width // fraction), "min_height": -(-height // fraction)} if fraction > 1 else {}
    while True:
        try:
            seen_height, seen_width, space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
            if (seen_width, seen_height) != size:
                return None  # a file made to show two readers two sizes; only one of them was checked
            colours = "CMYK" if space in ("CMYK", "YCCK") else "RGB"
            pixels = simplejpeg.decode_jpeg(data, colours, strict=True, **least)
            break
        except ValueError as error:
            warning = str(error)
        # The decoder gives only its first warning: what is behind a harmless one shows when its cause is gone.
        mended = _without_stray_bytes(data, warning)
        if mended == data:
            if "Premature end of JPEG file" in warning:
                raise ImageError("truncated", f"{name}: the JPEG data is damaged ({warning}).")
            if "Corrupt JPEG data" in warning:
                raise ImageError("corrupt", f"{name}: the JPEG data is damaged ({warning}).")
            return None
        data = mended
    if _has_hole(data):
        raise ImageError("corrupt", f"{name}: the JPEG data is damaged (a hole of {len(_HOLE)} or more zero bytes).")
    return pixels


def _without_stray_bytes(data: bytes, warning: str) -> bytes:
    """The file without bytes that its image does not need; itself if there are none."""
    parts, scan = [data[:2]], len(data)
    for marker, start, end in _segments(data):
        if marker == _APP0 and data[start + 4 : start + 9] == b"JFIF\0":
            parts.append(_JFIF)
        elif marker == _SOS:
            scan = start
            break
        elif marker == _APP14 or not (_APP0 <= marker <= _APP15 or marker == _COM):
            parts.append(data[start:end])
    body = data[scan:]
    if found := _EXTRANEOUS.search(warning):
        end = body.find(bytes([0xFF, _EOI]))
        start = end - int(found[1])
        # Leftovers of lost blocks are as long and as mixed as any data; padding is short or all the same.
        if start >= 0 and (end - start <= _PADDING or len(set(body[start:end])) == 1):
            body = body[:start] + body[end:]
    return b"".join([*parts, body])


def _segments(data: bytes, position: int = 2) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment from ``position`` on, up to and with the next scan's header or the end."""
    while (start := data.find(b"\xff", position)) != -1:
        while data[start + 1 : start + 2] == b"\xff":
            start += 1
        marker = data[start + 1] if start + 1 < len(data) else _EOI
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position = start + 2
            continue
        yield marker, start, end
        if marker in (_SOS, _EOI):
            return
        position = end


def _has_hole(data: bytes) -> bool:
    """Whether there is a run of zeros inside coded blocks that no encoder writes, left by broken downloads and disks.

    No decoder notices it where the common Huffman tables are used: there zeros decode to harmless-looking blocks.
    """
    if data.find(_HOLE) == -1:
        return False
    position = 2
    first_symbols: dict[int, int] = {}
    while True:
        scan = None
        for marker, start, end in _segments(data, position):
            if marker == _DHT:
                # The first symbol of each table, by class and number: the one whose code is all zeros.
                tables = data[start + 4 : end]
                while len(tables) > 17:
                    first_symbols[tables[0]] = tables[17]
                    tables = tables[17 + sum(tables[1:17]) :]
            elif marker == _SOS:
                scan = data[start + 4 : end]
                position = end
        if not scan:
            return False
        found = _SCAN_END.search(data, position)
        stop = found.start() if found else len(data)
        if data.find(_HOLE, position, stop) != -1 and not _zeros_are_even(scan, first_symbols):
            return True
        position = stop


def _zeros_are_even(scan: bytes, first_symbols: dict[int, int]) -> bool:
    """Whether zeros code an even area in a scan with this header.

    They do where the first code of every table in use is "end of block"; in all other tables they would be noise of one
    exact shape, block after block.
    """
    count = scan[0]
    if not any(scan[1 + 2 * count : 3 + 2 * count]):  # first and last frequency
        return True  # a progressive file's scan of mean values
    ac_tables = (0x10 | (choice & 0x0F) for choice in scan[2 : 2 + 2 * count : 2])
    return all(first_symbols.get(table, 0) & 0x0F == 0 for table in ac_tables)
