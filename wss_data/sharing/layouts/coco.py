"""The layout of COCO: images in one folder, and masks as run lengths (RLE) in a JSON file a split.

A label mask has one value a pixel, COCO one object an annotation: each class of a mask becomes one annotation that
covers all its pixels. Void pixels become an annotation of the category ``ignore`` with ``iscrowd`` 1, so that the
mask can be put together again and COCO's own evaluation, too, leaves them out.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from wss_data.imaging.images import read_size
from wss_data.imaging.masks import IGNORE_INDEX, mask_names, read_mask, voc_palette
from wss_data.ledger import Ledger
from wss_data.records import Provenance
from wss_data.runtime.files import write_text
from wss_data.sharing.layouts.base import ExportRow, copy_image, write_meaning


def write_coco(
    rows: Sequence[ExportRow],
    folder: Path,
    classes: Sequence[str],
    ledger: Ledger,
    ignore_index: int = IGNORE_INDEX,
    description: str = "",
) -> int:
    """Write the layout of COCO.

    ``images/<name>.jpg``, ``annotations/instances_<split>.json``, and the files of ``write_meaning``. Where an image
    came from stands in its entry: ``license`` and ``coco_url`` for other tools, ``provenance`` whole.

    Args:
        rows: The images.
        folder: An empty folder.
        classes: Names of the classes 1..C; they are the categories 1..C.
        ledger: What the masks and labels were made from.
        ignore_index: Value of void pixels in the masks, and id of their category.
        description: What the dataset is, for the file's head.

    Returns:
        Number of images written.

    Raises:
        ImageError: If an image cannot be read.
        MaskError: If a mask cannot be read.
    """
    categories = [
        {"id": index, "name": name, "supercategory": "object", "isthing": 1, "color": voc_palette()[index].tolist()}
        for index, name in enumerate(classes, start=1)
    ]
    colour = voc_palette()[ignore_index].tolist()
    void = mask_names(classes, ignore_index)[ignore_index]
    categories.append({"id": ignore_index, "name": void, "supercategory": void, "isthing": 0, "color": colour})
    licences: dict[tuple[str, str], int] = {}  # name and address -> id, as images name them
    splits: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    count = 0
    for image_id, row in enumerate(rows, start=1):
        copy_image(row.image_path, folder / "images" / f"{row.name}.jpg")
        images, annotations = splits.setdefault(row.split, ([], []))
        width, height = read_size(row.image_path)
        entry = {"id": image_id, "file_name": f"{row.name}.jpg", "width": width, "height": height}
        images.append({**entry, **_known(row, licences)})
        if row.mask_path is None:
            continue
        for annotation in annotations_of(read_mask(row.mask_path), ignore_index):
            count += 1
            annotations.append({"id": count, "image_id": image_id, **annotation})
    for split, (images, annotations) in splits.items():
        value = {
            "info": {"description": description, "version": "1.0", "ledger": ledger.to_dict()},
            "licenses": [{"id": key, "name": name, "url": url} for (name, url), key in licences.items()],
            "categories": categories,
            "images": images,
            "annotations": annotations,
        }
        # One line: of 75,800 images indentation alone would be most of the file.
        path = folder / "annotations" / f"instances_{split}.json"
        write_text(path, json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    write_meaning(rows, folder, classes, ledger)
    return len(rows)


def _known(row: ExportRow, licences: dict[tuple[str, str], int]) -> dict[str, Any]:
    known: dict[str, Any] = {"labels": list(row.labels), "has_mask": row.mask_path is not None}
    if row.sha256:
        known["sha256"] = row.sha256
    if (at := row.provenance) is not None:
        key = (at.license or "not known", at.license_url or "")
        known["license"] = licences.setdefault(key, len(licences) + 1)
        known["coco_url"] = at.image_url or ""
        known["provenance"] = provenance_values(at)
    return known


def provenance_values(provenance: Provenance) -> dict[str, Any]:
    """Plain values of where an image came from, for JSON; nothing is left out that is known."""
    values = {**asdict(provenance), "opt_outs": list(provenance.opt_outs)}
    values["retrieved_at"] = provenance.retrieved_at.isoformat() if provenance.retrieved_at else None
    return values


def annotations_of(mask: np.ndarray, ignore_index: int = IGNORE_INDEX) -> list[dict[str, Any]]:
    """One annotation for each class of a label mask, without ids.

    Args:
        mask: Shape (H, W), uint8; 0 is background.
        ignore_index: Value of void pixels.

    Returns:
        By class index: ``category_id``, ``segmentation`` (RLE), ``area`` in pixels, ``bbox`` (x, y, width, height) in
        pixels, and ``iscrowd``, which is 1 for void pixels.
    """
    found = []
    for value in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist():
        if value == 0:
            continue
        pixels = mask == value
        columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
        left, top = int(columns[0]), int(rows[0])
        found.append(
            {
                "category_id": value,
                "segmentation": encode_rle(pixels),
                "area": int(pixels.sum()),
                "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                "iscrowd": int(value == ignore_index),
            }
        )
    return found


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """A binary mask as COCO's compressed run lengths.

    Runs go down the columns, background first. Each is written as its difference to the one two before (from the
    fourth on), five bits a character, lowest first; the sixth bit says that more follow.

    Args:
        mask: Shape (H, W), bool.

    Returns:
        ``{"size": [H, W], "counts": text}``.

    Source:
        ``rleToString`` in cocodataset/cocoapi, common/maskApi.c.

    >>> mask = np.array([[0, 1, 1], [0, 1, 0]], bool)  # runs: 2 background, 3 foreground, 1 background
    >>> encode_rle(mask)
    {'size': [2, 3], 'counts': '231'}
    """
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=False))  # a mask that begins with foreground: a run of 0 first
    runs = np.diff(np.append(starts, flat.size), prepend=0).tolist()
    counts = bytearray()
    for place, run in enumerate(runs):
        left = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            low = left & 31
            left >>= 5
            more = left != (-1 if low & 16 else 0)
            counts.append(low + 32 * more + 48)
    return {"size": list(mask.shape), "counts": counts.decode("ascii")}
