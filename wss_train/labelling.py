"""From class probabilities to label masks: eq. 2, and a dense CRF beside the network where it is wanted."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar, cast

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from wss_data.crf.dense_crf import LARGEST_WHOLE, TILE_PIXELS, backend, sharpened_tiles
from wss_data.crf.settings import CrfSettings
from wss_data.errors import ImageError
from wss_data.imaging.images import AnyImage, pixels_of, strips
from wss_data.reading.settings import only_known
from wss_data.runtime.heap import freed_memory_kept
from wss_data.runtime.parallel import default_workers, map_images
from wss_data.runtime.threads import Room, in_threads
from wss_train.checkpoints import ModelCard, fingerprint_of
from wss_train.inference import (
    DECODED,
    InferenceSettings,
    Predicted,
    device_of,
    predict_files,
    window_at_image_size,
)
from wss_train.models import SegmentationModel, load_network, usable_precision

T = TypeVar("T")

SMALLEST_SUPPORT = 0.05
"""A class that reaches this probability nowhere in an image is left out of its CRF, whose cost grows with the classes.
An approximation: such a class hardly wins a pixel, but the CRF could have lifted it."""

# Bytes that the CRFs of several images take together, in threads; one that needs more runs alone.
_SHARPENED = Room(1_500_000_000)

_STRIP = 250_000  # pixels of a large image that are decided at a time: their scores stay in the processor's cache

_MANY = 16  # images from which on it pays to keep the memory that is freed

_BYTES, _BYTES_A_LABEL = 400, 32  # what a CRF takes a pixel, as measured with 2 and 21 labels

Allowed = Callable[[int], np.ndarray]
"""Position of an image -> which classes it may show. Shape (C + 1,), bool; background always is."""


def label_constrained_argmax(scores: Tensor, labels: Tensor) -> Tensor:
    """Pick the best-scoring class at each pixel among the classes the image is known to show.

    Background (class 0) is always allowed: an image-level label says what is present, never that it fills the frame.

    >>> scores = torch.tensor([[[-3.0, -1.0]], [[-2.0, -2.0]], [[5.0, 5.0]]])  # background, cow, sheep
    >>> label_constrained_argmax(scores, torch.tensor([False, True, False]))  # shows a cow, no sheep
    tensor([[1, 0]])

    Args:
        scores: Class scores, logits or probabilities. Shape (C, H, W), float.
        labels: Which classes the image shows; entry 0 is ignored. Shape (C,), bool.

    Returns:
        Class index per pixel. Shape (H, W), int64, values in [0, C).

    Raises:
        ValueError: If ``labels`` does not have one entry per class.

    Source:
        Shen et al., BMVC 2017, eq. (2).
    """
    num_classes = scores.shape[0]
    if labels.shape != (num_classes,):
        raise ValueError(
            f"labels must have one entry per class: scores has {num_classes} classes, "
            f"labels has shape {tuple(labels.shape)}"
        )
    # Excluded rather than multiplied by zero, which would outrank a negative logit; for probabilities the two agree.
    # Plane by plane: ``argmax`` goes through the classes of a pixel, which lie far apart, and takes many times as long.
    best, found = scores[0], torch.zeros(scores.shape[1:], dtype=torch.int64, device=scores.device)
    for index, may_win in enumerate(labels.tolist()):
        if index and may_win:
            found.masked_fill_(scores[index] > best, index)  # of equal ones the first stays
            best = torch.maximum(best, scores[index])
    return found


@dataclass(frozen=True)
class LabelledImage:
    """The label mask of one image of a list, or why there is none."""

    position: int  # position in the list
    mask: np.ndarray | None  # shape (H, W), uint8; None if the image could not be read
    error: ImageError | None = None  # why not, else None


class Presence(NamedTuple):
    """How classes that an image is known to show are raised; see ``raise_present``."""

    exponent: float = 0.0  # from 0, as they are, to 1, each is somewhere as likely as can be
    background: float = 1.0  # what the background's probabilities are divided by


class LookOptions(TypedDict, total=False):
    """How label masks are made of images by a network that is loaded.

    Args:
        scales: Image scales whose probabilities are averaged; ``None`` for the default of whoever asks.
        crf: Whether a dense CRF sharpens the masks; ``True``: as the model's recipe says; ``None`` as for ``scales``.
        presence: How labels that are known raise their classes, see ``raise_present``; ``None`` as for ``scales``.
        workers: Threads or processes of the CRF; ``None`` for one a processor.
        progress: Whether to show a progress bar.
    """

    scales: Sequence[float] | None
    crf: bool | CrfSettings | None
    presence: "Presence | None"
    workers: int | None
    progress: bool


class LabellingOptions(LookOptions, total=False):
    """``LookOptions``, and where the network runs.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` for the GPU if there is one.
    """

    device: str | None


@dataclass(frozen=True)
class Labeller:
    """A trained model that labels images; see ``open_labeller``. Several threads may use one at the same time."""

    network: SegmentationModel
    card: ModelCard
    fingerprint: str  # hash of its file
    settings: InferenceSettings
    crf: CrfSettings | None = None
    presence: Presence = field(default_factory=Presence)
    options: LabellingOptions = field(default_factory=LabellingOptions)

    def with_options(self, options: LookOptions | LabellingOptions) -> "Labeller":
        """The same network under other options; what they leave open stays as it is."""
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        crf = given.get("crf", self.crf)
        if not isinstance(crf, CrfSettings):
            crf = self.card.recipe.crf_settings if crf else None
        return replace(
            self,
            settings=replace(self.settings, scales=tuple(given.get("scales", self.settings.scales))),
            crf=crf,
            presence=given.get("presence", self.presence),
            options=cast(LabellingOptions, {**self.options, **given}),
        )

    def label(
        self,
        images: Sequence[AnyImage],
        use: Callable[[LabelledImage], T],
        what: str,
        allowed: Allowed | None = None,
        watch: Callable[[Iterator[Predicted]], Iterable[Predicted]] = iter,
    ) -> Iterator[T]:
        """Label images, and yield what ``use`` makes of each mask, in threads: the next images are labelled meanwhile.

        ``what``: text beside the progress bar; ``allowed``: see ``label_images``; ``watch``: what sees the
        probabilities on their way.
        """
        predictions = watch(predict_files(self.network, images, self.settings))
        labelled = label_images(predictions, allowed, self.crf, self.options.get("workers"), self.presence)
        used = in_threads(use, labelled, pixels=lambda result: 0 if result.mask is None else result.mask.size)
        hidden = not self.options.get("progress", True)
        # To give memory back, and take it again the next time, costs more than a few images save.
        with freed_memory_kept() if len(images) >= _MANY else nullcontext():
            yield from tqdm(used, total=len(images), desc=what, unit="image", disable=hidden)


def open_labeller(
    checkpoint: Path | str, options: LabellingOptions, classes: Sequence[str] | None = None, by_recipe: bool = False
) -> Labeller:
    """Load a trained model, as ``load_network``, to label images with.

    ``by_recipe``: whether its recipe says what ``options`` do not; otherwise that is one scale and no CRF.
    """
    only_known(options, LabellingOptions)
    device = device_of(options.get("device"))
    network, card = load_network(checkpoint, classes, device)
    recipe = card.recipe
    # At the size that it was trained at, and in its precision if the device has that.
    settings = InferenceSettings((1.0,), recipe.long_side, usable_precision(recipe.precision, device), batch=4)
    network.make_fast(settings.precision)
    labeller = Labeller(network, card, fingerprint_of(checkpoint), settings)
    if by_recipe:
        presence = Presence(recipe.mask_presence, recipe.mask_background)
        labeller = labeller.with_options({"scales": recipe.scales, "crf": recipe.mask_crf, "presence": presence})
    return labeller.with_options(options)


@dataclass(frozen=True)
class _Undecided:
    """Probabilities of the few classes that can win, still on the coarse grid: little to send to another process.

    They may have one plane more than there are classes: the strongest of all others at each point, which cannot win.
    """

    predicted: Predicted
    planes: Tensor
    classes: np.ndarray

    def winners(self, scores: Tensor) -> np.ndarray:
        """Class index per pixel, (h, w), uint8, from scores of the planes, (K, h, w)."""
        can_win = torch.arange(len(self.planes), device=scores.device) < len(self.classes)
        indices = torch.from_numpy(self.classes.astype(np.uint8)).to(scores.device)
        return indices[label_constrained_argmax(scores, can_win)].cpu().numpy()


def candidate_classes(maps: Tensor, allowed: np.ndarray | None, support: float) -> np.ndarray:
    """Classes that are allowed and reach a probability somewhere; background always is among them.

    >>> maps = torch.tensor([0.01, 0.9, 0.05, 0.04])[:, None, None]  # one pixel, four classes
    >>> candidate_classes(maps, None, 0.05)
    array([0, 1, 2])
    >>> candidate_classes(maps, np.array([False, False, True, True]), 0.05)
    array([0, 2])

    ``maps``: (C + 1, h, w), float; ``allowed``: (C + 1,), bool, ``None`` for all. Returns indices, rising, int64.
    """
    possible = (maps.amax(dim=(1, 2)) >= support).cpu().numpy()
    if allowed is not None:
        possible &= allowed
    possible[0] = True
    return np.flatnonzero(possible)


def raise_present(maps: Tensor, presence: Presence) -> Tensor:
    """Divide each class by a power of its largest probability in the image, and the background by a number.

    What an image is known to show is somewhere in it, however unsure the network is.

    >>> maps = torch.tensor([[0.75, 1.0], [0.25, 0.0]])[:, None]  # background and a class, two pixels
    >>> raised = raise_present(maps, Presence(exponent=1.0, background=3.0))
    >>> (100 * raised).round().flatten().tolist()  # percent
    [20.0, 100.0, 80.0, 0.0]

    Args:
        maps: Probabilities, background first. Shape (K, h, w), float.
        presence: By how much.

    Returns:
        The same shape; sums to 1 over the classes.
    """
    divisors = maps.amax(dim=(1, 2)).clamp(min=1e-3) ** presence.exponent  # a class that is nowhere stays nowhere
    divisors[0] = presence.background
    # Where an absent class is certain, none of these has a probability that float32 can hold.
    raised = maps.clamp(min=1e-8) / divisors[:, None, None]
    return raised / raised.sum(dim=0)


def label_images(
    predictions: Iterable[Predicted],
    allowed: Allowed | None = None,
    crf: CrfSettings | None = None,
    workers: int | None = None,
    presence: Presence | None = None,
) -> Iterator[LabelledImage]:
    """Decide each pixel of each image.

    Only classes that can win are brought from the grid of the probabilities to the image's size. The CRF sees those
    that are allowed and reach 5 % somewhere, and the strongest of the others as one label, which cannot win.

    Args:
        predictions: Probabilities, as from ``predict_files``.
        allowed: Which classes each image may show (eq. 2); ``None`` for all.
        crf: Settings of the dense CRF; ``None`` for none.
        workers: Threads or processes for the CRF; ``None`` for one a processor.
        presence: How classes of ``allowed`` are raised, which then all can win, and no other has a label in the CRF.

    Yields:
        One entry an image, in the order of ``predictions``.
    """
    if presence == Presence():
        presence = None
    candidates = (_candidates(predicted, allowed, crf is not None, presence) for predicted in predictions)
    decide = partial(_decide, crf=crf)
    if crf is None:
        yield from map(decide, candidates)
        return
    count = workers or default_workers()
    # Beside the network: the built-in CRF in threads, pydensecrf, which holds Python's lock, in processes.
    if count > 1 and backend() == "builtin":
        yield from in_threads(decide, candidates, count, 2 * count, _pixels)
    else:
        yield from map_images(decide, candidates, workers=count)


def _pixels(candidate: _Undecided | LabelledImage) -> int:
    return 0 if isinstance(candidate, LabelledImage) else int(np.prod(candidate.predicted.shape))


def _candidates(
    predicted: Predicted, allowed: Allowed | None, with_crf: bool, presence: Presence | None
) -> _Undecided | LabelledImage:
    maps, may_show = predicted.probabilities, None
    if maps is None:
        return LabelledImage(predicted.position, None, predicted.error)
    if allowed is not None:
        may_show = allowed(predicted.position)
        if presence:
            classes = np.flatnonzero(may_show)
            planes = raise_present(maps[torch.from_numpy(classes).to(maps.device)].float(), presence)
            return _Undecided(replace(predicted, probabilities=None), planes.cpu() if with_crf else planes, classes)
    # The best of K probabilities that sum to one is at least 1 / K, and interpolation never exceeds the peak.
    support = SMALLEST_SUPPORT if with_crf else 0.999 / len(maps) if may_show is None else 0.0
    classes = candidate_classes(maps, may_show, support)
    planes = maps[torch.from_numpy(classes).to(maps.device)]
    absent = np.setdiff1d(np.arange(len(maps)), classes)
    if with_crf and len(absent):
        others = maps[torch.from_numpy(absent).to(maps.device)].amax(dim=0, keepdim=True)
        # Without it, pixels in which the network sees an absent class would go to the present ones before the CRF has
        # weighed them.
        if float(others.max()) >= SMALLEST_SUPPORT:
            planes = torch.cat([planes, others])
    # Of the network's maps nothing goes on but these.
    return _Undecided(replace(predicted, probabilities=None), planes.cpu() if with_crf else planes, classes)


def _decide(candidate: _Undecided | LabelledImage, crf: CrfSettings | None) -> LabelledImage:
    if isinstance(candidate, LabelledImage):
        return candidate
    predicted, planes = candidate.predicted, candidate.planes
    height, width = predicted.shape
    mask = np.empty((height, width), np.uint8)
    if crf is None:
        for rows, columns in strips(height, width, _STRIP if height * width > LARGEST_WHOLE else LARGEST_WHOLE):
            mask[rows, columns] = candidate.winners(window_at_image_size(planes, (height, width), rows, columns))
        return LabelledImage(predicted.position, mask)

    def of_part(rows: slice, columns: slice) -> np.ndarray:
        if height * width <= LARGEST_WHOLE:
            # The same interpolation, faster: an image of this size is one part.
            return np.stack([cv2.resize(plane, (width, height)) for plane in planes.numpy()])
        return window_at_image_size(planes, (height, width), rows, columns).numpy()

    with _SHARPENED.taken(min(height * width, TILE_PIXELS) * (_BYTES + _BYTES_A_LABEL * len(planes))):
        image = predicted.image
        if image is None:
            assert predicted.source is not None, "an image that is not held is read again"
            try:
                with DECODED.taken(height * width):
                    image = pixels_of(predicted.source)
            except ImageError as error:
                return LabelledImage(predicted.position, None, error)
        for tile, marginals in sharpened_tiles(of_part, image, crf):
            mask[tile.rows, tile.columns] = candidate.winners(torch.from_numpy(marginals))
    return LabelledImage(predicted.position, mask)
