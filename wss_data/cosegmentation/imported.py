"""Masks that were computed elsewhere: find them, check every one, before the first is taken.

What people get wrong with masks costs them days, so that each mistake has a name: see ``REASONS``.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from wss_data.cosegmentation.quality import MaskQuality, mask_quality
from wss_data.errors import ImageError, MaskError, SourceError, StoreError
from wss_data.errors.names import same_name
from wss_data.imaging.images import read_image, unseen_turn
from wss_data.imaging.masks import (
    IGNORE_INDEX,
    check_foreground,
    foreground_ratio,
    label_mask,
    open_mask,
    read_mask,
    resize_mask,
    split_band,
    write_mask,
)
from wss_data.imaging.mat import read_mat_mask, read_mat_masks
from wss_data.reading.listing import SUFFIXES, Listing, list_files
from wss_data.reading.tables import lines_of, read_text
from wss_data.runtime.files import temporary_folder
from wss_data.runtime.parallel import map_images

REASONS: Mapping[str, str] = {
    "size": "the mask has another size than the image, stored or original",
    "rotated": "width and height are swapped: drawn on the image before its EXIF rotation",
    "values": "other values than 0 and 255 (or 0 and 1, or 0 and the index of the class)",
    "rgb": "colours in place of values",
    "alpha": "transparency in place of values, or beside them",
    "16_bit": "16 bits a pixel",
    "palette": "a palette with VOC's colours at other places, and with others",
    "orientation": "the mask's own file says that it is to be turned",
    "empty": "no foreground",
    "full": "nothing but foreground",
    "unreadable": "no PNG or .mat file, or a damaged one",
    "too_large": "more pixels than are read",
    "mat_version": "a .mat file of version 7.3 (HDF5) or 4, or of GNU Octave's own text format",
    "mat_no_mask": "a .mat file without a matrix",
    "mat_several": "a .mat file with several matrices, none called mask",
    "mat_names": "a .mat file of a whole class without names for its masks, or with too many or few",
    "missing": "an image of the dataset has no mask",
    "unknown": "no image of the class has this stem, or no class is called so",
    "ambiguous": "the stem fits several images, or several masks fit one image",
}
"""Reason of a ``MaskError`` -> what is wrong."""

MASK_SUFFIXES = (".png", ".mat")
FEW = 2000  # below this many masks, starting processes takes longer than reading the masks

_Found = tuple[str, str, Path, str | None]  # class, path below its folder without suffix, file, what to call it


@dataclass(frozen=True)
class KnownImage:
    """An image of the dataset that a mask may belong to."""

    sample_id: str  # its identity in the dataset
    class_name: str
    path: str  # the stored file
    source_id: str | None  # its identity at its source, such as cow/brown/17.jpg; its stem may name the mask, too
    size: tuple[int, int]  # stored (width, height), pixels
    original_size: tuple[int, int] | None  # original (width, height), pixels; None where it is not known
    class_index: int = 1  # a label mask that holds 0 and this index is taken, too, as an export writes it
    original: Path | None = None  # the file that it was made from; None where it came from elsewhere
    in_use: str | None = None  # its label mask: one that comes back with the same pixels is not taken

    @property
    def keys(self) -> set[str]:
        """What its mask's path below the class folder may be, without suffix, in the form of ``same_name``."""
        keys = {Path(self.path).stem}
        if self.source_id:
            source = PurePosixPath(self.source_id).with_suffix("")
            keys |= {source.name, source.as_posix()}
            if source.parts[0] == self.class_name and len(source.parts) > 1:
                keys.add(PurePosixPath(*source.parts[1:]).as_posix())
        return {same_name(key) for key in keys}


def file_of_url(url: str | None) -> Path | None:
    """The file that a ``file:`` URL names; ``None`` for any other."""
    parts = urlsplit(url or "")
    path = unquote(parts.path)
    return Path(path) if parts.scheme == "file" and path and "\0" not in path else None


