"""Check a dataset and a machine before training: what is wrong, and what to do about each thing.

Training refuses what it cannot use, but at the first bad file; this reads all of them and changes nothing. What the
files of one image show is found first (``inspect_row``), as keys of one table, ``FAULTS``; then they are counted.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch

from wss_data.backbones.weights import without_memory
from wss_data.crf.dense_crf import backend
from wss_data.errors import ImageError, MaskError, StaleMasksError, StoreError, TrainingDataError, WssError
from wss_data.filtering.filters import DROPPED, FILTER_TAGS, GONE, SCREENING_TAGS
from wss_data.imaging.images import unseen_turn
from wss_data.imaging.masks import open_mask
from wss_data.records import ExampleTable
from wss_data.store import GROUND_TRUTH, MASKS, class_names, example_table, kind_of, open_dataset
from wss_data.target.agreement import disagreement
from wss_train.data import class_problems
from wss_train.inference import decoded, device_of
from wss_train.models import build_model, usable_precision
from wss_train.recipes import TrainRecipe

if TYPE_CHECKING:
    from wss_data.store.types import Collection

Severity = Literal["error", "warning", "note"]
"""``error``: training stops or learns nonsense; ``warning``: it runs, and the result suffers; ``note``: a fact."""

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")

FEW_IMAGES = 20  # A class with fewer images than this gets a warning. Ours; the paper has hundreds.
MUCH_DISAGREEMENT = 0.1  # A larger fraction of true masks that differ from the labels makes all suspect. Ours.
MUCH_VOID = 0.5  # More void than this, as a fraction of all mask pixels, gets a warning: void teaches nothing. Ours.

FAULTS = {
    "image missing": "error: {n} images are missing, the first {image}. Put the files back, or build or import the "
    "dataset again.",
    "image": "error: {n} images are {reason}, the first {image}. Replace these files, or build or import the dataset "
    "again: it leaves them out.",
    "small": "warning: {n} images are smaller than the crop of {crop} px, the first {image}. They are enlarged and "
    "teach blur: take larger images, or a smaller crop and long_side with --set.",
    "no mask": "error: {n} of {total} images have no mask, the first {id}. Make them: wss-data cosegment for a web "
    "dataset, wss-train masks for a target; or leave the images out.",
    "missing": "error: {n} masks are missing, the first {mask}. Put the files back, or make the masks again.",
    "unreadable": "error: {n} masks are unreadable, the first {mask}. They are no whole PNGs: make these masks again.",
    "too_large": "error: {n} masks are too-large, the first {mask}. They have more pixels or bytes than are read: make "
    "masks of their images' size.",
    "rgb": "error: {n} masks are rgb, the first {mask}. They hold colours, class indices are wanted: look each colour "
    "up, and save PNGs of the indices.",
    "alpha": "error: {n} masks have transparency, the first {mask}. They are transparent in places: save PNGs of class "
    "indices without alpha.",
    "16_bit": "error: {n} masks are 16-bit, the first {mask}. Save them as 8-bit PNGs of class indices.",
    "palette": "error: {n} masks have a palette that contradicts their indices, the first {mask}. Colours of VOC's "
    "stand at other classes' indices: save them with VOC's own palette, or in grey.",
    "orientation": "error: {n} masks are to be turned by their own EXIF orientation, the first {mask}. Some programs "
    "turn them, others do not: save them upright, without EXIF.",
    "swapped": "error: {n} masks have width and height of their image swapped, the first {mask}. They were made before "
    "the EXIF rotation: make them from the upright images.",
    "other size": "error: {n} masks have not the size of their image, the first {mask}. Resize them by nearest "
    "neighbour, or make them from the stored images.",
    "binary": "error: {n} masks hold 0 and 255 only: foreground, which here would read as void, the first {mask}. "
    "Bring them in with wss-data import-masks, which gives the foreground its class.",
    "outside": "error: {n} masks hold values outside the classes ({outside}), the first {mask}. Wanted are 0, 1 to "
    "{count} ({classes}) and {void} for void: name the masks' classes in the definition (mask_classes), or write other "
    "indices.",
    "empty": "warning: {n} masks show no class, only background or void, the first {mask}. They teach that all is "
    "background: leave these images out, or make other masks.",
    "background": "note: {n} images show no class and have an empty mask: they teach background.",
    "other palette": "warning: {n} masks have a palette that is not VOC's, the first {mask}. Indices count, not "
    "colours: if a program made them from a coloured image, the indices are arbitrary and the masks must be made "
    "again.",
    "by colour": "note: {n} masks have their palette in another order, and were read by its colours, the first {mask}.",
    "grey": "note: {n} masks have no palette: they train as well, but look black in viewers.",
    "turned": "note: {n} images with a mask are turned upright by their EXIF orientation (half a turn or mirrored, or "
    "square), which the size of a mask does not show, the first {image}.",
    "no label": "error: {n} images have no image-level label, the first {id}. Eq. 2 and the multi-label branch need "
    "one: label these images, or leave them out.",
}
"""Fault of an image or a mask -> its severity and what is said of the ``n`` that have it."""

FAULTS_IF_SCORED = {
    "no mask": "warning: {n} of {total} images have no mask, the first {id}. They are not scored: import the target "
    "again with their masks, or score on fewer images.",
    "binary": "error: {n} masks hold 0 and 255 only: foreground, which here would read as void, the first {mask}. "
    "Write the index of each object's class in place of 255, and import the target again.",
    "turned": FAULTS["turned"].replace("note", "warning") + " Masks must belong to the upright image: look at it in "
    "wss-data view; if they do not fit, turn the image files themselves (exiftran -ai FILE) and import again.",
}
"""The same where it differs for images that are scored on, not learned from."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    severity: Severity  # how bad it is
    what: str  # what was found, with a number, the first file that shows it, and, but for a note, what to do about it

    def __str__(self) -> str:
        return f"{self.severity + ':':<9}{self.what}"


