"""Values that others wrote, taken only after a check: JSON, numbers, texts, moments, tables, files of a folder.

Whatever is wrong is a ``ValueError`` that says what was found and what is wanted; who reads the file adds its name and
the line. All sizes are bounded, so that no file makes this program slow or large before it is refused.
"""

import csv
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from wss_data.errors import shown
from wss_data.errors.text import clean_text, is_clean, visible

LONGEST_LINE = 16 << 20  # bytes; a mask of 10,000 x 10,000 pixels is far below
LONGEST_TEXT = 10_000  # characters
LARGEST_FILE = (
    64 << 20
)  # bytes of a file that is read at once: a table of a million lines, or notes of a run, are below
LARGEST_WHOLE = 10**15  # whole numbers beyond are no counts, sizes or iterations
DEEPEST = 32  # lists within lists that are read
MOST_VALUES = 1_000_000  # of one JSON text
LONGEST_ROW = 1 << 20  # bytes of a line of a table
LARGEST_IMAGE = 256 << 20  # bytes of a file of an image or a mask; one of 100 megapixels is below

_FIRST_YEAR, _LAST_YEAR = 1970, 2200
_STRUCTURE = (b"[", b"{", b",")


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text in UTF-8; neither NaN, keys twice, nor numbers or depth without end are taken.

    Raises:
        ValueError: If it is no JSON, or holds more than ``MOST_VALUES`` values.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    # Counted before it is parsed: a value takes fifty bytes or more, however short its text.
    if sum(data.count(sign) for sign in _STRUCTURE) > MOST_VALUES:
        raise ValueError(f"no JSON that is read: more than {MOST_VALUES:,} values")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_finite,  # NaN and Infinity, which are no JSON
            parse_int=_short_whole,
            parse_float=_finite,
        )
    except RecursionError as error:  # Python's parser has a limit of its own, far above ours
        raise ValueError(f"no JSON that is read: deeper than {DEEPEST} levels") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"no JSON in UTF-8 (byte {error.start:,})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error})") from error
    level, depth = [value], 0
    while level := [inner for inner in level if isinstance(inner, (dict, list))]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"no JSON that is read: deeper than {DEEPEST} levels")
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return value


def _short_whole(digits: str) -> int:
    if len(digits) > 32:  # converting takes the square of their number
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits) if len(digits) <= 64 else math.inf
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is no number, or too large or too long a one")
    return value


def an_object(value: Any) -> dict[str, Any]:
    """The value, if it is a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is wanted, found {type(value).__name__}")
    return value


def unknown_keys(value: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Keys that nobody reads, for a report."""
    return [visible(key[:40]) for key in value if key not in known]


def number(value: Any, name: str, low: float, high: float) -> float:
    """A finite number in [low, high]; a switch is none."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not plain or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, a number between {low:g} and {high:g} is wanted")
    return float(value)


def number_of(text: str, name: str, low: float, high: float) -> float:
    """The finite number in [low, high] that a cell of a table holds."""
    try:
        return number(float(text if len(text) <= 40 else ""), name, low, high)
    except ValueError:
        raise ValueError(f"{name} is {shown(text)}, a number between {low:g} and {high:g} is wanted") from None


def whole(value: Any, name: str, low: int, high: int = LARGEST_WHOLE) -> int:
    """A whole number in [low, high]; a switch is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}, a whole number between {low:,} and {high:,} is wanted")
    return value


def whole_of(text: str, name: str, low: int, high: int = LARGEST_WHOLE) -> int:
    """The whole number in [low, high] that a cell of a table holds."""
    return whole(int(text) if re.fullmatch(r"[0-9]{1,15}", text) else text, name, low, high)


def text(value: Any, name: str, longest: int = LONGEST_TEXT) -> str:
    """A text from a stranger, cleaned: a title, a name of a person."""
    if not isinstance(value, str) or len(value) > longest:
        raise ValueError(f"{name} is {shown(value)}, a text of at most {longest:,} characters is wanted")
    return clean_text(value)


def identity(value: Any, name: str, longest: int = 1_000) -> str:
    """A text by which something is found again: refused where it would have to be cleaned."""
    if not isinstance(value, str) or not 0 < len(value) <= longest or not is_clean(value):
        raise ValueError(
            f"{name} is {shown(value)}, a text of 1 to {longest:,} characters on one line and without control "
            "characters is wanted"
        )
    return value


def moment(value: Any, name: str) -> datetime:
    """A moment in ISO 8601; without a time zone it is UTC."""
    try:
        if not isinstance(value, str) or len(value) > 40:
            raise ValueError
        found = datetime.fromisoformat(value)
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        if not _FIRST_YEAR <= found.astimezone(UTC).year < _LAST_YEAR:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(
            f"{name} is {shown(value)}, a moment such as 2026-11-22T18:00:00+00:00 is wanted, between {_FIRST_YEAR} "
            f"and {_LAST_YEAR}"
        ) from None
    return found


def _opened(path: Path) -> IO[bytes]:
    """A plain file, opened without waiting for whoever writes to a pipe."""
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("it is no plain file")
    return file


def read_bytes(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """The bytes of a plain file that is not too large; a pipe or a device is not waited for.

    Raises:
        ValueError: If it is no plain file, or a larger one.
        OSError: If it cannot be read.
    """
    with _opened(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    return data


def read_json(path: Path, largest: int = LARGEST_FILE) -> Any:
    """The value of a plain JSON file, as ``read_bytes`` and ``parse_json``."""
    # Editors of Windows put a byte order mark before it, which JSON does not know.
    return parse_json(read_bytes(path, largest).removeprefix(b"\xef\xbb\xbf"))


def note(path: Path) -> Any:
    """What a JSON file beside results says of how they were made; ``None``, so that they are made anew, without one."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def table_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a plain CSV table with their numbers, from 1; empty ones are left out. No cell goes over two lines.

    Raises:
        ValueError: If it is no plain file, or the next line cannot be read or is longer than ``LONGEST_ROW``.
        OSError: If the file cannot be read.
    """
    with _opened(path) as file:
        number = 0
        while line := file.readline(LONGEST_ROW + 1):
            number += 1
            if len(line) > LONGEST_ROW:
                raise ValueError(f"a line of more than {LONGEST_ROW:,} bytes follows")
            try:
                row = next(csv.reader([line.decode("utf-8-sig" if number == 1 else "utf-8")], strict=True), [])
            except csv.Error as error:
                raise ValueError(f"no line of a table follows ({error})") from error
            if row:
                yield number, row


def file_inside(folder: Path, *parts: str, largest: int | None = None) -> Path | None:
    """A plain file in a folder that somebody handed on, or ``None`` if there is nothing of that name.

    ``folder`` may be a link itself; ``parts`` are names on the way to the file, which were checked.

    Raises:
        ValueError: If it is no plain file, has more than ``largest`` bytes, or a link leads out of the folder.
    """
    path = folder.joinpath(*parts)
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(found.st_mode) or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{path} is a link, or lies behind one that leads out of {folder}; a plain file is wanted")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is no plain file")
    if largest is not None and found.st_size > largest:
        raise ValueError(f"{path} has {found.st_size:,} bytes, at most {largest:,} are read")
    return path
