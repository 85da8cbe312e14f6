"""The target dataset: images with image-level labels for training, and masks for the final score only.

Reads the folders of PASCAL VOC. Pure but for reading and writing files: nothing
here knows the database.

The masks of training images are never opened, even where the folder has them:
``TargetRecord.mask_path`` is ``None`` for them.
"""

import csv
import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wss_data.errors import ImageError, MaskError, SourceError, SpecError
from wss_data.images import SUFFIXES, decode_image
from wss_data.masks import IGNORE_INDEX, read_mask, write_mask
from wss_data.parallel import map_images
from wss_data.spec import DatasetSpec

Split = Literal["train", "val"]

LABELS_FILE = "image_labels.csv"
LIST_FOLDER = Path("ImageSets") / "Segmentation"
TRAIN_LISTS = ("train_aug", "train")
"""Lists that are tried for the training split: with the extra images of SBD first, as the paper trains on them."""

DROP_REASONS = frozenset(
    ("no_labels", "not_listed", "missing", "unreadable", "unsupported_format", "truncated", "too_large", "too_small")
    + ("mask_missing", "mask_unreadable", "mask_rgb", "mask_16_bit", "mask_size", "mask_values")
)
"""Why an image of a target dataset is not used; ``not_listed``: an earlier import's lists had it."""

DRAWN_DEFAULTS = {"train": 200, "val": 80, "seed": 1}
"""Numbers of images, and the seed, of the drawn target dataset."""


@dataclass(frozen=True)
class TargetRecord:
    """One image of a target dataset, as the lists and labels describe it.

    Args:
        id: Its name in the lists, such as ``2007_000528``.
        image_path: Its file.
        split: ``train`` or ``val``.
        labels: The definition's classes that it shows, in order of their index.
        mask_path: Its mask, on ``val`` only.
    """

    id: str
    image_path: Path
    split: Split
    labels: tuple[str, ...]
    mask_path: Path | None = None


@dataclass(frozen=True)
class TargetImage:
    """A ``TargetRecord`` whose files were read.

    Args:
        record: What was read.
        size: (width, height) in pixels; ``None`` if the image cannot be read.
        sha256: Hex digest of the file; empty if there is none.
        phash: Perceptual hash, 16 hex digits; empty if the image cannot be read.
        mask_path: Its mask in the definition's indices.
        dropped: Why it must not be used, as a slug such as ``truncated`` or ``mask_size``.
        detail: The same as a sentence.
    """

    record: TargetRecord
    size: tuple[int, int] | None
    sha256: str
    phash: str
    mask_path: Path | None = None
    dropped: str | None = None
    detail: str | None = None


