"""The layouts of Ultralytics YOLO: polygons for instance segmentation, and masks of indices for semantic segmentation.

Source:
    https://docs.ultralytics.com/datasets/segment and https://docs.ultralytics.com/datasets/semantic
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from wss_data.imaging.masks import encode_mask, mask_names
from wss_data.runtime.files import write_bytes, write_text
from wss_data.sharing.layouts.base import Contents, copy_image, read_label_mask
from wss_data.sharing.layouts.huggingface import SPLITS


def write_yolo(contents: Contents, folder: Path) -> None:
    """Write ``images/<split>/<name>.jpg`` and ``labels/<split>/<name>.txt``: a line for each connected component.

    A line is a class, from 0 on, and the corners of a polygon as fractions of width and height. Void cannot be written:
    it counts as background. Images without a mask are left out; without a file of labels they would show nothing.
    """
    for row in contents.rows:
        if (mask := read_label_mask(row, contents)) is None:
            continue
        split = SPLITS.get(row.split, row.split)
        height, width = mask.shape
        lines = []
        for index in range(1, len(contents.classes) + 1):
            for polygon in polygons_of(mask == index):
                # The middle of a pixel: readers cut to whole pixels, and a fraction times the size may fall just below.
                corners = (polygon + 0.5) / (width, height)
                lines.append(" ".join([str(index - 1), *(f"{value:.6f}" for value in corners.ravel())]) + "\n")
        copy_image(row.image_path, folder / "images" / split / f"{row.name}.jpg")
        write_text(folder / "labels" / split / f"{row.name}.txt", "".join(lines))
    _write_yaml(contents, folder, dict(enumerate(contents.classes)))


def write_yolo_semantic(contents: Contents, folder: Path) -> None:
    """Write ``images/<split>/<name>.jpg`` and ``masks/<split>/<name>.png``, grey: 0 background, 1..C, 255 void."""
    for row in contents.rows:
        if (mask := read_label_mask(row, contents)) is None:
            continue
        split = SPLITS.get(row.split, row.split)
        copy_image(row.image_path, folder / "images" / split / f"{row.name}.jpg")
        # Without colours: Ultralytics reads the grey of a palette's colours, not the indices.
        write_bytes(folder / "masks" / split / f"{row.name}.png", encode_mask(mask, coloured=False))
    names = mask_names(contents.classes)
    _write_yaml(
        contents, folder, {value: names[value] for value in range(len(contents.classes) + 1)}, masks_dir="masks"
    )


def _write_yaml(contents: Contents, folder: Path, names: Mapping[int, str], **more: Any) -> None:
    splits = {SPLITS.get(split, split) for split in contents.splits()}
    train = "train" if "train" in splits else min(splits)
    # YOLO wants both: without images of their own it validates on those that it learns from.
    value = {"train": f"images/{train}", "val": f"images/{'val' if 'val' in splits else train}", **more}
    if "test" in splits:
        value["test"] = "images/test"
    text = yaml.safe_dump({**value, "names": dict(names)}, sort_keys=False, allow_unicode=True)
    write_text(folder / "data.yaml", text)


def polygons_of(mask: np.ndarray) -> list[np.ndarray]:
    """The connected components of a mask, (H, W) bool, as polygons through the middles of their border pixels.

    A hole is joined with what surrounds it by a cut of no width, so that each component is one polygon, which filled
    gives the component again, pixel by pixel. Each is (N, 2) int, x and y in pixels, N at least 3.

    >>> [polygon.tolist() for polygon in polygons_of(np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]], bool))]
    [[[1, 1], [1, 2], [2, 2], [2, 1]]]
    """
    # All border pixels: a cut may begin at any of them.
    contours, links = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    holes: dict[int, list[np.ndarray]] = {}
    for contour, (_, _, _, parent) in zip(contours, links[0] if links is not None else (), strict=True):
        holes.setdefault(int(parent), []).append(contour[:, 0])
    outer = [place for place in range(len(contours)) if links[0][place][3] < 0]
    return [_as_polygon(_joined(contours[place][:, 0], holes.get(place, ()), mask)) for place in outer]


def _joined(ring: np.ndarray, holes: list[np.ndarray] | tuple[()], mask: np.ndarray) -> np.ndarray:
    """The border of a component, (N, 2), with those of its holes."""
    # From the left: what lies left of a hole's leftmost pixel is then the ring, or a hole that is part of it by now.
    for hole in sorted(holes, key=lambda one: int(one[:, 0].min())):
        first = int(hole[:, 0].argmin())
        x, y = hole[first]
        background = np.flatnonzero(~mask[y, :x])
        left = int(background[-1]) + 1 if len(background) else 0
        (found,) = np.nonzero((ring == (left, y)).all(axis=1))
        place = int(found[0])
        turned = np.roll(hole, -first, axis=0)
        ring = np.concatenate([ring[: place + 1], turned, turned[:1], ring[place:]])
    return ring


def _as_polygon(ring: np.ndarray) -> np.ndarray:
    """The corners of a ring of pixels: what lies on a straight line is left out, and there are at least three."""
    step, before = np.roll(ring, -1, axis=0) - ring, ring - np.roll(ring, 1, axis=0)
    corners = ring[(step != before).any(axis=1)]
    if len(corners) < 3:
        corners = np.concatenate([corners if len(corners) else ring[:1], np.repeat(ring[:1], 3, axis=0)])[:3]
    return corners
