"""MATLAB's .mat files (``save`` with ``-v6``, or ``-v7``, the default), read without trusting a byte of them.

SciPy's ``loadmat`` is made for files one has written oneself: one wrong byte can end the whole process (a segmentation
fault in SciPy 1.17, https://github.com/scipy/scipy/pull/25349), and its authors say that it is not hardened
(https://github.com/scipy/scipy/pull/25166). Only a small part of the format is needed here: numbers, text, cell and
struct arrays. That part is read in bounded pieces, with the sizes in a header believed only as far as the bytes after
it bear them out; objects and function handles are passed over unread.

Source:
    MathWorks, *MAT-File Format*, version 5.
"""

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from wss_data.errors import MaskError
from wss_data.imaging.images import MAX_PIXELS

MAX_INFLATED = 4 << 30
"""Bytes that the compressed variables of a file may have when unpacked: zlib can make a thousand of one."""

MAX_ITEMS = 1_000_000
"""Variables of a file, or elements of a cell or struct array, at most."""

MAX_TEXT = 16 << 20
"""Bytes of one text at most."""

CELL, STRUCT, CHAR, SPARSE = 1, 2, 4, 5
NUMBERS = range(6, 16)
"""MATLAB's codes of the classes double to uint64; logical is among them."""

_PIECE = 1 << 20
_KINDS = {CELL: "a cell array", STRUCT: "a struct", 3: "an object", CHAR: "text", SPARSE: "sparse", 16: "a function"}
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


class Damaged(Exception):
    """The bytes do not say what the format says that they must."""


class _Part:
    """So many bytes of something, never more.

    Args:
        source: Gives that many bytes, or fewer at its end.
        size: Bytes.
        order: ``<`` or ``>``, the byte order of the file.
    """

    def __init__(self, source: Callable[[int], bytes], size: int, order: str) -> None:
        self._source, self.left, self.order = source, size, order

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > self.left:
            raise Damaged("a part is larger than what holds it")
        data = self._source(count)
        if len(data) != count:
            raise Damaged("it ends too early")
        self.left -= count
        return data

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        while count:
            count -= len(self.read(min(count, _PIECE)))

    def part(self, size: int) -> "_Part":
        """The next ``size`` bytes as a part of their own."""
        if size > self.left:
            raise Damaged("a part is larger than what holds it")
        return _Part(self.read, size, self.order)

    def tag(self) -> tuple[int, int, bytes | None]:
        """Type and size of the next element, and its bytes if the tag holds them."""
        head = self.read(8)
        kind, size = struct.unpack(self.order + "II", head)
        if kind >> 16:
            if kind >> 16 > 4:
                raise Damaged("a small element has more than 4 bytes")
            return kind & 0xFFFF, kind >> 16, head[4 : 4 + (kind >> 16)]
        return kind, size, None

    def element(self, most: int) -> tuple[int, bytes]:
        """Type and bytes of the next element, which has at most ``most`` bytes."""
        kind, size, data = self.tag()
        if data is None:
            if size > most:
                raise Damaged(f"a part has {size:,} bytes where at most {most:,} make sense")
            data = self.read(size)
            self.skip(min(-size % 8, self.left))
        return kind, data


class _Inflated:
    """What a compressed part holds, unpacked only as far as it is asked for.

    Args:
        part: The part.
        total: Bytes that were unpacked before in the same file.
    """

    def __init__(self, part: _Part, total: int) -> None:
        self._part, self._zlib, self.total = part, zlib.decompressobj(), total

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes, or fewer at the end."""
        self.total += count
        if self.total > MAX_INFLATED:
            raise MaskError("too_large", f"there are more than {MAX_INFLATED:,} bytes inside when unpacked.")
        data = b""
        while len(data) < count and not self._zlib.eof:
            packed = self._zlib.unconsumed_tail or self._part.read(min(self._part.left, 1 << 16))
            more = self._zlib.decompress(packed, count - len(data))
            if not packed and not more:
                break
            data += more
        return data

    def finish(self) -> None:
        """Make sure that nothing is left and the checksum is right."""
        if self.read(1) or not self._zlib.eof:
            raise Damaged("a compressed variable has another length than it says")


@dataclass(frozen=True)
class Array:
    """Header of an array; its data are next in ``part``.

    Args:
        name: Of the variable or field.
        kind: MATLAB's class code; 0 for an empty place.
        shape: Its dimensions.
        is_complex: Whether it has imaginary parts.
        part: The rest of it.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    is_complex: bool
    part: _Part

    @property
    def size(self) -> int:
        """Number of its items."""
        return math.prod(self.shape)

    @property
    def may_be_mask(self) -> bool:
        """Whether it is a matrix of numbers, no vector."""
        return self.kind in NUMBERS and len(self.shape) == 2 and min(self.shape) > 1


