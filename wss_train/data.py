"""From a table of paths and labels to batches of training examples.

Everything random about example number n is a function of (seed, n) alone: which
image it is, its scale, its crop. So a run that resumes at iteration k sees what
an uninterrupted one sees, whatever the number of threads.

Examples are read by threads, not by worker processes: decoding and resizing
release Python's lock, a database client does not survive a fork, and a script
without an ``if __name__ == "__main__"`` guard works too.
"""

import hashlib
import logging
import math
import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wss_data.cosegmentation.agreement import disagreement
from wss_data.errors import TrainingDataError
from wss_data.imaging.images import read_at_least, read_size
from wss_data.imaging.masks import read_mask
from wss_data.ledger import UsedFor
from wss_data.records import ExampleTable
from wss_data.runtime.files import digests_of
from wss_data.store import example_table
from wss_train.noise import balanced_order, boundary_to_void, image_weights
from wss_train.recipes import TrainRecipe
from wss_train.transforms import augment, draw_augmentation

if TYPE_CHECKING:
    from wss_data.store.types import Collection

    Examples: TypeAlias = ExampleTable | Collection

LOGGER = logging.getLogger(__name__)

_ORDER, _AUGMENTATION = 0, 1
"""Names of the streams of random numbers, so that no two share one."""


@dataclass(frozen=True)
class TrainingExample:
    """One training example.

    Args:
        image: RGB, not yet normalised. Shape (H, W, 3), uint8.
        mask: Class indices or the ignore index. Shape (H, W), uint8.
        labels: Which classes the whole image shows (the crop may show fewer). Shape (C,), float32, 0 or 1.
        id: Identity of the image.
        weight: How much it counts, at least 0.
    """

    image: Tensor
    mask: Tensor
    labels: Tensor
    id: str
    weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Several examples of one iteration, stacked.

    Args:
        images: RGB in [0, 255], not yet normalised. Shape (N, 3, H, W), uint8 or float32.
        masks: Class indices or the ignore index. Shape (N, H, W), uint8 as read, int64 after ``to``.
        labels: Shape (N, C), float32.
        ids: One identity an image.
        weights: How much each image counts, at least 0; ``None`` where all count alike. Shape (N,), float32.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    weights: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``, as bytes until there, its masks then as the losses want them."""

        def there(tensor: Tensor) -> Tensor:
            # From pinned memory the copy runs beside the computation.
            return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)

        weights = None if self.weights is None else there(self.weights)
        return Batch(there(self.images), there(self.masks).long(), there(self.labels), self.ids, weights)


@dataclass(frozen=True)
class DataSummary:
    """What a table holds, for the run folder and the first line of the log.

    Args:
        source: Name of the dataset it was taken from.
        images: Number of images.
        classes: Names of the classes 1..C.
        images_labelled: Class name -> images whose image-level labels name it.
        images_masked: Class name -> images whose mask shows it.
        fingerprint: Hash of ids, labels and the masks' content; another table has another one.
        images_fingerprint: Hash of the image files' content; empty in the folder of a run of an earlier version.
    """

    source: str
    images: int
    classes: tuple[str, ...]
    images_labelled: dict[str, int]
    images_masked: dict[str, int]
    fingerprint: str
    images_fingerprint: str = ""


class TrainingDraws(Dataset[TrainingExample]):
    """Training examples by draw number, without an end.

    Draws 0..N-1 are the N images of the table in a random order, draws N..2N-1
    the same images in another order, and so on. With ``balanced_sampling`` some images come several times in N draws
    and others not at all.

    Args:
        table: Images with masks.
        recipe: Seed, sizes and augmentation.
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
            generator = np.random.default_rng([self.recipe.seed, _ORDER, epoch])
            if self.recipe.balanced_sampling:
                order = balanced_order(np.asarray(self.table.labels, bool), generator)
            else:
                order = generator.permutation(len(self.table))
            self._order = (epoch, order)
        return int(order[position])

    def __getitem__(self, draw: int) -> TrainingExample:
        """Example number ``draw``, from 0.

        Raises:
            ImageError: If the image cannot be read.
            TrainingDataError: If image and mask differ in size, or the mask holds no class index.
        """
        table, row = self.table, self.row(draw)
        drawn = draw_augmentation(self.recipe, np.random.default_rng([self.recipe.seed, _AUGMENTATION, draw]))
        # No larger than this crop needs: photographs are many times the size of what the network sees.
        image, size = read_at_least(table.image_paths[row], math.ceil(self.recipe.long_side * drawn.scale))
        mask = _read_class_mask(table, row)
        _check_size(table, row, size, mask)
        mask = boundary_to_void(mask, self.recipe.boundary_band_px, table.ignore_index)
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

    Args:
        draws: The examples.
        batch: Examples an iteration, in all processes together.
        start: First iteration, from 0.
        stop: Iteration before which to end.
        workers: Threads that read ahead; 0 reads in the calling thread.
        part: Which part of each batch to read, from 0: that of one process.
        parts: Number of parts; ``parts`` times ``accumulate`` divides ``batch``.
        accumulate: Batches that each part is cut into.

    Yields:
        Iteration ``i`` holds the draws ``i * batch`` to ``(i + 1) * batch - 1``; every ``parts``-th of them, from the
        one with number ``part``, in ``accumulate`` batches.
    """
    numbers, size = range(start * batch + part, stop * batch, parts), batch // (parts * accumulate)
    if workers == 0:
        examples: Iterator[TrainingExample] = map(draws.__getitem__, numbers)
        yield from _stacked(examples, size, draws.weights is not None)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="examples") as pool:
        read = _read_ahead(draws, numbers, pool, 2 * batch // parts + workers)
        yield from _stacked(read, size, draws.weights is not None)


def as_table(
    examples: "Examples", mask_field: str | None, used_for: UsedFor = UsedFor.TRAINING, include_dropped: bool = False
) -> ExampleTable:
    """Plain paths and labels of a FiftyOne dataset or view; a table is returned as it is.

    Args:
        examples: A FiftyOne dataset or view, or a table.
        mask_field: Field that holds the masks, such as ``cosegmentation`` or ``pseudo_mask``; samples without it are
            left out. ``None`` for images and labels only.
        used_for: What the labels are used for, and masks drawn by people: goes into the ledger.
        include_dropped: Whether images that were dropped are taken, too.

    Raises:
        StoreError: If the view has no such field.
    """
    if isinstance(examples, ExampleTable):
        return examples
    return example_table(examples, mask_field, include_dropped, used_for)


def check_training_table(table: ExampleTable, needs_labels: bool = False) -> DataSummary:
    """Read every mask and every image's header before training starts, so that a bad one costs seconds and not hours.

    Args:
        table: Images with masks.
        needs_labels: Whether every image must have an image-level label.

    Returns:
        What the table holds.

    Raises:
        TrainingDataError: If the table is empty, an image or a mask is missing, a mask holds something else than
            0..C and the ignore index or has another size than its image, no mask shows any class, a needed label
            is missing, or an image is not the one that was imported.
        MaskError: If a mask cannot be read.
        ImageError: If a file is no image, or one with a side below ``wss_data.imaging.images.MIN_SIDE`` pixels.
    """
    if len(table) == 0:
        raise TrainingDataError(
            f"{table.source or 'the table'} holds no image with a mask to learn from. "
            "Were all images dropped by the filter, or the masks not made yet?"
        )
    without = [table.ids[i] for i, path in enumerate(table.mask_paths) if path is None]
    if without:
        raise TrainingDataError(
            f"{len(without)} of {len(table)} images have no mask, the first is {without[0]}. "
            "Make the masks first, or leave these images out."
        )
    unlabelled = np.flatnonzero(~table.labels.any(axis=1))
    if needs_labels and len(unlabelled):
        raise TrainingDataError(
            f"{len(unlabelled)} of {len(table)} images have no image-level label, the first is "
            f"{table.image_paths[unlabelled[0]]}. The multi-label branch needs them: label these images or leave them "
            "out, or train without the branch."
        )
    missing = [path for path in table.image_paths if not Path(path).is_file()]
    if missing:
        raise TrainingDataError(
            f"{len(missing)} of {len(table)} image files are missing, the first is {missing[0]}. "
            f"Was their folder moved? Set WSS_HOME to the folder that holds {table.source or 'the dataset'} now; "
            "images of a target dataset are found by wss-data import-target. Were they deleted? Build it again."
        )

    digests = digests_of(table.image_paths)
    check_imported(table, digests)
    digest = hashlib.sha256(repr((table.classes, table.ids, table.ignore_index)).encode())
    digest.update(np.packbits(np.asarray(table.labels, bool)).tobytes())
    for numbers in (table.confidence, table.quality):
        digest.update(b"" if numbers is None else np.asarray(numbers, np.float32).tobytes())
    masked = np.zeros(table.num_classes, np.int64)
    shown = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for present, mask_hash in pool.map(lambda row: _shown_and_hash(table, row), range(len(table))):
            masked[present] += 1
            shown.append(present)
            digest.update(mask_hash)
    if not masked[1:].any():
        raise TrainingDataError(
            f"none of the {len(table)} masks shows any of the classes {', '.join(table.classes)}: they hold background "
            f"(0) and void ({table.ignore_index}) only. Masks of 0 and 255 made elsewhere must be brought in with "
            "wss-data import-masks; a model whose masks look like that has learned nothing yet."
        )
    _tell_disagreement(table, shown)
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
    """Raise ``TrainingDataError`` if image files are not those that were imported.

    Args:
        table: Images.
        digests: sha256 of each file, as hex digits.
    """
    if table.sha256 is None:
        return
    changed = [row for row, sha256 in enumerate(table.sha256) if sha256 and sha256 != digests[row]]
    if changed:
        raise TrainingDataError(
            f"{len(changed)} of {len(table)} image files changed since they were imported, the first is "
            f"{table.image_paths[changed[0]]}. Import the target again with wss-data import-target: it says which "
            "masks no longer fit."
        )


def _tell_disagreement(table: ExampleTable, shown: Sequence[np.ndarray]) -> None:
    """Log how far masks and labels differ. ``shown``: class indices in each mask, background among them, (K,) int64."""
    rows = np.flatnonzero(table.labels.any(axis=1)).tolist()
    names = np.array(table.classes)
    found = disagreement(
        [set(names[shown[row][shown[row] > 0] - 1].tolist()) for row in rows],
        [set(names[np.asarray(table.labels[row], bool)].tolist()) for row in rows],
    )
    if found.with_others:
        first = next(row for row, other in zip(rows, found.other, strict=True) if other)
        LOGGER.warning("masks of %s: %s, the first is %s.", table.source or "the table", found, table.mask_paths[first])


def _read_class_mask(table: ExampleTable, row: int) -> np.ndarray:
    """The mask of a row, checked: (H, W), uint8."""
    path = table.mask_paths[row]
    if path is None:
        raise TrainingDataError(f"{table.image_paths[row]}: the image has no mask to learn from.")
    mask = read_mask(path)
    shown = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    wrong = [value for value in shown.tolist() if value >= table.num_classes and value != table.ignore_index]
    if wrong:
        hint = " Foreground masks of 0 and 255 must first be turned into class masks." if wrong == [255] else ""
        raise TrainingDataError(
            f"{path}: the mask holds the value {wrong[0]}; 0 (background), 1 to {len(table.classes)} "
            f"({', '.join(table.classes)}) and {table.ignore_index} (void) are wanted.{hint}"
        )
    return mask


def _check_size(table: ExampleTable, row: int, size: tuple[int, int], mask: np.ndarray) -> None:
    """Raise ``TrainingDataError`` unless a row's mask, (H, W), has the (width, height) of its image."""
    if mask.shape != size[::-1]:
        raise TrainingDataError(
            f"{table.mask_paths[row]}: the mask has {mask.shape[1]}x{mask.shape[0]} pixels, its image "
            f"{table.image_paths[row]} has {size[0]}x{size[1]}. Masks must have their image's size."
        )


