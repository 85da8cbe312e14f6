"""Masks that were computed elsewhere: find them, check every one, before the first is taken. Pure functions.

What people get wrong with masks costs them days, so that each mistake has a name:

===========  ==========================================================================
reason       what is wrong
===========  ==========================================================================
size         the mask has another size than the image, stored or original
rotated      width and height are swapped: drawn on the image before its EXIF rotation
values       other values than 0 and 255 (or 0 and 1, or 0 and the index of the class)
rgb          colours in place of values
16_bit       16 bits a pixel
empty        no foreground
full         nothing but foreground
unreadable   no PNG, or a damaged one
missing      an image of the dataset has no mask
unknown      no image of the class has this stem
ambiguous    the stem fits several images, or several masks fit one image
===========  ==========================================================================
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from wss_data.errors import ImageError, MaskError, SourceError, StoreError
from wss_data.images import read_image
from wss_data.masks import check_foreground, foreground_ratio, label_mask, read_mask, resize_mask, write_mask
from wss_data.parallel import map_images
from wss_data.quality import MaskQuality, mask_quality

REASONS = (
    "size",
    "rotated",
    "values",
    "rgb",
    "16_bit",
    "empty",
    "full",
    "unreadable",
    "missing",
    "unknown",
    "ambiguous",
)


@dataclass(frozen=True)
class KnownImage:
    """An image of the dataset that a mask may belong to.

    Args:
        sample_id: Its identity in the dataset.
        class_name: Its class.
        path: The stored file.
        source_id: Its identity at its source, such as ``cow/brown/17.jpg``; its stem may name the mask, too.
        size: Stored (width, height) in pixels.
        original_size: Original (width, height) in pixels, or ``None`` where it is not known.
        class_index: Index of its class: a label mask that holds 0 and this index is taken, too, as an export writes it.
    """

    sample_id: str
    class_name: str
    path: str
    source_id: str | None
    size: tuple[int, int]
    original_size: tuple[int, int] | None
    class_index: int = 1

    @property
    def keys(self) -> set[str]:
        """What its mask's path below the class folder may be, without suffix."""
        keys = {Path(self.path).stem}
        if self.source_id:
            source = PurePosixPath(self.source_id).with_suffix("")
            keys |= {source.name, source.as_posix()}
            if source.parts[0] == self.class_name and len(source.parts) > 1:
                keys.add(PurePosixPath(*source.parts[1:]).as_posix())
        return keys


@dataclass(frozen=True)
class MaskFile:
    """A mask file and the image it belongs to."""

    image: KnownImage
    path: Path


@dataclass(frozen=True)
class BadMask:
    """A mask, or an image without one, that cannot be taken.

    Args:
        class_name: Its class.
        reason: One of ``REASONS``.
        message: The sentence for the user.
    """

    class_name: str
    reason: str
    message: str


@dataclass(frozen=True)
class ImportReport:
    """What became of an import; prints as a few lines.

    Args:
        imported: Number of masks taken: class -> count.
        resized: How many of them had the original image's size and were brought to the stored one's.
        bad: What could not be taken.
    """

    imported: dict[str, int]
    resized: int
    bad: tuple[BadMask, ...]

    def __str__(self) -> str:
        total = sum(self.imported.values())
        lines = [f"{total:,} masks imported ({', '.join(f'{n} {name}' for name, n in self.imported.items())})."]
        if self.resized:
            lines.append(
                f"{self.resized:,} of them had the original image's size and were brought to the stored image's."
            )
        return "\n".join(lines + ([bad_summary(self.bad)] if self.bad else []))


def bad_summary(bad: Sequence[BadMask], examples: int = 3) -> str:
    """How many masks are bad for which reason, with the first sentences."""
    counts = Counter(item.reason for item in bad)
    shown = ", ".join(f"{counts[reason]} {reason}" for reason in REASONS if counts[reason])
    first = [next(item.message for item in bad if item.reason == reason) for reason in REASONS if counts[reason]]
    return f"{len(bad):,} bad: {shown}. {' '.join(first[:examples])}"


