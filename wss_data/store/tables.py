"""A dataset or view as plain values for training."""

import logging
import math
from collections import Counter
from collections.abc import Collection as Values
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wss_data.errors import StaleMasksError, StoreError, TrainingDataError
from wss_data.filtering.filters import DROPPED, KEPT, is_left_out
from wss_data.imaging.masks import read_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ExampleTable, Provenance, first_source, mask_basis
from wss_data.retrieval.sources import LABELS_BY_PEOPLE
from wss_data.store.connection import fiftyone
from wss_data.store.info import (
    BASIS,
    BEFORE_IMPORT,
    GROUND_TRUTH,
    MASKS,
    class_names,
    info_of,
    is_ours,
    kind_of,
    mask_fields,
    mask_ledger,
    name_of,
    rows,
)
from wss_data.store.types import Collection
from wss_data.store.verdicts import CHOSEN

LOGGER = logging.getLogger(__name__)


def example_table(
    examples: Collection,
    mask_field: str | None,
    include_dropped: bool = False,
    used_for: UsedFor = UsedFor.TRAINING,
) -> ExampleTable:
    """Paths and labels of a dataset or view as plain values, in the order of their ids.

    Left out are images that were dropped (unless a person's verdict keeps them) and, with ``mask_field``, images
    without such a mask. Of a whole web dataset only images tagged ``kept`` are taken, and of these, where a person
    chose some for training, only those; a view is taken as the user made it.

    Args:
        examples: A dataset of ours, or any view of one.
        mask_field: Field that holds the masks, such as ``cosegmentation`` or ``pseudo_mask``; ``None`` for none.
            ``cosegmentation_before_import`` stands for all masks as they were before that import, so that the images
            are the same as those of ``cosegmentation``.
        include_dropped: Whether dropped images are taken, too.
        used_for: What the labels are used for, and masks drawn by people: goes into the ledger.

    Raises:
        StoreError: If there is no such field, masks of it lie in the database, or the dataset is not ours.
        TrainingDataError: If no image remains.
        StaleMasksError: If a mask was made from another image or other labels than the dataset has now.
    """
    info, classes, name = info_of(examples), class_names(examples), name_of(examples)
    if mask_field is not None and not examples.has_sample_field(f"{mask_field}.mask_path"):
        there = ", ".join(mask_fields(examples)) or "none"
        raise StoreError(f"dataset '{name}' has no masks in a field '{mask_field}'. Fields with masks: {there}.")
    view = examples
    is_whole_web = isinstance(examples, fiftyone().Dataset) and info["kind"] == "web" and not include_dropped
    fields = _fields_of(examples, mask_field) if mask_field else ()
    if is_whole_web and MASKS in fields:
        view = examples.match_tags(KEPT)
    picked = is_whole_web and bool(examples.match_tags(CHOSEN))
    if picked:
        kept, view = len(view), view.match_tags(CHOSEN)
        LOGGER.warning("%s: %d of %d images are taken, those that a person chose for training.", name, len(view), kept)
    ids, paths, tags, labels, digests = view.values(["image_id", "filepath", "tags", _label_path(view), "sha256"])
    verdicts = view.values("verdict") if info["kind"] == "web" else [None] * len(ids)
    columns = zip(*(view.values(f"{field}.mask_path") for field in fields), strict=True)
    masks = [next(filter(None, paths), None) for paths in columns] if fields else [None] * len(ids)

    # From here on positions in these columns.
    allowed = [i for i in range(len(ids)) if include_dropped or not is_left_out(tags[i], verdicts[i])]
    # By id: training with one seed is the same in whatever order the images were stored.
    chosen = sorted((i for i in allowed if mask_field is None or masks[i]), key=lambda i: ids[i] or "")
    if mask_field and len(chosen) < len(allowed):
        _refuse_masks_in_database(name, view, mask_field, {ids[i] for i in allowed})
    if not chosen:
        raise TrainingDataError(_why_empty(name, examples, mask_field, len(allowed)))
    if mask_field is not None:
        fit = masks_fit(view, mask_field)
        if stale := [ids[i] for i in chosen if not fit[i]]:
            raise StaleMasksError(
                f"dataset '{name}': {len(stale):,} of {len(chosen):,} masks in '{mask_field}' were made from other "
                f"images or labels than the dataset has now, the first is that of {stale[0]}. Make them again with "
                "wss-train masks; the others are kept."
            )
    shown = np.zeros((len(chosen), len(classes)), bool)
    for row, i in enumerate(chosen):
        # Labels that the definition does not name are no class of this dataset.
        found = labels[i] if isinstance(labels[i], list) else [labels[i]]
        shown[row, [classes.index(label) for label in found if label in classes]] = True
    judged = sum(verdict is not None for verdict in verdicts)
    found_by = Counter(_sources_of(view, chosen)) if info["kind"] == "web" else Counter[str]()
    ledger = _label_ledger(name, info, judged, len(chosen) if picked else 0, found_by, used_for)
    if mask_field:
        made_from = Ledger()
        for position, field in enumerate(fields):
            # As far as its masks are taken: those of an earlier field go before.
            rest = view.match({f"{earlier}.mask_path": None for earlier in fields[:position]})
            made_from = made_from.merged_with(mask_ledger(rest, field) if len(rest) else Ledger())
        if mask_field == GROUND_TRUTH:
            made_from = Ledger(tuple(replace(entry, used_for=used_for) for entry in made_from.entries))
        ledger = made_from.merged_with(ledger)
    return ExampleTable(
        ids=tuple(ids[i] or Path(paths[i]).stem for i in chosen),
        image_paths=tuple(paths[i] for i in chosen),
        mask_paths=tuple(masks[i] for i in chosen),
        labels=shown,
        classes=classes,
        ignore_index=info["definition"]["ignore_index"],
        ledger=ledger,
        source=name,
        sha256=tuple(digests[i] or "" for i in chosen) if info["kind"] == "target" else None,
        **(_plausibility(view, chosen) if mask_field == MASKS else {}),
    )