@dataclass(frozen=True)
class RowFacts:
    """What the files of one image hold.

    Args:
        faults: Keys of ``FAULTS`` that the files alone show.
        size: (width, height) of the image in pixels, upright; ``None`` if it cannot be read.
        counts: Mask pixels by value, all 0 without a readable mask. Shape (256,), int64.
        in_voc_colours: Whether the mask has VOC's colours at the values that occur.
    """

    faults: tuple[str, ...]
    size: tuple[int, int] | None = None
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    in_voc_colours: bool = False

    @property
    def void_only(self) -> bool:
        """Whether the mask holds 0 and 255 only, and some 255."""
        return bool(self.counts[255] > 0 and not self.counts[1:255].any())


def inspect_row(image_path: Path | str, mask_path: Path | str | None) -> RowFacts:
    """Read an image and its mask to the last pixel; whatever is wrong with them becomes a fault, never an error."""
    faults, size = [], None
    try:
        with decoded(image_path) as image:
            size = (image.shape[1], image.shape[0])
            # The mask is read without the image in memory.
            del image
    except ImageError as error:
        faults.append(f"image {error.reason}")
    if mask_path is None:
        return RowFacts((*faults, "no mask"), size)
    try:
        mask = open_mask(mask_path)
    except MaskError as error:
        return RowFacts((*faults, error.reason), size)
    mask_size = (mask.values.shape[1], mask.values.shape[0])
    if size is not None and mask_size != size:
        faults.append("swapped" if mask_size == size[::-1] else "other size")
    if size is not None and unseen_turn(Path(image_path)) != 1:
        faults.append("turned")
    if mask.by_colour:
        faults.append("by colour")
    if mask.palette is None:
        faults.append("grey")
    elif not mask.in_voc_colours:
        faults.append("other palette")
    return RowFacts(tuple(faults), size, np.bincount(mask.values.ravel(), minlength=256), mask.in_voc_colours)


