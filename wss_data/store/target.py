"""The target dataset: image-level labels to learn from, masks for the final score only."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wss_data.errors import SourceError, SpecError, StoreError
from wss_data.filtering.filters import DROPPED, aligned, is_left_out
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.reading.listing import require_text
from wss_data.records import ExampleTable
from wss_data.runtime.files import expanded, write_text
from wss_data.runtime.home import dataset_folder, dataset_owner
from wss_data.spec import DatasetSpec, read_spec
from wss_data.store.appearance import colour_targets, declare_masks
from wss_data.store.catalogue import dataset_exists
from wss_data.store.connection import fiftyone
from wss_data.store.datasets import check_place, create_or_open, open_dataset, target_name
from wss_data.store.info import (
    BASIS,
    BEFORE_IMPORT,
    GROUND_TRUTH,
    MASKS,
    class_names,
    info_of,
    is_ours,
    mask_fields,
    mask_ledger,
    name_of,
    rows,
    set_ledger,
    update,
)
from wss_data.store.screening import evaluation_splits, leaks
from wss_data.store.tables import mask_bases, masks_fit
from wss_data.store.types import Collection, Dataset
from wss_data.store.web import apply_filter
from wss_data.target import translation, voc
from wss_data.target.report import TargetReport, no_class_shown, target_report

LOGGER = logging.getLogger(__name__)

TRAIN_LIST = "train_aug.txt"  # in the dataset's folder: the training images of VOC's and SBD's lists


def import_target(
    spec: DatasetSpec | str | Path,
    folder: Path | str | None = None,
    labels_csv: Path | str | None = None,
    workers: int | None = None,
    *,
    sbd: Path | str | None = None,
    strict: bool = False,
) -> Dataset:
    """Read the target dataset of a definition: image-level labels for train and val, masks for val only.

    Images stay where they are; those that cannot be used are stored with their reason as a tag (``dropped:no_labels``).
    Copies of validation images in the definition's web dataset are tagged ``dropped:leak``. Imported again, only what
    changed on disk is read again; masks that a model made stay.

    Args:
        spec: A definition with a target, its name or its file.
        folder: The layout of VOC, or VOCdevkit above it; not needed for a drawn target.
        labels_csv: Image-level labels, columns ``image,classes``; by default what the folder has.
        workers: Worker processes; ``None`` for one a processor where that pays.
        sbd: SBD, whose images are added to VOC's for training: its ``benchmark_RELEASE``, a folder
            ``SegmentationClassAug``, or a list of images.
        strict: Whether what the counts show to be wrong is an error instead of a note.

    Raises:
        SpecError: If the definition has no target, or its target needs a folder.
        SourceError: If a list or the labels are missing, the splits overlap, no image of a split can be used, no mask
            shows a class though the labels name some, or, with ``strict``, the counts are not as expected.
        StoreError: If a dataset of that name has other classes, or another process works on it or on the web dataset.
    """
    spec = spec if isinstance(spec, DatasetSpec) else read_spec(spec)
    name = target_name(spec)
    if spec.target is None:
        raise SpecError(f"definition '{spec.name}' has no target. Add one, such as: target: {{layout: voc}}")
    if spec.target.layout == "drawn" and folder is None:
        folder = dataset_folder(name) / "source"
        voc.write_drawn(spec, folder)
    if folder is None:
        raise SpecError(
            f"definition '{spec.name}' has a target in the layout of VOC: give the folder that holds JPEGImages."
        )
    folder = require_text(expanded(folder).absolute(), "the target dataset")
    check_place(spec, "target")
    layout = voc.read_voc_layout(folder, spec, *(expanded(path) if path else None for path in (labels_csv, sbd)))
    fingerprint = translation.source_fingerprint(layout, spec)
    if dataset_exists(name):
        info = info_of(open_dataset(name))
        if info.get("source_fingerprint") == fingerprint:
            if strict:
                TargetReport.from_dict(info.get("import_report", {})).check(name)
            return create_or_open(spec, "target")

    with ExitStack() as owned:
        # Leaks are dropped from the web dataset, too, where there is one.
        for dataset_name in (name, spec.name):
            if dataset_name == name or dataset_folder(dataset_name).exists():
                owned.enter_context(dataset_owner(dataset_name))
        checked = translation.check_targets(layout.records, spec, dataset_folder(name) / GROUND_TRUTH, workers)
        images = translation.without_copies(checked)
        for split in ("train", "val"):
            members = [image for image in images if image.record.split == split]
            if all(image.dropped for image in members):
                found = f"none of the {len(members)} {split} images can be used"
                raise SourceError(f"{folder}: {found}. {members[0].detail}")
        if problem := no_class_shown(images):
            raise SourceError(f"{folder}: {problem}")
        report = target_report(layout, images, spec)
        if strict:
            report.check(name)
        dataset = create_or_open(spec, "target")
        _store_target(dataset, images)
        truth = Ledger().add(f"ground-truth masks of {name}, val", Supervision.MASKS, UsedFor.FINAL_SCORE)
        set_ledger(dataset, GROUND_TRUTH, truth)
        _drop_leaks(spec, name)
        if layout.made is not None:
            write_text(dataset_folder(name) / TRAIN_LIST, "".join(f"{image_id}\n" for image_id in layout.made.ids))
        update(
            dataset,
            source_fingerprint=fingerprint,
            source_folder=str(layout.folder),
            image_folders=sorted({str(image.record.image_path.parent) for image in images}),
            import_report=report.to_dict(),
            labels_from=dict(Counter(record.labels_from for record in layout.records if record.labels_from)),
        )
    return dataset


def import_report(dataset: Dataset) -> str:
    """What a target dataset was made from, counted, and what is wrong with it; empty for one of an older version."""
    return str(TargetReport.from_dict(info_of(dataset).get("import_report", {})))


def _drop_leaks(spec: DatasetSpec, target: str) -> None:
    """Tag copies of the validation and test images in the definition's web dataset, where that was built before."""
    try:
        web = open_dataset(spec.name)
    except StoreError:
        return  # not built yet: a build screens against the target by itself
    for split in evaluation_splits(target) if len(web) else ():
        report = leaks(web, split, spec.duplicates.max_distance)
        if report.leaks:
            apply_filter(web)
            LOGGER.warning(
                "%d images of '%s' are in %s, too: dropped. To list them: wss-data leaks %s --against %s",
                *(len(report.leaks), spec.name, split, spec.name, split),
            )


