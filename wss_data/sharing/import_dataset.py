"""Make a dataset of an export in the layout ``voc`` again: images, masks, labels, provenance, verdicts and numbers.

Somebody else may have made the folder, so that everything in it is checked before it is used: no link in it is
followed, no name in a table leads anywhere but to the file that the manifest's digest names, and all numbers, texts
and sizes are checked (``wss_data.reading.checked``).
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wss_data import store
from wss_data.cosegmentation.quality import RANGES, MaskQuality, mask_quality
from wss_data.errors import ImageError, StoreError, shown
from wss_data.filtering.verdicts import FILE, Act, add_act, read_acts
from wss_data.imaging.images import read_image, read_size
from wss_data.imaging.masks import foreground_ratio, open_mask, read_mask, write_mask
from wss_data.ledger import Ledger
from wss_data.reading import checked
from wss_data.records import ImageRecord, stem_of
from wss_data.retrieval.decode_pool import perceptual_hash
from wss_data.runtime.files import expanded
from wss_data.runtime.home import dataset_folder, dataset_owner
from wss_data.sharing.layouts.base import MASK_TABLE, copy_file
from wss_data.sharing.manifest import MANIFEST_FILE, Manifest, ManifestImage, read_manifest, renamed
from wss_data.spec import DatasetSpec
from wss_data.store.provenance import ImageRow, image_rows
from wss_data.store.verdicts import verdict_file

if TYPE_CHECKING:
    from wss_data.store.types import Dataset

_BATCH = 256  # images a write to the database; their masks are held at once, 30 MB at 340 pixels a side
# Bits of 64 in which the hashes of an image and of its shrunk copy may differ; those of two images differ in 32.
_SAME_LOOKS = 16
_IMAGES, _MASKS = "JPEGImages", "SegmentationClass"
_FRACTIONS = ("confidence", "foreground_ratio")
_QUALITY = "quality."
_ROUNDING = 1e-6  # by so much a fraction that was computed may lie beyond its range


@dataclass(frozen=True)
class ExportedImage:
    """One image of an export."""

    listed: ManifestImage  # what the manifest says of it
    record: ImageRecord  # what will be stored
    path: Path
    mask: Path | None
    facts: Mapping[str, Any]  # confidence, foreground_ratio and quality, as far as the table of masks has them


@dataclass(frozen=True)
class Export:
    """An export that was checked."""

    spec: DatasetSpec  # of the dataset to be made
    manifest: Manifest  # of the dataset that was exported, dropped images included
    images: tuple[ExportedImage, ...]  # those whose files are there
    acts: tuple[Act, ...]  # what people judged
    passed_over: tuple[str, ...]  # what of the folder was not read or is odd, one sentence each


@dataclass(frozen=True)
class ImportedDataset:
    """What was imported; prints as a few lines."""

    name: str
    folder: Path
    images: int
    masks: int
    not_there: int  # images that the manifest lists and the export lacks: those that were dropped
    can_be_fetched: int  # of them, by `wss-data rebuild`: each class has images with an address
    passed_over: tuple[str, ...] = ()  # what else of the folder was not read or is odd, one sentence each

    def __str__(self) -> str:
        lines = [f"{self.images:,} images and {self.masks:,} masks of {self.folder}."]
        if self.not_there:
            way = "They have no address in the web: only who exported them has them."
            if self.can_be_fetched:
                way = (
                    f"To fetch {self.can_be_fetched:,} of them, which have an address: "
                    f"wss-data rebuild {self.folder / MANIFEST_FILE} --name {self.name}-whole"
                )
            lines.append(f"{self.not_there:,} more are listed in its manifest, such as dropped ones. {way}")
        return "\n".join([*lines, *self.passed_over])


def import_dataset(folder: Path | str, name: str | None = None) -> ImportedDataset:
    """Make a web dataset of what ``export_dataset`` wrote in the layout ``voc``.

    The files are copied, after everything in the folder was checked. Masks count as imported: a later build leaves them
    alone.

    Args:
        folder: The export.
        name: Name of the dataset; by default that of the exported one.

    Raises:
        StoreError: If a dataset of that name exists, the folder is no export of a web dataset in that layout, or a file
            in it is a link or holds a wrong value.
        SourceError: If its manifest is wrong.
        SpecError: If ``name`` cannot be a dataset's.
        ImageError, MaskError: If a file cannot be read, or a mask does not fit its image.
    """
    folder = expanded(folder).absolute()
    export = check_export(folder, name)
    name = export.spec.name
    _refuse_existing(name)  # before the lock, which makes the folder that is looked for
    export.manifest.warn_of_program()
    with dataset_owner(name):
        if store.dataset_exists(name):  # another process was faster; its folder is there by now in any case
            _refuse_existing(name)
        try:
            masks = _store(store.create_or_open(export.spec, "web"), export)
        except BaseException:
            # Neither dataset nor folder was there before.
            if store.dataset_exists(name):
                store.open_dataset(name).delete()
            shutil.rmtree(dataset_folder(name), ignore_errors=True)
            raise
    listed, taken = export.manifest.images, {(item.listed.class_name, item.listed.sha256) for item in export.images}
    with_address = {image.class_name for image in listed if image.provenance.image_url}
    can_be_fetched = sum(
        1 for image in listed if image.provenance.image_url and (image.class_name, image.sha256) not in taken
    )
    if not with_address.issuperset(export.spec.group_names):
        can_be_fetched = 0  # a rebuild is a build: it wants an image of each class
    counts = (len(export.images), masks, len(listed) - len(taken), can_be_fetched)
    return ImportedDataset(name, folder, *counts, export.passed_over)


def _refuse_existing(name: str) -> None:
    store.check_name(name)
    if store.dataset_exists(name) or dataset_folder(name).exists():
        raise StoreError(
            f"dataset '{name}' exists already, or its folder {dataset_folder(name)} does. "
            f"Give the imported one a name of its own (--name), or delete that: wss-data delete {name} --files"
        )


def check_export(folder: Path, name: str | None = None) -> Export:
    """Find everything that can be wrong with an export, raised as by ``import_dataset``; no database is touched."""
    if not folder.is_dir():
        raise StoreError(f"{folder}: there is no such folder.")
    if not (folder / _IMAGES).is_dir():
        raise StoreError(
            f"{folder}: no {_IMAGES} is in it, so that it is no export that can be read back. Of the layouts of "
            "`wss-data export` that is `voc`: export the dataset again with --layout voc."
        )
    # A link in place of a folder would lead the checks of single files to anywhere.
    if links := [folder / part for part in (_IMAGES, _MASKS) if (folder / part).is_symlink()]:
        raise StoreError(f"{links[0]} is a link; the folder itself is wanted. Nothing was imported.")
    if _file(folder, MANIFEST_FILE) is None:
        raise StoreError(
            f"{folder}: has no {MANIFEST_FILE}, so that it is no export of a web dataset. "
            "A target dataset in the layout voc is read by `wss-data import-target`."
        )
    manifest = read_manifest(folder / MANIFEST_FILE, masks=False)
    spec = renamed(manifest.spec, name)
    listed = {f"{image.class_name}_{stem_of(image.sha256)}": image for image in manifest.images}
    facts, passed_over = _read_facts(folder, listed)
    images = []
    for key, image in listed.items():
        path, mask = (
            _file(folder, part, f"{key}{suffix}", largest=checked.LARGEST_IMAGE)
            for part, suffix in ((_IMAGES, ".jpg"), (_MASKS, ".png"))
        )
        if path is not None:
            images.append(ExportedImage(image, _record(image, path, spec.name), path, mask, facts.get(key, {})))
    if not images:
        raise StoreError(f"{folder}: none of the {len(manifest.images):,} images of its manifest is there.")
    acts = read_acts(folder / FILE) if _file(folder, FILE) else []
    passed_over += [manifest.unknown_note] if manifest.unknown_note else []
    taken = {item.path.stem for item in images}
    for part in (_IMAGES, _MASKS):
        if unlisted := [path.name for path in (folder / part).glob("*") if path.stem not in taken]:
            passed_over.append(
                f"Passed over are {len(unlisted):,} files in {part} that belong to no image of the manifest, such as "
                f"{shown(min(unlisted))}."
            )
    if others := [item.path.name for item in images if not _check_files(item, spec)]:
        passed_over.append(
            f"{len(others):,} images look like others than those that the manifest lists, such as {others[0]}: "
            "do title, author and licence belong to them?"
        )
    return Export(spec, manifest, tuple(images), tuple(acts), tuple(passed_over))


def _file(folder: Path, *parts: str, largest: int | None = None) -> Path | None:
    try:
        return checked.file_inside(folder, *parts, largest=largest)
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder}: {error}. Nothing was imported.") from error


def _read_facts(folder: Path, listed: Mapping[str, ManifestImage]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What the table of masks says of each image, and what of the table was passed over."""
    path = _file(folder, MASK_TABLE)
    if path is None:
        return {}, []
    facts: dict[str, dict[str, Any]] = {}
    number = 0
    try:
        lines = checked.table_lines(path)
        number, header = next(lines, (1, []))
        if not {"image", "class"} <= set(header) or len(set(header)) < len(header):
            raise ValueError(f"columns 'image' and 'class' are wanted, each once, found {shown(header)}")
        for place, cells in lines:
            number = place
            if len(cells) != len(header):
                raise ValueError(f"{len(cells):,} cells, the first line has {len(header):,}")
            row = dict(zip(header, cells, strict=True))
            image = listed.get(row["image"])
            if image is None or image.class_name != row["class"]:
                raise ValueError(f"image {shown(row['image'])} of class {shown(row['class'])} is not in the manifest")
            if row["image"] in facts:
                raise ValueError(f"image {shown(row['image'])} is there twice")
            facts[row["image"]] = _facts(row)
    except (OSError, ValueError) as error:
        where = f", line {number}:" if number and not isinstance(error, OSError) else ":"
        raise StoreError(f"{path}{where} {error}. Nothing was imported.") from error
    # The score is a rank among the dataset's own masks, and computed anew.
    known = ("image", "class", "method", *_FRACTIONS, *(_QUALITY + name for name in (*RANGES, "score")))
    unknown = [column for column in header if column not in known]
    return facts, [f"Passed over are columns of {MASK_TABLE} that nobody reads: {shown(unknown)}."] if unknown else []


