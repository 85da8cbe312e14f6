"""The engine ``subcategories``: the stages in order, over a group and then over each of its images.

``learn_group`` runs S1 to S9 on a sample of the group, bounded in size: what it costs and holds does not grow with the
group beyond the caps. ``segment_image`` runs S10 and S11 on one image.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import cv2
import numpy as np

from wss_data.cosegmentation.base import Segmented
from wss_data.cosegmentation.confidence import overlap
from wss_data.cosegmentation.options import check_names, wanted_positions
from wss_data.cosegmentation.saliency import centred_border_saliency
from wss_data.cosegmentation.subcategories.detect import Detections, TemplateBank, detect
from wss_data.cosegmentation.subcategories.edges import edge_map, seed_box
from wss_data.cosegmentation.subcategories.exemplars import (
    BackgroundStatistics,
    BackgroundSums,
    background_sums,
    box_features,
    learn_templates,
    statistics_of,
)
from wss_data.cosegmentation.subcategories.hog import mirror_template, pyramid
from wss_data.cosegmentation.subcategories.joint_cut import Window, cut_window, joint_cut
from wss_data.cosegmentation.subcategories.link import link
from wss_data.cosegmentation.subcategories.merge import Cluster, find_subcategories
from wss_data.cosegmentation.subcategories.segment import refused, segment
from wss_data.cosegmentation.subcategories.settings import SubcategorySettings
from wss_data.cosegmentation.subcategories.subcategory_detector import common_shape, features_at, learn_detector
from wss_data.cosegmentation.subcategories.top import TopBoxes, sampled, top_boxes
from wss_data.cosegmentation.subcategories.transfer import (
    centred_prior,
    location_prior,
    mix_priors,
    normalised,
    pick_detections,
    subcategory_average,
)
from wss_data.errors import CosegmentationError
from wss_data.imaging.images import resize_longest_side
from wss_data.ledger import Ledger, LedgerEntry, Supervision, UsedFor
from wss_data.runtime.parallel import map_images

VERSION = 1
"""Raised whenever the code changes masks without a setting changing."""


@dataclass(frozen=True)
class Subcategory:
    """What the group knows of one of its subcategories.

    Args:
        template: Finds it. Shape (rows, cols, 31), float32.
        average: Its shape, from ``subcategory_average``. Shape (S, S), float32, or ``None``.
        detections: Number of detections that it was learned from.
    """

    template: np.ndarray
    average: np.ndarray | None
    detections: int


@dataclass(frozen=True)
class _Seed:
    """S1 and the first half of S2 for one image."""

    box: np.ndarray
    features: np.ndarray | None


def _seed(image: np.ndarray, settings: SubcategorySettings) -> _Seed:
    height, width = image.shape[:2]
    box = seed_box(edge_map(image), width, height, settings.box_energy)
    return _Seed(box, box_features(image, box))


def _background(image: np.ndarray, settings: SubcategorySettings) -> BackgroundSums:
    return background_sums(pyramid(image, settings.background_levels, settings.search_shortest_px))


def _search(image: np.ndarray, bank: TemplateBank, settings: SubcategorySettings, threshold: float) -> Detections:
    height, width = image.shape[:2]
    least = settings.top_least_size
    # Finer levels than any template could cover enough of are not even computed.
    largest = bank.largest_scale(width, height, least)
    levels = pyramid(image, settings.search_levels, settings.search_shortest_px, largest, settings.search_padding)
    return detect(bank, levels, threshold, settings.search_nms, settings.search_most, least)


def learn_group(
    images: Sequence[np.ndarray], settings: SubcategorySettings, workers: int | None = None
) -> list[Subcategory]:
    """S1 to S9: the subcategories of a group.

    Args:
        images: The group, each (H, W, 3) uint8 RGB. At most ``images_cap`` of them are read, once, and held shrunk to
            ``long_side``.
        settings: The numbers.
        workers: Worker processes; ``None`` for one a processor.

    Returns:
        The subcategories, largest first; none if the group is too small or its images share nothing.
    """
    searched = sampled(range(len(images)), settings.images_cap, settings.seed)
    # Fewer images than an exemplar needs boxes: nothing can come of it.
    if len(searched) < settings.top_count:
        return []
    small = [resize_longest_side(images[position], settings.long_side) for position in searched]
    workers = 1 if len(small) < 16 else workers

    taught = [small[i] for i in sampled(range(len(small)), settings.background_images, settings.seed)]
    total: BackgroundSums | None = None
    for sums in map_images(partial(_background, settings=settings), taught, workers=workers):
        total = sums if total is None else total + sums
    assert total is not None
    try:
        background = statistics_of(total)
    except CosegmentationError:
        return []  # no image has room for a single cell

    own, features = [], []
    chosen = sampled(range(len(small)), settings.exemplars_cap, settings.seed + 1)
    seeds = map_images(partial(_seed, settings=settings), (small[i] for i in chosen), workers=workers)
    for index, seed in zip(chosen, seeds, strict=True):
        if seed.features is not None:
            own.append(index)
            features.append(seed.features)
    bank = TemplateBank(learn_templates(features, background))

    search = partial(_search, bank=bank, settings=settings, threshold=settings.exemplar_threshold)
    found = list(map_images(search, small, workers=workers))
    sizes = [(image.shape[1], image.shape[0]) for image in small]
    top = top_boxes(
        found,
        range(len(small)),
        sizes,
        own,
        settings.top_count,
        settings.top_share,
        settings.top_nms,
        settings.top_least_size,
    )
    linked = link(top.boxes, top.images, top.exemplars, len(top.kept), settings.link_overlap)
    clusters = find_subcategories(
        linked.counts,
        settings.probe_iterations,
        settings.probe_similarity,
        settings.drop_share,
        settings.drop_largest,
        settings.final_iterations,
        settings.final_similarity,
        settings.least_detections,
    )

    # Columns are in order of the exemplars' mean scores: the first are the best.
    cut_columns = sorted({int(column) for cluster in clusters for column in cluster.members[: settings.cuts_cap]})
    windows = (_windows(top, column, small, settings) for column in cut_columns)
    masks = dict(
        zip(cut_columns, map_images(partial(_joint, settings=settings), windows, workers=workers), strict=True)
    )
    learned = []
    for cluster in clusters:
        template = _detector(cluster, linked.boxes, linked.images, small, background, settings)
        if template is not None:
            averages = [masks[int(column)] for column in cluster.members[: settings.cuts_cap]]
            shapes = [average for average in averages if average is not None]
            average = subcategory_average(shapes, settings.average_largest_share)
            learned.append(Subcategory(template, average, cluster.size))
    return learned


def _windows(top: TopBoxes, column: int, small: Sequence[np.ndarray], settings: SubcategorySettings) -> list[Window]:
    own = np.flatnonzero(top.exemplars == column)
    windows = (
        cut_window(small[top.images[i]], top.boxes[i], settings.cut_grid_px, settings.cut_outside_px) for i in own
    )
    return [window for window in windows if window is not None]


def _joint(windows: list[Window], settings: SubcategorySettings) -> np.ndarray | None:
    return joint_cut(windows, settings.cut) if windows else None


def _detector(
    cluster: Cluster,
    boxes: np.ndarray,
    images: np.ndarray,
    small: Sequence[np.ndarray],
    background: BackgroundStatistics,
    settings: SubcategorySettings,
) -> np.ndarray | None:
    members = np.array(sampled(cluster.detections.tolist(), settings.detector_members, settings.seed))
    shape = common_shape(boxes[members])
    if shape is None:
        return None
    return learn_detector([features_at(small[images[i]], boxes[i], shape) for i in members], background)


@dataclass(frozen=True)
class GroupBank:
    """The templates of all subcategories, each twice: as it is, and mirrored.

    Args:
        bank: Template 2 k is that of subcategory k, 2 k + 1 its mirror image.
        averages: Average mask of each subcategory, or ``None``.
    """

    bank: TemplateBank
    averages: tuple[np.ndarray | None, ...]

    @classmethod
    def of(cls, subcategories: Sequence[Subcategory]) -> "GroupBank":
        """Make the templates of a group ready."""
        templates = [t for one in subcategories for t in (one.template, mirror_template(one.template))]
        return cls(TemplateBank(templates), tuple(one.average for one in subcategories))


def segment_image(image: np.ndarray, group: GroupBank, settings: SubcategorySettings) -> Segmented:
    """S10 and S11: the mask of one image.

    Args:
        image: Shape (H, W, 3), uint8, RGB.
        group: What the group taught; may hold no subcategory.
        settings: The numbers.

    Returns:
        Mask, confidence, and band if asked for. The confidence is the agreement of the location prior with the mask
        (intersection over union of H >= 0.5 and the mask), halved where the prior is not the group's.
    """
    small = resize_longest_side(image, settings.long_side)
    height, width = small.shape[:2]
    scale = min(1.0, settings.segment_grid_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grid = cv2.resize(small, size, interpolation=cv2.INTER_AREA)

    found = _search(small, group.bank, settings, settings.detector_threshold)
    picks = pick_detections(found.boxes, found.scores, settings.pick_nms, settings.pick_count_share)
    placed = []
    for pick in picks[: settings.picks_cap]:
        average = group.averages[int(found.templates[pick.position]) // 2]
        if average is not None:
            box, mirrored = found.boxes[pick.position] * scale, bool(found.templates[pick.position] % 2)
            placed.append((box, location_prior(average, box, size, mirrored)))
    nothing = not picks and bool(group.averages) and settings.empty_without_detection
    from_group = bool(placed)
    if not placed and not nothing:
        box = seed_box(edge_map(small), width, height, settings.box_energy) * scale
        placed.append((box, centred_prior(box, size, settings.fallback_spread)))

    mask, expected = np.zeros(grid.shape[:2], bool), np.zeros(grid.shape[:2], bool)
    soft = np.zeros(grid.shape[:2], np.float32)
    for box, prior in placed:
        prior = _adjusted(prior, grid, settings)
        cut = segment(grid, prior, scale, settings.segment)
        if from_group and refused(cut.mask, box, settings.segment_border_share):
            continue
        mask |= cut.mask
        expected |= prior >= 0.5
        soft = np.maximum(soft, cut.soft)
    union = int((mask | expected).sum())
    confidence = int((mask & expected).sum()) / union if union else 0.0
    return Segmented(
        _enlarged(mask, image.shape[:2]),
        confidence if from_group else confidence / 2,
        _enlarged((soft > 0.5) != mask, image.shape[:2]) if settings.uncertain_band else None,
        agreement=overlap(soft, mask.astype(np.float32)),
    )


def _adjusted(prior: np.ndarray, grid: np.ndarray, settings: SubcategorySettings) -> np.ndarray:
    if settings.normalise_prior:
        prior = normalised(prior, settings.prior_peak, settings.prior_floor)
    if settings.prior_mix > 0:
        own = normalised(centred_border_saliency(grid), settings.prior_peak, settings.prior_floor)
        prior = mix_priors([prior, own], [1 - settings.prior_mix, settings.prior_mix])
    return prior


def _enlarged(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR) > 0.5


class SubcategoriesEngine:
    """Co-segment a group by the subcategories that its images fall into.

    Every group has an answer. Groups of fewer images than an exemplar needs boxes, images without any structure and
    groups that share nothing have no subcategory: each image then gets a soft centred prior in its S1 box.

    Args:
        **options: Fields of ``SubcategorySettings``.

    Raises:
        CosegmentationError: If there is no such option, or its value is out of its range.
    """

    name = "subcategories"

    def __init__(self, **options: Any) -> None:
        check_names(self.name, options, [field.name for field in fields(SubcategorySettings)])
        self.settings = SubcategorySettings(**options)

    @property
    def ledger(self) -> Ledger:
        """What the engine learned from: the images of the group alone."""
        return Ledger(
            (LedgerEntry("images of the group, hand-made features", Supervision.NONE, UsedFor.COSEGMENTATION),)
        )

    def fingerprint(self) -> str:
        """Short text that changes whenever a setting that changes masks does."""
        text = json.dumps(asdict(self.settings) | {"version": VERSION}, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        """Yield (position in the group, its mask) for each wanted image, in order of position.

        Each image is read at most twice: once if it is among those searched, once for its mask. The searched ones
        are held meanwhile, at most ``images_cap`` of them.

        Args:
            images: The group, each (H, W, 3) uint8 RGB; may read a file when indexed.
            wanted: Positions to yield; ``None`` means all.
            workers: Worker processes; ``None`` for one a processor.

        Raises:
            CosegmentationError: If the group is empty.
        """
        positions = wanted_positions(images, wanted)
        if not positions:
            return
        group = GroupBank.of(learn_group(images, self.settings, workers))
        segmented = map_images(
            partial(segment_image, group=group, settings=self.settings),
            (images[position] for position in positions),
            # Starting processes takes seconds: a handful of images is done sooner here.
            workers=1 if len(positions) < 16 else workers,
        )
        yield from zip(positions, segmented, strict=True)
