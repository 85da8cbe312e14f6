"""Make a dataset of an export again: images, masks, labels, provenance, verdicts and numbers as they were."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wss_data.cosegmentation.quality import mask_quality
from wss_data.errors import MaskError, StoreError
from wss_data.filtering.verdicts import Act, add_act
from wss_data.imaging.images import read_image, read_size
from wss_data.imaging.masks import foreground_ratio, open_mask, read_mask
from wss_data.records import ImageRecord, stem_of
from wss_data.retrieval.decode_pool import perceptual_hash
from wss_data.runtime.files import expanded
from wss_data.runtime.home import dataset_folder, dataset_owner
from wss_data.sharing.layouts.base import copy_file, copy_mask
from wss_data.sharing.reading import MANIFEST_FILE, Export, ExportedImage, read_export
from wss_data.spec import DatasetSpec

if TYPE_CHECKING:
    from wss_data.store import MaskValues
    from wss_data.store.types import Dataset

_BATCH = 256

_SAME_LOOKS = 16
"""Bits of 64 in which the hashes of an image and of its shrunk copy may differ; those of two images differ in 32."""


@dataclass(frozen=True)
class ImportedDataset:
    """What was imported; prints as a few lines.

    Args:
        name: The dataset.
        folder: The export that it was made from.
        images: Number of images.
        masks: Number of masks.
        not_there: Images that the manifest lists and the export does not hold: those that were dropped.
        passed_over: What else of the folder was not read or is odd, one sentence each.
    """

    name: str
    folder: Path
    images: int
    masks: int
    not_there: int
    passed_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.images:,} images and {self.masks:,} masks of {self.folder}."]
        if self.not_there:
            lines.append(
                f"{self.not_there:,} more are listed in its manifest, such as dropped ones. "
                f"To fetch them, too: wss-data rebuild {self.folder / MANIFEST_FILE} --name {self.name}-whole"
            )
        return "\n".join([*lines, *self.passed_over])


def import_dataset(folder: Path | str, name: str | None = None) -> ImportedDataset:
    """Make a web dataset of what ``export_dataset`` wrote in the layout ``voc``.

    The files are copied. Masks count as imported: a later build leaves them alone. Everything in the folder is checked
    before anything is stored.

    Args:
        folder: The export.
        name: Name of the dataset; by default that of the exported one.

    Returns:
        Counts.

    Raises:
        StoreError: If a dataset of that name exists, the folder is no export of a web dataset in that layout, or a file
            in it holds a wrong value.
        SourceError: If its manifest is wrong.
        SpecError: If ``name`` cannot be a dataset's.
        ImageError, MaskError: If a file cannot be read, or a mask does not fit its image.
    """
    from wss_data import store

    export, records, spec = check_export(folder, name)
    _refuse_existing(spec.name)
    export.manifest.warn_of_program()
    with dataset_owner(spec.name):
        if store.dataset_exists(spec.name):  # another process was faster
            _refuse_existing(spec.name)
        try:
            return _store(store.create_or_open(spec, "web"), export, records, spec)
        except BaseException:
            _remove(spec.name)
            raise


def check_export(folder: Path | str, name: str | None = None) -> tuple[Export, list[ImageRecord], DatasetSpec]:
    """Find everything that can be wrong with an export; no database is touched.

    Args:
        folder: The export.
        name: Name of the dataset; by default that of the exported one.

    Returns:
        What the folder holds, what will be stored of each of its images, and the definition.

    Raises:
        StoreError, SourceError, SpecError, ImageError, MaskError: As ``import_dataset``.
    """
    folder = expanded(folder).absolute()
    if not folder.is_dir():
        raise StoreError(f"{folder}: there is no such folder.")
    export = read_export(folder)
    spec = _named(export.manifest.spec, name)
    records = [_record(item, spec) for item in export.images]
    others = [item for record, item in zip(records, export.images, strict=True) if not _check_files(item, record, spec)]
    if others:
        told = (
            f"{len(others):,} images look like others than those that the manifest lists, such as "
            f"{others[0].path.name}: do title, author and licence belong to them?"
        )
        export = replace(export, passed_over=(*export.passed_over, told))
    return export, records, spec


def _refuse_existing(name: str) -> None:
    from wss_data import store

    store.check_name(name)
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


def _check_files(item: ExportedImage, record: ImageRecord, spec: DatasetSpec) -> bool:
    """Whether the image looks like the one that the manifest lists; what is wrong with it or its mask is raised."""
    # Decoded whole: a damaged image would stop a later build or training instead.
    image = read_image(item.path)
    # The digest is that of the original, not of this smaller copy: its looks are all that can be compared.
    listed = item.listed.phash
    alike = listed is None or (int(listed, 16) ^ int(perceptual_hash(image), 16)).bit_count() <= _SAME_LOOKS
    if item.mask is None:
        return alike
    mask, where = open_mask(item.mask, record.size).values, item.mask
    allowed = {0, spec.class_index(record.class_name), spec.ignore_index}
    if wrong := set(np.unique(mask).tolist()) - allowed:
        raise MaskError(
            "values",
            f"{where}: the mask of a '{record.class_name}' holds {min(wrong)}, wanted are {sorted(allowed)}. "
            "Was it saved with other class indices?",
        )
    return alike


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
    _take_verdicts(dataset, export.acts, {key: item.listed.verdict for key, item in known.items()})
    store.apply_filter(dataset, spec.filters)
    # Last: the tags as they were, whatever thresholds had set them.
    dataset.set_values("tags", {key: list(item.listed.tags) for key, item in known.items()}, key_field="id")
    not_there = len(export.manifest.images) - len(records)
    return ImportedDataset(dataset.name, export.folder, len(records), masks, not_there, export.passed_over)


def _take_verdicts(dataset: "Dataset", acts: Sequence[Act], listed: Mapping[str, str | None]) -> None:
    """Take a person's verdicts over, with reasons and times where the export has them.

    Args:
        dataset: Its images are stored.
        acts: What people judged, as the export has it.
        listed: Sample id -> the verdict in the manifest.
    """
    from wss_data import store
    from wss_data.store.verdicts import verdict_file

    # Written anew rather than copied: what was checked is what is stored.
    for act in acts:
        add_act(verdict_file(dataset), act)
    if acts:
        store.restore_verdicts(dataset)
    there = dict(zip(*dataset.values(["id", "verdict"]), strict=True))
    missing = {key: verdict for key, verdict in listed.items() if verdict and not there.get(key)}
    store.take_over_verdicts(dataset, missing, "as in the export that it was imported from")


def _mask_values(key: str, item: ExportedImage, spec: DatasetSpec) -> "MaskValues | None":
    """Write the mask of an image; what is stored of it."""
    from wss_data import store

    if item.mask is None:
        return None
    listed, facts, mask = item.listed, item.facts, read_mask(item.mask)
    path = dataset_folder(spec.name) / store.IMPORTED / listed.class_name / f"{stem_of(listed.sha256)}.png"
    copy_mask(item.mask, path)
    foreground, band = mask == spec.class_index(listed.class_name), mask == spec.ignore_index
    ratio = foreground_ratio(foreground, band) if facts.foreground_ratio is None else facts.foreground_ratio
    quality = facts.quality or mask_quality(read_image(item.path), foreground, band)
    return store.MaskValues(key, str(path), facts.confidence, ratio, quality, store.IMPORTED, None)


def _named(spec: DatasetSpec, name: str | None) -> DatasetSpec:
    """The definition under another name.

    Raises:
        SpecError: If ``name`` cannot be a dataset's.
    """
    return spec if name is None else type(spec).from_dict({**spec.to_dict(), "name": name})
