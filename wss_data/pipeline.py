"""The steps of the web dataset in order: retrieve, co-segment, filter, draw sheets. Resumable."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from wss_data import store
from wss_data.cosegmentation import make_engine
from wss_data.cosegmentation.base import (
    Engine,
    ImageFiles,
    Segmented,
    full_disk_reported,
    group_fingerprint,
    wanted_positions,
)
from wss_data.cosegmentation.quality import mask_quality
from wss_data.errors import ImageError, SourceError, SpecError, StoreError
from wss_data.filtering.filters import DROPPED, GONE, KEPT, UNREADABLE
from wss_data.imaging.images import read_image
from wss_data.imaging.masks import IGNORE_INDEX, foreground_ratio, label_mask, write_mask
from wss_data.imaging.sheets import DatasetImage, write_sheets
from wss_data.ledger import Ledger
from wss_data.reading.listing import passed_over_summary
from wss_data.records import stem_of
from wss_data.retrieval.expectation import expectation
from wss_data.retrieval.journal import Journal, Status
from wss_data.retrieval.retrieve import BATCH, Manner, remove_unrecorded, retrieve
from wss_data.retrieval.sources import make_source
from wss_data.retrieval.sources.base import Source
from wss_data.retrieval.sources.folder import FolderSource
from wss_data.runtime.database import loss_reported
from wss_data.runtime.files import expanded, remove_unfinished
from wss_data.runtime.home import dataset_folder, dataset_owner
from wss_data.spec import (
    BACKGROUND,
    DEFINITION_FILE,
    CosegmentationSpec,
    DatasetSpec,
    FilterSpec,
    SourceSpec,
    keep_definition,
    read_spec,
    spec_from_classes,
    spec_from_folder,
)

LOGGER = logging.getLogger(__name__)

# Reasons for which a file of a folder could not be read as an image
NOT_READ = frozenset(
    {
        "missing",
        "unreadable",
        "truncated",
        "corrupt",
        "too_large",
        "too_small",
        "decoder_timeout",
        "decoder_killed",
        "decoder_memory",
    }
)

Watch = Callable[[str, int, int], object]

if TYPE_CHECKING:
    from wss_data.store.types import Dataset


@dataclass(frozen=True)
class BuildOptions:
    """How a dataset is built; what is built stands in its definition."""

    workers: int | None = None  # Worker processes; ``None`` for one a processor
    # ``failed`` tries search results again that failed for a reason that may pass (a timeout, say), and nothing else
    # that is known; ``dropped`` all that gave no image, but never what is behind an opt-out
    retry: Literal["failed", "dropped"] | None = None
    # Whether sources are asked again for what they answered before; what is new is added. Of a folder's photographs the
    # dataset then follows what was moved, replaced or deleted, which is only reported otherwise.
    search_again: bool = False
    strict: bool = False  # Whether a source that cannot be asked (no key, dead service) is an error while others remain
    progress: bool = True
    # Whether the program that the definition's co-segmentation names (method ``external``) is run; otherwise such a
    # definition is refused
    allow_programs: bool = False
    # Called with the dataset when its images are stored and before they are co-segmented, to give it masks that are
    # known already; as those of ``import_masks`` they are left alone
    before_masks: Callable[["Dataset"], object] | None = None


@loss_reported()
def build(
    spec: DatasetSpec | str | Path | None = None,
    images: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    limit: int | None = None,
    queries: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> "Dataset":
    """Build the web dataset of a definition, of class names or of a folder, or go on where an earlier build stopped.

    A second build of an unchanged definition does nothing. A build that was
    killed ends, run again, in the same dataset as one that was not. The
    definition that is made from class names is kept as ``definition.yaml`` in
    the dataset's folder.

    Args:
        spec: A definition, its name, or its file.
        images: Folder of images, one folder a class, for the source ``folder``; without ``spec`` these are the classes.
        classes: Class names, in place of a definition; see ``wss_data.spec_from_classes``.
        name: Name of the dataset, where there is no definition; by default made of the class names or the folder's.
        limit: With ``classes``: most images to take for each of them from each source.
        queries: With ``classes``: class -> further queries.
        options: As the arguments of ``BuildOptions``: ``workers``, ``retry``, ``search_again``, ``strict``,
            ``progress``, ``allow_programs``.

    Returns:
        The dataset, persistent in FiftyOne's database.

    Raises:
        SpecError: If the definition is wrong.
        CosegmentationError: If its engine refuses an option, or runs a program without ``allow_programs``.
        SourceError: If no source can deliver, one was asked for what it does not have, or a class has no usable image.
        StoreError: If the database cannot be reached or ends, holds a dataset of that name with other classes, or
            another process is building it.
    """
    how = BuildOptions(**options)
    spec = definition_asked_for(spec, images, classes, name, limit, queries)
    # Everything that can be wrong with the definition is found before anything is stored.
    sources = [(make_source(source.name, source.options, spec.longest_side), source) for source in spec.sources]
    engine = make_engine(spec.cosegmentation.method, spec.cosegmentation.options, how.allow_programs)
    store.check_name(spec.name)

    folder = dataset_folder(spec.name)
    with dataset_owner(spec.name):
        remove_unfinished(folder)
        if classes is not None:
            store.check_place(spec, kind="web")
            keep_definition(spec, folder / DEFINITION_FILE)
        dataset = store.create_or_open(spec, kind="web")
        if classes is not None and how.progress and not len(dataset):
            tqdm.write(expectation(spec, how.workers))
        done = _retrieve(dataset, spec, sources, folder, how)
        if how.before_masks is not None:
            how.before_masks(dataset)
        done += cosegment(dataset, spec, engine, workers=how.workers, progress=how.progress)
        if (filters := store.filters_to_apply(dataset, spec)) is not None:
            store.apply_filter(dataset, filters)
            write_dataset_sheets(dataset, folder / "pictures")
        elif not done:
            LOGGER.warning("%s: nothing to do: its images are stored, and have the masks asked for.", dataset.name)
        return dataset


def definition_asked_for(
    spec: DatasetSpec | str | Path | None = None,
    images: str | Path | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    limit: int | None = None,
    queries: Mapping[str, Sequence[str]] | None = None,
) -> DatasetSpec:
    """The definition that is read, or made of class names or a folder; arguments as those of ``build``.

    Raises:
        SpecError: If it is wrong, or arguments are given that do not go together.
    """
    if classes is not None:
        if spec is not None or images is not None:
            raise SpecError("class names take the place of a definition and of a folder of images; give one of them.")
        return spec_from_classes(classes, name, queries, limit)
    if limit is not None or queries is not None:
        raise SpecError("a limit and queries go with class names alone; a definition has its own inside.")
    if spec is None:
        if images is None:
            raise SpecError(
                "give class names (wss-data build --classes cat dog), a definition (wss-data build drawn) or a folder "
                "of images (wss-data build --images FOLDER)."
            )
        folder = expanded(images).absolute()
        return with_images(spec_from_folder(folder, name or folder.name), folder)
    if name is not None:
        raise SpecError("a name goes with class names or --images alone; a definition has its name inside.")
    spec = spec if isinstance(spec, DatasetSpec) else read_spec(spec)
    return spec if images is None else with_images(spec, images)


def _retrieve(
    dataset: "Dataset", spec: DatasetSpec, sources: list[tuple[Source, SourceSpec]], folder: Path, how: BuildOptions
) -> int:
    """Search, download, store; then tag what is no photograph of its class alone. Returns how many results came in."""
    with Journal(folder / "journal.sqlite") as journal:
        if how.retry is not None:
            statuses: tuple[Status, ...] = ("failed",) if how.retry == "failed" else ("failed", "dropped")
            journal.try_again(statuses, local=[source.name for source, _ in sources if source.local])
        if how.search_again:
            journal.forget_searches()
        if not len(dataset) and (others := journal.of_other_size(spec.longest_side)):
            raise StoreError(
                f"{folder}: holds {others} images that were shrunk to another size than longest_side "
                f"{spec.longest_side}. Set it back, give the definition another name, or remove them, so that they are "
                f"read again: wss-data delete {spec.name} --files"
            )
        if not len(dataset) and (lost := journal.store_again(spec.group_names)):
            LOGGER.warning("%s: the dataset was deleted; %d images come back from disk.", dataset.name, lost)
        known = {stem_of(sha256) for sha256 in journal.digests()}
        remove_unrecorded(folder / "images", known | {Path(path).stem for path in dataset.values("filepath")})
        retrieved = retrieve(
            spec,
            sources,
            folder / "images",
            journal,
            lambda records: store.add_records(dataset, records),
            Manner(how.workers, how.strict, how.progress, follow=how.search_again),
        )
        gone = journal.gone()
        store.set_gone(dataset, gone)
        journal.came_back(content for content, origin in gone.items() if origin is not None)
        dropped = journal.dropped()
        placeholders = journal.placeholders()
    store.find_moved_files(dataset)  # where `WSS_HOME` names a new folder, the images may have been written just now
    store.update(dataset, drops=dropped)
    folders = (source for source, _ in sources if isinstance(source, FolderSource))
    passed_over = {name: counts for source in folders for name, counts in source.passed_over.items() if counts}
    store.update(dataset, passed_over={name: passed_over_summary(counts) for name, counts in passed_over.items()})
    store.restore_verdicts(dataset)
    report = screen_dataset(dataset, spec, placeholders)
    for name in spec.group_names:
        if not store.group_members(dataset, name):
            none = Counter[str]()
            counts = dropped.get(name, none) + passed_over.get(name, none) + report.counts[name]
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
            raise SourceError(
                f"class '{name}' has no usable image ({'dropped: ' + reasons if reasons else 'none was found'}). "
                "Add images for it, or take the class out of the definition. Images of other classes are kept."
            )
    return retrieved.done


def screen_dataset(dataset: "Dataset", spec: DatasetSpec, placeholders: frozenset[str]) -> store.ScreenReport:
    """Tag repeats, images that say that there is none, and what leaks into the target's evaluation splits."""
    against = store.evaluation_splits(store.target_name(spec))
    return store.screen(dataset, spec.duplicates.max_distance, placeholders, against)


