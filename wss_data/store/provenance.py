"""What a web dataset knows of its images, in one go; the files that belong to an image; taking images out."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wss_data.records import Provenance
from wss_data.store.connection import fiftyone
from wss_data.store.info import MASKS, PROVENANCE_TEXTS, class_names, mark_filter_stale, web_info

if TYPE_CHECKING:
    import fiftyone as fo


@dataclass(frozen=True)
class ImageRow:
    """What the database holds of one image.

    Args:
        sample_id: Its identity in the dataset.
        class_name: Its class.
        path: The stored file.
        sha256: Hex digest of the original bytes.
        phash: Perceptual hash, 16 hex digits, or ``None``.
        size: Stored (width, height) in pixels.
        original_size: Original (width, height) in pixels, or ``None`` where it is not known.
        tags: ``kept``, ``dropped:<reason>`` and others.
        verdict: A person's ``keep`` or ``drop``, or ``None``.
        confidence: Of its mask, in [0, 1], or ``None``.
        mask_path: Its co-segmentation (label mask), or ``None``.
        mask_method: What made that mask, or ``None``.
        provenance: Where it came from.
        foreground_ratio: Share of the mask's pixels that are foreground, in [0, 1], or ``None`` without a mask.
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


def image_rows(dataset: "fo.Dataset", action: str = "described") -> list[ImageRow]:
    """All images of a web dataset, by class index and then by digest: always in the same order.

    Args:
        dataset: A web dataset.
        action: What cannot be done with a target dataset, for the error.

    Raises:
        StoreError: If it is no web dataset.
    """
    web_info(dataset, action)
    plain = ["id", "label.label", "filepath", "sha256", "phash", "metadata.width", "metadata.height"]
    more = ["tags", "verdict", "confidence", f"{MASKS}.mask_path", f"{MASKS}.method"]
    original = ["provenance.original_width", "provenance.original_height"]
    texts = [f"provenance.{name}" for name in PROVENANCE_TEXTS]
    last = ["provenance.retrieved_at", "provenance.opt_outs", "foreground_ratio"]
    columns = dataset.values([*plain, *more, *original, *texts, *last])
    order = {name: position for position, name in enumerate(class_names(dataset))}
    rows = [_image_row(row) for row in zip(*columns, strict=True)]
    return sorted(rows, key=lambda row: (order[row.class_name], row.sha256, row.sample_id))


def _image_row(row: tuple[Any, ...]) -> ImageRow:
    key, class_name, path, sha256, phash, width, height, tags, verdict, confidence, mask, method = row[:12]
    original_width, original_height, *texts, retrieved_at, opt_outs, ratio = row[12:]
    known = dict(zip(PROVENANCE_TEXTS, texts, strict=True))
    source, source_id = known.pop("source") or "unknown", known.pop("source_id") or str(sha256)
    if retrieved_at is not None and retrieved_at.tzinfo is None:
        retrieved_at = retrieved_at.replace(tzinfo=UTC)  # the database keeps UTC and gives it back without saying so
    return ImageRow(
        sample_id=key,
        class_name=class_name,
        path=path,
        sha256=sha256,
        phash=phash,
        size=(width, height),
        original_size=(original_width, original_height) if original_width and original_height else None,
        tags=tuple(tags or ()),
        verdict=verdict,
        confidence=confidence,
        mask_path=mask,
        mask_method=method,
        provenance=Provenance(source, source_id, **known, retrieved_at=retrieved_at, opt_outs=tuple(opt_outs or ())),
        foreground_ratio=ratio,
    )


def derived_files(dataset: "fo.Dataset", sample_ids: Sequence[str]) -> list[Path]:
    """Files of masks of some images, in whatever fields: co-segmentation, predictions, masks of an import."""
    fo = fiftyone()
    view = dataset.select(sample_ids)
    names = dataset.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Segmentation)
    paths = [view.values(f"{name}.mask_path") for name in names]
    return sorted({Path(path) for column in paths for path in column if path})


def remove_samples(dataset: "fo.Dataset", sample_ids: Collection[str]) -> int:
    """Take images out of a web dataset; their files are left alone. Returns how many were there.

    Raises:
        StoreError: If it is no web dataset.
    """
    web_info(dataset, "made to forget an image")
    before = dataset.count()
    # First: whoever finds the images gone finds the pictures out of date, too.
    mark_filter_stale(dataset)
    dataset.delete_samples(list(sample_ids))
    return int(before - dataset.count())