def match_masks(
    folder: Path, images: Sequence[KnownImage], classes: Sequence[str]
) -> tuple[list[MaskFile], list[BadMask]]:
    """Find out which mask file belongs to which image, by class folder and stem.

    Args:
        folder: Holds ``<class>/<stem>.png``; the stem is the stored file's, or that of the image at its source.
        images: All images of the dataset.
        classes: Names of all classes.

    Returns:
        The pairs, in order of the paths, and what fits nowhere: files of reason ``unknown`` or ``ambiguous``, images
        of reason ``missing``.

    Raises:
        SourceError: If there is no such folder, or no mask in any class folder.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder of masks.")
    by_key: dict[tuple[str, str], list[KnownImage]] = defaultdict(list)
    for image in images:
        for key in image.keys:
            by_key[image.class_name, key].append(image)

    claims: dict[str, list[MaskFile]] = defaultdict(list)
    bad: list[BadMask] = []
    found = 0
    for class_name in classes:
        for path, key in _mask_files(folder / class_name):
            found += 1
            owners = by_key.get((class_name, key)) or by_key.get((class_name, PurePosixPath(key).name), [])
            if not owners:
                bad.append(
                    BadMask(class_name, "unknown", f"{path}: no image of class '{class_name}' is called {path.stem}.")
                )
            elif len(owners) > 1:
                names = ", ".join(sorted(str(owner.source_id or owner.path) for owner in owners)[:3])
                bad.append(BadMask(class_name, "ambiguous", f"{path}: the name fits {len(owners)} images ({names})."))
            else:
                claims[owners[0].sample_id].append(MaskFile(owners[0], path))
    if not found:
        inside = sorted(p.name for p in folder.iterdir())
        raise SourceError(
            f"{folder}: no mask found. Wanted: {folder}/<class>/<stem>.png with a class of {', '.join(classes)}. "
            f"Found: {', '.join(inside[:5]) if inside else 'nothing'}."
        )

    matched = [files[0] for files in claims.values() if len(files) == 1]
    for files in claims.values():
        if len(files) > 1:
            names = ", ".join(file.path.name for file in files)
            bad.append(
                BadMask(
                    files[0].image.class_name, "ambiguous", f"{files[0].path.parent}: {names} are masks of one image."
                )
            )
    for image in images:
        if image.sample_id not in claims:
            name = image.source_id or image.path
            bad.append(
                BadMask(image.class_name, "missing", f"{name}: the image has no mask in {folder / image.class_name}.")
            )
    return sorted(matched, key=lambda file: file.path), bad


def _mask_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each PNG below ``folder`` with its path from there, without suffix."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".png" and not path.name.startswith(".") and path.is_file():
            yield path, path.relative_to(folder).with_suffix("").as_posix()


def read_foreground(file: MaskFile) -> tuple[np.ndarray, bool]:
    """Read and check one mask.

    Args:
        file: The mask and its image.

    Returns:
        The foreground at the stored image's size, (H, W) bool, and whether it was brought there (by nearest neighbour)
        from the original image's size.

    Raises:
        MaskError: With one of the first eight of ``REASONS``.
    """
    values = read_mask(file.path)
    if np.isin(values, (0, file.image.class_index)).all():
        values = np.minimum(values, 1)
    size, stored, original = (values.shape[1], values.shape[0]), file.image.size, file.image.original_size
    if size == stored or original is None or size not in (original, original[::-1]):
        return check_foreground(values, stored, str(file.path)), False
    foreground = resize_mask(check_foreground(values, original, str(file.path)), stored)
    if not foreground.any():
        raise MaskError("empty", f"{file.path}: the mask has no foreground at the stored image's size.")
    return foreground, True


def check_mask(file: MaskFile) -> BadMask | None:
    """What is wrong with one mask, or ``None``. Runs on worker processes."""
    try:
        read_foreground(file)
    except MaskError as error:
        return BadMask(file.image.class_name, error.reason, str(error))
    return None


@dataclass(frozen=True)
class ImportedMask:
    """A mask that was checked and written as a label mask.

    Args:
        image: Its image.
        path: The label mask.
        foreground_ratio: Share of the pixels that are foreground, in [0, 1].
        quality: Truth-free measures of it, or ``None`` where the stored image cannot be read.
        resized: Whether it had the original image's size.
    """

    image: KnownImage
    path: Path
    foreground_ratio: float
    quality: MaskQuality | None
    resized: bool


def write_imported(
    folder: Path, images: Sequence[KnownImage], classes: Sequence[str], out: Path, skip_bad: bool = False
) -> tuple[list[ImportedMask], ImportReport]:
    """Check all masks of a folder, then write the good ones as label masks.

    Args:
        folder: Holds ``<class>/<stem>.png``.
        images: All images of the dataset.
        classes: Names of the classes 1..C.
        out: Receives ``<class>/<stem of the stored file>.png``.
        skip_bad: Whether to take the good masks although others are bad or missing.

    Raises:
        SourceError: If the folder is missing or holds no mask.
        StoreError: If a mask is bad or missing and ``skip_bad`` is off, or none is good. Nothing was written then.
    """
    files, bad = match_masks(folder, images, classes)
    # Worker processes take seconds to start: only for a folder that takes longer.
    findings = list(map_images(check_mask, files, workers=1 if len(files) < 2000 else None))
    bad += [finding for finding in findings if finding]
    good = [file for file, finding in zip(files, findings, strict=True) if finding is None]
    if bad and not skip_bad:
        raise StoreError(
            f"{folder}: nothing was imported. {bad_summary(bad)} Mend them, or take only the others with --skip-bad."
        )
    if not good:
        raise StoreError(f"{folder}: no mask is good, nothing was imported. {bad_summary(bad)}")

    written = []
    for file in good:
        foreground, resized = read_foreground(file)
        class_name = file.image.class_name
        path = out / class_name / f"{Path(file.image.path).stem}.png"
        write_mask(label_mask(foreground, classes.index(class_name) + 1), path)
        written.append(
            ImportedMask(file.image, path, foreground_ratio(foreground), _quality(file, foreground), resized)
        )
    counts = Counter(mask.image.class_name for mask in written)
    report = ImportReport({name: counts[name] for name in classes}, sum(mask.resized for mask in written), tuple(bad))
    return written, report


def _quality(file: MaskFile, foreground: np.ndarray) -> MaskQuality | None:
    try:
        return mask_quality(read_image(file.image.path), foreground)
    except (ImageError, ValueError):
        return None  # the image was removed or replaced by hand; the mask itself is good
