"""The engine ``common``: what is in the centre of a group's photographs and not at their borders is the object.

One image says little about that, a group says much: the direction in its descriptors (``features.py``) that correlates
with the distance from the border (``discriminant.py``) is the object's. Masks found with it, sharpened along the
image's edges, give a better direction than the position did, and in the end train a small network, each image predicted
from the others' masks (``self_training.py``). Until then only sums over cells are needed: the cost grows linearly.

Source:
    Our own. The group's direction as a linear projection of convolutional descriptors is Wei et al.'s, *Deep
    Descriptor Transforming for Image Co-Localization*, IJCAI 2017, arXiv 1705.02758; theirs is the first principal
    direction, which marks faces in place of bodies (J on web_wild6 0.73). Borders as background: Zhu et al.,
    *Saliency Optimization from Robust Background Detection*, CVPR 2014.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np

from wss_data.backbones import Backbone, BackboneChoice, SupervisionName
from wss_data.cosegmentation.base import Segmented, wanted_positions
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
from wss_data.cosegmentation.self_training import SelfTrainingSettings, log_odds, train_group
from wss_data.cosegmentation.spool import ArraySpool
from wss_data.crf.dense_crf import dense_crf
from wss_data.crf.settings import CrfSettings
from wss_data.errors import CosegmentationError
from wss_data.imaging.images import longest_side_size
from wss_data.ledger import Ledger
from wss_data.reading.settings import Rule, settings
from wss_data.runtime.parallel import map_images

LOGGER = logging.getLogger(__name__)

VERSION = 5  # raised whenever the code changes masks or confidence without a setting changing
BLANK = 4  # an image whose channels vary by no more than this, of 255, is of one colour: JPEG leaves so much
FEW = 16  # below this many images, starting processes takes longer than the images do

# The values below were chosen on half of web_wild6 and of msrc_v2: docs/explanation/experiment_log.md.
PRIOR_WIDTH = 0.3  # standard deviation of the centred Gaussian, in sides of the image: the first target
PRIOR_WEIGHT = 0.3  # of the centred Gaussian in the evidence: it decides where the group says nothing
PRIOR_OFFSET = 0.55  # its value that speaks for neither side
DEPTH_WEIGHTS = (1.0, 1.0)  # directions at middle depth (parts, textures, bodies), in the last stage (objects, faces)
THRESHOLD_FRACTION = 0.8  # fraction of an image's own Otsu threshold that is subtracted from the evidence
TRAINED_THRESHOLD_FRACTION = 0.3  # likewise from what the trained networks say
PROBABILITY_FLOOR = 0.02  # probabilities given to the CRF stay this far from 0 and 1
# Longer side at which the CRF runs whose result is the next target, pixels: cells are coarse, and a smaller image, with
# the CRF's lengths at its scale, gives the same for half the time.
ROUND_LONG_SIDE = 112
CRF = CrfSettings(bilateral_px=25.0, bilateral_rgb=5.0, bilateral_weight=6.0, iterations=5)  # at `refine_long_side`

OLD_OPTIONS = {"teach_folds": "self_training_folds"}  # understood, with a warning, until 0.3


@settings("co-segmentation method 'common'", CosegmentationError)
class CommonSettings:
    """Settings of the engine; what they do stands in their descriptions."""

    backbone: Annotated[Backbone, "The network that describes the images."] = "efficientnet_lite2"
    weights: Annotated[str | None, "A file of weights; else the backbone's own."] = None
    weights_supervision: Annotated[
        SupervisionName | None, "What people had to give for that file; unknown if nobody says."
    ] = None
    device: Annotated[str, "cpu, cuda, cuda:1, ... or auto: the first GPU if there is one."] = "auto"
    long_side: Annotated[int, Rule(ge=64, le=4096), "Longer side for the network, pixels."] = 512
    precision: Annotated[str, "float32, bf16, or auto: bf16 with AMX, AVX512-BF16 or on a recent GPU."] = "auto"
    self_training_folds: Annotated[int, Rule(ge=0, le=20), "Parts of a group; 0: no self-training."] = 3
    refine_long_side: Annotated[int, Rule(ge=16, le=2048), "Longer side for the last CRF, pixels."] = 160
    uncertain_band: Annotated[bool, "Whether to report where soft map and mask disagree."] = False
    memory_mb: Annotated[
        int, Rule(ge=0, le=1_000_000), "Descriptors of a group above this, MiB, wait in a temporary file."
    ] = 1024

    def __post_init__(self) -> None:
        resolve_precision(self.precision)
        _ = self.choice

    @property
    def choice(self) -> BackboneChoice:
        """The backbone, its weights, and what these learned from."""
        return BackboneChoice(self.backbone, self.weights, self.weights_supervision)

    def network(self) -> DescriptorNetwork:
        """The network that describes images, with its weights."""
        return DescriptorNetwork(self.long_side, self.precision, self.backbone, self.weights, self.device)


def evidence_map(joined: np.ndarray) -> np.ndarray:
    """Evidence for the foreground: joined + 0.3 (g - 0.55), less 0.8 of Otsu's threshold of it, (h, w) float32.

    ``joined``: how far each cell lies along the group's direction, in the group's standard deviations, (h, w).
    """
    prior = centred_gaussian(joined.shape, PRIOR_WIDTH)
    values = joined + PRIOR_WEIGHT * (prior - PRIOR_OFFSET)
    return (values - THRESHOLD_FRACTION * otsu_threshold(values)).astype(np.float32)


def otsu_threshold(values: np.ndarray, bins: int = 256) -> float:
    """The centre of the last bin of the lower class, by the variance between the classes; the value if all are equal.

    Source:
        Otsu, IEEE Transactions on Systems, Man, and Cybernetics, 1979; scikit-image's implementation.
    """
    from skimage.filters import threshold_otsu

    low, high = float(values.min()), float(values.max())
    if high - low < 1e-12:
        return low
    # Binned here: scikit-image's own bins of float32 values have float32 edges, an ulp away from these.
    counts, edges = np.histogram(values, bins=bins, range=(low, high))
    return float(threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2)))


def soft_map(evidence: np.ndarray) -> np.ndarray:
    """Evidence as a foreground probability, 1 / (1 + exp(-evidence)). Any shape, float, in [0, 1].

    >>> soft_map(np.array([-1000.0, 0.0, np.log(3)])).round(2).tolist()
    [0.0, 0.5, 0.75]
    """
    return 1 / (1 + np.exp(-np.clip(evidence, -50, 50)))


def sharpen(evidence: np.ndarray, image: np.ndarray, crf: CrfSettings = CRF) -> np.ndarray:
    """Marginal probability of the foreground after a dense CRF, (H, W) float32, in [0, 1].

    ``evidence``: (h, w), enlarged to the size of ``image``, (H, W, 3) uint8.
    """
    enlarged = _resized(np.asarray(evidence, np.float32), (image.shape[1], image.shape[0]))
    foreground = np.clip(soft_map(enlarged), PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return dense_crf(np.stack([1 - foreground, foreground]), image, crf)[1]


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)


def _on_cells(values: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    return cv2.resize(values, evidence.shape[::-1], interpolation=cv2.INTER_AREA)


class _Image(NamedTuple):
    """One image after the group is known, small enough to send to another process."""

    position: int
    size: tuple[int, int]  # width, height
    small: np.ndarray  # the image at `refine_long_side`
    evidence: np.ndarray  # of each cell; positive is foreground
    earlier: np.ndarray | None  # foreground probability of each cell before self-training, None without it
    descriptor: np.ndarray
    prototype_distance: float | None
    typicality: float


def _target(image: tuple[np.ndarray, np.ndarray], crf: CrfSettings) -> np.ndarray:
    """How much of each cell is foreground once the evidence is sharpened: what the next direction is found from."""
    small, evidence = image
    size = longest_side_size(small.shape[1], small.shape[0], ROUND_LONG_SIDE)
    return _on_cells(sharpen(evidence, cv2.resize(small, size, interpolation=cv2.INTER_AREA), crf), evidence)


def _segment_one(image: _Image, band: bool) -> tuple[int, Segmented | None]:
    if np.ptp(image.small, axis=(0, 1)).max() <= BLANK:
        nothing = np.zeros(image.size[::-1], bool)
        return image.position, Segmented(nothing, 0.0, nothing if band else None, descriptor=image.descriptor)
    probability = sharpen(image.evidence, image.small)
    on_cells, soft = _on_cells(probability, image.evidence), soft_map(image.evidence)
    mask = _resized(probability, image.size) > 0.5
    likely = _resized(np.asarray(image.evidence, np.float32), image.size) > 0
    return image.position, Segmented(
        mask,
        confidence(on_cells, soft if image.earlier is None else image.earlier, image.typicality),
        likely != mask if band else None,
        agreement=overlap(on_cells, soft),
        prototype_distance=image.prototype_distance,
        descriptor=image.descriptor,
    )


class CommonEngine:
    """Co-segment a group by what is in the centre of its images; options are fields of ``CommonSettings``.

    Every group has an answer, however small: a single image is segmented from its own cells, equal images get equal
    masks. An image of one colour shows nothing: its mask is empty, its confidence 0.
    """

    name = "common"

    def __init__(self, /, **options: Any) -> None:  # an option called self is an unknown one
        for old in OLD_OPTIONS.keys() & options.keys():
            LOGGER.warning("the option %s is called %s now.", old, OLD_OPTIONS[old])
        self.settings = CommonSettings(**{OLD_OPTIONS.get(name, name): value for name, value in options.items()})
        self._network: DescriptorNetwork | None = None

    @property
    def ledger(self) -> Ledger:
        """The backbone's weights, nothing else."""
        return Ledger((self.settings.choice.ledger_entry(),))

    def fingerprint(self) -> str:
        """See ``Engine``."""
        values = asdict(self.settings) | {"weights": self.settings.choice.fingerprint(), "version": VERSION}
        # A device changes masks by its precision alone; where descriptors wait changes none.
        values["precision"] = resolve_precision(self.settings.precision, resolve_device(values.pop("device")))
        del values["memory_mb"]
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        """See ``Engine``.

        Each image is read once. Its descriptors wait in memory, above ``memory_mb`` in a temporary file, until the
        whole group was seen; CRFs and self-training run on worker processes.
        """
        positions = wanted_positions(images, wanted)
        if not positions:
            return
        if self._network is None:
            self._network = self.settings.network()
        with ArraySpool(self.settings.memory_mb << 20) as spool:
            group = _Group(self.settings, spool, workers)
            group.describe(self._network, images)
            group.find_evidence()
            yield from group.segment(positions)