def image_table(view: Collection, classes: Values[str]) -> ExampleTable:
    """The images of a FiftyOne dataset or view, ours or not, for a model to look at: no masks, no labels.

    Args:
        view: All its images are taken, dropped ones, too.
        classes: What the model knows, in order of their index from 1.

    Returns:
        The table; its ids are those of the images, or, in a dataset that is not ours, of the samples.

    Raises:
        StoreError: If there is no image, or the dataset is ours and has other classes.
    """
    name, ours = name_of(view), is_ours(view)
    if ours and class_names(view) != tuple(classes):
        raise StoreError(
            f"dataset '{name}' has the classes {', '.join(class_names(view))}, the model knows {', '.join(classes)}. "
            "Names and order must agree."
        )
    ids, paths = view.values(["image_id" if ours else "id", "filepath"])
    if not ids or view.media_type != "image":
        found = f"is of the type {view.media_type}" if ids else "holds nothing"
        raise StoreError(f"dataset '{name}': what was given {found}; images are wanted.")
    return ExampleTable(
        ids=tuple(image_id or Path(path).stem for image_id, path in zip(ids, paths, strict=True)),
        image_paths=tuple(paths),
        mask_paths=(None,) * len(ids),
        labels=np.zeros((len(ids), len(classes)), bool),
        classes=tuple(classes),
        source=name,
    )


def mask_array(sample: Any, field: str) -> np.ndarray:
    """The class index of each pixel of a sample's mask: 0 background, 1..C classes, 255 void.

    FiftyOne's own ``get_mask`` opens a palette PNG as colours: class 1 is (128, 0, 0) there.

    Args:
        sample: A sample of FiftyOne, of any dataset.
        field: Field of masks, such as ``cosegmentation``, ``ground_truth`` or ``prediction``.

    Returns:
        Shape (H, W), uint8. Masks of other tools' files are read as ``wss_data.imaging.masks.read_mask`` has it.

    Raises:
        StoreError: If there is no such field, it holds no masks, or this sample has none.
        MaskError: If the mask's file cannot be read.
    """
    label = sample[field] if sample.has_field(field) else None
    if not isinstance(label, fiftyone().Segmentation):
        there = [name for name, value in sample.iter_fields() if isinstance(value, fiftyone().Segmentation)]
        found = "no mask" if label is None else f"{type(label).__name__}, no mask of classes,"
        raise StoreError(
            f"sample {sample.id} has {found} in a field '{field}'. Fields in which it has one: "
            f"{', '.join(there) or 'none'}."
        )
    if label.mask_path:
        return read_mask(label.mask_path)
    values = label.mask
    if values is None or values.ndim != 2 or not np.isin(values, np.arange(256)).all():
        found = "nothing" if values is None else f"an array of shape {values.shape}"
        raise StoreError(f"sample {sample.id}: '{field}' holds {found}; indices from 0 to 255, (H, W), are wanted.")
    return values.astype(np.uint8)


def _sources_of(view: Collection, chosen: list[int]) -> Iterator[str]:
    """By which source each chosen image was found first."""
    origins = view.values(["provenance.source", "provenance.source_id"])
    for i in chosen:
        yield first_source(Provenance(origins[0][i], origins[1][i]))[0]


