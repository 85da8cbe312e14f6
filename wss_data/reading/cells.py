"""Cells of tables that people open in a spreadsheet: none is taken for a formula, whoever wrote it.

A cell such as ``=cmd|'/C calc'!A0`` runs a program where a spreadsheet is careless. Text for people may be changed;
names that a program reads back must come out as they went in.

Source:
    https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import io
import re
from collections.abc import Callable, Iterable

from wss_data.errors.text import clean_text

# What a formula begins with; the wide forms count in some countries' spreadsheets.
_FORMULA = "=+\\-@\uff1d\uff0b\uff0d\uff20"
_STARTS = re.compile(rf"(^|;)(\s*)(?=[{_FORMULA}])")
_NAME = re.compile(rf"'*[{_FORMULA}]")


def one_line(value: object) -> str:
    r"""A text on one line, with single blanks and without control characters; nothing for ``None``.

    >>> one_line("a  red\n\x1b[31mcat "), one_line(None)
    ('a red cat', '')
    """
    return " ".join(clean_text(str("" if value is None else value)).split())


def text_cell(value: object) -> str:
    """A text for people on one line, with ``'`` before what a spreadsheet would take for a formula.

    >>> text_cell("=1+1"), text_cell("a cat;=1+1"), text_cell(None), text_cell("a = b")
    ("'=1+1", "a cat;'=1+1", '', 'a = b')
    """
    # Also behind a semicolon, where many countries' spreadsheets begin a new cell.
    return _STARTS.sub(r"\1\2'", one_line(value))


def name_cell(name: str) -> str:
    """A name with one ``'`` before it where a spreadsheet would take it for a formula; ``name_of_cell`` takes it away.

    >>> name_cell("@ann_1"), name_cell("'@ann_1"), name_cell("cat_1")
    ("'@ann_1", "''@ann_1", 'cat_1')
    """
    return f"'{name}" if _NAME.match(name) else name


def name_of_cell(cell: str) -> str:
    """The name that ``name_cell`` made a cell of.

    >>> [name_of_cell(name_cell(name)) for name in ("@a", "'@a", "'a", "a")]
    ['@a', "'@a", "'a", 'a']
    """
    return cell[1:] if cell.startswith("'") and _NAME.match(cell) else cell


def csv_text(
    columns: Iterable[str], rows: Iterable[Iterable[object]], cell: Callable[[object], object] = text_cell
) -> str:
    r"""A table as CSV, one line a row. ``cell`` makes the cell of a value; by default none is taken for a formula.

    >>> csv_text(["image", "author"], [["cat/1", "=1+1"], ["cat/2", None]])
    "image,author\ncat/1,'=1+1\ncat/2,\n"
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()
