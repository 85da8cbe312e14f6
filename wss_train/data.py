"""From a table of paths and labels to batches of training examples.

Everything random about example number n is a function of (seed, n) alone: which image it is, its scale, its crop. So a
run that resumes at iteration k sees what an uninterrupted one sees, whatever the number of threads.

Examples are read by threads, not by worker processes: decoding and resizing release Python's lock, a database client
does not survive a fork, and a script without an ``if __name__ == "__main__"`` guard works too.
"""

import hashlib
import logging
import math
import os
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor

from wss_data import store
from wss_data.errors import TrainingDataError
from wss_data.imaging.images import longest_side_size, read_at_least, read_size
from wss_data.imaging.masks import check_size, read_mask, resize_mask, used_values
from wss_data.ledger import UsedFor
from wss_data.records import ExampleTable
from wss_data.runtime.files import digests_of
from wss_data.runtime.threads import in_threads
from wss_data.target.agreement import disagreement
from wss_train.recipes import TrainRecipe

if TYPE_CHECKING:
    from wss_data.store.types import Collection

    Examples: TypeAlias = ExampleTable | Collection

LOGGER = logging.getLogger(__name__)

UNEQUAL = 10  # Ours: from this ratio of the most frequent class to the rarest on, a run says how to balance them

# Streams of random numbers: no two share one.
ORDER, AUGMENTATION, INITIAL_WEIGHTS, ITERATION, CELLS = range(5)


@dataclass(frozen=True)
class TrainingExample:
    """One training example."""

    image: Tensor  # RGB, not yet normalised. Shape (H, W, 3), uint8.
    mask: Tensor  # Class indices or the ignore index. Shape (H, W), uint8.
    labels: Tensor  # Which classes the whole image shows (the crop may show fewer). Shape (C,), float32, 0 or 1.
    id: str  # identity of the image
    weight: float = 1.0  # how much it counts, at least 0


