"""Images and masks of a web dataset: add, group, mask, filter, rank, and import masks made elsewhere.

Each function raises ``StoreError`` for a target dataset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from wss_data.cosegmentation.imported import ImportReport, KnownImage, file_of_url, write_good, write_imported
from wss_data.cosegmentation.label_tools import is_of_label_tool, match_label_tool
from wss_data.cosegmentation.quality import MaskQuality, quality_scores
from wss_data.errors.names import printable
from wss_data.filtering.filters import GONE, SCREENING_TAGS, UNREADABLE, FilterReport, decide, filter_report, retagged
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.records import ImageRecord, Provenance
from wss_data.runtime.files import expanded, temporary_folder
from wss_data.runtime.home import dataset_folder, dataset_owner
from wss_data.spec import BACKGROUND, FilterSpec
from wss_data.store.appearance import declare_masks
from wss_data.store.connection import fiftyone, wait_until_on_disk
from wss_data.store.info import (
    BEFORE_IMPORT,
    IMPORTED,
    MASKS,
    SCORE,
    applied_filters,
    class_names,
    definition,
    group_names,
    mark_filter_stale,
    mask_ledger,
    rows,
    set_ledger,
    update,
    web_info,
)
from wss_data.store.types import Collection, Dataset, View

# Fields that the quality score is made of: each asks for the mask a second time, in a way of its own.
MEASURES = ("confidence", "quality.agreement", "quality.crf_agreement")


_NO_OBJECT = FilterSpec(0, 1)  # thresholds for images of the background: their masks are empty as they should be


@dataclass(frozen=True)
class Member:
    """One image of a group; ``fingerprint``: of the group and settings that made its mask, if it has one.

    ``sha256``: hex digest of the original's bytes; ``method``: name of the engine, or ``imported``.
    """

    sample_id: str
    path: str
    sha256: str
    fingerprint: str | None
    method: str | None
    mask_path: str | None


@dataclass(frozen=True)
class MaskValues:
    """What is stored of one mask, a label mask (palette PNG); ``method`` and ``fingerprint`` as in ``Member``.

    ``confidence`` and ``foreground_ratio`` are in [0, 1], ``quality`` holds measures that do not know the truth.
    """

    sample_id: str
    mask_path: str
    confidence: float | None
    foreground_ratio: float
    quality: MaskQuality | None
    method: str
    fingerprint: str | None


def add_records(dataset: Dataset, records: Sequence[ImageRecord]) -> int:
    """Store images, unless the class holds them already (same original bytes). Returns the number of new ones."""
    wanted = {(record.class_name, record.sha256): record for record in records}
    # Written as MongoDB's own condition: an expression of FiftyOne's would read every image instead of the index.
    view = dataset.match({"sha256": {"$in": [record.sha256 for record in records]}})
    there = set(rows(view, "label.label", "sha256"))
    new = [record for key, record in wanted.items() if key not in there]
    if new:
        mark_filter_stale(dataset)
        dataset.add_samples([_sample(record) for record in new], progress=False)
    # Those that were there, too: the process that stored them may have been killed before this line.
    wait_until_on_disk(dataset)
    return len(new)


def set_gone(dataset: Dataset, contents: Mapping[tuple[str, str], Provenance | None]) -> None:
    """Tag the images whose original is gone, and take the tag from those that came back.

    ``contents``: (class, sha256) of content that was gone -> where it came back from; ``None`` if it is still gone.
    """
    if not contents:
        return
    view = dataset.match({"sha256": {"$in": [sha256 for _, sha256 in contents]}})
    sizes = ("provenance.original_width", "provenance.original_height")
    tags: dict[str, list[str]] = {}
    origins, repeats = {}, dict[str, None]()
    for key, name, sha256, old, *size in rows(view, "id", "label.label", "sha256", "tags", *sizes):
        if (name, sha256) not in contents:
            continue
        origin = contents[name, sha256]
        rest = [tag for tag in old if tag not in (GONE, *SCREENING_TAGS)]
        if origin is not None:
            tags[key] = rest
            origins[key] = _provenance(origin, (size[0], size[1]))
        elif GONE not in old:
            tags[key], repeats[key] = [*rest, GONE], None
    if tags:
        mark_filter_stale(dataset)
        update(dataset, screening=None)
        for field, values in ("provenance", origins), ("duplicate_of", repeats), ("tags", tags):
            dataset.set_values(field, values, key_field="id")


def _provenance(provenance: Provenance, original_size: tuple[int, int]) -> Any:
    width, height = original_size
    values = {**asdict(provenance), "opt_outs": list(provenance.opt_outs)}
    return fiftyone().DynamicEmbeddedDocument(**values, original_width=width, original_height=height)


def _sample(record: ImageRecord) -> Any:
    fo = fiftyone()
    return fo.Sample(
        filepath=str(record.path),
        metadata=fo.ImageMetadata(width=record.size[0], height=record.size[1], num_channels=3, mime_type="image/jpeg"),
        image_id=f"{record.class_name}/{Path(record.path).stem}",
        label=fo.Classification(label=record.class_name),
        sha256=record.sha256,
        phash=record.phash,
        provenance=_provenance(record.provenance, record.original_size),
    )


def _in_a_group() -> Any:
    """The condition on images that take part in co-segmentation."""
    fo = fiftyone()
    verdict, tags = fo.ViewField("verdict"), fo.ViewField("tags")
    # What a person dropped would teach the group what the class is not.
    return ((verdict == "keep") | ((verdict != "drop") & ~tags.contains(list(SCREENING_TAGS)))) & ~tags.contains(GONE)


def in_groups(examples: Collection) -> View:
    """The images of a web dataset, or of a view of one, that can be segmented: those of its classes' groups that can
    be read, also where the filter dropped them for the mask that they have now.
    """
    classes = {"label.label": {"$in": list(class_names(examples))}}
    return examples.match(classes).match(_in_a_group() & ~fiftyone().ViewField("tags").contains(UNREADABLE))


def group_members(dataset: Dataset, class_name: str, field: str = MASKS) -> list[Member]:
    """The images of one class that are co-segmented together, with the state of their masks in ``field``.

    Those that screening tagged stay out, unless a person's verdict is to keep them; so do images whose original is
    gone. They are in the order of their digests: the same whatever order they came in.
    """
    # The class first, as MongoDB's own condition: it finds the class by its index.
    group = dataset.match({"label.label": class_name}).match(_in_a_group())
    masks = (f"{field}.fingerprint", f"{field}.method", f"{field}.mask_path")
    members = (Member(*row) for row in rows(group, "id", "filepath", "sha256", *masks))
    return sorted(members, key=lambda member: (member.sha256, member.path))


def set_masks(dataset: Dataset, field: str, values: Sequence[MaskValues]) -> None:
    """Store masks and what is known of them in ``field``; masks that were there are replaced."""
    if not values:
        return
    fo = fiftyone()
    # The numbers of an image are those of the mask in use; a mask of another field carries its confidence itself.
    if field == MASKS:
        mark_filter_stale(dataset)
        quality = {v.sample_id: fo.DynamicEmbeddedDocument(**asdict(v.quality)) if v.quality else None for v in values}
        dataset.set_values("foreground_ratio", {v.sample_id: v.foreground_ratio for v in values}, key_field="id")
        dataset.set_values("confidence", {v.sample_id: v.confidence for v in values}, key_field="id")
        dataset.set_values("quality", quality, key_field="id")
    # Last: where a fingerprint is found, the numbers must be written, too.
    masks = {
        v.sample_id: fo.Segmentation(
            mask_path=v.mask_path,
            method=v.method,
            fingerprint=v.fingerprint,
            **({} if field == MASKS else {"confidence": v.confidence}),
        )
        for v in values
    }
    dataset.set_values(field, masks, key_field="id")


def apply_filter(dataset: Dataset, filters: FilterSpec | None = None, dry_run: bool = False) -> FilterReport:
    """Step 3 on a stored dataset: tag each image as kept, or dropped with the reason (``decide``). Nothing is deleted.

    ``filters``: the thresholds; ``None`` for those applied last, or the definition's if none were. ``dry_run``: whether
    only to count.
    """
    info = web_info(dataset, "filtered")
    filters = filters or applied_filters(dataset) or FilterSpec(**info["definition"]["filters"])
    fields = ["id", "label.label", "foreground_ratio", "verdict", "tags", "confidence"]
    ids, names, ratios, verdicts, tags, confidences = dataset.values(fields)
    decisions = [
        decide(ratio, verdict, old, _NO_OBJECT if name == BACKGROUND else filters, confidence)
        for name, ratio, verdict, old, confidence in zip(names, ratios, verdicts, tags, confidences, strict=True)
    ]
    report = filter_report(group_names(dataset), names, ratios, decisions, filters)
    if not dry_run:
        if not info["filter"]["current"]:
            rank_masks(dataset)  # images or masks came since: ranks have changed
        decided = zip(ids, tags, decisions, strict=True)
        # Most tags stay when thresholds change a little: of 75,800 images only the others are written.
        if changed := {key: now for key, old, decision in decided if (now := retagged(old, decision)) != old}:
            dataset.set_values("tags", changed, key_field="id")
        state = {"applied": asdict(filters), "of_definition": info["definition"]["filters"], "current": True}
        update(dataset, filter=state)
    return report


def rank_masks(dataset: Dataset) -> None:
    """Give each mask its score, ``quality.score``: its rank in the dataset, 1 for the least suspicious, 0 the most."""
    for path in (*MEASURES, SCORE):  # of an earlier version's dataset some are missing
        dataset.add_sample_field(path, fiftyone().FloatField)
    ids, measured, before, *measures = dataset.values(["id", "quality.pieces", SCORE, *MEASURES])
    # Three digits: a new image moves all ranks a little, which is not worth a write.
    scores = [None if score is None else round(score, 3) for score in quality_scores(measures)]
    found = zip(ids, measured, scores, before, strict=True)
    if changed := {key: new for key, mask, new, old in found if None not in (mask, new) and new != old}:
        dataset.set_values(SCORE, changed, key_field="id")


def import_masks(
    dataset: Dataset, folder: Path | str, skip_bad: bool = False, supervision: str = Supervision.UNKNOWN
) -> ImportReport:
    """Take masks that were computed elsewhere in place of the engine's; all are checked before the first is taken.

    The earlier masks stay in the field ``cosegmentation_before_import``, those that a second import replaces in
    ``cosegmentation_before_import_2``, and so on; a later build leaves imported masks alone.

    Args:
        dataset: A web dataset.
        folder: Holds ``<class>/<stem>.png`` or ``.mat``, 0 and 255, 0 and 1, or 0 and the class index; the stem is
            that of the stored file or of the image at its source. ``<class>.mat`` may hold all masks of a class. Or
            what a label tool exported: CVAT's ``Segmentation mask 1.1``, a zip file or its folder, or Label Studio's
            JSON. Of these, masks that are as they were stay what they are.
        skip_bad: Whether to take the good masks although others are bad or missing.
        supervision: What the program that made the masks had learned from, for the ledger.

    Raises:
        SourceError: If the folder is missing or holds no mask.
        StoreError: If a mask is bad or missing and ``skip_bad`` is off, none is good, or another process works on the
            dataset (``BusyError``).
    """
    web_info(dataset, "given co-segmentation masks")
    folder, level, classes = expanded(folder).absolute(), Supervision(supervision), class_names(dataset)
    drawn = is_of_label_tool(folder)
    images, void = known_images(dataset, with_masks=drawn), definition(dataset).ignore_index
    with dataset_owner(dataset.name), temporary_folder() as temporary:
        out = new_import_folder(dataset)
        if drawn:
            files, bad = match_label_tool(folder, images, classes, temporary)
            masks, report = write_good(str(folder), files, bad, classes, out, skip_bad, void)
        else:
            masks, report = write_imported(folder, images, classes, out, skip_bad, void)
        if not masks:
            return report
        values = [
            MaskValues(m.image.sample_id, str(m.path), None, m.foreground_ratio, m.quality, IMPORTED, None)
            for m in masks
        ]
        what = f"masks computed elsewhere, imported from {printable(folder)}"
        replace_masks(dataset, values, Ledger().add(what, level, UsedFor.COSEGMENTATION))
    return report


def known_images(dataset: Dataset, with_masks: bool = False) -> list[KnownImage]:
    """The images that masks from elsewhere may belong to: all but those of the background, whose masks are known.

    ``with_masks``: whether to name the masks in use, so that those that come back as they were are left alone.
    """
    classes = class_names(dataset)
    sizes = ("metadata.width", "metadata.height", "provenance.original_width", "provenance.original_height")
    known = ("id", "label.label", "filepath", "provenance.source_id", "provenance.image_url", f"{MASKS}.mask_path")
    images = []
    for key, name, path, source_id, url, mask, *size in rows(dataset, *known, *sizes):
        if name == BACKGROUND:
            continue
        stored, original = (size[0], size[1]), (size[2], size[3])
        index, in_use = classes.index(name) + 1, mask if with_masks else None
        images.append(KnownImage(key, name, path, source_id, stored, original, index, file_of_url(url), in_use))
    return images


def new_import_folder(dataset: Dataset) -> Path:
    """Where an import may put its masks: a folder of its own for each, so that those of an earlier one stay."""
    home = dataset_folder(dataset.name)
    return next(home / name for name in _numbered(IMPORTED) if not (home / name).exists())


def replace_masks(dataset: Dataset, values: Sequence[MaskValues], ledger: Ledger) -> None:
    """Put masks from elsewhere, made from what ``ledger`` says, in place of those in use, and filter again."""
    taken = [value.sample_id for value in values]
    _keep_earlier_masks(dataset, taken)
    others = dataset.exclude(taken).match({f"{MASKS}.method": IMPORTED})
    if len(others):
        ledger = mask_ledger(others, MASKS).merged_with(ledger)
    set_ledger(dataset, MASKS, ledger, origin=IMPORTED)
    set_masks(dataset, MASKS, values)
    apply_filter(dataset)


def _keep_earlier_masks(dataset: Dataset, sample_ids: list[str]) -> None:
    """Copy masks that are about to be replaced to a field of their own, with what made them and the time."""
    fo = fiftyone()
    view = dataset.select(sample_ids)
    now = {"replaced_at": datetime.now(UTC).isoformat(timespec="seconds")}
    earlier = {
        key: fo.Segmentation(
            mask_path=mask.mask_path, method=mask.method, fingerprint=mask.fingerprint, confidence=confidence, **now
        )
        for key, mask, confidence in rows(view, "id", MASKS, "confidence")
        if mask is not None
    }
    if not earlier:
        return
    field = next(name for name in _numbered(BEFORE_IMPORT) if not dataset.has_sample_field(name))
    ledger = mask_ledger(view, MASKS)
    said = f"in use until {now['replaced_at']}, then replaced on {len(earlier):,} images"
    declare_masks(dataset, field, tuple(now), said)
    dataset.set_values(field, earlier, key_field="id")
    set_ledger(dataset, field, ledger)


def _numbered(name: str) -> chain[str]:
    return chain([name], (f"{name}_{number}" for number in count(2)))