def _shown_and_hash(table: ExampleTable, row: int) -> tuple[np.ndarray, bytes]:
    """Class indices that the mask of a row shows, (K,) int64, and a hash of its pixels; its image is looked at."""
    mask = _read_class_mask(table, row)
    _check_size(table, row, read_size(table.image_paths[row]), mask)
    counts = np.bincount(mask.ravel(), minlength=256)[: table.num_classes]
    return np.flatnonzero(counts), hashlib.sha256(repr(mask.shape).encode() + mask.tobytes()).digest()


def _read_ahead(
    draws: TrainingDraws, numbers: range, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[TrainingExample]:
    """The examples in order, with at most ``ahead`` of them being read or waiting."""
    remaining = iter(numbers)
    waiting: deque[Future[TrainingExample]] = deque(pool.submit(draws.__getitem__, n) for n in islice(remaining, ahead))
    try:
        while waiting:
            example = waiting.popleft().result()
            for number in islice(remaining, 1):
                waiting.append(pool.submit(draws.__getitem__, number))
            yield example
    finally:
        for future in waiting:
            future.cancel()


def _stacked(examples: Iterator[TrainingExample], batch: int, weighted: bool) -> Iterator[Batch]:
    while members := list(islice(examples, batch)):
        yield Batch(
            torch.stack([m.image for m in members]).permute(0, 3, 1, 2),
            torch.stack([m.mask for m in members]),
            torch.stack([m.labels for m in members]),
            tuple(m.id for m in members),
            torch.tensor([m.weight for m in members]) if weighted else None,
        )
