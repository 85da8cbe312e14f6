"""The engine ``common``: what stands in the middle of a group's photographs and not at their borders is the object.

Photographers put the object in the middle; what lies around it differs from image to image, or lies at the borders
too. One image says little about that, a group says much: the direction in its descriptors that goes along with the
distance from the border is the object's. Masks found with it give a better direction than the place did, and at last
teach a small network, each image by the others' masks. Nothing but sums over cells is needed until then, so the cost
grows linearly and a group may be summed up in shards.

What happens, in order: describe each image at two depths of a classification network
(``features.py``); find the direction of each depth (``discriminant.py``); join both maps of an
image into evidence and set the image's own threshold (``evidence_map``, ``otsu_threshold``);
sharpen it along the image's edges (``sharpen``); again, with the masks in the place of the
place; teach and ask the small networks (``refine.py``); sharpen, and judge (``confidence``).

Source:
    Our own. The group's direction as a linear projection of convolutional descriptors is Wei et al.'s, *Deep
    Descriptor Transforming for Image Co-Localization*, IJCAI 2017, arXiv 1705.02758; theirs is the first principal
    direction, which marks faces in place of bodies (J on web_wild6 0.73). Borders as background: Zhu et al.,
    *Saliency Optimization from Robust Background Detection*, CVPR 2014. How the values were chosen, and on what:
    docs/explanation/experiment_log.md.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

import cv2
import numpy as np

from wss_data.backbones import BackboneChoice
from wss_data.cosegmentation.base import Segmented
from wss_data.cosegmentation.confidence import confidence, overlap, pooled, prototype_distances, typicality
from wss_data.cosegmentation.discriminant import (
    TargetSums,
    centred_gaussian,
    discriminant,
    project,
    standardised,
    target_sums,
)
from wss_data.cosegmentation.features import DescriptorNetwork, resolve_device, resolve_precision
from wss_data.cosegmentation.options import check_names, check_values, wanted_positions
from wss_data.cosegmentation.self_training import TeachSettings, teach_group
from wss_data.cosegmentation.spool import ArraySpool
from wss_data.crf.dense_crf import CrfSettings, dense_crf
from wss_data.errors import CosegmentationError
from wss_data.imaging.images import longest_side_size
from wss_data.ledger import Ledger
from wss_data.runtime.parallel import map_images

R = TypeVar("R")

VERSION = 3
"""Raised whenever the code changes masks or confidence without a setting changing."""

BLANK = 4
"""An image whose channels vary by no more than this, of 255, is of one colour: JPEG leaves so much."""

FEW = 16
"""Below this many images, starting processes takes longer than the images do."""

_WHOLE_NUMBERS = {
    "long_side": (64, 4096),
    "rounds": (1, 10),
    "teach_folds": (0, 20),
    "teach_hidden": (1, 4096),
    "teach_epochs": (1, 1000),
    "teach_most_images": (1, 100_000),
    "round_long_side": (16, 2048),
    "refine_long_side": (16, 2048),
    "crf_iterations": (0, 100),
    "memory_mb": (0, 1_000_000),
}
_NUMBERS = {
    "prior_width": (0.01, 100.0),
    "middle_weight": (0.0, 100.0),
    "last_weight": (0.0, 100.0),
    "prior_weight": (0.0, 100.0),
    "prior_offset": (0.0, 1.0),
    "threshold_share": (-10.0, 10.0),
    "teach_threshold_share": (-10.0, 10.0),
    "probability_floor": (1e-6, 0.49),
    "crf_position_px": (0.1, 1000.0),
    "crf_position_weight": (0.0, 1000.0),
    "crf_bilateral_px": (0.1, 1000.0),
    "crf_bilateral_rgb": (0.1, 1000.0),
    "crf_bilateral_weight": (0.0, 1000.0),
}


@dataclass(frozen=True)
class CommonSettings:
    """Every number of the engine. Lengths named ``_px`` are pixels at ``refine_long_side``.

    Args:
        backbone: One of ``wss_data.backbones.BACKBONES``.
        weights: A file of weights, ``None`` for the backbone's own; see ``BackboneChoice``.
        weights_supervision: What people had to give for that file; see ``BackboneChoice``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ... or ``auto``: the first GPU if there is one.
        long_side: Longer side at which the network sees an image, pixels.
        precision: Of the network: ``float32``, ``bf16``, or ``auto``: bf16 where the processor has AMX or the GPU can.
        prior_width: Standard deviation of the centred Gaussian, in sides of the image: the first target.
        middle_weight: Weight of the direction found at middle depth: parts, textures, bodies.
        last_weight: Weight of the one found in the last stage: whole objects, faces.
        prior_weight: Weight of the centred Gaussian in the evidence; it decides where the group says nothing.
        prior_offset: Value of the Gaussian at which it speaks for neither side.
        threshold_share: Share of the image's own Otsu threshold that is taken off the evidence.
        rounds: Times that a direction is found; the first has only places to go by, the others masks.
        teach_threshold_share: Share of Otsu's threshold that is taken off what teaching says.
        teach_folds: See ``TeachSettings``; 0 leaves teaching out. These four likewise.
        teach_hidden: As above.
        teach_epochs: As above.
        teach_most_images: As above.
        round_long_side: Longer side at which the CRF of a round runs, pixels; never more than ``refine_long_side``.
        refine_long_side: Longer side at which the last CRF runs, pixels; never more than the image's own.
        probability_floor: Probabilities given to the CRF stay this far from 0 and 1.
        crf_position_px: See ``CrfSettings``; these five likewise.
        crf_position_weight: As above.
        crf_bilateral_px: As above.
        crf_bilateral_rgb: As above.
        crf_bilateral_weight: As above.
        crf_iterations: As above.
        uncertain_band: Whether pixels where the soft map and the sharpened mask disagree are told as uncertain.
        memory_mb: Descriptors of a group above this size wait in a temporary file, MiB; about 0.7 an image.

    Raises:
        CosegmentationError: If a value is of the wrong kind or out of its range.
        WssError: If backbone, weights and their supervision do not go together.
    """

    backbone: str = "efficientnet_lite2"
    weights: str | None = None
    weights_supervision: str | None = None
    device: str = "auto"
    long_side: int = 512
    precision: str = "auto"
    prior_width: float = 0.3
    middle_weight: float = 1.0
    last_weight: float = 1.0
    prior_weight: float = 0.3
    prior_offset: float = 0.55
    threshold_share: float = 0.8
    rounds: int = 2
    teach_threshold_share: float = 0.3
    teach_folds: int = 3
    teach_hidden: int = 64
    teach_epochs: int = 8
    teach_most_images: int = 150
    round_long_side: int = 112
    refine_long_side: int = 160
    probability_floor: float = 0.02
    crf_position_px: float = 3.0
    crf_position_weight: float = 3.0
    crf_bilateral_px: float = 25.0
    crf_bilateral_rgb: float = 5.0
    crf_bilateral_weight: float = 6.0
    crf_iterations: int = 5
    uncertain_band: bool = False
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        resolve_precision(self.precision)
        check_values(self, _WHOLE_NUMBERS, _NUMBERS, ("uncertain_band",))
        if self.middle_weight == self.last_weight == 0:
            raise CosegmentationError(
                "co-segmentation options middle_weight and last_weight are both 0: one must count."
            )
        _ = self.choice

    @property
    def choice(self) -> BackboneChoice:
        """The backbone, its weights, and what these learned from."""
        return BackboneChoice(self.backbone, self.weights, self.weights_supervision)

    @property
    def crf(self) -> CrfSettings:
        """The dense CRF's settings."""
        return CrfSettings(**{field.name: getattr(self, f"crf_{field.name}") for field in fields(CrfSettings)})

    @property
    def teach(self) -> TeachSettings:
        """The settings of cross-fitted teaching."""
        names = ("folds", "hidden", "epochs", "most_images")
        return TeachSettings(**{name: getattr(self, f"teach_{name}") for name in names})


