"""Build the web dataset: retrieve, co-segment, filter, draw sheets. Resumable."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from wss_data import store
from wss_data.cosegmentation import make_engine
from wss_data.errors import SourceError, StoreError
from wss_data.pipeline.class_groups import cosegment
from wss_data.pipeline.summary import write_dataset_sheets
from wss_data.reading.listing import passed_over_summary
from wss_data.records import stem_of
from wss_data.retrieval.expectation import expectation
from wss_data.retrieval.journal import Journal, Status
from wss_data.retrieval.retrieve import Manner, remove_unrecorded, retrieve
from wss_data.retrieval.sources import make_source
from wss_data.retrieval.sources.base import Source
from wss_data.retrieval.sources.folder import FolderSource
from wss_data.runtime.database import loss_reported
from wss_data.runtime.files import remove_unfinished
from wss_data.runtime.home import dataset_folder, dataset_owner
from wss_data.spec import DEFINITION_FILE, DatasetSpec, SourceSpec, definition_asked_for, keep_definition

LOGGER = logging.getLogger(__name__)

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