def read_voc_layout(folder: Path, spec: DatasetSpec, labels_csv: Path | None = None) -> list[TargetRecord]:
    """Read which images a target dataset has, their split and their image-level labels.

    Splits come from ``ImageSets/Segmentation``: ``val.txt``, and ``train_aug.txt`` or else ``train.txt``; the
    definition's ``target: {options: {train: NAME, val: NAME}}`` names other lists. Labels come from ``labels_csv``,
    else from ``image_labels.csv`` in the folder, else from ``Annotations/<id>.xml``.

    Args:
        folder: Holds ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation`` and labels.
        spec: The definition; labels of other classes are left out.
        labels_csv: Table with the columns ``image`` and ``classes`` (class names with spaces between).

    Returns:
        Train first, then val, each in order of its list.

    Raises:
        SpecError: If the definition's target has unknown options.
        SourceError: If the folder, a list or the labels are missing, an image is in both splits, no image file exists,
            or no training image shows a class of the definition.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: there is no such folder of a target dataset.")
    if not (folder / "JPEGImages").is_dir():
        raise SourceError(
            f"{folder}: no folder JPEGImages inside. Give the folder that holds JPEGImages and ImageSets (VOC2012)."
        )
    names = _list_names(folder, spec)
    splits: dict[Split, list[str]] = {
        split: _read_list(folder / LIST_FOLDER / f"{name}.txt") for split, name in names.items()
    }
    both = set(splits["train"]) & set(splits["val"])
    if both:
        raise SourceError(
            f"{folder / LIST_FOLDER}: {len(both)} images are in both {names['train']}.txt and {names['val']}.txt, "
            f"such as {min(both)}. A score on images that taught the model means nothing; take them out of one list."
        )

    labels = _read_labels(folder, labels_csv, [*splits["train"], *splits["val"]])
    files = {path.stem: path for path in sorted((folder / "JPEGImages").iterdir()) if path.suffix.lower() in SUFFIXES}
    records = [
        TargetRecord(
            id=name,
            image_path=files.get(name, folder / "JPEGImages" / f"{name}.jpg"),
            split=split,
            labels=tuple(c for c in spec.class_names if c in labels.get(name, ())),
            mask_path=folder / "SegmentationClass" / f"{name}.png" if split == "val" else None,
        )
        for split, ids in splits.items()
        for name in ids
    ]
    if not any(record.id in files for record in records):
        raise SourceError(
            f"{folder / 'JPEGImages'}: none of the {len(records)} listed images is there, such as {records[0].id}."
        )
    if not any(record.labels for record in records if record.split == "train"):
        seen = sorted({name for found in labels.values() for name in found})
        raise SourceError(
            f"{folder}: no training image shows a class of definition '{spec.name}' ({', '.join(spec.class_names)}). "
            f"Its labels name: {', '.join(seen[:12]) if seen else 'nothing'}."
        )
    return records


def _list_names(folder: Path, spec: DatasetSpec) -> dict[Split, str]:
    options: Mapping[str, Any] = spec.target.options if spec.target and spec.target.layout == "voc" else {}
    unknown = set(options) - {"train", "val"}
    if unknown:
        raise SpecError(
            f"definition '{spec.name}': target option '{min(unknown)}' is not known. "
            "Known: train, val (names of lists)."
        )
    there = [name for name in TRAIN_LISTS if (folder / LIST_FOLDER / f"{name}.txt").is_file()]
    train = options.get("train") or (there[0] if there else TRAIN_LISTS[-1])
    return {"train": str(train), "val": str(options.get("val") or "val")}


def _read_list(path: Path) -> list[str]:
    """Names of a split list, each once. Lines may also be SBD's, with the paths of image and mask."""
    if not path.is_file():
        raise SourceError(
            f"{path}: there is no such list of images. Wanted: one image name a line, as PASCAL VOC has it."
        )
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    names = [Path(words[0]).stem if "/" in words[0] else words[0] for words in lines if words]
    if not names:
        raise SourceError(f"{path}: the list is empty.")
    return list(dict.fromkeys(names))


def _read_labels(folder: Path, labels_csv: Path | None, names: list[str]) -> dict[str, set[str]]:
    """Image-level labels: image name -> class names."""
    path = labels_csv or folder / LABELS_FILE
    if path.is_file():
        return _read_label_table(path)
    if labels_csv is not None:
        raise SourceError(f"{labels_csv}: there is no such table of image-level labels.")
    annotations = folder / "Annotations"
    if not annotations.is_dir():
        raise SourceError(
            f"{folder}: no image-level labels. Wanted: {LABELS_FILE} with the columns image,classes, "
            "or VOC's Annotations/<image>.xml, or a table given with --labels."
        )
    return {name: _read_annotation(annotations / f"{name}.xml") for name in names}


def _read_label_table(path: Path) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"image", "classes"} <= set(reader.fieldnames or ()):
            raise SourceError(
                f"{path}: the first line names the columns {', '.join(reader.fieldnames or ()) or '(none)'}; "
                "image and classes are wanted, as in: 2007_000904,cow person"
            )
        for row in reader:
            name = row["image"] or ""
            stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name
            labels.setdefault(stem, set()).update((row["classes"] or "").split())
    return labels


def _read_annotation(path: Path) -> set[str]:
    """Class names of one VOC annotation; boxes and everything else in it are not looked at. None if it is missing."""
    if not path.is_file():
        return set()
    try:
        names = (element.findtext("name") for element in ElementTree.parse(path).getroot().iter("object"))
        return {name.strip() for name in names if name}
    except ElementTree.ParseError as error:
        raise SourceError(f"{path}: not a readable VOC annotation ({error}).") from error


def mask_translation(spec: DatasetSpec) -> np.ndarray:
    """What each value of a target mask becomes in the definition's indices.

    Returns:
        Shape (256,), int16: background stays 0, a class of the definition takes its index there, every other known
        class and void (255) become the ignore index, and -1 marks values that the masks must not hold.
    """
    names = (spec.target.mask_classes if spec.target else None) or spec.class_names
    table = np.full(256, -1, np.int16)
    table[0] = 0
    for value, name in enumerate(names, start=1):
        table[value] = spec.class_index(name) if name in spec.class_names else spec.ignore_index
    table[[IGNORE_INDEX, spec.ignore_index]] = spec.ignore_index
    return table


