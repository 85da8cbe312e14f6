"""File names: as text that can be printed and stored, and when two of them are the same."""

import os
import unicodedata

from wss_data.errors.text import visible

# Folders that a storage server or a file system makes by itself; those of other tools begin with . or _.
_TOOL_FOLDERS = frozenset({"@eadir", "#recycle", "$recycle.bin", "lost+found"})
_TOOL_FILES = frozenset({"thumbs.db", "desktop.ini"})
_OWN_TABLES = frozenset({".wss-written", "drawn.json", "ledger.json", "provenance.csv", "scores.csv"})


def printable(name: str | os.PathLike[str]) -> str:
    r"""A file name as text that can be printed, encoded and stored: bytes that are not UTF-8 become ``\xf6``.

    What would steer a terminal is escaped, too, line breaks included.

    >>> printable("v\udcf6gel.jpg")  # as Python holds the Latin-1 bytes of vögel.jpg
    'v\\xf6gel.jpg'
    >>> printable("a\x1b[31m.jpg")
    'a\\x1b[31m.jpg'
    """
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:  # half a character from elsewhere, such as JSON's "\ud800"
        data = os.fspath(name).encode(errors="backslashreplace")
    return visible(data.decode("utf-8", "backslashreplace"))


def same_name(name: str | os.PathLike[str]) -> str:
    r"""What all spellings of a name have in common: printable, and letters with marks composed (NFC).

    A Mac writes ``ü`` in file names as two characters, an editor in a list as one.

    >>> same_name("u\u0308") == same_name("\u00fc")
    True
    """
    return unicodedata.normalize("NFC", printable(name))


def is_own_table(file: str) -> bool:
    """Whether a file of that name is one that this program writes, or looks for, beside images and masks."""
    return file in _OWN_TABLES


def is_text(name: str) -> bool:
    """Whether a name is UTF-8, so that the database can keep it."""
    return name.encode(errors="replace").decode() == name


def is_of_tool(folder: str) -> bool:
    """Whether a folder of that name is hidden or a tool's own: it holds thumbnails, copies and the like."""
    return folder.startswith((".", "_")) or folder.casefold() in _TOOL_FOLDERS


def is_hidden(file: str) -> bool:
    """Whether a file of that name is hidden, or one that Windows puts into folders of images."""
    return file.startswith(".") or file.casefold() in _TOOL_FILES
