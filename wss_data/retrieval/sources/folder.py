"""Images that are on disk already, in one folder a class; with a CSV beside them that says where they came from."""

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Annotated, Any

from wss_data.errors import ImageError, SourceError
from wss_data.errors.names import printable, same_name
from wss_data.imaging.images import list_images
from wss_data.reading.addresses import is_web_address
from wss_data.reading.listing import require_text
from wss_data.reading.settings import settings
from wss_data.reading.tables import Row, columns_shown, read_table
from wss_data.records import Provenance
from wss_data.retrieval.sources.base import Hit, Pages, SourceState
from wss_data.runtime.files import expanded
from wss_data.spec import BACKGROUND, ClassSpec

PROVENANCE_FILE = "provenance.csv"  # name of the optional table beside the class folders

# Columns of that table; only ``file`` must be there, as ``<class>/<name>``.
COLUMNS = ("file", "image_url", "page_url", "title", "author", "author_url", "license", "license_url")

_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHOWN = 5


@settings("source 'folder'", SourceError)
class FolderSource:
    """Takes images from ``<path>/<class>/``, sorted by name."""

    path: Annotated[
        str | Path | None, "Folder that holds one folder a class, named as the class, and perhaps provenance.csv."
    ] = None

    name = "folder"
    local = True

    def __post_init__(self) -> None:
        if self.path is None:
            raise SourceError(
                "source 'folder' needs a folder of images, one folder a class inside. "
                "Give it with --images FOLDER, or as options: {path: FOLDER} in the definition."
            )
        if not self.folder.is_dir():
            raise SourceError(f"{self.folder}: there is no such folder of images.")
        _ = self._known  # a wrong row is reported before anything is searched

    @cached_property
    def folder(self) -> Path:
        """The folder of ``path``."""
        return require_text(expanded(self.path or ""), "the images")

    @cached_property
    def passed_over(self) -> dict[str, Counter[str]]:
        """Class -> why files of its folder are not taken -> how many; of the classes that were searched."""
        return {}

    @cached_property
    def _known(self) -> dict[str, dict[str, str]]:
        return read_provenance(self.folder)

    @cached_property
    def _listed(self) -> dict[str, dict[str, Path]]:
        return {}

    def state(self) -> SourceState:
        """Ready: the folder is there."""
        known = f", {len(self._known):,} of them with provenance" if self._known else ""
        return SourceState("ready", f"Images in {self.folder}{known}.")

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield the images of one class in the order of their names."""
        for identity, path in list(self._list(wanted.name).items())[:limit]:
            known: dict[str, Any] = {"image_url": path.absolute().as_uri(), **self._known.get(same_name(identity), {})}
            provenance = Provenance(self.name, identity, query=wanted.name, **known)
            yield Hit(wanted.name, provenance, read=partial(_read, path))

    def stamps(self, class_name: str, identities: Sequence[str]) -> list[str | None]:
        """Size and dates of each file; ``None`` where there is none any more."""
        self._list(class_name)
        return [_stamp(self._file(identity)) for identity in identities]

    def read(self, identity: str) -> bytes:
        """The bytes of a file; raises ``ImageError`` if it cannot be read."""
        return _read(self._file(identity))

    def _file(self, identity: str) -> Path:
        return self._listed.get(identity.partition("/")[0], {}).get(identity, self.folder / identity)

    def _list(self, class_name: str) -> dict[str, Path]:
        """Identity -> file of the images of a class, in the order of their names; ``SourceError`` without a folder."""
        if class_name in self._listed:
            return self._listed[class_name]
        folder = self.folder / class_name
        if not folder.is_dir():
            found = sorted(p.name for p in self.folder.iterdir() if p.is_dir())
            raise SourceError(
                f"{folder}: {'the' if class_name == BACKGROUND else 'class'} '{class_name}' has no folder. "
                f"Folders found in {self.folder}: {', '.join(found) if found else 'none'}."
            )
        listing = list_images(folder)
        files: dict[str, Path] = {}
        for path in listing:
            files.setdefault(f"{class_name}/{printable(path.relative_to(folder).as_posix())}", path)
        # A name with a byte that is not UTF-8 beside one with that byte's escape, letter by letter.
        twice = Counter({"with another's printable name": len(listing) - len(files)})
        self.passed_over[class_name] = listing.passed_over + twice
        self._listed[class_name] = files
        return files


def _stamp(path: Path) -> str | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # The last of them changes even where a copy is given the date of what it replaces.
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}" if S_ISREG(status.st_mode) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{path}: the image cannot be opened ({error.strerror}).") from error


def read_provenance(folder: Path) -> dict[str, dict[str, str]]:
    """What ``provenance.csv`` of a folder of images, if it has one, says of each: ``<class>/<name>`` in the form of
    ``same_name`` -> the fields of ``Provenance`` whose cells are not empty.

    Raises:
        SourceError: If the table cannot be read or a row is wrong; each with its line.
    """
    path = folder / PROVENANCE_FILE
    if not path.is_file():
        return {}
    columns, rows = read_table(path)
    if "file" not in columns or not set(columns) <= set(COLUMNS) or len(set(columns)) < len(columns):
        wanted = f"'file' and any of {', '.join(COLUMNS[1:])}, each once"
        raise SourceError(f"{path}, line 1: the columns are {columns_shown(columns)}; wanted are {wanted}.")

    @cache
    def there() -> set[str]:
        """Every file below the folder by its path from there, in the form of ``same_name``."""
        places = ((Path(place).relative_to(folder), names) for place, _, names in os.walk(folder))
        return {same_name(place / name) for place, names in places for name in names}

    found: dict[str, dict[str, str]] = {}
    wrong: list[str] = []
    for row in rows:
        name = row.cells["file"]
        if problem := "is there twice" if same_name(name) in found else _problem(folder, name, row, there):
            wrong.append(f"line {row.line}: {name[:80]!r} {problem}")
        else:
            found[same_name(name)] = {key: row.cells[key] for key in COLUMNS[1:] if row.cells.get(key)}
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise SourceError(
            f"{path}: {len(wrong)} bad rows. {'; '.join(wrong[:_SHOWN])}{more}. Mend these rows or take them out."
        )
    return found


def _problem(folder: Path, name: str, row: Row, there: Callable[[], Collection[str]]) -> str | None:
    """What is wrong with one row, or ``None``."""
    parts = PurePosixPath(name).parts
    if row.extra:
        return "has more cells than there are columns (a comma without quotes?)"
    if len(parts) < 2 or ".." in parts or name.startswith("/") or _CONTROL.search(name):
        return "is no path of the form <class>/<name> inside the folder"
    # Unlike Path.is_file, this takes a name that is too long for the file system for one of no file.
    if not os.path.isfile(folder / name) and same_name(name) not in there():
        return "is no file in the folder"
    for key in COLUMNS[1:]:
        value = row.cells.get(key, "")
        if _CONTROL.search(value):
            return f"has a control character in {key}"
        if value and key.endswith("_url") and not is_web_address(value):
            return f"has the {key} {value[:80]!r}, an address that begins with http:// or https:// is wanted"
        if value and key == "license" and not _LICENSE.fullmatch(value):
            return f"has the license {value[:80]!r}, an SPDX identifier such as CC-BY-4.0 is wanted"
    return None
