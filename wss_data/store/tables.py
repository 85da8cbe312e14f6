"""A dataset or view as plain values for training."""

import logging
import math
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wss_data.errors import StaleMasksError, StoreError, TrainingDataError
from wss_data.filtering.filters import DROPPED, KEPT, is_left_out
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ExampleTable, mask_basis
from wss_data.store.connection import fiftyone
from wss_data.store.info import (
    BASIS,
    GROUND_TRUTH,
    MASKS,
    class_names,
    info_of,
    kind_of,
    mask_ledger,
    name_of,
)
from wss_data.store.verdicts import CHOSEN

if TYPE_CHECKING:
    import fiftyone as fo

LOGGER = logging.getLogger(__name__)


def example_table(
    examples: "fo.Dataset | fo.DatasetView",
    mask_field: str | None,
    include_dropped: bool = False,
    used_for: UsedFor = UsedFor.TRAINING,
) -> ExampleTable:
    """Paths and labels of a dataset or view as plain values, in the order of their ids.

    Left out are images that were dropped (unless a person's verdict keeps them) and,
    with ``mask_field``, images without such a mask. Of a whole web dataset only the
    images tagged ``kept`` are taken, and of these, where a person chose some for training
    (``choose_for_training``), only those; a view is taken as the user made it.

    Args:
        examples: A dataset of ours, or any view of one.
        mask_field: Field that holds the masks, such as ``cosegmentation`` or ``pseudo_mask``; ``None`` for none.
        include_dropped: Whether dropped images are taken, too.
        used_for: What the labels are used for, and masks drawn by people: goes into the ledger.

    Raises:
        StoreError: If there is no such field, masks of it lie in the database, or the dataset is not ours.
        TrainingDataError: If no image remains.
        StaleMasksError: If a mask was made from another image or other labels than the dataset has now.
    """
    fo = fiftyone()
    info = info_of(examples)
    kind, name, classes = info["kind"], name_of(examples), class_names(examples)
    if mask_field is not None and not examples.has_sample_field(f"{mask_field}.mask_path"):
        there = ", ".join(examples.get_field_schema(embedded_doc_type=fo.Segmentation))
        raise StoreError(
            f"dataset '{name}' has no masks in a field '{mask_field}'. Fields with masks: {there or 'none'}."
        )
    view = examples
    if isinstance(examples, fo.Dataset) and kind == "web" and mask_field == MASKS and not include_dropped:
        view = examples.match_tags(KEPT)
    picked = isinstance(examples, fo.Dataset) and kind == "web" and not include_dropped and examples.match_tags(CHOSEN)
    if picked:
        kept = len(view)
        view = view.match_tags(CHOSEN)
        LOGGER.warning("%s: %d of %d images are taken, those that a person chose for training.", name, len(view), kept)
    shown = "label.label" if kind == "web" else "labels.classifications.label"
    ids, paths, tags, labels = view.values(["image_id", "filepath", "tags", shown])
    verdicts = view.values("verdict") if kind == "web" else [None] * len(ids)
    masks = view.values(f"{mask_field}.mask_path") if mask_field else [None] * len(ids)

    dropped = [is_left_out(*row) and not include_dropped for row in zip(tags, verdicts, strict=True)]
    chosen = [i for i in range(len(ids)) if not dropped[i] and (mask_field is None or masks[i])]
    if mask_field and len(chosen) < len(ids) - sum(dropped):
        _refuse_masks_in_database(name, view, mask_field, {ids[i] for i in range(len(ids)) if not dropped[i]})
    if not chosen:
        raise TrainingDataError(_why_empty(name, examples, mask_field, len(ids), sum(dropped)))
    chosen.sort(key=lambda i: ids[i] or "")
    index = {class_name: column for column, class_name in enumerate(classes)}
    table = np.zeros((len(chosen), len(classes)), bool)
    for row, i in enumerate(chosen):
        found = labels[i] if isinstance(labels[i], list) else [labels[i]]
        table[row, [index[label] for label in found if label in index]] = True
    given = "class names that were searched for" if kind == "web" else "image-level labels of the target images"
    digests = view.values("sha256")
    if mask_field is not None:
        fit = masks_fit(view, mask_field)
        if stale := [ids[i] for i in chosen if not fit[i]]:
            raise StaleMasksError(
                f"dataset '{name}': {len(stale):,} of {len(chosen):,} masks in '{mask_field}' were made from other "
                f"images or labels than the dataset has now, the first is that of {stale[0]}. Make them again with "
                "wss-train masks; the others are kept."
            )
    ledger = Ledger().add(f"{given} ({name})", Supervision.IMAGE_LEVEL, used_for)
    if from_sbd := info.get("labels_from", {}).get("sbd"):
        # Still image-level: a list of classes. But people had drawn masks before anybody could write it.
        lists = f"SBD's lists of the classes present in {from_sbd} images that VOC has no annotation of ({name})"
        ledger = ledger.add(lists, Supervision.IMAGE_LEVEL, used_for)
    judged = sum(verdict is not None for verdict in verdicts)
    if judged:
        ledger = ledger.add(f"a person's verdict, keep or drop, on {judged} images", Supervision.IMAGE_LEVEL, used_for)
    if picked:
        ledger = ledger.add(f"a person's choice of {len(chosen)} images", Supervision.IMAGE_LEVEL, used_for)
    if mask_field:
        made_from = mask_ledger(view, mask_field)
        if mask_field == GROUND_TRUTH:
            made_from = Ledger(tuple(replace(entry, used_for=used_for) for entry in made_from.entries))
        ledger = made_from.merged_with(ledger)
    return ExampleTable(
        ids=tuple(ids[i] or Path(paths[i]).stem for i in chosen),
        image_paths=tuple(paths[i] for i in chosen),
        mask_paths=tuple(masks[i] for i in chosen),
        labels=table,
        classes=classes,
        ignore_index=info["definition"]["ignore_index"],
        ledger=ledger,
        source=name,
        sha256=tuple(digests[i] or "" for i in chosen) if kind == "target" else None,
        **(_plausibility(view, chosen) if mask_field == MASKS else {}),
    )


