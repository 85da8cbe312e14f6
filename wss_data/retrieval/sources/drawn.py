"""Pictures drawn by a program, with known masks: for trying and testing the tool, offline.

No number measured on them says anything about photographs. What they are good
for: the whole road runs in minutes without a network, and since every mask is
known, every step can be checked.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wss_data.errors import SourceError, shown
from wss_data.imaging.images import encode_jpeg
from wss_data.imaging.masks import IGNORE_INDEX, write_mask
from wss_data.records import Provenance
from wss_data.retrieval.sources.base import Hit, Pages, SourceState
from wss_data.retrieval.sources.drawing.scene import (
    DRAWN_CLASSES,
    Drawing,
    draw_target_image,
    draw_web_image,
    is_wrong_image,
)
from wss_data.runtime.files import write_bytes, write_json, write_text
from wss_data.spec import ClassSpec

__all__ = [
    "DRAWN_CLASSES",
    "Drawing",
    "DrawnSource",
    "draw_target_image",
    "draw_web_image",
    "write_drawn_target",
]

IMAGES_PER_CLASS = 1000
"""How many pictures the source offers for a class when no limit is given: drawing could go on for ever."""

_JPEG_QUALITY = 92

_VERSION = 1
"""Goes up when the drawer draws other pictures than before, so that an older drawn target is drawn anew."""

_MARKER = "drawn.json"


class DrawnSource:
    """Draws pictures of a class instead of searching for them.

    Args:
        seed: Which set of pictures, 0 or more; other seeds give other pictures.
        wrong_share: Share of pictures that do not show the class, 0 to 1, as a web search returns them.

    Raises:
        SourceError: If an option is out of its range.
    """

    name = "drawn"
    local = True

    def __init__(self, seed: int = 0, wrong_share: float = 0.1) -> None:
        _check_seed(seed)
        if isinstance(wrong_share, bool) or not isinstance(wrong_share, (int, float)) or not 0 <= wrong_share <= 1:
            raise SourceError(
                f"source 'drawn': wrong_share is {shown(wrong_share)}, a share between 0 and 1 is wanted."
            )
        self.seed = seed
        self.wrong_share = float(wrong_share)

    def state(self) -> SourceState:
        """Ready: it needs neither network nor key."""
        return SourceState("ready", f"Draws {', '.join(DRAWN_CLASSES)}; no photographs, for trying and testing.")

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield pictures of one class; each is drawn when it is read.

        Args:
            wanted: The class; found by its name or by any of its queries.
            limit: Most hits to yield; ``None`` for ``IMAGES_PER_CLASS``.
            pages: Not needed: no service is asked.

        Raises:
            SourceError: If the class cannot be drawn.
        """
        drawn, query = _drawn_class(wanted)
        for index in range(IMAGES_PER_CLASS if limit is None else limit):
            identity = f"{drawn}/{self.seed}/{index:05d}"
            # A picture's identity must name one picture for ever, whatever the share of wrong ones.
            if is_wrong_image(drawn, self.seed, index, self.wrong_share):
                identity += "-wrong"
            yield Hit(
                class_name=wanted.name,
                provenance=Provenance(
                    source=self.name,
                    source_id=identity,
                    query=query,
                    image_url=f"drawn:{identity}",
                    title=f"{query} {index}",
                    author="wss drawn source",
                    license="CC0-1.0",
                    license_url="https://creativecommons.org/publicdomain/zero/1.0/",
                ),
                read=partial(_read, identity),
            )

    @staticmethod
    def known_mask(source_id: str) -> np.ndarray:
        """The true mask of a picture, at the size it was drawn.

        Args:
            source_id: ``source_id`` of its provenance.

        Returns:
            0 background, i + 1 for ``DRAWN_CLASSES[i]``; all 0 for a wrong picture without object. Shape (H, W), uint8.

        Raises:
            SourceError: If it is no identity of a drawn picture.
        """
        return _redraw(source_id).mask


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SourceError(f"drawn pictures: seed is {shown(seed)}, a whole number of 0 or more is wanted.")


def _drawn_class(wanted: ClassSpec) -> tuple[str, str]:
    """Which class to draw, and the name or query that asked for it."""
    for text in (wanted.name, *wanted.queries):
        if text.strip().lower() in DRAWN_CLASSES:
            return text.strip().lower(), text
    raise SourceError(
        f"source 'drawn' cannot draw class '{wanted.name}' (queries: {', '.join(wanted.queries)}). "
        f"It draws {', '.join(DRAWN_CLASSES)}; name one of them as the class or as a query."
    )


