"""The steps of the web dataset in order: retrieve, co-segment, filter, picture. Resumable."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from tqdm import tqdm

from wss_data import store
from wss_data.cosegmentation.base import Engine, ImageFiles, Segmented, group_fingerprint, make_engine
from wss_data.errors import SourceError, StoreError
from wss_data.files import only_one, remove_unfinished
from wss_data.filters import DROPPED, KEPT
from wss_data.home import dataset_folder
from wss_data.journal import Journal, Status
from wss_data.masks import foreground_ratio, label_mask, write_mask
from wss_data.quality import mask_quality
from wss_data.report import DatasetImage, write_pictures
from wss_data.retrieve import BATCH, retrieve
from wss_data.sources.base import Source, make_source
from wss_data.spec import DatasetSpec, SourceSpec, read_spec

if TYPE_CHECKING:
    from wss_data.store.types import Dataset


def build(
    spec: DatasetSpec | str | Path,
    images: str | Path | None = None,
    workers: int | None = None,
    retry: Literal["failed", "dropped"] | None = None,
    search_again: bool = False,
    strict: bool = False,
    progress: bool = True,
    before_masks: Callable[["Dataset"], object] | None = None,
) -> "Dataset":
    """Build the web dataset of a definition, or go on where an earlier build stopped.

    A second build of an unchanged definition does nothing. A build that was
    killed ends, run again, in the same dataset as one that was not.

    Args:
        spec: A definition, its name, or its file.
        images: Folder of images, one folder a class, for the source ``folder``.
        workers: Worker processes; ``None`` for one a processor.
        retry: ``failed`` tries search results again that failed for a reason that may pass (a timeout, say), and
            nothing else that is known; ``dropped`` all that gave no image, but never what is behind an opt-out.
        search_again: Whether sources are asked again for what they answered before; what is new is added.
        strict: Whether a source that cannot be asked (no key, dead service) is an error while others remain.
        progress: Whether to show progress bars.
        before_masks: Called with the dataset when its images are stored and before they are co-segmented, to give it
            masks that are known already; as those of ``import_masks`` they are left alone.

    Returns:
        The dataset, persistent in FiftyOne's database.

    Raises:
        SpecError: If the definition is wrong.
        SourceError: If no source can deliver, one was asked for what it does not have, or a class has no usable image.
        StoreError: If the database cannot be reached, holds a dataset of that name with other classes, or another
            process is building it.
    """
    if not isinstance(spec, DatasetSpec):
        spec = read_spec(spec)
    if images is not None:
        spec = with_images(spec, images)
    # Everything that can be wrong with the definition is found before anything is stored.
    sources = [(make_source(source.name, source.options, spec.longest_side), source) for source in spec.sources]
    engine = make_engine(spec.cosegmentation.method, spec.cosegmentation.options)

    folder = dataset_folder(spec.name)
    with only_one(folder / "lock") as free:
        if not free:
            raise StoreError(
                f"dataset '{spec.name}' is being built by another process ({folder / 'lock'}). Wait for it to end."
            )
        remove_unfinished(folder)
        dataset = store.create_or_open(spec, kind="web")
        _retrieve(dataset, spec, sources, folder, workers, retry, search_again, strict, progress)
        if before_masks is not None:
            before_masks(dataset)
        cosegment(dataset, spec, engine, folder / store.MASKS, workers=workers, progress=progress)
        if (filters := store.filters_to_apply(dataset, spec)) is not None:
            store.apply_filter(dataset, filters)
            write_dataset_pictures(dataset, folder / "pictures")
        return dataset


def _retrieve(
    dataset: "Dataset",
    spec: DatasetSpec,
    sources: list[tuple[Source, SourceSpec]],
    folder: Path,
    workers: int | None,
    retry: Literal["failed", "dropped"] | None,
    search_again: bool,
    strict: bool,
    progress: bool,
) -> None:
    """Search, download, store; then tag what is no photograph of its class alone."""
    with Journal(folder / "journal.sqlite") as journal:
        if retry is not None:
            statuses: tuple[Status, ...] = ("failed",) if retry == "failed" else ("failed", "dropped")
            journal.try_again(statuses, local=[source.name for source, _ in sources if source.local])
        if search_again:
            journal.forget_searches()
        retrieve(
            spec,
            sources,
            folder / "images",
            journal,
            store=lambda records: store.add_records(dataset, records),
            workers=workers,
            strict=strict,
            progress=progress,
        )
        dropped = journal.dropped()
        placeholders = journal.placeholders()
    store.set_drops(dataset, dropped)
    report = screen_dataset(dataset, spec, placeholders)
    _check_groups(
        dataset, spec, {name: dropped.get(name, Counter()) + report.counts(name) for name in spec.class_names}
    )


def screen_dataset(dataset: "Dataset", spec: DatasetSpec, placeholders: frozenset[str]) -> store.ScreenReport:
    """Tag repeats, placeholders and what leaks into the evaluation split of the definition's own target dataset.

    Args:
        dataset: A web dataset.
        spec: Its definition.
        placeholders: Digests of pictures that say that there is none.

    Returns:
        What was found.
    """
    target = store.target_name(spec)
    against = [target] if store.dataset_exists(target) else []
    return store.screen(dataset, spec.duplicates.max_distance, placeholders, against)


def summary_table(dataset: "Dataset") -> str:
    """What a web dataset holds: counts per class, what the filter keeps, and what was dropped before it was stored."""
    lines = [str(store.apply_filter(dataset, dry_run=True))]
    if (screened := store.screened(dataset)).findings:
        lines.append(f"other: left out before co-segmentation\n{screened}")
    for class_name, reasons in store.drops(dataset).items():
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        lines.append(f"{class_name}: not stored: {told}")
    return "\n".join(lines)


def write_dataset_pictures(dataset: "Dataset", folder: Path) -> None:
    """Write the pictures of a web dataset, its masks and its foreground shares, into a folder."""
    write_pictures(picture_rows(dataset), folder, store.applied_filters(dataset))


def picture_rows(dataset: "Dataset") -> list[DatasetImage]:
    """The images of a web dataset as pictures need them, class by class."""
    values = dataset.values(["label.label", "filepath", f"{store.MASKS}.mask_path", "foreground_ratio", "tags"])
    order = {name: position for position, name in enumerate(store.class_names(dataset))}
    rows = []
    for class_name, path, mask_path, ratio, tags in zip(*values, strict=True):
        reasons = [tag.removeprefix(DROPPED) for tag in tags if tag.startswith(DROPPED)]
        rows.append(DatasetImage(class_name, path, mask_path, ratio, KEPT in tags, ", ".join(reasons)))
    return sorted(rows, key=lambda row: order[row.class_name])


def with_images(spec: DatasetSpec, images: str | Path) -> DatasetSpec:
    """The definition with its images taken from a folder, whatever sources it names."""
    limit = next((source.limit for source in spec.sources if source.name == "folder"), None)
    folder = SourceSpec("folder", limit, {"path": str(Path(images).expanduser().absolute())})
    return replace(spec, sources=(folder,))


def _check_groups(dataset: "Dataset", spec: DatasetSpec, dropped: Mapping[str, Counter[str]]) -> None:
    for class_name in spec.class_names:
        if not store.group_members(dataset, class_name):
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.get(class_name, {}).items())
            raise SourceError(
                f"class '{class_name}' has no usable image ({'dropped: ' + reasons if reasons else 'none was found'}). "
                "Add images for it, or take the class out of the definition. Images of other classes are kept."
            )


def cosegment(
    dataset: "Dataset",
    spec: DatasetSpec,
    engine: Engine,
    folder: Path,
    workers: int | None = None,
    progress: bool = True,
) -> int:
    """Co-segment each class of a stored dataset as one group, as far as that is not done.

    A mask counts as done while the group has the same images and the engine the
    same settings. Masks that were imported are left alone.

    Args:
        dataset: A web dataset of ``wss_data``.
        spec: Its definition.
        engine: Makes the masks.
        folder: Where label masks go: ``<folder>/<class>/<stem>.png``.
        workers: Worker processes; ``None`` for one a processor.
        progress: Whether to show progress bars.

    Returns:
        Number of masks made.
    """
    made = 0
    for class_name in spec.class_names:
        members = store.group_members(dataset, class_name)
        fingerprint = group_fingerprint(engine, [member.sha256 for member in members])
        wanted = [i for i, m in enumerate(members) if m.method != store.IMPORTED and m.fingerprint != fingerprint]
        if not wanted:
            continue
        images = ImageFiles([member.path for member in members])
        results = engine.segment_group(images, wanted, workers=workers)
        bar = tqdm(results, total=len(wanted), desc=f"co-segment {class_name}", unit="image", disable=not progress)
        batch: list[store.MaskValues] = []
        for position, segmented in bar:
            member = members[position]
            path = folder / class_name / f"{Path(member.path).stem}.png"
            write_mask(label_mask(segmented.mask, spec.class_index(class_name)), path)
            batch.append(_mask_values(member, path, images[position], segmented, engine.name, fingerprint))
            if len(batch) == BATCH:
                store.set_masks(dataset, store.MASKS, batch)
                batch = []
        store.set_masks(dataset, store.MASKS, batch)
        made += len(wanted)
    store.set_ledger(dataset, store.MASKS, engine.ledger)
    return made


def _mask_values(
    member: store.Member, path: Path, image: np.ndarray, segmented: Segmented, method: str, fingerprint: str
) -> store.MaskValues:
    return store.MaskValues(
        sample_id=member.sample_id,
        mask_path=str(path),
        confidence=segmented.confidence,
        foreground_ratio=foreground_ratio(segmented.mask),
        quality=mask_quality(image, segmented.mask),
        method=method,
        fingerprint=fingerprint,
    )