def evidence_map(joined: np.ndarray, settings: CommonSettings) -> np.ndarray:
    """Evidence for the foreground: the group's direction, the photographer's habit, the image's own threshold.

    Args:
        joined: How far each cell lies along the group's direction, in the group's standard deviations. Shape (h, w).
        settings: The weights.

    Returns:
        joined + 0.3 (g - 0.55) with the default weights, less the image's share of Otsu's threshold; positive is
        foreground. Shape (h, w), float32.
    """
    height, width = joined.shape
    prior = centred_gaussian(height, width, settings.prior_width)
    values = joined + settings.prior_weight * (prior - settings.prior_offset)
    return (values - settings.threshold_share * otsu_threshold(values)).astype(np.float32)


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    """The threshold that best parts the values in two classes, by the variance between them.

    Args:
        values: Any shape, float, finite.
        bins: Bins between smallest and largest value.

    Returns:
        Centre of the last bin of the lower class; the value itself if all are equal.

    Source:
        Otsu, IEEE Transactions on Systems, Man, and Cybernetics, 1979.
    """
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12:
        return low
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sum_below = np.cumsum(counts * centres)[:-1]
    above, sum_above = counts.sum() - below, (counts * centres).sum() - sum_below
    # First and last bin hold the extremes, so neither side is ever empty.
    between = below * above * (sum_below / below - sum_above / above) ** 2
    return float(centres[np.argmax(between)])