@contextmanager
def opened(path: Path | str) -> Iterator[IO[bytes]]:
    """The file, and every way in which reading it can fail turned into a ``MaskError`` that names it."""
    try:
        with Path(path).open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise MaskError("missing", f"{path}: there is no such .mat file.") from error
    except MaskError as error:
        raise MaskError(error.reason, f"{path}: {error}") from error
    except (Damaged, zlib.error) as error:
        raise MaskError("unreadable", f"{path}: the .mat file is damaged ({error}).") from error
    except OSError as error:
        raise MaskError("unreadable", f"{path}: the .mat file cannot be read ({error}).") from error


def arrays(file: IO[bytes], inside: bool = False) -> Iterator[Array]:
    """The variables of a file in order.

    What is yielded may be read, or not, before the next is asked for.

    Args:
        file: The file.
        inside: Whether a struct or cell array of one element is replaced by what it holds.
    """
    order = _check_header(file)
    end = file.seek(0, 2)
    position, total = 128, 0
    for _ in range(MAX_ITEMS):
        if position == end:
            return
        file.seek(position)
        part = _Part(file.read, end - position, order)
        kind, size, data = part.tag()
        if data is not None or kind not in (_MATRIX, _COMPRESSED):
            raise Damaged(f"a variable has the unknown type {kind}")
        position += 8 + size
        part = part.part(size)
        inflated = None
        if kind == _COMPRESSED:
            inflated = _Inflated(part, total)
            part = _Part(inflated.read, 1 << 33, order)  # more than sizes of 32 bits can say
            kind, size, data = part.tag()
            if data is not None or kind != _MATRIX:
                raise Damaged(f"a variable has the unknown type {kind}")
            part = part.part(size)
        array = _header(part)
        if inside and array.kind in (STRUCT, CELL) and array.size == 1:
            names = field_names(array) if array.kind == STRUCT else [array.name]
            for name in names:
                field = child(array.part, name)
                yield field
                field.part.skip(field.part.left)
        elif array.name:  # MATLAB keeps objects' insides in a variable without a name
            yield array
        if inflated is not None:
            if part.left == 0:
                inflated.finish()
            total = inflated.total
    raise MaskError("too_large", f"there are more than {MAX_ITEMS:,} variables inside.")


def _check_header(file: IO[bytes]) -> str:
    """The byte order of the file; raises ``MaskError`` for what only looks like one."""
    file.seek(0)
    head = file.read(128)
    saved = "Save it again with save(file, 'mask', '-v7')."
    if head.startswith(b"\x89HDF"):
        raise MaskError("mat_version", f"this is an HDF5 file, which is not read. {saved}")
    if len(head) == 128 and head[126:] in (b"IM", b"MI"):
        order = "<" if head[126:] == b"IM" else ">"
        version = struct.unpack(order + "H", head[124:126])[0]
        if version == 0x0100:
            return order
        found = "7.3 (HDF5)" if version == 0x0200 else f"{version >> 8}.{version & 255}"
        raise MaskError("mat_version", f"this is a .mat file of version {found}, which is not read. {saved}")
    if len(head) >= 20 and b"\0" in head[:4]:
        raise MaskError("mat_version", f"this is no .mat file, or one of version 4, which is not read. {saved}")
    if head.startswith(b"# ") or b"Octave" in head:
        raise MaskError("mat_version", f"this is a text file of GNU Octave. {saved}")
    raise Damaged("it does not begin as a .mat file")


def _header(part: _Part, name: str | None = None) -> Array:
    """Read the header of an array; ``name`` is what it is called where the header does not say."""
    kind, data = part.element(8)
    if kind != 6 or len(data) != 8:
        raise Damaged("an array has no flags")
    flags = struct.unpack(part.order + "II", data)[0]
    kind = flags & 0xFF
    if kind not in NUMBERS and kind not in (CELL, STRUCT, CHAR, SPARSE):
        return Array(name or "?", kind, (), False, part)  # objects and functions are laid out in their own ways
    number, data = part.element(4 * 64)
    if number not in (5, 6) or len(data) % 4 or len(data) < 8:
        raise Damaged("an array has no dimensions")
    shape = struct.unpack(f"{part.order}{len(data) // 4}i", data)
    if min(shape) < 0:
        raise Damaged("an array has a negative dimension")
    own = _clean(part.element(4096)[1].decode("latin-1"))
    return Array(own if name is None else name, kind, shape, bool(flags & 0x0800), part)


def child(part: _Part, name: str) -> Array:
    """The next array within an array."""
    kind, size, data = part.tag()
    if kind != _MATRIX or data is not None:
        raise Damaged("a cell or field holds no array")
    if size == 0:
        return Array(name, 0, (0, 0), False, part.part(0))
    return _header(part.part(size), name)


