"""Several masks of one image: each in a field of its own, to be compared, adopted, and kept as history.

Each function raises ``StoreError`` for a target dataset.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wss_data.cosegmentation.quality import mask_quality
from wss_data.errors import ImageError, StoreError
from wss_data.imaging.images import read_image
from wss_data.imaging.masks import foreground_ratio, read_mask
from wss_data.ledger import Ledger
from wss_data.spec import DatasetSpec
from wss_data.store.appearance import declare_masks
from wss_data.store.connection import fiftyone
from wss_data.store.info import (
    BEFORE_IMPORT,
    IMPORTED,
    MASKS,
    definition,
    mask_fields,
    mask_ledger,
    rows,
    set_ledger,
    web_info,
)
from wss_data.store.types import Dataset, View
from wss_data.store.web import MaskValues, replace_masks, set_masks


class ClassAgreement(NamedTuple):
    """How far two mask fields agree on the images of one class that have both.

    ``mean_iou``: in [0, 1], ``None`` without an image; ``differing``: images whose IoU is below one half.
    """

    class_name: str
    images: int
    mean_iou: float | None
    differing: int


@dataclass(frozen=True)
class MaskComparison:
    """What ``compare_masks`` found; prints as a table. ``number``: the field that holds the IoU of each image."""

    first: str
    second: str
    number: str
    classes: tuple[ClassAgreement, ...]

    def __str__(self) -> str:
        lines = [f"{'class':<16} {'images':>7} {'mean IoU':>9} {'below 0.5':>10}"]
        for row in self.classes:
            mean = "-" if row.mean_iou is None else f"{row.mean_iou:.3f}"
            lines.append(f"{row.class_name:<16} {row.images:>7,} {mean:>9} {row.differing:>10,}")
        return "\n".join([*lines, f"{self.first} against {self.second}; per image in the field '{self.number}'."])


def foreground_iou(first: np.ndarray, second: np.ndarray, ignore_index: int) -> float:
    """Intersection over union of the foreground of two label masks, in [0, 1]; 1 where neither has any.

    Both of shape (H, W), uint8. Pixels with the value ``ignore_index`` in either mask count in neither.

    Raises:
        ValueError: If the shapes differ.

    >>> foreground_iou(np.array([[1, 1, 0, 0]]), np.array([[0, 1, 1, 0]]), ignore_index=255)
    0.3333333333333333
    >>> foreground_iou(np.array([[1, 1, 0, 0]]), np.array([[255, 1, 255, 0]]), ignore_index=255)
    1.0
    """
    if first.shape != second.shape:
        raise ValueError(f"masks must have one shape, found {first.shape} and {second.shape}")
    counted = (first != ignore_index) & (second != ignore_index)
    a, b = (first != 0) & counted, (second != 0) & counted
    union = int(np.count_nonzero(a | b))
    return float(np.count_nonzero(a & b)) / union if union else 1.0  # two empty masks agree


def other_mask_fields(dataset: Dataset) -> list[str]:
    """Names of the mask fields beside the one in use; ``StoreError`` if there is none."""
    web_info(dataset, "given other masks")
    if found := [field for field in mask_fields(dataset) if field != MASKS]:
        return found
    raise StoreError(
        f"dataset '{dataset.name}' has no mask field beside '{MASKS}'. Make one with "
        f"`wss-data cosegment {dataset.name} --field {MASKS}_2`, or import masks."
    )


def check_new_field(field: str) -> None:
    """Raise ``StoreError`` for a name that a second mask field cannot have."""
    if not re.fullmatch(rf"{MASKS}_[a-z0-9_]+", field) or field.startswith(BEFORE_IMPORT):
        raise StoreError(
            f"a second mask field cannot be called '{field}': it is '{MASKS}_' and small letters, digits or "
            f"underscores, but not '{BEFORE_IMPORT}', which holds earlier masks. For example: {MASKS}_2."
        )


def declare_mask_field(dataset: Dataset, field: str) -> None:
    """Make a second mask field, shown in the App, under a name that it can have; does nothing if it exists."""
    check_new_field(field)
    declare_masks(dataset, field)


def set_model_masks(dataset: Dataset, field: str, paths: Mapping[str, Path], ledger: Ledger) -> None:
    """Store masks that a model made of a web dataset's images, in place of those that the field held.

    The confidence of a mask is that of the mask in use times their overlap (IoU): of clues without a truth it ranks
    best. It is not known of an image whose mask in use has none.

    Args:
        dataset: A web dataset.
        field: Name of a second mask field; made if it is missing.
        paths: Image id -> label mask (palette PNG).
        ledger: What the masks were made from.

    Raises:
        MaskError: If a mask cannot be read; the field is as it was then.
    """
    declare_mask_field(dataset, field)
    ignore_index = definition(dataset).ignore_index
    columns = rows(dataset, "image_id", "id", "confidence", f"{MASKS}.mask_path")
    values = []
    for image_id, key, confidence, in_use in columns:
        if image_id in paths:
            mask = read_mask(paths[image_id])
            known = confidence is not None and in_use is not None
            sure = confidence * foreground_iou(read_mask(in_use), mask, ignore_index) if known else None
            uncertain = mask == ignore_index
            ratio = foreground_ratio((mask != 0) & ~uncertain, uncertain)
            values.append(MaskValues(key, os.path.abspath(paths[image_id]), sure, ratio, None, "model", None))
    dataset.clear_sample_field(field)
    set_ledger(dataset, field, ledger)
    set_masks(dataset, field, values)


def compare_masks(
    dataset: Dataset, second: str, first: str = MASKS, classes: Collection[str] | None = None
) -> MaskComparison:
    """Store how far two masks of each image agree, as a number to sort by; numbers of other classes stay.

    Raises:
        SpecError: If the dataset has no such class.
        StoreError: If a field is missing, or two masks differ in size.
        MaskError: If a mask cannot be read.
    """
    web_info(dataset, "compared in their masks")
    spec = checked(dataset, (first, second), classes)
    found: dict[str, float | None] = {}
    by_class: dict[str, list[float]] = {name: [] for name in spec.class_names if classes is None or name in classes}
    columns = rows(dataset, "id", "label.label", f"{first}.mask_path", f"{second}.mask_path")
    for key, class_name, one, other in columns:
        if class_name not in by_class:
            continue
        found[key] = None
        if one and other:
            try:
                found[key] = iou = foreground_iou(read_mask(one), read_mask(other), spec.ignore_index)
            except ValueError as error:
                raise StoreError(f"{one} and {other} cannot be compared: {error}. Make one of them again.") from error
            by_class[class_name].append(iou)
    number = f"iou_{first}_{second}"  # a field for each pair, so that comparisons can be seen side by side
    dataset.add_sample_field(number, fiftyone().FloatField)
    dataset.set_values(number, found, key_field="id")
    agreements = tuple(
        ClassAgreement(name, len(ious), float(np.mean(ious)) if ious else None, sum(iou < 0.5 for iou in ious))
        for name, ious in by_class.items()
    )
    return MaskComparison(first, second, number, agreements)


def disagreement_view(dataset: Dataset, comparison: MaskComparison) -> View:
    """The images that have both masks, those that agree least first."""
    return dataset.exists(comparison.number).sort_by(comparison.number)


def adopt_masks(
    dataset: Dataset, field: str, classes: Collection[str] | None = None, sample_ids: Sequence[str] | None = None
) -> int:
    """Make the masks of a field those that the filter and training use; the earlier ones stay as history.

    Adopted masks count as imported: a later build leaves them alone. ``classes`` and ``sample_ids`` choose the images.
    Returns the number of masks adopted.

    Raises:
        SpecError: If the dataset has no such class.
        StoreError: If the field is missing or holds no mask for these images.
        MaskError: If a mask cannot be read; nothing was adopted then.
    """
    web_info(dataset, "given other masks")
    spec = checked(dataset, (field,), classes)
    if field == MASKS:
        raise StoreError(f"'{MASKS}' holds the masks in use already; name the field that shall take their place.")
    # Images without such a mask keep the one in use.
    view = dataset.exists(f"{field}.mask_path")
    if sample_ids is not None:
        view = view.select(list(sample_ids))
    declare_masks(dataset, field)  # of an earlier version's field the confidence is missing
    columns = rows(view, "id", "label.label", "filepath", f"{field}.mask_path", f"{field}.confidence")
    values = [
        _adopted(key, path, mask_path, confidence, spec.ignore_index)
        for key, class_name, path, mask_path, confidence in columns
        if classes is None or class_name in classes
    ]
    if not values:
        raise StoreError(f"dataset '{dataset.name}': no image that was asked for has a mask in '{field}'.")
    replace_masks(dataset, values, mask_ledger(dataset.select([value.sample_id for value in values]), field))
    return len(values)


def _adopted(sample_id: str, path: str, mask_path: str, confidence: float | None, ignore_index: int) -> MaskValues:
    label = read_mask(mask_path)
    uncertain = label == ignore_index
    inside = (label != 0) & ~uncertain
    try:
        quality = mask_quality(read_image(path), inside, uncertain)
    except (ImageError, ValueError):
        quality = None  # the image was removed or replaced by hand; the mask itself is good
    return MaskValues(sample_id, mask_path, confidence, foreground_ratio(inside, uncertain), quality, IMPORTED, None)


def checked(dataset: Dataset, fields: Sequence[str], classes: Collection[str] | None) -> DatasetSpec:
    """The definition, once it is known that the dataset has these mask fields and classes.

    Raises:
        SpecError, StoreError: If it has not.
    """
    there = mask_fields(dataset)
    for field in fields:
        if field not in there:
            raise StoreError(
                f"dataset '{dataset.name}' has no masks in a field '{field}'. Fields with masks: {', '.join(there)}."
            )
    spec = definition(dataset)
    spec.check_classes(classes)
    return spec