class MaskFile(NamedTuple):
    """A mask file and the image it belongs to; ``name`` is what to call it in an error in place of its path.

    ``holds_labels``: whether its values are class indices, whatever they look like. The image's own class is then the
    foreground and 0 the background; pixels of other classes teach nothing about this one: they are the band.
    """

    image: KnownImage
    path: Path
    name: str | None = None
    holds_labels: bool = False

    def __str__(self) -> str:
        return self.name or str(self.path)


@dataclass(frozen=True)
class ImportReport:
    """What became of an import; prints as a few lines."""

    imported: dict[str, int]  # class -> masks taken
    resized: int  # how many of them had the original image's size and were brought to the stored one's
    bad: tuple[MaskError, ...]  # what could not be taken
    passed_over: str = ""  # files of the class folders that were not taken for masks, as one line
    unchanged: int = 0  # masks that came back with the pixels of those in use, and were left as they are
    turned: tuple[Path, ...] = ()  # photographs of theirs that EXIF turns without changing their size

    def __str__(self) -> str:
        total = sum(self.imported.values())
        lines = [f"{total:,} masks imported ({', '.join(f'{n} {name}' for name, n in self.imported.items())})."]
        if self.resized:
            lines.append(
                f"{self.resized:,} of them had the original image's size and were brought to the stored one's."
            )
        if self.unchanged:
            lines.append(f"{self.unchanged:,} are as they were: they stay what they are.")
        if self.passed_over:
            lines.append(self.passed_over)
        if self.turned:
            lines.append(
                f"note: {len(self.turned):,} photographs are turned upright by their EXIF orientation (half a turn, "
                f"mirrored, or square), which the size of a mask does not show, the first is {self.turned[0]}. Their "
                "masks must belong to the upright images: look at them in `wss-data view`."
            )
        return "\n".join(lines + ([_bad_summary(self.bad)] if self.bad else []))


def _bad_summary(bad: Sequence[MaskError]) -> str:
    """How many masks are bad for which reason, with the first sentences."""
    counts = Counter(error.reason for error in bad)
    reasons = [reason for reason in REASONS if counts[reason]]
    first = [str(next(error for error in bad if error.reason == reason)) for reason in reasons[:3]]
    return f"{len(bad):,} bad: {', '.join(f'{counts[reason]} {reason}' for reason in reasons)}. {' '.join(first)}"


def match_masks(
    folder: Path, images: Sequence[KnownImage], classes: Sequence[str], unpack_to: Path | None = None
) -> tuple[list[MaskFile], list[MaskError]]:
    """Find out which mask belongs to which image, by class folder and stem.

    ``folder`` holds ``<class>/<stem>.png`` or ``.mat``; the stem is the stored file's, or that of the image at its
    source. With ``unpack_to``, an empty folder for their masks, also ``<class>.mat`` with all masks of a class, and
    ``<class>.txt`` with a name a line where that holds no names.

    Returns:
        The pairs, in order of the paths, and what fits nowhere or is wrong with the files of classes.

    Raises:
        SourceError: If there is no such folder, or no mask at all.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder of masks.")
    found: list[_Found] = [
        (name, path.relative_to(folder / name).with_suffix("").as_posix(), path, None)
        for name in classes
        for path in _mask_files(folder, [name])
    ]
    bad: list[MaskError] = []
    for one in () if unpack_to is None else _unpacked(folder, classes, unpack_to):
        if isinstance(one, MaskError):
            bad.append(one)
        else:
            found.append(one)
    if not found and bad:
        return [], bad  # that every image is without a mask says nothing beside it
    if not found:
        inside = sorted(p.name for p in folder.iterdir())
        passed_over = str(_mask_files(folder, classes))
        seen = f" ({passed_over})" if passed_over else ""
        raise SourceError(
            f"{folder}: no mask found{seen}. Wanted: {folder}/<class>/<stem>.png (or .mat) with a class of "
            f"{', '.join(classes)}. Found: {', '.join(inside[:5]) if inside else 'nothing'}."
        )
    by_key: dict[tuple[str, str], list[KnownImage]] = defaultdict(list)
    for image in images:
        for key in image.keys:
            by_key[image.class_name, key].append(image)
    claims: dict[str, list[MaskFile]] = defaultdict(list)
    for class_name, stem, path, name in found:
        key = same_name(stem)
        last = PurePosixPath(key).name
        owners = by_key.get((class_name, key)) or by_key.get((class_name, last), [])
        if not owners:
            bad.append(MaskError("unknown", f"{name or path}: no image of class '{class_name}' is called {last}."))
        elif len(owners) > 1:
            names = ", ".join(sorted(str(owner.source_id or owner.path) for owner in owners)[:3])
            bad.append(MaskError("ambiguous", f"{name or path}: the name fits {len(owners)} images ({names})."))
        else:
            claims[owners[0].sample_id].append(MaskFile(owners[0], path, name))
    for files in claims.values():
        if len(files) > 1:
            names = ", ".join(file.name or file.path.name for file in files)
            place = folder / files[0].image.class_name
            bad.append(MaskError("ambiguous", f"{place}: {names} are masks of one image."))
    for image in images:
        if image.sample_id not in claims:
            shown = image.source_id or image.path
            bad.append(MaskError("missing", f"{shown}: the image has no mask in {folder / image.class_name}."))
    return sorted((files[0] for files in claims.values() if len(files) == 1), key=lambda file: file.path), bad


def _mask_files(folder: Path, classes: Sequence[str]) -> Listing:
    """The mask files below the classes' folders, and what else is there."""
    present = (folder / name for name in classes if (folder / name).is_dir())
    return sum((list_files(own, MASK_SUFFIXES) for own in present), Listing())