def _redraw(source_id: str) -> Drawing:
    identity, dash, wrong = source_id.partition("-")
    parts = identity.split("/")
    known = len(parts) == 3 and parts[0] in DRAWN_CLASSES and parts[1].isdecimal() and parts[2].isdecimal()
    if not known or (dash and wrong != "wrong"):
        raise SourceError(f"'{source_id}' is no drawn picture; wanted: <class>/<seed>/<index>, as in bird/0/00003.")
    return draw_web_image(parts[0], int(parts[1]), int(parts[2]), 1.0 if wrong else 0.0)


def _read(source_id: str) -> bytes:
    return encode_jpeg(_redraw(source_id).image, _JPEG_QUALITY)


def write_drawn_target(folder: Path, classes: Sequence[str], train: int, val: int, seed: int) -> None:
    """Write a drawn target dataset in the layout of PASCAL VOC.

    ``JPEGImages/<id>.jpg``; ``SegmentationClass/<id>.png`` for the validation
    split only, with a border of 255 around each object as VOC has it;
    ``ImageSets/Segmentation/{train,val}.txt``; ``image_labels.csv`` with the
    classes of every image. Written files are kept when it is called again with
    the same arguments, so a killed call goes on where it stopped; the marker
    ``drawn.json`` tells what the folder holds.

    Args:
        folder: Where to write; made if missing.
        classes: Names of drawn classes; the first gets mask index 1. Other classes are not drawn.
        train: Number of training images.
        val: Number of validation images.
        seed: Which set of pictures, 0 or more. The splits share no picture.

    Raises:
        SourceError: If a class cannot be drawn, or a number is out of its range.
    """
    _check_seed(seed)
    _check_target(classes, train, val)
    holds = {"version": _VERSION, "classes": list(classes), "seed": seed}
    wanted = {**holds, "train": train, "val": val, "complete": True}
    before = _read_marker(folder)
    if before == wanted:
        return
    # Pictures depend on nothing but what `holds` says: with the same, files that are there already are right.
    keep = all(before.get(key) == value for key, value in holds.items())
    # Written first, so that a half-written folder is never taken for another set's.
    write_json(folder / _MARKER, {**wanted, "complete": False})

    rows = []
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            # Even and odd: neither split changes when the other grows.
            index = 2 * number + (split == "val")
            stem = f"{seed:04d}_{index:06d}"
            labels = _write_target_image(folder, stem, classes, seed, index, split == "val", keep)
            splits[split].append(stem)
            rows.append((stem, " ".join(labels)))
    for split, stems in splits.items():
        write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("image", "classes"))
    writer.writerows(rows)
    write_text(folder / "image_labels.csv", table.getvalue())
    write_json(folder / _MARKER, wanted)


def _check_target(classes: Sequence[str], train: int, val: int) -> None:
    for name in classes:
        if name not in DRAWN_CLASSES:
            raise SourceError(f"drawn target: class '{name}' cannot be drawn. Known: {', '.join(DRAWN_CLASSES)}.")
    if not classes or len(set(classes)) != len(classes):
        raise SourceError(f"drawn target: classes are {list(classes)}; at least one is wanted, each once.")
    for key, count in (("train", train), ("val", val)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise SourceError(f"drawn target: {key} is {shown(count)}, a whole number of 0 or more is wanted.")


def _read_marker(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_target_image(
    folder: Path, stem: str, classes: Sequence[str], seed: int, index: int, with_mask: bool, keep: bool
) -> list[str]:
    """Write one image, and its mask if wanted; returns the classes it shows, in the order of ``classes``."""
    image_path = folder / "JPEGImages" / f"{stem}.jpg"
    mask_path = folder / "SegmentationClass" / f"{stem}.png"
    drawing = draw_target_image(seed, index, classes)
    if not (keep and image_path.is_file()):
        write_bytes(image_path, encode_jpeg(drawing.image, _JPEG_QUALITY))
    if with_mask and not (keep and mask_path.is_file()):
        write_mask(target_mask(drawing.mask, classes), mask_path)
    return [name for name in classes if name in drawing.shown]


def target_mask(mask: np.ndarray, classes: Sequence[str], border: int = 2) -> np.ndarray:
    """A drawn mask in a target dataset's indices, with the void border that VOC puts around objects.

    Args:
        mask: In the indices of ``DRAWN_CLASSES``. Shape (H, W), uint8.
        classes: Names of the target's classes; the first gets index 1.
        border: Pixels on either side of an outline that become 255.

    Returns:
        Shape (H, W), uint8: 0, 1..C, 255.
    """
    import cv2

    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[0] = 0
    for index, name in enumerate(classes, start=1):
        table[DRAWN_CLASSES.index(name) + 1] = index
    target = table[mask]
    # Where the largest and smallest index nearby differ, two regions meet.
    kernel = np.ones((2 * border + 1, 2 * border + 1), np.uint8)
    target[cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)] = IGNORE_INDEX
    return target
