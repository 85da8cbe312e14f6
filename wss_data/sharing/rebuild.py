"""Build a published dataset again from its manifest, and report what has become of each image."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from wss_data import store
from wss_data.errors import MaskError, SourceError, StoreError
from wss_data.filtering.filters import aligned
from wss_data.imaging import masks as mask_files
from wss_data.pipeline import build
from wss_data.reading.cells import csv_text
from wss_data.records import MANIFEST_SOURCE, first_source, source_id_of
from wss_data.retrieval.journal import Entry, Journal, secret_of
from wss_data.runtime.files import expanded, write_output
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.import_dataset import take_masks
from wss_data.sharing.manifest import Manifest, ManifestImage, read_manifest, renamed
from wss_data.spec import DownloadSpec
from wss_data.store.info import info_of
from wss_data.store.provenance import image_rows

if TYPE_CHECKING:
    from wss_data.store.types import Dataset

State = Literal["alive", "changed", "placeholder", "dead", "opted_out", "failed", "no_url"]

_MEANING: Mapping[State, str] = {
    "alive": "the same bytes",
    "changed": "other bytes: stored if it is the same image, dropped if it is another",
    "placeholder": "an image that says that there is none",
    "dead": "gone, refused, or no image any more",
    "opted_out": "behind an opt-out, robots.txt, or forgotten on request",
    "failed": "no answer this time; the same command again tries it once more",
    "no_url": "the manifest has no address",
}

# Reasons of the journal that somebody decided; all others went wrong by themselves.
_OPTED_OUT = ("opted_out", "robots", "forgotten")
_COLUMNS = ("class", "source", "source_id", "image_url", "sha256", "state", "reason", "detail")


@dataclass(frozen=True)
class RebuiltImage:
    """What became of one image of a manifest, and why: as a slug (``gone``, ``timeout``) and as a sentence."""

    image: ManifestImage
    state: State
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class RebuildReport:
    """What became of a manifest; prints as a table."""

    dataset_name: str
    images: tuple[RebuiltImage, ...]  # every image of the manifest
    masks: int = 0  # taken from the manifest
    masks_left: int = 0  # not taken: their image is not the same any more, or they do not fit it
    problem: str | None = None  # why the build ended early
    passed_over: str | None = None  # what of the manifest was not read

    @property
    def counts(self) -> Counter[str]:
        """Number of images in each state."""
        return Counter(item.state for item in self.images)

    @property
    def complete(self) -> bool:
        """Whether every image is what it was."""
        return self.counts["alive"] == len(self.images)

    def __str__(self) -> str:
        shown = [state for state in _MEANING if state == "alive" or self.counts[state]]
        by_class: dict[str, Counter[str]] = {}
        for item in self.images:
            by_class.setdefault(item.image.class_name, Counter())[item.state] += 1
        rows = [["class", "images", *shown]]
        for name, counts in [*by_class.items(), ("all", self.counts)]:
            rows.append([name, f"{counts.total():,}", *(f"{counts[state]:,}" for state in shown)])
        lines = aligned(rows) + [f"{state}: {_MEANING[state]}" for state in shown]
        if self.masks or self.masks_left:
            lines.append(f"{self.masks:,} masks taken from the manifest, {self.masks_left:,} not: their image changed.")
        return "\n".join([*lines, *(line for line in (self.passed_over, self.problem) if line)])

    def write_csv(self, path: Path | str) -> None:
        """Write one line an image; an ``OutputError`` if a file is there that this program did not write."""
        rows = []
        for item in self.images:
            at = item.image.provenance
            known = (item.image.class_name, *first_source(at), at.image_url, item.image.sha256)
            rows.append((*known, item.state, item.reason, item.detail))
        write_output(expanded(path), csv_text(_COLUMNS, rows))


def rebuild(
    manifest: Path | str,
    name: str | None = None,
    workers: int | None = None,
    download: DownloadSpec | None = None,
    progress: bool = True,
) -> RebuildReport:
    """Build the dataset of a manifest again, or go on where an earlier rebuild stopped.

    Images are downloaded from where they were found first. One whose bytes are the published ones takes its published
    mask, so that it is not co-segmented again; a person's verdicts are taken over. What failed for a reason that may
    pass is tried again by every further call. A program that had made the masks is not run here.

    Args:
        manifest: The file.
        name: Name of the new dataset; by default that of the published one.
        workers: Worker processes; ``None`` for one a processor.
        download: How images are downloaded.
        progress: Whether to show progress bars.

    Raises:
        SourceError: If the manifest is wrong.
        SpecError: If ``name`` cannot be a dataset's.
        StoreError: If a dataset of that name was not made from this manifest.
    """
    listed = read_manifest(manifest)
    spec = replace(renamed(listed.spec, name), download=download or DownloadSpec())
    _refuse_another(spec.name, Path(manifest))
    listed.warn_of_program()
    taken = (0, 0)

    def take(dataset: "Dataset") -> None:
        nonlocal taken
        taken = take_over(dataset, listed)

    problem = None
    try:
        # The source reads a file: searching again asks nobody, and finds what was added to the manifest since.
        build(spec, workers=workers, retry="failed", search_again=True, progress=progress, before_masks=take)
    except SourceError as error:
        # A class without a single image left ends a build; what became of its images must be reported all the same.
        problem = str(error)
    with Journal(dataset_folder(spec.name) / "journal.sqlite") as journal:
        entries = {(e.class_name, e.source_id): e for e in journal.entries() if e.source == MANIFEST_SOURCE}
        tagged = store.open_dataset(spec.name).match_tags("dropped:placeholder").values("sha256")
        placeholders = journal.placeholders() | frozenset(tagged)
    images = tuple(_became(image, entries, placeholders) for image in listed.images)
    return RebuildReport(spec.name, images, *taken, problem, listed.unknown_note)


def _refuse_another(name: str, path: Path) -> None:
    """Leave a dataset alone that was built from anything but this manifest: the publisher's own, say."""
    if name not in {row.name for row in store.list_datasets()}:
        return
    sources = info_of(store.open_dataset(name))["definition"].get("sources", [])
    wanted = str(expanded(path).absolute())
    if [source.get("options", {}).get("path") for source in sources if source["name"] == MANIFEST_SOURCE] != [wanted]:
        raise StoreError(
            f"dataset '{name}' exists already and was not built from {path}. Give the copy a name of its own (--name)."
        )


