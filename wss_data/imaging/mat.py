"""MATLAB's .mat files (``save`` with ``-v6``, or ``-v7``, the default): masks and lists of numbers, read by SciPy.

SciPy's reader is made for files one has written oneself, so it runs in a process of its own, with limits of memory and
time; what comes back is masks, names and numbers, already checked. A file that kills that process is a damaged file.
"""

import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wss_data.errors import MaskError
from wss_data.imaging.images import MAX_PIXELS
from wss_data.runtime.killable import KillablePool

# What the reading process may take: zlib can make a thousand bytes of one, and a file may hold a class's masks (20,000
# of 340 x 255 pixels).
MEMORY_BYTES = 2 << 30
TIME_LIMIT_S = 60.0  # after which a file is given up; 2 GiB are unpacked in a tenth of that
MAX_ITEMS = 1_000_000  # elements of a cell or struct array, or of a list of numbers, at most

# Names of a variable or field, in small or capital letters, the first that is there; also with an s: MASK_NAMES hold a
# mask, FILE_NAMES the images' names.
MASK_NAMES = ("mask", "seg", "segmentation", "foreground", "fg", "bw")
FILE_NAMES = ("name", "filename", "file", "stem", "image", "imname")

_IN_WORDS = {"numbers": "numbers", "cell": "a cell array", "struct": "a struct", "char": "text", "sparse": "sparse"}
_NUMBERS = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))


def read_mat_mask(path: Path | str) -> np.ndarray:
    """The mask of one image from a .mat file, (H, W) uint8.

    It is the variable called as in ``MASK_NAMES``, else the only matrix. A struct or cell of one element counts as what
    it holds.

    Raises:
        MaskError: With reason ``missing``, ``unreadable``, ``mat_version``, ``mat_no_mask``, ``mat_several``, ``rgb``,
            ``values`` (not only whole numbers from 0 to 255) or ``too_large``.
    """
    return _in_process(_mask, path)


def read_mat_masks(
    path: Path | str, names: Sequence[str] | None = None
) -> Iterator[tuple[str, np.ndarray | MaskError]]:
    """The masks of many images from one .mat file; ``names`` are the images' in order, for a file that holds none.

    Two layouts are known: a struct array with a field for the mask and one for the name (``MASK_NAMES``,
    ``FILE_NAMES``), and a cell array of masks with as many names in a cell array or in the rows of a text.

    Returns:
        Name of each image as the file has it, and the mask's values, (H, W) uint8, or what is wrong with this one; each
        is unpacked when its turn comes.

    Raises:
        MaskError: At once, with a reason as in ``read_mat_mask``, or ``mat_names`` if names are missing or not as many
            as the masks.
    """
    found: list[tuple[str, _Packed | MaskError]] = _in_process(_masks, path, names)
    return ((name, mask if isinstance(mask, MaskError) else _unpacked(*mask)) for name, mask in found)


def read_mat_numbers(path: Path | str, name: str, wanted: str) -> set[int] | None:
    """The numbers in a variable, or in a field of a struct of one element, called ``name``, whatever its dimensions.

    Returns:
        Whole numbers from 0 to 255; ``None`` if nothing is called so. What an error says of others is ``wanted``, such
        as ``"1 to 20 are wanted"``.

    Raises:
        MaskError: With reason ``missing``, ``unreadable``, ``mat_version``, ``too_large`` or ``values``.
    """
    return _in_process(_numbers, path, name, wanted)


# A mask's shape and compressed values, on their way between two processes: a class of 20,000 takes 20 MB so, and 1.7 GB
# as it is.
_Packed = tuple[tuple[int, ...], bytes]


def _unpacked(shape: tuple[int, ...], values: bytes) -> np.ndarray:
    return np.frombuffer(bytearray(zlib.decompress(values)), np.uint8).reshape(shape)