@dataclass(frozen=True)
class Batch:
    """Several examples of one iteration, stacked."""

    images: Tensor  # RGB in [0, 255], not yet normalised. Shape (N, 3, H, W), uint8 or float32.
    masks: Tensor  # Class indices or the ignore index. Shape (N, H, W), uint8 as read, int64 after to.
    labels: Tensor  # shape (N, C), float32
    ids: tuple[str, ...]  # one identity an image
    # How much each image counts, at least 0; None where all count alike. Shape (N,), float32.
    weights: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``, as bytes until there, its masks then as the losses want them."""

        def there(tensor: Tensor) -> Tensor:
            # From pinned memory the copy runs beside the computation.
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        weights = None if self.weights is None else there(self.weights)
        return Batch(there(self.images), there(self.masks).long(), there(self.labels), self.ids, weights)


@dataclass(frozen=True)
class Augmentation:
    """The random numbers of one training example."""

    scale: float  # factor on the size, above 0
    flip: bool  # whether the image is mirrored left to right
    across: float  # where the crop lies, from the left (0) to the right (1)
    down: float  # where the crop lies, from the top (0) to the bottom (1)


def draw_augmentation(recipe: TrainRecipe, generator: np.random.Generator) -> Augmentation:
    """Draw the numbers of one example: scale uniform in ``recipe.scale_range``, flip with ``recipe.flip``."""
    low, high = recipe.scale_range
    scale, flip, across, down = generator.random(4)
    return Augmentation(low + (high - low) * float(scale), bool(flip < recipe.flip), float(across), float(down))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at ``size`` = (width, height): area average when it shrinks, else bilinear. (H, W, 3), uint8."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    shrinks = size[0] * size[1] < width * height  # then an average, so that nothing aliases
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def augment(
    image: np.ndarray, mask: np.ndarray, drawn: Augmentation, recipe: TrainRecipe, ignore_index: int = 255
) -> tuple[np.ndarray, np.ndarray]:
    """Turn one image and its mask into a training crop; beyond the image it shows the mean colour, and void.

    Args:
        image: RGB, as large as the mask or decoded at a fraction of that. Shape (h, w, 3), uint8.
        mask: Class indices. Shape (H, W), uint8.
        drawn: The random numbers.
        recipe: Gives ``long_side``, ``crop`` and the mean colour.
        ignore_index: Value of void.

    Returns:
        The crop, not yet normalised, (crop, crop, 3), uint8; its mask, (crop, crop), uint8.

    Source:
        Shen et al., BMVC 2017, section 4.2 (sizes); the authors' code (scale and flip).
    """
    # In one step, because every further interpolation blurs. The mask's size, not the image's: that may have been
    # decoded at a fraction of it.
    size = longest_side_size(mask.shape[1], mask.shape[0], recipe.long_side * drawn.scale, enlarge=True)
    image, mask = resize_image(image, size), resize_mask(mask, size)

    crop = recipe.crop
    # Where the crop's left upper corner lies in the image; negative where the image is smaller than the crop.
    left, top = round(drawn.across * (size[0] - crop)), round(drawn.down * (size[1] - crop))
    if drawn.flip:
        # The crop lies in the mirrored image: cut out what is its mirror image, and mirror no more than that.
        left = size[0] - crop - left
    seen = np.s_[max(top, 0) : top + crop, max(left, 0) : left + crop]
    image, mask = image[seen], mask[seen]
    height, width = mask.shape
    if (height, width) != (crop, crop):
        above, before = max(-top, 0), max(-left, 0)
        margins = above, crop - height - above, before, crop - width - before
        mean = [round(value) for value in recipe.pixel_statistics[0]]  # normalised it is zero, but for 0.01
        image = np.asarray(cv2.copyMakeBorder(image, *margins, cv2.BORDER_CONSTANT, value=mean))
        mask = np.asarray(cv2.copyMakeBorder(mask, *margins, cv2.BORDER_CONSTANT, value=ignore_index))
    if drawn.flip:
        return cv2.flip(image, 1), cv2.flip(mask, 1)
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def image_weights(table: ExampleTable, weighting: str) -> np.ndarray | None:
    """How much each image counts in the loss.

    >>> numbers = np.array([0.2, 0.6, np.nan], np.float32)
    >>> names, labels = ("a", "b", "c"), np.ones((3, 1), bool)
    >>> table = ExampleTable(names, names, names, labels, ("cat",), confidence=numbers)
    >>> image_weights(table, "confidence").tolist()  # mean 1; where there is none, 1
    [0.5, 1.5, 1.0]

    Args:
        table: Images with the number that is asked for.
        weighting: ``none``, ``confidence`` (of the co-segmentation) or ``quality`` (of the mask).

    Returns:
        Shape (N,), float32. ``None`` for ``none`` and where no image has the number, as with pseudo masks.

    Raises:
        TrainingDataError: If every image weighs nothing.
    """
    numbers = {"none": None, "confidence": table.confidence, "quality": table.quality}[weighting]
    if numbers is None or np.isnan(numbers).all():
        return None
    mean = float(np.nanmean(numbers))
    if not mean > 0:
        raise TrainingDataError(
            f"image_weighting={weighting}: the {weighting} of all {len(table)} images is 0, so that none would teach. "
            "Set image_weighting=none."
        )
    return np.nan_to_num(np.asarray(numbers, np.float32) / np.float32(mean), nan=1.0)


def balanced_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An order in which every class comes equally often, whatever its number of images.

    >>> one_dog = np.array([[True, False], [True, False], [True, False], [False, True]])  # three cats
    >>> balanced_order(one_dog, np.random.default_rng(0)).tolist().count(3)  # two of the four draws
    2

    ``labels``: which classes each image shows, (N, C), bool. Returns N rows, some of them several times, others not
    at all, (N,), int64; images without a label, such as those of the background, come as one class.
    """
    total = len(labels)
    columns = (*labels.T, ~labels.any(axis=1))
    members = [rows for rows in map(np.flatnonzero, columns) if len(rows)]
    each = -(-total // len(members))  # rounded up: what is too much is cut off at the end
    picked = []
    for rows in members:
        # Whole passes over the class, so that no image comes twice before each has come once.
        passes = [generator.permutation(rows) for _ in range(-(-each // len(rows)))]
        picked.append(np.concatenate(passes)[:each])
    return generator.permutation(np.stack(picked, axis=1).ravel()[:total])


@dataclass(frozen=True)
class DataSummary:
    """What a table holds, for the run folder and the first line of the log."""

    source: str  # name of the dataset it was taken from
    images: int  # number of images
    classes: tuple[str, ...]  # names of the classes 1..C
    images_labelled: dict[str, int]  # class name -> images whose image-level labels name it
    images_masked: dict[str, int]  # class name -> images whose mask shows it
    fingerprint: str  # hash of ids, labels and the masks' content; another table has another one
    images_fingerprint: str = ""  # hash of the image files' content; empty in the folder of a run of an earlier version


def class_problems(labelled: Mapping[str, int], masked: Mapping[str, int], balanced: bool = False) -> list[str]:
    """What the classes' numbers of images hold against training, one sentence each, with the way out.

    >>> class_problems({"cat": 40, "cow": 2, "dog": 0}, {"cat": 40, "cow": 2, "dog": 0})[0]
    '1 classes have no image: dog. The model cannot learn them: get images of these classes, or take them out of the \
definition.'

    Args:
        labelled: Class -> images whose image-level labels name it.
        masked: Class -> images whose mask shows it.
        balanced: Whether classes come equally often, whatever their size.
    """
    problems = []
    if none := [name for name, count in labelled.items() if not count]:
        way_out = "The model cannot learn them: get images of these classes, or take them out of the definition."
        problems.append(f"{len(none)} classes have no image: {', '.join(none)}. {way_out}")
    if unseen := [name for name, count in labelled.items() if count and not masked[name]]:
        way_out = "The masks teach that they are background: see wss-train cooccurrence for what took their place."
        problems.append(f"{len(unseen)} classes have images but no mask: {', '.join(unseen)}. {way_out}")
    counts = {name: count for name, count in labelled.items() if count}
    if counts and not balanced:
        most, least = (find(counts, key=counts.__getitem__) for find in (max, min))
        if counts[most] >= UNEQUAL * counts[least]:
            problems.append(
                f"classes differ {counts[most] / counts[least]:.0f}-fold in number: {counts[most]:,} images of {most}, "
                f"{counts[least]:,} of {least}. Let them come equally often, with --set balanced_sampling=true, or "
                "retrieve more of the rare ones."
            )
    return problems


class TrainingDraws:
    """Training examples by draw number, without an end.

    Draws 0..N-1 are the N images of the table in a random order, draws N..2N-1 the same images in another order, and so
    on. With ``balanced_sampling`` some images come several times in N draws and others not at all.
    """

    def __init__(self, table: ExampleTable, recipe: TrainRecipe) -> None:
        self.table = table
        self.recipe = recipe
        self._labels = torch.from_numpy(np.asarray(table.labels, np.float32))
        self.weights = image_weights(table, recipe.image_weighting)
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def row(self, draw: int) -> int:
        """Row of the table that draw number ``draw`` shows."""
        epoch, position = divmod(draw, len(self.table))
        known_epoch, order = self._order
        if epoch != known_epoch:
            generator = np.random.default_rng([self.recipe.seed, ORDER, epoch])
            labels = np.asarray(self.table.labels, bool)
            balanced = self.recipe.balanced_sampling
            order = balanced_order(labels, generator) if balanced else generator.permutation(len(labels))
            # Threads that meet here draw the same order twice: the seed is the epoch's, so no lock is needed.
            self._order = (epoch, order)
        return int(order[position])

    def __getitem__(self, draw: int) -> TrainingExample:
        """Example number ``draw``, from 0. Raises as ``check_training_table`` if image or mask cannot teach."""
        table, row = self.table, self.row(draw)
        drawn = draw_augmentation(self.recipe, np.random.default_rng([self.recipe.seed, AUGMENTATION, draw]))
        # No larger than this crop needs: photographs are many times the size of what the network sees.
        image, size = read_at_least(table.image_paths[row], math.ceil(self.recipe.long_side * drawn.scale))
        mask = read_class_mask(table, row, size)
        pixels, indices = augment(image, mask, drawn, self.recipe, table.ignore_index)
        weight = 1.0 if self.weights is None else float(self.weights[row])
        return TrainingExample(
            torch.from_numpy(pixels), torch.from_numpy(indices), self._labels[row], table.ids[row], weight
        )


def batches(
    draws: TrainingDraws,
    batch: int,
    start: int,
    stop: int,
    workers: int,
    part: int = 0,
    parts: int = 1,
    accumulate: int = 1,
) -> Generator[Batch, None, None]:
    """Yield the batches of iterations ``start`` to ``stop`` - 1, the same for any number of workers.

    Iteration ``i`` holds the draws ``i * batch`` to ``(i + 1) * batch - 1``; of these, process number ``part`` of
    ``parts`` reads every ``parts``-th, in ``accumulate`` batches.

    Args:
        draws: The examples.
        batch: Examples an iteration, in all processes together; a multiple of ``parts`` times ``accumulate``.
        start: First iteration, from 0.
        stop: Iteration before which to end.
        workers: Threads that read ahead; 0 reads in the calling thread.
        part: Number of this process, from 0.
        parts: Number of processes.
        accumulate: Batches that each part is cut into.
    """
    numbers, size = range(start * batch + part, stop * batch, parts), batch // (parts * accumulate)
    ahead = 2 * batch // parts + workers  # the next two batches, while this one is computed
    examples = in_threads(draws.__getitem__, numbers, workers, ahead) if workers else map(draws.__getitem__, numbers)
    while members := list(islice(examples, size)):
        yield Batch(
            # Channels last in memory, as the pixels were decoded: the network asks for it, or copies.
            torch.stack([m.image for m in members]).permute(0, 3, 1, 2),
            torch.stack([m.mask for m in members]),
            torch.stack([m.labels for m in members]),
            tuple(m.id for m in members),
            None if draws.weights is None else torch.tensor([m.weight for m in members]),
        )


def as_table(
    examples: "Examples", mask_field: str | None, used_for: UsedFor = UsedFor.TRAINING, include_dropped: bool = False
) -> ExampleTable:
    """``wss_data.store.example_table`` of a FiftyOne dataset or view; a table is returned as it is."""
    if isinstance(examples, ExampleTable):
        return examples
    return store.example_table(examples, mask_field, include_dropped, used_for)


def with_labelled(web: ExampleTable, target: ExampleTable) -> ExampleTable:
    """The web's images with their masks, and after them the target's with nothing but their image-level labels.

    Raises:
        TrainingDataError: If the two know different classes, or an image of the target has no label.
    """
    if web.classes != target.classes:
        raise TrainingDataError(
            f"{web.source or 'the web images'} and {target.source or 'the target'} have different classes: "
            f"{', '.join(web.classes)} and {', '.join(target.classes)}. Build both from one definition."
        )
    _refuse(
        [path for path, labels in zip(target.image_paths, target.labels, strict=True) if not labels.any()],
        f"of {len(target)} target images have no image-level label",
        "Their labels are all that they teach: add labels, or take the images out, and import the target again.",
    )
    unknown = np.full(len(target), np.nan, np.float32)

    def joined(of_web: np.ndarray | None) -> np.ndarray | None:
        return None if of_web is None else np.concatenate([of_web, unknown])

    return replace(
        web,
        ids=web.ids + target.ids,
        image_paths=web.image_paths + target.image_paths,
        mask_paths=web.mask_paths + (None,) * len(target),
        labels=np.concatenate([web.labels, target.labels]),
        ledger=web.ledger.merged_with(target.ledger),
        source=" and ".join(filter(None, (web.source, target.source))),
        confidence=joined(web.confidence),
        quality=joined(web.quality),
        sha256=(web.sha256 or ("",) * len(web)) + (target.sha256 or ("",) * len(target)),
    )


def check_training_table(table: ExampleTable, needs_labels: bool = False, labels_teach: bool = False) -> DataSummary:
    """Read every mask and every image's header before training starts, so that a bad one costs seconds and not hours.

    ``labels_teach``: whether images without a mask teach by their labels.

    Raises:
        TrainingDataError: If something is missing (also a label, with ``needs_labels``), a mask holds something else
            than 0..C and the ignore index, no mask shows any class, or an image is not the one that was imported.
        MaskError: If a mask cannot be read or has another size than its image.
        ImageError: If a file is no image that is used.
    """
    if len(table) == 0:
        raise TrainingDataError(
            f"{table.source or 'the table'} holds no image with a mask to learn from. "
            "Were all images dropped by the filter, or the masks not made yet?"
        )
    _refuse(
        [name for name, path in zip(table.ids, table.mask_paths, strict=True) if path is None and not labels_teach],
        f"of {len(table)} images have no mask",
        "Make the masks first, or leave these images out.",
    )
    _refuse(
        [path for path in table.image_paths if not Path(path).is_file()],
        f"of {len(table)} image files are missing",
        f"Was their folder moved? Set WSS_HOME to the folder that holds {table.source or 'the dataset'} now; "
        "images of a target dataset are found by wss-data import-target. Were they deleted? Build it again.",
    )

    digests = digests_of(table.image_paths)
    check_imported(table, digests)
    digest = hashlib.sha256(repr((table.classes, table.ids, table.ignore_index)).encode())
    digest.update(np.packbits(np.asarray(table.labels, bool)).tobytes())
    # Whatever the recipe makes of them: the fingerprint is the table's alone.
    for numbers in (table.confidence, table.quality):
        digest.update(b"" if numbers is None else np.asarray(numbers, np.float32).tobytes())
    masked = np.zeros(table.num_classes, np.int64)
    shown: dict[int, list[int]] = {}  # of the rows with a mask
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows = [row for row, path in enumerate(table.mask_paths) if path is not None]
        read = pool.map(lambda row: _shown_and_hash(table, row), rows)
        for row, (present, mask_hash) in zip(rows, read, strict=True):
            masked[present] += 1
            shown[row] = present
            digest.update(mask_hash)
    # An image without a label whose mask is background alone is one of the background: nothing is missing.
    unlabelled = np.flatnonzero(~table.labels.any(axis=1)).tolist() if needs_labels else []
    _refuse(
        [table.image_paths[row] for row in unlabelled if set(shown.get(row, ())) != {0}],
        f"of {len(table)} images have no image-level label",
        "The multi-label branch needs them: label these images or leave them out, or train without the branch.",
    )
    if not masked[1:].any():
        raise TrainingDataError(
            f"none of the {len(table)} masks shows any of the classes {', '.join(table.classes)}: they hold background "
            f"(0) and void ({table.ignore_index}) only. Masks of 0 and 255 made elsewhere must be brought in with "
            "wss-data import-masks; a model whose masks look like that has learned nothing yet."
        )
    rows = [row for row in np.flatnonzero(table.labels.any(axis=1)).tolist() if row in shown]
    found = disagreement(
        [{table.classes[value - 1] for value in shown[row] if value > 0} for row in rows],
        [set(table.labels_of(row)) for row in rows],
    )
    if found.with_others:
        first = next(row for row, other in zip(rows, found.other, strict=True) if other)
        LOGGER.warning("masks of %s: %s, the first is %s.", table.source or "the table", found, table.mask_paths[first])
    labelled = np.asarray(table.labels, bool).sum(axis=0)
    return DataSummary(
        source=table.source,
        images=len(table),
        classes=table.classes,
        images_labelled=dict(zip(table.classes, labelled.tolist(), strict=True)),
        images_masked=dict(zip(table.classes, masked[1:].tolist(), strict=True)),
        fingerprint=digest.hexdigest(),
        images_fingerprint=hashlib.sha256("".join(digests).encode()).hexdigest(),
    )


def check_imported(table: ExampleTable, digests: Sequence[str]) -> None:
    """Raise ``TrainingDataError`` if image files are not those that were imported; ``digests``: sha256 of each."""
    imported = enumerate(table.sha256 or ())
    _refuse(
        [table.image_paths[row] for row, sha256 in imported if sha256 and sha256 != digests[row]],
        f"of {len(table)} image files changed since they were imported",
        "Import the target again with wss-data import-target: it says which masks no longer fit.",
    )


def _refuse(names: Sequence[str], what: str, way_out: str) -> None:
    """Raise ``TrainingDataError`` if anything is in ``names``."""
    if names:
        raise TrainingDataError(f"{len(names)} {what}, the first is {names[0]}. {way_out}")


def read_class_mask(table: ExampleTable, row: int, size: tuple[int, int]) -> np.ndarray:
    """The mask of a row, (H, W), uint8, checked; ``size``: (width, height) of its image."""
    path = table.mask_paths[row]
    if path is None:
        raise TrainingDataError(f"{table.image_paths[row]}: the image has no mask to learn from.")
    mask = read_mask(path)
    wrong = [value for value in used_values(mask) if value >= table.num_classes and value != table.ignore_index]
    if wrong:
        hint = " Foreground masks of 0 and 255 must first be turned into class masks." if wrong == [255] else ""
        raise TrainingDataError(
            f"{path}: the mask holds the value {wrong[0]}; 0 (background), 1 to {len(table.classes)} "
            f"({', '.join(table.classes)}) and {table.ignore_index} (void) are wanted.{hint}"
        )
    check_size((mask.shape[1], mask.shape[0]), size, str(path))
    return mask


def _shown_and_hash(table: ExampleTable, row: int) -> tuple[list[int], bytes]:
    """Class indices that the mask of a row shows, rising, and a hash of its pixels; its image is looked at."""
    mask = read_class_mask(table, row, read_size(table.image_paths[row]))
    shown = [value for value in used_values(mask) if value < table.num_classes]
    return shown, hashlib.sha256(repr(mask.shape).encode() + mask.tobytes()).digest()