def _became(
    image: ManifestImage, entries: Mapping[tuple[str, str], Entry], placeholders: frozenset[str]
) -> RebuiltImage:
    if not image.provenance.image_url:
        return RebuiltImage(image, "no_url")
    identity = source_id_of(image.provenance)
    # Of a forgotten image the journal keeps only a digest of its identity.
    entry = entries.get((image.class_name, identity)) or entries.get((image.class_name, secret_of(identity)))
    if entry is None:
        return RebuiltImage(image, "failed", "not_asked", "The build ended before it was asked for.")
    same = entry.sha256 == image.sha256
    state: State
    if entry.status == "dropped" and entry.reason in _OPTED_OUT:
        state = "opted_out"
    elif entry.reason == "placeholder" or (entry.sha256 in placeholders and not same):
        state = "placeholder"
    elif entry.status == "stored" or entry.reason in ("duplicate", "changed"):
        state = "alive" if same else "changed"
    else:
        state = "dead" if entry.status == "dropped" else "failed"
    return RebuiltImage(image, state, entry.reason, entry.detail)


def take_over(dataset: "Dataset", manifest: Manifest) -> tuple[int, int]:
    """Give the images of a rebuilt dataset the verdicts and masks that the manifest has for them.

    Masks count as imported: a build leaves them alone. They go to images with the same bytes only, and only where they
    fit. Returns the number of masks taken, those of an earlier call included, and of those not taken.
    """
    rows = {(row.class_name, source_id_of(row.provenance)): row for row in image_rows(dataset)}
    verdicts: dict[str, str] = {}
    wanted = []
    taken = left = 0
    for image in manifest.images:
        row = rows.get((image.class_name, source_id_of(image.provenance)))
        if row is not None and image.verdict and row.verdict is None:
            verdicts[row.sample_id] = image.verdict
        if image.mask is None:
            continue
        if row is None or row.sha256 != image.sha256:
            left += 1
        elif row.mask_method == store.IMPORTED:
            taken += 1
        else:
            allowed = {0, manifest.spec.class_index(row.class_name), manifest.spec.ignore_index}
            read = partial(decode_mask, image.mask.png, row.size, allowed)
            wanted.append((row, read, {"confidence": image.mask.confidence}))
    store.take_over_verdicts(dataset, verdicts, f"as in the manifest of '{manifest.spec.name}'")
    if wanted:
        stored = take_masks(dataset, manifest.spec, manifest.ledger, wanted)
        taken, left = taken + stored, left + len(wanted) - stored
    return taken, left


def decode_mask(png: bytes, size: tuple[int, int], allowed: set[int]) -> np.ndarray | None:
    """The label mask, (H, W) uint8, of a PNG; ``None`` if its ``size``, (width, height), or a value differs."""
    try:
        return mask_files.decode_mask(png, "the manifest", size, allowed).values
    except MaskError:
        return None
