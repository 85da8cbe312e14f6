"""The engine ``subcategories``: the stages in order, over a sample of the group and then over each of its images."""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from functools import partial, reduce
from typing import Any, NamedTuple

import cv2
import numpy as np

from wss_data.cosegmentation.base import Segmented, wanted_positions
from wss_data.cosegmentation.confidence import overlap
from wss_data.cosegmentation.subcategories.detect import Detections, TemplateBank, detect
from wss_data.cosegmentation.subcategories.edges import edge_map, seed_box
from wss_data.cosegmentation.subcategories.exemplars import (
    BackgroundStatistics,
    background_sums,
    box_features,
    lda_templates,
    learn_templates,
    statistics_of,
    template_shape,
)
from wss_data.cosegmentation.subcategories.hog import mirror_template, pyramid
from wss_data.cosegmentation.subcategories.joint_cut import Window, cut_window, joint_cut
from wss_data.cosegmentation.subcategories.merge import find_subcategories, link
from wss_data.cosegmentation.subcategories.segment import GRID_PX, refused, segment
from wss_data.cosegmentation.subcategories.settings import SubcategorySettings
from wss_data.cosegmentation.subcategories.top import TopBoxes, sampled, top_boxes
from wss_data.cosegmentation.subcategories.transfer import (
    centred_prior,
    location_prior,
    pick_detections,
    subcategory_average,
)
from wss_data.imaging.images import resize_longest_side
from wss_data.ledger import Ledger, Supervision, UsedFor
from wss_data.runtime.parallel import map_images

VERSION = 1  # Raised whenever the code changes masks without a setting changing
# The defaults' fingerprint of the time when all numbers were settings: masks of that time are the same bit for bit
FROM_DEFAULTS = "subcategories-758d27aa7d07"
LONG_SIDE = 340  # Larger images are shrunk to this longer side, pixels. Ours: the images of the method have it
# Images that teach the background's statistics, at most, and pyramid levels an octave for it. Ours, for speed
BACKGROUND_IMAGES, BACKGROUND_LEVELS = 40, 5
SEARCH_PADDING = 1  # Cells of zeros around each level, by which a box may reach beyond the image. Ours
CUTS_CAP = 10  # Exemplars of a subcategory that are cut, best first, at most. Ours, for speed
DETECTOR_MEMBERS = 40  # Detections that a subcategory's template is the mean of, at most. Ours, for speed
PICKS_CAP = 3  # Detections that are segmented on an image, best first, at most. Ours, for speed
FEW_IMAGES = 16  # Starting processes takes seconds: fewer images are done sooner in this process


class GroupBank(NamedTuple):
    """What the group knows of its subcategories."""

    bank: TemplateBank  # Their templates: 2 k is that of subcategory k, 2 k + 1 its mirror image.
    averages: list[np.ndarray | None]  # The shape of each, from ``subcategory_average``.


def learn_group(images: Sequence[np.ndarray], settings: SubcategorySettings, workers: int | None = None) -> GroupBank:
    """S1 to S9: the subcategories of a group, largest first; none if it is too small or its images share nothing.

    At most ``images_cap`` of the images, each (H, W, 3) uint8 RGB, are read, once, and held shrunk to ``LONG_SIDE``:
    cost and memory do not grow beyond the caps. ``workers``: processes; ``None`` for one a processor.
    """
    searched = sampled(range(len(images)), settings.images_cap, settings.seed)
    # Fewer images than an exemplar needs boxes: nothing can come of it.
    if len(searched) < settings.top_count:
        return GroupBank(TemplateBank([]), [])
    small = [resize_longest_side(images[position], LONG_SIDE) for position in searched]
    workers = 1 if len(small) < FEW_IMAGES else workers

    taught = [small[i] for i in sampled(range(len(small)), BACKGROUND_IMAGES, settings.seed)]
    background = statistics_of(reduce(np.add, map_images(_background, taught, workers=workers)))
    if background is None:
        return GroupBank(TemplateBank([]), [])
    # Another seed than the background's: one small sample should not decide both.
    chosen = sampled(range(len(small)), settings.exemplars_cap, settings.seed + 1)
    features = map_images(_seed_features, (small[i] for i in chosen), workers=workers)
    exemplars = [(index, one) for index, one in zip(chosen, features, strict=True) if one is not None]
    bank = TemplateBank(learn_templates([one for _, one in exemplars], background))

    search = partial(_search, bank=bank, levels=settings.search_levels, threshold=settings.exemplar_threshold)
    found = list(map_images(search, small, workers=workers))
    sizes = [(image.shape[1], image.shape[0]) for image in small]
    top = top_boxes(found, sizes, [index for index, _ in exemplars], settings.top_count)
    linked = link(top)
    clusters = find_subcategories(linked.counts, settings.least_detections)

    # Columns are in order of the exemplars' mean scores: the first are the best.
    cut_columns = sorted({int(column) for cluster in clusters for column in cluster.members[:CUTS_CAP]})
    windows = (_windows(top, column, small) for column in cut_columns)
    averages = dict(zip(cut_columns, map_images(joint_cut, windows, workers=workers), strict=True))
    templates, shapes = [], []
    for cluster in clusters:
        members = np.array(sampled(cluster.detections.tolist(), DETECTOR_MEMBERS, settings.seed))
        template = _detector(linked.boxes[members], [small[i] for i in linked.images[members]], background)
        if template is not None:
            templates += [template, mirror_template(template)]
            shapes.append(subcategory_average([averages[int(column)] for column in cluster.members[:CUTS_CAP]]))
    return GroupBank(TemplateBank(templates), shapes)


