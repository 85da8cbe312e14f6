"""What a web dataset knows of its images, in one go; the files that belong to an image; taking images out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path

from wss_data.records import Provenance
from wss_data.store.info import MASKS, PROVENANCE_TEXTS, group_names, mark_filter_stale, mask_fields, rows, web_info
from wss_data.store.types import Dataset


@dataclass(frozen=True)
class ImageRow:
    """What the database holds of one image; ``None`` is what is not known.

    ``path`` is the stored file, ``sha256`` the hex digest of the original bytes, ``phash`` the perceptual hash (16 hex
    digits). Sizes are (width, height) in pixels, of the stored file and of the original. ``mask_path`` is the
    co-segmentation (label mask), ``mask_method`` what made it; its confidence and foreground fraction are in [0, 1].
    """

    sample_id: str
    class_name: str
    path: str
    sha256: str
    phash: str | None
    size: tuple[int, int]
    original_size: tuple[int, int] | None
    tags: tuple[str, ...]
    verdict: str | None
    confidence: float | None
    mask_path: str | None
    mask_method: str | None
    provenance: Provenance
    foreground_ratio: float | None = None


def image_rows(dataset: Dataset, action: str = "described") -> list[ImageRow]:
    """All images of a web dataset, by group and then by digest: always in the same order.

    Raises:
        StoreError: If it is no web dataset; ``action`` says what cannot be done with one.
    """
    web_info(dataset, action)
    names = ("id", "label.label", "filepath", "sha256", "phash", "tags", "verdict", "confidence")
    masks = (f"{MASKS}.mask_path", f"{MASKS}.method", "foreground_ratio")
    sizes = ("metadata.width", "metadata.height", "provenance.original_width", "provenance.original_height")
    origin = [f"provenance.{name}" for name in ("retrieved_at", "opt_outs", *PROVENANCE_TEXTS)]
    found = []
    for row in rows(dataset, *names, *masks, *sizes, *origin):
        key, class_name, path, sha256, phash, tags, verdict, confidence, mask, method, ratio = row[:11]
        width, height, original_width, original_height, retrieved_at, opt_outs, *texts = row[11:]
        known = dict(zip(PROVENANCE_TEXTS, texts, strict=True))
        source, source_id = known.pop("source") or "unknown", known.pop("source_id") or str(sha256)
        if retrieved_at is not None and retrieved_at.tzinfo is None:
            # The database keeps UTC and gives it back without saying so.
            retrieved_at = retrieved_at.replace(tzinfo=UTC)
        provenance = Provenance(source, source_id, **known, retrieved_at=retrieved_at, opt_outs=tuple(opt_outs or ()))
        size = (width, height)
        original = (original_width, original_height) if original_width and original_height else None
        image = (key, class_name, path, sha256, phash, size, original, tuple(tags or ()))
        found.append(ImageRow(*image, verdict, confidence, mask, method, provenance, ratio))
    order = {name: position for position, name in enumerate(group_names(dataset))}
    return sorted(found, key=lambda row: (order[row.class_name], row.sha256, row.sample_id))


def derived_files(dataset: Dataset, sample_ids: Sequence[str]) -> list[Path]:
    """Files of masks of some images, in whatever fields: co-segmentation, predictions, masks of an import."""
    view = dataset.select(sample_ids)
    return sorted({Path(path) for name in mask_fields(dataset) for path in view.values(f"{name}.mask_path") if path})


def remove_samples(dataset: Dataset, sample_ids: Collection[str]) -> int:
    """Take images out of a web dataset; their files are left alone. Returns how many were there."""
    web_info(dataset, "made to forget an image")
    before = dataset.count()
    # First: a process that finds the images gone then also finds the overview images out of date.
    mark_filter_stale(dataset)
    dataset.delete_samples(list(sample_ids))
    return int(before - dataset.count())