def translate_mask(mask: np.ndarray, translation: np.ndarray, image_size: tuple[int, int], name: str) -> np.ndarray:
    """A target mask in the definition's indices.

    Args:
        mask: Shape (H, W), uint8.
        translation: From ``mask_translation``. Shape (256,), int16.
        image_size: (width, height) of its image in pixels.
        name: What to call it in an error.

    Returns:
        Shape (H, W), uint8.

    Raises:
        MaskError: With reason ``size`` or ``values``.
    """
    if mask.shape != image_size[::-1]:
        raise MaskError(
            "size",
            f"{name}: the mask has {mask.shape[1]}x{mask.shape[0]} pixels, the image {image_size[0]}x{image_size[1]}.",
        )
    translated = translation[mask]
    if (translated < 0).any():
        wrong, last = np.unique(mask[translated < 0]).tolist(), int(np.flatnonzero(translation[:255] >= 0).max())
        raise MaskError(
            "values",
            f"{name}: the mask holds the value {wrong[0]}, but classes end at {last}. "
            "If its indices are those of other classes, name them in the definition (target: mask_classes).",
        )
    return translated.astype(np.uint8)


def check_target(record: TargetRecord, spec: DatasetSpec, mask_folder: Path) -> TargetImage:
    """Read the files of one record, and write its mask in the definition's indices. Runs on worker processes.

    Args:
        record: The image.
        spec: The definition.
        mask_folder: Receives ``<id>.png`` for a validation image.

    Returns:
        The image; what is wrong with it is told in ``dropped``, never raised.
    """
    from wss_data.decoding import perceptual_hash

    sha256 = phash = ""
    size = None
    try:
        data = _read(record.image_path)
        sha256 = hashlib.sha256(data).hexdigest()
        image = decode_image(data, str(record.image_path))
        size, phash = (image.shape[1], image.shape[0]), perceptual_hash(image)
        if record.split == "train" and not record.labels:
            detail = f"{record.id}: no image-level label of the classes {', '.join(spec.class_names)}."
            return TargetImage(record, size, sha256, phash, dropped="no_labels", detail=detail)
        written = None
        if record.mask_path is not None:
            mask = translate_mask(read_mask(record.mask_path), mask_translation(spec), size, str(record.mask_path))
            written = mask_folder / f"{record.id}.png"
            write_mask(mask, written)
        return TargetImage(record, size, sha256, phash, written)
    except ImageError as error:
        return TargetImage(record, size, sha256, phash, dropped=error.reason, detail=str(error))
    except MaskError as error:
        return TargetImage(record, size, sha256, phash, dropped=f"mask_{error.reason}", detail=str(error))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{path}: the image cannot be opened ({error.strerror}).") from error


def source_fingerprint(records: list[TargetRecord], spec: DatasetSpec) -> str:
    """Short text that changes whenever a record, a file's size or date, or the meaning of the masks does."""
    lines = [repr((spec.class_names, spec.ignore_index, mask_translation(spec).tolist()))]
    for record in records:
        stamps = []
        for path in (record.image_path, record.mask_path):
            try:
                status = path.stat() if path else None
            except OSError:
                status = None
            stamps.append((status.st_size, status.st_mtime_ns) if status else None)
        lines.append(repr((record.id, str(record.image_path), record.split, record.labels, stamps)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def check_targets(
    records: list[TargetRecord], spec: DatasetSpec, mask_folder: Path, workers: int | None = None
) -> list[TargetImage]:
    """``check_target`` for all records, in their order; many of them on worker processes."""
    check = partial(check_target, spec=spec, mask_folder=mask_folder)
    # Worker processes take seconds to start: only for more images than one process reads in that time.
    return list(map_images(check, records, workers=workers or (1 if len(records) < 400 else None)))


def write_drawn(spec: DatasetSpec, folder: Path) -> None:
    """Write the drawn target dataset of a definition, unless it is there already.

    Args:
        spec: A definition whose target has the layout ``drawn``; its options ``train`` and ``val`` are numbers of
            images, ``seed`` makes it another one.
        folder: Receives the layout of VOC.

    Raises:
        SpecError: If an option is unknown or no whole number.
        SourceError: If a class cannot be drawn.
    """
    from wss_data.sources.drawn import write_drawn_target

    options: dict[str, Any] = {**DRAWN_DEFAULTS, **(spec.target.options if spec.target else {})}
    for key, value in options.items():
        if key not in DRAWN_DEFAULTS or isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise SpecError(
                f"definition '{spec.name}': target option {key}: {value!r} is not possible. "
                f"Known, each a whole number: {', '.join(DRAWN_DEFAULTS)}."
            )
    write_drawn_target(folder, spec.class_names, **options)
