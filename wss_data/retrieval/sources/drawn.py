"""Images drawn by a program, with known masks, for trying the tool offline: no measure of it on photographs."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import cv2
import numpy as np

from wss_data.errors import SourceError
from wss_data.imaging.images import encode_jpeg
from wss_data.imaging.masks import IGNORE_INDEX, write_mask
from wss_data.reading.cells import csv_text
from wss_data.reading.settings import Rule, settings
from wss_data.records import Provenance
from wss_data.retrieval.sources.base import Hit, Pages, SourceState
from wss_data.retrieval.sources.drawing.scene import DRAWN_CLASSES, draw_target_image, draw_web_image, is_wrong_image
from wss_data.runtime.files import write_bytes, write_text
from wss_data.spec import BACKGROUND, ClassSpec

IMAGES_PER_CLASS = 1000  # when no limit is given: drawing could go on for ever

_JPEG_QUALITY = 92
_PLACES = 1_000_000  # number of the first image of the background
_RIGHTS: dict[str, Any] = {
    "author": "wss drawn source",
    "license": "CC0-1.0",
    "license_url": "https://creativecommons.org/publicdomain/zero/1.0/",
}

_VERSION = 2  # goes up when other images are drawn than before, so that an older drawn target is drawn anew


@settings("source 'drawn'", SourceError)
class DrawnSource:
    """Draws images of a class instead of searching for them."""

    seed: Annotated[int, Rule(ge=0), "Which set of images."] = 0
    wrong_share: Annotated[
        float, Rule(ge=0, le=1), "Fraction of images that do not show the class, as a web search has them."
    ] = 0.1

    name = "drawn"
    local = True

    def state(self) -> SourceState:
        """Ready: it needs neither network nor key."""
        return SourceState("ready", f"Draws {', '.join(DRAWN_CLASSES)}; no photographs, for trying and testing.")

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield up to ``limit`` images of a class, known by its name or a query; each is drawn when it is read.

        Images of the background show the places where the classes are, without an object.
        """
        if wanted.name == BACKGROUND:
            for index in range(IMAGES_PER_CLASS if limit is None else limit):
                drawn = DRAWN_CLASSES[index % len(DRAWN_CLASSES)]
                # Behind all images of the class itself: the same place with an object would look like a copy.
                yield _hit(wanted, f"{drawn}/{self.seed}/{_PLACES + index}-place", f"place {index}", "place")
            return
        query = next((text for text in (wanted.name, *wanted.queries) if text.strip().lower() in DRAWN_CLASSES), None)
        if query is None:
            raise SourceError(
                f"source 'drawn' cannot draw class '{wanted.name}' (queries: {', '.join(wanted.queries)}). "
                f"It draws {', '.join(DRAWN_CLASSES)}; name one of them as the class or as a query."
            )
        drawn = query.strip().lower()
        for index in range(IMAGES_PER_CLASS if limit is None else limit):
            # An identity must name one image for ever, whatever the fraction of wrong ones.
            wrong = "-wrong" if is_wrong_image(drawn, self.seed, index, self.wrong_share) else ""
            identity = f"{drawn}/{self.seed}/{index:05d}{wrong}"
            yield _hit(wanted, identity, f"{query} {index}", query)

    @staticmethod
    def known_mask(source_id: str) -> np.ndarray:
        """The true mask of the image with a ``source_id``, at the size it was drawn; shape (H, W), uint8.

        0 is background, i + 1 stands for ``DRAWN_CLASSES[i]``; it is all 0 for a wrong image without object.
        """
        return draw_web_image(*_parsed(source_id)).mask


def _hit(wanted: ClassSpec, identity: str, title: str, query: str) -> Hit:
    known = {"image_url": f"drawn:{identity}", "title": title, **_RIGHTS}
    return Hit(wanted.name, Provenance(DrawnSource.name, identity, query, **known), read=partial(_read, identity))


def _parsed(source_id: str) -> tuple[str, int, int, float, bool]:
    """What an identity stands for: the arguments of ``draw_web_image``; raises ``SourceError`` if for nothing."""
    match = re.fullmatch(rf"({'|'.join(DRAWN_CLASSES)})/([0-9]+)/([0-9]+)(-wrong|-place)?", source_id)
    if match is None:
        raise SourceError(f"'{source_id}' is no drawn image; wanted: <class>/<seed>/<index>, as in bird/0/00003.")
    name, seed, index, kind = match.groups()
    return name, int(seed), int(index), 1.0 if kind == "-wrong" else 0.0, kind != "-place"


def _read(source_id: str) -> bytes:
    return encode_jpeg(draw_web_image(*_parsed(source_id)).image, _JPEG_QUALITY)


def write_drawn_target(folder: Path, classes: Sequence[str], train: int, val: int, seed: int) -> None:
    """Write a drawn target dataset in the layout of PASCAL VOC, unless the folder holds it already.

    Only the ``val`` images have masks, in which the first of ``classes`` is 1. ``image_labels.csv`` has the classes of
    every image; the marker ``drawn.json``, written last, says what the folder holds.

    Raises:
        SourceError: If a class cannot be drawn.
    """
    if not classes or len(set(classes)) != len(classes) or not set(classes) <= set(DRAWN_CLASSES):
        known = ", ".join(DRAWN_CLASSES)
        raise SourceError(f"drawn target: classes are {list(classes)}; wanted: at least one, each once, of {known}.")
    wanted = {"version": _VERSION, "classes": list(classes), "seed": seed, "train": train, "val": val}
    if wrong := [f"{name} is {wanted[name]}" for name in ("train", "val", "seed") if cast(int, wanted[name]) < 0]:
        raise SourceError(f"drawn target: {', '.join(wrong)}; wanted: a whole number of at least 0.")
    marker = folder / "drawn.json"
    if marker.is_file() and marker.read_bytes() == json.dumps(wanted).encode():
        return
    # Gone while the folder is neither the old set nor the new one.
    marker.unlink(missing_ok=True)
    labels: list[tuple[str, str]] = []
    for split, count in (("train", train), ("val", val)):
        # Even and odd: neither split changes when the other grows.
        numbers = [2 * number + (split == "val") for number in range(count)]
        stems = [f"{seed:04d}_{number:06d}" for number in numbers]
        for number, stem in zip(numbers, stems, strict=True):
            drawing = draw_target_image(seed, number, classes)
            write_bytes(folder / "JPEGImages" / f"{stem}.jpg", encode_jpeg(drawing.image, _JPEG_QUALITY))
            if split == "val":
                write_mask(target_mask(drawing.mask, classes), folder / "SegmentationClass" / f"{stem}.png")
            labels.append((stem, " ".join(name for name in classes if name in drawing.shown)))
        write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
    write_text(folder / "image_labels.csv", csv_text(("image", "classes"), labels))
    write_text(marker, json.dumps(wanted))


def target_mask(mask: np.ndarray, classes: Sequence[str], border: int = 2) -> np.ndarray:
    """A drawn mask, (H, W) uint8, in the indices of ``classes`` (the first is 1); what shows another class is void.

    So are ``border`` pixels on either side of an outline, as VOC has them.
    """
    table = np.array([0, *(classes.index(name) + 1 if name in classes else IGNORE_INDEX for name in DRAWN_CLASSES)])
    # Where the largest and smallest index nearby differ, two regions meet.
    kernel = np.ones((2 * border + 1, 2 * border + 1), np.uint8)
    edge = cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)
    return np.where(edge, IGNORE_INDEX, table[mask]).astype(np.uint8)
