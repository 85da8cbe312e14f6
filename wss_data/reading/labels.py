"""Image-level labels from files: a table of images and classes, and VOC's annotations. Pure but for reading files."""

import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from wss_data.errors import SourceError
from wss_data.reading.checked import read_bytes
from wss_data.reading.lists import image_name
from wss_data.reading.tables import MARKS, read_table

MAX_ANNOTATION = 4 << 20  # bytes of one annotation at most; VOC's largest has 40 thousand

EXAMPLE = "2007_000904,cow person"
_BETWEEN = re.compile(r"[,;|\t\r\n]")
_DECLARED = re.compile(rb"\s*<\?xml[^>]*?\bencoding\s*=\s*[\"']([A-Za-z0-9._:-]+)[\"']")
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_PLAIN = b"<?xml version='1.0'/>ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_SHOWN = 5


class ClassWords:
    """The words that labels may be made of, and a count of those that are no class.

    Capitals and the composition of letters do not matter, as long as one class alone is meant.

    Args:
        names: The classes of the definition.
        others: Further classes that the labels may name, such as the other ones of VOC.
    """

    def __init__(self, names: Iterable[str], others: Iterable[str] = ()) -> None:
        self.unknown: Counter[str] = Counter()  # word that is no class -> how often it was met
        self._exact = {*names, *others, "background"}
        folded = Counter(_folded(name) for name in self._exact)
        self._folded = {_folded(name): name for name in self._exact if folded[_folded(name)] == 1}
        self._longest = max(len(name.split()) for name in self._exact)

    def _find(self, word: str) -> str | None:
        return word if word in self._exact else self._folded.get(_folded(word))

    def one(self, text: str) -> set[str]:
        """The class that a text names as a whole; none, and a count, if it is no class."""
        if (name := self._find(text.strip())) is not None:
            return {name}
        self.unknown[text.strip()] += 1
        return set()

    def several(self, text: str) -> set[str]:
        """The classes that a text names, parted by spaces, commas, semicolons, tabs or ``|``; others are counted.

        >>> words = ClassWords(["cow", "traffic light"])
        >>> sorted(words.several("Cow traffic light; lamp")), words.unknown
        (['cow', 'traffic light'], Counter({'lamp': 1}))
        """
        found = set()
        for part in _BETWEEN.split(text):
            words = part.split()
            while words:
                # The longest first: 'traffic light' is one class.
                for count in range(min(self._longest, len(words)), 0, -1):
                    if (name := self._find(" ".join(words[:count]))) is not None:
                        found.add(name)
                        break
                else:
                    count = 1
                    self.unknown[words[0]] += 1
                words = words[count:]
        return found

    def note(self) -> str | None:
        """Which words are no class, how often, and what each may mean, as a sentence; ``None`` if there is none."""
        if not self.unknown:
            return None
        shown = []
        for word, count in self.unknown.most_common(_SHOWN):
            nearest = [f"; nearest: {self._folded[n]}" for n in get_close_matches(_folded(word), self._folded, n=1)]
            shown.append(f"{word[:40]!r} ({'once' if count == 1 else f'{count:,} times'}{''.join(nearest)})")
        total, more = self.unknown.total(), len(self.unknown) - _SHOWN
        return (
            f"labels: {total:,} word{' is' if total == 1 else 's are'} no class of the definition: {', '.join(shown)}"
            + (f" and {more:,} other words." if more > 0 else ".")
        )


def _folded(word: str) -> str:
    return unicodedata.normalize("NFC", word).casefold()