def _facts(row: Mapping[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = {name: _number(row[name], name, 0, 1) for name in _FRACTIONS if row.get(name)}
    measures: dict[str, Any] = {}
    for measure in fields(MaskQuality):
        name, (low, high) = _QUALITY + measure.name, RANGES[measure.name]
        if text := row.get(name):
            whole = measure.type is int
            measures[measure.name] = (
                checked.whole_of(text, name, int(low), int(high)) if whole else _number(text, name, low, high)
            )
    # All or none: one missing measure would leave a quality that no mask has.
    if len(measures) == len(fields(MaskQuality)):
        facts["quality"] = MaskQuality(**measures)
    return facts


def _number(text: str, name: str, low: float, high: float) -> float:
    return checked.number_of(text, name, low - _ROUNDING, high + _ROUNDING)


def _record(listed: ManifestImage, path: Path, dataset_name: str) -> ImageRecord:
    size = read_size(path)
    return ImageRecord(
        sha256=listed.sha256,
        class_name=listed.class_name,
        path=dataset_folder(dataset_name) / "images" / listed.class_name / f"{stem_of(listed.sha256)}.jpg",
        size=size,
        original_size=listed.size or size,
        phash=listed.phash or "",
        provenance=listed.provenance,
    )


def _check_files(item: ExportedImage, spec: DatasetSpec) -> bool:
    """Whether the image looks like the one that the manifest lists; what is wrong with it or its mask is raised."""
    # Decoded whole: a damaged image would stop a later build or training instead.
    image = read_image(item.path)
    if item.mask is not None:
        allowed = {0, spec.class_index(item.record.class_name), spec.ignore_index}
        open_mask(item.mask, item.record.size, allowed)
    # The digest is that of the original, not of this smaller copy: its looks are all that can be compared.
    listed = item.listed.phash
    return listed is None or (int(listed, 16) ^ int(perceptual_hash(image), 16)).bit_count() <= _SAME_LOOKS


def _store(dataset: "Dataset", export: Export) -> int:
    """Store images, masks, verdicts and tags; returns the number of masks."""
    for start in range(0, len(export.images), _BATCH):
        part = export.images[start : start + _BATCH]
        for item in part:
            copy_file(item.path, item.record.path)
        store.add_records(dataset, [item.record for item in part])
    items = {(item.listed.class_name, item.listed.sha256): item for item in export.images}
    rows = [(row, items[row.class_name, row.sha256]) for row in image_rows(dataset)]
    masks = [(row, partial(read_mask, item.mask), item.facts) for row, item in rows if item.mask is not None]
    take_masks(dataset, export.spec, export.manifest.ledger, masks)
    # Written anew rather than copied: what was checked is what is stored.
    for act in export.acts:
        add_act(verdict_file(dataset), act)
    if export.acts:
        store.restore_verdicts(dataset)
    there = dict(zip(*dataset.values(["id", "verdict"]), strict=True))
    listed = {row.sample_id: item.listed.verdict for row, item in rows}
    missing = {key: verdict for key, verdict in listed.items() if verdict and not there.get(key)}
    store.take_over_verdicts(dataset, missing, "as in the export that it was imported from")
    store.apply_filter(dataset, export.spec.filters)
    # Last: the tags as they were, whatever thresholds had set them.
    dataset.set_values("tags", {row.sample_id: list(item.listed.tags) for row, item in rows}, key_field="id")
    return len(masks)


def take_masks(
    dataset: "Dataset",
    spec: DatasetSpec,
    ledger: Ledger,
    masks: Sequence[tuple[ImageRow, Callable[[], np.ndarray | None], Mapping[str, Any]]],
) -> int:
    """Store masks that were made elsewhere; returns how many. A build leaves them alone.

    Args:
        dataset: A web dataset.
        spec: Its definition, whose indices the masks hold.
        ledger: What they were made from.
        masks: Image, a function that reads its label mask, (H, W) uint8, or gives ``None`` where it does not fit, and
            what is known of the mask: ``confidence``, ``foreground_ratio`` and ``quality``, both computed if missing.
    """
    store.set_ledger(dataset, store.MASKS, ledger, origin=store.IMPORTED)
    taken = 0
    for start in range(0, len(masks), _BATCH):
        values = []
        for row, mask_of, facts in masks[start : start + _BATCH]:
            if (mask := mask_of()) is None:
                continue
            band = mask == spec.ignore_index
            foreground = (mask != 0) & ~band
            path = dataset_folder(dataset.name) / store.IMPORTED / row.class_name / f"{Path(row.path).stem}.png"
            write_mask(mask, path)
            ratio, quality = facts.get("foreground_ratio"), facts.get("quality")
            if quality is None:
                # An empty mask has none, nor has an image that was removed by hand; the filter sees to both.
                with suppress(ImageError, ValueError):
                    quality = mask_quality(read_image(row.path), foreground, band)
            if ratio is None:
                ratio = foreground_ratio(foreground, band)
            known = (facts.get("confidence"), ratio, quality, store.IMPORTED, None)
            values.append(store.MaskValues(row.sample_id, str(path), *known))
        store.set_masks(dataset, store.MASKS, values)
        taken += len(values)
    return taken
