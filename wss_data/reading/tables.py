"""Text that people hand over: lists with one item a line, and tables; whatever program and system wrote them.

UTF-8 and UTF-16 (by its byte order mark) are read; other encodings are refused by name and line. Lines end as on any
system, cells are parted by comma, semicolon or tab, and columns stand in any order.
"""

import codecs
import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from wss_data.errors import SourceError
from wss_data.reading.checked import read_bytes

MAX_BYTES = 64 << 20  # of a list or table at most

# Byte order mark -> encoding.
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16: its mark begins with that
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEPARATORS = ",;\t"
_LONGEST_HEADER = 200


def decode_text(data: bytes, name: str) -> str:
    """The text in the bytes of the file ``name`` that somebody wrote, without its byte order mark.

    Raises:
        SourceError: If it is longer than ``MAX_BYTES``, no text, or in an encoding that is not read.
    """
    if len(data) > MAX_BYTES:
        raise SourceError(f"{name}: more than {MAX_BYTES >> 20} MB, no list or table. An archive must be unpacked.")
    encoding = next((encoding for mark, encoding in MARKS.items() if data.startswith(mark)), "")
    if not encoding and b"\0" in data:
        raise SourceError(
            f"{name}: no text, it holds zero bytes. An archive must be unpacked; text in UTF-16 needs its byte order "
            "mark, or save it in UTF-8."
        )
    try:
        text = data.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if encoding.startswith(("utf-16", "utf-32")):
            raise SourceError(
                f"{name}: marked as {encoding.upper()}, but no text in it ({error.reason}). Save it in UTF-8."
            ) from error
        # No encoding is guessed: a wrong one would change names without a word.
        line = len(data[: error.start].splitlines() or [b""])
        raise SourceError(
            f"{name}, line {line}: not UTF-8 text, the byte 0x{data[error.start]:02X} is not possible there; is it "
            "in Windows-1252 or another encoding of one country? Save it in UTF-8."
        ) from error
    if "\0" in text:
        raise SourceError(f"{name}: no text, it holds zero bytes. Save it in UTF-8.")
    return text


def read_text(path: Path) -> str:
    """The text of a file that somebody wrote.

    Raises:
        SourceError: As ``decode_text``, or if the file cannot be read.
    """
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise SourceError(f"{path}: cannot be read ({error}). A list or table is wanted; unpack an archive.") from error
    return decode_text(data, str(path))


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, without blanks around them; those of Windows and of old Macs, too. Empty ones stay.

    >>> lines_of("a.jpg\r\n b.jpg\rc\x0b.jpg")
    ['a.jpg', 'b.jpg', 'c\x0b.jpg']
    """
    # Not splitlines, which parts lines at a dozen other characters that may be in a name.
    return [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    line: int  # its last line in the file, from 1
    cells: dict[str, str]  # column -> cell, without blanks around it; a cell that is missing is empty
    extra: tuple[str, ...] = ()  # cells behind the last column, empty ones included


def read_table(path: Path, wanted: Collection[str] = (), example: str = "") -> tuple[list[str], list[Row]]:
    """The columns and rows of a table; lines without any cell filled are left out.

    Args:
        path: A CSV file; its first line names the columns, in any order and in capitals or not, parted by what parts
            the cells: comma, semicolon or tab.
        wanted: Columns that must be there, in lower case; without any, the caller checks the columns.
        example: A row as it should be, for the error.

    Returns:
        The columns in lower case, and the rows.

    Raises:
        SourceError: As ``read_text``; if a column is missing or there twice; or if the quotes are not as in CSV.
    """
    text = read_text(path)
    start = 0
    if text[:4].lower() == "sep=":  # Excel's first line, for itself
        separator, text, start = text[4:5], text[5:].lstrip("\r").removeprefix("\n"), 1
    else:
        header = next(filter(None, lines_of(text[: 1 << 16])), "")
        separator = max(_SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    columns: list[str] = []
    rows = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = [cell.casefold() for cell in cells]
                _check_columns(path, columns, wanted, example)
            else:
                named = dict(zip_longest(columns, cells[: len(columns)], fillvalue=""))
                rows.append(Row(reader.line_num + start, named, tuple(cells[len(columns) :])))
    except csv.Error as error:  # an unclosed quote, or a cell that swallowed the rest of the file
        raise SourceError(
            f"{path}, line {reader.line_num + start}: no readable CSV ({error}). Are its quotes in pairs?"
        ) from error
    if not columns:
        _check_columns(path, columns, wanted, example)
    return columns, rows


def columns_shown(columns: Sequence[str]) -> str:
    """The columns of a table for a sentence, cut where they are too long for one."""
    text = ", ".join(columns) or "(none)"
    return text if len(text) <= _LONGEST_HEADER else f"{text[:_LONGEST_HEADER]}..."


def _check_columns(path: Path, columns: Sequence[str], wanted: Collection[str], example: str) -> None:
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if wanted and (not set(wanted) <= set(columns) or twice):
        problem = f"names {twice[0][:80]!r} twice" if twice else f"names the columns {columns_shown(columns)}"
        raise SourceError(
            f"{path}: the first line {problem}; {' and '.join(wanted)} {'are' if len(wanted) > 1 else 'is'} wanted, "
            f"each once, parted by comma, semicolon or tab, as in: {example}"
        )