def field_names(array: Array) -> list[str]:
    """The names of a struct's fields; read them before its elements."""
    data = array.part.element(8)[1]
    length = struct.unpack(array.part.order + "i", data)[0] if len(data) == 4 else 0
    text = array.part.element(1 << 16)[1]
    if length <= 0 or len(text) % length:
        raise Damaged("a struct has no names of its fields")
    return [_clean(text[i : i + length].split(b"\0")[0].decode("latin-1")) for i in range(0, len(text), length)]


def values(array: Array) -> np.ndarray:
    """The numbers of a matrix as a mask.

    Args:
        array: Its data are read.

    Returns:
        Shape (H, W), uint8.

    Raises:
        MaskError: With reason ``mat_no_mask`` (no matrix of numbers), ``rgb``, ``too_large``, or ``values`` (other than
            whole numbers from 0 to 255).
    """
    if len(array.shape) == 3 and array.kind in NUMBERS and array.shape[2] in (3, 4):
        raise MaskError("rgb", f"'{array.name}' holds colours ({array.shape[2]} planes), one plane is wanted.")
    if not array.may_be_mask:
        hint = f" Save full({array.name})." if array.kind == SPARSE else ""
        raise MaskError("mat_no_mask", f"'{array.name}' is {described(array.kind, array.shape)}, no matrix.{hint}")
    if array.size > MAX_PIXELS:
        raise MaskError("too_large", f"'{array.name}' has {array.size:,} pixels, at most {MAX_PIXELS:,} are read.")
    mask = _whole_numbers(array, "0 and 255 (or 0 and 1) are wanted")
    return np.ascontiguousarray(mask.reshape(array.shape[::-1]).T)


def vector(array: Array, wanted: str) -> np.ndarray:
    """The numbers of an array, whatever its dimensions.

    Args:
        array: Its data are read.
        wanted: What an error says of other numbers, such as ``"1 to 20 are wanted"``.

    Returns:
        Shape (N,), uint8, in MATLAB's order; of an empty array none.

    Raises:
        MaskError: With reason ``values`` (no array of numbers, or other than whole numbers from 0 to 255), or
            ``too_large``.
    """
    if array.size == 0:
        return np.empty(0, np.uint8)
    if array.kind not in NUMBERS:
        raise MaskError("values", f"'{array.name}' is {described(array.kind, array.shape)}; {wanted}.")
    if array.size > _PIECE:
        raise MaskError("too_large", f"'{array.name}' has {array.size:,} numbers; {wanted}.")
    return _whole_numbers(array, wanted)


def _whole_numbers(array: Array, wanted: str) -> np.ndarray:
    """The numbers of an array in MATLAB's order, each a whole number from 0 to 255. Shape (N,), uint8."""
    if array.is_complex:
        raise MaskError("values", f"'{array.name}' holds complex numbers; {wanted}.")
    kind, size, inline = array.part.tag()
    if kind not in _NUMERIC:
        raise Damaged(f"numbers have the unknown type {kind}")
    dtype = np.dtype(array.part.order + _NUMERIC[kind])
    if size != array.size * dtype.itemsize:
        raise Damaged(f"'{array.name}' has {size:,} bytes where {array.size * dtype.itemsize:,} are wanted")
    found = np.empty(array.size, np.uint8)
    for start in range(0, array.size, _PIECE):
        stop = min(start + _PIECE, array.size)
        data = array.part.read((stop - start) * dtype.itemsize) if inline is None else inline
        numbers = np.frombuffer(data, dtype)
        with np.errstate(invalid="ignore"):
            found[start:stop] = numbers.astype(np.uint8)
        wrong = numbers[found[start:stop] != numbers]
        if len(wrong):
            shown = ", ".join(f"{value:g}" for value in wrong[:3].astype(float))
            raise MaskError("values", f"'{array.name}' holds {shown}; {wanted}.")
    return found


def texts(array: Array) -> list[str]:
    """The rows of a text."""
    kind, data = array.part.element(MAX_TEXT)
    if kind not in _TEXT:
        raise Damaged(f"text has the unknown type {kind}")
    codec = _TEXT[kind]
    if codec in ("utf-16", "utf-32"):
        codec += "-le" if array.part.order == "<" else "-be"
    text = _clean(data.decode(codec, errors="replace"))
    rows, columns = array.shape[0], array.size // max(array.shape[0], 1)
    if rows <= 1:
        return [text]
    if len(text) != rows * columns:
        raise Damaged("a text has another length than it says")
    return [text[row::rows].rstrip() for row in range(rows)]


def _clean(text: str) -> str:
    """``text`` as it may be shown on a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def described(kind: int, shape: Sequence[int]) -> str:
    """An array in words, such as ``numbers of size 340x255``."""
    what = "numbers" if kind in NUMBERS else _KINDS.get(kind, "something else")
    return f"{what} of size {'x'.join(map(str, shape))}" if shape else what