def findings_of(
    table: ExampleTable, rows: Sequence[RowFacts], crop: int | None = None, scored: bool = False
) -> list[Finding]:
    """What follows from the files of a dataset, the most severe first.

    Args:
        table: Images, masks and labels; masks may be missing.
        rows: What the files of each image hold, in the table's order.
        crop: Side of the training crop, pixels; ``None`` to leave the images' size alone.
        scored: Whether the images are scored on, not learned from: they need no labels, and masks of some will do.
    """
    shown = np.array([row.counts[1 : table.num_classes] > 0 for row in rows]).reshape(table.labels.shape)
    findings = [*_of_faults(table, rows, crop, scored), *_of_void(table, rows), *_of_agreement(table, shown, scored)]
    return by_severity(findings if scored else [*findings, *_of_classes(table, rows, shown)])


def _of_faults(table: ExampleTable, rows: Sequence[RowFacts], crop: int | None, scored: bool) -> Iterator[Finding]:
    """Each fault with the number of images or masks that have it."""
    foreign = np.ones(256, bool)
    foreign[[*range(table.num_classes), table.ignore_index]] = False
    # In VOC's colours 0 and 255 are background and void. But an import writes VOC's colours, whatever it had read:
    # where all true masks are like that, the colours say nothing.
    all_void = scored and all(row.void_only for row in rows if row.counts.any()) and np.any(table.labels)
    found: dict[str, list[int]] = {key: [] for key in FAULTS}
    for position, row in enumerate(rows):
        faults = [*row.faults]
        if crop is not None and row.size is not None and max(row.size) < crop:
            faults.append("small")
        if row.void_only and (all_void or not row.in_voc_colours):
            faults.append("binary")
        elif row.counts[foreign].any():
            faults.append("outside")
        elif row.counts[0] == row.counts.sum() > 0 and not (scored or table.labels[position].any()):
            faults.append("background")
        elif row.counts.any() and not row.counts[1 : table.num_classes].any():
            faults.append("empty")
        if not (scored or table.labels[position].any() or "background" in faults):
            faults.append("no label")
        for key in faults:
            found.setdefault(key, []).append(position)
    outside = [str(value) for value in np.flatnonzero(foreign & np.any([row.counts > 0 for row in rows], axis=0))]
    texts = FAULTS | (FAULTS_IF_SCORED if scored else {})
    if len(found["no mask"]) == len(rows):
        texts["no mask"] = texts["no mask"].replace("warning", "error")
    # Images that cannot be read come first, whatever the reason.
    for key, positions in sorted(found.items(), key=lambda item: not item[0].startswith("image")):
        if positions:
            severity, _, text = texts.get(key, texts["image"]).partition(": ")
            what = text.format(
                n=len(positions),
                total=len(rows),
                image=table.image_paths[positions[0]],
                mask=table.mask_paths[positions[0]],
                id=table.ids[positions[0]],
                reason=key.removeprefix("image ").replace("_", " "),
                crop=crop,
                outside=", ".join(outside[:6]) + (", ..." if len(outside) > 6 else ""),
                count=len(table.classes),
                classes=", ".join(table.classes),
                void=table.ignore_index,
            )
            yield Finding(cast(Severity, severity), what)


def _of_void(table: ExampleTable, rows: Sequence[RowFacts]) -> Iterator[Finding]:
    if pixels := sum(int(row.counts.sum()) for row in rows):
        void = sum(int(row.counts[table.ignore_index]) for row in rows) / pixels
        what = f"% of the mask pixels are void ({table.ignore_index})."
        if void > MUCH_VOID:
            way_out = "Void teaches nothing: narrow the uncertain band, or look at what made the masks."
            yield Finding("warning", f"{100 * void:.0f} {what} {way_out}")
        else:
            yield Finding("note", f"{100 * void:.1f} {what}")