def summary_table(dataset: "Dataset") -> str:
    """What a web dataset holds: counts per class, what the filter keeps, and what was dropped before it was stored."""
    lines = [str(store.apply_filter(dataset, dry_run=True))]
    if any((screened := store.screened(dataset)).counts.values()):
        lines.append(f"other: left out before co-segmentation\n{screened}")
    if gone := len(dataset.match_tags(GONE)):
        lines.append(f"other: {gone:,} left the folder that they were read from (dropped:gone)")
    for class_name, reasons in store.drops(dataset).items():
        shown = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        lines.append(f"{class_name}: not stored: {shown}")
    lines += [f"{class_name}: {words}" for class_name, words in store.info_of(dataset).get("passed_over", {}).items()]
    return "\n".join(lines)


def left_out(dataset: "Dataset") -> int:
    """Images that a build could not use: files of a folder that could not be read, and images without a mask.

    What a search in the web brought and could not be read is no loss: there are always some.
    """
    own = any(source.name == "folder" for source in store.definition(dataset).sources)
    drops = store.drops(dataset).values() if own else ()
    unread = sum(count for reasons in drops for reason, count in reasons.items() if reason in NOT_READ)
    return unread + without_mask(dataset)


def without_mask(dataset: "Dataset") -> int:
    """Images of a web dataset that should have a mask and have none."""
    return sum(counts.no_mask for counts in store.apply_filter(dataset, dry_run=True).classes)


