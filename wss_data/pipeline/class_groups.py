"""Co-segment the images of each class of a stored dataset as one group. Resumable."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from wss_data.errors import ImageError, StoreError
from wss_data.filtering.filters import UNREADABLE
from wss_data.imaging.images import read_image
from wss_data.imaging.masks import IGNORE_INDEX, foreground_ratio, label_mask, write_mask
from wss_data.ledger import Ledger
from wss_data.pipeline.summary import write_dataset_sheets
from wss_data.retrieval.retrieve import BATCH
from wss_data.runtime.database import loss_reported
from wss_data.runtime.files import remove_unfinished
from wss_data.runtime.home import dataset_folder, dataset_owner
from wss_data.spec import BACKGROUND, CosegmentationSpec, DatasetSpec

LOGGER = logging.getLogger(__name__)

Watch = Callable[[str, int, int], object]

if TYPE_CHECKING:
    from wss_data.store.types import Dataset


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