def _of_agreement(table: ExampleTable, shown: np.ndarray, scored: bool) -> Iterator[Finding]:
    """Where masks differ from their images' labels. ``shown``: classes in each mask. Shape (N, C), bool."""
    # Masks that show no class have a line of their own.
    both = np.flatnonzero(table.labels.any(axis=1) & shown.any(axis=1)).tolist()
    in_masks = [[table.classes[c] for c in np.flatnonzero(shown[i])] for i in both]
    found = disagreement(in_masks, [table.labels_of(i) for i in both])
    if found.positions:
        # What a model leaves out of a pseudo mask is no mistake of the data; another class than the label is.
        wrong = len(found.positions) > MUCH_DISAGREEMENT * len(both) if scored else found.with_others > 0
        what = f"masks: {found}, the first {table.mask_paths[both[found.positions[0]]]}."
        if wrong:
            yield Finding("warning", f"{what} Do masks and labels belong together, in names and in class indices?")
        else:
            yield Finding("note", what)


def _of_classes(table: ExampleTable, rows: Sequence[RowFacts], shown: np.ndarray) -> Iterator[Finding]:
    """Classes without images, in no mask (if a mask can be read), unequal in number, and with few images."""
    images = dict(zip(table.classes, np.sum(table.labels, axis=0).tolist(), strict=True))
    masks = dict(zip(table.classes, shown.sum(axis=0).tolist(), strict=True))
    read = any(row.counts.any() for row in rows)
    yield from (Finding("warning", problem) for problem in class_problems(images, masks if read else images))
    if few := [f"{name} ({n})" for name, n in images.items() if 0 < n < FEW_IMAGES]:
        what = f"{len(few)} classes have fewer than {FEW_IMAGES} images: {', '.join(few)}."
        yield Finding("warning", f"{what} Little to learn from: retrieve more, or loosen the filter.")


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the most severe first, otherwise in their order.

    >>> [finding.what for finding in by_severity([Finding("note", "a"), Finding("error", "b"), Finding("note", "c")])]
    ['b', 'a', 'c']
    """
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def is_sound(findings: Iterable[Finding]) -> bool:
    """Whether nothing but notes was found."""
    return all(finding.severity == "note" for finding in findings)


def check_table(table: ExampleTable, crop: int | None = None, scored: bool = False) -> list[Finding]:
    """Read every image and mask of a table, and say what is wrong as ``findings_of`` does, with the same arguments."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows = list(pool.map(inspect_row, table.image_paths, table.mask_paths))
    return findings_of(table, rows, crop, scored)


def check_machine(recipe: TrainRecipe, num_classes: int, folder: Path, multilabel: bool) -> list[Finding]:
    """What the machine offers to a recipe: accelerator, bf16, the CRF's program, room for checkpoints in ``folder``.

    ``num_classes``: with background, C + 1. The folder need not exist.
    """
    findings = []
    place = device_of(None)
    if place.type == "cuda":
        findings.append(Finding("note", f"training runs on {torch.cuda.get_device_name(place)}."))
    else:
        findings.append(Finding("note", "no GPU: training runs on the processor, for which the preset cpu is made."))
    if recipe.precision == "bf16" and usable_precision("bf16", place) != "bf16":
        findings.append(Finding("note", f"no bf16 on this {place.type}: the network computes in float32, more slowly."))
    if recipe.precision == "fp16" and place.type != "cuda":
        what = "the recipe wants fp16, which needs a GPU. Add --set precision=float32, or bf16."
        findings.append(Finding("error", what))
    try:
        findings.append(Finding("note", f"the dense CRF is computed by {backend()}."))
    except WssError as error:
        findings.append(Finding("error", str(error)))
    needed = checkpoint_bytes(recipe, num_classes, multilabel)
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    room = f"the checkpoints need {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free in {existing}."
    way_out = "Make room, name another folder with --out, or keep fewer with --set keep_checkpoints=1."
    findings.append(Finding("error", f"{room} {way_out}") if free < needed else Finding("note", room))
    return by_severity(findings)