def write_dataset_sheets(dataset: "Dataset", folder: Path) -> None:
    """Write the sheets of a web dataset, with its images, masks and foreground ratios, into a folder."""
    filters = store.applied_filters(dataset) or FilterSpec()
    ignore_index = store.definition(dataset).ignore_index
    values = dataset.values(["label.label", "filepath", f"{store.MASKS}.mask_path", "foreground_ratio", "tags"])
    order = {name: position for position, name in enumerate(store.group_names(dataset))}
    rows = []
    for class_name, path, mask_path, ratio, tags in zip(*values, strict=True):
        reasons = [tag.removeprefix(DROPPED) for tag in tags if tag.startswith(DROPPED)]
        rows.append(DatasetImage(class_name, path, mask_path, ratio, KEPT in tags, ", ".join(reasons), ignore_index))
    rows.sort(key=lambda row: order[row.class_name])
    write_sheets(rows, folder, (filters.min_foreground, filters.max_foreground))


def with_images(spec: DatasetSpec, images: str | Path) -> DatasetSpec:
    """The definition with its images taken from a folder, whatever sources it names."""
    limit = next((source.limit for source in spec.sources if source.name == "folder"), None)
    folder = SourceSpec("folder", limit, {"path": str(expanded(images).absolute())})
    return replace(spec, sources=(folder,))


