"""Which files a folder holds, and what in it is passed over."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wss_data.errors import SourceError
from wss_data.errors.names import is_hidden, is_of_tool, is_own_table, is_text, same_name

# File names that are taken for images.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")

HIDDEN = "hidden or of a tool"
BROKEN_LINK = "behind a link that leads nowhere"
FOLDER_LINK = "behind a link to a folder"
SPECIAL = "no regular file"
CLOSED = "in a folder that cannot be opened"
NO_SUFFIX = "without a suffix"
NO_TEXT = "with a name that is not UTF-8"

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")
_SHOWN = 8


def require_text(path: Path, what: str) -> Path:
    """The path itself, or a ``SourceError`` if the database cannot hold it; ``what`` says whose path it is."""
    if not is_text(str(path)):
        raise SourceError(
            f"{path}: the path of {what} holds bytes that are not UTF-8, which the database cannot keep. "
            "Rename that folder."
        )
    return path


@dataclass(frozen=True)
class Listing(Sequence[Path]):
    """The files of a folder that were wanted, and how many others it holds; a sequence of the files."""

    files: tuple[Path, ...] = ()  # sorted
    # Why a file is not among them (its suffix, such as .heic, or a few words) -> how many.
    passed_over: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Any) -> Any:
        return self.files[key]

    def __add__(self, other: "Listing") -> "Listing":
        return Listing(self.files + other.files, self.passed_over + other.passed_over)

    def __str__(self) -> str:
        return passed_over_summary(self.passed_over)

    def with_text_names(self) -> "Listing":
        """The files whose names the database can keep; others count as passed over."""
        files = tuple(path for path in self.files if is_text(path.name))
        others = Counter({NO_TEXT: len(self) - len(files)} if len(files) < len(self) else {})
        return Listing(files, self.passed_over + others)


def passed_over_summary(passed_over: Counter[str]) -> str:
    """What was passed over as one line; empty where nothing was.

    >>> passed_over_summary(Counter({".heic": 2, NO_SUFFIX: 1}))
    '3 files passed over (2 .heic, 1 without a suffix)'
    """
    if not passed_over:
        return ""
    total = passed_over.total()
    ordered = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {reason}" for reason, count in ordered[:_SHOWN]]
    shown += [f"{len(passed_over) - _SHOWN} more kinds"] if len(passed_over) > _SHOWN else []
    return f"{total:,} file{'' if total == 1 else 's'} passed over ({', '.join(shown)})"


def list_files(folder: Path, suffixes: Iterable[str], deep: bool = True) -> Listing:
    """The files of a folder that have one of some suffixes, and what else is in it.

    What counts as hidden or of a tool is judged by the path below ``folder`` alone: hidden files, ``Thumbs.db``, and
    all below a folder that begins with ``.`` or ``_`` or that a storage server made (``@eaDir``). A link to a file is
    taken as that file; a link to a folder below ``folder`` is not followed, so that no circle of links can be.

    Args:
        folder: Itself it may be a link or hidden.
        suffixes: Wanted suffixes, in lower case; files may have them in capitals.
        deep: Whether folders inside are searched, too; otherwise they are not even counted.
    """
    others = Counter[str]()

    def closed(_: OSError) -> None:
        others[CLOSED] += 1

    def paths() -> Iterator[Path]:
        for place, folders, names in os.walk(folder, onerror=closed):
            for name in folders if deep else ():
                if os.path.islink(os.path.join(place, name)):
                    others[HIDDEN if is_of_tool(name) else FOLDER_LINK] += 1
            yield from (Path(place, name) for name in names)
            if not deep:
                break

    listing = wanted_of(paths(), suffixes, lambda path: path.relative_to(folder).parts[:-1])
    return Listing(listing.files, listing.passed_over + others)


def wanted_of(paths: Iterable[Path], suffixes: Iterable[str], folders: Callable[[Path], Collection[str]]) -> Listing:
    """Those of some paths that are files with one of some ``suffixes``, in lower case, and what the others are.

    Folders among them, and tables of our own, are left out without a count. ``folders`` gives for a path the names of
    the folders above it that may make it a tool's.
    """
    wanted, files, passed_over = frozenset(suffixes), list[Path](), Counter[str]()
    for path in paths:
        if os.path.isdir(path) or is_own_table(path.name):
            continue
        if is_hidden(path.name) or any(map(is_of_tool, folders(path))):
            passed_over[HIDDEN] += 1
        elif path.suffix.lower() not in wanted:
            passed_over[_kind(path)] += 1
        elif os.path.isfile(path):
            files.append(path)
        else:
            passed_over[BROKEN_LINK if os.path.islink(path) else SPECIAL] += 1
    return Listing(tuple(sorted(files)), passed_over)


def _kind(path: Path) -> str:
    """The suffix of a file, in lower case; what is none, as after the point in ``no. 7 at night``, does not count."""
    return path.suffix.lower() if _SUFFIX.fullmatch(path.suffix) else NO_SUFFIX


def by_name(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Name without suffix and blanks around it, in the form of ``same_name`` -> its files, in their order."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(same_name(path.stem).strip(), []).append(path)
    return found
