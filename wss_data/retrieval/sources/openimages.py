"""Open Images V7: photographs of Flickr under CC BY 2.0, with labels that people checked; needs no key."""

import csv
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from wss_data.errors import SourceError, SourceUnavailable
from wss_data.reading.settings import Rule, settings
from wss_data.records import Provenance
from wss_data.retrieval.clock import Clock
from wss_data.retrieval.large_file import large_file
from wss_data.retrieval.sources.api import LongestSide, check_endpoint
from wss_data.retrieval.sources.base import Hit, Pages, SourceState, distinct
from wss_data.retrieval.sources.licences import spdx_from_url
from wss_data.runtime.home import home_folder
from wss_data.spec import ClassSpec

LOGGER = logging.getLogger(__name__)

ENDPOINT = "https://storage.googleapis.com/openimages"  # address of the lists
STORAGE = "https://open-images-dataset.s3.amazonaws.com"  # address of the images

Split = Literal["validation", "test", "train"]

CLASSES = "v7/oidv7-class-descriptions.csv"
# Split -> its lists of labels and of images. Train's are of the 1.7 million images that the storage has: of the other
# 7 million there are labels, but no copies.
LISTS: dict[str, tuple[str, str]] = {
    "validation": (
        "v7/oidv7-val-annotations-human-imagelabels.csv",
        "2018_04/validation/validation-images-with-rotation.csv",
    ),
    "test": ("v7/oidv7-test-annotations-human-imagelabels.csv", "2018_04/test/test-images-with-rotation.csv"),
    "train": (
        "v7/oidv7-train-annotations-human-imagelabels.csv",
        "2018_04/train/train-images-boxable-with-rotation.csv",
    ),
}

STORED_SIDE = 1024  # pixels of the longest side of the storage's copies, at most
THUMBNAIL_SIDE = 640  # of Flickr's thumbnails, which have 300,000 pixels

_ID = re.compile(r"[0-9a-f]{16}")
_UPRIGHT = frozenset({"", "0", "0.0", "nan"})  # values of Rotation: not turned, or not known
_CHECKED = (b"1", b"1.0")  # values of Confidence: people said that the class is there
_NEAREST = 5

_WAY_OUT = "See docs/how_to/use_openimages.md."


