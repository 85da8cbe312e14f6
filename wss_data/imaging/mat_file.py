"""Which array in a .mat file is the mask: the layouts that MATLAB code writes. ``mat_format`` reads the bytes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from wss_data.errors import MaskError
from wss_data.imaging.mat_format import (
    CELL,
    CHAR,
    MAX_ITEMS,
    NUMBERS,
    STRUCT,
    Array,
    Damaged,
    arrays,
    child,
    described,
    field_names,
    opened,
    texts,
    values,
)

MASK_NAMES = ("mask", "seg", "segmentation", "foreground", "fg", "bw")
"""Names of a variable or field that holds a mask, small or capital letters, the first that is there; also with an s."""

FILE_NAMES = ("name", "filename", "file", "stem", "image", "imname")
"""Names of a variable or field that holds the images' names; likewise."""


@dataclass(frozen=True)
class _Seen:
    """A variable or field after a first look.

    Args:
        name: What it is called.
        kind: MATLAB's class code.
        shape: Its dimensions.
        holds: The fields of a struct; of a cell array and a text ``("matrix",)`` or ``("text",)``; else nothing.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    holds: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({described(self.kind, self.shape)})"


def read_mat_mask(path: Path | str) -> np.ndarray:
    """The mask of one image from a .mat file.

    It is the variable called as in ``MASK_NAMES``, else the only matrix. A struct or cell of one element counts as what
    it holds.

    Args:
        path: The file.

    Returns:
        Its values. Shape (H, W), uint8.

    Raises:
        MaskError: With reason ``missing``, ``unreadable``, ``mat_version``, ``mat_no_mask``, ``mat_several``, ``rgb``,
            ``values`` (not only whole numbers from 0 to 255) or ``too_large``.
    """
    with opened(path) as file:
        seen = [_Seen(array.name, array.kind, array.shape) for array in arrays(file, inside=True)]
        wanted = _mask_position(seen)
        mask: np.ndarray | None = None
        for position, array in enumerate(arrays(file, inside=True)):
            if position == wanted:
                mask = values(array)
                array.part.skip(array.part.left)
            elif position > wanted:
                break  # not sooner: it is the next step that looks at the checksum
        if mask is None:
            raise Damaged("it changed while it was read")
        return mask


def _mask_position(seen: Sequence[_Seen]) -> int:
    """Which of the arrays is the mask."""
    matrices = [i for i, one in enumerate(seen) if one.kind in NUMBERS and len(one.shape) == 2 and min(one.shape) > 1]
    named = [i for i, one in enumerate(seen) if _rank(one.name, MASK_NAMES) is not None]
    if not named and not matrices:
        raise MaskError("mat_no_mask", f"no matrix is inside. Found: {_listed(seen)}. Call the mask 'mask'.")
    return _best(named or matrices, seen, MASK_NAMES)


def read_mat_masks(
    path: Path | str, names: Sequence[str] | None = None
) -> Iterator[tuple[str, np.ndarray | MaskError]]:
    """The masks of many images from one .mat file, one after the other; one is held at a time.

    Two layouts are known: a struct array with a field for the mask and one for the name (``MASK_NAMES``,
    ``FILE_NAMES``), and a cell array of masks with as many names in a cell array or in the rows of a text.

    Args:
        path: The file.
        names: The images' names in order, for a file that holds none.

    Yields:
        Name of the image as the file has it, and the mask's values, (H, W) uint8, or what is wrong with this one.

    Raises:
        MaskError: With a reason as in ``read_mat_mask``, or ``mat_names`` if names are missing or not as many as the
            masks. A damaged file may give some masks first.
    """
    with opened(path) as file:
        seen = [_Seen(array.name, array.kind, array.shape, _holds(array)) for array in arrays(file)]
        structs = [i for i, one in enumerate(seen) if one.kind == STRUCT and _first(one.holds, MASK_NAMES)]
        cells = [i for i, one in enumerate(seen) if one.kind == CELL and one.holds == ("matrix",)]
        if not structs and not cells:
            raise MaskError(
                "mat_no_mask",
                "neither a struct array with the fields name and mask nor a cell array of masks is inside. "
                f"Found: {_listed(seen)}.",
            )
        wanted = _best(structs or cells, seen, MASK_NAMES)
        count = math.prod(seen[wanted].shape)
        if count > MAX_ITEMS:
            raise MaskError("too_large", f"{seen[wanted]} has more than {MAX_ITEMS:,} elements.")
        if cells and not structs:
            names = _names_inside(file, seen, count) or names
        if (cells and not structs) or _first(seen[wanted].holds, FILE_NAMES) is None:
            _check_names(names, count, path)
        for position, array in enumerate(arrays(file)):
            if position == wanted:
                yield from _elements(array, names or [""] * count)
            elif position > wanted:
                break


def _check_names(names: Sequence[str] | None, count: int, path: Path | str) -> None:
    listed = Path(path).with_suffix(".txt").name
    if names is None:
        raise MaskError(
            "mat_names",
            f"the {count} masks have no names. Add a cell array called names, or write one name a line into {listed}.",
        )
    if len(names) != count:
        raise MaskError("mat_names", f"{count} masks but {len(names)} names are there; one each is wanted, in order.")


def _holds(array: Array) -> tuple[str, ...]:
    """What ``_Seen.holds`` says of an array; of a cell array the first place that is filled decides."""
    if array.kind == STRUCT:
        return tuple(field_names(array))
    if array.kind == CELL and array.size <= MAX_ITEMS:
        for _ in range(array.size):
            item = child(array.part, "")
            if item.may_be_mask:
                return ("matrix",)
            if item.kind == CHAR:
                return ("text",)
            item.part.skip(item.part.left)
    return ("text",) if array.kind == CHAR else ()


def _names_inside(file: IO[bytes], seen: Sequence[_Seen], count: int) -> list[str] | None:
    """The names among the variables, or ``None``: as many as there are masks."""
    there = [
        i
        for i, one in enumerate(seen)
        if one.holds == ("text",) and (math.prod(one.shape) if one.kind == CELL else one.shape[0]) == count
    ]
    if not there:
        return None
    wanted = _best(there, seen, FILE_NAMES)
    for position, array in enumerate(arrays(file)):
        if position == wanted:
            return texts(array) if array.kind == CHAR else [_text(item) for item in _children(array)]
    return None


def _children(array: Array) -> Iterator[Array]:
    """The elements of a cell array."""
    for _ in range(array.size):
        item = child(array.part, array.name)
        yield item
        item.part.skip(item.part.left)


def _elements(array: Array, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray | MaskError]]:
    """Name and mask of each element of a cell or struct array; ``names`` where the struct has none."""
    if array.kind == CELL:
        for position, item in enumerate(_children(array)):
            yield names[position], _values_of(item, position)
        return
    fields = field_names(array)
    mask_field, name_field = _first(fields, MASK_NAMES), _first(fields, FILE_NAMES)
    for position, name in enumerate(names):
        mask: np.ndarray | MaskError | None = None
        for field in fields:
            item = child(array.part, field)
            if field == name_field:
                name = _text(item) or name
            elif field == mask_field:
                mask = _values_of(item, position)
            item.part.skip(item.part.left)
        if mask is not None:
            yield name, mask


def _text(item: Array) -> str:
    return "".join(texts(item)) if item.kind == CHAR else ""


def _values_of(item: Array, position: int) -> np.ndarray | MaskError:
    try:
        return values(item)
    except MaskError as error:
        return MaskError(error.reason, f"element {position + 1}: {error}")


def _best(positions: Sequence[int], seen: Sequence[_Seen], wanted: Sequence[str]) -> int:
    """The position whose name comes first in ``wanted``, or the only one there is."""
    ranks = [len(wanted) if (rank := _rank(seen[i].name, wanted)) is None else rank for i in positions]
    best = [i for i, rank in zip(positions, ranks, strict=True) if rank == min(ranks)]
    if len(best) > 1:
        shown = _listed([seen[i] for i in best])
        raise MaskError(
            "mat_several", f"{len(best)} variables may be meant: {shown}. Call the right one '{wanted[0]}'."
        )
    return best[0]


def _rank(name: str, wanted: Sequence[str]) -> int | None:
    """Where ``name`` stands in ``wanted``, whatever its letters, one or many."""
    small = name.lower()
    return next((i for i, one in enumerate(wanted) if small in (one, f"{one}s")), None)


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The name that comes first in ``wanted``, or ``None``."""
    known = [(rank, name) for name in names if (rank := _rank(name, wanted)) is not None]
    return min(known)[1] if known else None


def _listed(seen: Sequence[_Seen]) -> str:
    return ", ".join(map(str, seen[:5])) or "nothing"
