"""What is known of one image, and the plain table that training reads."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np

from wss_data.errors.text import clean_text
from wss_data.ledger import Ledger

MANIFEST_SOURCE = "manifest"  # Name of the source that reads published manifests


def stem_of(sha256: str) -> str:
    """Name of a stored image's files: the first 20 hex digits (80 bits) of its original's sha256."""
    return sha256[:20]


def mask_basis(sha256: str, labels: Iterable[str]) -> str:
    """What a mask depends on that was made from an image and its image-level labels: 16 hex digits.

    Args:
        sha256: Hex digest of the image's file.
        labels: Names of the classes that the image shows.
    """
    return hashlib.sha256(repr((sha256, sorted(set(labels)))).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Provenance:
    """Where an image came from. Texts lose what would steer a terminal (``wss_data.errors.text.clean_text``)."""

    source: str  # Name of the source, such as ``folder``
    source_id: str  # The image's identity at that source (a relative path, a photo id)
    query: str | None = None  # What was asked for to find it
    image_url: str | None = None  # Address of the image's bytes
    page_url: str | None = None  # Address of the page that shows it
    title: str | None = None  # Title given by its author
    author: str | None = None
    author_url: str | None = None  # Author's page
    license: str | None = None  # SPDX identifier, or ``None`` where it is not known
    license_url: str | None = None  # Address of the licence text
    retrieved_at: datetime | None = None  # When its bytes were read, with time zone
    opt_outs: tuple[str, ...] = ()  # Opt-out signals seen, such as ``X-Robots-Tag: noai``

    def __post_init__(self) -> None:
        # Here, because every source, manifest, journal and database passes here. What finds the image again stays as it
        # is, unless it holds half a character, which nobody could store.
        values = vars(self)  # looked up in one place: a crawl makes several of these for each image
        for name in ("source_id", "image_url"):
            if (text := values[name]) and not text.isascii():
                object.__setattr__(self, name, text.encode("utf-8", "backslashreplace").decode())
        for name in ("query", "page_url", "title", "author", "author_url", "license", "license_url"):
            if (text := values[name]) and not text.isprintable():
                object.__setattr__(self, name, clean_text(text))
        if not all(text.isprintable() for text in self.opt_outs):
            object.__setattr__(self, "opt_outs", tuple(map(clean_text, self.opt_outs)))


def source_id_of(provenance: Provenance) -> str:
    """An image's identity among those of all sources, the same after any number of rebuilds.

    >>> source_id_of(Provenance("flickr", "123"))
    'flickr:123'
    >>> source_id_of(Provenance("manifest", "flickr:123"))  # a manifest passes on where it was found first
    'flickr:123'
    """
    if provenance.source == MANIFEST_SOURCE:
        return provenance.source_id
    return f"{provenance.source}:{provenance.source_id}"


def first_source(provenance: Provenance) -> tuple[str, str]:
    """Source and identity by which an image was found first, whatever manifests it came through since.

    >>> first_source(Provenance("manifest", "folder:cats/a:1.jpg"))
    ('folder', 'cats/a:1.jpg')
    """
    source, _, source_id = source_id_of(provenance).partition(":")
    return source, source_id


@dataclass(frozen=True)
class ImageRecord:
    """One stored image."""

    sha256: str  # Hex digest of the *original* bytes; names the stored file
    class_name: str  # The class it was searched for
    path: Path  # The stored file
    size: tuple[int, int]  # Stored (width, height) in pixels
    original_size: tuple[int, int]  # (width, height) of the original in pixels, after EXIF rotation
    phash: str  # Perceptual hash, 16 hex digits
    provenance: Provenance  # Where it came from


@dataclass(frozen=True)
class ExampleTable:
    """Images, masks and labels as plain values: what training, masks and evaluation read.

    No database stands behind it, so it may cross into loader workers and
    training ranks.
    """

    ids: tuple[str, ...]  # One identity an image, unique
    image_paths: tuple[str, ...]
    mask_paths: tuple[str | None, ...]  # Label masks (palette PNG), or ``None`` where an image has none
    labels: np.ndarray  # Which classes each image shows. Shape (N, C), bool; column c is class index c + 1.
    classes: tuple[str, ...]  # Names of the classes 1..C, in order of their index
    ignore_index: int = 255  # Value of the mask pixels that count as void
    ledger: Ledger = field(default_factory=Ledger)  # What the masks and labels were made from
    source: str = ""  # Name of the dataset it was taken from, for reports
    # Confidence of the co-segmentation, in [0, 1]; nan where there is none. Shape (N,), float32.
    confidence: np.ndarray | None = None
    # How plausible the mask is by its looks, in [0, 1]: solidity times colour contrast
    # (``wss_data.cosegmentation.quality``); nan where it was not measured. Shape (N,), float32.
    quality: np.ndarray | None = None
    # Hex digest that each image's file had when it was imported; ``None`` where the files cannot change
    sha256: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name, numbers in (("confidence", self.confidence), ("quality", self.quality)):
            if numbers is not None and numbers.shape != (n,):
                raise ValueError(f"an ExampleTable of {n} images needs as many numbers of {name}: {numbers.shape}")
        if len(self.image_paths) != n or len(self.mask_paths) != n or self.labels.shape != (n, len(self.classes)):
            raise ValueError(
                f"an ExampleTable needs one entry per image: {n} ids, {len(self.image_paths)} images, "
                f"{len(self.mask_paths)} masks, labels of shape {self.labels.shape} for {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        """Number of classes with background, C + 1."""
        return len(self.classes) + 1

    def labels_of(self, row: int) -> list[str]:
        """Names of the classes that the image at ``row`` shows."""
        return [name for name, shown in zip(self.classes, self.labels[row], strict=True) if shown]

    def take(self, indices: Sequence[int]) -> "ExampleTable":
        """The rows at ``indices``, in that order."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in indices),
            image_paths=tuple(self.image_paths[i] for i in indices),
            mask_paths=tuple(self.mask_paths[i] for i in indices),
            labels=self.labels[list(indices)],
            confidence=None if self.confidence is None else self.confidence[list(indices)],
            quality=None if self.quality is None else self.quality[list(indices)],
            sha256=None if self.sha256 is None else tuple(self.sha256[i] for i in indices),
        )