def _unpacked(folder: Path, classes: Sequence[str], out: Path) -> Iterator[_Found | MaskError]:
    """The masks in each ``<class>.mat`` in ``folder``, each as a file in ``out``, and what is wrong with them."""
    for class_name in classes:
        file, listed = folder / f"{class_name}.mat", folder / f"{class_name}.txt"
        if not file.is_file():
            continue
        names = [line for line in lines_of(read_text(listed)) if line] if listed.is_file() else None
        try:
            for position, (name, values) in enumerate(read_mat_masks(file, names), start=1):
                if isinstance(values, MaskError):
                    yield MaskError(values.reason, f"{file}: {values}")
                    continue
                path = out / f"{classes.index(class_name):06d}-{position:06d}.png"
                Image.fromarray(values).save(path)
                # What its program wrote for a name may be a path, with whatever slashes.
                key = PurePosixPath(name.strip().replace("\\", "/"))
                key = key.with_suffix("") if key.suffix.lower() in (*SUFFIXES, *MASK_SUFFIXES) else key
                shown = f"{file}, element {position} ({name or 'without a name'})"
                yield class_name, key.as_posix(), path, shown
        except MaskError as error:
            yield error


def read_values(path: Path) -> np.ndarray:
    """The values of a foreground mask from a PNG or a .mat file, (H, W) uint8; ``MaskError`` as their readers."""
    if path.suffix.lower() == ".mat":
        return read_mat_mask(path)
    mask = open_mask(path)
    # A foreground in the white of greyscale of fewer than 8 bits is 255, too.
    if mask.palette is None and mask.depth < 8 and mask.foreground_value is not None:
        return np.where(mask.values == mask.white, np.uint8(255), np.uint8(0))
    return mask.values


class ReadMask(NamedTuple):
    """A good mask at the stored image's size, (H, W) bool."""

    foreground: np.ndarray
    uncertain: np.ndarray | None  # the band, if there is one
    resized: bool  # whether the file had the original image's size


def read_foreground(file: MaskFile) -> ReadMask:
    """Read and check one mask; raises ``MaskError`` with one of ``REASONS``."""
    if file.holds_labels:
        label = read_mask(file.path)
        own = label == file.image.class_index
        values, band = np.where(own, np.uint8(255), np.uint8(0)), (label != 0) & ~own
    else:
        values, band = split_band(read_values(file.path), file.image.class_index)
    size, stored, original = (values.shape[1], values.shape[0]), file.image.size, file.image.original_size
    if size == stored or original is None or size not in (original, original[::-1]):
        return ReadMask(check_foreground(values, stored, str(file)), band, False)
    foreground = resize_mask(check_foreground(values, original, str(file)), stored)
    if not foreground.any():
        raise MaskError("empty", f"{file}: the mask has no foreground at the stored image's size.")
    return ReadMask(foreground, None if band is None else resize_mask(band, stored), True)