def cosegment(
    dataset: "Dataset",
    spec: DatasetSpec,
    engine: Engine,
    workers: int | None = None,
    progress: bool | Watch = True,
    classes: Collection[str] | None = None,
    field: str = store.MASKS,
) -> int:
    """Co-segment each class of a stored dataset as one group, as far as that is not done.

    A mask counts as done while its file is there, the group has the same images and the engine the
    same settings. Masks that were imported are left alone. An image whose file is gone or broken takes no part, is
    tagged ``dropped:unreadable``, and comes back when it can be read again.

    Args:
        dataset: A web dataset of ``wss_data``.
        spec: Its definition.
        engine: Makes the masks. They go to ``<field>/<class>/<stem>.png`` in the dataset's folder.
        workers: Worker processes; ``None`` for one a processor.
        progress: Whether to show progress bars; or what is called instead after each mask, with the class, how many of
            its masks are made, and how many there will be.
        classes: The classes to do; ``None`` for all.
        field: Field that holds the masks.

    Returns:
        Number of masks made.

    Raises:
        CosegmentationError: If the disk is full; the masks made so far are stored.
    """
    made = 0
    folder = dataset_folder(dataset.name) / field
    # A band on disk holds the definition's own ignore index.
    void = () if spec.ignore_index == IGNORE_INDEX else (spec.ignore_index,)
    for class_name in [name for name in spec.group_names if classes is None or name in classes]:
        members = _readable_members(dataset, class_name, field)
        is_class = class_name != BACKGROUND
        maker: Engine = engine if is_class else _EMPTY
        # An empty mask depends on no other image.
        fingerprint = group_fingerprint(maker, [member.sha256 for member in members if is_class], *void)
        wanted = [
            i
            for i, m in enumerate(members)
            if m.method != store.IMPORTED
            and (m.fingerprint != fingerprint or not (m.mask_path and Path(m.mask_path).is_file()))
        ]
        if wanted:
            group = _Group(dataset, spec, maker, class_name, field, members, fingerprint)
            with full_disk_reported(class_name, folder):
                made += group.make_masks(wanted, folder / class_name, workers, progress)
    ledger = engine.ledger
    if classes is not None:
        # The masks of the other classes stay, and what they were made from with them.
        ledger = store.mask_ledger(dataset, field).merged_with(ledger)
    store.set_ledger(dataset, field, ledger)
    return made


@loss_reported()
def cosegment_again(
    dataset: "Dataset",
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    classes: Collection[str] | None = None,
    workers: int | None = None,
    progress: bool | Watch = True,
    field: str = store.MASKS,
    allow_programs: bool = False,
) -> int:
    """Co-segment the groups of a stored dataset with another engine or other settings, then filter again.

    Only masks that would change are made. The definition stays as it is: a later ``build`` makes the masks that it
    asks for, so what turns out well belongs into the definition.

    Args:
        dataset: A web dataset of ``wss_data``.
        method: Name of the engine; ``None`` for the definition's.
        options: Its options. With the definition's own engine, they are joined with the definition's.
        classes: The classes to do; ``None`` for all.
        workers: Worker processes; ``None`` for one a processor.
        progress: As in ``cosegment``.
        field: Field for the masks. Another than ``cosegmentation``, such as ``cosegmentation_2``, leaves the masks in
            use, the numbers and the filter as they are, to be compared first.
        allow_programs: Whether the engine may be one that runs a program (``external``).

    Returns:
        Number of masks made.

    Raises:
        CosegmentationError: If there is no such engine, it refuses an option, it runs a program without
            ``allow_programs``, or the disk is full.
        SpecError: If the dataset has no such class.
        StoreError: If it is no web dataset, another process is building it, or the field cannot have that name.
    """
    if store.kind_of(dataset) != "web":
        raise StoreError(f"dataset '{dataset.name}' is a target dataset; only web datasets can be co-segmented.")
    spec = store.definition(dataset)
    spec.check_classes(classes)
    wanted = spec.cosegmentation
    if method is not None and method != wanted.method:
        wanted = CosegmentationSpec(method)
    engine = make_engine(wanted.method, {**wanted.options, **(options or {})}, allow_programs)
    folder = dataset_folder(dataset.name)
    with dataset_owner(dataset.name):
        remove_unfinished(folder)
        if field != store.MASKS:
            store.declare_mask_field(dataset, field)
        made = cosegment(dataset, spec, engine, workers, progress, classes, field)
        if (filters := store.filters_to_apply(dataset, spec)) is not None:
            store.apply_filter(dataset, filters)
            write_dataset_sheets(dataset, folder / "pictures")
    return made


def _readable_members(dataset: "Dataset", class_name: str, field: str) -> list[store.Member]:
    """A class's group without the images whose file is gone, or was broken and still is; their tags say so."""
    members = store.group_members(dataset, class_name, field)
    tagged = set(dataset.match_tags(UNREADABLE).values("id"))
    broken = {
        member.sample_id
        for member in members
        if not Path(member.path).is_file() or (member.sample_id in tagged and not _can_be_read(member.path))
    }
    _tag_unreadable(dataset, class_name, broken - tagged)
    if mended := tagged.intersection(member.sample_id for member in members) - broken:
        dataset.select(list(mended)).untag_samples(UNREADABLE)
        store.mark_filter_stale(dataset)
    return [member for member in members if member.sample_id not in broken]