def soft_map(evidence: np.ndarray) -> np.ndarray:
    """Evidence as a foreground probability, 1 / (1 + exp(-evidence)). Any shape, float, in [0, 1]."""
    return 1 / (1 + np.exp(-np.clip(evidence, -50, 50)))


def sharpen(
    evidence: np.ndarray, image: np.ndarray, settings: CommonSettings, crf: CrfSettings | None = None
) -> np.ndarray:
    """Foreground probability after a dense CRF.

    Args:
        evidence: Shape (h, w), float; enlarged to the image's size.
        image: Shape (H, W, 3), uint8.
        settings: Floor of the probabilities and the CRF's settings.
        crf: Other settings of the CRF, for an image of another scale.

    Returns:
        Marginal probability of the foreground. Shape (H, W), float32, in [0, 1].
    """
    floor = settings.probability_floor
    foreground = np.clip(soft_map(_enlarged(evidence, image)), floor, 1 - floor)
    return dense_crf(np.stack([1 - foreground, foreground]), image, crf or settings.crf)[1]


def _enlarged(evidence: np.ndarray, image: np.ndarray) -> np.ndarray:
    size = (image.shape[1], image.shape[0])
    return cv2.resize(np.asarray(evidence, np.float32), size, interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class _Image:
    """One image after the group is known, small enough to send to another process."""

    position: int
    size: tuple[int, int]
    small: np.ndarray
    evidence: np.ndarray
    earlier: np.ndarray | None
    descriptor: np.ndarray
    prototype_distance: float | None
    typicality: float


def _target(image: _Image, settings: CommonSettings) -> np.ndarray:
    """How much of each cell is foreground once the evidence is sharpened: what the next round goes by."""
    cells = image.evidence.shape[::-1]
    # Cells are coarse: a smaller picture, with the CRF's lengths at its scale, gives the same for half the time.
    share = settings.round_long_side / settings.refine_long_side
    size = longest_side_size(image.small.shape[1], image.small.shape[0], settings.round_long_side)
    smaller = cv2.resize(image.small, size, interpolation=cv2.INTER_AREA)
    crf = replace(
        settings.crf,
        position_px=settings.crf_position_px * share,
        bilateral_px=settings.crf_bilateral_px * share,
    )
    return cv2.resize(sharpen(image.evidence, smaller, settings, crf), cells, interpolation=cv2.INTER_AREA)


def _no_target(image: _Image) -> np.ndarray:
    """In the place of ``_target`` for an image whose CRF kills its worker each time: it teaches the group nothing."""
    return np.zeros(image.evidence.shape, np.float32)


def _no_mask(image: _Image) -> tuple[int, Segmented | None]:
    """In the place of ``_segment_one`` for such an image: the others go on."""
    return image.position, None


def _segment_one(image: _Image, settings: CommonSettings) -> tuple[int, Segmented | None]:
    if np.ptp(image.small, axis=(0, 1)).max() <= BLANK:
        nothing = np.zeros(image.size[::-1], bool)
        band = nothing if settings.uncertain_band else None
        return image.position, Segmented(nothing, 0.0, band, descriptor=image.descriptor)
    probability = sharpen(image.evidence, image.small, settings)
    cells = image.evidence.shape[::-1]
    on_cells = cv2.resize(probability, cells, interpolation=cv2.INTER_AREA)
    soft = soft_map(image.evidence)
    mask = cv2.resize(probability, image.size, interpolation=cv2.INTER_LINEAR) > 0.5
    band = None
    if settings.uncertain_band:
        likely = cv2.resize(np.asarray(image.evidence, np.float32), image.size, interpolation=cv2.INTER_LINEAR) > 0
        band = likely != mask
    return image.position, Segmented(
        mask,
        confidence(on_cells, soft if image.earlier is None else image.earlier, image.typicality),
        band,
        agreement=overlap(on_cells, soft),
        prototype_distance=image.prototype_distance,
        descriptor=image.descriptor,
    )


class CommonEngine:
    """Co-segment a group by what stands in the middle of its images.

    Every group has an answer, however small: one image is told from its own cells, equal images get equal masks. An
    image of one colour shows nothing: its mask is empty, its confidence 0, and the filter drops it as too small.

    Args:
        **options: Fields of ``CommonSettings``.

    Raises:
        CosegmentationError: If there is no such option, or its value is out of its range.
        WssError: If backbone, weights and their supervision do not go together.
    """

    name = "common"

    def __init__(self, **options: Any) -> None:
        check_names(self.name, options, [field.name for field in fields(CommonSettings)])
        self.settings = CommonSettings(**options)
        self._network: DescriptorNetwork | None = None

    @property
    def ledger(self) -> Ledger:
        """What the engine learned from: the backbone's weights, nothing else."""
        return Ledger((self.settings.choice.ledger_entry(),))

    def fingerprint(self) -> str:
        """Short text that changes whenever a setting that changes masks does."""
        values = asdict(self.settings) | {"weights": self.settings.choice.fingerprint(), "version": VERSION}
        values["precision"] = resolve_precision(self.settings.precision, resolve_device(values.pop("device")))
        del values["memory_mb"]
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        """Yield (position in the group, its mask) for each wanted image, in order of position.

        Each image is read once. Its descriptors wait in memory, above ``memory_mb`` in a temporary file, while the
        group makes up its mind; CRFs and teaching run on worker processes. Masks do not depend on their number.

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
        if self._network is None:
            settings = self.settings
            self._network = DescriptorNetwork(
                settings.long_side, settings.precision, settings.backbone, settings.weights, settings.device
            )
        with ArraySpool(self.settings.memory_mb << 20) as spool:
            group = _Group(self.settings, spool, workers)
            group.describe(self._network, images)
            yield from group.segment(positions)


class _Group:
    """One group in work: its descriptors in a spool, its maps and pooled descriptors in memory (about 3 KB each).

    Args:
        settings: The engine's.
        spool: Receives (width and height, small image, middle descriptors, last descriptors) of each image.
        workers: Worker processes; ``None`` for one a processor.
    """

    def __init__(self, settings: CommonSettings, spool: ArraySpool, workers: int | None) -> None:
        self.settings, self.spool, self.workers = settings, spool, workers
        self.weights = (settings.middle_weight, settings.last_weight)
        self.contents: list[str] = []
        self.sums: list[TargetSums] = []
        self.evidence: list[np.ndarray] = []
        self.second_opinions: list[np.ndarray | None] = []
        self.descriptors: list[np.ndarray] = []
        self.distances: np.ndarray = np.empty(0)
        self.typicality: np.ndarray = np.empty(0)

    def describe(self, network: DescriptorNetwork, images: Sequence[np.ndarray]) -> None:
        """Describe all images, each read once, and sum up their descriptors with the place as the target."""
        one_by_one = (images[position] for position in range(len(images)))
        for image, features in network.describe_all(one_by_one, self.workers):
            size = (image.shape[1], image.shape[0])
            small_size = longest_side_size(*size, self.settings.refine_long_side)
            small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
            layers = (features.middle, features.descriptors)
            self.spool.append([np.array(size), small, *layers])
            self.contents.append(hashlib.sha256(image.tobytes() + str(size).encode()).hexdigest())
            height, width = features.descriptors.shape[:2]
            self.descriptors.append(pooled(features.descriptors).astype(np.float16))
            self._add(layers, centred_gaussian(height, width, self.settings.prior_width))

    def segment(self, positions: Sequence[int]) -> Iterator[tuple[int, Segmented]]:
        """Find the group's direction in rounds, teach, and cut out the images at ``positions``."""
        everyone = range(len(self.spool))
        self._find_direction()
        targets = self._targets(everyone) if self.settings.rounds > 1 or self.settings.teach_folds > 1 else []
        for round_number in range(1, self.settings.rounds):
            self.sums = []
            for position, target in enumerate(targets):
                self._add(self._layers(position), target)
            self._find_direction()
            if round_number + 1 < self.settings.rounds or self.settings.teach_folds > 1:
                targets = self._targets(everyone)
        if self.settings.teach_folds > 1:
            self._teach(targets)
        objects = [pooled(self._layers(p)[1], soft_map(self.evidence[p])) for p in everyone]
        self.distances = prototype_distances(objects)
        self.typicality = typicality(self.distances)
        prepared = (self._prepared(position) for position in positions)
        results = self._map(partial(_segment_one, settings=self.settings), prepared, len(positions), if_killed=_no_mask)
        yield from ((position, segmented) for position, segmented in results if segmented is not None)

    def _layers(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        middle, last = self.spool.read(position, 2, skip=2)
        return middle, last

    def _add(self, layers: Sequence[np.ndarray], target: np.ndarray) -> None:
        own = [target_sums(layer, target) for layer in layers]
        self.sums = [before + new for before, new in zip(self.sums, own, strict=True)] if self.sums else own

    def _find_direction(self) -> None:
        """From the sums, each image's evidence."""
        directions = [discriminant(sums) for sums in self.sums]
        maps: list[list[np.ndarray]] = [[], []]
        for position in range(len(self.spool)):
            for depth, layer in enumerate(self._layers(position)):
                maps[depth].append(project(layer, directions[depth]))
        depths = [standardised(of_depth) for of_depth in maps]
        joined = standardised(
            [sum(w * m for w, m in zip(self.weights, both, strict=True)) for both in zip(*depths, strict=True)]
        )
        self.evidence = [evidence_map(values, self.settings) for values in joined]

    def _targets(self, positions: Sequence[int]) -> list[np.ndarray]:
        prepared = (self._prepared(position) for position in positions)
        return list(self._map(partial(_target, settings=self.settings), prepared, len(positions), if_killed=_no_target))

    def _teach(self, targets: Sequence[np.ndarray]) -> None:
        """Replace the evidence by what networks say that learned from other images' masks."""
        statistics = []
        for sums in self.sums:
            mean = sums.total / sums.cells
            deviation = np.sqrt(np.maximum(sums.squares / sums.cells - mean**2, 0))
            scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)
            statistics.append((mean.astype(np.float32), scale.astype(np.float32)))
        clip = self.settings.teach.clip

        def cells(position: int) -> np.ndarray:
            layers = self._layers(position)
            scaled = [(layer - mean) * scale for layer, (mean, scale) in zip(layers, statistics, strict=True)]
            return np.clip(np.concatenate(scaled, axis=-1), -clip, clip)

        networks = teach_group(cells, targets, self.contents, self.settings.teach, self.workers)
        self.second_opinions = [
            None if network is None else target for network, target in zip(networks, targets, strict=True)
        ]
        self.evidence = [
            before if network is None else self._thresholded(network(cells(position)))
            for position, (before, network) in enumerate(zip(self.evidence, networks, strict=True))
        ]

    def _thresholded(self, answer: np.ndarray) -> np.ndarray:
        return answer - np.float32(self.settings.teach_threshold_share * otsu_threshold(answer))

    def _prepared(self, position: int) -> _Image:
        size, small = self.spool.read(position, 2)
        earlier = self.second_opinions[position] if self.second_opinions else None
        distance = float(self.distances[position]) if len(self.distances) else np.nan
        return _Image(
            position,
            (int(size[0]), int(size[1])),
            small,
            self.evidence[position],
            earlier,
            self.descriptors[position],
            None if np.isnan(distance) else distance,
            float(self.typicality[position]) if len(self.typicality) else 1.0,
        )

    def _map(
        self, function: Callable[[_Image], R], prepared: Iterator[_Image], count: int, if_killed: Callable[[_Image], R]
    ) -> Iterator[R]:
        return map_images(function, prepared, workers=1 if count < FEW else self.workers, if_killed=if_killed)