def _background(image: np.ndarray) -> np.ndarray:
    return background_sums([level.features for level in pyramid(image, BACKGROUND_LEVELS)])


def _seed_features(image: np.ndarray) -> np.ndarray | None:
    """S1, S2: the features of an image's seed box; ``None`` if the box is too long."""
    box = seed_box(edge_map(image), image.shape[1], image.shape[0])
    shape = template_shape(float(box[2] - box[0]), float(box[3] - box[1]))
    return None if shape is None else box_features(image, box, shape)


def _search(image: np.ndarray, bank: TemplateBank, levels: int, threshold: float) -> Detections:
    # Finer levels than any template could cover enough of are not even computed.
    largest = bank.largest_scale(image.shape[1], image.shape[0])
    return detect(bank, pyramid(image, levels, largest, SEARCH_PADDING), threshold)


def _windows(top: TopBoxes, column: int, small: Sequence[np.ndarray]) -> list[Window]:
    windows = (cut_window(small[top.images[i]], top.boxes[i]) for i in np.flatnonzero(top.exemplars == column))
    return [window for window in windows if window is not None]


def _detector(boxes: np.ndarray, images: Sequence[np.ndarray], background: BackgroundStatistics) -> np.ndarray | None:
    """S9: the template of a subcategory's boxes, each on its image; ``None`` if the median box is too long."""
    shape = template_shape(*np.median(boxes[:, 2:] - boxes[:, :2], axis=0).tolist())
    if shape is None:
        return None
    # The authors train a latent SVM against generic scenes, with hard negatives. This is the LDA template of the mean
    # (Hariharan, Malik and Ramanan, ECCV 2012, section 4).
    mean = np.mean([box_features(image, box, shape) for image, box in zip(images, boxes, strict=True)], axis=0)
    return lda_templates(mean[None], background)[0]


def segment_image(image: np.ndarray, group: GroupBank, settings: SubcategorySettings) -> Segmented:
    """S10 and S11: mask, confidence, and band if asked for, of one image, (H, W, 3) uint8 RGB.

    The confidence is the agreement of the location prior with the mask (intersection over union of H >= 0.5 and the
    mask), halved where the prior is not the group's.
    """
    small = resize_longest_side(image, LONG_SIDE)
    height, width = small.shape[:2]
    grid, scale = resize_longest_side(small, GRID_PX), min(1.0, GRID_PX / max(height, width))
    size = grid.shape[1], grid.shape[0]

    found = _search(small, group.bank, settings.search_levels, settings.detector_threshold)
    picks = pick_detections(found.boxes, found.scores)
    placed = []
    for pick in picks[:PICKS_CAP]:
        number, mirrored = divmod(int(found.templates[pick]), 2)
        average = group.averages[number]
        if average is not None:
            box = found.boxes[pick] * scale
            placed.append((box, location_prior(average, box, size, bool(mirrored))))
    from_group = bool(placed)
    nothing = not picks and bool(group.averages) and settings.empty_without_detection
    if not placed and not nothing:
        box = seed_box(edge_map(small), width, height) * scale
        placed.append((box, centred_prior(box, size)))

    mask, expected, soft = (np.zeros(grid.shape[:2], kind) for kind in (bool, bool, np.float32))
    for box, prior in placed:
        own_mask, own_soft = segment(grid, prior, scale)
        if not (from_group and refused(own_mask, box)):
            mask |= own_mask
            expected |= prior >= 0.5
            soft = np.maximum(soft, own_soft)
    return Segmented(
        _enlarged(mask, image.shape[:2]),
        overlap(mask, expected) * (1.0 if from_group else 0.5),
        _enlarged((soft > 0.5) != mask, image.shape[:2]) if settings.uncertain_band else None,
        agreement=overlap(soft, mask.astype(np.float32)),
    )


def _enlarged(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR) > 0.5


class SubcategoriesEngine:
    """Co-segment a group by the subcategories that its images fall into; see ``wss_data.cosegmentation.base.Engine``.

    Every group has an answer: where there is no subcategory, each image gets a soft centred prior in its S1 box.
    ``options`` are the fields of ``SubcategorySettings``.
    """

    name = "subcategories"

    def __init__(self, /, **options: Any) -> None:
        self.settings = SubcategorySettings(**options)

    @property
    def ledger(self) -> Ledger:
        """What the engine learned from: the images of the group alone."""
        return Ledger().add("images of the group, hand-made features", Supervision.NONE, UsedFor.COSEGMENTATION)

    def fingerprint(self) -> str:
        """Short text that changes whenever a setting that changes masks does."""
        if VERSION == 1 and self.settings == SubcategorySettings():
            return FROM_DEFAULTS
        text = json.dumps(asdict(self.settings) | {"version": VERSION}, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        """Yield (position, its mask) for each wanted image, in order; see ``Engine``. Each is read at most twice."""
        positions = wanted_positions(images, wanted)
        if not positions:
            return
        one = partial(segment_image, group=learn_group(images, self.settings, workers), settings=self.settings)
        workers = 1 if len(positions) < FEW_IMAGES else workers
        segmented = map_images(one, (images[position] for position in positions), workers=workers)
        yield from zip(positions, segmented, strict=True)