def _store_target(dataset: Dataset, images: Sequence[translation.TargetImage]) -> None:
    """Make the samples of a target dataset what ``images`` say; masks that a model made stay."""
    ours = {"train", "val", "test", *(f"{DROPPED}{reason}" for reason in translation.DROP_REASONS)}
    there = {image_id: (key, tags) for image_id, key, tags in rows(dataset, "image_id", "id", "tags")}
    made_by_models = _note_bases(dataset)
    new, changes = [], {}
    for image in images:
        fields = _target_fields(image)
        if image.record.id in there:
            key, tags = there.pop(image.record.id)
            # Tags of the user stay; ours say what is on disk now.
            changes[key] = {**fields, "tags": [tag for tag in tags if tag not in ours] + fields["tags"]}
        else:
            new.append(fiftyone().Sample(**fields))
    for name in next(iter(changes.values()), {}):  # all have the same fields
        dataset.set_values(name, {key: fields[name] for key, fields in changes.items()}, key_field="id")
    gone = {key: [*(tag for tag in tags if tag not in ours), f"{DROPPED}not_listed"] for key, tags in there.values()}
    if gone:
        dataset.set_values("tags", gone, key_field="id")
    dataset.add_samples(new, progress=False)
    for field in made_by_models:
        masked = dataset.exists(f"{field}.mask_path")
        if stale := masks_fit(masked, field).count(False):
            LOGGER.warning(
                "%s: %d of %d masks in '%s' were made from other images or labels than the dataset has now. "
                "wss-train masks makes these again; until then they are not used.",
                *(dataset.name, stale, len(masked), field),
            )


def _note_bases(dataset: Dataset) -> list[str]:
    """Note what masks of models were made from where an earlier version did not: what the dataset holds till now."""
    made_by_models = [field for field in mask_fields(dataset) if dataset.match({f"{field}.method": "model"}).limit(1)]
    for field in made_by_models:
        dataset.add_sample_field(f"{field}.{BASIS}", fiftyone().StringField)
        without = dataset.match({f"{field}.method": "model", f"{field}.{BASIS}": None})
        if len(without):
            bases = dict(zip(without.values("id"), mask_bases(without), strict=True))
            dataset.set_values(f"{field}.{BASIS}", bases, key_field="id")
    return made_by_models


def _target_fields(image: translation.TargetImage) -> dict[str, Any]:
    fo, record, size = fiftyone(), image.record, image.size
    return {
        "filepath": str(record.image_path),
        "metadata": fo.ImageMetadata(width=size[0], height=size[1], num_channels=3) if size else None,
        "image_id": record.id,
        "labels": fo.Classifications(classifications=[fo.Classification(label=name) for name in record.labels]),
        "sha256": image.sha256,
        "phash": image.phash,
        GROUND_TRUTH: fo.Segmentation(mask_path=str(image.mask_path)) if image.mask_path else None,
        "tags": [record.split, *([f"{DROPPED}{image.dropped}"] if image.dropped else [])],
    }