@settings("source 'openimages'", SourceError)
class OpenImagesSource:
    """Images that people, asked for each of them, said to show the class.

    Its lists are downloaded once, and read line by line: those of ``validation`` and ``test`` have some 180 MB, those
    of ``train`` 3.4 GB. A split is read only if the ones before it gave too few images.
    """

    splits: Annotated[
        tuple[Split, ...], Rule(min_length=1), "Parts to search, in this order; the lists of train have 3.4 GB."
    ] = ("validation", "test")
    thumbnails: Annotated[
        bool,
        "Whether to take Flickr's thumbnails (640 pixels) instead of the storage's copies (1,024), "
        "where they are large enough: a third of the bytes, but not of photographs that are gone from Flickr.",
    ] = False
    longest_side: LongestSide = 340
    endpoint: Annotated[str, "Address of the lists, for tests: storage.googleapis.com or this machine."] = ENDPOINT
    storage: Annotated[str, "Address of the images: STORAGE/SPLIT/ID.jpg."] = STORAGE

    name = "openimages"
    local = False
    clock: ClassVar[Clock] = time

    def __post_init__(self) -> None:
        check_endpoint(self.name, self.endpoint, ENDPOINT)
        check_endpoint(self.name, self.storage, STORAGE)
        if self.endpoint != ENDPOINT and urlsplit(self.endpoint).hostname not in ("127.0.0.1", "::1", "localhost"):
            # A definition may come from anybody, and such a list fills a disk.
            raise SourceError(f"source 'openimages': endpoint is {self.endpoint}, expected {ENDPOINT} or this machine.")

    def state(self) -> SourceState:
        """Whether it can be asked."""
        lists = "3.4 GB" if "train" in self.splits else "180 MB"
        return SourceState("ready", f"No key needed. Its lists, some {lists}, are downloaded once. {_WAY_OUT}")

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield at most ``limit`` images, split after split, each in the order of its list of images.

        Raises:
            SourceUnavailable: If a list cannot be downloaded, or has another form than is known.
        """
        # Not ``pages``: the lists themselves are kept, for all classes and datasets.
        labels = self._labels(wanted)
        if labels:
            yield from distinct((hit for split in self.splits for hit in self._hits(split, labels, wanted.name)), limit)

    def _labels(self, wanted: ClassSpec) -> dict[bytes, str]:
        """Open Images' labels (``/m/01yrx``) that the queries of a class name -> the query."""
        known: dict[str, list[str]] = {}
        shown: dict[str, str] = {}
        for label, display in self._names():
            known.setdefault(_bare(display), []).append(label)
            known.setdefault(label, []).append(label)
            shown.setdefault(_bare(display), display)
        found: dict[bytes, str] = {}
        for query in wanted.queries:
            for label in known.get(_bare(query)) or known.get(query) or ():
                found.setdefault(label.encode(), query)
        if not found:
            nearest = [shown[name] for name in _nearest(_bare(wanted.queries[0]), list(shown))]
            LOGGER.warning(
                "openimages: has no class called %s; the nearest: %s. Name one as a query of the class '%s'.",
                *(" or ".join(f"'{query}'" for query in wanted.queries), ", ".join(nearest) or "none", wanted.name),
            )
        return found

    def _names(self) -> list[tuple[str, str]]:
        """Every label and the name of its class."""
        with self._list(CLASSES).open(encoding="utf-8-sig", errors="replace", newline="") as file:
            try:
                # Earlier versions of this list had no line of columns.
                found = [(row[0], row[1]) for row in csv.reader(file) if len(row) == 2 and row[0].startswith("/")]
            except csv.Error:
                found = []
        if not found:
            raise self._unlike(CLASSES)
        return found

    def _hits(self, split: str, labels: Mapping[bytes, str], class_name: str) -> Iterator[Hit]:
        """The images of a split that people found to show one of the labels."""
        of_labels, of_images = LISTS[split]
        queries: dict[str, str] = {}  # id of an image -> query; the only thing that grows, to 200 MB for a million
        with self._list(of_labels).open("rb") as lines:
            # 66 million lines of train: bytes, and no reader of CSV, for none of them has quotes.
            if next(lines, b"").strip() != b"ImageID,Source,LabelName,Confidence":
                raise self._unlike(of_labels)
            for line in lines:
                cells = line.split(b",")
                if len(cells) == 4 and cells[2] in labels and cells[3].strip() in _CHECKED:
                    queries.setdefault(cells[0].decode(errors="replace"), labels[cells[2]])
        columns = (
            *("ImageID", "OriginalLandingURL", "License", "AuthorProfileURL", "Author", "Title", "Thumbnail300KURL"),
            "Rotation",
        )
        for key, page, licence, author_url, author, title, thumbnail, rotation in self._rows(of_images, columns):
            if key not in queries or not _ID.fullmatch(key) or rotation.strip() not in _UPRIGHT:
                continue
            small = self.thumbnails and self.longest_side <= THUMBNAIL_SIDE and thumbnail.startswith("https://")
            provenance = Provenance(
                self.name,
                key,
                query=queries[key],
                image_url=thumbnail if small else f"{self.storage.rstrip('/')}/{split}/{key}.jpg",
                page_url=page or None,
                title=title or None,
                author=author or None,
                author_url=author_url or None,
                license=spdx_from_url(licence),
                license_url=licence or None,
            )
            yield Hit(class_name, provenance)

    def _rows(self, name: str, columns: Sequence[str]) -> Iterator[list[str]]:
        """These columns of a list, row by row."""
        with self._list(name).open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = csv.reader(file)
            try:
                header = next(rows, [])
                if not set(columns) <= set(header):
                    raise self._unlike(name)
                places = [header.index(column) for column in columns]
                for row in rows:
                    if len(row) == len(header):
                        yield [row[place] for place in places]
            except csv.Error:
                raise self._unlike(name) from None

    def _list(self, name: str) -> Path:
        """A list, downloaded if it is not there yet."""
        url = f"{self.endpoint.rstrip('/')}/{name}"
        return large_file(url, lists_folder() / Path(name).name, self.name, self.clock)

    def _unlike(self, name: str) -> SourceUnavailable:
        file = lists_folder() / Path(name).name
        return SourceUnavailable(f"openimages: {file} has another form than is known. Delete it to download it again.")


def lists_folder() -> Path:
    """Where the lists are kept, for all datasets."""
    return home_folder() / ".openimages"


def _bare(name: str) -> str:
    """A class's name without what people write differently: capitals, ``-``, ``_`` and blanks."""
    return " ".join(re.split(r"[\s_-]+", name.strip().casefold()))


def _nearest(name: str, known: Sequence[str]) -> list[str]:
    """Names like ``name``: by their letters, and then those with its last word, shortest first."""
    last = name.split(" ")[-1]
    by_word = sorted((other for other in known if last in other.split(" ")), key=len)
    return list(dict.fromkeys([*get_close_matches(name, known, n=3, cutoff=0.7), *by_word]))[:_NEAREST]
