"""Step 1: search, read, verify, drop repeats, shrink, store. Resumable at any moment."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wss_data.errors import ImageError
from wss_data.images import decode_image, resize_longest_side, write_jpeg
from wss_data.journal import Entry, Journal
from wss_data.parallel import map_images
from wss_data.records import ImageRecord
from wss_data.sources.base import Hit, Source
from wss_data.spec import ClassSpec, DatasetSpec

BATCH = 64
"""Records are handed to the database in batches of this many."""

STEM_DIGITS = 20
"""Stored files are named by this many hex digits of their original's sha256 (80 bits)."""


@dataclass(frozen=True)
class _Outcome:
    """What became of one hit: a record, or why there is none."""

    entry: Entry
    record: ImageRecord | None


def retrieve(
    spec: DatasetSpec,
    sources: list[tuple[Source, int | None]],
    folder: Path,
    journal: Journal,
    store: Callable[[list[ImageRecord]], object],
    workers: int | None = None,
    progress: bool = True,
) -> int:
    """Bring every search result of every class to its end: a stored image or a counted drop.

    An image is written under its final name, then stored, then noted in the
    journal. Killed between any two of these, the next run does that image again
    and arrives at the same file and the same record.

    Args:
        spec: The definition.
        sources: Each source with the most images to take from it for a class.
        folder: Where images go: ``<folder>/<class>/<first digits of sha256>.jpg``.
        journal: What was dealt with already.
        store: Takes records into the database; must not add a (class, sha256) twice.
        workers: Worker processes; ``None`` for one a processor.
        progress: Whether to show a progress bar.

    Returns:
        Number of search results dealt with in this run.

    Raises:
        SourceError: If a source cannot deliver.
    """
    done = 0
    for wanted in spec.classes:
        stored = journal.stored(wanted.name)
        hits = [hit for source, limit in sources for hit in _new_hits(source, wanted, limit, journal)]
        if not hits:
            continue
        fetch = partial(_fetch, folder=folder / wanted.name, longest_side=spec.longest_side)
        outcomes: Iterator[_Outcome] = map_images(fetch, hits, workers=workers)
        bar = tqdm(outcomes, total=len(hits), desc=f"retrieve {wanted.name}", unit="image", disable=not progress)
        batch: list[_Outcome] = []
        for outcome in bar:
            batch.append(_without_repeat(outcome, stored))
            if len(batch) == BATCH:
                _keep(batch, journal, store)
                batch = []
        _keep(batch, journal, store)
        done += len(hits)
    return done


def _new_hits(source: Source, wanted: ClassSpec, limit: int | None, journal: Journal) -> Iterator[Hit]:
    seen = journal.seen(wanted.name, source.name)
    return (hit for hit in source.search(wanted, limit) if hit.provenance.source_id not in seen)


def _fetch(hit: Hit, folder: Path, longest_side: int) -> _Outcome:
    """Read, verify, hash, shrink and write one image."""
    provenance = replace(hit.provenance, retrieved_at=datetime.now(UTC).replace(microsecond=0))
    entry = Entry(hit.class_name, provenance.source, provenance.source_id, "stored", url=provenance.image_url)
    try:
        data = hit.read()
        sha256 = hashlib.sha256(data).hexdigest()
        entry = replace(entry, sha256=sha256)
        original = decode_image(data, provenance.source_id)
    except ImageError as error:
        return _Outcome(replace(entry, status="dropped", reason=error.reason, detail=str(error)), None)
    image = resize_longest_side(original, longest_side)
    path = folder / f"{sha256[:STEM_DIGITS]}.jpg"
    write_jpeg(image, path)
    return _Outcome(
        entry,
        ImageRecord(
            sha256=sha256,
            class_name=hit.class_name,
            path=path,
            size=(image.shape[1], image.shape[0]),
            original_size=(original.shape[1], original.shape[0]),
            phash=perceptual_hash(image),
            provenance=provenance,
        ),
    )


def perceptual_hash(image: np.ndarray) -> str:
    """Perceptual hash of an image, as 16 hex digits. ``image``: (H, W, 3), uint8, RGB.

    Near-duplicates differ in few of the 64 bits.

    Source:
        ``imagehash.phash``: signs of the lowest 8x8 DCT coefficients of the 32x32 grey image.
    """
    # SciPy stands behind imagehash: loaded where images are hashed, not when the package is imported.
    from imagehash import phash
    from PIL import Image

    return str(phash(Image.fromarray(image)))


def _without_repeat(outcome: _Outcome, stored: set[str]) -> _Outcome:
    """The outcome, turned into a drop if its class holds the same bytes already."""
    if outcome.record is None:
        return outcome
    if outcome.record.sha256 in stored:
        entry = replace(
            outcome.entry, status="dropped", reason="duplicate", detail="The class holds the same bytes already."
        )
        return _Outcome(entry, None)
    stored.add(outcome.record.sha256)
    return outcome


def _keep(batch: list[_Outcome], journal: Journal, store: Callable[[list[ImageRecord]], object]) -> None:
    records = [outcome.record for outcome in batch if outcome.record is not None]
    if records:
        store(records)
    journal.record(outcome.entry for outcome in batch)