class _Reader(KillablePool):
    """The process in which SciPy reads.

    One wrong byte can end it (a segmentation fault in SciPy 1.17, https://github.com/scipy/scipy/pull/25349), and
    SciPy's authors say that the reader is not hardened (https://github.com/scipy/scipy/pull/25166).
    """

    def failure(self, arguments: tuple[Any, ...], reason: Literal["killed", "timeout"], detail: str) -> Exception:
        """The file is to blame."""
        return MaskError("unreadable", f"the .mat file is damaged: no array comes out of it ({reason}: {detail}).")


@cache  # started for the first file, and kept: starting it takes as long as reading a hundred files
def _reader() -> _Reader:
    return _Reader(1, MEMORY_BYTES, TIME_LIMIT_S, _begin)


os.register_at_fork(after_in_child=_reader.cache_clear)  # the parent's, whose threads are not there


def _begin() -> None:
    import scipy.io
    import scipy.sparse  # noqa: F401  what they take by themselves does not count


def _in_process(read: Callable[..., Any], path: Path | str, *details: Any) -> Any:
    try:
        return _reader().submit(_read, os.path.abspath(path), read, *details).result()
    except MaskError as error:
        raise MaskError(error.reason, f"{path}: {error}") from error
    except MemoryError as error:  # of the file's arrays, or of the answer
        raise MaskError("too_large", f"{path}: reading it takes more memory than is allowed.") from error


# ------------------------------------------------------------- what runs in that process


def _read(path: str, read: Callable[..., Any], *details: Any) -> Any:
    try:
        _check_version(path)
        return read(path, *details)
    except (MaskError, MemoryError):
        raise
    except FileNotFoundError:
        raise MaskError("missing", "there is no such .mat file.") from None
    except Exception as error:  # SciPy raises whatever the bytes make it stumble over
        raise MaskError("unreadable", f"the .mat file is damaged ({error}).") from None


@dataclass(frozen=True)
class _Array:
    """A variable, field or element."""

    name: str
    kind: str  # MATLAB's word; "numbers" for all of them
    shape: tuple[int, ...]
    value: Any = None  # itself, once loaded

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def may_be_mask(self) -> bool:
        """Whether it is a matrix of numbers, no vector."""
        return self.kind == "numbers" and len(self.shape) == 2 and min(self.shape) > 1

    @property
    def in_words(self) -> str:
        """Such as ``numbers of size 340x255``."""
        what = _IN_WORDS.get(self.kind, "something else")
        return f"{what} of size {'x'.join(map(str, self.shape))}" if self.shape else what


def _check_version(path: str) -> None:
    """Raise ``MaskError`` for what only looks like a .mat file, or is one of a version that is not read."""
    with open(path, "rb") as file:
        head = file.read(128)
    if head.startswith(b"\x89HDF"):
        found = "an HDF5 file"
    elif len(head) == 128 and head[126:] in (b"IM", b"MI"):  # the letters MI as the writer's byte order has them
        version = int.from_bytes(head[124:126], "little" if head[126:] == b"IM" else "big")
        if version == 0x0100:
            return
        found = f"a .mat file of version {'7.3 (HDF5)' if version == 0x0200 else f'{version >> 8}.{version & 255}'}"
    elif len(head) >= 20 and b"\0" in head[:4]:  # there version 5 has text, and version 4 a small number
        found = "no .mat file, or one of version 4"
    elif head.startswith(b"# ") or b"Octave" in head:
        found = "a text file of GNU Octave"
    else:
        raise MaskError("unreadable", "the .mat file is damaged (it does not begin as a .mat file).")
    raise MaskError("mat_version", f"this is {found}, which is not read. Save it again with save(file, 'mask', '-v7').")


def _variables(path: str) -> list[_Array]:
    """The variables of a file by their headers alone: nothing is unpacked, however large it says it is."""
    from scipy.io import whosmat

    found = [(name, "numbers" if kind in _NUMBERS else kind, shape) for name, shape, kind in whosmat(path)]
    # SciPy calls the insides of MATLAB's objects so, which have no name of their own.
    return [_Array(*header) for header in found if not header[0].startswith("__")]


