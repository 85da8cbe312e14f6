"""Lists of images, one a line, and the ways in which lists and tables write the name of an image."""

import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wss_data.errors import SourceError
from wss_data.errors.names import same_name
from wss_data.reading.listing import SUFFIXES
from wss_data.reading.tables import lines_of, read_text

_WANTED = "Wanted: one image name a line, as PASCAL VOC has it."
_SLASH = re.compile(r"[/\\]")
_FLAG = re.compile(r"(.*\S)\s+(-1|0|1)")
_COMMENT = re.compile(r"(^|\s)#.*$")
_AFTER_SUFFIX = re.compile(rf"(?:{'|'.join(re.escape(suffix) for suffix in SUFFIXES)})(?=\s+\S)", re.IGNORECASE)


@dataclass(frozen=True)
class ImageList:
    """The images that a list names."""

    path: Path
    names: tuple[str, ...]  # each once, in order; without folder and suffix, in the form of same_name
    repeated: int = 0  # lines that name an image again
    absent: int = 0  # lines that say -1: the image does not show the class of the list

    @property
    def notes(self) -> list[str]:
        """What of the list was passed over, as sentences."""
        found = []
        if self.repeated:
            found.append(f"{self.path.name}: {self.repeated:,} lines name an image again, which counts once.")
        if self.absent:
            found.append(
                f"{self.path.name}: {self.absent:,} images are marked -1 (the list's class is absent) and left out."
            )
        return found


def image_name(text: str, where: str, known: Container[str] = ()) -> str:
    r"""The name of an image, in the form of ``same_name``, without the folder, suffix and blanks that a list may give.

    Args:
        text: Such as ``2007_000032``, ``JPEGImages/2007_000032.jpg`` or ``.\img\2007_000032.JPG``.
        where: File and line, for the error.
        known: Names of the images that there are; a name that looks as if it had a suffix is left whole if it is one.

    Raises:
        SourceError: If it is no name, or leads up and out of its folder.

    >>> image_name(".\\img\\photo (1).JPG ", "list.txt, line 1")
    'photo (1)'
    """
    parts = _SLASH.split(text.strip())
    name = same_name(parts[-1].strip())
    if ".." in parts or name in ("", "."):
        raise SourceError(f"{where}: {text.strip()[:80]!r} is no name of an image. {_WANTED}")
    suffix = PurePosixPath(name).suffix
    return name if name in known or suffix.lower() not in SUFFIXES else name.removesuffix(suffix)


def read_list(path: Path, known: Container[str] = ()) -> ImageList:
    """The images of a list.

    A line is a name, which may hold spaces; a path; paths of image and mask, as published lists of 10,582 have them
    (``/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png``); or a name and -1, 0 or 1, as VOC's lists of
    one class have it: there -1 is an image without the class, and 0 one where it is hard to see, which counts. What
    stands behind ``#`` is no name.

    ``known`` are names of the images that there are, in the form of ``same_name``: whether ``photo 1.jpg`` or ``photo``
    is meant shows by what there is.

    Raises:
        SourceError: If there is no such list, nothing is on it, or it is something else.
    """
    if not path.is_file():
        raise SourceError(f"{path}: there is no such list of images. {_WANTED}")
    numbered = [
        (number, line if same_name(line) in known else _COMMENT.sub("", line).strip())
        for number, line in enumerate(lines_of(read_text(path)), start=1)
    ]
    lines = [(f"{path}, line {number}", line) for number, line in numbered if line]
    flags = [_FLAG.fullmatch(line) for _, line in lines]
    names, absent = [], 0
    of_class = all(flags) and not any(image_name(line, where, known) in known for where, line in lines)
    for (where, line), flag in zip(lines, flags, strict=True):
        if of_class and flag is not None and flag[2] == "-1":
            absent += 1
        else:
            names.append(_name_on(flag[1] if of_class and flag is not None else line, where, known))
    if not names:
        raise SourceError(f"{path}: the list {'marks every image with -1' if absent else 'is empty'}.")
    once = tuple(dict.fromkeys(names))
    return ImageList(path, once, len(names) - len(once), absent)


def _name_on(line: str, where: str, known: Container[str]) -> str:
    """The image that a line names: all of it, or what stands before the path of a mask or other words."""
    # In order of what is surest: an image that there is, a suffix, one name for image and mask, a path behind a name.
    whole = image_name(line, where, known)
    words = line.split()
    if whole in known and sum(_SLASH.search(word) is not None for word in words) <= 1:
        return whole
    if after := _AFTER_SUFFIX.search(line):
        return image_name(line[: after.end()], where, known)
    for cut in range(1, len(words)):
        name, other = (image_name(" ".join(part), where, known) for part in (words[:cut], words[cut:]))
        if name == other or (name in known and whole not in known and _SLASH.search(words[cut])):
            return name
    return whole