def check_mask(file: MaskFile) -> MaskError | None:
    """What is wrong with one mask, or ``None``. Runs on worker processes."""
    try:
        read_foreground(file)
    except MaskError as error:
        return error
    return None


class ImportedMask(NamedTuple):
    """A mask that was checked and written as a label mask."""

    image: KnownImage
    path: Path
    foreground_ratio: float  # fraction of the decided pixels, in [0, 1]
    quality: MaskQuality | None  # None where the stored image cannot be read
    resized: bool


def write_imported(
    folder: Path,
    images: Sequence[KnownImage],
    classes: Sequence[str],
    out: Path,
    skip_bad: bool = False,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[list[ImportedMask], ImportReport]:
    """Check all masks of a folder, then write the good ones as label masks ``out/<class>/<stem of the image>.png``.

    For ``folder`` see ``match_masks``; ``classes`` are those of the indices 1..C; ``ignore_index`` is for the uncertain
    band. With ``skip_bad`` the good masks are taken although others are bad or missing.

    Raises:
        SourceError: If the folder is missing or holds no mask.
        StoreError: If a mask is bad or missing and ``skip_bad`` is off, or none is good. Nothing was written then.
    """
    with temporary_folder() as temporary:
        files, bad = match_masks(folder, images, classes, temporary)
        written, report = write_good(str(folder), files, bad, classes, out, skip_bad, ignore_index)
    return written, replace(report, passed_over=str(_mask_files(folder, classes)))


def write_good(
    where: str,
    files: Sequence[MaskFile],
    bad: Sequence[MaskError],
    classes: Sequence[str],
    out: Path,
    skip_bad: bool,
    ignore_index: int,
) -> tuple[list[ImportedMask], ImportReport]:
    """The second half of ``write_imported``: check masks that were matched with their images, and write the good ones.

    ``where`` they come from is for errors; ``bad`` is what is known to be wrong by now.
    """
    findings = list(map_images(check_mask, files, workers=1 if len(files) < FEW else None))
    bad = [*bad, *(finding for finding in findings if finding)]
    good = [file for file, finding in zip(files, findings, strict=True) if finding is None]
    if bad and not skip_bad:
        way_out = "Mend them, or take only the others with --skip-bad."
        raise StoreError(f"{where}: nothing was imported. {_bad_summary(bad)} {way_out}")
    if not good:
        raise StoreError(f"{where}: no mask is good, nothing was imported. {_bad_summary(bad)}")
    written, unchanged = [], 0
    # Read a second time: the masks of a large dataset are not held at once.
    for image, (foreground, uncertain, resized) in ((file.image, read_foreground(file)) for file in good):
        path = out / image.class_name / f"{Path(image.path).stem}.png"
        label = label_mask(foreground, classes.index(image.class_name) + 1, uncertain, ignore_index)
        if image.in_use is not None and _is_same(label, image.in_use):
            unchanged += 1
            continue
        write_mask(label, path)
        quality = None
        with suppress(ImageError, ValueError):  # the image was removed or replaced by hand; the mask itself is good
            quality = mask_quality(read_image(image.path), foreground, uncertain)
        written.append(ImportedMask(image, path, foreground_ratio(foreground, uncertain), quality, resized))
    counts = Counter(mask.image.class_name for mask in written)
    return written, ImportReport(
        imported={name: counts[name] for name in classes},
        resized=sum(mask.resized for mask in written),
        bad=tuple(bad),
        unchanged=unchanged,
        turned=tuple(one for mask in written if (one := mask.image.original) and unseen_turn(one) != 1),
    )


def _is_same(label: np.ndarray, path: str) -> bool:
    with suppress(MaskError):  # a mask in use that cannot be read is not what came back
        return np.array_equal(read_mask(path), label)
    return False
