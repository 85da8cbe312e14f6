"""The layout of COCO: images in one folder, and masks as run lengths (RLE) in a JSON file a split.

A label mask has one value a pixel, COCO one object an annotation: each class of a mask becomes one annotation that
covers all its pixels. Void pixels become an annotation of the category ``ignore`` with ``iscrowd`` 1, so that the
mask can be put together again and COCO's own evaluation, too, leaves them out.
"""

import json
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from wss_data.imaging.images import read_size
from wss_data.imaging.masks import IGNORE_INDEX, mask_names, read_mask, voc_palette
from wss_data.records import Provenance
from wss_data.runtime.files import write_text
from wss_data.sharing.layouts.base import Contents, ExportRow, copy_image


def write_coco(contents: Contents, folder: Path) -> None:
    """Write the layout of COCO: ``images/<name>.jpg`` and ``annotations/instances_<split>.json``.

    The categories are the classes 1..C, and void. Where an image came from stands in its entry: ``license`` and
    ``coco_url`` for other tools, ``provenance`` whole.

    Raises:
        ImageError, MaskError: If an image or a mask cannot be read.
    """
    ignore_index = contents.ignore_index
    palette = voc_palette().tolist()
    categories = [
        {"id": index, "name": name, "supercategory": "object", "isthing": 1, "color": palette[index]}
        for index, name in enumerate(contents.classes, start=1)
    ]
    void = mask_names(contents.classes, ignore_index)[ignore_index]
    categories.append(
        {"id": ignore_index, "name": void, "supercategory": void, "isthing": 0, "color": palette[ignore_index]}
    )
    licences: dict[tuple[str, str], int] = {}  # name and address -> id, as images name them
    splits: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
    numbers = count(1)  # COCO's own evaluation takes an annotation's id 0 for none
    for image_id, row in enumerate(contents.rows, start=1):
        copy_image(row.image_path, folder / "images" / f"{row.name}.jpg")
        images, annotations = splits.setdefault(row.split, ([], []))
        width, height = read_size(row.image_path)
        entry = {"id": image_id, "file_name": f"{row.name}.jpg", "width": width, "height": height}
        images.append({**entry, **_known(row, licences)})
        if row.mask_path is not None:
            for annotation in annotations_of(read_mask(row.mask_path), ignore_index):
                annotations.append({"id": next(numbers), "image_id": image_id, **annotation})
    for split, (images, annotations) in splits.items():
        value = {
            "info": {"description": contents.name, "version": "1.0", "ledger": contents.ledger.to_dict()},
            "licenses": [{"id": key, "name": name, "url": url} for (name, url), key in licences.items()],
            "categories": categories,
            "images": images,
            "annotations": annotations,
        }
        # One line: of 75,800 images indentation alone would be most of the file.
        path = folder / "annotations" / f"instances_{split}.json"
        write_text(path, json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


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
    """One annotation for each class of a label mask, (H, W) uint8, by class index and without ids.

    ``segmentation`` is a run length, ``area`` in pixels, ``bbox`` (x, y, width, height) in pixels; ``iscrowd`` is 1 for
    void pixels, which have the value ``ignore_index``.

    >>> cow, void = annotations_of(np.array([[0, 5, 5], [255, 0, 5]], np.uint8))
    >>> cow["category_id"], cow["area"], cow["bbox"], cow["iscrowd"]
    (5, 3, [1, 0, 2, 2], 0)
    >>> void["category_id"], void["bbox"], void["iscrowd"]
    (255, [0, 1, 1, 1], 1)
    """
    found = []
    for value in np.unique(mask[mask > 0]).tolist():
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
    """A binary mask, (H, W) bool, as COCO's compressed run lengths: ``{"size": [H, W], "counts": text}``.

    Runs go down the columns, background first. Each is written as its difference to the one two before (from the
    fourth on), five bits a character, lowest first; the sixth bit says that more follow.

    Source:
        ``rleToString`` in cocodataset/cocoapi, common/maskApi.c.

    >>> encode_rle(np.array([[0, 1, 1], [0, 1, 0]], bool))  # runs: 2 background, 3 foreground, 1 background
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
            left >>= 5  # keeps the sign: differences may be negative
            more = left != (-1 if low & 16 else 0)
            counts.append(low + 32 * more + 48)  # from "0" on: 64 printable characters
    return {"size": list(mask.shape), "counts": counts.decode("ascii")}