@dataclass
class LabelTable:
    """What a table says of images."""

    path: Path
    labels: dict[str, set[str]]  # image, in the form of same_name -> its classes
    lines: dict[str, int]  # image -> the line that names it first
    repeated: int = 0  # rows that name an image again; their classes are joined
    empty: list[int] = field(default_factory=list)  # lines of rows without a class
    nameless: list[int] = field(default_factory=list)  # lines of rows without an image

    def notes(self, listed: Collection[str]) -> list[str]:
        """Which rows say nothing of the images ``listed``, or not all that they could, as sentences."""
        total = len(self.labels) + self.repeated + len(self.nameless)
        rows = (
            ([f"{name} in line {self.lines[name]}" for name in self.labels if name not in listed],
             "name an image that no list has"),
            ([""] * self.repeated, "name an image again; their classes are joined"),
            ([f"line {line}" for line in self.empty], "name no class"),
            ([f"line {line}" for line in self.nameless], "name no image and are left out"),
        )  # fmt: skip
        return [
            f"{self.path.name}: {len(found):,} of {total:,} rows {what}"
            + (f", the first is {found[0]}." if found[0] else ".")
            for found, what in rows
            if found
        ]


def read_label_table(path: Path, words: ClassWords, known: Container[str] = ()) -> LabelTable:
    """Read a table of image-level labels with the columns ``image`` and ``classes``.

    Args:
        path: As ``read_table`` takes it; classes are parted as ``ClassWords.several`` does, in quotes or not.
        words: The classes; counts words that are none.
        known: Names of the images that there are.

    Raises:
        SourceError: If it is no such table, a row has cells that belong to no column, or names no image.
    """
    columns, rows = read_table(path, ("image", "classes"), EXAMPLE)
    table = LabelTable(path, {}, {})
    for row in rows:
        where = f"{path}, line {row.line}"
        extra = [cell for cell in row.extra if cell]  # classes parted by what parts the cells, without quotes
        if extra and columns[-1] != "classes":
            raise SourceError(
                f"{where}: {len(extra)} cells more than columns, such as {extra[0][:40]!r}. Put classes in "
                "quotes, or part them by spaces."
            )
        if not row.cells["image"]:
            table.nameless.append(row.line)
            continue
        name = image_name(row.cells["image"], where, known)
        classes = ",".join([row.cells["classes"], *extra])
        found = words.several(classes)
        if not classes:
            table.empty.append(row.line)
        if name in table.labels:
            table.repeated += 1
        table.lines.setdefault(name, row.line)
        table.labels.setdefault(name, set()).update(found)
    return table


def read_annotation(path: Path, words: ClassWords) -> set[str]:
    """Class names of one VOC annotation, XML in whatever encoding it declares; ``words`` counts names that are none.

    Raises:
        SourceError: If it cannot be read, its encoding is unknown, or it defines entities.
    """
    try:
        data = read_bytes(path, MAX_ANNOTATION)
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{path}: the annotation cannot be read ({what}).") from error
    encoding = _encoding(data)
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except (LookupError, ValueError) as error:
        raise SourceError(
            f"{path}: not a readable VOC annotation: its text is not in the encoding {encoding} that it declares, or "
            "nothing is known of that encoding. Save it in UTF-8."
        ) from error
    if "<!ENTITY" in text:  # a kilobyte of them can stand for gigabytes
        raise SourceError(f"{path}: not a VOC annotation: it defines entities of its own, which are not read.")
    try:
        # Without the declaration: the parser knows no encoding of several bytes a letter.
        root = ElementTree.fromstring(_DECLARATION.sub("", text, count=1))
    except ElementTree.ParseError as error:
        raise SourceError(f"{path}: not a readable VOC annotation ({error}).") from error
    # Objects marked as difficult count: they are there to be seen, and eq. 2 excludes what is not labelled.
    names = (element.findtext("name") for element in root.iter("object"))
    return set().union(*(words.one(name) for name in names if name and name.strip()))


def _encoding(data: bytes) -> str:
    """Of an XML file, by its byte order mark, its first bytes, or as it declares."""
    for start, encoding in {**MARKS, b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.items():
        if data.startswith(start):
            return encoding
    declared = _DECLARED.match(data)
    encoding = declared[1].decode() if declared else "utf-8"
    try:
        if _PLAIN.decode(encoding) == _PLAIN.decode():
            return encoding
    except LookupError:
        return encoding
    except ValueError:
        pass
    # These letters could be read, so that it is not in UTF-16, whatever .NET wrote; nor in a code such as punycode.
    return "utf-8"
