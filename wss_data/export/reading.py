"""Read what an export of a web dataset holds, whatever its layout: images, masks and the manifest."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wss_data.errors import StoreError
from wss_data.export.base import read_mask_table
from wss_data.export.coco import read_coco
from wss_data.manifest import Manifest, ManifestImage, read_manifest
from wss_data.masks import read_mask
from wss_data.records import stem_of

MANIFEST_FILE = "manifest.jsonl.gz"
"""In every export of a web dataset: where each image came from, and what its licence asks to be passed on."""

_SIGNS = {
    "fiftyone": "samples.json",
    "voc": "JPEGImages",
    "coco": "annotations",
    "huggingface": "data/train/metadata.jsonl",
    "folders": "images",
}
"""Layout -> what is in its folder and in that of no layout further down."""

_HUGGINGFACE = Path("data") / "train"


@dataclass(frozen=True)
class ExportedImage:
    """One image of an export.

    Args:
        listed: What the manifest says of it.
        path: Its file.
        mask: Its label mask: a palette PNG, or the mask itself, shape (H, W), uint8; ``None`` without one.
        facts: What is known of the mask: ``confidence`` and others, as text.
    """

    listed: ManifestImage
    path: Path
    mask: Path | np.ndarray | None
    facts: dict[str, str]

    def read_mask(self) -> np.ndarray | None:
        """The label mask, shape (H, W), uint8, or ``None``.

        Raises:
            MaskError: If the file cannot be read.
        """
        return read_mask(self.mask) if isinstance(self.mask, Path) else self.mask


@dataclass(frozen=True)
class Export:
    """What an export holds.

    Args:
        folder: Where it is.
        layout: How it is laid out.
        manifest: The dataset that was exported, dropped images included.
        images: The images whose files are there.
    """

    folder: Path
    layout: str
    manifest: Manifest
    images: tuple[ExportedImage, ...]


def layout_of(folder: Path) -> str:
    """The layout of an export, by what is in its folder.

    Raises:
        StoreError: If it is none that is known.
    """
    for layout, sign in _SIGNS.items():
        if (folder / sign).exists():
            return layout
    raise StoreError(f"{folder}: no export that is known: none of {', '.join(_SIGNS.values())} is in it.")


def read_export(folder: Path) -> Export:
    """Read an export of a web dataset in any layout but ``fiftyone``, which FiftyOne reads by itself.

    Args:
        folder: What ``export_dataset`` wrote.

    Raises:
        StoreError: If it is no such folder, it has no manifest (a target dataset has none), or no image of it is there.
        SourceError: If the manifest is wrong.
    """
    layout = layout_of(folder)
    if not (folder / MANIFEST_FILE).is_file():
        raise StoreError(
            f"{folder}: has no {MANIFEST_FILE}, so that it is no export of a web dataset. "
            "A target dataset in the layout voc is read by `wss-data import-target`."
        )
    manifest = read_manifest(folder / MANIFEST_FILE, masks=False)
    table = read_mask_table(folder)
    masks = read_coco(folder / "annotations" / "instances_kept.json") if layout == "coco" else {}
    images = []
    for listed in manifest.images:
        stem = stem_of(listed.sha256)
        name = stem if layout == "folders" else f"{listed.class_name}_{stem}"
        path, mask = _places(folder, layout, listed.class_name, name)
        if not path.is_file():
            continue
        found: Path | np.ndarray | None = masks.get(name) if mask is None else mask if mask.is_file() else None
        images.append(ExportedImage(listed, path, found, table.get((listed.class_name, name), {})))
    if not images:
        raise StoreError(f"{folder}: none of the {len(manifest.images):,} images of its manifest is there.")
    return Export(folder, layout, manifest, tuple(images))


def _places(folder: Path, layout: str, class_name: str, name: str) -> tuple[Path, Path | None]:
    """Where an image and its mask are; no file of its own holds a mask of COCO's."""
    if layout == "voc":
        return folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png"
    if layout == "folders":
        return folder / "images" / class_name / f"{name}.jpg", folder / "masks" / class_name / f"{name}.png"
    if layout == "coco":
        return folder / "images" / f"{name}.jpg", None
    place = folder / _HUGGINGFACE
    return place / "images" / f"{name}.jpg", place / "masks" / f"{name}.png"