def target_summary(dataset: Dataset) -> str:
    """How many images a target dataset has per class and split, and what was dropped, as a table."""
    counts: dict[str, Counter[str]] = {split: Counter() for split in ("train", "val", "test")}
    drops: Counter[str] = Counter()
    for labels, tags in rows(dataset, "labels.classifications.label", "tags"):
        drops.update(tag.removeprefix(DROPPED) for tag in tags if tag.startswith(DROPPED))
        for split in counts.keys() & tags if not is_left_out(tags, None) else ():
            counts[split].update(["", *set(labels or ())])  # "": an image
    splits = [split for split in counts if split != "test" or counts[split]]
    table = [["class", *splits]]
    for name in class_names(dataset):
        # The labels of VOC's test images are not public.
        table.append([name, *("" if split == "test" else f"{counts[split][name]:,}" for split in splits)])
    lines = aligned([*table, ["images", *(f"{counts[split]['']:,}" for split in splits)]])
    if drops:
        lines.append("dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in drops.most_common()))
    return "\n".join(lines)


def set_target_masks(
    dataset: Dataset,
    field: str,
    values: Mapping[str, str | Path],
    ledger: Ledger,
    keep_others: bool = False,
    bases: Mapping[str, str] | None = None,
) -> None:
    """Store masks that a model made.

    Args:
        dataset: A dataset of ours.
        field: Field for the masks, such as ``pseudo_mask`` or ``prediction``; made if it is missing.
        values: Image id, as in ``ExampleTable.ids`` -> label mask (palette PNG).
        ledger: What the masks were made from.
        keep_others: Whether masks of other images in the field stay, with what is known of them; by default the field
            then holds these alone.
        bases: Image id -> ``mask_basis`` of the image and labels that its mask was made from; ``None`` for those that
            the dataset has.

    Raises:
        StoreError: If the field is the ground truth or the web's own masks, or holds something else than masks, or an
            id is not in the dataset.
    """
    bases = bases or dict(zip(dataset.values("image_id"), mask_bases(dataset), strict=True))
    _set_masks(dataset, field, values, keep_others, bases)
    set_ledger(dataset, field, mask_ledger(dataset, field).merged_with(ledger) if keep_others else ledger)


def set_predictions(view: Collection, field: str, table: ExampleTable, ledger: Ledger) -> None:
    """Store a model's masks of the images of a dataset or view, ours or not; those of other images stay.

    Args:
        view: What ``image_table`` made ``table`` of.
        field: As of ``set_target_masks``.
        table: The images with their masks.
        ledger: What the masks were made from; a dataset that is not ours keeps none.

    Raises:
        StoreError: As ``set_target_masks``.
    """
    dataset = fiftyone().load_dataset(table.source)
    masks = {image_id: str(path) for image_id, path in zip(table.ids, table.mask_paths, strict=True)}
    if is_ours(dataset):
        set_target_masks(dataset, field, masks, ledger, keep_others=True)
        return
    _set_masks(dataset, field, masks, True, {})
    # FiftyOne reads palette PNGs as colours, so they have to be named by colour.
    dataset.mask_targets[field] = colour_targets(table.classes)
    dataset.save()


def check_mask_field(dataset: Collection, field: str) -> None:
    """Raise ``StoreError`` if a field is not for masks that a model made."""
    if is_ours(dataset) and (field in (GROUND_TRUTH, MASKS) or field.startswith(BEFORE_IMPORT)):
        raise StoreError(
            f"field '{field}' of dataset '{name_of(dataset)}' is not for masks that a model made; "
            "use pseudo_mask or prediction."
        )
    if dataset.has_sample_field(field) and field not in mask_fields(dataset):
        raise StoreError(f"field '{field}' of dataset '{name_of(dataset)}' holds no masks; name another, or a new one.")


def _set_masks(
    dataset: Dataset, field: str, values: Mapping[str, str | Path], keep_others: bool, bases: Mapping[str, str]
) -> None:
    """Write mask files into a field; ``values`` and ``bases`` are by id, as in ``ExampleTable.ids``."""
    check_mask_field(dataset, field)
    # All ids are looked up before anything is written: an unknown one leaves the field as it was.
    sample_ids = dict(rows(dataset, "image_id" if is_ours(dataset) else "id", "id"))
    unknown = [key for key in values if key not in sample_ids]
    if unknown:
        raise StoreError(
            f"dataset '{dataset.name}' has no image '{unknown[0]}' ({len(unknown)} of {len(values)} ids are unknown)."
        )
    declare_masks(dataset, field)
    if not keep_others:
        dataset.clear_sample_field(field)
    fo = fiftyone()
    dataset.add_sample_field(f"{field}.{BASIS}", fo.StringField)
    masks = {
        # Absolute: the App and the next command may run in another folder.
        sample_ids[key]: fo.Segmentation(mask_path=os.path.abspath(path), method="model", basis=bases.get(key))
        for key, path in values.items()
    }
    dataset.set_values(field, masks, key_field="id")
