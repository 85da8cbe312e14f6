"""Make a dataset of an export again: images, masks, labels, provenance, verdicts and numbers as they were."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wss_data.errors import MaskError, StoreError
from wss_data.export.base import copy_file
from wss_data.export.reading import MANIFEST_FILE, Export, ExportedImage, layout_of, read_export
from wss_data.home import dataset_folder
from wss_data.images import read_image, read_size
from wss_data.masks import foreground_ratio, write_mask
from wss_data.quality import MaskQuality, mask_quality
from wss_data.records import ImageRecord, stem_of
from wss_data.spec import DatasetSpec
from wss_data.verdicts import FILE

if TYPE_CHECKING:
    from wss_data.store import MaskValues
    from wss_data.store.types import Dataset

_BATCH = 256


@dataclass(frozen=True)
class ImportedDataset:
    """What was imported; prints as one or two lines.

    Args:
        name: The dataset.
        folder: The export that it was made from.
        layout: How that was laid out.
        images: Number of images.
        masks: Number of masks.
        not_there: Images that the manifest lists and the export does not hold: those that were dropped.
    """

    name: str
    folder: Path
    layout: str
    images: int
    masks: int
    not_there: int

    def __str__(self) -> str:
        lines = [f"{self.images:,} images and {self.masks:,} masks of {self.folder} (layout: {self.layout})."]
        if self.not_there:
            lines.append(
                f"{self.not_there:,} more are listed in its manifest, such as dropped ones. "
                f"To fetch them, too: wss-data rebuild {self.folder / MANIFEST_FILE} --name {self.name}-whole"
            )
        if self.layout == "fiftyone":
            lines.append("Images and masks stay where they are: keep that folder.")
        return "\n".join(lines)


def import_dataset(folder: Path | str, name: str | None = None) -> ImportedDataset:
    """Make a web dataset of what ``export_dataset`` wrote, in whatever layout.

    Masks count as imported: a later build leaves them alone. Of the layout ``fiftyone`` the files are used where they
    are; of the others they are copied.

    Args:
        folder: The export.
        name: Name of the dataset; by default that of the exported one.

    Returns:
        Counts.

    Raises:
        StoreError: If a dataset of that name exists, or the folder is no export of a web dataset.
        SourceError: If its manifest is wrong.
        SpecError: If ``name`` cannot be a dataset's.
        ImageError, MaskError: If a file cannot be read, or a mask does not fit its image.
    """
    from wss_data import store

    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        raise StoreError(f"{folder}: there is no such folder.")
    if layout_of(folder) == "fiftyone":
        return _import_fiftyone(folder, name)
    export = read_export(folder)
    spec = _named(export.manifest.spec, name)
    _refuse_existing(spec.name)
    export.manifest.warn_of_program()
    # Everything that can be wrong with the files is found before anything is stored.
    records = [_record(item, spec) for item in export.images]
    for record, item in zip(records, export.images, strict=True):
        _check_mask(item, record, spec)
    try:
        return _store(store.create_or_open(spec, "web"), export, records, spec)
    except BaseException:
        _remove(spec.name)
        raise


def _refuse_existing(name: str) -> None:
    from wss_data import store

    if store.dataset_exists(name) or dataset_folder(name).exists():
        raise StoreError(
            f"dataset '{name}' exists already, or its folder {dataset_folder(name)} does. "
            "Give the imported one a name of its own (--name)."
        )


def _remove(name: str) -> None:
    """Take away what an import left that did not come to its end: neither dataset nor folder was there before."""
    from wss_data import store

    if store.dataset_exists(name):
        store.open_dataset(name).delete()
    shutil.rmtree(dataset_folder(name), ignore_errors=True)


def _record(item: ExportedImage, spec: DatasetSpec) -> ImageRecord:
    listed, size = item.listed, read_size(item.path)
    return ImageRecord(
        sha256=listed.sha256,
        class_name=listed.class_name,
        path=dataset_folder(spec.name) / "images" / listed.class_name / f"{stem_of(listed.sha256)}.jpg",
        size=size,
        original_size=listed.size or size,
        phash=listed.phash or "",
        provenance=listed.provenance,
    )


def _check_mask(item: ExportedImage, record: ImageRecord, spec: DatasetSpec) -> None:
    mask = item.read_mask()
    if mask is None:
        return
    where = item.mask if isinstance(item.mask, Path) else item.path
    if mask.shape != record.size[::-1]:
        raise MaskError("size", f"{where}: the mask has {mask.shape[::-1]} pixels, its image {record.size}.")
    allowed = {0, spec.class_index(record.class_name), spec.ignore_index}
    if wrong := set(mask.ravel().tolist()) - allowed:
        raise MaskError(
            "values",
            f"{where}: the mask of a '{record.class_name}' holds {min(wrong)}, wanted are {sorted(allowed)}. "
            "Was it saved with other class indices?",
        )


def _store(dataset: "Dataset", export: Export, records: list[ImageRecord], spec: DatasetSpec) -> ImportedDataset:
    from wss_data import store
    from wss_data.store.provenance import image_rows

    for start in range(0, len(records), _BATCH):
        part = records[start : start + _BATCH]
        for record, item in zip(part, export.images[start : start + _BATCH], strict=True):
            copy_file(item.path, record.path)
        store.add_records(dataset, part)
    ids = {(row.class_name, row.sha256): row.sample_id for row in image_rows(dataset)}
    known = {ids[item.listed.class_name, item.listed.sha256]: item for item in export.images}
    store.set_ledger(dataset, store.MASKS, export.manifest.ledger, origin=store.IMPORTED)
    keys, masks = list(known), 0
    for start in range(0, len(keys), _BATCH):
        values = [_mask_values(key, known[key], spec) for key in keys[start : start + _BATCH]]
        found = [value for value in values if value is not None]
        store.set_masks(dataset, store.MASKS, found)
        masks += len(found)
    _take_verdicts(dataset, export.folder, {key: item.listed.verdict for key, item in known.items()})
    store.apply_filter(dataset, spec.filters)
    # Last: the tags as they were, whatever thresholds had set them.
    dataset.set_values("tags", {key: list(item.listed.tags) for key, item in known.items()}, key_field="id")
    not_there = len(export.manifest.images) - len(records)
    return ImportedDataset(dataset.name, export.folder, export.layout, len(records), masks, not_there)


def _take_verdicts(dataset: "Dataset", folder: Path, listed: Mapping[str, str | None]) -> None:
    """Take a person's verdicts over, with reasons and times where the export has them.

    Args:
        dataset: Its images are stored.
        folder: The export.
        listed: Sample id -> the verdict in the manifest.
    """
    from wss_data import store
    from wss_data.store.verdicts import verdict_file

    if (folder / FILE).is_file():
        copy_file(folder / FILE, verdict_file(dataset))
        store.restore_verdicts(dataset)
    there = dict(zip(*dataset.values(["id", "verdict"]), strict=True))
    missing = {key: verdict for key, verdict in listed.items() if verdict and not there.get(key)}
    store.take_over_verdicts(dataset, missing, "as in the export that it was imported from")


def _mask_values(key: str, item: ExportedImage, spec: DatasetSpec) -> "MaskValues | None":
    """Write the mask of an image; what is stored of it."""
    from wss_data import store

    mask = item.read_mask()
    if mask is None:
        return None
    listed = item.listed
    path = dataset_folder(spec.name) / store.IMPORTED / listed.class_name / f"{stem_of(listed.sha256)}.png"
    if isinstance(item.mask, Path):
        copy_file(item.mask, path)
    else:
        write_mask(mask, path)
    foreground, band = mask == spec.class_index(listed.class_name), mask == spec.ignore_index
    numbers = _numbers(item.facts)
    return store.MaskValues(
        key,
        str(path),
        numbers.get("confidence"),
        numbers.get("foreground_ratio", foreground_ratio(foreground, band)),
        _quality(numbers) or mask_quality(read_image(item.path), foreground, band),
        store.IMPORTED,
        None,
    )


def _numbers(facts: Mapping[str, str]) -> dict[str, float]:
    """Those of the facts that are numbers, by the last part of their name (``quality.pieces`` is ``pieces``)."""
    numbers = {}
    for key, text in facts.items():
        try:
            numbers[key.rpartition(".")[2]] = float(text)
        except ValueError:
            continue  # the method's name
    return numbers


def _quality(numbers: Mapping[str, float]) -> MaskQuality | None:
    """The measures as they were exported, or ``None`` if one that must be there is not."""
    measures: dict[str, Any] = {
        measure.name: int(numbers[measure.name]) if measure.type is int else numbers[measure.name]
        for measure in fields(MaskQuality)
        if measure.name in numbers
    }
    try:
        return MaskQuality(**measures)
    except TypeError:
        return None


def _import_fiftyone(folder: Path, name: str | None) -> ImportedDataset:
    from wss_data import store
    from wss_data.manifest import read_manifest
    from wss_data.store.sharing import add_exported

    if not (folder / MANIFEST_FILE).is_file():
        raise StoreError(f"{folder}: has no {MANIFEST_FILE}, so that it is no export of a web dataset.")
    listed = read_manifest(folder / MANIFEST_FILE, masks=False)
    spec = _named(listed.spec, name)
    _refuse_existing(spec.name)
    listed.warn_of_program()
    try:
        dataset = add_exported(folder, spec)
        _take_verdicts(dataset, folder, {})
    except BaseException:
        _remove(spec.name)
        raise
    masks, not_there = dataset.exists(store.MASKS).count(), len(listed.images) - len(dataset)
    return ImportedDataset(spec.name, folder, "fiftyone", len(dataset), masks, not_there)


def _named(spec: DatasetSpec, name: str | None) -> DatasetSpec:
    """The definition under another name.

    Raises:
        SpecError: If ``name`` cannot be a dataset's.
    """
    return spec if name is None else type(spec).from_dict({**spec.to_dict(), "name": name})
