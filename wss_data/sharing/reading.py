"""Read an export of a web dataset in the layout ``voc`` again, and check everything in it before it is used.

Somebody else may have made the folder: no link in it is followed, no name in a table leads anywhere but to the file
that the manifest's digest names, and all numbers, texts and sizes are checked (``wss_data.reading.checked``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from wss_data.cosegmentation.quality import RANGES, MaskQuality
from wss_data.errors import StoreError, shown
from wss_data.filtering.verdicts import FILE, Act, read_acts
from wss_data.reading import checked
from wss_data.records import stem_of
from wss_data.sharing.layouts.base import MASK_TABLE
from wss_data.sharing.manifest import Manifest, ManifestImage, read_manifest

MANIFEST_FILE = "manifest.jsonl.gz"
"""In every export of a web dataset: where each image came from, and what its licence asks to be passed on."""

_IMAGES, _MASKS = "JPEGImages", "SegmentationClass"
_SHARES = ("confidence", "foreground_ratio")
_QUALITY = "quality."
_ROUNDING = 1e-6
"""By so much a share that was computed may lie beyond its range."""


@dataclass(frozen=True)
class MaskFacts:
    """What an export says of a mask beside its pixels.

    Args:
        confidence: In [0, 1], or ``None``.
        foreground_ratio: In [0, 1], or ``None``.
        quality: Its measures, or ``None`` if one that must be there is not.
    """

    confidence: float | None = None
    foreground_ratio: float | None = None
    quality: MaskQuality | None = None


@dataclass(frozen=True)
class ExportedImage:
    """One image of an export.

    Args:
        listed: What the manifest says of it.
        path: Its file.
        mask: Its label mask, a palette PNG; ``None`` without one.
        facts: What is known of the mask.
    """

    listed: ManifestImage
    path: Path
    mask: Path | None
    facts: MaskFacts


@dataclass(frozen=True)
class Export:
    """What an export holds.

    Args:
        folder: Where it is.
        manifest: The dataset that was exported, dropped images included.
        images: The images whose files are there.
        acts: What people judged.
        passed_over: What was not read, one sentence each.
    """

    folder: Path
    manifest: Manifest
    images: tuple[ExportedImage, ...]
    acts: tuple[Act, ...] = ()
    passed_over: tuple[str, ...] = field(default=())


def read_export(folder: Path) -> Export:
    """Read an export of a web dataset, and check it.

    Args:
        folder: What ``export_dataset`` wrote in the layout ``voc``.

    Raises:
        StoreError: If it is no such folder, it has no manifest (a target dataset has none), no image of it is there, or
            a file in it is a link or holds a wrong value.
        SourceError: If the manifest is wrong.
    """
    if not (folder / _IMAGES).is_dir():
        raise StoreError(
            f"{folder}: no {_IMAGES} is in it, so that it is no export that can be read back. Of the layouts of "
            "`wss-data export` that is `voc`: export the dataset again with --layout voc."
        )
    for name in (_IMAGES, _MASKS):
        if (folder / name).is_symlink():
            raise StoreError(f"{folder / name} is a link; the folder itself is wanted. Nothing was imported.")
    if _file(folder, MANIFEST_FILE) is None:
        raise StoreError(
            f"{folder}: has no {MANIFEST_FILE}, so that it is no export of a web dataset. "
            "A target dataset in the layout voc is read by `wss-data import-target`."
        )
    manifest = read_manifest(folder / MANIFEST_FILE, masks=False)
    names = {f"{image.class_name}_{stem_of(image.sha256)}": image for image in manifest.images}
    facts, passed_over = _read_facts(folder, names)
    images = []
    for name, listed in names.items():
        path, mask = (
            _file(folder, part, f"{name}{suffix}", largest=checked.LARGEST_IMAGE)
            for part, suffix in ((_IMAGES, ".jpg"), (_MASKS, ".png"))
        )
        if path is not None:
            images.append(ExportedImage(listed, path, mask, facts.get(name, MaskFacts())))
    if not images:
        raise StoreError(f"{folder}: none of the {len(manifest.images):,} images of its manifest is there.")
    acts = read_acts(folder / FILE) if _file(folder, FILE) else []
    passed_over += [manifest.unknown_told] if manifest.unknown_told else []
    passed_over += _unlisted(folder, {item.path.stem for item in images})
    return Export(folder, manifest, tuple(images), tuple(acts), tuple(passed_over))


def _file(folder: Path, *parts: str, largest: int | None = None) -> Path | None:
    try:
        return checked.file_inside(folder, *parts, largest=largest)
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder}: {error}. Nothing was imported.") from error


def _unlisted(folder: Path, taken: set[str]) -> list[str]:
    """Files of images and masks that belong to no image that is taken, one sentence each."""
    told = []
    for name in (_IMAGES, _MASKS):
        if not (folder / name).is_dir():
            continue
        others = [path.name for path in (folder / name).iterdir() if path.stem not in taken]
        if others:
            told.append(
                f"Passed over are {len(others):,} files in {name} that belong to no image of the manifest, such as "
                f"{shown(min(others))}."
            )
    return told


def _read_facts(folder: Path, names: Mapping[str, ManifestImage]) -> tuple[dict[str, MaskFacts], list[str]]:
    """What the table of masks says of each image of the manifest, and what of the table was passed over."""
    path = _file(folder, MASK_TABLE)
    if path is None:
        return {}, []
    facts: dict[str, MaskFacts] = {}
    number = 0
    try:
        lines = checked.table_lines(path)
        number, header = next(lines, (1, []))
        if not {"image", "class"} <= set(header) or len(set(header)) < len(header):
            raise ValueError(f"columns 'image' and 'class' are wanted, each once, found {shown(header)}")
        # The score is a rank among the dataset's own masks, and computed anew.
        known = ("image", "class", "method", *_SHARES, *(_QUALITY + name for name in (*RANGES, "score")))
        unknown = [column for column in header if column not in known]
        for place, cells in lines:
            number = place
            if len(cells) != len(header):
                raise ValueError(f"{len(cells):,} cells, the first line has {len(header):,}")
            row = dict(zip(header, cells, strict=True))
            listed = names.get(row["image"])
            if listed is None or listed.class_name != row["class"]:
                raise ValueError(f"image {shown(row['image'])} of class {shown(row['class'])} is not in the manifest")
            if row["image"] in facts:
                raise ValueError(f"image {shown(row['image'])} is there twice")
            facts[row["image"]] = _facts(row)
    except (OSError, ValueError) as error:
        where = f", line {number}:" if number and not isinstance(error, OSError) else ":"
        raise StoreError(f"{path}{where} {error}. Nothing was imported.") from error
    told = f"Passed over are columns of {MASK_TABLE} that nobody reads: {shown(unknown)}." if unknown else None
    return facts, [told] if told else []


def _number(text: str, name: str, low: float, high: float) -> float:
    return checked.number_of(text, name, low - _ROUNDING, high + _ROUNDING)


def _facts(row: Mapping[str, str]) -> MaskFacts:
    shares = {name: _number(row[name], name, 0, 1) for name in _SHARES if row.get(name)}
    measures: dict[str, Any] = {}
    for measure in fields(MaskQuality):
        name, (low, high) = _QUALITY + measure.name, RANGES[measure.name]
        if text := row.get(name):
            whole = measure.type is int
            measures[measure.name] = (
                checked.whole_of(text, name, int(low), int(high)) if whole else _number(text, name, low, high)
            )
    try:
        quality = MaskQuality(**measures)
    except TypeError:
        quality = None
    return MaskFacts(shares.get("confidence"), shares.get("foreground_ratio"), quality)