def _fields_of(examples: Collection, mask_field: str) -> tuple[str, ...]:
    """Where an image's mask is looked for: the first that has one.

    A field of earlier masks holds only those that one import replaced; what a later import replaced, and what is in use
    still, was in use before that import, too.
    """
    if not mask_field.startswith(BEFORE_IMPORT):
        return (mask_field,)
    # They are numbered in the order of the imports, the first without a number.
    names = sorted((len(name), name) for name in mask_fields(examples) if name.startswith(BEFORE_IMPORT))
    return (*(name for order, name in names if (order, name) >= (len(mask_field), mask_field)), MASKS)


def _label_ledger(
    name: str, info: dict[str, Any], judged: int, picked: int, found_by: Counter[str], used_for: UsedFor
) -> Ledger:
    """Where the labels came from; ``judged`` and ``picked`` count images of which a person said something.

    ``found_by``: source -> number of its images.
    """
    web = info["kind"] == "web"
    sources = [f"{'class names that were searched for' if web else 'image-level labels of the target images'} ({name})"]
    if from_sbd := info.get("labels_from", {}).get("sbd"):
        # Still image-level: a list of classes. But people had drawn masks before anybody could write it.
        sources.append(
            f"SBD's lists of the classes present in {from_sbd} images that VOC has no annotation of ({name})"
        )
    checked = ((LABELS_BY_PEOPLE[source], count) for source, count in found_by.items() if source in LABELS_BY_PEOPLE)
    sources += [f"{words.format(count=count)} ({name})" for words, count in checked]
    if judged:
        sources.append(f"a person's verdict, keep or drop, on {judged} images")
    if picked:
        sources.append(f"a person's choice of {picked} images")
    ledger = Ledger()
    for source in sources:
        ledger = ledger.add(source, Supervision.IMAGE_LEVEL, used_for)
    return ledger


def masks_fit(view: Collection, field: str) -> list[bool]:
    """Whether each sample's mask, if it has one, was made from the image and the labels that the sample has now."""
    # An earlier version did not note what masks were made from: theirs count as right.
    if not view.has_sample_field(f"{field}.{BASIS}"):
        return [True] * len(view)
    noted = view.values(f"{field}.{BASIS}")
    return [basis in (None, now) for basis, now in zip(noted, mask_bases(view), strict=True)]


def mask_bases(view: Collection) -> list[str]:
    """``mask_basis`` of the image and labels that each sample has now."""
    return [
        mask_basis(sha256 or "", [labels] if isinstance(labels, str) else labels or ())
        for sha256, labels in rows(view, "sha256", _label_path(view))
    ]


def _label_path(view: Collection) -> str:
    return "label.label" if kind_of(view) == "web" else "labels.classifications.label"


def _refuse_masks_in_database(name: str, view: Collection, field: str, considered: Values[str]) -> None:
    """Raise ``StoreError`` if masks of a field are arrays in the database: processes that train do not open it."""
    if inside := [key for key in view.exists(f"{field}.mask").values("image_id") if key in considered]:
        raise StoreError(
            f"dataset '{name}': {len(inside)} images have their '{field}' as arrays in the database, the first is "
            f"{inside[0]}. Masks must be files: for each sample of wss_data.open_dataset('{name}'), "
            f"sample['{field}'].export_mask(FOLDER + '/' + sample.id + '.png', update=True), then sample.save()."
        )


def _plausibility(view: Collection, chosen: list[int]) -> dict[str, np.ndarray]:
    """The co-segmentation's confidence on each chosen image, and how plausible its mask looks; nan if unknown."""
    if not view.has_sample_field("quality.compactness"):
        return {}
    fields = ["confidence", "quality.compactness", "quality.colour_contrast"]
    confidence, compactness, contrast = (
        np.array([math.nan if value is None else value for value in values], np.float32)[chosen]
        for values in view.values(fields)
    )
    return {"confidence": confidence, "quality": compactness * contrast}


def _why_empty(name: str, examples: Collection, mask_field: str | None, allowed: int) -> str:
    total = examples.count()
    reasons = Counter({tag: n for tag, n in examples.count_sample_tags().items() if tag.startswith(DROPPED)})
    listed = ", ".join(f"{count} {tag}" for tag, count in reasons.most_common())
    without = f", {allowed} of the others have no '{mask_field}'" if mask_field and allowed else ""
    return (
        f"dataset '{name}': no image is left to learn from. Of {total} images, {total - allowed} are not "
        f"kept{' (' + listed + ')' if listed else ''}{without}. Look at it with `wss-data view {name}`."
    )