def masks_fit(view: "fo.Dataset | fo.DatasetView", field: str) -> list[bool]:
    """Whether each sample's mask was made from the image and the labels that the sample has now.

    True where there is no mask, and where nobody noted what it was made from.
    """
    if not view.has_sample_field(f"{field}.{BASIS}"):
        return [True] * len(view)
    noted = view.values(f"{field}.{BASIS}")
    return [basis in (None, now) for basis, now in zip(noted, mask_bases(view), strict=True)]


def mask_bases(view: "fo.Dataset | fo.DatasetView") -> list[str]:
    """``mask_basis`` of the image and labels that each sample has now."""
    shown = "label.label" if kind_of(view) == "web" else "labels.classifications.label"
    return [
        mask_basis(sha256 or "", [labels] if isinstance(labels, str) else labels or ())
        for sha256, labels in zip(*view.values(["sha256", shown]), strict=True)
    ]


def _refuse_masks_in_database(
    name: str, view: "fo.Dataset | fo.DatasetView", field: str, considered: Collection[str]
) -> None:
    """Raise ``StoreError`` if masks of a field are arrays in the database: processes that train do not open it."""
    inside = [key for key in view.exists(f"{field}.mask").values("image_id") if key in considered]
    if not inside:
        return
    raise StoreError(
        f"dataset '{name}': {len(inside)} images have their '{field}' as arrays in the database, the first is "
        f"{inside[0]}. Masks must be files: for each sample of wss_data.open_dataset('{name}'), "
        f"sample['{field}'].export_mask(FOLDER + '/' + sample.id + '.png', update=True), then sample.save()."
    )


def _plausibility(view: "fo.Dataset | fo.DatasetView", chosen: list[int]) -> dict[str, np.ndarray]:
    """How sure the co-segmentation is of each chosen image, and how plausible its mask looks; nan where unknown."""
    if not view.has_sample_field("quality.compactness"):
        return {}
    fields = ["confidence", "quality.compactness", "quality.colour_contrast"]
    confidence, compactness, contrast = (
        np.array([math.nan if value is None else value for value in values], np.float32)[chosen]
        for values in view.values(fields)
    )
    return {"confidence": confidence, "quality": compactness * contrast}


def _why_empty(
    name: str, examples: "fo.Dataset | fo.DatasetView", mask_field: str | None, considered: int, dropped: int
) -> str:
    total = examples.count()
    reasons = Counter({tag: n for tag, n in examples.count_sample_tags().items() if tag.startswith(DROPPED)})
    told = ", ".join(f"{count} {tag}" for tag, count in reasons.most_common())
    without = (
        f", {considered - dropped} of the others have no '{mask_field}'" if mask_field and considered > dropped else ""
    )
    return (
        f"dataset '{name}': no image is left to learn from. Of {total} images, {total - considered + dropped} are not "
        f"kept{' (' + told + ')' if told else ''}{without}. Look at it with `wss-data view {name}`."
    )
