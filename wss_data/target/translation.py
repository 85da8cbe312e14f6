"""Whether a target's files can be used, and its masks in the definition's indices."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from wss_data.errors import ImageError, MaskError
from wss_data.imaging.images import decode_image, image_bytes, unseen_turn
from wss_data.imaging.masks import (
    FILE_REASONS,
    IGNORE_INDEX,
    DecodedMask,
    check_size,
    open_mask,
    write_mask,
)
from wss_data.retrieval.decode_pool import perceptual_hash
from wss_data.runtime.parallel import map_images
from wss_data.spec import DatasetSpec
from wss_data.target.voc import TargetLayout, TargetRecord, mask_names, voc_options

# Why an image of a target dataset is not used. ``not_listed``: an earlier import's lists had it; ``leak``: a train
# image with the bytes of one that is scored on; ``mask_binary``: its mask is foreground in black and white, which does
# not say of which class.
DROP_REASONS = frozenset(
    ("no_labels", "not_listed", "leak", "missing", "unreadable", "unsupported_format", "truncated", "too_large")
    + ("too_small", *(f"mask_{reason}" for reason in (*FILE_REASONS, "size", "rotated", "values", "binary")))
)

_READING = 2  # Counts up when masks are read in another way, so that what was imported before is read again


@dataclass(frozen=True)
class TargetImage:
    """A ``TargetRecord`` whose files were read."""

    record: TargetRecord
    size: tuple[int, int] | None  # (width, height) in pixels; ``None`` if the image cannot be read
    sha256: str  # Hex digest of the file; empty if there is none
    phash: str  # Perceptual hash, 16 hex digits; empty if the image cannot be read
    mask_path: Path | None = None  # Its mask in the definition's indices
    dropped: str | None = None  # Why it must not be used, one of ``DROP_REASONS``
    detail: str | None = None  # The same as a sentence
    shown: tuple[str, ...] = ()  # The definition's classes that its mask shows
    # Whether its mask was read by the colours of its palette, which stand in another order than VOC's
    by_colour: bool = False
    # EXIF orientation of an image with a mask whose size does not say to which way up it belongs; 1 if none
    turned: int = 1


def mask_translation(spec: DatasetSpec) -> np.ndarray:
    """What each value of a target mask becomes in the definition's indices.

    Returns:
        Shape (256,), int16: background stays 0, a class of the definition takes its index there, every other known
        class and void (255) become the ignore index, and -1 marks values that the masks must not hold.
    """
    names = mask_names(spec)
    table = np.full(256, -1, np.int16)
    table[0] = 0
    for value, name in enumerate(names, start=1):
        table[value] = spec.class_index(name) if name in spec.class_names else spec.ignore_index
    # Last: no class may take the place of void, whatever index the definition gives it.
    table[[IGNORE_INDEX, spec.ignore_index]] = spec.ignore_index
    return table


def translate_mask(mask: np.ndarray, translation: np.ndarray, image_size: tuple[int, int], name: str) -> np.ndarray:
    """A target mask, (H, W) uint8, in the definition's indices.

    Args:
        mask: The mask as it is read.
        translation: From ``mask_translation``. Shape (256,), int16.
        image_size: (width, height) of its image in pixels.
        name: What to call it in an error.

    Raises:
        MaskError: With reason ``size``, ``rotated`` or ``values``.

    >>> from wss_data.spec import spec_from_dict
    >>> spec = spec_from_dict(
    ...     {"name": "small", "classes": ["cow"], "target": {"layout": "voc", "mask_classes": ["bird", "cow"]}}
    ... )
    >>> mask = np.array([[0, 2, 2], [0, 1, 255]], np.uint8)  # a cow, a bird, and a border of void
    >>> translate_mask(mask, mask_translation(spec), (3, 2), "a.png").tolist()
    [[0, 1, 1], [0, 255, 255]]
    """
    check_size((mask.shape[1], mask.shape[0]), image_size, name)
    translated = translation[mask]
    if (translated < 0).any():
        wrong, last = np.unique(mask[translated < 0]).tolist(), int(np.flatnonzero(translation[:255] >= 0).max())
        raise MaskError(
            "values",
            f"{name}: the mask holds the value {wrong[0]}, but classes end at {last}. "
            "If its indices are those of other classes, name them in the definition (target: mask_classes).",
        )
    return translated.astype(np.uint8)


def _refuse_foreground(mask: DecodedMask, record: TargetRecord, spec: DatasetSpec) -> None:
    """Raise ``MaskError`` with reason ``binary`` if a mask is foreground in black and white, in place of classes.

    White may be a class, as of 1 bit a pixel: then the image's labels name it. Where they are known and name no class
    of the definition, whatever it shows becomes void.
    """
    white = mask.foreground_value
    if white is None or (record.labels_from and not record.labels):
        return
    names = mask_names(spec)
    if white != IGNORE_INDEX and (not record.labels or (white <= len(names) and names[white - 1] in record.labels)):
        return
    meaning = f"void ({white})" if white == IGNORE_INDEX else f"class {white}"
    raise MaskError(
        "binary",
        f"{record.mask_path}: the mask holds 0 and {white} only, drawn in black and white: foreground, which would be "
        f"read as {meaning}, while the image's labels say: {', '.join(record.labels) or 'nothing'}. Write the index of "
        "its class in place of white, and 255 for void alone.",
    )


def check_target(record: TargetRecord, spec: DatasetSpec, mask_folder: Path) -> TargetImage:
    """Read the files of one record, and write its mask, if it has one, to ``<id>.png`` in the definition's indices.

    Runs on worker processes. What is wrong with the image is reported in ``dropped``, never raised.
    """
    image = TargetImage(record, None, "", "")
    try:
        data = image_bytes(record.image_path)
        image = replace(image, sha256=hashlib.sha256(data).hexdigest())
        pixels = decode_image(data, str(record.image_path))
        size = (pixels.shape[1], pixels.shape[0])
        image = replace(image, size=size, phash=perceptual_hash(pixels))
        if record.split == "train" and not record.labels:
            detail = f"{record.id}: no image-level label of the classes {', '.join(spec.class_names)}."
            return replace(image, dropped="no_labels", detail=detail)
        if record.mask_path is None:
            return image
        found = open_mask(record.mask_path, size)
        _refuse_foreground(found, record, spec)
        mask = translate_mask(found.values, mask_translation(spec), size, str(record.mask_path))
        written = mask_folder / f"{record.id}.png"
        write_mask(mask, written)
        present = np.bincount(mask.ravel(), minlength=256) > 0
        classes = tuple(name for index, name in enumerate(spec.class_names, start=1) if present[index])
        return replace(image, mask_path=written, shown=classes, by_colour=found.by_colour, turned=unseen_turn(data))
    except ImageError as error:
        return replace(image, dropped=error.reason, detail=str(error))
    except MaskError as error:
        return replace(image, dropped=f"mask_{error.reason}", detail=str(error))


def source_fingerprint(layout: TargetLayout, spec: DatasetSpec) -> str:
    """Short text that changes whenever a record, a file's size or date, or the meaning of the masks does."""
    expected = sorted(voc_options(spec).expect.items())
    lists, notes = sorted(map(str, layout.lists.values())), (*layout.notes, *layout.counts)
    lines = [
        repr((_READING, spec.class_names, spec.ignore_index, mask_translation(spec).tolist())),
        repr((lists, layout.made is not None, notes, expected)),
    ]
    for record in layout.records:
        stamps = []
        for path in (record.image_path, record.mask_path):
            try:
                status = path.stat() if path else None
            except OSError:
                status = None
            stamps.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns) if status else None)
        lines.append(repr((record.id, str(record.image_path), record.split, record.labels, stamps)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]  # 64 bits: compared with one other alone


def check_targets(
    records: Sequence[TargetRecord], spec: DatasetSpec, mask_folder: Path, workers: int | None = None
) -> list[TargetImage]:
    """``check_target`` for all records, in their order; many of them on worker processes."""
    check = partial(check_target, spec=spec, mask_folder=mask_folder)
    # Worker processes take seconds to start: only for more images than one process reads in that time.
    return list(map_images(check, records, workers=workers or (1 if len(records) < 400 else None)))


def without_copies(images: Sequence[TargetImage]) -> list[TargetImage]:
    """The images, those of train dropped whose bytes stand in val or test under another name."""
    scored_on = {image.sha256: image.record for image in images if image.record.split != "train" and image.sha256}
    return [
        replace(image, dropped="leak", detail=f"{image.record.id}: the same file as {copy.id} of {copy.split}.")
        if image.record.split == "train" and (copy := scored_on.get(image.sha256))
        else image
        for image in images
    ]
