"""Labels that another tool, or a person, left in a field of FiftyOne: instances with masks, or masks of whole images.

They become a mask field like any other, to be compared and adopted. Masks become instances, too, which a person can
edit in the App and bring back.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from wss_data.cosegmentation.imported import ImportReport, KnownImage, MaskFile, write_good
from wss_data.errors import MaskError, StoreError, shown
from wss_data.imaging.masks import IGNORE_INDEX, mask_names, read_mask, resize_mask, used_values, write_mask
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.runtime.files import temporary_folder
from wss_data.runtime.home import dataset_owner
from wss_data.spec import BACKGROUND, DatasetSpec
from wss_data.store.appearance import show_in_app
from wss_data.store.connection import fiftyone
from wss_data.store.info import IMPORTED, MASKS, definition, mask_fields, mask_ledger, rows, set_ledger, web_info
from wss_data.store.mask_fields import checked, declare_mask_field
from wss_data.store.types import Dataset
from wss_data.store.web import MaskValues, known_images, new_import_folder, set_masks

INSTANCES = "instances"  # field in which masks are edited
_MADE_FROM, _DIGEST = "mask_field", "mask_digest"  # what instances of our own carry: where their mask came from
_SMALL = 0.01  # components of a smaller fraction of their class are part of its largest instance
_BATCH = 256  # images a write to the database; their masks are held at once

_AS_FOREGROUND = ({0, 1}, {0, 128, 255})  # values of a field whose masks are no class indices
_NO_TARGETS = (
    "the values {values} mean no class. Say what they mean: dataset.mask_targets['{field}'] = {{1: 'cow'}}, say, "
    "then dataset.save()"
)


class _Read(NamedTuple):
    """What a field holds of one image."""

    values: np.ndarray  # (H, W) uint8: class indices, or as the field has them where nobody says what they mean
    confidence: float | None  # that the image shows its class, in [0, 1]


def import_field(
    dataset: Dataset,
    field: str,
    skip_bad: bool = False,
    supervision: str = Supervision.UNKNOWN,
    min_score: float = 0.0,
    classes: Collection[str] | None = None,
) -> tuple[str, ImportReport]:
    """Make a mask field of what another tool left in a field: ``Detections`` with instance masks, or ``Segmentation``.

    Instances that ``make_instances`` made, and that a person edited since, come back as masks of that person; those
    that nobody touched are left out, and their masks stay what they are.

    Of each image the pixels of its own class become foreground, those of other classes void. Where instances overlap,
    the one with the highest ``confidence`` has the pixel, and of equal ones the smaller; one without a confidence, such
    as a person's, counts as 1. The highest confidence of an image's own class becomes that of its mask, so that
    ``filter --min-confidence`` works once it is adopted. All masks are checked before the first is taken.

    Args:
        dataset: A web dataset.
        field: Name of the field. The masks go to ``cosegmentation_<field>``, in place of those of an earlier import.
        skip_bad: Whether to take the good masks although others are bad or missing.
        supervision: What the tool had learned from, for the ledger. Of what was edited it is ``masks`` if unknown,
            beside what the masks were made from before.
        min_score: Instances with a smaller confidence count as none, in [0, 1].
        classes: The classes to do; ``None`` for all.

    Returns:
        The name of the mask field, and what became of the masks.

    Raises:
        SpecError: If the dataset has no such class.
        StoreError: If there is no such field, it is of another type, a mask is bad or missing and ``skip_bad`` is off,
            none is good, or another process works on the dataset (``BusyError``).
    """
    web_info(dataset, "given other masks")
    spec, level = definition(dataset), Supervision(supervision)
    spec.check_classes(classes)
    into = _place(dataset, field)
    images = [image for image in known_images(dataset) if classes is None or image.class_name in classes]
    what, ledger = f"masks of the field '{field}', made elsewhere", Ledger()
    with dataset_owner(dataset.name), temporary_folder() as temporary:
        files, bad, confidences, unchanged = _read_field(dataset, field, images, min_score, temporary)
        if unchanged and not files and not bad:
            return into, ImportReport(dict.fromkeys(spec.class_names, 0), 0, (), unchanged=unchanged)
        out, where = new_import_folder(dataset), f"field '{field}' of dataset '{dataset.name}'"
        masks, report = write_good(where, files, bad, spec.class_names, out, skip_bad, spec.ignore_index)
        if is_ours := dataset.has_field(f"{field}.{_DIGEST}"):
            what = "masks that a person corrected in the App"
            level = Supervision.MASKS if level is Supervision.UNKNOWN else level
            for origin in dataset.distinct(f"{field}.{_MADE_FROM}"):
                ledger = ledger.merged_with(mask_ledger(dataset, origin))
        values = [
            MaskValues(
                mask.image.sample_id,
                str(mask.path),
                confidences[mask.image.sample_id],
                mask.foreground_ratio,
                None,
                IMPORTED,
                None,
            )
            for mask in masks
        ]
        if dataset.has_sample_field(into) and (classes is not None or is_ours):
            ledger = ledger.merged_with(mask_ledger(dataset, into))
        declare_mask_field(dataset, into)
        # Images of which the field holds nothing any more must not keep what an earlier import found.
        dataset.set_values(into, {image.sample_id: None for image in images}, key_field="id")
        set_ledger(dataset, into, ledger.add(what, level, UsedFor.COSEGMENTATION), origin=IMPORTED)
        set_masks(dataset, into, values)
    return into, replace(report, unchanged=unchanged)


def make_instances(dataset: Dataset, mask_field: str = MASKS, classes: Collection[str] | None = None) -> int:
    """Turn masks into instances that the App's annotation mode edits, in the field ``instances``.

    Each connected component of a class becomes a ``Detection`` with a box and an instance mask; void becomes one, with
    the label ``ignore``. Painted again they are the mask, pixel by pixel. ``import_field`` brings them back.

    Args:
        dataset: A web dataset.
        mask_field: Field of the masks.
        classes: The classes to do; ``None`` for all.

    Returns:
        Number of images that have instances.

    Raises:
        SpecError: If the dataset has no such class.
        StoreError: If no image has a mask in that field, or ``instances`` holds edits that are not in use, or what is
            not ours; nothing is changed then.
        MaskError: If a mask cannot be read.
    """
    web_info(dataset, "edited in their masks")
    spec = checked(dataset, (mask_field,), classes)
    images = {image.sample_id: image for image in known_images(dataset, with_masks=True)}
    with dataset_owner(dataset.name):
        _refuse_to_lose(dataset, images, spec)
        view = dataset.select([key for key, one in images.items() if classes is None or one.class_name in classes])
        paths = [(key, path) for key, path in rows(view, "id", f"{mask_field}.mask_path") if path]
        if not paths:
            raise StoreError(
                f"dataset '{dataset.name}': no image that was asked for has a mask in '{mask_field}'; "
                f"make masks first: wss-data cosegment {dataset.name}"
            )
        _declare_instances(dataset, spec)
        for start in range(0, len(paths), _BATCH):
            part = paths[start : start + _BATCH]
            made = {key: _instances(read_mask(path), mask_field, spec) for key, path in part}
            dataset.set_values(INSTANCES, made, key_field="id")
    return len(paths)


def _refuse_to_lose(dataset: Dataset, images: Mapping[str, KnownImage], spec: DatasetSpec) -> None:
    """Raise ``StoreError`` if the field ``instances`` holds what a person drew and nobody adopted yet."""
    if not dataset.has_sample_field(INSTANCES):
        return
    way_out = f"To throw it away: dataset.delete_sample_field('{INSTANCES}')."
    if not dataset.has_field(f"{INSTANCES}.{_DIGEST}"):
        raise StoreError(f"dataset '{dataset.name}' has a field '{INSTANCES}' that wss-data did not make. {way_out}")
    edited = 0
    for sample in dataset.exists(INSTANCES).select_fields(INSTANCES).iter_samples():
        image, label = images[sample.id], sample[INSTANCES]
        try:
            values = _painted(label.detections, image, spec, 0.0, Counter())[0]
            own = np.where((values != 0) & (values != image.class_index), spec.ignore_index, values)
            in_use = image.in_use is not None and np.array_equal(read_mask(image.in_use), own)
            edited += _digest(values) != _noted_digest(label) and not in_use
        except MaskError:
            edited += 1
    if edited:
        raise StoreError(
            f"dataset '{dataset.name}': '{INSTANCES}' holds {edited:,} edited images whose masks are not in use. Bring "
            f"them back first: `wss-data import-masks {dataset.name} --field {INSTANCES} --adopt`. {way_out}"
        )


def _declare_instances(dataset: Dataset, spec: DatasetSpec) -> None:
    """Make the field, empty, and offer it in the App's annotation mode with the classes to choose from."""
    fo = fiftyone()
    if dataset.has_sample_field(INSTANCES):
        dataset.clear_sample_field(INSTANCES)
    else:
        dataset.add_sample_field(INSTANCES, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    for attribute in (_MADE_FROM, _DIGEST):
        dataset.add_sample_field(f"{INSTANCES}.{attribute}", fo.StringField)
    schema = dataset.generate_label_schemas(INSTANCES, scan_samples=False)
    names = [name for value, name in mask_names(spec.class_names).items() if value]
    dataset.update_label_schema(INSTANCES, {**schema, "component": "dropdown", "classes": names})
    dataset.activate_label_schemas(INSTANCES)
    show_in_app(dataset, spec, INSTANCES)


def _instances(mask: np.ndarray, mask_field: str, spec: DatasetSpec) -> Any:
    """The instances of a label mask, (H, W) uint8, which knows where it came from."""
    fo, (height, width), names = fiftyone(), mask.shape, mask_names(spec.class_names)
    mask[mask == spec.ignore_index] = IGNORE_INDEX
    found = []
    for value in used_values(mask):
        if value == 0 or value not in names:
            continue
        for pixels in _components(mask == value) if value != IGNORE_INDEX else [mask == value]:
            columns, lines = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
            left, right, top, bottom = columns[0], columns[-1] + 1, lines[0], lines[-1] + 1
            box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
            found.append(
                fo.Detection(
                    label=names[value], bounding_box=list(map(float, box)), mask=pixels[top:bottom, left:right]
                )
            )
    return fo.Detections(detections=found, **{_MADE_FROM: mask_field, _DIGEST: _digest(mask)})


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """The connected components of a mask, each (H, W) bool; specks are part of the largest one."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    small = areas < _SMALL * areas.sum()
    small[0] = False
    parts[small[parts]] = int(areas.argmax())
    return [parts == part for part in np.unique(parts).tolist() if part]


def _digest(mask: np.ndarray) -> str:
    return hashlib.sha256(str(mask.shape).encode() + mask.tobytes()).hexdigest()[:20]


def _noted_digest(label: Any) -> str | None:
    return label[_DIGEST] if label.has_field(_DIGEST) else None


def _is_untouched(label: Any, image: KnownImage, spec: DatasetSpec) -> bool:
    """Whether instances of our own are still the mask that they were made of, be it an empty one."""
    return _digest(_painted(label.detections, image, spec, 0.0, Counter())[0]) == _noted_digest(label)


def _place(dataset: Dataset, field: str) -> str:
    """The mask field for the labels of ``field``; raises ``StoreError`` if those cannot become masks."""
    fo = fiftyone()
    schema = dataset.get_field_schema(ftype=fo.EmbeddedDocumentField)
    fit = [name for name, kind in schema.items() if kind.document_type in (fo.Detections, fo.Segmentation)]
    others = ", ".join(name for name in fit if not name.startswith(MASKS)) or "none"
    wanted = "Wanted is one of Detections with instance masks, or of Segmentation; in the dataset there are"
    if not dataset.has_sample_field(field):
        raise StoreError(f"dataset '{dataset.name}' has no field '{field}'. {wanted}: {others}.")
    if field not in fit:
        kind = dataset.get_field(field)
        found = getattr(kind, "document_type", type(kind)).__name__
        raise StoreError(f"field '{field}' of dataset '{dataset.name}' holds {found}. {wanted}: {others}.")
    into = f"{MASKS}_{re.sub('[^a-z0-9]+', '_', field.lower()).strip('_')}"
    if field == MASKS or field.startswith(f"{MASKS}_"):
        raise StoreError(
            f"field '{field}' of dataset '{dataset.name}' is a mask field already. To use its masks: "
            f"`wss-data cosegment {dataset.name} --adopt {field}`."
        )
    if into in mask_fields(dataset) and set(dataset.distinct(f"{into}.method")) - {IMPORTED}:
        raise StoreError(
            f"dataset '{dataset.name}': '{into}' holds masks that an engine made, and is left alone. "
            f"Give the field another name: dataset.rename_sample_field('{field}', ...)."
        )
    return into


def _read_field(
    dataset: Dataset, field: str, images: Sequence[KnownImage], min_score: float, folder: Path
) -> tuple[list[MaskFile], list[MaskError], dict[str, float | None], int]:
    """Each image's mask as a file in ``folder``, what is wrong, how sure the tool was (sample id -> confidence), and
    how many instances of our own nobody edited.
    """
    spec, by_id = definition(dataset), {image.sample_id: image for image in images}
    meaning = _meaning(dataset, field)
    instances = dataset.get_field(field).document_type is fiftyone().Detections
    confidences: dict[str, float | None] = {}
    bad: list[MaskError] = []
    unknown: Counter[str] = Counter()
    used: set[int] = set()
    unchanged, is_ours = 0, dataset.has_field(f"{field}.{_DIGEST}")
    # One image at a time: the masks of a large dataset are not held at once.
    for sample in dataset.select(list(by_id)).select_fields(field).iter_samples():
        image, label = by_id[sample.id], sample[field]
        if label is None and is_ours:
            continue  # it had no mask to edit
        try:
            if label is None:
                raise MaskError("missing", f"{_name(image)}: the field '{field}' is empty.")
            if is_ours and instances and _is_untouched(label, image, spec):
                unchanged += 1
                continue
            if instances:
                read = _of_instances(label.detections, image, spec, min_score, unknown)
            else:
                read = _of_segmentation(label, image, meaning, spec, unknown)
        except MaskError as error:
            bad.append(error)
            continue
        used.update(used_values(read.values))
        confidences[sample.id] = read.confidence
        write_mask(read.values, folder / f"{sample.id}.png")
    for name, number in unknown.most_common():
        bad.append(
            MaskError(
                "unknown",
                f"'{name}' ({number:,} times in '{field}') is no class: {', '.join(spec.class_names)} are wanted. "
                f"dataset.map_labels('{field}', ...) gives labels other names.",
            )
        )
    is_index = instances or meaning is not None or not any(used <= few for few in _AS_FOREGROUND)
    if is_index and (strange := sorted(used - set(mask_names(spec.class_names, IGNORE_INDEX)) - {spec.ignore_index})):
        bad.append(MaskError("values", f"'{field}': {_NO_TARGETS.format(values=shown(strange), field=field)}."))
    files = [
        MaskFile(by_id[key], folder / f"{key}.png", f"'{field}' of {_name(by_id[key])}", is_index)
        for key in confidences
    ]
    return files, bad, confidences, unchanged


def _name(image: KnownImage) -> str:
    return image.source_id or image.path


def _meaning(dataset: Dataset, field: str) -> Mapping[int, str] | None:
    """Value -> label of a field of ``Segmentation`` as its maker noted it; ``None`` where nobody did."""
    targets = dataset.mask_targets.get(field)
    if not targets or not all(isinstance(value, int) for value in targets):
        return None
    return {0: BACKGROUND, **targets}


def _index(label: str | None, spec: DatasetSpec) -> int | None:
    """Value of a label in a label mask, void included; ``None`` if no class is called so."""
    names = {name: value for value, name in mask_names(spec.class_names, IGNORE_INDEX).items()}
    return names.get(label) if label else None


def _of_instances(
    detections: Sequence[Any], image: KnownImage, spec: DatasetSpec, min_score: float, unknown: Counter[str]
) -> _Read:
    """The instances of an image as one mask, and the confidence of the surest of its own class."""
    values, scores = _painted(detections, image, spec, min_score, unknown)
    if image.class_index not in scores:
        least = f" of a confidence of at least {min_score:g}" if min_score else ""
        raise MaskError("missing", f"{_name(image)}: no instance of '{image.class_name}'{least} was found.")
    return _Read(values, scores[image.class_index])


def _painted(
    detections: Sequence[Any], image: KnownImage, spec: DatasetSpec, min_score: float, unknown: Counter[str]
) -> tuple[np.ndarray, dict[int, float]]:
    """The instances as class indices, (H, W) uint8, and class index -> highest score; ``unknown`` counts odd labels."""
    found: list[tuple[float, int, int, np.ndarray]] = []
    for detection in detections:
        score = 1.0 if detection.confidence is None else float(detection.confidence)
        if not 0 <= score <= 1:
            raise MaskError("values", f"{_name(image)}: a confidence is {score:g}, 0 to 1 is wanted.")
        index = _index(detection.label, spec)
        if index is None:
            unknown[detection.label or "(no label)"] += 1
        elif score >= min_score:
            pixels = _placed(detection, image)
            found.append((score, -int(np.count_nonzero(pixels)), index, pixels))
    values, scores = np.zeros(image.size[::-1], np.uint8), {}
    for score, _, index, pixels in sorted(found, key=lambda one: one[:2]):
        values[pixels] = index
        scores[index] = score  # rising
    return values, scores


def _placed(detection: Any, image: KnownImage) -> np.ndarray:
    """The pixels of an instance in its image, (H, W) bool."""
    width, height = image.size
    mask = detection.mask
    if mask is None and detection.mask_path is not None:
        mask = read_mask(detection.mask_path)
    if mask is None:
        raise MaskError("missing", f"{_name(image)}: '{detection.label}' is a box without a mask.")
    if not all(map(np.isfinite, detection.bounding_box)) or np.ndim(mask) != 2:
        raise MaskError(
            "values", f"{_name(image)}: '{detection.label}' has no box in numbers, or no mask of one plane."
        )
    x, y, w, h = detection.bounding_box
    left, top = round(x * width), round(y * height)
    right, bottom = max(round((x + w) * width), left + 1), max(round((y + h) * height), top + 1)
    if min(left, top) < -max(image.size) or right > 2 * width or bottom > 2 * height or not np.size(mask):
        raise MaskError("size", f"{_name(image)}: the box of '{detection.label}' lies outside the image.")
    inside = resize_mask(np.asarray(mask) >= 0.5, (right - left, bottom - top))
    pixels = np.zeros((height, width), bool)
    cut = inside[max(-top, 0) : height - top, max(-left, 0) : width - left]
    pixels[max(top, 0) : max(top, 0) + cut.shape[0], max(left, 0) : max(left, 0) + cut.shape[1]] = cut
    return pixels


def _of_segmentation(
    label: Any, image: KnownImage, meaning: Mapping[int, str] | None, spec: DatasetSpec, unknown: Counter[str]
) -> _Read:
    """The mask of a whole image, its values as class indices if it is known what they mean."""
    if label.mask is None and label.mask_path is None:
        raise MaskError("missing", f"{_name(image)}: the field holds no mask.")
    values = read_mask(label.mask_path) if label.mask is None else np.asarray(label.mask)
    if values.ndim != 2 or (values.size and not 0 <= int(values.min()) <= int(values.max()) <= 255):
        raise MaskError("rgb", f"{_name(image)}: one plane of values from 0 to 255 is wanted, found {values.shape}.")
    values = values.astype(np.uint8)
    if meaning is None:
        return _Read(values, None)
    indices = np.zeros(256, np.uint8)
    for value in used_values(values):
        name = meaning.get(value, f"the value {value}")
        if (index := _index(name, spec)) is None:
            unknown[name] += 1
        indices[value] = index or 0
    return _Read(indices[values], None)