class _Group:
    """One group in work: its maps and pooled descriptors in memory (about 3 KB each), its descriptors in a spool."""

    def __init__(self, settings: CommonSettings, spool: ArraySpool, workers: int | None) -> None:
        # A row of the spool is (width and height, small image, middle descriptors, last descriptors) of an image.
        self.settings, self.spool, self.workers = settings, spool, workers
        self.contents: list[str] = []
        self.sums: list[TargetSums] = []
        self.evidence: list[np.ndarray] = []
        self.earlier: list[np.ndarray | None] = []
        self.descriptors: list[np.ndarray] = []

    def describe(self, network: DescriptorNetwork, images: Sequence[np.ndarray]) -> None:
        """Describe all images, each read once, and sum up their descriptors with the position as the target."""
        one_by_one = (images[position] for position in range(len(images)))
        for image, features in network.describe_all(one_by_one, self.workers):
            size = (image.shape[1], image.shape[0])
            small_size = longest_side_size(*size, self.settings.refine_long_side)
            small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
            layers = (features.middle, features.descriptors)
            self.spool.append([np.array(size), small, *layers])
            self.contents.append(hashlib.sha256(image.tobytes() + str(size).encode()).hexdigest())
            self.descriptors.append(pooled(features.descriptors).astype(np.float16))
            self._add(layers, centred_gaussian(features.descriptors.shape[:2], PRIOR_WIDTH))

    def find_evidence(self) -> None:
        """Find the group's direction from positions, then from masks; train networks, and let them have their say."""
        self._find_direction()
        targets = self._targets()
        self.sums = []
        for position, target in enumerate(targets):
            self._add(self._layers(position), target)
        self._find_direction()
        self.earlier = [None] * len(self.spool)
        if self.settings.self_training_folds > 1:
            self._self_train(self._targets())

    def segment(self, positions: Sequence[int]) -> Iterator[tuple[int, Segmented]]:
        """Cut out the images at ``positions``."""
        # Of all images, wanted or not: how typical one is must not depend on what is asked for.
        objects = [pooled(self._layers(p)[1], soft_map(self.evidence[p])) for p in range(len(self.spool))]
        distances = prototype_distances(objects)
        typical = typicality(distances)

        def prepared() -> Iterator[_Image]:
            for p in positions:
                (width, height), small = self.spool.read(p, 2)
                distance = None if np.isnan(distances[p]) else float(distances[p])
                found = (self.evidence[p], self.earlier[p], self.descriptors[p], distance, float(typical[p]))
                yield _Image(p, (int(width), int(height)), small, *found)

        results = map_images(
            partial(_segment_one, band=self.settings.uncertain_band),
            prepared(),
            workers=1 if len(positions) < FEW else self.workers,
            # An image that kills its worker each time has no mask; the others go on.
            if_killed=lambda image: (image.position, None),
        )
        yield from ((position, segmented) for position, segmented in results if segmented is not None)

    def _layers(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        middle, last = self.spool.read(position, 2, skip=2)
        return middle, last

    def _add(self, layers: Sequence[np.ndarray], target: np.ndarray) -> None:
        own = [target_sums(layer, target) for layer in layers]
        self.sums = [before.plus(new) for before, new in zip(self.sums, own, strict=True)] if self.sums else own

    def _find_direction(self) -> None:
        """From the sums, each image's evidence."""
        directions = [discriminant(sums) for sums in self.sums]
        maps: list[list[np.ndarray]] = [[], []]
        for position in range(len(self.spool)):
            for depth, layer in enumerate(self._layers(position)):
                maps[depth].append(project(layer, directions[depth]))
        middle, last = (standardised(of_depth) for of_depth in maps)
        weighted = [DEPTH_WEIGHTS[0] * m + DEPTH_WEIGHTS[1] * n for m, n in zip(middle, last, strict=True)]
        self.evidence = [evidence_map(values) for values in standardised(weighted)]

    def _targets(self) -> list[np.ndarray]:
        count = len(self.spool)
        scale = ROUND_LONG_SIDE / self.settings.refine_long_side
        crf = replace(CRF, position_px=CRF.position_px * scale, bilateral_px=CRF.bilateral_px * scale)
        results = map_images(
            partial(_target, crf=crf),
            ((self.spool.read(position, 1, skip=1)[0], self.evidence[position]) for position in range(count)),
            workers=1 if count < FEW else self.workers,
            # Nothing is learned from an image whose CRF kills its worker each time.
            if_killed=lambda image: np.zeros(image[1].shape, np.float32),
        )
        return list(results)

    def _self_train(self, targets: Sequence[np.ndarray]) -> None:
        """Replace the evidence by what networks say that were trained on other images' masks."""
        training = SelfTrainingSettings(folds=self.settings.self_training_folds)
        statistics = []
        for sums in self.sums:
            mean = sums.total / sums.cells
            # Of sums, so that rounding may take the variance of a channel that never changes below 0.
            deviation = np.sqrt(np.maximum(sums.squares / sums.cells - mean**2, 0))
            scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)
            statistics.append((mean.astype(np.float32), scale.astype(np.float32)))

        def cells(position: int, every: int = 1) -> np.ndarray:
            scaled = [
                (layer.reshape(-1, layer.shape[-1])[::every] - mean) * scale
                for layer, (mean, scale) in zip(self._layers(position), statistics, strict=True)
            ]
            joined = np.concatenate(scaled, axis=-1)
            return np.clip(joined, -training.clip, training.clip, out=joined)

        for position, network in enumerate(train_group(cells, targets, self.contents, training, self.workers)):
            if network is not None:
                answer = log_odds(network, cells(position)).reshape(targets[position].shape)
                threshold = np.float32(TRAINED_THRESHOLD_FRACTION * otsu_threshold(answer))
                self.evidence[position], self.earlier[position] = answer - threshold, targets[position]