def _loaded(path: str, arrays: Sequence[_Array]) -> list[_Array]:
    from scipy.io import loadmat

    values = loadmat(path, variable_names=[array.name for array in arrays])
    return [_array(array.name, values[array.name]) for array in arrays]


def _array(name: str, value: Any) -> _Array:
    from scipy.sparse import issparse

    kind = "struct" if value.dtype.names else {"O": "cell", "U": "char"}.get(value.dtype.kind, "numbers")
    return _Array(name, "sparse" if issparse(value) else kind, value.shape, value)


def _inside(path: str) -> list[_Array]:
    """The variables, with each struct or cell array of one element replaced by what it holds."""
    found = []
    for array in _variables(path):
        if array.kind not in ("struct", "cell") or array.size != 1:
            found.append(array)
            continue
        value = _loaded(path, [array])[0].value
        inner, names = value.flat[0], value.dtype.names
        found += [_array(name, inner[name]) for name in names] if names else [_array(array.name, inner)]
    return found


def _mask(path: str) -> np.ndarray:
    seen = _inside(path)
    named = [one for one in seen if _rank(one.name, MASK_NAMES) < len(MASK_NAMES)]
    candidates = named or [one for one in seen if one.may_be_mask]
    if not candidates:
        raise MaskError("mat_no_mask", f"no matrix is inside. Found: {_listed(seen)}. Call the mask 'mask'.")
    best = _best(candidates, MASK_NAMES)
    _check_matrix(best)  # by its header: what is too large, or no matrix, is not unpacked
    return _matrix(best if best.value is not None else _loaded(path, [best])[0])  # again: a header may lie


def _numbers(path: str, name: str, wanted: str) -> set[int] | None:
    found = [array for array in _inside(path) if array.name == name]
    if not found:
        return None
    array = found[-1]
    if array.size > MAX_ITEMS:
        raise MaskError("too_large", f"'{name}' has {array.size:,} numbers; {wanted}.")
    (array,) = [array] if array.value is not None else _loaded(path, [array])
    if array.size and array.kind != "numbers":
        raise MaskError("values", f"'{name}' is {array.in_words}; {wanted}.")
    return set(_whole_numbers(array, wanted).ravel().tolist())


def _masks(path: str, names: Sequence[str] | None) -> list[tuple[str, _Packed | MaskError]]:
    headers = _variables(path)
    few = [one for one in headers if one.kind in ("struct", "cell", "char") and one.size <= MAX_ITEMS]
    seen = _loaded(path, few)
    structs = [one for one in seen if one.kind == "struct" and _first(one.value.dtype.names, MASK_NAMES)]
    cells = [one for one in seen if one.kind == "cell" and _first_kind(one) == "matrix"]
    if not structs and not cells:
        raise MaskError(
            "mat_no_mask",
            "neither a struct array with the fields name and mask nor a cell array of masks is inside. "
            f"Found: {_listed(headers)}.",
        )
    best = _best(structs or cells, MASK_NAMES)
    fields = best.value.dtype.names
    mask_field, name_field = _first(fields, MASK_NAMES), _first(fields, FILE_NAMES)
    if name_field is None:
        names = _names([] if structs else seen, best.size, names, path)
    else:
        own = map(_text, best.value[name_field].ravel(order="F"))  # MATLAB counts down the columns
        names = [name or "".join((names or [])[position : position + 1]) for position, name in enumerate(own)]
    values = best.value[mask_field] if mask_field else best.value
    items = list(values.ravel(order="F"))
    values[...] = None  # each mask goes when it is packed: 20,000 and their packed forms do not fit side by side
    found: list[tuple[str, _Packed | MaskError]] = []
    for position, name in enumerate(names):
        item, items[position] = items[position], None
        try:
            mask = _matrix(_array(mask_field or best.name, item))
            found.append((name, (mask.shape, zlib.compress(mask.tobytes(), 1))))
        except MaskError as error:
            found.append((name, MaskError(error.reason, f"element {position + 1}: {error}")))
    return found