def _can_be_read(path: str) -> bool:
    try:
        read_image(path)
    except ImageError:
        return False
    return True


def _tag_unreadable(dataset: "Dataset", class_name: str, sample_ids: Collection[str]) -> None:
    if sample_ids:
        dataset.select(list(sample_ids)).tag_samples(UNREADABLE)
        store.mark_filter_stale(dataset)
        LOGGER.warning("%s: %d images cannot be read, and are tagged %s.", class_name, len(sample_ids), UNREADABLE)


class _Empty:
    """What stands for the engine of images that show no class: there is nothing to find."""

    name = BACKGROUND
    ledger = Ledger()

    def fingerprint(self) -> str:
        """Always the same: no setting and no other image changes an empty mask."""
        return ""

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        """An empty mask for each wanted image."""
        for position in wanted_positions(images, wanted):
            yield position, Segmented(np.zeros(images[position].shape[:2], bool), 1.0)


_EMPTY = _Empty()


@dataclass(frozen=True)
class _Group:
    """The images of one class, and how their masks are made and stored."""

    dataset: "Dataset"
    spec: DatasetSpec
    engine: Engine
    class_name: str
    field: str
    members: Sequence[store.Member]
    fingerprint: str

    def make_masks(self, wanted: Sequence[int], folder: Path, workers: int | None, progress: bool | Watch) -> int:
        """Make and store the masks at the positions ``wanted``; returns how many there are."""
        bars = progress is True
        paths = [member.path for member in self.members]
        images = ImageFiles(paths, description=f"look at {self.class_name}" if bars else "")
        results = self.engine.segment_group(images, wanted, workers=workers)
        bar = tqdm(results, total=len(wanted), desc=f"co-segment {self.class_name}", unit="image", disable=not bars)
        index = self.spec.class_index(self.class_name)
        made, batch, descriptors = 0, list[store.MaskValues](), dict[str, np.ndarray]()
        try:
            for position, segmented in bar:
                member, image = self.members[position], images[position]
                if position in images.unreadable:
                    continue
                path = folder / f"{Path(member.path).stem}.png"
                write_mask(label_mask(segmented.mask, index, segmented.uncertain, self.spec.ignore_index), path)
                # A grey image stood for a lost one: good masks, but the next build makes those of the group without it.
                fingerprint = None if images.unreadable else self.fingerprint
                if index:
                    values = _mask_values(member, path, image, segmented, self.engine.name, fingerprint)
                else:  # nothing was sought: no confidence, and an object's quality would call it a bad mask
                    values = store.MaskValues(
                        member.sample_id, str(path), None, 0.0, None, self.engine.name, fingerprint
                    )
                batch.append(values)
                if segmented.descriptor is not None:
                    descriptors[member.sample_id] = segmented.descriptor
                made += 1
                if callable(progress):
                    progress(self.class_name, made, len(wanted))
                if len(batch) == BATCH:
                    self._store(batch, descriptors)
                    batch, descriptors = [], {}
        finally:
            # An interruption or a full disk does not undo what was made.
            self._store(batch, descriptors)
        _tag_unreadable(self.dataset, self.class_name, [self.members[i].sample_id for i in images.unreadable])
        if lost := len(wanted) - made - len(images.unreadable.keys() & set(wanted)):
            LOGGER.warning("%s: the engine gave no mask for %d images.", self.class_name, lost)
        return made

    def _store(self, batch: list[store.MaskValues], descriptors: dict[str, np.ndarray]) -> None:
        store.set_masks(self.dataset, self.field, batch)
        network = "; ".join(entry.what for entry in self.engine.ledger.entries)
        store.set_descriptors(self.dataset, descriptors, network)


def _mask_values(
    member: store.Member, path: Path, image: np.ndarray, segmented: Segmented, method: str, fingerprint: str | None
) -> store.MaskValues:
    return store.MaskValues(
        sample_id=member.sample_id,
        mask_path=str(path),
        confidence=segmented.confidence,
        foreground_ratio=foreground_ratio(segmented.mask, segmented.uncertain),
        quality=replace(
            mask_quality(image, segmented.mask, segmented.uncertain),
            agreement=segmented.agreement,
            prototype_distance=segmented.prototype_distance,
        ),
        method=method,
        fingerprint=fingerprint,
    )
