"""Images and masks of a web dataset: add, group, mask, filter, and import masks made elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wss_data.cosegmentation.quality import MaskQuality
from wss_data.errors.names import printable
from wss_data.filtering.filters import GONE, SCREENING_TAGS, FilterReport, decide, filter_report, retagged
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ImageRecord, Provenance
from wss_data.runtime.files import expanded
from wss_data.runtime.home import dataset_folder, dataset_owner
from wss_data.spec import FilterSpec
from wss_data.store.appearance import declare_masks
from wss_data.store.connection import fiftyone, wait_until_on_disk
from wss_data.store.info import (
    BEFORE_IMPORT,
    IMPORTED,
    MASKS,
    applied_filters,
    class_names,
    definition,
    mark_filter_stale,
    mask_ledger,
    set_ledger,
    update,
    web_info,
)
from wss_data.store.ranking import rank_masks

if TYPE_CHECKING:
    import fiftyone as fo

    from wss_data.cosegmentation.imported import ImportReport


@dataclass(frozen=True)
class Member:
    """One image of a group.

    Args:
        sample_id: Its identity in the dataset.
        path: The stored file.
        sha256: Hex digest of the original.
        fingerprint: Of the group and settings that made its mask, or ``None`` without a mask.
        method: Name of the engine that made it, or ``imported``, or ``None``.
        mask_path: The mask's file, or ``None``.
    """

    sample_id: str
    path: str
    sha256: str
    fingerprint: str | None
    method: str | None
    mask_path: str | None


@dataclass(frozen=True)
class MaskValues:
    """What is stored of one mask.

    Args:
        sample_id: The image's identity in the dataset.
        mask_path: Label mask (palette PNG).
        confidence: In [0, 1], or ``None`` where nobody can tell.
        foreground_ratio: Share of the pixels that are foreground, in [0, 1].
        quality: Truth-free measures of the mask.
        method: Engine that made it.
        fingerprint: Changes when the mask would.
    """

    sample_id: str
    mask_path: str
    confidence: float | None
    foreground_ratio: float
    quality: MaskQuality | None
    method: str
    fingerprint: str | None


def add_records(dataset: "fo.Dataset", records: Sequence[ImageRecord]) -> int:
    """Store images; one that the class holds already (same original bytes) is not stored again.

    Returns:
        Number of images added.
    """
    fo = fiftyone()
    wanted = {(record.class_name, record.sha256): record for record in records}
    # Written as MongoDB's own condition: an expression of FiftyOne's would read every image instead of the index.
    view = dataset.match({"sha256": {"$in": [record.sha256 for record in records]}})
    there = set(zip(*view.values(["label.label", "sha256"]), strict=True))
    new = [record for key, record in wanted.items() if key not in there]
    if new:
        mark_filter_stale(dataset)
        dataset.add_samples([_sample(fo, record) for record in new], progress=False)
    # Those that were there, too: whoever stored them may have been killed before this line.
    wait_until_on_disk(dataset)
    return len(new)


def set_gone(dataset: "fo.Dataset", contents: Mapping[tuple[str, str], Provenance | None]) -> None:
    """Tag the images whose original is gone, and take the tag from those that came back.

    Args:
        dataset: A web dataset.
        contents: (class, sha256) of content that was gone -> where it came back from; ``None`` if it is gone still.
    """
    if not contents:
        return
    fo = fiftyone()
    view = dataset.match({"sha256": {"$in": sorted({sha256 for _, sha256 in contents})}})
    sizes = ["provenance.original_width", "provenance.original_height"]
    tags, origins, repeats = {}, {}, dict[str, None]()
    for key, name, sha256, old, *size in zip(
        *view.values(["id", "label.label", "sha256", "tags", *sizes]), strict=True
    ):
        if (name, sha256) not in contents:
            continue
        origin = contents[name, sha256]
        rest = [tag for tag in old if tag not in (GONE, *SCREENING_TAGS)]
        if origin is not None:
            tags[key] = rest
            origins[key] = _provenance(fo, origin, (size[0], size[1]))
        elif GONE not in old:
            tags[key], repeats[key] = [*rest, GONE], None
    if tags:
        mark_filter_stale(dataset)
        update(dataset, screening=None)
        dataset.set_values("provenance", origins, key_field="id")
        dataset.set_values("duplicate_of", repeats, key_field="id")
        dataset.set_values("tags", tags, key_field="id")


def _provenance(fo: Any, provenance: Provenance, original_size: tuple[int, int]) -> Any:
    values = {**asdict(provenance), "opt_outs": list(provenance.opt_outs)}
    values["original_width"], values["original_height"] = original_size
    return fo.DynamicEmbeddedDocument(**values)


def _sample(fo: Any, record: ImageRecord) -> Any:
    return fo.Sample(
        filepath=str(record.path),
        metadata=fo.ImageMetadata(width=record.size[0], height=record.size[1], num_channels=3, mime_type="image/jpeg"),
        image_id=f"{record.class_name}/{Path(record.path).stem}",
        label=fo.Classification(label=record.class_name),
        sha256=record.sha256,
        phash=record.phash,
        provenance=_provenance(fo, record.provenance, record.original_size),
    )


def group_members(dataset: "fo.Dataset", class_name: str, field: str = MASKS) -> list[Member]:
    """The images of one class that are co-segmented together.

    Repeats, leaks and the like (``SCREENING_TAGS``) stay out, unless a person's verdict is to keep them; so do images
    whose original is gone, and those that a person dropped, which would teach the group what the class is not.

    Args:
        dataset: A web dataset.
        class_name: The class.
        field: Field of the masks whose state is told.

    Returns:
        Them in the order of their digests: the same whatever order they came in.
    """
    fo = fiftyone()
    verdict = fo.ViewField("verdict")
    wanted = (verdict == "keep") | ((verdict != "drop") & ~fo.ViewField("tags").contains(list(SCREENING_TAGS)))
    wanted &= ~fo.ViewField("tags").contains(GONE)
    # The class first, as MongoDB's own condition: it finds the class by its index.
    group = dataset.match({"label.label": class_name}).match(wanted)
    fields = ["id", "filepath", "sha256", f"{field}.fingerprint", f"{field}.method", f"{field}.mask_path"]
    return sorted((Member(*row) for row in zip(*group.values(fields), strict=True)), key=lambda m: (m.sha256, m.path))


def set_masks(dataset: "fo.Dataset", field: str, values: Sequence[MaskValues]) -> None:
    """Store masks and what is known of them; masks that were there are replaced.

    The numbers of an image are those of its mask in ``cosegmentation``, and other fields leave them alone.

    Args:
        dataset: A web dataset.
        field: Field that holds the masks.
        values: One entry a mask.
    """
    if not values:
        return
    fo = fiftyone()
    by_id = {v.sample_id: v for v in values}
    if field == MASKS:
        mark_filter_stale(dataset)
        for name in ("foreground_ratio", "confidence"):
            dataset.set_values(name, {key: getattr(v, name) for key, v in by_id.items()}, key_field="id")
        qualities = {
            key: fo.DynamicEmbeddedDocument(**asdict(v.quality)) if v.quality else None for key, v in by_id.items()
        }
        dataset.set_values("quality", qualities, key_field="id")
    # Last: whoever finds a fingerprint finds the numbers, too.
    masks = {
        key: fo.Segmentation(mask_path=v.mask_path, method=v.method, fingerprint=v.fingerprint)
        for key, v in by_id.items()
    }
    dataset.set_values(field, masks, key_field="id")


def apply_filter(dataset: "fo.Dataset", filters: FilterSpec | None = None, dry_run: bool = False) -> FilterReport:
    """Step 3 on a stored dataset: tag each image as kept, or dropped with the reason. Nothing is deleted.

    May be applied again with other thresholds at any time: the tags of the earlier
    filter go, reasons found elsewhere (``dropped:duplicate``) stay, and a person's
    ``verdict`` (``keep`` or ``drop``) wins.

    Args:
        dataset: A web dataset.
        filters: The thresholds; ``None`` for those applied last, or the definition's if none were.
        dry_run: Whether only to count.

    Returns:
        Counts per class.

    Raises:
        StoreError: If it is no web dataset.
    """
    info = web_info(dataset, "filtered")
    filters = filters or applied_filters(dataset) or FilterSpec(**info["definition"]["filters"])
    fields = ["id", "label.label", "foreground_ratio", "verdict", "tags", "confidence"]
    ids, names, ratios, verdicts, tags, confidences = dataset.values(fields)
    decisions = [
        decide(ratio, verdict, old, filters, confidence)
        for ratio, verdict, old, confidence in zip(ratios, verdicts, tags, confidences, strict=True)
    ]
    report = filter_report(class_names(dataset), names, ratios, verdicts, decisions, filters)
    if not dry_run:
        if not info["filter"]["current"]:
            rank_masks(dataset)  # images or masks came since: each stands elsewhere among the others
        wanted = {key: retagged(old, decision) for key, old, decision in zip(ids, tags, decisions, strict=True)}
        changed = {key: wanted[key] for key, old in zip(ids, tags, strict=True) if wanted[key] != old}
        if changed:
            dataset.set_values("tags", changed, key_field="id")
        state = {"applied": asdict(filters), "of_definition": info["definition"]["filters"], "current": True}
        if info["filter"] != state:
            update(dataset, filter=state)
    return report


def import_masks(
    dataset: "fo.Dataset", folder: Path | str, skip_bad: bool = False, supervision: str = Supervision.UNKNOWN
) -> "ImportReport":
    """Take masks that were computed elsewhere in place of the engine's.

    All are checked before the first is taken. The earlier masks stay in the field ``cosegmentation_before_import``,
    those that a second import replaces in ``cosegmentation_before_import_2``, and so on; a later build leaves
    imported masks alone.
    The filter is applied again with the thresholds in force.

    Args:
        dataset: A web dataset.
        folder: Holds ``<class>/<stem>.png`` or ``.mat``, 0 and 255, 0 and 1, or 0 and the class index; the stem is
            that of the stored file or of the image at its source. ``<class>.mat`` may hold all masks of a class.
        skip_bad: Whether to take the good masks although others are bad or missing.
        supervision: What the program that made the masks had learned from, for the ledger.

    Returns:
        Counts, and what could not be taken.

    Raises:
        SourceError: If the folder is missing or holds no mask.
        StoreError: If a mask is bad or missing and ``skip_bad`` is off, none is good, or it is no web dataset; or
            another process works on the dataset (``BusyError``).
    """
    from wss_data.cosegmentation.imported import KnownImage, file_of_url, write_imported

    web_info(dataset, "given co-segmentation masks")
    folder, level = expanded(folder).absolute(), Supervision(supervision)
    sizes = ["metadata.width", "metadata.height", "provenance.original_width", "provenance.original_height"]
    known = ["id", "label.label", "filepath", "provenance.source_id", "provenance.image_url"]
    rows = zip(*dataset.values([*known, *sizes]), strict=True)
    index = {class_name: position for position, class_name in enumerate(class_names(dataset), start=1)}
    images = [
        KnownImage(
            key,
            class_name,
            path,
            source_id,
            (width, height),
            (original_width, original_height),
            index[class_name],
            file_of_url(url),
        )
        for key, class_name, path, source_id, url, width, height, original_width, original_height in rows
    ]
    with dataset_owner(dataset.name):
        masks, report = write_imported(
            folder,
            images,
            class_names(dataset),
            _new_folder(dataset_folder(dataset.name)),
            skip_bad,
            definition(dataset).ignore_index,
        )

        taken = [mask.image.sample_id for mask in masks]
        keep_earlier_masks(dataset, taken)
        entry = Ledger().add(
            f"masks computed elsewhere, imported from {printable(folder)}", level, UsedFor.COSEGMENTATION
        )
        add_imported_ledger(dataset, entry, taken)
        set_masks(
            dataset,
            MASKS,
            [
                MaskValues(m.image.sample_id, str(m.path), None, m.foreground_ratio, m.quality, IMPORTED, None)
                for m in masks
            ],
        )
        apply_filter(dataset)
    return report


def keep_earlier_masks(dataset: "fo.Dataset", sample_ids: Sequence[str]) -> str | None:
    """Copy the masks in use, which are about to be replaced, to a field of their own, with what made them and when
    they were replaced.

    Args:
        dataset: A web dataset.
        sample_ids: The images whose masks will be replaced.

    Returns:
        The field, ``cosegmentation_before_import`` or the next of its kind; ``None`` if there was no mask.
    """
    fo = fiftyone()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    view = dataset.select(list(sample_ids))
    earlier = {
        key: fo.Segmentation(
            mask_path=mask.mask_path, method=mask.method, fingerprint=mask.fingerprint, replaced_at=now
        )
        for key, mask in zip(*view.values(["id", MASKS]), strict=True)
        if mask is not None
    }
    if not earlier:
        return None
    field = next(name for name in _numbered(BEFORE_IMPORT) if not dataset.has_sample_field(name))
    ledger = mask_ledger(view, MASKS)
    declare_masks(fo, dataset, field)
    dataset.add_sample_field(f"{field}.replaced_at", fo.StringField)
    dataset.set_values(field, earlier, key_field="id")
    set_ledger(dataset, field, ledger)
    return field


def add_imported_ledger(dataset: "fo.Dataset", ledger: Ledger, replaced: Sequence[str]) -> None:
    """Note what masks from elsewhere were made from, beside that of imported masks that stay.

    Args:
        dataset: A web dataset.
        ledger: Of the new masks.
        replaced: Sample ids of the images that get them.
    """
    others = dataset.exclude(list(replaced)).match({f"{MASKS}.method": IMPORTED})
    if len(others):
        ledger = mask_ledger(others, MASKS).merged_with(ledger)
    set_ledger(dataset, MASKS, ledger, origin=IMPORTED)


def _new_folder(folder: Path) -> Path:
    """Where the masks of one import go, so that those of an earlier one stay."""
    return next(folder / name for name in _numbered(IMPORTED) if not (folder / name).exists())


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(2))
