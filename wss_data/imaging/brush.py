"""Label Studio's run lengths of a brush: ``@thi.ng/rle-pack`` on four equal bytes (RGBA) a pixel."""

from collections.abc import Sequence

import numpy as np

from wss_data.imaging.images import MAX_PIXELS

_LENGTH_BITS = (3, 4, 8, 16)  # the four sizes in which the length of a run may be written


def encode_brush(mask: np.ndarray) -> list[int]:
    """A binary mask, (H, W) bool, as Label Studio's ``rle``: bytes.

    Source:
        ``encode_rle`` in HumanSignal/label-studio-converter, brush.py.

    >>> encode_brush(np.array([[0, 1]], bool))  # 8 values of 8 bits, 4 sizes, then 4 times 0 and 4 times 255
    [0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128]
    """
    flat = mask.ravel()
    ends = [*(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    bits = [f"{4 * flat.size:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in _LENGTH_BITS)]
    begin = 0
    for end in ends:
        left, value = 4 * (end - begin), f"{255 * int(flat[begin]):08b}"
        while left:
            length = min(left, 1 << _LENGTH_BITS[-1])
            choice = next(place for place, size in enumerate(_LENGTH_BITS) if length <= 1 << size)
            bits.append(f"1{choice:02b}{length - 1:0{_LENGTH_BITS[choice]}b}{value}")
            left -= length
        begin = end
    return np.packbits(np.frombuffer("".join(bits).encode(), np.uint8) - ord("0")).tolist()


def decode_brush(rle: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The mask, (H, W) bool, that Label Studio's ``rle`` holds: whatever is not wholly transparent.

    Args:
        rle: Bytes, runs and literal values mixed as any encoder leaves them.
        size: (width, height) in pixels that it must have.

    Raises:
        ValueError: If it is no such code, or of another size.

    >>> decode_brush([0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128], (2, 1)).tolist()
    [[False, True]]
    """
    width, height = size
    if not isinstance(rle, (list, tuple)) or not all(type(byte) is int and 0 <= byte <= 255 for byte in rle):
        raise ValueError("the run lengths of a brush are a list of bytes")
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"an image of {width}x{height} pixels; at most {MAX_PIXELS:,} are read")
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise ValueError("the run lengths end too early")
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    if total != 4 * width * height:
        raise ValueError(f"run lengths of {total // 4:,} pixels, those of the image are {width * height:,}")
    lengths = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, bool)
    done = 0
    while done < total:
        is_run = read(1)
        end = done + 1 + read(lengths[read(2)])
        if end > total:
            raise ValueError("the run lengths go beyond the image")
        if is_run:
            values[done:end] = read(word) != 0
        else:
            for at in range(done, end):
                values[at] = read(word) != 0
        done = end
    return values.reshape(height, width, 4)[:, :, 3].copy()  # not a view that holds all four