def _names(seen: Sequence[_Array], count: int, listed: Sequence[str] | None, path: str) -> Sequence[str]:
    """A name for each mask: from a cell array of texts or the rows of one if there are as many, else as listed."""
    texts = [one for one in seen if one.kind == "char" or (one.kind == "cell" and _first_kind(one) == "text")]
    texts = [one for one in texts if one.size == count]
    names = [_text(text) for text in _best(texts, FILE_NAMES).value.ravel(order="F")] if texts else listed
    if names is None:
        listing = Path(path).with_suffix(".txt").name
        way_out = f"Add a cell array called names, or write one name a line into {listing}."
        raise MaskError("mat_names", f"the {count} masks have no names. {way_out}")
    if len(names) != count:
        raise MaskError("mat_names", f"{count} masks but {len(names)} names are there; one each is wanted, in order.")
    return names


def _first_kind(cell: _Array) -> str | None:
    """What a cell array holds, ``matrix`` or ``text``, by the first element that is either."""
    for array in (_array("", item) for item in cell.value.ravel(order="F")):
        if array.may_be_mask or array.kind == "char":
            return "matrix" if array.may_be_mask else "text"
    return None


def _matrix(array: _Array) -> np.ndarray:
    _check_matrix(array)
    return _whole_numbers(array, "0 and 255 (or 0 and 1) are wanted")


def _check_matrix(array: _Array) -> None:
    if array.kind == "numbers" and len(array.shape) == 3 and array.shape[2] in (3, 4):
        raise MaskError("rgb", f"'{array.name}' holds colours ({array.shape[2]} planes), one plane is wanted.")
    if not array.may_be_mask:
        hint = f" Save full({array.name})." if array.kind == "sparse" else ""
        raise MaskError("mat_no_mask", f"'{array.name}' is {array.in_words}, no matrix.{hint}")
    if array.size > MAX_PIXELS:
        raise MaskError("too_large", f"'{array.name}' has {array.size:,} pixels, at most {MAX_PIXELS:,} are read.")


def _whole_numbers(array: _Array, wanted: str) -> np.ndarray:
    """The numbers of an array, each a whole number from 0 to 255. Its shape, uint8."""
    if np.iscomplexobj(array.value):
        raise MaskError("values", f"'{array.name}' holds complex numbers; {wanted}.")
    with np.errstate(invalid="ignore"):
        found = np.ascontiguousarray(array.value).astype(np.uint8, copy=False)
    wrong = array.value[found != array.value]
    if len(wrong):
        shown = ", ".join(f"{value:g}" for value in wrong[:3].astype(float))
        raise MaskError("values", f"'{array.name}' holds {shown}; {wanted}.")
    return found


def _text(value: Any) -> str:
    """A text, or a row of one; empty for anything else."""
    return "".join(np.ravel(value)).rstrip() if np.asarray(value).dtype.kind == "U" else ""


def _best(arrays: Sequence[_Array], wanted: Sequence[str]) -> _Array:
    """The one whose name comes first in ``wanted``, or the only one there is."""
    first = min(_rank(one.name, wanted) for one in arrays)
    best = [one for one in arrays if _rank(one.name, wanted) == first]
    if len(best) > 1:
        several = f"{len(best)} variables may be meant: {_listed(best)}. Call the right one '{wanted[0]}'."
        raise MaskError("mat_several", several)
    return best[0]


def _rank(name: str, wanted: Sequence[str]) -> int:
    """Where ``name`` stands in ``wanted``, whatever its letters, one or many; after all of them if it does not."""
    return next((i for i, one in enumerate(wanted) if name.lower() in (one, f"{one}s")), len(wanted))


def _first(names: Sequence[str] | None, wanted: Sequence[str]) -> str | None:
    """The name that comes first in ``wanted``, or ``None``."""
    best = min(names or (), key=lambda name: _rank(name, wanted), default="")
    return best if _rank(best, wanted) < len(wanted) else None


def _listed(seen: Sequence[_Array]) -> str:
    return ", ".join(f"{one.name} ({one.in_words})" for one in seen[:5]) or "nothing"