def checkpoint_bytes(recipe: TrainRecipe, num_classes: int, multilabel: bool) -> int:
    """Bytes on disk that a run's checkpoints and model need at the same time.

    That is the model, the checkpoints that are kept and the one being written; each checkpoint holds float32 weights,
    and the optimizer's tensors (one of their size for SGD, two for AdamW).
    """
    with without_memory():
        model = build_model(recipe, num_classes, multilabel, pretrained=False)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    copies = 1 + (1 if recipe.optimizer == "sgd" else 2)
    return weights * (1 + copies * (recipe.keep_checkpoints + 1))


def check_dataset(
    dataset: str, recipe: TrainRecipe, *, split: str | None = None, field: str | None = None, out: Path | None = None
) -> list[Finding]:
    """What is wrong with a stored dataset, and with the machine for a recipe, the most severe first.

    Args:
        dataset: Its name.
        recipe: The recipe that shall be trained on it.
        split: Tag of the images; ``None`` for the kept images of a web dataset, ``train`` of a target.
        field: Field of the masks; ``None`` for ``cosegmentation`` of a web dataset, ``pseudo_mask`` of a target's
            train images, ``ground_truth`` of its others.
        out: Where the run folder will be; ``None`` for the current folder.

    Raises:
        StoreError: If there is no such dataset, or no such field.
        TrainingDataError: If no image has the tag.
    """
    stored = open_dataset(dataset)
    kind = kind_of(stored)
    tag = split or (None if kind == "web" else "train")
    view: Collection = stored if tag is None else stored.match_tags(tag)
    if not len(view):
        known = ", ".join(sorted(stored.count_sample_tags())) or "none"
        of_tag = "is empty" if tag is None else f"has no image with the tag '{tag}' (tags: {known})"
        raise TrainingDataError(f"dataset '{dataset}' {of_tag}: there is nothing to check. Build or import it first.")
    usual = MASKS if kind == "web" else "pseudo_mask" if tag == "train" else GROUND_TRUTH
    table, findings = _table(view, field or usual, kind, asked_for=field is not None)
    findings += _of_tags(view.count_sample_tags(), len(view), 0 if table is None else len(table))
    # Masks drawn by people: to score on, and that needs neither labels nor images as large as a crop.
    scored = kind != "web" and tag != "train"
    if table is not None:
        findings += check_table(table, None if scored else recipe.crop, scored)
    multilabel = kind != "web" and recipe.multilabel
    findings += check_machine(recipe, len(class_names(stored)) + 1, out or Path(), multilabel)
    return by_severity(findings)


def _table(view: "Collection", field: str, kind: str, asked_for: bool) -> tuple[ExampleTable | None, list[Finding]]:
    """What training would read, or why that is nothing; images of a target may lack their mask."""
    paths: dict[str, str | None] = {}
    try:
        masked = example_table(view, field)
        if kind == "web":
            return masked, []
        paths = dict(zip(masked.ids, masked.mask_paths, strict=True))
    except (StoreError, TrainingDataError) as error:
        if isinstance(error, StoreError) and asked_for:
            raise
        if kind == "web" or isinstance(error, StaleMasksError):
            return None, [Finding("error", str(error))]
    try:
        table = example_table(view, None)
    except TrainingDataError as error:
        return None, [Finding("error", str(error))]
    return replace(table, mask_paths=tuple(paths.get(key) for key in table.ids)), []


def _of_tags(tags: dict[str, int], total: int, used: int) -> list[Finding]:
    """How many images are used, and why the others were dropped."""
    dropped = {tag: count for tag, count in sorted(tags.items()) if tag.startswith(DROPPED)}
    chosen = {tag: count for tag, count in dropped.items() if tag in (*FILTER_TAGS, *SCREENING_TAGS, GONE)}
    reasons = ", ".join(f"{count} {tag}" for tag, count in chosen.items())
    findings = [Finding("note", f"{used} of {total} images are used" + (f" ({reasons})." if reasons else "."))]
    lost = ", ".join(f"{count} {tag.removeprefix(DROPPED)}" for tag, count in dropped.items() if tag not in chosen)
    if lost:
        way_out = "Mend these files or labels and build or import the dataset again, or do without them."
        findings.append(Finding("warning", f"images that could not be used: {lost}. {way_out}"))
    return findings
