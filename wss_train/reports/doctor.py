"""Look at a dataset and a machine before training: what is wrong, and what to do about each thing.

Training refuses what it cannot use, but at the first bad file; this reads all of them and changes nothing. What one
image's files hold is read first (``inspect_row``); what follows is decided from plain numbers (``findings_of``).
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from wss_data.cosegmentation.agreement import disagreement
from wss_data.errors import (
    ImageError,
    MaskError,
    StaleMasksError,
    StoreError,
    TrainingDataError,
    WssError,
)
from wss_data.filtering.filters import DROPPED, FILTER_TAGS, GONE, SCREENING_TAGS
from wss_data.imaging.images import unseen_turn
from wss_data.imaging.masks import open_mask
from wss_data.records import ExampleTable
from wss_train.engine.threads import decoded

if TYPE_CHECKING:
    from wss_data.store.types import Collection
    from wss_train.recipes import TrainRecipe

Severity = Literal["error", "warning", "note"]
"""``error``: training stops or learns nonsense; ``warning``: it runs, and the result suffers; ``note``: a fact."""

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")

FEW_IMAGES = 20
"""A class with fewer images than this is told. Ours; the paper has hundreds."""

MUCH_DISAGREEMENT = 0.1
"""Where more than this share of the true masks disagree with the labels, something is wrong with all of them. Ours."""

MUCH_VOID = 0.5
"""More void than this, as a share of all mask pixels, is told: void teaches nothing. Ours."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        severity: How bad it is.
        what: What was found, with a number and the first file that shows it.
        way_out: What to do about it; empty for a note.
    """

    severity: Severity
    what: str
    way_out: str = ""

    def __str__(self) -> str:
        return f"{self.severity + ':':<9}{self.what}" + (f" {self.way_out}" if self.way_out else "")


@dataclass(frozen=True)
class RowFacts:
    """What the files of one image hold.

    Args:
        image_size: (width, height) in pixels, upright; ``None`` if the image cannot be read.
        image_reason: Why it cannot be read, such as ``truncated``; empty if it can.
        mask_size: (width, height) in pixels; ``None`` without a readable mask.
        mask_reason: Why the mask cannot be read, one of ``FILE_REASONS``; empty if it can.
        counts: Pixels by value. Shape (256,), int64; ``None`` without a readable mask.
        colours: ``palette`` (VOC's colours at the values that occur), ``other_palette`` or ``grey``; empty without one.
        by_colour: Whether the mask's palette has VOC's colours, or black and white, in another order, and they counted.
        turned: EXIF orientation of an image with a mask whose size does not tell to which way up it belongs; 1 if none.
    """

    image_size: tuple[int, int] | None
    image_reason: str = ""
    mask_size: tuple[int, int] | None = None
    mask_reason: str = ""
    counts: np.ndarray | None = None
    colours: str = ""
    by_colour: bool = False
    turned: int = 1


def inspect_row(image_path: Path | str, mask_path: Path | str | None) -> RowFacts:
    """Read an image and its mask to the last pixel; whatever is wrong with them becomes a reason, never an error."""
    try:
        with decoded(image_path) as image:
            facts = RowFacts((image.shape[1], image.shape[0]))
            del image
    except ImageError as error:
        facts = RowFacts(None, error.reason)
    if mask_path is None:
        return facts
    if facts.image_size is not None:
        facts = replace(facts, turned=unseen_turn(Path(image_path)))
    try:
        mask = open_mask(mask_path)
    except MaskError as error:
        return replace(facts, mask_reason=error.reason)
    counts = np.bincount(mask.values.ravel(), minlength=256)
    size = (mask.values.shape[1], mask.values.shape[0])
    colours = "grey" if mask.palette is None else "palette" if mask.in_voc_colours else "other_palette"
    return replace(facts, mask_size=size, counts=counts, colours=colours, by_colour=mask.by_colour)


def findings_of(
    table: ExampleTable, rows: Sequence[RowFacts], crop: int | None = None, scored: bool = False
) -> list[Finding]:
    """What follows from the files of a dataset, in the order in which it was looked for.

    Args:
        table: Images, masks and labels; masks may be missing.
        rows: What the files of each image hold, in the table's order.
        crop: Side of the training crop, pixels; ``None`` to leave the images' size alone.
        scored: Whether the images are scored on, not learned from: they need no labels, and masks of some will do.

    Returns:
        Findings; ``by_severity`` sorts them.
    """
    findings = [*_of_images(table, rows, crop), *_of_masks(table, rows, scored), *_of_agreement(table, rows, scored)]
    return findings if scored else [*findings, *_of_labels(table), *_of_classes(table, rows)]


def _of_images(table: ExampleTable, rows: Sequence[RowFacts], crop: int | None) -> Iterable[Finding]:
    reasons = Counter(row.image_reason for row in rows if row.image_reason)
    for reason, count in reasons.most_common():
        first = _first(table.image_paths, (row.image_reason == reason for row in rows))
        way_out = "Put the files back, or build or import the dataset again."
        if reason != "missing":
            way_out = "Replace these files, or build or import the dataset again: it leaves them out."
        yield Finding("error", f"{count} images are {reason.replace('_', ' ')}, the first {first}.", way_out)
    paths = table.image_paths
    small = [crop is not None and row.image_size is not None and max(row.image_size) < crop for row in rows]
    if any(small):
        yield Finding(
            "warning",
            f"{sum(small)} images are smaller than the crop of {crop} px, the first {_first(paths, small)}.",
            "They are enlarged and teach blur: take larger images, or a smaller crop and long_side with --set.",
        )


def _of_labels(table: ExampleTable) -> Iterable[Finding]:
    unlabelled = [not labels.any() for labels in table.labels]
    if any(unlabelled):
        yield Finding(
            "error",
            f"{sum(unlabelled)} images have no image-level label, the first {_first(table.ids, unlabelled)}.",
            "Eq. 2 and the multi-label branch need one: label these images, or leave them out.",
        )


def _of_masks(table: ExampleTable, rows: Sequence[RowFacts], scored: bool) -> Iterable[Finding]:
    paths = [str(path) for path in table.mask_paths]
    without = [path is None for path in table.mask_paths]
    if any(without):
        what = f"{sum(without)} of {len(rows)} images have no mask, the first {_first(table.ids, without)}."
        way_out = (
            "Make them: wss-data cosegment for a web dataset, wss-train masks for a target; or leave the images out."
        )
        if scored:
            way_out = "They are not scored: import the target again with their masks, or score on fewer images."
        yield Finding("warning" if scored and not all(without) else "error", what, way_out)
    ways_out = {
        "missing": "Put the files back, or make the masks again.",
        "unreadable": "They are no whole PNGs: make these masks again.",
        "too_large": "They have more pixels or bytes than are read: make masks of their images' size.",
        "rgb": "They hold colours, class indices are wanted: look each colour up, and save PNGs of the indices.",
        "alpha": "They are transparent in places: save PNGs of class indices without alpha.",
        "16_bit": "Save them as 8-bit PNGs of class indices.",
        "palette": "Colours of VOC's stand at other classes' indices: save them with VOC's own palette, or in grey.",
        "orientation": "Some programs turn them, others do not: save them upright, without EXIF.",
    }
    found_as = {
        "alpha": "have transparency",
        "palette": "have a palette that contradicts their indices",
        "orientation": "are to be turned by their own EXIF orientation",
    }
    for reason, count in Counter(row.mask_reason for row in rows if row.mask_reason).most_common():
        first = _first(paths, (row.mask_reason == reason for row in rows))
        found = found_as.get(reason, f"are {reason.replace('_', '-')}")
        yield Finding("error", f"{count} masks {found}, the first {first}.", ways_out[reason])

    turned = [_turned(row) for row in rows]
    if any(turned):
        yield Finding(
            "error",
            f"{sum(turned)} masks have width and height of their image swapped, the first {_first(paths, turned)}.",
            "They were made before the EXIF rotation: make them from the upright images.",
        )
    other = [_other_size(row) and not swapped for row, swapped in zip(rows, turned, strict=True)]
    if any(other):
        yield Finding(
            "error",
            f"{sum(other)} masks have not the size of their image, the first {_first(paths, other)}.",
            "Resize them by nearest neighbour, or make them from the stored images.",
        )

    void_only = [_is_void_only(row) for row in rows]
    binary = [void and row.colours != "palette" for void, row in zip(void_only, rows, strict=True)]
    if scored and all(void_only[i] for i, row in enumerate(rows) if row.counts is not None) and np.any(table.labels):
        binary = void_only  # an import writes VOC's colours, whatever it had read
    if any(binary):
        way_out = "Bring them in with wss-data import-masks, which gives the foreground its class."
        if scored:
            way_out = "Write the index of each object's class in place of 255, and import the target again."
        yield Finding(
            "error",
            f"{sum(binary)} masks hold 0 and 255 only: foreground, which here would read as void, "
            f"the first {_first(paths, binary)}.",
            way_out,
        )
    allowed = np.zeros(256, bool)
    allowed[[*range(table.num_classes), table.ignore_index]] = True
    outside = [row.counts is not None and bool(row.counts[~allowed].any()) for row in rows]
    if any(outside):
        values = sorted({int(v) for row in rows if row.counts is not None for v in np.flatnonzero(row.counts)})
        wrong = [value for value in values if not allowed[value]]
        shown = ", ".join(map(str, wrong[:6])) + (", ..." if len(wrong) > 6 else "")
        yield Finding(
            "error",
            f"{sum(outside)} masks hold values outside the classes ({shown}), the first {_first(paths, outside)}.",
            f"Wanted are 0, 1 to {len(table.classes)} ({', '.join(table.classes)}) and {table.ignore_index} for void: "
            "name the masks' classes in the definition (mask_classes), or write other indices.",
        )
    empty = [
        row.counts is not None and not row.counts[1 : table.num_classes].any() and not (odd or foreground)
        for row, odd, foreground in zip(rows, outside, binary, strict=True)
    ]
    if any(empty):
        yield Finding(
            "warning",
            f"{sum(empty)} masks show no class, only background or void, the first {_first(paths, empty)}.",
            "They teach that all is background: leave these images out, or make other masks.",
        )
    foreign = [row.colours == "other_palette" for row in rows]
    if any(foreign):
        yield Finding(
            "warning",
            f"{sum(foreign)} masks have a palette that is not VOC's, the first {_first(paths, foreign)}.",
            "Indices count, not colours: if a program made them from a coloured picture, the indices are arbitrary and "
            "the masks must be made again.",
        )
    by_colour = [row.by_colour for row in rows]
    if any(by_colour):
        what = "masks have their palette in another order, and were read by its colours"
        yield Finding("note", f"{sum(by_colour)} {what}, the first {_first(paths, by_colour)}.")
    grey = [row.colours == "grey" for row in rows]
    if any(grey):
        yield Finding("note", f"{sum(grey)} masks have no palette: they train as well, but look black in viewers.")
    pixels = sum(int(row.counts.sum()) for row in rows if row.counts is not None)
    if pixels:
        void = sum(int(row.counts[table.ignore_index]) for row in rows if row.counts is not None) / pixels
        if void > MUCH_VOID:
            way_out = "Void teaches nothing: narrow the uncertain band, or look at what made the masks."
            yield Finding("warning", f"{100 * void:.0f} % of the mask pixels are void ({table.ignore_index}).", way_out)
        else:
            yield Finding("note", f"{100 * void:.1f} % of the mask pixels are void ({table.ignore_index}).")


def _of_agreement(table: ExampleTable, rows: Sequence[RowFacts], scored: bool) -> Iterable[Finding]:
    """Where masks differ from their images' labels, and images whose way up the size of a mask does not tell."""
    paths = [str(path) for path in table.mask_paths]
    named = [[name for name, there in zip(table.classes, row, strict=True) if there] for row in table.labels]
    # Masks that show no class have a line of their own.
    both = [i for i, row in enumerate(rows) if named[i] and _classes_in(table, row)]
    found = disagreement([_classes_in(table, rows[i]) for i in both], [named[i] for i in both])
    if found.positions:
        # What a model leaves out of a pseudo mask is no mistake of the data; another class than the label is.
        wrong = len(found.positions) > MUCH_DISAGREEMENT * len(both) if scored else found.with_others > 0
        what = f"masks: {found}, the first {paths[both[found.positions[0]]]}."
        way_out = "Do masks and labels belong together, in names and in class indices?" if wrong else ""
        yield Finding("warning" if wrong else "note", what, way_out)
    turned = [row.turned != 1 and row.mask_size is not None for row in rows]
    if any(turned):
        way_out = (
            "Masks must belong to the upright image: look at it in wss-data view; if they do not fit, turn the image "
            "files themselves (exiftran -ai FILE) and import again."
        )
        yield Finding(
            "warning" if scored else "note",
            f"{sum(turned)} images with a mask are turned upright by their EXIF orientation (half a turn or mirrored, "
            f"or square), which the size of a mask does not show, the first {_first(table.image_paths, turned)}.",
            way_out if scored else "",
        )


def _classes_in(table: ExampleTable, row: RowFacts) -> list[str]:
    """The classes that a mask shows; none without one."""
    counts = np.zeros(256) if row.counts is None else row.counts
    return [name for name, count in zip(table.classes, counts[1 : table.num_classes], strict=True) if count]


def _of_classes(table: ExampleTable, rows: Sequence[RowFacts]) -> Iterable[Finding]:
    labelled = np.asarray(table.labels, bool).sum(axis=0)
    masked = np.zeros(len(table.classes), np.int64)
    for row in rows:
        if row.counts is not None:
            masked += row.counts[1 : table.num_classes] > 0
    none = [name for name, count in zip(table.classes, labelled, strict=True) if count == 0]
    if none:
        way_out = "The model cannot learn them: get images of these classes, or take them out of the definition."
        yield Finding("warning", f"{len(none)} classes have no image: {', '.join(none)}.", way_out)
    unseen = [name for name, n, m in zip(table.classes, labelled, masked, strict=True) if n and not m]
    if unseen and any(row.counts is not None for row in rows):
        way_out = "The masks teach that they are background: see wss-train cooccurrence for what took their place."
        yield Finding("warning", f"{len(unseen)} classes have images but no mask: {', '.join(unseen)}.", way_out)
    few = [f"{name} ({n})" for name, n in zip(table.classes, labelled, strict=True) if 0 < n < FEW_IMAGES]
    if few:
        way_out = "Little to learn from: retrieve more, or loosen the filter."
        yield Finding("warning", f"{len(few)} classes have fewer than {FEW_IMAGES} images: {', '.join(few)}.", way_out)


def _turned(row: RowFacts) -> bool:
    return _other_size(row) and row.image_size is not None and row.mask_size == row.image_size[::-1]


def _other_size(row: RowFacts) -> bool:
    return row.image_size is not None and row.mask_size is not None and row.mask_size != row.image_size


def _is_void_only(row: RowFacts) -> bool:
    """Whether a mask is 0 and 255. In VOC's colours it is a label mask of which only background and void are left."""
    return row.counts is not None and bool(row.counts[255] > 0 and not row.counts[1:255].any())


def _first(names: Sequence[str], which: Iterable[bool]) -> str:
    return next(name for name, there in zip(names, which, strict=True) if there)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the most severe first, otherwise in their order."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def is_sound(findings: Iterable[Finding]) -> bool:
    """Whether nothing but notes was found."""
    return all(finding.severity == "note" for finding in findings)


def check_table(
    table: ExampleTable, crop: int | None = None, scored: bool = False, workers: int | None = None
) -> list[Finding]:
    """Read every image and mask of a table and say what is wrong.

    Args:
        table: Images with or without masks.
        crop: Side of the training crop, pixels, or ``None``.
        scored: Whether the images are scored on, not learned from.
        workers: Threads; ``None`` for one a processor.

    Returns:
        The findings, most severe first.
    """
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        rows = list(pool.map(inspect_row, table.image_paths, table.mask_paths))
    return by_severity(findings_of(table, rows, crop, scored))


def check_machine(recipe: "TrainRecipe", num_classes: int, folder: Path, multilabel: bool) -> list[Finding]:
    """What the machine offers to a recipe: accelerator, bf16, the CRF's program, room for the checkpoints.

    Args:
        recipe: The recipe that shall be trained.
        num_classes: Number of classes with background, C + 1.
        folder: Where the run folder will be; it need not exist.
        multilabel: Whether the network has the multi-label branch.
    """
    import torch

    from wss_data.crf.dense_crf import backend
    from wss_train.inference import device_of
    from wss_train.models import usable_precision

    findings = []
    place = device_of(None)
    if place.type == "cuda":
        findings.append(Finding("note", f"training runs on {torch.cuda.get_device_name(place)}."))
    else:
        findings.append(Finding("note", "no GPU: training runs on the processor, for which the preset cpu is made."))
    if recipe.precision == "bf16" and usable_precision("bf16", place) != "bf16":
        findings.append(Finding("note", f"no bf16 on this {place.type}: the network computes in float32, more slowly."))
    if recipe.precision == "fp16" and place.type != "cuda":
        findings.append(
            Finding("error", "the recipe wants fp16, which needs a GPU.", "Add --set precision=float32, or bf16.")
        )
    try:
        findings.append(Finding("note", f"the dense CRF is computed by {backend()}."))
    except WssError as error:
        findings.append(Finding("error", str(error)))
    needed = checkpoint_bytes(recipe, num_classes, multilabel)
    existing = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    told = f"the checkpoints need {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free in {existing}."
    if free < needed:
        way_out = "Make room, name another folder with --out, or keep fewer with --set keep_checkpoints=1."
        findings.append(Finding("error", told, way_out))
    else:
        findings.append(Finding("note", told))
    return by_severity(findings)


def checkpoint_bytes(recipe: "TrainRecipe", num_classes: int, multilabel: bool) -> int:
    """Bytes on disk that a run's checkpoints and model need at the same time.

    That is the model, the checkpoints that are kept and the one being written; each checkpoint holds float32 weights,
    the optimizer's tensors (one of their size for SGD, two for AdamW) and the moving average where there is one.
    """
    import torch

    from wss_train.models import build_model

    # On "meta" a network has shapes and no memory.
    with torch.device("meta"):
        model = build_model(recipe, num_classes, multilabel, pretrained=False)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    copies = 1 + (1 if recipe.optimizer == "sgd" else 2) + (recipe.average_decay > 0)
    return weights * (1 + copies * (recipe.keep_checkpoints + 1))


def check_dataset(
    dataset: str, recipe: "TrainRecipe", *, split: str | None = None, field: str | None = None, out: Path | None = None
) -> list[Finding]:
    """Check a stored dataset, and the machine for the recipe.

    Args:
        dataset: Its name.
        recipe: The recipe that shall be trained on it.
        split: Tag of the images; ``None`` for the kept images of a web dataset, ``train`` of a target.
        field: Field of the masks; ``None`` for ``cosegmentation`` of a web dataset, ``pseudo_mask`` of a target's
            train images, ``ground_truth`` of its others.
        out: Where the run folder will be; ``None`` for the current folder.

    Returns:
        The findings, most severe first.

    Raises:
        StoreError: If there is no such dataset, or no such field.
        TrainingDataError: If no image has the tag.
    """
    from wss_data.store import GROUND_TRUTH, MASKS, class_names, kind_of, open_dataset

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
    from wss_data.store import example_table

    masked = None
    try:
        masked = example_table(view, field)
        if kind == "web":
            return masked, []
        table = example_table(view, None)
    except (StoreError, TrainingDataError) as error:
        if isinstance(error, StoreError) and asked_for:
            raise
        if kind == "web" or isinstance(error, StaleMasksError):
            return None, [Finding("error", str(error))]
        try:
            table = example_table(view, None)
        except TrainingDataError as nothing:
            return None, [Finding("error", str(nothing))]
    paths = {} if masked is None else dict(zip(masked.ids, masked.mask_paths, strict=True))
    return replace(table, mask_paths=tuple(paths.get(key) for key in table.ids)), []


def _of_tags(tags: dict[str, int], total: int, used: int) -> list[Finding]:
    dropped = {tag: count for tag, count in sorted(tags.items()) if tag.startswith(DROPPED)}
    chosen = {tag: count for tag, count in dropped.items() if tag in (*FILTER_TAGS, *SCREENING_TAGS, GONE)}
    told = ", ".join(f"{count} {tag}" for tag, count in chosen.items())
    findings = [Finding("note", f"{used} of {total} images are used" + (f" ({told})." if told else "."))]
    lost = ", ".join(f"{count} {tag.removeprefix(DROPPED)}" for tag, count in dropped.items() if tag not in chosen)
    if lost:
        way_out = "Mend these files or labels and build or import the dataset again, or do without them."
        findings.append(Finding("warning", f"images that could not be used: {lost}.", way_out))
    return findings
